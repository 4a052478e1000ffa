"""The ledger: a verdict on each claim, on runs made by hand."""

import numpy as np
import pandas as pd
import pytest
from claims_by_hand import BELOW, CLAIM, row, runs, verdict

from reidnb import ledger
from reidnb.ledger import judge, show_claims
from reidnb.recipes import PROFILES, RECIPES
from runs import ACROSS, ON_WINTER, ONE_WAY, VARIATIONS

COLUMNS = {"id", "statement", "paper_gain", "gain", "spread", "seeds", "dataset", "verdict"}  # the design's contract


# ---- verdicts -------------------------------------------------------------------------------------------------------


def test_a_claim_holds():
    line = verdict(runs([0.62, 0.63, 0.61], [0.60, 0.605, 0.595]))
    gains = np.array([2.0, 2.5, 1.5])
    assert line.verdict == "holds" and line.seeds == 3 and line.paper_gain == 2.5
    assert line.gain == pytest.approx(2.0)
    assert line.spread == pytest.approx(4.302653 * gains.std(ddof=1) / np.sqrt(3), rel=1e-6)  # t of 2 degrees, 97.5 %


def test_the_opposite_of_a_claim():
    line = verdict(runs([0.595, 0.605, 0.60], [0.61, 0.63, 0.62]))
    assert line.verdict == "opposite" and line.gain == pytest.approx(-2.0)


def test_what_nothing_decides():
    line = verdict(runs([0.62, 0.60, 0.61], [0.60, 0.61, 0.60]))
    assert line.verdict == "undecided" and line.decides > 3
    assert verdict(runs([0.621, 0.619, 0.62], [0.62, 0.62, 0.62])).verdict == "no effect"


def test_one_seed_proves_nothing():
    line = verdict(runs([0.9], [0.1]))
    assert line.verdict == "one run" and line.seeds == 1 and line.gain == pytest.approx(80)
    assert np.isnan(line.spread)


def test_not_run():
    for table in (runs(), runs([0.5]), runs([], [0.5]), runs([0.5, 0.6], [None, None, 0.5])):
        line = verdict(table)
        assert line.verdict == "not run" and line.seeds == 0 and np.isnan(line.gain)


def test_differences_are_paired_by_seed():
    """Seed 1's pair alone counts; and pairing finds a gain that the seeds' own spread would hide."""
    assert verdict(runs([None, 0.7, 0.9], [0.1, 0.6])).gain == pytest.approx(10)
    assert verdict(runs([0.31, 0.512, 0.711], [0.30, 0.50, 0.70])).verdict == "holds, smaller", "1.1 of the paper's 2.5"
    table = runs([0.31, 0.512, 0.711], [0.30, 0.50, 0.70])
    assert verdict(table.iloc[::-1]).gain == pytest.approx(verdict(table).gain), "whatever the order of rows"


@pytest.mark.parametrize("other", [{"dataset": "market1501"}, {"profile": "quick"}, {"changes": "epochs=3"}])
def test_only_the_runs_a_claim_is_about(other):
    assert verdict(runs([0.9, 0.9, 0.9], [0.1, 0.1, 0.1], **other)).verdict == "not run"


def test_each_dataset_has_its_row():
    claim = CLAIM | {"on": [["synthetic", "full"], ["market1501", "laptop"]]}
    judged = judge(runs([0.62, 0.63], [0.6, 0.6]), [claim])
    assert judged.dataset.tolist() == ["synthetic", "market1501"] and judged.verdict.tolist()[1] == "not run"


def test_two_metrics_of_one_recipe():
    claim = CLAIM | {"baseline": "new", "method_metric": "rank1"}
    table = runs([0.20, 0.21, 0.22])
    assert verdict(table, claim).gain == pytest.approx(4.0)


@pytest.mark.parametrize("mAP, expected", [(0.41, "holds"), (0.59, "opposite")])
def test_below(mAP, expected):
    where = {"dataset": "market1501", "profile": "laptop"}
    line = verdict(pd.DataFrame([row("colour_histogram", mAP=mAP, **where)]), BELOW | {"on": [[*where.values()]]})
    assert line.verdict == expected and line.seeds == 1 and line.spread == 0 and np.isnan(line.paper_gain)
    assert line.gain == pytest.approx(100 * mAP - 50)


def test_below_not_run():
    assert verdict(runs(), BELOW).verdict == "not run"


def test_the_ledger_of_the_papers():
    judged = judge(runs())
    assert set(judged.columns) >= COLUMNS
    assert set(judged.verdict) == {"not run"} and len(judged) >= len(ledger.papers()["claim"]) > 0
    assert not judged.duplicated(["id", "dataset", "profile"]).any()


