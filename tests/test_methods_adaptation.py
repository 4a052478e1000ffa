"""Two domains: what joins a batch, the domain loss by hand, branches that are read from head to feet."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from toys import network_of, same_weights

from reidnb import losses, training
from reidnb.batches import Styled
from reidnb.methods import (
    AdaptedTriHard,
    Branches,
    CopiesIdentity,
    Identity,
    TargetStyles,
    TrainingCopies,
    TriHard,
    adaptation,
)
from reidnb.methods.adaptation import HIDDEN, METRIC, BranchHead, target_of
from reidnb.network import Output, build_model, pool
from reidnb.recipes import Recipe, recipe
from reidnb.training import Batch, evaluate_terms, train

RNG = np.random.default_rng(0)
PEOPLE = np.repeat(np.arange(6), 6)
SOURCE = RNG.integers(0, 256, (36, 3, 32, 16), np.uint8)
TARGET = Styled(*(RNG.integers(0, 256, (10, 3, 32, 16), np.uint8), np.arange(10) % 4,
                  RNG.integers(0, 256, (10, 4, 3, 32, 16), np.uint8)))  # fmt: skip
TOY = Recipe("toy", "Toy", weights=None, size=(32, 16), p=4, k=3, losses=(Identity(), TriHard()), epochs=2)


def adapted(branches=None, **how):
    """A recipe with the domain loss, on branches or on the features."""
    on = "branch_features" if branches else "features"
    terms = Identity(on="branch_logits" if branches else "logits"), AdaptedTriHard(on=on, **how)
    heads = (Branches(branches, dropout=0.0),) if branches else ()
    return replace(TOY, heads=heads, losses=terms, extra=TargetStyles(target_p=3, copies=2), compare="features")


@pytest.fixture
def painted(monkeypatch):
    """What would be painted is there: the target's pictures and copies, or the source's own."""
    seen = []

    def styled(split, name, options, styles, copies, device):
        seen.append((split, name, styles, copies))
        return TARGET if split == "target" else Styled(SOURCE, PEOPLE % 2, np.stack([SOURCE, SOURCE], 1))

    monkeypatch.setattr(adaptation, "_styled", styled)
    return seen


DATA = SimpleNamespace(name="one->other", options={}, train="source", target="target")


# ---- what joins a batch ---------------------------------------------------------------------------------------------


def test_target_classes_never_meet_the_source_ones(painted):
    joined = TargetStyles(target_p=3, copies=2, styles="truth").bind("toy", DATA, torch.device("cpu"))
    assert painted == [("target", "other", "truth", 2)], "the target's, by its own name"
    more, theirs = joined(np.arange(12), PEOPLE, np.random.default_rng(0))
    assert theirs.tolist() == [6, 6, 6, 7, 7, 7, 8, 8, 8] and more.shape == (9, 3, 32, 16)
    for picture in range(0, 9, 3):
        assert any((more[picture] == image).all() for image in TARGET.images), "a picture, then its copies"
    many = TargetStyles(target_p=99, copies=1).bind("toy", DATA, torch.device("cpu"))
    assert len(many(np.arange(12), PEOPLE, np.random.default_rng(0))[0]) == 20, "all there are"


def test_copies_keep_the_name_of_whom_they_show(painted):
    joined = TrainingCopies(fakes=0.5).bind("toy", DATA, torch.device("cpu"))
    assert painted == [("source", "one", "stargan", 1)]
    chosen = np.array([1, 8, 20, 35])
    more, theirs = joined(chosen, PEOPLE, np.random.default_rng(0))
    assert len(more) == len(theirs) == 2 and set(theirs) <= set(PEOPLE[chosen])
    for picture, label in zip(more, theirs):
        (which,) = [i for i in chosen if (picture == SOURCE[i]).all()]
        assert PEOPLE[which] == label
    assert len(TrainingCopies(fakes=0.01).bind("toy", DATA, None)(chosen, PEOPLE, np.random.default_rng(0))[0]) == 1


def test_without_a_target_there_is_nothing_to_learn_from():
    data = SimpleNamespace(name="synthetic", target=None)
    with pytest.raises(ValueError, match="recipe toy learns from a target.s pictures: name the dataset source->target"):
        target_of("toy", data)
    with pytest.raises(ValueError, match="such as synthetic_summer->synthetic_winter; got synthetic"):
        TargetStyles().bind("toy", data, torch.device("cpu"))


@pytest.mark.parametrize("copies", [2, 3])
def test_more_copies_than_cameras(copies):
    split = SimpleNamespace(camids=np.array([0, 1, 1]), images=SOURCE[:3])
    data = SimpleNamespace(name="one->other", options={}, target=split)
    with pytest.raises(
        ValueError, match=f"wanted {copies} copies of a picture, .*; other has 2 cameras: set copies lower"
    ):
        TargetStyles(copies=copies).bind("toy", data, torch.device("cpu"))


# ---- the domain loss ------------------------------------------------------------------------------------------------


def halves(plan):
    """A model's Output of 12 source pictures and 9 of the target, and who they are."""
    output = network_of(plan, classes=6).train()(torch.randn(21, 3, 32, 16, generator=torch.Generator().manual_seed(0)))
    labels = torch.tensor([0] * 3 + [1] * 3 + [2] * 3 + [5] * 3 + [6] * 3 + [7] * 3 + [8] * 3)
    return output, Batch(labels, np.arange(12))


