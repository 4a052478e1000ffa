"""Attributes in training: overlapping stripes against fractions, the head, the vote, APR's and ALFO's losses."""

from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_questions import questions, random_case, slow_costs, slow_vote
from toys import EIGHT

from reidnb import evaluation
from reidnb.evaluation import decide
from reidnb.inference import embed
from reidnb.losses import attribute_costs, blind_logits, voted_loss
from reidnb.methods import Attributes, Identity, Stripes, horizontal_pooling, overlapping_pooling, stripe_edges
from reidnb.methods import attributes as room
from reidnb.methods.attributes import AttributeHead, attribute_means, vote_stripes
from reidnb.methods.parts import Trial, bound, facts_of
from reidnb.network import Output
from reidnb.recipes import Recipe, recipe
from reidnb.training import Batch, evaluate_terms, train

CPU = torch.device("cpu")


def logits_of(head, cells):
    return head(Output(map=cells))["attribute_logits"]


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
    head, cells = AttributeHead(5, 3, parts=2, overlap=0.0), torch.randn(4, 5, 6, 2)
    torch.nn.init.normal_(head.bias)
    head.eval()
    logits = logits_of(head, cells)
    for n in range(2):
        pooled = cells[:, :, 3 * n : 3 * n + 3].mean((2, 3))
        slow = head.norm(pooled) @ head.weight[n] + head.bias.view(2, 3)[n]
        assert torch.allclose(logits[:, n], slow, atol=1e-6)
    assert torch.allclose(head.answer(logits), logits.mean(1)), "before the vote all are trusted alike"
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(*(logits_of(head, some) for some in (cells.bfloat16(), cells.bfloat16().float()))), (
            "in float32 also under autocast"
        )


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
    head = AttributeHead(5, 5, parts=2)
    head.begin_at(start)
    torch.nn.init.zeros_(head.weight)
    assert torch.allclose(logits_of(head.eval(), torch.randn(4, 5, 8, 4)), start.expand(4, 2, 5), atol=1e-6)


def test_what_never_occurred_may_still_occur():
    asked = questions(1, 1, shares=[0.0, 1.0])
    assert blind_logits(asked, gamma=0, alpha=None).sigmoid().tolist() == pytest.approx([0.001, 0.999], rel=1e-4)


def test_softmax_logits_become_comparable():
    """A softmax does not know a constant added to an image's logits; log-odds must not either."""
    logits, answers, asked = random_case(1, images=30, unknown=0.0)
    logits, moved = logits[:, 0], logits[:, 0].clone()
    moved[:, 1:5] += torch.randn(30, 1, dtype=torch.float64) * 5
    one, other = (room._log_odds(x, asked) for x in (logits, moved))
    assert torch.allclose(one, other, atol=1e-6) and torch.equal(one[:, 0], logits[:, 0])
    assert torch.allclose(one[:, 1:5].sigmoid(), logits[:, 1:5].softmax(1), atol=1e-5)
    assert (decide(one, asked.groups) == decide(logits, asked.groups)).all()


def tiny():
    """Noise whose upper half is brighter where the first statement is true, and whose lower half shows which of the
    other four is: a dataset of 24 pictures of six people that answers two questions."""
    rng = np.random.default_rng(0)
    images, answers = rng.integers(0, 100, (24, 3, 64, 32), dtype=np.uint8), np.zeros((24, 5), np.float32)
    answers[:, 0] = np.arange(24) % 2
    answers[np.arange(24), 1 + np.arange(24) % 4] = 1
    images[answers[:, 0] == 1, :, :32] += 150
    for colour in range(3):
        images[answers[:, 1 + colour] == 1, colour, 32:] += 150
    labels = np.repeat(np.arange(6), 4)
    columns = np.stack([answers[:, 0], answers[:, 1:].argmax(1)], 1).astype(int)
    split = SimpleNamespace(images=images, pids=labels + 1, camids=np.arange(24) % 2, attributes=columns)
    ids = split.pids, split.pids, split.camids, split.camids
    return (
        SimpleNamespace(
            name="tiny", train=split, query=split, gallery=split, attribute_names=("bright", "age"), ids=ids
        ),
        labels,
        answers,
    )


