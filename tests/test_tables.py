"""Tables and the ledger, on runs made by hand."""

import numpy as np
import pandas as pd
import pytest

from reidnb import tables
from reidnb.recipes import ACROSS, ON_WINTER, PROFILES, RECIPES, VARIATIONS
from reidnb.tables import (
    count_verdicts,
    judge,
    markdown,
    merge_runs,
    read_runs,
    render_between,
    show_claims,
    summarise,
    write_runs,
)

COLUMNS = {"id", "statement", "paper_gain", "gain", "spread", "seeds", "dataset", "verdict"}  # the design's contract
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
    scores = {name: 0.25 for name in tables.SCORES} | {"mAP": mAP}
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
    (line,) = judge(table, [claim]).itertuples()
    return line


# ---- verdicts -------------------------------------------------------------------------------------------------------


def test_a_claim_holds():
    line = verdict(runs([0.62, 0.63, 0.61], [0.60, 0.605, 0.595]))
    gains = np.array([2.0, 2.5, 1.5])
    assert line.verdict == "holds" and line.seeds == 3 and line.paper_gain == 2.5
    assert line.gain == pytest.approx(2.0)
    assert line.spread == pytest.approx(4.302653 * gains.std(ddof=1) / np.sqrt(3), rel=1e-6)  # t of 2 degrees, 97.5 %


def test_a_claim_does_not_hold():
    line = verdict(runs([0.595, 0.605, 0.60], [0.61, 0.63, 0.62]))
    assert line.verdict == "does not hold" and line.gain == pytest.approx(-2.0)


def test_within_noise():
    assert verdict(runs([0.62, 0.60, 0.61], [0.60, 0.61, 0.60])).verdict == "within noise"


def test_one_seed_proves_nothing():
    line = verdict(runs([0.9], [0.1]))
    assert line.verdict == "within noise" and line.seeds == 1 and line.gain == pytest.approx(80)
    assert np.isnan(line.spread)


def test_not_run():
    for table in (runs(), runs([0.5]), runs([], [0.5]), runs([0.5, 0.6], [None, None, 0.5])):
        line = verdict(table)
        assert line.verdict == "not run" and line.seeds == 0 and np.isnan(line.gain)


def test_differences_are_paired_by_seed():
    """Seed 1's pair alone counts; and pairing finds a gain that the seeds' own spread would hide."""
    assert verdict(runs([None, 0.7, 0.9], [0.1, 0.6])).gain == pytest.approx(10)
    assert verdict(runs([0.31, 0.512, 0.711], [0.30, 0.50, 0.70])).verdict == "holds"
    table = runs([0.31, 0.512, 0.711], [0.30, 0.50, 0.70])
    assert verdict(table.iloc[::-1]).gain == pytest.approx(verdict(table).gain), "whatever the order of rows"


@pytest.mark.parametrize("other", [{"dataset": "market1501"}, {"profile": "quick"}, {"changes": "epochs=3"}])
def test_only_the_runs_a_claim_is_about(other):
    assert verdict(runs([0.9, 0.9, 0.9], [0.1, 0.1, 0.1], **other)).verdict == "not run"


def test_each_dataset_has_its_row():
    claim = CLAIM | {"on": [["synthetic", "full"], ["market1501", "laptop"]]}
    ledger = judge(runs([0.62, 0.63], [0.6, 0.6]), [claim])
    assert ledger.dataset.tolist() == ["synthetic", "market1501"] and ledger.verdict.tolist()[1] == "not run"


def test_two_metrics_of_one_recipe():
    claim = CLAIM | {"baseline": "new", "method_metric": "rank1"}
    table = runs([0.20, 0.21, 0.22])
    assert verdict(table, claim).gain == pytest.approx(4.0)


@pytest.mark.parametrize("mAP, expected", [(0.41, "holds"), (0.59, "does not hold")])
def test_below(mAP, expected):
    line = verdict(pd.DataFrame([row("colour_histogram", mAP=mAP)]), BELOW)
    assert line.verdict == expected and line.seeds == 1 and line.spread == 0 and np.isnan(line.paper_gain)
    assert line.gain == pytest.approx(100 * mAP - 50)


