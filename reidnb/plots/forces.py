"""What a loss does to points in the plane."""

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns

from reidnb.plots.look import BLUE, GREEN, ORANGE, RED

__all__ = ["filmstrip", "forces"]


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
        ax.quiver(
            *points.T, *moves.T, angles="xy", scale_units="xy", scale=1, width=0.006, color="black", zorder=3
        )
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
