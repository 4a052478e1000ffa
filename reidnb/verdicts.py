"""How a claim is judged: paired gains over seeds, a variance that leans on claims of its kind, and one of six verdicts.

A seed is a world and a training, so two runs of one seed share their people and the difference between them is paired.
Few seeds know little of their own spread. So a claim's variance is moderated (Smyth, 2004): its own, with n - 1 degrees
of freedom, and the pooled one of all others of its kind, with up to PRIOR. With many claims some succeed by luck: q is
the smallest rate of false discoveries at which a claim would still pass (Benjamini & Hochberg, 1995).
"""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from reidnb.descriptors import DESCRIPTORS
from reidnb.values import did_you_mean

VERDICTS = ("holds", "holds, smaller", "no effect", "opposite", "undecided", "one run", "not run")
IDENTIFIES = ["recipe", "dataset", "changes", "profile", "seed"]  # what makes two rows the same run
PHOTOGRAPHED = ("laptop", "photo", "paper")  # profiles under which whoever can makes the runs of any claim
LEVEL = 0.05  # of the interval's error, and of the rate of false discoveries
PRIOR = 4  # degrees of freedom of the variance that claims of one kind share
NOTHING = 1.0  # points: an interval within so many of zero says that there is no effect above them
MOST_SEEDS = 999
EXACTLY = {1: "holds", 0: "no effect", -1: "opposite"}  # of what has no spread: nothing learned, the same pictures
SAID = ("id", "statement", "source", "metric", "method", "on")  # by every claim; and what else one may say:
MAY_SAY = ("baseline", "below", "better", "slack", "paper_gain", "notebook", "statement_zh", "follows", "predicted")
MAY_SAY += ("adds_up", *(f"{who}_{what}" for who in ("method", "baseline") for what in ("metric", "on", "from")))


class Judged(NamedTuple):
    """What some seeds say of a gain."""

    gain: float  # mean over seeds
    spread: float  # half width of the 95 % interval; NaN for one seed
    p: float  # two-sided, of a gain of zero; NaN for one seed
    sd: float  # moderated, of one seed's gain
    prior: int = 0  # degrees of freedom that others of its kind brought to sd


def papers() -> dict[str, list[dict]]:
    """papers.toml as a dict of lists: "claim" and "published"."""
    return tomllib.loads((Path(__file__).parent / "papers.toml").read_text(encoding="utf-8"))


# -------------------------------------------------------------------------------------------------------- statistics


def assess(gains: np.ndarray, others: Sequence[np.ndarray] = ()) -> Judged:
    """The mean of paired gains, its interval and p, with a variance moderated by that of `others` of its kind; without
    them it is Student's t."""
    from scipy.stats import t as student  # slow to import

    n = len(gains)
    if n < 2:
        return Judged(float(gains[0]) if n else np.nan, np.nan, np.nan, np.nan)
    dofs = [len(values) - 1 for values in others if len(values) > 1]
    pooled = np.dot(dofs, [np.var(values, ddof=1) for values in others if len(values) > 1]) / max(sum(dofs), 1)
    prior = min(PRIOR, sum(dofs))  # no more than they know
    dof = n - 1 + prior
    variance = ((n - 1) * np.var(gains, ddof=1) + prior * pooled) / dof
    error, mean = np.sqrt(variance / n), float(np.mean(gains))
    if error == 0:
        return Judged(mean, 0.0, float(mean == 0), 0.0, prior)
    p = 2 * student.sf(abs(mean) / error, dof)
    return Judged(mean, float(student.ppf(1 - LEVEL / 2, dof) * error), float(p), float(np.sqrt(variance)), prior)


def false_discovery_rates(p: np.ndarray) -> np.ndarray:
    """Benjamini & Hochberg's q of each p, NaN where p is NaN."""
    p = np.asarray(p, float)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known])[::-1]]  # from the largest down
    q = np.full(p.shape, np.nan)
    q[order] = np.minimum.accumulate(p[order] * len(order) / np.arange(len(order), 0, -1)) if len(order) else []
    return q


