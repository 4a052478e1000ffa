"""Evaluation beside fast-reid and torchreid, on a simulated Market-1501 (3368 queries, 15913 gallery images, 2048-d).

    PEER_FASTREID=.../fast-reid PEER_TORCHREID=.../torchreid python benchmarks/bench_evaluation.py

Peers are imported from checkouts of them, with their Cython built where `rank_cylib` lies (see README.md there);
without it their Python runs. Scores must agree to 1e-6.
"""

import os
import sys
import types
import warnings
from pathlib import Path

import numpy as np
from measuring import Skip, machine, main, measure, peer, table

QUERIES, IDENTITIES, CAMERAS = 3368, 750, 6
LABELLED, DISTRACTORS, DIMENSIONS = 13115, 2798, 2048
CACHE = Path(os.environ.get("BENCH_CACHE", "/tmp/reidnb_bench"))


def simulated():
    """Market-1501's test split in its counts -> features and ids; mAP about 60 %, kept in a file between cases."""
    path = CACHE / f"market_{DIMENSIONS}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{os.getpid()}.npz")
        np.savez(aside, **draw())
        aside.rename(path)
    with np.load(path) as kept:
        return [kept[k] for k in ("query", "gallery", "query_pids", "gallery_pids", "query_camids", "gallery_camids")]


def draw():
    rng = np.random.default_rng(0)
    pairs = np.stack(np.divmod(np.arange(IDENTITIES * CAMERAS), CAMERAS), 1)  # (identity, camera)
    seen = pairs[
        np.sort(np.concatenate([np.arange(i * CAMERAS, i * CAMERAS + 2) for i in range(IDENTITIES)]))
    ]  # two cameras at least
    rest = pairs[rng.permutation(np.flatnonzero(pairs[:, 1] >= 2))[: QUERIES - len(seen)]]
    query_pids, query_camids = np.concatenate([seen, rest]).T
    cameras = rng.permuted(np.tile(np.arange(CAMERAS), (IDENTITIES, 1)), axis=1)
    query_camids = cameras[query_pids, query_camids]
    of = np.concatenate([np.arange(QUERIES), rng.integers(0, QUERIES, LABELLED - QUERIES)])  # one gallery image each
    gallery_pids = np.r_[query_pids[of] + 1, np.zeros(DISTRACTORS, int)]
    gallery_camids = np.r_[query_camids[of], rng.integers(0, CAMERAS, DISTRACTORS)]
    order = rng.permutation(len(gallery_pids))
    gallery_pids, gallery_camids, query_pids = gallery_pids[order], gallery_camids[order], query_pids + 1
    latent = 96
    centre, camera = rng.normal(size=(IDENTITIES + 1, latent)), 0.45 * rng.normal(size=(CAMERAS, latent))
    view = 0.55 * rng.normal(size=(IDENTITIES + 1, CAMERAS, latent))
    mix = rng.normal(size=(latent, DIMENSIONS)) / np.sqrt(latent)

    def features(pids, camids):
        known = (pids > 0)[:, None]
        body = np.where(known, centre[pids] + view[pids, camids], 1.15 * rng.normal(size=(len(pids), latent)))
        blur = np.exp(0.45 * rng.normal(size=(len(pids), 1)))  # some images are much worse than others
        body = body + camera[camids] + 1.0 * blur * rng.normal(size=(len(pids), latent))
        out = np.maximum(body @ mix, 0).astype(np.float32)
        return out / np.linalg.norm(out, axis=1, keepdims=True)

    return {
        "query": features(query_pids, query_camids),
        "gallery": features(gallery_pids, gallery_camids),
        "query_pids": query_pids,
        "gallery_pids": gallery_pids,
        "query_camids": query_camids,
        "gallery_camids": gallery_camids,
    }


def matrix():
    import torch

    from reidnb.evaluation import euclidean_distances

    x, y, *ids = simulated()
    out = np.empty((len(x), len(y)), np.float32)  # packed rows: what a peer would have made
    for start in range(0, len(x), 256):
        out[start : start + 256] = euclidean_distances(
            torch.from_numpy(x[start : start + 256]), torch.from_numpy(y)
        ).numpy()
    return out, ids


# ---- peers ----------------------------------------------------------------------------------------------------------


def fastreid_rank():
    warnings.simplefilter("ignore")
    return peer(
        "PEER_FASTREID", "fastreid.evaluation.rank", "fastreid", "fastreid.evaluation", "fastreid.evaluation.rank_cylib"
    )


def torchreid_rank():
    warnings.simplefilter("ignore")
    return peer(
        "PEER_TORCHREID", "torchreid.metrics.rank", "torchreid", "torchreid.metrics", "torchreid.metrics.rank_cylib"
    )


def fastreid_distances(x, y):
    faiss = sys.modules.setdefault("faiss", types.ModuleType("faiss"))  # imported there, used for re-ranking only
    faiss.METRIC_L2 = 1
    module = peer("PEER_FASTREID", "fastreid.utils.compute_dist", "fastreid", "fastreid.utils")
    return module.build_dist(x, y, "euclidean")


