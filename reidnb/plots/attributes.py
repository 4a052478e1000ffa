"""Attributes: cards beside pictures, what each stripe knows, which statements go together."""

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns

from reidnb.plots.look import BLUE, GREEN, GREY, ORANGE, RED
from reidnb.plots.people import show_person

__all__ = ["attribute_cards", "cooccurrence", "stripes_and_votes"]


def attribute_cards(images, cards, titles=None):
    """Pictures, each with a card of what is said of it. cards: a list of (words, right) for each picture; `right` is
    True (green), False (red) or None (grey: nobody said it, but it is so)."""
    figure, axes = plt.subplots(1, len(images), figsize=(2.5 * len(images), 2.9), squeeze=False)
    for i, (ax, image, card) in enumerate(zip(axes[0], images, cards)):
        show_person(ax, image, titles[i] if titles else "")
        ax.set_anchor("W")
        for line, (words, right) in enumerate(card):
            colour, sign = {True: (GREEN, "✓"), False: (RED, "✗"), None: (GREY, "–")}[right]
            place = (1.06, 0.97 - 0.09 * line)
            ax.text(*place, f"{sign} {words}", transform=ax.transAxes, color=colour, fontsize=8, va="top")
    figure.subplots_adjust(left=0.01, right=0.9, top=0.92, bottom=0.02, wspace=0.45)
    return figure


def stripes_and_votes(image, edges, known, names, votes=None, label="", limits=(None, None)):
    """A person cut into overlapping stripes and, beside them, what each stripe knows of each question.

    image (3, H, W); edges (stripes, 2): tops and bottoms as shares of the height; known (stripes, M), the brighter the
    more; names: M questions; votes: {title: the stripes elected in each question (seeds, M)}, shown as dots, red and
    white; label: of the colour bar.
    """
    height, width = np.shape(image)[1:]
    widths = {"width_ratios": [1.3, 5.2]}
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), gridspec_kw=widths, layout="constrained")
    show_person(left, image)
    for n, (top, bottom) in enumerate(np.asarray(edges) * height):
        x = width * (1.08 + 0.13 * (n % 2))  # neighbours overlap: one beside the other
        left.plot([x, x], [top + 0.5, bottom - 0.5], color=(BLUE, ORANGE)[n % 2], linewidth=4, clip_on=False)
        left.text(x + 0.07 * width, (top + bottom) / 2, str(n + 1), fontsize=8, va="center")
    left.set(xlim=(-0.5, 1.4 * width), ylim=(height - 0.5, -0.5))
    shown = right.imshow(known, cmap="Greens", aspect="auto", vmin=limits[0], vmax=limits[1])
    figure.colorbar(shown, label=label, pad=0.02)
    for (title, elected), colour, up in zip((votes or {}).items(), (RED, "white"), (-0.15, 0.2)):
        seeds, questions = np.indices(np.shape(elected))
        x = questions + min(0.2, 0.8 / len(elected)) * (seeds - (len(elected) - 1) / 2)
        look = {"color": colour, "edgecolors": "white" if colour == RED else "black", "linewidths": 0.7}
        right.scatter(x, np.asarray(elected) + up, s=26, zorder=3, label=title, **look)
    if votes:
        right.legend(fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), borderpad=0, ncols=len(votes))
    right.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=9)
    right.set_yticks(range(len(known)), range(1, len(known) + 1))
    right.set(ylabel="stripe")
    right.grid(False)
    return figure


def cooccurrence(matrices, names):
    """Which statements are true together. matrices: dict of title -> (K, K) correlations; names: K of them."""
    figure, axes = plt.subplots(1, len(matrices), figsize=(4.6 * len(matrices), 4.3), sharey=True, layout="constrained")
    for ax, (title, matrix) in zip(np.atleast_1d(axes), matrices.items()):
        hidden = np.eye(len(names), dtype=bool)
        bar = {"label": "correlation", "shrink": 0.8} if ax is np.atleast_1d(axes)[-1] else None
        look = {"cmap": "vlag", "vmin": -1, "vmax": 1, "square": True, "linewidths": 0.5}
        sns.heatmap(matrix, mask=hidden, ax=ax, cbar=bar is not None, cbar_kws=bar, **look)
        ax.set_xticks(np.arange(len(names)) + 0.5, names, rotation=60, ha="right", fontsize=8)
        ax.set_yticks(np.arange(len(names)) + 0.5, names, rotation=0, fontsize=8)
        ax.set_title(title)
    return figure
