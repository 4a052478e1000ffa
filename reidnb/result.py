"""What one run gave, in the one form that it has: in memory, on disk, as a row of a table; and the key of what is kept.

The key is made of everything that numbers depend on: the recipe's every field, the source of parts that a reader wrote,
the dataset's content, the seed, device and precision, starting weights, the package's own code and torch's version.
"""

import contextlib
import dataclasses
import importlib
import json
import sys
import types
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from reidnb.datasets import ReIDDataset, open_dataset
from reidnb.datasets.points import without_points
from reidnb.evaluation import PairScores, Scores
from reidnb.files import cache_root, digest, kept_files, locked, passing, put_aside
from reidnb.generators import styles_fingerprint
from reidnb.inference import describe
from reidnb.models import weights_fingerprint
from reidnb.network import ReIDModel
from reidnb.recipes import Recipe
from reidnb.runtime import precision
from reidnb.sources import code_digest, reads_points, source_of

FORMAT = 2  # of the file; one of another number is older (or newer), and is left alone


@dataclass(frozen=True)
class Result:
    """What one run gave.

    `scores` are Scores and `extra_scores` further ones by name: "multi_query", "rerank" (k-reciprocal), and what the
    recipe's parts add ("local", "both", "attributes", "branches", "peer"); `pairs` are PairScores; `history` holds a
    dict an epoch; `features.query` (Q, D) and `features.gallery` (G, D) are the embeddings in the dataset's order;
    `seconds` is the time of training and embedding; `numbers`, `arrays` and `lines` of a table are what parts add
    beside scores; `changes` says what was changed in the recipe or the dataset, `options` the latter as values; `about`
    with which device, versions and commit the run was made. `recipe` is None where a part of it is defined elsewhere,
    in a notebook: `run` it there.
    """

    name: str
    recipe: Recipe | None = field(repr=False)
    dataset: str
    profile: str
    seed: int
    changes: str
    scores: Scores
    extra_scores: dict[str, Scores]
    pairs: PairScores
    seconds: float
    history: list = field(repr=False)
    about: dict = field(repr=False)
    features: SimpleNamespace | None = field(default=None, repr=False)
    state: dict = field(default_factory=dict, repr=False)
    numbers: dict = field(default_factory=dict, repr=False)
    arrays: dict = field(default_factory=dict, repr=False)
    lines: list = field(default_factory=list, repr=False)
    options: dict = field(default_factory=dict, repr=False)
    facts: dict = field(default_factory=dict, repr=False)
    fingerprint: str = field(default="", repr=False)
    key: str = ""

    @property
    def multi_query(self) -> Scores:
        return self.extra_scores["multi_query"]

    def model(self) -> ReIDModel:
        """The trained network (of two students the first), on the CPU and in evaluation mode."""
        if self.recipe is None:
            raise ValueError(f"{self.name} has a part that is defined in a notebook: run() it there to have its model")
        if not self.recipe.learns:
            raise ValueError(f"{self.name} learns nothing: there is no model")
        if not self.state:
            raise ValueError(f"{self.name} was read for its scores alone, without weights: run() has them")
        model = self.recipe.network(self.facts)
        model.load_state_dict({name: torch.from_numpy(value) for name, value in self.state.items()})
        return model.eval()

    def data(self, root: str | Path | None = None) -> ReIDDataset:
        """The dataset it was run on, opened anew; `root` as `open_dataset` takes it. ValueError where what is there now
        is not what the run saw."""
        if self.recipe is None:
            raise ValueError(f"{self.name} has a part that is defined in a notebook: run() it there to have its data")
        options = dict(self.options)
        kept_root = options.pop("root", None)
        data = open_dataset(self.dataset, root or kept_root, self.recipe.size, **options)
        if _seen_by(self.recipe, data.fingerprint) != _seen_by(self.recipe, self.fingerprint):
            there = f"{len(data.query)} queries and {len(data.gallery)} gallery pictures"
            raise ValueError(f"{self.dataset} is not what the run saw: its pictures or labels changed ({there} now)")
        return data

    def embed(self, images: np.ndarray, device: str | None = None) -> np.ndarray:
        """Features of other pictures uint8 (N, 3, H, W), as the run compares them -> float32 (N, D), of unit length."""
        learned = self.recipe is None or self.recipe.learns
        return describe(self.recipe, self.model() if learned else None, images, device)["whole"]

    def row(self) -> dict[str, Any]:
        """The run as a row of results/runs.csv."""
        scores = {"mAP": self.scores.mAP}
        scores |= {f"rank{k}": float(self.scores.cmc[k - 1]) for k in (1, 5, 10) if k <= len(self.scores.cmc)}
        scores |= {"mINP": self.scores.mINP, "positive_distance": self.pairs.positive}
        scores |= {"negative_distance": self.pairs.negative, "distance_gap": self.pairs.gap, "eer": self.pairs.eer}
        scores |= self.numbers
        for name, found in self.extra_scores.items():
            scores |= {f"{name}_mAP": found.mAP, f"{name}_rank1": found.rank1}
        rounded = {name: round(value, 5) for name, value in scores.items()}
        return self._which() | rounded | {"seconds": round(self.seconds, 1), **self.about, "key": self.key}

    def line_rows(self) -> list[dict[str, Any]]:
        """The run's lines, one a statement, as rows of results/attributes.csv."""
        run = self._which()
        return [run | {k: v if isinstance(v, str) else round(v, 4) for k, v in line.items()} for line in self.lines]

    def _which(self):
        names = {"recipe": self.name, "dataset": self.dataset, "changes": self.changes}
        return names | {"profile": "full" if self.profile == "quick" else self.profile, "seed": self.seed}