def test_below_not_run():
    assert verdict(runs(), BELOW).verdict == "not run"


def test_the_ledger_of_the_papers():
    ledger = judge(runs())
    assert set(ledger.columns) >= COLUMNS
    assert set(ledger.verdict) == {"not run"} and len(ledger) >= len(tables.papers()["claim"]) > 0
    assert not ledger.duplicated(["id", "dataset", "profile"]).any()


def test_the_papers_file_is_sound():
    for claim in tables.papers()["claim"]:
        assert {"id", "statement", "source", "metric", "method", "on"} <= set(claim), claim
        assert ("baseline" in claim) != ("below" in claim), claim["id"]
        for metric in ("metric", "method_metric", "baseline_metric"):
            assert claim.get(metric, "mAP") in tables.SCORES + tables.ALSO + tables.ATTRIBUTES + tables.PAIRS, claim[
                "id"
            ]
        for dataset, profile in claim["on"]:
            assert profile in set(PROFILES) - {"quick"} and isinstance(dataset, str), claim["id"]


def test_show_claims():
    shown = show_claims(judge(runs([0.62, 0.63, 0.61], [0.60, 0.605, 0.595]), [CLAIM, CLAIM | {"method": "none"}]))
    assert shown.paper.tolist() == ["+2.5", "+2.5"] and shown.verdict.tolist() == ["holds", "not run"]
    assert shown.ours.tolist() == ["+2.0 mAP ± 1.2", ""]


# ---- rows of runs ---------------------------------------------------------------------------------------------------


def test_merge():
    old = runs([0.1, 0.2], [0.3])
    merged = merge_runs(old, [row("new", 1, 0.9), row("new", 2, 0.8), row("new", 1, 0.7, changes="epochs=3")])
    assert len(merged) == 5
    assert merged[merged.changes == ""].set_index(["recipe", "seed"]).mAP.to_dict() == {
        ("new", 0): 0.1,
        ("new", 1): 0.9,
        ("new", 2): 0.8,
        ("old", 0): 0.3,
    }
    assert merged.seed.tolist() == [0, 1, 2, 1, 0], "in reading order: recipe, changes, seed"
    pd.testing.assert_frame_equal(merge_runs(merged, []), merged)
    assert len(merge_runs(runs(), [])) == 0 and len(merge_runs(runs(), [row()])) == 1


def test_runs_survive_their_file(tmp_path):
    path = tmp_path / "results" / "runs.csv"
    table = merge_runs(runs(), [row(mAP=0.12345), row(seed=1, mAP=np.nan, changes="weights=None, epochs=3")])
    write_runs(table, path)
    again = read_runs(path)
    pd.testing.assert_frame_equal(again, table)
    write_runs(again, tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == path.read_bytes()


def test_no_runs_yet(tmp_path):
    empty = read_runs(tmp_path / "runs.csv")
    assert len(empty) == 0 and set(tables.IDENTIFIES) <= set(empty.columns)
    write_runs(empty, tmp_path / "runs.csv")
    assert len(read_runs(tmp_path / "runs.csv")) == 0
    assert len(judge(empty)) and len(summarise(empty)) == 0


def test_summarise():
    table = summarise(runs([0.62, 0.63, 0.61], [0.60]))
    assert table.mAP.tolist() == ["62.0 ± 1.0", "60.0"] and table.seeds.tolist() == [3, 1]
    assert table.seconds.tolist() == [10, 10] and table.recipe.tolist() == ["new", "old"]


def test_markdown():
    assert markdown(pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})) == "| a | b |\n| --- | --- |\n| 1 | x |\n| 2 | y |"


def test_markdown_keeps_a_bar_inside_its_cell():
    """Or it opens another column."""
    line = markdown(pd.DataFrame({"a": ["x | y"]})).splitlines()[-1]
    assert line.replace("\\|", "").count("|") == 2


