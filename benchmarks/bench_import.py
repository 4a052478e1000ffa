"""How long the package takes to import beside torch, which it cannot do without.

    python benchmarks/bench_import.py [--repeats 7] [--modules reidnb.experiments reidnb.notebook]

Each import in a process of its own, in turn, so that a busy machine is busy for all; medians of CPU seconds over all
threads, the interpreter's own start taken off. The target: reidnb.experiments at most 1.3 times torch.
"""

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CODE = "import time; start = time.process_time(); import {}; print(time.process_time() - start)"


def seconds(module: str) -> float:
    """CPU seconds that `import module` takes in a new process."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-c", CODE.format(module)], env=env, capture_output=True, text=True, check=True
    )
    return float(ran.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--modules", nargs="+", default=["reidnb.experiments"])
    args = parser.parse_args()
    modules = ["torch", *args.modules]
    for module in modules:
        seconds(module)  # the first reads it from the disk, and compiles it
    taken = {module: [] for module in modules}
    for _ in range(args.repeats):
        for module in modules:
            taken[module].append(seconds(module))
    base = statistics.median(taken["torch"])
    for module, values in taken.items():
        median = statistics.median(values)
        print(
            f"{module:24} {median:6.2f} s of CPU ({min(values):.2f} to {max(values):.2f})  {median / base:5.2f} x torch"
        )


if __name__ == "__main__":
    main()
