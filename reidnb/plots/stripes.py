"""Horizontal stripes: what each sees and knows, which one is compared with which."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from reidnb.plots.figures import BLUE, GREEN, GREY, ORANGE, RED, finite
from reidnb.plots.pictures import as_picture, show_person


def stripe_maps(images, maps, stripes) -> Figure:
    """Pictures, the network's map laid over them, and what pooling leaves of it: a column of stripes.

    images (N, 3, H, W); maps (N, h, w), how strongly each cell answers; stripes (N, parts, c), shown as colours: their
    first three principal components over all stripes given, so that like features have like colours.
    """
    images = [as_picture(image) for image in images]
    maps = finite(maps, "maps", (len(images), None, None))
    stripes = finite(stripes, "stripes", (len(images), None, None))
    parts, flat = stripes.shape[1], stripes.reshape(-1, stripes.shape[2])
    if min(flat.shape) < 3:
        raise ValueError(f"three colours need three stripes of three values or more, got stripes {stripes.shape}")
    flat = flat - flat.mean(0)
    seen = flat @ np.linalg.svd(flat, full_matrices=False)[2][:3].T
    low, high = np.percentile(seen, [2, 98], axis=0)
    colours = np.clip((seen - low) / np.maximum(high - low, 1e-9), 0, 1).reshape(len(images), parts, 1, 3)
    height, width = images[0].shape[:2]
    extent = (0, width, height, 0)
    figure, axes = plt.subplots(1, 3 * len(images), figsize=(2.35 * len(images), 2.1), squeeze=False)
    for (plain, covered, pooled), image, cells, colour in zip(axes.reshape(-1, 3), images, maps, colours):
        show_person(plain, image)
        _cut(plain, height, parts, 0, width)
        show_person(covered, image)
        covered.imshow(cells, extent=extent, cmap="magma", alpha=0.65)
        pooled.imshow(np.broadcast_to(colour, (parts, 2, 3)), extent=extent)
        _cut(pooled, height, parts, 0, width)
        pooled.set(xticks=[], yticks=[])
        pooled.grid(False)
    for ax, title in zip(axes[0], ("picture", "map", "stripes")):
        ax.set_title(title, fontsize=8, pad=2)
    figure.tight_layout(pad=0.2, w_pad=0.2)
    return figure


def rigid_pairs(pairs, distances, titles) -> Figure:
    """Pairs of pictures side by side with each stripe's distance between them, as a bar and a number.

    pairs: list of (image, image); distances (len(pairs), parts), 0 or more; titles: one a pair. Lengths and colours are
    on the scale of the largest distance of all pairs: green below a third of it, red from two thirds on.
    """
    _one_each(pairs, distances=distances, titles=titles)
    distances = [finite(costs, f"distances of {title!r}", (None,)) for costs, title in zip(distances, titles)]
    most = max((costs.max(initial=0.0) for costs in distances), default=0.0) or 1.0
    figure, axes = plt.subplots(1, len(pairs), figsize=(2.5 * len(pairs), 2.9), squeeze=False)
    for ax, (a, b), costs, title in zip(axes[0], pairs, distances, titles):
        height, width, right = _side_by_side(ax, a, b, gap=1.3)
        edges = np.linspace(0, height, len(costs) + 1)
        room = right - width
        for top, bottom, cost in zip(edges, edges[1:], costs):
            share, middle = cost / most, (top + bottom) / 2
            colour = GREEN if share < 1 / 3 else GREY if share < 2 / 3 else RED
            bar = {"height": 0.72 * (bottom - top), "left": width + 0.05 * room, "color": colour, "zorder": 3}
            ax.barh(middle, 0.55 * room * share, **bar)
            ax.text(right - 0.06 * room, middle, f"{cost:.2f}", fontsize=7, ha="right", va="center", zorder=4)
        for x in (0, right):
            _cut(ax, height, len(costs), x, width)
        ax.set_title(title, fontsize=9)
    figure.tight_layout(pad=0.3, w_pad=0.8)
    return figure


def aligned_pair(ax, a, b, costs, path, limits: tuple[float, float] | None = None) -> None:
    """Two pictures and a line for each step of the path between their stripes (AlignedReID, figure 5).

    costs (H, W) as `alignment.stripe_costs` gives them, path as `alignment.shortest_path` does. A line is the thicker
    the more the loss listens to it: by 1 - cost^2, the slope of eq. 1, from the flattest to the steepest of `limits`,
    without them of the matrix.
    """
    slopes = 1 - finite(costs, "costs", (None, None)) ** 2
    height, width, right = _side_by_side(ax, a, b, gap=1.0)
    flattest, steepest = limits or (slopes.min(), slopes.max())
    weights = np.clip((slopes - flattest) / max(steepest - flattest, 1e-9), 0, 1)
    left_y, right_y = ((np.arange(n) + 0.5) * height / n for n in slopes.shape)
    for i, j in path:
        look = {"linewidth": 0.3 + 4 * weights[i, j], "alpha": 0.3 + 0.6 * weights[i, j]}
        ax.plot([width, right], [left_y[i], right_y[j]], color=BLUE, linestyle="-", **look)
    for n, x in zip(slopes.shape, (0, right)):
        _cut(ax, height, n, x, width)


def alignments(pairs, costs, paths, titles) -> Figure:
    """Pairs of pictures with their alignment and, below, the matrix of costs with its shortest path (figures 3 and 5);
    a dashed line is the way of rigid stripes. Thickness and shades are on one scale over all pairs.

    pairs: list of (image, image); costs: list of (H, W); paths: list of paths; titles: one a pair.
    """
    _one_each(pairs, costs=costs, paths=paths, titles=titles)
    figure, axes = plt.subplots(2, len(pairs), figsize=(2.3 * len(pairs), 4.9), squeeze=False)
    low, high = min(np.min(c) for c in costs), max(np.max(c) for c in costs)
    for (top, below), (a, b), matrix, path, title in zip(axes.T, pairs, costs, paths, titles):
        aligned_pair(top, a, b, matrix, path, (1 - high**2, 1 - low**2))
        top.set_title(title, fontsize=9)
        below.imshow(matrix, cmap="Greys", vmin=low, vmax=high)
        rows, columns = np.array(path).T
        below.plot(columns, rows, color=BLUE, linestyle="-", linewidth=2.2, marker="o", markersize=4)
        last, first = np.shape(matrix)[1] - 1, np.shape(matrix)[0] - 1
        below.plot([0, last], [0, first], color=ORANGE, linewidth=1, linestyle="--")
        below.set(xticks=[], yticks=[], xlabel="right picture's stripes")
        below.grid(False)
    axes[1, 0].set_ylabel("left picture's stripes")
    figure.tight_layout(pad=0.4, w_pad=0.6)
    return figure


def stripes_and_votes(image, edges, known, names, votes=None, label: str = "", limits=(None, None)) -> Figure:
    """A person cut into overlapping stripes and, beside them, what each stripe knows of each question.

    image (3, H, W); edges (stripes, 2): tops and bottoms as shares of the height; known (stripes, M), the brighter the
    more, NaN where nothing is known; names: M questions; votes: {title: the stripes elected in each question (seeds,
    M)}, two at most, shown as red dots and white diamonds; label: of the colour bar; limits: of its values.
    """
    edges, known, (height, width) = finite(edges, "edges", (None, 2)), np.asarray(known), as_picture(image).shape[:2]
    if known.shape != (len(edges), len(names)) or np.isnan(known).all():
        raise ValueError(f"known must hold numbers, {len(edges)} stripes by {len(names)} names; got {known.shape}")
    widths = {"width_ratios": [1.3, 5.2]}
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), gridspec_kw=widths, layout="constrained")
    show_person(left, image)
    for n, (top, bottom) in enumerate(edges * height):
        x = width * (1.1 + 0.22 * (n % 2))  # neighbours overlap: one beside the other
        look = {"color": (BLUE, ORANGE)[n % 2], "linestyle": "-", "linewidth": 9, "solid_capstyle": "butt"}
        left.plot([x, x], [top - 0.5 + height / 90, bottom - 0.5 - height / 90], clip_on=False, **look)
        words = {"fontsize": 8, "color": "white", "ha": "center", "va": "center"}
        left.text(x, (top + bottom) / 2 - 0.5, str(n + 1), **words)
    left.set(xlim=(-0.5, 1.4 * width), ylim=(height - 0.5, -0.5))
    shown = right.imshow(known, cmap="Greens", aspect="auto", vmin=limits[0], vmax=limits[1])
    figure.colorbar(shown, label=label, pad=0.02)
    looks = (
        {"color": RED, "edgecolors": "white", "marker": "o"},
        {"color": "white", "edgecolors": "black", "marker": "D"},
    )
    for (title, elected), look, up in zip((votes or {}).items(), looks, (-0.15, 0.2)):
        elected = finite(elected, f"votes of {title!r}", (None, len(names)))
        seeds, questions = np.indices(elected.shape)
        x = questions + min(0.2, 0.8 / len(elected)) * (seeds - (len(elected) - 1) / 2)
        right.scatter(x, elected + up, s=24, linewidths=0.7, zorder=3, label=title, **look)
    if votes:
        right.legend(fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), borderpad=0, ncols=len(votes))
    right.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=9)
    right.set_yticks(range(len(known)), range(1, len(known) + 1))
    right.set(ylabel="stripe")
    right.grid(False)
    return figure


def _one_each(pairs, **others):
    """Pairs of pictures, and one of everything else for each of them."""
    counts = {name: len(values) for name, values in others.items()}
    if not len(pairs) or set(counts.values()) != {len(pairs)}:
        said = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise ValueError(f"there must be a pair of pictures, and one of each for it; got {len(pairs)} pairs, {said}")


def _side_by_side(ax, a, b, gap):
    """Two pictures on one pair of axes -> their height, width, and where the right one starts."""
    a, b = as_picture(a), as_picture(b)
    height, width = a.shape[:2]
    right = (1 + gap) * width
    for image, x in ((a, 0), (b, right)):
        ax.imshow(image, extent=(x, x + width, height, 0), interpolation="antialiased")
    ax.set(xlim=(-0.5, right + width + 0.5), ylim=(height, 0), xticks=[], yticks=[])
    ax.grid(False)
    ax.spines[:].set_visible(False)
    return height, width, right


def _cut(ax, height, parts, left, width):
    """White lines between the stripes of a picture."""
    limits = ax.axis()
    ax.hlines(np.linspace(0, height, parts + 1)[1:-1], left, left + width, color="white", linewidth=0.7)
    ax.axis(limits)
