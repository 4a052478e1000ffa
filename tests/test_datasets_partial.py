"""Queries and galleries of which a part is cut off, and fewer people to learn from."""

from itertools import pairwise

import fake_datasets as fake
import numpy as np
import pytest
from PIL import Image

from reidnb.datasets import open_dataset, redraw
from reidnb.datasets.partial import _cut, with_people
from reidnb.experiments import run

WORLD = {name: value for name, value in fake.SMALL_WORLD.items() if name != "size"}


def test_the_test_is_cut_and_training_is_not():
    whole, cut = (open_dataset("synthetic", size=(32, 16), **WORLD, partial=share) for share in (0.0, 0.5))
    assert (cut.train.images == whole.train.images).all() and cut.options["partial"] == 0.5
    for name in ("query", "gallery"):
        a, b = getattr(whole, name), getattr(cut, name)
        assert (a.pids == b.pids).all() and (a.camids == b.camids).all() and a.images.shape == b.images.shape
        assert np.abs(a.images.astype(int) - b.images).mean() > 5, "and what was cut looks different"
        assert b.masks is None and b.keypoints is None and b.shots is not None
    again = open_dataset("synthetic", size=(32, 16), **WORLD, partial=0.5)
    assert again.fingerprint == cut.fingerprint != whole.fingerprint
    assert (again.query.images == cut.query.images).all()
    assert open_dataset("synthetic", size=(32, 16), **WORLD, partial=0.4).fingerprint != cut.fingerprint


def test_what_is_left_is_a_box_of_the_picture():
    rows, columns = np.mgrid[:64, :32]
    image = np.stack([4 * rows, 8 * columns, 0 * rows]).astype(np.uint8)
    found = _cut(image, np.array([0.5, 0.5]), np.array([1.0, 0.0]), (32, 16))
    # the lower left quarter, at its own scale
    np.testing.assert_array_equal(found, image[:, 32:, :16])
    assert (_cut(image, np.ones(2), np.zeros(2), (64, 32)) == image).all()


def test_photographs_are_cut_from_the_file_not_from_what_was_scaled_down(tmp_path):
    folder = fake.market1501(tmp_path / "Market-1501")
    for file in folder.rglob("*.jpg"):  # lines of one pixel at twice the size, which are grey at the size asked for
        lines = np.tile(np.array([0, 255], np.uint8)[:, None, None], (32, 32, 3))
        Image.fromarray(lines).save(file.with_suffix(".png"))
        file.unlink()
    whole = open_dataset("market1501", root=folder, size=(32, 16))
    cut = open_dataset("market1501", root=folder, size=(32, 16), partial=0.9)
    assert whole.gallery.images.std() < 5, "grey"
    assert max(image.std() for image in cut.gallery.images) > 30, "what was cut is larger than it was: its lines show"
    assert len(cut.gallery) == len(whole.gallery) and cut.query.files.tolist() == whole.query.files.tolist()
    assert cut.multi_query is None or len(cut.multi_query) == len(whole.multi_query)


def test_a_run_on_what_is_cut(cache):
    scores = [run("colour_histogram", device="cpu", **WORLD, partial=share) for share in (0.0, 0.6)]
    assert scores[0].key != scores[1].key and "partial=0.6" in scores[1].changes
    plain = run("colour_histogram", device="cpu", **WORLD)
    assert scores[0].key == plain.key and "partial" not in scores[0].changes, "0 cuts nothing"
    assert scores[1].data().fingerprint == scores[1].fingerprint


@pytest.mark.parametrize("share", [-0.1, 0.95, "half", True, None, float("nan")])
def test_shares_that_cannot_be(share):
    with pytest.raises(ValueError, match="partial is the largest share of height and width that is cut off, 0 to 0.9"):
        open_dataset("synthetic", **WORLD, partial=share)


def test_what_was_cut_is_not_drawn_anew():
    data = open_dataset("synthetic", size=(32, 16), **WORLD, partial=0.5)
    with pytest.raises(ValueError, match="synthetic with partial=0.5 was cut after it was drawn: open it whole"):
        redraw(data, "query", [0])


def test_fewer_people_to_learn_from(tmp_path):
    folder = fake.market1501(tmp_path / "Market-1501")
    whole = open_dataset("market1501", root=folder, size=(32, 16))
    assert len(np.unique(whole.train.pids)) == 2
    few = {n: open_dataset("market1501", root=folder, size=(32, 16), train_identities=n) for n in (1, 2)}
    for count, found in few.items():
        people = np.unique(found.train.pids)
        kept = np.isin(whole.train.pids, people)
        assert len(people) == count and (found.train.images == whole.train.images[kept]).all()
        assert (found.train.camids == whole.train.camids[kept]).all() and found.fingerprint != whole.fingerprint
        assert (found.query.images == whole.query.images).all() and found.ids[1].tolist() == whole.ids[1].tolist()
    assert few[1].attribute_names == whole.attribute_names and len(few[1].train.files) == len(few[1].train)
    again = open_dataset("market1501", root=folder, size=(32, 16), train_identities=2)
    assert again.fingerprint == few[2].fingerprint != few[1].fingerprint
    assert open_dataset("market1501", root=folder, size=(32, 16), **again.options).fingerprint == again.fingerprint


def test_fewer_people_are_among_more_and_are_drawn_by_lot():
    data = open_dataset("synthetic", size=(32, 16), **WORLD | {"train_identities": 12})
    chosen = [set(with_people(data, count).train.pids.tolist()) for count in range(1, 13)]
    assert [*map(len, chosen)] == [*range(1, 13)] and all(a < b for a, b in pairwise(chosen))
    assert chosen[5] != set(sorted(chosen[-1])[:6]), "not the first of them"


@pytest.mark.parametrize("count", [0, -1, 10_000, 2.0, "all", True, None])
def test_a_count_of_people_that_is_refused(tmp_path, count):
    folder = fake.market1501(tmp_path / "Market-1501")
    with pytest.raises(ValueError, match=r"market1501 has \d+ people to learn from: train_identities must be"):
        open_dataset("market1501", root=folder, size=(32, 16), train_identities=count)