@pytest.mark.parametrize("branches", [None, "lstm"])
def test_the_domain_loss_is_one_trihard_over_source_target_and_copies(branches):
    plan = adapted(branches, adapt="domain", weight=0.3, margin=0.5)
    output, batch = halves(plan)
    found = evaluate_terms(plan.terms, output, batch)
    features = [output.features] if branches is None else output.branch_features.unbind(1)
    wanted = 0.3 * sum(losses.trihard_loss(f, batch.labels, 0.5) for f in features)
    torch.testing.assert_close(found["trihard"], wanted)
    logits = [output.logits] if branches is None else output.branch_logits.unbind(1)
    wanted = sum(losses.cross_entropy(x[:12], batch.labels[:12], 0.1) for x in logits)
    torch.testing.assert_close(found["identity"], wanted)
    assert set(found) == {"trihard", "identity"}


def test_camera_style_alone_has_no_triplet_across_the_domains():
    plan = adapted(adapt="style", weight=0.7, margin=0.3)
    output, batch = halves(plan)
    found, labels = evaluate_terms(plan.terms, output, batch), batch.labels
    torch.testing.assert_close(found["trihard"], 0.7 * losses.trihard_loss(output.features[:12], labels[:12], 0.3))
    torch.testing.assert_close(found["style"], 0.7 * losses.trihard_loss(output.features[12:], labels[12:], 0.3))


@pytest.mark.parametrize(("kind", "smoothing"), [("own", 0.0), ("smooth", 0.1), ("uniform", 1.0)])
def test_what_copies_are_told_to_be(kind, smoothing):
    terms = Identity(), CopiesIdentity(fake_labels=kind, weight=0.5)
    plan = replace(TOY, losses=terms, extra=TrainingCopies(fakes=0.5))
    output, (labels, indices) = halves(plan)
    labels = labels.clamp(max=5)
    found = evaluate_terms(plan.terms, output, Batch(labels, indices))
    log_p = output.logits[12:].log_softmax(1)
    wanted = -(1 - smoothing) * log_p[torch.arange(9), labels[12:]].mean() - smoothing * log_p.mean()
    torch.testing.assert_close(found["fakes"], 0.5 * wanted)
    torch.testing.assert_close(found["identity"], losses.cross_entropy(output.logits[:12], labels[:12], 0.1))


def test_the_target_teaches_something(painted):
    """Beside the source alone; without a term that looks at it a recipe is refused, see test_recipes."""
    plan, alone = adapted(adapt="domain", margin=0.3, weight=1.0), TOY
    joined = plan.extra.bind("toy", DATA, torch.device("cpu"))
    one, other = network_of(alone, classes=6), network_of(plan, classes=6)
    assert same_weights(one, other), "they start alike"
    train(one, SOURCE, PEOPLE, alone, device="cpu")
    train(other, SOURCE, PEOPLE, plan, device="cpu", joined=joined)
    assert not torch.equal(one.backbone.widen[0].weight, other.backbone.widen[0].weight)


@pytest.mark.parametrize("adapt", ["style", "domain"])
def test_theta_0_is_refused_with_pictures_that_nobody_looks_at(adapt):
    """Once it trained to the last bit as the source alone did, and painted for nothing."""
    with pytest.raises(ValueError, match="targetstyles join the batch, and no loss term looks at them"):
        recipe("domain", adapt=adapt, trihard_weight=0.0)


