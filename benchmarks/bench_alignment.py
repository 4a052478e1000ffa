"""Local distances of AlignedReID beside the two public repositories, all pairs of a batch and a whole test set.

    PEER_ALIGNED_HU=.../AlignedReID-Re-Production-Pytorch PEER_ALIGNED_MI=.../AlignedReID \\
        python benchmarks/bench_alignment.py

H = 8 stripes of 128 values, unit length. Forward and backward of a batch against itself: ours and the peer's are
called in turn, so that a change of the machine's clock meets both. Distances must agree with the peers' form for
batches (H, W, N, M) to 2e-5 of float32 sums up to 15; their form for one pair (H, W) is printed beside the truth,
which it misses.
"""

import statistics
import sys
import time
import warnings

import numpy as np
from measuring import machine, main, peer, table

STRIPES, DIMENSIONS, SIZES, CALLS = 8, 128, (64, 128), 12
TEST_SET = 3368, 15913  # Market-1501's queries and gallery
PART = 8  # an eighth of each is timed, one 64th of the matrix


def images(n, seed=0):
    import torch

    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, STRIPES, DIMENSIONS, generator=generator)
    return torch.nn.functional.normalize(x, dim=2)


def huanghoujing():
    loss = peer("PEER_ALIGNED_HU", "aligned_reid.model.loss", "aligned_reid", "aligned_reid.model")
    return loss.local_dist


def michuanhaohao():
    """It has no form for all pairs of a batch: every pair is written out."""
    batch_local_dist = peer("PEER_ALIGNED_MI", "aligned.local_dist", "aligned").batch_local_dist

    def all_pairs(x, y):
        n, m = len(x), len(y)
        left = x[:, None].expand(-1, m, -1, -1).flatten(0, 1)
        return batch_local_dist(left, y[None].expand(n, -1, -1, -1).flatten(0, 1)).view(n, m)

    return all_pairs


def check(found, wanted, what):
    error = np.abs(np.asarray(found) - np.asarray(wanted)).max()
    if not error < 2e-5:
        sys.exit(f"{what}: distances differ by {error}")


def training(get_peer, rigid=False):
    """Milliseconds of a batch against itself, forward and backward."""

    def run(repeats):
        import torch

        from reidnb.alignment import local_distances, rigid_distances

        warnings.simplefilter("ignore")
        said, theirs = {}, get_peer and get_peer()
        for n in SIZES:
            x, weights = (
                images(n).requires_grad_(),
                torch.randn(n, n, generator=torch.Generator().manual_seed(1)),
            )
            forms = {
                "ours": rigid_distances if rigid else local_distances,
                **({"peer": theirs} if theirs else {}),
            }
            seconds, values = {name: [] for name in forms}, {}
            for call in range(CALLS * repeats):
                for name, distances in forms.items():
                    x.grad = None
                    started = time.process_time()
                    values[name] = distances(x, x)
                    (values[name] * weights).sum().backward()
                    if call >= 2:
                        seconds[name].append(time.process_time() - started)
            if theirs:  # but for an image and itself: there the root of their products is up to 1e-3, not 0
                off = ~torch.eye(n, dtype=torch.bool)
                check(values["ours"].detach()[off], values["peer"].detach()[off], get_peer.__name__)
            said |= {f"{name} {n}": 1e3 * statistics.median(s) for name, s in seconds.items()}
        return said

    return run


def one_pair(repeats):
    """Both repositories' form for one pair, beside the cheapest of all its paths."""
    from itertools import combinations

    from reidnb.alignment import local_distances, stripe_costs

    f, g = images(2)
    costs, truth = stripe_costs(f, g).double().tolist(), float("inf")
    for downs in combinations(range(2 * STRIPES - 2), STRIPES - 1):
        i = j = 0
        cost = costs[0][0]
        for step in range(2 * STRIPES - 2):
            i, j = (i + 1, j) if step in downs else (i, j + 1)
            cost += costs[i][j]
        truth = min(truth, cost)
    theirs = {}
    hu = peer("PEER_ALIGNED_HU", "aligned_reid.utils.distance", "aligned_reid", "aligned_reid.utils")
    theirs["huanghoujing"] = hu.local_dist(f.numpy(), g.numpy())
    mi = peer("PEER_ALIGNED_MI", "util.distance", "util")
    theirs["michuanhaohao"] = mi.local_dist(f.numpy(), g.numpy(), True)
    ours = local_distances(f[None], g[None]).item()
    check(ours, truth, "one pair")
    return {"truth": truth, "ours": ours, **{name: float(value) for name, value in theirs.items()}}


def test_set(aligned):
    """Seconds of a part of Market-1501's matrix, times what it is a part of; theirs by blocks of 200 x 200."""

    def run(repeats):
        from reidnb.alignment import local_distance_matrix

        mi = peer("PEER_ALIGNED_MI", "util.distance", "util")
        q, g = (images(n // PART, seed) for seed, n in enumerate(TEST_SET))
        part = len(q) * len(g) / (TEST_SET[0] * TEST_SET[1])
        seconds = {"ours": [], "peer": []}
        for _ in range(repeats):
            started = time.process_time()
            found = local_distance_matrix(q, g, aligned)
            seconds["ours"].append(time.process_time() - started)
        x, y = q[:200].numpy(), g[:200].numpy()
        for _ in range(repeats):
            started = time.process_time()
            wanted = mi.local_dist(x, y, aligned)
            seconds["peer"].append(time.process_time() - started)
        check(found[:200, :200], wanted, "test set")
        size = 200 * 200 / (TEST_SET[0] * TEST_SET[1])
        return {
            "ours": statistics.median(seconds["ours"]) / part,
            "peer": statistics.median(seconds["peer"]) / size,
        }

    return run


CASES = {
    "training, huanghoujing": training(huanghoujing),
    "training, michuanhaohao": training(michuanhaohao),
    "training, rigid": training(None, rigid=True),
    "one pair": one_pair,
    "test set, aligned": test_set(True),
    "test set, rigid": test_set(False),
}


def ratio(ours, theirs):
    return [f"{ours:.1f}", *([f"{theirs:.1f}", f"{theirs / ours:.1f} x"] if theirs else ["-", "-"])]


if __name__ == "__main__" and (said := main(CASES, __doc__)):
    print(machine())
    rows = [
        [name, n, *ratio(times.get(f"ours {n}"), times.get(f"peer {n}"))]
        for name, times in said.items()
        for n in SIZES
        if f"ours {n}" in times
    ]
    print(table(rows, ["batch against itself", "N", "ours, ms", "peer, ms", "ratio"]))
    rows = [[name, *ratio(t["ours"], t["peer"])] for name, t in said.items() if name[:4] == "test" and "ours" in t]
    print(table(rows, ["3368 x 15913", "ours, s", "peer, s", "ratio"]))
    if "truth" in said.get("one pair", {}):
        print("one pair:", ", ".join(f"{name} {value:.4f}" for name, value in said["one pair"].items()))
