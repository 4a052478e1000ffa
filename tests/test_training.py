"""The training loop on people who are one colour each: it learns, it resumes, it stops when it must."""

import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from reidnb import training
from reidnb.batches import Augmentation
from reidnb.evaluation import evaluate_features
from reidnb.models import build_model
from reidnb.recipes import METRICS, Recipe
from reidnb.training import SIGNS, TrainingDiverged, choose_device, embed, learning_rate, train

HOUSE = Path(__file__).resolve().parents[1]
PEOPLE, EACH = 12, 12
TOY = Recipe(
    "toy",
    "Toy",
    weights=None,
    size=(32, 16),
    p=6,
    k=4,
    metric="trihard",
    epochs=5,
    lr=4e-3,
    augmentation=Augmentation(erase=0.2),
)


def coloured_people(seed=0, people=PEOPLE, each=EACH):
    """uint8 (people * each, 3, 32, 16) of noisy two-coloured pictures, and who they show."""
    rng = np.random.default_rng(seed)
    upper, lower = np.random.default_rng(77).integers(30, 226, (2, people, 3))
    labels = np.repeat(np.arange(people), each)
    images = np.empty((len(labels), 3, 32, 16))
    images[:, :, :16], images[:, :, 16:] = upper[labels][:, :, None, None], lower[labels][:, :, None, None]
    images = images * rng.uniform(0.85, 1.15, (len(labels), 1, 1, 1)) + rng.normal(0, 25, images.shape)
    return images.clip(0, 255).astype(np.uint8), labels


def toy_model(seed=0, verify=False):
    torch.manual_seed(seed)
    return build_model("small", classes=PEOPLE, verify=verify)


def losses(history):
    return [{k: v for k, v in line.items() if k != "seconds"} for line in history]


