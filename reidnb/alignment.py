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
from numpy.typing import ArrayLike
from torch import Tensor
from torch.autograd.function import once_differentiable

from reidnb.checks import check_number, numbers_of, told
from reidnb.losses import NEAR

ROWS = 64  # images of x taken at once: what they need stays in the cache
PAIRS = 1 << 15  # near-duplicates whose differences are held at once
SMALL = 1e-3  # squared distances from which on 2 sigmoid(d) - 1, which is quicker, has the digits of tanh(d / 2)


def stripe_costs(f: ArrayLike | Tensor, g: ArrayLike | Tensor) -> Tensor:
    """Distances between the stripes of two images, squashed to [0, 1): (H, D), (W, D) -> (H, W).

    d_ij = (e^d - 1) / (e^d + 1) of d = |f_i - g_j| (AlignedReID, eq. 1): tanh(d / 2), which never overflows.
    ValueError for other shapes, TypeError for what holds no numbers.
    """
    f, g = _stripes(f, g, 2)
    return torch.tanh(torch.linalg.vector_norm(f[:, None] - g, dim=2) / 2)


def shortest_path(costs: ArrayLike | Tensor) -> tuple[float, list[tuple[int, int]]]:
    """The cheapest way down and right through costs (H, W), by dynamic programming (AlignedReID, eq. 2).

    Returns what its cells cost in all, and these: a list of (i, j) from (0, 0) to (H-1, W-1). ValueError for costs
    that are no matrix or hold NaN, TypeError for what holds no numbers.
    """
    costs = numbers_of(costs, "costs")
    if costs.ndim != 2 or 0 in costs.shape or costs.isnan().any():
        raise ValueError(f"costs must be a matrix (H, W), H and W at least 1, without NaN, got {told(costs)}")
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


def local_distances(x: ArrayLike | Tensor, y: ArrayLike | Tensor) -> Tensor:
    """Shortest-path distances between all images of two batches: (N, H, D), (M, W, D) -> (N, M).

    AlignedReID, eq. 1-2. float32, also under autocast (float64 from float64), and differentiable once; stripes
    at distance 0 give the gradient 0. The distance of an image to itself is not 0 if H > 1: a path that goes
    down and right cannot but meet pairs of different stripes. ValueError for other shapes, TypeError for what holds
    no numbers.
    """
    return _all_pairs(x, y, True)


def rigid_distances(x: ArrayLike | Tensor, y: ArrayLike | Tensor) -> Tensor:
    """Distances without alignment, sum_i tanh(|f_i - g_i| / 2): (N, H, D), (M, H, D) -> (N, M)."""
    return _all_pairs(x, y, False)


@torch.no_grad()
def local_distance_matrix(
    query: ArrayLike | Tensor, gallery: ArrayLike | Tensor, aligned: bool = True, block: int = 128
) -> np.ndarray:
    """Distances of a whole test set, by shortest paths or rigid: (Q, H, D), (G, W, D) -> (Q, G) numpy float32.

    Needs little memory beside the result: it takes `block` gallery images at a time, and keeps no gradient.
    ValueError for other shapes and a block below 1, TypeError for what holds no numbers.
    """
    check_number(block, "block", 1)
    query, gallery = _stripes(query, gallery, 3, one_height=not aligned)
    center = _center(query)
    x, out = _by_stripe(query, center), np.empty((len(query), len(gallery)), dtype=np.float32)
    step = int(block) * (1 if aligned else query.shape[1])  # rigid distances have so many fewer cells
    for start in range(0, len(gallery), step):
        y = _by_stripe(gallery[start : start + step], center)
        out[:, start : start + step] = _forward(x, y, False, aligned).cpu()
    return out


# ---------------------------------------------------------------------------------------------- the fast form


