"""Tracklets: drawn the same each time, MARS's read through the same form, batches by a rule that says which frames."""

import fake_datasets as fake
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reidnb.datasets import ReIDDataset, Split, open_dataset, tracklets
from reidnb.datasets.tracklets import Tracklets, from_pictures, open_video, tracklet_batches, tracklets_of

SMALL = {"people": 4, "cameras": 2, "strangers": 3, "frames": (2, 5), "train_identities": 5, "test_identities": 5}
NOBODY_ELSE = {"distractors": 0, "junk": 0}


def lengths_of(*lengths, pids=None):
    n = sum(lengths)
    who = np.arange(1, len(lengths) + 1) if pids is None else np.array(pids)
    images = np.arange(n, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 4, 2), np.uint8)
    return Tracklets(images, np.arange(n), np.array(lengths), who, np.zeros(len(lengths), np.int64))


# --------------------------------------------------------------------------------------------------------- drawn videos


def test_a_drawn_video_is_the_same_each_time_and_kept(cache, monkeypatch):
    first = open_video(size=(32, 16), **SMALL, **NOBODY_ELSE)
    again_folder = cache / "tracklets"
    kept = [path for path in again_folder.iterdir() if path.is_dir()]
    assert len(kept) == 1
    frames, labels = np.array(first.gallery.images), first.gallery
    monkeypatch.setattr(tracklets, "make_world", fake.never)
    again = open_video(size=(32, 16), **SMALL, **NOBODY_ELSE)  # mapped, not drawn
    assert (again.gallery.images == frames).all()
    monkeypatch.undo()
    monkeypatch.setenv("REIDNB_CACHE", str(cache / "elsewhere"))
    anew = open_video(size=(32, 16), **SMALL, **NOBODY_ELSE)
    assert (anew.gallery.images == frames).all() and (anew.gallery.lengths == labels.lengths).all()
    for name in ("wrong", "visible", "hidden"):
        assert (getattr(anew.gallery, name) == getattr(labels, name)).all()


@pytest.mark.parametrize("change", [{"world": 1}, {"mistakes": 0.0}, {"gait": 1.0}, {"occlusion": 2.0}])
def test_what_is_changed_is_drawn_anew(cache, change):
    plain = open_video(size=(32, 16), **SMALL, **NOBODY_ELSE)
    other = open_video(size=(32, 16), **SMALL, **NOBODY_ELSE, **change)
    assert (
        plain.gallery.images.shape != other.gallery.images.shape
        or (np.asarray(plain.gallery.images) != other.gallery.images).any()
    )


def test_the_plan_is_kept(cache):
    video = open_video(size=(32, 16), **SMALL, **NOBODY_ELSE)
    assert set(np.unique(video.train.lengths)) <= {2, 3, 4, 5}
    assert not set(video.train.pids) & set(video.gallery.pids), "people of training are not in the test"
    assert len(video.query) == 8 and len(video.gallery) == 11 and (video.gallery.pids == 0).sum() == 3
    assert not video.query.wrong[video.query.visible.any(1)].any(), "who is not there shows nothing"
    assert (video.query.hidden[video.query.wrong] == 1).all()
    for pid in np.unique(video.query.pids):
        assert len(set(video.query.camids[video.query.pids == pid])) == 2, "one tracklet before each camera"
    assert str(video).splitlines()[2].split()[:2] == ["query", "8"]


def test_dials_do_what_they_say(cache):
    settings = {"size": (32, 16), **SMALL, **NOBODY_ELSE}
    settings |= {"people": 16, "train_identities": 16, "test_identities": 16}
    clear, dark = (open_video(occlusion=dial, mistakes=dial, **settings).query for dial in (0.0, 2.0))
    assert clear.hidden.max() < 0.05 and not clear.wrong.any()
    assert dark.hidden.mean() > 0.1 and 0.02 < dark.wrong.mean() < 0.4


