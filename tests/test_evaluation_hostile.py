"""Evaluation given what nobody should give it: the right value, or an error that says what was got and wanted."""

import math
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from reidnb import evaluation

X, Y = np.random.default_rng(0).normal(size=(2, 6, 4)).astype(np.float32)
IDS = dict(
    query_pids=[1, 1, 2, 2, 3, 3],
    gallery_pids=[1, 1, 2, 2, 3, 0],
    query_camids=[0, 0, 0, 0, 0, 0],
    gallery_camids=[1, 1, 1, 1, 1, 1],
)
GOOD = {
    "euclidean_distances": dict(x=X, y=Y),
    "evaluate": dict(distances=np.abs(X @ Y.T), **IDS),
    "evaluate_features": dict(query_features=X, gallery_features=Y, **IDS),
    "evaluate_cameras": dict(distances=np.abs(X @ Y.T), **IDS),
    "verify_features": dict(query=X, gallery=Y, **IDS),
    "rerank": dict(query_features=X, gallery_features=Y, k1=3, k2=2, lambda_value=0.3),
    "multi_query_features": dict(
        features=X,
        pids=IDS["query_pids"],
        camids=IDS["query_camids"],
        pool_features=Y,
        pool_pids=IDS["gallery_pids"],
        pool_camids=IDS["gallery_camids"],
    ),
    "attribute_scores": dict(logits=X, answers=(Y > 0).astype(int), groups=(slice(0, 1), slice(1, 4))),
    "decide": dict(logits=X, groups=(slice(0, 1), slice(1, 4))),
    "valid_gallery": dict(pid=1, camid=0, gallery_pids=IDS["gallery_pids"], gallery_camids=IDS["gallery_camids"]),
}
MATRICES = {
    "euclidean_distances": ("x", "y"),
    "evaluate": ("distances",),
    "evaluate_features": ("query_features", "gallery_features"),
    "evaluate_cameras": ("distances",),
    "verify_features": ("query", "gallery"),
    "rerank": ("query_features", "gallery_features"),
    "multi_query_features": ("features", "pool_features"),
    "attribute_scores": ("logits", "answers"),
    "decide": ("logits",),
}
ID_NAMES = {
    "evaluate": tuple(IDS),
    "evaluate_features": tuple(IDS),
    "evaluate_cameras": tuple(IDS),
    "verify_features": tuple(IDS),
    "multi_query_features": ("pids", "camids", "pool_pids", "pool_camids"),
    "valid_gallery": ("gallery_camids",),
}


def call(function, **changed):
    return getattr(evaluation, function)(**{**GOOD[function], **changed})


def with_hole(values, hole):
    values = np.array(values, float)
    values[1, 2] = hole
    return values


# what, and what the message must hold besides the argument's name
NO_MATRIX = {
    "None": (None, "NoneType|object"),
    "a word": ("features", "<U8"),
    "words": ([["a", "b"], ["c", "d"]], "<U1"),
    "a number": (3.0, r"shape \(\)"),
    "a vector": (np.zeros(6), r"shape \(6,\)"),
    "three dimensions": (np.zeros((6, 2, 2)), r"\(6, 2, 2\)"),
    "ragged lists": ([[1.0, 2], [3.0]], "list"),
    "complex": (np.zeros((6, 4), complex), "complex128"),
    "a complex tensor": (torch.zeros(6, 4, dtype=torch.complex64), "complex64"),
    "a sparse tensor": (torch.eye(6, 4).to_sparse(), "sparse"),
    "objects": (np.full((6, 4), object()), "object"),
    "a mapping": ({"features": X}, "object"),
    "a masked array": (np.ma.masked_array(X, X > 0), "masked"),
    "other widths": (np.zeros((6, 9)), "9|shape"),
}


@pytest.mark.parametrize("what", NO_MATRIX)
@pytest.mark.parametrize("function, name", [(f, n) for f, names in MATRICES.items() for n in names])
def test_no_matrix(function, name, what):
    value, says = NO_MATRIX[what]
    if (function, what) == ("decide", "other widths"):
        pytest.skip("nine statements, of which four stand in groups")
    with pytest.raises(ValueError, match=says) as error:
        call(function, **{name: value})
    assert name in str(error.value) or what == "other widths"  # a matrix, but not one that goes with the others


@pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("function, name", [(f, n) for f, names in MATRICES.items() for n in names if n != "answers"])
def test_not_finite(function, name, hole):
    with pytest.raises(ValueError, match="NaN or infinity"):
        call(function, **{name: with_hole(GOOD[function][name], hole)})


NO_IDS = {
    "None": (None, r"shape \(\) of object|array of numbers"),
    "a word": ("1", "<U1"),
    "words": (["1"] * 6, "<U1"),
    "floats": ([1.0] * 6, "float64"),
    "yes and no": ([True] * 6, "bool"),
    "too few": ([1] * 5, r"6 integers.*\(5,\)"),
    "too many": ([1] * 7, r"6 integers.*\(7,\)"),
    "empty": ([], r"6 integers.*\(0,\)"),
    "a column": (np.ones((6, 1), int), r"\(6, 1\)"),
    "beyond 64 bits": (np.full(6, 2**63, np.uint64), "64 bits"),
    "far beyond": ([2**70] * 6, "object"),
    "NaN": ([np.nan] * 6, "float64"),
}


@pytest.mark.parametrize("what", NO_IDS)
@pytest.mark.parametrize("function, name", [(f, n) for f, names in ID_NAMES.items() for n in names])
def test_no_ids(function, name, what):
    value, says = NO_IDS[what]
    with pytest.raises(ValueError, match=says) as error:
        call(function, **{name: value})
    assert name in str(error.value)


@pytest.mark.parametrize(
    "function, changed, says",
    [
        ("evaluate", {"query_pids": [0, 1, 1, 2, 2, 3]}, "query_pids holds 0"),
        ("evaluate", {"query_pids": [-1, 1, 1, 2, 2, 3]}, "query_pids holds -1"),
        ("evaluate", {"gallery_pids": [-2, 1, 1, 2, 2, 3]}, "gallery_pids holds -2, but only -1"),
        ("evaluate_features", {"query_pids": [0] * 6}, "query_pids holds 0"),
        ("multi_query_features", {"pids": [0] * 6}, "pids holds 0"),
        ("evaluate", {"ap": "nope"}, "'step' or 'trapezoid', got 'nope'"),
        ("evaluate", {"ap": None}, "'step' or 'trapezoid', got None"),
        ("evaluate", {"max_rank": 0}, "max_rank.*got 0"),
        ("evaluate", {"max_rank": 2.5}, "max_rank.*got 2.5"),
        ("evaluate", {"max_rank": "10"}, "max_rank.*got '10'"),
        ("evaluate", {"max_rank": True}, "max_rank.*got True"),
        ("evaluate", {"distances": np.zeros((0, 6)), "query_pids": [], "query_camids": []}, "nothing to score: 0 quer"),
        ("evaluate", {"distances": np.zeros((6, 0)), "gallery_pids": [], "gallery_camids": []}, "0 gallery images"),
        ("evaluate", {"query_camids": [1] * 6}, "same-camera rule"),
        ("evaluate_features", {"block": 0}, "block.*got 0"),
        ("evaluate_features", {"block": 2.5}, "block.*got 2.5"),
        ("evaluate_features", {"block": "all"}, "block.*got 'all'"),
        ("evaluate_features", {"query_features": X[:0], "query_pids": [], "query_camids": []}, "nothing to score"),
        (
            "evaluate_features",
            {"query_features": X[:, :0], "gallery_features": X[:, :0]},
            "no values a row",
        ),
        ("verify_features", {"block": -1}, "block.*got -1"),
        ("evaluate_cameras", {"query_pids": [77] * 6}, "no query has a match by another camera"),
        ("evaluate_cameras", {"query_camids": [-1] * 6}, r"query_camids must count cameras from 0.*got -1\.\.-1"),
        ("evaluate_cameras", {"gallery_camids": [2**62] * 6}, "gallery_camids must count.*renumber"),
        ("rerank", {"k1": 0}, "k1.*got 0"),
        ("rerank", {"k1": -5}, "k1.*got -5"),
        ("rerank", {"k1": 2.0}, "k1.*got 2.0"),
        ("rerank", {"k1": True}, "k1.*got True"),
        ("rerank", {"k2": None}, "k2.*got None"),
        ("rerank", {"lambda_value": 1.1}, "lambda_value.*got 1.1"),
        ("rerank", {"lambda_value": -0.1}, "lambda_value.*got -0.1"),
        ("rerank", {"lambda_value": math.nan}, "lambda_value.*got nan"),
        ("rerank", {"lambda_value": "0.3"}, "lambda_value.*got '0.3'"),
        ("rerank", {"lambda_value": None}, "lambda_value.*got None"),
        ("rerank", {"query_features": X[:0]}, "nothing to rank"),
        ("multi_query_features", {"how": "median"}, "'mean' or 'max', got 'median'"),
        ("multi_query_features", {"how": None}, "'mean' or 'max', got None"),
        ("attribute_scores", {"answers": np.full((6, 4), 2)}, "got 2: labels of 1"),
        ("attribute_scores", {"answers": np.full((6, 4), 0.5)}, "got 0.5"),
        ("attribute_scores", {"answers": np.zeros((6, 3))}, r"\(6, 3\) answers for \(6, 4\) logits"),
        ("attribute_scores", {"groups": None}, "sequence of slices, got None"),
        ("decide", {"groups": slice(0, 2)}, "sequence of slices, got slice"),
        ("decide", {"groups": (slice(0, 9),)}, r"slice of 0\.\.4, got slice\(0, 9"),
        ("decide", {"groups": (slice(2, 2),)}, "each group must be a slice"),
        ("decide", {"groups": (slice(-2, 4),)}, "each group must be a slice"),
        ("decide", {"groups": ("gender",)}, "each group must be a slice.*'gender'"),
        ("euclidean_distances", {"x": np.full((6, 4), 2**60)}, "x holds whole numbers beyond 2.53"),
        ("euclidean_distances", {"x": torch.zeros(6, 4, device="meta")}, "x must be a dense tensor"),
    ],
)
def test_settings_and_sizes(function, changed, says):
    with pytest.raises(ValueError, match=says):
        call(function, **changed)