# ----------------------------------------------------------------------------------------------------- save and load

ARRAYS = ("scores", "features", "extra_scores", "state", "arrays")  # the rest is JSON
LIGHT = ("about", "scores", "extra_scores")  # what a table needs: a hundredth of the whole
# What numpy, zipfile and json raise for a file of which a part is lost or changed.
UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, RuntimeError)


def save(result: Result, path: Path) -> None:
    """Write a run into one .npz file."""
    plain = {f.name: getattr(result, f.name) for f in dataclasses.fields(result) if f.name not in ARRAYS}
    plain |= {"format": FORMAT, "recipe": to_plain(result.recipe), "pairs": asdict(result.pairs)}
    arrays = {"scores": _flat(result.scores)}
    named = {"extra_scores": {name: _flat(found) for name, found in result.extra_scores.items()}}
    named |= {"features": vars(result.features), "state": result.state, "arrays": result.arrays}
    for field_name, values in named.items():
        arrays |= {f"{field_name}/{name}": array for name, array in values.items()}
    about = json.dumps(plain | {"members": sorted(arrays)}, default=_as_json)
    with open(path, "wb") as file:
        np.savez(file, about=np.frombuffer(about.encode(), np.uint8), **arrays)


def load(path: Path, whole: bool = True) -> Result | None:
    """The run in a file; without `whole` its large arrays stay on disk. None for one that another version of the
    package wrote: of another FORMAT, or with something in it that is gone since or was not there yet. Raises one of
    UNREADABLE for a file that is damaged."""
    with np.load(path) as file:
        plain = json.loads(file["about"].tobytes())
        if plain.get("format") != FORMAT:
            return None
        members = plain.pop("members", None)  # a damaged table of contents can leave one out and say nothing
        if members is not None and {*file.files} != {"about", *members}:
            raise ValueError(f"{path} holds {len(file.files) - 1} arrays where {len(members)} others were written")
        named = {name: {} for name in ARRAYS}
        for name in file.files:
            group, _, rest = name.partition("/")
            if group not in ("about", *ARRAYS):
                return None
            if group in ARRAYS and (whole or group in LIGHT):
                named[group][rest] = file[name]
    del plain["format"]
    extra = {name: _scores(values) for name, values in named["extra_scores"].items()}
    features = SimpleNamespace(**named["features"]) if whole else None
    try:
        recipe, pairs = _recipe(plain.pop("recipe")), PairScores(**plain.pop("pairs"))
        arrays = {"scores": _scores(named["scores"][""]), "state": named["state"], "arrays": named["arrays"]}
        return Result(recipe=recipe, pairs=pairs, features=features, extra_scores=extra, **arrays, **plain)
    except (AttributeError, ImportError, KeyError, TypeError, ValueError):  # whole, and not of this version
        return None


def _recipe(plain):
    try:
        return from_plain(plain)
    except Elsewhere:
        return None


def kept_results(whole: bool = True) -> Iterator[Result]:
    """Every Result on disk, oldest first, one at a time; without `whole` its scores only, no features and weights. What
    an older version kept is left alone; a file that cannot be read is put aside with a warning."""
    for path in sorted(kept_files(cache_root() / "runs", "*.npz"), key=_age):
        age = _age(path)
        try:
            result = load(path, whole)
        except FileNotFoundError:  # another process took it away
            continue
        except UNREADABLE as problem:
            if passing(problem):
                raise
            with locked(path), contextlib.suppress(FileNotFoundError):  # another process did it first
                if _age(path) == age:  # else it has been made again meanwhile
                    put_aside(path, problem)
            continue
        if result is not None:
            yield result