def seeds_to_decide(gain: float, sd: float, seeds: int, prior: float = PRIOR, slack: float = 0.0) -> int:
    """How many seeds would decide if gain and spread stayed as they are: until the interval leaves zero outside, or,
    without a `slack`, lies within NOTHING of it. More than there are (if they leave zero outside it is q that objects);
    at most MOST_SEEDS."""
    from scipy.stats import t as student

    n = np.arange(max(seeds, 1) + 1, MOST_SEEDS + 1)
    half = student.ppf(1 - LEVEL / 2, n - 1 + prior) * sd / np.sqrt(n)
    decided = (half < abs(gain)) | ((abs(gain) + half < NOTHING) & (not slack))
    return int(n[decided.argmax()]) if decided.any() else MOST_SEEDS


def verdict(found: Judged, q: float, seeds: int, paper: float = np.nan, slack: float = 0.0) -> str:
    """One of VERDICTS. `found` is of the gain as it is claimed: more is better. `paper` is theirs, in that sense. With
    a `slack`, zero is its edge, and to be near it decides nothing."""
    if seeds < 2:
        return "one run" if seeds else "not run"
    if abs(found.gain) > found.spread and q <= LEVEL:
        if found.gain < 0:
            return "opposite"
        return "holds, smaller" if found.gain + found.spread < paper else "holds"
    return "no effect" if abs(found.gain) + found.spread < NOTHING and not slack else "undecided"


# ------------------------------------------------------------------------------------------------------------- claims


def run_name(recipe: str, changes: str = "") -> str:
    """How tables and claims name a run: "trihard", or "trihard, label_noise=0.2"."""
    return f"{recipe}, {changes}" if changes else recipe


def tested_on_drawn(dataset: str) -> bool:
    """Whether a dataset, or the target of a pair, is drawn: then a seed is a world, and its test another one."""
    return dataset.split("->")[-1].startswith("synthetic")


def checked(runs: pd.DataFrame) -> pd.DataFrame:
    """A table of runs, if it is one."""
    if not isinstance(runs, pd.DataFrame):
        raise TypeError(f"wanted a DataFrame with a row a run, such as results() gives; got {type(runs).__name__}")
    if lacking := [name for name in IDENTIFIES if name not in runs]:
        raise ValueError(f"the table has no {', '.join(lacking)}: wanted a row a run, such as results() gives")
    return runs


def judge(runs: pd.DataFrame, claims: list[dict] | None = None) -> pd.DataFrame:
    """The ledger: a row for each claim and each dataset it is tested on -> DataFrame.

    `gain` is the mean over seeds of method minus baseline in points (or of the method minus the bound), `spread` the
    half width of its 95 % interval, `p` that of no gain at all, `q` over all rows (one that follows from another takes
    its place), `decides` how many seeds would decide what is undecided, were it the only claim. The verdict is on
    sign * gain + slack: `sign` is -1 where less is claimed, `slack` how much worse a method may be that is "nearly as
    good". "holds": the interval lies on the claimed side, q is at most 0.05, and the paper's gain is not above the
    interval; "holds, smaller": it is; "opposite": the interval lies on the other side; "no effect": all of it lies
    within NOTHING of zero, and no slack is claimed; "undecided"; "one run"; "not run". What learns nothing needs one
    run where it is tested on photographs, which no seed changes. `note` says what other claim it follows from or which
    it adds up from, its slack, and of a rival that finds less than the start did before any training. Beside the
    datasets that a claim names it is tested wherever its runs were made on photographs. ValueError for two rows of
    `runs` for one run, and for scores that are no numbers.
    """
    claims = papers()["claim"] if claims is None else [*map(_checked_claim, claims)]
    kinds = ("metric", "method_metric", "baseline_metric")
    metrics = dict.fromkeys(claim[kind] for claim in claims for kind in kinds if kind in claim)
    runs = checked(runs).reindex(columns=list(dict.fromkeys([*runs.columns, "mAP", *metrics])))
    names = pd.Series([run_name(row.recipe, row.changes) for row in runs.itertuples()], runs.index, dtype=object)
    if (twice := runs.duplicated(IDENTIFIES)).any():
        raise ValueError(f"two rows for {names[twice].iloc[0]}, seed {runs.seed[twice].iloc[0]}: drop one of them")
    for metric in ("mAP", *metrics):
        if (odd := runs[metric].notna() & pd.to_numeric(runs[metric], errors="coerce").isna()).any():
            given = runs[metric][odd].iloc[0]
            raise ValueError(f"{metric} of {names[odd].iloc[0]} is {given!r}: wanted a number or NaN")
    by_profile = dict(iter(runs.astype(dict.fromkeys(("mAP", *metrics), float)).assign(name=names).groupby("profile")))
    nothing = runs[:0].assign(name=names[:0])
    rows = []
    for claim in claims:
        on, there = map(tuple, claim["on"]), ((name, by_profile.get(name, nothing)) for name in PHOTOGRAPHED)
        more = [(d, name) for name, made in there for d in made.dataset.unique() if len(_differences(claim, made, d))]
        for dataset, profile in dict.fromkeys([*on, *more]):
            rows.append(_row(claim, by_profile.get(profile, nothing), dataset, profile))
    table = pd.DataFrame(rows)
    return _with_verdicts(table) if len(table) else table


