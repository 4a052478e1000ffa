"""The training loop on people who are one colour each: it learns, it may be taught by terms of one's own, it stops
when it must."""

import logging
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from toys import EACH, TOY, coloured_people, network_of, same_weights, without_seconds

from reidnb import losses
from reidnb.batches import Augmentation
from reidnb.evaluation import evaluate_features
from reidnb.inference import embed
from reidnb.methods import (
    MSML,
    Contrastive,
    Identity,
    ImprovedTriplet,
    Quadruplet,
    TriHard,
    Triplet,
    Verification,
)
from reidnb.network import Output
from reidnb.recipes import recipe
from reidnb.runtime import TrainingDiverged
from reidnb.training import (
    DIAGNOSTICS,
    HISTORY,
    Batch,
    choose_batches,
    diagnostics,
    evaluate_terms,
    learning_rate,
    make_optimizer,
    train,
)
from reidnb.values import key_of

SHORT = replace(TOY, epochs=1, warmup=0.0)


@pytest.fixture(scope="module")
def unbroken():
    """A run from start to end, and its model."""
    model = network_of()
    return train(model, *coloured_people(), TOY, device="cpu"), model


# ---- learning -------------------------------------------------------------------------------------------------------


def mean_ap(model):
    images, labels = coloured_people(seed=1)
    features = embed(model, images, "cpu")
    query = np.arange(0, len(labels), EACH)
    gallery = np.setdiff1d(np.arange(len(labels)), query)
    ids = labels[query] + 1, labels[gallery] + 1, np.zeros(len(query), int), np.ones(len(gallery), int)
    return evaluate_features(features[query], features[gallery], *ids).mAP


def test_it_learns(unbroken):
    history, model = unbroken
    assert [line["epoch"] for line in history] == [1, 2, 3, 4, 5]
    assert history[-1]["identity"] < 0.6 * history[0]["identity"] and history[-1]["loss"] < 0.6 * history[0]["loss"]
    for line in history:
        assert line["loss"] == pytest.approx(line["identity"] + line["trihard"], rel=1e-4)
    assert mean_ap(model) > 0.6, "chance is 0.1"


def test_the_same_seed_ends_at_the_same_weights_and_another_does_not():
    images, labels = coloured_people(each=6)
    short = replace(TOY, epochs=2, warmup=0.0)
    models = [network_of() for _ in range(3)]
    histories = [without_seconds(train(m, images, labels, short, seed, "cpu")) for m, seed in zip(models, (4, 4, 5))]
    assert histories[0] == histories[1] != histories[2]
    assert same_weights(models[0], models[1]) and not same_weights(models[0], models[2])


METRICS = (Contrastive(), Triplet(), ImprovedTriplet(), Quadruplet(), TriHard(), TriHard(margin=None), MSML())


@pytest.mark.parametrize(
    "changes",
    [
        {"losses": (Identity(),)},
        {"losses": (TriHard(),)},
        {"optimizer": "sgd", "lr": 0.02},
        {"optimizer": "adam"},
        *({"losses": (Identity(), term), "compare": "features"} for term in METRICS),
        {"losses": (Identity(), Verification())},
        {"losses": (Verification(),)},
        {"label_noise": 0.3},
        {"augmentation": None},
    ],
    ids=lambda changes: str(changes)[:60],
)
def test_every_loss_and_optimizer_takes_steps(changes):
    images, labels = coloured_people(each=4)
    plan = replace(SHORT, **changes)
    model, start = (network_of(plan) for _ in range(2))
    (line,) = train(model, images, labels, plan, device="cpu")
    terms = {key_of(term) for term in plan.terms}
    signs = set(DIAGNOSTICS) if plan.needs_pairs else {"length"}
    assert set(line) == terms | signs | {"epoch", "loss", "lr", "seconds"} and np.isfinite(line["loss"])
    assert line["loss"] == pytest.approx(sum(line[term] for term in terms), rel=1e-4)
    assert not torch.equal(model.backbone.stem[0].weight, start.backbone.stem[0].weight)
    assert (model.neck.bias == 0).all(), "the neck's shift stays zero"


