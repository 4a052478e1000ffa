"""DCGAN and PTGAN: shapes, every term by hand, training that resumes, what is kept, and what pictures are worth."""

import json
import logging
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg
from torch import nn

from reidnb import generators
from reidnb.datasets import Split
from reidnb.generators import (
    DCGAN,
    PTGAN,
    Critic,
    Mover,
    NoiseGenerator,
    PatchCritic,
    all_pair_styles,
    dcgan,
    descent,
    diversity,
    frechet_distance,
    imagine,
    keeping,
    load_or_train_dcgan,
    load_or_train_pairs,
    load_or_train_ptgan,
    move,
    nearest_training,
    person_difference,
    ptgan,
    repaint,
    train_dcgan,
    train_ptgan,
)
from reidnb.runtime import TrainingDiverged

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 3, 32, 16), np.uint8)
OTHERS = RNG.integers(0, 256, (9, 3, 32, 16), np.uint8)
MASKS = np.zeros((12, 32, 16), np.uint8)
MASKS[:, 8:24, 4:12] = 3
HERE = SimpleNamespace(images=IMAGES, masks=MASKS)
THERE = SimpleNamespace(images=OTHERS, masks=MASKS[:9])
NOISE = DCGAN(noise=5, width=3, critic_width=3, steps=6, batch=4)
MOVES = PTGAN(width=4, blocks=1, critic_width=4, steps=6, batch=4, lr=0.03)
TRAINS = {
    "dcgan": (dcgan, lambda **how: train_dcgan(IMAGES, NOISE, device="cpu", **how)),
    "ptgan": (ptgan, lambda **how: train_ptgan(HERE, THERE, MOVES, device="cpu", **how)),
}


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("REIDNB_CACHE", str(tmp_path))
    return tmp_path


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values()))


# ------------------------------------------------------------------------------------------------------------ networks


