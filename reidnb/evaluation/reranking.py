"""k-reciprocal re-ranking: images are alike when their neighbours are.  Sparse and in blocks, never all x all.

Zhong, Zheng, Cao, Li: "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR 2017.  Where the
paper and its authors' Python release differ, the release counts: published numbers were made with it.
"""

import math
import numbers

import numpy as np
import torch

from reidnb.evaluation.distances import padded, squared_distances, squared_lengths
from reidnb.evaluation.inputs import feature_pair, require_finite, whole


def rerank(query_features, gallery_features, k1: int = 20, k2: int = 6, lambda_value: float = 0.3, block: int = 256):
    """Distances of query (Q, D) to gallery (G, D) after k-reciprocal re-ranking -> (Q, G), float32, in [0, 1].

    All Q + G images take part.  Each is described by its k-reciprocal neighbours: those of its `k1` nearest
    that have it among theirs too.  The sets of k1/2 around them join where they overlap enough (sec. 3.2).  A
    neighbour weighs exp(-distance) (3.3), and the weights are averaged over the image and its k2 - 1 nearest
    (3.4).  The result is (1 - lambda_value) x the Jaccard distance of two descriptions + lambda_value x the
    original distance (3.5): the squared Euclidean one as a share of the image's largest.  As in the release
    `k1` leaves the image itself out and `k2` counts it.  Both are cut to the size of the set.

    Leave junk (pid -1) out of the gallery before: here it would be a neighbour like any other, and whether it
    takes part differs between the authors' Matlab and Python releases.  An image is always its own nearest;
    other equal distances count in the order of the images, queries first.

    numpy in, numpy out; torch in, torch out, on its device: distances are taken there, `block` images at a
    time, in float32, the rest runs on the CPU.  Raises ValueError on features or settings that cannot be meant.
    """
    k1, k2, block = (whole(*v, "a whole number of images") for v in ((k1, "k1"), (k2, "k2"), (block, "block")))
    if isinstance(lambda_value, bool) or not isinstance(lambda_value, numbers.Real) or not 0 <= lambda_value <= 1:
        raise ValueError(f"lambda_value, the original distance's share, must lie in [0, 1], got {lambda_value!r}")
    features, queries = _joined(query_features, gallery_features)
    images, squared, farthest, original = _neighbours(features, queries, max(k1 + 1, k2), block)
    weights = _descriptions(features, images, squared, farthest, k1, k2)
    final = np.multiply(original, (lambda_value / farthest[:queries, None]).astype(np.float32), out=original)
    for rows, jaccard in _jaccard(weights, queries):
        final[rows] += (1 - lambda_value) * jaccard
    return torch.from_numpy(final).to(query_features.device) if isinstance(query_features, torch.Tensor) else final


def neighbour_weights(features: torch.Tensor, k1: int = 20, k2: int = 6, block: int = 512):
    """How each of N images, of float32 features (N, D), is described by all: the rows, of sum 1, whose Jaccard
    distances `rerank` takes -> sparse float32 (N, N)."""
    images, squared, farthest, _ = _neighbours(features, 0, max(k1 + 1, k2), block)
    return _descriptions(features, images, squared, farthest, k1, k2)


def _joined(query_features, gallery_features):
    """Queries, then gallery, in one float32 matrix of values below 2: squares neither overflow nor vanish."""
    x, y = feature_pair(query_features, gallery_features, "query_features", "gallery_features")
    if not x.numel() or not y.numel():
        raise ValueError(f"nothing to rank: query_features {tuple(x.shape)}, gallery_features {tuple(y.shape)}")
    largest = 0.0
    for values, name in ((x, "query_features"), (y, "gallery_features")):
        size = torch.stack(values.aminmax()).abs().max().item()
        if not math.isfinite(size):
            require_finite(values, name)
        largest = max(largest, size)
    # A power of two rounds nothing, so equal distances stay equal.
    return torch.cat([x, y]).div_(2.0 ** (math.frexp(largest)[1] - 1)).float(), len(x)


# ----------------------------------------------------------------------------------- distances, a strip at once


def _neighbours(features, queries, keep, block):
    """Each image's nearest (N, keep), itself the first, their squared distances (N, keep), its largest one
    (N,), and those of the queries to the gallery (Q, G), from one pass over half of all distances.

    A strip holds the distances of a block of images to themselves and all later ones.  It serves its rows and,
    being symmetric, its columns, so each image meets the others in their order.
    """
    n = len(features)
    squares, buffer = squared_lengths(features), padded(min(block, n), n, features)
    images, squared = np.zeros((n, min(keep, n)), np.int32), np.full((n, min(keep, n)), np.inf, np.float32)
    farthest, original = np.zeros(n, np.float32), np.empty((queries, n - queries), np.float32)
    for start in range(0, n, block):
        x = features[start : start + block]
        end, strip = start + len(x), buffer[: len(x), : n - start]
        own = squares[start:end]
        squared_distances(x, x, own, own, strip[:, : len(x)])  # alone: it always has zeros to mend
        squared_distances(x, features[end:], own, squares[end:], strip[:, len(x) :])
        strip.diagonal().fill_(-1)  # nearer than any duplicate
        distances = strip.cpu().numpy()
        if start < queries:
            original[start:end] = distances[: queries - start, queries - start :]
        for rows, seen in ((slice(start, end), distances), (slice(end, n), distances[:, len(x) :].T)):
            np.maximum(farthest[rows], seen.max(1), out=farthest[rows])
            _keep_nearest(images[rows], squared[rows], seen, start)
    # When all images are one the largest distance is 0, and so is every share of it.
    return images, np.maximum(squared, 0), np.maximum(farthest, np.finfo(np.float32).tiny), original


