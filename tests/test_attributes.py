"""Attributes: questions and answers, focal loss, the vote, overlapping stripes, scores; each against a slow form."""

import math
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import fake_datasets as fake
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics
from torchvision.ops import sigmoid_focal_loss

from reidnb import trials
from reidnb.attributes import Questions, ask
from reidnb.datasets import layouts, open_dataset
from reidnb.evaluation import attribute_scores, decide
from reidnb.losses import attribute_costs, blind_logits, focal_loss, voted_loss
from reidnb.models import AttributeHead, build_model, horizontal_pooling, overlapping_pooling, stripe_edges
from reidnb.recipes import recipe
from reidnb.training import elect, embed, loss_terms, train

NAN = math.nan
GAMMAS, ALPHAS = (0.0, 0.5, 1.0, 2.0, 5.0), (None, 0.0, 0.25, 0.75, 1.0)


MARKET = {
    "bounding_box_train": ["0002_c1s1_000451_03.jpg"],
    "query": ["0001_c1s1_001051_00.jpg"],
    "bounding_box_test": ["0001_c2s1_001051_00.jpg"],
}


def dataset(attributes, names):
    return SimpleNamespace(name="made", attribute_names=names, train=SimpleNamespace(attributes=np.array(attributes)))


def questions(*sizes, shares=None):
    """Questions of so many statements each, with nothing behind them."""
    ends = np.cumsum(sizes).tolist()
    groups = tuple(slice(end - size, end) for end, size in zip(ends, sizes))
    names = tuple(f"s{k}" for k in range(ends[-1]))
    shares = np.full(ends[-1], 0.5) if shares is None else np.array(shares)
    return Questions(names[: len(sizes)], names, groups, np.arange(ends[-1]), np.ones(ends[-1], int), shares)


def random_case(seed, images=9, stripes=3, sizes=(1, 4, 1), unknown=0.2):
    rng = np.random.default_rng(seed)
    asked = questions(*sizes, shares=rng.random(sum(sizes)))
    answers = np.zeros((images, sum(sizes)), np.float32)
    for group in asked.groups:
        size = group.stop - group.start
        if size == 1:
            answers[:, group] = rng.random((images, 1)) < 0.4
        else:
            for row in answers:
                choice = rng.integers(size + 1)  # or none of them
                if choice < size:
                    row[group.start + choice] = 1
        answers[rng.random(images) < unknown, group] = NAN
    logits = torch.from_numpy(rng.normal(0, 2, (images, stripes, sum(sizes))))
    return logits, torch.from_numpy(answers), asked


# ---- questions ------------------------------------------------------------------------------------------------------


def test_the_built_in_worlds_questions():
    world = open_dataset("synthetic", size=(32, 16), train_identities=6, test_identities=2, distractors=2, junk=2)
    asked = ask(world)
    assert len(asked.names) == 12 and len(asked.statements) == 30 and asked.names[:2] == ("age", "backpack")
    answers = asked.answers(world.train.attributes)
    names = world.attribute_names
    for row, truth in zip(answers, world.train.attributes):
        for k, statement in enumerate(asked.statements):
            if statement.startswith("age="):
                ages = ("young", "teenager", "adult", "old")
                assert row[k] == (ages.index(statement[4:]) == truth[names.index("age")])
            else:
                assert row[k] == truth[names.index(statement)]
    assert np.allclose(asked.shares, answers.mean(0))
    junk = asked.answers(world.gallery.attributes[world.gallery.pids <= 0])
    assert len(junk) and np.isnan(junk).all(), "nobody knows what a distractor wears"
    by_name = dict(zip(asked.names, asked.groups))
    for name in ("age", "upcolour", "downcolour"):
        assert (answers[:, by_name[name]].sum(1) == 1).all(), "one of them is true"
    assert asked.words(asked.statements.index("upred")) == "red top" and asked.words(1) == "teenager"
    said = {("gender", 0): "not female", ("gender", 1): "female", ("hat", 0): "not hat", ("age", 3): "old"}
    assert {value: asked.meaning(names.index(value[0]), value[1]) for value in said} == said


