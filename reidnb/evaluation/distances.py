"""Euclidean distances between two sets of features, fast and exact also between near-duplicates.

The product form |x|^2 + |y|^2 - 2 x.y is fast and loses digits in three places, each of which is looked after.
Near-duplicates cancel: entries below a thousandth of |x|^2 + |y|^2 are computed once more from x - y. Squares may leave
float32's range (features of 1e-30 or 1e30): float64 does the work then, on features divided by a power of two where
need be. And features that are whole numbers (codes) have *equal* distances, which no rounding may tell apart: squares
are exact in float32 up to 2^24, beyond it float64 takes over.
"""

import math
from dataclasses import dataclass

import torch
from torch.nn.functional import pad

from reidnb.evaluation.inputs import feature_pair, require_finite

PART = 2048  # columns of a product at once, since it keeps a copy of y in an order of its own
TILE = 16  # matrix products like rows, and numbers of columns, that are multiples of it


def euclidean_distances(x, y):
    """Euclidean distances between the rows of x (Q, D) and y (G, D) -> (Q, G).

    float32, or float64 where x or y is float64 or whole numbers. A tensor on x's device when x is one, else an array.
    Equal rows lie at 0, and features that are whole numbers have exact squares, so that equal distances are equal.
    The rows of the result start at multiples of 16 values, which matrix products like; copy it if you need it packed.
    Raises ValueError for what is no matrix of numbers, for NaN and infinity, and for widths that differ.
    """
    pair = compare(x, y, "x", "y")
    out = padded(len(pair.x), len(pair.y), pair.x, pair.dtype)
    for rows in blocks(len(pair.x), 256):  # what a block allocates besides `out` stays in the cache
        if pair.x.dtype == out.dtype:
            pair.squared(rows, out[rows]).sqrt_().mul_(pair.unit)
        else:
            out[rows] = pair.squared(rows).sqrt_().mul_(pair.unit)
    return out if isinstance(x, torch.Tensor) else out.numpy()


@dataclass(frozen=True)
class FeaturePair:
    """Two sets of features made comparable, and the squared lengths of their rows."""

    x: torch.Tensor
    y: torch.Tensor
    squares_x: torch.Tensor
    squares_y: torch.Tensor
    unit: float  # the given features lie `unit` times as far apart as these: a power of two
    dtype: torch.dtype  # of distances between the given features

    def squared(self, rows: slice, out: torch.Tensor | None = None) -> torch.Tensor:
        """Squared distances of some rows of x to all of y, into `out` when it is given."""
        x = self.x[rows]
        out = padded(len(x), len(self.y), x) if out is None else out
        return squared_distances(x, self.y, self.squares_x[rows], self.squares_y, out)


def compare(x, y, name_x: str, name_y: str) -> FeaturePair:
    """Features (Q, D) and (G, D), anything that holds numbers -> FeaturePair, in float32 where that is exact enough."""
    x, y = feature_pair(x, y, name_x, name_y)
    if not x.shape[1]:
        raise ValueError(f"{name_x} and {name_y} have no values a row: nothing to compare")
    dtype, squares, unit = x.dtype, (squared_lengths(x), squared_lengths(y)), 1.0
    if not _all_fit(x, y, squares):
        require_finite(x, name_x)
        require_finite(y, name_y)
        x, y = x.double(), y.double()
        squares = squared_lengths(x), squared_lengths(y)
        if not _all_fit(x, y, squares):
            unit = 2.0 ** math.frexp(max(float(v.abs().max()) for v in (x, y) if v.numel()))[1]
            x, y = x / unit, y / unit
            squares = squared_lengths(x), squared_lengths(y)
    return FeaturePair(x, y, *squares, unit, dtype)


def _all_fit(x, y, squares):
    """Does the product form of these features stay in their type's range, and exact where they are whole numbers?"""
    lowest, highest, exact = (2.0**-60, 2.0**100, 2.0**24) if x.dtype == torch.float32 else (2.0**-500, 2.0**900, None)
    largest = 0.0
    for values, lengths in zip((x, y), squares):
        if not values.numel():
            continue
        if not lengths.max() < highest:  # NaN too
            return False
        empty = lengths == 0
        if lengths.masked_fill(empty, 1).min() < lowest or values[empty].any():  # a square of 1e-30 is 0 in float32
            return False
        largest = max(largest, float(lengths.max()))
    # |x|^2 + |y|^2 - 2 x.y passes through sums of at most four times the largest square.
    return exact is None or 4 * largest <= exact or not (_is_whole(x) and _is_whole(y))


