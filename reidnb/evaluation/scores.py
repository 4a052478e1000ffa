"""How good is a ranking?  CMC, mAP and mINP for person re-identification; the protocol stands in `reidnb.evaluation`.

Nothing is sorted that need not be.  A ranking's scores depend only on the ranks of the *right* images, and the rank
of an image is how many others lie nearer: so each query keeps only the gallery images up to its farthest match and
looks the matches up there.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.special import gammaln

from reidnb.evaluation.distances import _padded, _pair, _squared_distances, _squared_lengths, euclidean_distances

__all__ = ["PairScores", "Scores", "evaluate", "evaluate_features", "multi_query_features", "verify_features"]


@dataclass(frozen=True)
class Scores:
    """What a ranking scored; all numbers lie in [0, 1].

    `mAP` and `mINP` are means over the queries that have a match; `cmc[k - 1]` is Rank-k, the share of those queries
    with a right image among their first k; `ap` has one value a query, NaN where the query has no match; `queries`
    counts the others.
    """

    mAP: float
    mINP: float
    cmc: np.ndarray = field(repr=False)
    ap: np.ndarray = field(repr=False)
    queries: int

    @property
    def rank1(self):
        return float(self.cmc[0])

    def __str__(self):
        ranks = "  ".join(f"Rank-{k} {100 * self.cmc[k - 1]:.1f}" for k in (1, 5, 10) if k <= len(self.cmc))
        return f"mAP {100 * self.mAP:.1f}  {ranks}  mINP {100 * self.mINP:.1f} %  ({self.queries} queries)"


@dataclass(frozen=True)
class PairScores:
    """How well distances tell pairs of one person from pairs of two: the mean distance of either kind, and the equal
    error rate (EER), the share of pairs of either kind on the wrong side of one `threshold` for everybody."""

    positive: float
    negative: float
    eer: float
    threshold: float

    @property
    def gap(self):
        """How much nearer one person's images lie than two persons', as a share: free of the features' scale."""
        return 1 - self.positive / self.negative if self.negative else 0.0


# ------------------------------------------------------------------------------------------------------------- scores


def evaluate(distances, query_pids, gallery_pids, query_camids, gallery_camids, ap="step", max_rank=50):
    """Score a whole matrix of distances (Q, G), numpy or torch, small = alike -> Scores.

    `ap="step"` averages the precision at each right image, as most code and papers do; `ap="trapezoid"` is the form
    of Market-1501's official evaluation, which averages the precision just before and at each right image.  Equal
    distances are scored by their *expectation over all orders*: features that have collapsed to one point score at
    chance, whatever the order of the gallery.  `max_rank` is the length of the CMC.  Raises ValueError on shapes, ids
    or NaN that cannot be meant.
    """
    distances = _numpy(distances)
    if distances.ndim != 2:
        raise ValueError(f"distances must be a matrix (queries, gallery), got shape {distances.shape}")
    if distances.dtype not in (np.float32, np.float64):
        distances = distances.astype(np.float32)
    protocol = _protocol(distances.shape, query_pids, gallery_pids, query_camids, gallery_camids)
    return _scores(_count_rows(distances, 0, protocol), max_rank, ap)


def evaluate_features(
    query_features,
    gallery_features,
    query_pids,
    gallery_pids,
    query_camids,
    gallery_camids,
    ap="step",
    max_rank=50,
    block=256,
):
    """Score features (Q, D) and (G, D) by Euclidean distance -> Scores, as `evaluate` does.

    Works through `block` queries at a time: the (Q, G) matrix never exists, so a gallery of a million images needs no
    more than `block` rows of it.  Features stay on their device; distances come to the CPU block by block.
    """
    x, y = _pair(query_features, gallery_features, "query_features", "gallery_features")
    if block < 1:
        raise ValueError(f"block must be at least 1 query, got {block}")
    protocol = _protocol((len(x), len(y)), query_pids, gallery_pids, query_camids, gallery_camids)
    squares, buffer = _squared_lengths(y), _padded(min(block, len(x)), len(y), y)

    def counts():
        for start in range(0, len(x), block):
            part = x[start : start + block]
            squared = _squared_distances(part, y, squares, buffer[: len(part)])  # the root would not change the ranking
            yield from _count_rows(squared.cpu().numpy(), start, protocol)

    return _scores(counts(), max_rank, ap)


