"""Local distances of AlignedReID (Zhang et al., 2017): two people compared stripe by stripe, from head to foot.

    stripe_costs      the distances between all stripes of two images (eq. 1)
    shortest_path     the cheapest way through them, down and right (eq. 2): shifted parts are matched again
    local_distances   that path's length for all pairs of images at once, as fast as it goes
    rigid_distances   stripe i against stripe i only: what the alignment has to beat

`shortest_path(stripe_costs(f, g))` is the readable form, and `local_distances` gives the same number. Where two
ways cost the same, a path comes from above, and the gradient goes that way alone.
"""

import numpy as np
import torch
from torch.autograd.function import once_differentiable

__all__ = ["local_distance_matrix", "local_distances", "rigid_distances", "shortest_path", "stripe_costs"]

ROWS = 64  # images of x taken at once: what they need stays in the cache
NEAR = 1e-3  # stripes whose squared distance is this small a share of |f|^2 + |g|^2 are near-duplicates
PAIRS = 1 << 15  # near-duplicates whose differences are held at once


def stripe_costs(f, g):
    """Distances between the stripes of two images, squashed to [0, 1): (H, D), (W, D) -> (H, W).

    d_ij = (e^d - 1) / (e^d + 1) of d = |f_i - g_j| (AlignedReID, eq. 1): tanh(d / 2), which never overflows.
    """
    f, g = _stripes(f, g, 2)
    return torch.tanh(torch.linalg.vector_norm(f[:, None] - g, dim=2) / 2)


def shortest_path(costs):
    """The cheapest way down and right through costs (H, W), by dynamic programming (AlignedReID, eq. 2).

    Returns what its cells cost in all, and these: a list of (i, j) from (0, 0) to (H-1, W-1).
    """
    if costs.ndim != 2 or 0 in costs.shape:
        raise ValueError(f"costs must be a matrix (H, W), H and W at least 1, got shape {tuple(costs.shape)}")
    sums = costs.tolist()  # becomes S of eq. 2: what the cheapest way to each cell costs
    before = {}  # the cell from which it gets there
    for i in range(len(sums)):
        for j in range(len(sums[0])):
            if i > 0 and (j == 0 or sums[i - 1][j] <= sums[i][j - 1]):
                before[i, j] = i - 1, j
                sums[i][j] += sums[i - 1][j]
            elif j > 0:
                before[i, j] = i, j - 1
                sums[i][j] += sums[i][j - 1]
    path = [(i, j)]
    while path[-1] in before:
        path.append(before[path[-1]])
    return sums[i][j], path[::-1]


def local_distances(x, y):
    """Shortest-path distances between all images of two batches: (N, H, D), (M, W, D) -> (N, M).

    AlignedReID, eq. 1-2. float32, also under autocast (float64 from float64), and differentiable once; stripes
    at distance 0 give the gradient 0. The distance of an image to itself is not 0 if H > 1: a path that goes
    down and right cannot but meet pairs of different stripes.
    """
    return _all_pairs(*_prepared(x, y))


def rigid_distances(x, y):
    """Distances without alignment, sum_i tanh(|f_i - g_i| / 2): (N, H, D), (M, H, D) -> (N, M)."""
    if np.ndim(x) == np.ndim(y) == 3 and x.shape[1] != y.shape[1]:
        raise ValueError(f"stripe i meets stripe i: wanted one H, got {tuple(x.shape)} and {tuple(y.shape)}")
    x, y, same = _prepared(x, y)
    return sum(_all_pairs(f, g, same) for f, g in zip(x.split(1), y.split(1)))  # paths of one cell each


@torch.no_grad()
def local_distance_matrix(query, gallery, aligned=True, block=256):
    """Distances of a whole test set, by shortest paths or rigid: (Q, H, D), (G, W, D) -> (Q, G) numpy float32.

    Needs little memory beside the result: it takes `block` gallery images at a time, and keeps no gradient.
    """
    if block < 1:
        raise ValueError(f"block must be at least 1 gallery image, got {block}")
    distances = local_distances if aligned else rigid_distances
    query, gallery = _stripes(query, gallery, 3)
    out = np.empty((len(query), len(gallery)), dtype=np.float32)
    step = block if aligned else block * query.shape[1]  # rigid: one stripe at a time
    for start in range(0, len(gallery), step):
        out[:, start : start + step] = distances(query, gallery[start : start + step]).cpu()
    return out


