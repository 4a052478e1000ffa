"""How good is a ranking?  CMC, mAP and mINP for person re-identification; the protocol stands in `reidnb.evaluation`.

Nothing is sorted that need not be.  A ranking's scores depend only on the ranks of the *right* images, and the rank
of an image is how many others lie nearer: so each query keeps only the gallery images up to its farthest match and
looks the matches up there.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from reidnb.evaluation.distances import blocks, compare, padded
from reidnb.evaluation.inputs import EqualByValue, all_ids, matrix, whole

CLOSE_LOOKS = 18  # to compare with 18 entries costs as much as to sort one in: measured, on rows of 16 000


@dataclass(frozen=True, eq=False)
class Scores(EqualByValue):
    """What a ranking scored; all numbers lie in [0, 1].

    `mAP` and `mINP` are means over the queries that have a match; `cmc[k - 1]` is Rank-k, the share of those queries
    with a right image among their first k; `ap` has one value a query, NaN where the query has no match; `queries`
    counts the others. Two are equal (==) where all of that is, NaN and NaN too; they have no hash.
    """

    mAP: float
    mINP: float
    cmc: np.ndarray = field(repr=False)
    ap: np.ndarray = field(repr=False)
    queries: int

    @property
    def rank1(self) -> float:
        return float(self.cmc[0])

    def __str__(self) -> str:
        ranks = "  ".join(f"Rank-{k} {100 * self.cmc[k - 1]:.1f}" for k in (1, 5, 10) if k <= len(self.cmc))
        return f"mAP {100 * self.mAP:.1f}  {ranks}  mINP {100 * self.mINP:.1f} %  ({self.queries} queries)"


def evaluate(
    distances, query_pids, gallery_pids, query_camids, gallery_camids, ap: str = "step", max_rank: int = 50
) -> Scores:
    """Score a whole matrix of distances (Q, G), numpy or torch, small = alike -> Scores.

    `ap="step"` averages the precision at each right image, as most code and papers do; `ap="trapezoid"` is the form
    of Market-1501's official evaluation, which averages the precision just before and at each right image.  Equal
    distances are scored by their *expectation over all orders*: features that have collapsed to one point score at
    chance, whatever the order of the gallery.  Whole numbers of any size, and long doubles, keep their order.
    `max_rank` is the length of the CMC.  Raises ValueError on shapes, ids or NaN that cannot be meant.
    """
    distances = matrix(distances, "distances", "(queries, gallery)")
    protocol = _protocol(distances.shape, query_pids, gallery_pids, query_camids, gallery_camids)
    return _scores(_count_rows(distances, 0, protocol), max_rank, ap)


def evaluate_features(
    query_features,
    gallery_features,
    query_pids,
    gallery_pids,
    query_camids,
    gallery_camids,
    ap: str = "step",
    max_rank: int = 50,
    block: int = 256,
) -> Scores:
    """Score features (Q, D) and (G, D) by Euclidean distance -> Scores, as `evaluate` does.

    Works through `block` queries at a time: the (Q, G) matrix never exists, so a gallery of a million images needs no
    more than `block` rows of it.  Features stay on their device; distances come to the CPU block by block.  Features
    that are whole numbers are ranked by exact distances.  Raises ValueError on features, ids and settings that cannot
    be meant.
    """
    pair = compare(query_features, gallery_features, "query_features", "gallery_features")
    block, shape = whole(block, "block", "a number of queries"), (len(pair.x), len(pair.y))
    protocol = _protocol(shape, query_pids, gallery_pids, query_camids, gallery_camids)
    buffer = padded(min(block, shape[0]), shape[1], pair.y)

    def counts():
        for rows in blocks(shape[0], block):
            squared = pair.squared(rows, buffer[: rows.stop - rows.start])  # the root would not change the ranking
            yield from _count_rows(squared.cpu().numpy(), rows.start, protocol)

    return _scores(counts(), max_rank, ap)


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


def _protocol(shape, *ids):
    if not all(shape):
        raise ValueError(f"nothing to score: {shape[0]} queries and {shape[1]} gallery images")
    query_pids, gallery_pids, query_camids, gallery_camids = all_ids(shape, *ids)
    order = np.argsort(gallery_pids, kind="stable")
    first, last = (np.searchsorted(gallery_pids[order], query_pids, side) for side in ("left", "right"))
    if not any((gallery_camids[order[a:b]] != camid).any() for camid, a, b in zip(query_camids, first, last)):
        raise ValueError(
            f"none of the {len(first)} queries has a match: {int((last > first).sum())} of them have gallery images of "
            "their identity, but only of the query's own camera, and those are ignored (the same-camera rule). Check "
            "that query and gallery ids use one numbering and that the camera ids were read rightly"
        )
    return _Protocol(query_camids, gallery_camids, order, first, last, np.flatnonzero(gallery_pids == -1))


def _count_rows(distances: np.ndarray, start: int, protocol: _Protocol) -> Iterator[tuple]:
    """For the queries start, start + 1, ... yield (matches, nearer, upto), one entry a match, by rising distance.

    `nearer` counts the wrong images that lie strictly nearer than the match, `upto` those as near or nearer.
    """
    width, wide = distances.shape[1], distances.itemsize > 4 and distances.dtype != np.float64
    kind = np.float64 if wide else np.result_type(distances, np.float32)
    row, zeros = np.empty(width, kind), np.zeros(width, kind)
    below = np.empty((CLOSE_LOOKS, width), bool)
    for i, given in enumerate(distances, start):
        np.copyto(row, _ranks(given) if wide else given)
        with np.errstate(invalid="ignore"):
            broken = row.dot(zeros) != 0  # 0 x NaN and 0 x infinity are NaN: a pass less than looking at the extremes
        if broken:
            raise ValueError(f"the distances of query {i} hold NaN or infinity: the features behind them are broken")
        same_pid = protocol.order[protocol.first[i] : protocol.last[i]]
        matches = row[same_pid[protocol.gallery_camids[same_pid] != protocol.query_camids[i]]]
        if not len(matches):
            yield matches, (), ()
            continue
        matches.sort()
        row[same_pid] = np.inf
        row[protocol.junk] = np.inf
        candidates = np.less_equal(row, matches[-1], out=below[0])
        if len(matches) * width <= CLOSE_LOOKS * np.count_nonzero(candidates):
            # The last match ranks low, as at chance: a look at the row for each match is less than sorting most of it.
            looks, limits = below[: len(matches)], matches[:, None]
            nearer = np.array([np.count_nonzero(look) for look in np.less(row, limits, out=looks)])
            equal = np.equal(row, limits, out=looks)
            yield matches, nearer, nearer + [np.count_nonzero(look) for look in looks] if equal.any() else nearer
        else:
            wrong = row.take(candidates.nonzero()[0])  # three times as fast as row[...]
            wrong.sort()
            yield matches, wrong.searchsorted(matches, "left"), wrong.searchsorted(matches, "right")


def _ranks(row):
    """Places instead of values that float64 would round to each other: an order is all that counts."""
    whole_and_small = row.dtype.kind in "iu" and abs(np.float64(row)).max() < 2**53
    return row if whole_and_small or not np.isfinite(row).all() else np.unique(row, return_inverse=True)[1]


def _scores(counts: Iterable[tuple], max_rank: int, ap: str) -> Scores:
    """Scores from what `_count_rows` gives for all queries: the same numbers as, for one query's ranking of True (its
    person) and False (somebody else), with what the protocol ignores left out,

        def average_precision(ranking):
            found, total, before = 0, 0.0, 1.0  # before: the precision just ahead of a place, 1 at the very start
            for rank, right in enumerate(ranking, 1):
                if right:
                    found += 1
                    total += found / rank if ap == "step" else (before + found / rank) / 2
                before = found / rank
            return total / found

        cmc[k - 1] = True in ranking[:k]
        inp = found / (the rank of the last True)

    and where distances are equal, the mean of that over all orders of the equals. Only the places of True count: the
    n-th match (from 0) stands at rank n + 1 + the wrong images nearer than it.
    """
    if ap not in ("step", "trapezoid"):
        raise ValueError(f"ap must be 'step' or 'trapezoid', got {ap!r}")
    max_rank = whole(max_rank, "max_rank, the length of the CMC,")
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
        one = scored[q]
        average[q], inverse[q], cmc_q = _score_ties(matches[one], nearer[one], upto[one], max_rank, ap)
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
    place = np.arange(right[-1] + upto[-1] - nearer[-1])
    chance_last = np.diff(_chance_all_in(np.r_[place, len(place)], right[-1], len(place)))  # of the last match, there
    return average, (chance_last * count / (found[-1] + nearer[-1] + place + 1)).sum(), cmc


def _chance_all_in(places, right, size):
    """The probability that all `right` of `size` shuffled images fall among the first `places`: C(places, r) /
    C(size, r)."""
    from scipy.special import gammaln  # where distances are equal, and only there

    p = np.clip(places, 0, size).astype(float)
    inside = np.maximum(p, right)  # keeps gammaln away from its poles; those entries are 0 below
    log = gammaln(inside + 1) - gammaln(inside - right + 1) - gammaln(size + 1) + gammaln(size - right + 1)
    return np.where(p >= right, np.minimum(np.exp(log), 1), 0.0)  # rounding must not lead beyond 1