def verify_features(query, gallery, query_pids, gallery_pids, query_camids, gallery_camids, block=256):
    """One person or two, by one threshold on the distance? All pairs of query (Q, D) and gallery (G, D) -> PairScores.

    The protocol is the ranking's: junk and pairs of one person in one camera are left out, distractors are somebody
    else. Distances are counted in 4096 bins, so the EER is exact to the share of pairs in one bin. ValueError without
    a pair of either kind.
    """
    query, gallery = _pair(query, gallery, "query", "gallery")
    query_pids = _ids(query_pids, len(query), "query_pids")
    query_camids = _ids(query_camids, len(query), "query_camids")
    gallery_pids = _ids(gallery_pids, len(gallery), "gallery_pids")
    gallery_camids = _ids(gallery_camids, len(gallery), "gallery_camids")
    known = gallery_pids != -1
    gallery, gallery_pids, gallery_camids = gallery[torch.from_numpy(known)], gallery_pids[known], gallery_camids[known]
    bins, longest = 4096, float(query.norm(dim=1).max() + gallery.norm(dim=1).max())
    counts, sums = np.zeros((2, bins)), np.zeros(2)

    def add(kind, distances, sign=1):
        places = np.minimum((distances * (bins / longest)).astype(np.int64), bins - 1)
        counts[kind] += sign * np.bincount(places.ravel(), minlength=bins)
        sums[kind] += sign * distances.sum(dtype=float)

    for start in range(0, len(query), block):
        rows = slice(start, start + block)
        distances = euclidean_distances(query[rows], gallery).numpy()
        q, g = np.nonzero(query_pids[rows, None] == gallery_pids)
        same, elsewhere = distances[q, g], query_camids[rows][q] != gallery_camids[g]
        add(0, distances)  # two persons: all pairs, less the few of one
        add(0, same, -1)
        add(1, same[elsewhere])
    totals = counts.sum(1)
    if not totals.all():
        raise ValueError(f"verification needs pairs of both kinds, got {totals[1]:.0f} of one person in two cameras "
                         f"and {totals[0]:.0f} of two persons")
    accepted_wrongly, accepted = np.cumsum(counts / totals[:, None], 1)
    at = int(np.argmax(accepted_wrongly >= 1 - accepted))
    eer = (accepted_wrongly[at] + 1 - accepted[at]) / 2
    return PairScores(sums[1] / totals[1], sums[0] / totals[0], float(eer), (at + 1) * longest / bins)


def multi_query_features(features, pids, camids, pool_features, pool_pids, pool_camids, how="mean"):
    """Replace each query's feature by the mean (or "max") over all images of its person in its camera -> (Q, D).

    features (Q, D) are the queries', pool_features (N, D) hold the further images: Market-1501's `gt_bbox`, or the
    gallery's own images of that person and camera, which the protocol ignores anyway.  A query without further images
    keeps its feature.
    """
    if how not in ("mean", "max"):
        raise ValueError(f"how must be 'mean' or 'max', got {how!r}")
    x, pool = _pair(features, pool_features, "features", "pool_features")
    pids, camids = _ids(pids, len(x), "pids"), _ids(camids, len(x), "camids")
    pool_pids, pool_camids = _ids(pool_pids, len(pool), "pool_pids"), _ids(pool_camids, len(pool), "pool_camids")
    cameras = 1 + max(camids.max(initial=0), pool_camids.max(initial=0))
    order = np.argsort(pool_pids * cameras + pool_camids, kind="stable")
    keys = (pool_pids * cameras + pool_camids)[order]
    first, last = (
        np.searchsorted(keys, pids * cameras + camids, "left"),
        np.searchsorted(keys, pids * cameras + camids, "right"),
    )
    out = x.clone()
    for i, (a, b) in enumerate(zip(first, last)):
        group = torch.cat([x[i : i + 1], pool[torch.as_tensor(order[a:b], device=pool.device)]])
        out[i] = group.mean(0) if how == "mean" else group.max(0).values
    return out.numpy() if isinstance(features, np.ndarray) else out


