"""Pictures of people in rows and grids: rankings, triplets, mistakes, styles, cards."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from reidnb.evaluation import valid_gallery
from reidnb.plots.figures import BLUE, GREEN, GREY, RED, finite

BADGES = {GREEN: "✓", RED: "✗"}  # right and wrong, for eyes that do not tell the colours apart


def as_picture(image) -> np.ndarray:
    """A picture as matplotlib draws it: (3, H, W) or (H, W, 3), uint8 or floats from 0 to 1 -> (H, W, 3)."""
    array = np.asarray(image)
    if array.ndim == 3 and array.shape[0] == 3:
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise ValueError(f"a picture must have the shape (3, H, W) or (H, W, 3), got {np.shape(image)}")
    if array.dtype != np.uint8 and not (array.dtype.kind == "f" and array.min() >= 0 and array.max() <= 1):
        raise ValueError(f"a picture must be uint8, or floats from 0 to 1 without NaN; got {array.dtype}")
    return array


def show_person(ax, image, title: str = "", colour: str | None = None) -> None:
    """One picture on the axes, framed in `colour`; a green frame gets a tick, a red one a cross."""
    ax.imshow(as_picture(image), interpolation="antialiased")
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    ax.set_title(title, fontsize=8, pad=3.5, color="dimgray" if colour == GREY else colour or "black")
    for spine in ax.spines.values():
        spine.set(visible=colour is not None, color=colour, linewidth=2.5)
    if colour in BADGES:
        box = {"boxstyle": "square,pad=0.15", "facecolor": colour, "edgecolor": "none"}
        place = {"transform": ax.transAxes, "ha": "right", "va": "bottom"}
        ax.text(1, 0, BADGES[colour], color="white", fontsize=6.5, bbox=box, **place)


def picture_grid(cells, titles=None, frames=None, row_labels=None, height=1.25, width=None, pads=(0.1, 0.1)) -> Figure:
    """The grid of pictures under all the others.

    cells: rows of pictures, as `as_picture` takes them; None leaves a place empty, and rows may be of unequal length.
    titles, frames: rows of words and of colours (or None) for the same places, or None for none at all; row_labels:
    one a row, or None. height, width: of a picture in inches; without a width, as the first picture asks. pads:
    between columns and rows, in font sizes. ValueError where there is no picture, or where lengths differ.
    """
    cells = [list(row) for row in cells]
    present = [image for row in cells for image in row if image is not None]
    if not present:
        raise ValueError("there are no pictures to draw")
    titles, frames = (_fitting(rows, cells, name) for rows, name in ((titles, "titles"), (frames, "frames")))
    if row_labels is not None and len(row_labels) != len(cells):
        raise ValueError(f"{len(row_labels)} row labels for {len(cells)} rows")
    columns, shape = max(map(len, cells)), as_picture(present[0]).shape
    lines = [max((1 + (title or "").count("\n") if title else 0 for title in row), default=0) for row in titles]
    width = width or 1.08 * height * shape[1] / shape[0]
    label_room = 0.15 + 0.07 * max((len(line) for label in row_labels or () for line in label.split("\n")), default=0)
    size = (width * columns + label_room, height * len(cells) + 0.18 * sum(lines) + 0.1)
    figure, axes = plt.subplots(len(cells), columns, figsize=size, squeeze=False)
    for r, row in enumerate(cells):
        for c, ax in enumerate(axes[r]):
            if c < len(row) and row[c] is not None:
                show_person(ax, row[c], titles[r][c] or "", frames[r][c])
            else:  # not axis("off"): a row's label stands beside an empty place, too
                ax.set(xticks=[], yticks=[])
                ax.grid(False)
                ax.spines[:].set_visible(False)
        if row_labels is not None:
            axes[r, 0].set_ylabel(row_labels[r], rotation=0, ha="right", va="center", fontsize=9)
    figure.tight_layout(pad=0.2, w_pad=pads[0], h_pad=pads[1])
    return figure


def picture_row(images, titles=None, colours=None, height: float = 1.7) -> Figure:
    """Pictures side by side, each with its title and framed in its colour (or None)."""
    titles, colours = (None if each is None else [list(each)] for each in (titles, colours))
    return picture_grid([images], titles, colours, height=height, pads=(0.3, 0))


def people_grid(rows, row_labels=None, column_labels=None, height: float = 1.25) -> Figure:
    """A grid of pictures: rows is a list of lists of images (an empty place is None)."""
    rows = [list(row) for row in rows]
    titles = None
    if column_labels is not None:
        titles = [list(column_labels), *([None] * len(row) for row in rows[1:])]
    return picture_grid(rows, titles, None, row_labels, height)


def rankings(query, gallery, distances, rows, top: int = 10) -> Figure:
    """Ranking lists: each row a query (blue) and its nearest gallery images, right ones in green with a tick, wrong
    ones in red with a cross. A list ends where the gallery does.

    query, gallery: Splits, or anything with images (N, 3, H, W), pids and camids. distances: (Q, G). rows: which
    queries. What the protocol ignores (junk, same person in the same camera) is left out, as in the evaluation.
    """
    if top < 1:
        raise ValueError(f"top must be at least 1, got {top}")
    rows, distances = _indices(rows, len(query.pids), "rows"), np.asarray(distances)
    if distances.shape != (len(query.pids), len(gallery.pids)):
        wanted = (len(query.pids), len(gallery.pids))
        raise ValueError(f"distances must have the shape {wanted}, queries by gallery; got {distances.shape}")
    cells, titles, frames = [], [], []
    for q in rows:
        line = finite(distances[q], f"distances of query {q}")
        seen = np.flatnonzero(valid_gallery(query.pids[q], query.camids[q], gallery.pids, gallery.camids))
        order = seen[np.argsort(line[seen], kind="stable")][:top]
        right = gallery.pids[order] == query.pids[q]
        cells.append([query.images[q], *gallery.images[order]])
        ranks = [f"{rank}: {line[g]:.2f}" for rank, g in enumerate(order, 1)]
        titles.append([f"query c{query.camids[q] + 1}", *ranks])
        frames.append([BLUE, *np.where(right, GREEN, RED)])
    return picture_grid(cells, titles, frames, height=1.4, pads=(0.3, 0.6))


TRIPLET = ("anchor", "farthest\nof the same", "nearest\nof the others")


def triplet_rows(images, anchors, positives, negatives, distances, names=TRIPLET, truth=None) -> Figure:
    """Triplets as columns of pictures, with their distances: anchor (blue), positive (green), negative (grey, or red
    with a cross where it lies no farther than the positive).

    images (N, 3, H, W); anchors, positives, negatives: indices (T,); distances (N, N). With `truth`, labels (N,), a
    positive that shows somebody else is framed red.
    """
    n, named = len(images), zip((anchors, positives, negatives), ("anchors", "positives", "negatives"))
    anchors, positives, negatives = (_indices(values, n, name) for values, name in named)
    distances = finite(distances, "distances", (n, n))
    if not len(anchors) == len(positives) == len(negatives):
        raise ValueError(f"{len(anchors)} anchors, {len(positives)} positives and {len(negatives)} negatives")
    near, far = distances[anchors, positives], distances[anchors, negatives]
    right = np.ones(len(anchors), bool) if truth is None else np.equal(*(np.asarray(truth)[[anchors, positives]]))
    cells = [[images[i] for i in line] for line in (anchors, positives, negatives)]
    titles = [[""] * len(anchors), *([f"{value:.2f}" for value in line] for line in (near, far))]
    frames = [[BLUE] * len(anchors), np.where(right, GREEN, RED), np.where(near >= far, RED, GREY)]
    return picture_grid(cells, titles, frames, names, height=1.5, pads=(0.2, 0.4))


def mistakes(worst, query, gallery, titles) -> Figure:
    """Failed queries (blue) with the nearest wrong picture (red) and the nearest right one (green), columns of three.

    worst: a DataFrame as `failures.worst_queries` gives it; titles: one a query.
    """
    lines = list(worst.itertuples())
    pictures = query.images, gallery.images, gallery.images
    cells = [[side[getattr(row, which)] for row in lines] for side, which in zip(pictures, ("query", "wrong", "right"))]
    ranks = [[f"rank {getattr(row, rank)}" for row in lines] for rank in ("wrong_rank", "rank")]
    frames = [[colour] * len(lines) for colour in (BLUE, RED, GREEN)]
    names = ("query", "nearest\nof others", "nearest\nof the same")
    return picture_grid(cells, [list(titles), *ranks], frames, names, height=1.7, width=1.2, pads=(0.3, 0.4))


def style_grid(images, camids, rows, row_labels=None, height: float = 1.3) -> Figure:
    """People as every camera would have taken them; what a camera really took is framed in blue and called real.

    images (N, 3, H, W) and the cameras that took them (N,). rows: an array of copies (N, C, 3, H, W), or several, one
    below the other for each person, with `row_labels`.
    """
    kinds = [rows] if isinstance(rows, np.ndarray) and rows.ndim == 5 else [np.asarray(kind) for kind in rows]
    shapes = {kind.shape[:2] for kind in kinds}
    if len(shapes) != 1 or kinds[0].ndim != 5 or not len(images) == len(camids) == len(kinds[0]):
        found = f"copies {[kind.shape for kind in kinds]} of {len(images)} images by {len(camids)} cameras"
        raise ValueError(f"rows must be copies (N, C, 3, H, W) of all N images; got {found}")
    if row_labels is not None and len(row_labels) != len(kinds):
        raise ValueError(f"{len(row_labels)} row labels for {len(kinds)} kinds of copies")
    cameras = kinds[0].shape[1]
    cells, titles, frames = [], [], []
    for person, camid in enumerate(np.asarray(camids)):
        for k, kind in enumerate(kinds):
            cells.append([images[person] if c == camid else kind[person, c] for c in range(cameras)])
            frames.append([BLUE if c == camid else None for c in range(cameras)])
            names = [f"c{c + 1}" if len(cells) == 1 else "" for c in range(cameras)]
            real = ["real" if c == camid and not k else "" for c in range(cameras)]
            titles.append([" ".join(filter(None, pair)) for pair in zip(names, real)])
    labels = None if row_labels is None else [*row_labels] * len(images)
    return picture_grid(cells, titles, frames, labels, height, pads=(0.1, 0.7))


def attribute_cards(images, cards, titles=None) -> Figure:
    """Pictures, each with a card of what is said of it. cards: a list of (words, right) for each picture; `right` is
    True (green, a tick), False (red, a cross) or None (grey, a dash: nobody said it, but it is so)."""
    if len(cards) != len(images):
        raise ValueError(f"{len(cards)} cards for {len(images)} pictures")
    figure = picture_grid([images], None if titles is None else [list(titles)], height=2.75, width=2.45)
    for ax, card in zip(figure.axes, cards):
        ax.set_anchor("W")
        for line, (words, right) in enumerate(card):
            colour, sign = {True: (GREEN, "✓"), False: (RED, "✗"), None: ("dimgray", "–")}[right]
            place = (1.06, 0.97 - 0.09 * line)
            ax.text(*place, f"{sign} {words}", transform=ax.transAxes, color=colour, fontsize=8, va="top")
    figure.subplots_adjust(left=0.01, right=0.9, top=0.92, bottom=0.02, wspace=0.45)
    return figure


def sensitivity(images, matches, maps, titles) -> Figure:
    """Pictures (blue), the matches they are compared with, and where each distance comes from: red speaks for the
    match, blue against it. images, matches (N, 3, H, W); maps (N, H, W) as `failures.occlusion_map` gives them."""
    if not len(images) == len(matches) == len(maps) == len(titles):
        counts = f"{len(images)} images, {len(matches)} matches, {len(maps)} maps, {len(titles)} titles"
        raise ValueError(f"each picture needs a match, a map and a title; got {counts}")
    grey = [plt.Normalize(0, 255 if np.asarray(i).dtype == np.uint8 else 1)(as_picture(i).mean(2)) for i in images]
    grey = [np.repeat(np.asarray(image)[:, :, None], 3, 2) for image in grey]
    named = [list(titles), ["its match"] * len(images), [""] * len(images)]
    frames = [[colour] * len(images) for colour in (BLUE, GREEN, None)]
    figure = picture_grid([images, matches, grey], named, frames, height=1.9, width=1.2, pads=(0.3, 0.3))
    maps = finite(maps, "maps", (len(images), *grey[0].shape[:2]))
    reach, axes = max(np.abs(maps).max(), 1e-9), figure.axes
    for ax, growth in zip(axes[2 * len(images) :], maps):
        look = {"cmap": "seismic", "vmin": -reach, "vmax": reach, "alpha": 0.55, "interpolation": "bilinear"}
        shown = ax.imshow(growth, **look)
    bar = figure.colorbar(shown, ax=axes, fraction=0.025, pad=0.02)
    bar.set_label("the distance grows by, when covered", fontsize=8)
    return figure


def _fitting(rows, cells, name):
    """Words or colours, one for each place of `cells`; None is none anywhere."""
    if rows is None:
        return [[None] * len(row) for row in cells]
    rows = [list(row) for row in rows]
    if [len(row) for row in rows] != [len(row) for row in cells]:
        raise ValueError(f"{name} for {[len(row) for row in rows]} places, pictures in {[len(row) for row in cells]}")
    return rows


def _indices(values, count, name):
    """Indices of `count` things as an int array."""
    array = np.asarray(values)
    if array.ndim != 1 or not array.size or array.dtype.kind not in "iu":
        raise ValueError(f"{name} must be a list of indices, got {array.dtype} of shape {array.shape}")
    if array.min() < -count or array.max() >= count:
        raise ValueError(f"{name} must lie below {count}, got {array.min()} to {array.max()}")
    return array
