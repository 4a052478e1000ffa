"""A run in its file: given back as it was, left alone where it is older, put aside where it is damaged."""

import json
import logging
import os
import shutil
import sys
import textwrap
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_world import WORLD, said_by, same_scores, start

from reidnb import result
from reidnb.batches import Augmentation
from reidnb.evaluation import PairScores, Scores
from reidnb.experiments import run
from reidnb.ledger import results
from reidnb.recipes import RECIPES, Recipe, recipe
from reidnb.result import Result, kept_results, load, save

RNG = np.random.default_rng(0)
SCORES = Scores(0.25, 0.125, np.linspace(0.5, 1, 12), np.array([0.5, np.nan, 0.0]), 2)
MADE = Result(
    name="hplf",
    recipe=recipe("hplf"),
    dataset="synthetic",
    profile="full",
    seed=3,
    changes="",
    scores=SCORES,
    extra_scores={"multi_query": SCORES, "rerank": replace(SCORES, mAP=0.5)},
    pairs=PairScores(positive=0.5, negative=1.0, eer=0.1, threshold=0.75),
    seconds=1.5,
    history=[{"epoch": 1, "loss": 0.5}],
    about={"device": "CPU", "torch": "2", "commit": "abc", "date": "2026-01-01"},
    features=SimpleNamespace(query=RNG.random((3, 4), np.float32), gallery=RNG.random((5, 4), np.float32)),
    state={"neck.weight": np.ones(4, np.float32), "steps": np.array(3)},
    numbers={"attribute_f1": 0.5},
    arrays={"votes": np.eye(3)},
    lines=[{"statement": "hat", "f1": 0.25}],
    options={"junk": 5},
    facts={"classes": 8},
    fingerprint="abc",
    key="hplf-0123456789abcdef",
)


@pytest.fixture
def kept(cache):
    """The file of MADE, in a cache of its own."""
    (cache / "runs").mkdir(parents=True)
    path = cache / "runs" / f"{MADE.key}.npz"
    save(MADE, path)
    return path


def altered(path, change):
    """The same file with something else in what it says of itself."""
    with np.load(path) as file:
        arrays = dict(file)
    plain = json.loads(arrays["about"].tobytes())
    change(plain)
    arrays["about"] = np.frombuffer(json.dumps(plain).encode(), np.uint8)
    with open(path, "wb") as file:
        np.savez(file, **arrays)


# ------------------------------------------------------------------------------------------------------- back again


def test_everything_goes_through_the_file(kept):
    back = load(kept)
    for name, was in vars(MADE).items():
        if name not in ("scores", "extra_scores", "features", "state", "arrays"):
            assert getattr(back, name) == was, name
    same_scores(back.scores, MADE.scores)
    for name, scores in MADE.extra_scores.items():
        same_scores(back.extra_scores[name], scores)
    for group in ("features", "state", "arrays"):
        was, now = (dict(vars(v) if group == "features" else v) for v in (getattr(MADE, group), getattr(back, group)))
        assert was.keys() == now.keys()
        for name, values in was.items():
            assert values.dtype == now[name].dtype
            np.testing.assert_array_equal(values, now[name])


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_comes_back_as_it_was(name):
    for profile in ("quick", "paper"):
        plain = json.loads(json.dumps(result.to_plain(recipe(name, profile))))
        assert result.from_plain(plain) == recipe(name, profile)


@pytest.mark.parametrize("changes", [{"augmentation": None}, {"augmentation": Augmentation(flip=0.0)}, {"width": 8}])
def test_changed_recipes_come_back_too(changes):
    changed = recipe("baseline", **changes)
    assert result.from_plain(json.loads(json.dumps(result.to_plain(changed)))) == changed


def test_a_light_reading_has_the_same_row(kept):
    (whole,), (light,) = list(kept_results()), list(kept_results(whole=False))
    assert light.row() == whole.row() and light.line_rows() == whole.line_rows()
    assert light.features is None and not light.state and len(whole.features.query) == 3
    for use in (light.model, lambda: light.embed(np.zeros((1, 3, 64, 32), np.uint8))):
        with pytest.raises(ValueError, match="hplf was read for its scores alone, without weights"):
            use()


def test_a_row_says_which_run_and_what_it_scored(kept):
    row = load(kept).row()
    assert row["recipe"] == "hplf" and row["seed"] == 3 and row["key"] == MADE.key and row["commit"] == "abc"
    assert row["mAP"] == 0.25 and row["rank1"] == 0.5 and row["rank10"] == pytest.approx(SCORES.cmc[9], abs=1e-5)
    assert row["rerank_mAP"] == 0.5 and row["attribute_f1"] == 0.5 and row["eer"] == 0.1
    assert load(kept).line_rows()[0] | {"statement": "hat", "f1": 0.25, "seed": 3} == load(kept).line_rows()[0]