def _stripes(x, y, dimensions, one_height=False):
    """x and y as tensors of one kind, float32 or float64, or an error."""
    same, x, y = x is y, numbers_of(x, "x"), numbers_of(y, "y")
    if not x.ndim == y.ndim == dimensions or x.shape[-1] != y.shape[-1] or 0 in x.shape[-2:] + y.shape[-2:]:
        wanted = "(N, H, D) and (M, W, D)" if dimensions == 3 else "(H, D) and (W, D)"
        raise ValueError(f"wanted stripes {wanted} of one D, got {tuple(x.shape)} and {tuple(y.shape)}")
    if one_height and x.shape[1] != y.shape[1]:
        raise ValueError(f"stripe i meets stripe i: wanted one H, got {tuple(x.shape)} and {tuple(y.shape)}")
    kind = torch.float64 if torch.float64 in (x.dtype, y.dtype) else torch.float32
    x = x.to(kind)
    return x, x if same else y.to(kind)


def _center(x):
    """What is taken away from all: changes no distance, and keeps digits where all lie far from the origin."""
    return x.detach().mean((0, 1)) if len(x) else x.new_zeros(())


def _by_stripe(x, center):
    return (x - center).transpose(0, 1).contiguous()


def _all_pairs(x, y, aligned):
    """Distances (N, M), with what a gradient needs only if one is wanted."""
    same = x is y
    x, y = _stripes(x, y, 3, one_height=not aligned)
    with torch.autocast(x.device.type, enabled=False):
        center = _center(x)
        x = _by_stripe(x, center)
        y = x if same else _by_stripe(y, center)
        if x.requires_grad or y.requires_grad:  # never under no_grad, where they were moved
            return _Distances.apply(x, y, same, aligned)
        return _forward(x, y, same, aligned)


class _Distances(torch.autograd.Function):
    """x (H, N, D), y (W, M, D) -> (N, M). The forward keeps by what each cell pulls, the backward multiplies.

    In a batch with itself the pairs i, j and j, i are one pair. So there x_i is pulled by its row alone, for both,
    and one product does.
    """

    @staticmethod
    def forward(ctx, x, y, same, aligned):
        ctx.save_for_backward(x, y)
        ctx.same, ctx.aligned, ctx.kept = same, aligned, []
        return _forward(x, y, same, aligned, ctx.kept)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, y = ctx.saved_tensors
        to_x = torch.empty_like(x)
        to_y = torch.zeros_like(y) if ctx.needs_input_grad[1] and not ctx.same else None
        gradient = (gradient + gradient.T if ctx.same else gradient) / 2  # the half of tanh(d / 2)
        with torch.autocast(x.device.type, enabled=False):
            for rows, (slopes, near) in zip(_blocks(x), ctx.kept):
                g = slopes * (gradient[rows, None] if ctx.aligned else gradient[rows])
                pull, back = _pull(*_paired(x[:, rows], y, ctx.aligned), g, near, to_y is not None)
                to_x[:, rows] = pull.view_as(x[:, rows])
                if back is not None:
                    to_y += back.view_as(y)
        return to_x, to_y, None, None


def _blocks(x):
    return [slice(start, start + ROWS) for start in range(0, x.shape[1], ROWS)]


def _paired(x, y, aligned):
    """Stripes (H, n, D), (W, M, D) as (B, P, D), (B, Q, D): each with each, or each with those of its height."""
    return (x.reshape(1, -1, x.shape[2]), y.reshape(1, -1, y.shape[2])) if aligned else (x, y)


def _forward(x, y, same, aligned, kept=None):
    """The distances (N, M); the list `kept` takes what the backward needs of each block."""
    out = x.new_empty(x.shape[1], y.shape[1])
    for rows in _blocks(x) if out.numel() else ():
        f, g = _paired(x[:, rows], y, aligned)
        shape = (len(x), -1, len(y), y.shape[1]) if aligned else (len(x), -1, y.shape[1])
        costs, slopes, near = _squash(f, g, shape, rows.start if same else None, kept is not None)
        out[rows] = _walk(costs, kept is not None) if aligned else costs.sum(0)
        if kept is not None:
            if aligned:
                _keep_paths(slopes, costs)  # where the walk left its turns
            if aligned and same:  # an image and itself: the path, and the same path seen from the other
                own = slopes.diagonal(rows.start, 1, 3)
                own.copy_((own + own.transpose(0, 1)) / 2)
            kept.append((slopes, near))
    return out


