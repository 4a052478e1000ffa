"""Experiments: made once, kept, and made again when anything that matters has changed."""

import logging
import os
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from reidnb import experiments, plots, tables, training, trials
from reidnb.alignment import local_distance_matrix, shortest_path, stripe_costs
from reidnb.attributes import ask
from reidnb.batches import Augmentation
from reidnb.datasets import open_dataset
from reidnb.evaluation import Scores, attribute_scores, euclidean_distances, evaluate, evaluate_features, rerank
from reidnb.experiments import claims, kept_results, results, run
from reidnb.models import DRAWN, build_model, check_weights, save_backbone
from reidnb.recipes import PROFILES, RECIPES, VARIATIONS, Recipe, recipe
from reidnb.synthetic import Dials
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

    monkeypatch.setattr(trials, "train", trained)


@pytest.fixture
def elsewhere(home, tmp_path, monkeypatch):
    """A cache of its own with the tiny world in it, but no runs."""
    shutil.copytree(home / "datasets", tmp_path / "cache" / "datasets")
    monkeypatch.setenv("REIDNB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def same_result(one, other):
    assert one.key == other.key and one.history == other.history and one.seconds == other.seconds
    assert (one.features.query == other.features.query).all() and one.recipe == other.recipe
    same_scores(one.scores, other.scores)
    assert one.also.keys() == other.also.keys()
    for name, scores in one.also.items():
        same_scores(scores, other.also[name])


def same_scores(one, other):
    np.testing.assert_array_equal(one.ap, other.ap)
    np.testing.assert_array_equal(one.cmc, other.cmc)
    assert (one.mAP, one.mINP, one.queries) == (other.mAP, other.mINP, other.queries)


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

    monkeypatch.setattr(trials, "train", trained)
    with pytest.raises(Trained):
        run("baseline_scratch", **{**TINY, **change})


def test_a_histogram_learns_nothing(made, no_training):
    result = run("colour_histogram", device="cpu", **WORLD)
    assert result.history == [] and 0 < result.scores.mAP < 1
    with pytest.raises(ValueError, match="colour_histogram learns nothing"):
        result.model()


# ---- stripes and two students ---------------------------------------------------------------------------------------

ALIGNED = {"parts": 8, "peer": "small", "class_mutual": 1.0, "metric_mutual": 0.1, **TINY}


@pytest.fixture(scope="module")
def pair_of_students(home):
    """A run of AlignedReID with a second student, what went into its file, and the two as they were trained."""
    seen = SimpleNamespace()

    def save(path, made, about):
        seen.made = made
        keep(path, made, about)

    def train(net, *arguments):
        seen.students = net
        return learn(net, *arguments)

    keep, learn = experiments._save, trials.train
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiments, "_save", save)
        patch.setattr(trials, "train", train)
        seen.result = run("aligned", **ALIGNED)
    return seen


def people(data):
    return data.query.pids, data.gallery.pids, data.query.camids, data.gallery.camids


def nearly_the_same(one, other):
    """The model's features are the kept ones up to 1e-6: at most a pair of images may change places, for one query."""
    moved = np.abs(one.ap - other.ap) > 1e-9
    assert moved.sum() <= 1 and one.queries == other.queries
    assert one.mAP == pytest.approx(other.mAP, abs=0.5 / one.queries)


def test_what_a_run_with_stripes_and_a_peer_tells(pair_of_students, no_training):
    result = pair_of_students.result
    assert list(result.also) == ["multi_query", "rerank", "local", "both", "peer"]
    terms = {"identity", "trihard", "local", "class_mutual", "metric_mutual"}
    assert len(result.history) == 2 and terms < set(result.history[0])
    same_result(run("aligned", **ALIGNED), result)  # loaded: it did not train
    row = result.row()
    for name, scores in result.also.items():
        assert row[f"{name}_mAP"] == pytest.approx(scores.mAP, abs=1e-5), name
        assert row[f"{name}_rank1"] == pytest.approx(scores.rank1, abs=1e-5), name
    assert row["mAP"] == pytest.approx(result.scores.mAP, abs=1e-5)