# ---- written into a file --------------------------------------------------------------------------------------------

PAGE = "# Title\n<!-- results -->\nold\n<!-- /results -->\nmore, with a name: 王\n"


def test_render_between(tmp_path):
    page = tmp_path / "README.md"
    page.write_text(PAGE, encoding="utf-8")
    assert render_between(page, "results", "| a |\n\n")
    assert page.read_text(encoding="utf-8") == PAGE.replace("old", "| a |")
    before = page.stat().st_mtime_ns
    assert not render_between(page, "results", "| a |") and page.stat().st_mtime_ns == before, "nothing to write"


def test_render_between_refuses(tmp_path):
    page = tmp_path / "README.md"
    page.write_text(PAGE, encoding="utf-8")
    with pytest.raises(ValueError, match="README.md has no <!-- claims --> ... <!-- /claims -->"):
        render_between(page, "claims", "text")
    assert page.read_text(encoding="utf-8") == PAGE


# ---- runs with something changed ------------------------------------------------------------------------------------


def test_a_claim_about_a_changed_run():
    table = pd.concat([runs([0.6, 0.6, 0.6], [0.5, 0.5, 0.5]), runs([0.40, 0.41, 0.42], changes="label_noise=0.2")])
    claim = CLAIM | {"method": "new, label_noise=0.2"}
    assert verdict(table, claim).gain == pytest.approx(-9) and verdict(table, claim).verdict == "does not hold"
    assert verdict(table).gain == pytest.approx(10), "the changed runs stay out of the plain claim"


def test_where_lower_is_better():
    table = runs([0.40, 0.41, 0.42], [0.5, 0.51, 0.53])
    assert verdict(table, CLAIM | {"better": "lower"}).verdict == "holds"
    assert verdict(table, CLAIM | {"better": "lower"}).gain < 0
    assert verdict(table).verdict == "does not hold"


def test_what_a_change_did_to_each_of_two():
    """new falls by 10 and old by 4: new loses 6 more."""
    clean = runs([0.60, 0.61, 0.62], [0.50, 0.51, 0.52])
    noisy = runs([0.50, 0.51, 0.52], [0.46, 0.47, 0.48], changes="label_noise=0.2")
    claim = CLAIM | {
        "better": "lower",
        "method": "new, label_noise=0.2",
        "method_from": "new",
        "baseline": "old, label_noise=0.2",
        "baseline_from": "old",
    }
    line = verdict(pd.concat([clean, noisy], ignore_index=True), claim)
    assert line.gain == pytest.approx(-6) and line.verdict == "holds" and line.seeds == 3
    assert verdict(clean, claim).verdict == "not run"


def test_nearly_as_good_is_a_claim_too():
    """Two points worse is within a slack of three, and not within one."""
    table = runs([0.58, 0.59, 0.60], [0.60, 0.61, 0.62])
    assert verdict(table, CLAIM | {"slack": 3.0}).verdict == "holds"
    assert verdict(table, CLAIM | {"slack": 1.0}).verdict == "does not hold"
    assert verdict(table, CLAIM | {"slack": 3.0}).gain == pytest.approx(-2), "the gain itself is shown as it is"


def test_scores_that_older_runs_did_not_keep():
    """A row of before re-ranking was kept has no such score: it is left out, neither zero nor an error."""
    table = pd.concat([runs([0.6]), runs([0.0, 0.7]).iloc[1:].assign(rerank_mAP=0.8)], ignore_index=True)
    assert tables.seed_scores(table, "new", metric="rerank_mAP").tolist() == [80]
    assert tables.summarise(table)["rerank_mAP"].tolist() == ["80.0"]
    assert tables.summarise(runs([0.6]))["rerank_mAP"].tolist() == [""]
    assert not len(tables.seed_scores(runs([0.6]), "new", metric="local_mAP"))