def same_weights(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.fixture(scope="module")
def unbroken():
    """A run from start to end, and its model."""
    images, labels = coloured_people()
    model = toy_model()
    return train(model, images, labels, TOY, device="cpu"), model


# ---- learning -------------------------------------------------------------------------------------------------------


def mean_ap(model):
    images, labels = coloured_people(seed=1)
    features = embed(model, images, "cpu")
    query = np.arange(0, len(labels), EACH)
    gallery = np.setdiff1d(np.arange(len(labels)), query)
    return evaluate_features(
        features[query],
        features[gallery],
        labels[query] + 1,
        labels[gallery] + 1,
        np.zeros(len(query), int),
        np.ones(len(gallery), int),
    ).mAP


def test_it_learns(unbroken):
    history, model = unbroken
    assert [line["epoch"] for line in history] == [1, 2, 3, 4, 5]
    assert history[-1]["identity"] < 0.6 * history[0]["identity"] and history[-1]["loss"] < 0.6 * history[0]["loss"]
    for line in history:
        assert line["loss"] == pytest.approx(line["identity"] + line["trihard"], rel=1e-4)
    assert mean_ap(model) > 0.6, "chance is 0.1"


def test_the_same_seed_ends_at_the_same_weights_and_another_does_not(unbroken):
    images, labels = coloured_people()
    short = replace(TOY, epochs=2, warmup=0.0)
    models = [toy_model() for _ in range(3)]
    histories = [losses(train(m, images, labels, short, seed, "cpu")) for m, seed in zip(models, (4, 4, 5))]
    assert histories[0] == histories[1] != histories[2]
    assert same_weights(models[0], models[1]) and not same_weights(models[0], models[2])


@pytest.mark.parametrize(
    "changes",
    [
        {"metric": None},
        {"identity_weight": 0.0},
        {"optimizer": "sgd", "lr": 0.02},
        {"optimizer": "adam"},
        {"metric": "trihard", "margin": None},
        *({"metric": name, "compare": "features"} for name in METRICS),
        {"metric": None, "verification_weight": 1.0},
        {"identity_weight": 0.0, "metric": None, "verification_weight": 1.0},
        {"label_noise": 0.3},
    ],
    ids=str,
)
def test_every_loss_and_optimizer_takes_steps(changes):
    images, labels = coloured_people(people=PEOPLE, each=4)
    recipe = replace(TOY, epochs=1, warmup=0.0, **changes)
    model, start = (toy_model(verify=recipe.verification_weight > 0) for _ in range(2))
    (line,) = train(model, images, labels, recipe, device="cpu")
    terms = {"identity"} if recipe.identity_weight else set()
    terms |= {"verification"} if recipe.verification_weight else set()
    terms |= {recipe.metric} if recipe.metric else set()
    signs = set(SIGNS) if recipe.needs_pairs else {"length"}
    assert set(line) == terms | signs | {"epoch", "loss", "lr", "seconds"} and np.isfinite(line["loss"])
    assert line["loss"] == pytest.approx(sum(line[term] for term in terms), rel=1e-4)
    assert not torch.equal(model.backbone.stem[0].weight, start.backbone.stem[0].weight)
    assert (model.neck.bias == 0).all(), "the neck's shift stays zero"


def test_vital_signs_tell_a_collapse_from_learning(unbroken):
    """What notebook 02 promises: the shares fall where something is learned, and stay where everything is one point."""
    healthy = unbroken[0]
    assert healthy[-1]["active_triplets"] < 0.7 * healthy[0]["active_triplets"]
    images, labels = coloured_people()
    images[:] = 128  # nobody can be told from anybody
    hopeless = replace(TOY, epochs=1, warmup=0.0, identity_weight=0.0, augmentation=Augmentation(0, 0, 0))
    (line,) = train(toy_model(), images, labels, hopeless, device="cpu")
    assert line["active_triplets"] == 1 and line["trihard"] == pytest.approx(0.3, abs=1e-3), "the margin itself"


def test_wrong_labels_are_drawn_from_the_seed_and_train_another_model():
    images, labels = coloured_people(people=PEOPLE, each=4)
    given = labels.copy()
    noisy = replace(TOY, epochs=1, warmup=0.0, label_noise=0.5)
    first, again, clean = (toy_model() for _ in range(3))
    histories = [losses(train(m, images, given, r, 3, "cpu")) for m, r in ((first, noisy), (again, noisy))]
    train(clean, images, given, replace(noisy, label_noise=0.0), 3, "cpu")
    assert histories[0] == histories[1] and same_weights(first, again) and not same_weights(first, clean)
    assert (given == labels).all(), "the caller's labels stay what they were"


def test_features_or_embedding(unbroken):
    images, _ = coloured_people(seed=1)
    _, model = unbroken
    before, behind = (embed(model, images[:8], "cpu", flip=False, compare=name) for name in ("features", "embedding"))
    assert (before >= 0).all() and (behind < 0).any(), "a ReLU's means before the neck, whitened behind it"
    torch.testing.assert_close(before.norm(dim=1), torch.ones(8))


def test_layers_that_draw_at_random_draw_from_the_seed():
    """Dropout, say: its draws depend on seed and epoch alone, or a resumed run would end elsewhere."""
    images, labels = coloured_people(each=4)
    models = []
    for disturbance in (1, 2):
        models.append(toy_model())
        models[-1].neck = torch.nn.Sequential(models[-1].neck, torch.nn.Dropout(0.5))
        torch.manual_seed(disturbance)
        train(models[-1], images, labels, replace(TOY, epochs=1, warmup=0.0), device="cpu")
    assert same_weights(*models)


def test_norms_and_biases_carry_no_weight_decay():
    model = toy_model()
    weights, others = training.make_optimizer(model, TOY).param_groups
    assert weights["weight_decay"] == TOY.weight_decay and others["weight_decay"] == 0
    assert {p.ndim for p in weights["params"]} == {2, 4} and {p.ndim for p in others["params"]} == {1}
    assert len(weights["params"] + others["params"]) == sum(p.requires_grad for p in model.parameters())


# ---- features -------------------------------------------------------------------------------------------------------


def test_embed(unbroken):
    _, model = unbroken
    images, _ = coloured_people(seed=2)
    model.train()
    features = embed(model, images, "cpu")
    assert model.training, "the model is left in the mode it came in"
    assert features.dtype == torch.float32 and features.shape == (len(images), model.backbone.channels)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(len(images)), rtol=1e-5, atol=1e-5)
    # bf16 keeps three digits, and another batch size may round otherwise
    torch.testing.assert_close(embed(model, images[:7], "cpu", batch=3), features[:7], rtol=0, atol=0.01)
    mirrored = embed(model, images[..., ::-1].copy(), "cpu")
    torch.testing.assert_close(mirrored, features, rtol=0, atol=0.01)
    one_sided, mirrored = (embed(model, i, "cpu", flip=False) for i in (images, images[..., ::-1].copy()))
    assert (one_sided - mirrored).abs().max() > 0.02, "without flip a picture is not its mirror image"