def _squash(x, y, shape, start, differentiable):
    """Costs tanh(|x - y| / 2) of (B, P, D), (B, Q, D) in this shape, (H, n, W, M) or (H, n, M); 2 / |x - y| times
    their slopes; and the near-duplicates. Image i of x is image start + i of y, unless start is None."""
    squares_x, squares_y = x.square().sum(2)[:, :, None], y.square().sum(2)[:, None]
    squared, near = torch.baddbmm(squares_y, x, y.transpose(1, 2), alpha=-2).add_(squares_x), []
    cells = squared.view(shape)
    own = cells[:0]
    if start is not None:  # a stripe and itself: out of the way, then exactly 0
        own = cells.diagonal(0, 0, 2).diagonal(start, 0, 1) if cells.ndim == 4 else cells.diagonal(start, 1, 2)
    own.fill_(torch.inf)
    smallest = squared.amin()
    if smallest <= NEAR * (squares_x.amax() + squares_y.amax()):  # the product may have cancelled digits
        near = [part.unbind(1) for part in torch.nonzero(squared <= NEAR * (squares_x + squares_y)).split(PAIRS)]
        for b, i, j in near:
            squared[b, i, j] = (x[b, i] - y[b, j]).square().sum(1)
    roots = cells.sqrt_()
    slopes = roots.reciprocal() if differentiable else None
    own.fill_(0)
    if smallest < SMALL:
        costs = roots.div_(2).tanh_()
    else:
        costs = torch.add(roots.new_tensor(-1), roots.sigmoid_(), alpha=2, out=roots)
    if differentiable:
        for b, i, j in near:  # at distance 0 the slope is infinite: make it 0
            flat = slopes.view_as(squared)
            flat[b, i, j] = flat[b, i, j].nan_to_num(posinf=0)
        slopes = torch.ops.aten.tanh_backward(slopes, costs)  # times 1 - costs^2
    return costs, slopes, near


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


def _keep_paths(slopes, turns):
    """Of the slopes (H, N, W, M) keep those on each pair's path, walking back from its end; make the others 0."""
    h, n, w, m = slopes.shape
    flow = slopes.new_zeros(h + 1, n, m)  # 1 where the path passes, row i at i + 1
    flow[h] = 1
    for k in range(h + w - 2, -1, -1):
        cells, first, last = _diagonal(slopes, k)
        here = flow[first + 1 : last + 1]
        cells.mul_(here)
        if k > 0:
            up = here * _diagonal(turns, k)[0]
            here -= up  # what is left comes from the left
            flow[first:last] += up


def _pull(x, y, g, near, both):
    """sum_j g_ij (x_i - y_j) for each x_i, and its opposite over i for each y_j if both are wanted; g is used up."""
    g = g.view(len(x), x.shape[1], y.shape[1])
    apart = [g[index] for index in near]  # from differences
    for index in near:
        g[index] = 0
    to_x = torch.baddbmm(g.sum(2)[:, :, None] * x, g, y, alpha=-1)
    to_y = torch.baddbmm(g.sum(1)[:, :, None] * y, g.transpose(1, 2), x, alpha=-1) if both else None
    for (b, i, j), weights in zip(near, apart):
        pull = weights[:, None] * (x[b, i] - y[b, j])
        to_x.index_put_((b, i), pull, accumulate=True)
        if both:
            to_y.index_put_((b, j), -pull, accumulate=True)
    return to_x, to_y
