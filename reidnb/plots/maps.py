"""Points in the plane: maps of features, and what a loss does to points."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.patches import Patch

from reidnb.plots.figures import BLUE, GREEN, GREY, GROUPS, LINES, MARKERS, ORANGE, RED, finite
from reidnb.plots.pictures import as_picture


def plane(features, method: str = "tsne", perplexity: float = 15, seed: int = 0) -> np.ndarray:
    """Features (N, D) -> points (N, 2): t-SNE (van der Maaten and Hinton, 2008) from PCA's plane, or PCA alone."""
    if method not in ("tsne", "pca"):
        raise ValueError(f"method must be 'tsne' or 'pca', got {method!r}")
    finite(features, "features", (None, None))
    if method == "tsne" and not 1 < perplexity < len(features):
        raise ValueError(f"perplexity, about the neighbours of a point, must lie between 1 and {len(features)} points")
    if min(np.shape(features)) < 2:
        raise ValueError(f"a plane needs two points of two values at least, got features {np.shape(features)}")
    if method == "pca":
        from sklearn.decomposition import PCA

        return PCA(2, random_state=seed).fit_transform(features)
    from sklearn.manifold import TSNE

    return TSNE(perplexity=perplexity, random_state=seed, init="pca").fit_transform(features)


def picture_map(ax, points, images, groups, size: float = 0.45, known=None) -> dict:
    """Pictures at points (N, 2) of the plane, framed in one colour and line style for each value of `groups` (N,);
    None is grey -> dict of value -> a handle for the legend, labelled with the value.

    images: uint8 (N, 3, H, W). size: a picture's height in inches. known: all values there are, so that two maps agree
    although each shows some of them.
    """
    points = finite(points, "points", (len(images), 2))
    if len(groups) != len(points):
        raise ValueError(f"{len(groups)} groups for {len(points)} points")
    values = {group for part in (groups, known or ()) for group in part if group is not None}
    values = sorted(values, key=lambda group: (len(str(group)), str(group)))  # c10 after c9
    n, styles = len(GROUPS), LINES[:4]
    looks = {v: {"edgecolor": GROUPS[i % n], "linestyle": styles[(i + i // n) % 4]} for i, v in enumerate(values)}
    ax.scatter(*points.T, s=0)  # sets the limits
    for point, image, group in zip(points, images, groups):
        image = as_picture(image)
        picture = OffsetImage(image, zoom=72 * size / len(image), interpolation="antialiased")
        frame = looks.get(group, {"edgecolor": GREY}) | {"linewidth": 1.8, "boxstyle": "square,pad=0"}
        ax.add_artist(AnnotationBbox(picture, point, pad=0, bboxprops=frame))
    ax.margins(0.07)
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    return {v: Patch(facecolor="white", linewidth=1.8, label=str(v), **look) for v, look in looks.items()}


def embedding_map(sides: dict, legend: str = "", method: str = "tsne", perplexity: float = 15, seed: int = 0) -> Figure:
    """What a model makes of pictures, as maps side by side: who lies beside whom, and how far to believe it.

    sides: dict of a title ("people it was trained on", "new people") -> (features (N, D), images (N, 3, H, W), groups
    (N,)), a map each. The frames tell the groups: words, or None where nothing is known. With `legend`, its title, the
    words stand below each map; without (for identities, which the pictures show) they do not. Above it stands its
    trustworthiness (Venna and Kaski, 2001): 1 when the ten neighbours of every point are true ones, about a half when
    they are drawn by lot. A map of few people flatters: what is far away is not in it. `method`, `perplexity` and
    `seed` as `plane` takes them. Raises ValueError for fewer than five pictures, or where lengths differ.
    """
    from sklearn.manifold import trustworthiness

    if not sides:
        raise ValueError("sides must be a dict of title -> (features, images, groups), got an empty one")
    known = [group for *_, groups in sides.values() for group in groups]
    figure, axes = plt.subplots(1, len(sides), figsize=(6.5 * len(sides), 6.3), squeeze=False)
    for ax, (title, (features, images, groups)) in zip(axes.flat, sides.items()):
        if not len(features) == len(images) == len(groups) or len(images) < 5:
            counts = f"{len(features)} features, {len(images)} pictures and {len(groups)} groups"
            raise ValueError(f"a map needs five pictures or more, each with features and a group; {title}: {counts}")
        points = plane(features, method, perplexity, seed)
        handles = picture_map(ax, points, images, groups, known=known)
        trust = trustworthiness(features, points, n_neighbors=min(10, (len(images) - 1) // 2))
        ax.set_title(f"{title}, {len(images)} pictures, trustworthiness {trust:.2f}")
        if legend:
            below = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "ncols": 8, "frameon": False}
            ax.legend(handles=[*handles.values()], title=legend, title_fontsize="small", fontsize="small", **below)
    figure.tight_layout()
    return figure


def domain_maps(maps, domains, names=("source", "target"), titles=None) -> Figure:
    """Points in the plane, side by side: maps is a list of (N, 2), domains (N,) says 0 or 1."""
    if not len(maps) or (titles is not None and len(titles) != len(maps)):
        raise ValueError(f"{len(maps)} maps with {len(titles or ())} titles: there must be a map, and a title for each")
    domains = finite(domains, "domains", (None,))
    figure, axes = plt.subplots(1, len(maps), figsize=(4.6 * len(maps), 3.9), squeeze=False)
    for i, (ax, points) in enumerate(zip(axes[0], maps)):
        points = finite(points, "points", (len(domains), 2))
        for domain, (colour, marker) in enumerate(((ORANGE, "o"), (BLUE, "^"))):
            chosen = domains == domain
            look = {"s": 12, "color": colour, "marker": marker, "alpha": 0.6, "linewidths": 0}
            ax.scatter(*points[chosen].T, label=names[domain], **look)
        ax.set(xticks=[], yticks=[], title=titles[i] if titles else "")
        ax.grid(False)
        ax.spines[:].set(visible=True, color=GREY)
    axes[0, 0].legend(loc="best", markerscale=2)
    figure.tight_layout()
    return figure


def forces(ax, points, labels, slopes, title: str = "", bar: float | None = None) -> None:
    """What a loss does to points in the plane. points (N, 2), labels (N,); slopes (N, N): the loss's derivative by
    each pair's distance.

    A green line pulls its two points together and a red dashed one pushes them apart, as thick as the loss insists;
    arrows show where each point goes in sum. `bar`: a length, the loss's margin say, that is drawn below as a scale.
    """
    points = finite(points, "points", (len(labels), 2))
    slopes = finite(slopes, "slopes", (len(points), len(points)))
    slopes = slopes + slopes.T
    strongest = np.abs(slopes).max() or 1.0
    for i, j in np.argwhere(np.triu(np.abs(slopes) > 1e-9 * strongest, 1)):
        share = abs(slopes[i, j]) / strongest
        colour, line = (GREEN, "-") if slopes[i, j] > 0 else (RED, "--")
        look = {"linewidth": 0.4 + 2.6 * share, "alpha": 0.15 + 0.5 * share, "zorder": 1}
        ax.plot(*points[[i, j]].T, color=colour, linestyle=line, **look)
    away = points[:, None] - points
    unit = away / np.maximum(np.linalg.norm(away, axis=2, keepdims=True), 1e-9)
    moves = -(slopes[:, :, None] * unit).sum(1)
    longest = np.linalg.norm(moves, axis=1).max()
    if longest:
        moves = moves * 0.18 * np.ptp(points, axis=0).max() / longest
        look = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.006, "color": "black", "zorder": 3}
        ax.quiver(*points.T, *moves.T, **look)
        ax.update_datalim(points + moves)  # an arrow may leave the cloud of points
    _identities(ax, points, labels)
    ax.set_title(title, fontsize=9)
    if bar is not None:
        _scale_bar(ax, bar, points)


def filmstrip(points, labels, slopes, frames, steps, bar: float | None = None) -> Figure:
    """A row of pictures: the forces on some points, then what a network's plane looks like while the loss trains it.

    points, labels, slopes and `bar`, a scale in each picture, as in `forces`; frames: a list of (points (M, 2), labels
    (M,)), one for each of `steps`.
    """
    if not len(frames) or len(frames) != len(steps):
        raise ValueError(f"{len(frames)} frames for {len(steps)} steps: there must be one for each")
    widths = {"width_ratios": [1.4, *[1] * len(frames)]}
    figure, axes = plt.subplots(1, len(frames) + 1, figsize=(1.9 * len(frames) + 2.9, 2.7), gridspec_kw=widths)
    forces(axes[0], points, labels, slopes, "forces: green pulls, red pushes", bar)
    where = [finite(points, "points of a frame", (len(who), 2)) for points, who in frames]
    centred = [points - points.mean(0) for points in where]
    reach = 1.1 * max(np.abs(points).max() for points in centred) or 1.0  # collapsed: all in one place
    for ax, points, (_, who), step in zip(axes[1:], centred, frames, steps):
        _identities(ax, points, who, size=20)
        ax.set(xlim=(-reach, reach), ylim=(-reach, reach))
        ax.set_title(f"step {step}", fontsize=9)
        if bar is not None:
            _scale_bar(ax, bar, np.array([[-reach, -reach], [reach, reach]]))
    figure.tight_layout(pad=0.4)
    return figure


def weights_by_distance(panels: dict, columns: int = 5, xlabel: str = "distance") -> Figure:
    """A loss as its weight, the derivative by a pair's distance, against that distance, a panel a loss.

    panels: dict of a title -> (distances (M,), weights (M,), same (M,), true for pairs of one person). Above zero pairs
    are pulled, below it pushed, each as a share of the panel's largest, since there are so many more to push.
    Pairs without a weight are grey.
    """
    if not isinstance(panels, dict) or not panels:
        raise ValueError(f"panels must be a dict with something in it, got {panels!r:.80}")
    rows = -(-len(panels) // columns)
    shape = {"figsize": (2.3 * columns + 0.5, 2.25 * rows + 0.6), "sharex": True, "sharey": True, "squeeze": False}
    figure, axes = plt.subplots(rows, columns, **shape)
    for ax, (title, (distances, weights, same)) in zip(axes.flat, panels.items()):
        distances = finite(distances, f"distances of {title}", (None,))
        weights = finite(weights, f"weights of {title}", (len(distances),))
        largest = np.where(weights > 0, weights.max(), -weights.min())
        weights, same = weights / np.where(largest > 0, largest, 1.0), np.asarray(same, bool)
        silent = np.abs(weights) < 1e-6
        ax.axhline(0, color="0.6", linewidth=0.8, zorder=0)
        ax.scatter(distances[silent], weights[silent], s=4, color=GREY, alpha=0.3, linewidths=0)
        for chosen, colour, marker in ((~same, RED, "x"), (same, GREEN, "o")):
            some, look = chosen & ~silent, {"linewidths": 0.7 if marker == "x" else 0}
            ax.scatter(distances[some], weights[some], s=14, color=colour, marker=marker, alpha=0.6, **look)
        ax.set_title(title, fontsize=9)
        ax.set(ylim=(-1.12, 1.12), yticks=[-1, 0, 1])
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    for ax in axes[-1]:
        ax.set_xlabel(xlabel, fontsize=9)
    for ax in axes[:, 0]:
        ax.set_ylabel("push      pull", fontsize=9)
    for colour, marker, words in ((GREEN, "o", "one person"), (RED, "x", "two people"), (GREY, "o", "no weight")):
        axes[0, 0].scatter([], [], s=18, color=colour, marker=marker, label=words)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="upper right", ncols=3, fontsize=9, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.95))
    return figure


def _scale_bar(ax, length, points):
    """A bar as long as `length` below points, with its length as words."""
    low, high = points.min(0), points.max(0)
    y = low[1] - 0.14 * np.ptp(points, axis=0).max()
    start = low[0] if high[0] - low[0] > length else (low[0] + high[0] - length) / 2
    ax.plot([start, start + length], [y, y], color="black", linewidth=2.2, solid_capstyle="butt", clip_on=False)
    near = {"textcoords": "offset points", "fontsize": 7.5, "ha": "left", "va": "center", "annotation_clip": False}
    ax.annotate(f"{length:g}", (start + length, y), (4, 0), **near)


def _identities(ax, points, labels, size=34):
    """Points in a colour and a shape for each person."""
    people, labels = np.unique(np.asarray(labels)), np.asarray(labels)
    few = (BLUE, ORANGE, "#7b4f9d")  # away from the green and red of the forces
    colours = few if len(people) <= len(few) else GROUPS
    for i, person in enumerate(people):
        look = {"color": colours[i % len(colours)], "marker": MARKERS[(i + i // len(colours)) % len(MARKERS)]}
        ax.scatter(*points[labels == person].T, s=size, edgecolors="white", linewidths=0.6, zorder=2, **look)
    ax.set(xticks=[], yticks=[], aspect="equal")
    ax.margins(0.12)
    ax.grid(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
