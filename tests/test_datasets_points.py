"""keypoints.csv beside a dataset: read as it was written, refused in words where it is malformed, scaled with the
pictures, seen when it changes; and no run becomes old by it but those that use points."""

import os
import random
from dataclasses import replace
from types import SimpleNamespace

import fake_datasets as fake
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reidnb.datasets import cache, open_dataset, published
from reidnb.datasets.points import (
    CELLS,
    COLUMNS,
    Body,
    as_row,
    join_masks,
    join_points,
    read_points,
    refuse_strangers,
    with_points,
    without_points,
    write_points,
)
from reidnb.methods import pose_parts
from reidnb.methods.keypoints import PoseNet
from reidnb.recipes import recipe
from reidnb.result import key_of_run
from reidnb.synthetic import KEYPOINTS

FILE = "bounding_box_train/0002_c1s1_000451_03.jpg"


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("REIDNB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("REIDNB_DATA", raising=False)


@pytest.fixture
def market(tmp_path):
    return fake.market1501(tmp_path / "data" / "Market-1501-v15.09.15")


def points_of(start=0.0):
    """Points that differ from each other, all of them seen."""
    x = start + np.arange(len(KEYPOINTS))
    return np.stack([x, 2 * x, np.full(len(x), 0.75)], 1)


# --------------------------------------------------------------------------------------------------- there and back

PIXELS = st.integers(-9_999_999, 9_999_999).map(lambda n: n / 100)
POINTS = st.lists(
    st.tuples(PIXELS, PIXELS, st.integers(0, 1000).map(lambda n: n / 1000)), min_size=14, max_size=14
).map(lambda rows: np.array(rows, float))
SIDES = st.integers(1, 99_999)
MASKS = st.integers(0, 2**31).map(lambda seed: np.random.default_rng(seed).random(CELLS) < 0.5)
BODIES = st.builds(Body, SIDES, SIDES, st.none() | POINTS, st.none() | MASKS)
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(NAMES, BODIES, max_size=4))
def test_a_table_is_read_as_it_was_written(tmp_path, bodies):
    """Whatever a file is called: with commas, quotes, breaks of line."""
    path = tmp_path / "keypoints.csv"
    write_points(path, bodies)
    found = read_points(path)
    assert found.keys() == bodies.keys()
    for file, body in bodies.items():
        assert found[file][:2] == body[:2] and (found[file].points is None) == (body.points is None)
        if body.points is not None:
            np.testing.assert_allclose(found[file].points, body.points, atol=1e-9)
        assert (found[file].mask is None) == (body.mask is None)
        assert body.mask is None or (found[file].mask == body.mask).all()


def test_columns_may_stand_in_any_order_and_others_beside_them(tmp_path):
    path, body = tmp_path / "keypoints.csv", Body(64, 128, points_of())
    mask = np.indices(CELLS).sum(0) % 3 == 0
    names = [*COLUMNS, "mask", "who looked"]
    order = random.Random(0).sample(range(len(names)), len(names))
    lines = [names, [*as_row("a.jpg", body._replace(mask=mask)), "mediapipe"]]
    path.write_text("\ufeff" + "\r\n".join(",".join(line[i] for i in order) for line in lines) + "\r\n\r\n")
    np.testing.assert_allclose(read_points(path)["a.jpg"].points, body.points)
    assert (read_points(path)["a.jpg"].mask == mask).all()


def test_a_table_of_before_has_no_masks(tmp_path):
    path = tmp_path / "keypoints.csv"
    path.write_text(f"{HEAD}\n{line()}\n")
    assert read_points(path)["a.jpg"].mask is None


# ---------------------------------------------------------------------------------------------------- refused in words

HEAD, ROW = ",".join(COLUMNS), as_row("a.jpg", Body(64, 128, points_of()))
HEX = CELLS[0] * CELLS[1] // 4


