"""What losses and local distances refuse: every kind of argument gone wrong, each with an error that names it and says
what was wanted and what was got; never an error from inside a library, never a number."""

import numpy as np
import pytest
import torch
from toy_questions import questions

from reidnb import alignment, losses

X, LABELS = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), [1, 1, 2, 2]
NAN, INF = float("nan"), float("inf")
METRIC = [losses.contrastive_loss, losses.triplet_loss, losses.improved_triplet_loss, losses.quadruplet_loss]
METRIC += [losses.trihard_loss, losses.msml_loss, losses.active_shares]


def short(value):
    return value[-40:] if isinstance(value, str) else ""


def refuses(error, start, said, call, *args):
    with pytest.raises(error) as raised:
        call(*args)
    message = str(raised.value)
    assert type(raised.value) is error and message.startswith(start) and said in message, f"{call.__name__}: {message}"


@pytest.mark.parametrize(
    ("features", "error", "said"),
    [
        (X.numpy(), TypeError, "floating-point torch tensor (N, D), got numpy float32 (4, 3)"),
        (X.tolist(), TypeError, "got list [["),
        (None, TypeError, "got NoneType None"),
        ("features", TypeError, "got str 'features'"),
        (X.long(), TypeError, "got torch int64 (4, 3)"),
        (X.to(torch.complex64), TypeError, "got torch complex64 (4, 3)"),
        (X[0], ValueError, "must have the shape (N, D), got (3,)"),
        (X[None], ValueError, "must have the shape (N, D), got (1, 4, 3)"),
        (X[0, 0], ValueError, "must have the shape (N, D), got ()"),
    ],
    ids=short,
)
def test_features(features, error, said):
    for loss in METRIC:
        refuses(error, "features must ", said, loss, features, LABELS)


@pytest.mark.parametrize(
    ("labels", "error", "said"),
    [
        (None, TypeError, "must be whole numbers (N,), in a tensor, an array or a list, got NoneType None"),
        ("aabb", TypeError, "got str 'aabb'"),
        (["a", "a", "b", "b"], TypeError, "got list ['a'"),
        (np.array(["a", "a", "b", "b"]), TypeError, "got numpy <U1 (4,)"),
        ([1.0, 1.0, 2.0, 2.0], TypeError, "got list [1.0"),
        (torch.tensor([1, NAN, 2, 2]), TypeError, "got torch float32 (4,)"),
        ([True, True, False, False], TypeError, "got list [True"),
        ([1, 1, None, 2], TypeError, "got list [1, 1, None, 2]"),
        ([[1, 1], [2]], TypeError, "got list [[1, 1], [2]]"),
        ({1, 2}, TypeError, "got set {1, 2}"),
        ([1, 1, 2], ValueError, "must be one integer for each of the 4 rows, got shape (3,)"),
        ([], ValueError, "got shape (0,)"),
        (7, ValueError, "got shape ()"),
        ([[1], [1], [2], [2]], ValueError, "got shape (4, 1)"),
    ],
    ids=short,
)
def test_labels(labels, error, said):
    for loss in [*METRIC, losses.hardest_triplets, losses.verification_loss, losses.cross_entropy]:
        refuses(error, "labels must ", said, loss, torch.zeros(4, 4), labels)


@pytest.mark.parametrize(
    ("margin", "error", "said"),
    [
        ("0.3", TypeError, "got str '0.3'"),
        ([0.3], TypeError, "got list [0.3]"),
        (torch.tensor(0.3), TypeError, "got torch float32 ()"),
        (True, TypeError, "got bool True"),
        (0.3j, TypeError, "got complex 0.3j"),
        (NAN, ValueError, "got float nan"),
        (INF, ValueError, "got float inf"),
    ],
    ids=short,
)
def test_margins(margin, error, said):
    for loss in METRIC:
        refuses(error, "margin must be a number", said, loss, X, LABELS, margin)


def test_a_margin_of_none_is_the_soft_margin_of_trihard_only():
    for loss in METRIC:
        if loss is losses.trihard_loss:
            assert loss(X, LABELS, None) > 0
        else:
            refuses(TypeError, "margin must be a number", "got NoneType None", loss, X, LABELS, None)


