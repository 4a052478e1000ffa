"""Losses against slow loops over their formulas, against pytorch-metric-learning, and against each other."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_losses import (
    ANY_COUNTS,
    COUNTS,
    KINDS,
    SEEDS,
    SLOW,
    batch,
    close,
    each_case,
    each_loss,
    each_usual,
    mean,
    quadruplets,
    slow,
    triplets,
)

from reidnb.losses import (
    contrastive_loss,
    improved_triplet_loss,
    msml_loss,
    pairwise_distances,
    quadruplet_loss,
    trihard_loss,
    triplet_loss,
)


@pytest.mark.parametrize("counts", COUNTS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@each_case
def test_a_loss_is_its_loop(loss, margins, counts, kind):
    """Trap 10: identities with unequal counts ([2, 6] is where reshaped masks go wrong)."""
    features, labels = batch(1, counts, 4, kind)
    ours, theirs = features.requires_grad_(), features.detach().double().requires_grad_()
    value, expected = loss(ours, labels, *margins), slow(loss, theirs, labels, *margins)
    assert value.shape == () and value.dtype == kind
    torch.testing.assert_close(value.double(), expected, **close(kind))
    value.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad.double(), theirs.grad, **close(kind))


@each_loss
@settings(max_examples=30, deadline=None)
@given(counts=ANY_COUNTS, seed=SEEDS, rounded=st.booleans())
def test_a_loss_is_its_loop_for_any_counts(loss, counts, seed, rounded):
    """With the margins that are the default; rounded features make equal images and equal distances."""
    features, labels = batch(seed, counts, 3)
    features = features.round() if rounded else features
    d = [[math.dist(x, y) for y in features.tolist()] for x in features.tolist()]
    assert loss(features, labels).item() == pytest.approx(SLOW[loss](d, labels.tolist()), rel=1e-9, abs=1e-9)


@each_usual
def test_a_loss_checks_out_by_finite_differences(loss, margins):
    """At seeds that put no hinge within the step, 1e-6, of its kink."""
    features, labels = batch(2, (2, 3, 2), 4)
    torch.autograd.gradcheck(lambda x: loss(x, labels, *margins), features.requires_grad_())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("margin", "margin2"), [(0, 1), (1, 0), (2, -1)])
def test_quadruplets_at_the_kink_of_a_hinge(margin, margin2, seed):
    """Whole numbers on a line, around 0: many hinges are exactly zero, where they cost nothing and pull nothing."""
    features, labels = batch(seed, (1, 1, 2), 1)
    features, labels = torch.cat([features, -features]), torch.cat([labels, labels])
    results = []
    for of in (quadruplet_loss, lambda *a: slow(quadruplet_loss, *a)):
        leaf = (2 * features).round().requires_grad_()
        value = of(leaf, labels, margin, margin2)
        value.backward()
        results.append((value, leaf.grad))
    for ours, expected in zip(*results):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("counts", [(4, 4, 4), (1, 2, 30, 5, 3)], ids=str)
def test_quadruplets_of_margins_that_reach_everything(counts):
    """Every hinge above zero: the mean is of the distances themselves. A tenth of a margin of 100 is left, so 1e-9."""
    features, labels = batch(4, counts, 4)
    d, every = pairwise_distances(features).tolist(), quadruplets(labels.tolist())
    expected = mean(2 * d[a][p] - d[a][n] - d[n][m] + 150 for a, p, n, m in every)
    assert quadruplet_loss(features, labels, 100.0, 50.0).item() == pytest.approx(expected, rel=1e-9)


def test_the_quadruplet_loss_adds_up_in_float64():
    """It takes a large sum over pairs from another: with one person of 60 images among 64, 2 % of it is left.

    Distances in float32 then leave 2e-7 of error, sums in float32 would make it 3e-6.
    """
    features, labels = batch(12, (60, 2, 2), 8, torch.float32)
    ours, expected = (quadruplet_loss(x, labels, -99.0, 0.15).double() for x in (features, features.double()))
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=0)


# ---- pytorch-metric-learning ----------------------------------------------------------------------------------------


def pml():
    """Their losses, and the distance that leaves features as long as they are (by default scaled to length 1)."""
    from pytorch_metric_learning import distances, losses, miners, reducers

    return losses, miners, reducers, distances.LpDistance(normalize_embeddings=False)


@pytest.mark.parametrize("margin", [1.0, 5.0])
def test_contrastive_is_pytorch_metric_learnings(margin):
    """Theirs is another loss: d and [ m - d ]+ are not squared, and each kind of pairs has a mean of its own.

    (A distance with power=2 does not help, as it makes it [ m - d^2 ]+.) So take their pairs, and square and average.
    """
    theirs, _, reducers, distance = pml()
    features, labels = batch(3, (1, 2, 6, 4, 3))
    kinds = theirs.ContrastiveLoss(0, margin, distance=distance, reducer=reducers.DoNothingReducer())(features, labels)
    pairs = torch.cat([kind["losses"] for kind in kinds.values()])
    assert len(pairs) == 16 * 15
    torch.testing.assert_close(contrastive_loss(features, labels, margin), pairs.square().mean())


@pytest.mark.parametrize("margin", [0.3, 5.0])
def test_triplet_is_pytorch_metric_learnings(margin):
    theirs, _, reducers, distance = pml()
    features, labels = batch(3, (1, 2, 6, 4, 3))
    every = theirs.TripletMarginLoss(margin, distance=distance, reducer=reducers.MeanReducer())
    torch.testing.assert_close(triplet_loss(features, labels, margin), every(features, labels))


@pytest.mark.parametrize("margin", [0.3, 5.0])
def test_trihard_is_pytorch_metric_learnings(margin):
    """Theirs by default scales features to length 1 and averages over the triplets that are not 0 yet (trap 15).

    With both switched off it is the paper's loss, and ours. Their soft margin (smooth_loss) adds the margin inside.
    """
    losses, miners, reducers, distance = pml()
    theirs = losses.TripletMarginLoss(margin, distance=distance, reducer=reducers.MeanReducer())
    nonzero = losses.TripletMarginLoss(margin, distance=distance)
    features, labels = batch(3, (1, 2, 6, 4, 3))
    hardest = miners.BatchHardMiner(distance=distance)(features, labels)
    torch.testing.assert_close(trihard_loss(features, labels, margin), theirs(features, labels, hardest))
    easy = features + 5.0 * F.one_hot(labels % 5, 16)
    hardest = miners.BatchHardMiner(distance=distance)(easy, labels)
    ours = trihard_loss(easy, labels, margin)
    torch.testing.assert_close(ours, theirs(easy, labels, hardest))
    if margin == 0.3:
        assert ours < nonzero(easy, labels, hardest) - 1e-3, "averaging over non-zero triplets is another loss"


def test_the_soft_margin_is_pytorch_metric_learnings():
    losses, miners, reducers, distance = pml()
    theirs = losses.TripletMarginLoss(0.0, distance=distance, reducer=reducers.MeanReducer(), smooth_loss=True)
    features, labels = batch(4, (3, 3, 4))
    hardest = miners.BatchHardMiner(distance=distance)(features, labels)
    torch.testing.assert_close(trihard_loss(features, labels, None), theirs(features, labels, hardest))


# ---- relations that hold on any batch -------------------------------------------------------------------------------

MARGINS = st.floats(-1, 4)


@settings(max_examples=60, deadline=None)
@given(ANY_COUNTS, st.integers(2, 4), st.integers(2, 4), SEEDS, MARGINS)
def test_harder_mining_costs_more(counts, p, k, seed, margin):
    features, labels = batch(seed, counts, 3)
    assert msml_loss(features, labels, margin) >= trihard_loss(features, labels, margin) - 1e-12
    assert improved_triplet_loss(features, labels, margin) >= triplet_loss(features, labels, margin)
    # TriHard weighs anchors alike, the triplet loss triplets: their anchors weigh the same only in P x K batches.
    features, labels = batch(seed, (k,) * p, 3)
    assert trihard_loss(features, labels, margin) >= triplet_loss(features, labels, margin) - 1e-12


def test_trihard_may_cost_less_than_triplet_where_counts_differ():
    """Person 2 sits in the middle of person 1: five anchors of seven cost something, but 40 triplets of 50."""
    features = torch.eye(5)[[0, 1, 2, 3, 4, 0, 0]]
    features[5:] = 0.2
    labels = [1, 1, 1, 1, 1, 2, 2]
    cost = math.sqrt(2) - math.sqrt(0.8) + 0.3
    assert trihard_loss(features, labels).item() == pytest.approx(5 / 7 * cost)
    assert triplet_loss(features, labels).item() == pytest.approx(40 / 50 * cost)


@settings(max_examples=40, deadline=None)
@given(ANY_COUNTS, SEEDS, MARGINS, st.floats(0, 3))
def test_the_improved_triplet_loss_adds_the_distance_of_positives(counts, seed, margin, pull):
    features, labels = batch(seed, counts, 3)
    added = improved_triplet_loss(features, labels, margin, pull) - triplet_loss(features, labels, margin)
    d = pairwise_distances(features).tolist()
    assert added.item() == pytest.approx(pull * mean(d[a][p] for a, p, _ in triplets(labels.tolist())), abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 5), st.integers(1, 4), SEEDS, MARGINS)
def test_a_quadruplet_loss_without_its_second_hinge_is_the_triplet_loss(p, k, seed, margin):
    """In P x K batches, where each triplet meets the same number of second negatives."""
    features, labels = batch(seed, (k,) * p, 3)
    ours = quadruplet_loss(features, labels, margin, -1e3)
    torch.testing.assert_close(ours, triplet_loss(features, labels, margin))


@each_loss
@settings(max_examples=15, deadline=None)
@given(counts=ANY_COUNTS, seed=SEEDS, scale=st.floats(0.01, 100))
def test_a_loss_grows_with_features_and_margins(loss, counts, seed, scale):
    """By the same factor, squared where the loss is of squares; and a shift of all features changes nothing."""
    features, labels = batch(seed, counts, 3)
    margins = (0.7, 0.4) if loss == quadruplet_loss else (0.7,)
    power = 2 if loss == contrastive_loss else 1
    grown = loss(scale * features + 5, labels, *(scale * m for m in margins))
    torch.testing.assert_close(grown, scale**power * loss(features, labels, *margins), rtol=1e-7, atol=1e-9)
