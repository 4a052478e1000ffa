"""Experiments: recipe + dataset + seed -> Result, made once and kept.

A Result lies in one file under a key of everything that matters: the recipe's every field, the dataset's content, the
seed, the starting weights, the package's own code and torch's version. Ask again and it is loaded; change anything
and it is run anew.
"""

import ast
import functools
import hashlib
import inspect
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
import torch
import torch.nn.functional as F

from reidnb import __version__, evaluation, losses, tables
from reidnb.alignment import local_distance_matrix
from reidnb.attributes import ask
from reidnb.batches import Augmentation
from reidnb.datasets import DATASETS, ReIDDataset, open_dataset, relabel
from reidnb.descriptors import colour_histogram
from reidnb.files import cache_root, locked, write_aside
from reidnb.models import Students, build_model, check_weights, weights_fingerprint
from reidnb.recipes import PROFILES, Recipe
from reidnb.recipes import recipe as resolve
from reidnb.training import autocast, choose_device, elect, embed, train

__all__ = ["Result", "check_parameters", "claims", "kept_results", "results", "run", "statements"]

log = logging.getLogger("reidnb")
PACKAGE = Path(__file__).parent
RESULTS = PACKAGE.parent / "results"
CODE_THAT_MATTERS = (
    *("attributes.py", "batches.py", "losses.py", "alignment.py", "evaluation"),
    *("training.py", "descriptors.py", "models"),
)


@dataclass(frozen=True)
class Result:
    """What one run gave.

    `scores` are Scores and `also` further ones by name: "multi_query", "rerank" (k-reciprocal), with a local branch
    "local" and "both" (by the stripes' distance, and by its sum with the global one), with attributes "attributes"
    (by what the network says of people's looks), and the other student's as "peer". `pairs` are PairScores; `history`
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
        model = _model(replace(self.recipe, weights=None), len(self.state["classifier.weight"]), start)
        model.load_state_dict({name: torch.from_numpy(value) for name, value in self.state.items()})
        return model.eval()

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
    recipe_fields = {f.name for f in fields(Recipe)}
    plan = resolve(recipe, profile, **{k: v for k, v in changes.items() if k in recipe_fields})
    if plan.model == "colour_histogram":
        seed = 0  # nothing is drawn by lot: one run stands for all seeds
    for model in {plan.model, plan.peer} - {None, "colour_histogram"}:
        check_weights(model, plan.weights)
    data = _open(dataset, plan, {k: v for k, v in changes.items() if k not in recipe_fields})
    recorded = "full" if profile == "quick" else profile  # the same settings: quick is full's first seed
    key = _key(plan, data, seed, device, recorded)
    path = cache_root() / "runs" / f"{key}.npz"
    with locked(path):
        kept = _load(path)
        if kept is None:
            made = _make(plan, data, seed, device, path.with_suffix(".checkpoint"))
            base = resolve(recipe, profile)  # what was changed in name only is no change
            changed = {k: v for k, v in sorted(changes.items()) if k not in recipe_fields or getattr(base, k) != v}
            changed = ", ".join(f"{k}={v!r}" for k, v in sorted((data.options | changed).items()))
            made["about"] |= {
                "recipe": asdict(plan),
                "dataset": data.name,
                "profile": recorded,
                "seed": int(seed),
                "changes": changed,
            }
            write_aside(path, lambda file: _save(file, made))
            path.with_suffix(".checkpoint").unlink(missing_ok=True)
            kept = _load(path)
    return replace(kept, profile=profile)


def check_parameters(profile, dataset, seed, device):
    """Refuse, with a clear ValueError, a notebook's parameters that cannot be meant."""
    if profile not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}; got {profile!r}")
    if dataset not in DATASETS:
        raise ValueError(f"dataset must be one of {', '.join(DATASETS)}; got {dataset!r}")
    check_seed(seed)
    choose_device(device)


def check_seed(seed):
    if not isinstance(seed, (int, np.integer)) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"seed must be an integer from 0 on, got {seed!r}")


