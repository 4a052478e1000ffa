"""What notebooks share: their first call, and the pictures of a kept run that a map shows."""

import logging
import sys

import numpy as np

from reidnb import plots
from reidnb.attributes import attribute_questions
from reidnb.datasets import ReIDDataset, Split
from reidnb.experiments import check_parameters
from reidnb.result import Result


def setup(profile: str, dataset: str, seed: int, device: str) -> None:
    """Check a notebook's parameters (ValueError for what cannot be meant), set the look of figures, and let training
    print a line an epoch where nobody watches a bar."""
    check_parameters(profile, dataset, seed, device)
    plots.style()
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logging.getLogger("reidnb").setLevel(logging.INFO)


def map_sides(
    result: Result,
    colour: str = "identity",
    people: int = 12,
    seed: int = 0,
    device: str | None = None,
    other: ReIDDataset | None = None,
) -> dict[str, tuple]:
    """What a kept run makes of people it was trained on and of people of the test -> the sides of
    `plots.embedding_map`.

    Of each side `people` are drawn by lot, with all their pictures. The frames tell the "identity", the "camera", or
    any attribute of the dataset by its name. With "domain" it is one map of two: the test's people beside those of
    `other`, a ReIDDataset opened at the same size, or, for a run on a pair "source->target", beside its training
    people. Raises ValueError where there is no other domain, no such attribute, or where people are too few.
    """
    data, rng = result.data(), np.random.default_rng(seed)
    test = data.query, data.gallery
    if colour == "domain":
        if other is None and "->" not in data.name:
            raise ValueError(f"{data.name} is one domain: give `other` a dataset, or a run on a pair 'source->target'")
        source, _, target = data.name.rpartition("->")
        domains = {
            target: test,
            (other.name if other else source): (other.query, other.gallery) if other else (data.train,),
        }
        images = [np.concatenate([split.images for split in _some(splits, people, rng)]) for splits in domains.values()]
        groups = np.repeat(list(domains), [len(part) for part in images]).tolist()
        sides = {f"two domains, {people} people of each": (np.concatenate(images), groups)}
    else:
        sides = {}
        for title, splits in {"training": (data.train,), "test": test}.items():
            chosen = _some(splits, people, rng)
            groups = [word for split in chosen for word in _words(data, split, colour)]
            sides[f"{title}: {people} people"] = np.concatenate([split.images for split in chosen]), groups
    return {title: (result.embed(images, device), images, groups) for title, (images, groups) in sides.items()}


def _some(splits, people, rng) -> list[Split]:
    """The pictures of some people, in all splits."""
    known = np.unique(np.concatenate([split.pids[split.pids > 0] for split in splits]))
    if len(known) < people:
        raise ValueError(f"{people} people were asked for, this side has {len(known)}")
    chosen = rng.choice(known, people, replace=False)
    return [split.select(np.isin(split.pids, chosen)) for split in splits]


def _words(data, split, colour):
    """What the frame of each picture tells."""
    if colour == "identity":
        return split.pids.tolist()
    if colour == "camera":
        return [f"c{camera + 1}" for camera in split.camids]
    if colour not in data.attribute_names or split.attributes is None:
        known = ", ".join(("identity", "camera", "domain", *data.attribute_names))
        raise ValueError(f"colour {colour!r} is not known of these pictures; known: {known}")
    column, questions = list(data.attribute_names).index(colour), attribute_questions(data)
    return [questions.meaning(column, value) if value >= 0 else None for value in split.attributes[:, column]]


def as_pair(dataset: str) -> str:
    """A pair of domains, source->target: of one dataset, as the batch names it, the one that ends in it."""
    if "->" in dataset:
        return dataset
    return "synthetic_summer->synthetic_winter" if dataset == "synthetic" else f"synthetic->{dataset}"
