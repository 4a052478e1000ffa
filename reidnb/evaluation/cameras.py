"""What a query may see of a gallery, and scores between every two cameras."""

import numpy as np

from reidnb.evaluation.inputs import all_ids, ids, matrix
from reidnb.evaluation.scores import evaluate

MOST_CAMERAS = 1000  # more are no cameras but numbers that want renumbering: the answer has a cell for each two


def valid_gallery(pid: int, camid: int, gallery_pids, gallery_camids) -> np.ndarray:
    """Which pictures of the gallery count for a query -> bool (G,): neither junk (-1) nor its own person by its own
    camera."""
    gallery_pids = ids(gallery_pids, len(gallery_pids), "gallery_pids")
    gallery_camids = ids(gallery_camids, len(gallery_pids), "gallery_camids")
    (pid,), (camid,) = ids([pid], 1, "pid"), ids([camid], 1, "camid")
    return (gallery_pids != -1) & ~((gallery_pids == pid) & (gallery_camids == camid))


def evaluate_cameras(distances, query_pids, gallery_pids, query_camids, gallery_camids) -> np.ndarray:
    """mAP of the queries of each camera in the pictures of each other -> float (C, C), a row a query's camera; NaN
    where no query has a match, as on the diagonal.

    distances (Q, G), ids as `evaluate` takes them; C counts the cameras from 0 to the highest. Each entry is a search
    of its own: distractors and other people of that one camera, so that galleries are smaller than the whole. Raises
    ValueError as `evaluate` does, and for camera ids below 0 or from 1000 on.
    """
    distances = matrix(distances, "distances", "(queries, gallery)")
    given = query_pids, gallery_pids, query_camids, gallery_camids
    query_pids, gallery_pids, query_camids, gallery_camids = all_ids(distances.shape, *given)
    for camids, name in ((query_camids, "query_camids"), (gallery_camids, "gallery_camids")):
        if len(camids) and not 0 <= camids.min() <= camids.max() < MOST_CAMERAS:
            raise ValueError(
                f"{name} must count cameras from 0 to below {MOST_CAMERAS}, got {camids.min()}..{camids.max()}: "
                "renumber them with numpy.unique(..., return_inverse=True) over query and gallery together"
            )
    cameras = 1 + max(query_camids.max(initial=-1), gallery_camids.max(initial=-1))
    out = np.full((cameras, cameras), np.nan)
    for a in range(cameras):
        for b in range(cameras):
            q, g = np.flatnonzero(query_camids == a), np.flatnonzero(gallery_camids == b)
            if a != b and np.isin(query_pids[q], gallery_pids[g]).any():
                here = query_pids[q], gallery_pids[g], query_camids[q], gallery_camids[g]
                out[a, b] = evaluate(distances[np.ix_(q, g)], *here).mAP
    if np.isnan(out).all():
        raise ValueError("no query has a match by another camera: there is nothing to score")
    return out
