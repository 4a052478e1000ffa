"""Horizontal stripes: what each sees, which one is compared with which."""

import matplotlib.pyplot as plt
import numpy as np

from reidnb.plots.look import BLUE, GREEN, GREY, ORANGE, RED
from reidnb.plots.people import show_person

__all__ = ["aligned_pair", "alignments", "rigid_pairs", "stripe_maps"]


def stripe_maps(images, maps, stripes):
    """Pictures, the network's map laid over them, and what pooling leaves of it: a column of stripes.

    images (N, 3, H, W); maps (N, h, w), how strongly each cell answers; stripes (N, parts, c), shown as colours: their
    first three principal components over all stripes given, so that like features have like colours.
    """
    parts = stripes.shape[1]
    flat = stripes.reshape(-1, stripes.shape[2]) - stripes.reshape(-1, stripes.shape[2]).mean(0)
    seen = flat @ np.linalg.svd(flat, full_matrices=False)[2][:3].T
    low, high = np.percentile(seen, [2, 98], axis=0)
    colours = np.clip((seen - low) / (high - low), 0, 1).reshape(len(images), parts, 1, 3)
    height, width = images.shape[2:]
    extent = (0, width, height, 0)
    figure, axes = plt.subplots(1, 3 * len(images), figsize=(2.35 * len(images), 2.1), squeeze=False)
    for line, image, cells, colour in zip(axes.reshape(-1, 3), images, maps, colours):
        show_person(line[0], image)
        _cut(line[0], height, parts, 0, width)
        show_person(line[1], image)
        line[1].imshow(cells, extent=extent, cmap="magma", alpha=0.65)
        line[2].imshow(np.broadcast_to(colour, (parts, 2, 3)), extent=(0, width, height, 0))
        _cut(line[2], height, parts, 0, width)
        line[2].set(xticks=[], yticks=[])
        line[2].grid(False)
    for ax, title in zip(axes[0], ("picture", "map", "stripes")):
        ax.set_title(title, fontsize=8, pad=2)
    figure.tight_layout(pad=0.2, w_pad=0.2)
    return figure


def rigid_pairs(pairs, distances, titles):
    """Pairs of pictures side by side with each stripe's distance between them, as a bar and a number.

    pairs: list of (image, image); distances (len(pairs), parts), in [0, 1); titles: one a pair. The widest bar is the
    stripe that differs most.
    """
    figure, axes = plt.subplots(1, len(pairs), figsize=(2.5 * len(pairs), 2.9), squeeze=False)
    for ax, (a, b), costs, title in zip(axes[0], pairs, distances, titles):
        height, width, right = _side_by_side(ax, a, b, gap=1.3)
        edges = np.linspace(0, height, len(costs) + 1)
        middle, reach = (width + right) / 2, 0.9 * (right - width)
        for top, bottom, cost in zip(edges, edges[1:], costs):
            thick = 0.72 * (bottom - top)
            ax.barh(
                (top + bottom) / 2, cost * reach, thick, middle - cost * reach / 2, color=_shade(cost), zorder=3
            )
            ax.text(middle, (top + bottom) / 2, f"{cost:.2f}", fontsize=7, ha="center", va="center", zorder=4)
        for x in (0, right):
            _cut(ax, height, len(costs), x, width)
        ax.set_title(title, fontsize=9)
    figure.tight_layout(pad=0.3, w_pad=0.8)
    return figure


def aligned_pair(ax, a, b, costs, path):
    """Two pictures and a line for each step of the path between their stripes (AlignedReID, figure 5).

    costs (H, W) as `alignment.stripe_costs` gives them, path as `alignment.shortest_path` does. A line is the thicker
    the more the loss listens to it: by 1 - cost^2, the slope of eq. 1, from the matrix's flattest to its steepest.
    """
    height, width, right = _side_by_side(ax, a, b, gap=1.0)
    slopes = 1 - np.asarray(costs, float) ** 2
    weights = (slopes - slopes.min()) / max(np.ptp(slopes), 1e-9)
    left_y, right_y = ((np.arange(n) + 0.5) * height / n for n in slopes.shape)
    for i, j in path:
        weight = weights[i, j]
        ax.plot(
            [width, right],
            [left_y[i], right_y[j]],
            color=BLUE,
            linewidth=0.3 + 4 * weight,
            alpha=0.3 + 0.6 * weight,
        )
    for n, x in zip(slopes.shape, (0, right)):
        _cut(ax, height, n, x, width)


def alignments(pairs, costs, paths, titles):
    """Pairs of pictures with their alignment and, below, the matrix of costs with its shortest path (figures 3 and 5).

    pairs: list of (image, image); costs: list of (H, W); paths: list of paths; titles: one a pair.
    """
    figure, axes = plt.subplots(2, len(pairs), figsize=(2.3 * len(pairs), 4.9), squeeze=False)
    low, high = min(np.min(c) for c in costs), max(np.max(c) for c in costs)
    for (top, below), (a, b), matrix, path, title in zip(axes.T, pairs, costs, paths, titles):
        aligned_pair(top, a, b, matrix, path)
        top.set_title(title, fontsize=9)
        below.imshow(matrix, cmap="Greys", vmin=low, vmax=high)
        rows, columns = np.array(path).T
        below.plot(columns, rows, color=BLUE, linewidth=2.2, marker="o", markersize=4)
        last, first = np.shape(matrix)[1] - 1, np.shape(matrix)[0] - 1
        below.plot([0, last], [0, first], color=ORANGE, linewidth=1, linestyle="--")
        below.set(xticks=[], yticks=[], xlabel="right picture's stripes")
        below.grid(False)
    axes[1, 0].set_ylabel("left picture's stripes")
    figure.tight_layout(pad=0.4, w_pad=0.6)
    return figure


def _side_by_side(ax, a, b, gap):
    """Two pictures on one pair of axes -> their height, width, and where the right one starts."""
    a, b = (np.asarray(image).transpose(1, 2, 0) for image in (a, b))
    height, width = a.shape[:2]
    right = (1 + gap) * width
    for image, x in ((a, 0), (b, right)):
        ax.imshow(image, extent=(x, x + width, height, 0), interpolation="antialiased")
    ax.set(xlim=(-0.5, right + width + 0.5), ylim=(height, 0), xticks=[], yticks=[])
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    return height, width, right


def _shade(cost):
    """From green, alike, over grey to red, different."""
    return GREEN if cost < 0.35 else GREY if cost < 0.5 else RED


def _cut(ax, height, parts, left, width):
    """White lines between the stripes of a picture."""
    ax.hlines(np.linspace(0, height, parts + 1)[1:-1], left, left + width, color="white", linewidth=0.7)
