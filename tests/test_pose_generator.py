"""PN-GAN: poses as pictures, every term and gradient by hand, training that resumes, what is kept, what is fused."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from reidnb.generators import (
    PNGAN,
    PoseGenerator,
    canonical_poses,
    draw_poses,
    fuse,
    keeping,
    load_or_train_pngan,
    paint,
    pngan,
    poses,
    train_pngan,
)
from reidnb.methods.keypoints import MIRROR
from reidnb.plots.poses import BONES
from reidnb.runtime import TrainingDiverged
from reidnb.synthetic import KEYPOINTS

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 3, 32, 16), np.uint8)
PIDS = np.array([1, 2, 1, 3, 2, 2, 0, 0, 4, 1, -1, -1])  # 3 and 4 have one picture; 0 and -1 are nobody
POINTS = np.concatenate([RNG.random((12, 14, 2)) * (16, 32), np.ones((12, 14, 1))], 2).astype(np.float32)
SPLIT = SimpleNamespace(images=IMAGES, pids=PIDS, keypoints=POINTS)
PLAN = PNGAN(width=3, critic_width=3, steps=6, batch=4)
HIDDEN = POINTS * (1, 1, 0)


def other(**change):
    return SimpleNamespace(**vars(SPLIT) | change)


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values()))


# --------------------------------------------------------------------------------------------------------------- poses


def slow_skeleton(points, size, thick):
    """A pixel at a time: the nearest point of each bone, found by walking along it."""
    out = np.zeros((3, *size))
    for start, end in BONES:
        a, b = points[KEYPOINTS.index(start)], points[KEYPOINTS.index(end)]
        colour = 1 if end.startswith("left") else 2 if end.startswith("right") else 0
        if a[2] < 0.5 or b[2] < 0.5:
            continue
        walk = a[:2] + np.linspace(0, 1, 2001)[:, None] * (b[:2] - a[:2])
        for row in range(size[0]):
            for column in range(size[1]):
                far = ((walk - (column + 0.5, row + 0.5)) ** 2).sum(1).min()
                out[colour, row, column] = max(out[colour, row, column], math.exp(-far / (2 * thick**2)))
    return out


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_skeleton_by_the_slow_way(seed):
    rng = np.random.default_rng(seed)
    points = np.concatenate([rng.uniform(-2, 12, (2, 14, 2)), rng.random((2, 14, 1)) > 0.2], 2)
    found = draw_poses(points, (10, 6), 0.9)
    assert found.shape == (2, 3, 10, 6) and found.dtype == torch.float32
    for body, drawn in zip(points, found):
        np.testing.assert_allclose(drawn, slow_skeleton(body, (10, 6), 0.9), atol=2e-4)


def test_bones_are_those_that_the_pictures_show():
    assert {(KEYPOINTS[a], KEYPOINTS[b]) for a, b, _ in poses.BONES} == set(BONES)


def test_of_a_body_that_is_hidden_nothing_is_drawn():
    for points in (HIDDEN, np.full((2, 14, 3), np.nan), POINTS[:0]):
        drawn = draw_poses(points, (32, 16))
        assert drawn.shape == (len(points), 3, 32, 16) and not drawn.any()
    one_point = POINTS[:1].copy()
    one_point[0, :, :2] = 8.0  # a body without extent: no bone has a direction
    assert draw_poses(one_point, (32, 16)).isfinite().all()


def test_canonical_poses_are_the_nearest_to_their_centres_and_stand_alike():
    """Three bodies, each at several places and sizes: one of each is found."""
    rng, shapes = np.random.default_rng(1), POINTS[:3]
    many = []
    for n in range(30):
        body = shapes[n % 3].copy()
        body[:, :2] = body[:, :2] * rng.uniform(0.5, 2) + rng.uniform(-5, 5, 2)
        many.append(body)
    many[4][3, 2] = 0  # not seen whole
    rows, bodies = canonical_poses(np.stack(many), 3)
    assert {row % 3 for row in rows.tolist()} == {0, 1, 2} and 4 not in rows
    assert bodies.shape == (3, 14, 3) and bodies.dtype == np.float32 and (bodies[..., 2] == 1).all()
    np.testing.assert_allclose(np.ptp(bodies[..., 1], 1), np.ptp(bodies[0, :, 1]), rtol=1e-5)
    np.testing.assert_allclose(bodies[..., :2].mean(1), np.tile(bodies[0, :, :2].mean(0), (3, 1)), rtol=1e-4)
    left, right = KEYPOINTS.index("left_shoulder"), KEYPOINTS.index("right_shoulder")
    assert (np.diff(bodies[:, left, 0] - bodies[:, right, 0]) >= 0).all(), "from behind first"
    again, _ = canonical_poses(np.stack(many), 3)
    assert (again == rows).all()


@pytest.mark.parametrize(
    ("points", "said"),
    [
        (POINTS[:7], "8 poses need as many bodies .* there are 7 among 7"),
        (HIDDEN, "there are 0 among 12"),
        (POINTS[:0], "there are 0 among 0"),
        (None, "does not have"),
        (POINTS[:, :13], r"must be \(N, 14, 3\).*got \(12, 13, 3\)"),
    ],
)
def test_what_gives_no_poses(points, said):
    with pytest.raises(ValueError, match=said):
        canonical_poses(points)
    if points is None or points.shape[1] == 13:
        with pytest.raises(ValueError, match=said):
            draw_poses(points, (32, 16))


# ---------------------------------------------------------------------------------------------------- terms, by hand


@pytest.mark.parametrize("size", [(64, 32), (32, 16), (128, 64)])
def test_shapes_at_every_size(size):
    pictures = torch.rand(2, 3, *size)
    painted = PoseGenerator(4)(pictures, pictures)
    assert painted.shape == pictures.shape and painted.abs().max() < 1


def test_the_pose_and_the_picture_both_reach_the_whole_of_what_is_painted():
    torch.manual_seed(0)
    net, pictures = PoseGenerator(4).double(), torch.rand(2, 1, 3, 32, 16, dtype=torch.float64).requires_grad_()
    slope = torch.autograd.grad(net(*pictures)[0, :, 0, 0].sum(), pictures)[0]
    assert slope[0, 0, :, 31, 15].abs().sum() > 0 and slope[1, 0, :, 31, 15].abs().sum() > 0


def test_the_losses_and_their_gradients_by_hand():
    """A generator that is one linear map of picture and pose, and a critic that is one of a picture: the slope of
    10 |painted - wanted| is 10 sign / count, that of (score - 1)^2 is 2 (score - 1)."""
    torch.manual_seed(0)
    nets = nn.ModuleDict({"generator": nn.Linear(2, 1, bias=False), "critic": nn.Linear(1, 1)}).double()
    net, critic = nets["generator"], nets["critic"]
    net.forward = lambda pictures, skeletons: torch.stack([pictures, skeletons], 1) @ net.weight[0]
    critic.forward = lambda pictures: pictures * critic.weight[0, 0] + critic.bias
    pictures, skeletons, wanted = torch.randn(3, 7, dtype=torch.float64)
    terms, painted = pngan.generator_terms(nets, pictures, skeletons, wanted, PNGAN(same=10.0))
    by_hand = pictures * net.weight[0, 0] + skeletons * net.weight[0, 1]
    scores = painted * critic.weight[0, 0] + critic.bias
    torch.testing.assert_close(painted, by_hand.detach())
    torch.testing.assert_close(terms["fool"].detach(), ((scores - 1) ** 2).mean().detach())
    torch.testing.assert_close(terms["same"].detach(), 10 * (painted - wanted).abs().mean())
    sum(terms.values()).backward()
    slope = (2 * (scores - 1) * critic.weight[0, 0] + 10 * (painted - wanted).sign()) / 7
    wanted_slope = torch.stack([(slope * pictures).sum(), (slope * skeletons).sum()]).detach()
    torch.testing.assert_close(net.weight.grad[0], wanted_slope)
    assert critic.weight.grad is None and critic.weight.requires_grad and not painted.requires_grad
    assert set(pngan.generator_terms(nets, pictures, skeletons, wanted, PNGAN(same=0.0))[0]) == {"fool"}
    nets.zero_grad(set_to_none=True)
    judged = pngan.critic_terms(nets, wanted, painted)
    sum(judged.values()).backward()
    real, fake = (part * critic.weight[0, 0] + critic.bias for part in (wanted, painted))
    torch.testing.assert_close(judged["real"].detach(), ((real - 1) ** 2).mean().detach())
    torch.testing.assert_close(critic.bias.grad[0], (2 * (real - 1) + 2 * fake).mean().detach())
    assert net.weight.grad is None


# ------------------------------------------------------------------------------------------------------------ training


def test_pairs_are_two_pictures_of_one_person():
    assert [rows.tolist() for rows in pngan.pairs_of(PIDS)] == [[0, 2, 9], [1, 4, 5]]
    numbered = np.broadcast_to(np.arange(12, dtype=np.uint8)[:, None, None, None], IMAGES.shape)
    split, groups = other(images=numbered), pngan.pairs_of(PIDS)
    pictures, _, wanted = pngan._draw(split, groups, np.random.default_rng(0), replace(PLAN, batch=200), "cpu")
    first, second = (((part[:, 0, 0, 0] + 1) * 127.5).round().long().numpy() for part in (pictures, wanted))
    assert (PIDS[first] == PIDS[second]).all() and (first != second).all()
    assert {*first} == {*second} == {0, 1, 2, 4, 5, 9}


def test_a_skeleton_is_mirrored_with_its_picture_and_left_is_right():
    images = np.zeros((2, 3, 32, 16), np.uint8)
    images[..., :4] = 255
    points = POINTS[[0, 0]]
    split = SimpleNamespace(images=images, pids=np.array([5, 5]), keypoints=points)
    drawn = pngan._draw(split, [np.arange(2)], np.random.default_rng(0), replace(PLAN, batch=16), "cpu")
    turned = drawn[2][:, 0, 0, 0] < 0
    assert 0 < turned.sum() < 16 and (drawn[0][:, 0, 0, 0] < 0).equal(turned)
    other_way = points[:1, MIRROR] * (-1, 1, 1) + (16, 0, 0)
    for mirrored, skeleton in zip(turned, drawn[1]):
        wanted = draw_poses(other_way if mirrored else points[:1], (32, 16))[0]
        torch.testing.assert_close(skeleton, wanted, atol=1e-5, rtol=0)


def test_training_resumes_to_the_same_weights(tmp_path, monkeypatch):
    straight, history, film = train_pngan(SPLIT, PLAN, device="cpu", every=2)
    assert [line["step"] for line in history] == [2, 4, 6] and {"real", "fake", "fool", "same"} < set(history[0])
    assert film.shape == (len(pngan.FRAMES), pngan.SHOWN, 3, 32, 16) and (film[-1] != film[0]).any()
    assert not straight.training
    path, real = tmp_path / "a.checkpoint", pngan.descend
    calls = []

    def dies(*args):
        calls.append(1)
        if len(calls) == 10:  # in the fifth step
            raise KeyboardInterrupt
        real(*args)

    monkeypatch.setattr(pngan, "descend", dies)
    with pytest.raises(KeyboardInterrupt):
        train_pngan(SPLIT, PLAN, device="cpu", every=2, checkpoint=path)
    monkeypatch.setattr(pngan, "descend", real)
    again, resumed, its_film = train_pngan(SPLIT, PLAN, device="cpu", every=2, checkpoint=path)
    assert same(straight, again) and (film == its_film).all()
    assert [line["same"] for line in resumed] == [line["same"] for line in history]
    assert not same(straight, train_pngan(SPLIT, PLAN, seed=1, device="cpu")[0])


def test_a_generator_comes_nearer_to_what_is_wanted():
    """One person, always in the same light grey."""
    split = other(images=np.full_like(IMAGES, 200), pids=np.ones(12, int))
    generator, history, _ = train_pngan(split, replace(PLAN, width=4, steps=60, lr=5e-3), device="cpu", every=20)
    assert history[-1]["same"] < 0.3 * history[0]["same"]
    assert abs(paint(generator, split.images[:2], POINTS[:2]).mean() - 200) < 20


def test_one_identity_and_hidden_points_are_enough():
    for split in (other(pids=np.ones(12, int)), other(keypoints=HIDDEN), other(keypoints=POINTS * np.nan)):
        generator, history, _ = train_pngan(split, replace(PLAN, steps=2), device="cpu")
        assert math.isfinite(history[-1]["same"]) and all(p.isfinite().all() for p in generator.parameters())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pids": np.arange(1, 13)}, "of 12 people in 12 pictures nobody has two"),
        ({"pids": np.zeros(12, int)}, "nobody has two"),
        ({"keypoints": None}, "needs key points .* got None"),
        ({"keypoints": POINTS[:, :13]}, r"got \(12, 13, 3\)"),
        ({"keypoints": POINTS[:5]}, r"got \(5, 14, 3\)"),
        ({"images": IMAGES[:, :, :24]}, "multiples of 16"),
        ({"images": IMAGES[:0], "pids": PIDS[:0], "keypoints": POINTS[:0]}, "one or more"),
    ],
)
def test_what_it_cannot_learn_from(change, said):
    with pytest.raises(ValueError, match=said):
        train_pngan(other(**change), PLAN, device="cpu")


def test_a_loss_that_is_not_finite_is_told():
    with pytest.raises(TrainingDiverged, match="PNGAN: the loss is not finite in step"):
        train_pngan(SPLIT, replace(PLAN, lr=1e30), device="cpu")


@pytest.mark.parametrize("bad", [{"steps": 0}, {"lr": 0.0}, {"average": 1.5}, {"width": 1.5}, {"same": -1.0}])
def test_a_plan_refuses_what_cannot_be(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        PNGAN(**bad)


# ------------------------------------------------------------------------------------------------------ paint and fuse


def test_painting_in_pieces_is_painting_at_once():
    torch.manual_seed(0)
    generator = PoseGenerator(4).eval()
    nn.init.normal_(generator.last.weight, std=0.5)
    whole, pieces = paint(generator, IMAGES, POINTS[:3]), paint(generator, IMAGES, POINTS[:3], batch=5)
    assert whole.shape == (3, *IMAGES.shape) and whole.dtype == np.uint8 and (whole[0] != whole[1]).any()
    assert np.abs(whole.astype(int) - pieces).max() <= 1  # a convolution sums in another order for another batch
    pictures = torch.from_numpy(IMAGES[:1]).float() / 127.5 - 1
    with torch.no_grad():
        one = generator(pictures, draw_poses(POINTS[2:3], (32, 16)))
    assert np.abs(whole[2, 0].astype(int) - ((one[0] + 1) * 127.5).round().numpy()).max() <= 1
    assert paint(generator, IMAGES[:0], POINTS[:3]).shape == (3, 0, 3, 32, 16)
    assert paint(generator, IMAGES, POINTS[:0]).shape == (0, *IMAGES.shape)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["max", "mean"]))
def test_fused_by_the_slow_way(seed, how):
    rng = np.random.default_rng(seed)
    real, painted = rng.normal(size=(3, 5)), rng.normal(size=(8, 3, 5))
    found = fuse(real, painted, how)
    assert found.dtype == np.float32
    for n in range(3):
        values = [[real[n, d], *(painted[k, n, d] for k in range(8))] for d in range(5)]
        wanted = np.array([max(v) if how == "max" else sum(v) / 9 for v in values])
        np.testing.assert_allclose(found[n], wanted / np.sqrt((wanted**2).sum()), rtol=1e-4, atol=1e-6)


def test_fused_with_nothing_or_with_itself_it_is_the_query():
    real = np.random.default_rng(0).normal(size=(3, 5))
    unit = real / np.linalg.norm(real, axis=1, keepdims=True)
    for how in ("max", "mean"):
        for painted in (np.zeros((0, 3, 5)), np.stack([real] * 8)):
            np.testing.assert_allclose(fuse(real, painted, how), unit, rtol=1e-5)
    assert not fuse(np.zeros((1, 4)), np.zeros((2, 1, 4))).any(), "no direction: no division by nothing"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: fuse(np.zeros((3, 5)), np.zeros((8, 3, 5)), "median"), "got 'median'"),
        (lambda: fuse(np.zeros((3, 5)), np.zeros((8, 2, 5))), r"got \(3, 5\) and \(8, 2, 5\)"),
        (lambda: fuse(np.zeros(5), np.zeros((8, 5))), "features"),
    ],
)
def test_what_cannot_be_fused(call, said):
    with pytest.raises(ValueError, match=said):
        call()


# ------------------------------------------------------------------------------------------------------------- keeping


def test_a_generator_is_trained_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("REIDNB_CACHE", str(tmp_path))
    first = load_or_train_pngan(SPLIT, "tiny", plan=PLAN, device="cpu")
    assert first.extra["poses"].shape == (8, 14, 3) and first.extra["film"].dtype == np.uint8
    rows, bodies = canonical_poses(POINTS)
    assert (first.extra["rows"] == rows).all() and (first.extra["poses"] == bodies).all()
    monkeypatch.setattr(torch.optim, "Adam", lambda *_, **__: pytest.fail("trained twice"))
    again = load_or_train_pngan(SPLIT, "tiny", plan=PLAN, device="cpu")
    assert same(first.generator, again.generator) and again.history == first.history and again.plan == PLAN
    assert [path.suffix for path in (tmp_path / "styles").glob("*.checkpoint")] == []
    others = PIDS.copy()
    others[3] = 4
    changes = {"pids": others}, {"keypoints": POINTS + 1}, {"images": 255 - IMAGES}
    for split, name, how in (*((other(**c), "tiny", {}) for c in changes), (SPLIT, "tiny", {"options": {"world": 1}})):
        with pytest.raises(pytest.fail.Exception):
            load_or_train_pngan(split, name, plan=PLAN, device="cpu", **how)
    monkeypatch.setattr(pngan, "source_of", lambda thing: "other code")
    with pytest.raises(pytest.fail.Exception):
        load_or_train_pngan(SPLIT, "tiny", plan=PLAN, device="cpu")


def test_what_ships_says_what_it_is(monkeypatch):
    monkeypatch.setattr(pngan, "train_pngan", lambda *_, **__: pytest.fail("trained"))
    count = keeping.about_of(keeping.SHIPPED / "pngan-synthetic.safetensors")["pictures"][0]
    pids, points = np.resize(PIDS, count), np.resize(POINTS, (count, *POINTS.shape[1:]))
    empty = SimpleNamespace(images=np.zeros((count, 3, 64, 32), np.uint8), pids=pids, keypoints=points)
    found = load_or_train_pngan(empty, "synthetic", device="cpu")
    assert found.path.parent == keeping.SHIPPED and found.path.stat().st_size < 1_000_000
    assert found.history[-1]["step"] == found.plan.steps and found.extra["poses"].shape == (8, 14, 3)
    with pytest.raises(pytest.fail.Exception):
        load_or_train_pngan(empty, "synthetic", seed=1, device="cpu")
