"""Losses against slow loops over their formulas, pytorch-metric-learning, and the batches that break losses."""

import inspect
import math
from itertools import combinations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from reidnb import losses
from reidnb.alignment import local_distances
from reidnb.losses import (
    active_shares,
    class_mutual_loss,
    contrastive_loss,
    cross_entropy,
    hardest_triplets,
    improved_triplet_loss,
    metric_mutual_loss,
    mined_loss,
    msml_loss,
    pairwise_distances,
    quadruplet_loss,
    trihard_loss,
    triplet_loss,
    verification_loss,
)

KINDS = [torch.float32, torch.float64]
COUNTS = [(4, 4, 4, 4), (2, 6), (1, 2, 9), (1, 1, 1, 2), (3, 1, 2, 4)]
ANY_COUNTS = st.lists(st.integers(1, 5), min_size=2, max_size=5).map(tuple)
SEEDS = st.integers(0, 999)


def close(kind):
    """The product form |x|^2 + |y|^2 - 2 x.y loses about three of float32's seven digits; float64 has plenty."""
    return {"rtol": 2e-4, "atol": 2e-4} if kind == torch.float32 else {"rtol": 1e-9, "atol": 1e-9}


def batch(seed=0, counts=(4, 4, 4, 4), dimensions=16, kind=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=generator)] * 7 + 3
    return torch.randn(len(labels), dimensions, generator=generator, dtype=torch.float64).to(kind), labels


# ---- the slow losses: d[i][j] are distances, tensors or floats, and labels a list -----------------------------------


def mean(terms):
    terms = list(terms)
    return sum(terms) / max(len(terms), 1)


def hinge(x):
    return x if x > 0 else 0 * x


def triplets(labels):
    every = range(len(labels))
    return [(a, p, n) for a in every for p in every for n in every if a != p and labels[a] == labels[p] != labels[n]]


def quadruplets(labels):
    """(a, p, n1, n2): three persons, and every order."""
    every = range(len(labels))
    return [(a, p, n, m) for a, p, n in triplets(labels) for m in every if labels[m] not in (labels[a], labels[n])]


def slow_contrastive(d, labels, margin=1.0):
    return mean(
        d[i][j] ** 2 if labels[i] == labels[j] else hinge(margin - d[i][j]) ** 2
        for i, j in combinations(range(len(labels)), 2)
    )


def slow_triplet(d, labels, margin=0.3):
    return mean(hinge(d[a][p] - d[a][n] + margin) for a, p, n in triplets(labels))


def slow_improved_triplet(d, labels, margin=0.3, pull=1.0):
    return mean(pull * d[a][p] + hinge(d[a][p] - d[a][n] + margin) for a, p, n in triplets(labels))


def slow_quadruplet(d, labels, margin=0.3, margin2=0.15):
    return mean(
        hinge(d[a][p] - d[a][n] + margin) + hinge(d[a][p] - d[n][m] + margin2) for a, p, n, m in quadruplets(labels)
    )


def slow_trihard(d, labels, margin=0.3):
    """One anchor at a time: its farthest positive, its nearest negative."""
    costs = []
    for a in range(len(labels)):
        positives = [d[a][p] for p in range(len(labels)) if p != a and labels[p] == labels[a]]
        negatives = [d[a][n] for n in range(len(labels)) if labels[n] != labels[a]]
        if positives and negatives:
            gap = max(positives) - min(negatives)
            costs.append(torch.log1p(torch.exp(gap)) if margin is None else hinge(gap + margin))
    return mean(costs)


def slow_msml(d, labels, margin=0.3):
    positives = [d[i][j] for i, j in combinations(range(len(labels)), 2) if labels[i] == labels[j]]
    negatives = [d[i][j] for i, j in combinations(range(len(labels)), 2) if labels[i] != labels[j]]
    return hinge(max(positives) - min(negatives) + margin) if positives and negatives else 0.0


SLOW = {
    contrastive_loss: slow_contrastive,
    triplet_loss: slow_triplet,
    improved_triplet_loss: slow_improved_triplet,
    quadruplet_loss: slow_quadruplet,
    trihard_loss: slow_trihard,
    msml_loss: slow_msml,
}
CASES = [(loss, margins) for loss in SLOW if loss != quadruplet_loss for margins in [(0.3,), (2.0,), (4.0,)]]
CASES += [(quadruplet_loss, margins) for margins in [(0.3, 0.15), (0.3, 2.0), (2.0, -0.5)]] + [(trihard_loss, (None,))]
CASES += [(improved_triplet_loss, (0.3, pull)) for pull in (0.002, 0.5)]
# Each loss with its usual margin, but the contrastive loss with one that reaches as far as Gaussian features lie apart.
USUAL = [(loss, (4.0,) if loss == contrastive_loss else ()) for loss in SLOW] + [(trihard_loss, (None,))]


