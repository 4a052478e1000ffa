"""What cannot be meant is refused in words, before a world is drawn or anything is trained."""

import errno
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_datasets import csv

from reidnb import experiments, ledger
from reidnb.experiments import check_parameters, run
from reidnb.ledger import claims, papers
from reidnb.methods import Identity, Stripes, TargetStyles
from reidnb.models import check_weights
from reidnb.recipes import PROFILES, RECIPES, Recipe, recipe


class Plain:
    def __call__(self, output, batch):
        return 0


@dataclass(frozen=True)
class Holder:
    held: object

    def __call__(self, output, batch):
        return 0


REFUSED = [
    # the recipe
    ({"recipe": None}, TypeError, "recipe must be a name or a Recipe, got None"),
    ({"recipe": []}, TypeError, r"recipe must be a name or a Recipe, got \[\]"),
    ({"recipe": Path("ide")}, TypeError, "recipe must be a name or a Recipe, got PosixPath"),
    ({"recipe": Recipe}, TypeError, "recipe must be a name or a Recipe, got <class"),
    ({"recipe": ""}, ValueError, "unknown recipe ''; there are colour_histogram, untrained"),
    ({"recipe": "basline"}, ValueError, r"unknown recipe 'basline' \(did you mean 'baseline'\?\)"),
    # where and how
    ({"dataset": None}, TypeError, "dataset must be a name or a ReIDDataset, got None"),
    ({"dataset": np.zeros(3)}, TypeError, "dataset must be a name or a ReIDDataset, got array"),
    ({"dataset": {"name": "synthetic"}}, TypeError, "dataset must be a name or a ReIDDataset, got {"),
    ({"dataset": "market"}, ValueError, "unknown dataset 'market'; known: synthetic"),
    ({"dataset": "synthetic->"}, ValueError, "unknown dataset ''"),
    ({"dataset": "a->b->c"}, ValueError, "unknown dataset 'a'"),
    ({"dataset": "csv", "root": 5}, TypeError, "root is the path of a folder, got 5"),
    ({"dataset": "csv", "root": "/nowhere"}, FileNotFoundError, "csv: there is no folder /nowhere"),
    ({"root": "/tmp"}, TypeError, "synthetic is drawn, not read from a folder: it has no root"),
    ({"profile": None}, TypeError, "profile must be a name, got None"),
    ({"profile": ["quick"]}, TypeError, "profile must be a name, got"),
    ({"profile": "fast"}, ValueError, "unknown profile 'fast'.*take one of quick, full, laptop, photo, paper"),
    ({"seed": -1}, ValueError, "seed must be an integer from 0 on, below 2.*; got -1"),
    ({"seed": 2**40}, ValueError, "seed must be an integer"),
    ({"seed": 0.5}, ValueError, "seed must be an integer"),
    ({"seed": True}, ValueError, "seed must be an integer"),
    ({"seed": "0"}, ValueError, "seed must be an integer"),
    ({"seed": [0]}, ValueError, "seed must be an integer"),
    ({"seed": float("nan")}, ValueError, "seed must be an integer"),
    ({"device": "tpu"}, ValueError, "device 'tpu'"),
    ({"device": "cuda:99"}, ValueError, "device 'cuda:99' is not available here"),
    ({"device": 5.5}, ValueError, "unknown device 5.5"),
    # fields
    ({"epochs": -1}, ValueError, "epochs must be a whole number from 0 on, got -1"),
    ({"epochs": "three"}, ValueError, "epochs must be a whole number from 0 on, got 'three'"),
    ({"epochs": 2.5}, ValueError, "epochs must be a whole number"),
    ({"epochs": 1, "warmup": 1.0}, ValueError, "a warm-up of 1 epochs leaves nothing of 1"),
    ({"epoch": 3}, TypeError, r"has 'epoch' \(did you mean 'epochs'\?\)"),
    ({"misalignmnt": 2.0}, TypeError, r"has 'misalignmnt' \(did you mean 'misalignment'\?\)"),
    ({"recipe": "baseline", "weight": 0.5}, TypeError, "2 fields called 'weight': say which, identity_weight, trih"),
    ({"recipe": "trihard", "margin": 0.1, "trihard_margin": 0.2}, TypeError, "cannot be changed together"),
    ({"recipe": "trihard", "losses": (Identity(),), "margin": 0.1}, TypeError, "cannot be changed together"),
    ({"misalignment": 3.0}, ValueError, "misalignment=3.0"),
    ({"misalignment": "2"}, ValueError, "misalignment='2': wanted a number from 0 to 2"),
    ({"junk": -1}, ValueError, "junk=-1: wanted a whole number from 0 up"),
    ({"model": "resnet34"}, ValueError, "unknown model 'resnet34'"),
    ({"weights": "nowhere.safetensors"}, FileNotFoundError, "nowhere.safetensors"),
    ({"recipe": "baseline_mc", "weights": "imagenet"}, ValueError, "no ImageNet weights"),
    ({"recipe": "hplf", "parts": 0}, ValueError, "parts must be a whole number from 1 on, got 0"),
    ({"recipe": "alfo", "attribute_parts": 0}, ValueError, "parts must be a whole number from 1 on, got 0"),
    ({"recipe": "aligned_mm", "peer": None}, ValueError, "peer must be a word, got None"),
    ({"recipe": "baseline_mc", "peer": "resnet34"}, ValueError, "resnet34"),
    ({"compare": "nope"}, ValueError, "'nope'"),
    ({"size": (4, 4)}, ValueError, r"at least 8 each, such as \(128, 64\); got \(4, 4\)"),
    ({"name": ""}, ValueError, "a recipe's name has up to 80 letters, digits and any of _ . . -, as a file's; got ''"),
    ({"name": "../mine"}, ValueError, "a recipe's name has up to 80 letters"),
    ({"name": "a, b"}, ValueError, "a recipe's name has up to 80 letters"),
    ({"name": "x" * 300}, ValueError, "a recipe's name has up to 80 letters"),
    # nothing to learn from
    ({"identity_weight": 0}, ValueError, "recipe ide: nothing is learned: it has no loss term with a weight above 0"),
    ({"losses": ()}, ValueError, "recipe ide: nothing is learned"),
    ({"recipe": "baseline", "identity_weight": 0.0, "trihard_weight": 0}, ValueError, "nothing is learned"),
    ({"recipe": "trihard", "p": 1, "k": 1}, ValueError, "batches of 1 x 1 hold no pairs to compare: p and k must"),
    ({"recipe": "trihard", "k": 1}, ValueError, "batches of 16 x 1 hold no pairs"),
    # parts
    ({"losses": (Identity,)}, ValueError, r"Identity is a class: write Identity\(\)"),
    ({"losses": (5,)}, ValueError, "5 is no loss term: it cannot be called"),
    ({"losses": "identity"}, ValueError, "losses must be a tuple, got 'identity'"),
    ({"losses": (Identity(), Identity())}, ValueError, "two loss terms are called identity"),
    ({"losses": (Plain(),)}, TypeError, "a part of a recipe is a frozen dataclass or a function, so that it has a key"),
    ({"losses": (print,)}, TypeError, "so that it has a key; got <built-in function print>"),
    ({"losses": (torch.nn.CrossEntropyLoss(),)}, TypeError, "so that it has a key; got CrossEntropyLoss"),
    ({"losses": (Holder([1]),)}, TypeError, r"so that it has a key; got \[1\]"),
    ({"heads": (Identity(),)}, ValueError, r"is no head: it has no build\(channels, facts\)"),
    ({"heads": (Stripes(8), Stripes(4))}, ValueError, "two heads are called stripes"),
    ({"extra": TargetStyles()}, ValueError, "join the batch, and no loss term looks at them"),
]


