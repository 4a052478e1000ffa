"""make reproduce: run the Snakefile here, with a bar over the notebooks, and say where everything lies."""

import argparse
import csv
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from tqdm import tqdm

from reidnb.__main__ import dataset_names, one_of, profile_names
from runs import batch, minutes  # beside this file

ROOT = Path(__file__).resolve().parents[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="quick", type=one_of("profile", profile_names))
    parser.add_argument("--dataset", default="synthetic", type=one_of("dataset", dataset_names))
    parser.add_argument("--cores", default="2")
    args = parser.parse_args()
    name = args.profile if args.dataset == "synthetic" else f"{args.profile}-{args.dataset}"
    out, started = ROOT / "build" / name, time.time()
    out.mkdir(parents=True, exist_ok=True)
    log = out / "reproduce.log"
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "-s",
        "workflow/Snakefile",
        "--cores",
        args.cores,
        "--rerun-triggers",
        "mtime",
        "input",
        "--rerun-incomplete",
        "--keep-going",  # what does not need the one that failed
        "--resources",
        "gpu=1",
        "--nolock",  # a batch that was killed must not bar the next one; runs have locks of their own
        "--config",
        f"profile={args.profile}",
        f"dataset={args.dataset}",
    ]
    if runs := batch(args.profile, args.dataset):
        with open(ROOT / "reidnb/results/runs.csv", newline="", encoding="utf-8") as file:
            measured = [row for row in csv.DictReader(file) if row["profile"] == args.profile]
        hours, cores = minutes(runs, measured, int(args.cores)) / 60, args.cores
        print(f"{len(runs)} runs, each of 3 or 5 seeds: {hours:.1f} hours from nothing on {cores} cores", flush=True)
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        try:
            failed = follow(process, file)
        except KeyboardInterrupt:  # the batch got it too, and stops by itself
            process.wait()
            print("\nStopped. The same command goes on from here.", file=sys.stderr)
            return 130
    took = (time.time() - started) / 60
    if failed:
        print(f"\nThe batch stopped after {took:.1f} minutes. Its log: {log}", file=sys.stderr)
        return failed
    tables = out / "tables" if args.profile == "quick" else ROOT / "reidnb" / "results"
    figures = out / "figures" if args.dataset == "synthetic" else f"figures/{args.dataset} in the cache"
    print(f"\nDone in {took:.1f} minutes.\n  notebooks  {out}\n  figures    {figures}\n  tables     {tables}")
    return 0


def follow(process, log):
    """Copy the batch's output to its log; a bar for the jobs, and above it the lines a reader wants: epochs, scores,
    errors."""
    steps = re.compile(r"(\d+) of (\d+) steps \(\d+%\) done")
    wanted = re.compile(r"epoch \d+/\d+|, seed \d+:|^reidnb|Error|Exception")
    with tqdm(total=1, unit="job", desc="notebooks and runs", leave=True) as bar:
        for line in process.stdout:
            log.write(line)
            log.flush()
            if found := steps.search(line):
                bar.total, bar.n = int(found[2]), int(found[1])
                bar.refresh()
            elif found := re.match(r"total +(\d+)$", line):  # before the first is done
                bar.total = int(found[1])
                bar.refresh()
            elif line.startswith("    output:"):
                bar.set_postfix_str(Path(line.split(":")[1].strip().split(",")[0]).name)
            elif wanted.search(line):
                bar.write(line.rstrip())
    return process.wait()


if __name__ == "__main__":
    sys.exit(main())