def line(**changed):
    return ",".join(changed.get(name, cell) for name, cell in zip(COLUMNS, ROW))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1 of .*must have each of 46 columns once, not so file, width, height, found and 42 more.*nothing"),
        (HEAD.replace("neck_x", "neck"), "not so neck_x; it has file, width, height, found ..."),
        (HEAD + ",found", "not so found"),
        (HEAD.replace(",", ";"), "each of 46 columns once"),
        (f"{HEAD}\n{line()},1", "line 2 of .* has 47 cells, wanted 46"),
        (f"{HEAD}\n{line()}\n{line(file='b.jpg')}\n{line()[:9]}", "line 4 of .* has 3 cells, wanted 46"),
        (f"{HEAD}\n{line()}\n\n{line()}", "line 4 of .* is about 'a.jpg', which has a row already"),
        (f"{HEAD}\n{line(file='')}", "line 2 of .* names no file"),
        (f"{HEAD}\n{line(width='0')}", "line 2 of .*: width must be .* whole pixels from 1 on; got '0'"),
        (f"{HEAD}\n{line(height='12.5')}", "height must be .*; got '12.5'"),
        (f"{HEAD}\n{line(found='yes')}", r"found must be 1 \(somebody was found\) or 0; got 'yes'"),
        (f"{HEAD}\n{line(neck_x='left')}", "line 2 of .*: neck_x must be a number of pixels; got 'left'"),
        (f"{HEAD}\n{line(neck_y='nan')}", "neck_y must be a number of pixels; got 'nan'"),
        (f"{HEAD}\n{line(neck_y='-inf')}", "neck_y must be a number of pixels; got '-inf'"),
        (f"{HEAD}\n{line(neck_x='')}", "neck_x must be a number of pixels; got ''"),
        (f"{HEAD}\n{line(neck_visible='1.5')}", "neck_visible must be a number from 0 to 1; got '1.5'"),
        (f"{HEAD}\n{line(neck_visible='nan')}", "neck_visible must be a number from 0 to 1; got 'nan'"),
        (f"{HEAD},mask,mask\n{line()},,", "has 2 columns mask, wanted one or none"),
        (
            f"{HEAD},mask\n{line()},{'f' * (HEX - 1)}",
            "mask must be nothing or 512 digits .*'ffffffffffffffffffff' ..., 511",
        ),
        (f"{HEAD},mask\n{line()},{'F' * HEX}", "mask must be nothing or 512 digits 0 to 9 and a to f"),
        (f'{HEAD}\n"{line()}', "line 2 of .* cannot be read"),
        (f"{HEAD}\n\0", "is no text"),
        (HEAD.encode("utf-16"), "is not UTF-8"),
        (b"file,\xff\xfe", "is not UTF-8"),
    ],
)
def test_a_malformed_table_is_refused_with_file_and_line(tmp_path, text, said):
    path = tmp_path / "keypoints.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=said) as caught:
        read_points(path)
    assert str(path) in str(caught.value)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60), st.integers(0, 10**6), st.integers(0, 10**6))
def test_whatever_happened_to_a_table_it_is_read_or_refused(tmp_path, junk, start, length):
    """Bytes in its midst overwritten: bodies whose values are numbers, or a ValueError; nothing else."""
    data = f"{HEAD}\n{line()}\n{line(file='b.jpg', found='0')}\n".encode()
    start = start % len(data)
    path = tmp_path / "keypoints.csv"
    path.write_bytes(data[:start] + junk + data[start + length % 40 :])
    try:
        found = read_points(path)
    except ValueError as error:
        assert str(path) in str(error)
    else:
        assert all(body.points is None or np.isfinite(body.points).all() for body in found.values())


def test_half_a_last_line_is_left_out_where_a_process_was_killed(tmp_path):
    path = tmp_path / "keypoints.csv"
    whole = f"{HEAD}\n{line()}\n"
    for end in (line(file="b.jpg")[:30], line(file="b.jpg"), 'b.jpg,"', "b.jpg,\xe4".encode("latin1")):
        path.write_bytes(whole.encode() + (end if isinstance(end, bytes) else end.encode()))
        assert [*read_points(path, cut=True)] == ["a.jpg"]


# -------------------------------------------------------------------------------------------------- joined to pictures


