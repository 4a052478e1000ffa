"""Curves, dots, bars and heat maps: what is drawn is what was given."""

from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection

from reidnb import plots
from reidnb.plots.curves import UNKNOWN, VERDICTS, verdict_look


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def dots(ax):
    """The scattered points on the axes that are not there for the legend."""
    return [
        np.asarray(c.get_offsets()) for c in ax.collections if isinstance(c, PathCollection) and len(c.get_offsets())
    ]


# -------------------------------------------------------------------------------------------------------------- curves


def test_cmc_curves_in_percent_end_where_the_gallery_does():
    short = SimpleNamespace(cmc=np.array([0.5, 0.75, 1.0]), mAP=0.6)
    long = SimpleNamespace(cmc=np.linspace(0.1, 1, 50), mAP=0.3)
    ax = plots.cmc_curves({"short": short, "long": long}, ranks=20).axes[0]
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), [[1, 50], [2, 75], [3, 100]])
    np.testing.assert_allclose(ax.lines[1].get_ydata(), 100 * long.cmc[:20])
    assert legend(ax) == ["short (mAP 60.0)", "long (mAP 30.0)"]
    assert ax.lines[0].get_marker() != ax.lines[1].get_marker()
    assert ax.lines[0].get_linestyle() != ax.lines[1].get_linestyle()


def test_seed_dots_stand_in_their_rows_with_a_bar_at_the_mean():
    scores = {"one": {"alone": [50.0, 54.0], "joined": [60.0]}, "two": {"alone": [], "joined": [61.0, 63.0]}}
    ax = plots.seed_dots(scores, reference=("the start", 45.0)).axes[0]
    drawn = dots(ax)
    assert [d[:, 0].tolist() for d in drawn] == [[50, 54], [52], [60], [60], [61, 63], [62]]
    rows = [set(d[:, 1].round().astype(int)) for d in drawn]
    assert rows == [{0}] * 4 + [{1}] * 2 and drawn[0][0, 1] != drawn[2][0, 1], "series of a row stand apart"
    assert legend(ax) == ["alone", "joined", "the start"] and ax.lines[0].get_xdata()[0] == 45
    assert [label.get_text() for label in ax.get_yticklabels()] == ["one", "two"] and ax.yaxis_inverted()
    shapes = [c.get_paths()[0].vertices.shape for c in ax.collections if not len(c.get_offsets())]
    assert shapes[0] != shapes[1], "a series has a shape of its own"


HISTORY = [
    {"epoch": 1, "lr": 0.1, "loss": 3.0, "trihard": 1.0, "smooth_id": 2.0, "length": 9.0, "active_anchors": 0.5},
    {"epoch": 2, "lr": 0.1, "loss": 2.0, "trihard": 0.5, "smooth_id": 1.5, "length": 8.0, "active_anchors": 0.2},
]


def test_histories_side_by_side():
    other = [{"epoch": 1, "length": 5.0}]
    figure = plots.histories({"a": HISTORY, "b": other}, {"length": "how long", "active_anchors": "active"}, ["k", "r"])
    first, second = figure.axes
    assert [line.get_ydata().tolist() for line in first.lines] == [[9, 8], [5]]
    assert first.get_title() == "how long" and legend(first) == ["a", "b"]
    assert second.lines[0].get_ydata().tolist() == [0.5, 0.2] and not len(second.lines[1].get_xdata())
    assert [line.get_color() for line in first.lines] == ["k", "r"]


def test_training_curves_show_loss_terms_in_words():
    ax = plots.training_curves(HISTORY, {"trihard": "TriHard"}).axes[0]
    assert legend(ax) == ["loss", "TriHard", "smooth id"]
    assert [line.get_ydata().tolist() for line in ax.lines] == [[3, 2], [1, 0.5], [2, 1.5]]
    alone = [{"epoch": 1, "loss": 3.0, "trihard": 3.0, "seconds": 1.0}]
    assert legend(plots.training_curves(alone).axes[0]) == ["loss"], "with one term the sum is that term"