def test_the_papers_file_is_sound():
    columns = ledger.results(kept=False).columns
    for claim in ledger.papers()["claim"]:
        assert {"id", "statement", "source", "metric", "method", "on"} <= set(claim), claim
        assert ("baseline" in claim) != ("below" in claim), claim["id"]
        for metric in ("metric", "method_metric", "baseline_metric"):
            assert claim.get(metric, "mAP") in columns, claim["id"]
        for dataset, profile in claim["on"]:
            assert profile in set(PROFILES) - {"quick"} and isinstance(dataset, str), claim["id"]


def test_show_claims():
    shown = show_claims(judge(runs([0.62, 0.63, 0.61], [0.60, 0.605, 0.595]), [CLAIM, CLAIM | {"method": "none"}]))
    assert shown.paper.tolist() == ["+2.5", "+2.5"] and shown.verdict.tolist() == ["holds", "not run"]
    assert shown.ours.tolist() == ["+2.0 mAP ± 1.2", ""]


# ---- runs with something changed ------------------------------------------------------------------------------------


def test_a_claim_about_a_changed_run():
    table = pd.concat([runs([0.6, 0.6, 0.6], [0.5, 0.5, 0.5]), runs([0.40, 0.41, 0.42], changes="label_noise=0.2")])
    claim = CLAIM | {"method": "new, label_noise=0.2"}
    assert verdict(table, claim).gain == pytest.approx(-9) and verdict(table, claim).verdict == "opposite"
    assert verdict(table).gain == pytest.approx(10), "the changed runs stay out of the plain claim"


def test_where_lower_is_better():
    table = runs([0.40, 0.41, 0.42], [0.5, 0.51, 0.53])
    assert verdict(table, CLAIM | {"better": "lower"}).verdict == "holds"
    assert verdict(table, CLAIM | {"better": "lower"}).gain < 0
    assert verdict(table).verdict == "opposite"


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
    assert verdict(table, CLAIM | {"slack": 1.0}).verdict == "opposite"
    assert verdict(table, CLAIM | {"slack": 3.0}).gain == pytest.approx(-2), "the gain itself is shown as it is"


def test_near_the_edge_of_a_slack_nothing_is_decided():
    """Without a slack an interval about zero says that there is no effect; about a slack's edge it says nothing."""
    table = runs([0.600, 0.601, 0.602], [0.6095, 0.612, 0.6115])
    assert verdict(table, CLAIM | {"slack": 1.0}).verdict == "undecided"
    assert verdict(runs([0.600, 0.601, 0.602], [0.5995, 0.602, 0.6015])).verdict == "no effect"


def test_what_follows_from_a_claim_lends_it_nothing():
    """The mirror of a claim has its very spread: it must not make the interval narrower, nor q larger."""
    table = runs([0.62, 0.64, 0.61], [0.60, 0.605, 0.595])
    mirror = CLAIM | {"id": "mirror", "method": "old", "baseline": "new", "follows": CLAIM["id"]}
    other = CLAIM | {"id": "other", "metric": "rank1"}  # with no gain at all
    (alone, _), (first, second, _) = (judge(table, c).itertuples() for c in ([CLAIM, other], [CLAIM, mirror, other]))
    assert (first.spread, first.p, first.q) == pytest.approx((alone.spread, alone.p, alone.q))
    assert alone.q == pytest.approx(2 * alone.p), "two tests, not three"
    assert (second.spread, second.q, second.gain) == pytest.approx((alone.spread, alone.q, -alone.gain))


@pytest.mark.parametrize("spoil", ["twice", "blank"])
def test_a_table_that_is_no_table_of_runs_is_refused(spoil):
    table = runs([0.6, 0.6, 0.6], [0.5, 0.5, 0.5])
    if spoil == "twice":
        with pytest.raises(ValueError, match="two rows for new, seed 1: drop one"):
            judge(pd.concat([table, table.iloc[[1]]], ignore_index=True), [CLAIM])
    else:
        table = table.astype({"mAP": object})
        table.loc[1, "mAP"] = ""
        with pytest.raises(ValueError, match="mAP of new is '': wanted a number"):
            judge(table, [CLAIM])


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


def test_every_claim_names_runs_that_the_batch_makes():
    """A slip of the pen in papers.toml would read "not run" for ever."""
    made = set(RECIPES)
    for name, changes in (*VARIATIONS, *ACROSS, *ONE_WAY, *ON_WINTER):
        made.add(ledger.run_name(name, ", ".join(f"{k}={v!r}" for k, v in sorted(changes.items()))))
    for claim in ledger.papers()["claim"]:
        named = {claim[who] for who in ("method", "baseline", "method_from", "baseline_from") if who in claim}
        assert named <= made, claim["id"]


def test_a_claim_may_take_a_run_from_another_dataset():
    runs = runs_like([("a", 0, 0.5), ("a", 1, 0.6)], dataset="there")
    here = runs_like([("a", 0, 0.4), ("a", 1, 0.5)], dataset="here")
    claim = {"id": "x", "statement": "", "source": "", "metric": "mAP", "method": "a", "baseline": "a"}
    claim |= {"baseline_on": "there", "better": "lower", "on": [["here", "full"]]}
    (row,) = ledger.judge(pd.concat([runs, here]), [claim]).itertuples()
    assert row.gain == pytest.approx(-10) and row.seeds == 2 and row.verdict == "holds"


