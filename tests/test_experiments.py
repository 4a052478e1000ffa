"""Experiments: made once, kept, and made again when anything that matters has changed."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_datasets import csv, write_image
from tiny_world import TINY, WORLD, said_by, same_result, start

from reidnb import experiments, result, runtime, training
from reidnb.batches import Augmentation
from reidnb.datasets import builtin, open_dataset
from reidnb.evaluation import evaluate_features
from reidnb.experiments import run
from reidnb.inference import embed
from reidnb.ledger import results
from reidnb.methods import Identity, TriHard
from reidnb.recipes import Recipe, recipe
from reidnb.result import kept_results


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


# ------------------------------------------------------------------------------------------------------ made and kept


def test_a_run(made, home):
    data = open_dataset("synthetic", size=(64, 32), **WORLD)
    assert made.recipe == recipe("baseline_scratch", epochs=2, p=4) and made.dataset == "synthetic" and made.seed == 0
    assert [line["epoch"] for line in made.history] == [1, 2] and made.seconds > sum(h["seconds"] for h in made.history)
    assert made.features.query.shape == (len(data.query), made.features.gallery.shape[1])
    assert len(made.features.gallery) == len(data.gallery)
    again = evaluate_features(made.features.query, made.features.gallery, *data.ids)
    assert again.mAP == made.scores.mAP and 0 < made.multi_query.mAP <= 1
    assert made.changes == "distractors=10, epochs=2, junk=5, p=4, test_identities=8, train_identities=8"
    assert made.options == WORLD and made.fingerprint == data.fingerprint and made.facts["classes"] == 8
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
    with pytest.raises(TypeError, match="has 'junk'.*the dataset is open already"):
        run("baseline_scratch", data, junk=5)
    with pytest.raises(ValueError, match=r"wants pictures of \(32, 16\), the dataset was opened at \(64, 32\)"):
        run("baseline_scratch", data, size=(32, 16))


def test_what_an_open_dataset_was_opened_with_stands_in_the_row(elsewhere):
    """Once such a run took the place of the plain one in every table."""
    data = open_dataset("synthetic", size=(64, 32), **WORLD)
    found = run("colour_histogram", data, device="cpu", seed=1)
    assert found.changes == ", ".join(f"{k}={v!r}" for k, v in sorted(WORLD.items())) + ", world=0"
    assert found.seed == 1, "a seed is a world too, even where nothing is learned"


def test_a_seed_is_a_world_and_a_training(elsewhere):
    one, two = (run("colour_histogram", seed=seed, **WORLD) for seed in (1, 2))
    assert one.fingerprint != two.fingerprint and "world" not in one.changes + two.changes
    assert one.data().fingerprint == one.fingerprint == open_dataset(size=(64, 32), world=1, **WORLD).fingerprint
    apart = run("colour_histogram", seed=2, world=1, **WORLD)
    assert apart.fingerprint == one.fingerprint and apart.changes.endswith("world=1") and apart.seed == 2
    winter = [open_dataset("synthetic_winter", size=(64, 32), world=world, **WORLD) for world in (0, 1)]
    worlds = [
        builtin.make_world(builtin._plan("synthetic_winter", data.options) | {"size": (64, 32)}) for data in winter
    ]
    assert worlds[0].cameras == worlds[1].cameras, "a place: others pass before the same cameras"
    assert worlds[0].people != worlds[1].people
    with pytest.raises(ValueError, match="world must be a whole number"):
        open_dataset(world=-1)


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


def test_a_histogram_learns_nothing(home, no_training):
    found = run("colour_histogram", device="cpu", **WORLD)
    assert found.history == [] and 0 < found.scores.mAP < 1
    with pytest.raises(ValueError, match="colour_histogram learns nothing"):
        found.model()


def test_a_run_without_augmentation_is_kept_too(elsewhere, monkeypatch):
    """Once it could not read its own file, called it damaged, and trained anew at every call."""
    first = run("ide_scratch", **TINY, augmentation=None)
    assert first.recipe.augmentation is None and "augmentation=None" in first.changes
    monkeypatch.setattr(experiments, "train", lambda *_, **__: pytest.fail("it trained"))
    same_result(run("ide_scratch", **TINY, augmentation=None), first)
    (listed,) = kept_results()
    assert listed.recipe == first.recipe and not list(elsewhere.rglob("*.damaged"))
    assert recipe("ide", augmentation=Augmentation()) != recipe("ide", augmentation=None)


# -------------------------------------------------------------------------------------------- hands back its dataset


def test_a_run_hands_back_its_dataset_and_describes_other_pictures(made, home):
    data = made.data()
    assert data.options == WORLD and data.fingerprint == made.fingerprint
    np.testing.assert_array_equal(made.embed(data.query.images, "cpu"), made.features.query)
    with pytest.raises(ValueError, match="synthetic is not what the run saw: its pictures or labels changed"):
        replace(made, fingerprint="another").data()
    histogram = run("colour_histogram", **WORLD)
    np.testing.assert_array_equal(histogram.embed(histogram.data().query.images), histogram.features.query)


def test_numbers_of_numpy_are_numbers(home):
    plain = run("colour_histogram", device="cpu", **WORLD)
    same = {name: np.int64(value) for name, value in WORLD.items()}
    assert run("colour_histogram", device="cpu", **same).key == plain.key


PLACES = [(pid, camid, "train") for pid in (1, 2, 3, 4) for camid in (0, 1)]
PLACES += [(5, 0, "query"), (6, 0, "query"), (5, 1, "gallery"), (6, 1, "gallery"), (7, 1, "gallery")]
ROWS = [f"{pid}_{camid}.png,{pid},{camid},{split},{pid % 2}" for pid, camid, split in PLACES]


def folder_of(path):
    """Seven people in a folder with a table of one's own."""
    return csv(path, ROWS, header="path,pid,camid,split,hat")


