"""What every test file needs: one thread, so that files cost the same beside others, and a cache of its own."""

import os

import pytest
import torch

os.environ["OMP_NUM_THREADS"] = "1"  # also for the kernels that run the notebooks and for subprocesses
torch.set_num_threads(1)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty folder where the package keeps runs and drawn worlds during one test."""
    monkeypatch.setenv("REIDNB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
