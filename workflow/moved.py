"""What summer's pictures are worth for a search in winter: as they are, moved there with the person held or not, or by
a CycleGAN for each camera, from summer's first to winter's first and so on (notebook 11) -> reidnb/results/moved.csv.
Three worlds of people, whose cameras the generators know; about a minute a run on one core, and four for the six
generators that do not ship."""

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

PAIR, SIZE, SEEDS = "synthetic_summer->synthetic_winter", (64, 32), 3
FILE = RESULTS / "moved.csv"


def movers() -> dict:
    """The shipped generators, by how heavily the person was held."""
    source, target = (open_dataset(name, size=SIZE).train for name in PAIR.split("->"))
    return {w: load_or_train_ptgan(source, target, PAIR, plan=PTGAN(person=w)).generator for w in PERSON}


def camera_by_camera():
    """Pictures and their cameras -> what winter's camera of the same number would have taken of them."""
    source, target = (open_dataset(name, size=SIZE).train for name in PAIR.split("->"))
    by_camera = {}
    for camera in np.unique(source.camids).tolist():
        here, there = (part.select(part.camids == camera) for part in (source, target))
        by_camera[camera] = load_or_train_ptgan(here, there, f"{PAIR}-camera-{camera}", plan=PLAN).generator

    def moved(images, camids):
        out = np.array(images)
        for camera, generator in by_camera.items():
            out[camids == camera] = move(generator, images[camids == camera])
        return out

    return moved


def trained_on(both, images, seed: int):
    """Direct transfer from other pictures of the same people."""
    told = digest(both.fingerprint, images)
    data = replace(both, name="summer_moved", train=replace(both.train, images=images), fingerprint=told)
    return run("direct", data, "full", seed)


def main():
    table = pd.read_csv(FILE) if FILE.exists() else pd.DataFrame(columns=["key"])
    found, by_cameras = movers(), camera_by_camera()
    for seed in range(SEEDS):
        both = open_dataset(PAIR, size=SIZE, world=seed)
        results = {"as they are": run("direct", PAIR, "full", seed)}
        for weight, generator in found.items():
            words = f"moved, person held by {weight:g}" if weight else "moved by CycleGAN, nobody held"
            results[words] = trained_on(both, move(generator, both.train.images), seed)
        moved = by_cameras(both.train.images, both.train.camids)
        results["moved by a CycleGAN for each camera"] = trained_on(both, moved, seed)
        for words, result in results.items():
            row = {"copies": words, "seed": seed, "key": result.key}
            row |= {"mAP": round(result.scores.mAP, 5), "rank1": round(float(result.scores.rank1), 5)}
            rest = table[~((table.get("copies") == words) & (table.get("seed") == seed))] if len(table) else table
            table = pd.concat([rest, pd.DataFrame([row])], ignore_index=True) if len(rest) else pd.DataFrame([row])
        atomic_write(FILE, lambda file, table=table: table.to_csv(file, index=False))
        print(table[table.seed == seed].to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
