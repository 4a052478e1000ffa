"""workflow/in_bf16.py: bfloat16's products on a CPU without it, against float64's, rounded."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from in_bf16 import ByRounding

from reidnb.__main__ import main

ROOT = Path(__file__).parents[1]


def rounded(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_and_its_gradients_are_the_exact_ones_rounded(groups):
    x, weight = rounded(3, 4, 9, 5, seed=0), rounded(6, 4 // groups, 3, 3, seed=1)
    leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
    exact = [x.double().requires_grad_(), weight.double().requires_grad_()]
    with ByRounding():
        ours = F.conv2d(*leaves, stride=2, padding=1, groups=groups)
        ours.float().square().sum().backward()
    theirs = F.conv2d(*exact, stride=2, padding=1, groups=groups)
    # the gradient of the loss reaches the convolution as the rounded result has it
    theirs.backward(2 * ours.detach().double())
    for got, want in ((ours, theirs), *((a.grad, b.grad) for a, b in zip(leaves, exact))):
        assert got.dtype == torch.bfloat16
        # half a step of eight digits; float32's own error may carry a tie over: a thousandth of a step more
        assert ((got.double() - want).abs() <= want.abs() * 2.0**-8 * 1.001 + 1e-6).all()


def test_products_of_matrices_are_the_exact_ones_rounded_and_others_are_left_alone():
    a, b, bias = rounded(5, 300, seed=2), rounded(300, 7, seed=3), rounded(7, seed=4)
    with ByRounding():
        found = {"mm": a @ b, "addmm": torch.addmm(bias, a, b), "bmm": torch.bmm(a[None], b[None])[0]}
        untouched = a.float() @ b.float()
    exact = a.double() @ b.double()
    for name, got in found.items():
        want = exact + bias.double() if name == "addmm" else exact
        assert got.dtype == torch.bfloat16
        assert ((got.double() - want).abs() <= want.abs() * 2.0**-8 * 1.001 + 1e-5).all(), name
    assert untouched.dtype == torch.float32 and torch.equal(untouched, a.float() @ b.float())


def test_a_run_is_made_and_its_row_says_how(tmp_path, monkeypatch):
    monkeypatch.setenv("REIDNB_CACHE", str(tmp_path))
    few = ["train_identities=12", "test_identities=6", "distractors=0", "junk=0", "epochs=1", "p=4", "k=2"]
    command = [sys.executable, "workflow/in_bf16.py", "run", "ide", "--set", *few]
    about = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=about, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert main(["tables", "--out", str(tmp_path)]) == 0
    assert pd.read_csv(tmp_path / "runs.csv").device.str.endswith(" CPU, bf16, 1 threads, by rounding").any()
