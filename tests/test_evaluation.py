"""Evaluation against a slow oracle: one query at a time, the protocol's rules spelled out, ties over every order."""

import itertools
import re
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reidnb.evaluation import euclidean_distances, evaluate, evaluate_features

RANKS = 12
# Sums of at most a few hundred ratios in float64, added up in another order: the error is some 1e-14.
EXACT = {"rtol": 0, "atol": 1e-12}


# ---- the oracle -----------------------------------------------------------------------------------------------------


def ranked_relevance(row, pid, camid, gallery_pids, gallery_camids, order):
    """True/False down one query's ranking, junk and the same-camera images of its person left out."""
    relevance = []
    for j in order:
        if gallery_pids[j] == -1:
            continue  # junk
        if gallery_pids[j] == pid and gallery_camids[j] == camid:
            continue  # the same person before the same camera
        relevance.append(bool(gallery_pids[j] == pid))  # a distractor (0) stays and is wrong: no query has pid 0
    return relevance


def slow_ap(relevance, form):
    found, total, before = 0, 0.0, 1.0  # before: the precision just ahead of a place, 1 at the very start
    for rank, right in enumerate(relevance, 1):
        if right:
            found += 1
            precision = found / rank
            total += precision if form == "step" else (before + precision) / 2
        before = found / rank
    return total / found


def slow_cmc(relevance):
    first = relevance.index(True)
    return np.array([1.0 if k >= first else 0.0 for k in range(RANKS)])


def slow_inp(relevance):
    last = max(k for k, right in enumerate(relevance) if right)
    return sum(relevance) / (last + 1)


def orders_of(row):
    """Every order of the gallery in which distances rise: ties in all their permutations."""
    groups = [[j for j in range(len(row)) if row[j] == value] for value in sorted(set(row.tolist()))]
    for parts in itertools.product(*(itertools.permutations(group) for group in groups)):
        yield [j for part in parts for j in part]


def slow_evaluate(distances, query_pids, gallery_pids, query_camids, gallery_camids, form="step", ties=False):
    """(mAP, mINP, cmc, ap per query with NaN) by the protocol in plain loops; with `ties` averaged over all orders."""
    ap, inp, cmc = [], [], []
    for row, pid, camid in zip(np.asarray(distances), query_pids, query_camids):
        orders = orders_of(row) if ties else [np.argsort(row)]
        rankings = [ranked_relevance(row, pid, camid, gallery_pids, gallery_camids, order) for order in orders]
        if not any(rankings[0]):
            ap.append(np.nan)
            continue
        ap.append(np.mean([slow_ap(r, form) for r in rankings]))
        inp.append(np.mean([slow_inp(r) for r in rankings]))
        cmc.append(np.mean([slow_cmc(r) for r in rankings], axis=0))
    return np.nanmean(ap), np.mean(inp), np.mean(cmc, axis=0), np.array(ap)


def agree(scores, slow, **tolerance):
    tolerance = {**EXACT, **tolerance}
    mean, inp, cmc, ap = slow
    np.testing.assert_allclose(scores.mAP, mean, **tolerance)
    np.testing.assert_allclose(scores.mINP, inp, **tolerance)
    np.testing.assert_allclose(scores.cmc, cmc, **tolerance)
    np.testing.assert_allclose(scores.ap, ap, **tolerance)  # NaN where NaN
    assert scores.queries == np.isfinite(ap).sum()


def random_ids(rng, queries=25, gallery=120, people=8, cameras=4):
    """Ids with everything the protocol knows: junk, distractors, same-camera images, and queries without a match."""
    query_pids = rng.integers(1, people + 3, queries)  # the last identities are not in the gallery
    gallery_pids = rng.choice([-1, 0, *range(1, people + 1)], gallery)
    query_camids, gallery_camids = rng.integers(0, cameras, queries), rng.integers(0, cameras, gallery)
    gallery_camids[gallery_pids == 1] = 2
    query_pids[:4], query_camids[:2] = 1, 2  # seen by the query's own camera only, twice
    query_pids[4] = people + 2
    return query_pids, gallery_pids, query_camids, gallery_camids


def random_case(seed=0, **sizes):
    rng = np.random.default_rng(seed)
    ids = random_ids(rng, **sizes)
    return rng.random((len(ids[0]), len(ids[1]))), ids


def random_features(seed=0, dimensions=24, **sizes):
    rng = np.random.default_rng(seed)
    ids = random_ids(rng, **sizes)
    centres = rng.normal(size=(40, dimensions))
    q, g = (centres[pids] + rng.normal(size=(len(pids), dimensions)) for pids in ids[:2])
    return q, g, ids