def _row(claim, runs, dataset, profile):
    """A row of the ledger before it is judged; "gains" are those of the seeds as they are claimed."""
    sign = -1 if "below" in claim or claim.get("better") == "lower" else 1
    difference, slack = _differences(claim, runs, dataset), claim.get("slack", 0)
    form = "differences" if "method_from" in claim else "one" if claim["method"] == claim.get("baseline") else "two"
    learned = {claim["method"], claim.get("baseline", claim["method"])} - set(DESCRIPTORS)
    return {
        "id": claim["id"],
        "statement": claim["statement"],
        "paper_gain": claim.get("paper_gain", np.nan),
        "gain": difference.mean() if len(difference) else np.nan,
        "seeds": len(difference),
        "dataset": dataset,
        "profile": profile,
        "metric": claim["metric"],
        "sign": sign,
        "slack": slack,
        "method": _who(claim, "method", dataset),
        "baseline": _who(claim, "baseline", dataset),
        "notebook": claim.get("notebook"),
        "source": claim["source"],
        "predicted": claim.get("predicted", ""),
        "note": _note(claim, runs, dataset),
        "gains": sign * difference + slack,
        "follows": claim.get("follows", ""),
        "kind": (claim["metric"], dataset, profile, form),
        "exact": len(difference) == 1 and not learned and not tested_on_drawn(dataset),
    }


def _with_verdicts(table):
    leads, kinds = table.follows == "", set(zip(table.id, table.kind))
    mirrors = pd.Series([(row.follows, row.kind) in kinds for row in table.itertuples()], table.index)
    found = []
    for row in table.itertuples():  # a claim leans on others of its kind, and never on its own numbers once more
        others = (table.kind == row.kind) & ~mirrors & ~table.id.isin((row.id, row.follows))
        found.append(assess(row.gains, [*table.gains[others]]))
    table["spread"] = [0.0 if row.exact else judged.spread for row, judged in zip(table.itertuples(), found)]
    table["p"] = [judged.p for judged in found]
    table["q"] = false_discovery_rates(table.p.where(leads))
    for row in table[~leads].itertuples():  # as if it stood in the place of the other
        place = (table.id == row.follows) & (table.dataset == row.dataset) & (table.profile == row.profile)
        instead = table.p.where(leads & ~place)
        instead[row.Index] = row.p
        table.loc[row.Index, "q"] = false_discovery_rates(instead)[row.Index]
    theirs = table.sign * table.paper_gain.where(table.slack == 0)
    table["verdict"] = [
        EXACTLY[int(np.sign(judged.gain))] if row.exact else verdict(judged, row.q, row.seeds, paper, row.slack)
        for row, judged, paper in zip(table.itertuples(), found, theirs)
    ]
    table["decides"] = [
        seeds_to_decide(judged.gain, judged.sd, row.seeds, judged.prior, row.slack) if row.verdict == "undecided" else 0
        for row, judged in zip(table.itertuples(), found)
    ]
    return table.drop(columns=["gains", "follows", "kind", "exact"])


