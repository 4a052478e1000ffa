"""Experiments: recipe + dataset + seed -> Result, made once and kept.

A Result lies in one file under a key of everything that matters: the recipe's every field, the dataset's content, the
seed, the starting weights, the package's own code and torch's version. Ask again and it is loaded; change anything
and it is run anew.
"""

import ast
import functools
import hashlib
import itertools
import json
import logging
import os
import platform
import subprocess
import time
import zipfile
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch

from reidnb import __version__, evaluation, tables
from reidnb.batches import Augmentation
from reidnb.datasets import ReIDDataset, check_name, open_dataset, true_styles
from reidnb.descriptors import DESCRIPTORS
from reidnb.files import cache_root, locked, write_aside
from reidnb.models import check_weights, weights_fingerprint
from reidnb.recipes import PROFILES, Recipe
from reidnb.recipes import recipe as resolve
from reidnb.stargan import restyle, shipped_painters, styles_fingerprint
from reidnb.training import autocast, choose_device
from reidnb.trials import build, camera_classifier, features, make, style_scores

__all__ = ["Result", "check_parameters", "claims", "kept_results", "measure_styles", "results", "run", "statements"]

log = logging.getLogger("reidnb")
PACKAGE = Path(__file__).parent
RESULTS = PACKAGE.parent / "results"
CODE_THAT_MATTERS = (
    *("attributes.py", "batches.py", "losses.py", "alignment.py", "evaluation"),
    *("training.py", "descriptors.py", "models", "stargan.py", "trials.py"),
)


@dataclass(frozen=True)
class Result:
    """What one run gave.

    `scores` are Scores and `also` further ones by name: "multi_query", "rerank" (k-reciprocal), with a local branch
    "local" and "both" (by the stripes' distance, and by its sum with the global one), with attributes "attributes"
    (by what the network says of people's looks), with branches "branches" (by their triplet features), and the other
    student's as "peer". `pairs` are PairScores; `history`
    holds a dict an epoch; `features.query` (Q, D) and `features.gallery` (G, D) are the embeddings in the dataset's
    order; `seconds` is the time of training and embedding; `changes` says what was changed in the recipe or the
    dataset; `about` with which device, versions and commit the run was made.

    With attributes, `attributes` has the logits of K statements, `query` (Q, K) and `gallery` (G, K), and the outcome
    of the stripes' vote, `losses` and `votes` (stripes, M) as `training.elect` gives them; `statements` is a list with
    a dict of scores for each statement, over the gallery.
    """

    recipe: Recipe
    dataset: str
    profile: str
    seed: int
    changes: str
    scores: evaluation.Scores
    also: dict
    pairs: evaluation.PairScores
    history: list = field(repr=False)
    features: SimpleNamespace = field(repr=False)
    seconds: float
    about: dict = field(repr=False)
    key: str
    state: dict = field(repr=False)
    attributes: SimpleNamespace | None = field(default=None, repr=False)
    statements: list = field(default_factory=list, repr=False)

    @property
    def multi_query(self):
        return self.also["multi_query"]

    def model(self):
        """The trained model (of two students the first), on the CPU and in evaluation mode."""
        if not self.state:
            raise ValueError(f"{self.recipe.name} learns nothing: there is no model")
        start = np.zeros(len(self.statements)) if self.statements else None
        model = build(replace(self.recipe, weights=None), self._classes(), start)
        model.load_state_dict({name: torch.from_numpy(value) for name, value in self.state.items()})
        return model.eval()

    def data(self, root=None):
        """The dataset it was run on, opened anew -> ReIDDataset; `root` as `open_dataset` takes it. ValueError where
        what is there now is not what the run saw."""
        data = open_dataset(self.dataset, root, self.recipe.size, **_read_options(self.changes))
        seen, there = ((len(side.query), len(side.gallery)) for side in (self.features, data))
        if seen != there:
            raise ValueError(f"the run saw {seen} queries and gallery pictures, {self.dataset} has {there} now")
        return data

    def embed(self, images, device=None):
        """Features of other pictures uint8 (N, 3, H, W), as the run compares them -> float32 (N, D), of unit length."""
        model = self.model() if self.state else None
        return features(self.recipe, model, images, device).whole

    def _classes(self):
        heads = [value for name, value in self.state.items() if name.endswith("classifier.weight")]
        return len(heads[0])  # each of them knows all training identities

    def row(self):
        """The run as a row of results/runs.csv."""
        scores = {
            "mAP": self.scores.mAP,
            **{f"rank{k}": float(self.scores.cmc[k - 1]) for k in (1, 5, 10)},
            "mINP": self.scores.mINP,
            "positive_distance": self.pairs.positive,
            "negative_distance": self.pairs.negative,
            "distance_gap": self.pairs.gap,
            "eer": self.pairs.eer,
        }
        scores |= tables.attribute_means(self.statements)
        for name, found in self.also.items():
            scores |= {f"{name}_mAP": found.mAP, f"{name}_rank1": found.rank1}
        return {
            "recipe": self.recipe.name,
            "dataset": self.dataset,
            "changes": self.changes,
            "profile": self.profile,
            "seed": self.seed,
            **{k: round(v, 5) for k, v in scores.items()},
            "seconds": round(self.seconds, 1),
            **self.about,
            "key": self.key,
        }

    def statement_rows(self):
        """The run's scores, statement by statement, as rows of results/attributes.csv."""
        run = {"recipe": self.recipe.name, "dataset": self.dataset, "changes": self.changes}
        run |= {"profile": self.profile, "seed": self.seed}
        rounded = [{k: round(v, 4) if k != "statement" else v for k, v in line.items()} for line in self.statements]
        return [run | line for line in rounded]