@pytest.mark.parametrize("size", [(64, 32), (128, 64)])
def test_shapes_at_every_size(size):
    pictures = NoiseGenerator(7, 4, size)(torch.randn(3, 7))
    assert pictures.shape == (3, 3, *size) and pictures.abs().max() < 1
    assert Critic(4, size)(pictures).shape == (3,)
    assert Mover(4)(pictures).shape == pictures.shape
    assert PatchCritic(4)(pictures).shape == (3, size[0] // 8, size[1] // 8)


def test_the_papers_start():
    torch.manual_seed(0)
    weights = torch.cat([p.flatten() for name, p in Critic(16).named_parameters() if p.ndim > 1])
    assert abs(weights.std() - 0.02) < 0.001 and abs(weights.mean()) < 0.001


def test_a_mover_begins_by_changing_little_but_not_nothing():
    """At nothing the absolute differences would hold it: their slope does not fade."""
    torch.manual_seed(0)
    pictures = torch.from_numpy(IMAGES).float() / 127.5 - 1
    change = (Mover()(pictures) - pictures).abs()
    assert 0 < change.mean() < 0.05


def test_moving_in_pieces_is_moving_at_once():
    torch.manual_seed(0)
    mover = Mover(4)
    nn.init.normal_(mover.layers[-1].weight, std=0.2)
    whole, pieces = move(mover, IMAGES), move(mover, IMAGES, batch=5)
    assert whole.dtype == np.uint8 and not (whole == IMAGES).all()
    assert np.abs(whole.astype(int) - pieces).max() <= 1  # a convolution sums in another order for another batch
    assert move(mover, IMAGES[:0]).shape == (0, 3, 32, 16)


def test_what_is_imagined_hangs_on_the_seed_alone():
    torch.manual_seed(0)
    generator = NoiseGenerator(5, 3, (32, 16)).eval()
    for weight in generator.parameters():
        nn.init.normal_(weight, std=0.3)
    many, few = imagine(generator, 9, seed=1, batch=4), imagine(generator, 4, seed=1)
    assert many.shape == (9, 3, 32, 16) and many.dtype == np.uint8
    assert np.abs(many[:4].astype(int) - few).max() <= 1
    assert (imagine(generator, 4, seed=2) != few).any() and len(imagine(generator, 0)) == 0
    with pytest.raises(ValueError, match="from 0 on"):
        imagine(generator, -1)


# -------------------------------------------------------------------------------------------------- the terms, by hand


def toy_nets(logits=None):
    """A critic that says a parameter, a generator that paints one."""
    nets = nn.ModuleDict({"generator": nn.Linear(2, 3), "critic": nn.Linear(3, 1)}).double()
    nets["critic"].forward = lambda x: x @ nets["critic"].weight[0] + nets["critic"].bias
    return nets


def test_the_losses_of_dcgan_and_their_gradients_by_hand():
    """-log D(x) - log(1 - D(G(z))) and -log D(G(z)), D = 1 / (1 + exp(-s)): of the scores the derivatives are D - 1, D
    and D - 1."""
    torch.manual_seed(0)
    nets, real = toy_nets(), torch.randn(4, 3, dtype=torch.float64)
    noise = torch.randn(4, 2, dtype=torch.float64)
    painted = nets["generator"](noise).detach()
    found = dcgan.critic_cost(nets, real, noise)
    d_real, d_fake = (torch.sigmoid(nets["critic"](x)).detach() for x in (real, painted))
    torch.testing.assert_close(found["real"].detach(), -d_real.log().mean())
    torch.testing.assert_close(found["fake"].detach(), -(1 - d_fake).log().mean())
    sum(found.values()).backward()
    by_hand = ((d_real - 1)[:, None] * real + d_fake[:, None] * painted).mean(0)
    torch.testing.assert_close(nets["critic"].weight.grad[0], by_hand)
    assert nets["generator"].weight.grad is None
    nets.zero_grad(set_to_none=True)
    fool = dcgan.generator_cost(nets, noise)["fool"]
    torch.testing.assert_close(fool.detach(), -d_fake.log().mean())
    fool.backward()
    slope = ((d_fake - 1)[:, None] * noise).mean(0)
    by_hand = nets["critic"].weight.detach()[0][:, None] * slope
    torch.testing.assert_close(nets["generator"].weight.grad, by_hand)
    assert nets["critic"].weight.grad is None and nets["critic"].weight.requires_grad


def moving_nets():
    torch.manual_seed(0)
    nets = ptgan.build_nets(MOVES)
    for name in ("forth", "back"):
        nn.init.normal_(nets[name].layers[-1].weight, std=0.1)
    return nets


def pictures_of(split):
    return torch.from_numpy(split.images[:4]).float() / 127.5 - 1, torch.from_numpy(split.masks[:4])


def test_the_terms_of_ptgan_by_hand():
    nets, (source, masks), (target, theirs) = moving_nets(), pictures_of(HERE), pictures_of(THERE)
    plan = PTGAN(cycle=2.0, same=3.0, person=5.0)
    found, (there, here) = ptgan.generator_terms(nets, source, target, masks, theirs, plan)
    to, back = nets["forth"], nets["back"]
    torch.testing.assert_close(there, to(source)), torch.testing.assert_close(here, back(target))
    wanted = {
        "fool": ((nets["there"](there) - 1) ** 2).mean() + ((nets["here"](here) - 1) ** 2).mean(),
        "cycle": 2 * ((back(there) - source).abs().mean() + (to(here) - target).abs().mean()),
        "same": 3 * ((to(target) - target).abs().mean() + (back(source) - source).abs().mean()),
    }
    person = 0.0
    for moved, plain, where in ((there, source, masks), (here, target, theirs)):
        inside = [float(abs(moved[n, :, y, x] - plain[n, :, y, x]).sum()) for n, y, x in where.nonzero().tolist()]
        person += sum(inside) / len(inside) / 3
    wanted["person"] = torch.tensor(5 * person)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)
    plain, _ = ptgan.generator_terms(nets, source, target, None, None, PTGAN(cycle=0.0, same=0.0, person=0.0))
    assert set(plain) == {"fool"}
    judged = ptgan.critic_terms(nets, source, target, there, here)
    by_hand = ((nets["there"](target) - 1) ** 2).mean() + (nets["there"](there) ** 2).mean()
    torch.testing.assert_close(judged["there"], by_hand)


