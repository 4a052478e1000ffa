"""Evaluation: traps that known projects fell into, and distances whose digits a ranking must not lose."""

import math
import re

import numpy as np
import pytest
import torch
from test_evaluation import random_features, slow_ap
from torch.overrides import TorchFunctionMode

from reidnb.alignment import local_distance_matrix
from reidnb.evaluation import euclidean_distances, evaluate, evaluate_features, rerank
from reidnb.evaluation.distances import compare, padded

# ---- traps ----------------------------------------------------------------------------------------------------------


def ranking(relevance, **options):
    """Scores of one query whose ranking has this relevance."""
    gallery = np.where(relevance, 1, 0)
    return evaluate(
        np.arange(len(gallery))[None].astype(float), [1], gallery, [0], np.ones(len(gallery), int), **options
    )


def test_trap_1_two_forms_of_average_precision():
    assert ranking([0, 1]).mAP == 0.5 and ranking([0, 1], ap="trapezoid").mAP == 0.25
    assert ranking([1, 0, 1, 0, 0]).mAP == pytest.approx(0.8333, abs=5e-5)  # the quoted numbers have four digits
    assert ranking([1, 0, 1, 0, 0], ap="trapezoid").mAP == pytest.approx(0.7917, abs=5e-5)
    with pytest.raises(ValueError, match="'step' or 'trapezoid'"):
        ranking([1], ap="11-point")


def test_trap_2_queries_without_a_match_are_in_no_mean():
    scores = evaluate(np.array([[1.0, 2, 3], [1, 2, 3], [1, 2, 3]]), [1, 9, 2], [1, 0, 2], [0, 0, 0], [1, 1, 0])
    assert scores.mAP == scores.mINP == scores.rank1 == 1 and scores.queries == 1
    assert np.isnan(scores.ap[1:]).all()


def test_trap_2_no_match_at_all_says_why():
    with pytest.raises(ValueError, match="same-camera rule") as error:
        evaluate(np.zeros((3, 4)), [1, 2, 3], [1, 1, 2, 9], [0, 5, 0], [0, 0, 5, 0])
    assert re.search(r"none of the 3 queries has a match: 2 of them", str(error.value)), "the counts"


def test_trap_3_junk_distractors_and_the_same_camera():
    distances = np.arange(5.0)[None]
    gallery_pids, gallery_camids = [-1, 1, 0, 1, 7], [3, 0, 1, 1, 0]
    scores = evaluate(distances, [1], gallery_pids, [0], gallery_camids, max_rank=3)
    assert scores.mAP == 0.5, "junk and the own camera's image are gone, the distractor counts: the match is second"
    assert scores.cmc.tolist() == [0, 1, 1]


def test_trap_3_same_id_and_camera_is_removed_for_that_query_only():
    scores = evaluate(np.array([[0.0, 1], [0, 1]]), [1, 1], [1, 1], [0, 1], [0, 1])
    assert scores.ap.tolist() == [1, 1] and scores.queries == 2


def test_trap_4_cmc_counts_the_first_match():
    scores = ranking([0, 1, 1, 1], max_rank=4)
    assert scores.cmc.tolist() == [0, 1, 1, 1], "not shares of matches"


def collapsed(people=10, each=13):
    """Ids of a gallery sorted by identity, and what an order drawn at random scores on average."""
    gallery_pids = np.repeat(np.arange(1, people + 1), each)
    ids = np.arange(1, people + 1), gallery_pids, np.zeros(people, int), np.ones(len(gallery_pids), int)
    rng = np.random.default_rng(0)
    drawn = [evaluate(rng.random((people, len(gallery_pids))), *ids) for _ in range(300)]
    return ids, np.mean([s.mAP for s in drawn]), np.mean([s.rank1 for s in drawn])


def test_trap_5_collapsed_features_score_at_chance():
    ids, chance, rank1 = collapsed()
    scores = evaluate(np.ones((10, 130)), *ids)
    assert scores.mAP == pytest.approx(chance, abs=0.005)  # 3000 random rankings of spread 0.04: standard error 0.0007
    assert scores.rank1 == pytest.approx(0.1, abs=1e-12) and rank1 == pytest.approx(0.1, abs=0.03)
    assert scores.cmc[4] == pytest.approx(1 - math.comb(117, 5) / math.comb(130, 5), abs=1e-12)