def _is_whole(values):
    """Are these whole numbers? One row tells what most features are not."""
    return all(bool((part == part.round()).all()) for part in (values[:1], values))


def squared_distances(x, y, squares_x, squares_y, out):
    """Squared distances of a block of rows x to all of y, into `out`, in their own precision also where the caller's
    network runs under autocast, in TF32 or in bf16; near-duplicates recomputed from differences."""
    kinds = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
    lowered = {kind: kind.fp32_precision for kind in kinds if kind.fp32_precision in ("tf32", "bf16")}
    try:
        for kind in lowered:
            kind.fp32_precision = "ieee"
        with torch.autocast(x.device.type, enabled=False):
            _expanded(x, y, squares_x, squares_y, out)
            if out.numel() and out.amin() < 1e-3 * (squares_x.max() + squares_y.max()):
                _mend_near_duplicates(out, x, y, squares_x[:, None], squares_y)
            return out.clamp_(min=0)
    finally:
        for kind, precision in lowered.items():
            kind.fp32_precision = precision


def _expanded(x, y, squares_x, squares_y, out):
    """|x|^2 + |y|^2 - 2 x.y into `out`, y in whole tiles: at an odd edge another kernel may round the product of an
    equal row of y otherwise, and equal distances would differ."""
    if len(x) < TILE:
        filled, more = padded(TILE, len(y), x), TILE - len(x)
        _expanded(pad(x, (0, 0, 0, more)), y, pad(squares_x, (0, more)), squares_y, filled)
        out.copy_(filled[: len(x)])
        return
    tile = TILE if x.dtype == torch.float32 else 3 * TILE  # MKL takes 12 or 24 columns at once in float64
    squares_x, tiled = squares_x[:, None], len(y) // tile * tile
    for columns in blocks(tiled, PART // tile * tile):
        part = torch.mm(x, y[columns].T, out=out[:, columns])
        part.mul_(-2).add_(squares_y[columns]).add_(squares_x)  # at once, while it is in the cache
    if tiled < len(y):
        part = (x @ pad(y[tiled:], (0, 0, 0, tile - len(y) + tiled)).T)[:, : len(y) - tiled]
        out[:, tiled:] = part.mul_(-2).add_(squares_y[tiled:]).add_(squares_x)


def _mend_near_duplicates(squared, x, y, squares_x, squares_y):
    """Recompute from differences the entries of `squared` below a thousandth of |x|^2 + |y|^2, where the product form
    has cancelled; some columns at once, since that may be all of them."""
    parts = blocks(len(y), 42 * TILE)
    near = [squared[:, columns] < 1e-3 * (squares_x + squares_y[columns]) for columns in parts]
    if sum(int(part.sum()) for part in near) <= squared.numel() // 50:
        for columns, part in zip(parts, near):
            _recompute(squared[:, columns], x, y[columns], part)
        return
    # (Nearly) collapsed features: twice the digits, without what all have in common, cost less than pair by pair.
    common = x[0].double()  # no row of y: its order must be nothing
    a = x - common
    squares_a = squared_lengths(a)
    for columns in parts:
        b = y[columns] - common
        squares_b, exact = squared_lengths(b), padded(len(a), len(b), a)
        _expanded(a, b, squares_a, squares_b, exact)
        squares = squares_a[:, None] + squares_b
        if x.dtype == torch.float64:  # no digits to spare: the nearest pair by pair all the same
            _recompute(exact, x, y[columns], exact < 1e-9 * squares)
        else:
            exact[exact < 1e-13 * squares] = 0  # what is left is rounding: it must not rank images that are equal
        squared[:, columns] = exact


def _recompute(squared, x, y, where):
    for pairs in torch.nonzero(where).split(1024):
        i, j = pairs.T
        squared[i, j] = (x[i] - y[j]).square().sum(1)


def squared_lengths(x: torch.Tensor) -> torch.Tensor:
    """|x|^2 of each row -> (N,). A length squared again would round the squares of whole numbers."""
    return torch.cat([(part * part).sum(1) for part in x.split(256)]) if len(x) else x.new_empty(0)


def padded(rows: int, columns: int, like: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """An empty (rows, columns) tensor, its rows starting at multiples of 16: MKL loses a third of its speed else."""
    width = max(TILE, -(-columns // TILE) * TILE)
    return torch.empty(rows, width, dtype=dtype or like.dtype, device=like.device)[:, :columns]


def blocks(count: int, size: int) -> list[slice]:
    """Slices of at most `size` that cover 0..count."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