def test_scores_go_through_the_file_unchanged(pair_of_students):
    """Numbers as they were computed; and of queries without a match, which are NaN."""
    made, result = pair_of_students.made, pair_of_students.result
    for name, scores in result.also.items():
        same_scores(scores, made.also[name])
    same_scores(result.scores, made.scores)
    scores = Scores(0.25, 0.125, np.linspace(0.5, 1, 7), np.array([0.5, np.nan, 0.0]), 2)
    same_scores(experiments._unflat(experiments._flat(scores)), scores)


def test_the_kept_model_is_the_first_student(pair_of_students):
    result, data = pair_of_students.result, open_dataset("synthetic", size=(64, 32), **WORLD)
    model = result.model()
    for name, value in pair_of_students.students.first.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    assert model.stripes.parts == 8 and not model.training
    features = embed(model, data.query.images, "cpu").numpy()
    np.testing.assert_allclose(features, result.features.query, atol=1e-6)  # the same sums, in memory laid out anew


def test_the_peers_scores_are_the_second_students(pair_of_students):
    data = open_dataset("synthetic", size=(64, 32), **WORLD)
    query, gallery = (embed(pair_of_students.students.second, s.images, "cpu") for s in (data.query, data.gallery))
    nearly_the_same(pair_of_students.result.also["peer"], evaluate_features(query, gallery, *people(data)))
    moved = pair_of_students.result.also["peer"].ap - pair_of_students.result.scores.ap
    assert np.nanmax(np.abs(moved)) > 0.01, "the two students differ: the test can tell"


def test_local_and_both_are_what_one_computes_from_the_model(pair_of_students):
    """Both: the global distance and the mean cell of the path, which has 2 x 8 - 1."""
    result, data = pair_of_students.result, open_dataset("synthetic", size=(64, 32), **WORLD)
    found = [embed(result.model(), s.images, "cpu", compare=("embedding", "local")) for s in (data.query, data.gallery)]
    (query, local_query), (gallery, local_gallery) = found
    local, apart = local_distance_matrix(local_query, local_gallery), euclidean_distances(query, gallery).numpy()
    nearly_the_same(result.also["local"], evaluate(local, *people(data)))
    both = evaluate(apart + local / 15, *people(data))
    nearly_the_same(result.also["both"], both)
    for other in (apart, local, apart + local, apart + local / 8):
        moved = np.abs(evaluate(other, *people(data)).ap - both.ap)
        assert np.nansum(moved > 1e-9) > 2, "other distances rank otherwise: the test can tell"


def test_reranking_leaves_junk_out(pair_of_students):
    """Trap 27. Of the kept features, so the numbers are exactly these."""
    result, data = pair_of_students.result, open_dataset("synthetic", size=(64, 32), **WORLD)
    known, query, gallery = data.gallery.pids != -1, result.features.query, result.features.gallery
    assert (~known).sum() == WORLD["junk"]
    without = rerank(query, gallery[known])
    query_pids, gallery_pids, query_camids, gallery_camids = people(data)
    same_scores(
        result.also["rerank"], evaluate(without, query_pids, gallery_pids[known], query_camids, gallery_camids[known])
    )
    with_junk = rerank(query, gallery)
    assert np.abs(with_junk[:, known] - without).max() > 0.01, "junk would be a neighbour"
    assert (evaluate(with_junk, *people(data)).ap != result.also["rerank"].ap).any(), "and would change the scores"