@pytest.mark.parametrize("dimensions, scale", [(64, 1.0), (100, 30.0), (513, 1.0), (2048, 1.0)])
def test_trap_5_collapsed_features_score_at_chance_through_the_product(dimensions, scale):
    """A matrix product may round equal rows differently at its edges: that noise must not become a ranking."""
    ids, chance, _ = collapsed()
    feature = scale * np.random.default_rng(1).normal(size=(1, dimensions)).astype(np.float32)
    q, g = np.repeat(feature, 10, 0), np.repeat(feature, 130, 0)
    assert evaluate_features(q, g, *ids).mAP == pytest.approx(chance, abs=0.005)
    distances = euclidean_distances(q, g)
    assert distances.max() <= 1e-6 * np.linalg.norm(feature)  # a value's own rounding is 6e-8 of it
    # Once rounding noise of 1e-8 ordered equal images by their column.
    assert evaluate(distances, *ids).mAP == pytest.approx(chance, abs=0.005)


def test_trap_5_half_collapsed_features():
    """Each identity's images are one point (and the points differ): right images tie with each other only."""
    ids, _, _ = collapsed()
    points = np.random.default_rng(2).normal(size=(11, 300)).astype(np.float32)
    q, g = points[ids[0]], points[ids[1]]
    assert evaluate_features(q, g, *ids).mAP == 1 and evaluate(euclidean_distances(q, g), *ids).mAP == 1


def test_trap_9_near_duplicates_keep_their_distance():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 2048)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    y = x + (1e-3 * rng.normal(size=x.shape)).astype(np.float32)  # at a distance of 0.045
    y[::4] = x[::4]  # and some at 0
    true = np.sqrt(((x[:, None].astype(float) - y.astype(float)) ** 2).sum(2))
    near = np.eye(40, dtype=bool)
    plain = np.sqrt(np.maximum((x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T, 0))
    for ours in (euclidean_distances(x, y), euclidean_distances(torch.from_numpy(x), torch.from_numpy(y)).numpy()):
        assert ours.dtype == np.float32
        # A pair just above a thousandth of |x|^2 + |y|^2 keeps the product form: float32's seven digits less three.
        np.testing.assert_allclose(ours[near], true[near], rtol=3e-4, atol=1e-7)
        assert (ours[near][::4] == 0).all(), "equal images lie at 0"
        np.testing.assert_allclose(ours[~near], true[~near], rtol=1e-6)
    assert abs(plain - true)[near].max() > 1e-4, "the plain product form is off by much more"


def test_trap_9_many_near_duplicates():
    """More than two in a hundred entries near each other takes another way through the code."""
    rng = np.random.default_rng(1)
    x = (rng.normal(size=(1, 512)) + 1e-3 * rng.normal(size=(60, 512))).astype(np.float32)
    true = np.sqrt(((x[:, None].astype(float) - x.astype(float)) ** 2).sum(2))
    away = ~np.eye(60, dtype=bool)
    np.testing.assert_allclose(euclidean_distances(x, x)[away], true[away], rtol=1e-5)
    assert euclidean_distances(x, x).max(where=~away, initial=0) <= 1e-6 * np.linalg.norm(x[0])


def test_two_heaps_of_near_duplicates_in_float64():
    """No digits to spare: within a heap, distances of 1e-8 still rank."""
    rng = np.random.default_rng(0)
    heaps = np.repeat(rng.standard_normal((2, 8)), 30, axis=0)
    features = heaps + 1e-8 * rng.standard_normal((60, 8))
    wanted = np.linalg.norm(features[:20, None] - features, axis=2)
    found = np.asarray(euclidean_distances(features[:20], features))
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-14)


