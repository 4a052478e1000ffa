"""Tables from runs, and the ledger: means and spreads over seeds, the papers' rows beside ours, a verdict on each.

A run is a row of results/runs.csv (see `result.Result.row`); nothing here trains anything.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from reidnb.files import atomic_write
from reidnb.result import kept_results
from reidnb.sources import dataset_names
from reidnb.verdicts import IDENTIFIES, NOTHING, VERDICTS, checked, judge, run_name
from reidnb.verdicts import papers as papers  # the ledger's own data

RESULTS = Path(__file__).parent / "results"
SCORES = ["mAP", "rank1", "rank5", "rank10", "mINP"]
OWN = ("csv", "folder")  # datasets that are somebody's own
PHOTO_STARTS = ("photo", "paper")  # profiles that start from ImageNet's own weights
FINDINGS = {  # what the README says, by dataset and profile
    ("synthetic", "full"): ("metric-helps", "pcb-beats-ide", "aligned-helps"),
    ("market1501", "photo"): ("metric-helps", "pcb-beats-ide", "aligned-helps", "both-beat-global", "attributes-help"),
    ("market1501", "laptop"): ("pcb-beats-ide",),
}


def read_runs(path: str | Path) -> pd.DataFrame:
    """runs.csv -> DataFrame; without the file an empty one with the columns that identify a run."""
    if not Path(path).exists():
        return pd.DataFrame(columns=[*IDENTIFIES, *SCORES])
    try:
        runs = pd.read_csv(path, keep_default_na=False, na_values=["nan"])
        return checked(runs).astype({"changes": str})
    except ValueError as problem:  # pandas' words do not say which file
        raise ValueError(f"{path} is no table of runs: {problem}") from problem


def merge_runs(old: pd.DataFrame, new: list[dict] | pd.DataFrame) -> pd.DataFrame:
    """Rows of `new` take the place of the same runs in `old`; all others stay -> DataFrame in reading order.

    A run is one row or, in attributes.csv, one a statement.
    """
    frames = [checked(frame) for frame in (old, pd.DataFrame(new)) if len(frame)]
    if not frames:
        return old
    merged = pd.concat(frames, ignore_index=True)
    merged = merged.drop_duplicates([name for name in (*IDENTIFIES, "statement") if name in merged], keep="last")
    return merged.sort_values(["dataset", "profile", "recipe", "changes", "seed"], ignore_index=True)


def write_runs(runs: pd.DataFrame, path: str | Path) -> None:
    """A DataFrame as .csv, written aside and renamed."""
    atomic_write(Path(path), lambda file: runs.to_csv(file, index=False, na_rep="nan", lineterminator="\n"))


def summarise(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a dataset, profile and recipe: mean, standard deviation over seeds in percent, least seconds of a run."""
    same, shown = ["dataset", "profile", "recipe", "changes"], ["mAP", "rank1", "multi_query_mAP", "rerank_mAP"]
    runs = _with_columns(runs, [*shown, "seconds", "device"])
    rows = []
    for names, group in runs.groupby(same, sort=False):
        scores = [plus_minus(100 * group[score]) for score in shown]
        seconds = group.seconds.min()  # other work beside it only slows it down
        devices = "; ".join(group.device.dropna().unique())
        rows.append([*names, len(group), *scores, "" if np.isnan(seconds) else round(seconds), devices])
    return pd.DataFrame(rows, columns=[*same, "seeds", *shown, "seconds", "device"])


def _with_columns(runs, names):
    """Older rows may lack some scores: they get them as NaN."""
    return checked(runs).reindex(columns=list(dict.fromkeys([*runs.columns, *names])))


def seed_scores(
    runs: pd.DataFrame, name: str, dataset: str = "synthetic", profile: str = "full", metric: str = "mAP"
) -> pd.Series:
    """The scores in percent of the run that `run_name` calls so, by seed -> Series, empty where it was not run.

    Two of them are subtracted seed by seed, so that `(ours - theirs).dropna()` are the gains in the worlds of both.
    """
    runs = _with_columns(runs, [metric])
    here = runs[(runs.dataset == dataset) & (runs.profile == ("full" if profile == "quick" else profile))]
    found = here[np.array([run_name(row.recipe, row.changes) == name for row in here.itertuples()], bool)]
    return 100 * found.set_index("seed")[metric].dropna().astype(float).sort_index()


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


def starts(runs: pd.DataFrame, dataset: str = "synthetic", profile: str = "full") -> str:
    """What the runs of a dataset start from, in a line to stand above a table of gains: mAP of random weights and of
    the start, untrained and trained as identification, in percent, from a table of runs."""
    given = "ImageNet's own weights" if profile in PHOTO_STARTS else "distilled from ImageNet's features, no name told"
    pairs = {"untrained": ("untrained, weights=None", "untrained"), "trained as identification": ("ide_scratch", "ide")}
    said = []
    for how, names in pairs.items():
        floor, start = (plus_minus(seed_scores(runs, name, dataset, profile)) or "not run" for name in names)
        said.append(f"{how} {start} (random weights {floor})")
    return f"mAP of the start ({given}): {', '.join(said)}"


def plus_minus(values: np.ndarray) -> str:
    """'62.4 ± 0.8': mean and sample standard deviation; the mean alone for one value, nothing for none."""
    values = np.asarray(values, float)
    values = values[~np.isnan(values)]  # a score that older runs did not keep
    if not len(values):
        return ""
    return f"{values.mean():.1f} ± {values.std(ddof=1):.1f}" if len(values) > 1 else f"{values.mean():.1f}"


