"""Tables of runs: merged, written, summarised, put into a page; what is kept beside what was measured."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from claims_by_hand import CLAIM, row, runs

from reidnb import experiments, ledger, verdicts
from reidnb.ledger import count_verdicts, judge, markdown, merge_runs, read_runs, render_between, summarise, write_runs
from reidnb.verdicts import VERDICTS

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
    assert len(empty) == 0 and set(ledger.IDENTIFIES) <= set(empty.columns)
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


def test_scores_that_older_runs_did_not_keep():
    """A row of before re-ranking was kept has no such score: it is left out, neither zero nor an error."""
    table = pd.concat([runs([0.6]), runs([0.0, 0.7]).iloc[1:].assign(rerank_mAP=0.8)], ignore_index=True)
    assert ledger.seed_scores(table, "new", metric="rerank_mAP").tolist() == [80]
    assert ledger.summarise(table)["rerank_mAP"].tolist() == ["80.0"]
    assert ledger.summarise(runs([0.6]))["rerank_mAP"].tolist() == [""]
    assert not len(ledger.seed_scores(runs([0.6]), "new", metric="local_mAP"))


def test_merged_statements_keep_their_order():
    old = pd.DataFrame([row(statement=name, f1=0.1) for name in ("hat", "age=old", "bag")])
    new = [row(statement=name, f1=0.2) for name in ("hat", "age=old", "bag")]
    merged = merge_runs(old, new + [row("other", statement="hat", f1=0.3)])
    assert merged.statement.tolist() == ["hat", "age=old", "bag", "hat"] and merged.f1.tolist() == [0.2] * 3 + [0.3]


def test_seed_scores():
    table = pd.concat([runs([0.6, 0.5]), runs([0.4], changes="p=4"), runs([0.9], profile="laptop")], ignore_index=True)
    assert ledger.seed_scores(table, "new").tolist() == [60, 50]
    assert ledger.seed_scores(table, "new", profile="quick").tolist() == [60, 50], "quick is full's first seed"
    assert ledger.seed_scores(table, "new, p=4").tolist() == [40]
    assert ledger.seed_scores(table, "new", metric="rank1").tolist() == [25, 25]
    assert not len(ledger.seed_scores(table, "new", "market1501")) and ledger.plus_minus([]) == ""


def test_what_runs_start_from_is_said_in_a_line():
    rows = [row("untrained", seed, score) for seed, score in ((0, 0.02), (1, 0.04))]
    rows += [row("ide", 0, 0.5), row("ide_scratch", 0, 0.3), row("untrained", 0, 0.01) | {"changes": "weights=None"}]
    said = ledger.starts(pd.DataFrame(rows))
    assert "untrained 3.0 ± 1.4 (random weights 1.0), trained as" in said and "50.0 (random weights 30.0)" in said
    there = ledger.starts(pd.DataFrame(rows), "market1501", "photo")
    assert "ImageNet's own weights" in there and there.count("not run") == 4


def test_gains_are_paired_by_seed():
    """A world that one of two lacks is left out of both, wherever it stands."""
    three, two = runs([0.6, 0.5, 0.9]), runs(old=[0.2, None, 0.4])
    gains = ledger.seed_scores(pd.concat([three, two]), "new") - ledger.seed_scores(pd.concat([three, two]), "old")
    assert gains.dropna().index.tolist() == [0, 2] and np.allclose(gains.dropna(), [40, 50])
    assert not len((gains - ledger.seed_scores(three, "never run")).dropna())


def test_verdicts_are_counted_by_who_claims_and_where():
    judged = pd.DataFrame(
        {
            "dataset": ["synthetic", "synthetic_a->synthetic_b", "synthetic->market1501", "msmt17", "synthetic"],
            "source": ["a paper"] * 4 + ["reidnb's own claim"],
            "verdict": ["holds", "undecided", "holds", "opposite", "holds"],
            "note": "",
        }
    )
    counts = count_verdicts(judged)
    assert counts.columns.tolist() == [*VERDICTS]
    counts = counts[["holds", "opposite", "undecided"]]
    assert counts.to_numpy().tolist() == [[1, 0, 1], [1, 1, 0], [1, 0, 0]]
    judged.loc[0, "note"] = "follows from another"
    assert count_verdicts(judged).holds.tolist() == [0, 1, 1], "not counted again"


# ------------------------------------------------------------------------------------------ what is no table of runs


@pytest.mark.parametrize("table", [None, 5, "runs.csv", [row()], {"recipe": ["a"]}, np.zeros(3)], ids=str)
@pytest.mark.parametrize("asked", [judge, summarise, lambda table: ledger.seed_scores(table, "new")])
def test_no_table_at_all(asked, table):
    with pytest.raises(TypeError, match=r"wanted a DataFrame with a row a run, such as results\(\) gives; got "):
        asked(table)


@pytest.mark.parametrize("lacking", ledger.IDENTIFIES)
def test_a_table_of_something_else(lacking):
    table = runs([0.5], [0.4]).drop(columns=lacking)
    for asked in (judge, summarise, lambda table: merge_runs(table, [row()]), lambda table: merge_runs(runs(), table)):
        with pytest.raises(ValueError, match=f"the table has no {lacking}: wanted a row a run"):
            asked(table)


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", 'recipe\n"open', "\x00\x01"])
def test_a_file_that_is_no_table_of_runs_is_named(text, tmp_path):
    (tmp_path / "runs.csv").write_text(text)
    with pytest.raises(ValueError, match="runs.csv is no table of runs: "):
        read_runs(tmp_path / "runs.csv")


def test_a_row_that_says_neither_time_nor_device():
    """As somebody writes down who compares with runs of elsewhere."""
    table = runs([0.5, 0.6]).drop(columns=["seconds", "device"])
    (line,) = summarise(table).to_dict("records")
    assert line["seconds"] == "" and line["device"] == "" and line["mAP"] == "55.0 ± 7.1"


# --------------------------------------------------------------------------------- what was measured, and what is kept


@pytest.fixture
def measured(cache, tmp_path, monkeypatch):
    """A folder of results with two runs in it, of which one was made anew on this machine, and a third one was made."""
    monkeypatch.setattr(ledger, "RESULTS", tmp_path / "results")
    write_runs(merge_runs(runs([0.5], [0.4]), []), tmp_path / "results" / "runs.csv")
    fresh = [SimpleNamespace(row=lambda: row("new", 0, 0.75), line_rows=lambda: [row(statement="hat", f1=0.5)])]
    fresh.append(SimpleNamespace(row=lambda: row("new", 1, 0.25), line_rows=lambda: []))
    monkeypatch.setattr(ledger, "kept_results", lambda whole: iter(fresh) if not whole else pytest.fail("all of it"))
    return tmp_path / "results"


def test_kept_runs_take_the_place_of_measured_ones(measured):
    assert ledger.results(kept=False).mAP.tolist() == [0.5, 0.4]
    assert ledger.results().mAP.tolist() == [0.75, 0.25, 0.4]
    assert ledger.statements().statement.tolist() == ["hat"] and ledger.statements(kept=False).empty


def test_claims_are_judged_by_what_was_measured_unless_asked(measured, monkeypatch):
    monkeypatch.setattr(verdicts, "papers", lambda: {"claim": [CLAIM]})
    assert ledger.claims().gain.tolist() == pytest.approx([10]) and ledger.claims(kept=True).gain[0] == 35


def test_claims_keep_their_contract(measured):
    found = experiments.claims()
    assert isinstance(found, pd.DataFrame) and len(found)
    assert {"id", "statement", "paper_gain", "gain", "spread", "seeds", "dataset", "verdict"} <= set(found.columns)
    assert set(found.verdict) == {"not run"}


def test_the_measured_claims():
    found = ledger.claims()
    assert set(found.verdict) <= set(VERDICTS) and (found.seeds > 0).any()
    assert (found.sign == -1).any() and (found.slack > 0).any()
    assert found.notebook.notna().all(), "every claim says which notebook it is about"


def test_tables_are_written_into_a_folder_and_a_page(measured, tmp_path):
    page = tmp_path / "README.md"
    page.write_text("".join(f"<!-- {name} -->\n<!-- /{name} -->\n" for name in ("findings", "verdicts")))
    said = ledger.write_tables(tmp_path / "out", page)
    assert said.startswith("3 runs: ") and str(tmp_path / "out" / "claims.md") in said
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["attributes.csv", "claims.md", "results.md", "runs.csv"]
    assert read_runs(tmp_path / "out" / "runs.csv").mAP.tolist() == [0.75, 0.25, 0.4]
    text = page.read_text()
    assert "| the papers' claims, built-in world | 0 |" in text and "* TriHard added to" in text
    assert "| new |  | 2 | 50.0 ± 35.4 |" in (tmp_path / "out" / "results.md").read_text()
    assert read_runs(measured / "runs.csv").mAP.tolist() == [0.5, 0.4], "the package's own stay as they are"
