"""Pictures of tracklets: film strips with what each frame counts."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
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