# ---------------------------------------------------------------------------------------------- the fast form


def _stripes(x, y, dimensions):
    """x and y as tensors of one kind, float32 or float64, or an error."""
    same, x, y = x is y, torch.as_tensor(x), torch.as_tensor(y)
    if not x.ndim == y.ndim == dimensions or x.shape[-1] != y.shape[-1] or 0 in x.shape[-2:] + y.shape[-2:]:
        wanted = "(N, H, D) and (M, W, D)" if dimensions == 3 else "(H, D) and (W, D)"
        raise ValueError(f"wanted stripes {wanted} of one D, got {tuple(x.shape)} and {tuple(y.shape)}")
    kind = torch.float64 if torch.float64 in (x.dtype, y.dtype) else torch.float32
    x = x.to(kind)
    return x, x if same else y.to(kind)


def _prepared(x, y):
    """x (H, N, D) and y (W, M, D), halved for tanh(d / 2), and whether they are the same."""
    same, (x, y) = x is y, _stripes(x, y, 3)
    center = x.detach().mean((0, 1))  # changes no distance, and keeps digits where all lie far from the origin
    x = ((x - center) / 2).transpose(0, 1).contiguous()
    return x, x if same else ((y - center) / 2).transpose(0, 1).contiguous(), same


def _all_pairs(x, y, same):
    """Shortest-path distances (N, M) of what is prepared; with what a gradient needs only if one is wanted."""
    with torch.autocast(x.device.type, enabled=False):
        if x.requires_grad or y.requires_grad:  # never under no_grad, where they were prepared
            return _LocalDistances.apply(x, y, same)
        return _forward(x, y, same)


class _LocalDistances(torch.autograd.Function):
    """x (H, N, D), y (W, M, D) -> (N, M). The backward walks all paths from their end, then multiplies."""

    @staticmethod
    def forward(ctx, x, y, same):
        ctx.save_for_backward(x, y)
        ctx.same, ctx.kept = same, []
        return _forward(x, y, same, ctx.kept)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, y = ctx.saved_tensors
        to_x, to_y = torch.zeros_like(x), torch.zeros_like(y)
        with torch.autocast(x.device.type, enabled=False):
            for (rows, columns), (slopes, turns, near) in zip(_blocks(x, y, ctx.same), ctx.kept):
                g = gradient[rows, columns].clone()
                if ctx.same:  # what the forward copied
                    g[:, len(g) :] += gradient[rows.stop :, rows].T
                g = _walk_back(turns, slopes, g)
                _pull(x[:, rows], y[:, columns], g, near, to_x[:, rows], to_y[:, columns])
        return to_x, to_y, None


def _forward(x, y, same, kept=None):
    """The distances (N, M); the list `kept` takes what the backward needs of each block."""
    out = x.new_empty(x.shape[1], y.shape[1])
    squares_x, squares_y = x.square().sum(2), y.square().sum(2)
    for rows, columns in _blocks(x, y, same):
        squares = squares_x[:, rows].reshape(-1, 1), squares_y[:, columns].reshape(-1)
        costs, slopes, near = _squash(x[:, rows], y[:, columns], *squares, same, kept is not None)
        found = _walk(costs, kept is not None)
        out[rows, columns] = found
        if same:  # the matrix is symmetric
            out[rows.stop :, rows] = found[:, len(found) :].T
        if kept is not None:
            kept.append((slopes, costs, near))  # the walk left its turns in costs
    return out


def _blocks(x, y, same):
    """Some images of x at a time, and those of y to compare with: all, or from these on if x is y."""
    for start in range(0, x.shape[1] if y.shape[1] else 0, ROWS):
        yield slice(start, min(start + ROWS, x.shape[1])), slice(start if same else 0, None)


