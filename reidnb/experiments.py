"""Experiments: recipe + dataset + seed -> Result, made once and kept: prepared, trained, tested.

Ask again and it is loaded; change anything that its numbers depend on (see `reidnb.result`) and it is run anew.
"""

import contextlib
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from reidnb import evaluation, inference
from reidnb.datasets import (
    MOST_WORLDS,
    ReIDDataset,
    check_name,
    check_protocol,
    is_drawn,
    open_dataset,
    option_names,
    relabel,
)
from reidnb.files import cache_root, kept
from reidnb.methods.adaptation import target_of
from reidnb.methods.parts import Trial, all_parts, bound, facts_of
from reidnb.models import check_weights
from reidnb.recipes import PROFILES, RECIPES, Recipe
from reidnb.recipes import recipe as resolve
from reidnb.result import Result, key_of_run, load, save, to_plain
from reidnb.runtime import choose_device, circumstances
from reidnb.training import train
from reidnb.values import did_you_mean, find, flat_names, key_of, places

if TYPE_CHECKING:
    import pandas as pd


def run(
    recipe: str | Recipe,
    dataset: str | ReIDDataset = "synthetic",
    profile: str = "quick",
    seed: int = 0,
    device: str | torch.device | None = None,
    **changes: Any,
) -> Result:
    """Train and test one recipe -> Result, kept on disk and loaded when it is there.

    recipe: a name of `recipes.RECIPES`, or a Recipe. dataset: a name for `open_dataset`, or an opened
    ReIDDataset. changes: fields of the recipe by their flat names (`epochs=20`, `margin=0.1`) or options of the dataset
    (`misalignment=2.0`). Of a drawn dataset seed s is world s too, so that a spread over seeds holds the people;
    `world=0` keeps it apart. A run that was killed goes on after its last epoch; two processes that ask for the same
    run make it once. Raises ValueError or TypeError for what is unknown before any work.
    """
    check_seed(seed)
    _check_words(recipe, dataset, profile)
    device, base = choose_device(device), resolve(recipe, profile)
    ours, options = _sorted_out(base, dataset, changes)
    recipe = resolve(recipe, profile, **ours)
    _check_name(recipe.name)
    to_plain(recipe)  # what has no key is refused before a world is drawn
    if recipe.learns:
        check_weights(recipe.model, recipe.weights)
    data = _open(dataset, recipe, seed, options)
    drawn = is_drawn(data.name)
    seed = int(seed) if recipe.learns or drawn else 0  # where nothing is drawn by lot, one run stands for all seeds
    recorded = "full" if profile == "quick" else profile  # the same settings: quick is full's first seed
    key = key_of_run(recipe, data, seed, device, recorded)
    path, found = cache_root() / "runs" / f"{key}.npz", []
    checkpoint, opened = path.with_suffix(".checkpoint"), {**(data.options or {}), **options}

    def make(file):
        result = make_result(recipe, data, seed, device, checkpoint)
        told = {k: v for k, v in opened.items() if k not in ("root", "world")}
        told |= {"world": opened.get("world", 0)} if drawn and opened.get("world", 0) != seed else {}
        how = {"profile": recorded, "changes": _changes(base, recipe, ours, told, profile), "options": opened}
        how |= {"about": circumstances(device), "key": key}
        save(replace(result, **how), file)

    def read(file):
        found.append(load(file))
        if found[-1] is None:
            raise ValueError("something in it is not of this version of the package")

    kept(path, make, readable=read)
    if checkpoint.exists():  # a cache may be read-only, where nothing can be removed
        checkpoint.unlink()
    return replace(found[-1], profile=profile, recipe=recipe, options=opened)  # its folder may have moved since


def make_result(recipe: Recipe, data: ReIDDataset, seed: int, device: torch.device, checkpoint=None) -> Result:
    """Prepare, train, test -> Result that is not kept yet."""
    prepared = prepare(recipe, data, seed, device)
    history = []
    if recipe.learns:
        net, images, labels = prepared.trial.net, data.train.images, prepared.labels
        history = train(net, images, labels, recipe, seed, device, checkpoint, prepared.terms, prepared.joined)
        if recipe.fresh_norm:
            inference.adapt_batch_norm(prepared.model, target_of(recipe.name, data).images, device)
    return test(prepared, history, seed)


def claims(kept: bool = False) -> "pd.DataFrame":
    """The ledger of claims, a row a claim and dataset, see `ledger.claims`."""
    from reidnb import ledger  # with it comes pandas, which a run has no use for

    return ledger.claims(kept)


# ------------------------------------------------------------------------------------------------------------- prepare


@dataclass(frozen=True)
class Prepared:
    """A recipe that knows its data, and a network that has learned nothing yet."""

    trial: Trial  # the recipe, the data, the network that is trained, the device
    model: nn.Module | None  # the network that is tested: of two students the first
    labels: np.ndarray | None  # (N,) of the training images, from 0
    terms: tuple  # the loss terms, told of the data
    parts: tuple  # they, the heads, and what is inside them
    joined: Callable | None  # what joins a batch
    facts: dict


