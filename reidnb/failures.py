"""Why is somebody not found? Failed queries by what the built-in world knows of them, and where a model looks."""

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from reidnb.evaluation import euclidean_distances, valid_gallery
from reidnb.inference import embed
from reidnb.synthetic import ATTRIBUTES, PARTS

KINDS = {  # a column of `difficulties`: what is said of a query that fails by it
    "occlusion": "hidden",
    "box": "bad box",
    "colour": "other colours",
    "lookalikes": "look-alikes",
}


def difficulties(query, gallery):
    """What makes each query of the built-in world hard -> DataFrame, a row a query, larger is harder:

    occlusion: the share of the person that something hides. box: one minus the overlap (IoU) of the detector's box
    with the perfect one. colour: how far the mean colour of the clothes is from that in the person's other pictures,
    taken by other cameras (Euclidean, RGB from 0 to 1); NaN where no clothes are seen. lookalikes: how many people of
    the gallery differ from the person by one detail at most, of 27 attributes (another colour is two entries, one
    detail).

    query, gallery: Splits with masks, shots and attributes. ValueError without them: photographs have no truth.
    """
    known = query.shots, query.masks, gallery.masks, query.attributes, gallery.attributes
    if any(part is None for part in known):
        raise ValueError("only the built-in world knows what hides a person: splits with shots, masks and attributes")
    return pd.DataFrame(
        {
            "occlusion": query.shots["occlusion"].to_numpy(float),
            "box": 1 - _overlap(*(query.shots[f"box_{name}"].to_numpy(float) for name in ("dx", "dy", "scale"))),
            "colour": _colour_distances(query, gallery),
            "lookalikes": _lookalikes(query, gallery),
        }
    )


def failure_kinds(truth, hard=0.8):
    """The kind of each query: its difficulty of the highest percentile among all queries -> str (N,), "" where no
    percentile reaches `hard`: nothing known here explains it."""
    percentiles = truth.rank(pct=True).where(truth > truth.min(), 0.0)  # the easiest are not hard, however few
    highest = percentiles.to_numpy().argmax(1)
    return np.where(percentiles.max(axis=1) >= hard, truth.columns.to_numpy(str)[highest], "")


def worst_queries(distances, query, gallery, ap, count=8, best=False):
    """The queries with the lowest average precision, or the highest -> DataFrame: query, ap, `wrong` and `right`, the
    nearest wrong and the nearest right picture of the gallery, and their ranks (from 1), `wrong_rank` and `rank`.

    distances (Q, G); ap (Q,), as `Scores.ap` has it: queries without an answer, whose ap is NaN, are left out. What
    the protocol ignores is left out, as in the evaluation. Of equal distances each has the best rank.
    """
    rows, order = [], np.argsort(-np.asarray(ap) if best else ap, kind="stable")
    for q in order[~np.isnan(np.asarray(ap)[order])][:count]:
        same = gallery.pids == query.pids[q]
        seen = valid_gallery(query.pids[q], query.camids[q], gallery.pids, gallery.camids)
        right, wrong = np.flatnonzero(seen & same), np.flatnonzero(seen & ~same)
        if len(wrong):
            right, wrong = (some[distances[q, some].argmin()] for some in (right, wrong))
            ranks = [1 + int((distances[q, seen] < distances[q, g]).sum()) for g in (wrong, right)]
            rows.append([q, ap[q], wrong, right, *ranks])
    return pd.DataFrame(rows, columns=["query", "ap", "wrong", "right", "wrong_rank", "rank"])


def occlusion_map(model, image, toward, window=12, stride=4, compare="embedding", device=None):
    """Where a picture's distance to `toward` comes from: how much it grows when a place is covered (after Zeiler and
    Fergus, 2014) -> float32 (H, W), each pixel the mean over the windows that cover it.

    image: uint8 (3, H, W). toward: the unit-length feature (D,) of another picture. A window is `window` pixels high
    and wide and is filled with the picture's mean colour. Positive: what is here speaks for the match.
    """
    if not 1 <= stride <= window:
        raise ValueError(f"stride must lie in 1..{window}, the window, so that no pixel is left out; got {stride}")
    toward = torch.as_tensor(toward, dtype=torch.float32).detach().cpu().reshape(1, -1)
    height, width = image.shape[1:]
    tops, lefts = _starts(height, window, stride), _starts(width, window, stride)
    covered, places = [image], []
    for top in tops:
        for left in lefts:
            place = np.s_[top : top + window, left : left + window]
            picture = image.copy()
            picture[:, *place] = image.mean((1, 2)).round()[:, None, None]
            covered.append(picture)
            places.append(place)
    features = F.normalize(embed(model, np.stack(covered), device, compare=compare).flatten(1))
    distances = euclidean_distances(features, toward)[:, 0].numpy()
    growth, counts = np.zeros((height, width), np.float32), np.zeros((height, width), np.float32)
    for place, distance in zip(places, distances[1:]):
        growth[place] += distance - distances[0]
        counts[place] += 1
    return growth / counts


def _starts(length, window, stride):
    """Where windows begin: every `stride`, and one that ends at the edge."""
    if not 0 < window <= length:
        raise ValueError(f"a window of {window} pixels does not fit into {length}")
    return sorted({*range(0, length - window + 1, stride), length - window})


def _overlap(dx, dy, scale):
    """IoU of the unit square with a square of side `scale` whose centre is shifted by (dx, dy)."""

    def shared(shift):
        return np.clip(np.minimum(0.5, shift + scale / 2) - np.maximum(-0.5, shift - scale / 2), 0, None)

    both = shared(dx) * shared(dy)
    return both / (1 + scale**2 - both)


def _clothes(split):
    """Mean colour of torso and legs, RGB from 0 to 1 -> (N, 3); NaN where none is seen."""
    parts = [PARTS.index("torso"), PARTS.index("legs")]
    out = np.full((len(split), 3), np.nan)
    for i, (image, mask) in enumerate(zip(split.images, split.masks)):
        worn = np.isin(mask, parts)
        if worn.any():
            out[i] = image[:, worn].mean(1) / 255
    return out


def _colour_distances(query, gallery):
    worn, theirs = _clothes(query), _clothes(gallery)
    out, seen = np.full(len(query), np.nan), ~np.isnan(theirs[:, 0])
    for q, (pid, camid) in enumerate(zip(query.pids, query.camids)):
        matches = theirs[seen & (gallery.pids == pid) & (gallery.camids != camid)]
        if len(matches):
            out[q] = np.linalg.norm(worn[q] - matches.mean(0))
    return out


def _lookalikes(query, gallery):
    pids, first = np.unique(gallery.pids, return_index=True)
    looks = gallery.attributes[first[pids > 0]]
    pids = pids[pids > 0]
    count = differences(query.attributes[:, None], looks)
    return ((count <= 1) & (query.pids[:, None] != pids)).sum(1)


def differences(looks, others):
    """In how many details two looks differ, attributes (..., 27) of the built-in world -> int (...): another colour is
    two entries, but one detail."""
    details, differs = np.array([_detail(name) for name in ATTRIBUTES]), np.asarray(looks) != others
    return sum(differs[..., details == detail].any(-1).astype(int) for detail in np.unique(details))


def _detail(name):
    """The detail that an attribute belongs to: "upred" to the colour above, "hat" to itself."""
    for garment in ("up", "down"):
        if name.startswith(garment) and name != garment:
            return f"{garment} colour"
    return name