def _squash(x, y, squares_x, squares_y, same, differentiable):
    """Costs tanh |x - y| of all stripes (H, N, W, M), their slopes over |x - y|, and the near-duplicates."""
    shape = (*x.shape[:2], *y.shape[:2])
    x, y = x.flatten(0, 1), y.flatten(0, 1)
    squared, near = torch.addmm(squares_y, x, y.T, alpha=-2).add_(squares_x), []
    own = squared.view(shape).diagonal(0, 0, 2).diagonal(0, 0, 1) if same else squared[:0]
    own.fill_(torch.inf)  # a stripe and itself: out of the way, then exactly 0
    if squared.amin() <= NEAR * (squares_x.amax() + squares_y.amax()):  # the product may have cancelled digits
        pairs = torch.nonzero(squared <= NEAR * (squares_x + squares_y))
        near = [part.unbind(1) for part in pairs.split(PAIRS)]
        for i, j in near:
            squared[i, j] = (x[i] - y[j]).square().sum(1)
    own.fill_(0)
    roots = squared.sqrt_()
    if not differentiable:
        return roots.tanh_().view(shape), None, None
    costs = roots.tanh()
    own.fill_(torch.inf)  # at distance 0 the slope is infinite: make it 0
    for i, j in near:
        roots[i, j] = torch.where(roots[i, j] == 0, torch.inf, roots[i, j])
    slopes = torch.addcmul(x.new_ones(()), costs, costs, value=-1).div_(roots)
    return costs.view(shape), slopes.view(shape), near


def _diagonal(cells, k):
    """The cells (i, k - i) of (H, N, W, M), which do not need each other: a view (I, N, M), and the rows i."""
    (h, n, w, m), (down, image, right, other) = cells.shape, cells.stride()
    first, last = max(0, k - w + 1), min(h, k + 1)
    start = cells.storage_offset() + first * down + (k - first) * right
    return cells.as_strided((last - first, n, m), (down - right, image, other), start), first, last


def _walk(costs, differentiable):
    """Eq. 2 for all pairs at once, diagonal by diagonal: (H, N, W, M) -> (N, M).

    If differentiable, writes over the costs: 1 where the shortest way comes from above, 0 from the left.
    """
    h, n, w, m = costs.shape
    sums, after = costs.new_full((2, h + 1, n, m), torch.inf)  # S of one diagonal and the next, row i at i + 1
    sums[1] = costs[0, :, 0]
    for k in range(1, h + w - 1):
        cells, first, last = _diagonal(costs, k)
        above, left = sums[first:last], sums[first + 1 : last + 1]
        torch.minimum(above, left, out=after[first + 1 : last + 1]).add_(cells)
        if differentiable:
            torch.le(above, left, out=cells)
        sums, after = after, sums
    return sums[h]


def _walk_back(turns, slopes, gradient):
    """The cells' gradient: the pair's gradient (N, M) times the slope where its path passes, elsewhere 0."""
    flow, out = gradient.new_zeros(len(turns) + 1, *gradient.shape), torch.empty_like(slopes)
    flow[-1] = gradient
    for k in range(turns.shape[0] + turns.shape[2] - 2, -1, -1):
        cells, first, last = _diagonal(out, k)
        here = flow[first + 1 : last + 1]
        torch.mul(here, _diagonal(slopes, k)[0], out=cells)
        if k > 0:
            up = here * _diagonal(turns, k)[0]
            here -= up  # what is left comes from the left
            flow[first:last] += up
    return out


def _pull(x, y, g, near, to_x, to_y):
    """Add sum_j g_ij (x_i - y_j) to the gradient of each x_i, and the opposite, over i, to that of each y_j."""
    x, y, g = x.flatten(0, 1), y.flatten(0, 1), g.flatten(0, 1).flatten(1)
    apart = [g[i, j] for i, j in near]  # from differences
    for i, j in near:
        g[i, j] = 0
    add_x = torch.addmm(g.sum(1)[:, None] * x, g, y, alpha=-1)
    add_y = torch.addmm(g.sum(0)[:, None] * y, g.T, x, alpha=-1)
    for (i, j), weights in zip(near, apart):
        pull = weights[:, None] * (x[i] - y[j])
        add_x.index_add_(0, i, pull)
        add_y.index_add_(0, j, pull, alpha=-1)
    to_x += add_x.view_as(to_x)
    to_y += add_y.view_as(to_y)
