"""Generators: StarGAN's shapes, the gradient penalty by hand, training that resumes, copies that are kept."""

import json
import logging
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from reidnb.generators import (
    Discriminator,
    Generator,
    StarGAN,
    all_styles,
    descent,
    gradient_penalty,
    keeping,
    load_or_train_generator,
    restyle,
    shipped_painters,
    styles,
    styles_fingerprint,
    train_stargan,
)
from reidnb.generators.stargan import critic_terms, generator_terms
from reidnb.runtime import TrainingDiverged

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 3, 32, 16), np.uint8)
CAMIDS = np.arange(12) % 3
PLAN = StarGAN(width=4, blocks=1, critic_width=4, steps=6, batch=4)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("REIDNB_CACHE", str(tmp_path))
    return tmp_path


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values()))


@pytest.mark.parametrize("size", [(64, 32), (128, 64), (256, 128)])
def test_shapes_at_every_size(size):
    pictures, cameras = torch.rand(2, 3, *size), torch.tensor([0, 4])
    assert Generator(5)(pictures, cameras).shape == pictures.shape
    real, camera = Discriminator(5, size=size)(pictures)
    assert real.shape == (2,) and camera.shape == (2, 5)


def test_a_generator_begins_by_changing_nothing():
    pictures = torch.rand(2, 3, 32, 16)
    assert torch.equal(Generator(3)(pictures, torch.tensor([0, 1])), pictures)


def test_the_camera_asked_for_matters_and_each_picture_has_its_own():
    torch.manual_seed(0)
    generator = Generator(3)
    nn.init.normal_(generator.up[-1].weight, std=0.1)
    pictures = torch.rand(1, 3, 32, 16).repeat(2, 1, 1, 1)
    one = generator(pictures, torch.tensor([0, 2]))
    assert not torch.allclose(one[0], one[1])
    assert torch.allclose(one[1:], generator(pictures[1:], torch.tensor([2])), atol=1e-6)


