"""Devices, precision, checkpoints that are killed, damaged or find the disk full, and what is noted of a run."""

import errno
import logging
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from toys import HOUSE, TOY, coloured_people, network_of, same_weights, without_seconds

from reidnb import __version__, runtime, training
from reidnb.runtime import (
    TrainingDiverged,
    autocast,
    choose_device,
    circumstances,
    keep_checkpoint,
    load_checkpoint,
    precision,
)
from reidnb.training import train

CPU = torch.device("cpu")

# ---- devices --------------------------------------------------------------------------------------------------------


def there(monkeypatch, cuda=False, mps=False, gpus=0):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("device", "says"),
    [
        ("tpu9", "unknown device 'tpu9': take 'auto', 'cpu', 'cuda' or 'mps'"),
        ("CPU", "unknown device 'CPU'"),
        ("gpu", "unknown device 'gpu'"),
        ("", "unknown device ''"),
        (" cpu", "unknown device ' cpu'"),
        ("cpu,cuda", "unknown device 'cpu,cuda'"),
        ("cuda:", "unknown device 'cuda:'"),
        ("cuda:-1", "unknown device 'cuda:-1'"),
        (1.5, "unknown device 1.5"),
        (["cpu"], r"unknown device \['cpu'\]"),
        ({}, "unknown device {}"),
        (np.array(["cpu", "cuda"]), "unknown device array"),
        (-1, "device -1"),
        (0, "device 0"),
        (True, "device True"),
        ("meta", "device 'meta' is not available here: take 'auto' or 'cpu'"),
        ("cuda", "device 'cuda' is not available here: take 'auto' or 'cpu'"),
        ("cuda:0", "device 'cuda:0' is not available here"),
        ("mps", "device 'mps' is not available here: take 'auto' or 'cpu'"),
        ("xpu", "device 'xpu' is not available here"),
        ("cpu:7", "device 'cpu:7' is not available here"),
        (torch.device("cuda"), "is not available here"),
    ],
    ids=str,
)
def test_choose_device_refuses(device, says, monkeypatch):
    there(monkeypatch)
    with pytest.raises(ValueError, match=says):
        choose_device(device)


def test_choose_device(monkeypatch):
    there(monkeypatch)
    assert choose_device() == choose_device("auto") == choose_device("cpu") == choose_device(CPU) == CPU
    there(monkeypatch, cuda=True, gpus=2)
    assert choose_device() == choose_device("cuda") == torch.device("cuda") and choose_device("cpu") == CPU
    assert choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ValueError, match="'cuda:2' is not available"):
        choose_device("cuda:2")
    there(monkeypatch, mps=True)
    assert choose_device("mps") == torch.device("mps") and choose_device() == CPU, "mps is asked for by name"


def test_precision(monkeypatch):
    monkeypatch.delenv("REIDNB_FP32", raising=False)
    assert precision(torch.device("mps")) == "fp32"
    for emulated, name in ((False, "bf16"), (True, "fp32")):  # an older GPU emulates it, slower than float32

        def supported(including_emulation=True, emulated=emulated):
            return including_emulation or not emulated

        monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
        assert precision(torch.device("cuda")) == name
    for fast, name in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda fast=fast: fast, raising=False)
        assert precision(CPU) == name
        with autocast(CPU):
            assert torch.is_autocast_enabled("cpu") == fast
            kind = (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
        assert kind == (torch.bfloat16 if fast else torch.float32)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    monkeypatch.setenv("REIDNB_FP32", "1")
    assert precision(CPU) == "fp32", "asked for, to compare with machines that cannot do otherwise"


# ---- provenance -----------------------------------------------------------------------------------------------------


def git(folder, *what):
    name = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    return subprocess.run(
        ["git", "-C", folder, *name, *what], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_circumstances(tmp_path, monkeypatch):
    """The commit is the checkout's, with a + where files of the package differ; outside of one it is the version."""
    package = tmp_path / "house" / "reidnb"
    package.mkdir(parents=True)
    (package / "runtime.py").write_text("a")
    monkeypatch.setattr(runtime, "__file__", str(package / "runtime.py"))
    found = circumstances(CPU)
    assert found["commit"] == f"v{__version__}" and "CPU, " in found["device"] and found["device"].endswith("1 threads")
    assert found["torch"] == torch.__version__.split("+")[0] and re.fullmatch(r"\d{4}-\d\d-\d\d", found["date"])
    git(package.parent, "init")
    assert circumstances(CPU)["commit"] == f"v{__version__}", "a checkout without a commit"
    git(package.parent, "add", "reidnb")
    git(package.parent, "commit", "-m", "one")
    head = git(package.parent, "rev-parse", "--short=10", "HEAD")
    (package.parent / "notes").write_text("not the package's")
    assert circumstances(CPU)["commit"] == head
    (package / "runtime.py").write_text("b")
    assert circumstances(CPU)["commit"] == head + "+"
    monkeypatch.setenv("PATH", "")
    assert circumstances(CPU)["commit"] == f"v{__version__}", "no git on this machine"


# ---- checkpoints ----------------------------------------------------------------------------------------------------

CHILD = """
import sys
import torch
torch.set_num_threads(1)
from toys import TOY, coloured_people, network_of
from reidnb.training import train
train(network_of(), *coloured_people(), TOY, device="cpu", checkpoint=sys.argv[1])
"""


def test_killed_and_resumed(tmp_path):
    """It ends at the same numbers as a run that nothing disturbed."""
    whole_model = network_of()
    whole = train(whole_model, *coloured_people(), TOY, device="cpu")
    checkpoint = tmp_path / "run.checkpoint"
    path = os.pathsep.join([str(HOUSE), str(HOUSE / "tests")])
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(checkpoint)], env={**os.environ, "PYTHONPATH": path})
    try:
        deadline = time.monotonic() + 240
        while not checkpoint.exists() and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    done = len(torch.load(checkpoint, weights_only=True)["history"])
    assert 1 <= done < TOY.epochs, "killed on the way"
    model = network_of(seed=9)  # whatever it starts from: the checkpoint has the weights
    history = train(model, *coloured_people(), TOY, device="cpu", checkpoint=checkpoint)
    assert without_seconds(history) == without_seconds(whole)
    assert same_weights(model, whole_model)
    left = {p.name for p in tmp_path.iterdir() if not p.name.startswith(".")}  # a killed writer's file stays, hidden
    assert left == {"run.checkpoint"}