# ---- odd, but meant: the same answer --------------------------------------------------------------------------------

HALVES = np.round(X * 4) / 4, np.round(Y * 4) / 4  # what float16 and bfloat16 hold exactly
FORMS = {
    "lists": lambda a: a.tolist(),
    "float16": lambda a: a.astype(np.float16),
    "float64": lambda a: a.astype(np.float64),
    "long doubles": lambda a: a.astype(np.longdouble),
    "other byte order": lambda a: a.astype(">f4"),
    "column by column": np.asfortranarray,
    "every second row": lambda a: np.repeat(a, 2, 0)[::2],
    "backwards in memory": lambda a: a[::-1].copy()[::-1],
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
    "a list of tensors": lambda a: list(torch.from_numpy(a)),
    "a tensor": torch.from_numpy,
    "a half tensor": lambda a: torch.from_numpy(a).half(),
    "a bfloat16 tensor": lambda a: torch.from_numpy(a).bfloat16(),
    "a double tensor": lambda a: torch.from_numpy(a).double(),
    "a tensor in a graph": lambda a: torch.from_numpy(a).clone().requires_grad_() * 1,
    "a transposed tensor": lambda a: torch.from_numpy(a.T.copy()).T,
    "a parameter": lambda a: torch.nn.Parameter(torch.from_numpy(a)),
    "a negated view": lambda a: torch.complex(torch.zeros(a.shape), -torch.from_numpy(a)).conj().imag,
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("function", MATRICES)
def test_whatever_holds_the_numbers(function, form):
    names = [name for name in MATRICES[function] if name != "answers"]
    good = dict(zip(names, HALVES)) if len(names) == 2 else {names[0]: np.round(GOOD[function][names[0]] * 4) / 4}
    wanted = call(function, **good)
    for some in (names, names[:1], names[1:]):  # all of them in this form, and mixed
        found = call(function, **{**good, **{name: FORMS[form](good[name]) for name in some}})
        assert same(found, wanted), (function, form, some)


def same(found, wanted):
    if hasattr(wanted, "__dict__"):
        return all(same(getattr(found, name), value) for name, value in vars(wanted).items())
    # float64 where float32 was asked otherwise, so the last digits may differ
    return np.allclose(np.asarray(found, float), np.asarray(wanted, float), rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.uint64, bool])
