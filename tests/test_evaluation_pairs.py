"""Evaluation beyond one ranking: queries of several images, verification, cameras, attributes."""

import numpy as np
import pytest
import torch
from test_evaluation import random_features

from reidnb.evaluation import (
    attribute_scores,
    decide,
    evaluate_cameras,
    multi_query_features,
    valid_gallery,
    verify_features,
)

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


def slow_eer(one, two):
    """Over every threshold the shares of pairs on the wrong side, joined by straight lines; where they meet."""
    points = [(0.0, 1.0)] + [((two <= t).mean(), (one > t).mean()) for t in np.unique(np.r_[one, two])]
    for (f0, r0), (f1, r1) in zip(points, points[1:]):
        if f1 >= r1:
            step = (r0 - f0) / (f1 - f0 + r0 - r1)
            return f0 + step * (f1 - f0)


def line(one, two, offset=0.0):
    """Scores of one query at 0 whose pairs lie at these distances."""
    gallery = offset + np.r_[one, two].reshape(-1, 1)
    pids = [1] * len(one) + [2] * len(two)
    return verify_features(np.full((1, 1), offset), gallery, [1], pids, [0], [1] * len(pids))


@pytest.mark.parametrize("seed", range(20))
def test_the_equal_error_rate_of_few_pairs(seed):
    rng = np.random.default_rng(seed)
    one, two = rng.permutation(40)[:2] + 1.0, rng.permutation(40)[: rng.integers(1, 9)] + 1.0
    assert line(one, two).eer == pytest.approx(slow_eer(one, two), abs=1e-12)


def test_two_pairs_of_one_person_around_all_others():
    """Once 0.25: the step at the second pair of one person was halved."""
    assert line([1.0, 9.0], np.arange(2.0, 8)).eer == pytest.approx(0.5)
    assert line([1.0, 9.0], [2.0, 3, 4, 12, 13, 14]).eer == pytest.approx(0.5)


@pytest.mark.parametrize(
    "one, two, halfway", [([1.0, 2.0], [4.0, 6.0], 3), ([1.0], [5.0], 3), ([1.0], [1.0005], 1.00025)]
)
def test_a_threshold_without_errors_lies_halfway(one, two, halfway):
    """Once a thousandth of slack around the bins went into it: 1.00075 let the stranger at 1.0005 in."""
    scores = line(one, two)
    assert scores.eer == 0 and scores.threshold == pytest.approx(halfway, rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_a_common_offset_changes_nothing(seed):
    """Once bins spanned the lengths of features: with an offset of 1e4 all distances fell into one."""
    query, gallery, ids = random_features(seed)
    plain, moved = verify_features(query, gallery, *ids), verify_features(query + 1e4, gallery + 1e4, *ids)
    # A bin is 1/4096 of the span: a few pairs may change sides.
    assert moved.eer == pytest.approx(plain.eer, abs=2e-3) and 0.02 < plain.eer < 0.45
    assert moved.threshold == pytest.approx(plain.threshold, rel=1e-3)
    assert (moved.positive, moved.negative) == pytest.approx((plain.positive, plain.negative), rel=1e-6)


def test_concentrated_distances_have_bins_enough():
    """Distances of 40 to 42, as many values a feature bring them."""
    rng = np.random.default_rng(0)
    one, two = 40 + rng.random(300), 40.5 + rng.random(2000)
    assert line(one, two).eer == pytest.approx(slow_eer(one, two), abs=2e-3)  # a bin of 4096: one pair, and the others


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e30])
def test_verification_of_any_scale(scale):
    query, gallery, ids = random_features(2)
    plain = verify_features(query, gallery, *ids)
    scaled = verify_features((query * scale).astype(np.float32), (gallery * scale).astype(np.float32), *ids)
    assert scaled.eer == pytest.approx(plain.eer, abs=2e-3)  # a few pairs of a bin
    assert scaled.threshold / scale == pytest.approx(plain.threshold, rel=1e-4)


def test_verification_of_double_features_beyond_all_squares():
    plain, scaled = line([1.0, 3.0], [2.0, 6.0]), line([1e-200, 3e-200], [2e-200, 6e-200])
    assert scaled.positive / 1e-200 == pytest.approx(plain.positive) and scaled.eer == plain.eer
    assert scaled.threshold / 1e-200 == pytest.approx(plain.threshold, rel=1e-3)


def test_zero_features_verify_at_chance():
    zeros, pids = np.zeros((4, 3)), [1, 1, 2, 2]
    scores = verify_features(zeros, zeros, pids, pids, [0, 1, 0, 1], [0, 1, 0, 1])
    assert scores.eer == pytest.approx(0.5) and scores.positive == scores.negative == scores.gap == 0