def test_features_far_from_the_origin_rank_as_in_float64():
    """A common offset, as unnormalised features have it, must not eat the digits that tell images apart."""
    q, g, ids = random_features(4, queries=60, gallery=400)
    x, y = (q + 30).astype(np.float32), (g + 30).astype(np.float32)
    exact = evaluate(np.sqrt(((x[:, None].astype(float) - y.astype(float)) ** 2).sum(2)), *ids)
    # Two images in a row of 400 may still stand nearer than float32 tells apart: 1e-3 of AP is a few such swaps.
    assert evaluate(euclidean_distances(x, y), *ids).mAP == pytest.approx(exact.mAP, abs=1e-3)
    assert evaluate_features(x, y, *ids).mAP == pytest.approx(exact.mAP, abs=1e-3)


# ---- distances ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("queries, gallery, dimensions", [(1, 1, 1), (3, 17, 5), (300, 33, 64), (2, 700, 3)])
def test_euclidean_distances(kind, queries, gallery, dimensions):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(queries, dimensions)).astype(kind), rng.normal(size=(gallery, dimensions)).astype(kind)
    true = np.sqrt(((x[:, None].astype(float) - y.astype(float)) ** 2).sum(2))
    ours = euclidean_distances(x, y)
    assert isinstance(ours, np.ndarray) and ours.dtype == kind and ours.shape == (queries, gallery)
    # Entries above a thousandth of |x|^2 + |y|^2 keep at least four digits of float32's seven, halved by the root.
    np.testing.assert_allclose(ours, true, rtol=1e-4 if kind == np.float32 else 1e-11, atol=1e-6)
    torches = euclidean_distances(torch.from_numpy(x), torch.from_numpy(y))
    assert isinstance(torches, torch.Tensor) and (torches.numpy() == ours).all()


def test_distances_refuse_what_is_no_matrix():
    with pytest.raises(ValueError, match="shape"):
        euclidean_distances(np.zeros(3), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="3 values a row and y has 4"):
        euclidean_distances(np.zeros((2, 3)), np.zeros((2, 4)))


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: euclidean_distances(x, y),
        lambda x, y: evaluate_features(x, y, [1, 2], [1, 2, 3], [0, 0], [1, 1, 1]),
    ],
)
def test_float32_and_float64_together(function):
    """Scored, or refused by name; once torch's own RuntimeError about an out tensor."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 4)), rng.normal(size=(3, 4))
    try:
        function(x.astype(np.float32), y), function(x, y.astype(np.float32))
    except ValueError as error:
        assert "float" in str(error)


# ---- exact ties, and every scale ------------------------------------------------------------------------------------


def whole_case(kind, high, dimensions=24, seed=0, permuted=True):
    """Codes in which many pairs lie equally far: gallery rows are a few rows with their values in another order."""
    rng = np.random.default_rng(seed)
    q, g, ids = random_features(seed, dimensions)
    x, y = rng.integers(0, high, (len(q), dimensions)), rng.integers(0, high, (8, dimensions))[np.abs(ids[1]) % 8]
    x[:] = x[:, :1]  # a query of one value is as far from every order of a row
    return x.astype(kind), rng.permuted(y, axis=1).astype(kind) if permuted else y.astype(kind), ids


def exact_scores(x, y, ids):
    """Squared distances in Python's own integers, as ranks of them."""
    x, y = (np.vectorize(int, otypes=[object])(a) for a in (x, y))
    return evaluate(np.array([[int(((a - b) ** 2).sum()) for b in y] for a in x], np.int64), *ids)


def test_equal_distances_of_whole_numbers_are_equal():
    """Once 1.4142133 and 1.4142134: |y|^2 was a root squared."""
    near, far = euclidean_distances(np.float32([[1, 1, 0]]), np.float32([[2, 2, 0], [0, 1, 1]]))[0]
    assert near == far == np.float32(2**0.5)


