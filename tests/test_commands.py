"""The command line: what it answers at once, what it calls, and how it ends."""

import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pytest

import runs
from reidnb import __main__ as command
from reidnb import __version__

ROOT = Path(__file__).resolve().parents[1]
# What a run takes at least: eight people, drawn and trained in a second.
TINY = ["--set", "train_identities=8", "test_identities=6", "distractors=0", "junk=0", "p=4", "epochs=2"]


def python(*arguments, **settings):
    """Run `python -m reidnb` with `arguments`."""
    return subprocess.run(
        [sys.executable, "-m", "reidnb", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, **settings
    )


# ------------------------------------------------------------------------------------------------- answered at once


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("run basline", "argument recipe: unknown recipe 'basline': did you mean 'baseline'?"),
        ("run zzz", "unknown recipe 'zzz': there are colour_histogram, "),
        ("run ide --dataset sinthetic", "unknown dataset 'sinthetic': did you mean 'synthetic'?"),
        ("run ide --dataset synthetic->market", "unknown dataset 'market': did you mean 'market1501'?"),
        ("run ide --profile fast", "unknown profile 'fast': there are quick, full, "),
        ("run ide --device gpu", "unknown device 'gpu': there are auto, cpu, cuda, mps"),
        ("run ide --seeds 0", "argument --seeds: must be a whole number from 1 on, got '0'"),
        ("run ide --seeds 1.5", "must be a whole number from 1 on, got '1.5'"),
        ("run ide --set epochs", "argument --set: takes NAME=VALUE, as in epochs=20; got 'epochs'"),
        ("check markt1501", "unknown dataset 'markt1501': did you mean 'market1501'?"),
        ("rn ide", "unknown command 'rn': did you mean 'run'?"),
        ("", "the following arguments are required: COMMAND"),
    ],
)
def test_a_wrong_word_is_answered_in_one_line_before_torch_is_imported(arguments, said):
    """In half a second of this process's own time: on a busy machine the clock says more."""
    # None in sys.modules: whoever imports it gets an error.
    code = (
        "import sys, runpy; sys.modules |= {'torch': None, 'numpy': None}; runpy.run_module('reidnb', {}, '__main__')"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments.split()], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert ran.returncode == 2 and said in ran.stderr
    assert len(ran.stderr.splitlines()) == 1 and not ran.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_names_read_from_the_sources_are_those_of_the_modules():
    from reidnb.datasets import DATASETS
    from reidnb.recipes import PROFILES, RECIPES

    assert command.recipe_titles() == {recipe.name: recipe.title for recipe in RECIPES.values()}
    assert list(command.recipe_titles()) == list(RECIPES), "in the order of the tables"
    assert command.profile_names() == list(PROFILES)
    assert set(command.dataset_names()) == set(DATASETS)


def test_list_and_version():
    shown = python("list").stdout
    assert re.search(r"^  ide +Identification", shown, re.M)
    assert re.search(r"^datasets\n  synthetic\n(  .*\n)*  market1501\n", shown, re.M)
    assert "profiles\n  quick\n  full\n" in shown
    assert python("--version").stdout == f"reidnb {__version__}\n"
    script = Path(sys.executable).with_name("reidnb")
    ran = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=60)
    assert ran.stdout == f"reidnb {__version__}\n"


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        ("flip_test=false", "flip_test", False),
        ("flip_test=TRUE", "flip_test", True),
        ("margin=None", "margin", None),
        ("margin=none", "margin", None),
        ("lr=3e-4", "lr", 3e-4),
        ("size=(128,64)", "size", (128, 64)),
        ("mining=local", "mining", "local"),
        ("images='labeled'", "images", "labeled"),
        ("split=767/700", "split", "767/700"),
        ("root=/data/a=b", "root", "/data/a=b"),
    ],
)
def test_a_value_is_what_python_or_a_person_writes(given, name, value):
    read = command.assignment(given)
    assert read == (name, value) and type(read[1]) is type(value)