# ------------------------------------------------------------------------------------------------ one query at a time


@dataclass(frozen=True)
class _Protocol:
    """Who may match whom: the gallery grouped by identity, and the rows of it that no query may see."""

    query_camids: np.ndarray
    gallery_camids: np.ndarray
    order: np.ndarray  # gallery indices sorted by pid
    first: np.ndarray  # order[first[i]:last[i]] is query i's identity
    last: np.ndarray
    junk: np.ndarray  # gallery indices with pid -1


def _protocol(shape, query_pids, gallery_pids, query_camids, gallery_camids):
    queries, gallery = shape
    ids = {
        "query_pids": _ids(query_pids, queries, "query_pids"),
        "gallery_pids": _ids(gallery_pids, gallery, "gallery_pids"),
        "query_camids": _ids(query_camids, queries, "query_camids"),
        "gallery_camids": _ids(gallery_camids, gallery, "gallery_camids"),
    }
    if not queries or not gallery:
        raise ValueError(f"nothing to score: {queries} queries and {gallery} gallery images")
    if ids["query_pids"].min() < 1:
        bad = int(ids["query_pids"].min())
        raise ValueError(
            f"query_pids holds {bad}, but 0 (distractor) and -1 (junk) name nobody: a query needs an identity from 1 on"
        )
    order = np.argsort(ids["gallery_pids"], kind="stable")
    by_pid = ids["gallery_pids"][order]
    first, last = (np.searchsorted(by_pid, ids["query_pids"], side) for side in ("left", "right"))
    _require_a_match(ids, first, last, order)
    return _Protocol(
        ids["query_camids"], ids["gallery_camids"], order, first, last, np.flatnonzero(ids["gallery_pids"] == -1)
    )


def _require_a_match(ids, first, last, order):
    for camid, a, b in zip(ids["query_camids"], first, last):
        if (ids["gallery_camids"][order[a:b]] != camid).any():
            return
    raise ValueError(
        f"none of the {len(first)} queries has a match: {int((last > first).sum())} of them have gallery images of "
        "their identity, but only of the query's own camera, and those are ignored (the same-camera rule). Check that "
        "query and gallery ids use one numbering and that the camera ids were read rightly"
    )


def _count_rows(distances, start, protocol):
    """For the queries start, start + 1, ... yield (matches, nearer, upto), one entry a match, by rising distance.

    `nearer` counts the wrong images that lie strictly nearer than the match, `upto` those as near or nearer.
    """
    row = np.empty(distances.shape[1], distances.dtype)
    for i, given in enumerate(distances, start):
        same_pid = protocol.order[protocol.first[i] : protocol.last[i]]
        matches = given[same_pid[protocol.gallery_camids[same_pid] != protocol.query_camids[i]]]
        if not np.isfinite(given.max() - given.min()):  # both hand a NaN on
            raise ValueError(f"the distances of query {i} hold NaN or infinity: the features behind them are broken")
        if len(matches):
            matches.sort()
            np.copyto(row, given)
            row[same_pid] = np.inf
            row[protocol.junk] = np.inf
            wrong = row.compress(row <= matches[-1])  # twice as fast as row[...]
            wrong.sort()
            yield matches, wrong.searchsorted(matches, "left"), wrong.searchsorted(matches, "right")
        else:
            yield matches, (), ()