def test_a_finished_run_is_not_trained_again(tmp_path, monkeypatch):
    images, labels = coloured_people(each=4)
    plan = replace(TOY, epochs=2)
    first = network_of()
    history = train(first, images, labels, plan, device="cpu", checkpoint=tmp_path / "c")
    monkeypatch.setattr(training, "make_batch", None)
    second = network_of(seed=3)
    assert train(second, images, labels, plan, device="cpu", checkpoint=tmp_path / "c") == history
    assert same_weights(first, second)


def truncated(path):
    path.write_bytes(path.read_bytes()[:-5000])


def rubbish(path):
    path.write_bytes(b"not a checkpoint")


def empty(path):
    path.write_bytes(b"")


def without_history(path):
    state = torch.load(path, weights_only=True)
    del state["history"]
    torch.save(state, path)


def of_another_model(path):
    state = torch.load(path, weights_only=True)
    state["model"]["classifier.weight"] = torch.zeros(3, 3)
    torch.save(state, path)


def of_another_optimizer(path):
    state = torch.load(path, weights_only=True)
    state["optimizer"]["param_groups"].pop()
    torch.save(state, path)


@pytest.mark.parametrize("damage", [truncated, rubbish, empty, without_history, of_another_model, of_another_optimizer])
def test_a_damaged_checkpoint_is_put_aside(damage, tmp_path, caplog):
    """Whatever is wrong with it; once the last three ended in a KeyError or began from half-loaded weights."""
    images, labels = coloured_people(each=4)
    plan, path = replace(TOY, epochs=2), tmp_path / "run.checkpoint"
    expected = network_of()
    history = train(expected, images, labels, plan, device="cpu", checkpoint=path)
    damage(path)
    damaged = path.read_bytes()
    model = network_of()
    with caplog.at_level(logging.WARNING, "reidnb"):
        again = train(model, images, labels, plan, device="cpu", checkpoint=path)
    assert "cannot be read" in caplog.text and "run.damaged" in caplog.text
    assert (tmp_path / "run.damaged").read_bytes() == damaged, "kept for whoever wants to look"
    assert without_seconds(again) == without_seconds(history) and same_weights(model, expected), "as if it had not been"


def linear(fill):
    model = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(model.weight, fill)
    return model


@pytest.mark.parametrize(
    "problem",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),  # torch's own words for it
    ],
    ids=["system", "torch"],
)
def test_a_full_disk_says_so_and_leaves_the_checkpoint_before(problem, tmp_path, monkeypatch):
    path = tmp_path / "run.checkpoint"
    keep_checkpoint(path, {"model": linear(1.0)}, [{"epoch": 1}])

    def full(state, file):
        file.write_bytes(b"half a file")
        raise problem

    with monkeypatch.context() as patch, pytest.raises(OSError, match="run.checkpoint: the disk is full") as error:
        patch.setattr(torch, "save", full)
        keep_checkpoint(path, {"model": linear(2.0)}, [{"epoch": 1}, {"epoch": 2}])
    assert error.value.errno == errno.ENOSPC and "REIDNB_CACHE" in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["run.checkpoint"], "nothing half-written is left"
    model = linear(0.0)
    assert load_checkpoint(path, {"model": model}) == [{"epoch": 1}] and (model.weight == 1).all()


@pytest.mark.parametrize("problem", [PermissionError("not yours"), torch.OutOfMemoryError("a smaller card")])
def test_a_checkpoint_that_cannot_be_reached_is_not_damaged(problem, tmp_path, monkeypatch):
    model, path = linear(1.0), tmp_path / "run.checkpoint"
    keep_checkpoint(path, {"model": model}, [{"epoch": 1}])

    def refuse(*_, **__):
        raise problem

    with monkeypatch.context() as patch, pytest.raises(type(problem)):
        patch.setattr(torch, "load", refuse)
        load_checkpoint(path, {"model": model})
    assert load_checkpoint(path, {"model": model}) == [{"epoch": 1}]


def test_without_a_path_nothing_is_kept(tmp_path):
    keep_checkpoint(None, {"model": linear(1.0)}, [{"epoch": 1}])
    assert load_checkpoint(None, {}) == load_checkpoint(tmp_path / "none", {}) == [] == list(tmp_path.iterdir())
    keep_checkpoint(str(tmp_path / "new" / "c"), {"model": linear(1.0)}, [])
    assert load_checkpoint(str(tmp_path / "new" / "c"), {"model": linear(2.0)}) == []


def test_a_run_that_diverges_says_which_term():
    said = str(TrainingDiverged("toy", "epoch 3, step 4", 0.004, {"identity": torch.tensor(float("nan")), "local": 2}))
    assert said.startswith("toy: the loss is not finite in epoch 3, step 4: identity = nan, local = 2.")
    assert "0.004" in said and "try a lower one, or a longer warm-up" in said
