"""Key points as data: noise that grows with its dial, PCK by hand, and a network that learns to find them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reidnb.methods import keypoints as kp
from reidnb.methods.pose import standard_pose
from reidnb.synthetic import KEYPOINTS

SIZE = (64, 32)


def bodies(n):
    return standard_pose(SIZE).repeat(n, 1, 1).numpy()


def test_left_and_right_change_places():
    for i, j in enumerate(kp.MIRROR):
        a, b = KEYPOINTS[i].split("_"), KEYPOINTS[j].split("_")
        assert a[-1] == b[-1] and kp.MIRROR[j] == i
        assert {a[0], b[0]} == {"left", "right"} if len(a) == 2 and a[0] != "head" else i == j


@settings(max_examples=20, deadline=None)
@given(noise=st.floats(0, 2), seed=st.integers(0, 1000))
def test_noise_keeps_what_it_was_given(noise, seed):
    points = bodies(5)
    given_points, found = points.copy(), kp.noisy_keypoints(points, noise, SIZE, np.random.default_rng(seed))
    np.testing.assert_array_equal(points, given_points)
    assert found.shape == (5, 14, 3) and found.dtype == np.float32 and np.isfinite(found).all()
    assert set(np.unique(found[..., 2])) <= {0.0, 1.0}
    again = kp.noisy_keypoints(points, noise, SIZE, np.random.default_rng(seed))
    np.testing.assert_array_equal(found, again)
    if noise == 0:
        np.testing.assert_array_equal(found, points)


def test_what_the_dial_says_is_what_happens():
    points, rng = bodies(4000), np.random.default_rng(0)
    found = kp.noisy_keypoints(points, 1.0, SIZE, rng)
    seen = found[..., 2] == 1
    assert 1 - seen.mean() == pytest.approx(0.1, abs=0.01)
    torso = 20  # rows of the standard pose
    off = found[:, 1, :2] - points[:, 1, :2]  # the neck has no other side
    assert off[seen[:, 1]].std() == pytest.approx(0.1 * torso, rel=0.05)
    left, right = points[0, 2, 0], points[0, 3, 0]
    nearer = np.abs(found[:, 2, 0] - right) < np.abs(found[:, 2, 0] - left)
    assert nearer[seen[:, 2]].mean() == pytest.approx(0.1, abs=0.02)
    lost = found[~seen]
    assert lost[:, 0].max() <= 32 and lost[:, 1].max() <= 64 and lost[:, 1].std() > 15, "anywhere in the picture"


def test_more_noise_is_worse():
    truth = bodies(500)
    scores = [kp.pck(kp.noisy_keypoints(truth, n, SIZE, np.random.default_rng(0)), truth) for n in (0, 0.5, 1, 1.5, 2)]
    assert scores[0] == 1 and (np.diff(scores) < -0.05).all()


@pytest.mark.parametrize("noise", [-0.1, 2.1, True, "1", np.nan, None])
def test_a_dial_beyond_its_ends(noise):
    with pytest.raises(ValueError, match="keypoint_noise is a number from 0 to 2"):
        kp.noisy_keypoints(bodies(1), noise, SIZE, np.random.default_rng(0))


def test_pck_by_hand():
    truth = bodies(2)
    truth[1, :, 2] = 0
    truth[1, :4, 2] = 1
    found = truth.copy()
    found[0, 0, 0] += 4.1  # 0.2 of 20 rows are 4 pixels
    found[0, 1, 1] += 3.9
    found[0, 2, 2] = 0  # right, and not said to be seen
    found[1, 7, :2] = -50  # nobody sees that one
    right = sum(
        bool(t[2]) and f[2] >= 0.5 and np.hypot(*(f[:2] - t[:2])) <= 4
        for a, b in zip(found, truth)
        for f, t in zip(a, b)
    )
    assert right == 16 and kp.pck(found, truth) == pytest.approx(16 / 18)
    assert kp.pck(found, truth, 0.25) == pytest.approx(17 / 18)
    with pytest.raises(ValueError, match="no point is seen"):
        kp.pck(found, truth * (1, 1, 0))


@pytest.mark.parametrize(
    ("points", "said"),
    [(None, "need key points"), (np.zeros((2, 13, 3)), "key points must be"), (np.zeros(3), "must be")],
)
def test_what_are_no_key_points(points, said):
    with pytest.raises(ValueError, match=said):
        kp.check_points(points)
    with pytest.raises(ValueError, match=r"\(5, 14, 3\)"):
        kp.check_points(bodies(2), 5)


def test_a_point_without_a_place_is_not_seen():
    points = bodies(2)
    points[0, 3, 1], points[1, 4, 2] = np.nan, 7
    found = kp.check_points(points)
    assert found[0, 3].tolist() == [0, 0, 0] and found[1, 4, 2] == 1 and np.isfinite(found).all()


def test_heat_maps_are_read_as_they_were_written():
    """Of a bell its place, to a fraction of a cell; at the edge too."""
    rng = np.random.default_rng(0)
    points = np.ones((200, 14, 3), np.float32)
    points[..., 0], points[..., 1] = rng.uniform(2, 30, (200, 14)), rng.uniform(2, 62, (200, 14))
    heat = kp.heat_targets(torch.from_numpy(points), (16, 8))
    assert heat.shape == (200, 14, 128)
    torch.testing.assert_close(heat.sum(2), torch.ones(200, 14))
    read = kp.read_heat_maps(heat.log().view(200, 14, 16, 8)).numpy()
    assert np.abs(read - points[..., :2]).max() < 1.2 and np.abs(read - points[..., :2]).mean() < 0.3


def crosses(n, seed=0):
    """Grey pictures with a bright cross, where all 14 points are; in each fourth there is none."""
    rng = np.random.default_rng(seed)
    images, points = np.full((n, 3, 64, 32), 90, np.uint8), np.zeros((n, 14, 3), np.float32)
    for i in range(n):
        x, y = rng.integers(6, 26), rng.integers(6, 58)
        points[i] = x + 0.5, y + 0.5, i % 4 > 0
        if i % 4:
            images[i, :, y, x - 4 : x + 5] = images[i, :, y - 4 : y + 5, x] = 250
    return images, points


def test_the_network_learns_to_find_a_cross():
    net = kp.train_pose_network(*crosses(256), epochs=12)
    images, truth = crosses(64, 1)
    found = kp.find_points(net, images)
    assert found.shape == (64, 14, 3) and not net.training
    seen = truth[..., 2] == 1
    assert np.median(np.linalg.norm(found[..., :2] - truth[..., :2], axis=2)[seen]) < 2
    assert ((found[..., 2] > 0.5) == seen).mean() > 0.95
    assert kp.find_points(net, images[:0]).shape == (0, 14, 3)


def test_the_same_seed_is_the_same_network():
    few = crosses(64)
    one, two = (kp.find_points(kp.train_pose_network(*few, epochs=1, seed=3), few[0][:4]) for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_a_network_is_trained_once_and_kept(monkeypatch, tmp_path):
    from types import SimpleNamespace

    monkeypatch.setenv("REIDNB_CACHE", str(tmp_path))
    images, points = crosses(64)
    data = SimpleNamespace(fingerprint="abc", train=SimpleNamespace(images=images, keypoints=points))
    calls, learn = [], kp.train_pose_network
    monkeypatch.setattr(kp, "source_of", lambda thing: "the same code")
    monkeypatch.setattr(kp, "train_pose_network", lambda *a, **k: calls.append(1) or learn(*a, **k, epochs=1))
    one, two = kp.kept_pose_network(data), kp.kept_pose_network(data)
    assert len(calls) == 1 and not two.training
    np.testing.assert_array_equal(kp.find_points(one, images[:4]), kp.find_points(two, images[:4]))
    other = SimpleNamespace(images=255 - images, keypoints=points)
    kp.kept_pose_network(SimpleNamespace(fingerprint="abc", train=other))
    assert len(calls) == 2, "other pictures, whatever their dataset says of itself: one made by hand says nothing"
    monkeypatch.setattr(kp, "source_of", lambda thing: "other code")
    kp.kept_pose_network(data)
    assert len(calls) == 3
