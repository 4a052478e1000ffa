"""What pictures are worth for a search elsewhere: as they are, moved there with the person held or not, or by a
CycleGAN for each camera, from summer's first to winter's first and so on (notebook 11) -> reidnb/results/moved.csv.

    python workflow/moved.py [PAIR ...]

Three worlds of people, whose cameras the generators know. From summer to winter: about a minute a run on one core, and
four for the six generators that do not ship. From drawn people to Market-1501, looked for under REIDNB_DATA and left
out where it is not there: who is where on a photograph says the column `mask` that `reidnb keypoints` writes."""

import argparse
from dataclasses import replace

import numpy as np
import pandas as pd

from reidnb.datasets import open_dataset
from reidnb.experiments import run
from reidnb.files import atomic_write, digest
from reidnb.generators import PTGAN, load_or_train_ptgan, move
from reidnb.generators.camera_pairs import PLAN
from reidnb.generators.keeping import PERSON
from reidnb.ledger import RESULTS

SIZE, SEEDS = (64, 32), 3
PAIRS = {"synthetic_summer->synthetic_winter": "full", "synthetic->market1501": "laptop"}  # pair -> profile
FILE = RESULTS / "moved.csv"


def movers(pair: str) -> dict:
    """The generators of a pair, by how heavily the person was held; from summer to winter they ship."""
    source, target = (open_dataset(name, size=SIZE).train for name in pair.split("->"))
    return {w: load_or_train_ptgan(source, target, pair, plan=PTGAN(person=w)).generator for w in PERSON}


def camera_by_camera(pair: str):
    """Pictures and their cameras -> what the target's camera of the same number would have taken of them."""
    source, target = (open_dataset(name, size=SIZE).train for name in pair.split("->"))
    by_camera = {}
    for camera in np.unique(source.camids).tolist():
        here, there = (part.select(part.camids == camera) for part in (source, target))
        by_camera[camera] = load_or_train_ptgan(here, there, f"{pair}-camera-{camera}", plan=PLAN).generator

    def moved(images, camids):
        out = np.array(images)
        for camera, generator in by_camera.items():
            out[camids == camera] = move(generator, images[camids == camera])
        return out

    return moved


def trained_on(both, images, seed: int, profile: str):
    """Direct transfer from other pictures of the same people."""
    told = digest(both.fingerprint, images)
    data = replace(both, name="moved", train=replace(both.train, images=images), fingerprint=told)
    return run("direct", data, profile, seed)


def results(pair: str, profile: str):
    """The results of a pair, a world of people at a time."""
    found, by_cameras = movers(pair), camera_by_camera(pair)
    for seed in range(SEEDS):
        both = open_dataset(pair, size=SIZE, world=seed)
        yield "as they are", run("direct", pair, profile, seed)
        for weight, generator in found.items():
            words = f"moved, person held by {weight:g}" if weight else "moved by CycleGAN, nobody held"
            yield words, trained_on(both, move(generator, both.train.images), seed, profile)
        moved = by_cameras(both.train.images, both.train.camids)
        yield "moved by a CycleGAN for each camera", trained_on(both, moved, seed, profile)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="*", metavar="PAIR", choices=[*PAIRS, []], help="all, or: " + ", ".join(PAIRS))
    table, same = pd.read_csv(FILE) if FILE.exists() else pd.DataFrame(), ["dataset", "copies", "seed"]
    for pair in parser.parse_args().pairs or PAIRS:
        try:
            open_dataset(pair, size=SIZE)
        except FileNotFoundError as missing:
            print(f"{pair} is left out: {missing}", flush=True)
            continue
        for words, result in results(pair, PAIRS[pair]):
            row = {"dataset": pair, "copies": words, "seed": result.seed, "key": result.key}
            row |= {"mAP": round(result.scores.mAP, 5), "rank1": round(float(result.scores.rank1), 5)}
            table = pd.concat([table, pd.DataFrame([row])]).drop_duplicates(same, keep="last")
            table = table.sort_values(["dataset", "seed"], kind="stable")
            atomic_write(FILE, lambda file, table=table: table.to_csv(file, index=False, lineterminator="\n"))
            print(row, flush=True)


if __name__ == "__main__":
    main()