# ---- attributes -----------------------------------------------------------------------------------------------------


def statement(name, train_share, share, f1):
    return {"statement": name, "train_share": train_share, "share": share, "f1": f1, "balanced": 0.5, "ap": f1 / 2}


def test_attribute_means():
    lines = [statement("hat", 0.03, 0.02, 0.1), statement("scarf", 0.05, 0.05, 0.3), statement("bag", 0.4, 0.5, 0.8)]
    lines.append(statement("never seen in training", 0.0, 0.1, 0.0))
    lines.append(statement("nobody in the test", 0.2, 0.0, float("nan")))
    means = tables.attribute_means(lines)
    assert set(means) == set(tables.ATTRIBUTES)
    assert (
        means["attribute_f1"] == pytest.approx(0.4)
        and means["rare_f1"] == pytest.approx(0.2)
        and means["common_f1"] == 0.8
    )
    assert means["rare_ap"] == pytest.approx(0.1) and means["attribute_balanced"] == 0.5
    only_common = tables.attribute_means(lines[2:])
    assert np.isnan(only_common["rare_f1"]) and only_common["attribute_f1"] == 0.8
    assert tables.attribute_means([]) == {}


def test_what_focal_loss_does_for_rare_ones_beside_common_ones():
    """A claim whose method and baseline are two scores of one run, each from another run."""
    plain = runs([0.5, 0.5, 0.5]).assign(rare_f1=[0.1, 0.2, 0.15], common_f1=0.6)
    focal = runs([0.5, 0.5, 0.5], changes="focal").assign(rare_f1=[0.3, 0.41, 0.34], common_f1=0.62)
    claim = CLAIM | {
        "method": "new, focal",
        "method_from": "new",
        "method_metric": "rare_f1",
        "baseline": "new, focal",
        "baseline_from": "new",
        "baseline_metric": "common_f1",
    }
    line = verdict(pd.concat([plain, focal], ignore_index=True), claim)
    assert line.gain == pytest.approx(18) and line.verdict == "holds"


def test_merged_statements_keep_their_order():
    old = pd.DataFrame([row(statement=name, f1=0.1) for name in ("hat", "age=old", "bag")])
    new = [row(statement=name, f1=0.2) for name in ("hat", "age=old", "bag")]
    merged = merge_runs(old, new + [row("other", statement="hat", f1=0.3)])
    assert merged.statement.tolist() == ["hat", "age=old", "bag", "hat"] and merged.f1.tolist() == [0.2] * 3 + [0.3]


def test_seed_scores():
    table = pd.concat([runs([0.6, 0.5]), runs([0.4], changes="p=4"), runs([0.9], profile="laptop")], ignore_index=True)
    assert tables.seed_scores(table, "new").tolist() == [60, 50]
    assert tables.seed_scores(table, "new", profile="quick").tolist() == [60, 50], "quick is full's first seed"
    assert tables.seed_scores(table, "new, p=4").tolist() == [40]
    assert tables.seed_scores(table, "new", metric="rank1").tolist() == [25, 25]
    assert not len(tables.seed_scores(table, "new", "market1501")) and tables.plus_minus([]) == ""


def test_every_claim_names_runs_that_the_batch_makes():
    """A slip of the pen in papers.toml would read "not run" for ever."""
    made = set(RECIPES)
    for name, changes in (*VARIATIONS, *ACROSS, *ON_WINTER):
        made.add(tables.run_name(name, ", ".join(f"{k}={v!r}" for k, v in sorted(changes.items()))))
    for claim in tables.papers()["claim"]:
        named = {claim[who] for who in ("method", "baseline", "method_from", "baseline_from") if who in claim}
        assert named <= made, claim["id"]