def _scores(counts, max_rank, ap):
    """Scores from an iterator of `_count_rows` over all queries."""
    if ap not in ("step", "trapezoid"):
        raise ValueError(f"ap must be 'step' or 'trapezoid', got {ap!r}")
    if max_rank < 1:
        raise ValueError(f"max_rank, the length of the CMC, must be at least 1, got {max_rank}")
    matches, nearer, upto = zip(*counts)
    total = np.array([len(m) for m in matches])
    scored = np.flatnonzero(total)
    starts = np.cumsum(total[scored]) - total[scored]
    place = np.arange(total.sum()) - np.repeat(starts, total[scored])  # 0, 1, 2, ... within each query
    nearer_wrong, upto_wrong = np.concatenate(nearer).astype(np.int64), np.concatenate(upto).astype(np.int64)
    precision = _precision(place, nearer_wrong + place, ap)
    average = np.add.reduceat(precision, starts) / total[scored]
    inverse = total[scored] / (np.maximum.reduceat(nearer_wrong + place, starts) + 1)
    cmc = np.arange(max_rank) >= nearer_wrong[starts][:, None]
    for q in np.flatnonzero(np.add.reduceat(upto_wrong - nearer_wrong, starts)):  # a wrong image as near as a right one
        average[q], inverse[q], cmc_q = _score_ties(
            matches[scored[q]], nearer[scored[q]], upto[scored[q]], max_rank, ap
        )
        cmc = cmc.astype(float, copy=False)
        cmc[q] = cmc_q
    per_query = np.full(len(total), np.nan)
    per_query[scored] = average
    return Scores(float(average.mean()), float(inverse.mean()), cmc.mean(0), per_query, len(scored))


def _precision(found, before, ap):
    """Precision at a match with `found` matches and `before` images (right or wrong) ranked ahead of it."""
    precision = (found + 1) / (before + 1)
    if ap == "trapezoid":  # averaged with the precision just before it, which is 1 at the very start
        precision = (precision + np.where(before > 0, found / np.maximum(before, 1), 1.0)) / 2
    return precision


def _score_ties(matches, nearer, upto, max_rank, ap):
    """AP, INP and CMC of one query in expectation over all orders of the images at equal distance (McSherry, Najork
    2008)."""
    average, count = 0.0, len(matches)
    found, right = np.unique(np.searchsorted(matches, matches), return_counts=True)  # groups of matches at one distance
    for a, r in zip(found, right):
        before, size = a + nearer[a], r + upto[a] - nearer[a]  # a match stands at each place with probability r / size
        place = np.arange(size)
        expected = a + place * (r - 1) / max(size - 1, 1)  # matches ahead of it, given that it is one
        average += r / size * _precision(expected, before + place, ap).sum() / count
    wrong = upto[0] - nearer[0]
    cmc = 1 - _chance_all_in(upto[0] + right[0] - np.arange(1, max_rank + 1), right[0], wrong + right[0])
    wrong, place = upto[-1] - nearer[-1], np.arange(right[-1] + upto[-1] - nearer[-1])
    chance_last = np.diff(
        _chance_all_in(np.r_[place, len(place)], right[-1], len(place))
    )  # that the last match stands there
    return average, (chance_last * count / (found[-1] + nearer[-1] + place + 1)).sum(), cmc


def _chance_all_in(places, right, size):
    """The probability that all `right` of `size` shuffled images fall among the first `places`: C(places, r) /
    C(size, r)."""
    p = np.clip(places, 0, size).astype(float)
    inside = np.maximum(p, right)  # keeps gammaln away from its poles; those entries are 0 below
    log = gammaln(inside + 1) - gammaln(inside - right + 1) - gammaln(size + 1) + gammaln(size - right + 1)
    return np.where(p >= right, np.exp(log), 0.0)


# -------------------------------------------------------------------------------------------------------- at the door


def _numpy(values):
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    return np.asarray(values)


def _ids(values, wanted, name):
    """int64 (wanted,)"""
    values = _numpy(values)
    if values.shape != (wanted,) or values.dtype.kind not in "iu":
        raise ValueError(f"{name} must be {wanted} integers, one an image; got shape {values.shape} of {values.dtype}")
    return values.astype(np.int64)