def run(recipe, dataset="synthetic", profile="quick", seed=0, device=None, **changes):
    """Train and test one recipe -> Result, kept on disk and loaded when it is there.

    recipe: a name of `recipes.RECIPES`, or a Recipe. dataset: a name for `open_dataset`, or an opened
    ReIDDataset. changes: fields of the recipe (`epochs=20`) or options of the dataset (`misalignment=2.0`). A run
    that was killed goes on after its last epoch; two processes that ask for the same run make it once. Raises
    ValueError or TypeError for what is unknown before any work.
    """
    check_seed(seed)
    device = choose_device(device)
    changes = {k: v.item() if isinstance(v, np.generic) else v for k, v in changes.items()}
    recipe_fields = {f.name for f in fields(Recipe)}
    plan = resolve(recipe, profile, **{k: v for k, v in changes.items() if k in recipe_fields})
    if plan.model in DESCRIPTORS:
        seed = 0  # nothing is drawn by lot: one run stands for all seeds
    for model in {plan.model, plan.peer} - {None, *DESCRIPTORS}:
        check_weights(model, plan.weights)
    data = _open(dataset, plan, {k: v for k, v in changes.items() if k not in recipe_fields})
    recorded = "full" if profile == "quick" else profile  # the same settings: quick is full's first seed
    key = _key(plan, data, seed, device, recorded)
    path = cache_root() / "runs" / f"{key}.npz"
    with locked(path):
        kept = _load(path)
        if kept is None:
            made = make(plan, data, seed, device, path.with_suffix(".checkpoint"))
            base = resolve(recipe, profile)  # what was changed in name only is no change
            changed = {k: v for k, v in sorted(changes.items()) if k not in recipe_fields or getattr(base, k) != v}
            changed = ", ".join(f"{k}={v!r}" for k, v in sorted((data.options | changed).items()))
            about = {"recipe": asdict(plan), "dataset": data.name, "profile": recorded, "seed": int(seed)}
            about |= {"changes": changed, "made": _circumstances(device)}
            write_aside(path, lambda file: _save(file, made, about))
            path.with_suffix(".checkpoint").unlink(missing_ok=True)
            kept = _load(path)
    return replace(kept, profile=profile)


def _read_options(changes):
    """The dataset's options among what `run` wrote of its changes, "epochs=20, misalignment=2.0" -> dict."""
    known, call = {f.name for f in fields(Recipe)}, ast.parse(f"dict({changes})", mode="eval").body
    return {word.arg: ast.literal_eval(word.value) for word in call.keywords if word.arg not in known}


