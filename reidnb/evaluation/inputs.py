"""What comes in at the door: arrays, ids and settings, each kind checked in one place."""

import warnings

import numpy as np
import torch


def numbers(values, name: str) -> np.ndarray:
    """Anything that holds numbers (numpy, torch on any device, lists) -> array; bfloat16 and float8 as float32.

    Raises ValueError, naming `name`, for ragged lists, strings, objects, complex numbers, masked and sparse arrays.
    """
    if isinstance(values, torch.Tensor):
        values = _dense(values, name).cpu()
        if values.is_floating_point() and values.itemsize < 4 and values.dtype != torch.float16:
            values = values.float()
    if np.ma.is_masked(values):
        raise ValueError(f"{name} is a masked array, and what a masked value counts is not defined: leave it out")
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"{name} must be an array of numbers; got a {type(values).__name__}: {error}") from error
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be an array of numbers; got {array.dtype} of shape {array.shape}")
    return array


def matrix(values, name: str, what: str) -> np.ndarray:
    """`numbers` in two dimensions; `what` names them: "(images, values)"."""
    array = numbers(values, name)
    if array.ndim != 2:
        raise ValueError(f"{name} must be a matrix {what}, got shape {array.shape}")
    return array


def features(values, name: str) -> torch.Tensor:
    """Features (N, D), detached, on their device: float64 from float64 and from whole numbers, else float32.

    Nothing is copied without need. Raises ValueError as `numbers` does, and for whole numbers that float64 cannot hold.
    """
    if isinstance(values, torch.Tensor):
        values = _dense(values, name)
        double = values.dtype == torch.float64 or not values.is_floating_point()
        found = values.to(torch.float64 if double else torch.float32)
    else:
        values = numbers(values, name)
        double = values.dtype.kind != "f" or values.dtype.itemsize > 4
        array = np.asarray(values, np.float64 if double else np.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of read-only arrays: nothing here writes into features
            found = torch.as_tensor(array if min(array.strides, default=0) >= 0 else array.copy())
    if found.ndim != 2:
        raise ValueError(f"{name} must be a matrix (images, values), got shape {tuple(found.shape)}")
    if "int" in str(values.dtype) and found.numel() and found.abs().max() > 2**53:
        raise ValueError(f"{name} holds whole numbers beyond 2^53, which no float tells apart: are these features?")
    return found


def feature_pair(x, y, name_x: str, name_y: str) -> tuple[torch.Tensor, torch.Tensor]:
    """`features` (N, D) and (M, D) of one type, float64 when either is; ValueError where widths or devices differ."""
    x, y = features(x, name_x), features(y, name_y)
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"{name_x} has {x.shape[1]} values a row and {name_y} has {y.shape[1]}: both must come from the same model"
        )
    if x.device != y.device:
        raise ValueError(f"{name_x} lies on {x.device} and {name_y} on {y.device}: move one to the other's device")
    double = torch.float64 in (x.dtype, y.dtype)
    return (x.double(), y.double()) if double else (x, y)


def require_finite(values: torch.Tensor, name: str) -> None:
    """ValueError, naming the first bad row, where a matrix holds NaN or infinity."""
    bad = torch.nonzero(~torch.isfinite(values).all(1))[:, 0]
    if len(bad):
        raise ValueError(
            f"{name}: row {int(bad[0])} holds NaN or infinity, as do {len(bad)} of {len(values)}: the model behind "
            "them is broken"
        )


class EqualByValue:
    """`==` for dataclasses of arrays: one kind, all values equal, NaN to NaN. What is compared so has no hash."""

    def __eq__(self, other):
        same = (np.array_equal(value, vars(other)[name], equal_nan=True) for name, value in vars(self).items())
        return type(self) is type(other) and all(same)


def ids(values, count: int, name: str, least: int | None = None) -> np.ndarray:
    """`count` whole numbers, one an image -> int64 (count,); ValueError for anything else, and below `least`."""
    found = numbers(values, name)
    if found.shape == (0,) == (count,):
        return np.zeros(0, np.int64)  # an empty list has no type
    if found.shape != (count,) or found.dtype.kind not in "iu":
        raise ValueError(f"{name} must be {count} integers, one an image; got shape {found.shape} of {found.dtype}")
    if count and int(found.max()) > np.iinfo(np.int64).max:
        raise ValueError(f"{name} must fit into 64 bits with a sign, got {int(found.max())}")
    found = found.astype(np.int64)
    if count and least is not None and found.min() < least:
        what = (
            "0 (distractor) and -1 (junk) name nobody: a query needs an identity from 1 on"
            if least == 1
            else "only -1 (junk), 0 (distractors) and identities from 1 on have a meaning in a gallery"
        )
        raise ValueError(f"{name} holds {found.min()}, but {what}")
    return found


def all_ids(shape, query_pids, gallery_pids, query_camids, gallery_camids) -> tuple[np.ndarray, ...]:
    """The four ids of a search in the order they are given, checked against its (queries, gallery) -> int64 arrays."""
    queries, gallery = shape
    return (
        ids(query_pids, queries, "query_pids", least=1),
        ids(gallery_pids, gallery, "gallery_pids", least=-1),
        ids(query_camids, queries, "query_camids"),
        ids(gallery_camids, gallery, "gallery_camids"),
    )


def whole(value, name: str, what: str = "a whole number", least: int = 1) -> int:
    """A setting that counts something; ValueError for what is no whole number (True is none) or below `least`."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name} must be {what} from {least} on, got {value!r}")
    return int(value)


def _dense(values: torch.Tensor, name: str) -> torch.Tensor:
    """A plain tensor of real numbers, cut from its graph."""
    packed = values.is_quantized or "float4" in str(values.dtype)
    if values.layout != torch.strided or values.is_complex() or packed or values.is_meta:
        raise ValueError(f"{name} must be a dense tensor of real numbers; got {values.dtype}, {values.layout}")
    return values.detach().resolve_neg()
