"""Measuring, for the scripts of this folder: each case in a process of its own, CPU seconds, and the memory it took."""

import argparse
import gc
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package of this checkout


class Skip(Exception):
    """A case cannot run here; the message says what is missing."""


def peer(variable, module, *packages):
    """Import `module` from the checkout that an environment variable names, without running its packages' __init__."""
    root = os.environ.get(variable, "")
    if not Path(root).is_dir() or not root:
        raise Skip(f"{variable} names no checkout")
    for name in packages:
        if name not in sys.modules:
            package = types.ModuleType(name)
            package.__path__ = [str(Path(root, *name.split(".")))]
            sys.modules[name] = package
    return importlib.import_module(module)


def resident(field="VmRSS"):
    """MiB of memory held now ("VmRSS") or at most ("VmHWM"), on Linux."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    return float("nan")


def measure(work, repeats):
    """Median CPU seconds of work() over all threads, MiB at its highest above the start, and what it returned."""
    out, seconds, memory = None, [], 0.0
    for _ in range(repeats):
        out = None
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # forget the highest mark so far
        before, started = resident(), time.process_time()
        out = work()
        seconds.append(time.process_time() - started)
        memory = max(memory, resident("VmHWM") - before)
    return statistics.median(seconds), memory, out


def main(cases, description, repeats=3):
    """Run all cases, or those whose name holds a part of --only, and print what each said; `--case` runs one here."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--only", default="", help="comma-separated parts of case names")
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        _run_here(cases[args.case], args)
        return None
    said = {}
    for name in cases:
        if not args.only or any(part in name for part in args.only.split(",")):
            said[name] = _run_alone(name, args)
            print(f"  {name}: {said[name]}", file=sys.stderr, flush=True)
    return said


def _run_here(case, args):
    import torch

    torch.set_num_threads(args.threads)
    try:
        said = case(args.repeats)
    except Skip as reason:
        said = {"skipped": str(reason)}
    print("@" + json.dumps(said), flush=True)


def _run_alone(name, args):
    threads = str(args.threads)
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    command = [sys.executable, sys.argv[0], "--case", name, "--repeats", str(args.repeats), "--threads", threads]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    lines = [line[1:] for line in done.stdout.splitlines() if line.startswith("@")]
    return json.loads(lines[-1]) if lines else {"skipped": f"died with {done.returncode}"}


def table(rows, columns):
    """Rows of values as Markdown, columns in line."""
    text = [[str(value) for value in row] for row in (columns, *rows)]
    widths = [max(len(row[i]) for row in text) for i in range(len(columns))]
    lines = ["| " + " | ".join(value.ljust(width) for value, width in zip(row, widths)) + " |" for row in text]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def machine():
    import torch

    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        model = next(
            (line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), model
        )
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{os.cpu_count()} cores {model}, torch {torch.__version__.split('+')[0]}, numpy {np.__version__}{load}"
