"""One person or two? One threshold on the distance for everybody, as access control has it."""

from dataclasses import dataclass

import numpy as np
import torch

from reidnb.evaluation.distances import blocks, compare, padded
from reidnb.evaluation.inputs import all_ids, feature_pair, whole

BINS = 4096
SLACK = 1e-3  # distances from products and from differences agree to less than that


@dataclass(frozen=True)
class PairScores:
    """How well distances tell pairs of one person from pairs of two: the mean distance of either kind, and the equal
    error rate (EER), the share of pairs of either kind on the wrong side of one `threshold` for everybody."""

    positive: float
    negative: float
    eer: float
    threshold: float

    @property
    def gap(self) -> float:
        """How much nearer one person's images lie than two persons', as a share: free of the features' scale."""
        return 1 - self.positive / self.negative if self.negative else 0.0


def verify_features(
    query, gallery, query_pids, gallery_pids, query_camids, gallery_camids, block: int = 256
) -> PairScores:
    """One person or two, by one threshold on the distance? All pairs of query (Q, D) and gallery (G, D) -> PairScores.

    The protocol is the ranking's: junk and pairs of one person in one camera are left out, distractors are somebody
    else. As the threshold rises fewer pairs of one person lie above it and more of two below; the EER is where the two
    shares meet, on a straight line where a step leads across. Distances are counted in 4096 bins over the distances of
    one person, where the shares must meet: the EER is exact to the share of pairs in one bin. Where no pair is on the
    wrong side the threshold lies halfway between the two kinds.

    Raises ValueError on features and ids that cannot be meant, and without a pair of either kind.
    """
    x, y = feature_pair(query, gallery, "query", "gallery")
    ids = all_ids((len(x), len(y)), query_pids, gallery_pids, query_camids, gallery_camids)
    block = whole(block, "block", "a number of queries")
    known = ids[1] != -1
    pair = compare(x, y if known.all() else y[torch.from_numpy(known).to(y.device)], "query", "gallery")
    query_pids, gallery_pids, query_camids, gallery_camids = ids[0], ids[1][known], ids[2], ids[3][known]

    def of_one_person(rows):
        q, g = np.nonzero(query_pids[rows, None] == gallery_pids)
        return q, g, query_camids[rows][q] != gallery_camids[g]

    lowest, highest, ones, same = np.inf, 0.0, 0, 0
    for rows in blocks(len(x), block):
        q, g, elsewhere = of_one_person(rows)
        same, ones = same + len(q), ones + int(elsewhere.sum())
        for some in np.array_split(np.flatnonzero(elsewhere), 1 + len(q) // 1024):
            if len(some):
                apart = torch.linalg.vector_norm(pair.x[rows][q[some]] - pair.y[g[some]], dim=1)
                lowest, highest = min(lowest, float(apart.min())), max(highest, float(apart.max()))
    twos = len(x) * len(gallery_pids) - same
    if not ones or not twos:
        raise ValueError(
            f"verification needs pairs of both kinds, got {ones} of one person in two cameras and {twos} of two "
            f"persons from {len(x)} queries and {len(gallery_pids)} gallery images that are not junk"
        )

    lowest, highest = lowest - SLACK * highest, highest * (1 + SLACK)
    least = 2.0 ** (-60 if pair.x.dtype == torch.float32 else -400)  # `compare` keeps what is not 0 above that
    scale = BINS / max(highest - lowest, least)

    def count(distances):
        """How many lie below the bins, in each, and above."""
        places = np.clip((distances - lowest) * scale, -1, BINS).astype(np.int64)
        return np.bincount(places.ravel() + 1, minlength=BINS + 2)

    near, far, sums, ends = np.zeros(BINS + 2), np.zeros(BINS + 2), np.zeros(2), np.array([0, -np.inf])
    buffer = padded(min(block, len(x)), len(gallery_pids), pair.y)
    for rows in blocks(len(x), block):
        distances = pair.squared(rows, buffer[: rows.stop - rows.start]).sqrt_().cpu().numpy()
        q, g, elsewhere = of_one_person(rows)
        own = distances[q, g]
        sums += own[elsewhere].sum(dtype=float), distances.sum(dtype=float) - own.sum(dtype=float)
        distances[q, g] = np.inf  # counted above the bins, beyond where the shares meet
        near, far = near + count(own[elsewhere]), far + count(distances)
        ends = np.maximum(ends, [own[elsewhere].max(initial=0), -distances.min()])  # farthest of one, nearest of two
    missed = 1 - np.r_[0, np.cumsum(near)] / ones  # of one person, but above the threshold
    accepted = np.r_[0, np.cumsum(far)] / twos  # of two, but below
    at = int(np.argmax(accepted >= missed))
    step = (missed[at - 1] - accepted[at - 1]) / (accepted[at] - accepted[at - 1] + missed[at - 1] - missed[at])
    eer = accepted[at - 1] + step * (accepted[at] - accepted[at - 1])
    threshold = lowest + (at - 2 + step) / scale if eer else (ends[0] - ends[1]) / 2
    positive, negative, threshold = (float(v) * pair.unit for v in (sums[0] / ones, sums[1] / twos, threshold))
    return PairScores(positive, negative, float(eer), threshold)