def kept_results():
    """Every Result on disk, oldest first."""
    paths = sorted((cache_root() / "runs").glob("*.npz"), key=lambda path: path.stat().st_mtime)
    return [result for result in map(_load, paths) if result is not None]


# --------------------------------------------------------------------------------------------------------- making one


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


def _make(plan, data, seed, device, checkpoint):
    """Train, embed, score -> a dict of arrays and, under "about", of what JSON can hold."""
    state, history, peer = {}, [], None
    outputs = (plan.compare, *["local"] * bool(plan.local), *["attributes"] * bool(plan.attribute_weight))
    questions = ask(data, plan.question and (plan.question,)) if plan.attribute_weight else None
    answers = questions.answers(data.train.attributes) if questions else None
    asked, statements = {}, []
    if plan.model == "colour_histogram":

        def features_of(images):
            return [colour_histogram(images)]

    else:
        labels, people = relabel(data.train.pids)
        torch.manual_seed(seed)
        start = _start(plan, questions) if questions else None
        model = net = _model(plan, len(people), start)
        if plan.peer:
            peer = _model(replace(plan, model=plan.peer), len(people), start)
            net = Students(model, peer)
        history = train(net, data.train.images, labels, plan, seed, device, checkpoint, questions, answers)
        if questions:
            asked = dict(zip(("losses", "votes"), elect(model, data.train.images, questions, answers, plan, device)))
        state = {f"state/{name}": value.cpu().numpy() for name, value in model.state_dict().items()}

        def features_of(images, model=model):
            found = embed(model, images, device, flip=plan.flip_test, compare=outputs)
            whole = F.normalize(found[0].flatten(1))  # stripes in a row, where they are what is compared
            return [whole.numpy(), *(more.numpy() for more in found[1:])]

    started = time.perf_counter()
    (query, *more_query), (gallery, *more_gallery) = features_of(data.query.images), features_of(data.gallery.images)
    seconds = sum(line["seconds"] for line in history) + time.perf_counter() - started
    pool, pool_features = data.gallery, gallery
    if data.multi_query is not None:
        pool, pool_features = data.multi_query, features_of(data.multi_query.images)[0]
    many = evaluation.multi_query_features(
        query, data.query.pids, data.query.camids, pool_features, pool.pids, pool.camids
    )
    ids = data.query.pids, data.gallery.pids, data.query.camids, data.gallery.camids
    scores, multi_query = (evaluation.evaluate_features(q, gallery, *ids) for q in (query, many))
    also = {"multi_query": multi_query, "rerank": _reranked(query, gallery, *ids)}
    if plan.local:
        also |= _by_stripes(plan, query, gallery, more_query[0], more_gallery[0], *ids)
    if questions:
        said = [model.attributes.answer(torch.from_numpy(logits)) for logits in (more_query[-1], more_gallery[-1])]
        asked |= dict(zip(("query", "gallery"), (logits.numpy() for logits in said)))
        also["attributes"] = evaluation.evaluate_features(*(logits.sigmoid().numpy() for logits in said), *ids)
        statements = _statements(questions, asked["gallery"], data.gallery.attributes, asked["losses"])
    if peer:
        theirs = (features_of(split.images, peer)[0] for split in (data.query, data.gallery))
        also["peer"] = evaluation.evaluate_features(*theirs, *ids)
    about = {
        "history": history,
        "seconds": seconds,
        "pairs": asdict(evaluation.verify_features(query, gallery, *ids)),
        "statements": statements,
        "made": {
            "device": torch.cuda.get_device_name()
            if device.type == "cuda"
            else f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
            "torch": torch.__version__.split("+")[0],
            "commit": _commit(),
            "date": time.strftime("%Y-%m-%d"),
        },
    }
    return {
        "query": query,
        "gallery": gallery,
        **state,
        "about": about,
        "scores": _flat(scores),
        **{f"also/{name}": _flat(found) for name, found in also.items()},
        **{f"attributes/{name}": values for name, values in asked.items()},
    }