def test_distances_as_densities():
    ax = plots.distance_histogram([0.1, 0.2, 0.2], np.full((2, 2), 0.9), threshold=0.5).axes[0]
    different, same = ax.patches
    assert different.get_hatch() and not same.get_hatch()
    assert same.get_xy()[:, 0].max() >= 0.9 and legend(ax) == ["different people", "same person, another camera"]
    for patch in (different, same):
        (x, y) = np.array(patch.get_xy()).T
        assert np.isclose(np.trapezoid(y, x), 0, atol=1e-9) or np.isclose(abs(np.trapezoid(y, x)), 1)
    assert ax.lines[0].get_xdata()[0] == 0.5 and ax.texts[0].get_text() == " 0.50"


# -------------------------------------------------------------------------------------------------------------- ledger


@pytest.fixture
def ledger():
    return pd.DataFrame(
        {
            "statement": ["more helps", "less helps", "as good", "never run"],
            "dataset": ["synthetic", "market1501", "synthetic->market1501", "synthetic"],
            "profile": ["full", "photo", "laptop", "full"],
            "sign": [1, -1, 1, 1],
            "slack": [0.0, 0.0, 2.0, 0.0],
            "gain": [3.0, -4.0, -1.0, np.nan],
            "paper_gain": [5.0, -2.0, np.nan, 7.0],
            "spread": [1.0, np.nan, 3.0, np.nan],
            "seeds": [3, 1, 3, 0],
            "verdict": ["holds, smaller", "one run", "no effect above 0.5 points", "not run"],
        }
    )


def test_bars_are_gains_in_the_direction_claimed(ledger):
    ax = plots.claim_bars(ledger).axes[0]
    marks = [c.lines[0] for c in ax.containers]
    assert [mark.get_xdata()[0] for mark in marks] == [3, 4, 1]
    assert [(mark.get_color(), mark.get_marker()) for mark in marks] == [verdict_look(v) for v in ledger.verdict[:3]]
    spans = [np.ptp(c.lines[2][0].get_segments()[0][:, 0]) for c in ax.containers]
    assert spans == [2, 0, 6]
    papers = np.concatenate([offsets for offsets in dots(ax)])[:, 0]
    np.testing.assert_array_equal(papers, [5, 2, np.nan])
    assert [label.get_text() for label in ax.get_yticklabels()][0] == "more helps [synthetic]"
    assert legend(ax) == ["the paper's gain", "holds, smaller", "no effect above 0.5 points", "one run"]


def test_the_papers_gains_beside_ours(ledger):
    ax = plots.paper_and_ours(ledger).axes[0]
    marks = [c.lines[0] for c in ax.containers]
    assert [mark.get_xydata().tolist() for mark in marks] == [[[3, 0]], [[-4, 1]]]
    assert [mark.get_markerfacecolor() == "white" for mark in marks] == [False, True], "photographs are open"
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["more helps [synthetic]", "less helps [market1501, photo]"]
    assert legend(ax) == ["the paper's gain", "open: photographs", "holds, smaller", "one run"]
    assert legend(plots.paper_and_ours(ledger[:1]).axes[0]) == ["the paper's gain", "holds, smaller"]
    assert ax.get_xscale() == "linear"


def test_a_gain_beyond_the_axis_stands_at_its_edge_with_its_number(ledger):
    ledger.loc[0, "gain"] = 62.4
    ax = plots.paper_and_ours(ledger, reach=20).axes[0]
    assert "+62" in {text.get_text() for text in ax.texts} and ax.get_xlim() == (-21, 21)
    assert len(ax.containers) == 1


def test_a_claim_from_near(ledger):
    row = ledger.assign(id="a", method="new", baseline="old", metric="mAP").iloc[0]
    left, right = plots.claim_seeds(row, np.array([52.0, 55.0, 50.0]), np.array([50.0, 51.0])).axes
    assert [line.get_ydata().tolist() for line in left.lines] == [[50, 52], [51, 55]], "paired by seed"
    seeds, paper = (np.asarray(dots.get_offsets()) for dots in right.collections[:: len(right.collections) - 1])
    assert seeds[:, 0].tolist() == [2, 4] and paper.tolist() == [[5, -1]]
    assert right.containers[0].lines[0].get_xdata().tolist() == [3]
    with pytest.raises(ValueError, match="claim 'a' has no runs of one seed on both sides"):
        plots.claim_seeds(row, np.array([52.0]), np.array([]))


