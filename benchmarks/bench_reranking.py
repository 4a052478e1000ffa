"""k-reciprocal re-ranking beside its authors' Python and torchreid, on a simulated Market-1501 (19281 x 2048).

    PEER_RERANK=.../person-re-ranking PEER_TORCHREID=.../deep-person-reid python benchmarks/bench_reranking.py

All start from features.  Peers take three matrices of Euclidean distances, made here by reidnb's own function
and counted in their time; they run once (a minute and 7 GB).  Fails where a result differs by more than 1e-5.
"""

import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
from bench_evaluation import CACHE, simulated
from measuring import Skip, machine, main, measure, table

TOLERANCE = 1e-5  # float32 sums of some hundred weights, in another order


def peer_function(variable, pattern):
    """`re_ranking` of the one file that matches in a checkout; loaded alone, without its package."""
    root = os.environ.get(variable, "")
    found = sorted(Path(root).glob(pattern)) if root else []
    if not found:
        raise Skip(f"{variable} names no checkout with {pattern}")
    spec = importlib.util.spec_from_file_location(variable.lower(), found[0])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.re_ranking


def packed_distances(x, y):
    import torch

    from reidnb.evaluation import euclidean_distances

    x, y = torch.from_numpy(x), torch.from_numpy(y)
    out = np.empty((len(x), len(y)), np.float32)
    for start in range(0, len(x), 256):
        out[start : start + 256] = euclidean_distances(x[start : start + 256], y)
    return out


def said(who, seconds, memory, result):
    CACHE.mkdir(parents=True, exist_ok=True)
    np.save(CACHE / f"reranked_{who}.npy", result)
    return {"seconds": seconds, "MiB": memory}


def ours(repeats):
    from reidnb.evaluation.reranking import rerank

    x, y, *_ = simulated()
    return said("reidnb", *measure(lambda: rerank(x, y), repeats))


def theirs(who, variable, pattern):
    def case(_):
        rerank, (x, y, *_) = peer_function(variable, pattern), simulated()
        pairs = (x, y), (x, x), (y, y)
        return said(who, *measure(lambda: rerank(*(packed_distances(*pair) for pair in pairs)), 1))

    return case


CASES = {
    "reidnb": ours,
    "authors": theirs("authors", "PEER_RERANK", "python-version/*.py"),
    "torchreid": theirs("torchreid", "PEER_TORCHREID", "torchreid/utils/rerank.py"),
}


def report(found):
    """A row a peer, and the peers whose result differs."""
    rows, differ, mine = [], [], found.get("reidnb", {})
    for who, one in found.items():
        if who == "reidnb":
            continue
        if "seconds" not in one or "seconds" not in mine:
            rows.append((who, one.get("skipped", "-"), "-", "-", "-", "-"))
            continue
        result, reference = (np.load(CACHE / f"reranked_{name}.npy", mmap_mode="r") for name in ("reidnb", who))
        largest = max(float(np.abs(a - b).max()) for a, b in zip(result, reference))
        if not largest <= TOLERANCE:  # NaN too
            differ.append(f"{who} differs by {largest:.1e}, more than {TOLERANCE:.0e}")
        times, saved = one["seconds"] / mine["seconds"], one["MiB"] / mine["MiB"]
        seconds = f"{one['seconds']:.1f} s", f"{mine['seconds']:.1f} s", f"{times:.1f} x"
        rows.append((who, *seconds, f"{one['MiB']:.0f} -> {mine['MiB']:.0f} MiB ({saved:.1f} x)", f"{largest:.1e}"))
    return table(rows, ("peer", "its CPU time", "ours", "ratio", "extra memory", "largest difference")), differ


if __name__ == "__main__":
    found = main(CASES, __doc__)
    if found is not None:
        text, differ = report(found)
        print(machine())
        print(text)
        sys.exit("\n".join(differ) or None)
