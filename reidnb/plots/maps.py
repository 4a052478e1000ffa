"""Features as a map in the plane: who lies beside whom, with a number that says how far to believe it."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.patches import Patch
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE, trustworthiness

from reidnb.attributes import ask
from reidnb.plots.look import GREY

__all__ = ["embedding_map", "picture_map", "plane"]


def plane(features, method="tsne", perplexity=15, seed=0):
    """Features (N, D) -> points (N, 2): t-SNE (van der Maaten and Hinton, 2008) from PCA's plane, or PCA alone."""
    if method == "pca":
        return PCA(2, random_state=seed).fit_transform(features)
    if method != "tsne":
        raise ValueError(f"method must be 'tsne' or 'pca', got {method!r}")
    if not 1 < perplexity < len(features):
        raise ValueError(f"perplexity, about the neighbours of a point, must lie between 1 and {len(features)} points")
    return TSNE(perplexity=perplexity, random_state=seed, init="pca").fit_transform(features)


def picture_map(ax, points, images, groups, size=0.45):
    """Pictures at points (N, 2) of the plane, framed in one colour for each value of `groups` (N,); None is grey.

    images: uint8 (N, 3, H, W). size: a picture's height in inches.
    """
    values = sorted({group for group in groups if group is not None})  # so that two maps agree
    colours = dict(zip(values, plt.get_cmap("hsv")(np.linspace(0, 1, len(values) + 1))))
    if len(values) <= 10:
        colours = dict(zip(values, plt.get_cmap("tab10").colors))
    ax.scatter(*np.asarray(points).T, s=0)  # sets the limits
    for point, image, group in zip(points, images, groups):
        picture = OffsetImage(image.transpose(1, 2, 0), zoom=72 * size / image.shape[1], interpolation="antialiased")
        frame = {"edgecolor": colours.get(group, GREY), "linewidth": 1.8, "boxstyle": "square,pad=0"}
        ax.add_artist(AnnotationBbox(picture, point, pad=0, bboxprops=frame))
    ax.margins(0.07)
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    return colours


def embedding_map(result, colour="identity", people=12, method="tsne", perplexity=15, seed=0, device=None, other=None):
    """What a kept run learned, as two maps side by side: people it was trained on, and people of the test.

    result: an `experiments.Result`. Of each side `people` are drawn by lot, with all their pictures. The frames tell
    the "identity", the "camera", or any attribute of the dataset by its name; above each map stands its
    trustworthiness (Venna and Kaski, 2001): 1 when the ten neighbours of every point are true ones, about a half when
    they are drawn by lot. A map of few people flatters: what is far away is not in it.

    With "domain" it is one map of two: the test's people beside those of `other`, a ReIDDataset opened at the same
    size, or, for a run on a pair "source->target", beside its training people. Raises ValueError where there is no
    other domain, no such attribute, or where people or pictures are too few.
    """
    data, rng = result.data(), np.random.default_rng(seed)
    if colour == "domain":
        maps = {"two domains, of each": _two_domains(data, other, people, rng)}
    else:
        sides = {"training": (data.train,), "test": (data.query, data.gallery)}
        maps = {
            side: _some_people(splits, people, colour, data.attribute_names, rng) for side, splits in sides.items()
        }
    figure, axes = plt.subplots(1, len(maps), figsize=(6.5 * len(maps), 6.3), squeeze=False)
    for ax, (side, (images, groups)) in zip(axes.flat, maps.items()):
        if len(images) < 5:
            raise ValueError(f"a map needs five pictures; {people} people of {side} have {len(images)}: take more")
        features = result.embed(images, device)
        points = plane(features, method, perplexity, seed)
        frames = picture_map(ax, points, images, groups)
        trust = trustworthiness(features, points, n_neighbors=min(10, (len(images) - 1) // 2))
        ax.set_title(f"{side}: {people} people, {len(images)} pictures, trustworthiness {trust:.2f}")
        if colour != "identity":
            handles = [Patch(color=frames[group], label=_words(data, colour, group)) for group in sorted(frames)]
            below = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "ncols": 8}
            ax.legend(handles=handles, title=colour, title_fontsize="small", fontsize="small", frameon=False, **below)
    figure.tight_layout()
    return figure


def _two_domains(data, other, people, rng):
    """Pictures of the test's people and of another domain's, and the names of the two."""
    if other is None and "->" not in data.name:
        raise ValueError(f"{data.name} is one domain: give `other` a dataset, or a run on a pair 'source->target'")
    source, _, target = data.name.rpartition("->")
    domains = {target: (data.query, data.gallery)}
    domains[other.name if other else source] = (other.query, other.gallery) if other else (data.train,)
    images = [_some_people(splits, people, "identity", (), rng)[0] for splits in domains.values()]
    return np.concatenate(images), np.repeat(list(domains), [len(part) for part in images]).tolist()


def _some_people(splits, people, colour, attribute_names, rng):
    """The pictures of some people, in all splits, and what their frames tell."""
    known = np.unique(np.concatenate([split.pids[split.pids > 0] for split in splits]))
    if len(known) < people:
        raise ValueError(f"{people} people were asked for, this side has {len(known)}")
    chosen = rng.choice(known, people, replace=False)
    images, labels = [], []
    for split in splits:
        here = split.select(np.isin(split.pids, chosen))
        images.append(here.images)
        labels += _labels(here, colour, attribute_names).tolist()
    return np.concatenate(images), labels


def _labels(split, colour, attribute_names):
    if colour == "identity":
        return split.pids
    if colour == "camera":
        return split.camids
    if colour not in attribute_names or split.attributes is None:
        known = ", ".join(("identity", "camera", "domain", *attribute_names))
        raise ValueError(f"colour {colour!r} is not known of these pictures; known: {known}")
    values = split.attributes[:, list(attribute_names).index(colour)]
    return np.where(values < 0, None, values)  # unknown


def _words(data, colour, group):
    if colour == "domain":
        return group
    return f"c{group + 1}" if colour == "camera" else ask(data).meaning(data.attribute_names.index(colour), group)