@pytest.mark.parametrize("given", [str, Path], ids=["words", "path"])
def test_a_folder_of_ones_own_is_handed_back(given, tmp_path, cache, monkeypatch):
    """Once `.data()` answered: multiple values for argument 'root'. Nor does it depend on where Python was started."""
    folder_of(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    first = run("colour_histogram", "csv", root=given("mine"), device="cpu")
    assert first.changes == "", "where a folder lies is no change"
    monkeypatch.chdir("/")
    (listed,) = kept_results()
    for found in (first, listed):
        assert found.data().query.pids.tolist() == [5, 6]
        assert found.data(root=tmp_path / "mine").fingerprint == found.fingerprint
    shutil.move(tmp_path / "mine", tmp_path / "moved")
    again = run("colour_histogram", "csv", root=given(tmp_path / "moved"), device="cpu")
    assert again.key == first.key and again.data().fingerprint == first.fingerprint
    with pytest.raises(FileNotFoundError, match="mine"):
        listed.data()


def test_a_folder_that_changed_is_not_what_the_run_saw(tmp_path, cache):
    """As many pictures as before, of which one is another."""
    folder = folder_of(tmp_path / "mine")
    first = run("colour_histogram", "csv", root=folder, table=Path("index.csv"), device="cpu")
    assert first.data(folder).options == {"table": "index.csv"} and first.changes == "table='index.csv'"
    write_image(folder / "7_1.png", 100)
    with pytest.raises(ValueError, match=r"csv is not what the run saw: .* \(2 queries and 3 gallery pictures now\)"):
        first.data()
    assert run("colour_histogram", "csv", root=folder, table="index.csv", device="cpu").key != first.key


# ------------------------------------------------------------------------------------------- what a table says of it


@pytest.mark.parametrize(
    "first, second",
    [({"profile": "quick"}, {"profile": "laptop"}), ({"k": 4}, {}), ({"misalignment": 1.0}, {}), ({}, {"junk": 5})],
    ids=str,
)
def test_the_same_settings_asked_for_by_another_name(first, second, elsewhere, tmp_path, monkeypatch):
    """Once the second found the first's file, and the table never heard of it.

    A claim about ("market1501", "laptop") stayed "not run" when the histogram was first asked for under `quick`. And
    1.0 is what the dial is at anyway: the plain run has its row all the same.
    """
    monkeypatch.setattr("reidnb.ledger.RESULTS", tmp_path)
    world = {name: value for name, value in WORLD.items() if name != "junk"} | {"junk": 5}
    run("colour_histogram", device="cpu", **world | first)
    wanted = run("colour_histogram", device="cpu", **world | second)
    table = results()
    named = [(line.profile, line.changes) for line in table.itertuples()]
    expected = ", ".join(f"{k}={v!r}" for k, v in sorted(world.items()))
    assert wanted.changes == expected
    assert (second.get("profile", "full"), expected) in named


def test_a_callers_own_recipe_under_a_known_name_is_no_plain_row(elsewhere):
    plain = recipe("ide_scratch")
    own = replace(plain, warmup=0.25, losses=(replace(plain.losses[0], smoothing=0.2),))
    short = {name: value for name, value in TINY.items() if name != "epochs"}
    assert run(own, **short | {"epochs": 1}).changes.startswith("distractors=10, epochs=1, junk=5")
    assert ", smoothing=0.2, " in run(own, **short | {"epochs": 1}).changes
    other = run(replace(plain, losses=(Identity(), TriHard())), **short | {"epochs": 1}).changes
    assert "losses=identity+trihard" in other and "smoothing" not in other and "margin" not in other


def test_a_recipe_of_a_known_name_may_have_fewer_parts(elsewhere):
    """Its second loss taken away, "baseline" has no place where the standing one has its margin."""
    whole = recipe("baseline_scratch")
    fewer = replace(whole, losses=whole.losses[:1], epochs=1, warmup=0.25)
    found = run(fewer, **{name: value for name, value in TINY.items() if name != "epochs"})
    assert "losses=identity, " in found.changes and "margin" not in found.changes


def test_a_change_of_parts_is_said_by_their_names(elsewhere):
    found = run("ide_scratch", **TINY | {"losses": (Identity(smoothing=0.2), TriHard()), "warmup": 0.25})
    assert "losses=identity+trihard" in found.changes and "warmup=0.25" in found.changes


# ---------------------------------------------------------------------------------------------------------- accidents


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
    without_clock = [[{k: v for k, v in h.items() if k != "seconds"} for h in r.history] for r in (whole, again)]
    assert without_clock[0] == without_clock[1]


RACER = """
import logging, sys
import torch
torch.set_num_threads(1)
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
from reidnb.experiments import run
result = run("ide_scratch", epochs=1, warmup=0.0, p=4, device="cpu", **WORLD)
print("mAP", result.scores.mAP)
"""


def test_two_processes_make_one_run_once(elsewhere):
    racers = [start(RACER.replace("WORLD", repr(WORLD)), elsewhere) for _ in range(2)]
    said = [said_by(racer) for racer in racers]
    assert "".join(said).count("ide_scratch epoch 1/1") == 1, "trained once"
    found = {line for text in said for line in text.splitlines() if line.startswith("mAP")}
    assert len(found) == 1
    assert len(list((elsewhere / "runs").glob("*.npz"))) == 1


def test_a_run_that_diverges_says_so_and_keeps_nothing(elsewhere):
    with pytest.raises(runtime.TrainingDiverged, match=r"ide_scratch: the loss is not finite in epoch \d, step \d"):
        run("ide_scratch", **TINY, lr=1e30, optimizer="sgd", warmup=0.0)
    assert not list((elsewhere / "runs").glob("*.npz"))


def test_a_file_that_is_not_of_this_version_is_made_again(elsewhere, monkeypatch, caplog):
    """Under this run's very key, which no older version would give it."""
    first = run("colour_histogram", device="cpu", **WORLD)
    with monkeypatch.context() as patch:
        patch.setattr(result, "FORMAT", result.FORMAT - 1)
        result.save(first, elsewhere / "runs" / f"{first.key}.npz")
    with caplog.at_level(logging.WARNING, "reidnb"):
        again = run("colour_histogram", device="cpu", **WORLD)
    assert "not of this version" in caplog.text
    torch.testing.assert_close(again.features.query, first.features.query)


def test_what_a_part_gives_at_test_is_one_of_four_things(elsewhere, monkeypatch):
    monkeypatch.setattr(TriHard, "test", lambda *_: {"score": {}}, raising=False)
    with pytest.raises(ValueError, match="trihard.test gives 'score'; wanted some of scores, numbers, arrays, lines"):
        run(Recipe("odd", losses=(TriHard(),), weights=None), **TINY)
