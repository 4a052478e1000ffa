"""What arguments may be: each check gives a TypeError or a ValueError that says what was wanted and what was got."""

from math import inf, isfinite
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor


def told(value: Any) -> str:
    """What was got, in a few words: the kind and shape of a tensor or an array, else the beginning of the value."""
    if isinstance(value, Tensor | np.ndarray):
        return f"{type(value).__module__.split('.')[0]} {str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return f"{type(value).__name__} {value!r:.60}"


def check_floats(values: Tensor, name: str, shape: str = "") -> None:
    """A floating-point tensor with as many dimensions as `shape` names; "(N, N)" is square."""
    if not isinstance(values, Tensor) or not values.is_floating_point():
        wanted = f"a floating-point torch tensor {shape}".strip()
        raise TypeError(f"{name} must be {wanted}, got {told(values)}")
    if shape and values.ndim != shape.count(",") + 1 or (shape == "(N, N)" and values.shape[0] != values.shape[1]):
        raise ValueError(f"{name} must have the shape {shape}, got {tuple(values.shape)}")


def check_one_shape(**tensors: Tensor) -> None:
    """Tensors of one shape."""
    shapes = [tuple(x.shape) if isinstance(x, Tensor) else told(x) for x in tensors.values()]
    if len(set(shapes)) > 1:
        raise ValueError(f"{' and '.join(tensors)} must have one shape, got {', '.join(map(str, shapes))}")


def numbers_of(values: Any, name: str) -> Tensor:
    """Real numbers, in a tensor, an array or lists, as a tensor."""
    try:
        found = torch.as_tensor(_forward_in_memory(values))
    except (TypeError, ValueError, RuntimeError):  # strings, None, lists of lists that are not equally long
        found = None
    if found is None or found.is_complex() or found.dtype is torch.bool:
        raise TypeError(f"{name} must be numbers, in a tensor, an array or lists, got {told(values)}")
    return found


def _forward_in_memory(values):
    """A copy of an array that runs backwards, which torch refuses; all else as it is."""
    return values.copy() if isinstance(values, np.ndarray) and min(values.strides, default=0) < 0 else values


def labels_of(labels: Any, rows: Tensor) -> Tensor:
    """Labels, in a tensor, an array or a list, as a tensor (N,) of whole numbers beside the N rows."""
    try:
        found = torch.as_tensor(_forward_in_memory(labels), device=rows.device)
    except (TypeError, ValueError, RuntimeError):  # strings, None, lists of lists that are not equally long
        found = None
    whole = found is not None and not (found.is_floating_point() or found.is_complex() or found.dtype is torch.bool)
    if not whole and (found is None or found.numel()):  # no labels at all are of any kind
        raise TypeError(f"labels must be whole numbers (N,), in a tensor, an array or a list, got {told(labels)}")
    if found.shape != rows.shape[:1]:
        raise ValueError(f"labels must be one integer for each of the {len(rows)} rows, got shape {tuple(found.shape)}")
    return found


def check_number(
    value: Any, name: str, low: float = -inf, high: float = inf, or_none: bool = False, whole: bool = False
) -> None:
    """A finite number within low..high; no truth value."""
    if value is None and or_none:
        return
    kind = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    if kind and isfinite(value) and low <= value <= high:
        return
    wanted = (
        f"a {'whole ' * whole}number"
        + f" in {low}..{high}" * (high < inf)
        + f" from {low} on" * (-inf < low and high == inf)
    )
    error = ValueError if kind else TypeError
    raise error(f"{name} must be {wanted}{' or None' * or_none}, got {told(value)}")


def check_choice(value: Any, name: str, *choices: str) -> None:
    """One of a few words."""
    if value not in choices:
        raise ValueError(f"{name} must be {', '.join(map(repr, choices[:-1]))} or {choices[-1]!r}, got {value!r:.60}")