def test_a_claim_may_take_a_run_from_another_dataset():
    runs = runs_like([("a", 0, 0.5), ("a", 1, 0.6)], dataset="there")
    here = runs_like([("a", 0, 0.4), ("a", 1, 0.5)], dataset="here")
    claim = {"id": "x", "statement": "", "source": "", "metric": "mAP", "method": "a", "baseline": "a"}
    claim |= {"baseline_on": "there", "better": "lower", "on": [["here", "full"]]}
    (row,) = tables.judge(pd.concat([runs, here]), [claim]).itertuples()
    assert row.gain == pytest.approx(-10) and row.seeds == 2 and row.verdict == "holds"


def test_what_learns_nothing_is_one_run_for_all_seeds():
    runs = runs_like([("lomo", 0, 0.1), ("a", 0, 0.4), ("a", 1, 0.5)], "here")
    claim = {"id": "x", "statement": "", "source": "", "metric": "mAP", "method": "a", "baseline": "lomo"}
    (row,) = tables.judge(runs, [claim | {"on": [["here", "full"]]}]).itertuples()
    assert row.gain == pytest.approx(35) and row.seeds == 2


def runs_like(rows, dataset):
    found = pd.DataFrame(rows, columns=["recipe", "seed", "mAP"])
    return found.assign(dataset=dataset, profile="full", changes="")


def test_the_two_sides_of_a_claim_in_words():
    told = judge(
        runs([0.5], [0.4]),
        [
            CLAIM | {"method_metric": "rerank_mAP", "baseline_on": "elsewhere"},
            {k: v for k, v in CLAIM.items() if k != "baseline"} | {"below": 50.0},
            CLAIM | {"method_from": "start", "better": "lower", "slack": 1.0},
        ],
    )
    assert told.method.tolist() == ["new (rerank_mAP)", "new", "new since start"]
    assert told.baseline.tolist() == ["old on elsewhere", "50 %", "old"]
    assert told.sign.tolist() == [1, -1, -1] and told.slack.tolist() == [0, 0, 1]


def test_one_run_decides_only_where_nothing_is_learned():
    bound = {k: v for k, v in CLAIM.items() if k != "baseline"} | {"below": 50.0}
    learned = judge(runs([0.1], [0.4]), [bound]).iloc[0]
    assert learned.verdict == "within noise" and np.isnan(learned.spread)
    both = pd.DataFrame([row("lomo", 0, 0.1), row("colour_histogram", 0, 0.3)])
    told = judge(both, [CLAIM | {"method": "colour_histogram", "baseline": "lomo"}]).iloc[0]
    assert told.verdict == "holds" and told.spread == 0 and told.gain == pytest.approx(20)


def test_a_claim_is_judged_wherever_its_runs_were_made_with_the_papers_settings():
    claim = {"id": "a", "statement": "", "source": "", "metric": "mAP", "method": "b", "baseline": "a"}
    claim["on"] = [["synthetic", "full"]]
    there = [("a", 0.5), ("b", 0.6), ("b", 0.7)]
    rows = [
        {"recipe": name, "dataset": dataset, "changes": "", "profile": profile, "seed": seed, "mAP": value + seed / 100}
        for dataset, profile, made in (("market1501", "paper", there), ("msmt17", "paper", there[:1]))
        for name, value in made[:2]
        for seed in (0, 1)
    ]
    ledger = judge(pd.DataFrame(rows), [claim])
    assert ledger.profile.tolist() == ["full", "paper"] and ledger.seeds.tolist() == [0, 2]
    assert ledger.dataset.tolist() == ["synthetic", "market1501"]
    assert ledger.gain[1] == pytest.approx(10) and ledger.verdict.tolist() == ["not run", "holds"]


def test_verdicts_are_counted_by_who_claims_and_where():
    ledger = pd.DataFrame(
        {
            "dataset": ["synthetic", "synthetic_a->synthetic_b", "synthetic->market1501", "msmt17", "synthetic"],
            "source": ["a paper"] * 4 + ["reidnb's own claim"],
            "verdict": ["holds", "within noise", "holds", "does not hold", "holds"],
        }
    )
    assert count_verdicts(ledger).to_numpy().tolist() == [[1, 0, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]]