def test_what_learns_nothing_is_one_run_for_all_seeds():
    runs = runs_like([("lomo", 0, 0.1), ("a", 0, 0.4), ("a", 1, 0.5)], "here")
    claim = {"id": "x", "statement": "", "source": "", "metric": "mAP", "method": "a", "baseline": "lomo"}
    (row,) = ledger.judge(runs, [claim | {"on": [["here", "full"]]}]).itertuples()
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
    assert learned.verdict == "one run" and np.isnan(learned.spread)
    for dataset, found, said in (
        ("market1501", 0.3, "holds"),
        ("synthetic->market1501", 0.1, "no effect"),
        ("synthetic", 0.3, "one run"),  # a seed is a world, and another test
    ):
        both = pd.DataFrame([row("lomo", 0, 0.1, dataset), row("colour_histogram", 0, found, dataset)])
        claim = CLAIM | {"method": "colour_histogram", "baseline": "lomo", "on": [[dataset, "full"]]}
        told = judge(both, [claim]).iloc[0]
        assert told.verdict == said and told.gain == pytest.approx(100 * (found - 0.1))
        assert told.spread == 0 or said == "one run"


def test_a_descriptor_of_one_drawn_world_is_no_rival_in_another():
    """On photographs its one run stands for all seeds; drawn worlds are other tests."""
    for dataset, seeds in (("synthetic_summer->synthetic_winter", 1), ("synthetic->market1501", 3)):
        table = [row("lomo", 0, 0.1, dataset), *(row("new", seed, 0.3, dataset) for seed in range(3))]
        told = judge(pd.DataFrame(table), [CLAIM | {"baseline": "lomo", "on": [[dataset, "full"]]}]).iloc[0]
        assert told.seeds == seeds


@pytest.mark.parametrize("larger", ["photo", "paper"])
def test_a_claim_is_judged_wherever_its_runs_were_made_with_larger_settings(larger):
    claim = {"id": "a", "statement": "", "source": "", "metric": "mAP", "method": "b", "baseline": "a"}
    claim["on"] = [["synthetic", "full"]]
    there = [("a", 0.5), ("b", 0.6), ("b", 0.7)]
    rows = [
        {"recipe": name, "dataset": dataset, "changes": "", "profile": profile, "seed": seed, "mAP": value + seed / 100}
        for dataset, profile, made in (("market1501", larger, there), ("msmt17", larger, there[:1]))
        for name, value in made[:2]
        for seed in (0, 1)
    ]
    judged = judge(pd.DataFrame(rows), [claim])
    assert judged.profile.tolist() == ["full", larger] and judged.seeds.tolist() == [0, 2]
    assert judged.dataset.tolist() == ["synthetic", "market1501"]
    assert judged.gain[1] == pytest.approx(10) and judged.verdict.tolist() == ["not run", "holds"]


@pytest.mark.parametrize(
    "claims, error, says",
    [
        (5, TypeError, "not iterable"),
        ([5], TypeError, r"a claim is a dict, as papers\(\)\['claim'\] has them; got 5"),
        ("claim", TypeError, "a claim is a dict"),
        ([{}], ValueError, "claim None lacks id, statement, source, metric, method, on"),
        ([{k: v for k, v in CLAIM.items() if k != "on"}], ValueError, "claim 'helps' lacks on"),
        ([CLAIM | {"basline": "x"}], ValueError, r"says 'basline' \(did you mean 'baseline'\?\), which no claim does"),
        ([CLAIM | {"below": 50.0}], ValueError, "claim 'helps' needs a baseline, or a bound to be below; one of the"),
        ([{k: v for k, v in CLAIM.items() if k != "baseline"}], ValueError, "needs a baseline, or a bound"),
        ([BELOW | {"below": "50"}], ValueError, "below must be a number, in points; got '50'"),
        ([CLAIM | {"slack": None}], ValueError, "slack must be a number, in points; got None"),
        ([CLAIM | {"better": "higher"}], ValueError, "better is 'lower' or is not said; got 'higher'"),
        ([CLAIM | {"on": "synthetic"}], ValueError, r"on must be a list of \(dataset, profile\); got 'synthetic'"),
        ([CLAIM | {"on": ["synthetic"]}], ValueError, r"on must be a list of \(dataset, profile\)"),
    ],
)
def test_a_claim_that_cannot_be_judged(claims, error, says):
    with pytest.raises(error, match=says):
        judge(runs([0.5], [0.4]), claims)


def test_every_claim_of_the_papers_can_be_judged():
    """By the same checks, which `judge` makes of claims that it is given."""
    claims = ledger.papers()["claim"]
    pd.testing.assert_frame_equal(judge(runs(), claims), judge(runs()))
    assert judge(runs([0.5], [0.4]), []).empty
