"""Every picture of the notebooks: functions of arrays that return a matplotlib Figure.

One palette throughout: green is right, red is wrong, blue is the query or the subject, grey is everybody else.
"""

import io
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.ticker import MaxNLocator
from matplotlib_inline.backend_inline import set_matplotlib_formats

from reidnb.files import cache_root, write_aside
from reidnb.training import SIGNS

__all__ = [
    "GREEN",
    "RED",
    "BLUE",
    "GREY",
    "cmc_curves",
    "distance_histogram",
    "filmstrip",
    "forces",
    "histories",
    "people_grid",
    "picture_row",
    "rankings",
    "save",
    "seed_dots",
    "style",
    "to_png",
    "training_curves",
    "triplet_rows",
]

GREEN, RED, BLUE, GREY, ORANGE = "#2a9d5c", "#d1495b", "#2f6690", "#8d99a6", "#e09f3e"
FIGURES = Path(__file__).parents[1] / "figures"


def style():
    """Set the look of all figures; call it once at the top of a notebook.

    Notebooks keep their figures as JPEG: people are pictures, and as PNG they would make a notebook ten times the size.
    """
    set_matplotlib_formats("jpeg", pil_kwargs={"quality": 88})
    sns.set_theme(
        context="notebook",
        style="whitegrid",
        palette=[BLUE, ORANGE, GREEN, RED, GREY],
        rc={
            "figure.dpi": 80,
            "savefig.dpi": 110,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 11,
            "axes.labelsize": 10,
            "font.size": 10,
            "legend.frameon": False,
        },
    )


def save(figure, name, dataset="synthetic"):
    """Write a figure to figures/<name>.jpg and hand it back.

    Figures of a real dataset show real people: they go to the cache, where nobody commits them by mistake.
    """
    folder = FIGURES if dataset.startswith("synthetic") else cache_root() / "figures" / dataset
    how = {"bbox_inches": "tight", "pil_kwargs": {"quality": 88}}
    write_aside(folder / f"{name}.jpg", lambda file: figure.savefig(file, **how))
    return figure


