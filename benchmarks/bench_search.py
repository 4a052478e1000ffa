"""Exact search and search along a graph, beside the matrix product that exact search cannot do without.

    python benchmarks/bench_search.py
    python benchmarks/bench_search.py --only "500 k"

Features of unit length, fifteen of a person, 64 free values in D (real features have no more); 1000 queries, the 10
nearest. The product is torch.mm, in blocks that stay in the cache, into memory that is used again: its best here.
"""

import sys
import time

import numpy as np
from measuring import machine, main, measure, table

QUERIES, K, FREE = 1000, 10, 64
GALLERIES = {"100 k x 128": (100_000, 128), "500 k x 128": (500_000, 128), "100 k x 2048": (100_000, 2048)}


def people(count, width):
    """Features of queries and gallery, (QUERIES, width) and (count, width)."""
    rng = np.random.default_rng(0)
    basis = rng.standard_normal((FREE, width), np.float32)
    persons = rng.standard_normal((count // 15, FREE), np.float32)
    out = np.empty((QUERIES + count, width), np.float32)
    for start in range(0, len(out), 20_000):
        part = out[start : start + 20_000]
        who = rng.integers(0, len(persons), len(part))
        np.matmul(persons[who] + 0.8 * rng.standard_normal((len(part), FREE), np.float32), basis, out=part)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return out[:QUERIES], out[QUERIES:]


def product(queries, gallery):
    """All inner products, 256 x 2048 at a time."""
    import torch

    q, g, out = torch.from_numpy(queries), torch.from_numpy(gallery), torch.empty(256, 2048)
    for x in q.split(256):
        for y in g.split(2048):
            torch.mm(x, y.T, out=out[: len(x), : len(y)])


def exact(count, width):
    def run(repeats):
        import faiss
        import torch

        from reidnb.evaluation.search import nearest

        faiss.omp_set_num_threads(torch.get_num_threads())
        queries, gallery = people(count, width)
        seconds = {"floor": [], "ours": []}
        for _ in range(2 * repeats + 1):  # in turn, so that a change of the machine's clock meets both
            seconds["floor"].append(measure(lambda: product(queries, gallery), 1)[0])
            took, memory, (rows, _) = measure(lambda: nearest(queries, gallery, K), 1)
            seconds["ours"].append(took)
        wanted = np.argpartition(-queries[:50] @ gallery.T, K, axis=1)[:, :K]
        if not (np.sort(rows[:50]) == np.sort(wanted)).all():
            sys.exit("exact search is not exact")
        return {name: float(np.median(times[1:])) for name, times in seconds.items()} | {"memory": memory}

    return run


def graph(count, width):
    def run(repeats):
        import faiss
        import torch

        from reidnb.evaluation.search import build_graph, nearest

        faiss.omp_set_num_threads(torch.get_num_threads())
        queries, gallery = people(count, width)
        truth = nearest(queries, gallery, K)[0]
        started = time.process_time()
        built = build_graph(gallery)
        said = {"build": time.process_time() - started}
        for effort in (16, 32, 64, 128):
            seconds, _, (rows, _) = measure(lambda effort=effort: nearest(queries, built, K, effort=effort), repeats)
            first = float(np.mean(rows[:, 0] == truth[:, 0]))
            ten = float(np.mean([len(set(a) & set(b)) / K for a, b in zip(rows, truth)]))
            said[f"{effort}"] = [seconds, first, ten]
        return said

    return run


CASES = {f"exact, {name}": exact(*shape) for name, shape in GALLERIES.items()}
CASES |= {f"graph, {name}": graph(*GALLERIES[name]) for name in ("100 k x 128", "500 k x 128")}

if __name__ == "__main__" and (said := main(CASES, __doc__)):
    print(machine())
    rows = []
    for name, found in said.items():
        if "floor" in found:
            floor, ours = found["floor"], found["ours"]
            numbers = f"{floor:.3f}", f"{ours:.3f}", f"{ours / floor:.2f}", f"{QUERIES / ours:.0f}"
            rows.append([name, *numbers, f"{found['memory']:.0f}"])
    if rows:
        print(table(rows, ["search", "product, s", "ours, s", "ratio", "queries/s", "extra MiB"]))
    rows = []
    for name, found in said.items():
        for effort, numbers in found.items() if "build" in found else ():
            if effort != "build":
                seconds, *recall = numbers
                line = [name, effort, f"{QUERIES / seconds:.0f}", *(f"{share:.3f}" for share in recall)]
                rows.append([*line, f"{found['build']:.0f}"])
    if rows:
        print(table(rows, ["search", "effort", "queries/s", "recall@1", "recall@10", "build, s"]))