def _age(path):
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _as_json(given):
    """What JSON does not know: numbers and arrays of numpy or torch, and paths."""
    if hasattr(given, "tolist"):
        return given.tolist()
    if isinstance(given, Path):
        return str(given)
    raise TypeError(f"a run keeps numbers and words, in lists and dicts; got {given!r}")


def _flat(scores):
    return np.r_[scores.mAP, scores.mINP, scores.queries, len(scores.cmc), scores.cmc, scores.ap]


def _scores(values):
    ranks = int(values[3])
    return Scores(float(values[0]), float(values[1]), values[4 : 4 + ranks], values[4 + ranks :], int(values[2]))


# ------------------------------------------------------------------------------------------------- values and their key


class Elsewhere(LookupError):
    """A part of a recipe that is defined in a notebook or script that is not this one."""


SOURCE = "source code"  # of a reader's own part: no field of it can be called so


def to_plain(part: Any) -> Any:
    """A value made of values as JSON holds it: each with its class, and with a digest of its source where it is a
    reader's own."""
    if isinstance(part, tuple):
        return [to_plain(item) for item in part]
    if isinstance(part, types.FunctionType):
        return {"is": f"{part.__module__}:{part.__qualname__}", SOURCE: source_of(part)}
    if is_dataclass(part):
        cls = type(part)
        about = {"is": f"{cls.__module__}:{cls.__qualname__}"}
        about |= {} if cls.__module__.startswith("reidnb.") else {SOURCE: source_of(cls)}
        return about | {f.name: to_plain(getattr(part, f.name)) for f in dataclasses.fields(part)}
    if part is None or isinstance(part, (bool, int, float, str)):
        return part
    raise TypeError(f"a part of a recipe is a frozen dataclass or a function, so that it has a key; got {part!r}")


def from_plain(plain: Any) -> Any:
    """What `to_plain` was given. Raises Elsewhere for a class or function that is not at hand, or not the same."""
    if isinstance(plain, list):
        return tuple(map(from_plain, plain))
    if not isinstance(plain, dict):
        return plain
    fields = {name: from_plain(value) for name, value in plain.items() if name not in ("is", SOURCE)}
    module, _, name = plain["is"].partition(":")
    ours = module.startswith("reidnb.")
    found = getattr(importlib.import_module(module) if ours else sys.modules.get(module), name, None)
    if not ours and (found is None or source_of(found) != plain.get(SOURCE)):
        raise Elsewhere(plain["is"])
    if isinstance(found, types.FunctionType):
        return found
    try:
        return found(**fields)
    except (TypeError, ValueError):
        if ours:
            raise
        raise Elsewhere(plain["is"]) from None  # a class of a reader that is not made by its fields


def _seen_by(recipe: Recipe, fingerprint: str) -> str:
    """What of a dataset a recipe's numbers depend on: key points that were found later make no other run old."""
    return fingerprint if reads_points(recipe) else without_points(fingerprint)


def who_is_there(data: ReIDDataset) -> str:
    """A digest of people and cameras, since whoever makes a dataset of another one may keep its fingerprint; and of the
    pictures of one that has none."""
    names = ("train", "target", "query", "gallery", "multi_query")
    parts = [part for name in names if (part := getattr(data, name, None)) is not None]
    pictures = [] if data.fingerprint else [np.asarray(part.images) for part in parts]
    return digest(*[array for part in parts for array in (part.pids, part.camids)], *pictures)


def key_of_run(recipe: Recipe, data: ReIDDataset, seed: int, device: torch.device, profile: str = "full") -> str:
    """What a run is kept under."""
    paints = getattr(recipe.extra, "styles", None) == "stargan"
    backbones = {recipe.model, *(part.peer for part in recipe.parts if hasattr(part, "peer"))}
    parts = {
        "format": FORMAT,
        "recipe": to_plain(replace(recipe, title="")),
        "profile": profile,
        "precision": precision(device),
        "dataset": [
            data.name,
            _seen_by(recipe, data.fingerprint),
            who_is_there(data),
            *(data.attribute_names if recipe.needs_attributes else ()),
        ],
        **({"options": data.options} if data.options else {}),  # a table's row says them, though content be the same
        "seed": int(seed),
        "device": device.type,
        "start": [weights_fingerprint(model, recipe.weights) for model in sorted(backbones)],
        "generators": styles_fingerprint() if paints else "",
        "code": code_digest(recipe),
        "torch": torch.__version__.split("+")[0],
    }
    return f"{recipe.name}-{digest(json.dumps(parts, sort_keys=True, default=_as_json))}"