def to_png(figure):
    """A figure as PNG bytes, for an ipywidgets.Image; the figure is closed."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    plt.close(figure)
    return buffer.getvalue()


# ------------------------------------------------------------------------------------------------------------- people


def show_person(axes, image, title="", colour=None):
    """One picture (3, H, W) or (H, W, 3) uint8 on the axes, framed in `colour`."""
    image = np.asarray(image)
    axes.imshow(image.transpose(1, 2, 0) if image.shape[0] == 3 else image, interpolation="antialiased")
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.set_title(title, fontsize=8, pad=2, color=colour or "black")
    for spine in axes.spines.values():
        spine.set(visible=colour is not None, color=colour, linewidth=2.5)


def picture_row(images, titles=None, colours=None, height=1.7):
    """Pictures side by side."""
    figure, axes = plt.subplots(1, len(images), figsize=(0.55 * height * len(images), height + 0.25), squeeze=False)
    for i, (ax, image) in enumerate(zip(axes[0], images)):
        show_person(ax, image, titles[i] if titles else "", colours[i] if colours else None)
    figure.tight_layout(pad=0.2, w_pad=0.3)
    return figure


def people_grid(rows, row_labels=None, column_labels=None, height=1.25):
    """A grid of pictures: rows is a list of lists of images (an empty place is None)."""
    columns = max(map(len, rows))
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(0.53 * height * columns + 0.6, height * len(rows) + 0.2), squeeze=False
    )
    for r, row in enumerate(rows):
        for c in range(columns):
            ax = axes[r, c]
            if c < len(row) and row[c] is not None:
                show_person(ax, row[c], column_labels[c] if column_labels and r == 0 else "")
            else:
                ax.axis("off")
        if row_labels:
            axes[r, 0].set_ylabel(row_labels[r], rotation=0, ha="right", va="center", fontsize=9)
    figure.tight_layout(pad=0.2, w_pad=0.1, h_pad=0.1)
    return figure


def rankings(query, gallery, distances, rows, top=10):
    """Ranking lists: each row a query (blue) and its nearest gallery images, right ones in green, wrong ones in red.

    query, gallery: Splits. distances: (Q, G). rows: which queries. What the protocol ignores (junk, same person in
    the same camera) is left out, as in the evaluation.
    """
    figure, axes = plt.subplots(len(rows), top + 1, figsize=(0.72 * (top + 1), 1.62 * len(rows)), squeeze=False)
    for line, q in zip(axes, rows):
        show_person(line[0], query.images[q], f"query c{query.camids[q] + 1}", BLUE)
        seen = (gallery.pids != -1) & ~((gallery.pids == query.pids[q]) & (gallery.camids == query.camids[q]))
        order = np.flatnonzero(seen)[np.argsort(distances[q][seen], kind="stable")]
        for rank, (ax, g) in enumerate(zip(line[1:], order[:top]), 1):
            right = gallery.pids[g] == query.pids[q]
            show_person(ax, gallery.images[g], f"{rank}: {distances[q, g]:.2f}", GREEN if right else RED)
    figure.tight_layout(pad=0.2, w_pad=0.3, h_pad=0.9)
    return figure


TRIPLET = ("anchor", "farthest\nof the same", "nearest\nof the others")


def triplet_rows(images, anchors, positives, negatives, distances, names=TRIPLET, truth=None):
    """Triplets as columns of pictures, with their distances: anchor (blue), positive (green), negative (red where it
    lies nearer than the positive).

    images (N, 3, H, W); anchors, positives, negatives: indices (T,); distances (N, N). With `truth`, labels (N,), a
    positive that shows somebody else is framed red.
    """
    figure, axes = plt.subplots(3, len(anchors), figsize=(0.85 * len(anchors) + 0.9, 5), squeeze=False)
    for column, (a, p, n) in zip(axes.T, zip(anchors, positives, negatives)):
        violated = distances[a, p] >= distances[a, n]
        show_person(column[0], images[a], colour=BLUE)
        right = truth is None or truth[a] == truth[p]
        show_person(column[1], images[p], f"{distances[a, p]:.2f}", GREEN if right else RED)
        show_person(column[2], images[n], f"{distances[a, n]:.2f}", RED if violated else GREY)
    for ax, name in zip(axes[:, 0], names):
        ax.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    figure.tight_layout(pad=0.2, w_pad=0.2, h_pad=0.5)
    return figure


# ------------------------------------------------------------------------------------------------ forces in the plane


def forces(ax, points, labels, slopes, title=""):
    """What a loss does to points in the plane. points (N, 2), labels (N,); slopes (N, N): the loss's derivative by
    each pair's distance.

    A green line pulls its two points together and a red one pushes them apart, as thick as the loss insists; arrows
    show where each point goes in sum.
    """
    points, slopes = np.asarray(points, float), np.asarray(slopes, float)
    slopes = slopes + slopes.T
    strongest = np.abs(slopes).max() or 1.0
    for i, j in np.argwhere(np.triu(np.abs(slopes) > 1e-9 * strongest, 1)):
        share = abs(slopes[i, j]) / strongest
        colour, width = GREEN if slopes[i, j] > 0 else RED, 0.4 + 2.6 * share
        ax.plot(*points[[i, j]].T, color=colour, linewidth=width, alpha=0.15 + 0.5 * share, zorder=1)
    away = points[:, None] - points
    unit = away / np.maximum(np.linalg.norm(away, axis=2, keepdims=True), 1e-9)
    moves = -(slopes[:, :, None] * unit).sum(1)
    longest = np.linalg.norm(moves, axis=1).max()
    if longest:
        moves = moves * 0.18 * np.ptp(points, axis=0).max() / longest
        ax.quiver(*points.T, *moves.T, angles="xy", scale_units="xy", scale=1, width=0.006, color="black", zorder=3)
        ends = points + moves
        ax.update_datalim(ends)  # an arrow may leave the cloud of points
    _identities(ax, points, labels)
    ax.set_title(title, fontsize=9)


def filmstrip(points, labels, slopes, frames, steps):
    """A row of pictures: the forces on some points, then what a network's plane looks like while the loss trains it.

    points, labels, slopes as in `forces`; frames: a list of (points (M, 2), labels (M,)), one for each of `steps`.
    """
    figure, axes = plt.subplots(1, len(frames) + 1, figsize=(2 * len(frames) + 2.2, 2.25))
    forces(axes[0], points, labels, slopes, "forces")
    centred = [where - where.mean(0) for where, _ in frames]
    reach = 1.1 * max(np.abs(where).max() for where in centred)
    for ax, where, (_, who), step in zip(axes[1:], centred, frames, steps):
        _identities(ax, where, who, size=20)
        ax.set(xlim=(-reach, reach), ylim=(-reach, reach))
        ax.set_title(f"step {step}", fontsize=9)
    figure.tight_layout(pad=0.4)
    return figure


def _identities(ax, points, labels, size=34):
    people, index = np.unique(np.asarray(labels), return_inverse=True)
    few = [BLUE, ORANGE, "#7b4f9d"]  # away from the green and red of the forces
    colours = np.array(sns.color_palette(few if len(people) <= 3 else "husl", len(people)))[index]
    ax.scatter(*np.asarray(points).T, s=size, c=colours, edgecolors="white", linewidths=0.6, zorder=2)
    ax.set(xticks=[], yticks=[], aspect="equal")
    ax.margins(0.12)
    ax.grid(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)


# ------------------------------------------------------------------------------------------------------------- curves


def seed_dots(scores, xlabel="mAP (%)", reference=None):
    """A dot a seed and a bar at their mean. scores: dict of row -> dict of series -> values in percent, one a seed.

    `reference` is a (name, value) to compare with, drawn as a dashed line.
    """
    series = list(dict.fromkeys(name for row in scores.values() for name in row))
    colours = dict(zip(series, [BLUE, ORANGE, GREEN, RED, GREY]))
    figure, ax = plt.subplots(figsize=(7, 0.42 * len(scores) + 1.1))
    for y, row in enumerate(scores.values()):
        for name, values in row.items():
            if not len(values):
                continue
            place = y + 0.13 * (list(row).index(name) - (len(row) - 1) / 2) * 2
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
            [line["epoch"] for line in history], [line[name] for line in history], marker="o", markersize=3, label=name
        )
    ax.set(xlabel="epoch", ylabel="mean loss")
    ax.legend()
    figure.tight_layout()
    return figure


def distance_histogram(same, different, threshold=None, title=""):
    """Distances between images of the same person and of different people, each as a density."""
    figure, ax = plt.subplots(figsize=(6, 3))
    bins = np.linspace(0, max(np.max(same), np.max(different)), 60)
    for values, colour, name in ((different, RED, "different people"), (same, GREEN, "same person, another camera")):
        ax.hist(values, bins, density=True, color=colour, alpha=0.55, label=name)
    if threshold is not None:
        ax.axvline(threshold, color="black", linestyle="--", linewidth=1)
        ax.annotate(f" {threshold:.2f}", (threshold, ax.get_ylim()[1]), va="top", fontsize=9)
    ax.set(xlabel="distance between two embeddings", yticks=[], ylabel="share of pairs", title=title)
    ax.legend(fontsize=9)
    figure.tight_layout()
    return figure
