"""Pictures of which a part was cut off, by three distances: the global one, and two that compare stripes, rigid and
aligned -> reidnb/results/partial.csv, three seeds each: of the built-in world from each start, and of Market-1501 under
`laptop`, looked for under REIDNB_DATA and left out where it is not there.

    python workflow/partial.py [--large] [--seeds 3] [--recipes ide baseline aligned]

--large: of Market-1501 alone, by the network and the pictures of `photo`, eight epochs in place of its twenty (half
an hour a run on one core). The rows of a run are written when they are made, and not made again."""

import argparse
import itertools

import pandas as pd

from reidnb.causes import DISTANCES, stripes_at_test
from reidnb.datasets import open_dataset
from reidnb.experiments import run
from reidnb.files import atomic_write
from reidnb.ledger import RESULTS
from reidnb.recipes import recipe

NETWORKS = ("ide", "baseline", "aligned")
STARTS = {"distilled": {}, "drawn": {"weights": "drawn"}, "random": {"weights": None}}
LARGE = {"epochs": 8}
SHARE = 0.5  # of height and width, at most
FILE = RESULTS / "partial.csv"


def rows_of(result, cut, start):
    """A row a distance."""
    about = {"dataset": result.dataset, "profile": result.profile, "start": start, "recipe": result.name}
    found = stripes_at_test(result.model(), cut)
    scores = {name: {"mAP": round(found[name].mAP, 5), "rank1": round(found[name].rank1, 5)} for name in DISTANCES}
    more = {"seed": result.seed, "partial": SHARE, "key": result.key}
    return pd.DataFrame([about | {"distance": name} | scores[name] | more for name in DISTANCES])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--recipes", nargs="+", default=NETWORKS, choices=NETWORKS)
    args = parser.parse_args()
    where = [("synthetic", "full", start, changes) for start, changes in STARTS.items()]
    where += [("market1501", "laptop", "distilled", {})]
    if args.large:
        where = [("market1501", "photo", "ImageNet", LARGE)]
    for dataset, profile, start, changes in where:
        try:
            open_dataset(dataset, size=recipe(NETWORKS[0], profile).size)
        except FileNotFoundError as missing:
            print(f"{dataset} is left out: {missing}", flush=True)
            continue
        for seed, name in itertools.product(range(args.seeds), args.recipes):
            result = run(name, dataset, profile, seed, **changes)
            table = pd.read_csv(FILE) if FILE.exists() else pd.DataFrame(columns=["key"])
            if result.key in set(table.key):
                continue
            world = {"world": seed} if dataset == "synthetic" else {}
            cut = open_dataset(dataset, size=result.recipe.size, partial=SHARE, **world)
            new = rows_of(result, cut, start)
            same = ["dataset", "profile", "start", "recipe", "distance", "seed"]
            table = pd.concat([table, new]).drop_duplicates(same, keep="last").sort_values(same)
            atomic_write(FILE, lambda file, table=table: table.to_csv(file, index=False))
            print(new.to_string(index=False, header=False), flush=True)


if __name__ == "__main__":
    main()
