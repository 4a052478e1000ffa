"""Two students who teach each other: classes and distances."""

import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_losses import (
    KINDS,
    any_distances,
    batch,
    close,
)

from reidnb import losses
from reidnb.losses import (
    class_mutual_loss,
    metric_mutual_loss,
    pairwise_distances,
)

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


def test_trap_14_no_images_to_learn_from_each_other():
    own, peer = (torch.zeros(0, 5, requires_grad=True) for _ in range(2))
    for value in (class_mutual_loss(own, peer), metric_mutual_loss(own, peer), metric_mutual_loss(own, peer, False)):
        value.backward()
        assert value == 0 and own.grad is not None