def name(value):
    return getattr(value, "__name__", None)


each_loss = pytest.mark.parametrize("loss", SLOW, ids=name)
each_case = pytest.mark.parametrize("loss, margins", CASES, ids=name)
each_usual = pytest.mark.parametrize("loss, margins", USUAL, ids=name)


def slow(loss, features, labels, *margins):
    """The loop's value, a tensor with a gradient also where there is nothing to sum up."""
    d = [[torch.linalg.norm(x - y) for y in features] for x in features]
    return SLOW[loss](d, labels.tolist(), *margins) + 0 * features.sum()


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


# ---- batches that break losses --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("labels", [[1, 1, 1, 1], [1, 2, 3, 4], [5]], ids=str)
@pytest.mark.parametrize("loss, margins", [case for case in USUAL if case[0] != contrastive_loss], ids=name)
def test_trap_14_nothing_to_compare_is_zero_with_a_gradient(loss, margins, labels, kind):
    features = (0.01 * batch(13, (len(labels),), 8, kind)[0]).requires_grad_()  # nearer than any margin
    value = loss(features, torch.tensor(labels), *margins)
    value.backward()
    assert value == 0 and (features.grad == 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("counts", [(2, 6), (5, 4), (1, 1, 1)], ids=str)
def test_trap_14_no_quadruplet_is_zero_with_a_gradient(counts, kind):
    """Two persons have triplets but no quadruplet. Once it was what rounding left, up to 1e-5, of either sign."""
    for seed in range(20):
        features, labels = batch(seed, counts, 4, kind)
        value = quadruplet_loss(features.requires_grad_(), labels, 0.3, 1.0)
        value.backward()
        assert value == 0 and (features.grad == 0).all()


def test_trap_14_contrastive_has_pairs_of_one_kind():
    features, _ = batch(13, (4,), 8)
    apart = torch.pdist(features)
    torch.testing.assert_close(contrastive_loss(features, [1, 1, 1, 1], 5.0), apart.square().mean())
    torch.testing.assert_close(contrastive_loss(features, [1, 2, 3, 4], 5.0), F.relu(5 - apart).square().mean())
    alone = features[:1].clone().requires_grad_()
    value = contrastive_loss(alone, [1])
    value.backward()
    assert value == 0 and (alone.grad == 0).all()


@pytest.mark.parametrize("scale", [1.0, 100.0, 1e-4])
@each_usual
def test_trap_11_equal_images_have_no_nan_in_their_gradient(loss, margins, scale):
    """One person is a single point, and so are two persons' images."""
    features, labels = batch(5, (4, 4, 3), kind=torch.float32)
    features[labels == 3] = features[0].clone()
    features[labels == 10] = features[labels == 17][:1].clone()
    features = (scale * features).requires_grad_()
    value = loss(features, labels, *margins)
    value.backward()
    assert torch.isfinite(features.grad).all()
    # log(1 + exp(.)) of distances of some 500 overflows in the loop: it is its argument then
    if scale < 100 or margins != (None,):
        expected = slow(loss, features.detach().double(), labels, *margins)
        torch.testing.assert_close(value.double(), expected, rtol=2e-4, atol=2e-4)
    assert torch.isfinite(value)


@pytest.mark.parametrize("point", [0.0, 1.0, 0.1, 300.7])
@pytest.mark.parametrize(
    "loss, margins, expected",
    [
        (contrastive_loss, (), 27 / 36),  # of 36 pairs 9 are of one person and cost nothing, 27 cost the margin squared
        (contrastive_loss, (3.0,), 9 * 27 / 36),
        (triplet_loss, (), 0.3),
        (improved_triplet_loss, (), 0.3),
        (quadruplet_loss, (), 0.45),
        (quadruplet_loss, (0.3, -0.15), 0.3),
        (trihard_loss, (), 0.3),
        (trihard_loss, (None,), math.log(2)),
        (msml_loss, (), 0.3),
    ],
    ids=name,
)
def test_a_collapsed_batch(loss, margins, expected, point):
    features = torch.full((9, 16), point, requires_grad=True)
    value = loss(features, torch.arange(9) // 3, *margins)
    value.backward()
    assert value.item() == pytest.approx(expected, abs=1e-6)
    assert (features.grad == 0).all(), "no direction is better than another"


@each_usual
def test_trap_11_autocast_computes_in_float32(loss, margins):
    features, labels = batch(6, kind=torch.float32)
    features = features + 10  # in bf16 products of these lose everything
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss(features, labels, *margins)
        half = loss(features.bfloat16(), labels, *margins)
    assert inside.dtype == half.dtype == torch.float32
    assert inside == loss(features, labels, *margins)
    assert half == loss(features.bfloat16().float(), labels, *margins)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@each_usual
def test_half_precision_features_give_float32(loss, margins, kind):
    features, labels = batch(6, kind=torch.float32)
    assert loss(features.to(kind), labels, *margins).dtype == torch.float32


def test_trap_12_a_huge_soft_margin_is_finite():
    features = torch.tensor([[0.0], [1e4], [0.5], [2e4]], requires_grad=True)
    loss = trihard_loss(features, torch.tensor([1, 1, 2, 2]), margin=None)
    loss.backward()
    assert torch.isfinite(loss) and loss > 9e3 and torch.isfinite(features.grad).all()


@each_usual
def test_a_loss_does_not_depend_on_the_order_of_the_batch(loss, margins):
    features, labels = batch(7, (3, 5, 2))
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss(features[order], labels[order], *margins), loss(features, labels, *margins))


@pytest.mark.parametrize("loss", [*SLOW, active_shares], ids=name)
def test_labels_come_as_any_integers(loss):
    features, labels = batch(8)
    expected = loss(features, labels)
    assert loss(features, labels.tolist()) == expected
    for kind in ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"):
        assert loss(features, labels.numpy().astype(kind)) == expected, kind
        assert loss(features, labels.to(getattr(torch, kind))) == expected, kind


@pytest.mark.parametrize(
    "features, labels", [((4, 2), 3), ((4, 2, 2), 4), ((4,), 4), ((4, 2), (4, 1)), ((4, 2), 1), ((1, 2), ())], ids=str
)
@pytest.mark.parametrize("loss", [*SLOW, active_shares], ids=name)
def test_a_loss_refuses(loss, features, labels):
    with pytest.raises(ValueError, match="shape"):
        loss(torch.zeros(features), torch.zeros(labels, dtype=torch.long))


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


# ---- active shares --------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(ANY_COUNTS, SEEDS, st.sampled_from([-1.0, 0.0, 0.3, 2.0]))
def test_active_shares_are_the_loop(counts, seed, margin):
    features, labels = batch(seed, counts, 3)
    d, every = pairwise_distances(features), triplets(labels.tolist())
    active = [(a, p, n) for a, p, n in every if d[a, p] - d[a, n] + margin > 0]
    of_triplets, of_anchors = active_shares(features, labels, margin)
    if not every:
        assert of_triplets.isnan() and of_anchors.isnan()
        return
    assert of_triplets.item() == pytest.approx(len(active) / len(every))
    assert of_anchors.item() == pytest.approx(len({a for a, _, _ in active}) / len({a for a, _, _ in every}))


def test_active_shares_from_collapse_to_peace():
    labels = torch.arange(12) // 4
    spread = torch.randn(12, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert active_shares(0 * spread, labels) == (1, 1), "collapsed: every triplet still costs the margin"
    assert active_shares(0 * spread, labels, 0.0) == (0, 0), "a hinge of exactly zero is at peace"
    assert active_shares(spread + 99 * F.one_hot(labels, 8), labels) == (0, 0)
    middle = active_shares(spread, labels)
    assert 0 < middle[0] < middle[1] <= 1 and not middle[0].requires_grad and not middle[1].requires_grad


def test_active_shares_by_hand():
    """Person 1 at 0 and 1 of a line, person 2 at 3 and 4: the two inner images have a negative at 2, the others at 3.

    At margin 1.5 they still want it at 1 + 1.5: 2 of 8 triplets, 2 of 4 anchors. At 1 they have just what they want.
    """
    features, labels = torch.tensor([[0.0], [1.0], [3.0], [4.0]]), [1, 1, 2, 2]
    assert active_shares(features, labels, 1.5) == (2 / 8, 2 / 4)
    assert active_shares(features, labels, 1.0) == (0, 0)


@pytest.mark.parametrize("labels", [[1, 1, 1], [1, 2, 3]], ids=str)
def test_active_shares_without_triplets(labels):
    assert all(share.isnan() for share in active_shares(torch.randn(3, 4), labels))


# ---- distances ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_pairwise_distances(kind):
    features, _ = batch(9, (5, 5), 64, kind)
    expected = torch.tensor([[float(torch.linalg.norm((a - b).double())) for b in features] for a in features])
    ours = pairwise_distances(features)
    assert ours.dtype == kind
    away = ~torch.eye(10, dtype=torch.bool)
    torch.testing.assert_close(ours[away].float(), expected[away], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_the_diagonal_is_zero(kind, scale):
    """Once float32's rounding left up to 0.09 on it where features are 100 long."""
    features, _ = batch(10, (16, 16), 512, kind)
    assert (pairwise_distances(scale * features).diagonal() == 0).all()


def test_equal_images_lie_together():
    """And so it left between two equal images."""
    features, labels = batch(11, (16, 16), 512, torch.float32)
    one = labels == labels[0]
    features[one] = features[0].clone()
    assert pairwise_distances(20 * features)[one][:, one].max() <= 1e-5 * 20 * features[0].norm()


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_trap_9_near_duplicates_keep_their_digits(offset):
    """Also where all features lie far from the origin: the product form alone is wrong by far more than 0.1 %."""
    features, _ = batch(11, (8,), 512, torch.float32)
    features = offset + torch.cat([features, features + 0.002])
    expected = torch.cdist(features.double(), features.double(), compute_mode="donot_use_mm_for_euclid_dist")
    torch.testing.assert_close(pairwise_distances(features).double(), expected, rtol=1e-3, atol=0)


def test_features_far_from_the_origin_keep_their_digits():
    """Off by 1e-7 here; without moving them to it first by 7e-5."""
    features, _ = batch(11, (16,), 512, torch.float32)
    features = features + 20
    expected = torch.cdist(features.double(), features.double(), compute_mode="donot_use_mm_for_euclid_dist")
    torch.testing.assert_close(pairwise_distances(features).double(), expected, rtol=3e-6, atol=0)


def test_the_backward_of_distances_is_autograds():
    """For a gradient that is not symmetric, as a loss on anchors hands it down."""
    x, weights = batch(14, (6,), 3)[0], batch(15, (6,), 6)[0]
    gradients = []
    for squared in (lambda x: losses._SquaredDistances.apply(x)[0], lambda x: (x[:, None] - x).square().sum(2)):
        leaf = x.clone().requires_grad_()
        (squared(leaf) * weights).sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients)


def test_distances_have_two_derivatives():
    features = batch(16, (5,), 3)[0].requires_grad_()
    torch.autograd.gradcheck(pairwise_distances, features)
    torch.autograd.gradgradcheck(pairwise_distances, features)


@pytest.mark.parametrize(
    "x, y",
    [
        ([0.5, -3.0, 2.0, 2.0], [1.0, 0.0, -1.0, 5.0, 5.0]),
        ([1.0, 0.0, 5.0], [1.0, 5.0, 0.0, 0.0, 1.0]),  # ties: a hinge of zero, with no slope
        ([-9.0, -8.0], [1.0, 0.0, 3.0]),  # below all
        ([9.0, 8.0], [1.0, 0.0, 3.0]),  # above all
        ([1.0, 2.0], []),
        ([], [1.0, 2.0]),
    ],
    ids=str,
)
def test_hinge_sums_are_the_m_x_k_form(x, y):
    results = []
    for sums in (losses._hinge_sums, lambda x, y: F.relu(x[:, None] - y).sum(1)):
        a, b = torch.tensor(x, dtype=torch.float64, requires_grad=True), torch.tensor(y, requires_grad=True)
        value = sums(a, b)
        (value * torch.arange(1, len(x) + 1)).sum().backward()
        results.append((value, a.grad, b.grad))
    for ours, expected in zip(*results):
        torch.testing.assert_close(ours, expected)


# ---- verification ---------------------------------------------------------------------------------------------------


def slow_verification(logits, labels):
    """-log sigmoid(l) for pairs of one person, -log(1 - sigmoid(l)) for others; half from each kind."""
    pairs = list(combinations(range(len(labels)), 2))
    one = mean(torch.log1p(torch.exp(-logits[i, j])) for i, j in pairs if labels[i] == labels[j])
    two = mean(torch.log1p(torch.exp(logits[i, j])) for i, j in pairs if labels[i] != labels[j])
    return (one + two) / 2 + 0 * logits.sum()


def pair_logits(seed, n, kind=torch.float64):
    half = torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (3 * (half + half.T)).to(kind)


@pytest.mark.parametrize("counts", [*COUNTS, (5,), (1, 1, 1, 1), (1,)], ids=str)
def test_verification_is_the_loop(counts):
    """Also with one person only, or all different: the half that is there."""
    labels = batch(1, counts)[1]
    results = []
    for loss in (verification_loss, slow_verification):
        leaf = pair_logits(1, len(labels), torch.float32).requires_grad_()
        value = loss((leaf + leaf.T) / 2, labels)
        value.backward()
        results.append((value, leaf.grad))
    for ours, expected in zip(*results):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(ANY_COUNTS, SEEDS)
def test_verification_is_the_loop_for_any_counts(counts, seed):
    labels = batch(seed, counts)[1]
    logits = pair_logits(seed, len(labels), torch.float32)
    expected = slow_verification(logits.double(), labels)
    torch.testing.assert_close(verification_loss(logits, labels).double(), expected, rtol=1e-5, atol=1e-6)


def test_verification_of_a_model_that_does_not_know():
    """Costs log 2 however few pairs are of one person; to be sure of the wrong answer costs what one is sure of."""
    labels = torch.tensor([1, 1, 2, 3, 4, 5, 6, 7])
    assert verification_loss(torch.zeros(8, 8), labels).item() == pytest.approx(math.log(2), abs=1e-6)
    assert verification_loss(torch.full((8, 8), 1e4), labels).item() == pytest.approx(1e4 / 2)
    right = torch.where(labels[:, None] == labels, 1e4, -1e4).requires_grad_()
    value = verification_loss(right, labels)
    value.backward()
    assert value == 0 and (right.grad == 0).all()


def test_verification_leaves_an_image_and_itself_alone():
    logits, labels = pair_logits(2, 8), torch.arange(8) // 4
    assert verification_loss(logits.clone().fill_diagonal_(99), labels) == verification_loss(logits, labels)


def test_verification_does_not_depend_on_the_order_of_the_batch():
    logits, labels = pair_logits(3, 10), batch(7, (3, 5, 2))[1]
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    again = verification_loss(logits[order][:, order], labels[order])
    torch.testing.assert_close(again, verification_loss(logits, labels))
    assert verification_loss(logits, labels.tolist()) == verification_loss(logits, labels.int().numpy())


def test_verification_under_autocast_is_float32():
    logits, labels = pair_logits(4, 8, torch.bfloat16), torch.arange(8) // 4
    expected = verification_loss(logits.float(), labels)
    with torch.autocast("cpu", torch.bfloat16):
        inside = verification_loss(logits, labels)
    for loss in (inside, verification_loss(logits, labels)):
        assert loss.dtype == torch.float32 and loss == expected


@pytest.mark.parametrize("logits, labels", [((4, 4), 3), ((3, 3), 4), ((4, 3), 4), ((4,), 4)], ids=str)
def test_verification_refuses(logits, labels):
    with pytest.raises(ValueError, match="shape|size"):
        verification_loss(torch.zeros(logits), torch.zeros(labels, dtype=torch.long))


# ---- cross-entropy --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_trap_13_label_smoothing_is_eps_over_k(smoothing):
    logits, labels = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 4, 2, 2, 1, 3])
    total = 0.0
    for row, label in zip(logits.double(), labels):
        log_p = row - torch.logsumexp(row, 0)
        target = [smoothing / 5 + (1 - smoothing if c == label else 0) for c in range(5)]
        total -= sum(t * float(lp) for t, lp in zip(target, log_p))
    assert float(cross_entropy(logits, labels, smoothing)) == pytest.approx(total / 6, rel=1e-6)  # one float32 mean