def test_verdicts_have_a_look_of_their_own():
    assert verdict_look("holds") != verdict_look("holds, smaller") and verdict_look("what?") == UNKNOWN
    assert verdict_look("no effect above 0.3 points") == VERDICTS["no effect"]
    six = {verdict_look(v) for v in ("holds", "holds, smaller", "no effect", "opposite", "undecided", "one run")}
    assert len({marker for _, marker in six}) == 6


# ----------------------------------------------------------------------------------------------------------- heat maps


def test_camera_heat_is_in_percent_and_leaves_out_what_was_not_searched():
    scores = np.where(np.eye(3, dtype=bool), np.nan, np.arange(9.0).reshape(3, 3) / 10)
    ax = plots.camera_heat(scores).axes[0]
    drawn = np.ma.filled(ax.collections[0].get_array().reshape(3, 3), np.nan)
    np.testing.assert_allclose(drawn, 100 * scores)
    assert {text.get_text() for text in ax.texts} == {"10", "20", "30", "50", "60", "70"}
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("camera of the query", "camera searched in")


def test_cooccurrence_of_statements():
    matrix = np.array([[1.0, -0.5], [-0.5, 1.0]])
    axes = plots.cooccurrence({"labels": matrix, "logits": -matrix}, ["hat", "bag"]).axes
    drawn = [ax.collections[0].get_array().reshape(2, 2) for ax in axes[:2]]
    assert [d[0, 1] for d in drawn] == [-0.5, 0.5] and drawn[0].mask[0, 0]
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["hat", "bag"]


# ------------------------------------------------------------------------------------------------------------- hostile


def broken(cmc):
    return {"ours": SimpleNamespace(cmc=cmc, mAP=0.5)}


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda: plots.cmc_curves({}), "scores must be a dict with something in it, got {}"),
        (lambda: plots.cmc_curves(broken([])), "the CMC of ours is empty"),
        (lambda: plots.cmc_curves(broken([0.5, np.nan])), "the CMC of ours holds 1 NaN"),
        (lambda: plots.seed_dots({}), "scores must be a dict"),
        (lambda: plots.seed_dots([1, 2]), r"scores must be a dict with something in it, got \[1, 2\]"),
        (lambda: plots.seed_dots({"a": {"": [1, np.nan]}}), "scores of a holds 1 NaN"),
        (lambda: plots.histories({}, {"loss": "loss"}), "runs must be a dict"),
        (lambda: plots.histories({"a": HISTORY}, {}), "columns must be a dict"),
        (lambda: plots.histories({"a": HISTORY}, {"las": ""}), "no history has 'las'; they have active_anchors, epoch"),
        (lambda: plots.training_curves([]), "the history is empty: nothing was trained"),
        (lambda: plots.training_curves([{"epoch": 1, "loss": np.nan}]), "'loss' in the history holds 1 NaN"),
        (lambda: plots.distance_histogram([], [1]), "same is empty"),
        (lambda: plots.distance_histogram([1], [np.inf]), "different holds 1 NaN or infinite"),
        (lambda: plots.camera_heat(np.zeros((2, 3))), r"must be a square of cameras .* got \(2, 3\)"),
        (lambda: plots.camera_heat(np.full((2, 2), np.nan)), "with a number in it"),
        (lambda: plots.cooccurrence({}, []), "matrices must be a dict"),
        (lambda: plots.cooccurrence({"a": np.eye(3)}, ["b"]), r"correlations of a must have the shape \(1, 1\)"),
    ],
)
def test_what_cannot_be_drawn(draw, said):
    with pytest.raises(ValueError, match=said):
        draw()


def test_a_ledger_without_runs(ledger):
    with pytest.raises(ValueError, match="of these 1 rows of the ledger none has runs"):
        plots.claim_bars(ledger[3:])
    with pytest.raises(ValueError, match="no claim that ran has a paper's gain"):
        plots.paper_and_ours(ledger[2:])
