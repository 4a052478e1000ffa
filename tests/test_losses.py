"""Losses against slow loops over anchors, against pytorch-metric-learning, and on the batches that break losses."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from reidnb.losses import cross_entropy, pairwise_distances, trihard_loss

KINDS = [torch.float32, torch.float64]


def close(kind):
    """The product form |x|^2 + |y|^2 - 2 x.y loses about three of float32's seven digits; float64 has plenty."""
    return {"rtol": 2e-4, "atol": 2e-4} if kind == torch.float32 else {"rtol": 1e-9, "atol": 1e-9}


def batch(seed=0, counts=(4, 4, 4, 4), dimensions=16, kind=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=generator)] * 7 + 3
    return torch.randn(len(labels), dimensions, generator=generator, dtype=torch.float64).to(kind), labels


def slow_trihard(features, labels, margin):
    """One anchor at a time: its farthest positive, its nearest negative."""
    losses = []
    for a in range(len(features)):
        positives = [
            torch.linalg.norm(features[a] - features[p])
            for p in range(len(features))
            if p != a and labels[p] == labels[a]
        ]
        negatives = [
            torch.linalg.norm(features[a] - features[n]) for n in range(len(features)) if labels[n] != labels[a]
        ]
        if positives and negatives:
            gap = max(positives) - min(negatives)
            losses.append(torch.log1p(torch.exp(gap)) if margin is None else torch.clamp(gap + margin, min=0))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("margin", [0.3, 2.0, None])
@pytest.mark.parametrize("counts", [(4, 4, 4, 4), (2, 6), (1, 2, 9), (1, 1, 1, 2)])
@pytest.mark.parametrize("kind", KINDS)
def test_trihard_is_the_loop(margin, counts, kind):
    """Trap 10: identities with unequal counts ([2, 6] is where reshaped masks go wrong)."""
    features, labels = batch(1, counts, kind=kind)
    ours, slow = features.clone().requires_grad_(), features.clone().requires_grad_()
    loss, expected = trihard_loss(ours, labels, margin), slow_trihard(slow, labels, margin)
    torch.testing.assert_close(loss, expected, **close(kind))
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, slow.grad, **close(kind))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=5), st.integers(0, 999))
def test_trihard_is_the_loop_for_any_counts(counts, seed):
    features, labels = batch(seed, tuple(counts), dimensions=3)
    if max(counts) > 1:
        torch.testing.assert_close(trihard_loss(features, labels), slow_trihard(features, labels, 0.3))
    else:
        assert trihard_loss(features, labels) == 0


def test_trihard_checks_out_by_finite_differences():
    features, labels = batch(2, (2, 3, 2), dimensions=4)
    torch.autograd.gradcheck(lambda x: trihard_loss(x, labels, None), features.requires_grad_())


@pytest.mark.parametrize("margin", [0.3, 5.0])
def test_trihard_is_pytorch_metric_learnings(margin):
    """Theirs by default scales features to length 1 and averages over the triplets that are not 0 yet (trap 15).

    With both switched off it is the paper's loss, and ours. Their soft margin (smooth_loss) adds the margin inside.
    """
    from pytorch_metric_learning import distances, losses, miners, reducers

    distance = distances.LpDistance(normalize_embeddings=False)
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
    from pytorch_metric_learning import distances, losses, miners, reducers

    distance = distances.LpDistance(normalize_embeddings=False)
    theirs = losses.TripletMarginLoss(0.0, distance=distance, reducer=reducers.MeanReducer(), smooth_loss=True)
    features, labels = batch(4, (3, 3, 4))
    hardest = miners.BatchHardMiner(distance=distance)(features, labels)
    torch.testing.assert_close(trihard_loss(features, labels, None), theirs(features, labels, hardest))


@pytest.mark.parametrize("labels", [[1, 1, 1, 1], [1, 2, 3, 4], [5, 5, 5, 6][:1] * 4])
@pytest.mark.parametrize("margin", [0.3, None])
def test_trap_14_no_anchor_is_zero_with_a_gradient(labels, margin):
    features = torch.randn(4, 8, requires_grad=True)
    loss = trihard_loss(features, torch.tensor(labels), margin)
    loss.backward()
    assert loss == 0 and (features.grad == 0).all()


@pytest.mark.parametrize("scale", [1.0, 100.0, 1e-4])
@pytest.mark.parametrize("margin", [0.3, None])
def test_trap_11_equal_images_have_no_nan_in_their_gradient(scale, margin):
    features, labels = batch(5, (4, 4), kind=torch.float32)
    features = scale * features
    features[labels == labels[0]] = features[0].clone()  # one identity is a single point
    features.requires_grad_()
    loss = trihard_loss(features, labels, margin)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(features.grad).all()


@pytest.mark.parametrize("margin", [0.3, None])
def test_a_collapsed_batch(margin):
    features = torch.ones(8, 16, requires_grad=True)
    loss = trihard_loss(features, torch.arange(8) // 4, margin)
    loss.backward()
    assert loss.item() == pytest.approx(0.3 if margin else math.log(2), abs=1e-6)
    assert (features.grad == 0).all(), "no direction is better than another"


def test_trap_11_autocast_computes_distances_in_float32():
    features, labels = batch(6, kind=torch.float32)
    features = features + 10  # in bf16 products of these lose everything
    with torch.autocast("cpu", torch.bfloat16):
        inside = trihard_loss(features, labels)
        half = trihard_loss(features.bfloat16(), labels)
    assert inside.dtype == half.dtype == torch.float32
    assert inside == trihard_loss(features, labels)
    assert half == trihard_loss(features.bfloat16().float(), labels)


def test_trap_12_a_huge_soft_margin_is_finite():
    features = torch.tensor([[0.0], [1e4], [0.5], [2e4]], requires_grad=True)
    loss = trihard_loss(features, torch.tensor([1, 1, 2, 2]), margin=None)
    loss.backward()
    assert torch.isfinite(loss) and loss > 9e3 and torch.isfinite(features.grad).all()


def test_trihard_does_not_depend_on_the_order_of_the_batch():
    features, labels = batch(7, (3, 5, 2))
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(trihard_loss(features[order], labels[order]), trihard_loss(features, labels))


def test_labels_come_as_any_integers():
    features, labels = batch(8)
    expected = trihard_loss(features, labels)
    assert trihard_loss(features, labels.numpy()) == trihard_loss(features, labels.tolist()) == expected


@pytest.mark.parametrize("features, labels", [((4, 2), [1, 2, 3]), ((4, 2, 2), [1, 1, 2, 2]), ((4,), [1, 1, 2, 2])])
def test_trihard_refuses(features, labels):
    with pytest.raises(ValueError, match="shape"):
        trihard_loss(torch.zeros(features), torch.tensor(labels))


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
    assert loss.dtype == torch.float32
    assert np.isclose(float(loss), float(cross_entropy(logits.bfloat16().float(), torch.arange(4), 0.1)))