# ---- against the oracle ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["step", "trapezoid"])
@pytest.mark.parametrize("seed", range(5))
def test_evaluate_is_the_oracle(seed, form):
    distances, ids = random_case(seed)
    scores = evaluate(distances, *ids, ap=form, max_rank=RANKS)
    agree(scores, slow_evaluate(distances, *ids, form))
    assert np.isnan(scores.ap).any() and np.isfinite(scores.ap).any(), "the case holds queries with and without a match"


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16, torch.float32, torch.float64])
def test_every_float_of_numpy_and_torch(kind):
    distances, ids = random_case(7)
    distances = np.round(distances * 512) / 512  # float16 holds these exactly; ties are few but there
    given = torch.tensor(distances, dtype=kind) if isinstance(kind, torch.dtype) else distances.astype(kind)
    agree(
        evaluate(given, *(torch.as_tensor(a) for a in ids), max_rank=RANKS),
        (s := evaluate(distances, *ids, max_rank=RANKS)) and (s.mAP, s.mINP, s.cmc, s.ap),
    )


def test_distances_are_left_as_they_were():
    distances, ids = random_case(3)
    before = distances.copy()
    evaluate(distances, *ids)
    assert (distances == before).all()


def test_rows_with_a_stride():
    distances, ids = random_case(3)
    wide = np.full((len(distances), 200), -5.0)
    wide[:, : distances.shape[1]] = distances
    agree(evaluate(wide[:, : distances.shape[1]], *ids, max_rank=RANKS), slow_evaluate(distances, *ids))


@pytest.mark.parametrize("form", ["step", "trapezoid"])
@pytest.mark.parametrize("kind", [np.float32, np.float64, torch.float32])
def test_evaluate_features_is_the_oracle(form, kind):
    q, g, ids = random_features(1)
    distances = np.sqrt(((q[:, None] - g) ** 2).sum(2))
    x, y = ((torch.tensor(a, dtype=kind) if isinstance(kind, torch.dtype) else a.astype(kind)) for a in (q, g))
    # No two distances of this case are nearer than float32 tells apart, so even float32 ranks exactly.
    assert np.diff(np.sort(distances, 1), axis=1).min() > 1e-7
    agree(evaluate_features(x, y, *ids, ap=form, max_rank=RANKS), slow_evaluate(distances, *ids, form))


@pytest.mark.parametrize("block", [1, 3, 7, 25, 26, 1000])
def test_blocks_of_any_size_give_the_same(block):
    q, g, ids = random_features(2)
    whole = evaluate(euclidean_distances(q, g), *ids, max_rank=RANKS)
    agree(evaluate_features(q, g, *ids, block=block, max_rank=RANKS), (whole.mAP, whole.mINP, whole.cmc, whole.ap))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_ties_are_the_mean_over_all_orders(data):
    levels = st.lists(st.integers(0, 2), min_size=6, max_size=6)
    distances = np.array([data.draw(levels) for _ in range(2)], float)
    gallery_pids = np.array(data.draw(st.lists(st.sampled_from([-1, 0, 1, 1, 1, 2]), min_size=6, max_size=6)))
    gallery_camids = np.array(data.draw(st.lists(st.sampled_from([0, 1, 1, 1]), min_size=6, max_size=6)))
    ids = np.array([1, 2]), gallery_pids, np.array([0, 0]), gallery_camids
    for form in ("step", "trapezoid"):
        if not ((gallery_pids > 0) & (gallery_camids == 1)).any():
            with pytest.raises(ValueError, match="same-camera"):
                evaluate(distances, *ids, ap=form)
            return
        agree(evaluate(distances, *ids, ap=form, max_rank=RANKS), slow_evaluate(distances, *ids, form, ties=True))


# ---- properties -----------------------------------------------------------------------------------------------------


