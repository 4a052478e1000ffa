"""Search in galleries that outgrow a matrix of distances: exact, or approximate along a graph; faiss does both.

    rows, distances = nearest(queries, gallery, k=10)      # exact; the gallery may be a file, numpy.memmap
    graph = build_graph(gallery)                           # slow, once; then
    rows, distances = nearest(queries, graph, k=10)        # fast, and nearly always right

The distance is Euclidean, as everywhere in reidnb: between features of unit length it ranks as the cosine does. Nothing
here knows of people or cameras: ask for more than you need, and drop what a protocol ignores.
"""

import faiss
import numpy as np
import torch

__all__ = ["build_graph", "graph_bytes", "nearest"]

GIB = 2**30
SPARE = 6  # faiss compares by |x|^2 + |y|^2 - 2 x.y, which rounds: so many more are looked at closely


def nearest(queries, gallery, k=10, memory=GIB, effort=64):
    """The k nearest of the gallery for each query, nearest first -> rows int64 (Q, k), distances float32 (Q, k).

    queries (Q, D); gallery (G, D), or a graph of it. Against an array the search is exact; equal distances come in
    the gallery's order. An array of another type than float32, or a file, is read in blocks of at most `memory`
    bytes, so that it need not fit. A graph walks on until the `effort` best it met are settled: more finds more, and
    takes longer (Malkov and Yashunin, 2018: ef). Raises ValueError for shapes that do not fit, values that are not
    finite, and k outside 1..G.
    """
    queries = _matrix(queries, "queries")
    if isinstance(gallery, faiss.Index):
        _check(queries, gallery.d, gallery.ntotal, k)
        settings = faiss.SearchParametersHNSW(efSearch=max(effort, k))
        squared, rows = gallery.search(_values(queries), k, params=settings)
        return rows, np.sqrt(squared.clip(0))
    gallery = _matrix(gallery, "gallery")
    _check(queries, gallery.shape[1], len(gallery), k)
    queries, best = _values(queries), None
    for start, block in _blocks(gallery, memory):
        _, rows = faiss.knn(queries, block, min(k + SPARE, len(block)))
        found = rows + start, _distances(queries, block, rows)
        best = found if best is None else [np.concatenate(pair, 1) for pair in zip(best, found)]
        order = np.lexsort(best, axis=1)[:, :k]  # by distance, then by row
        best = [np.take_along_axis(values, order, 1) for values in best]
    return tuple(best)


def build_graph(gallery, links=32, effort=40, memory=GIB):
    """A graph over the gallery (G, D) for `nearest` -> faiss.IndexHNSWFlat, to be kept with `faiss.write_index`.

    Hierarchical navigable small worlds (Malkov and Yashunin, 2018): every row is linked to `links` near ones, in a
    thinning ladder of layers, and a search walks towards the query. It holds a float32 copy of the gallery: raises
    ValueError, before any work, where `graph_bytes` exceeds `memory`.
    """
    gallery = _matrix(gallery, "gallery")
    count, width = gallery.shape
    needed = graph_bytes(count, width, links)
    if needed > memory:
        raise ValueError(
            f"a graph over {count} rows of {width} values takes {needed / GIB:.1f} GiB, and {memory / GIB:.1f} were "
            "allowed: allow more (memory=), keep fewer values (PCA), or search exactly, nearest(queries, gallery)"
        )
    graph = faiss.IndexHNSWFlat(width, links)
    graph.hnsw.efConstruction = effort
    for _, block in _blocks(gallery, memory // 16):
        graph.add(block)
    return graph


def graph_bytes(count, width, links=32):
    """About what a graph over `count` rows of `width` values takes, in bytes: the values and the links."""
    return count * (4 * width + 4 * 2 * links + 32)


def _matrix(values, name):
    """An array (N, D) of anything that numbers can be read from; nothing is copied yet."""
    values = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asanyarray(values)
    if values.ndim != 2:
        raise ValueError(f"{name} must be a matrix (images, values), got shape {values.shape}")
    return values


def _check(queries, width, count, k):
    if queries.shape[1] != width:
        raise ValueError(
            f"queries have {queries.shape[1]} values a row and the gallery {width}: both must come from the same model"
        )
    if not 1 <= k <= count:
        raise ValueError(f"k must lie in 1..{count}, the size of the gallery; got {k}")


def _values(block, start=0):
    """A block of rows as faiss wants them; copied only where it must be."""
    block = np.ascontiguousarray(block, np.float32)
    if not np.isfinite(block.sum(dtype=np.float64)):  # one pass, and no mask of the block's size
        bad = start + np.flatnonzero(~np.isfinite(block).all(1))
        raise ValueError(f"row {bad[0]} is not finite, as are {len(bad)} of {len(block)}: look at what made it")
    return block


def _blocks(gallery, memory):
    """(first row, float32 block) one after the other; the whole at once where it need not be copied."""
    size = max(1, int(memory) // (4 * gallery.shape[1]))
    if gallery.dtype == np.float32 and gallery.flags.c_contiguous and not isinstance(gallery, np.memmap):
        size = len(gallery)
    for start in range(0, len(gallery), max(1, size)):
        yield start, _values(gallery[start : start + size], start)


def _distances(queries, block, rows):
    """Distances of what was found, from differences: faiss's product form loses those of near-duplicates."""
    out = np.empty(rows.shape, np.float32)
    for start in range(0, len(queries), 256):
        part = slice(start, start + 256)
        out[part] = np.linalg.norm(block[rows[part]] - queries[part, None], axis=2)
    return out
