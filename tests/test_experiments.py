"""Experiments: made once, kept, and made again when anything that matters has changed."""

import logging
import os
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from reidnb import experiments, tables, training
from reidnb.batches import Augmentation
from reidnb.datasets import open_dataset
from reidnb.evaluation import evaluate_features
from reidnb.experiments import claims, kept_results, results, run
from reidnb.models import build_model, save_backbone
from reidnb.recipes import PROFILES, RECIPES, Recipe, recipe
from reidnb.training import embed

HOUSE = Path(__file__).resolve().parents[1]
WORLD = {"train_identities": 8, "test_identities": 8, "distractors": 10, "junk": 5}
TINY = {"epochs": 2, "p": 4, "device": "cpu", **WORLD}
TABLE = {
    "recipe",
    "dataset",
    "changes",
    "profile",
    "seed",
    "mAP",
    "rank1",
    "rank5",
    "rank10",
    "mINP",
    "seconds",
    "device",
    "torch",
    "commit",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A cache that holds the tiny world (`made` adds a run of it)."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REIDNB_CACHE", str(folder))
        patch.delenv("REIDNB_FP32", raising=False)
        open_dataset("synthetic", size=(64, 32), **WORLD)
        yield folder


@pytest.fixture(scope="module")
def made(home):
    return run("baseline_scratch", **TINY)


@pytest.fixture
def no_training(monkeypatch):
    def trained(*_, **__):
        raise AssertionError("it trained")

    monkeypatch.setattr(experiments, "train", trained)


