"""Scores, training, distances, gains and tables of numbers: curves, dots, bars and heat maps."""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reidnb.plots.figures import BLUE, GREEN, GREY, ORANGE, RED, finite, series_look

NO_LOSSES = ("epoch", "lr", "seconds", "length", "active_triplets", "active_anchors")  # what else a line of history has
VERDICTS = {  # how a verdict begins: its colour and its mark
    "holds": (GREEN, "o"),
    "holds, smaller": (GREEN, "^"),
    "no effect": (GREY, "s"),
    "opposite": (RED, "X"),
    "undecided": (ORANGE, "v"),
    "one run": (BLUE, "P"),
}
UNKNOWN = ("black", "*")
TICKS = (-50, -10, -5, -2, 0, 2, 5, 10, 50)


def seed_dots(scores, xlabel: str = "mAP (%)", reference=None, row: float = 0.42) -> Figure:
    """A dot a seed and a bar at their mean. scores: dict of row -> dict of series -> values in percent, one a seed; a
    series that was not run is an empty list.

    `reference` is a (name, value) to compare with, drawn as a dashed line; `row` the height of a row in inches.
    """
    _some(scores, "scores")
    looks = {name: {} for line in scores.values() for name in line}
    for i, name in enumerate(looks):
        look = series_look(i)
        looks[name] = {"color": look["color"], "marker": look["marker"]}
    figure, ax = plt.subplots(figsize=(7, row * len(scores) + 1.1))
    for y, (label, line) in enumerate(scores.items()):
        for i, (name, values) in enumerate(line.items()):
            if not len(values):
                continue
            values, place = finite(values, f"scores of {label}", (None,)), y + 0.26 * (i - (len(line) - 1) / 2)
            ax.scatter(values, [place] * len(values), s=18, alpha=0.6, linewidths=0, **looks[name])
            bar = {**looks[name], "marker": "|"}
            ax.scatter(values.mean(), place, s=130, linewidths=2.5, **bar)
    for name, look in looks.items():
        ax.scatter([], [], s=30, label=name, **look)
    if reference is not None:
        name, value = reference
        ax.axvline(value, color="black", linestyle="--", linewidth=1, zorder=0, label=name)
    ax.set(yticks=range(len(scores)), yticklabels=list(scores), xlabel=xlabel, ylim=(len(scores) - 0.5, -0.5))
    if len(looks) > 1 or reference is not None:
        ax.legend(fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(looks) + 1)
    figure.tight_layout()
    return figure


def histories(runs, columns, colours=None) -> Figure:
    """Training side by side. runs: dict of name -> history (as `train` returns it); columns: dict of a key of its
    lines -> title, one picture each; colours: one a run. A run without a key is left out of that picture."""
    _some(runs, "runs")
    figure, axes = plt.subplots(1, len(_some(columns, "columns")), figsize=(3.6 * len(columns), 2.9), squeeze=False)
    for ax, (key, title) in zip(axes[0], columns.items()):
        for i, (name, history) in enumerate(runs.items()):
            lines = [line for line in history if key in line]
            values = finite([line[key] for line in lines], f"{key!r} in the history of {name}") if lines else []
            look = series_look(i, colours[i] if colours else None)
            ax.plot([line["epoch"] for line in lines], values, markersize=3, label=name, **look)
        if not any(len(line.get_xdata()) for line in ax.lines):
            known = sorted({name for history in runs.values() for line in history for name in line})
            raise ValueError(f"no history has {key!r}; they have {', '.join(known)}")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set(xlabel="epoch", title=title, ylim=(0, None))
    axes[0, 0].legend(fontsize=9)
    figure.tight_layout()
    return figure


def cmc_curves(scores, ranks: int = 20) -> Figure:
    """CMC curves: scores is a dict name -> Scores. A curve ends where its gallery does."""
    figure, ax = plt.subplots(figsize=(5.2, 3.3))
    for i, (name, s) in enumerate(_some(scores, "scores").items()):
        found = finite(s.cmc, f"the CMC of {name}", (None,))[:ranks]
        label = f"{name} (mAP {100 * s.mAP:.1f})"
        ax.plot(np.arange(1, len(found) + 1), 100 * found, markersize=3, label=label, **series_look(i))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    wanted = "queries with a right image\namong the first k (%)"
    ax.set(xlabel="rank k", ylabel=wanted, ylim=(0, 101), xlim=(0.5, ranks + 0.5))
    ax.legend(loc="lower right", fontsize=9)
    figure.tight_layout()
    return figure


