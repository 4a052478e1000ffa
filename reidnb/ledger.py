"""Tables from runs, and the ledger: means and spreads over seeds, the papers' rows beside ours, a verdict on each.

A run is a row of results/runs.csv (see `result.Result.row`); nothing here trains anything.
"""

import tomllib
from pathlib import Path

import numpy as np
import pandas as pd

from reidnb.descriptors import DESCRIPTORS
from reidnb.files import atomic_write
from reidnb.result import kept_results
from reidnb.values import did_you_mean

PACKAGE = Path(__file__).parent
RESULTS = PACKAGE / "results"
IDENTIFIES = ["recipe", "dataset", "changes", "profile", "seed"]  # what makes two rows the same run
SCORES = ["mAP", "rank1", "rank5", "rank10", "mINP"]
VERDICTS = ("holds", "does not hold", "within noise", "not run")
SAID = ("id", "statement", "source", "metric", "method", "on")  # by every claim; and what else one may say:
MAY_SAY = ("baseline", "below", "better", "slack", "paper_gain", "notebook", "statement_zh")
MAY_SAY += tuple(f"{who}_{what}" for who in ("method", "baseline") for what in ("metric", "on", "from"))


def papers() -> dict[str, list[dict]]:
    """papers.toml as a dict of lists: "claim" and "published"."""
    return tomllib.loads((PACKAGE / "papers.toml").read_text(encoding="utf-8"))


def read_runs(path: str | Path) -> pd.DataFrame:
    """runs.csv -> DataFrame; without the file an empty one with the columns that identify a run."""
    if not Path(path).exists():
        return pd.DataFrame(columns=[*IDENTIFIES, *SCORES])
    try:
        runs = pd.read_csv(path, keep_default_na=False, na_values=["nan"])
        return _checked(runs).astype({"changes": str})
    except ValueError as problem:  # pandas' words do not say which file
        raise ValueError(f"{path} is no table of runs: {problem}") from problem


def _checked(runs: pd.DataFrame) -> pd.DataFrame:
    """A table of runs, if it is one."""
    if not isinstance(runs, pd.DataFrame):
        raise TypeError(f"wanted a DataFrame with a row a run, such as results() gives; got {type(runs).__name__}")
    if lacking := [name for name in IDENTIFIES if name not in runs]:
        raise ValueError(f"the table has no {', '.join(lacking)}: wanted a row a run, such as results() gives")
    return runs


def merge_runs(old: pd.DataFrame, new: list[dict] | pd.DataFrame) -> pd.DataFrame:
    """Rows of `new` take the place of the same runs in `old`; all others stay -> DataFrame in reading order.

    A run is one row or, in attributes.csv, one a statement.
    """
    frames = [_checked(frame) for frame in (old, pd.DataFrame(new)) if len(frame)]
    if not frames:
        return old
    merged = pd.concat(frames, ignore_index=True)
    merged = merged.drop_duplicates([name for name in (*IDENTIFIES, "statement") if name in merged], keep="last")
    return merged.sort_values(["dataset", "profile", "recipe", "changes", "seed"], ignore_index=True)


def write_runs(runs: pd.DataFrame, path: str | Path) -> None:
    """A DataFrame as .csv, written aside and renamed."""
    atomic_write(Path(path), lambda file: runs.to_csv(file, index=False, na_rep="nan", lineterminator="\n"))


