"""The batches that break losses, the distances under them, and the share of triplets that is still active."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_losses import (
    ANY_COUNTS,
    KINDS,
    SEEDS,
    SLOW,
    USUAL,
    batch,
    each_usual,
    name,
    slow,
    triplets,
)

from reidnb.losses import (
    active_shares,
    contrastive_loss,
    improved_triplet_loss,
    msml_loss,
    pairwise_distances,
    quadruplet_loss,
    trihard_loss,
    triplet_loss,
)

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
@each_usual
def test_trap_14_a_batch_of_no_images_is_zero_with_a_gradient(loss, margins, kind):
    features = torch.zeros(0, 8, dtype=kind, requires_grad=True)
    for labels in ([], torch.zeros(0, dtype=torch.long), np.zeros(0, np.int64)):
        value = loss(features, labels, *margins)
        value.backward()
        assert value == 0 and value.shape == () and value.dtype == kind and features.grad.shape == (0, 8)
    assert all(share.isnan() for share in active_shares(features, []))


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
    x, weights = batch(14, (6,), 3)[0], batch(15, (6,), 6)[0].fill_diagonal_(0)
    gradients = []
    for distances in (pairwise_distances, lambda x: (x[:, None] - x + torch.eye(6)[..., None]).square().sum(2).sqrt()):
        leaf = x.clone().requires_grad_()
        (distances(leaf) * weights).sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_near_duplicates_are_pulled_along_their_difference(offset):
    """By 1 each, in float32; by the product form alone by 1 +- 0.02. 1e-3 leaves room for 1e3 + 0.002, rounded."""
    features = torch.zeros(4, 64)
    features[2:] = 100 * batch(11, (2,), 64, torch.float32)[0]
    features = features + offset
    features[1, 5] += 0.002
    features.requires_grad_()
    pairwise_distances(features)[0, 1].backward()
    expected = torch.zeros(4, 64)
    expected[0, 5], expected[1, 5] = -1, 1
    torch.testing.assert_close(features.grad, expected, rtol=0, atol=1e-3)


def test_the_backward_is_float32_under_autocast_too():
    features, weights = batch(14, (6,), 300, torch.float32)[0].requires_grad_(), batch(15, (6,), 6, torch.float32)[0]
    gradients = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            gradients.append(torch.autograd.grad((pairwise_distances(features) * weights).sum(), features)[0])
    assert torch.equal(*gradients)


def test_distances_have_two_derivatives():
    features = batch(16, (5,), 3)[0].requires_grad_()
    torch.autograd.gradcheck(pairwise_distances, features)
    torch.autograd.gradgradcheck(pairwise_distances, features)
