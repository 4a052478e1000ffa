"""Scores before any training and after it, as bars."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from reidnb.plots.figures import BLUE, ORANGE, finite

NAMES = ("before any training", "after training")


def before_and_after(groups: dict, names=NAMES, xlabel: str = "mAP, %", width: float = 7.6) -> Figure:
    """Scores before and after training, a block a group: dict of a title -> dict of words -> (before, after), each the
    values of some seeds in percent, and empty where nothing was run.

    The long bar is the mean after training, the short one in it the mean before, and a dot is a seed. A row with the
    first alone learns nothing, one with neither is said to be not run yet. ValueError for no rows at all.
    """
    rows = sum(len(found) for found in groups.values())
    if not rows:
        raise ValueError("there are no scores to draw")
    figure, ax = plt.subplots(figsize=(width, 0.75 + 0.36 * rows + 0.3 * len(groups)))
    place, ticks, most = 0.0, [], 1.0
    for title, found in groups.items():
        ax.text(0, place, title, transform=ax.get_yaxis_transform(), fontsize=9, fontweight="bold", va="center")
        place += 0.85
        for words, pair in found.items():
            most = max(most, _one_row(ax, place, words, pair))
            ticks.append((place, words))
            place += 1
    for name, colour, size in ((names[0], ORANGE, 5), (names[1], BLUE, 10)):
        ax.plot([], [], color=colour, linewidth=size, linestyle="-", label=name)
    ax.set_yticks([y for y, _ in ticks], [words for _, words in ticks], fontsize=9)
    ax.set(ylim=(place - 0.4, -0.5), xlim=(0, 1.24 * most), xlabel=xlabel)
    ax.grid(axis="y", visible=False)
    ax.legend(fontsize=8.5, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    figure.tight_layout()
    return figure


def _one_row(ax, y, words, pair):
    """The bars of one row, its seeds, and what they come to -> how far it reaches."""
    before, after = (np.asarray(values, float) for values in pair)
    said, reach = [], 0.0
    for values, colour, thick in ((after, BLUE, 0.68), (before, ORANGE, 0.3)):
        if not len(values):
            continue
        values = finite(values, f"scores of {words!r}", (None,))
        ax.barh(y, values.mean(), thick, color=colour, zorder=2)
        if len(values) > 1:
            look = {"s": 9, "color": "black", "alpha": 0.7, "linewidths": 0, "zorder": 4}
            ax.scatter(values, [y] * len(values), **look)
        said.insert(0, f"{values.mean():.1f}")
        reach = max(reach, values.max())
    if len(after) and not len(before):
        said.insert(0, "?")
    ax.text(reach, y, "  " + (" → ".join(said) or "not run yet"), va="center", fontsize=8.5)
    return reach