def test_numbers_of_a_readers_part_may_be_numpys(kept):
    """Once they became words in the file, and the table of all runs could not be made."""
    numbers = {"mine": np.float32(0.5), "count": np.int64(3)}
    save(replace(MADE, numbers=numbers, lines=[{"statement": "hat", "f1": np.float32(0.25)}]), kept)
    back = load(kept)
    assert back.numbers == {"mine": 0.5, "count": 3} and back.lines[0]["f1"] == 0.25
    assert back.row()["mine"] == 0.5 and len(results()) > 0
    with pytest.raises(TypeError, match="a run keeps numbers and words, in lists and dicts; got <object"):
        save(replace(MADE, numbers={"mine": object()}), kept)


# ------------------------------------------------------------------------------------------- older, and left alone

OLDER = {
    "a lower format": lambda plain: plain.update(format=result.FORMAT - 1),
    "a higher format": lambda plain: plain.update(format=result.FORMAT + 1),
    "no format": lambda plain: plain.pop("format"),
    "no recipe": lambda plain: plain.pop("recipe"),
    "no pairs": lambda plain: plain.pop("pairs"),
    "no seconds": lambda plain: plain.pop("seconds"),
    "one that is gone": lambda plain: plain.update(also={}),
    "another pair score": lambda plain: plain["pairs"].update(auc=0.5),
    "a field of the recipe that is gone": lambda plain: plain["recipe"].update(metric="trihard"),
    "a field of a part that is gone": lambda plain: plain["recipe"]["heads"][0].update(classes=3),
    "a part that is gone": lambda plain: plain["recipe"]["heads"][0].update({"is": "reidnb.methods.stripes:Bands"}),
    "a room that is gone": lambda plain: plain["recipe"]["heads"][0].update({"is": "reidnb.trials:Stripes"}),
    "a value that is refused now": lambda plain: plain["recipe"].update(p=0),
}


@pytest.mark.parametrize("change", OLDER.values(), ids=OLDER)
def test_an_older_file_is_left_alone(change, kept, caplog):
    altered(kept, change)
    before = kept.read_bytes(), kept.stat().st_mtime_ns
    with caplog.at_level(logging.WARNING, "reidnb"):
        assert list(kept_results()) == [] and list(kept_results(whole=False)) == [] and load(kept) is None
    assert (kept.read_bytes(), kept.stat().st_mtime_ns) == before and not caplog.text
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


def test_an_older_file_without_an_array_is_left_alone(kept):
    with np.load(kept) as file:
        arrays = {name: values for name, values in file.items() if name != "scores"}
    about = json.loads(arrays["about"].tobytes())
    del about["members"]  # it did not count what it held
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    with open(kept, "wb") as file:
        np.savez(file, **arrays)
    assert list(kept_results()) == [] and kept.exists()


def test_an_array_that_is_missing_is_damage(kept):
    """A turned bit in a zip file's table of contents can leave one out, and no error anywhere."""
    with np.load(kept) as file:
        arrays = {name: values for name, values in file.items() if name != "extra_scores/rerank"}
    with open(kept, "wb") as file:
        np.savez(file, **arrays)
    with pytest.raises(ValueError, match=r"holds \d+ arrays where \d+ others were written"):
        load(kept)


# ---------------------------------------------------------------------------------------------- damaged, and put aside


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
def test_a_damaged_run_is_put_aside_and_made_again(damage, cache, caplog):
    first = run("colour_histogram", device="cpu", **SMALL)
    path = cache / "runs" / f"{first.key}.npz"
    damage(path)
    damaged = path.read_bytes()
    with caplog.at_level(logging.WARNING, "reidnb"):
        again = run("colour_histogram", device="cpu", **SMALL)
    assert again.scores.mAP == first.scores.mAP and path.exists()
    assert path.with_suffix(".damaged").read_bytes() == damaged
    assert "cannot be read" in caplog.text and str(path) in caplog.text


SMALL = WORLD | {"train_identities": 2, "test_identities": 3}


def test_a_damaged_file_does_not_stop_the_listing(kept, caplog):
    other = kept.with_name("ide-0123456789abcdef.npz")
    save(replace(MADE, name="ide", recipe=recipe("ide"), key="ide-0123456789abcdef"), other)
    cut(kept)
    with caplog.at_level(logging.WARNING, "reidnb"):
        assert [found.name for found in kept_results()] == ["ide"]
    assert kept.with_suffix(".damaged").exists() and not kept.exists() and str(kept) in caplog.text