def prepared(plan, data, seed=0):
    """As `experiments.prepare` does it: the network, and terms that know the data."""
    torch.manual_seed(seed)
    net = plan.network({"classes": 6, **facts_of(plan.parts, data)})
    return net, tuple(bound(term, data, net) for term in plan.terms)


def test_a_term_asks_what_the_dataset_answers():
    data, _, answers = tiny()
    asked = Attributes().questions(data)
    assert asked.statements == ("bright", "age=young", "age=teenager", "age=adult", "age=old")
    assert (asked.answers(data.train.attributes) == answers).all()
    assert facts_of((Identity(), Attributes()), data) == {"statements": 5} and facts_of((Identity(),), data) == {}
    assert facts_of((Attributes(question="bright"),), data) == {"statements": 1}
    with pytest.raises(ValueError, match="tiny does not answer hat; it answers bright, age"):
        facts_of((Attributes(question="hat"),), data)
    with pytest.raises(TypeError, match="Attributes knows no dataset yet: bind"):
        Attributes()(Output(attribute_logits=torch.zeros(8, 1, 5)), EIGHT)


@pytest.mark.parametrize("name", ["apr", "apr_focal", "alfo", "alfo_no_focal", "alfo_local", "deepmar"])
def test_training_with_attributes(name):
    data, labels, answers = tiny()
    plan = recipe(name, epochs=5, p=4, k=2)
    ((settings, parts),) = [(part, part.parts) for part in plan.parts if isinstance(part, Attributes)]
    net, terms = prepared(plan, data)
    history = train(net, data.train.images, labels, plan, device="cpu", terms=terms)
    assert ("identity" in history[0]) == any(isinstance(term, Identity) for term in plan.terms)
    assert history[-1]["attribute"] < history[0]["attribute"]
    term = terms[-1]
    term.finish(Trial(plan, data, net, CPU))
    assert term.losses.shape == term.votes.shape == (parts, 2) and np.allclose(term.votes.sum(0), 1)
    logits = embed(net, data.train.images, "cpu", compare="attribute_logits")
    form = settings.loss, settings.focal_gamma, settings.focal_alpha
    each, _ = slow_costs(logits, torch.from_numpy(answers), term.questions, *form)
    assert term.losses == pytest.approx(each.mean(0).numpy(), abs=1e-5)
    head = net.heads["attribute"]
    for m, group in enumerate(term.questions.groups):
        trusted = head.trust[:, group]
        assert (trusted[term.losses[:, m].argmin()] == 1).all() and trusted.sum() == group.stop - group.start
        slow_votes = np.bincount(each[:, :, m].argmin(1), minlength=parts) / 24
        assert term.votes[:, m] == pytest.approx(slow_votes)
    assert torch.equal(head.answer(logits)[:, 0], logits[:, term.losses[:, 0].argmin(), 0])


def test_without_a_vote_all_stripes_answer():
    data, _, answers = tiny()
    plan = recipe("alfo", vote="mean", parts=3)
    net, (_, term) = prepared(plan, data)
    head, settings = net.heads["attribute"], plan.losses[1]
    vote_stripes(net, head, data.train.images, term.questions, answers, True, settings, "cpu")
    assert torch.allclose(head.trust, torch.full((3, 5), 1 / 3))
    vote_stripes(net, head, data.train.images, term.questions, answers, True, replace(settings, vote="image"), "cpu")
    assert set(head.trust.flatten().tolist()) == {0.0, 1.0}


def test_the_loss_is_identity_plus_the_voted_attributes():
    """APR's eq. 3 with its lambda, and ALFO's total."""
    data, labels, answers = tiny()
    labels, answers = torch.from_numpy(labels), torch.from_numpy(answers)
    for name, loss in (("apr", "softmax"), ("alfo", "focal")):
        plan = recipe(name, identity_weight=3.0, attribute_weight=0.5, smoothing=0.0)
        net, bound_terms = prepared(plan, data)
        output = net(torch.rand(24, 3, 64, 32))
        terms = evaluate_terms(bound_terms, output, Batch(labels, np.arange(24)))
        asked = plan.losses[1].questions(data)
        costs = slow_costs(output.attribute_logits.detach(), answers, asked, loss, 2.0, 0.25)
        assert terms["attribute"].item() == pytest.approx(0.5 * slow_vote(*costs, "stripe").item(), rel=1e-4)
        identity = F.cross_entropy(output.logits, labels)
        assert terms["identity"].item() == pytest.approx(3 * identity.item(), rel=1e-5)
        assert set(terms) == {"identity", "attribute"}