def test_adapting_resumes(tmp_path, monkeypatch, painted):
    plan = replace(adapted("lstm", adapt="domain"), epochs=3)
    joined = plan.extra.bind("toy", DATA, torch.device("cpu"))
    whole, path = network_of(plan, classes=6), tmp_path / "a.checkpoint"
    train(whole, SOURCE, PEOPLE, plan, device="cpu", joined=joined)

    def stop(bar, line, _):
        if line["epoch"] == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "_report", stop)
        first = network_of(plan, classes=6)
        train(first, SOURCE, PEOPLE, plan, device="cpu", checkpoint=path, joined=joined)
    again = network_of(plan, seed=1, classes=6)
    assert len(train(again, SOURCE, PEOPLE, plan, device="cpu", checkpoint=path, joined=joined)) == 3
    assert same_weights(whole, again)


# ---- branches -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "branches"), [("global", 1), ("parts", 2), ("lstm", 2)])
@pytest.mark.parametrize("pooling", ["avg", "max", "both"])
def test_shapes_of_branches(kind, branches, pooling):
    net = BranchHead(16, 7, kind, 3, pooling, 0.5)
    cells = torch.rand(4, 16, 8, 4)
    found = net(Output(map=cells, features=pool(cells, pooling)))
    features, logits = found["branch_features"], found["branch_logits"]
    assert features.shape == (4, branches, METRIC) and logits.shape == (4, branches, 7)
    if kind != "global":
        assert net.read(cells).shape == (4, 3, 2 * HIDDEN)


def test_the_lstm_reads_from_head_to_feet_and_back():
    """By PyTorch's own cell, a step at a time."""
    torch.manual_seed(0)
    net = BranchHead(16, 7, "lstm", 3, "avg", 0.5)
    cells = torch.rand(2, 16, 6, 4)
    bodies = [cells[:, :, 2 * i : 2 * i + 2].mean((2, 3)) for i in range(3)]
    found = net.read(cells)
    for direction, order in (("", (0, 1, 2)), ("_reverse", (2, 1, 0))):
        cell = torch.nn.LSTMCell(16, HIDDEN)
        cell.load_state_dict({k: getattr(net.lstm, f"{k}_l0{direction}") for k in cell.state_dict()})
        state, half = None, slice(HIDDEN, None) if direction else slice(HIDDEN)
        for part in order:
            state = cell(bodies[part], state)
            torch.testing.assert_close(found[:, part, half], state[0])


def test_with_an_lstm_the_feet_change_what_is_known_of_the_head_alone_they_do_not():
    torch.manual_seed(0)
    cells = torch.rand(1, 16, 6, 4)
    other = cells.clone()
    other[:, :, 4:] += 1
    for kind, moved in (("lstm", True), ("parts", False)):
        net = BranchHead(16, 7, kind, 3, "avg", 0.5)
        assert bool((net.read(cells)[:, 0] != net.read(other)[:, 0]).any()) == moved, kind


@pytest.mark.parametrize("pooling", ["avg", "max", "both"])
def test_parts_are_pooled_as_the_map_is(pooling):
    """A layer that gives back what it is given shows it: means, maxima, or their sum."""
    net = BranchHead(16, 7, "parts", 3, pooling, 0.5)
    net.own = torch.nn.ModuleList(torch.nn.Identity() for _ in range(3))
    cells = torch.rand(2, 16, 6, 4)
    parts = [cells[:, :, 2 * i : 2 * i + 2].flatten(2) for i in range(3)]
    by = {"avg": [p.mean(2) for p in parts], "max": [p.amax(2) for p in parts]}
    by["both"] = [a + b for a, b in zip(by["avg"], by["max"])]
    torch.testing.assert_close(net.read(cells), torch.stack(by[pooling], 1))


def test_a_network_with_branches():
    """In the classifier's place, where no term looks at that."""
    plan = replace(TOY, heads=(Branches("lstm", parts=4, dropout=0.25),), losses=(Identity(on="branch_logits"),))
    model = network_of(plan, classes=6).eval()
    output = model(torch.randn(3, 3, 32, 16))
    assert model.classifier is None and model.heads["branches"].parts == 4
    assert model.heads["branches"].whole.fc[3].p == 0.25
    assert output.branch_features.shape == (3, 2, METRIC) and output.branch_logits.shape == (3, 2, 6)
    again = model.heads["branches"](Output(map=output.map, features=output.features))
    torch.testing.assert_close(again["branch_features"], output.branch_features)


def test_branches_under_autocast_are_float32():
    model = build_model("small", 5, heads=(Branches("lstm"),)).eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        output = model(torch.randn(2, 3, 32, 16))
    assert {output.branch_features.dtype, output.branch_logits.dtype} == {torch.float32}