def test_people_and_cameras_are_those_of_the_still_pictures(cache):
    data = open_dataset("synthetic", size=(32, 16), train_identities=5, test_identities=5, **NOBODY_ELSE)
    video = open_video(size=(32, 16), **SMALL, **NOBODY_ELSE)
    stills = set(zip(data.train.pids.tolist(), data.train.camids.tolist()))
    assert set(zip(video.train.pids.tolist(), video.train.camids.tolist())) <= stills


@pytest.mark.parametrize(
    "wrong", [{"frames": (5, 2)}, {"people": 1}, {"cameras": 1}, {"mistakes": 3.0}, {"gait": -1.0}, {"world": -1}]
)
def test_a_plan_that_cannot_be_is_refused(cache, wrong):
    with pytest.raises(ValueError, match="got"):
        open_video(**(SMALL | wrong))


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="unknown dataset"):
        open_video("marz")


# ---------------------------------------------------------------------------------------------------------- other ones


def test_mars_through_the_same_form(tmp_path, cache):
    fake.mars(tmp_path / "MARS")
    video = open_video("mars", root=tmp_path / "MARS", size=(32, 16))
    assert video.train.lengths.tolist() == [3, 2, 4] and video.train.pids.tolist() == [1, 1, 3]
    assert video.query.lengths.tolist() == [2, 1] and video.query.pids.tolist() == [2, 6]
    assert video.gallery.lengths.tolist() == [2, 3, 2, 3, 5, 1, 2]
    assert video.gallery.pids.tolist() == [-1, 0, 2, 2, 2, 6, 6] and video.gallery.camids.tolist() == [
        0,
        1,
        0,
        0,
        3,
        2,
        4,
    ]
    assert all(fake.near(frame, 7 * 4 + i) for i, frame in enumerate(video.gallery.frames(4)))
    few = open_video("mars", root=tmp_path / "MARS", size=(32, 16), frames=2)
    assert few.gallery.lengths.tolist() == [2, 2, 2, 2, 2, 1, 2]


def test_sets_without_an_order_are_grouped_by_person_and_camera():
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 4, 2), np.uint8)
    found = tracklets_of(Split(images, np.array([3, 1, 3, 1, 3]), np.array([0, 0, 1, 0, 0])))
    assert found.pids.tolist() == [1, 3, 3] and found.camids.tolist() == [0, 0, 1]
    assert [found.frames(i)[:, 0, 0, 0].tolist() for i in range(3)] == [[1, 3], [0, 4], [2]]
    crowd = tracklets_of(Split(images, np.array([0, 0, -1, -1, 5]), np.zeros(5, int)))
    assert crowd.lengths.tolist() == [1] * 5 and sorted(crowd.pids.tolist()) == [-1, -1, 0, 0, 5], (
        "strangers stay apart"
    )


def test_a_tracklet_of_two_people_is_refused():
    images = np.zeros((3, 3, 4, 2), np.uint8)
    split = Split(images, np.array([1, 1, 2]), np.zeros(3, int), tracklets=np.array([7, 7, 7]))
    with pytest.raises(ValueError, match="one of the pids"):
        tracklets_of(split)


def test_frames_of_different_sizes_and_an_empty_tracklet():
    pictures = [
        [np.full((40, 20, 3), 9, np.uint8), np.full((64, 64, 3), 90, np.uint8)],
        [],
        [np.zeros((8, 4, 3), np.uint8)],
    ]
    found = from_pictures(pictures, [1, 2, 3], [0, 0, 1], size=(32, 16))
    assert found.lengths.tolist() == [2, 0, 1] and found.images.shape == (3, 3, 32, 16)
    assert [len(found.frames(i)) for i in range(3)] == [2, 0, 1] and found.frames(0)[1].max() == 90
    with pytest.raises(ValueError, match="uint8"):
        from_pictures([[np.zeros((8, 4, 3))]], [1], [0])
    assert from_pictures([[]], [1], [0]).images.shape == (0, 3, 64, 32)