@pytest.mark.parametrize("high", [4, 256, 2**16])
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.uint16, np.int32, np.int64, torch.int32, torch.float32])
def test_codes_are_ranked_by_exact_distances(kind, high):
    """16-bit codes once read a mAP of 36.6 for 36.1: their squares do not fit into float32."""
    x, y, ids = whole_case(np.int64, high)
    exact = exact_scores(x, y, ids)
    given = [torch.tensor(a, dtype=kind) if isinstance(kind, torch.dtype) else a.astype(kind) for a in (x, y)]
    assert evaluate_features(*given, *ids).ap == pytest.approx(exact.ap, abs=1e-12, nan_ok=True)  # sums of ratios
    if high < 2**16 or kind not in (np.float32, torch.float32):  # as float32 distances two lengths may become one
        assert evaluate(euclidean_distances(*given), *ids).ap == pytest.approx(exact.ap, abs=1e-12, nan_ok=True)
    assert len(np.unique(((x[:, None] - y) ** 2).sum(2)[0])) < 9, "many pairs lie equally far"


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("queries", [1, 2, 7, 64, 70])
@pytest.mark.parametrize("gallery", [5, 33, 700, 2047, 2100])
@pytest.mark.parametrize("dimensions", [3, 16, 100])
def test_equal_images_lie_equally_far_wherever_they_stand(queries, gallery, dimensions, threads):
    """Odd edges of a matrix product go through other kernels, which once rounded the last column otherwise."""
    rng = np.random.default_rng(0)
    x, people = rng.normal(size=(queries, dimensions)), rng.normal(size=(1 + gallery // 3, dimensions))
    who = rng.integers(0, len(people), gallery)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        distances = euclidean_distances(x.astype(np.float32), people.astype(np.float32)[who])
    finally:
        torch.set_num_threads(before)
    _, first, same = np.unique(who, return_index=True, return_inverse=True)
    assert (distances == distances[:, first[same]]).all()


@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1e-12, 1e12, 1e18, 1e30])
def test_the_scale_of_features_is_nothing(scale):
    """Squares of 1e-30 are 0 in float32, and those of 1e30 infinite: once all such distances were equal, or refused."""
    q, g, ids = (a if isinstance(a, tuple) else (a * np.float32(scale)).astype(np.float32) for a in random_features(5))
    true = np.sqrt(((q.astype(float)[:, None] / scale - g.astype(float) / scale) ** 2).sum(2))
    found = euclidean_distances(q, g)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.astype(float) / scale, true, rtol=1e-5)  # float32's seven digits, less two
    assert evaluate_features(q, g, *ids).mAP == pytest.approx(evaluate(true, *ids).mAP, abs=1e-12)


@pytest.mark.parametrize("scale", [1e-200, 1e-160, 1e160, 1e200])
def test_the_scale_of_double_features_is_nothing(scale):
    q, g, ids = random_features(6)
    found, true = euclidean_distances(q * scale, g * scale), euclidean_distances(q, g)
    np.testing.assert_allclose(found / scale, true, rtol=1e-11)  # scaling rounds the features themselves
    assert evaluate_features(q * scale, g * scale, *ids).mAP == evaluate(true, *ids).mAP


def test_one_tiny_image_among_others_keeps_its_distances():
    x, y = np.float32([[1e-25, 0], [0, 1]]), np.float32([[3e-25, 0], [0, 0], [0, 2]])
    np.testing.assert_allclose(euclidean_distances(x, y), [[2e-25, 1e-25, 2], [1, 1, 1]], rtol=1e-6)


