"""Re-ranking against a slow oracle: the paper's sets as Python sets, its vectors as dense rows."""

import functools
import math
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from reidnb.evaluation import rerank

# Float32 sums of at most a few hundred weights, and distances rounded to 24 bits: errors are a few 1e-7,
# measured up to 6e-7.  A wrong neighbour moves a distance by 1e-3 and more.
CLOSE = {"rtol": 0, "atol": 3e-6}


# ---- the oracle ---------------------------------------------------------------------------------------------


def slow_rerank(query, gallery, k1=20, k2=6, lambda_value=0.3):
    """Zhong et al. 2017, section 3, in float64; "more than" two thirds as their release, ties by index."""
    features = np.concatenate([query, gallery]).astype(float)
    n = len(features)
    squared = np.array([[((a - b) ** 2).sum() for b in features] for a in features])
    largest = squared.max(1, keepdims=True)
    distances = np.divide(squared, largest, out=np.zeros_like(squared), where=largest > 0)
    order = [sorted(range(n), key=lambda j: (j != i, squared[i, j], j)) for i in range(n)]  # itself first

    @functools.cache
    def reciprocal(i, k):
        return {j for j in order[i][: k + 1] if i in order[j][: k + 1]}

    def expanded(i):
        own = reciprocal(i, k1)
        out = set(own)
        for j in own:
            other = reciprocal(j, round(k1 / 2))
            if len(own & other) * 3 > len(other) * 2:
                out |= other
        return sorted(out)

    vectors = np.zeros((n, n))
    for i in range(n):
        members = expanded(i)
        weights = np.exp(-distances[i, members])
        vectors[i, members] = weights / weights.sum()
    vectors = np.array([np.mean([vectors[j] for j in order[i][:k2]], 0) for i in range(n)])
    out = np.zeros((len(query), len(gallery)))
    for q in range(len(query)):
        for g in range(len(gallery)):
            other = vectors[len(query) + g]
            jaccard = 1 - np.minimum(vectors[q], other).sum() / np.maximum(vectors[q], other).sum()
            out[q, g] = (1 - lambda_value) * jaccard + lambda_value * distances[q, len(query) + g]
    return out