def training_curves(history, words=None) -> Figure:
    """Loss terms by epoch: history as `train` returns it; words: dict of a term -> what the legend calls it."""
    if not history:
        raise ValueError("the history is empty: nothing was trained")
    terms = [name for name in history[0] if name not in NO_LOSSES]
    terms = terms[:1] if len(terms) == 2 else terms  # with one term the sum is that term
    figure, ax = plt.subplots(figsize=(5.2, 2.8))
    for i, name in enumerate(terms):
        values = finite([line[name] for line in history], f"{name!r} in the history")
        label = (words or {}).get(name, name.replace("_", " "))
        ax.plot([line["epoch"] for line in history], values, markersize=3, label=label, **series_look(i))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="epoch", ylabel="mean loss")
    ax.legend()
    figure.tight_layout()
    return figure


def distance_histogram(same, different, threshold: float | None = None, title: str = "") -> Figure:
    """Distances between images of the same person and of different people, each as a density."""
    same, different = finite(same, "same"), finite(different, "different")
    figure, ax = plt.subplots(figsize=(6, 3))
    bins = np.linspace(0, max(same.max(), different.max()), 60)
    for values, colour, hatch, name in (
        (different, RED, "////", "different people"),
        (same, GREEN, None, "same person, another camera"),
    ):
        look = {"color": colour, "alpha": 0.55, "hatch": hatch, "edgecolor": "white", "linewidth": 0}
        ax.hist(values.ravel(), bins, density=True, histtype="stepfilled", label=name, **look)
    if threshold is not None:
        ax.axvline(threshold, color="black", linestyle="--", linewidth=1)
        ax.annotate(f" {threshold:.2f}", (threshold, ax.get_ylim()[1]), va="top", fontsize=9)
    ax.set(xlabel="distance between two embeddings", yticks=[], ylabel="share of pairs")
    ax.set_title(title, pad=26)  # above the legend
    ax.legend(fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    figure.tight_layout()
    return figure


def verdict_look(verdict: str) -> tuple[str, str]:
    """Colour and mark of a verdict of the ledger; black and a star for one that is not known here."""
    starts = [start for start in VERDICTS if verdict.startswith(start)]
    return VERDICTS[max(starts, key=len)] if starts else UNKNOWN


def claim_bars(ledger, width: int = 62) -> Figure:
    """Gains in the direction claimed, with their 95 % intervals: what lies right of zero as a whole, holds.

    ledger: rows of `experiments.claims()`. A diamond is the paper's gain. Within five points of zero the axis is
    linear, beyond logarithmic.
    """
    rows = _that_ran(ledger)
    labels = ["\n".join(textwrap.wrap(f"{row.statement} [{_settings(row)}]", width)) for row in rows.itertuples()]
    lines = sum(label.count("\n") + 1 for label in labels)
    figure, ax = plt.subplots(figsize=(9, 0.15 * lines + 0.08 * len(rows) + 1.2))
    place, places = 0.0, []
    for label, row in zip(labels, rows.itertuples()):
        place += 0.5 * (label.count("\n") + 1) + 0.5
        places.append(place)
        ours, paper = (row.sign * gain + row.slack for gain in (row.gain, row.paper_gain))
        _gain(ax, ours, place, row, "x")
        ax.scatter(paper, place, marker="D", s=26, facecolors="none", edgecolors="black", zorder=3)  # NaN: not drawn
        place += 0.5 * (label.count("\n") + 1)
    ax.axvline(0, color="black", linewidth=1)
    limits = ax.get_xlim()
    ax.set_xscale("symlog", linthresh=5)
    ax.set_xticks([tick for tick in TICKS if limits[0] <= tick <= limits[1]])
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set(yticks=places, xlabel="points in the direction claimed")
    ax.set_yticklabels(labels, fontsize=8)
    ax.set_ylim(place + 0.5, 0)
    ax.scatter([], [], marker="D", s=26, facecolors="none", edgecolors="black", label="the paper's gain")
    _verdict_legend(ax, rows, loc="lower right", bbox_to_anchor=(1, 1), ncols=4)
    figure.tight_layout()
    return figure


def paper_and_ours(ledger, reach: float = 30.0, width: int = 70) -> Figure:
    """The papers' gains and ours, a row a claim by its name, on one linear axis: a diamond is the paper's gain, a mark
    ours with its interval, a line between them how far they are apart; the widest apart first. Open marks are
    photographs. What lies beyond `reach` points stands at the edge as an arrow, with its number."""
    rows = _that_ran(ledger)
    rows = rows[rows.paper_gain.notna()]
    if rows.empty:
        raise ValueError("no claim that ran has a paper's gain to compare with")
    rows = rows.loc[(rows.sign * (rows.gain - rows.paper_gain)).sort_values().index]
    names = ["\n".join(textwrap.wrap(f"{row.statement} [{_settings(row)}]", width)) for row in rows.itertuples()]
    figure, ax = plt.subplots(figsize=(9, 0.33 * len(rows) + 1.2))
    for y, row in enumerate(rows.itertuples()):
        drawn = row.dataset.startswith("synthetic") and "->market" not in row.dataset
        ends = np.clip([row.paper_gain, row.gain], -reach, reach)
        ax.plot(ends, [y, y], color=GREY, linewidth=1, linestyle="-", zorder=1)
        ax.scatter(ends[0], y, marker="D", s=26, facecolors="none", edgecolors="black", zorder=3)
        if abs(row.gain) <= reach:
            _gain(ax, row.gain, y, row, "x", markerfacecolor=None if drawn else "white")
        else:
            edge = {"xytext": (-30 if row.gain > 0 else 6, 2), "textcoords": "offset points", "fontsize": 7.5}
            ax.scatter(ends[1], y, marker=">" if row.gain > 0 else "<", color=verdict_look(row.verdict)[0], s=36)
            ax.annotate(f"{row.gain:+.0f}", (ends[1], y), **edge)
    ax.axvline(0, color="black", linewidth=0.8, zorder=0)
    ax.set_yticks(range(len(rows)), names, fontsize=7.5)
    ax.set(xlim=(-reach - 1, reach + 1), ylim=(len(rows) - 0.4, -0.6), xlabel="gain, points")
    ax.grid(axis="y", visible=False)
    ax.scatter([], [], marker="D", s=26, facecolors="none", edgecolors="black", label="the paper's gain")
    if not all(dataset.startswith("synthetic") for dataset in rows.dataset):
        ax.scatter([], [], marker="o", facecolors="white", edgecolors="black", label="open: photographs")
    _verdict_legend(ax, rows, loc="lower right", bbox_to_anchor=(1, 1), ncols=4)
    figure.tight_layout()
    return figure


def claim_seeds(row, method, rival) -> Figure:
    """One claim from near. row: of the ledger (a Series); method, rival: its scores in percent by seed, two Series of
    which the seeds that both have are drawn, or (seeds,) each in the order of the seeds. Left both runs, a line a seed;
    right each seed's gain, their mean with the ledger's interval, and the paper's gain as a diamond."""
    if hasattr(method, "align") and hasattr(rival, "align"):
        method, rival = method.align(rival, join="inner")
    seeds = [*getattr(method, "index", range(len(method)))]
    count = min(len(method), len(rival))
    if not count:
        raise ValueError(f"claim {row.id!r} has no runs of one seed on both sides: there is nothing to draw")
    method, rival = (finite(np.asarray(values)[:count], "scores", (count,)) for values in (method, rival))
    gains = method - rival
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.9), width_ratios=(2, 3))
    for seed in range(count):
        left.plot([0, 1], [rival[seed], method[seed]], "o-", color=BLUE, alpha=0.6, markersize=4)
        left.annotate(str(seeds[seed]), (1, method[seed]), (6, -3), textcoords="offset points", fontsize=7.5)
    names = ["\n".join(textwrap.wrap(str(name), 24)) for name in (row.baseline, row.method)]
    left.set_xticks([0, 1], names, fontsize=8)
    left.set(xlim=(-0.3, 1.3), ylabel=f"{row.metric}, %")
    right.scatter(gains, np.zeros(count), color=BLUE, alpha=0.6, s=18, label="a seed's gain")
    _gain(right, row.gain, -1, row, "x")
    if not np.isnan(row.paper_gain):
        diamond = {"marker": "D", "s": 30, "facecolors": "none", "edgecolors": "black"}
        right.scatter(row.paper_gain, -1, **diamond, label="the paper's gain")
    right.axvline(0, color="black", linewidth=0.8)
    right.set_yticks([0, -1], ["each seed", f"mean: {row.verdict}"], fontsize=8)
    right.set(ylim=(-1.7, 0.7), xlabel="gain, points")
    right.grid(axis="y", visible=False)
    right.legend(fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    figure.suptitle("\n".join(textwrap.wrap(f"{row.statement} [{_settings(row)}]", 110)), x=0.01, ha="left", fontsize=9)
    figure.tight_layout()
    return figure


def camera_heat(scores) -> Figure:
    """mAP between cameras (C, C), NaN where nothing was searched, as a heat map in percent, a row a query's camera."""
    scores = np.asarray(scores, float)
    if scores.ndim != 2 or len(set(scores.shape)) != 1 or np.isnan(scores).all():
        raise ValueError(
            f"scores must be a square of cameras with a number in it, got {scores.shape} of {scores!r:.80}"
        )
    import seaborn as sns

    names = [f"c{camera + 1}" for camera in range(len(scores))]
    figure, ax = plt.subplots(figsize=(0.62 * len(scores) + 1.6, 0.55 * len(scores) + 0.8))
    look = {"annot": True, "fmt": ".0f", "cmap": "crest", "cbar_kws": {"label": "mAP, %"}}
    sns.heatmap(100 * scores, mask=np.isnan(scores), xticklabels=names, yticklabels=names, ax=ax, **look)
    ax.set(xlabel="camera searched in", ylabel="camera of the query")
    ax.tick_params(rotation=0)
    ax.grid(False)
    figure.tight_layout()
    return figure


def cooccurrence(matrices, names) -> Figure:
    """Which statements are true together. matrices: dict of title -> (K, K) correlations; names: K of them."""
    _some(matrices, "matrices")
    import seaborn as sns

    k, size = len(names), (4.6 * len(matrices), 4.3)
    figure, axes = plt.subplots(1, len(matrices), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for ax, (title, matrix) in zip(axes[0], matrices.items()):
        matrix, last = finite(matrix, f"the correlations of {title}", (k, k)), ax is axes[0, -1]
        look = {"cmap": "vlag", "vmin": -1, "vmax": 1, "square": True, "linewidths": 0.5, "cbar": last}
        bar = {"label": "correlation", "shrink": 0.8}
        sns.heatmap(matrix, mask=np.eye(k, dtype=bool), ax=ax, cbar_kws=bar if last else None, **look)
        ax.set_xticks(np.arange(k) + 0.5, names, rotation=60, ha="right", fontsize=8)
        ax.set_yticks(np.arange(k) + 0.5, names, rotation=0, fontsize=8)
        ax.set_title(title)
        ax.grid(False)
    return figure


def _some(mapping, name):
    """A dict that is not empty."""
    if not isinstance(mapping, dict) or not mapping:
        raise ValueError(f"{name} must be a dict with something in it, got {mapping!r:.80}")
    return mapping


def _settings(row):
    """Where a claim was tested, and under which profile where it is not the usual one."""
    return row.dataset if row.profile in ("quick", "full") else f"{row.dataset}, {row.profile}"


def _that_ran(ledger):
    rows = ledger[ledger.seeds > 0]
    if rows.empty:
        raise ValueError(f"of these {len(ledger)} rows of the ledger none has runs: there is nothing to draw")
    return rows


def _gain(ax, x, y, row, direction, **look):
    """A row of the ledger as a mark with its interval along x or y."""
    colour, marker = verdict_look(row.verdict)
    spread = 0 if np.isnan(row.spread) else row.spread
    look = {key: value for key, value in look.items() if value is not None}
    look |= {"color": colour, "fmt": marker, "markersize": 6, "capsize": 2, "linewidth": 2}
    ax.errorbar(x, y, **{f"{direction}err": spread}, **look)


def _verdict_legend(ax, rows, **place):
    order = [*VERDICTS.values(), UNKNOWN]
    for verdict in sorted(set(rows.verdict), key=lambda verdict: (order.index(verdict_look(verdict)), verdict)):
        colour, marker = verdict_look(verdict)
        ax.scatter([], [], color=colour, marker=marker, label=verdict)
    ax.legend(fontsize=9, **place)