# ---- killed and resumed ---------------------------------------------------------------------------------------------

CHILD = """
import sys
import torch
torch.set_num_threads(1)
from test_training import TOY, coloured_people, toy_model
from reidnb.training import train
train(toy_model(), *coloured_people(), TOY, device="cpu", checkpoint=sys.argv[1])
"""


def test_killed_and_resumed(unbroken, tmp_path):
    checkpoint = tmp_path / "run.checkpoint"
    path = os.pathsep.join([str(HOUSE), str(HOUSE / "tests")])
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(checkpoint)], env={**os.environ, "PYTHONPATH": path})
    try:
        deadline = time.monotonic() + 120
        while not checkpoint.exists() and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    done = len(torch.load(checkpoint, weights_only=True)["history"])
    assert 1 <= done < TOY.epochs, "killed on the way"
    model = toy_model(seed=9)  # whatever it starts from: the checkpoint has the weights
    history = train(model, *coloured_people(), TOY, device="cpu", checkpoint=checkpoint)
    whole, whole_model = unbroken
    assert losses(history) == losses(whole)
    assert same_weights(model, whole_model)
    assert [p.name for p in tmp_path.iterdir()] == ["run.checkpoint"], "nothing half-written is left"


def test_a_finished_run_is_not_trained_again(tmp_path, monkeypatch):
    images, labels = coloured_people(each=4)
    recipe = replace(TOY, epochs=2)
    first = toy_model()
    history = train(first, images, labels, recipe, device="cpu", checkpoint=tmp_path / "c")
    monkeypatch.setattr(training, "make_batch", None)
    second = toy_model(seed=3)
    assert train(second, images, labels, recipe, device="cpu", checkpoint=tmp_path / "c") == history
    assert same_weights(first, second)


def truncated(path):
    path.write_bytes(path.read_bytes()[:-5000])


def rubbish(path):
    path.write_bytes(b"not a checkpoint")


def without_history(path):
    state = torch.load(path, weights_only=True)
    del state["history"]
    torch.save(state, path)


def of_another_model(path):
    state = torch.load(path, weights_only=True)
    state["model"]["classifier.weight"] = torch.zeros(3, 3)
    torch.save(state, path)


def of_another_optimizer(path):
    state = torch.load(path, weights_only=True)
    state["optimizer"]["param_groups"].pop()
    torch.save(state, path)


@pytest.mark.parametrize("damage", [truncated, rubbish, without_history, of_another_model, of_another_optimizer])
def test_a_damaged_checkpoint_is_put_aside(damage, tmp_path, caplog):
    """Whatever is wrong with it; once the last three ended in a KeyError or began from half-loaded weights."""
    images, labels = coloured_people(each=4)
    recipe, path = replace(TOY, epochs=2), tmp_path / "run.checkpoint"
    expected = toy_model()
    history = train(expected, images, labels, recipe, device="cpu", checkpoint=path)
    damage(path)
    damaged = path.read_bytes()
    model = toy_model()
    with caplog.at_level(logging.WARNING, "reidnb"):
        again = train(model, images, labels, recipe, device="cpu", checkpoint=path)
    assert "cannot be read" in caplog.text and "run.damaged" in caplog.text
    assert (tmp_path / "run.damaged").read_bytes() == damaged, "kept for whoever wants to look"
    assert losses(again) == losses(history) and same_weights(model, expected), "as if there had been none"