def test_some_tracklets_and_few_frames():
    whole = lengths_of(3, 0, 6, 1)
    some = whole.select(np.array([2, 0]))
    assert some.lengths.tolist() == [6, 3] and some.pids.tolist() == [3, 1]
    assert some.frames(0)[:, 0, 0, 0].tolist() == [3, 4, 5, 6, 7, 8] and some.frames(1)[:, 0, 0, 0].tolist() == [
        0,
        1,
        2,
    ]
    assert whole.select(whole.lengths > 2).pids.tolist() == [1, 3]
    few = whole.spaced(2)
    assert few.lengths.tolist() == [2, 0, 2, 1] and few.rows.tolist() == [0, 2, 4, 7, 9]
    assert whole.spaced(1).rows.tolist() == [1, 6, 9] and (whole.spaced(9).rows == whole.rows).all()


def test_frames_by_lot():
    whole, rng = lengths_of(3, 0, 6, 1), np.random.default_rng(0)
    seen = set()
    for _ in range(60):
        lot = whole.by_lot(2, rng)
        assert lot.lengths.tolist() == [2, 0, 2, 1] and (np.diff(lot.frames(2)[:, 0, 0, 0].astype(int)) > 0).all()
        assert all(start <= row < start + n for start, n, row in zip([0, 0, 3, 3, 9], [3, 3, 6, 6, 1], lot.rows))
        seen |= set(lot.rows.tolist())
    assert seen == set(range(10)) and (whole.by_lot(9, rng).rows == whole.rows).all()


@pytest.mark.parametrize("wrong", [{"lengths": [2, 2]}, {"lengths": [4, -1]}, {"lengths": [3]}, {"wrong": [True]}])
def test_pieces_that_do_not_fit_are_refused(wrong):
    pieces = {"lengths": [1, 2], "pids": [1, 2], "camids": [0, 0], "rows": [0, 1, 2]} | wrong
    with pytest.raises(ValueError, match="got|are 3 rows"):
        Tracklets(np.zeros((3, 3, 4, 2), np.uint8), **{name: np.array(values) for name, values in pieces.items()})


# ------------------------------------------------------------------------------------------------------------- batches


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 9), min_size=4, max_size=10),
    st.integers(1, 12),
    st.sampled_from(["spread", "consecutive"]),
    st.integers(0, 99),
)
def test_a_batch_is_people_times_tracklets_times_frames(lengths, frames, rule, seed):
    some = lengths_of(*lengths, pids=[1 + i % 2 for i in range(len(lengths))])
    if len({pid for pid, n in zip(some.pids, lengths) if n}) < 2:
        return
    batches = tracklet_batches(some, 2, 3, frames, np.random.default_rng(seed), rule)
    assert {*np.concatenate([which for which, _ in batches])} == {*np.flatnonzero(some.lengths)}, "each, but empty ones"
    for which, rows in batches:
        assert rows.shape == (6, frames) and (some.pids[which].reshape(2, 3) == some.pids[which][::3, None]).all()
        start, n = some.starts[which][:, None], some.lengths[which][:, None]
        assert ((rows >= start) & (rows < start + n)).all(), "its own frames"
        steps = np.diff(rows, axis=1)
        if rule == "spread":
            assert (steps >= 0).all()
            assert (np.abs(rows - start - (np.arange(frames) + 0.5) * n / frames) <= n / frames + 1).all(), "each piece"
        else:
            assert np.isin(steps, [1]).all() or (n <= frames).any()
            assert (((rows - start) - (rows[:, :1] - start) - np.arange(frames)) % n == 0).all(), "one after the other"


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="spread"):
        tracklet_batches(lengths_of(2, 2), 2, 1, 2, np.random.default_rng(0), "first")


def test_a_video_of_stills_has_what_a_dataset_has():
    """`Video.ids` goes where `ReIDDataset.ids` does."""
    some = lengths_of(1, 2)
    assert len(tracklets.Video("v", some, some, some).ids) == len(
        ReIDDataset("d", *[Split(*[np.zeros(0, int)] * 3)] * 3).ids
    )