def test_wrong_labels_are_drawn_from_the_seed_and_train_another_model():
    images, labels = coloured_people(each=4)
    given = labels.copy()
    noisy = replace(SHORT, label_noise=0.5)
    first, again, clean = (network_of() for _ in range(3))
    histories = [without_seconds(train(m, images, given, r, 3, "cpu")) for m, r in ((first, noisy), (again, noisy))]
    train(clean, images, given, SHORT, 3, "cpu")
    assert histories[0] == histories[1] and same_weights(first, again) and not same_weights(first, clean)
    assert (given == labels).all(), "the caller's labels stay what they were"


def test_layers_that_draw_at_random_draw_from_the_seed():
    """Dropout, say: its draws depend on seed and epoch alone, or a resumed run would end elsewhere."""
    images, labels = coloured_people(each=4)
    models = []
    for disturbance in (1, 2):
        models.append(network_of())
        models[-1].neck = torch.nn.Sequential(models[-1].neck, torch.nn.Dropout(0.5))
        torch.manual_seed(disturbance)
        train(models[-1], images, labels, SHORT, device="cpu")
    assert same_weights(*models)


def test_norms_and_biases_carry_no_weight_decay():
    model = network_of()
    weights, others = make_optimizer(model, TOY).param_groups
    assert weights["weight_decay"] == TOY.weight_decay and others["weight_decay"] == 0
    assert {p.ndim for p in weights["params"]} == {2, 4} and {p.ndim for p in others["params"]} == {1}
    assert len(weights["params"] + others["params"]) == sum(p.requires_grad for p in model.parameters())


def test_who_is_in_a_batch():
    """P x K where a term compares people, else whatever comes; as many in both."""
    _, labels = coloured_people(each=6)
    for plan, people in ((TOY, 6), (replace(TOY, losses=(Identity(),)), None)):
        batches = choose_batches(labels, plan, np.random.default_rng(0))
        assert {len(batch) for batch in batches} == {24}
        counts = [np.unique(labels[batch], return_counts=True)[1].tolist() for batch in batches]
        assert (counts == [[4] * 6] * len(batches)) == (people is not None)


# ---- terms of one's own ---------------------------------------------------------------------------------------------


def centre(output, batch):
    """A reader's loss, a plain function: everyone near the mean of the own identity."""
    same = (batch.labels[:, None] == batch.labels).float()
    means = same @ output.embedding / same.sum(1, keepdim=True)
    return 0.1 * (output.embedding - means).square().mean()


@dataclass(frozen=True)
class Norms:
    """A reader's loss, a frozen dataclass: two values by name."""

    length: float = 1.0
    weight: float = 0.5

    def __call__(self, output, batch):
        apart = (output.features.norm(dim=1) - self.length).square().mean()
        return {"norm": self.weight * apart, "guess": losses.cross_entropy(output.logits, batch.labels)}

    needs = ("logits",)


@dataclass(frozen=True)
class Brightness:
    """A reader's head and its loss in one part: it learns how bright the training images are."""

    images: tuple = ()
    weight: float = 1.0

    key, gives, needs = "bright", ("brightness",), ("brightness",)

    def build(self, channels, facts):
        return BrightnessHead(channels)

    def __call__(self, output, batch):
        wanted = torch.tensor([self.images[i] for i in batch.indices])
        return self.weight * (output.brightness - wanted).square().mean()