def people(seed=0, queries=12, gallery=61, dimensions=8, each=9, spread=0.7):
    """Features around a point a person, so that neighbourhoods have a shape; no two distances equal."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(2, (queries + gallery) // each), dimensions))
    pids = rng.integers(0, len(centres), queries + gallery)
    features = (centres[pids] + spread * rng.normal(size=(len(pids), dimensions))).astype(np.float32)
    return features[:queries], features[queries:]


def signs(seed, queries, gallery, dimensions=4):
    """Features of -1 and 1: many duplicates and ties.  With 4 or 16 values even lengths are exact."""
    rng = np.random.default_rng(seed)
    features = rng.choice([-1, 1], (queries + gallery, dimensions)).astype(np.float32)
    return features[:queries], features[queries:]


# ---- against the oracle -------------------------------------------------------------------------------------

SIZES = [
    {},
    {"queries": 1, "gallery": 1},
    {"queries": 1, "gallery": 40},
    {"queries": 33, "gallery": 5},
    {"queries": 7, "gallery": 12},  # fewer than k1 + 1
    {"queries": 3, "gallery": 18},  # just k1 + 1
    {"queries": 3, "gallery": 19},
    {"queries": 17, "gallery": 130, "dimensions": 2},
    {"queries": 20, "gallery": 97, "dimensions": 1},
    {"queries": 20, "gallery": 97, "dimensions": 64, "each": 25},
]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_rerank_is_the_oracle(sizes):
    query, gallery = people(**sizes)
    result = rerank(query, gallery)
    assert result.dtype == np.float32 and result.shape == (len(query), len(gallery))
    np.testing.assert_allclose(result, slow_rerank(query, gallery), **CLOSE)


SETTINGS = [
    (1, 1),
    (1, 6),
    (2, 1),
    (3, 2),
    (5, 12),
    (7, 3),
    (9, 20),
    (20, 1),
    (30, 6),
    (72, 6),
    (73, 80),
    (500, 500),
]


@pytest.mark.parametrize("k1, k2", SETTINGS)
def test_settings_are_the_oracles(k1, k2):
    """Odd k1 round to even, as numpy and Python do; k2 beyond k1; both beyond the 73 images there are."""
    query, gallery = people(1)
    for share in (0, 0.4):
        result = rerank(query, gallery, k1, k2, share)
        np.testing.assert_allclose(result, slow_rerank(query, gallery, k1, k2, share), **CLOSE)


@pytest.mark.parametrize("block", [1, 4, 16, 1000])
@pytest.mark.parametrize("seed, dimensions", [(0, 4), (1, 4), (2, 16), (3, 16)])
def test_duplicates_and_ties_are_the_oracles(seed, dimensions, block):
    """These distances are exact, so equal ones are equal in both; the order of the images breaks ties."""
    query, gallery = signs(seed, 9, 70, dimensions)
    assert (len(np.unique(np.r_[query, gallery], axis=0)) < 20) == (dimensions == 4), "four values: duplicates"
    result = rerank(query, gallery, 6, 3, block=block)
    np.testing.assert_allclose(result, slow_rerank(query, gallery, 6, 3), **CLOSE)


def test_more_duplicates_than_neighbours():
    """Then an image could be missing among its own nearest, were it not always the first."""
    query, gallery = people(2)
    gallery[10:40] = query[0]
    gallery[40:50] = gallery[3]
    result = rerank(query, gallery, 5, 3)
    np.testing.assert_allclose(result, slow_rerank(query, gallery, 5, 3), **CLOSE)


def test_near_duplicates_keep_their_order():
    """The product form of float32 cannot tell these distances (1e-8 of the squared lengths) apart."""
    rng = np.random.default_rng(3)
    features = (100 + rng.normal(size=(60, 4)) * 0.02).astype(np.float32)
    query, gallery = features[:10], features[10:]
    np.testing.assert_allclose(rerank(query, gallery, 6, 3), slow_rerank(query, gallery, 6, 3), **CLOSE)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 25), st.integers(1, 30), st.integers(1, 9))
def test_any_small_set_is_the_oracle(seed, queries, gallery, k1, k2):
    query, gallery = signs(seed, queries, gallery, dimensions=4 + 12 * (seed % 2))
    block = 1 + seed % 11
    np.testing.assert_allclose(
        rerank(query, gallery, k1, k2, block=block), slow_rerank(query, gallery, k1, k2), **CLOSE
    )


# ---- properties ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 2, 7, 31, 73, 74])
def test_blocks_of_any_size_give_the_same(block):
    query, gallery = people(4)
    # A product of another size may add in another order: the last bits of distances differ, not their ranking.
    np.testing.assert_allclose(rerank(query, gallery, 8, 3, block=block), rerank(query, gallery, 8, 3), **CLOSE)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.permutations(range(40)))
def test_the_order_of_the_gallery_is_nothing(seed, order):
    query, gallery = people(seed, queries=6, gallery=40)
    assume(clear(query, gallery))
    np.testing.assert_allclose(rerank(query, gallery[order], 6, 3), rerank(query, gallery, 6, 3)[:, order], **CLOSE)


def clear(query, gallery):
    """No two distances from one image are nearer than float32 tells apart: 1e-6 of the squared lengths."""
    x = np.r_[query, gallery].astype(float)
    squared = np.sort(((x[:, None] - x) ** 2).sum(2), 1)
    return np.diff(squared, axis=1).min() > 1e-6 * (x**2).sum(1).max()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([1e-30, 1e-3, 0.3, 7.0, 1e4, 1e30]))
def test_the_scale_of_features_is_nothing(seed, scale):
    """Neither squares of 1e30 nor of 1e-30 exist in float32; scaling rounds the features themselves."""
    query, gallery = people(seed, queries=6, gallery=30)
    scaled = query * np.float32(scale), gallery * np.float32(scale)
    assume(clear(query, gallery) and clear(*(x / np.float32(scale) for x in scaled)))
    np.testing.assert_allclose(rerank(*scaled, 6, 3), rerank(query, gallery, 6, 3), **CLOSE)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(0, 1), st.integers(1, 12), st.integers(1, 12))
def test_results_are_shares(seed, share, k1, k2):
    result = rerank(*signs(seed, 5, 30), k1, k2, share)
    assert result.min() >= 0 and result.max() <= 1 + 1e-6  # the rounding of a share of one and a share of the other


def test_lambda_one_is_the_original_distance():
    query, gallery = people(5)
    everything = np.r_[query, gallery].astype(float)
    squared = ((query[:, None].astype(float) - everything) ** 2).sum(2)
    original = (squared / squared.max(1, keepdims=True))[:, len(query) :]
    np.testing.assert_allclose(rerank(query, gallery, lambda_value=1), original, **CLOSE)


def test_lambda_mixes_the_two():
    query, gallery = people(6)
    jaccard, original, mixed = (rerank(query, gallery, lambda_value=share) for share in (0, 1, 0.3))
    np.testing.assert_allclose(mixed, 0.7 * jaccard + 0.3 * original, **CLOSE)


def test_strangers_share_nothing():
    """Two groups far apart: the Jaccard distance is 1 across, and near 0 within, where all are neighbours."""
    rng = np.random.default_rng(7)
    query, gallery = rng.normal(size=(2, 3)), rng.normal(size=(14, 3))
    query[1], gallery[7:] = query[1] + 100, gallery[7:] + 100
    jaccard = rerank(query, gallery, 7, 3, lambda_value=0)
    assert (jaccard[0, 7:] == 1).all() and (jaccard[1, :7] == 1).all()
    assert jaccard[0, :7].max() < 0.01 and jaccard[1, 7:].max() < 0.01  # squared distances there: 1e-3 of the largest


def test_trap_26_no_matrix_of_all_by_all():
    """numpy's memory at its highest, for 3000 images: half a float32 matrix of them would be 18 MB."""
    rng = np.random.default_rng(11)
    query, gallery = rng.normal(size=(40, 4)), rng.normal(size=(2960, 4))
    rerank(query, gallery[:100])  # whatever is imported or kept on first use
    tracemalloc.start()
    rerank(query, gallery)
    highest = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert highest < 18e6