def _model(plan, classes, start=None):
    return build_model(
        plan.model,
        classes,
        plan.weights,
        plan.last_stride,
        verify=plan.verification_weight > 0,
        parts=plan.parts,
        local_width=plan.local_width,
        part_classes=plan.part_weight > 0,
        start=start,
        attribute_parts=plan.attribute_parts,
        attribute_overlap=plan.attribute_overlap,
    )


def _start(plan, questions):
    if not plan.blind_start:
        return torch.zeros(len(questions.statements))
    return losses.blind_logits(questions, plan.attribute_loss, plan.focal_gamma, plan.focal_alpha)


def _statements(questions, logits, attributes, costs):
    """How well each statement is recognised, and in which stripe (from 0) at the lowest loss -> a dict a statement, as
    JSON and results/attributes.csv hold it."""
    found = asdict(evaluation.attribute_scores(logits, questions.answers(attributes), questions.groups))
    found |= {"stripe": np.repeat(costs.argmin(0), [group.stop - group.start for group in questions.groups])}
    shares = questions.shares.tolist()
    lines = zip(questions.statements, shares, *(values.tolist() for values in found.values()))
    return [dict(zip(("statement", "train_share", *found), line)) for line in lines]


def _reranked(query, gallery, query_pids, gallery_pids, query_camids, gallery_camids):
    """Scores after re-ranking; junk, which no query may see, is left out of the neighbourhoods too."""
    known = gallery_pids != -1
    distances = evaluation.rerank(query, gallery[known])
    return evaluation.evaluate(distances, query_pids, gallery_pids[known], query_camids, gallery_camids[known])


def _by_stripes(plan, query, gallery, local_query, local_gallery, *ids):
    """Scores by the local distance alone, and by the global one plus the mean of a path's cells."""
    aligned = plan.local == "aligned"
    local = local_distance_matrix(local_query, local_gallery, aligned)
    both = evaluation.euclidean_distances(query, gallery) + local / (2 * plan.parts - 1 if aligned else plan.parts)
    return {"local": evaluation.evaluate(local, *ids), "both": evaluation.evaluate(both, *ids)}


def _flat(scores):
    return np.r_[scores.mAP, scores.mINP, scores.queries, len(scores.cmc), scores.cmc, scores.ap]


def _unflat(values):
    ranks = int(values[3])
    return evaluation.Scores(
        float(values[0]), float(values[1]), values[4 : 4 + ranks], values[4 + ranks :], int(values[2])
    )


# -------------------------------------------------------------------------------------------------------- keeping one


def _save(path, made):
    with open(path, "wb") as file:
        np.savez(file, **{**made, "about": np.frombuffer(json.dumps(made["about"]).encode(), np.uint8)})


def _load(path):
    """The kept Result, or None; a file that cannot be read is put aside with a warning."""
    if not path.exists():
        return None
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
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
            features=SimpleNamespace(query=arrays["query"], gallery=arrays["gallery"]),
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
        "dataset": [data.name, data.fingerprint],
        "seed": int(seed),
        "device": device.type,
        "start": [weights_fingerprint(model, plan.weights) for model in (plan.model, plan.peer) if model],
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
    for function in (_make, _model, _reranked, _by_stripes, _start, _statements):
        digest.update(ast.dump(ast.parse(inspect.getsource(function))).encode())
    return digest.hexdigest()


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
    return tables.merge_runs(runs, [result.row() for result in kept_results()]) if kept else runs


def statements(kept=True):
    """The scores of all runs with attributes, statement by statement, as a DataFrame: results/attributes.csv and, in
    their place where they are newer, the runs kept on this machine."""
    lines = tables.read_runs(RESULTS / "attributes.csv")
    new = [line for result in kept_results() for line in result.statement_rows()] if kept else []
    return tables.merge_runs(lines, new)


def claims(kept=False):
    """The ledger of claims -> DataFrame: id, statement, paper_gain, gain, spread, seeds, dataset, verdict and more.

    Judged from results/runs.csv, with `kept=True` also from the runs on this machine; the rule stands in
    `tables.judge`.
    """
    return tables.judge(results(kept))