def test_cross_entropy_under_autocast_is_float32():
    logits = torch.randn(4, 9)
    with torch.autocast("cpu", torch.bfloat16):
        loss = cross_entropy(logits.bfloat16(), torch.arange(4), 0.1)
    assert loss.dtype == cross_entropy(logits.bfloat16(), torch.arange(4), 0.1).dtype == torch.float32
    assert np.isclose(float(loss), float(cross_entropy(logits.bfloat16().float(), torch.arange(4), 0.1)))


# ---- one choice of triplets, two distances --------------------------------------------------------------------------


def slow_hardest(d, labels):
    """Each anchor that has both -> its farthest positive and its nearest negative."""
    every, chosen = range(len(labels)), {}
    for a in every:
        positives = [p for p in every if p != a and labels[p] == labels[a]]
        negatives = [n for n in every if labels[n] != labels[a]]
        if positives and negatives:
            chosen[a] = max(positives, key=lambda p: d[a][p]), min(negatives, key=lambda n: d[a][n])
    return chosen


def as_dict(triplets):
    positives, negatives, valid = (values.tolist() for values in triplets)
    return {a: (positives[a], negatives[a]) for a in range(len(valid)) if valid[a]}


def any_distances(seed, n):
    """Of no space: not symmetric, so that rows and columns are not the same."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, n, generator=generator, dtype=torch.float64).add(0.1).fill_diagonal_(0)


@settings(max_examples=40, deadline=None)
@given(ANY_COUNTS, SEEDS)
def test_the_hardest_triplets_are_the_loops(counts, seed):
    """Trap 10: identities with unequal counts, also of one image."""
    labels = batch(seed, counts)[1]
    d = any_distances(seed, len(labels))
    assert as_dict(hardest_triplets(d, labels)) == slow_hardest(d.tolist(), labels.tolist())


def test_nobody_is_his_own_positive():
    """Trap 22: by the aligned distance an image may lie farther from itself than from others of its person.

    The first image's stripes are u, v, u and the second's are u, u, u: the way through the first and itself steps off
    the diagonal twice, and meets v twice.
    """
    u, v, far = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 9.0]])
    stripes = torch.stack([torch.stack(rows) for rows in ((u, v, u), (u, u, u), (far, far, far), (far, far, u))])
    d = local_distances(stripes, stripes)
    assert d[0, 0] > d[0, 1], "else this is no test"
    assert as_dict(hardest_triplets(d, [1, 1, 2, 2])) == slow_hardest(d.tolist(), [1, 1, 2, 2])


@pytest.mark.parametrize("labels", [[1, 1, 1, 1], [1, 2, 3, 4], [5]], ids=str)
def test_trap_14_no_triplet_to_choose(labels):
    features = (0.01 * batch(13, (len(labels),), 8)[0]).requires_grad_()  # nearer than any margin
    distances = pairwise_distances(features)
    distances.retain_grad()
    hardest = hardest_triplets(distances, labels)
    assert not hardest[2].any()
    value = mined_loss(distances, hardest)
    value.backward()
    assert value == 0 and (distances.grad == 0).all() and (features.grad == 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("margin", [0.3, 2.0])
@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_trihard_is_the_mined_loss_of_its_own_distances(counts, margin, kind):
    """The same numbers picked in another way: no tolerance but for the order in which gradients are summed up."""
    features, labels = batch(17, counts, 4, kind)
    results = []
    for mined in (False, True):
        leaf = features.clone().requires_grad_()
        apart = pairwise_distances(leaf)
        value = mined_loss(apart, hardest_triplets(apart, labels), margin) if mined else None
        value = trihard_loss(leaf, labels, margin) if value is None else value
        value.backward()
        results.append((value, leaf.grad))
    for ours, expected in zip(*results):
        torch.testing.assert_close(ours, expected)
    assert results[0][1].any()


@settings(max_examples=40, deadline=None)
@given(ANY_COUNTS, SEEDS, st.sampled_from([0.0, 0.3, 1.0]))
def test_triplets_chosen_by_one_distance_and_judged_by_another(counts, seed, margin):
    """The mean is over the anchors, satisfied ones too (trap 15)."""
    labels = batch(seed, counts)[1]
    chosen_by, judged_by = any_distances(seed, len(labels)), any_distances(seed + 1, len(labels))
    chosen = slow_hardest(chosen_by.tolist(), labels.tolist())
    expected = mean(hinge(judged_by[a, p].item() - judged_by[a, n].item() + margin) for a, (p, n) in chosen.items())
    ours = mined_loss(judged_by, hardest_triplets(chosen_by, labels), margin)
    assert ours.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_mining_carries_no_gradient():
    """The distance that chose the triplets learns nothing from them."""
    labels = batch(18, (2, 3, 4))[1]
    chosen_by, judged_by = (any_distances(seed, 9).requires_grad_() for seed in (18, 19))
    mined_loss(judged_by, hardest_triplets(chosen_by, labels)).backward()
    assert chosen_by.grad is None and judged_by.grad.any()


@pytest.mark.parametrize("shape", [(4, 1), (3,), ()], ids=str)
def test_mining_refuses(shape):
    with pytest.raises(ValueError, match="labels must be one integer for each of the 4 rows"):
        hardest_triplets(torch.zeros(4, 4), torch.zeros(shape, dtype=torch.long))


# ---- mutual learning ------------------------------------------------------------------------------------------------


def two_logits(seed=0, images=5, classes=7, kind=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(2, images, classes, generator=generator, dtype=torch.float64)).to(kind)


def slow_kl(q_logits, p_logits):
    """Mean over the images of sum q log(q / p)."""
    total = 0.0
    for q_row, p_row in zip(q_logits.tolist(), p_logits.tolist(), strict=True):
        q, p = ([math.exp(x) / sum(math.exp(y) for y in row) for x in row] for row in (q_row, p_row))
        total += sum(a * math.log(a / b) for a, b in zip(q, p))
    return total / len(q_logits)


@pytest.mark.parametrize("seed", range(3))
def test_class_mutual_is_the_definition_of_kl(seed):
    """Which is computed in float32: a sum of a few terms keeps six digits, 1e-5 allows for five."""
    own, peer = two_logits(seed)
    ours = class_mutual_loss(own, peer)
    assert ours.shape == () and ours.item() == pytest.approx(slow_kl(peer, own), rel=1e-5)
    assert abs(slow_kl(peer, own) - slow_kl(own, peer)) > 1e-2, "KL(own || peer) is another number"


def test_trap_16_students_of_one_mind_learn_nothing_from_each_other():
    """KL(p, p) = 0, also where the logits differ by a constant, which no probability sees."""
    logits = two_logits(kind=torch.float32)[0].requires_grad_()
    value = class_mutual_loss(logits, logits.clone())
    value.backward()
    assert value == 0 and logits.grad.abs().max() < 1e-7  # p - q of probabilities, which float32 keeps to 6e-8
    assert abs(class_mutual_loss(logits, logits + 3).item()) < 1e-6


def test_trap_16_the_peer_teaches_and_is_not_taught():
    """The student's gradient is p - q, a share an image."""
    own, peer = (logits.requires_grad_() for logits in two_logits().unbind())
    class_mutual_loss(own, peer).backward()
    assert peer.grad is None
    torch.testing.assert_close(own.grad, (own.softmax(1) - peer.softmax(1)).detach() / 5, rtol=1e-5, atol=1e-6)