def test_points_are_scaled_as_the_picture_is():
    bodies = {"a.jpg": Body(64, 256, points_of()), "b.jpg": Body(10, 10, None)}
    found = join_points(["b.jpg", "c.jpg", "a.jpg"], bodies, (64, 32))
    assert found.dtype == np.float32 and found.shape == (3, 14, 3)
    assert not found[:2].any(), "nobody was found, and no row: not visible"
    for point, (x, y, visible) in zip(found[2], bodies["a.jpg"].points):
        np.testing.assert_allclose(point, (x * 32 / 64, y * 64 / 256, visible), rtol=1e-6)


def by_hand(mask, size):
    """The cell over the middle of each pixel, in fractions of the picture."""
    out = np.zeros(size, np.uint8)
    for y in range(size[0]):
        for x in range(size[1]):
            across = [
                cell for cell in range(CELLS[1]) if cell / CELLS[1] <= (x + 0.5) / size[1] < (cell + 1) / CELLS[1]
            ]
            down = [cell for cell in range(CELLS[0]) if cell / CELLS[0] <= (y + 0.5) / size[0] < (cell + 1) / CELLS[0]]
            out[y, x] = mask[down[0], across[0]]
    return out


@pytest.mark.parametrize("size", [(64, 32), (128, 64), (48, 24), (20, 13)])
def test_masks_are_scaled_as_the_picture_is(size):
    mask = np.random.default_rng(0).random(CELLS) < 0.5
    bodies = {"a.jpg": Body(64, 256, points_of(), mask), "b.jpg": Body(10, 10, None)}
    found = join_masks(iter(["b.jpg", "c.jpg", "a.jpg"]), bodies, size)
    assert found.dtype == np.uint8 and found.shape == (3, *size) and not found[:2].any()
    np.testing.assert_array_equal(found[2], by_hand(mask, size))


def test_a_dataset_has_masks_where_the_table_does(market):
    write_points(market / "keypoints.csv", {FILE: Body(16, 32, points_of())})
    bare = open_dataset("market1501", root=market, size=(64, 32))
    assert bare.train.masks is None
    mask = np.indices(CELLS)[0] < 20
    write_points(market / "keypoints.csv", {FILE: Body(16, 32, points_of(), mask)})
    data = open_dataset("market1501", root=market, size=(64, 32))
    assert (data.train.masks[0] == mask).all() and not data.train.masks[1:].any() and not data.query.masks.any()
    assert without_points(data.fingerprint) == without_points(bare.fingerprint)
    assert data.fingerprint != bare.fingerprint


def test_a_dataset_in_a_folder_has_the_points_of_the_table_beside_it(market):
    assert open_dataset("market1501", root=market).train.keypoints is None
    write_points(market / "keypoints.csv", {FILE: Body(16, 32, points_of())})
    data = open_dataset("market1501", root=market, size=(64, 32))
    for split in (data.train, data.query, data.gallery, data.multi_query):
        rows = np.flatnonzero(split.keypoints[..., 2].any(1))
        assert [split.files[row] for row in rows] == [FILE] * (split is data.train)
    np.testing.assert_allclose(data.train.keypoints[0], points_of() * (2, 2, 1))
    half = data.train.select(np.array([0, 2])).keypoints
    assert half.shape == (2, 14, 3) and half[0].any() and not half[1].any()


def test_a_folder_of_ones_own_reads_it_too(tmp_path):
    files = [f"{who}/{camera}/1.jpg" for who in ("ann", "bob", "cy", "di") for camera in ("gate", "hall")]
    for i, file in enumerate(files):
        fake.write_image(tmp_path / "mine" / file, i)
    write_points(tmp_path / "mine" / "keypoints.csv", {file: Body(16, 32, points_of()) for file in files})
    data = open_dataset("folder", root=tmp_path / "mine", size=(32, 16))
    np.testing.assert_allclose(data.gallery.keypoints, np.stack([points_of()] * len(data.gallery)))


def test_a_new_and_a_changed_table_are_seen(market):
    said = []
    for start in (None, 0.0, 1.0):
        if start is not None:
            write_points(market / "keypoints.csv", {FILE: Body(16, 32, points_of(start))})
            os.utime(market / "keypoints.csv", ns=(1, int(start)))
        data = open_dataset("market1501", root=market)
        said.append((data.fingerprint, None if data.train.keypoints is None else data.train.keypoints[0, 0, 0]))
    assert [x for _, x in said] == [None, 0, 4], "at 128 x 64 four times as many pixels"
    assert len({fingerprint for fingerprint, _ in said}) == 3
    assert {without_points(fingerprint) for fingerprint, _ in said} == {said[0][0]}
    (market / "keypoints.csv").unlink()
    assert open_dataset("market1501", root=market).fingerprint == said[0][0]