# ---- it stops when it must ------------------------------------------------------------------------------------------


def test_training_that_diverges_says_so():
    images, labels = coloured_people(each=4)
    model = toy_model()
    with torch.no_grad():
        model.classifier.weight[0, 0] = torch.nan
    with pytest.raises(TrainingDiverged) as error:
        train(model, images, labels, replace(TOY, epochs=1, warmup=0.0), device="cpu")
    said = str(error.value)
    assert "toy" in said and "epoch 1, step 1" in said and "identity = nan" in said and "trihard = " in said
    assert "trihard = nan" not in said and "0.004" in said, "the term to blame is named, and the rate"


@pytest.mark.parametrize(
    "device, says",
    [
        ("tpu9", "unknown device 'tpu9'"),
        ("meta", "'meta' is not available"),
        ("cuda", "'cuda' is not available here: take 'auto' or 'cpu'"),
    ],
)
def test_choose_device_refuses(device, says, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=says):
        choose_device(device)


def test_choose_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device() == choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device() == choose_device("cuda") == torch.device("cuda") and choose_device("cpu").type == "cpu"


# ---- the schedule ---------------------------------------------------------------------------------------------------


def test_cosine_schedule():
    recipe = replace(TOY, lr=1.0, warmup=2.0, epochs=10, schedule="cosine")
    rates = {0: 0.01, 1: 0.505, 2: 1.0, 6: 0.5, 10: 0.0}
    assert {e: learning_rate(recipe, e) for e in rates} == pytest.approx(rates, abs=1e-12)
    after = [learning_rate(recipe, 2 + i / 8) for i in range(65)]
    assert (np.diff(after) < 0).all()


def test_step_schedule():
    recipe = replace(TOY, lr=1.0, warmup=0.0, epochs=10, schedule="step", steps=(4, 7))
    rates = {0: 1, 3.99: 1, 4: 0.1, 6.99: 0.1, 7: 0.01, 9.9: 0.01}
    assert {e: learning_rate(recipe, e) for e in rates} == pytest.approx(rates)


def test_the_schedule_is_applied(unbroken):
    history, _ = unbroken
    last_steps = [epoch + 1 - 1 / 6 for epoch in range(5)]  # 144 images in batches of 24: six steps an epoch
    assert [line["lr"] for line in history] == pytest.approx([learning_rate(TOY, e) for e in last_steps])


# ---- what is said on the way ----------------------------------------------------------------------------------------


def test_one_line_an_epoch_where_nobody_watches(caplog, capfd):
    images, labels = coloured_people(each=4)
    with caplog.at_level(logging.INFO, "reidnb"):
        train(toy_model(), images, labels, replace(TOY, epochs=2), device="cpu")
    assert len(caplog.messages) == 2
    assert caplog.messages[1].startswith("toy epoch 2/2  identity ")
    assert all(word in caplog.messages[1] for word in ("trihard ", "loss ", "lr ", " s"))
    assert "it/s" not in capfd.readouterr().err, "and no bar"


# ---- recipes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"optimizer": "lion"}, "optimizer must be one of .*'lion'"),
        ({"schedule": "linear"}, "schedule"),
        ({"metric": "hinge"}, "metric"),
        ({"epochs": 0}, "epochs must be positive, got 0"),
        ({"lr": -1.0}, "lr"),
        ({"p": 0}, "p must be"),
        ({"metric": "msml", "margin": None}, "only TriHard has a soft margin; msml needs a number"),
        ({"label_noise": 1.0}, "label_noise must be a share"),
        ({"compare": "map"}, "compare must be one of"),
        ({"warmup": 5.0}, "warm-up of 5.0 epochs leaves nothing of 5"),
    ],
)
def test_a_recipe_refuses(changes, says):
    with pytest.raises(ValueError, match=says):
        replace(TOY, **changes)
