"""Scores, training and distances as curves."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator

from reidnb.plots.look import BLUE, GREEN, GREY, ORANGE, RED
from reidnb.training import SIGNS

__all__ = ["cmc_curves", "distance_histogram", "histories", "seed_dots", "training_curves"]


def seed_dots(scores, xlabel="mAP (%)", reference=None, row=0.42):
    """A dot a seed and a bar at their mean. scores: dict of row -> dict of series -> values in percent, one a seed.

    `reference` is a (name, value) to compare with, drawn as a dashed line; `row` the height of a row in inches.
    """
    series = list(dict.fromkeys(name for line in scores.values() for name in line))
    colours = dict(zip(series, [BLUE, ORANGE, GREEN, RED, GREY]))
    figure, ax = plt.subplots(figsize=(7, row * len(scores) + 1.1))
    for y, line in enumerate(scores.values()):
        for name, values in line.items():
            if not len(values):
                continue
            place = y + 0.13 * (list(line).index(name) - (len(line) - 1) / 2) * 2
            ax.scatter(values, [place] * len(values), s=18, color=colours[name], alpha=0.6, linewidths=0)
            ax.scatter(np.mean(values), place, marker="|", s=130, linewidths=2.5, color=colours[name])
    for name in series:
        ax.scatter([], [], s=30, color=colours[name], label=name)
    if reference is not None:
        name, value = reference
        ax.axvline(value, color="black", linestyle="--", linewidth=1, zorder=0, label=name)
    ax.set(yticks=range(len(scores)), yticklabels=list(scores), xlabel=xlabel)
    ax.invert_yaxis()
    if len(series) > 1 or reference is not None:
        ax.legend(fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(series) + 1)
    figure.tight_layout()
    return figure


def histories(runs, columns, colours=None):
    """Training side by side. runs: dict of name -> history (as `train` returns it); columns: dict of a key of its
    lines -> title, one picture each; colours: one a run."""
    figure, axes = plt.subplots(1, len(columns), figsize=(3.6 * len(columns), 2.9), squeeze=False)
    for ax, (key, title) in zip(axes[0], columns.items()):
        for (name, history), colour in zip(runs.items(), colours or [BLUE, ORANGE, GREEN, RED, GREY]):
            epochs, values = zip(*((line["epoch"], line[key]) for line in history if key in line))
            ax.plot(epochs, values, marker="o", markersize=3, color=colour, label=name)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set(xlabel="epoch", title=title, ylim=(0, None))
    axes[0, 0].legend(fontsize=9)
    figure.tight_layout()
    return figure


def cmc_curves(scores, ranks=20):
    """CMC curves: scores is a dict name -> Scores."""
    figure, ax = plt.subplots(figsize=(5.2, 3.3))
    for name, s in scores.items():
        ax.plot(
            np.arange(1, ranks + 1),
            100 * s.cmc[:ranks],
            marker="o",
            markersize=3,
            label=f"{name} (mAP {100 * s.mAP:.1f})",
        )
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(
        xlabel="rank k",
        ylabel="queries with a right image\namong the first k (%)",
        ylim=(0, 101),
        xlim=(0.5, ranks + 0.5),
    )
    ax.legend(loc="lower right", fontsize=9)
    figure.tight_layout()
    return figure


def training_curves(history):
    """Loss terms by epoch: history as `train` returns it."""
    terms = [name for name in history[0] if name not in ("epoch", "lr", "seconds", *SIGNS)]
    terms = terms[:1] if len(terms) == 2 else terms  # with one term the sum is that term
    figure, ax = plt.subplots(figsize=(5.2, 2.8))
    for name in terms:
        ax.plot(
            [line["epoch"] for line in history],
            [line[name] for line in history],
            marker="o",
            markersize=3,
            label=name,
        )
    ax.set(xlabel="epoch", ylabel="mean loss")
    ax.legend()
    figure.tight_layout()
    return figure


def distance_histogram(same, different, threshold=None, title=""):
    """Distances between images of the same person and of different people, each as a density."""
    figure, ax = plt.subplots(figsize=(6, 3))
    bins = np.linspace(0, max(np.max(same), np.max(different)), 60)
    for values, colour, name in (
        (different, RED, "different people"),
        (same, GREEN, "same person, another camera"),
    ):
        ax.hist(values, bins, density=True, color=colour, alpha=0.55, label=name)
    if threshold is not None:
        ax.axvline(threshold, color="black", linestyle="--", linewidth=1)
        ax.annotate(f" {threshold:.2f}", (threshold, ax.get_ylim()[1]), va="top", fontsize=9)
    ax.set(xlabel="distance between two embeddings", yticks=[], ylabel="share of pairs", title=title)
    ax.legend(fontsize=9)
    figure.tight_layout()
    return figure
