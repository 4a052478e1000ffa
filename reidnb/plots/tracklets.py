"""Pictures of tracklets: film strips with what each frame counts, and flow in colours."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure

from reidnb.plots.figures import BLUE, ORANGE, finite
from reidnb.plots.pictures import show_person

BARS = ({"facecolor": BLUE}, {"facecolor": ORANGE, "hatch": "////"})


def film_strips(
    strips: Sequence[np.ndarray], weights: Sequence | dict | None = None, titles: Sequence[str] | None = None
) -> Figure:
    """Tracklets as rows of frames, above each frame a bar that says how much it counts.

    strips: a list of frames (n, 3, H, W). weights: a list of (n,) from 0 on, one a strip, or a dict of words -> such a
    list, of at most two kinds, whose bars stand side by side; bars of a strip are as high as their share of its
    heaviest. titles: one a strip, or None. ValueError where counts differ.
    """
    kinds = weights if isinstance(weights, dict) else {"": weights} if weights is not None else {}
    if not len(strips) or len(kinds) > 2 or any(len(each) != len(strips) for each in kinds.values()):
        raise ValueError(f"{len(strips)} strips want as many weights, of at most two kinds; got {len(kinds)} kinds")
    if titles is not None and len(titles) != len(strips):
        raise ValueError(f"{len(titles)} titles for {len(strips)} strips")
    columns, (high, wide) = max(len(strip) for strip in strips), strips[0].shape[2:]
    cell = 0.42
    tall, bar, named = cell * high / wide, 0.32 if kinds else 0.02, 0.24 if titles is not None else 0.08
    said, words = [word for word in kinds if word], 0.34
    figure = plt.figure(figsize=(cell * columns + 0.1, len(strips) * (tall + bar + named) + words * bool(said)))
    rows = figure.add_gridspec(3 * len(strips), columns, height_ratios=[named, bar, tall] * len(strips))
    for r, strip in enumerate(strips):
        if titles is not None:
            title = figure.add_subplot(rows[3 * r, :])
            title.axis("off")
            title.text(0, 0.15, titles[r], fontsize=8.5, va="bottom")
        shares = [finite(each[r], f"weights of strip {r}", (len(strip),)) for each in kinds.values()]
        for c, frame in enumerate(strip):
            show_person(figure.add_subplot(rows[3 * r + 2, c]), frame)
            if shares:
                ax = figure.add_subplot(rows[3 * r + 1, c])
                for k, values in enumerate(shares):
                    ax.bar(k, values[c] / max(values.max(), 1e-12), **BARS[k], width=0.8, edgecolor="white")
                ax.set(ylim=(0, 1), xlim=(-0.7, len(shares) - 0.3), xticks=[], yticks=[])
                ax.spines["left"].set_visible(False)
                ax.grid(False)
    bottom = words * bool(said) / figure.get_figheight()
    if said:
        figure.legend(
            [plt.Rectangle((0, 0), 1, 1, **look) for look in BARS], said, loc="lower center", ncols=2, fontsize=8.5
        )
    figure.subplots_adjust(left=0.01, right=0.99, top=0.995, bottom=bottom + 0.005, hspace=0, wspace=0.06)
    return figure


def flow_colours(flow: np.ndarray, most: float) -> np.ndarray:
    """A flow (H, W, 2), right and down, as colours (H, W, 3) from 0 to 1: the hue says where to, and the fuller it is
    the farther; `most` pixels and more are full, white stays where it is."""
    x, y = np.moveaxis(np.asarray(flow, np.float64), -1, 0)
    full = np.clip(np.hypot(x, y) / most, 0, 1)
    return hsv_to_rgb(np.stack([np.arctan2(y, x) / (2 * np.pi) % 1, full, np.ones_like(full)], -1))


def flow_grid(columns: dict[str, Sequence[np.ndarray]], most: float | None = None) -> Figure:
    """Frames uint8 (3, H, W) and flows (h, w, 2) in pixels, of any sizes, side by side under the words of `columns`,
    which are of one length, and a wheel of colours as a legend; arrows say the same where the mean of a square is more
    than half a pixel.

    most: pixels of the fullest colour; None: what 98 of 100 cells stay below. ValueError where lengths differ.
    """
    if len({len(cells) for cells in columns.values()}) != 1 or not all(map(len, columns.values())):
        raise ValueError(f"columns of one length, of one row at least; got {[len(c) for c in columns.values()]}")
    flows = [cell for cells in columns.values() for cell in cells if cell.shape[-1] == 2]
    lengths = np.concatenate([np.hypot(*np.moveaxis(flow, -1, 0)).ravel() for flow in flows] or [np.ones(1)])
    most, rows = most or max(float(np.quantile(lengths, 0.98)), 1.0), len(next(iter(columns.values())))
    figure = plt.figure(figsize=(0.95 * len(columns) + 1.5, 1.9 * rows + 0.35))
    grid = figure.add_gridspec(rows, len(columns) + 1, width_ratios=[1] * len(columns) + [1.4])
    for c, (title, cells) in enumerate(columns.items()):
        for r, cell in enumerate(cells):
            ax = figure.add_subplot(grid[r, c])
            if cell.shape[-1] == 2:
                ax.imshow(flow_colours(cell, most), interpolation="nearest", extent=(0, 32, 64, 0))
                _arrows(ax, cell)
                ax.axis("off")
            else:
                show_person(ax, cell)
            if r == 0:
                ax.set_title(title, fontsize=8)
    ax = figure.add_subplot(grid[0, -1])
    y, x = np.mgrid[-1:1:101j, -1:1:101j]
    wheel = np.where((np.hypot(x, y) <= 1)[..., None], flow_colours(np.stack([x, y], -1), 1.0), 1.0)
    ax.imshow(wheel, extent=(-1, 1, 1, -1))
    ax.set_title("goes to ...", fontsize=8)
    ax.text(0, 1.15, f"rim: {most:.1f} pixels", fontsize=8, ha="center", va="top")
    ax.axis("off")
    figure.subplots_adjust(left=0.01, right=0.99, top=1 - 0.3 / figure.get_figheight(), bottom=0.01, wspace=0.08)
    return figure


def _arrows(ax, flow, apart=8):
    """One in each square of `apart` pixels of a frame of 64 x 32, as long as the mean flow there."""
    height, width = flow.shape[:2]
    down, across = max(apart * height // 64, 1), max(apart * width // 32, 1)
    means = flow.reshape(height // down, down, width // across, across, 2).mean((1, 3))
    rows, columns = np.mgrid[: means.shape[0], : means.shape[1]]
    places = (columns + 0.5) * 32 / means.shape[1], (rows + 0.5) * 64 / means.shape[0]
    some = np.hypot(*np.moveaxis(means, -1, 0)) > 0.5
    x, y = (place[some] for place in places)
    ax.quiver(x, y, *means[some].T, angles="xy", scale_units="xy", scale=1, width=0.02, color="black", alpha=0.7)