def _keep_nearest(images, squared, distances, first):
    """Merge distances (R, M) to images first, ... into each row's nearest; the first of equals stay."""
    keep, limit = squared.shape[1], squared[:, -1:]
    # Too few kept yet: the new ones set a limit themselves, which spares sorting all of them.
    if limit.size and limit[0] == np.inf and keep < distances.shape[1]:
        limit = np.nextafter(np.partition(distances, keep - 1, 1)[:, keep - 1 : keep], np.float32(np.inf))
    i, j = np.divmod(np.flatnonzero(distances < limit), distances.shape[1])
    counts = np.bincount(i, minlength=len(images))
    place = np.arange(len(i)) - np.repeat(np.cumsum(counts) - counts, counts)  # 0, 1, 2, ... within each row
    rows = np.flatnonzero(counts)
    line = np.repeat(np.arange(len(rows)), counts[rows])
    near = np.full((len(rows), keep + counts.max(initial=0)), np.inf, np.float32)
    others = np.zeros(near.shape, np.int32)
    near[:, :keep], others[:, :keep] = squared[rows], images[rows]
    near[line, keep + place], others[line, keep + place] = distances[i, j], first + j
    order = np.argsort(near, 1, kind="stable")[:, :keep]
    squared[rows], images[rows] = np.take_along_axis(near, order, 1), np.take_along_axis(others, order, 1)


# ------------------------------------------------------------------------------- neighbours, as sparse matrices


def _descriptions(features, images, squared, farthest, k1, k2):
    """The weights of each image, averaged over its k2 nearest (local query expansion, sec. 3.4)."""
    weights = _weights(features, images[:, : k1 + 1], squared[:, : k1 + 1], farthest, k1)
    nearest = images[:, :k2]
    return _sparse(nearest, np.full(nearest.shape, 1 / nearest.shape[1])) @ weights


def _weights(features, images, squared, farthest, k1):
    """How strongly each image is described by each: exp(-distance) for its expanded k-reciprocal neighbours
    (eq. 4), rows of sum 1, as a sparse (N, N) matrix.

    A neighbour's own set of k1/2 joins when *more* than two thirds of it are in the image's set: the release's
    rule, the paper's is "at least".  All overlaps are one sparse product, the union is another.
    """
    from scipy import sparse  # half a second to import

    near, half = _reciprocal(images), _reciprocal(images[:, : round(k1 / 2) + 1])
    overlap = near.multiply(near @ half.T).tocsr()
    overlap.data = (3 * overlap.data > 2 * half.sum(1)[overlap.indices]).astype(np.float32)
    overlap.eliminate_zeros()
    expanded = near + overlap @ half
    expanded.data[:] = 1
    weights = expanded.multiply(_sparse(images, np.exp(-squared / farthest[:, None]))).tocsr()
    i, j = (expanded - expanded.multiply(_sparse(images))).nonzero()  # those beyond the k1 nearest
    weights += sparse.csr_array((np.exp(-_between(features, i, j) / farthest[i]), (i, j)), shape=weights.shape)
    weights.data /= np.repeat(weights.sum(1), np.diff(weights.indptr))
    return weights


def _sparse(images, values=None):
    """Image numbers (N, k) and a value for each, or ones -> a sparse (N, N) matrix."""
    from scipy import sparse

    n, k = images.shape
    values = np.ones(images.shape) if values is None else values
    places = images.ravel(), np.arange(0, n * k + 1, k)
    return sparse.csr_array((values.ravel().astype(np.float32), *places), shape=(n, n))


def _reciprocal(images):
    """Which of its neighbours have an image among theirs (eq. 3)?  Ones in a sparse (N, N) matrix."""
    neighbours = _sparse(images)
    return neighbours.multiply(neighbours.T).tocsr()


def _between(features, i, j):
    """Squared distances of the pairs (i, j), a few at a time since each takes two rows of features."""
    i, j = (torch.from_numpy(index.astype(np.int64)).to(features.device) for index in (i, j))
    out = features.new_empty(len(i))
    for a, b, part in zip(i.split(128), j.split(128), out.split(128)):
        part.copy_(squared_lengths(features[a] - features[b]))
    return out.cpu().numpy()


def _jaccard(weights, queries, block=16):
    """Jaccard distances of queries to gallery (eq. 10), some rows at a time: yields (rows, distances)."""
    columns = weights[queries:].T.tocsr()  # row c: the gallery images described by c
    for start in range(0, queries, block):
        rows = slice(start, min(start + block, queries))
        shared = shared_weights(weights[rows], columns)
        yield rows, 1 - shared / (2 - shared)


def shared_weights(own, columns) -> np.ndarray:
    """The sum of the smaller of two images' weights, for some (M, N) and all others, (N, G) by column -> (M, G). Both
    sparse, and an image's weights sum to 1, so that the larger ones of two sum to 2 less that.

    A smaller one counts only where both are above 0, so each image visits the columns of its own weights.
    """
    met = columns[own.indices]
    counts, others = np.diff(met.indptr), columns.shape[1]
    row = np.repeat(np.arange(own.shape[0]), np.diff(own.indptr))
    cells = np.repeat(row * others, counts) + met.indices
    shared = np.bincount(cells, np.minimum(np.repeat(own.data, counts), met.data), own.shape[0] * others)
    return np.minimum(shared, 1).reshape(-1, others)  # a sum of 1 may have been rounded up