@pytest.mark.parametrize("name", ["hplf", "aligned"])
def test_the_scores_by_stripes_are_the_slow_ones(name):
    """On drawn numbers, pair by pair: stripe on stripe and their mean, or the readable shortest path and its 2H - 1
    cells."""
    rng, plan = np.random.default_rng(0), recipe(name, parts=3)
    ids = np.arange(6) % 3 + 1, np.arange(15) % 3 + 1, np.zeros(6, int), np.ones(15, int)
    query, gallery = (rng.normal(size=(n, 4)).astype(np.float32) for n in (6, 15))
    local_query, local_gallery = (2 * rng.normal(size=(n, 3, 2)).astype(np.float32) for n in (6, 15))
    local, both = np.empty((2, 6, 15))
    for i, x in enumerate(local_query):
        for j, y in enumerate(local_gallery):
            if name == "hplf":
                cells, local[i, j] = 3, sum(np.tanh(np.linalg.norm(f - g) / 2) for f, g in zip(x, y))
            else:
                local[i, j], path = shortest_path(stripe_costs(torch.from_numpy(x), torch.from_numpy(y)))
                cells = len(path)
            both[i, j] = np.linalg.norm(query[i] - gallery[j]) + local[i, j] / cells
    found = trials._by_stripes(plan, query, gallery, local_query, local_gallery, *ids)
    assert list(found) == ["local", "both"]
    same_scores(found["local"], evaluate(local, *ids))
    same_scores(found["both"], evaluate(both, *ids))


def test_stripes_in_a_row_are_what_pcb_compares(home):
    """One feature of unit length; and without local distances no scores by them."""
    data = open_dataset("synthetic", size=(64, 32), **WORLD)
    result = run("pcb", data, epochs=1, warmup=0.0, p=4, local_width=16, device="cpu")
    assert list(result.also) == ["multi_query", "rerank"] and result.features.query.shape == (len(data.query), 8 * 16)
    # float32's rounding of a length of 1, over 128 values
    np.testing.assert_allclose(np.linalg.norm(result.features.gallery, axis=1), 1, atol=1e-6)
    model = result.model()
    assert model.stripes.classifiers.shape == (8, 16, WORLD["train_identities"])
    stripes = embed(model, data.query.images, "cpu", compare="local")
    in_a_row = stripes.flatten(1).numpy() / np.sqrt(8)  # eight of unit length
    np.testing.assert_allclose(in_a_row, result.features.query, atol=1e-6)
    again = evaluate_features(result.features.query, result.features.gallery, *people(data))
    same_scores(again, result.scores)


# ---- attributes -----------------------------------------------------------------------------------------------------

ASKED = {"attribute_parts": 3, **TINY}


@pytest.fixture(scope="module")
def asked(home):
    return run("alfo", **ASKED)


def test_what_a_run_with_attributes_tells(asked, no_training):
    data = open_dataset("synthetic", size=(64, 32), **WORLD)
    questions = ask(data)
    assert list(asked.also) == ["multi_query", "rerank", "attributes"]
    assert {"identity", "attributes"} < set(asked.history[0])
    said, again = asked.attributes, run("alfo", **ASKED)
    assert said.query.shape == (len(data.query), 30) and said.gallery.shape == (len(data.gallery), 30)
    assert said.losses.shape == said.votes.shape == (3, 12)
    same_result(again, asked)
    np.testing.assert_array_equal(again.attributes.gallery, said.gallery)
    found = attribute_scores(said.gallery, questions.answers(data.gallery.attributes), questions.groups)
    assert [line["statement"] for line in asked.statements] == list(questions.statements)
    for name in ("share", "accuracy", "balanced", "f1", "ap"):
        np.testing.assert_array_equal([line[name] for line in asked.statements], getattr(found, name))
    best = [said.losses[:, m].argmin() for m, group in enumerate(questions.groups) for _ in range(*group.indices(30))]
    assert [line["stripe"] for line in asked.statements] == best
    np.testing.assert_allclose([line["train_share"] for line in asked.statements], questions.shares)
    row = asked.row()
    assert row["attribute_f1"] == pytest.approx(tables.attribute_means(asked.statements)["attribute_f1"], abs=1e-5)
    assert row["attributes_mAP"] == pytest.approx(asked.also["attributes"].mAP, abs=1e-5)
    lines = asked.statement_rows()
    assert len(lines) == 30 and all(lines[3][k] == row[k] for k in tables.IDENTIFIES)