def test_a_batch_is_asked_for_its_own_pictures():
    """Whichever of the training images they are, in whichever order."""
    data, labels, answers = tiny()
    net, (term,) = prepared(recipe("deepmar"), data)
    chosen = np.array([7, 2, 19])
    output = Output(attribute_logits=torch.randn(3, 1, 5))
    costs = slow_costs(
        output.attribute_logits, torch.from_numpy(answers[chosen]), term.questions, "weighted", 2.0, 0.25
    )
    found = term(output, Batch(torch.from_numpy(labels[chosen]), chosen))
    assert found.item() == pytest.approx(slow_vote(*costs, "stripe").item(), rel=1e-4)


@pytest.mark.parametrize("blind_start", [True, False])
def test_where_classifiers_begin(blind_start):
    data, *_ = tiny()
    net, (_, term) = prepared(recipe("alfo", blind_start=blind_start), data)
    begins = blind_logits(term.questions, "focal", 2.0, 0.25) * blind_start
    torch.testing.assert_close(net.heads["attribute"].bias.detach(), begins.float().repeat(6))


def test_scores_of_what_the_network_says_of_looks():
    """Made-up logits: the table's lines, the scores by looks, and what is kept of both."""
    data, _, answers = tiny()
    for name in ("apr", "alfo_local"):
        plan = recipe(name)
        net, terms = prepared(plan, data)
        term = terms[-1]
        term.finish(Trial(plan, data, net, CPU))
        parts = len(net.heads["attribute"].trust)
        sure = np.repeat((8 * answers - 4 + np.random.default_rng(0).normal(0, 1, (24, 5)))[:, None], parts, 1)
        said = {"attribute_logits": sure.astype(np.float32)}
        found = term.test(said, said, Trial(plan, data, net, CPU))
        assert set(found) == {"scores", "numbers", "arrays", "lines"}
        assert [line["statement"] for line in found["lines"]] == list(term.questions.statements)
        assert all(line["f1"] == 1 and line["train_share"] == line["share"] for line in found["lines"])
        stripes = [int(term.losses[:, 0].argmin()), *4 * [int(term.losses[:, 1].argmin())]]
        assert [line["stripe"] for line in found["lines"]] == stripes
        one = net.heads["attribute"].answer(torch.from_numpy(sure).float())
        wanted = room._log_odds(one, term.questions) if name == "apr" else one
        np.testing.assert_allclose(found["arrays"]["query"], wanted, rtol=1e-5)
        looks = evaluation.evaluate_features(*2 * [wanted.sigmoid().numpy()], *data.ids)
        assert found["scores"]["attributes"].mAP == pytest.approx(looks.mAP, abs=1e-6)
        assert found["numbers"]["attribute_f1"] == found["numbers"]["common_f1"] == 1
        assert np.isnan(found["numbers"]["rare_f1"]), "nothing is rare here"


def test_means_over_statements_that_can_be_judged():
    def line(train_share, share, score):
        return {"train_share": train_share, "share": share, "f1": score, "balanced": score, "ap": score}

    lines = [line(0.05, 0.1, 0.2), line(0.5, 0.4, 0.8), line(0.0, 0.1, 0.9), line(0.3, 0.0, 0.9), line(0.1, 0.2, 0.5)]
    found = attribute_means(lines)
    assert (found["attribute_f1"], found["rare_f1"]) == pytest.approx((0.5, 0.2))
    assert found["common_ap"] == pytest.approx(0.65) and attribute_means([line(0.0, 0.1, 0.5)]) == {}


def test_attributes_beside_stripes_in_one_network():
    data, labels, _ = tiny()
    plan = Recipe("both", heads=(Stripes(2),), losses=(Attributes(parts=2), Identity()), epochs=1, warmup=0.0)
    net, terms = prepared(plan, data)
    assert set(net.heads) == {"stripes", "attribute"}
    (line,) = train(net, data.train.images, labels, plan, device="cpu", terms=terms)
    assert {"attribute", "identity"} < set(line) and net.eval()(torch.rand(2, 3, 64, 32)).local.shape == (2, 2, 128)