def prepare(recipe: Recipe, data: ReIDDataset, seed: int, device: torch.device) -> Prepared:
    """Build the network and tell every part of the data: whatever cannot be done is refused here, before training."""
    if not recipe.learns:
        return Prepared(Trial(recipe, data, None, device), None, None, (), (), None, {})
    if recipe.fresh_norm:
        target_of(recipe.name, data)
    labels, people = relabel(data.train.pids)
    facts = {"classes": len(people), **facts_of(recipe.parts, data)}
    torch.manual_seed(seed)
    net = model = recipe.network(facts, recipe.weights)
    for part in recipe.parts:
        if hasattr(part, "wrap"):
            net = part.wrap(net, lambda name: replace(recipe, model=name).network(facts, recipe.weights))
    joined = recipe.extra.bind(recipe.name, data, device) if recipe.extra else None
    heads, terms = (tuple(bound(part, data, net) for part in some) for some in (recipe.heads, recipe.terms))
    parts = tuple(all_parts((*heads, *terms)))
    return Prepared(Trial(recipe, data, net, device), model, labels, terms, parts, joined, facts)


# ---------------------------------------------------------------------------------------------------------------- test


def test(prepared: Prepared, history: list[dict], seed: int) -> Result:
    """Embed queries and gallery, and score them by the protocol and by what the recipe's parts add."""
    recipe, data, _, device = prepared.trial
    for part in prepared.parts:
        if hasattr(part, "finish"):
            part.finish(prepared.trial)
    outputs = tuple(dict.fromkeys(name for part in prepared.parts for name in getattr(part, "outputs", ())))
    started = time.perf_counter()
    splits = data.query.images, data.gallery.images
    query, gallery = (inference.describe(recipe, prepared.model, images, device, outputs) for images in splits)
    seconds = sum(line["seconds"] for line in history) + time.perf_counter() - started
    whole = query["whole"], gallery["whole"]
    found = {"scores": {"multi_query": _multi_query(prepared, *whole), "rerank": _reranked(data, *whole)}}
    found |= {"numbers": {}, "arrays": {}, "lines": []}
    for part in prepared.parts:
        said = part.test(query, gallery, prepared.trial) if hasattr(part, "test") else {}
        for name, more in said.items():
            if name not in found:
                raise ValueError(f"{key_of(part)}.test gives {name!r}; wanted some of {', '.join(found)}")
            found[name] = found[name] | more if isinstance(more, dict) else [*found[name], *more]
    state = prepared.model.state_dict() if prepared.model else {}
    return Result(
        name=recipe.name,
        recipe=recipe,
        dataset=data.name,
        profile="",
        seed=seed,
        changes="",
        scores=evaluation.evaluate_features(*whole, *data.ids),
        extra_scores=found["scores"],
        pairs=evaluation.verify_features(*whole, *data.ids),
        seconds=seconds,
        history=history,
        about={},
        features=SimpleNamespace(query=whole[0], gallery=whole[1]),
        state={name: value.cpu().numpy() for name, value in state.items()},
        **{name: found[name] for name in ("numbers", "arrays", "lines")},
        facts=prepared.facts,
        fingerprint=data.fingerprint,
    )


def _multi_query(prepared, query, gallery):
    """Scores with the mean of all of a person's pictures from the query's camera; Market-1501 has extra ones."""
    recipe, data, _, device = prepared.trial
    pool, pool_features = data.gallery, gallery
    if data.multi_query is not None:
        pool = data.multi_query
        pool_features = inference.describe(recipe, prepared.model, pool.images, device)["whole"]
    ids = data.query.pids, data.query.camids
    many = evaluation.multi_query_features(query, *ids, pool_features, pool.pids, pool.camids)
    return evaluation.evaluate_features(many, gallery, *data.ids)


def _reranked(data, query, gallery):
    """Scores after re-ranking; junk, which no query may see, is left out of the neighbourhoods too."""
    known = data.gallery.pids != -1
    distances = evaluation.rerank(query, gallery[known])
    query_pids, gallery_pids, query_camids, gallery_camids = data.ids
    return evaluation.evaluate(distances, query_pids, gallery_pids[known], query_camids, gallery_camids[known])


# ---------------------------------------------------------------------------------------------------------- at the door


def check_parameters(profile: str, dataset: str, seed: int, device: str) -> None:
    """Refuse, with a clear ValueError, a notebook's parameters that cannot be meant."""
    if profile not in PROFILES:
        near = did_you_mean(profile, PROFILES)
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}; got {profile!r}{near}")
    check_name(dataset)
    check_seed(seed)
    choose_device(device)


def check_seed(seed: int) -> None:
    if not isinstance(seed, (int, np.integer)) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise ValueError(f"seed must be an integer from 0 on, below 2**32; got {seed!r}")