@pytest.mark.parametrize(
    "names, counts",
    [
        (layouts.MARKET_ATTRIBUTES, {"age": 4, "gender": 1, "upcolour": 8, "downcolour": 9, None: (12, 30)}),
        (layouts.DUKE_ATTRIBUTES, {"boots": 1, "top": 1, "upcolour": 8, "downcolour": 7, None: (10, 23)}),
    ],
)
def test_the_questions_of_the_real_datasets(names, counts):
    """Lin et al. (2019) count 27 and 23 labels: Market-1501's age is one of them, in four classes."""
    asked = ask(dataset(np.zeros((2, len(names)), int), names))
    sizes = {name: group.stop - group.start for name, group in zip(asked.names, asked.groups)}
    assert (len(sizes), sum(sizes.values())) == counts.pop(None)
    assert {name: sizes[name] for name in counts} == counts
    assert [k for group in asked.groups for k in range(group.start, group.stop)] == list(range(sum(sizes.values())))


def test_labels_from_a_market_attribute_file(tmp_path):
    """From 1-based labels an identity, in a .mat file whose halves order their fields differently, to statements."""
    folder = fake.market1501(tmp_path / "Market-1501-v15.09.15", MARKET)
    where = folder / "market_attribute.mat"
    fake.attributes(where, "market_attribute", layouts.MARKET_ATTRIBUTES, {2: {"age": 3, "upred": 2}}, {1: {"hat": 2}})
    market = open_dataset("market1501", root=folder, size=(32, 16))
    asked = ask(market)
    train = dict(zip(asked.statements, asked.answers(market.train.attributes)[0]))
    assert train["age=adult"] == train["upred"] == 1 and sum(train.values()) == 2
    query = dict(zip(asked.statements, asked.answers(market.query.attributes)[0]))
    assert query["hat"] == query["age=young"] == 1 and sum(query.values()) == 2


def test_columns_of_ones_own():
    """A table with columns of its own (open_dataset("csv")): two values are one statement, more are one each."""
    asked = ask(dataset([[0, 2, 1], [1, 0, -1], [0, 1, 0]], ("glasses", "shoe", "upblue")))
    assert asked.statements == ("glasses", "shoe=0", "shoe=1", "shoe=2", "upblue")
    assert asked.names == ("glasses", "shoe", "upcolour")
    answers = asked.answers([[1, 2, -1]])
    assert answers[0, :4].tolist() == [1, 0, 0, 1] and np.isnan(answers[0, 4])
    assert asked.shares.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1 / 3, 1 / 2]), "of what is known"


def test_values_that_occur_make_the_statements():
    asked = ask(dataset([[30, 7], [61, 7], [-1, 9]], ("age", "luggage")))
    assert asked.statements == ("age=30", "age=61", "luggage=7", "luggage=9"), "an age in years has no class name"
    assert asked.words(0) == "30" and asked.words(2) == "luggage=7"
    assert [asked.meaning(1, 9), asked.meaning(0, 2)] == ["luggage=9", "2"], "two years old, not an adult"
    assert asked.answers([[61, 7]]).tolist() == [[0, 1, 1, 0]]
    assert ask(dataset([[0], [0]], ("age",))).statements[1] == "age=teenager", "named, though only one occurs"


def test_softmax_logits_become_comparable():
    """A softmax does not know a constant added to an image's logits; log-odds must not either."""
    logits, answers, asked = random_case(1, images=30, unknown=0.0)
    logits, moved = logits[:, 0], logits[:, 0].clone()
    moved[:, 1:5] += torch.randn(30, 1, dtype=torch.float64) * 5
    one, other = (trials._log_odds(x, asked) for x in (logits, moved))
    assert torch.allclose(one, other, atol=1e-6) and torch.equal(one[:, 0], logits[:, 0])
    assert torch.allclose(one[:, 1:5].sigmoid(), logits[:, 1:5].softmax(1), atol=1e-5)
    assert (decide(one, asked.groups) == decide(logits, asked.groups)).all()


def test_only_some_questions():
    asked = ask(dataset([[0, 2, 1], [1, 0, 0]], ("hat", "age", "upblue")), only=("upcolour", "hat"))
    assert asked.names == ("hat", "upcolour") and asked.groups == (slice(0, 1), slice(1, 2))
    assert asked.answers([[1, 3, 0]]).tolist() == [[1, 0]]
    with pytest.raises(ValueError, match="made does not answer hats; it answers hat, age"):
        ask(dataset([[0, 1]], ("hat", "age")), only=("hats",))


def test_a_dataset_without_attributes():
    with pytest.raises(ValueError, match="made has no attributes. .* put market_attribute.mat or"):
        ask(SimpleNamespace(name="made", attribute_names=(), train=SimpleNamespace(attributes=None)))


