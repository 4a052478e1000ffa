"""Verification, cross-entropy, and triplets chosen by one distance and judged by another."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_losses import (
    ANY_COUNTS,
    COUNTS,
    KINDS,
    SEEDS,
    any_distances,
    batch,
    hinge,
    mean,
)

from reidnb.alignment import local_distances
from reidnb.losses import (
    cross_entropy,
    hardest_triplets,
    mined_loss,
    pairwise_distances,
    trihard_loss,
    verification_loss,
)

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


def test_trap_14_no_images_to_choose_from():
    """Nor logits to judge: 0 with a gradient."""
    nothing = torch.zeros(0, 0, requires_grad=True)
    hardest = hardest_triplets(nothing, [])
    assert (
        [x.shape for x in hardest] == 3 * [(0,)] and hardest[0].dtype == torch.long and hardest[2].dtype == torch.bool
    )
    logits = torch.zeros(0, 7, requires_grad=True)
    for value in (mined_loss(nothing, hardest), verification_loss(nothing, []), cross_entropy(logits, [], 0.1)):
        value.backward()
        assert value == 0 and value.dtype == torch.float32
    assert nothing.grad is not None and logits.grad is not None


def test_the_soft_margin_of_mined_triplets():
    d, labels = any_distances(3, 9), batch(18, (2, 3, 4))[1]
    chosen = slow_hardest(d.tolist(), labels.tolist())
    expected = mean(math.log1p(math.exp(d[a, p] - d[a, n])) for a, (p, n) in chosen.items())
    assert mined_loss(d, hardest_triplets(d, labels), None).item() == pytest.approx(expected, rel=1e-12)
