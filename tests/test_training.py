"""The training loop on people who are one colour each: it learns, it resumes, it stops when it must."""

import logging
import math
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
import torch.nn.functional as F

from reidnb import training
from reidnb.alignment import shortest_path, stripe_costs
from reidnb.batches import Augmentation, make_batch
from reidnb.evaluation import evaluate_features
from reidnb.losses import (
    class_mutual_loss,
    metric_mutual_loss,
    trihard_loss,
)
from reidnb.models import Output, Students, build_model
from reidnb.recipes import METRICS, Recipe, recipe
from reidnb.training import SIGNS, TrainingDiverged, choose_device, embed, learning_rate, loss_terms, train

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


def toy_model(seed=0, **parts):
    torch.manual_seed(seed)
    return build_model("small", classes=PEOPLE, **parts)


def toy_students(seed=0, **parts):
    torch.manual_seed(seed)
    return Students(*(build_model(name, PEOPLE, **parts) for name in ("small", "small_xception")))


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


# ---- the terms of a loss, on eight images of three people ------------------------------------------------------------

LABELS = torch.tensor([4, 4, 4, 0, 0, 2, 2, 2])
STRIPES, CLASSES = 4, 5


def tiny_output(seed, peer=None):
    """What a model might say of them: people far enough from each other that not every triplet costs something."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    features, local = draw(8, 6) + 1.2 * F.one_hot(LABELS, 6), draw(8, STRIPES, 3) + F.one_hot(LABELS // 2, 3)[:, None]
    logits, part_logits = 2 * draw(8, CLASSES), 2 * draw(8, STRIPES, CLASSES)
    leaves = [x.requires_grad_() for x in (features, logits, F.normalize(local, dim=2), part_logits)]
    features, logits, local, part_logits = leaves
    return Output(features, features, logits, None, local=local, part_logits=part_logits, peer=peer)


def apart(output):
    return [[math.dist(x, y) for y in output.features.tolist()] for x in output.features.tolist()]


def rigid(output):
    """Stripe i against stripe i."""
    rows = output.local.tolist()
    return [[sum(math.tanh(math.dist(f, g) / 2) for f, g in zip(x, y)) for y in rows] for x in rows]


def aligned(output):
    """The readable form of the package's shortest path, pair by pair."""
    return [[shortest_path(stripe_costs(x, y))[0] for y in output.local] for x in output.local]


def plus(one, other):
    return [[x + y for x, y in zip(*rows)] for rows in zip(one, other)]


def hardest(d):
    """Each anchor's farthest positive and nearest negative."""
    people, every = LABELS.tolist(), range(len(LABELS))
    return [
        (
            max((p for p in every if p != a and people[p] == people[a]), key=lambda p: d[a][p]),
            min((n for n in every if people[n] != people[a]), key=lambda n: d[a][n]),
        )
        for a in every
    ]


def mean_hinge(d, triplets, margin=0.3):
    return sum(max(0.0, d[a][p] - d[a][n] + margin) for a, (p, n) in enumerate(triplets)) / len(triplets)


def smoothed(logits, labels, smoothing=0.1):
    """Mean over the rows of -sum target log p."""
    costs = []
    for row, label in zip(logits.detach().double(), labels.tolist(), strict=True):
        target = [smoothing / len(row) + (1 - smoothing) * (c == label) for c in range(len(row))]
        costs.append(-sum(t * float(x) for t, x in zip(target, row - row.logsumexp(0))))
    return sum(costs) / len(costs)


def kl(q_logits, p_logits):
    q, p = (logits.detach().double().log_softmax(1) for logits in (q_logits, p_logits))
    return float((q.exp() * (q - p)).sum(1).mean())


def check(output, plan, expected):
    """Distances of length 1 to 5 in float32, whose product form keeps about four digits and a half of them."""
    terms = loss_terms(output, LABELS, plan)
    assert {name: float(value) for name, value in terms.items()} == pytest.approx(expected, rel=1e-4)
    assert min(expected.values()) > 0.005, "a term that is 0 tells nothing"
    return terms