# ---- focal loss -----------------------------------------------------------------------------------------------------


def slow_focal(logit, target, gamma, alpha):
    p = 1 / (1 + math.exp(-logit))
    if target == 1:
        return -(1 if alpha is None else alpha) * (1 - p) ** gamma * math.log(p)
    return -(1 if alpha is None else 1 - alpha) * p**gamma * math.log(1 - p)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("alpha", ALPHAS)
def test_focal_loss_against_its_formula(gamma, alpha):
    rng = np.random.default_rng(0)
    logits, targets = torch.from_numpy(rng.normal(0, 3, (6, 5))), torch.from_numpy(rng.integers(0, 2, (6, 5)))
    slow = [slow_focal(x, y, gamma, alpha) for x, y in zip(logits.flatten().tolist(), targets.flatten().tolist())]
    each = focal_loss(logits, targets, gamma, alpha, reduction="none")
    assert torch.allclose(each.flatten(), torch.tensor(slow, dtype=torch.float64), rtol=1e-9, atol=1e-12)
    assert torch.allclose(focal_loss(logits, targets, gamma, alpha), each.mean())
    for kind in (bool, float, int):
        assert torch.equal(focal_loss(logits, targets.to(dtype=torch.tensor(kind(0)).dtype), gamma, alpha), each.mean())
    theirs = sigmoid_focal_loss(logits, targets.double(), -1 if alpha is None else alpha, gamma, "mean")
    assert torch.allclose(each.mean(), theirs, rtol=1e-9)


def test_without_its_parameters_it_is_binary_cross_entropy():
    logits, targets = torch.randn(40, dtype=torch.float64), torch.arange(40) % 2
    ours = focal_loss(logits, targets, gamma=0, alpha=None)
    assert torch.allclose(ours, F.binary_cross_entropy_with_logits(logits, targets.double()), rtol=1e-12)
    assert torch.allclose(focal_loss(logits, targets, gamma=0, alpha=0.5), ours / 2)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_gradients_of_focal_loss(gamma):
    logits = torch.linspace(-6, 6, 14, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: focal_loss(x, torch.arange(14) % 2, gamma, 0.25), logits)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
def test_focal_loss_of_the_surest_answers(gamma, kind):
    """p reaches 0 and 1 here, where (1 - p)^gamma has an infinite slope for gamma < 1 and log p no value."""
    logits = torch.tensor([-200.0, -200.0, 200.0, 200.0, 0.0], dtype=kind).requires_grad_()
    loss = focal_loss(logits, torch.tensor([0, 1, 0, 1, 1]), gamma, None)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()
    assert loss.item() == pytest.approx((400 + 0.5**gamma * math.log(2)) / 5, rel=1e-2), "two are wrong by 200"


def test_focal_loss_under_autocast():
    logits, targets = torch.randn(64), torch.arange(64) % 2
    with torch.autocast("cpu", torch.bfloat16):
        inside = focal_loss(logits.bfloat16(), targets)
    assert inside.dtype == torch.float32 and torch.equal(inside, focal_loss(logits.bfloat16().float(), targets))


def test_focal_loss_of_nothing():
    assert focal_loss(torch.zeros(0), torch.zeros(0)) == 0


def test_focal_loss_refuses():
    with pytest.raises(ValueError, match="targets must be 0 or 1; labels that count from 1"):
        focal_loss(torch.zeros(3), torch.tensor([1, 2, 1]))
    with pytest.raises(ValueError, match=r"one shape, got \(3, 1\), \(3,\)"):
        focal_loss(torch.zeros(3, 1), torch.tensor([1, 0, 1]))
    with pytest.raises(ValueError, match="reduction must be 'mean' or 'none', got 'sum'"):
        focal_loss(torch.zeros(3), torch.zeros(3), reduction="sum")


@given(st.floats(-8, 8), st.integers(0, 1), st.floats(0, 4), st.floats(0.1, 4))
def test_a_higher_gamma_never_costs_more_and_spares_the_easy_most(logit, target, gamma, more):
    def cost(x, g):
        return focal_loss(torch.tensor([x], dtype=torch.float64), torch.tensor([target]), g, None).item()

    assert cost(logit, gamma + more) <= cost(logit, gamma)
    easier = logit + (1 if target else -1)
    kept, kept_easier = (cost(x, gamma + more) / cost(x, gamma) for x in (logit, easier))
    assert kept_easier <= kept * (1 + 1e-9)


