"""What clustering pseudo-labels give, round by round: on the drawn pair both ways, from drawn people to Market-1501,
between two halves of its cameras -> reidnb/results/pseudo_labels.csv.

    python workflow/pseudo_labels.py [PAIR ...] [--seeds 0 1 2] [--rounds 8]

With regard to cameras and without. A round of a drawn pair takes half a minute of
a core, of Market-1501 some two. Rows are written as rounds end, and what is kept is not made again. Photographs are
looked for under REIDNB_DATA; a pair that is not there is left out.
"""

import argparse

import pandas as pd

from reidnb.clustering import Clustering, agreement, pseudo_label
from reidnb.datasets import open_dataset
from reidnb.experiments import run
from reidnb.files import atomic_write
from reidnb.ledger import RESULTS
from reidnb.recipes import recipe
from reidnb.runtime import choose_device, circumstances

FILE = RESULTS / "pseudo_labels.csv"
PAIRS = {  # pair -> profile
    "synthetic_summer->synthetic_winter": "full",
    "synthetic_winter->synthetic_summer": "full",
    "synthetic->market1501": "laptop",
    "market1501_first->market1501_second": "laptop",
}
SAME = ["dataset", "profile", "seed", "by_camera", "round"]


def rows_of(pair: str, seed: int, by_camera: bool, rounds: int):
    """The rows of results/pseudo_labels.csv, one a round, as rounds end."""
    source = run("direct", pair, PAIRS[pair], seed=seed)
    data, how = source.data(), Clustering(by_camera=by_camera)
    there = open_dataset(pair.split("->")[1], size=source.recipe.size, **data.options).train  # for the report alone
    about = {"dataset": pair, "profile": PAIRS[pair], "seed": seed, "by_camera": by_camera}
    about |= {"pictures": len(there), "true_people": len(set(there.pids.tolist())), "key": source.key}
    for number in range(1, rounds + 1):
        adapted = pseudo_label(source, data, number, clustering=how, seed=seed)
        for line in adapted.history if number == 1 else adapted.history[-1:]:
            found = agreement(adapted.labels[-1], there.pids) if line["round"] else {}
            yield {
                name: v if isinstance(v, (str, bool, int)) else round(v, 5)
                for name, v in (about | line | found).items()
            }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="*", metavar="PAIR", choices=[*PAIRS, []], help="all, or: " + ", ".join(PAIRS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=8)
    args = parser.parse_args()
    table = pd.read_csv(FILE) if FILE.exists() else pd.DataFrame()
    kinds = [(seed, by) for by in (True, False) for seed in args.seeds]
    for pair, (seed, by_camera) in ((pair, kind) for pair in args.pairs or PAIRS for kind in kinds):
        try:
            open_dataset(pair, size=recipe("direct", PAIRS[pair]).size)
        except FileNotFoundError as missing:
            print(f"{pair} is left out: {missing}", flush=True)
            continue
        for row in rows_of(pair, seed, by_camera, args.rounds):
            row |= circumstances(choose_device())
            table = pd.concat([table, pd.DataFrame([row])], ignore_index=True).drop_duplicates(SAME, keep="last")
            table = table.sort_values(SAME, ignore_index=True)
            atomic_write(FILE, lambda file, table=table: table.to_csv(file, index=False, lineterminator="\n"))
            print({name: row[name] for name in (*SAME, "mAP", "camera_mAP")}, flush=True)


if __name__ == "__main__":
    main()