def test_the_kept_model_answers_by_the_stripe_that_was_elected(asked):
    data = open_dataset("synthetic", size=(64, 32), **WORLD)
    model, questions = asked.model(), ask(data)
    logits = embed(model, data.query.images, "cpu", compare="attributes")
    for m, group in enumerate(questions.groups):
        winner = asked.attributes.losses[:, m].argmin()
        theirs = logits[:, winner, group].numpy()
        np.testing.assert_allclose(theirs, asked.attributes.query[:, group], atol=1e-4)  # logits of some units
    by_looks = [1 / (1 + np.exp(-said)) for said in (asked.attributes.query, asked.attributes.gallery)]
    nearly_the_same(asked.also["attributes"], evaluate_features(*by_looks, *people(data)))


def test_one_question_alone(home):
    """DeepSAR; and the others' recipes know nothing of attributes."""
    result = run("deepsar", **TINY)
    assert result.attributes.query.shape[1] == 1 and [line["statement"] for line in result.statements] == ["gender"]
    assert set(result.history[0]) >= {"attributes"} and "identity" not in result.history[0]


def test_runs_without_attributes_have_none(made):
    assert made.attributes is None and made.statements == [] and made.statement_rows() == []
    assert "attribute_f1" not in made.row() and "attributes" not in made.also


def test_the_table_of_statements(asked, monkeypatch, tmp_path):
    monkeypatch.setattr(experiments, "RESULTS", tmp_path)
    alfo = tables.run_name("alfo", asked.changes)
    lines = experiments.statements()
    tables.write_runs(lines, tmp_path / "attributes.csv")
    again = experiments.statements(kept=False)
    assert len(again) == len(lines) == len(experiments.statements())
    scores = tables.statement_scores(again, alfo, "accuracy")
    assert list(scores.columns) == [0] and list(scores.index) == [line["statement"] for line in asked.statements]
    np.testing.assert_allclose(scores[0] / 100, [line["accuracy"] for line in asked.statements], atol=1e-4)
    assert not len(tables.statement_scores(again, "apr", "accuracy"))
    assert not len(tables.statement_scores(again, alfo, "accuracy", "market1501", "laptop"))


def test_attributes_need_a_dataset_that_has_them(home, no_training):
    data = open_dataset("synthetic", size=(64, 32), **WORLD)
    bare = replace(data, train=replace(data.train, attributes=None))
    with pytest.raises(ValueError, match="synthetic has no attributes. The built-in world has; for Market-1501"):
        run("apr", bare, epochs=3, p=4, device="cpu")


# ---- the key --------------------------------------------------------------------------------------------------------

DATA = SimpleNamespace(name="world", fingerprint="abc", attribute_names=("hat",))
PLAN = recipe("baseline_scratch", parts=8, peer="small_xception")  # so that each field alone may take another value
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
    "parts": 4,
    "local_width": None,
    "local": "rigid",
    "local_weight": 0.5,
    "local_margin": 0.5,
    "mining": "both",
    "part_weight": 0.5,
    "attribute_weight": 0.5,
    "attribute_loss": "focal",
    "focal_gamma": 1.0,
    "blind_start": False,
    "focal_alpha": None,
    "attribute_parts": 2,
    "attribute_overlap": 0.25,
    "vote": "mean",
    "question": "hat",
    "peer": "small",
    "class_mutual": 0.5,
    "metric_mutual": 0.5,
    "zero_gradient": False,
    "pooling": "max",
    "width": 16,
    "branches": "lstm",
    "dropout": 0.25,
    "adapt": "style",
    "target_p": 3,
    "copies": 2,
    "fresh_norm": True,
    "styles": "truth",
    "fakes": 0.25,
    "fake_labels": "own",
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
        plan = {"branches": recipe("ide"), "fakes": recipe("ide"), "adapt": recipe("baseline")}.get(field, PLAN)
        assert key(replace(plan, **{field: OTHER[field]})) != key(plan)


