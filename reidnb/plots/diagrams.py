"""Boxes and arrows for a paper's network, and gains with their intervals."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from scipy.stats import t as student

from reidnb.plots.figures import BLUE, GREEN, GREY, ORANGE, RED, finite

KINDS = {"layer": ("#e3edf7", BLUE), "data": ("white", GREY), "loss": ("#fbe9e7", RED), "distance": ("#fdf3e0", ORANGE)}


def diagram(boxes: dict, arrows, width: float = 9.0) -> Figure:
    """A network as boxes and arrows.

    boxes: dict of a name -> (column, row, words, kind), columns and rows as numbers from 0 (rows downwards), kind one
    of "layer" (has weights), "data", "loss", "distance". arrows: pairs of names, or triples with a word beside it.
    ValueError for an arrow to a box that is not there, and for an unknown kind.
    """
    if odd := {kind for *_, kind in boxes.values()} - set(KINDS):
        raise ValueError(f"kinds of boxes are {', '.join(KINDS)}; got {', '.join(sorted(map(str, odd)))}")
    if odd := {name for arrow in arrows for name in arrow[:2]} - set(boxes):
        raise ValueError(f"an arrow leads to {', '.join(sorted(odd))}, which is no box; there are {', '.join(boxes)}")
    columns, rows = (max(box[side] for box in boxes.values()) for side in (0, 1))
    figure, ax = plt.subplots(figsize=(width, 0.3 + 0.95 * (rows + 1)))
    drawn = {}
    for name, (x, y, words, kind) in boxes.items():
        face, edge = KINDS[kind]
        frame = {"boxstyle": "round,pad=0.45", "facecolor": face, "edgecolor": edge, "linewidth": 1.4}
        drawn[name] = ax.text(x, y, words, ha="center", va="center", fontsize=8.5, bbox=frame, zorder=1)
    ax.set(xlim=(-0.6, columns + 0.6), ylim=(rows + 0.55, -0.55))
    figure.draw_without_rendering()  # so that the boxes know how large they are
    for a, b, *words in arrows:
        start, end = (np.array(boxes[name][:2], float) for name in (a, b))
        sides = {"patchA": drawn[a].get_bbox_patch(), "patchB": drawn[b].get_bbox_patch()}
        look = {"arrowstyle": "-|>", "color": "0.35", "shrinkA": 1, "shrinkB": 2}
        ax.annotate("", end, start, arrowprops=look | sides, zorder=2)
        if words:
            look = {"fontsize": 7.5, "ha": "center", "va": "bottom", "color": "0.35", "zorder": 3}
            look |= {"bbox": {"facecolor": "white", "edgecolor": "none", "pad": 0.5}}  # no arrow strikes words through
            ax.text(*(start + end) / 2 - (0, 0.08), words[0], **look)
    ax.axis("off")
    figure.tight_layout(pad=0.2)
    return figure


def gain_intervals(groups: dict, xlabel: str = "gain, points of mAP", width: float = 8.0) -> Figure:
    """Gains with their 95 % intervals (Student's, over paired seeds), a block a group: dict of a title -> dict of words
    -> gains (seeds,). An empty row is said to be not run yet, and one seed has no interval."""
    rows = sum(len(found) for found in groups.values())
    if not rows:
        raise ValueError("there are no gains to draw")
    figure, ax = plt.subplots(figsize=(width, 0.5 + 0.27 * (rows + len(groups))))
    place, ticks = 0.0, []
    for title, found in groups.items():
        ax.text(0, place, title, transform=ax.get_yaxis_transform(), fontsize=9, fontweight="bold", va="center")
        place += 1
        for words, values in found.items():
            values = np.asarray(values, float)
            _one_gain(ax, place, finite(values, f"gains of {words!r}", (None,)) if len(values) else values)
            ticks.append((place, words))
            place += 1
    ax.axvline(0, color="grey", linewidth=0.8, zorder=0)
    ax.set_yticks([y for y, _ in ticks], [words for _, words in ticks], fontsize=8.5)
    ax.set(ylim=(place - 0.4, -0.6), xlabel=xlabel)
    ax.grid(axis="y", visible=False)
    figure.tight_layout()
    return figure


def _one_gain(ax, y, values):
    if not len(values):
        ax.text(0.3, y, "not run yet", fontsize=7.5, va="center", color="dimgray")
        return
    mean, n = values.mean(), len(values)
    reach = student.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n) if n > 1 else 0.0
    colour = GREEN if mean - reach > 0 and n > 1 else RED if mean + reach < 0 and n > 1 else GREY
    marker = "o" if colour == GREEN else "X" if colour == RED else "s"
    ax.errorbar(mean, y, xerr=reach or None, fmt=marker, color=colour, capsize=2, markersize=5, linestyle="none")
    ax.annotate(f"{mean:+.1f}", (mean, y), (0, 4), textcoords="offset points", fontsize=6.5, ha="center")