# ---- what an answer costs, and the vote -----------------------------------------------------------------------------


def slow_costs(logits, answers, asked, form, gamma, alpha):
    images, stripes, _ = logits.shape
    costs = torch.zeros(images, stripes, len(asked.groups), dtype=torch.float64)
    known = torch.zeros(images, len(asked.groups), dtype=torch.bool)
    for i in range(images):
        for m, group in enumerate(asked.groups):
            ks = range(group.start, group.stop)
            truth = [answers[i, k].item() for k in ks]
            if math.isnan(truth[0]) or (form == "softmax" and len(ks) > 1 and 1 not in truth):
                continue
            known[i, m] = True
            for s in range(stripes):
                x = [logits[i, s, k].item() for k in ks]
                if form == "softmax" and len(ks) > 1:
                    costs[i, s, m] = math.log(sum(map(math.exp, x))) - x[truth.index(1)]
                elif form == "focal":
                    costs[i, s, m] = sum(slow_focal(a, b, gamma, alpha) for a, b in zip(x, truth))
                else:
                    weights = [math.exp(-asked.shares[k]) if form == "weighted" else 1 for k in ks]
                    costs[i, s, m] = sum(w * slow_focal(a, b, 0, None) for a, b, w in zip(x, truth, weights))
    return costs, known


def slow_vote(costs, known, vote):
    lines = []
    for m in range(costs.shape[2]):
        stripes = [[costs[i, s, m] for i in range(len(costs)) if known[i, m]] for s in range(costs.shape[1])]
        if not stripes[0]:
            continue
        if vote == "image":
            lines.append(sum(map(min, zip(*stripes))) / len(stripes[0]))
        else:
            means = [sum(stripe) / len(stripe) for stripe in stripes]
            lines.append(min(means) if vote == "stripe" else sum(means) / len(means))
    return sum(lines) / len(lines) if lines else torch.tensor(0.0, dtype=torch.float64)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 999), st.sampled_from(["softmax", "focal", "weighted"]), st.sampled_from([0.0, 0.3, 1.0]))
def test_costs_and_vote_against_loops(seed, form, unknown):
    logits, answers, asked = random_case(seed, unknown=unknown)
    costs, known = attribute_costs(logits, answers, asked, form, 1.5, 0.3)
    slow, slow_known = slow_costs(logits, answers, asked, form, 1.5, 0.3)
    assert torch.equal(known, slow_known)
    assert torch.allclose(costs.double(), slow, rtol=1e-5, atol=1e-6)  # the softmax form computes in float32
    for vote in ("stripe", "image", "mean"):
        assert voted_loss(slow, slow_known, vote).item() == pytest.approx(slow_vote(slow, slow_known, vote).item())


@pytest.mark.parametrize("form", ["softmax", "focal", "weighted"])
@pytest.mark.parametrize("vote", ["stripe", "image", "mean"])
@pytest.mark.parametrize("case", ["never", "always", "unknown", "all unknown", "one image"])
def test_batches_in_which_something_does_not_occur(form, vote, case):
    logits, answers, asked = random_case(0, images=1 if case == "one image" else 6, unknown=0.0)
    changed = {"never": 0.0, "always": 1.0, "unknown": NAN}
    if case in changed:
        answers[:, 0] = changed[case]
        answers[:, 1:5] = NAN if case == "unknown" else 0.0
    if case == "all unknown":
        answers[:] = NAN
    logits.requires_grad_()
    loss = voted_loss(*attribute_costs(logits, answers, asked, form), vote)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()
    if case == "unknown":
        assert (logits.grad[..., :5] == 0).all() and (logits.grad[..., 5] != 0).any()
    if case == "all unknown":
        assert loss == 0 and (logits.grad == 0).all()


def test_only_the_winner_of_the_vote_learns():
    """The flaw that notebook 04 shows: whoever is ahead at the first step is the only one that moves."""
    logits, answers, asked = random_case(3, unknown=0.0)
    logits.requires_grad_()
    costs, known = attribute_costs(logits, answers, asked)
    voted_loss(costs, known).backward()
    for m, group in enumerate(asked.groups):
        moved = logits.grad[..., group].abs().sum((0, 2)) > 0
        assert moved.tolist() == [s == costs.mean(0)[:, m].argmin() for s in range(3)]
    logits.grad = None
    voted_loss(*attribute_costs(logits, answers, asked), "mean").backward()
    assert (logits.grad.abs().sum(0) > 0).all()