def torchreid_distances(x, y):
    module = peer("PEER_TORCHREID", "torchreid.metrics.distance", "torchreid", "torchreid.metrics")
    return module.compute_distance_matrix(x, y, "euclidean").numpy()


def peer_scores(rank, cython, distances, ids):
    """(mAP, Rank-1) as a peer counts them. fast-reid returns AP per query, torchreid their mean."""
    cmc, ap = rank.evaluate_rank(distances, *ids, max_rank=50, use_cython=cython)[:2]
    return float(np.mean(ap)), float(cmc[0])


# ---- cases: each returns its seconds, memory and scores -----------------------------------------------------------


def said(seconds, memory, scores=None):
    return {"seconds": seconds, "MiB": memory, "scores": scores}


def ours_from_matrix(repeats):
    from reidnb.evaluation import evaluate

    distances, ids = matrix()
    seconds, memory, scores = measure(lambda: evaluate(distances, *ids), repeats)
    return said(seconds, memory, [scores.mAP, scores.rank1])


def at_chance():
    """Uniform random distances: matches rank low, which costs more than those of features that know something."""
    return np.random.default_rng(1).random((QUERIES, len(simulated()[1])), np.float32)


def ours_at_chance(repeats):
    from reidnb.evaluation import evaluate

    distances, ids = at_chance(), simulated()[2:]
    seconds, memory, scores = measure(lambda: evaluate(distances, *ids), repeats)
    return said(seconds, memory, [scores.mAP, scores.rank1])


def argsort_at_chance(repeats):
    distances = at_chance()
    seconds, memory, _ = measure(lambda: np.argsort(distances, 1), repeats)
    return said(seconds, memory)


def peer_from_matrix(rank_of, cython):
    def case(repeats):
        rank = rank_of()
        if cython and not rank.IS_CYTHON_AVAI:
            raise Skip("its Cython is not built")
        distances, ids = matrix()
        seconds, memory, scores = measure(lambda: peer_scores(rank, cython, distances, ids), repeats if cython else 1)
        return said(seconds, memory, scores)

    return case


def ours_from_features(repeats):
    from reidnb.evaluation import evaluate_features

    x, y, *ids = simulated()
    seconds, memory, scores = measure(lambda: evaluate_features(x, y, *ids), repeats)
    return said(seconds, memory, [scores.mAP, scores.rank1])


def peer_from_features(rank_of, distances_of):
    def case(repeats):
        import torch

        rank, (x, y, *ids) = rank_of(), simulated()
        x, y = torch.from_numpy(x), torch.from_numpy(y)
        work = lambda: peer_scores(rank, rank.IS_CYTHON_AVAI, distances_of(x, y), ids)  # noqa: E731
        return said(*measure(work, repeats))

    return case


def only_distances(distances_of):
    def case(repeats):
        import torch

        x, y, *_ = simulated()
        x, y = torch.from_numpy(x), torch.from_numpy(y)
        seconds, memory, _ = measure(lambda: distances_of(x, y), repeats)
        return said(seconds, memory)

    return case


def our_distances(x, y):
    from reidnb.evaluation import euclidean_distances

    return euclidean_distances(x, y)


CASES = {
    "matrix: reidnb": ours_from_matrix,
    "matrix: fast-reid Cython": peer_from_matrix(fastreid_rank, True),
    "matrix: torchreid Cython": peer_from_matrix(torchreid_rank, True),
    "matrix: fast-reid Python": peer_from_matrix(fastreid_rank, False),
    "matrix: torchreid Python": peer_from_matrix(torchreid_rank, False),
    "chance: reidnb": ours_at_chance,
    "chance: one argsort": argsort_at_chance,
    "features: reidnb": ours_from_features,
    "features: fast-reid": peer_from_features(fastreid_rank, fastreid_distances),
    "features: torchreid": peer_from_features(torchreid_rank, torchreid_distances),
    "distances: reidnb": only_distances(our_distances),
    "distances: fast-reid": only_distances(fastreid_distances),
    "distances: torchreid": only_distances(torchreid_distances),
}
WHAT = {
    "matrix": "CMC + mAP from a matrix",
    "chance": "the same at chance",
    "features": "features to mAP",
    "distances": "distances",
}


def report(found):
    rows = []
    for name, one in found.items():
        what, who = name.split(": ")
        ours = found.get(f"{what}: reidnb", {})
        if who == "reidnb":
            continue
        if "skipped" in one or "seconds" not in ours:
            rows.append((WHAT[what], who, one.get("skipped", "-"), "-", "-", "-"))
            continue
        if one["scores"]:
            assert np.allclose(one["scores"], ours["scores"], rtol=0, atol=1e-6), (name, one["scores"], ours["scores"])
        rows.append(
            (
                WHAT[what],
                who,
                f"{one['seconds']:.2f} s",
                f"{ours['seconds']:.3f} s",
                f"{one['seconds'] / ours['seconds']:.1f} x",
                f"{one['MiB']:.0f} -> {ours['MiB']:.0f} MiB",
            )
        )
    return table(rows, ("what", "peer", "its CPU time", "ours", "ratio", "extra memory"))


if __name__ == "__main__":
    found = main(CASES, __doc__)
    if found is not None:
        print(machine())
        print(report(found))