def test_what_else_is_in_the_key(monkeypatch):
    keys = {
        key(),
        key(seed=1),
        key(device="cuda"),
        key(data=SimpleNamespace(name="world", fingerprint="abd", attribute_names=("hat",))),
    }
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


@pytest.mark.parametrize("name", ["small", "small_xception"])
def test_the_shipped_weights_of_both_students_count_by_their_content(name, tmp_path, monkeypatch):
    plan, keys = recipe("baseline_mc"), {key(recipe("baseline_mc"))}
    save_backbone(build_model(name), tmp_path / "other.safetensors")
    monkeypatch.setitem(DRAWN, name, tmp_path / "other.safetensors")
    assert plan.peer == "small_xception" and key(plan) not in keys
    assert key(replace(plan, peer=None, class_mutual=0.0)) != key(plan)


def test_the_shipped_generators_count_where_they_paint(monkeypatch):
    plans = [recipe("ide"), recipe("domain", styles="truth"), recipe("domain"), recipe("camstyle")]
    before = [key(plan) for plan in plans]
    monkeypatch.setattr(experiments, "styles_fingerprint", lambda: "others")
    assert [key(plan) == old for plan, old in zip(plans, before)] == [True, True, False, False]


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
        "trials.py",
        "attributes.py",
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
        ({"recipe": "hplf", "parts": 0}, ValueError, "local features need stripes; parts is 0"),
        ({"recipe": "aligned_mm", "peer": None}, ValueError, "mutual learning needs a second student"),
        ({"recipe": "baseline_mc", "peer": "resnet34"}, ValueError, "peer must be one of .*'resnet34'"),
        ({"recipe": "baseline_mc", "peer": "resnet18"}, ValueError, "small backbones, not to resnet18"),
        ({"recipe": "baseline_mc", "weights": "imagenet"}, ValueError, "no ImageNet weights"),
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


@pytest.mark.parametrize("profile", PROFILES)
def test_every_recipe_has_weights_to_start_from(profile):
    """In every profile, for both students; and what is named after the Xception form is trained in it."""
    for name in RECIPES:
        plan = recipe(name, profile)
        for model in {plan.model, plan.peer} - {None, "colour_histogram"}:
            check_weights(model, plan.weights)
        assert name.endswith("_x") == plan.model.endswith("_xception"), name


def test_every_variation_changes_something_that_can_be_changed():
    """A field of its recipe to another value, or a dial of the world."""
    names = {f.name for f in fields(Recipe)}
    for name, changes in VARIATIONS:
        plan = recipe(name, **{k: v for k, v in changes.items() if k in names})
        assert all(getattr(RECIPES[name], k) != v for k, v in changes.items() if k in names), (name, changes)
        assert plan != RECIPES[name] or set(changes) <= {dial.name for dial in fields(Dials)}, (name, changes)
    assert len({(name, str(sorted(changes.items()))) for name, changes in VARIATIONS}) == len(VARIATIONS), "each once"


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
    (whole,), (light,) = ([found for found in kept_results(w) if found.key == made.key] for w in (True, False))
    assert str(light.row()) == str(whole.row())  # as words, where nan is nan
    assert light.features is None and not light.state and len(whole.features.query) == len(made.features.query)
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


def test_a_run_hands_back_its_dataset_and_describes_other_pictures(home):
    kept = run("baseline", **TINY, misalignment=2.0)
    data = kept.data()
    assert data.options == {**WORLD, "misalignment": 2.0} and len(data.query) == len(kept.features.query)
    np.testing.assert_array_equal(kept.embed(data.query.images, "cpu"), kept.features.query)
    assert run("baseline", **TINY, misalignment=np.float64(2.0)).key == kept.key  # numbers of numpy are numbers
    fewer = replace(kept, features=SimpleNamespace(query=kept.features.query[1:], gallery=kept.features.gallery))
    with pytest.raises(ValueError, match="the run saw .* queries and gallery pictures, synthetic has .* now"):
        fewer.data()
    histogram = run("colour_histogram", **WORLD)
    np.testing.assert_array_equal(histogram.embed(histogram.data().query.images), histogram.features.query)