# ---- overlapping stripes --------------------------------------------------------------------------------------------


def slow_pooling(cells, parts, overlap):
    """Every stripe's rows by exact fractions."""
    height = cells.shape[2]
    overlap = Fraction(overlap)
    tall = Fraction(height) / (1 + (parts - 1) * (1 - overlap))
    out = torch.zeros(len(cells), parts, cells.shape[1], dtype=cells.dtype)
    for n in range(parts):
        top = n * tall * (1 - overlap)
        for row in range(height):
            held = max(Fraction(0), min(top + tall, row + 1) - max(top, row))
            out[:, n] += float(held / tall) * cells[:, :, row].mean(2)
    return out


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 16), st.integers(1, 9), st.sampled_from(["0", "1/4", "1/3", "1/2", "3/4", "9/10"]))
def test_stripes_against_fractions(height, parts, overlap):
    overlap = Fraction(overlap)
    edges = stripe_edges(height, parts, float(overlap))
    tall = (edges[:, 1] - edges[:, 0]).double()
    # float32 holds seven digits of 16 rows
    assert edges[0, 0] == 0 and edges[-1, 1].item() == pytest.approx(height, abs=1e-5), "they cover the map"
    assert tall.tolist() == pytest.approx([tall[0].item()] * parts, abs=1e-5), "of equal height"
    shared = (edges[:-1, 1] - edges[1:, 0]).tolist()
    assert shared == pytest.approx([float(overlap) * tall[0].item()] * (parts - 1), abs=1e-5)
    cells = torch.randn(2, 3, height, 2, dtype=torch.float64)
    ours = overlapping_pooling(cells, parts, float(overlap))
    assert torch.allclose(ours, slow_pooling(cells, parts, overlap), atol=1e-4)


def test_the_papers_six_stripes_are_two_of_seven_rows():
    cells = torch.randn(2, 5, 7, 7)
    assert stripe_edges(7, 6, 0.5).tolist() == [[n, n + 2] for n in range(6)]
    slow = torch.stack([cells[:, :, n : n + 2].mean((2, 3)) for n in range(6)], 1)
    assert torch.allclose(overlapping_pooling(cells, 6, 0.5), slow, atol=1e-6)


def test_stripes_that_are_known_by_other_names():
    cells = torch.randn(3, 4, 8, 4)
    assert torch.allclose(overlapping_pooling(cells, 1, 0.7)[:, 0], cells.mean((2, 3)), atol=1e-6), "the whole body"
    for parts in (2, 4, 8):
        assert torch.allclose(overlapping_pooling(cells, parts, 0.0), horizontal_pooling(cells, parts), atol=1e-6)


@pytest.mark.parametrize("parts, overlap", [(0, 0.5), (3, 1.0), (3, -0.1)])
def test_stripes_that_cannot_be(parts, overlap):
    with pytest.raises(ValueError, match="at least one stripe and an overlap from 0 to below 1"):
        stripe_edges(8, parts, overlap)


# ---- the head, training, the vote at its end ------------------------------------------------------------------------


def test_a_head_is_classifiers_behind_one_norm():
    torch.manual_seed(0)
    head, cells = AttributeHead(5, [0.0] * 3, parts=2, overlap=0.0), torch.randn(4, 5, 6, 2)
    torch.nn.init.normal_(head.bias)
    head.eval()
    logits = head(cells)
    for n in range(2):
        pooled = cells[:, :, 3 * n : 3 * n + 3].mean((2, 3))
        slow = head.norm(pooled) @ head.weight[n] + head.bias.view(2, 3)[n]
        assert torch.allclose(logits[:, n], slow, atol=1e-6)
    assert torch.allclose(head.answer(logits), logits.mean(1)), "before the vote all are trusted alike"
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(head(cells.bfloat16()), head(cells.bfloat16().float())), "in float32 also under autocast"