class Square(nn.Module):
    """f(x) = sum of w x^2 / 2, whose gradient is w x."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, x):
        return (self.w * x.square() / 2).sum((1, 2, 3))


def test_the_gradient_penalty_by_hand():
    """Of f = w x^2 / 2 it is the mean of (w |x| - 1)^2, whose derivative in w is the mean of 2 (w |x| - 1) |x|."""
    torch.manual_seed(0)
    critic = Square()
    real, fake = torch.rand(2, 5, 3, 4, 2, dtype=torch.float64).unbind(0)
    mix = torch.rand(5, 1, 1, 1, dtype=torch.float64)
    penalty = gradient_penalty(critic, real, fake, mix)
    lengths = (mix * real + (1 - mix) * fake).flatten(1).norm(dim=1)
    torch.testing.assert_close(penalty, (critic.w * lengths - 1).square().mean())
    penalty.backward()
    torch.testing.assert_close(critic.w.grad, (2 * (critic.w.detach() * lengths - 1) * lengths).mean())


def test_the_gradient_penalty_of_a_network_by_autograd_a_picture_at_a_time():
    torch.manual_seed(0)
    critic = Discriminator(3, 4, (32, 16)).double()
    real, fake = torch.rand(2, 3, 3, 32, 16, dtype=torch.float64).unbind(0)
    mix, slow = torch.rand(3, 1, 1, 1, dtype=torch.float64), []
    for r, f, m in zip(real, fake, mix):
        x = (m * r + (1 - m) * f)[None].requires_grad_()
        jacobian = torch.autograd.functional.jacobian(lambda y: critic(y)[0].sum(), x)
        slow.append((jacobian.norm() - 1) ** 2)
    fast = gradient_penalty(lambda pictures: critic(pictures)[0], real, fake, mix)
    torch.testing.assert_close(fast, torch.stack(slow).mean())


def nets(cameras=3):
    torch.manual_seed(0)
    found = nn.ModuleDict({"generator": Generator(cameras, 4, 1), "critic": Discriminator(cameras, 4, (32, 16))})
    nn.init.normal_(found["generator"].up[-1].weight, std=0.1)
    return found


def test_whose_weights_each_loss_moves():
    both, real = nets(), torch.rand(4, 3, 32, 16)
    took, asked, mix = torch.tensor([0, 1, 2, 0]), torch.tensor([1, 1, 0, 0]), torch.rand(4, 1, 1, 1)
    sum(critic_terms(both, real, took, asked, mix, PLAN).values()).backward()
    assert all(p.grad is None for p in both["generator"].parameters())
    both.zero_grad(set_to_none=True)
    sum(generator_terms(both, real, took, asked, PLAN).values()).backward()
    assert all(p.grad is None for p in both["critic"].parameters())
    assert all(p.requires_grad for p in both["critic"].parameters()), "the discriminator can learn again"


def test_the_terms_by_hand():
    both, real = nets(), torch.rand(4, 3, 32, 16)
    took, asked = torch.tensor([0, 1, 2, 0]), torch.tensor([1, 1, 0, 0])
    generator, critic = both["generator"], both["critic"]
    fake = generator(real, asked)
    score, camera = critic(fake)
    wanted = {
        "fool": -score.mean(),
        "style": -camera.log_softmax(1)[torch.arange(4), asked].mean(),
        "cycle": 10 * (generator(fake, took) - real).abs().mean(),
    }
    found = generator_terms(both, real, took, asked, StarGAN(reconstruction=10.0))
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value)
    assert set(generator_terms(both, real, took, asked, StarGAN(reconstruction=0.0))) == {"fool", "style"}
    gap = critic_terms(both, real, took, asked, torch.ones(4, 1, 1, 1), PLAN)["critic"]
    torch.testing.assert_close(gap, score.mean() - critic(real)[0].mean())


def test_an_interrupted_training_ends_at_the_same_weights(tmp_path, monkeypatch):
    whole, history = train_stargan(IMAGES, CAMIDS, PLAN, device="cpu", every=2)
    assert [line["step"] for line in history] == [2, 4, 6] and set(history[0]) > {"cycle", "penalty", "seconds"}
    keep, path = descent.keep_checkpoint, tmp_path / "a.checkpoint"

    def stop(*arguments):
        keep(*arguments)
        raise KeyboardInterrupt

    for _ in range(2):  # stopped twice
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(descent, "keep_checkpoint", stop)
            train_stargan(IMAGES, CAMIDS, PLAN, device="cpu", checkpoint=path, every=2)
    again, resumed = train_stargan(IMAGES, CAMIDS, PLAN, device="cpu", checkpoint=path, every=2)
    assert same(whole, again)
    strip = [{k: v for k, v in line.items() if k != "seconds"} for line in history]
    assert strip == [{k: v for k, v in line.items() if k != "seconds"} for line in resumed]


def test_a_damaged_checkpoint_is_put_aside(tmp_path, caplog):
    path = tmp_path / "a.checkpoint"
    path.write_bytes(b"rubbish")
    with caplog.at_level(logging.WARNING, "reidnb"):
        generator, _ = train_stargan(IMAGES, CAMIDS, PLAN, device="cpu", checkpoint=path)
    assert "cannot be read" in caplog.text and path.with_suffix(".damaged").read_bytes() == b"rubbish"
    assert same(generator, train_stargan(IMAGES, CAMIDS, PLAN, device="cpu")[0])


def test_seeds_differ_and_repeat():
    one, other = (train_stargan(IMAGES, CAMIDS, PLAN, seed, "cpu")[0] for seed in (0, 1))
    assert not same(one, other) and same(one, train_stargan(IMAGES, CAMIDS, PLAN, 0, "cpu")[0])


@pytest.mark.parametrize(
    ("images", "camids", "said"),
    [
        (IMAGES, np.zeros(12, int), "two cameras"),
        (IMAGES[:, :, :30], CAMIDS, "multiples of 4"),
        (IMAGES[:0], CAMIDS[:0], "two cameras"),
        (IMAGES, CAMIDS * 2, r"none of \[1, 3\]"),
    ],
)
def test_what_cannot_be_trained_on(images, camids, said):
    with pytest.raises(ValueError, match=said):
        train_stargan(images, camids, PLAN, device="cpu")


def test_a_loss_that_is_not_finite_is_told():
    with pytest.raises(TrainingDiverged, match="StarGAN: the loss is not finite in step"):
        train_stargan(IMAGES, CAMIDS, replace(PLAN, lr=1e20), device="cpu")


@pytest.mark.parametrize("bad", [{"steps": 0}, {"lr": 0.0}, {"reconstruction": -1.0}, {"penalty": float("nan")}])
def test_a_plan_refuses_what_cannot_be(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        StarGAN(**bad)


def test_restyle_is_exact_where_nothing_changes_and_takes_a_camera_for_each():
    generator = Generator(3, 4, 1)
    assert (restyle(generator, IMAGES, CAMIDS) == IMAGES).all()
    nn.init.normal_(generator.up[-1].weight, std=0.2)
    for_each = restyle(generator, IMAGES, CAMIDS, batch=5)
    assert for_each.dtype == np.uint8 and not (for_each == IMAGES).all()
    for camera in range(3):
        # a convolution sums in another order for another batch: a level of 255 at most
        apart = restyle(generator, IMAGES, camera).astype(int)[camera::3] - for_each[camera::3]
        assert np.abs(apart).max() <= 1
    with pytest.raises(ValueError, match="from 0 to 2"):
        restyle(generator, IMAGES, 3)
    assert restyle(generator, IMAGES[:0], CAMIDS[:0]).shape == (0, 3, 32, 16)


def split():
    return SplitLike(IMAGES, CAMIDS)


class SplitLike(SimpleNamespace):
    def __init__(self, images, camids):
        super().__init__(images=images, camids=camids)

    def __len__(self):
        return len(self.images)


def test_a_painter_is_trained_once_and_kept(elsewhere, monkeypatch):
    first = load_or_train_generator(split(), "tiny", plan=PLAN, device="cpu")
    monkeypatch.setattr(torch.optim, "Adam", lambda *_, **__: pytest.fail("trained twice"))
    again = load_or_train_generator(split(), "tiny", plan=PLAN, device="cpu")
    assert same(first.generator, again.generator) and again.history == first.history and again.plan == PLAN
    assert [path.suffix for path in (elsewhere / "styles").glob("*.checkpoint")] == []
    with pytest.raises(pytest.fail.Exception):
        load_or_train_generator(split(), "tiny", {"season": 2.0}, plan=PLAN, device="cpu")


def test_other_pictures_have_another_painter(elsewhere, monkeypatch):
    load_or_train_generator(split(), "tiny", plan=PLAN, device="cpu")
    monkeypatch.setattr(styles, "train_stargan", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(pytest.fail.Exception):
        load_or_train_generator(SplitLike(255 - IMAGES, CAMIDS), "tiny", plan=PLAN, device="cpu")


def test_the_fingerprint_is_of_the_weights_alone(elsewhere, monkeypatch):
    painter = load_or_train_generator(split(), "tiny", plan=PLAN, device="cpu")
    monkeypatch.setattr(keeping, "SHIPPED", painter.path.parent)
    before = styles_fingerprint()
    state = safetensors.torch.load_file(painter.path)
    safetensors.torch.save_file(state, painter.path, {"said": "1"})
    assert styles_fingerprint() == before
    safetensors.torch.save_file({name: 2 * value for name, value in state.items()}, painter.path)
    assert styles_fingerprint() != before


def test_copies_are_painted_once_and_belong_to_their_picture(elsewhere, monkeypatch):
    painter = load_or_train_generator(split(), "tiny", plan=PLAN, device="cpu")
    styled = all_styles(split(), painter, "cpu")
    assert styled.copies.shape == (12, 3, 3, 32, 16)
    assert (styled.copies[:, 1] == restyle(painter.generator, IMAGES, 1)).all()
    monkeypatch.setattr(styles, "restyle", lambda *_, **__: pytest.fail("painted twice"))
    assert (all_styles(split(), painter, "cpu").copies == styled.copies).all()


def test_what_ships_says_what_it_is():
    painters = shipped_painters()
    assert [(painter.dataset, painter.plan.reconstruction) for painter in painters] == sorted(styles.PAINTED)
    for painter in painters:
        assert painter.history[-1]["step"] == painter.plan.steps and painter.path.stat().st_size < 700_000
        with safetensors.safe_open(painter.path, "pt") as file:
            about = {name: json.loads(value) for name, value in file.metadata().items()}
        assert set(about["what"]) == {"kind", "dataset", "options", "size", "seed", "plan"}, painter.path.name
        assert set(about) == {"what", "history", "pictures"} and not painter.generator.training
        json.dumps(painter.history)


def test_what_ships_is_taken_for_its_own_world_alone(elsewhere, monkeypatch):
    monkeypatch.setattr(styles, "train_stargan", lambda *_, **__: pytest.fail("trained"))
    count = keeping.about_of(keeping.SHIPPED / "stargan-synthetic_winter-20.safetensors")["pictures"][0]
    winter = SplitLike(np.zeros((count, 3, 64, 32), np.uint8), np.arange(count) % 6)
    found = load_or_train_generator(winter, "synthetic_winter", device="cpu")
    assert found.path.parent == keeping.SHIPPED and found.plan == StarGAN()
    for other in ({"options": {"season": 2.0}}, {"seed": 1}, {"plan": PLAN}):
        with pytest.raises(pytest.fail.Exception):
            load_or_train_generator(winter, "synthetic_winter", device="cpu", **other)
    with pytest.raises(pytest.fail.Exception):  # a part of the world, of which the generator has seen the rest
        load_or_train_generator(SplitLike(winter.images[:40], winter.camids[:40]), "synthetic_winter", device="cpu")