def test_a_table_is_read_once_and_kept(market, monkeypatch):
    write_points(market / "keypoints.csv", {FILE: Body(16, 32, points_of())})
    first = open_dataset("market1501", root=market)
    monkeypatch.setattr(cache, "decode", fake.never)
    np.testing.assert_array_equal(open_dataset("market1501", root=market).train.keypoints, first.train.keypoints)


def test_a_broken_table_stops_the_dataset_before_a_picture_is_decoded(market, monkeypatch):
    monkeypatch.setattr(cache, "decode", fake.never)
    (market / "keypoints.csv").write_text("file,x\n")
    with pytest.raises(ValueError, match="line 1 of .*keypoints.csv"):
        open_dataset("market1501", root=market)
    write_points(market / "keypoints.csv", {FILE.split("/")[1]: Body(16, 32, None)})
    with pytest.raises(
        ValueError, match="no row of any of the dataset's 15 pictures.*called such as 0002_c1s1"
    ) as said:
        open_dataset("market1501", root=market)
    assert f"wanted {FILE}" in str(said.value) and f"reidnb keypoints {market}" in str(said.value)
    assert len(published.check_counts("market1501", market)) == 4, "counting takes no notice"


def test_an_empty_table_tells_of_nothing(tmp_path):
    refuse_strangers(tmp_path / "keypoints.csv", {}, ["a.jpg"])


# ------------------------------------------------------------------------------------------------- who depends on them


def test_points_make_no_other_run_old():
    """A run that has nothing to do with them is found again under its key; one that has, is not."""
    points = np.zeros((2, 14, 3), np.float32)
    bare = SimpleNamespace(name="market1501", fingerprint="abc", attribute_names=(), options={})
    some, others = (replace_in(bare, fingerprint=with_points("abc", [points + i])) for i in range(2))

    def keys(name):
        return [key_of_run(recipe(name, "laptop"), data, 0, torch.device("cpu")) for data in (bare, some, others)]

    assert len({*keys("baseline")}) == 1 and len({*keys("hplf")}) == 1
    assert len({*keys("glad")}) == len({*keys("posebox")}) == 3


def replace_in(data, **changes):
    return SimpleNamespace(**{**vars(data), **changes})


def test_a_fingerprint_is_what_it_was_without_points_of_a_pair_too():
    told = with_points("abc", [np.zeros((1, 14, 3))])
    assert told != "abc" and without_points(told) == without_points("abc") == "abc"
    assert without_points(f"{told} -> {told}") == "abc -> abc"


def test_cut_pictures_keep_the_training_pictures_points(market):
    plain = open_dataset("market1501", root=market, size=(32, 16), partial=0.4)
    write_points(market / "keypoints.csv", {FILE: Body(16, 32, points_of())})
    cut = open_dataset("market1501", root=market, size=(32, 16), partial=0.4)
    assert cut.query.keypoints is None and cut.train.keypoints[0].any()
    assert without_points(cut.fingerprint) == plain.fingerprint != cut.fingerprint


@pytest.mark.parametrize("points", ["true", "mean", "network"])
def test_pose_parts_cut_a_photographs_parts_by_them(market, points, monkeypatch):
    """The part of a picture in which nobody was found is defined, and counted as unseen."""
    monkeypatch.setattr(pose_parts, "kept_pose_network", lambda data: PoseNet().eval())
    body = np.array([[8, y, 1] for y in np.linspace(2, 30, 14)])
    write_points(market / "keypoints.csv", {FILE: Body(16, 32, body)})
    data = open_dataset("market1501", root=market, size=(64, 32))
    cuts, sure = pose_parts.PoseParts(boxes="glad", points=points).cut(replace(data, multi_query=None), "train")
    assert cuts.shape == (4, 3, 3, 64, 32)
    if points != "network":  # one that has learned nothing is not asked what it found
        assert sure[0].all() and sure[1:].any() == (points == "mean")
