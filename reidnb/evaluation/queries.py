"""Queries of several images: one feature for all that a camera saw of a person."""

import numpy as np
import torch

from reidnb.evaluation.inputs import feature_pair, ids, require_finite


def multi_query_features(features, pids, camids, pool_features, pool_pids, pool_camids, how: str = "mean"):
    """Replace each query's feature by the mean (or "max") over all images of its person in its camera -> (Q, D).

    features (Q, D) are the queries', pool_features (N, D) hold the further images: Market-1501's `gt_bbox`, or the
    gallery's own images of that person and camera, which the protocol ignores anyway.  A query without further images
    keeps its feature.  Ids are any 64-bit integers, but a query needs an identity from 1 on.  numpy in, numpy out;
    torch in, torch out.  Raises ValueError on features, ids and ways that cannot be meant.
    """
    if how not in ("mean", "max"):
        raise ValueError(f"how must be 'mean' or 'max', got {how!r}")
    x, pool = feature_pair(features, pool_features, "features", "pool_features")
    require_finite(x, "features")
    require_finite(pool, "pool_features")
    pids, camids = ids(pids, len(x), "pids", least=1), ids(camids, len(x), "camids")
    pool_pids, pool_camids = ids(pool_pids, len(pool), "pool_pids"), ids(pool_camids, len(pool), "pool_camids")
    _, people = np.unique(np.r_[pids, pool_pids], return_inverse=True)
    _, cameras = np.unique(np.r_[camids, pool_camids], return_inverse=True)
    wanted, offered = np.split(people * len(cameras) + cameras, [len(x)])  # both below len(cameras): keys never collide
    order = np.argsort(offered, kind="stable")
    first, last = (np.searchsorted(offered[order], wanted, side) for side in ("left", "right"))
    out = x.clone()
    for i, (a, b) in enumerate(zip(first, last)):
        group = torch.cat([x[i : i + 1], pool[torch.as_tensor(order[a:b], device=pool.device)]])
        out[i] = group.mean(0) if how == "mean" else group.max(0).values
    return out if isinstance(features, torch.Tensor) else out.numpy()