def summarise(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a dataset, profile and recipe: mean and standard deviation over seeds in percent, seconds of a run."""
    same, shown = ["dataset", "profile", "recipe", "changes"], ["mAP", "rank1", "multi_query_mAP", "rerank_mAP"]
    runs = _with_columns(runs, [*shown, "seconds", "device"])
    rows = []
    for names, group in runs.groupby(same, sort=False):
        scores = [plus_minus(100 * group[score]) for score in shown]
        seconds = group.seconds.mean()
        devices = "; ".join(group.device.dropna().unique())
        rows.append([*names, len(group), *scores, "" if np.isnan(seconds) else round(seconds), devices])
    return pd.DataFrame(rows, columns=[*same, "seeds", *shown, "seconds", "device"])


def _with_columns(runs, names):
    """Older rows may lack some scores: they get them as NaN."""
    return _checked(runs).reindex(columns=list(dict.fromkeys([*runs.columns, *names])))


def seed_scores(
    runs: pd.DataFrame, name: str, dataset: str = "synthetic", profile: str = "full", metric: str = "mAP"
) -> np.ndarray:
    """The scores in percent, one a seed, of the run that `run_name` calls so -> array, empty where it was not run."""
    runs = _with_columns(runs, [metric])
    here = runs[(runs.dataset == dataset) & (runs.profile == ("full" if profile == "quick" else profile))]
    found = [run_name(row.recipe, row.changes) == name for row in here.itertuples()]
    return 100 * here[found].sort_values("seed")[metric].dropna().to_numpy(float) if any(found) else np.array([])


def statement_scores(
    statements: pd.DataFrame, name: str, metric: str = "f1", dataset: str = "synthetic", profile: str = "full"
) -> pd.DataFrame:
    """A score of each statement in percent, from `statements()` for the run that `run_name` calls so ->
    DataFrame, a row a statement in the dataset's order and a column a seed; empty where it was not run."""
    profile = "full" if profile == "quick" else profile
    statements = _with_columns(statements, ["statement", metric])
    here = statements[(statements.dataset == dataset) & (statements.profile == profile)]
    here = here[np.array([run_name(row.recipe, row.changes) == name for row in here.itertuples()], bool)]
    if here.empty:
        return pd.DataFrame()
    return 100 * here.pivot(index="statement", columns="seed", values=metric).reindex(here.statement.unique())


def plus_minus(values: np.ndarray) -> str:
    """'62.4 ± 0.8': mean and sample standard deviation; the mean alone for one value, nothing for none."""
    values = np.asarray(values, float)
    values = values[~np.isnan(values)]  # a score that older runs did not keep
    if not len(values):
        return ""
    return f"{values.mean():.1f} ± {values.std(ddof=1):.1f}" if len(values) > 1 else f"{values.mean():.1f}"


def run_name(recipe: str, changes: str = "") -> str:
    """How tables and claims name a run: "trihard", or "trihard, label_noise=0.2"."""
    return f"{recipe}, {changes}" if changes else recipe


def judge(runs: pd.DataFrame, claims: list[dict] | None = None) -> pd.DataFrame:
    """The ledger: a row for each claim and each dataset it is tested on -> DataFrame.

    `gain` is the mean over seeds of method minus baseline in points (or of the method minus the bound), `spread` the
    half width of its 95 % interval (Student's t over the seeds' paired differences). Verdict: "holds" when the whole
    interval lies on the claimed side, "does not hold" when it lies on the other, "within noise" when it contains zero
    or there is one seed only, "not run" without runs. A claim about something that learns nothing has no spread and
    needs one run. One with `slack` claims that the method is at most so many points worse. The verdict
    is on sign * gain + slack: `sign` is -1 where less is claimed. Beside the datasets that a claim names it is tested
    wherever its runs were made under "paper".
    """
    rows = []
    claims = papers()["claim"] if claims is None else [*map(_checked_claim, claims)]
    kinds = ("metric", "method_metric", "baseline_metric")
    metrics = {claim[kind] for claim in claims for kind in kinds if kind in claim}
    runs = _with_columns(runs, [*SCORES, *metrics])
    names = pd.Series([run_name(row.recipe, row.changes) for row in runs.itertuples()], runs.index, dtype=object)
    runs = runs.assign(name=names)
    by_profile = dict(iter(runs.groupby("profile")))
    nothing = runs[:0]
    for claim in claims:
        sign = -1 if "below" in claim or claim.get("better") == "lower" else 1
        slack = claim.get("slack", 0)
        paper, on = by_profile.get("paper", nothing), [tuple(pair) for pair in claim["on"]]
        more = [(dataset, "paper") for dataset in paper.dataset.unique() if len(_differences(claim, paper, dataset))]
        for dataset, profile in dict.fromkeys(on + more):
            difference = _differences(claim, by_profile.get(profile, nothing), dataset)
            gain, spread = difference.mean() if len(difference) else np.nan, _half_width(difference)
            if len(difference) == 1 and {claim["method"], claim.get("baseline", claim["method"])} <= set(DESCRIPTORS):
                spread = 0.0  # nothing learned: the same number whatever the seed
            rows.append(
                {
                    "id": claim["id"],
                    "statement": claim["statement"],
                    "paper_gain": claim.get("paper_gain", np.nan),
                    "gain": gain,
                    "spread": spread,
                    "seeds": len(difference),
                    "dataset": dataset,
                    "profile": profile,
                    "metric": claim["metric"],
                    "verdict": _verdict(sign * gain + slack, spread, len(difference)),
                    "sign": sign,
                    "slack": slack,
                    "method": _who(claim, "method", dataset),
                    "baseline": _who(claim, "baseline", dataset),
                    "notebook": claim.get("notebook"),
                    "source": claim["source"],
                }
            )
    return pd.DataFrame(rows)


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
        if claim[who] in DESCRIPTORS and claim.get(other) not in DESCRIPTORS and "below" not in claim and len(value):
            value = value.iloc[0]  # learns nothing: one run stands for all seeds
        start = claim.get(f"{who}_from")
        return value if start is None else value - here[here["name"] == start].set_index("seed")[metric]

    reference = claim["below"] / 100 if "below" in claim else score("baseline")
    return pd.Series(100 * (score("method") - reference), dtype=float).dropna().to_numpy()


def _half_width(values):
    n = len(values)
    from scipy.stats import t as student  # slow to import

    return student.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan


def _verdict(gain, spread, seeds):
    if not seeds:
        return "not run"
    if np.isnan(spread) or abs(gain) <= spread:
        return "within noise"
    return "holds" if gain > 0 else "does not hold"


def show_claims(ledger: pd.DataFrame) -> pd.DataFrame:
    """The claims as people read them: gains with their intervals -> DataFrame of strings."""
    ours = [
        f"{row.gain:+.1f} {row.metric}" + (f" ± {row.spread:.1f}" if row.spread > 0 else "") if row.seeds else ""
        for row in ledger.itertuples()
    ]
    paper = [f"{gain:+.1f}" if gain == gain else "" for gain in ledger.paper_gain]
    return pd.DataFrame(
        {
            "claim": ledger.statement,
            "tested on": ledger.dataset,
            "paper": paper,
            "ours": ours,
            "seeds": ledger.seeds,
            "verdict": ledger.verdict,
        }
    )


def count_verdicts(ledger: pd.DataFrame) -> pd.DataFrame:
    """How many claims came to which verdict: the papers' on the built-in world and on photographs, and our own."""
    drawn = ledger.dataset.str.fullmatch(r"synthetic\w*(->synthetic\w*)?")
    own = ledger.source.str.contains("reidnb")
    groups = {
        "the papers' claims, built-in world": ~own & drawn,
        "the papers' claims, photographs": ~own & ~drawn,
        "our own": own,
    }
    counts = {name: ledger[chosen].verdict.value_counts() for name, chosen in groups.items()}
    return pd.DataFrame(counts).T.reindex(columns=VERDICTS).fillna(0).astype(int)


def markdown(table: pd.DataFrame) -> str:
    """A DataFrame as a Markdown table."""
    lines = ["| " + " | ".join(map(str, table.columns)) + " |", "|" + " --- |" * len(table.columns)]
    for row in table.itertuples(index=False):
        lines.append("| " + " | ".join(str(value).replace("|", "\\|") for value in row) + " |")
    return "\n".join(lines)


def render_between(path: str | Path, name: str, text: str) -> bool:
    """Put `text` between <!-- name --> and <!-- /name --> of a file -> whether that changed it."""
    path = Path(path)
    whole = path.read_text(encoding="utf-8")
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if start not in whole or end not in whole:
        raise ValueError(f"{path.name} has no {start} ... {end} to write between")
    head, rest = whole.split(start, 1)
    renewed = f"{head}{start}\n{text.strip()}\n{end}{rest.split(end, 1)[1]}"
    if renewed != whole:
        atomic_write(path, lambda file: file.write_text(renewed, encoding="utf-8"))
    return renewed != whole


# ------------------------------------------------------------------------------------------ what was measured, and kept


def results(kept: bool = True) -> pd.DataFrame:
    """All runs: those of results/runs.csv and, in their place where they are newer, the ones kept on this machine."""
    runs = read_runs(RESULTS / "runs.csv")
    return merge_runs(runs, [result.row() for result in kept_results(whole=False)]) if kept else runs


def statements(kept: bool = True) -> pd.DataFrame:
    """The scores of all runs with attributes, statement by statement: results/attributes.csv and, in their place where
    they are newer, the runs kept on this machine."""
    lines = read_runs(RESULTS / "attributes.csv")
    new = [line for result in kept_results(whole=False) for line in result.line_rows()] if kept else []
    return merge_runs(lines, new)


def claims(kept: bool = False) -> pd.DataFrame:
    """The ledger of claims: id, statement, paper_gain, gain, spread, seeds, dataset, verdict and more.

    Judged from results/runs.csv, with `kept=True` also from the runs on this machine; the rule stands in `judge`.
    """
    return judge(results(kept))


def write_tables(out: str | Path = RESULTS, readme: str | Path | None = None) -> str:
    """Write runs.csv, attributes.csv, results.md and claims.md into a folder, from what was measured and what is kept
    here, and renew the tables of a README between its marks -> a line that says what was written."""
    out = Path(out)
    write_runs(results(), out / "runs.csv")
    write_runs(statements(), out / "attributes.csv")
    runs = read_runs(out / "runs.csv")
    judged = judge(runs)
    ledger = markdown(show_claims(judged))
    for name, text in {"results": markdown(summarise(runs)), "claims": ledger}.items():
        atomic_write(out / f"{name}.md", lambda file, text=text: file.write_text(text + "\n", encoding="utf-8"))
    if readme:
        short = summarise(runs[runs.changes == ""]).drop(columns="changes")
        verdicts = markdown(count_verdicts(judged).rename_axis("").reset_index())
        for name, text in {"results": markdown(short), "claims": ledger, "verdicts": verdicts}.items():
            render_between(readme, name, text)
    return f"{len(runs)} runs: {out / 'runs.csv'}, {out / 'results.md'}, {out / 'claims.md'}"