def test_numbers_come_as_any_kind():
    for margin in (1, np.float32(1), np.int64(1), np.float64(1)):
        assert losses.trihard_loss(X, LABELS, margin) == losses.trihard_loss(X, LABELS, 1.0)


D, HARDEST = losses.pairwise_distances(X), losses.hardest_triplets(losses.pairwise_distances(X), LABELS)
ZEROS, ONE, ASKED = torch.zeros(4, 2, 3), questions(1, 2), torch.ones(4, 2, dtype=torch.bool)
STRIPES, COSTS = torch.randn(2, 3, 4), torch.rand(3, 4)
OTHERS = [
    (lambda: losses.pairwise_distances(X.numpy()), TypeError, "features must be a floating-point torch tensor"),
    (lambda: losses.pairwise_distances(X[0]), ValueError, "features must have the shape (N, D), got (3,)"),
    (lambda: losses.contrastive_loss(X, LABELS, -0.1), ValueError, "margin must be a number from 0 on, got float -0.1"),
    (
        lambda: losses.improved_triplet_loss(X, LABELS, 0.3, -1),
        ValueError,
        "pull must be a number from 0 on, got int -1",
    ),
    (
        lambda: losses.improved_triplet_loss(X, LABELS, 0.3, "1"),
        TypeError,
        "pull must be a number from 0 on, got str '1'",
    ),
    (lambda: losses.quadruplet_loss(X, LABELS, 0.3, None), TypeError, "margin2 must be a number, got NoneType None"),
    (lambda: losses.quadruplet_loss(X, LABELS, 0.3, NAN), ValueError, "margin2 must be a number, got float nan"),
    # classification and verification
    (lambda: losses.cross_entropy(X.numpy(), LABELS), TypeError, "logits must be a floating-point torch tensor (N, C)"),
    (lambda: losses.cross_entropy(X[0], LABELS), ValueError, "logits must have the shape (N, C), got (3,)"),
    (lambda: losses.cross_entropy(X, [0, 1, 2, 3]), ValueError, "labels must be classes 0..2: Target 3"),
    (lambda: losses.cross_entropy(X, [0, 1, 2, -1]), ValueError, "labels must be classes 0..2: Target -1"),
    (lambda: losses.cross_entropy(X, [0, 1, 2, -100]), ValueError, "labels must be classes 0..2: Target -100"),
    (lambda: losses.cross_entropy(X, [0] * 4, 1.5), ValueError, "smoothing must be a number in 0..1, got float 1.5"),
    (lambda: losses.cross_entropy(X, [0] * 4, -0.1), ValueError, "smoothing must be a number in 0..1, got float -0.1"),
    (lambda: losses.cross_entropy(X, [0] * 4, None), TypeError, "smoothing must be a number in 0..1, got NoneType"),
    (lambda: losses.verification_loss(X, LABELS), ValueError, "pair_logits must have the shape (N, N), got (4, 3)"),
    (lambda: losses.verification_loss(D.numpy(), LABELS), TypeError, "pair_logits must be a floating-point"),
    # triplets
    (lambda: losses.hardest_triplets(X, LABELS), ValueError, "distances must have the shape (N, N), got (4, 3)"),
    (lambda: losses.hardest_triplets(D.detach().numpy(), LABELS), TypeError, "distances must be a floating-point"),
    (lambda: losses.mined_loss(X, HARDEST), ValueError, "distances must have the shape (N, N), got (4, 3)"),
    (
        lambda: losses.mined_loss(D, None),
        ValueError,
        "triplets must be those of hardest_triplets for 4 images, got None",
    ),
    (lambda: losses.mined_loss(D, HARDEST[:2]), ValueError, "triplets must be those of hardest_triplets for 4 images"),
    (lambda: losses.mined_loss(D[:3, :3], HARDEST), ValueError, "triplets must be those of hardest_triplets for 3"),
    (lambda: losses.mined_loss(D, HARDEST, "1"), TypeError, "margin must be a number or None, got str '1'"),
    # students
    (lambda: losses.class_mutual_loss(X, X[:, :2]), ValueError, "must have one shape, got (4, 3), (4, 2)"),
    (lambda: losses.class_mutual_loss(X, X[:3]), ValueError, "logits and peer_logits must have one shape"),
    (
        lambda: losses.class_mutual_loss(X, X.numpy()),
        ValueError,
        "must have one shape, got (4, 3), numpy float32 (4, 3)",
    ),
    (lambda: losses.class_mutual_loss(None, X), TypeError, "logits must be a floating-point torch tensor (N, C)"),
    (lambda: losses.class_mutual_loss(X[0], X[0]), ValueError, "logits must have the shape (N, C), got (3,)"),
    (lambda: losses.metric_mutual_loss(X, X[:3]), ValueError, "must have one shape, got (4, 4), (3, 3)"),
    (lambda: losses.metric_mutual_loss(X, None), TypeError, "features must be a floating-point torch tensor"),
    # attributes
    (lambda: losses.focal_loss(X, X[:2]), ValueError, "logits and targets must have one shape, got (4, 3), (2, 3)"),
    (
        lambda: losses.focal_loss(X, None),
        ValueError,
        "logits and targets must have one shape, got (4, 3), NoneType None",
    ),
    (lambda: losses.focal_loss(X.numpy(), X), TypeError, "logits must be a floating-point torch tensor, got numpy"),
    (lambda: losses.focal_loss(X, X), ValueError, "targets must be 0 or 1"),
    (lambda: losses.focal_loss(X, 0 * X + NAN), ValueError, "targets must be 0 or 1"),
    (lambda: losses.focal_loss(X, 0 * X, -1), ValueError, "gamma must be a number from 0 on, got int -1"),
    (lambda: losses.focal_loss(X, 0 * X, None), TypeError, "gamma must be a number from 0 on, got NoneType None"),
    (lambda: losses.focal_loss(X, 0 * X, NAN), ValueError, "gamma must be a number from 0 on, got float nan"),
    (lambda: losses.focal_loss(X, 0 * X, 2, 2), ValueError, "alpha must be a number in 0..1 or None, got int 2"),
    (
        lambda: losses.focal_loss(X, 0 * X, 2, -0.1),
        ValueError,
        "alpha must be a number in 0..1 or None, got float -0.1",
    ),
    (lambda: losses.focal_loss(X, 0 * X, 2, "0.25"), TypeError, "alpha must be a number in 0..1 or None, got str"),
    (lambda: losses.focal_loss(X, 0 * X, reduction=None), ValueError, "reduction must be 'mean' or 'none', got None"),
    (
        lambda: losses.attribute_costs(ZEROS, X, ONE, "hinge"),
        ValueError,
        "form must be 'softmax', 'focal' or 'weighted'",
    ),
    (lambda: losses.attribute_costs(X, X, ONE), ValueError, "logits must have the shape (N, n, K), got (4, 3)"),
    (lambda: losses.attribute_costs(ZEROS, X.numpy(), ONE), TypeError, "answers must be a floating-point torch tensor"),
    (
        lambda: losses.attribute_costs(ZEROS, X[:2], ONE),
        ValueError,
        "must be of 3 statements, got shapes (4, 2, 3), (2, 3)",
    ),
    (lambda: losses.attribute_costs(ZEROS[..., :2], X[:, :2], ONE), ValueError, "must be of 3 statements, got shapes"),
    (lambda: losses.attribute_costs(ZEROS, 0 * X, ONE, "focal", -1), ValueError, "gamma must be a number from 0 on"),
    (lambda: losses.blind_logits(ONE, "nope"), ValueError, "form must be 'softmax', 'focal' or 'weighted', got 'nope'"),
    (lambda: losses.blind_logits(ONE, "focal", 2, 3), ValueError, "alpha must be a number in 0..1 or None, got int 3"),
    (lambda: losses.voted_loss(ZEROS, ASKED[:2]), ValueError, "must have one shape, got (4, 3), (2, 2)"),
    (lambda: losses.voted_loss(ZEROS, ASKED, "all"), ValueError, "vote must be 'stripe', 'image' or 'mean', got 'all'"),
    (lambda: losses.voted_loss(X, ASKED), ValueError, "costs must have the shape (N, n, M), got (4, 3)"),
    # stripes
    (
        lambda: alignment.stripe_costs(None, COSTS),
        TypeError,
        "x must be numbers, in a tensor, an array or lists, got None",
    ),
    (lambda: alignment.stripe_costs(COSTS, COSTS[:, :2]), ValueError, "of one D, got (3, 4) and (3, 2)"),
    (
        lambda: alignment.shortest_path("abc"),
        TypeError,
        "costs must be numbers, in a tensor, an array or lists, got str",
    ),
    (lambda: alignment.shortest_path([[1, 2], [3]]), TypeError, "costs must be numbers"),
    (
        lambda: alignment.shortest_path(COSTS * 1j),
        TypeError,
        "costs must be numbers, in a tensor, an array or lists, got",
    ),
    (
        lambda: alignment.shortest_path(COSTS * NAN),
        ValueError,
        "costs must be a matrix (H, W), H and W at least 1, without",
    ),
    (lambda: alignment.shortest_path(STRIPES), ValueError, "costs must be a matrix (H, W)"),
    (lambda: alignment.local_distances(STRIPES, None), TypeError, "y must be numbers"),
    (lambda: alignment.local_distances(["a"], STRIPES), TypeError, "x must be numbers"),
    (
        lambda: alignment.local_distances(STRIPES > 0, STRIPES),
        TypeError,
        "x must be numbers, in a tensor, an array or lists",
    ),
    (lambda: alignment.local_distances(STRIPES, STRIPES[0]), ValueError, "(N, H, D) and (M, W, D) of one D, got"),
    (lambda: alignment.local_distances(STRIPES, STRIPES[:, :0]), ValueError, "(N, H, D) and (M, W, D) of one D, got"),
    (lambda: alignment.local_distances(STRIPES[0], STRIPES[0]), ValueError, "(N, H, D) and (M, W, D) of one D, got"),
    (
        lambda: alignment.rigid_distances(STRIPES, STRIPES[:, :2]),
        ValueError,
        "wanted one H, got (2, 3, 4) and (2, 2, 4)",
    ),
    (lambda: alignment.rigid_distances([1, "a"], STRIPES), TypeError, "x must be numbers"),
    (
        lambda: alignment.local_distance_matrix(STRIPES, STRIPES, block=0),
        ValueError,
        "block must be a whole number from 1",
    ),
    (
        lambda: alignment.local_distance_matrix(STRIPES, STRIPES, block=2.5),
        TypeError,
        "block must be a whole number from 1",
    ),
    (lambda: alignment.local_distance_matrix(STRIPES, STRIPES, block=None), TypeError, "block must be a whole number"),
    (
        lambda: alignment.local_distance_matrix(STRIPES, STRIPES[:, :2], False),
        ValueError,
        "wanted one H, got (2, 3, 4)",
    ),
    (lambda: alignment.local_distance_matrix(None, STRIPES), TypeError, "x must be numbers"),
]


@pytest.mark.parametrize(
    ("call", "error", "said"), OTHERS, ids=lambda value: value[:60] if isinstance(value, str) else ""
)
def test_other_arguments(call, error, said):
    with pytest.raises(error) as raised:
        call()
    assert said in str(raised.value), raised.value
    assert type(raised.value) is error and "got" in str(raised.value) or "Target" in said or "0 or 1" in said


def test_stripes_come_as_any_numbers():
    """Whole ones too, and lists: all as float32, but float64 where either is."""
    whole = (10 * STRIPES).round()
    wanted = alignment.local_distances(whole, whole.clone())
    for kind in (whole.long(), whole.int().numpy(), whole.tolist(), whole.half()):
        assert torch.equal(alignment.local_distances(kind, whole), wanted)
    assert alignment.local_distances(whole.double(), whole).dtype == torch.float64


def test_arrays_that_run_backwards_are_taken():
    """torch refuses a negative stride; what it says of labels would contradict itself."""
    features, labels = torch.randn(4, 3), np.array([1, 1, 0, 0])
    assert losses.trihard_loss(features, labels[::-1]) == losses.trihard_loss(features, [0, 0, 1, 1])