@pytest.mark.parametrize(
    "changed, says",
    [
        ({"gallery_pids": [-1, -1, -1]}, "0 of one person in two cameras and 0 of two persons from 2 queries and 0"),
        ({"gallery": np.zeros((0, 2)), "gallery_pids": [], "gallery_camids": []}, "0 gallery images"),
        ({"query_pids": [0, 1]}, "query_pids holds 0, but 0 .distractor."),
        ({"query": np.full((2, 2), np.nan)}, "query: row 0 holds NaN"),
        ({"gallery": np.float32([[0, 1], [np.inf, 0], [0, 0]])}, "gallery: row 1 holds NaN or infinity, as do 1 of 3"),
        ({"gallery_camids": [0, 0, 0]}, "0 of one person in two cameras and 4"),
        ({"gallery_pids": [1, 1, 1], "query_pids": [1, 1]}, "6 of one person in two cameras and 0 of two"),
    ],
)
def test_verification_refuses(changed, says):
    good = dict(
        query=np.eye(2),
        gallery=np.ones((3, 2)),
        query_pids=[1, 2],
        gallery_pids=[1, 2, 0],
        query_camids=[0, 0],
        gallery_camids=[1, 1, 1],
    )
    verify_features(**good)
    with pytest.raises(ValueError, match=says):
        verify_features(**{**good, **changed})


def test_distractors_are_somebody_else_and_junk_is_nobody():
    features = np.float32([[0], [1], [2], [3]])
    ids = [1], [1, 0, -1, 2], [0], [1, 1, 1, 1]
    scores = verify_features(np.float32([[0.5]]), features, *ids)
    assert scores.positive == 0.5 and scores.negative == pytest.approx((0.5 + 2.5) / 2)


# ---- keys, cameras, what a query sees -------------------------------------------------------------------------------


@pytest.mark.parametrize("pids", [[1, 2, 3], [2**62, 2**62 + 1, 2**62 + 2], [1, 2**40, 2**63 - 1]])
@pytest.mark.parametrize("camids", [[-1, 0, 1], [0, 1, 2], [-(2**62), 0, 2**62]])
def test_multi_query_never_mixes_people(pids, camids):
    """Once the key was pid * cameras + camid: cameras from -1 met those of the next person, large ids overflowed."""
    who, where = (a.ravel() for a in np.meshgrid(pids, camids, indexing="ij"))
    features = np.arange(9.0)[:, None]
    pool = np.repeat(features + 100, 2, 0)
    found = multi_query_features(features, who, where, pool, np.repeat(who, 2), np.repeat(where, 2))
    np.testing.assert_allclose(found, (features + 2 * (features + 100)) / 3)


def test_a_query_sees_no_junk_and_not_itself():
    seen = valid_gallery(3, 1, [3, 3, -1, 0, 4], [1, 0, 0, 1, 1])
    assert seen.tolist() == [False, True, False, True, True]


# ---- attributes -----------------------------------------------------------------------------------------------------


def test_minus_one_is_unknown():
    """Once -1 counted as known and as neither, so that accuracy fell."""
    logits, groups = np.array([[1.0], [2], [-3], [-1]]), (slice(0, 1),)
    known = attribute_scores(logits, [[1.0], [np.nan], [0], [1]], groups)
    other = attribute_scores(logits, [[1], [-1], [0], [1]], groups)
    for name in ("share", "accuracy", "balanced", "f1", "ap"):
        assert getattr(known, name) == getattr(other, name)
    assert other.accuracy == pytest.approx(2 / 3)


def test_labels_of_one_and_two_are_refused():
    """Market-1501's own: yes would be read as no answer at all, and no as yes."""
    with pytest.raises(ValueError, match="got 2: labels of 1 .no. and 2 .yes."):
        attribute_scores(np.zeros((3, 1)), [[1], [2], [1]], (slice(0, 1),))


def test_attribute_scores_are_equal_where_their_arrays_are():
    """Once numpy's ValueError about the truth of an array."""
    logits, groups = np.array([[1.0, 2], [-3, 1]]), (slice(0, 1), slice(1, 2))
    first, again = (attribute_scores(logits, [[1, np.nan], [0, np.nan]], groups) for _ in range(2))
    assert first == again and np.isnan(first.accuracy[1]) and first != attribute_scores(-logits, logits > 0, groups)


def test_the_likeliest_of_a_group_whatever_holds_the_logits():
    logits = torch.tensor([[0.5, -1.0, 2.0, 1.0]], requires_grad=True)
    for given in (logits, logits.bfloat16(), logits.tolist()):
        assert decide(given, (slice(0, 1), slice(1, 4))).tolist() == [[True, False, True, False]]