@pytest.fixture
def elsewhere(home, tmp_path, monkeypatch):
    """A cache of its own with the tiny world in it, but no runs."""
    shutil.copytree(home / "datasets", tmp_path / "cache" / "datasets")
    monkeypatch.setenv("REIDNB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def same_result(one, other):
    assert one.key == other.key and one.history == other.history and one.seconds == other.seconds
    assert (one.features.query == other.features.query).all() and one.recipe == other.recipe
    np.testing.assert_array_equal(one.scores.ap, other.scores.ap)
    assert one.scores.mAP == other.scores.mAP and (one.scores.cmc == other.scores.cmc).all()


# ---- made and kept --------------------------------------------------------------------------------------------------


def test_a_run(made, home):
    data = open_dataset("synthetic", size=(64, 32), **WORLD)
    assert made.recipe == recipe("baseline_scratch", epochs=2, p=4) and made.dataset == "synthetic" and made.seed == 0
    assert [line["epoch"] for line in made.history] == [1, 2] and made.seconds > sum(h["seconds"] for h in made.history)
    assert made.features.query.shape == (len(data.query), made.features.gallery.shape[1])
    assert len(made.features.gallery) == len(data.gallery)
    again = evaluate_features(
        made.features.query,
        made.features.gallery,
        data.query.pids,
        data.gallery.pids,
        data.query.camids,
        data.gallery.camids,
    )
    assert again.mAP == made.scores.mAP and 0 < made.multi_query.mAP <= 1
    assert made.changes == "distractors=10, epochs=2, junk=5, p=4, test_identities=8, train_identities=8"
    kept = [path.name for path in (home / "runs").iterdir() if path.suffix != ".lock"]
    assert kept == [f"{made.key}.npz"], "and no checkpoint is left"


def test_the_second_time_it_is_loaded(made, no_training):
    same_result(run("baseline_scratch", **TINY), made)
    again = run("baseline_scratch", profile="full", **TINY)
    same_result(again, made)
    assert again.profile == "full" and made.profile == "quick", "quick is full's first seed"


def test_an_open_dataset_will_do(made, no_training):
    data = open_dataset("synthetic", size=(64, 32), **WORLD)
    same_result(run("baseline_scratch", data, epochs=2, p=4, device="cpu"), made)
    with pytest.raises(TypeError, match="junk: no field of a recipe, and the dataset is open already"):
        run("baseline_scratch", data, junk=5)
    with pytest.raises(ValueError, match=r"wants pictures of \(32, 16\), the dataset was opened at \(64, 32\)"):
        run("baseline_scratch", data, size=(32, 16))


def test_what_an_open_dataset_was_opened_with_stands_in_the_row(elsewhere, made):
    """Once such a run took the place of the plain one in every table."""
    data = open_dataset("synthetic", size=(64, 32), **WORLD)
    result = run("colour_histogram", data, device="cpu", seed=1)
    assert result.changes == ", ".join(f"{k}={v!r}" for k, v in sorted(WORLD.items()))


def test_the_model_gives_the_kept_features(made):
    data = open_dataset("synthetic", size=(64, 32), **WORLD)
    model = made.model()
    assert not model.training
    features = embed(model, data.query.images, "cpu").numpy()
    np.testing.assert_allclose(features, made.features.query, atol=1e-6)  # the same sums, in memory laid out anew


@pytest.mark.parametrize("change", [{"seed": 1}, {"margin": 0.5}, {"junk": 4}, {"misalignment": 2.0}], ids=str)
def test_anything_changed_is_another_run(change, made, monkeypatch):
    class Trained(Exception):
        pass

    def trained(*_, **__):
        raise Trained

    monkeypatch.setattr(experiments, "train", trained)
    with pytest.raises(Trained):
        run("baseline_scratch", **{**TINY, **change})


def test_a_histogram_learns_nothing(made, no_training):
    result = run("colour_histogram", device="cpu", **WORLD)
    assert result.history == [] and 0 < result.scores.mAP < 1
    with pytest.raises(ValueError, match="colour_histogram learns nothing"):
        result.model()


# ---- the key --------------------------------------------------------------------------------------------------------

DATA = SimpleNamespace(name="world", fingerprint="abc")
PLAN = recipe("baseline_scratch")
OTHER = {
    "name": "x",
    "model": "resnet18",
    "weights": "imagenet",
    "last_stride": 2,
    "size": (32, 16),
    "p": 3,
    "k": 3,
    "augmentation": Augmentation(flip=0.1),
    "identity_weight": 0.5,
    "label_smoothing": 0.0,
    "metric": None,
    "metric_weight": 0.5,
    "margin": None,
    "margin2": 0.5,
    "pull": 0.5,
    "verification_weight": 0.5,
    "label_noise": 0.5,
    "epochs": 11,
    "optimizer": "sgd",
    "lr": 1.0,
    "weight_decay": 0.0,
    "warmup": 0.5,
    "schedule": "step",
    "steps": (3,),
    "compare": "features",
    "flip_test": False,
}


def key(plan=PLAN, data=DATA, seed=0, device="cpu"):
    return experiments._key(plan, data, seed, torch.device(device))


@pytest.mark.parametrize("field", [f.name for f in fields(Recipe)])
def test_every_field_of_a_recipe_is_in_the_key(field):
    if field == "title":
        assert key(replace(PLAN, title="Other words")) == key(), "words change no number"
    else:
        assert field in OTHER, "a new field: give it another value above"
        assert key(replace(PLAN, **{field: OTHER[field]})) != key()


def test_what_else_is_in_the_key(monkeypatch):
    keys = {key(), key(seed=1), key(device="cuda"), key(data=SimpleNamespace(name="world", fingerprint="abd"))}
    keys.add(key(replace(PLAN, augmentation=replace(PLAN.augmentation, colour=0.2))))
    monkeypatch.setattr(torch, "__version__", "9.9.9+cpu")
    keys.add(key())
    monkeypatch.setattr(experiments, "_code", lambda: "other code")
    keys.add(key())
    assert len(keys) == 7
    assert key(seed=np.int64(3)) == key(seed=3)


def test_weights_in_a_file_count_by_their_content(tmp_path):
    path, keys = tmp_path / "w.safetensors", set()
    for seed in (0, 1):
        torch.manual_seed(seed)
        save_backbone(build_model("small"), path)
        keys.add(key(replace(PLAN, weights=str(path))))
    assert len(keys) == 2


def test_the_precision_is_in_the_key(monkeypatch):
    """REIDNB_FP32 changes every number."""
    keys = set()
    for has_bf16 in (True, False):
        monkeypatch.setattr(training, "_cpu_has_bf16", lambda: has_bf16)  # noqa: B023
        keys.add(key())
    assert len(keys) == 2


def test_code_counts_comments_do_not(tmp_path, monkeypatch):
    shutil.copytree(experiments.PACKAGE, tmp_path / "reidnb", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(experiments, "PACKAGE", tmp_path / "reidnb")

    def after(file, edit):
        path = tmp_path / "reidnb" / file
        before = path.read_text(encoding="utf-8")
        path.write_text(edit(before), encoding="utf-8")
        found = experiments._code.__wrapped__()
        path.write_text(before, encoding="utf-8")
        return found

    code = experiments._code.__wrapped__()
    assert after("losses.py", lambda text: text + "\n# a remark\n") == code
    assert after("losses.py", lambda text: text.replace('"""Losses of', '"""The losses of')) == code
    assert after("losses.py", lambda text: text.replace("margin=0.3", "margin = 0.3")) == code
    assert after("plots/look.py", lambda text: text + "\nx = 1\n") == code
    assert after("losses.py", lambda text: text.replace("margin=0.3", "margin=0.4")) != code
    for file in (
        "training.py",
        "batches.py",
        "evaluation/scores.py",
        "alignment.py",
        "descriptors.py",
        "models/small.py",
        "models/__init__.py",
    ):
        assert after(file, lambda text: text + "\nx = 1\n") != code, file


# ---- accidents ------------------------------------------------------------------------------------------------------


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def rubbish(path):
    path.write_bytes(b"<html>" * 50)


def flipped_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def other_content(path):
    with open(path, "wb") as file:
        np.savez(file, about=np.zeros(3))


@pytest.mark.parametrize("damage", [cut, empty, rubbish, flipped_byte, other_content])
def test_a_damaged_run_is_put_aside_and_made_again(damage, elsewhere, caplog):
    first = run("colour_histogram", device="cpu", **WORLD)
    path = elsewhere / "runs" / f"{first.key}.npz"
    damage(path)
    damaged = path.read_bytes()
    with caplog.at_level(logging.WARNING, "reidnb"):
        again = run("colour_histogram", device="cpu", **WORLD)
    assert again.scores.mAP == first.scores.mAP and path.exists()
    assert path.with_suffix(".damaged").read_bytes() == damaged
    assert "cannot be read" in caplog.text and str(path) in caplog.text


def test_a_stopped_run_goes_on_after_its_last_epoch(elsewhere, monkeypatch, caplog):
    whole = run("baseline_scratch", **{**TINY, "epochs": 3})
    for path in (elsewhere / "runs").iterdir():
        path.unlink()
    report = training._report

    def stop_in_the_third(bar, line, recipe):
        if line["epoch"] == 3:
            raise KeyboardInterrupt
        report(bar, line, recipe)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "_report", stop_in_the_third)
        run("baseline_scratch", **{**TINY, "epochs": 3})
    left = {path.suffix for path in (elsewhere / "runs").iterdir()}
    assert left == {".lock", ".checkpoint"}, "nothing half-written"
    caplog.clear()
    with caplog.at_level(logging.INFO, "reidnb"):
        again = run("baseline_scratch", **{**TINY, "epochs": 3})
    assert [m for m in caplog.messages if "epoch" in m and "epoch 3/3" not in m] == [], "only the third was trained"
    assert (again.features.gallery == whole.features.gallery).all() and again.scores.mAP == whole.scores.mAP


RACER = """
import logging, sys
import torch
torch.set_num_threads(1)
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
from reidnb.experiments import run
result = run("ide_scratch", epochs=1, warmup=0.0, p=4, device="cpu", **{world!r})
print("mAP", result.scores.mAP)
"""


def test_two_processes_make_one_run_once(elsewhere):
    code = RACER.replace("{world!r}", repr(WORLD))
    environment = {**os.environ, "PYTHONPATH": str(HOUSE)}
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL
        )
        for _ in range(2)
    ]
    said = [racer.communicate(timeout=120)[0] for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0]
    assert "".join(said).count("ide_scratch epoch 1/1") == 1, "trained once"
    found = {line for text in said for line in text.splitlines() if line.startswith("mAP")}
    assert len(found) == 1
    assert len(list((elsewhere / "runs").glob("*.npz"))) == 1