def test_whose_weights_each_term_of_ptgan_moves():
    nets, (source, masks), (target, theirs) = moving_nets(), pictures_of(HERE), pictures_of(THERE)
    terms, painted = ptgan.generator_terms(nets, source, target, masks, theirs, MOVES)
    sum(terms.values()).backward()
    assert all(p.grad is None for name in ("there", "here") for p in nets[name].parameters())
    assert all(p.requires_grad for p in nets.parameters()), "the critics can learn again"
    nets.zero_grad(set_to_none=True)
    sum(ptgan.critic_terms(nets, source, target, *painted).values()).backward()
    assert all(p.grad is None for name in ("forth", "back") for p in nets[name].parameters())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_person_is_what_the_mask_shows_and_nothing_else(seed):
    rng = np.random.default_rng(seed)
    a, b = torch.from_numpy(rng.random((2, 3, 3, 6, 4)))
    masks = torch.from_numpy(rng.integers(0, 3, (3, 6, 4)))
    slow, count = 0.0, 0
    for n, y, x in (masks > 0).nonzero().tolist():
        slow += sum(abs(float(a[n, c, y, x] - b[n, c, y, x])) for c in range(3))
        count += 3
    assert float(person_difference(a, b, masks)) == pytest.approx(slow / max(1, count))
    a = torch.where((masks == 0)[:, None], torch.rand(3, 3, 6, 4, dtype=torch.float64), b)
    assert float(person_difference(a, b, masks)) == 0, "the background may be anything"


def test_an_empty_mask_asks_for_nothing():
    a, b = torch.rand(2, 4, 3, 6, 4).requires_grad_().unbind(0)
    cost = person_difference(a, b, torch.zeros(4, 6, 4))
    assert float(cost.detach()) == 0 and torch.isfinite(torch.autograd.grad(cost, a)[0]).all()


# ------------------------------------------------------------------------------------------------------------ training


@pytest.mark.parametrize("kind", TRAINS)
def test_an_interrupted_training_ends_at_the_same_weights(kind, tmp_path, monkeypatch):
    _, train = TRAINS[kind]
    whole, history, film = train(every=2)
    assert [line["step"] for line in history] == [2, 4, 6] and set(history[0]) > {"fool", "seconds"}
    keep, path = descent.keep_checkpoint, tmp_path / "a.checkpoint"

    def stop(*arguments):
        keep(*arguments)
        raise KeyboardInterrupt

    for _ in range(2):  # stopped twice
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(descent, "keep_checkpoint", stop)
            train(checkpoint=path, every=2)
    again, resumed, seen = train(checkpoint=path, every=2)
    assert same(whole, again) and (film == seen).all() and not whole.training
    strip = [{k: v for k, v in line.items() if k != "seconds"} for line in history]
    assert strip == [{k: v for k, v in line.items() if k != "seconds"} for line in resumed]


@pytest.mark.parametrize("kind", TRAINS)
def test_seeds_differ_and_repeat(kind):
    _, train = TRAINS[kind]
    one, other = train(seed=0), train(seed=1)
    assert not same(one[0], other[0]) and same(one[0], train(seed=0)[0])
    frames, shown = one[2].shape[:2]
    module = TRAINS[kind][0]
    assert (frames, shown) == (len(module.FRAMES), module.SHOWN) and (one[2][-1] != one[2][0]).any()


def test_a_damaged_checkpoint_is_put_aside(tmp_path, caplog):
    path = tmp_path / "a.checkpoint"
    path.write_bytes(b"rubbish")
    with caplog.at_level(logging.WARNING, "reidnb"):
        generator, _, _ = train_dcgan(IMAGES, NOISE, device="cpu", checkpoint=path)
    assert "cannot be read" in caplog.text
    assert same(generator, train_dcgan(IMAGES, NOISE, device="cpu")[0])


def test_batch_norm_of_the_averaged_weights_is_settled():
    """What is painted a picture at a time is what a batch of many gives."""
    plan = replace(NOISE, steps=20)
    generator = train_dcgan(IMAGES, plan, device="cpu")[0]
    norm = next(layer for layer in generator.modules() if isinstance(layer, nn.BatchNorm2d))
    maps = generator.first(torch.randn(4000, plan.noise)).unflatten(1, generator.start)
    torch.testing.assert_close(norm.running_var, maps.var((0, 2, 3)), rtol=0.5, atol=0.0)


