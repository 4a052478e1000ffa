"""Euclidean distances between two sets of features, fast and exact also between near-duplicates."""

import numpy as np
import torch

__all__ = ["euclidean_distances"]


def euclidean_distances(x, y):
    """Euclidean distances between the rows of x (Q, D) and y (G, D) -> (Q, G), float32 (float64 from float64).

    numpy in, numpy out; torch in, torch out, on x's device.  The product form |x|^2 + |y|^2 - 2 x.y is fast but loses
    the small distances between near-duplicates to rounding, so entries below a thousandth of |x|^2 + |y|^2 are
    computed once more from x - y.  The rows of the result start at multiples of 16 values, which matrix products
    like; copy it if you need it packed.
    """
    given_numpy = isinstance(x, np.ndarray)
    x, y = _pair(x, y, "x", "y")
    squares = _squared_lengths(y)
    out = _padded(len(x), len(y), x)
    for start in range(0, len(x), 256):  # in blocks: what a block allocates besides `out` stays in the cache
        _squared_distances(x[start : start + 256], y, squares, out[start : start + 256]).sqrt_()
    return out.numpy() if given_numpy else out


def _squared_distances(x, y, squares_y, out):
    """Squared distances of a block of rows x to all of y, into `out`; near-duplicates recomputed from differences."""
    squares_x = _squared_lengths(x)
    for start in range(0, len(y), 2048):  # in parts, since a product keeps a copy of y in an order of its own
        part = slice(start, start + 2048)
        torch.mm(x, y[part].T, out=out[:, part]).mul_(-2).add_(squares_y[part]).add_(squares_x[:, None])
    if out.numel() and out.amin() < 1e-3 * (squares_x.max() + squares_y.max()):
        _mend_near_duplicates(out, x, y, 1e-3 * (squares_x[:, None] + squares_y))
    return out.clamp_(min=0)


def _mend_near_duplicates(squared, x, y, limit):
    """Recompute from differences the entries of `squared` below `limit`, where the product form has cancelled."""
    i, j = torch.nonzero(squared < limit, as_tuple=True)
    if len(i) > squared.numel() // 50:  # (nearly) collapsed features: twice the digits cost less than pair by pair
        a, b = x.double(), y.double()
        exact = (a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * a @ b.T
        exact[exact < 1e-10 * limit] = 0  # what is left is rounding: it must not rank images that are equal
        squared.copy_(exact)
        return
    for part_i, part_j in zip(i.split(4096), j.split(4096)):
        squared[part_i, part_j] = (x[part_i] - y[part_j]).square().sum(1)


def _squared_lengths(x):
    return torch.linalg.vector_norm(x, dim=1).square()  # (x * x).sum(1) would make a second copy of x


def _padded(rows, columns, like):
    """An empty (rows, columns) tensor, its rows starting at multiples of 16: MKL loses a third of its speed else."""
    width = max(16, (columns + 15) // 16 * 16)
    return torch.empty(rows, width, dtype=like.dtype, device=like.device)[:, :columns]


def _pair(x, y, name_x, name_y):
    """Two float tensors (N, D) and (M, D), detached, float64 when either is and else float32; no copy without need."""
    tensors = []
    for values, name in ((x, name_x), (y, name_y)):
        values = values.detach() if isinstance(values, torch.Tensor) else torch.as_tensor(np.asarray(values))
        if values.ndim != 2:
            raise ValueError(f"{name} must be a matrix (images, values), got shape {tuple(values.shape)}")
        tensors.append(values)
    if tensors[0].shape[1] != tensors[1].shape[1]:
        raise ValueError(
            f"{name_x} has {tensors[0].shape[1]} values a row and {name_y} has {tensors[1].shape[1]}: both must come "
            "from the same model"
        )
    double = torch.float64 in (tensors[0].dtype, tensors[1].dtype)
    return [t.double() if double else t.float() for t in tensors]
