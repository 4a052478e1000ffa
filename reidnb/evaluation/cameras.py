"""What a query may see of a gallery, and scores between every two cameras."""

import numpy as np

from reidnb.evaluation.scores import _ids, _numpy, evaluate

__all__ = ["evaluate_cameras", "seen_by"]


def seen_by(pid, camid, gallery_pids, gallery_camids):
    """Which pictures of the gallery count for a query -> bool (G,): neither junk (-1) nor its own person by its own
    camera."""
    return (gallery_pids != -1) & ~((gallery_pids == pid) & (gallery_camids == camid))


def evaluate_cameras(distances, query_pids, gallery_pids, query_camids, gallery_camids):
    """mAP of the queries of each camera in the pictures of each other -> float (C, C), a row a query's camera; NaN
    where no query has a match, as on the diagonal.

    distances (Q, G), ids as `evaluate` takes them; C counts the cameras from 0 to the highest. Each entry is a search
    of its own: distractors and other people of that one camera, so that galleries are smaller than the whole.
    """
    distances = _numpy(distances)
    query_pids, query_camids = (_ids(ids, len(distances), "query ids") for ids in (query_pids, query_camids))
    width = distances.shape[1]
    gallery_pids, gallery_camids = (_ids(ids, width, "gallery ids") for ids in (gallery_pids, gallery_camids))
    cameras = 1 + max(query_camids.max(initial=-1), gallery_camids.max(initial=-1))
    out = np.full((cameras, cameras), np.nan)
    for a in range(cameras):
        for b in range(cameras):
            q, g = np.flatnonzero(query_camids == a), np.flatnonzero(gallery_camids == b)
            if a != b and np.isin(query_pids[q], gallery_pids[g]).any():
                ids = query_pids[q], gallery_pids[g], query_camids[q], gallery_camids[g]
                out[a, b] = evaluate(distances[np.ix_(q, g)], *ids).mAP
    return out