@pytest.mark.parametrize("arguments, error, says", REFUSED, ids=[str(given)[:50] for given, *_ in REFUSED])
def test_refused_before_any_work(arguments, error, says, cache, monkeypatch):
    def worked(*_, **__):
        raise AssertionError("it drew the world, or trained")

    monkeypatch.setattr("reidnb.datasets.builtin._records", worked)
    monkeypatch.setattr(experiments, "train", worked)
    monkeypatch.delenv("REIDNB_DATA", raising=False)
    with pytest.raises(error, match=says):
        run(**{"recipe": "ide_scratch" if "weights" not in arguments else "ide", **IDE | arguments})
    assert not list(cache.rglob("*.npz"))


IDE = {"device": "cpu", "name": "ide"}


def test_a_wrong_name_is_answered_with_the_near_one_of_recipe_and_dataset(cache, tmp_path):
    """Once `--set epoch=3` answered: csv has no option epoch."""
    folder = csv(tmp_path / "mine")
    with pytest.raises(
        TypeError, match=r"neither the recipe ide nor the dataset csv has 'epoch'.*mean 'epochs'.*"
    ) as no:
        run("ide", "csv", root=folder, epoch=3)
    assert "the dataset encoding, partial, root, split_seed, table" in str(no.value)
    with pytest.raises(TypeError, match=r"has 'tabel' \(did you mean 'table'\?\)"):
        run("ide", "csv", root=folder, tabel="index.csv")