class BrightnessHead(torch.nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.layer = torch.nn.Linear(channels, 1)

    def forward(self, output):
        return {"brightness": self.layer(output.features).squeeze(1)}


@pytest.mark.parametrize("kind", ["function", "dataclass", "head"])
def test_a_readers_own_loss_trains(kind):
    images, labels = coloured_people(each=6)
    light = tuple((images.mean((1, 2, 3)) / 128 - 1).tolist())
    terms = {"function": (Identity(), centre), "dataclass": (Norms(),), "head": (Brightness(light),)}[kind]
    plan = replace(TOY, losses=terms, epochs=3)
    model = network_of(plan)
    history = train(model, images, labels, plan, device="cpu")
    names = {"function": {"identity", "centre"}, "dataclass": {"norm", "guess"}, "head": {"bright"}}[kind]
    assert names == set(history[0]) - set(HISTORY)
    assert history[-1]["loss"] == pytest.approx(sum(history[-1][name] for name in names), rel=1e-4)
    assert history[-1]["loss"] < 0.8 * history[0]["loss"], "it is learned"
    if kind == "head":
        found = embed(model, images, "cpu", compare=("features",))[0]
        assert model.heads["bright"].layer.weight.abs().max() > 0 and len(found) == len(images)


def test_the_gradient_of_a_readers_loss_reaches_the_backbone():
    plan = replace(SHORT, losses=(centre,))
    model, start = network_of(plan), network_of(plan)
    train(model, *coloured_people(each=4), plan, device="cpu")
    assert not torch.equal(model.backbone.stem[0].weight, start.backbone.stem[0].weight)


# ---- terms and the batch they are shown -----------------------------------------------------------------------------


def made_up(n=6):
    generator = torch.Generator().manual_seed(0)
    features, pairs = torch.randn(n, 3, generator=generator), torch.randn(n, n, generator=generator)
    return Output(features=features, pairs=pairs, peer=Output(features=-features))


def test_a_term_is_shown_the_training_images_and_what_joined_where_it_says_so():
    seen = {}

    def plain(output, batch):
        seen["plain"] = output, batch
        return output.features.sum()

    def all_of_them(output, batch):
        seen["all"] = output, batch
        return {"one": output.features.sum(), "two": output.features.mean()}

    all_of_them.sees_joined = True
    output, batch = made_up(), Batch(torch.tensor([0, 0, 1, 1, 5, 5]), np.array([7, 3, 9, 2]))
    values = evaluate_terms((plain, all_of_them), output, batch)
    assert list(values) == ["plain", "one", "two"] and values["one"] == output.features.sum()
    ours, known = seen["plain"]
    assert torch.equal(ours.features, output.features[:4]) and torch.equal(ours.pairs, output.pairs[:4, :4])
    assert torch.equal(ours.peer.features, output.peer.features[:4])
    assert known.labels.tolist() == [0, 0, 1, 1] and known.indices.tolist() == [7, 3, 9, 2]
    assert seen["all"] == (output, batch)
    evaluate_terms((plain,), output, Batch(batch.labels, np.arange(6)))
    assert seen["plain"][0] is output, "where nothing joined nothing is cut"


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        (None, TypeError, "loss term term must give a scalar tensor, or several in a dict by name; got None"),
        (0.5, TypeError, "must give a scalar tensor, .*; got 0.5"),
        (torch.ones(6), TypeError, r"must give a scalar tensor, .*; got \(6,\)"),
        ({"one": torch.ones(2, 2)}, TypeError, r"loss term one must give a scalar tensor, .*; got \(2, 2\)"),
        ({"first": torch.tensor(1.0)}, ValueError, "two loss terms give 'first'"),
        ({"loss": torch.tensor(1.0)}, ValueError, "two loss terms give 'loss', or history calls something else so"),
        ({"length": torch.tensor(1.0)}, ValueError, "two loss terms give 'length', or history"),
    ],
    ids=str,
)
def test_what_a_term_may_not_give(given, error, says):
    """Once the second of one name took the first's place in the sum, without a word."""

    def first(output, batch):
        return output.features.sum()

    def term(output, batch):
        return given

    with pytest.raises(error, match=says):
        evaluate_terms((first, term), made_up(), Batch(torch.zeros(6), np.arange(6)))


def test_what_joins_a_batch_trains_those_who_look_at_it():
    """Its pictures pass through the network; a plain term sees nothing of them."""
    images, labels = coloured_people(each=4)
    counts = []

    def joined(indices, all_labels, rng):
        chosen = rng.choice(len(images), 5, replace=False)
        return images[chosen], all_labels[chosen] + 100

    def looks(output, batch):
        counts.append((len(output.features), len(batch.labels), len(batch.indices), int(batch.labels[24:].min())))
        return output.features.mean() * 0.1

    looks.sees_joined = True
    model, alone = network_of(), network_of()
    (line,) = train(model, images, labels, SHORT, device="cpu", terms=(*TOY.terms, looks), joined=joined)
    train(alone, images, labels, SHORT, device="cpu")
    assert set(counts) == {(29, 29, 24, counts[0][3])} and counts[0][3] >= 100
    assert {"identity", "trihard", "looks"} < set(line) and not same_weights(model, alone)


