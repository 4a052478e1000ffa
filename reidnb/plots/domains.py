"""Two domains: a person in every camera's style, and where two domains lie among each other."""

import matplotlib.pyplot as plt
import numpy as np

from reidnb.plots.look import BLUE, GREY, ORANGE
from reidnb.plots.people import show_person

__all__ = ["domain_maps", "style_grid"]


def style_grid(images, camids, rows, row_labels=None, height=1.3):
    """People as every camera would have taken them; what a camera really took is framed in blue.

    images (N, 3, H, W) and the cameras that took them (N,). rows: an array of copies (N, C, 3, H, W), or several, one
    below the other for each person, with `row_labels`.
    """
    rows = [rows] if isinstance(rows, np.ndarray) else list(rows)
    count, cameras = rows[0].shape[:2]
    figure, axes = plt.subplots(
        count * len(rows),
        cameras,
        figsize=(0.53 * height * cameras + 1.1, height * count * len(rows) + 0.3),
        squeeze=False,
    )
    for line, ax_row in enumerate(axes):
        person, kind = divmod(line, len(rows))
        for camera, ax in enumerate(ax_row):
            real = camera == camids[person]
            picture = images[person] if real else rows[kind][person, camera]
            title = f"c{camera + 1}" if line == 0 else ""
            show_person(ax, picture, title, BLUE if real else None)
        if row_labels:
            ax_row[0].set_ylabel(row_labels[kind], rotation=0, ha="right", va="center", fontsize=8)
    figure.tight_layout(pad=0.2, w_pad=0.1, h_pad=0.1)
    return figure


def domain_maps(maps, domains, names=("source", "target"), titles=None):
    """Points in the plane, side by side: maps is a list of (N, 2), domains (N,) says 0 or 1."""
    figure, axes = plt.subplots(1, len(maps), figsize=(4.6 * len(maps), 3.9), squeeze=False)
    for i, (ax, points) in enumerate(zip(axes[0], maps)):
        for domain, colour in enumerate((ORANGE, BLUE)):
            chosen = domains == domain
            ax.scatter(*points[chosen].T, s=9, color=colour, alpha=0.6, label=names[domain], linewidths=0)
        ax.set(xticks=[], yticks=[], title=titles[i] if titles else "")
        ax.grid(False)
        for spine in ax.spines.values():
            spine.set(visible=True, color=GREY)
    axes[0, 0].legend(loc="best", markerscale=2)
    figure.tight_layout()
    return figure
