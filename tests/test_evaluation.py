"""Evaluation against a slow oracle: one query at a time, the protocol's rules spelled out, ties over every order."""

import itertools
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reidnb.evaluation import (
    euclidean_distances,
    evaluate,
    evaluate_cameras,
    evaluate_features,
    multi_query_features,
    verify_features,
)

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


# ---- multi-query ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["mean", "max"])
def test_multi_query_is_the_loop(how):
    rng = np.random.default_rng(0)
    x, pool = rng.normal(size=(15, 6)).astype(np.float32), rng.normal(size=(80, 6)).astype(np.float32)
    pids, camids = rng.integers(1, 8, 15), rng.integers(0, 3, 15)
    pool_pids, pool_camids = rng.integers(-1, 7, 80), rng.integers(0, 4, 80)
    ours = multi_query_features(x, pids, camids, pool, pool_pids, pool_camids, how)
    alone = 0
    for i in range(15):
        group = [x[i]] + [pool[j] for j in range(80) if pool_pids[j] == pids[i] and pool_camids[j] == camids[i]]
        alone += len(group) == 1
        expected = np.mean(group, axis=0) if how == "mean" else np.max(group, axis=0)
        np.testing.assert_allclose(ours[i], expected, rtol=1e-5, atol=1e-6)  # a mean in float32
    assert alone, "a query without further images is among them"
    torches = multi_query_features(
        torch.from_numpy(x), pids, camids, torch.from_numpy(pool), pool_pids, pool_camids, how
    )
    assert isinstance(torches, torch.Tensor) and (torches.numpy() == ours).all()


def test_multi_query_refuses_other_ways():
    with pytest.raises(ValueError, match="'mean' or 'max'"):
        multi_query_features(np.zeros((1, 2)), [1], [0], np.zeros((1, 2)), [1], [0], how="median")


@pytest.mark.parametrize(
    "changed", [{"pids": [1]}, {"pool_pids": [1]}, {"pool_features": np.zeros((2, 4))}, {"pids": [1.5, 1.0]}]
)
def test_multi_query_checks_its_door(changed):
    """Once short ids passed unnoticed, and other widths ended in torch's own error."""
    good = dict(
        features=np.zeros((2, 3)),
        pids=[1, 1],
        camids=[0, 0],
        pool_features=np.zeros((2, 3)),
        pool_pids=[1, 1],
        pool_camids=[0, 0],
    )
    with pytest.raises(ValueError):
        multi_query_features(**{**good, **changed})


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
    with pytest.raises(ValueError, match="query 3 hold NaN"):
        evaluate_features(q, g, *ids, block=2)


def test_scores_as_text():
    distances, ids = random_case(0)
    text = str(evaluate(distances, *ids))
    assert re.search(r"mAP \d+\.\d  Rank-1 .*Rank-10 .*mINP .*%  \(\d+ queries\)", text)


# ---- verification: one threshold for all pairs ----------------------------------------------------------------------


def slow_pairs(features, ids):
    """Distances of the pairs of one person and of two, pair by pair."""
    query, gallery = (np.asarray(f, float) for f in features)
    pairs = {True: [], False: []}
    for q, (pid, camid) in enumerate(zip(ids[0], ids[2])):
        for g, (other, camera) in enumerate(zip(ids[1], ids[3])):
            if other != -1 and not (other == pid and camera == camid):
                pairs[bool(other == pid)].append(np.linalg.norm(query[q] - gallery[g]))
    return np.array(pairs[True]), np.array(pairs[False])


@pytest.mark.parametrize("block", [1, 7, 256])
def test_verify_features_is_the_loop(block):
    query, gallery, ids = random_features(3)
    one, two = slow_pairs((query, gallery), ids)
    scores = verify_features(query, gallery, *ids, block=block)
    assert scores.positive == pytest.approx(one.mean(), rel=1e-5)
    assert scores.negative == pytest.approx(two.mean(), rel=1e-5)
    assert scores.gap == pytest.approx(1 - one.mean() / two.mean(), rel=1e-5)
    # The rates step where a pair lies: the two closest to equal bound the EER, up to the pairs within one bin.
    rates = [((two <= t).mean(), (one > t).mean()) for t in np.sort(np.r_[one, two])]
    slow = min(rates, key=lambda pair: abs(pair[0] - pair[1]))
    assert scores.eer == pytest.approx(sum(slow) / 2, abs=2 / len(one) + 2 / len(two))
    assert (two <= scores.threshold).mean() == pytest.approx((one > scores.threshold).mean(), abs=0.02)


def test_features_that_tell_everybody_apart_have_no_error():
    pids, camids = np.repeat([1, 2, 3], 2), np.tile([0, 1], 3)
    features = np.eye(3, dtype=np.float32)[pids - 1]
    scores = verify_features(features, features, pids, pids, camids, camids)
    assert scores.eer == 0 and scores.positive == 0 and scores.negative == pytest.approx(2**0.5)
    assert 0 < scores.threshold < 2**0.5


def test_collapsed_features_verify_at_chance():
    pids, camids = np.repeat([1, 2, 3], 2), np.tile([0, 1], 3)
    same = np.ones((6, 4), np.float32)
    assert verify_features(same, same, pids, pids, camids, camids).eer == pytest.approx(0.5)


def test_verification_needs_both_kinds_of_pairs():
    features = np.eye(2, dtype=np.float32)
    with pytest.raises(ValueError, match="0 of one person"):
        verify_features(features, features, [1, 2], [1, 2], [0, 0], [0, 0])


def test_between_cameras_each_pair_is_a_search_of_its_own():
    rng = np.random.default_rng(0)
    q_pids, g_pids = rng.integers(1, 6, 30), rng.integers(-1, 6, 80)
    q_cams, g_cams = rng.integers(0, 3, 30), rng.integers(0, 4, 80)
    distances = rng.random((30, 80))
    found = evaluate_cameras(distances, q_pids, g_pids, q_cams, g_cams)
    assert found.shape == (4, 4) and np.isnan(np.diag(found)).all() and np.isnan(found[3]).all()
    for a in range(3):
        for b in set(range(4)) - {a}:
            scores = []
            for q in np.flatnonzero(q_cams == a):
                here = [g for g in np.argsort(distances[q]) if g_cams[g] == b and g_pids[g] != -1]
                right = np.array([g_pids[g] == q_pids[q] for g in here])
                if right.any():
                    places = np.flatnonzero(right)
                    scores.append(np.mean((np.arange(len(places)) + 1) / (places + 1)))
            assert found[a, b] == pytest.approx(np.mean(scores))