def test_a_map_of_a_kept_run(home):
    kept = run("baseline", **TINY, misalignment=2.0)
    figure = plots.embedding_map(kept, "camera", people=5, perplexity=5, device="cpu")
    assert ["training" in ax.get_title() for ax in figure.axes] == [True, False]
    shown, data = [len(ax.artists) for ax in figure.axes], kept.data()
    assert f"{shown[0]} pictures" in figure.axes[0].get_title() and shown[0] <= len(data.train)
    told = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots.maps, "picture_map", lambda ax, points, *shown: told.append(shown) or {})
        plots.embedding_map(kept, "hat", people=8, method="pca", device="cpu")
    for (images, groups), splits in zip(told, ((data.train,), (data.query, data.gallery))):
        parts = [split.select(split.pids > 0) for split in splits]
        np.testing.assert_array_equal(images, np.concatenate([part.images for part in parts]))
        assert groups == [hat for part in parts for hat in part.attributes[:, data.attribute_names.index("hat")]]
    assert {text.get_text() for text in figure.axes[0].get_legend().get_texts()} <= {f"c{i}" for i in range(1, 7)}
    figure = plots.embedding_map(kept, "hat", people=8, method="pca", device="cpu")
    words = {text.get_text() for ax in figure.axes for text in ax.get_legend().get_texts()}
    assert words and words <= {"hat", "not hat"}
    with pytest.raises(ValueError, match="colour 'shoes' is not known of .*; known: identity, camera, domain"):
        plots.embedding_map(kept, "shoes", people=3)
    with pytest.raises(ValueError, match="50 people were asked for, this side has 8"):
        plots.embedding_map(kept, people=50)
    plt.close("all")


def test_a_map_of_two_domains(home, monkeypatch):
    kept, other = run("baseline", **TINY), open_dataset("synthetic_winter", size=recipe("baseline").size, **WORLD)
    figure = plots.embedding_map(kept, "domain", people=3, perplexity=5, device="cpu", other=other)
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["synthetic", "synthetic_winter"]
    pair, told = open_dataset("synthetic_summer->synthetic", size=other.query.images.shape[2:], **WORLD), []
    monkeypatch.setattr(plots.maps, "picture_map", lambda ax, points, *shown: told.append(shown) or {})
    monkeypatch.setattr(type(kept), "data", lambda self: pair)
    plots.embedding_map(kept, "domain", people=4, method="pca", device="cpu")
    (images, groups) = told[0]
    ours = {image.tobytes() for split in (pair.query, pair.gallery) for image in split.images}
    theirs = {image.tobytes() for image in pair.train.images}
    assert {"synthetic", "synthetic_summer"} == set(groups)
    assert all(image.tobytes() in (ours if group == "synthetic" else theirs) for image, group in zip(images, groups))
    monkeypatch.undo()
    with pytest.raises(ValueError, match="synthetic is one domain: give `other` a dataset"):
        plots.embedding_map(kept, "domain")
    plt.close("all")


def test_the_ledger_can_be_drawn():
    ledger = claims()
    axes = plots.claim_bars(ledger).axes[0]
    drawn = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
    ran = ledger[ledger.seeds > 0]
    np.testing.assert_allclose(drawn, ran.sign * ran.gain + ran.slack)
    assert (ran.sign == -1).any() and (ran.slack > 0).any() and len(axes.get_yticks()) == len(ran)
    assert plots.paper_and_ours(ledger).axes
    assert ledger.notebook.notna().all(), "every claim says which notebook it is about"
    plt.close("all")


def test_changes_are_read_as_they_were_written():
    changes = {"augmentation": Augmentation(erase=0.0), "misalignment": 2.0, "epochs": 20, "images": "labeled"}
    written = ", ".join(f"{k}={v!r}" for k, v in changes.items())
    assert experiments._read_options(written) == {"misalignment": 2.0, "images": "labeled"}
    assert experiments._read_options("") == {}