@pytest.mark.parametrize(
    "form, gamma, alpha",
    [("focal", 2, 0.25), ("focal", 0.5, None), ("focal", 0, None), ("weighted", 2, 0.25), ("softmax", 2, 0.25)],
)
def test_who_sees_nothing_starts_at_the_lowest_loss(form, gamma, alpha):
    """Against a search downhill from there, over all logits of 60 images that look alike."""
    asked = questions(1, 3, 1, shares=[0.25, 0.5, 0.3, 0.2, 0.05])
    answers = torch.zeros(60, 5)
    for k, (first, last) in enumerate([(0, 15), (0, 30), (30, 48), (48, 60), (0, 3)]):
        answers[first:last, k] = 1
    assert np.allclose(answers.mean(0), asked.shares)
    start = blind_logits(asked, form, gamma, alpha)
    begin, found = start.clone(), start.clone().requires_grad_()

    def cost(logits):
        return voted_loss(*attribute_costs(logits.expand(60, 1, 5), answers, asked, form, gamma, alpha))

    downhill = torch.optim.LBFGS([found], max_iter=100, line_search_fn="strong_wolfe")

    def step():
        downhill.zero_grad()
        loss = cost(found)
        loss.backward()
        return loss

    downhill.step(step)
    # the grid's steps are 0.005: a parabola's bottom is missed by next to nothing
    assert cost(begin) <= cost(found) + 1e-5
    head = AttributeHead(5, start, parts=2)
    torch.nn.init.zeros_(head.weight)
    assert torch.allclose(head.eval()(torch.randn(4, 5, 8, 4)), start.expand(4, 2, 5), atol=1e-6)


def test_what_never_occurred_may_still_occur():
    asked = questions(1, 1, shares=[0.0, 1.0])
    assert blind_logits(asked, gamma=0, alpha=None).sigmoid().tolist() == pytest.approx([0.001, 0.999], rel=1e-4)


def tiny():
    """Noise whose upper half is brighter where the first statement is true, and whose lower half shows which of the
    other four is."""
    rng = np.random.default_rng(0)
    images, answers = rng.integers(0, 100, (24, 3, 64, 32), dtype=np.uint8), np.zeros((24, 5), np.float32)
    answers[:, 0] = np.arange(24) % 2
    answers[np.arange(24), 1 + np.arange(24) % 4] = 1
    images[answers[:, 0] == 1, :, :32] += 150
    for colour in range(3):
        images[answers[:, 1 + colour] == 1, colour, 32:] += 150
    return images, np.repeat(np.arange(6), 4), answers


@pytest.mark.parametrize("name", ["apr", "apr_focal", "alfo", "alfo_no_focal", "alfo_local", "deepmar"])
def test_training_with_attributes(name):
    images, labels, answers = tiny()
    asked = questions(1, 4, shares=[0.5, 0.25, 0.25, 0.25, 0.25])
    plan = recipe(name, epochs=5, p=4, k=2)
    torch.manual_seed(0)
    model = build_model(classes=6, start=[0.0] * 5, attribute_parts=plan.attribute_parts)
    history = train(model, images, labels, plan, device="cpu", questions=asked, answers=answers)
    assert ("identity" in history[0]) == (plan.identity_weight > 0)
    assert history[-1]["attributes"] < history[0]["attributes"]
    losses, votes = elect(model, images, asked, answers, plan, "cpu")
    assert losses.shape == votes.shape == (plan.attribute_parts, 2) and np.allclose(votes.sum(0), 1)
    logits = embed(model, images, "cpu", compare="attributes")
    form = plan.attribute_loss, plan.focal_gamma, plan.focal_alpha
    each, _ = slow_costs(logits, torch.from_numpy(answers), asked, *form)
    assert losses == pytest.approx(each.mean(0).numpy(), abs=1e-5)
    for m, group in enumerate(asked.groups):
        trusted = model.attributes.trust[:, group]
        assert (trusted[losses[:, m].argmin()] == 1).all() and trusted.sum() == group.stop - group.start
        slow_votes = np.bincount(each[:, :, m].argmin(1), minlength=plan.attribute_parts) / 24
        assert votes[:, m] == pytest.approx(slow_votes)
    assert torch.equal(model.attributes.answer(logits)[:, 0], logits[:, losses[:, 0].argmin(), 0])


def test_without_a_vote_all_stripes_answer():
    images, labels, answers = tiny()
    model, plan = build_model(classes=6, start=[0.0] * 5, attribute_parts=3), recipe("alfo", vote="mean")
    elect(model, images, questions(1, 4), answers, plan, "cpu")
    assert torch.allclose(model.attributes.trust, torch.full((3, 5), 1 / 3))


