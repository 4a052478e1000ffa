"""What strangers do to a search: Rank-1 and mAP of the baseline among up to 100,000 pictures of people who are not
asked for, in three worlds -> reidnb/results/strangers.csv. About four minutes a world on one core; the rows of a
world are written when it is done, and are not made again for the same run of the baseline."""

import numpy as np
import pandas as pd

from reidnb.datasets import open_dataset
from reidnb.evaluation import evaluate_features
from reidnb.experiments import run
from reidnb.files import atomic_write
from reidnb.ledger import RESULTS

STEPS = (0, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)
PEOPLE = 7600  # of whom a hundred thousand pictures are taken
FILE = RESULTS / "strangers.csv"


def among_strangers(result, seed: int) -> list[dict]:
    """Half of a world's test people are searched for; strangers are the other half, and people drawn anew before
    the same cameras, in random order."""
    data, rng = result.data(), np.random.default_rng(seed)
    query, gallery = data.query, data.gallery
    known = rng.permutation(np.unique(query.pids))[: len(np.unique(query.pids)) // 2]
    asked, home = np.isin(query.pids, known), np.isin(gallery.pids, known)
    born = int(max(data.train.pids.max(), gallery.pids.max()))
    more = {"train_identities": 1, "test_identities": born + PEOPLE - 1, "distractors": 0, "junk": 0}
    town = open_dataset("synthetic", world=seed, size=result.recipe.size, **more)
    strangers = [result.features.gallery[~home & (gallery.pids != -1)]]
    strangers += [result.embed(part.images[part.pids > born]) for part in (town.query, town.gallery)]
    strangers, rows = rng.permutation(np.concatenate(strangers)), []
    for count in (count for count in STEPS if count <= len(strangers)):
        features = np.concatenate([result.features.gallery[home], strangers[:count]])
        pids, camids = (np.r_[ids[home], np.zeros(count, int)] for ids in (gallery.pids, gallery.camids))
        sides = result.features.query[asked], features, query.pids[asked], pids, query.camids[asked], camids
        scores = evaluate_features(*sides)
        found = {"seed": seed, "strangers": count, "gallery": len(features), "key": result.key}
        rows.append(found | {"rank1": round(float(scores.cmc[0]), 5), "mAP": round(float(scores.mAP), 5)})
    return rows


def main():
    table = pd.read_csv(FILE) if FILE.exists() else pd.DataFrame(columns=["seed", "key"])
    for seed in range(3):
        result = run("baseline", profile="full", seed=seed)
        if result.key not in set(table.key):
            rows = pd.DataFrame(among_strangers(result, seed))
            table = pd.concat([table[table.seed != seed], rows], ignore_index=True)
            atomic_write(FILE, lambda file, table=table: table.to_csv(file, index=False))
            print(table[table.seed == seed].to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
