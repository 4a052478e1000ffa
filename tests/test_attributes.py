"""What answers about looks cost and score: focal loss, the vote, scores; each against a slow form. The questions have a
file of their own."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics
from torchvision.ops import sigmoid_focal_loss
from toy_questions import random_case, slow_costs, slow_focal, slow_vote

from reidnb.evaluation import attribute_scores, decide
from reidnb.losses import attribute_costs, focal_loss, voted_loss

NAN = math.nan
GAMMAS, ALPHAS = (0.0, 0.5, 1.0, 2.0, 5.0), (None, 0.0, 0.25, 0.75, 1.0)


# ---- focal loss -----------------------------------------------------------------------------------------------------


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
    with pytest.raises(ValueError, match=r"one shape, got \(3, 1\)"):
        focal_loss(torch.zeros(3, 1), torch.tensor([1, 0, 1]))
    with pytest.raises(ValueError, match="reduction must be 'mean' or 'none', got .*'sum'"):
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