def test_set_may_stand_more_than_once():
    args = command.parse(["run", "ide", "--set", "lr=1", "epochs=2", "--seeds", "3", "--set", "width=4"])
    assert dict(args.set) == {"lr": 1, "epochs": 2, "width": 4} and args.seeds == 3


# ----------------------------------------------------------------------------------------------------- what is called


def test_run_asks_for_every_seed(monkeypatch, capsys):
    from reidnb import experiments

    asked = []

    def run(recipe, dataset, profile, seed, device, **changes):
        asked.append((recipe, dataset, profile, seed, device, changes))
        return SimpleNamespace(changes="epochs=2", seed=seed, scores="mAP 50.0 %", seconds=1.4)

    monkeypatch.setattr(experiments, "run", run)
    assert command.main(["run", "ide", "--seeds", "2", "--device", "cpu", "--set", "epochs=2"]) == 0
    assert asked == [("ide", "synthetic", "quick", seed, "cpu", {"epochs": 2}) for seed in (0, 1)]
    assert capsys.readouterr().out.splitlines()[1] == "ide, epochs=2 on synthetic, seed 1: mAP 50.0 %; 1 s"


def test_search_prints_names_and_draws_them(capsys, tmp_path, cache):
    from PIL import Image

    for name, colour in {"red": (250, 0, 0), "rose": (250, 60, 60), "blue": (0, 0, 250)}.items():
        (tmp_path / "mine").mkdir(exist_ok=True)
        Image.new("RGB", (16, 32), colour).save(tmp_path / "mine" / f"{name}.png")
    where = [str(tmp_path / "mine" / "red.png"), str(tmp_path / "mine")]
    assert command.main(["search", *where, "-k", "2", "--picture", str(tmp_path / "found.jpg")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["1", "2"] and lines[0].endswith("rose.png")
    assert lines[2].endswith("found.jpg") and "shipped start" in lines[3] and (tmp_path / "found.jpg").stat().st_size
    assert command.main(["compare", where[0], str(tmp_path / "mine" / "rose.png")]) == 0
    assert re.match(r"distance 0\.\d{3} of 0 to 2", capsys.readouterr().out)
    assert command.main(["search", *where, "--set", "epochs=3"]) == 2
    assert "name its --recipe too" in capsys.readouterr().err
    assert command.main(["search", "nowhere.png", where[1]]) == 2
    assert "reidnb search: there is no picture nowhere.png" in capsys.readouterr().err


def test_compare_says_how_likely(monkeypatch, capsys, tmp_path):
    from reidnb import yours

    monkeypatch.setattr(command, "_trained", lambda args: (args.recipe, args.dataset, dict(args.set)))
    monkeypatch.setattr(yours, "of_run", lambda result, device: result)
    read = SimpleNamespace(read=lambda distance: yours.Comparison(distance, 9.0, 0.9, 0.01))
    monkeypatch.setattr(yours, "calibrate_run", lambda result: read)
    monkeypatch.setattr(yours, "check_files", lambda *paths: None)
    asked = []

    def compared(*given):
        asked.append(given)
        return yours.Comparison(0.5)

    monkeypatch.setattr(yours, "compare_pictures", compared)
    assert command.main(["compare", "a.jpg", "b.jpg", "--recipe", "ide", "--dataset", "csv", "--set", "p=4"]) == 0
    assert asked == [(Path("a.jpg"), Path("b.jpg"), ("ide", "csv", {"p": 4}))]
    said = capsys.readouterr().out
    assert "9 times" in said and "90.0% likely" in said and "8.3%, if one of a hundred" in said and "1.00%" in said


@pytest.mark.parametrize("words", [["run", "ide", "--set", "seed=3"], ["check", "csv", "--set", "root=/x"]])
def test_a_setting_that_has_an_argument_of_its_own(words, capsys):
    assert command.main(words) == 2
    assert "it has an argument of its own" in capsys.readouterr().err


def test_nothing_is_trained_for_a_name_that_cannot_be(monkeypatch, capsys):
    monkeypatch.setattr(command, "_trained", lambda args: pytest.fail("trained"))
    assert command.main(["export", "ide", "model.pt"]) == 2
    assert command.main(["search", "nowhere.jpg", ".", "--recipe", "ide"]) == 2
    assert "must end in .onnx" in (said := capsys.readouterr().err) and "there is no picture nowhere.jpg" in said


def test_tables_go_into_the_package_of_a_checkout_or_into_a_folder(monkeypatch, capsys, tmp_path):
    from reidnb import ledger

    written = []
    monkeypatch.setattr(ledger, "write_tables", lambda out, readme=None: written.append((out, readme)) or "3 runs")
    assert command.main(["tables"]) == 0
    assert command.main(["tables", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "3 runs\n3 runs\n"
    monkeypatch.setattr(command, "HERE", tmp_path / "site-packages" / "reidnb")
    assert command.main(["tables"]) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("the tables go to build/tables; the package's own stay")
    package = ROOT / "reidnb" / "results", ROOT / "README.md"
    assert written == [package, (tmp_path, None), (Path("build/tables"), None)]


def test_clean_says_what_lies_in_the_cache_and_removes_it(cache, capsys):
    for name, size in (("runs/a.npz", 3_000_000), ("datasets/v1/b/train.npy", 500_000), ("notes.txt", 7)):
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).write_bytes(bytes(size))
    assert command.main(["clean", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert f"3.0 MB  {cache / 'runs'}\n" in shown and f"0.5 MB  {cache / 'datasets'}\n" in shown
    assert "3.5 MB  in all; nothing was removed" in shown and (cache / "runs" / "a.npz").exists()
    assert command.main(["clean"]) == 0
    assert "3.5 MB  removed" in capsys.readouterr().out
    assert [path.name for path in cache.iterdir()] == ["notes.txt"], "what is not ours stays"
    assert command.main(["clean"]) == 0 and "0.0 MB  removed" in capsys.readouterr().out


def test_clean_leaves_what_is_somebodys_own(cache, capsys):
    """REIDNB_CACHE may be a folder of one's own, in which "figures" and "datasets" are too."""
    ours = ("datasets/v1/b/train.npy", "runs/a.npz", "figures/04_votes.jpg", "pose/mediapipe/bin/python")
    theirs = ("datasets/mine.txt", "figures/thesis.pdf", "figures/holiday.png", "runs/deep/notes.md")
    for name in ours + theirs:
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).write_bytes(b"x")
    (cache / "styles").symlink_to(cache / "elsewhere")
    assert command.main(["clean"]) == 0
    assert "4 files there are not reidnb's" in capsys.readouterr().out
    left = {path.relative_to(cache).as_posix() for path in cache.rglob("*") if path.is_file()}
    assert left == set(theirs) and not (cache / "pose").exists()


def test_search_prints_any_name_and_draws_no_endless_row(cache, capsys, tmp_path, monkeypatch):
    """A JPEG is 65,500 pixels wide at most, and a name on a disk need be no UTF-8."""
    from reidnb import yours

    names = ["caf\udce9.png", *(f"{i}.png" for i in range(600))]
    found, drawn = [yours.Found(tmp_path / name, 0.1) for name in names], []
    monkeypatch.setattr(yours, "check_files", lambda *files: None)
    monkeypatch.setattr(yours, "search", lambda *given: found)
    monkeypatch.setattr(yours, "picture", lambda query, found: drawn.extend(found) or plt.figure())
    assert command.main(["search", "q.png", str(tmp_path), "-k", "601", "--picture", str(tmp_path / "f.png")]) == 0
    out = capsys.readouterr().out
    assert "caf\\udce9.png" in out and "599.png" in out and len(drawn) == 20


def test_search_refuses_a_picture_that_cannot_be_written_before_any_work(cache, capsys, tmp_path, monkeypatch):
    (tmp_path / "q.png").write_bytes(b"x")
    monkeypatch.setattr(command, "_embedder", lambda args: pytest.fail("work was begun"))
    for wrong in ("out", "out.xyz", str(tmp_path)):
        asked = ["search", str(tmp_path / "q.png"), str(tmp_path), "--picture", wrong]
        assert command.main(asked) == 2
        assert "--picture is a file to be written" in capsys.readouterr().err


def test_whoever_has_read_enough_is_no_error(tmp_path):
    words = f"{sys.executable} -m reidnb list | head -n 1"
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, cwd=ROOT)
    assert done.stderr == "" and len(done.stdout.splitlines()) == 1


def test_clean_knows_every_folder_of_the_cache():
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "reidnb").rglob("*.py")]
    folders = set(re.findall(r'cache_root\(\) / "(\w+)"', " ".join(sources)))
    assert folders | {"drawn_people", "drawn_people_odd"} == set(command.KEPT), "and what notebook 12 writes"


# -------------------------------------------------------------------------------------------------------- how it ends


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ("epochs=2.5", "epochs must be a whole number"),
        ("epoch=3", "epoch"),
        ("no_such_dial=1", "no_such_dial"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(cache, capsys, changes, said):
    assert command.main(["run", "ide", "--set", changes]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("reidnb run: ") and said in shown and len(shown.splitlines()) == 1


def test_a_diverged_training_and_a_small_run(cache, capsys):
    assert command.main(["run", "ide", *TINY, "lr=1e30", "optimizer=sgd", "warmup=0"]) == 2
    shown = capsys.readouterr().err.splitlines()[-1]
    assert shown.startswith("reidnb run: ide: the loss is not finite") and "try a lower one" in shown


def test_the_disk_is_heard_in_one_line(monkeypatch, capsys):
    from reidnb import experiments

    def run(*args, **changes):
        raise OSError(28, "No space left on device", "/cache/runs")

    monkeypatch.setattr(experiments, "run", run)
    assert command.main(["run", "ide"]) == 2
    assert capsys.readouterr().err == "reidnb run: [Errno 28] No space left on device: '/cache/runs'\n"


@pytest.mark.parametrize("problem", [ValueError("from a library"), TypeError("of ours"), KeyError("name")])
def test_a_bug_keeps_its_traceback(monkeypatch, problem):
    """Raised elsewhere, so nobody of this house meant it to be read."""
    from reidnb import experiments

    def run(*args, **changes):
        raise problem

    monkeypatch.setattr(experiments, "run", run)
    with pytest.raises(type(problem)):
        command.main(["run", "ide"])


def test_a_bug_within_the_package_keeps_its_traceback(monkeypatch):
    """Here Python raises, in a line of ours that says no `raise`."""
    from reidnb import experiments

    monkeypatch.setattr(experiments, "run", None)
    with pytest.raises(TypeError, match="not callable"):
        command.main(["run", "ide"])


def test_ctrl_c_is_one_line(tmp_path):
    """While the built-in world is written, which takes longer than a test."""
    folder = tmp_path / "world"
    process = subprocess.Popen(
        [sys.executable, "-m", "reidnb", "world", str(folder)], cwd=ROOT, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )  # fmt: skip
    started = time.monotonic()
    while not any(folder.rglob("*.jpg")) and time.monotonic() - started < 50:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate(timeout=20)
    assert process.returncode == 130
    assert [line for line in shown.splitlines() if line] == [
        "reidnb world: stopped; started again it goes on where it was"
    ]


def test_without_a_home_the_message_names_the_remedy():
    """As in a container whose user is unknown."""
    bare = {k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME", "REIDNB_CACHE")}
    code = "import pwd; pwd.getpwuid = lambda uid: {}[uid]; from reidnb.__main__ import main; exit(main(['clean']))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=bare, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 2 and "REIDNB_CACHE" in ran.stderr and len(ran.stderr.splitlines()) == 1


# ---------------------------------------------------------------------------------------------------------- the batch


@pytest.mark.parametrize(("profile", "dataset"), [("full", "synthetic"), ("laptop", "market1501"), ("paper", "msmt17")])
def test_the_command_line_takes_every_run_of_a_batch(profile, dataset):
    batch = runs.batch(profile, dataset)
    assert "baseline" in batch
    for name, words in batch.items():
        args = command.parse(["run", *shlex.split(words), "--profile", profile])
        assert name.split("+")[0] == args.recipe
        assert re.fullmatch(r"[\w.+=-]+", name), "a file's name on every system"


def test_a_batch_holds_what_its_dataset_can_serve():
    full, laptop, msmt17 = (runs.batch(*which) for which in (("full",), ("laptop", "market1501"), ("laptop", "msmt17")))
    assert runs.batch("quick") == {}
    assert "alfo+parts=2" in full and "alfo" in laptop and "alfo" not in msmt17, "MSMT17 has no attributes"
    assert "camstyle" not in full and "camstyle+synthetic_winter" in full, "copies are of winter"
    assert "lstm_uda+styles=truth+synthetic_summer-to-synthetic_winter" in full
    assert "lstm_uda+synthetic-to-market1501" in laptop and not [name for name in laptop if "truth" in name]
    assert not [name for name in full if name in ("domain", "lstm_uda")], "they need a target"
    assert len([name for name in full if "=" in name]) > len(runs.VARIATIONS)


def test_every_row_of_the_results_is_a_run_that_some_batch_makes(monkeypatch):
    """What one command does not make again nobody can check; and a full batch asks for no run that was not made."""
    from reidnb import ledger

    monkeypatch.setattr(runs, "_has_points", lambda dataset: True)
    made = {}
    for profile, dataset in (("full", "synthetic"), ("laptop", "market1501"), ("photo", "market1501")):
        for words in runs.batch(profile, dataset).values():
            args = command.parse(["run", *shlex.split(words), "--profile", profile])
            changes = ", ".join(f"{name}={value!r}" for name, value in sorted(args.set))
            made[args.recipe, args.dataset, changes, profile] = args.seeds
    seeds = ledger.results(kept=False).groupby(["recipe", "dataset", "changes", "profile"]).seed.nunique()
    assert seeds.sum() > 900 and set(seeds.index) <= set(made)
    few = {run: (seeds.get(run, 0), asked) for run, asked in made.items() if seeds.get(run, 0) < asked}
    assert not {run for run in few if run[3] == "full" and run[2] != "world=0"}, "in world 0 the first is the plain run"


def test_how_long_a_batch_takes_is_said_by_the_rows_that_have_a_time():
    """One run of three was made beside other work, another has no time at all."""
    rows = [{"recipe": "ide", "changes": "", "seconds": str(took)} for took in ("30.0", "32.0", "400.0", "nan")]
    batch = {"ide": "ide --dataset 'synthetic' --seeds 5", "pcb": "pcb --dataset 'synthetic' --seeds 3"}
    assert runs.minutes(batch, rows, 2) == pytest.approx((5 + 3) * 30 / 2 / 60)
    rows.append({"recipe": "ide", "changes": "epochs=3, who='all'", "seconds": "7.0"})  # says nothing of the plain one
    batch["ide+short"] = "ide --dataset 'synthetic' --seeds 1 --set who=all epochs=3"
    assert runs.minutes(batch, rows, 1) == pytest.approx((5 * 30 + 3 * 18.5 + 7) / 60)
    assert runs.minutes(batch, [], 1) == pytest.approx(9), "nothing is known: a minute each"


def test_how_long_the_full_batch_takes_is_said_as_its_rows_have_it():
    from reidnb import ledger

    rows = ledger.results(kept=False).query("profile == 'full'").to_dict("records")
    hours = runs.minutes(runs.batch("full"), rows, 2) / 60
    said = (ROOT / "docs" / "measured.md").read_text(encoding="utf-8")
    assert f"some {hours:.0f} hours on two cores" in said


def test_every_variation_changes_a_field_or_a_dial_that_is_there():
    from reidnb.datasets import option_names
    from reidnb.recipes import RECIPES, recipe

    listed = (*runs.VARIATIONS, *runs.ON_WINTER, *runs.ACROSS, *runs.ONE_WAY)
    assert len({(name, str(sorted(changes.items()))) for name, changes in runs.VARIATIONS}) == len(runs.VARIATIONS)
    for name, changes in listed:
        changes = {k: v for k, v in changes.items() if k not in (*option_names("synthetic"), "world")}
        assert not changes or recipe(name, "full", **changes) != RECIPES[name], (name, changes)