def check_parameters(profile, dataset, seed, device):
    """Refuse, with a clear ValueError, a notebook's parameters that cannot be meant."""
    if profile not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}; got {profile!r}")
    check_name(dataset)
    check_seed(seed)
    choose_device(device)


def check_seed(seed):
    if not isinstance(seed, (int, np.integer)) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"seed must be an integer from 0 on, got {seed!r}")


def kept_results(whole=True):
    """Every Result on disk, oldest first, one at a time; without `whole` its scores only, no features and weights."""
    for path in sorted((cache_root() / "runs").glob("*.npz"), key=lambda path: path.stat().st_mtime):
        result = _load(path, whole)
        if result is not None:
            yield result


def _open(dataset, plan, options):
    if not isinstance(dataset, ReIDDataset):
        return open_dataset(dataset, size=plan.size, **options)
    if options:
        raise TypeError(
            f"{', '.join(options)}: no field of a recipe, and the dataset is open already, so no option of it either"
        )
    if dataset.train.images.shape[2:] != tuple(plan.size):
        opened = dataset.train.images.shape[2:]
        raise ValueError(f"recipe {plan.name} wants pictures of {plan.size}, the dataset was opened at {opened}")
    return dataset


# -------------------------------------------------------------------------------------------------------- keeping one


def _save(path, made, about):
    """`made` as `trials.make` gives it; `about`: which run it is."""
    about |= {"history": made.history, "seconds": made.seconds, "statements": made.statements}
    arrays = {"query": made.query, "gallery": made.gallery, "scores": _flat(made.scores)}
    arrays |= {f"also/{name}": _flat(scores) for name, scores in made.also.items()}
    arrays |= {f"state/{name}": value for name, value in made.state.items()}
    arrays |= {f"attributes/{name}": values for name, values in made.attributes.items()}
    about = json.dumps(about | {"pairs": asdict(made.pairs)}).encode()
    with open(path, "wb") as file:
        np.savez(file, about=np.frombuffer(about, np.uint8), **arrays)


def _flat(scores):
    return np.r_[scores.mAP, scores.mINP, scores.queries, len(scores.cmc), scores.cmc, scores.ap]


def _unflat(values):
    ranks = int(values[3])
    return evaluation.Scores(
        float(values[0]), float(values[1]), values[4 : 4 + ranks], values[4 + ranks :], int(values[2])
    )


def _load(path, whole=True):
    """The kept Result, or None; a file that cannot be read is put aside with a warning. Without `whole` its large
    arrays, a hundred times the rest, stay on disk."""
    if not path.exists():
        return None
    try:
        with np.load(path) as file:
            names = [name for name in file.files if whole or name.startswith(("about", "scores", "also/"))]
            arrays = {name: file[name] for name in names}
        asked = {name.removeprefix("attributes/"): a for name, a in arrays.items() if name.startswith("attributes/")}
        about = json.loads(arrays["about"].tobytes())
        return Result(
            recipe=_recipe_from(about["recipe"]),
            **{k: about[k] for k in ("dataset", "profile", "seed", "changes", "history", "seconds")},
            scores=_unflat(arrays["scores"]),
            also={name.removeprefix("also/"): _unflat(a) for name, a in arrays.items() if name.startswith("also/")},
            pairs=evaluation.PairScores(**about["pairs"]),
            about=about["made"],
            key=path.stem,
            features=SimpleNamespace(query=arrays["query"], gallery=arrays["gallery"]) if whole else None,
            state={name.removeprefix("state/"): a for name, a in arrays.items() if name.startswith("state/")},
            attributes=SimpleNamespace(**asked) if asked else None,
            statements=about.get("statements", []),
        )
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as problem:
        aside = path.with_suffix(".damaged")
        os.replace(path, aside)
        log.warning("the kept run %s cannot be read (%s): put aside as %s", path, problem, aside.name)
        return None


def _recipe_from(values):
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return Recipe(**{**values, "augmentation": Augmentation(**values["augmentation"])})


