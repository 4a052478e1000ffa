"""Why a method gains or does not: one thing changed at a time, in a picture, a network, or the distance at test."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from reidnb import evaluation
from reidnb.alignment import local_distance_matrix
from reidnb.batches import make_batch
from reidnb.datasets import ReIDDataset, redraw
from reidnb.evaluation import euclidean_distances
from reidnb.inference import embed
from reidnb.methods.stripes import horizontal_pooling
from reidnb.network import Output
from reidnb.runtime import choose_device
from reidnb.synthetic import ATTRIBUTES, PARTS, Shot, World, draw, shape_of
from reidnb.training import Batch, evaluate_terms

DISTANCES = ("global", "rigid", "aligned")
CURES = {  # a difficulty of a shot in the built-in world: what takes it away
    "occlusion": {"occluder": ""},
    "box": {"dx": 0.0, "dy": 0.0, "scale": 1.0},
    "company": {"company": 0.0},
}


# --------------------------------------------------------------------------------------------- what a stripe looks at


def receptive_field(backbone: nn.Module, images: np.ndarray, device=None) -> np.ndarray:
    """How much each row of a picture matters to each row of the map: the mean size of the gradient -> float32 (h, H),
    every row of it summing to 1. Exactly 0 where a row of the map does not look.

    images: uint8 (N, 3, H, W), over which it is a mean.
    """
    device = choose_device(device)
    was_training = backbone.training
    backbone.to(device).eval()
    pixels = make_batch(images, np.arange(len(images)), device=device).requires_grad_()
    cells = backbone(pixels).float()
    rows = []
    for row in range(cells.shape[2]):
        (gradient,) = torch.autograd.grad(cells[:, :, row].sum(), pixels, retain_graph=True)
        rows.append(gradient.abs().mean((0, 1, 3)))
    backbone.train(was_training)
    seen = torch.stack(rows)
    return (seen / seen.sum(1, keepdim=True)).cpu().numpy()


class WithStripes(nn.Module):
    """A model that says "local" too: what its own head says, else horizontal pooling of its map, which no loss ever
    looked at as stripes."""

    def __init__(self, model: nn.Module, parts: int):
        super().__init__()
        self.model, self.parts = model, parts

    def forward(self, images: torch.Tensor) -> Output:
        said = self.model(images)
        return said if "local" in said else Output(said, local=horizontal_pooling(said.map.float(), self.parts))


def stripes_of(model: nn.Module, images: np.ndarray, parts: int = 8, device=None, flip: bool = True) -> np.ndarray:
    """Stripes of unit length -> float32 (N, parts, C), see WithStripes. A picture is averaged with its mirror image
    with `flip`."""
    return embed(WithStripes(model, parts), images, device, flip=flip, compare="local").numpy()


def band_response(model: nn.Module, images: np.ndarray, bands: int = 8, parts: int = 8, device=None) -> np.ndarray:
    """How far each stripe moves when one band of the picture is painted over with the picture's mean colour -> float32
    (bands, parts), mean Euclidean distances between stripes of unit length. If stripe i saw band i alone it would be a
    diagonal."""
    before = stripes_of(model, images, parts, device, flip=False)
    edges = np.linspace(0, images.shape[2], bands + 1).astype(int)
    mean, moved = images.mean((2, 3), keepdims=True).round().astype(np.uint8), []
    for top, bottom in zip(edges, edges[1:]):
        painted = images.copy()
        painted[:, :, top:bottom] = mean
        after = stripes_of(model, painted, parts, device, flip=False)
        moved.append(np.linalg.norm(after - before, axis=2).mean(0))
    return np.stack(moved).astype(np.float32)


def gradient_norms(model: nn.Module, terms: Sequence, pixels: torch.Tensor, batch: Batch) -> dict[str, float]:
    """How hard each term of a loss pulls at the map that all share -> the norm of its gradient there, by its name in
    history. Their ratio, not that of the losses, says what a weight (lambda) does.

    pixels: a batch as `batches.make_batch` gives it; batch: who is in it. A copy of the model looks at it, so that a
    batch norm in training learns nothing from the question, and a term's memory neither.
    """
    model, terms = copy.deepcopy((model, terms))
    output = model(pixels)
    values = evaluate_terms(terms, output, batch)
    pulls = {
        name: torch.autograd.grad(term, output.map, retain_graph=True, allow_unused=True)[0]
        for name, term in values.items()
    }
    return {name: 0.0 if pull is None else float(pull.norm()) for name, pull in pulls.items()}


# ------------------------------------------------------------------------------------------------ the distance at test


def distances_by(query: tuple[np.ndarray, np.ndarray], gallery: tuple[np.ndarray, np.ndarray]) -> dict[str, np.ndarray]:
    """The "global" distance, and the "rigid" and "aligned" ones of stripes, as means over the cells of a path ->
    (Q, G) each. query, gallery: their features (N, D) and stripes (N, H, C)."""
    parts = query[1].shape[1]
    cells = {"rigid": np.float32(parts), "aligned": np.float32(2 * parts - 1)}
    found = {"global": np.asarray(euclidean_distances(query[0], gallery[0]))}
    for kind, count in cells.items():
        found[kind] = local_distance_matrix(query[1], gallery[1], kind == "aligned") / count
    return found


def stripes_at_test(
    model: nn.Module, data: ReIDDataset, parts: int = 8, compare: str = "embedding", device=None
) -> dict[str, evaluation.Scores]:
    """Scores of one model by its global feature, by its stripes, rigid or aligned, and by the sum of both -> a dict of
    Scores: "global", "rigid", "aligned", "global + rigid", "global + aligned". Whatever stripes gain here they gain at
    the test alone."""
    sides = (_look(model, split.images, parts, device, compare) for split in (data.query, data.gallery))
    found = distances_by(*sides)
    found |= {f"global + {kind}": found["global"] + found[kind] for kind in DISTANCES[1:]}
    return {name: evaluation.evaluate(matrix, *data.ids) for name, matrix in found.items()}


def _look(model, images, parts, device, compare="embedding"):
    """The global feature (N, D) and the stripes (N, parts, C) of pictures, by one pass through the model."""
    whole, local = embed(WithStripes(model, parts), images, device, compare=(compare, "local"))
    return F.normalize(whole.flatten(1)).numpy(), local.numpy()


# -------------------------------------------------------------------------------------------------- pictures drawn anew


def cured(
    describe: Callable[[np.ndarray], np.ndarray], data: ReIDDataset, rows: Sequence[int], gallery: np.ndarray
) -> pd.DataFrame:
    """Queries drawn anew with one difficulty taken away at a time -> DataFrame, a row a query: its average precision as
    it is ("as seen"), by each of CURES, and with "all" of them.

    describe: pictures uint8 (N, 3, H, W) -> features (N, D), `Result.embed` for one. gallery: the features of
    data.gallery. ValueError for a dataset of photographs.
    """
    rows, query_pids, query_camids = np.asarray(rows), data.query.pids[rows], data.query.camids[rows]
    cures = CURES | {"all": {name: value for cure in CURES.values() for name, value in cure.items()}}
    columns = {"query": rows}
    for name, changes in {"as seen": {}, **cures}.items():
        features = describe(redraw(data, "query", rows, **changes))
        ids = query_pids, data.gallery.pids, query_camids, data.gallery.camids
        columns[name] = evaluation.evaluate_features(features, gallery, *ids).ap
    return pd.DataFrame(columns)


def slid_boxes(
    model: nn.Module, data: ReIDDataset, rows: Sequence[int], shares=(0.0, 0.1, 0.2, 0.3), parts: int = 8, device=None
) -> pd.DataFrame:
    """What a box that slides down does to distances -> DataFrame, a row a share and a distance (DISTANCES): the mean
    distance to the nearest picture of the "same" person by another camera and to the nearest "other", and how often the
    former is the smaller ("rank1").

    rows: queries, drawn anew with their boxes perfect but for the slide, of `shares` of the height. ValueError for a
    dataset of photographs, and for queries without an answer.
    """
    rows = np.asarray(rows)

    gallery, out = _look(model, data.gallery.images, parts, device), []
    same, seen = data.query.pids[rows, None] == data.gallery.pids, data.gallery.pids != -1
    other_camera = data.query.camids[rows, None] != data.gallery.camids
    if not (same & other_camera).any(1).all():
        raise ValueError("some of these queries have no answer in the gallery")
    for share in shares:
        pictures = redraw(data, "query", rows, **CURES["box"] | {"dy": float(share)})
        slid = _look(model, pictures, parts, device)
        for kind, matrix in distances_by(slid, gallery).items():
            right = np.where(same & other_camera, matrix, np.inf).min(1)
            wrong = np.where(~same & seen, matrix, np.inf).min(1)
            numbers = right.mean(), wrong.mean(), (right < wrong).mean()
            out.append([share, kind, *map(float, numbers)])
    return pd.DataFrame(out, columns=["share", "distance", "same", "other", "rank1"])


def off_and_on(world: World, shot: Shot, attribute: str) -> tuple[np.ndarray, np.ndarray]:
    """A shot drawn twice, uint8 (H, W, 3) each: one attribute of its person off, and on; all else stays as it is.

    ValueError for a stranger's shot, and for an attribute that nobody in the world has.
    """
    if attribute not in ATTRIBUTES:
        raise ValueError(f"unknown attribute {attribute!r}: one of {', '.join(ATTRIBUTES)}")
    if not 0 < shot.subject <= len(world.people):
        raise ValueError(f"the shot shows nobody with attributes (subject {shot.subject})")
    person, k, pictures = world.people[shot.subject - 1], ATTRIBUTES.index(attribute), []
    for value in (0, 1):
        labels = (*person.labels[:k], value, *person.labels[k + 1 :])
        other = replace(person, labels=labels, **shape_of(attribute, value, world.dials))
        people = tuple(other if each.pid == person.pid else each for each in world.people)
        pictures.append(draw(replace(world, people=people), shot).image)
    return pictures[0], pictures[1]


def background_share(growth: np.ndarray, mask: np.ndarray) -> float:
    """The share of an occlusion map (`failures.occlusion_map`, (H, W)) that lies on the background, by the parts' mask
    of the picture (H, W); of what speaks for the match alone. NaN where nothing does."""
    speaks = np.clip(growth, 0, None)
    return float(speaks[mask == PARTS.index("background")].sum() / speaks.sum()) if speaks.any() else np.nan