def test_the_loss_is_identity_plus_the_voted_attributes():
    """APR's eq. 3 with its lambda, and ALFO's total."""
    images, labels, answers = tiny()
    asked, answers = questions(1, 4), torch.from_numpy(answers)
    for name, parts in (("apr", 1), ("alfo", 6)):
        plan = recipe(name, identity_weight=3.0, attribute_weight=0.5, label_smoothing=0.0)
        model = build_model(classes=6, start=[0.0] * 5, attribute_parts=parts)
        output = model(torch.rand(24, 3, 64, 32))
        terms = loss_terms(output, torch.from_numpy(labels), plan, asked, answers)
        costs = slow_costs(output.attributes.detach(), answers, asked, plan.attribute_loss, 2.0, 0.25)
        assert terms["attributes"].item() == pytest.approx(0.5 * slow_vote(*costs, "stripe").item(), rel=1e-4)
        identity = F.cross_entropy(output.logits, torch.from_numpy(labels))
        assert terms["identity"].item() == pytest.approx(3 * identity.item(), rel=1e-5)
        assert set(terms) == {"identity", "attributes"}


def test_logits_keep_their_size():
    """Unit length is for what is compared; averaging a picture's and its mirror image's logits keeps them logits."""
    images, *_ = tiny()
    model = build_model(start=[0.0] * 5, attribute_parts=2)
    torch.nn.init.normal_(model.attributes.weight)
    both, one = (embed(model, images, "cpu", flip=flip, compare="attributes") for flip in (True, False))
    mirrored = embed(model, images[..., ::-1].copy(), "cpu", flip=False, compare="attributes")
    assert both.shape == (24, 2, 5) and torch.allclose(both, (one + mirrored) / 2, atol=1e-4)
    assert both.norm(dim=2).max() > 2


def test_recipes_refuse():
    for changes in ({"attribute_parts": 0}, {"attribute_overlap": 1.0}):
        with pytest.raises(ValueError, match="attributes need a stripe and an overlap from 0 to 1, got"):
            recipe("alfo", **changes)
    for changes in ({"focal_gamma": -1.0}, {"focal_alpha": 1.5}):
        with pytest.raises(ValueError, match="focal loss needs a gamma from 0 on, an alpha in 0..1; got"):
            recipe("alfo", **changes)
    for field, value in (("vote", "lowest"), ("attribute_loss", "bce")):
        with pytest.raises(ValueError, match=f"{field} must be one of"):
            replace(recipe("alfo"), **{field: value})


# ---- scores ---------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 999), st.floats(0, 0.6))
def test_scores_against_scikit_learn(seed, unknown):
    logits, answers, asked = random_case(seed, images=30, unknown=unknown)
    logits, answers = logits[:, 0].numpy().round(1), answers.numpy()  # rounded: equal logits occur
    found, said = attribute_scores(logits, answers, asked.groups), decide(logits, asked.groups)
    for k in range(6):
        known = ~np.isnan(answers[:, k])
        truth, guess = answers[known, k] == 1, said[known, k]
        if truth.all() or not truth.any():
            assert np.isnan(found.balanced[k]) and np.isnan(found.ap[k])
            continue
        assert found.share[k] == pytest.approx(truth.mean())
        assert found.accuracy[k] == pytest.approx(metrics.accuracy_score(truth, guess))
        assert found.balanced[k] == pytest.approx(metrics.balanced_accuracy_score(truth, guess))
        assert found.f1[k] == pytest.approx(metrics.f1_score(truth, guess, zero_division=0.0))
        assert found.ap[k] == pytest.approx(metrics.average_precision_score(truth, logits[known, k]))


def test_nobody_wears_a_hat():
    """Trap: a rare attribute reaches 97 % accuracy with F1 0, and no better than chance."""
    answers = np.zeros((100, 1))
    answers[:3] = 1
    found = attribute_scores(np.full((100, 1), -5.0), answers, (slice(0, 1),))
    assert found.accuracy[0] == 0.97 and found.f1[0] == 0 and found.balanced[0] == 0.5


def test_one_colour_is_said():
    said = decide([[-3.0, -1.0, -2.0, 0.1], [4.0, 5.0, 1.0, -0.1]], (slice(0, 3), slice(3, 4)))
    assert said.tolist() == [[False, True, False, True], [False, True, False, False]]


def test_scores_refuse_other_shapes():
    with pytest.raises(ValueError, match=r"got \(3, 1\) answers for \(3, 2\) logits"):
        attribute_scores(np.zeros((3, 2)), np.zeros((3, 1)), (slice(0, 2),))
