"""Runs and a claim made by hand, for tests of the ledger."""

import pandas as pd

from reidnb import ledger

CLAIM = {
    "id": "helps",
    "statement": "It helps",
    "source": "somebody, 2020",
    "metric": "mAP",
    "method": "new",
    "baseline": "old",
    "paper_gain": 2.5,
    "on": [["synthetic", "full"]],
}
BELOW = {k: v for k, v in CLAIM.items() if k not in ("baseline", "paper_gain")}
BELOW |= {"method": "colour_histogram", "below": 50.0}


def row(recipe="new", seed=0, mAP=0.5, dataset="synthetic", profile="full", changes="", **more):
    scores = {name: 0.25 for name in ledger.SCORES} | {"mAP": mAP}
    ids = {"recipe": recipe, "dataset": dataset, "changes": changes, "profile": profile, "seed": seed}
    return {**ids, **scores, "seconds": 10.0, "device": "x86_64 CPU", "key": "k", **more}


def runs(new=(), old=(), **more):
    """Runs of two recipes, a seed each value of mAP (None: no such run)."""
    rows = [
        row(name, seed, value, **more)
        for name, values in (("new", new), ("old", old))
        for seed, value in enumerate(values)
        if value is not None
    ]
    return pd.DataFrame(rows, columns=list(row()))


def verdict(table, claim=CLAIM):
    (line,) = ledger.judge(table, [claim]).itertuples()
    return line