def _check_words(recipe, dataset, profile):
    wanted = {"recipe": (recipe, str, Recipe), "dataset": (dataset, str, ReIDDataset), "profile": (profile, str)}
    for what, (given, *kinds) in wanted.items():
        if not isinstance(given, tuple(kinds)):
            said = " or ".join(["a name", *(f"a {kind.__name__}" for kind in kinds[1:])])
            raise TypeError(f"{what} must be {said}, got {given!r}")


def _check_name(name):
    """A file and a row of a table are called by it."""
    if not re.fullmatch(r"\w[\w.+-]{0,79}", name):
        raise ValueError(f"a recipe's name has up to 80 letters, digits and any of _ . + -, as a file's; got {name!r}")


def _sorted_out(base, dataset, changes):
    """Changes -> those of the recipe, and options of the dataset; TypeError for what is neither."""
    name = dataset.name if isinstance(dataset, ReIDDataset) else dataset
    check_name(name) if not isinstance(dataset, ReIDDataset) else None
    options = () if isinstance(dataset, ReIDDataset) else (*option_names(name), "root", "world")
    fields = {p.name for p in places(base)} | {f"{p.owner}_{p.name}" for p in places(base)}
    ours = {field: given for field, given in changes.items() if field in fields}
    others = {field: given for field, given in changes.items() if field not in fields}
    for field in others:
        if field not in options:
            known = (*flat_names(base), *options)
            raise TypeError(
                f"neither the recipe {base.name} nor the dataset {name} has {field!r}{did_you_mean(field, known)}. "
                f"The recipe has {', '.join(sorted(flat_names(base)))}"
                + (f"; the dataset {', '.join(sorted(options))}" if options else "; the dataset is open already")
            )
    others = {field: v for field, v in others.items() if field != "partial" or v}  # 0 cuts nothing: the plain run
    return ours, {field: _as_kept(v, absolute=field == "root") for field, v in others.items()}


def _as_kept(option, absolute):
    """An option as a kept run holds it: of numpy's numbers Python's, of a path its words."""
    option = os.fspath(option) if isinstance(option, os.PathLike) else option
    if absolute and isinstance(option, str):
        return os.path.abspath(os.path.expanduser(option))
    return option.item() if isinstance(option, np.generic) else option


def _changes(base, recipe, ours, options, profile):
    """What was changed in the recipe of that name, where it was not so already, by a caller's own of that name too, and
    the dataset's options, in words: "epochs=20, misalignment=2.0"."""
    stands = resolve(recipe.name, profile) if recipe.name in RECIPES else base
    ways = flat_names(stands)
    was, now = ({name: _held(whole, way) for name, way in ways.items()} for whole in (stands, recipe))
    asked = [find(base, field) for field in ours] if stands == base else ways
    changed = [name for name in asked if was[name] != now[name]]
    replaced = [name for name in changed if _kinds(was[name]) != _kinds(now[name])]  # other parts stand there

    def inside(name, other):
        return len(ways[name]) > len(ways[other]) and ways[name][: len(ways[other])] == ways[other]

    said = dict(options)
    for name in changed:
        if any(inside(name, other) for other in replaced):
            continue  # told as a whole
        if name in replaced or not any(inside(field, name) for field in changed):  # the same parts: by their fields
            said[name] = now[name]
    return ", ".join(f"{name}={_words(given)}" for name, given in sorted(said.items()))


def _kinds(given):
    return [*map(type, given)] if isinstance(given, tuple) else is_dataclass(given) and type(given)


def _held(whole, way):
    """What a value has in a place, None where it has no such place: of two losses the second may be gone."""
    with contextlib.suppress(AttributeError, IndexError, TypeError):
        for step in way:
            whole = whole[step] if isinstance(step, int) else getattr(whole, step)
        return whole


def _words(given):
    """A value as a table says it; parts by what they are called."""
    if isinstance(given, tuple) and any(map(is_dataclass, given)):
        return "+".join(map(key_of, given))
    return repr(given)


def _open(dataset, recipe, seed, options):
    """The dataset, of a drawn one the seed's world unless another is asked for."""
    if not isinstance(dataset, ReIDDataset):
        if seed >= MOST_WORLDS and "world" not in options and is_drawn(dataset):
            raise ValueError(f"seed {seed} is a world too, of which there are {MOST_WORLDS:,}: name one by world=...")
        options = {"root": None, "size": recipe.size, "world": int(seed) % MOST_WORLDS} | options
        return open_dataset(dataset, **options)
    if dataset.train.images.shape[2:] != tuple(recipe.size):
        opened = tuple(dataset.train.images.shape[2:])
        raise ValueError(f"recipe {recipe.name} wants pictures of {recipe.size}, the dataset was opened at {opened}")
    check_protocol(dataset)  # one that was made by hand is checked here; the others were, as they were opened
    return dataset