def test_whole_numbers_of_every_kind(kind):
    codes = np.random.default_rng(1).integers(0, 2, (2, 6, 4))
    wanted = evaluation.euclidean_distances(*codes.astype(float))
    found = evaluation.euclidean_distances(*codes.astype(kind))
    assert found.dtype == np.float64 and (found == wanted).all()
    assert same(
        call("evaluate", distances=codes[0] @ codes[1].T.astype(kind)),
        call("evaluate", distances=codes[0] @ codes[1].T),
    )


@pytest.mark.parametrize("kind", [np.int8, np.int32, np.uint64, torch.int32, torch.int64, torch.uint8, list, tuple])
def test_ids_of_every_kind(kind):
    make = (lambda v: torch.tensor(v, dtype=kind)) if isinstance(kind, torch.dtype) else (lambda v: np.array(v, kind))
    make = kind if kind in (list, tuple) else make
    assert same(call("evaluate", **{name: make(value) for name, value in IDS.items()}), call("evaluate"))


def test_ids_of_any_size_and_cameras_below_zero():
    wide = {
        name: np.where(np.array(v) > 0, np.array(v) + 2**62, v) if "pids" in name else np.array(v) - 2**62
        for name, v in IDS.items()
    }
    for function in ("evaluate", "evaluate_features", "verify_features"):
        assert same(call(function, **wide), call(function))


def test_no_rows_have_no_distances():
    for x, y in ((X[:0], Y), (X, Y[:0]), (X[:0], Y[:0])):
        assert evaluation.euclidean_distances(x, y).shape == (len(x), len(y))
    assert call("multi_query_features", pool_features=Y[:0], pool_pids=[], pool_camids=[]).tolist() == X.tolist()


def test_settings_beyond_the_set_are_cut():
    assert np.isfinite(call("rerank", k1=1000, k2=2000)).all() and np.isfinite(call("rerank", k1=2, k2=5)).all()
    assert call("evaluate", max_rank=np.int64(100)).cmc.shape == (100,)


def test_a_tensor_comes_back_for_a_tensor():
    assert isinstance(call("euclidean_distances", x=torch.from_numpy(X)), torch.Tensor)
    assert isinstance(call("euclidean_distances", y=torch.from_numpy(Y)), np.ndarray)
    assert isinstance(call("euclidean_distances", x=X.tolist()), np.ndarray)


def test_tensors_of_eight_bits():
    """Once torch's own TypeError about a ScalarType."""
    found = call("evaluate", distances=torch.from_numpy(GOOD["evaluate"]["distances"]).to(torch.float8_e4m3fn))
    rounded = torch.from_numpy(GOOD["evaluate"]["distances"]).to(torch.float8_e4m3fn).float()
    assert found == call("evaluate", distances=rounded)
    packed = torch.zeros(6, 4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    for function, name in (("evaluate", "distances"), ("euclidean_distances", "x")):
        with pytest.raises(ValueError, match=f"{name} must be a dense tensor of real numbers; got torch.float4"):
            call(function, **{name: packed})


# ---- imports --------------------------------------------------------------------------------------------------------


def in_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_importing_evaluation_imports_nothing_slow():
    slow = "'pandas', 'faiss', 'scipy.stats', 'scipy.sparse', 'sklearn', 'matplotlib'"
    done = in_python(f"import sys, reidnb.evaluation; print([m for m in ({slow}) if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


def test_search_without_faiss_names_the_extra():
    done = in_python(
        "import sys; sys.modules['faiss'] = None; import reidnb.evaluation; import reidnb.evaluation.search"
    )
    assert done.returncode and re.search(r"ImportError: .*pip install 'reidnb\[search\]'", done.stderr)