@st.composite
def cases(draw):
    """(distances, ids): every query has a match; distances are whole numbers, few of them where ties are wanted."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    queries, gallery = draw(st.integers(1, 6)), draw(st.integers(2, 40))
    query_pids, query_camids = rng.integers(1, 5, queries), rng.integers(0, 3, queries)
    gallery_pids = np.r_[query_pids, rng.integers(-1, 6, gallery)]
    gallery_camids = np.r_[query_camids + 1, rng.integers(0, 4, gallery)]
    levels = 6 if draw(st.booleans()) else 10**6
    return rng.integers(0, levels, (queries, queries + gallery)).astype(float), (
        query_pids,
        gallery_pids,
        query_camids,
        gallery_camids,
    )


def same(one, other):
    agree(one, (other.mAP, other.mINP, other.cmc, other.ap))


@settings(max_examples=50, deadline=None)
@given(cases(), st.randoms(use_true_random=False))
def test_the_order_of_the_gallery_is_nothing(case, random):
    distances, (qp, gp, qc, gc) = case
    order = list(range(len(gp)))
    random.shuffle(order)
    same(
        evaluate(distances[:, order], qp, gp[order], qc, gc[order], max_rank=RANKS),
        evaluate(*case_of(case), max_rank=RANKS),
    )


def case_of(case):
    return case[0], *case[1]


@settings(max_examples=40, deadline=None)
@given(
    cases(),
    st.sampled_from([lambda d: 4 * d, lambda d: d - 8, lambda d: d**3, lambda d: np.sqrt(d), lambda d: -1 / (1 + d)]),
)
def test_only_the_order_of_distances_counts(case, rising):
    # Each map keeps whole numbers below 1e6 apart in float64.
    same(evaluate(rising(case[0]), *case[1], max_rank=RANKS), evaluate(*case_of(case), max_rank=RANKS))


def with_column(case, column, pid, camid):
    distances, (qp, gp, qc, gc) = case
    return np.c_[distances, column], qp, np.r_[gp, pid], qc, np.r_[gc, camid]


@settings(max_examples=50, deadline=None)
@given(cases(), st.integers(0, 8), st.sampled_from(["step", "trapezoid"]))
def test_a_distractor_never_helps(case, distance, form):
    before = evaluate(*case_of(case), ap=form, max_rank=RANKS)
    after = evaluate(*with_column(case, np.full(len(case[0]), float(distance)), 0, 0), ap=form, max_rank=RANKS)
    assert (
        (after.ap <= before.ap + 1e-12).all()
        and (after.cmc <= before.cmc + 1e-12).all()
        and after.mINP <= before.mINP + 1e-12
    )


def test_a_distractor_ahead_of_everything_hurts():
    case = random_case(5)
    before = evaluate(*case_of(case))
    after = evaluate(*with_column(case, np.full(len(case[0]), -1.0), 0, 0))
    assert (after.ap < before.ap)[np.isfinite(before.ap)].all() and after.cmc[0] == 0


@settings(max_examples=40, deadline=None)
@given(cases(), st.integers(-1, 8), st.integers(0, 3))
def test_junk_changes_nothing(case, distance, camid):
    same(
        evaluate(*with_column(case, np.full(len(case[0]), float(distance)), -1, camid), max_rank=RANKS),
        evaluate(*case_of(case), max_rank=RANKS),
    )


@settings(max_examples=50, deadline=None)
@given(cases(), st.sampled_from(["step", "trapezoid"]))
def test_scores_are_shares(case, form):
    scores = evaluate(*case_of(case), ap=form, max_rank=RANKS)
    for values in (scores.ap[np.isfinite(scores.ap)], scores.cmc, np.array([scores.mAP, scores.mINP])):
        assert (values >= 0).all() and (values <= 1 + 1e-12).all()
    assert (np.diff(scores.cmc) >= -1e-12).all(), "the CMC never falls"
    assert scores.cmc[0] <= scores.mAP + (1 - scores.mAP) and scores.queries == len(case[0])


@settings(max_examples=30, deadline=None)
@given(cases())
def test_a_perfect_ranking_scores_one(case):
    distances, (qp, gp, qc, gc) = case
    perfect = distances + 1e7 * (gp[None] != qp[:, None])
    for form in ("step", "trapezoid"):
        scores = evaluate(perfect, qp, gp, qc, gc, ap=form)
        assert scores.mAP == scores.mINP == scores.rank1 == 1


# ---- errors ---------------------------------------------------------------------------------------------------------


GOOD = dict(
    distances=np.zeros((2, 3)), query_pids=[1, 2], gallery_pids=[1, 2, 0], query_camids=[0, 0], gallery_camids=[1, 1, 1]
)


@pytest.mark.parametrize(
    "changed, says",
    [
        ({"distances": np.zeros(3)}, r"matrix.*\(3,\)"),
        ({"query_pids": [1, 2, 3]}, r"query_pids must be 2 integers.*\(3,\)"),
        ({"gallery_camids": [1, 1]}, r"gallery_camids must be 3 integers, one an image"),
        ({"gallery_pids": [1.0, 2.0, 3.0]}, "float64"),
        ({"query_camids": ["0", "0"]}, "query_camids.*<U1"),
        ({"query_pids": [0, 1]}, "query_pids holds 0.*distractor"),
        ({"query_pids": [1, -1]}, "query_pids holds -1"),
        ({"distances": np.array([[0, 1, 2], [0, np.nan, 1]])}, "query 1 hold NaN or infinity"),
        ({"distances": np.array([[0, np.inf, 2], [0, 1, 1]])}, "query 0 hold NaN"),
        (
            {"distances": np.zeros((0, 3)), "query_pids": np.zeros(0, int), "query_camids": np.zeros(0, int)},
            "nothing to score",
        ),
    ],
)
def test_evaluate_refuses(changed, says):
    evaluate(**GOOD)
    with pytest.raises(ValueError, match=says):
        evaluate(**{**GOOD, **changed})


def test_minus_infinity_is_refused():
    """Once only the row's largest value was looked at."""
    with pytest.raises(ValueError, match="infinity"):
        evaluate(**{**GOOD, "distances": np.array([[0, -np.inf, 2], [0, 1, 1]])})