def show_claims(ledger: pd.DataFrame) -> pd.DataFrame:
    """The claims as people read them: gains with their intervals -> DataFrame of strings."""
    ours = [
        f"{row.gain:+.1f} {row.metric}" + (f" ± {row.spread:.1f}" if row.spread > 0 else "") if row.seeds else ""
        for row in ledger.itertuples()
    ]
    more = {"undecided": " (alone, {row.decides} seeds would)", "no effect": f" above {NOTHING:g} point"}
    said = [row.verdict + more.get(row.verdict, "").format(row=row) for row in ledger.itertuples()]
    return pd.DataFrame(
        {
            "claim": ledger.statement,
            "tested on": [
                row.dataset if row.profile == "full" else f"{row.dataset}, {row.profile}" for row in ledger.itertuples()
            ],
            "paper": [f"{gain:+.1f}" if gain == gain else "" for gain in ledger.paper_gain],
            "ours": ours,
            "seeds": ledger.seeds,
            "q": [f"{q:.3f}" if q == q else "" for q in ledger.q],
            "verdict": said,
            "note": ledger.note,
        }
    )


def pages(runs: pd.DataFrame, judged: pd.DataFrame) -> dict[str, str]:
    """What results.md and claims.md hold."""
    claims = show_claims(judged).assign(predicted=judged.predicted).reset_index(names="#")
    starts = "The ledger of claims\n\nStart: distilled, under `photo` ImageNet's, where a run does not name another."
    tables = {"results": ("Every run", summarise(runs)), "claims": (starts, claims)}
    return {name: f"# {title}\n\n{markdown(table)}\n" for name, (title, table) in tables.items()}


def findings(ledger: pd.DataFrame) -> str:
    """Some claims, on the built-in world and on photographs, as lines of Markdown with their numbers."""
    lines = []
    for (dataset, profile), ids in FINDINGS.items():
        there = ledger[(ledger.dataset == dataset) & (ledger.profile == profile)].set_index("id")
        rows = there.loc[[name for name in ids if name in there.index]].reset_index()
        where, each = ("", "worlds") if dataset == "synthetic" else ("On Market-1501: ", "seeds")
        where = where if profile != "laptop" else "On Market-1501, the small network at 64 x 32: "
        for row, shown in zip(rows.itertuples(), show_claims(rows).itertuples()):
            paper = f" (the paper: {shown.paper})" if shown.paper else ""
            seeds = f", {row.seeds} {each}" if row.seeds > 1 else ""
            lines.append(f"* {where}{row.statement}: {shown.ours}{paper}{seeds}. **{shown.verdict.capitalize()}.**")
    return "\n".join(lines)


def count_verdicts(ledger: pd.DataFrame) -> pd.DataFrame:
    """How many claims came to which verdict: the papers' on the built-in world and on photographs, and our own. One
    that follows from another is not counted again."""
    ledger = ledger[~ledger.note.str.contains("follows from")]
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
    return merge_runs(runs, _newer([result.row() for result in kept_results(whole=False)], runs)) if kept else runs


def statements(kept: bool = True) -> pd.DataFrame:
    """The scores of all runs with attributes, statement by statement: results/attributes.csv and, in their place where
    they are newer, the runs kept on this machine."""
    lines = read_runs(RESULTS / "attributes.csv")
    if not kept:
        return lines
    told = [(result.row(), result.line_rows()) for result in kept_results(whole=False)]
    newer = _newer([row for row, _ in told], read_runs(RESULTS / "runs.csv"))
    return merge_runs(lines, [line for row, theirs in told if row in newer for line in theirs])


def _newer(rows: list[dict], runs: pd.DataFrame) -> list[dict]:
    """Those of kept runs' rows that no row of a later day stands for."""
    dated = runs[runs.date.notna()] if "date" in runs else runs[:0]
    known = {tuple(row[name] for name in IDENTIFIES): str(row["date"]) for row in dated.to_dict("records")}
    return [row for row in rows if row.get("date", "today") >= known.get(tuple(row[name] for name in IDENTIFIES), "")]


def claims(kept: bool = False) -> pd.DataFrame:
    """The ledger of claims: id, statement, paper_gain, gain, spread, seeds, dataset, verdict and more.

    Judged from results/runs.csv, with `kept=True` also from the runs on this machine; the rule stands in `judge`.
    """
    return judge(results(kept))


def _is_everybodys(dataset: str) -> bool:
    """Whether a dataset, or both of a pair, is one that everybody can open by its name."""
    return all(part in dataset_names() and part not in OWN for part in dataset.split("->"))


def write_tables(out: str | Path = RESULTS, readme: str | Path | None = None) -> str:
    """Write runs.csv, attributes.csv, results.md and claims.md into a folder, from what was measured and what is kept
    here, but for runs on somebody's own pictures; and renew what a README says of them between its marks -> a line that
    says what was written."""
    out = Path(out)
    for table, name in ((results(), "runs.csv"), (statements(), "attributes.csv")):
        write_runs(table[table.dataset.map(_is_everybodys)], out / name)
    runs = read_runs(out / "runs.csv")
    judged = judge(runs)
    for name, text in pages(runs, judged).items():
        atomic_write(out / f"{name}.md", lambda file, text=text: file.write_text(text, encoding="utf-8"))
    if readme:
        verdicts = markdown(count_verdicts(judged).rename_axis("").reset_index())
        for name, text in {"findings": findings(judged), "verdicts": verdicts}.items():
            render_between(readme, name, text)
    return f"{len(runs)} runs: {out / 'runs.csv'}, {out / 'results.md'}, {out / 'claims.md'}"
