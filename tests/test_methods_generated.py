"""Pictures of nobody: which they are, how many join, what they are called, by hand and by their gradients."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_world import TINY, WORLD
from toys import network_of

from reidnb import training
from reidnb.datasets import open_dataset
from reidnb.experiments import run
from reidnb.generators import NoiseGenerator
from reidnb.methods import GeneratedPictures, Identity, NobodyIdentity, generated, nobodies
from reidnb.methods.strangers import drawn_strangers
from reidnb.network import Output
from reidnb.recipes import Recipe, recipe
from reidnb.training import Batch, evaluate_terms

RNG = np.random.default_rng(0)
PEOPLE = np.repeat(np.arange(6), 6)
IMAGES = RNG.integers(0, 256, (36, 3, 32, 16), np.uint8)
TRAIN = type("Split", (), {"__len__": lambda self: 36, "images": IMAGES, "pids": PEOPLE + 1})()
DATA = SimpleNamespace(name="world", options={}, train=TRAIN)
LABELS = ("uniform", "one_more", "predicted")


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("REIDNB_CACHE", str(tmp_path))


@pytest.fixture
def painted(monkeypatch):
    """What would be trained is there."""
    torch.manual_seed(0)
    generator, asked = NoiseGenerator(5, 3, (32, 16)).eval(), []

    def load(split, name, options, device=None):
        asked.append((split, name, options))
        return SimpleNamespace(generator=generator)

    monkeypatch.setattr(generated, "load_or_train_dcgan", load)
    return asked


@pytest.mark.parametrize(("count", "joining"), [(36, 12), (18, 6), (72, 24), (1, 1)])
def test_as_many_join_in_an_epoch_as_there_are(painted, count, joining):
    joined = GeneratedPictures(generated=count).bind("toy", DATA, torch.device("cpu"))
    pictures, labels = joined(np.arange(12), PEOPLE, np.random.default_rng(0))
    assert pictures.shape == (joining, 3, 32, 16) and pictures.dtype == np.uint8
    assert labels.tolist() == [6] * joining, "a class that nobody has"
    again, _ = joined(np.arange(12), PEOPLE, np.random.default_rng(0))
    assert (again == pictures).all()


def test_who_paints(painted):
    data = SimpleNamespace(name="world->other", options={"world": 3, "partial": 0.5}, train=TRAIN)
    assert nobodies("dcgan", data, 7).shape == (7, 3, 32, 16)
    assert painted == [(TRAIN, "world", {"world": 3})], "of the source, whole"
    noise = nobodies("noise", data, 400)
    assert noise.dtype == np.uint8 and noise.shape == (400, 3, 32, 16)
    np.testing.assert_allclose(noise.mean((0, 2, 3)), IMAGES.mean((0, 2, 3)), atol=3)
    assert (nobodies("noise", data, 400) == noise).all()
    with pytest.raises(ValueError, match="only the built-in world can draw strangers"):
        nobodies("strangers", data, 5)


def made_up(seed=0, classes=6):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(21, classes, generator=generator, dtype=torch.float64).requires_grad_()
    labels = torch.tensor([0, 1, 2, 5] * 3 + [6] * 9)
    return logits, Output(logits=logits, features=logits), Batch(labels, np.arange(12))


@pytest.mark.parametrize("labels", LABELS)
def test_what_nobody_is_called_and_where_it_pulls(labels):
    """The derivative of a cross-entropy in its logits is p - q, here for each picture over the twelve real ones."""
    classes = 7 if labels == "one_more" else 6
    logits, output, batch = made_up(classes=classes)
    cost = evaluate_terms([NobodyIdentity(labels, weight=0.5)], output, batch)["nobody"]
    p = logits.detach()[12:].softmax(1)
    q = torch.zeros_like(p)
    for row in range(9):
        if labels == "uniform":
            q[row] = 1 / 6
        else:
            q[row, 6 if labels == "one_more" else int(p[row].argmax())] = 1.0
    by_hand = -0.5 * sum(float((q[row] * p[row].log()).sum()) for row in range(9)) / 12
    assert float(cost.detach()) == pytest.approx(by_hand, rel=1e-5)
    cost.backward()
    torch.testing.assert_close(logits.grad[12:], 0.5 * (p - q) / 12, rtol=1e-4, atol=1e-6)
    assert (logits.grad[:12] == 0).all(), "the people have a term of their own"


def test_one_class_more_is_there_for_all_in_one_alone():
    for labels in LABELS:
        facts = NobodyIdentity(labels).facts(DATA)
        assert facts == ({"classes": 7} if labels == "one_more" else {})
    plan = replace(recipe("lsro_all_in_one"), weights=None, size=(32, 16))
    assert network_of(plan, classes=7).classifier.out_features == 7


@pytest.mark.parametrize("bad", [{"generated": 0}, {"generated": 1.5}, {"painter": "stargan"}])
def test_what_cannot_join(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        GeneratedPictures(**bad)


def test_nobody_needs_pictures_of_nobody():
    with pytest.raises(ValueError, match="nobody needs pictures that join the batch"):
        Recipe("x", losses=(Identity(), NobodyIdentity()))
    with pytest.raises(ValueError, match="generated_pictures join the batch, and no loss term looks at them"):
        Recipe("x", losses=(Identity(),), extra=GeneratedPictures())


def test_uniform_labels_make_a_network_unsure_of_nobody(painted):
    """Trained with them it takes noise for nobody in particular; without, for somebody."""
    plan = Recipe("toy", weights=None, size=(32, 16), p=4, k=3, epochs=8, losses=(Identity(),), lr=4e-3)
    with_them = replace(plan, losses=(Identity(), NobodyIdentity()), extra=GeneratedPictures(36, painter="noise"))
    strange, sure = nobodies("noise", DATA, 40), []
    for which in (plan, with_them):
        net = network_of(which, classes=6)
        joined = which.extra.bind("toy", DATA, torch.device("cpu")) if which.extra else None
        training.train(net, IMAGES, PEOPLE, which, 0, "cpu", joined=joined)
        pixels = training.make_batch(strange, np.arange(40))
        with torch.no_grad():
            sure.append(float(net.eval()(pixels).logits.softmax(1).amax(1).mean()))
    assert 1 / 6 < sure[1] < sure[0] - 0.02


def test_strangers_are_in_no_split_and_the_same_again(elsewhere):
    data = open_dataset("synthetic", size=(32, 16), **WORLD)
    found = drawn_strangers(data, 12)
    assert found.shape == (12, 3, 32, 16) and found.dtype == np.uint8
    assert (drawn_strangers(data, 12) == found).all()
    known = np.concatenate([part.images for part in (data.train, data.query, data.gallery)])
    assert not any((picture == known).all((1, 2, 3)).any() for picture in found)
    other = drawn_strangers(open_dataset("synthetic", size=(32, 16), world=1, **WORLD), 12)
    assert (other != found).any()
    with pytest.raises(ValueError, match="from 1 on"):
        drawn_strangers(data, 0)


def test_a_world_of_its_people_alone_has_the_same_strangers(elsewhere):
    """Who they are hangs on the world's seed and on how many are born, not on what else is in it."""
    data = open_dataset("synthetic", size=(32, 16), **WORLD)
    less = open_dataset("synthetic", size=(32, 16), **WORLD | {"junk": 0})
    assert (drawn_strangers(data, 6) == drawn_strangers(less, 6)).all()


@pytest.mark.parametrize("name", ["lsro_noise", "lsro_strangers", "lsro_all_in_one", "lsro_pseudo"])
def test_a_run(name, elsewhere, monkeypatch):
    changes = {"painter": "noise"} if name in ("lsro_all_in_one", "lsro_pseudo") else {}
    found = run(name, seed=0, generated=20, **changes, **TINY, size=(32, 16))
    assert set(found.history[-1]) > {"identity", "nobody"} and np.isfinite(found.scores.mAP)
    assert found.model().classifier.out_features == (9 if name == "lsro_all_in_one" else 8)