@pytest.mark.parametrize("kind", [np.int64, np.uint64, np.int32, np.float64])
def test_large_whole_distances_keep_their_order(kind):
    """Once cast to float32, which does not tell 2^24 and 2^24 + 1 apart; nor does float64 2^53 and 2^53 + 1."""
    base = {np.int64: 2**62, np.uint64: 2**63 + 2**62}.get(kind, 2**24)
    distances = (np.array([[1, 0, 2, 3]], np.int64).astype(kind) + kind(base)).astype(kind)
    scores = evaluate(distances, [1], [1, 2, 1, 2], [0], [1, 1, 1, 1])
    assert scores.ap[0] == slow_ap([False, True, True, False], "step")
    tied = evaluate(distances // kind(4), [1], [1, 2, 1, 2], [0], [1, 1, 1, 1])
    assert tied.cmc[0] == pytest.approx(0.5), "all equal: two of four are right"


def test_near_duplicates_far_from_the_origin():
    """Two in a hundred and more near each other are computed without what they have in common."""
    rng = np.random.default_rng(0)
    x = 1e4 + rng.normal(size=(40, 16))
    true = np.sqrt(((x[:, None] - x) ** 2).sum(2))
    np.testing.assert_allclose(euclidean_distances(x, x), true, rtol=1e-10, atol=1e-10)  # 1e-16 x 1e4, and a root


def test_autocast_changes_no_distance():
    """A product of the last columns, written apart, must not fall to bf16 where the caller's network runs so."""
    x, y = torch.randn(40, 24, generator=torch.Generator().manual_seed(0)), torch.randn(21, 24)
    y[16] = y[0]  # in the last, incomplete tile
    ids = np.arange(40) % 7 + 1, np.arange(21) % 7 + 1, np.zeros(40, int), np.ones(21, int)
    stripes = x.reshape(40, 4, 6), y.reshape(21, 4, 6)

    def all_of_it():
        plain = euclidean_distances(x, y)
        return plain, rerank(x, y, 5, 3), evaluate_features(x, y, *ids).ap, local_distance_matrix(*stripes)

    wanted = all_of_it()
    with torch.autocast("cpu", torch.bfloat16):
        found = all_of_it()
    for new, old in zip(found, wanted):
        np.testing.assert_array_equal(np.asarray(new), np.asarray(old))
    assert (found[0][:, 0] == found[0][:, 16]).all()


def test_float32_products_stay_float32_where_the_caller_allows_less(monkeypatch):
    """Under TF32 a product's error of 1e-3 is what near-duplicates are told by."""
    kinds, seen, mm = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul), set(), torch.mm

    def spy(*given, **options):
        seen.add(tuple(kind.fp32_precision for kind in kinds))
        return mm(*given, **options)

    monkeypatch.setattr(torch, "mm", spy)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        euclidean_distances(torch.ones(3, 4), torch.ones(50, 4))
        assert torch.get_float32_matmul_precision() == "medium", "the caller's again"
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen == {("ieee", "ieee")}


class Largest(TorchFunctionMode):
    """The bytes of the largest tensor that any operation gives."""

    most = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, (tuple, list)) else [out]:
            self.most = max(self.most, one.numel() * one.itemsize if isinstance(one, torch.Tensor) else 0)
        return out


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("points, spread", [(1, 1e-3), (1, 0), (2, 1e-8)])
def test_collapsed_features_take_no_more_memory_than_others(points, spread, kind):
    """Once a float64 copy of the whole gallery and a list of all entries, in each block of queries."""
    rng = np.random.default_rng(0)
    near = np.resize(rng.normal(size=(points, 64)), (20_032, 64)) + spread * rng.normal(size=(20_032, 64))
    pair = compare(near[:32].astype(kind), near[32:].astype(kind), "x", "y")
    out = padded(32, 20_000, pair.y)
    with Largest() as made:
        squared = pair.squared(slice(0, 32), out)
    assert made.most <= out.numel() * out.itemsize
    true = ((pair.x[:, None].double() - pair.y[::500].double()) ** 2).sum(2)
    np.testing.assert_allclose(squared[:, ::500], true, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e-9])
@pytest.mark.parametrize("queries, dimensions", [(1, 300), (20, 16), (70, 300)])
@pytest.mark.parametrize("gallery", [5, 33, 101, 700, 2100])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_twins_tie_and_no_order_of_the_gallery_counts(kind, gallery, queries, dimensions, spread):
    """In float64 once for 27 in 100 queries only: kernels leave edges of 12 columns there, and the product that serves
    collapsed features knew of none."""
    rng = np.random.default_rng(0)
    base, half = rng.normal(size=dimensions), gallery // 2
    y = (base + spread * rng.normal(size=(gallery, dimensions))).astype(kind)
    x = (base + spread * rng.normal(size=(queries, dimensions))).astype(kind)
    y[half : 2 * half] = y[:half]
    order = rng.permutation(gallery)
    distances = euclidean_distances(x, y)
    assert (distances[:, half : 2 * half] == distances[:, :half]).all()
    assert (euclidean_distances(x, y[order]) == distances[:, order]).all()