def test_wherever_a_file_is_damaged_it_is_noticed_or_does_no_harm(kept, tmp_path):
    """A bit turned over at 300 places: the run as it was (in what zip files leave unused), or damaged, or older; never
    another run, and never an error that nobody expects."""
    whole, path = bytearray(kept.read_bytes()), tmp_path / "bad.npz"
    outcomes = {"same": 0, "older": 0, "damaged": 0}
    for place in RNG.choice(len(whole), 300, replace=False):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << int(RNG.integers(8))]) + whole[place + 1 :])
        try:
            back = load(path)
        except result.UNREADABLE:
            outcomes["damaged"] += 1
            continue
        outcomes["older" if back is None else "same"] += 1
        if back is not None:
            assert str(back.row()) == str(MADE.row())
            np.testing.assert_array_equal(back.features.gallery, MADE.features.gallery)
    assert outcomes["damaged"] > 150, outcomes


def test_a_file_that_vanishes_during_the_listing(kept, monkeypatch):
    """Another process cleans, or puts aside."""
    gone = kept.with_name("gone-0123456789abcdef.npz")
    found = [gone, kept]
    monkeypatch.setattr(result, "kept_files", lambda *_: found)
    assert [r.name for r in kept_results()] == ["hplf"]


def test_someone_elses_file_is_no_damage(kept, monkeypatch):
    def refuse(path, whole):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(result, "load", refuse)
    with pytest.raises(PermissionError, match=MADE.key):
        list(kept_results())
    assert kept.exists()


WRITER = """
import sys
from pathlib import Path
from reidnb.files import kept
folder, template = Path(sys.argv[1] if len(sys.argv) > 1 else FOLDER), Path(TEMPLATE).read_bytes()
def build(file):
    with open(file, "wb") as out:
        for i in range(0, len(template), 512):
            out.write(template[i:i + 512])
            out.flush()
for i in range(150):
    kept(folder / f"hplf-{i:016x}.npz", build)
print("saved 150")
"""


def test_listing_while_another_process_saves_destroys_nothing(kept, caplog):
    """Once the listing took the half-written file for a damaged one, and the saver died."""
    template = kept.with_name("template")
    shutil.move(kept, template)
    code = WRITER.replace("FOLDER", repr(str(kept.parent))).replace("TEMPLATE", repr(str(template)))
    writers, listed = [start(code, kept.parents[1]) for _ in range(2)], 0
    with caplog.at_level(logging.WARNING, "reidnb"):
        while any(writer.poll() is None for writer in writers):
            listed = max(listed, sum(1 for _ in kept_results(whole=False)))
    assert [said_by(writer) for writer in writers] == ["saved 150\n"] * 2
    assert not caplog.text and not list(kept.parent.glob("*.damaged"))
    assert len(list(kept_results(whole=False))) == 150 >= listed


# ------------------------------------------------------------------------------------ a part that is defined elsewhere

MINE = """
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Mine:
        margin: float = 0.5
        key, pairs = "mine", True
        def __call__(self, output, batch):
            return self.margin * output.features.square().mean()
"""


def test_a_run_with_a_part_from_elsewhere(kept, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(textwrap.dedent(MINE))
    monkeypatch.syspath_prepend(str(tmp_path))
    mine = __import__("mine")
    with_mine = replace(MADE, name="with_mine", recipe=Recipe("with_mine", losses=(mine.Mine(0.25),)))
    save(with_mine, kept)
    assert load(kept).recipe == with_mine.recipe
    monkeypatch.delitem(sys.modules, "mine")
    (found,) = kept_results()
    assert found.recipe is None and found.name == "with_mine" and found.row()["recipe"] == "with_mine"
    picture = np.zeros((1, 3, 64, 32), np.uint8)
    for use in (found.model, found.data, lambda: found.embed(picture)):
        with pytest.raises(ValueError, match=r"with_mine has a part that is defined in a notebook: run\(\) it there"):
            use()
    assert kept.exists() and os.listdir(kept.parent) == [kept.name]


def test_a_class_that_is_not_made_by_its_fields_is_elsewhere_too(kept, tmp_path, monkeypatch):
    odd = textwrap.dedent(MINE).replace("margin: float = 0.5", "margin: float = field(default=0.5, init=False)")
    (tmp_path / "odd.py").write_text(odd.replace("import dataclass", "import dataclass, field"))
    monkeypatch.syspath_prepend(str(tmp_path))
    save(replace(MADE, recipe=Recipe("odd", losses=(__import__("odd").Mine(),))), kept)
    assert load(kept).recipe is None