@pytest.mark.parametrize("name, distances", [("hplf", rigid), ("aligned", aligned)])
def test_the_terms_of_stripes(name, distances):
    """Triplets chosen by the global distance, judged by both; the weights are the recipe's."""
    output, chosen = tiny_output(1), hardest(apart(tiny_output(1)))
    expected = {
        "identity": smoothed(output.logits, LABELS),
        "trihard": mean_hinge(apart(output), chosen),
        "local": 0.3 * mean_hinge(distances(output), chosen),
    }
    check(output, recipe(name), expected)
    weights = {"identity_weight": 0.5, "metric_weight": 2.0, "local_weight": 0.7, "margin": 0.6, "local_margin": 0.9}
    expected = {
        "identity": 0.5 * smoothed(output.logits, LABELS),
        "trihard": 2.0 * mean_hinge(apart(output), chosen, 0.6),
        "local": 0.7 * mean_hinge(distances(output), chosen, 0.9),
    }
    check(output, recipe(name, **weights), expected)
    assert mean_hinge(rigid(output), chosen) != pytest.approx(mean_hinge(aligned(output), chosen), rel=0.1)


def test_by_the_global_distance_it_is_trihard():
    terms = loss_terms(tiny_output(1), LABELS, recipe("aligned"))
    torch.testing.assert_close(terms["trihard"], trihard_loss(tiny_output(1).features, LABELS, 0.3))


@pytest.mark.parametrize("mining", ["global", "local", "both"])
def test_mining_chooses_by_the_distance_it_names(mining):
    output = tiny_output(3)
    by = {"global": apart(output), "local": aligned(output), "both": plus(apart(output), aligned(output))}
    chosen = {name: hardest(d) for name, d in by.items()}
    costs = [(mean_hinge(apart(output), c), mean_hinge(aligned(output), c)) for c in chosen.values()]
    for i in range(3):
        assert costs[i] != pytest.approx(costs[i - 1], rel=1e-3), "the three choose otherwise: the test can tell"
    expected = {
        "identity": smoothed(output.logits, LABELS),
        "trihard": mean_hinge(apart(output), chosen[mining]),
        "local": 0.3 * mean_hinge(aligned(output), chosen[mining]),
    }
    check(output, recipe("aligned", mining=mining), expected)


def test_mining_each_for_itself():
    """HPLF, section 2.1: two branches, two choices of triplets."""
    output = tiny_output(3)
    by_global, by_local = hardest(apart(output)), hardest(rigid(output))
    assert mean_hinge(rigid(output), by_global) != pytest.approx(mean_hinge(rigid(output), by_local), rel=1e-3)
    expected = {
        "identity": smoothed(output.logits, LABELS),
        "trihard": mean_hinge(apart(output), by_global),
        "local": 0.3 * mean_hinge(rigid(output), by_local),
    }
    check(output, recipe("hplf", mining="each"), expected)


def test_pcb_asks_every_stripe_who_it_is():
    """Its mean is over images and stripes, and nothing else is asked."""
    output = tiny_output(4)
    each = [smoothed(output.part_logits[:, part], LABELS) for part in range(STRIPES)]
    check(output, recipe("pcb"), {"parts": sum(each) / STRIPES})
    check(output, recipe("pcb", part_weight=0.5), {"parts": 0.5 * sum(each) / STRIPES})


MUTUAL = [("baseline_mc", None), ("baseline_mm", None), ("aligned_mc", aligned), ("aligned_mm", aligned)]


@pytest.mark.parametrize("name, distances", MUTUAL)
def test_the_terms_of_two_students(name, distances):
    """Every term of a student alone is the sum of both students'; KL goes both ways, distances are drawn together."""
    plan, students = recipe(name), [tiny_output(5), tiny_output(6)]
    expected = {
        "identity": sum(smoothed(s.logits, LABELS) for s in students),
        "trihard": sum(mean_hinge(apart(s), hardest(apart(s))) for s in students),
    }
    if distances:
        expected["local"] = 0.3 * sum(mean_hinge(distances(s), hardest(apart(s))) for s in students)
    one, other = students
    expected["class_mutual"] = kl(one.logits, other.logits) + kl(other.logits, one.logits)
    if plan.metric_mutual:
        squares = [(x - y) ** 2 for rows in zip(apart(one), apart(other)) for x, y in zip(*rows)]
        expected["metric_mutual"] = 0.1 * 2 * sum(squares) / 8**2
    check(one._replace(peer=other), plan, expected)


