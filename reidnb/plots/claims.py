"""Claims and what became of them."""

import textwrap

import matplotlib.pyplot as plt
import numpy as np

from reidnb.plots.look import GREEN, GREY, RED

__all__ = ["claim_bars", "paper_and_ours"]

COLOURS = {"holds": GREEN, "does not hold": RED, "within noise": GREY, "not run": "white"}
TICKS = (-50, -20, -10, -5, -2, 0, 2, 5, 10, 20, 50)


def claim_bars(ledger, width=62):
    """Gains in the direction claimed, with their 95 % intervals: what lies right of zero as a whole, holds.

    ledger: rows of `experiments.claims()`. A diamond is the paper's gain. Within five points of zero the axis is
    linear, beyond logarithmic.
    """
    rows = ledger[ledger.seeds > 0]
    labels = ["\n".join(textwrap.wrap(f"{row.statement} [{row.dataset}]", width)) for row in rows.itertuples()]
    lines = sum(label.count("\n") + 1 for label in labels)
    figure, ax = plt.subplots(figsize=(10, 0.17 * lines + 0.16 * len(rows) + 0.9))
    place, places = 0.0, []
    for label, row in zip(labels, rows.itertuples()):
        place += 0.5 * (label.count("\n") + 1) + 0.5
        places.append(place)
        spread = 0 if np.isnan(row.spread) else row.spread
        ours, paper = (row.sign * gain + row.slack for gain in (row.gain, row.paper_gain))
        look = {"fmt": "o", "color": COLOURS[row.verdict], "markersize": 5, "capsize": 2, "linewidth": 2}
        ax.errorbar(ours, place, xerr=spread, **look)
        ax.scatter(paper, place, marker="D", s=26, facecolors="none", edgecolors="black", zorder=3)  # NaN: not drawn
        place += 0.5 * (label.count("\n") + 1)
    ax.axvline(0, color="black", linewidth=1)
    limits = ax.get_xlim()
    ax.set_xscale("symlog", linthresh=5)
    ax.set_xticks([tick for tick in TICKS if limits[0] <= tick <= limits[1]])
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set(yticks=places, xlabel="points in the direction claimed")
    ax.set_yticklabels(labels, fontsize=8)
    ax.invert_yaxis()
    figure.tight_layout()
    return figure


def paper_and_ours(ledger):
    """The papers' gains and ours, a point a claim: on the diagonal they agree."""
    rows = ledger[(ledger.seeds > 0) & ledger.paper_gain.notna()]
    figure, ax = plt.subplots(figsize=(5.4, 4.6))
    for row in rows.itertuples():
        spread = 0 if np.isnan(row.spread) else row.spread
        marker = "s" if "market1501" in row.dataset else "o"
        look = {"fmt": marker, "color": COLOURS[row.verdict], "alpha": 0.8, "markersize": 5}
        ax.errorbar(row.paper_gain, row.gain, yerr=spread, **look)
    equal = np.linspace(rows.paper_gain.min(), rows.paper_gain.max(), 200)
    ax.plot(equal, equal, color="black", linestyle="--", linewidth=1)
    ax.axhline(0, color=GREY, linewidth=0.8)
    for verdict, colour in list(COLOURS.items())[:3]:
        ax.scatter([], [], color=colour, label=verdict)
    ax.set_yscale("symlog", linthresh=10)
    ax.set_yticks([tick for tick in TICKS if rows.gain.min() - 5 <= tick <= rows.gain.max() + 5])
    ax.yaxis.set_major_formatter("{x:g}")
    ax.set(xlabel="the paper's gain, points", ylabel="ours, points")
    ax.legend(fontsize=9)
    figure.tight_layout()
    return figure
