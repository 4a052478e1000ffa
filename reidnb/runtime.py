"""What a run runs on: device and precision, checkpoints, and what is noted of the circumstances."""

import contextlib
import copy
import ctypes
import functools
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from reidnb import __version__
from reidnb.files import atomic_write, put_aside

M_MMAP_MAX, M_TRIM_THRESHOLD = -4, -1  # of malloc.h


class TrainingDiverged(RuntimeError):
    """A loss term is NaN or infinite; the message shows every term, and what to try."""

    def __init__(self, what: str, where: str, rate: float, terms: Mapping[str, torch.Tensor | float]):
        shown = ", ".join(f"{name} = {float(torch.as_tensor(value).detach()):g}" for name, value in terms.items())
        super().__init__(
            f"{what}: the loss is not finite in {where}: {shown}. The learning rate stood at {rate:.2g}: try a lower "
            "one, or a longer warm-up"
        )


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """None or "auto": a GPU when there is one, else the CPU. Raises ValueError for a device that is not there."""
    if device is None or isinstance(device, str) and device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as problem:
        raise ValueError(f"unknown device {device!r}: take 'auto', 'cpu', 'cuda' or 'mps'") from problem
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(chosen.type, False) or (chosen.index or 0) >= max(torch.cuda.device_count(), 1):
        raise ValueError(f"device {device!r} is not available here: take 'auto' or 'cpu'")
    return chosen


def precision(device: torch.device) -> str:
    """ "bf16" where the hardware multiplies it: GPUs from Ampere on, CPUs with AVX512-BF16 or AMX; elsewhere "fp32",
    and everywhere where the environment has REIDNB_FP32."""
    cpu = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    can = {"cpu": cpu, "cuda": lambda: torch.cuda.is_bf16_supported(including_emulation=False)}.get(device.type)
    return "bf16" if can and "REIDNB_FP32" not in os.environ and can() else "fp32"


def autocast(device: torch.device) -> torch.autocast:
    """The context in which a network runs: bf16 where `precision` says so."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision(device) == "bf16")


@functools.cache
def keep_memory() -> None:
    """Let the C library keep freed memory for the next layer. glibc gives blocks above 32 MB back to the system and
    takes them anew, page by page: a quarter of a Lite0 step at 128 x 64. For this process; elsewhere nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


# --------------------------------------------------------------------------------------------------------- provenance


def circumstances(device: torch.device) -> dict[str, str]:
    """Device, versions, commit and date of a run, for its row in a table."""
    cpu = f"{platform.machine()} CPU, {precision(device)}, {torch.get_num_threads()} threads"
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu,
        "torch": torch.__version__.split("+")[0],
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d"),
    }


def _commit() -> str:
    """The checkout's commit, with a + when files differ from it; the package's version outside a checkout."""
    package = Path(__file__).parent
    git = ["git", "-C", str(package.parent)]
    try:
        if not (package.parent / ".git").exists():
            return f"v{__version__}"
        head = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=True)
        status = [*git, "status", "--porcelain", "--untracked-files=no", package.name]
        changed = subprocess.run(status, capture_output=True, text=True).stdout
        return head.stdout.strip() + "+" * bool(changed.strip())
    except (OSError, subprocess.CalledProcessError):
        return f"v{__version__}"


# -------------------------------------------------------------------------------------------------------- checkpoints


def keep_checkpoint(path: Path | None, parts: Mapping, history: list[dict]) -> None:
    """Write the state of `parts`, modules and optimizers by name, and the history to `path`; nothing without one."""
    if path:
        state = {name: part.state_dict() for name, part in parts.items()} | {"history": history}
        atomic_write(Path(path), lambda file: torch.save(state, file))


def load_checkpoint(path: Path | None, parts: Mapping) -> list[dict]:
    """Put the state of `parts` back as it was kept -> the history; [] where nothing was.

    A file that holds something else is put aside with a warning, and the parts stay as they are.
    """
    if not path or not Path(path).exists():
        return []
    fresh = {name: copy.deepcopy(part.state_dict()) for name, part in parts.items()}
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        return state["history"]
    except (OSError, torch.OutOfMemoryError):
        raise  # the file may be whole
    except Exception as problem:  # torch raises many kinds for a broken file
        put_aside(Path(path), problem)
        for name, part in parts.items():
            part.load_state_dict(fresh[name])
        return []