# ---- refused before any work ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, error, says",
    [
        ({"seed": -1}, ValueError, "seed must be an integer from 0 on, got -1"),
        ({"seed": 0.5}, ValueError, "seed"),
        ({"seed": True}, ValueError, "seed"),
        ({"seed": "0"}, ValueError, "seed"),
        ({"device": "tpu"}, ValueError, "device 'tpu'"),
        ({"profile": "fast"}, ValueError, "unknown profile 'fast': take one of quick, full, laptop, paper"),
        ({"recipe": "basline"}, ValueError, r"unknown recipe 'basline' \(did you mean 'baseline'\?\)"),
        ({"epochs": 0}, ValueError, "epochs must be positive"),
        ({"epochs": 1, "warmup": 1.0}, ValueError, "warm-up"),
        ({"dataset": "market"}, ValueError, "unknown dataset 'market'; known: synthetic"),
        ({"epoch": 3}, TypeError, "epoch"),
        ({"misalignmnt": 2.0}, TypeError, "no option misalignmnt"),
        ({"misalignment": 3.0}, ValueError, "misalignment=3.0"),
        ({"model": "resnet34"}, ValueError, "resnet34"),
        ({"weights": "nowhere.safetensors"}, FileNotFoundError, "nowhere.safetensors"),
    ],
)
def test_refused_before_any_work(arguments, error, says, cache, monkeypatch):
    """An unknown model and missing weights too, which once were noticed after the world was drawn."""

    def drawn(*_, **__):
        raise AssertionError("it drew the world")

    monkeypatch.setattr("reidnb.datasets.drawn._records", drawn)
    with pytest.raises(error, match=says):
        run(**{"recipe": "ide_scratch", **arguments})
    assert not list(cache.rglob("*.npz"))


