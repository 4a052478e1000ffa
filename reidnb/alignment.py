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

ROWS = 128  # images of x taken at once: what they need stays in the cache
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

    Needs a copy of the stripes and little more beside the result: it takes `block` gallery images at a time, and keeps
    no gradient.
    ValueError for other shapes and a block below 1, TypeError for what holds no numbers.
    """
    check_number(block, "block", 1, whole=True)
    query, gallery = _stripes(query, gallery, 3, one_height=not aligned)
    x, y = _by_stripe(query, gallery, False)
    out = np.empty((len(query), len(gallery)), dtype=np.float32)
    step = int(block) * (1 if aligned else query.shape[1])  # rigid distances have so many fewer cells
    with torch.autocast(x.device.type, enabled=False):
        for start in range(0, len(gallery), step):
            out[:, start : start + step] = _forward(x, y[:, start : start + step], False, aligned).cpu()
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


def _by_stripe(x, y, same):
    """Stripes (N, H, D), (M, W, D) as (H, N, D), (W, M, D), less the center of x: that changes no distance, and keeps
    digits where all lie far from the origin."""
    center = x.mean((0, 1)) if len(x) else 0
    x = (x - center).transpose(0, 1).contiguous()
    return x, x if same else (y - center).transpose(0, 1).contiguous()


def _all_pairs(x, y, aligned):
    """Distances (N, M), with what a gradient needs only if one is wanted."""
    same = x is y
    x, y = _stripes(x, y, 3, one_height=not aligned)
    with torch.autocast(x.device.type, enabled=False):
        if torch.is_grad_enabled() and (x.requires_grad or y.requires_grad):
            return _Distances.apply(x, y, same, aligned)
        return _forward(*_by_stripe(x.detach(), y.detach(), same), same, aligned)


class _Distances(torch.autograd.Function):
    """x (N, H, D), y (M, W, D) -> (N, M). The forward keeps by what each cell pulls, the backward multiplies.

    In a batch with itself the pairs i, j and j, i are one pair. So there x_i is pulled by its row alone, for both,
    and one product does.
    """

    @staticmethod
    def forward(ctx, x, y, same, aligned):
        x, y = _by_stripe(x, y, same)
        ctx.save_for_backward(x, y)
        ctx.same, ctx.aligned, ctx.kept = same, aligned, []
        return _forward(x, y, same, aligned, ctx.kept)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, y = ctx.saved_tensors
        to_x = torch.zeros_like(x)  # where y holds nobody, nothing pulls
        to_y = torch.zeros_like(y) if ctx.needs_input_grad[1] and not ctx.same else None
        gradient = (gradient + gradient.T if ctx.same else gradient) / 2  # the half of tanh(d / 2)
        with torch.autocast(x.device.type, enabled=False):
            for rows, (slopes, near) in zip(_blocks(x), ctx.kept):
                pull = _pull(_flat(x[:, rows], ctx.aligned), y, slopes * gradient[rows], near, to_y)
                to_x[:, rows] = pull.view_as(x[:, rows])
        return to_x.transpose(0, 1), None if to_y is None else to_y.transpose(0, 1), None, None


def _blocks(x):
    """The images of x, ROWS at most at once, in parts of one size but for 1."""
    n = x.shape[1]
    parts = -(-n // ROWS)
    return [slice(part * n // parts, (part + 1) * n // parts) for part in range(parts)]


def _flat(x, aligned):
    """Stripes (H, N, D) as (1, H N, D), each of which meets every height of y, or as they are, which meet their own."""
    return x.reshape(1, -1, x.shape[2]) if aligned else x


def _forward(x, y, same, aligned, kept=None):
    """The distances (N, M); the list `kept` takes what the backward needs of each block."""
    out, squares = x.new_empty(x.shape[1], y.shape[1]), y.square().sum(2)[:, None]
    for rows in _blocks(x) if out.numel() else ():
        shape = (len(y), len(x), -1, y.shape[1]) if aligned else (len(y), -1, y.shape[1])
        start = rows.start if same else None
        costs, slopes, near = _squash(_flat(x[:, rows], aligned), y, squares, shape, start, kept is not None)
        turns = torch.empty_like(costs, dtype=torch.bool) if aligned and kept is not None else None
        out[rows] = _walk(costs, turns) if aligned else costs.sum(0)
        if turns is not None:
            _keep_paths(slopes, turns)
            if same:  # an image and itself: the path, and the same path seen from the other
                own = slopes.diagonal(start, 2, 3)
                own.copy_((own + own.transpose(0, 1)) / 2)
        if kept is not None:
            kept.append((slopes, near))
    return out


def _squash(x, y, squares_y, shape, start, differentiable):
    """Costs tanh(|x - y| / 2) of x (1 or W, P, D) and y (W, M, D), as planes of pairs: shape is (W, H, n, M), or
    (H, n, M); 2 / |x - y| times their slopes; and the near-duplicates, as places in (W, P, M).

    Image i of x is image start + i of y, unless start is None.
    """
    squares_x, near = x.square().sum(2)[:, :, None], []
    x = x.expand(len(y), -1, -1)
    squared = torch.baddbmm(squares_y, x, y.transpose(1, 2), alpha=-2).add_(squares_x)
    costs = squared.view(shape)
    own = costs[:0]
    if start is not None:  # a stripe and itself: out of the way, then exactly 0
        own = costs.diagonal(0, 0, 1).diagonal(start, 0, 1) if costs.ndim == 4 else costs.diagonal(start, 1, 2)
    own.fill_(torch.inf)
    smallest = squared.amin()
    if smallest <= NEAR * (squares_x.amax() + squares_y.amax()):  # the product may have cancelled digits
        near = [part.unbind(1) for part in torch.nonzero(squared <= NEAR * (squares_x + squares_y)).split(PAIRS)]
        for b, i, j in near:
            squared[b, i, j] = (x[b, i] - y[b, j]).square().sum(1)
    costs.sqrt_()
    slopes = costs.reciprocal() if differentiable else None
    if smallest < SMALL:
        costs.div_(2).tanh_()
    else:
        torch.add(costs.new_tensor(-1), costs.sigmoid_(), alpha=2, out=costs)
    own.fill_(0)
    if differentiable:
        if near:  # at distance 0 the slope is infinite: make it 0
            slopes.masked_fill_(slopes == torch.inf, 0)
        torch.ops.aten.tanh_backward.grad_input(slopes, costs, grad_input=slopes)  # times 1 - costs^2
    return costs, slopes, near


def _diagonals(w, h):
    """The cells (j, k - j) of (W, H), which do not need each other, for each k: first j, last j + 1, and their places
    in (W * H,)."""
    for k in range(w + h - 1):
        first, last = max(0, k - h + 1), min(w, k + 1)
        yield first, last, slice(k + first * (h - 1), k + (last - 1) * (h - 1) + 1, max(h - 1, 1))


def _quick(*planes):
    """With what planes are walked: on the CPU numpy, in the same memory; it loses less time in a call than torch."""
    return (np, *(x.numpy() for x in planes)) if planes[0].device.type == "cpu" else (torch, *planes)


def _walk(costs, turns):
    """Eq. 2 for all pairs at once, diagonal by diagonal: (W, H, N, M) -> (N, M).

    turns, of the costs' shape or None, takes whether the shortest way to a cell comes from the left, stripe j - 1 of
    y; else it comes from above, stripe i - 1 of x.
    """
    w, h, n, m = costs.shape
    result = costs.new_full((2, w + 1, n, m), torch.inf)  # S of one diagonal and the next, j at j + 1
    lib, costs, sums, turns = _quick(costs.flatten(0, 1), result, costs if turns is None else turns.flatten(0, 1))
    sums[0, 1] = costs[0]
    for k, (first, last, places) in enumerate(_diagonals(w, h)):
        before, after = sums[1 - k % 2], sums[k % 2]
        if k > 0:
            above, left, here = before[first + 1 : last + 1], before[first:last], after[first + 1 : last + 1]
            lib.minimum(above, left, out=here)
            here += costs[places]
            if turns.dtype != costs.dtype:
                lib.less(left, above, out=turns[places])
    return result[k % 2, w]


def _keep_paths(slopes, turns):
    """Of the slopes (W, H, N, M) keep those on each pair's path, walking back from its end; make the others 0."""
    w, h, n, m = slopes.shape
    lib, slopes, turns, flow = _quick(slopes.flatten(0, 1), turns.flatten(0, 1), turns.new_zeros(w + 1, n, m))
    flow[w] = True  # where the path passes, j at j + 1
    for first, last, places in reversed(list(_diagonals(w, h))):
        here, turn = flow[first + 1 : last + 1], turns[places]
        left = here & turn
        turn[:] = here
        here ^= left  # what is left of it comes from above
        flow[first:last] |= left
    lib.multiply(slopes, turns, out=slopes)


def _pull(x, y, g, near, to_y):
    """sum_j g_ij (x_i - y_j) for each x_i (1 or W, P, D); to_y (W, M, D) or None takes the opposite over i for y_j."""
    g = g.view(len(y), -1, y.shape[1])
    apart = [g[places] for places in near]  # from differences
    for places in near:
        g[places] = 0
    to_x = g.sum(2).view(len(x), -1, x.shape[1]).sum(1)[:, :, None] * x
    for b in range(len(y)):
        to_x[b % len(x)].addmm_(g[b], y[b], alpha=-1)
    if to_y is not None:
        to_y += g.sum(1)[:, :, None] * y
        to_y.baddbmm_(g.transpose(1, 2), x.expand(len(y), -1, -1), alpha=-1)
    for (b, i, j), weights in zip(near, apart):
        pull = weights[:, None] * (x[b % len(x), i] - y[b, j])
        to_x.index_put_((b % len(x), i), pull, accumulate=True)
        if to_y is not None:
            to_y.index_put_((b, j), -pull, accumulate=True)
    return to_x