@pytest.mark.parametrize("images", [IMAGES[:, :, :30], IMAGES[:1], IMAGES[:0]])
def test_what_dcgan_cannot_learn_from(images):
    with pytest.raises(ValueError, match="multiples of 16"):
        train_dcgan(images, NOISE, device="cpu")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"images": IMAGES[:, :, :30], "masks": MASKS[:, :30]}, "multiples of 8"),
        ({"images": IMAGES[:0], "masks": MASKS[:0]}, "multiples of 8"),
        ({"masks": None}, "person=0"),
        ({"masks": MASKS[:, :16]}, "person=0"),
        ({"images": np.zeros((12, 3, 64, 32), np.uint8), "masks": np.zeros((12, 64, 32))}, "two sizes"),
    ],
)
def test_what_ptgan_cannot_learn_from(change, said):
    with pytest.raises(ValueError, match=said):
        train_ptgan(SimpleNamespace(**vars(HERE) | change), THERE, MOVES, device="cpu")


def test_cyclegan_needs_no_masks_and_one_picture_will_do():
    here, there = (SimpleNamespace(images=part.images[:1], masks=None) for part in (HERE, THERE))
    generator, history, _ = train_ptgan(here, there, replace(MOVES, person=0.0), device="cpu")
    assert "person" not in history[-1] and move(generator, IMAGES).shape == IMAGES.shape


@pytest.mark.parametrize("kind", TRAINS)
def test_a_loss_that_is_not_finite_is_told(kind):
    with pytest.raises(TrainingDiverged, match=f"{kind.upper()}: the loss is not finite in step"):
        if kind == "dcgan":
            train_dcgan(IMAGES, replace(NOISE, lr=1e30), device="cpu")
        else:
            train_ptgan(HERE, THERE, replace(MOVES, lr=1e20), device="cpu")