def test_the_sum_of_both_students_is_that_of_each_alone():
    """Also of the stripes' classifiers and of plain metric losses, which no recipe joins with a peer yet."""
    plan = recipe("pcb", identity_weight=1.0, metric="quadruplet", peer="small", class_mutual=0.5)
    one, other = tiny_output(5), tiny_output(6)
    terms = check(
        one._replace(peer=other),
        plan,
        {
            name: float(value + loss_terms(other, LABELS, plan)[name])
            for name, value in loss_terms(one, LABELS, plan).items()
        }
        | {"class_mutual": 0.5 * (kl(one.logits, other.logits) + kl(other.logits, one.logits))},
    )
    assert set(terms) == {"identity", "parts", "quadruplet", "class_mutual"}


@pytest.mark.parametrize("zero_gradient", [True, False])
def test_each_student_learns_its_own_terms_and_what_the_other_says(zero_gradient):
    """A student's gradient: its own terms', KL(other || own), and half or all of a pull on its distances."""
    plan = recipe("aligned_mm", zero_gradient=zero_gradient)
    one, other = tiny_output(5), tiny_output(6)
    sum(loss_terms(one._replace(peer=other), LABELS, plan).values()).backward()
    for own, peer, seed in ((one, other, 5), (other, one, 6)):
        alone = tiny_output(seed)
        loss = sum(loss_terms(alone, LABELS, replace(plan, peer=None, class_mutual=0, metric_mutual=0)).values())
        loss = loss + class_mutual_loss(alone.logits, peer.logits)
        pull = 0.1 * metric_mutual_loss(alone.features, peer.features.detach())
        (loss + pull * (1 if zero_gradient else 2)).backward()
        for name in ("features", "logits", "local"):
            ours, expected = getattr(own, name).grad, getattr(alone, name).grad
            assert expected.abs().max() > 1e-3
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)  # float32, summed in another order


MUTUAL_ALONE = {"identity_weight": 0.0, "metric": None, "peer": "small_xception"}


@pytest.mark.parametrize(
    "changes, terms",
    [
        (MUTUAL_ALONE | {"class_mutual": 1.0}, {"class_mutual"}),
        (MUTUAL_ALONE | {"metric_mutual": 1.0}, {"metric_mutual"}),
        (
            {"parts": 4, "local": "aligned", "peer": "small_xception", "class_mutual": 1.0, "metric_mutual": 0.1},
            {"identity", "trihard", "local", "class_mutual", "metric_mutual"},
        ),
    ],
    ids=["classes", "distances", "all"],
)
def test_two_students_both_move(changes, terms):
    """A step of the whole loop, also where one learns from nothing but the other."""
    images, labels = coloured_people(each=2)
    plan = replace(TOY, p=12, k=2, epochs=1, warmup=0.0, **changes)
    students, start = (toy_students(parts=plan.parts) for _ in range(2))
    (line,) = train(students, images, labels, plan, device="cpu")
    assert terms < set(line) and line["loss"] == pytest.approx(sum(line[term] for term in terms), rel=1e-4)
    for student, before in ((students.first, start.first), (students.second, start.second)):
        kept = dict(before.named_parameters())
        moved = {name for name, value in student.named_parameters() if not torch.equal(value, kept[name])}
        assert "backbone.stem.0.weight" in moved
        assert ("classifier.weight" in moved) == ("metric_mutual" not in terms or len(terms) > 1)
        assert ("stripes.reduce.weight" in moved) == ("local" in terms)


