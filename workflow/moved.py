"""What summer's pictures are worth for a search in winter: as they are, or moved there with the person held or not
(notebook 11) -> reidnb/results/moved.csv. Three worlds of people, whose cameras the shipped generators know; about a
minute a run on one core. Rows of a run that is there already are not made again."""

from dataclasses import replace

import pandas as pd

from reidnb.datasets import open_dataset
from reidnb.experiments import run
from reidnb.files import atomic_write, digest
from reidnb.generators import PTGAN, load_or_train_ptgan, move
from reidnb.generators.keeping import PERSON
from reidnb.ledger import RESULTS

PAIR, SIZE, SEEDS = "synthetic_summer->synthetic_winter", (64, 32), 3
FILE = RESULTS / "moved.csv"


def movers() -> dict:
    """The shipped generators, by how heavily the person was held."""
    source, target = (open_dataset(name, size=SIZE).train for name in PAIR.split("->"))
    return {w: load_or_train_ptgan(source, target, PAIR, plan=PTGAN(person=w)).generator for w in PERSON}


def trained_on(both, images, seed: int):
    """Direct transfer from other pictures of the same people."""
    told = digest(both.fingerprint, images)
    data = replace(both, name="summer_moved", train=replace(both.train, images=images), fingerprint=told)
    return run("direct", data, "full", seed)


def main():
    table = pd.read_csv(FILE) if FILE.exists() else pd.DataFrame(columns=["key"])
    found = movers()
    for seed in range(SEEDS):
        both = open_dataset(PAIR, size=SIZE, world=seed)
        results = {"as they are": run("direct", PAIR, "full", seed)}
        for weight, generator in found.items():
            words = f"moved, person held by {weight:g}" if weight else "moved by CycleGAN, nobody held"
            results[words] = trained_on(both, move(generator, both.train.images), seed)
        for words, result in results.items():
            row = {"copies": words, "seed": seed, "key": result.key}
            row |= {"mAP": round(result.scores.mAP, 5), "rank1": round(float(result.scores.rank1), 5)}
            rest = table[~((table.get("copies") == words) & (table.get("seed") == seed))] if len(table) else table
            table = pd.concat([rest, pd.DataFrame([row])], ignore_index=True) if len(rest) else pd.DataFrame([row])
        atomic_write(FILE, lambda file, table=table: table.to_csv(file, index=False))
        print(table[table.seed == seed].to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
