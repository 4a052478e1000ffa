"""People: rows and grids of pictures, rankings, triplets."""

import matplotlib.pyplot as plt
import numpy as np

from reidnb.evaluation import seen_by
from reidnb.plots.look import BLUE, GREEN, GREY, RED

__all__ = ["people_grid", "picture_row", "rankings", "show_person", "triplet_rows"]


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
    figure, axes = plt.subplots(
        1, len(images), figsize=(0.55 * height * len(images), height + 0.25), squeeze=False
    )
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
        seen = seen_by(query.pids[q], query.camids[q], gallery.pids, gallery.camids)
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