def _key(plan, data, seed, device, profile="full"):
    parts = {
        **asdict(plan),
        "title": "",
        "profile": profile,
        "bf16": autocast(device)._enabled,
        "dataset": [data.name, data.fingerprint, *(data.attribute_names if plan.attribute_weight else ())],
        "seed": int(seed),
        "device": device.type,
        "start": [weights_fingerprint(model, plan.weights) for model in (plan.model, plan.peer) if model],
        "generators": styles_fingerprint() if (plan.adapt or plan.fakes) and plan.styles == "stargan" else "",
        "code": _code(),
        "torch": torch.__version__.split("+")[0],
    }
    return f"{plan.name}-{hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]}"


@functools.cache
def _code():
    """A hash of the code that numbers depend on, blind to comments and docstrings."""
    digest = hashlib.sha256()
    for part in CODE_THAT_MATTERS:
        for file in sorted((PACKAGE / part).rglob("*.py")) or [PACKAGE / part]:
            tree = ast.parse(file.read_text(encoding="utf-8"))
            for node in ast.walk(tree):
                body = getattr(node, "body", None)
                if (
                    isinstance(body, list)
                    and body
                    and isinstance(body[0], ast.Expr)
                    and isinstance(body[0].value, ast.Constant)
                ):
                    body.pop(0)
            digest.update(ast.dump(tree).encode())
    return digest.hexdigest()


def _circumstances(device):
    cpu = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else cpu,
        "torch": torch.__version__.split("+")[0],
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d"),
    }


def _commit():
    """The checkout's commit, with a + when files differ from it; the package's version outside a checkout."""
    git = ["git", "-C", str(PACKAGE.parent)]
    try:
        commit = subprocess.run(
            [*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no", "reidnb"], capture_output=True, text=True
        ).stdout
        return commit + "+" * bool(changed.strip())
    except (OSError, subprocess.CalledProcessError):
        return f"v{__version__}"


# --------------------------------------------------------------------------------------------------------- the tables


def results(kept=True):
    """All runs as a DataFrame: those of results/runs.csv and, in their place where they are newer, the ones kept on
    this machine."""
    runs = tables.read_runs(RESULTS / "runs.csv")
    return tables.merge_runs(runs, [result.row() for result in kept_results(whole=False)]) if kept else runs


def statements(kept=True):
    """The scores of all runs with attributes, statement by statement, as a DataFrame: results/attributes.csv and, in
    their place where they are newer, the runs kept on this machine."""
    lines = tables.read_runs(RESULTS / "attributes.csv")
    new = [line for result in kept_results(whole=False) for line in result.statement_rows()] if kept else []
    return tables.merge_runs(lines, new)


def measure_styles(seed=0, device=None):
    """What each shipped generator's copies are worth, and the true ones -> DataFrame: results/styles.csv.

    The finder is the baseline, trained on that world with its people known; the camera classifier is trained here.
    """
    rows = []
    for name, painters in itertools.groupby(shipped_painters(), lambda painter: painter.dataset):
        data = open_dataset(name, size=(64, 32))
        classifier = camera_classifier(data.train, seed=seed, device=device)
        finder = run("baseline", name, seed=seed, device=device).model()
        truth = true_styles(name, (64, 32), {}, "query")
        found = {f"StarGAN, reconstruction {painter.plan.reconstruction:g}": painter for painter in painters}
        paint = {k: functools.partial(restyle, painter.generator, data.query.images) for k, painter in found.items()}
        paint["drawn anew (truth)"] = lambda asked, truth=truth: truth[np.arange(len(asked)), asked]
        for copies, scores in style_scores(paint, data, classifier, finder, device).items():
            last = found[copies].history[-1] if copies in found else {"step": 0, "seconds": 0.0}
            about = {"steps": last["step"], "training_seconds": round(last["seconds"])}
            scores = {k: round(v, 4) for k, v in scores.items()} | about | _circumstances(choose_device(device))
            rows.append({"dataset": name, "copies": copies, **scores})
    return pd.DataFrame(rows)


def claims(kept=False):
    """The ledger of claims -> DataFrame: id, statement, paper_gain, gain, spread, seeds, dataset, verdict and more.

    Judged from results/runs.csv, with `kept=True` also from the runs on this machine; the rule stands in
    `tables.judge`.
    """
    return tables.judge(results(kept))