# ---- how it fares ---------------------------------------------------------------------------------------------------


def test_diagnostics_tell_a_collapse_from_learning(unbroken):
    """What notebook 02 promises: the shares fall where something is learned, and stay where everything is one point."""
    healthy = unbroken[0]
    assert healthy[-1]["active_triplets"] < 0.7 * healthy[0]["active_triplets"]
    images, labels = coloured_people()
    images[:] = 128  # nobody can be told from anybody
    hopeless = replace(SHORT, losses=(TriHard(),), augmentation=Augmentation(0, 0, 0))
    (line,) = train(network_of(hopeless), images, labels, hopeless, device="cpu")
    assert line["active_triplets"] == 1 and line["trihard"] == pytest.approx(0.3, abs=1e-3), "the margin itself"


def test_diagnostics_are_those_of_the_features_that_a_term_compares():
    """The first term that compares says which; of branches the first; of training images alone."""
    features, branches = torch.randn(6, 3), torch.randn(6, 2, 3)
    output = Output(features=features, branch_features=branches)
    batch = Batch(torch.tensor([0, 0, 1, 1, 7, 7]), np.arange(4))
    for terms, compared in (
        ((Identity(), TriHard()), features[:4]),
        ((TriHard(on="branch_features"), Triplet()), branches[:4, 0]),
    ):
        found = diagnostics(terms, output, batch)
        shares = losses.active_shares(compared, batch.labels[:4], margin=0.3)
        assert found["length"] == compared.norm(dim=1).mean() and set(found) == set(DIAGNOSTICS)
        assert (found["active_triplets"], found["active_anchors"]) == tuple(shares)
    assert set(diagnostics((Identity(),), output, batch)) == {"length"}, "no triplets in shuffled batches"


def test_one_line_an_epoch_where_nobody_watches(caplog, capfd):
    images, labels = coloured_people(each=4)
    with caplog.at_level(logging.INFO, "reidnb"):
        train(network_of(), images, labels, replace(TOY, epochs=2), device="cpu")
    assert len(caplog.messages) == 2
    assert caplog.messages[1].startswith("toy epoch 2/2  identity ")
    assert all(word in caplog.messages[1] for word in ("trihard ", "loss ", "length ", "of triplets", "lr ", " s"))
    assert "it/s" not in capfd.readouterr().err, "and no bar"


# ---- it stops when it must ------------------------------------------------------------------------------------------


def test_training_that_diverges_says_so():
    images, labels = coloured_people(each=4)
    model = network_of()
    with torch.no_grad():
        model.classifier.weight[0, 0] = torch.nan
    with pytest.raises(TrainingDiverged) as error:
        train(model, images, labels, SHORT, device="cpu")
    said = str(error.value)
    assert "toy" in said and "epoch 1, step 1" in said and "identity = nan" in said and "trihard = " in said
    assert "trihard = nan" not in said and "0.004" in said, "the term to blame is named, and the rate"