def _note(claim, runs, dataset):
    """What a reader must know beside the verdict."""
    notes = [f"follows from {claim['follows']}"] if "follows" in claim else []
    notes += [f"adds up from {' and '.join(claim['adds_up'])}"] if "adds_up" in claim else []
    notes += [f"holds down to {claim['slack']:g} points worse"] if claim.get("slack") else []
    found = runs[runs.dataset == dataset].groupby("name").mAP.mean()
    for run in dict.fromkeys((claim.get("baseline"), claim["method"])):
        if claim["metric"] in ("mAP", "rank1") and found.get(run, np.inf) < found.get("untrained", -np.inf):
            notes.append(f"{run} finds less than the untrained start ({100 * found['untrained']:.1f} mAP)")
    return "; ".join(notes)


def _checked_claim(claim):
    """A claim, if it says what it must, in words that are known: a slip of the pen would read "not run" for ever."""
    if not isinstance(claim, dict):
        raise TypeError(f"a claim is a dict, as papers()['claim'] has them; got {claim!r}")
    called = f"claim {claim.get('id')!r}"
    if lacking := [name for name in SAID if name not in claim]:
        raise ValueError(f"{called} lacks {', '.join(lacking)}")
    if odd := [name for name in claim if name not in (*SAID, *MAY_SAY)]:
        raise ValueError(f"{called} says {odd[0]!r}{did_you_mean(odd[0], (*SAID, *MAY_SAY))}, which no claim does")
    if ("baseline" in claim) == ("below" in claim):
        raise ValueError(f"{called} needs a baseline, or a bound to be below; one of the two")
    if claim.get("better", "lower") != "lower":
        raise ValueError(f"{called}: better is 'lower' or is not said; got {claim['better']!r}")
    if bad := [name for name in ("below", "slack", "paper_gain") if not _is_number(claim.get(name, 0.0))]:
        raise ValueError(f"{called}: {bad[0]} must be a number, in points; got {claim[bad[0]]!r}")
    on = claim["on"]
    if not isinstance(on, (list, tuple)) or not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in on):
        raise ValueError(f"{called}: on must be a list of (dataset, profile); got {on!r}")
    return claim


def _is_number(given):
    return isinstance(given, (int, float, np.number)) and not isinstance(given, bool)


def _who(claim, who, dataset):
    """One side of a claim in words: the run, its score where it is another, where it was tested, what it came from."""
    if who == "baseline" and "below" in claim:
        return f"{claim['below']:g} %"
    score, on, start = (claim.get(f"{who}_{what}") for what in ("metric", "on", "from"))
    words = [claim[who], f"({score})" if score else "", f"on {on}" if on and on != dataset else ""]
    return " ".join(word for word in [*words, f"since {start}" if start else ""] if word)


def _differences(claim, runs, dataset):
    """Method minus baseline (or minus the bound), one value a seed that both have, in points.

    With `method_from` and `baseline_from` it is what the method changed from that run, minus what the baseline did;
    with `method_on` or `baseline_on` a run of another dataset.
    """

    def score(who):
        metric = claim.get(f"{who}_metric", claim["metric"])
        here = runs[runs.dataset == claim.get(f"{who}_on", dataset)]
        value = here[here["name"] == claim[who]].set_index("seed")[metric]
        other = {"method": "baseline", "baseline": "method"}[who]
        alone = claim[who] in DESCRIPTORS and claim.get(other) not in DESCRIPTORS and "below" not in claim
        if alone and len(value) == 1 and not tested_on_drawn(claim.get(f"{who}_on", dataset)):
            value = value.iloc[0]  # learns nothing, on photographs: one run stands for all seeds
        start = claim.get(f"{who}_from")
        return value if start is None else value - here[here["name"] == start].set_index("seed")[metric]

    reference = claim["below"] / 100 if "below" in claim else score("baseline")
    return pd.Series(100 * (score("method") - reference), dtype=float).dropna().to_numpy()