def test_bfloat16_distances():
    """Once torch's own TypeError about ScalarType BFloat16."""
    distances = torch.tensor([[0.0, 1, 2], [1, 0, 2]])
    same(evaluate(**{**GOOD, "distances": distances.bfloat16()}), evaluate(**{**GOOD, "distances": distances}))


@pytest.mark.parametrize("changed", [{"block": 0}, {"max_rank": 0}, {"max_rank": -1}])
def test_sizes_from_one_on(changed):
    """Once block=0 was range()'s error, and max_rank below 1 an empty CMC."""
    q, g, ids = random_features(0)
    with pytest.raises(ValueError, match=next(iter(changed))):
        evaluate_features(q, g, *ids, **changed)


def test_evaluate_features_refuses():
    q, g, ids = random_features(0)
    with pytest.raises(ValueError, match="query_features has 24 values a row and gallery_features has 20"):
        evaluate_features(q, g[:, :20], *ids)
    with pytest.raises(ValueError, match="query_features must be a matrix"):
        evaluate_features(q[0], g, *ids)
    q[3, 2] = np.nan
    with pytest.raises(ValueError, match="query_features: row 3 holds NaN or infinity, as do 1 of 25"):
        evaluate_features(q, g, *ids, block=2)


def test_scores_as_text():
    distances, ids = random_case(0)
    text = str(evaluate(distances, *ids))
    assert re.search(r"mAP \d+\.\d  Rank-1 .*Rank-10 .*mINP .*%  \(\d+ queries\)", text)


def test_scores_are_equal_where_all_their_numbers_are():
    """Once numpy's ValueError about the truth of an array; NaN stands for a query without a match."""
    distances, ids = random_case(0)
    scores = evaluate(distances, *ids)
    assert np.isnan(scores.ap).any() and scores == evaluate(2 * distances, *ids)
    assert scores != evaluate(-distances, *ids) and scores != evaluate(distances, *ids, max_rank=49) and scores != 3
    with pytest.raises(TypeError, match="unhashable type: 'Scores'"):
        hash(scores)


@pytest.mark.parametrize("kind", [np.uint8, np.float16, np.int64, np.longdouble])
def test_distances_of_other_types_are_converted_row_by_row(kind):
    """Once a matrix of bytes took 16 times its size."""
    distances = np.random.default_rng(0).integers(0, 200, (200, 20_000)).astype(kind)
    ids = np.arange(200) % 100 + 1, np.arange(20_000) % 100 + 1, np.zeros(200, int), np.ones(20_000, int)
    tracemalloc.start()
    found = evaluate(distances, *ids)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < distances.nbytes and found == evaluate(distances.astype(np.float32), *ids)


@pytest.mark.skipif(np.finfo(np.longdouble).eps >= np.finfo(float).eps, reason="long doubles are doubles here")
@pytest.mark.parametrize("texts", [("1", "1.000000000000000001"), ("1e4000", "1e4001"), ("-1e-4000", "0")])
def test_long_doubles_keep_their_order(texts):
    """Once cast to float64, where these are equal, or infinite."""
    near, far = (np.longdouble(text) for text in texts)
    for distances, rank1 in (([near, far], 1), ([far, near], 0), ([near, near], 0.5)):
        assert evaluate(np.array([distances]), [1], [1, 2], [0], [1, 1]).rank1 == rank1
    for hole in (np.nan, np.inf):
        with pytest.raises(ValueError, match="query 0 hold NaN or infinity"):
            evaluate(np.array([[0, hole]], np.longdouble), [1], [1, 2], [0], [1, 1])
