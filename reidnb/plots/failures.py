"""Failures: who was taken for whom, between which cameras, and where in the picture."""

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns

from reidnb.plots.look import BLUE, GREEN, RED
from reidnb.plots.people import show_person

__all__ = ["camera_heat", "mistakes", "sensitivity"]


def mistakes(worst, query, gallery, titles):
    """Failed queries (blue) with the nearest wrong picture (red) and the nearest right one (green), columns of three.

    worst: a DataFrame as `failures.worst_queries` gives it; titles: one a query.
    """
    figure, axes = plt.subplots(3, len(worst), figsize=(1.25 * len(worst) + 0.7, 5.9), squeeze=False)
    for column, row, title in zip(axes.T, worst.itertuples(), titles):
        show_person(column[0], query.images[row.query], "", BLUE)
        column[0].set_title(title, fontsize=8)
        show_person(column[1], gallery.images[row.wrong], f"rank {row.wrong_rank}", RED)
        show_person(column[2], gallery.images[row.right], f"rank {row.rank}", GREEN)
    for ax, name in zip(axes[:, 0], ("query", "nearest\nof others", "nearest\nof the same")):
        ax.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    figure.tight_layout(pad=0.2, w_pad=0.3, h_pad=0.5)
    return figure


def camera_heat(scores):
    """mAP between cameras (C, C) as a heat map in percent, a row a query's camera."""
    names = [f"c{camera + 1}" for camera in range(len(scores))]
    figure, ax = plt.subplots(figsize=(0.62 * len(scores) + 1.6, 0.55 * len(scores) + 0.8))
    sns.heatmap(
        100 * scores,
        annot=True,
        fmt=".0f",
        cmap="crest",
        mask=np.isnan(scores),
        xticklabels=names,
        yticklabels=names,
        cbar_kws={"label": "mAP, %"},
        ax=ax,
    )
    ax.set(xlabel="camera searched in", ylabel="camera of the query")
    ax.tick_params(rotation=0)
    figure.tight_layout()
    return figure


def sensitivity(images, matches, maps, titles):
    """Pictures (blue), the matches they are compared with, and where each distance comes from: red speaks for the
    match, blue against it. images, matches (N, 3, H, W); maps (N, H, W) as `failures.occlusion_map` gives them."""
    figure, axes = plt.subplots(3, len(images), figsize=(1.25 * len(images) + 0.4, 6.3), squeeze=False)
    reach = max(np.abs(maps).max(), 1e-9)
    for (top, match, below), image, other, growth, title in zip(axes.T, images, matches, maps, titles):
        show_person(top, image, title, BLUE)
        show_person(match, other, "its match", GREEN)
        grey = image.mean(0)
        below.imshow(grey, cmap="gray", alpha=0.8)
        shown = below.imshow(growth, cmap="seismic", vmin=-reach, vmax=reach, alpha=0.55, interpolation="bilinear")
        below.set(xticks=[], yticks=[])
        below.grid(False)
    figure.tight_layout(pad=0.3, w_pad=0.3)
    bar = figure.colorbar(shown, ax=axes, fraction=0.025, pad=0.02)
    bar.set_label("the distance grows by, when covered", fontsize=8)
    return figure