def test_it_helps():
    """What it is for: a right image that is near the query's neighbours rises above a wrong one that is not."""
    rng = np.random.default_rng(8)
    pids = rng.integers(0, 24, 360)
    features = rng.normal(size=(24, 16))[pids] + 0.9 * rng.normal(size=(360, 16))
    query, gallery = features[:60], features[60:]
    right = pids[:60, None] == pids[60:]
    plain, better = rerank(query, gallery, lambda_value=1), rerank(query, gallery)
    share = [np.mean([right[i][np.argsort(d[i])[: right[i].sum()]].mean() for i in range(60)]) for d in (plain, better)]
    assert share[1] > share[0] + 0.03


# ---- what goes in, what comes out ---------------------------------------------------------------------------


def test_torch_and_numpy_agree():
    query, gallery = people(9)
    result = rerank(torch.from_numpy(query).requires_grad_(), torch.from_numpy(gallery))
    assert isinstance(result, torch.Tensor) and result.dtype == torch.float32 and not result.requires_grad
    assert (result.numpy() == rerank(query, gallery)).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_agrees():
    query, gallery = people(9)
    result = rerank(torch.from_numpy(query).cuda(), torch.from_numpy(gallery).cuda())
    assert result.is_cuda
    np.testing.assert_allclose(result.cpu().numpy(), rerank(query, gallery), **CLOSE)


@pytest.mark.parametrize("kind", [np.float64, np.float16, np.int64])
def test_other_numbers(kind):
    query, gallery = (x.astype(kind) for x in signs(3, 5, 30))
    result = rerank(query, gallery, 6, 3)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, slow_rerank(query, gallery, 6, 3), **CLOSE)


def test_features_are_left_as_they_were():
    query, gallery = people(10)
    before = query.copy(), gallery.copy()
    rerank(query, gallery)
    assert (query == before[0]).all() and (gallery == before[1]).all()


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1])
def test_collapsed_features(value):
    """No distance can be divided by the largest, which is 0: every share of it is 0, and nothing is NaN."""
    query, gallery = np.full((4, 16), value), np.full((50, 16), value)
    result = rerank(query, gallery, 5, 2)
    assert np.isfinite(result).all() and result.min() >= 0 and result.max() <= 1
    np.testing.assert_allclose(result, slow_rerank(query, gallery, 5, 2), **CLOSE)
    assert (rerank(query, gallery, lambda_value=1) == 0).all()


# ---- errors -------------------------------------------------------------------------------------------------

X = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.mark.parametrize(
    "changed, says",
    [
        ({"k1": 0}, "k1 must be a whole number of images from 1 on, got 0"),
        ({"k1": 2.5}, "k1.*got 2.5"),
        ({"k2": 0}, "k2 must be.*got 0"),
        ({"k2": -3}, "k2 must be.*got -3"),
        ({"block": 0}, "block must be.*got 0"),
        ({"lambda_value": 1.5}, r"lambda_value.*\[0, 1\], got 1.5"),
        ({"lambda_value": -0.1}, "lambda_value.*got -0.1"),
        ({"lambda_value": math.nan}, "lambda_value.*got nan"),
        ({"gallery_features": X[:, :2]}, "query_features has 3 values a row and gallery_features has 2"),
        ({"query_features": X[0]}, r"query_features must be a matrix.*\(3,\)"),
        ({"query_features": X[:0]}, r"nothing to rank: query_features \(0, 3\), gallery_features \(4, 3\)"),
        ({"gallery_features": X[:0]}, r"nothing to rank.*gallery_features \(0, 3\)"),
        ({"query_features": X[:, :0], "gallery_features": X[:, :0]}, "nothing to rank"),
        ({"query_features": np.where(X == 5, np.nan, X)}, "query_features: row 1 holds NaN or infinity, as do 1 of 4"),
        (
            {"gallery_features": np.where(X == 5, np.nan, X)},
            "gallery_features: row 1 holds NaN or infinity, as do 1 of 4",
        ),
        (
            {"gallery_features": np.where(X == 5, -np.inf, X)},
            "gallery_features: row 1 holds NaN or infinity, as do 1 of 4",
        ),
    ],
)
def test_rerank_refuses(changed, says):
    good = dict(query_features=X, gallery_features=X)
    rerank(**good)
    with pytest.raises(ValueError, match=says):
        rerank(**{**good, **changed})