@pytest.mark.parametrize(
    "changes, terms",
    [
        ({"parts": 4, "local": "rigid"}, {"identity", "trihard", "local"}),
        ({"metric": None, "identity_weight": 0.0, "parts": 4, "part_weight": 1.0, "compare": "local"}, {"parts"}),
    ],
    ids=["rigid", "pcb"],
)
def test_stripes_learn(changes, terms):
    """Every term falls, and what has a part in it moves."""
    images, labels = coloured_people(each=8)
    plan = replace(TOY, epochs=3, **changes)
    model, start = (toy_model(parts=4, part_classes=plan.part_weight > 0) for _ in range(2))
    history = train(model, images, labels, plan, device="cpu")
    assert terms < set(history[0]) and all(history[-1][term] < 0.9 * history[0][term] for term in terms)
    for name in ("reduce.weight", *(["classifiers"] if plan.part_weight else [])):
        assert not torch.equal(model.stripes.get_parameter(name), start.stripes.get_parameter(name))


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


def test_several_outputs_at_once_are_those_one_by_one():
    """In the order of the names; stripes too have unit length, also after the mirror image was added."""
    images, _ = coloured_people(seed=2, people=5, each=1)
    model, names = toy_model(parts=4), ("local", "features", "embedding")
    together = embed(model, images, "cpu", batch=3, compare=names)
    assert isinstance(together, list) and len(together) == 3
    for name, found in zip(names, together):
        alone = embed(model, images, "cpu", batch=3, compare=name)
        torch.testing.assert_close(found, alone, rtol=0, atol=1e-6)  # the same sums twice
        torch.testing.assert_close(found.norm(dim=-1), torch.ones(found.shape[:-1]), rtol=0, atol=1e-6)  # float32's
    assert together[0].shape == (5, 4, 128) and together[0].dtype == torch.float32
    assert isinstance(embed(model, images, "cpu", compare=("local",)), list)


def test_stripes_and_their_mirror_images_are_averaged():
    """Each stripe by itself."""
    images, _ = coloured_people(seed=2, people=5, each=1)
    model = toy_model(parts=4).eval()
    found = embed(model, images, "cpu", compare="local")
    with torch.inference_mode(), training.autocast(torch.device("cpu")):
        views = [model(make_batch(pixels, np.arange(5))).local for pixels in (images, images[..., ::-1].copy())]
    expected = (views[0] + views[1]) / (views[0] + views[1]).norm(dim=2, keepdim=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert (found - views[0]).abs().max() > 1e-3, "one view is something else"


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
        ({"local": "warped", "parts": 8}, "local must be one of .*'rigid', 'aligned'.* got 'warped'"),
        ({"mining": "hard"}, "mining must be one of .*'global', 'local', 'both'.* got 'hard'"),
        ({"peer": "resnet34"}, "peer must be one of .*'small_xception'.* got 'resnet34'"),
        ({"local": "rigid", "parts": 8, "metric": "triplet"}, "go with TriHard and a margin, got 'triplet'"),
        ({"local": "rigid", "parts": 8, "metric": None}, "go with TriHard and a margin, got None"),
        ({"local": "aligned", "parts": 8, "margin": None}, "local distances go with TriHard and a margin"),
        ({"local": "rigid"}, "local features need stripes; parts is 0, 8 is usual"),
        ({"local": "aligned", "parts": -1}, "local features need stripes; parts is -1"),
        ({"part_weight": 1.0}, "local features need stripes"),
        ({"compare": "local"}, "local features need stripes"),
        ({"class_mutual": 1.0}, "mutual learning needs a second student; peer is None"),
        ({"metric_mutual": 0.1}, "mutual learning needs a second student"),
    ],
)
def test_a_recipe_refuses(changes, says):
    with pytest.raises(ValueError, match=says):
        replace(TOY, **changes)


def test_a_checkpoint_that_cannot_be_reached_is_not_damaged(tmp_path, monkeypatch):
    model = torch.nn.Linear(2, 2)
    path = tmp_path / "run.checkpoint"
    training.keep_checkpoint(path, {"model": model}, [{"epoch": 1}])

    def refuse(*_, **__):
        raise PermissionError("not yours")

    with monkeypatch.context() as patch, pytest.raises(PermissionError):
        patch.setattr(torch, "load", refuse)
        training.load_checkpoint(path, {"model": model})
    assert training.load_checkpoint(path, {"model": model}) == [{"epoch": 1}]
