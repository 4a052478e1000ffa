"""Search in galleries that outgrow a matrix of distances: exact, or approximate along a graph; faiss does both.

    rows, distances = nearest(queries, gallery, k=10)      # exact; the gallery may be a file, numpy.memmap
    graph = build_graph(gallery)                           # slow, once; then
    rows, distances = nearest(queries, graph, k=10)        # fast, and nearly always right

The distance is Euclidean, as everywhere in reidnb: between features of unit length it ranks as the cosine does. Nothing
here knows of people or cameras: ask for more than you need, and drop what a protocol ignores.
"""

import numpy as np

from reidnb.evaluation.inputs import matrix, whole

try:
    import faiss
except ImportError as error:
    raise ImportError("reidnb.evaluation.search needs faiss, an extra: pip install 'reidnb[search]'") from error

GIB = 2**30
TINY = 2.0**-60
SPARE = 6  # faiss compares by |x|^2 + |y|^2 - 2 x.y, which rounds: so many more than k are looked at closely


def nearest(queries, gallery, k: int = 10, memory: int = GIB, effort: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of the gallery for each query, nearest first -> rows int64 (Q, k), distances float32 (Q, k).

    queries (Q, D); gallery (G, D), or a graph of it. Against an array the search is exact, near-duplicates included;
    equal distances come in the gallery's order, and where not all of them make the list, which do is left open. An
    array of another type than float32, or a file, is read in blocks of at most `memory` bytes, so that it need not
    fit. A graph walks on until the `effort` best it met are settled: more finds more, and takes longer (Malkov and
    Yashunin, 2018: ef); a place it cannot fill is row -1 at distance infinity. Raises ValueError for shapes that do
    not fit, values that are not finite, and k outside 1..G.
    """
    queries, effort = _matrix(queries, "queries"), whole(effort, "effort")
    if isinstance(gallery, faiss.Index):
        return _walk(queries, gallery, k, effort)
    gallery = _matrix(gallery, "gallery")
    k = _check(queries, gallery.shape[1], len(gallery), k)
    queries, best = _values(queries, "queries"), None
    if len(queries) and np.abs(queries).max() < TINY and 0 < (largest := np.abs(gallery).max()) < TINY:
        scale = max(largest, np.abs(queries).max())  # their squares are no numbers of float32
        rows, distances = nearest(queries / scale, np.asarray(gallery) / scale, k, memory)
        return rows, distances * scale
    for start, block in _blocks(gallery, memory):
        rows, distances = _search(queries, block, min(k, len(block)))
        found = rows + start, distances
        best = found if best is None else [np.concatenate(pair, 1) for pair in zip(best, found)]
        best = _in_order(*best, k)
    return tuple(best)


def build_graph(gallery, links: int = 32, effort: int = 40, memory: int = GIB) -> "faiss.IndexHNSWFlat":
    """A graph over the gallery (G, D) for `nearest` -> faiss.IndexHNSWFlat, to be kept with `faiss.write_index`.

    Hierarchical navigable small worlds (Malkov and Yashunin, 2018): every row is linked to `links` near ones, in a
    thinning ladder of layers, and a search walks towards the query. It holds a float32 copy of the gallery: raises
    ValueError, before any work, where `graph_bytes` exceeds `memory`.
    """
    gallery, effort = _matrix(gallery, "gallery"), whole(effort, "effort")
    links = whole(links, "links", "a number of links a row", least=2)
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


def graph_bytes(count: int, width: int, links: int = 32) -> int:
    """About what a graph over `count` rows of `width` values takes, in bytes: the values and the links."""
    return count * (4 * width + 4 * 2 * links + 32)


# ------------------------------------------------------------------------------------------------------- exact search


def _search(queries, block, k):
    """The k nearest of one block -> rows (Q, k), exact distances (Q, k), in order."""
    found = min(k + SPARE, len(block))
    products, rows = faiss.knn(queries, block, found)
    if (rows < 0).any():
        raise ValueError("the squares of these values do not fit into float32: scale queries and gallery")
    rows, distances = _in_order(rows, _distances(queries, block, rows), k)
    if found < len(block) and len(queries):
        # Whatever was not found has a product form of products[:, -1] at least, and rounding is all that it may lie.
        largest = np.einsum("nd,nd->n", queries, queries) + np.einsum("nd,nd->n", block, block).max()
        rounding = 2.5e-7 * np.sqrt(block.shape[1]) * largest
        doubtful = np.flatnonzero(distances[:, -1] ** 2 > products[:, -1] - rounding)
        step = max(1, 2**23 // len(block))
        for some in np.array_split(doubtful, -(-len(doubtful) // step)) if len(doubtful) else ():
            rows[some], distances[some] = _closely(queries[some], block, k)
    return rows, distances


def _closely(queries, block, k):
    """The same in float64, where many distances agree in the digits that float32 has."""
    x, y = np.float64(queries), np.float64(block)
    squared = (x * x).sum(1)[:, None] + (y * y).sum(1) - 2 * x @ y.T
    found = min(k + SPARE, len(block))
    rows = np.argpartition(squared, found - 1, axis=1)[:, :found]
    return _in_order(rows, _distances(queries, block, rows), k)


def _in_order(rows, distances, k):
    """By distance, then by row, the first k."""
    order = np.lexsort((rows, distances), axis=1)[:, :k]
    return np.take_along_axis(rows, order, 1), np.take_along_axis(distances, order, 1)


def _distances(queries, block, rows):
    """Distances of what was found, from differences: the product form loses those of near-duplicates."""
    out = np.empty(rows.shape, np.float32)
    step = max(1, 2**22 // max(1, rows.shape[1] * block.shape[1]))  # 16 MiB of differences
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        out[part] = np.linalg.norm(block[rows[part]] - queries[part, None], axis=2)
    return out


# ------------------------------------------------------------------------------------------------------ along a graph


def _walk(queries, graph, k, effort):
    if not isinstance(graph, faiss.IndexHNSW) or graph.metric_type != faiss.METRIC_L2:
        raise ValueError(f"a graph must be an IndexHNSW of Euclidean distances, got {type(graph).__name__}")
    k = _check(queries, graph.d, graph.ntotal, k)
    settings = faiss.SearchParametersHNSW(efSearch=max(effort, k))
    squared, rows = graph.search(_values(queries, "queries"), k, params=settings)
    return rows, np.where(rows < 0, np.float32(np.inf), np.sqrt(squared.clip(0)))


# -------------------------------------------------------------------------------------------------------- at the door


def _matrix(values, name):
    """An array (N, D) of anything that numbers can be read from; nothing is copied without need, a file is not read."""
    values = values if isinstance(values, np.memmap) else matrix(values, name, "(images, values)")
    if values.ndim != 2 or not values.shape[1]:
        raise ValueError(f"{name} must be a matrix (images, values), got shape {values.shape}")
    return values


def _check(queries, width, count, k):
    """k, when it and the sizes are possible."""
    if queries.shape[1] != width:
        raise ValueError(
            f"queries have {queries.shape[1]} values a row and the gallery {width}: both must come from the same model"
        )
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or not 1 <= k <= count:
        raise ValueError(f"k must lie in 1..{count}, the size of the gallery; got {k!r}")
    return int(k)


def _values(block, name, start=0):
    """A block of rows as faiss wants them; copied only where it must be."""
    block = np.ascontiguousarray(block, np.float32)
    if not np.isfinite(block.sum(dtype=np.float64)):  # one pass, and no mask of the block's size
        bad = start + np.flatnonzero(~np.isfinite(block).all(1))
        raise ValueError(f"{name}: row {bad[0]} is not finite, as are {len(bad)} of {len(block)}: what made it?")
    return block


def _blocks(gallery, memory):
    """(first row, float32 block) one after the other; the whole at once where it need not be copied."""
    size = max(1, int(memory) // (4 * gallery.shape[1]))
    if gallery.dtype == np.float32 and gallery.flags.c_contiguous and not isinstance(gallery, np.memmap):
        size = max(1, len(gallery))
    for start in range(0, len(gallery), size):
        yield start, _values(gallery[start : start + size], "gallery", start)
