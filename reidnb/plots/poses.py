"""Bodies by their key points, and the parts that are cut from them."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from reidnb.plots.figures import BLUE, GREEN, LINES, ORANGE, RED, finite
from reidnb.plots.pictures import show_person
from reidnb.synthetic import KEYPOINTS

BONES = [("head_top", "neck")] + [
    (f"{side}_{a}" if a != "neck" else a, f"{side}_{b}")
    for side in ("left", "right")
    for a, b in (("neck", "shoulder"), ("shoulder", "elbow"), ("elbow", "wrist"))
    + (("neck", "hip"), ("hip", "knee"), ("knee", "ankle"))
]
FRAMES = ("#ffffff", ORANGE, "#56b4e9", GREEN, "#c979a6", RED, BLUE)  # of parts, over pictures


def skeletons(rows, points, titles=None, row_labels=None, height: float = 1.9) -> Figure:
    """Pictures with the bones between their key points: the person's left solid and blue, the right dashed and orange,
    a cross where a point is not seen.

    rows: rows of pictures; points: for each row key points (N, 14, 3) in pixels of the pictures.
    """
    rows = [list(row) for row in rows]
    figure, axes = _grid(rows, height)
    for r, (row, bodies) in enumerate(zip(rows, points)):
        for c, (image, body) in enumerate(zip(row, bodies)):
            show_person(axes[r, c], image, titles[c] if titles and not r else "")
            _bones(axes[r, c], finite(body, "key points", (len(KEYPOINTS), 3)))
        if row_labels:
            axes[r, 0].set_ylabel(row_labels[r], rotation=0, ha="right", va="center", fontsize=9)
    figure.tight_layout(pad=0.2, w_pad=0.1, h_pad=0.3)
    return figure


def _bones(ax, body):
    limits = ax.get_xlim(), ax.get_ylim()
    at = {name: body[i] for i, name in enumerate(KEYPOINTS)}
    for a, b in BONES:
        if at[a][2] >= 0.5 and at[b][2] >= 0.5:
            right = b.startswith("right")
            look = {"color": ORANGE, "linestyle": "--"} if right else {"color": "#56b4e9", "linestyle": "-"}
            ax.plot(*zip(at[a][:2] - 0.5, at[b][:2] - 0.5), linewidth=1.5, **look)
    seen = body[:, 2] >= 0.5
    ax.plot(*(body[seen, :2] - 0.5).T, "o", color="white", markersize=2.2, markeredgecolor="black", markeredgewidth=0.4)
    ax.plot(*(body[~seen, :2] - 0.5).T, "x", color=RED, markersize=4, markeredgewidth=1.2)
    ax.set(xlim=limits[0], ylim=limits[1])


def parts_over(images, maps, names, parts=None, titles=None, height: float = 1.9) -> Figure:
    """Pictures with the frames of their parts and, with `parts` (N, P, 3, H, W), what is in each beside them.

    maps: affine maps (N, P, 2, 3) from a part to the picture, both in [-1, 1]; names: of the P parts. Without `parts`
    the pictures stand in one row, with `titles`.
    """
    maps = finite(maps, "maps", (len(images), len(names), 2, 3))
    cells = [[image, *parts[i]] for i, image in enumerate(images)] if parts is not None else [list(images)]
    figure, axes = _grid(cells, height)
    heads = list(titles or [""] * len(images)) if parts is None else ["", *(n.replace(" ", "\n", 1) for n in names)]
    for r, row in enumerate(cells):
        for c, image in enumerate(row):
            framed = parts is None or c == 0
            show_person(axes[r, c], image, heads[c] if r == 0 else "")
            if framed:
                _frames(axes[r, c], maps[c if parts is None else r], np.shape(image))
            for spine in axes[r, c].spines.values() if not framed else ():
                spine.set(visible=True, color=FRAMES[(c - 1) % len(FRAMES)], linewidth=2)
    if parts is None:
        handles = [plt.Line2D([], [], label=name, **_look(p)) for p, name in enumerate(names)]
        look = {"facecolor": "0.35", "labelcolor": "white", "framealpha": 1}
        figure.legend(
            handles=handles, loc="lower center", ncols=len(names), fontsize=8, bbox_to_anchor=(0.5, -0.12), **look
        )
    figure.tight_layout(pad=0.2, w_pad=0.1, h_pad=0.3)
    return figure


def _frames(ax, maps, shape):
    """The outline of each part; those that are the whole picture are left out."""
    limits = ax.get_xlim(), ax.get_ylim()
    height, width = shape[1:] if shape[0] == 3 else shape[:2]
    corners = np.array([[-1, 1, 1, -1, -1], [-1, -1, 1, 1, -1], [1, 1, 1, 1, 1]])
    for p, one in enumerate(maps):
        if not np.allclose(one, np.eye(2, 3)):
            x, y = (one @ corners + 1) * np.array([[width], [height]]) / 2 - 0.5
            ax.plot(x, y, **_look(p))
    ax.set(xlim=limits[0], ylim=limits[1])


def _look(p):
    return {"color": FRAMES[p % len(FRAMES)], "linestyle": LINES[p % len(LINES)], "linewidth": 1.6}


def _grid(cells, height):
    if not cells or not cells[0]:
        raise ValueError("there are no pictures to draw")
    shape = np.shape(cells[0][0])
    height_of, width_of = shape[1:] if shape[0] == 3 else shape[:2]
    columns = len(cells[0])
    size = (1.1 * height * width_of / height_of * columns + 0.4, (height + 0.2) * len(cells) + 0.2)
    figure, axes = plt.subplots(len(cells), columns, figsize=size, squeeze=False)
    return figure, axes