@pytest.mark.parametrize("plan", [DCGAN, PTGAN])
@pytest.mark.parametrize("bad", [{"steps": 0}, {"lr": 0.0}, {"average": 1.5}, {"width": 1.5}])
def test_a_plan_refuses_what_cannot_be(plan, bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        plan(**bad)


def test_a_mask_is_mirrored_with_its_picture():
    images = np.zeros((1, 3, 32, 16), np.uint8)
    images[..., :4] = 255
    split = SimpleNamespace(images=images, masks=(images[:, 0] > 0).astype(np.uint8))
    pictures, masks = ptgan._draw(split, np.random.default_rng(0), replace(MOVES, batch=16), "cpu")
    assert ((pictures[:, 0] > 0) == (masks > 0)).all()
    assert {int(row) for row in masks[:, 0].argmax(1)} == {0, 12}, "some were mirrored, some not"


# ------------------------------------------------------------------------------------------------------------- keeping


def test_a_generator_is_trained_once_and_kept(elsewhere, monkeypatch):
    first = load_or_train_dcgan(HERE, "tiny", plan=NOISE, device="cpu")
    moved = load_or_train_ptgan(HERE, THERE, "here->there", plan=MOVES, device="cpu")
    monkeypatch.setattr(torch.optim, "Adam", lambda *_, **__: pytest.fail("trained twice"))
    again = load_or_train_dcgan(HERE, "tiny", plan=NOISE, device="cpu")
    assert same(first.generator, again.generator) and again.history == first.history and again.plan == NOISE
    assert first.extra["film"].shape == (len(dcgan.FRAMES), dcgan.SHOWN, 3, 32, 16)
    again = load_or_train_ptgan(HERE, THERE, "here->there", plan=MOVES, device="cpu")
    assert same(moved.generator, again.generator) and not again.generator.training
    assert [path.suffix for path in (elsewhere / "styles").glob("*.checkpoint")] == []
    others = SimpleNamespace(images=255 - IMAGES, masks=MASKS)
    for split, name, how in ((HERE, "other", {}), (others, "tiny", {}), (HERE, "tiny", {"options": {"world": 1}})):
        with pytest.raises(pytest.fail.Exception):
            load_or_train_dcgan(split, name, plan=NOISE, device="cpu", **how)
    with pytest.raises(pytest.fail.Exception):
        load_or_train_ptgan(HERE, others, "here->there", plan=MOVES, device="cpu")
    masked = SimpleNamespace(images=IMAGES, masks=np.roll(MASKS, 4, 2))
    with pytest.raises(pytest.fail.Exception):
        load_or_train_ptgan(masked, THERE, "here->there", plan=MOVES, device="cpu")
    monkeypatch.setattr(dcgan, "source_of", lambda thing: "other code")
    with pytest.raises(pytest.fail.Exception):
        load_or_train_dcgan(HERE, "tiny", plan=NOISE, device="cpu")


# ------------------------------------------------------------------------------------------ a painter a pair of cameras


def by_cameras(count=24, cameras=3):
    """A split whose camera c darkens its pictures c times."""
    camids = np.arange(count) % cameras
    images = (RNG.integers(0, 256, (count, 3, 32, 16)) // (1 + camids[:, None, None, None])).astype(np.uint8)
    return Split(images=images, pids=np.arange(count), camids=camids)


PAIRED = replace(MOVES, person=0.0, same=0.0)


def test_both_ways_of_a_pair_are_one_training():
    both, history, film = ptgan.train_both(HERE, THERE, MOVES, device="cpu")
    forth, other, shown = train_ptgan(HERE, THERE, MOVES, device="cpu")
    assert same(both["forth"], forth) and not same(both["back"], forth) and np.array_equal(film, shown)
    assert [line["fool"] for line in history] == [line["fool"] for line in other]


def test_each_picture_is_painted_by_its_own_cameras_pair(elsewhere):
    split = by_cameras()
    painters = load_or_train_pairs(split, "tiny", plan=PAIRED, device="cpu")
    assert sorted(painters) == [(0, 1), (0, 2), (1, 2)]
    ways = {(0, 1): (0, 1, "forth"), (1, 0): (0, 1, "back"), (2, 1): (1, 2, "back"), (2, 0): (0, 2, "back")}
    for (own, camera), (here, there, way) in ways.items():
        copies, mine = repaint(painters, split.images, split.camids, camera), split.camids == own
        assert np.array_equal(copies[mine], move(painters[here, there].generator[way], split.images[mine]))
        assert np.array_equal(copies[split.camids == camera], split.images[split.camids == camera])
    asked = np.arange(24) % 2
    one_each = repaint(painters, split.images, split.camids, asked)
    for camera in (0, 1):
        for_all = repaint(painters, split.images, split.camids, camera)
        assert np.array_equal(one_each[asked == camera], for_all[asked == camera])
    styled = all_pair_styles(split, painters, "cpu")
    assert styled.copies.shape == (24, 3, 3, 32, 16)
    for camera in range(3):
        assert np.array_equal(styled.copies[:, camera], repaint(painters, split.images, split.camids, camera))
    half, whole = (repaint(painters, split.images, split.camids, 0, share=share) for share in (0.5, 1.0))
    between = (split.images.astype(float) + whole) / 2
    assert abs(half - between).max() <= 0.5, "rounded"
    assert np.array_equal(repaint(painters, split.images, split.camids, 0, share=0), split.images)
    with pytest.raises(ValueError, match="share is how far of the way a copy goes, 0 to 1; got 2"):
        repaint(painters, split.images, split.camids, 0, share=2)
    with pytest.raises(ValueError, match="no painter knows cameras 1 and 7"):
        repaint(painters, split.images[split.camids == 1], split.camids[split.camids == 1], 7)


def test_a_pair_is_trained_once_and_one_camera_is_none(elsewhere, monkeypatch):
    split = by_cameras()
    first = load_or_train_pairs(split, "tiny", plan=PAIRED, device="cpu")
    monkeypatch.setattr(torch.optim, "Adam", lambda *_, **__: pytest.fail("trained twice"))
    again = load_or_train_pairs(split, "tiny", plan=PAIRED, device="cpu")
    assert all(same(first[pair].generator, again[pair].generator) for pair in first)
    with pytest.raises(ValueError, match=r"one camera alone .* cameras \[1\]"):
        load_or_train_pairs(split.select(split.camids == 1), "tiny", plan=PAIRED, device="cpu")


def test_what_ships_says_what_it_is(elsewhere, monkeypatch):
    for module, name in ((dcgan, "train_dcgan"), (ptgan, "train_ptgan")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("trained"))
    counts = [*keeping.about_of(keeping.SHIPPED / "dcgan-synthetic.safetensors")["pictures"]]
    counts += keeping.about_of(keeping.SHIPPED / "ptgan-summer-to-winter-2.safetensors")["pictures"][:2]
    empty, here, there = (
        SimpleNamespace(images=np.zeros((n, 3, 64, 32), np.uint8), masks=np.zeros((n, 64, 32), np.uint8))
        for n in counts
    )
    pair = "synthetic_summer->synthetic_winter"
    found = [load_or_train_dcgan(empty, "synthetic", device="cpu")]
    found += [load_or_train_ptgan(here, there, pair, plan=PTGAN(person=w), device="cpu") for w in keeping.PERSON]
    others = {path for kind in ("pngan", "stargan") for path in keeping.SHIPPED.glob(f"{kind}-*")}  # tested elsewhere
    assert {one.path for one in found} == set(keeping.SHIPPED.glob("*.safetensors")) - others
    for one in found:
        assert one.path.stat().st_size < 1_000_000 and one.history[-1]["step"] == one.plan.steps
        about = keeping.about_of(one.path)
        assert set(about) == {"what", "history", "pictures"} and json.dumps(about)
    for other in ({"options": {"world": 1}}, {"seed": 1}, {"plan": NOISE}):
        with pytest.raises(pytest.fail.Exception):
            load_or_train_dcgan(empty, "synthetic", device="cpu", **other)
    with pytest.raises(pytest.fail.Exception):  # a part of the world, of which the generator has seen the rest
        load_or_train_dcgan(SimpleNamespace(images=empty.images[:40]), "synthetic", device="cpu")


def test_what_ships_is_in_the_key_of_who_learns_from_it():
    """dcgan.py, whose text is in the key of a run, says which weights lie beside it."""
    assert keeping.weights_digest() == dcgan.SHIPPED_WEIGHTS


# --------------------------------------------------------------------------------------------------- what it is worth


def test_the_frechet_distance_by_hand():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(500, 3)), rng.normal(1.0, 2.0, size=(400, 3)) @ np.diag([1.0, 0.5, 2.0])
    m, n, c, d = x.mean(0), y.mean(0), np.cov(x.T), np.cov(y.T)
    root = np.trace(linalg.sqrtm(c @ d)).real
    assert frechet_distance(x, y) == pytest.approx(((m - n) ** 2).sum() + np.trace(c + d) - 2 * root)
    flat = np.c_[x[:, :2], np.zeros(500)]
    assert frechet_distance(flat, x) == pytest.approx(frechet_distance(x, flat)), "a direction without spread"
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(x, x + [3.0, 0, 0]) == pytest.approx(9.0)
    assert frechet_distance(x[:, :1], y[:, :1]) >= 0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_diversity_and_nearest_by_the_slow_way(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(5, 3)), rng.normal(size=(7, 3))
    pairs = [np.linalg.norm(x[i] - x[j]) for i in range(5) for j in range(i)]
    assert diversity(x) == pytest.approx(np.mean(pairs))
    row, apart = nearest_training(x, y)
    for i in range(5):
        all_of_them = [np.linalg.norm(x[i] - other) for other in y]
        assert row[i] == np.argmin(all_of_them) and apart[i] == pytest.approx(min(all_of_them))


def test_copies_and_collapse_are_seen():
    x = np.random.default_rng(0).normal(size=(6, 4))
    assert diversity(np.repeat(x[:1], 6, 0)) == pytest.approx(0, abs=1e-6)
    row, apart = nearest_training(x[::-1], x)
    assert (row == np.arange(6)[::-1]).all() and apart.max() < 1e-6


def test_features_that_do_not_fit():
    for call in (frechet_distance, nearest_training):
        with pytest.raises(ValueError, match="features"):
            call(np.zeros((4, 3)), np.zeros((4, 2)))
    with pytest.raises(ValueError, match="two pictures"):
        diversity(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="at least 1"):
        nearest_training(np.zeros((4, 3)), np.zeros((0, 3)))


def test_all_names_are_there():
    assert all(hasattr(generators, name) for name in generators.__all__)


def test_clouds_that_are_no_numbers_have_no_distance():
    odd = np.ones((3, 2))
    odd[1, 0] = np.nan
    for measure in (lambda: frechet_distance(odd, np.ones((3, 2))), lambda: diversity(odd)):
        with pytest.raises(ValueError, match="finite numbers; [12] are NaN"):
            measure()