IMAGES, LABELS = coloured_people(each=4)


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"model": "small"}, TypeError, "model must be an nn.Module, such as network.build_model gives; got 'small'"),
        ({"recipe": "ide"}, TypeError, r"wanted a Recipe with loss terms, such as recipes.recipe\('ide'\); got 'ide'"),
        ({"recipe": None}, TypeError, "wanted a Recipe with loss terms"),
        ({"recipe": recipe("lomo")}, TypeError, "wanted a Recipe with loss terms.* got Recipe"),
        ({"images": None}, TypeError, r"images must be a uint8 array or tensor \(N, 3, H, W\), got NoneType"),
        ({"images": list(IMAGES)}, TypeError, "images must be a uint8 array or tensor .* got list"),
        ({"images": IMAGES / 255}, ValueError, r"images must be uint8 \(N, 3, H, W\), got float64"),
        ({"images": IMAGES[:, :1]}, ValueError, r"images must be uint8 \(N, 3, H, W\), got uint8 \(48, 1, 32, 16\)"),
        ({"labels": None}, ValueError, r"labels must be whole numbers from 0, .* 48 images .*; got object \(\)"),
        ({"labels": LABELS[:40]}, ValueError, r"one for each of the 48 images .*; got int64 \(40,\)"),
        ({"labels": LABELS[:, None]}, ValueError, r"got int64 \(48, 1\)"),
        ({"labels": LABELS - 1}, ValueError, r"labels must be whole numbers from 0.* got int64 .48,. from -1 on"),
        ({"labels": LABELS / 2}, ValueError, "labels must be whole numbers .* got float64"),
        ({"labels": [str(x) for x in LABELS]}, ValueError, "labels must be whole numbers .* got <U2"),
        ({"labels": LABELS * 0}, ValueError, "P x K = 6 x 4 needs at least 6 identities .* the labels hold 1"),
        ({"seed": -1}, ValueError, "seed must be a whole number from 0 on, got -1"),
        ({"seed": None}, ValueError, "seed must be a whole number from 0 on, got None"),
        ({"seed": 1.5}, ValueError, "seed must be a whole number from 0 on, got 1.5"),
        ({"device": "gpu"}, ValueError, "unknown device 'gpu'"),
    ],
    ids=lambda v: str(v)[:20].replace("\n", ""),
)
def test_train_refuses(changes, error, says):
    arguments = {"model": network_of(), "images": IMAGES, "labels": LABELS, "recipe": SHORT, "device": "cpu"} | changes
    with pytest.raises(error, match=says):
        train(**arguments)


def test_labels_may_come_in_a_list_or_a_tensor():
    plan = replace(SHORT, losses=(Identity(),))
    models = [network_of(plan) for _ in range(3)]
    for model, labels in zip(models, (LABELS, LABELS.tolist(), torch.from_numpy(LABELS))):
        train(model, IMAGES, labels, plan, device="cpu")
    assert same_weights(models[0], models[1]) and same_weights(models[0], models[2])


# ---- the schedule ---------------------------------------------------------------------------------------------------


def test_cosine_schedule():
    plan = replace(TOY, lr=1.0, warmup=2.0, epochs=10, schedule="cosine")
    rates = {0: 0.01, 1: 0.505, 2: 1.0, 6: 0.5, 10: 0.0}
    assert {e: learning_rate(plan, e) for e in rates} == pytest.approx(rates, abs=1e-12)
    after = [learning_rate(plan, 2 + i / 8) for i in range(65)]
    assert (np.diff(after) < 0).all()


def test_step_schedule():
    plan = replace(TOY, lr=1.0, warmup=0.0, epochs=10, schedule="step", steps=(4, 7))
    rates = {0: 1, 3.99: 1, 4: 0.1, 6.99: 0.1, 7: 0.01, 9.9: 0.01}
    assert {e: learning_rate(plan, e) for e in rates} == pytest.approx(rates)


def test_the_schedule_is_applied(unbroken):
    history, _ = unbroken
    last_steps = [epoch + 1 - 1 / 6 for epoch in range(5)]  # 144 images in batches of 24: six steps an epoch
    assert [line["lr"] for line in history] == pytest.approx([learning_rate(TOY, e) for e in last_steps])


@pytest.mark.parametrize(
    ("name", "kind", "more"),
    [
        ("adamw", torch.optim.AdamW, {}),
        ("adam", torch.optim.Adam, {}),
        ("sgd", torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    ],
)
def test_optimizers(name, kind, more):
    plan = SimpleNamespace(optimizer=name, lr=0.25, weight_decay=0.125)
    found = make_optimizer(torch.nn.Linear(2, 2), plan)
    assert type(found) is kind and all(group["lr"] == 0.25 for group in found.param_groups)
    assert all(found.defaults[name] == value for name, value in more.items())