LOGITS = st.lists(st.lists(st.floats(-50, 50, width=32), min_size=6, max_size=6), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(LOGITS, st.randoms(use_true_random=False))
def test_kl_is_never_negative(rows, random):
    own = torch.tensor(rows)
    peer = torch.tensor([random.sample(row, len(row)) for row in rows])
    value = class_mutual_loss(own, peer)
    assert torch.isfinite(value) and value > -1e-5  # logarithms down to -100 keep 4e-6 of themselves


def test_kl_of_students_who_are_sure_is_finite():
    """One is sure of the first class, the other of the second: the KL is the difference of the logits."""
    own = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    peer = torch.tensor([[-1e4, 1e4, 0.0]])
    value = class_mutual_loss(own, peer)
    value.backward()
    assert value.item() == pytest.approx(2e4)
    torch.testing.assert_close(own.grad, torch.tensor([[1.0, -1.0, 0.0]]))


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_class_mutual_of_half_precision_is_float32(kind):
    own, peer = two_logits(kind=kind)
    expected = class_mutual_loss(own.float(), peer.float())
    with torch.autocast("cpu", torch.bfloat16):
        inside = class_mutual_loss(own, peer)
    for value in (class_mutual_loss(own, peer), inside):
        assert value.dtype == torch.float32 and value == expected


def two_features(seed=0, images=6, widths=(4, 9), kind=torch.float64):
    """Of two students whose features need not be equally wide."""
    return [batch(seed + i, (images,), width, kind)[0].requires_grad_() for i, width in enumerate(widths)]


each_zero_gradient = pytest.mark.parametrize("zero_gradient", [True, False])


@each_zero_gradient
@pytest.mark.parametrize("kind", KINDS)
def test_metric_mutual_is_the_loop_of_equation_3(kind, zero_gradient):
    own, peer = two_features(20, kind=kind)
    total = 0.0
    for i in range(6):
        for j in range(6):
            ours, theirs = (math.dist(x[i].tolist(), x[j].tolist()) for x in (own, peer))
            total += (ours - theirs) ** 2 + (ours - theirs) ** 2
    value = metric_mutual_loss(own, peer, zero_gradient)
    assert value.dtype == kind and total > 1
    torch.testing.assert_close(value.item(), total / 6**2, **close(kind))


def test_metric_mutual_zero_gradient_is_the_default():
    assert inspect.signature(metric_mutual_loss).parameters["zero_gradient"].default is True


@each_zero_gradient
def test_students_who_see_one_geometry_learn_nothing_from_each_other(zero_gradient):
    """Equal features; and turned or moved ones, whose distances are the same up to rounding."""
    own = two_features(21)[0]
    peer = own.detach().clone().requires_grad_()
    value = metric_mutual_loss(own, peer, zero_gradient)
    value.backward()
    assert value == 0 and (own.grad == 0).all() and (peer.grad == 0).all()
    turn = torch.linalg.qr(batch(22, (4,), 4)[0]).Q
    assert metric_mutual_loss(own, own @ turn + 5, zero_gradient) < 1e-20  # the square of 1e-15 and a bit


def test_trap_16_each_student_takes_the_others_distances_as_given():
    """The gradient of either is that of (own - constant)^2 alone."""
    students = two_features(23)
    metric_mutual_loss(*students).backward()
    for own, other in (students, students[::-1]):
        alone = own.detach().clone().requires_grad_()
        (pairwise_distances(alone) - pairwise_distances(other).detach()).square().mean().backward()
        torch.testing.assert_close(own.grad, alone.grad, rtol=1e-12, atol=1e-12)
        assert own.grad.abs().max() > 0.01


def test_without_zero_gradient_each_goes_twice_as_far():
    """The same value, twice the gradient. A factor of two rounds nothing, only the order of sums may differ."""
    values, gradients = [], []
    for zero_gradient in (True, False):
        students = two_features(24)
        values.append(metric_mutual_loss(*students, zero_gradient))
        values[-1].backward()
        gradients.append([x.grad for x in students])
    torch.testing.assert_close(*values, rtol=1e-12, atol=0)
    for once, twice in zip(*gradients):
        torch.testing.assert_close(2 * once, twice, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("zero_gradient, mixed, own", [(True, 0, 2), (False, -4, 4)])
def test_equation_4_second_derivatives_over_the_distances(zero_gradient, mixed, own, monkeypatch):
    """In units of 1 / N^2, for each cell of the two matrices and that cell alone."""
    monkeypatch.setattr(losses, "pairwise_distances", lambda matrix: matrix)
    matrices = tuple(any_distances(seed, 3) for seed in (25, 26))

    def loss(*m):
        return losses.metric_mutual_loss(*m, zero_gradient)

    blocks = torch.autograd.functional.hessian(loss, matrices)
    each_cell = torch.eye(9, dtype=torch.float64).view(3, 3, 3, 3) / 3**2
    for i in (0, 1):
        torch.testing.assert_close(blocks[i][1 - i], mixed * each_cell)
        torch.testing.assert_close(blocks[i][i], own * each_cell)


@each_zero_gradient
def test_equation_4_second_derivatives_over_the_features(zero_gradient):
    features = tuple(x.detach() for x in two_features(27, 3, (2, 3)))
    blocks = torch.autograd.functional.hessian(lambda *x: metric_mutual_loss(*x, zero_gradient), features)
    mixed = blocks[0][1].abs().max()
    assert blocks[0][0].any() and blocks[1][1].any()
    assert mixed == 0 if zero_gradient else mixed > 0.01


@each_zero_gradient
def test_metric_mutual_of_batches_that_break_losses(zero_gradient):
    """One image, and equal images (trap 11): no NaN."""
    for images in (1, 4):
        own, peer = two_features(28, images)
        same = own.detach()[:1].expand(images, -1).clone().requires_grad_()
        value = metric_mutual_loss(same, peer, zero_gradient)
        value.backward()
        assert torch.isfinite(value) and torch.isfinite(same.grad).all() and torch.isfinite(peer.grad).all()
        assert (value == 0) == (images == 1)


def test_metric_mutual_of_half_precision_is_float32():
    own, peer = (x.detach().bfloat16() for x in two_features(29))
    expected = metric_mutual_loss(own.float(), peer.float())
    with torch.autocast("cpu", torch.bfloat16):
        inside = metric_mutual_loss(own, peer)
    for value in (metric_mutual_loss(own, peer), inside):
        assert value.dtype == torch.float32 and value == expected
