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
PART = 2**21  # values in float64 at once: 16 MiB
SPARE = 6  # faiss compares by |x|^2 + |y|^2 - 2 x.y, which rounds: so many more than k are looked at closely


def nearest(queries, gallery, k: int = 10, memory: int = GIB, effort: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of the gallery for each query, nearest first -> rows int64 (Q, k), distances float32 (Q, k).

    queries (Q, D); gallery (G, D), or a graph of it. Against an array the search is exact, to float64's digits; equal
    distances come in the gallery's order, and where not all of them make the list, which do is left open. An array of
    another type than float32, or a file, is read in blocks of at most `memory` bytes, so that it need not fit. A graph
    walks on until the `effort` best it met are settled: more finds more, and takes longer (Malkov and Yashunin, 2018:
    ef); a place it cannot fill is row -1 at distance infinity. Raises ValueError for shapes that do not fit, values
    that are not finite or not within float32's range (whole ones: within 2^53), and k outside 1..G.
    """
    queries, effort, memory = _matrix(queries, "queries"), whole(effort, "effort"), whole(memory, "memory", "bytes")
    if isinstance(gallery, faiss.Index):
        return _walk(queries, gallery, k, effort)
    gallery = _matrix(gallery, "gallery")
    k = _check(queries, gallery.shape[1], len(gallery), k)
    rough, best = _values(queries, "queries"), None
    queries = rough if queries.dtype == np.float32 else queries.astype(np.result_type(queries, np.float64))
    for start, block in _blocks(gallery, memory):
        rows, squared = _search(rough, block, queries, gallery[start : start + len(block)], k)
        best = _in_order(rows + start, squared, k, best)
    return best[0], np.sqrt(best[1]).astype(np.float32)


def build_graph(gallery, links: int = 32, effort: int = 40, memory: int = GIB) -> "faiss.IndexHNSWFlat":
    """A graph over the gallery (G, D) for `nearest` -> faiss.IndexHNSWFlat, to be kept with `faiss.write_index`.

    Hierarchical navigable small worlds (Malkov and Yashunin, 2018): every row is linked to `links` near ones, in a
    thinning ladder of layers, and a search walks towards the query. It holds a float32 copy of the gallery: raises
    ValueError, before any work, where `graph_bytes` exceeds `memory`.
    """
    gallery, effort, memory = _matrix(gallery, "gallery"), whole(effort, "effort"), whole(memory, "memory", "bytes")
    links, (count, width) = whole(links, "links", "a number of links a row", least=2), gallery.shape
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


def _search(x, y, queries, block, k):
    """The k nearest of one block -> rows (Q, k), squared distances (Q, k), in order; x and y are both in float32."""
    found = min(k + SPARE, len(block))
    products, rows = faiss.knn(x, y, found)
    if (rows < 0).any():
        raise ValueError("the squares of these values do not fit into float32: scale queries and gallery")
    rows, squared = _in_order(rows, _squared(queries, block, rows), k)
    if found < len(block) and len(queries):
        # What was not found has products[:, -1] at least, but for rounding: of products, 1e-38 to 0, and wider values.
        lengths = np.float64(np.einsum("nd,nd->n", x, x)) + np.einsum("nd,nd->n", y, y).max()
        rounding = 2.5e-7 * np.sqrt(block.shape[1]) * lengths + 1e-37 * block.shape[1]
        least = np.sqrt(np.maximum(products[:, -1] - rounding, 0)) - 1.2e-7 * np.sqrt(lengths) - 1e-38
        doubtful, step = np.flatnonzero(np.sqrt(squared[:, -1]) > least), max(128, 4 * PART // len(block))
        for some in (doubtful[start : start + step] for start in range(0, len(doubtful), step)):
            rows[some], squared[some] = _closely(np.float64(queries[some]), block, k)
    return rows, squared


def _closely(x, block, k):
    """The same in float64, some rows at once, where many distances agree in the digits that float32 has."""
    best, size = None, max(1, PART // max(128, block.shape[1]))
    for start in range(0, len(block), size):
        y = np.float64(block[start : start + size])
        lengths, found = (x * x).sum(1)[:, None] + (y * y).sum(1), min(k + SPARE, len(y))
        products = lengths - 2 * x @ y.T
        rows = np.argpartition(products, found - 1, axis=1)[:, :found]
        rows, squared = _in_order(rows, _squared(x, y, rows), k)
        near = products <= squared[:, -1:] + 5e-16 * np.sqrt(y.shape[1]) * lengths.max(1, keepdims=True)
        for i in np.flatnonzero((near.sum(1) > found) & (squared[:, -1] > 0)):  # these digits agree too
            some = np.flatnonzero(near[i])[None]
            rows[i], squared[i] = (part[0] for part in _in_order(some, _squared(x[i : i + 1], y, some), k))
        best = _in_order(rows + start, squared, k, best)
    return best


def _in_order(rows, squared, k, best=None):
    """By distance, then by row, the first k of these and of the best so far."""
    if best:
        rows, squared = np.hstack([best[0], rows]), np.hstack([best[1], squared])
    order = np.lexsort((rows, squared), axis=1)[:, :k]
    return np.take_along_axis(rows, order, 1), np.take_along_axis(squared, order, 1)


def _squared(queries, block, rows):
    """Squared distances of what was found, from differences: the product form loses those of near-duplicates."""
    out = np.empty(rows.shape)
    step = max(1, PART // (4 * max(1, rows.shape[1] * block.shape[1])))
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        apart = np.float64(block[rows[part]] - queries[part, None])
        np.einsum("qkd,qkd->qk", apart, apart, out=out[part])
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


@np.errstate(over="ignore", invalid="ignore")
def _values(block, name, start=0):
    """A block of rows as faiss wants them; copied only where it must be."""
    rough, bad = np.ascontiguousarray(block, np.float32), False
    if not np.isfinite(rough.sum(dtype=np.float64)):  # one pass, and no mask of the block's size
        bad, what = ~np.isfinite(rough).all(1), "beyond float32" if np.isfinite(block).all() else "not finite"
    elif block.dtype.kind in "iu":
        bad, what = (np.abs(rough) >= 2**53).any(1), "beyond 2^53, where no float tells whole numbers apart"
    elif block.dtype != np.float32:
        bad, what = rough.any(1) != block.any(1), "below float32"
    if np.any(bad):
        asked = f"{bad.sum()} of {len(bad)}: mend what made them, or scale queries and gallery alike"
        raise ValueError(f"{name}: row {start + bad.argmax()} is {what}, as are {asked}")
    return rough


def _blocks(gallery, memory):
    """(first row, float32 block) one after the other; the whole at once where it need not be copied."""
    size = max(1, memory // (4 * gallery.shape[1]))
    if gallery.dtype == np.float32 and gallery.flags.c_contiguous and not isinstance(gallery, np.memmap):
        size = max(1, len(gallery))
    for start in range(0, len(gallery), size):
        yield start, _values(gallery[start : start + size], "gallery", start)