# ---- recipes and profiles -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_every_profile(name, profile):
    plan = recipe(name, profile)
    assert plan.name == name
    if name.endswith("_scratch"):
        assert plan.weights is None


def test_from_scratch_by_a_change_has_the_schedule_for_it():
    """Once the recipe's own weights alone chose the schedule."""
    assert recipe("baseline", "paper", weights=None).epochs == recipe("baseline_scratch", "paper").epochs


def test_changes_win_over_the_profile():
    assert recipe("baseline", "paper", epochs=7, warmup=1.0, schedule="cosine").epochs == 7
    with pytest.raises(TypeError, match=r"no 'epoch' \(did you mean 'epochs'\?\)"):
        recipe("baseline", epoch=7)


# ---- tables and claims ----------------------------------------------------------------------------------------------


def test_rows_and_results(made, tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "RESULTS", tmp_path)
    assert set(made.row()) >= TABLE
    assert made.row()["mAP"] == pytest.approx(made.scores.mAP, abs=1e-5)
    assert made.key in {result.key for result in kept_results()}
    table = results()
    (line,) = table[table.key == made.key].to_dict("records")
    assert line["profile"] == "full" and line["seed"] == 0 and line["changes"] == made.changes
    assert len(results(kept=False)) == 0


def test_claims_keep_their_contract(tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "RESULTS", tmp_path)
    ledger = claims()
    assert isinstance(ledger, pd.DataFrame) and len(ledger)
    assert {"id", "statement", "paper_gain", "gain", "spread", "seeds", "dataset", "verdict"} <= set(ledger.columns)
    assert set(ledger.verdict) == {"not run"}
    monkeypatch.undo()
    assert set(claims().verdict) <= set(tables.VERDICTS)


@pytest.mark.parametrize("first, second", [({"profile": "quick"}, {"profile": "laptop"}), ({"k": 4}, {})], ids=str)
def test_the_same_settings_asked_for_by_another_name(first, second, elsewhere, tmp_path, monkeypatch):
    """Once the second found the first's file, and the table never heard of it.

    A claim about ("market1501", "laptop") stayed "not run" when the histogram was first asked for under `quick`.
    """
    monkeypatch.setattr(experiments, "RESULTS", tmp_path)
    run("colour_histogram", device="cpu", **first, **WORLD)
    wanted = run("colour_histogram", device="cpu", **second, **WORLD)
    table = results()
    named = [(line.profile, line.changes) for line in table.itertuples()]
    expected = ", ".join(f"{k}={v!r}" for k, v in sorted(WORLD.items()))
    assert wanted.changes == expected
    assert ("laptop" if second else "full", expected) in named