@pytest.mark.parametrize(
    "given, says",
    [
        (
            {"profile": "quik"},
            r"profile must be one of quick, full, laptop, photo, paper; got 'quik' \(did you mean 'quick'",
        ),
        ({"dataset": "market"}, "unknown dataset 'market'"),
        ({"seed": -1}, "seed must be an integer"),
        ({"device": "tpu"}, "device 'tpu'"),
    ],
    ids=str,
)
def test_a_notebooks_parameters(given, says):
    good = {"profile": "quick", "dataset": "synthetic", "seed": 0, "device": "auto"}
    check_parameters(**good)
    with pytest.raises(ValueError, match=says):
        check_parameters(**good | given)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_recipe_has_weights_to_start_from(profile):
    """In every profile, for both students, but for the start that the small networks alone have; and what is named
    after the Xception form is trained in it."""
    for name in RECIPES:
        plan = recipe(name, profile)
        if plan.weights == "drawn" and "model" in PROFILES[profile]:
            continue
        for model in {plan.model, *(part.peer for part in plan.parts if hasattr(part, "peer"))}:
            if plan.learns:
                check_weights(model, plan.weights)
        assert name.endswith("_x") == plan.model.endswith("_xception") or plan.model == "lite0", name
        assert not name.endswith("_scratch") or plan.weights is None


def test_papers_and_claims_take_what_they_say(monkeypatch, tmp_path):
    """A folder of results that holds something else is named."""
    with pytest.raises(TypeError):
        papers("claim")
    monkeypatch.setattr(ledger, "RESULTS", tmp_path)
    assert set(claims().verdict) == {"not run"}, "no file: nothing was run"
    (tmp_path / "runs.csv").write_text("recipe,mAP\nide,0.5\n")
    with pytest.raises(ValueError, match="runs.csv is no table of runs: the table has no dataset, changes"):
        claims()
    (tmp_path / "runs.csv").unlink()
    (tmp_path / "runs.csv").mkdir()
    with pytest.raises(IsADirectoryError, match="runs.csv"):
        claims()


def test_a_kept_run_is_loaded_where_nothing_can_be_removed(cache, monkeypatch):
    """A cache on a read-only disk: to remove what is not there is an error there."""

    def refuse(self, missing_ok=False):
        raise OSError(errno.EROFS, "Read-only file system")

    first = run("colour_histogram", "synthetic", train_identities=4, test_identities=4, distractors=0, junk=0)
    monkeypatch.setattr(Path, "unlink", refuse)
    again = run("colour_histogram", "synthetic", train_identities=4, test_identities=4, distractors=0, junk=0)
    assert again.key == first.key
