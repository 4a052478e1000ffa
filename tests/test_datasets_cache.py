"""What is decoded is kept: one folder a dataset, whole or not there, under every accident."""

import errno
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import fake_datasets as fake
import numpy as np
import pytest

from reidnb.datasets import cache, layouts, open_dataset

HOUSE = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("REIDNB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("REIDNB_DATA", raising=False)
    return tmp_path / "cache" / "datasets" / f"v{cache.FORMAT}"


@pytest.fixture
def market(tmp_path):
    return fake.market1501(tmp_path / "data" / "Market-1501-v15.09.15")


def test_second_open_decodes_nothing(market, monkeypatch):
    first = open_dataset("market1501", root=market)
    monkeypatch.setattr(cache, "decode", fake.never)
    second = open_dataset("market1501", root=market.parent)
    assert first.fingerprint == second.fingerprint != ""
    assert np.array_equal(first.train.images, second.train.images)


def test_rebuilt_when_the_folder_changed(market, cache_folder):
    old = open_dataset("market1501", root=market)
    fake.write_image(market / "query/0001_c4s1_001051_00.jpg", 9)
    added = open_dataset("market1501", root=market)
    assert len(added.query) == 3 and added.fingerprint != old.fingerprint
    path = fake.write_image(market / "query/0001_c4s1_001051_00.jpg", 30)
    os.utime(path, ns=(1, 1))
    redrawn = open_dataset("market1501", root=market)
    assert fake.near(redrawn.query.images[1], 30) and redrawn.fingerprint != added.fingerprint
    fake.attributes(
        market / "market_attribute.mat", "market_attribute", layouts.MARKET_ATTRIBUTES, {2: {}, 7: {}}, {1: {}, 3: {}}
    )
    assert open_dataset("market1501", root=market).query.attributes is not None
    path.unlink()
    (market / "market_attribute.mat").unlink()
    assert open_dataset("market1501", root=market).fingerprint == old.fingerprint, "the same content again"
    assert len(fake.leftovers(cache_folder)) == 2, "with and without attributes; outdated states are removed"


def test_sizes_and_options_are_kept_apart(market, monkeypatch):
    sizes = [open_dataset("market1501", root=market, size=size) for size in ((32, 16), (64, 32))]
    monkeypatch.setattr(cache, "decode", fake.never)
    for size, dataset in zip(((32, 16), (64, 32)), sizes, strict=True):
        assert open_dataset("market1501", root=market, size=size).fingerprint == dataset.fingerprint


@pytest.mark.parametrize("accident", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_nothing_half_written_stays(market, cache_folder, monkeypatch, accident):
    write = cache.write_arrays

    def stops(paths, shapes, rows):
        def some():
            yield next(rows)
            raise accident

        return write(paths, shapes, some())

    with monkeypatch.context() as patched, pytest.raises(type(accident)):
        patched.setattr(cache, "write_arrays", stops)
        open_dataset("market1501", root=market)
    assert fake.leftovers(cache_folder) == []
    assert len(open_dataset("market1501", root=market).train) == 4


def test_a_write_that_fails_is_an_error_and_leaves_nothing(market, cache_folder):
    pytest.importorskip("resource")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (110_000, 110_000))"  # the gallery needs 147 kB
    process = script(market, limit)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1 and "OSError: [Errno 27] File too large" in error
    assert fake.leftovers(cache_folder) == []


def test_a_damaged_cache_is_built_again(market, cache_folder, caplog):
    fingerprint = open_dataset("market1501", root=market).fingerprint
    kept = cache_folder / fake.leftovers(cache_folder)[0]
    for accident in ((kept / "labels.npz").unlink, lambda: os.truncate(kept / "train.npy", 500)):
        accident()
        caplog.clear()
        with caplog.at_level(logging.WARNING, "reidnb"):
            assert open_dataset("market1501", root=market).fingerprint == fingerprint
        assert f"{kept} cannot be read" in caplog.text and "put aside" in caplog.text and "made again" in caplog.text
    assert sorted(name.endswith(".damaged") for name in fake.leftovers(cache_folder)) == [False, True]


@pytest.mark.parametrize("field", ["pids", "camids", "files"])
def test_labels_that_are_not_as_many_as_the_images_are_damage(market, cache_folder, field, caplog):
    fingerprint = open_dataset("market1501", root=market).fingerprint
    path = cache_folder / fake.leftovers(cache_folder)[0] / "labels.npz"
    labels = dict(np.load(path))
    np.savez(path, **labels | {f"train.{field}": labels[f"train.{field}"][:2]})
    with caplog.at_level(logging.WARNING, "reidnb"):
        assert open_dataset("market1501", root=market).fingerprint == fingerprint
    assert "cannot be read" in caplog.text


def test_what_is_kept_is_opened_in_a_read_only_cache(market, monkeypatch):
    fingerprint = open_dataset("market1501", root=market).fingerprint
    for name in ("mkdir", "unlink", "rename", "touch"):
        monkeypatch.setattr(Path, name, fake.never)
    monkeypatch.setattr("reidnb.files.locked", fake.never)
    assert open_dataset("market1501", root=market).fingerprint == fingerprint


def test_too_little_space_is_said_before_the_work(market, monkeypatch, cache_folder):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match="15 images of 128 x 64 needs 0.4 MB, but the disk of .* pass a smaller size"):
        open_dataset("market1501", root=market)
    assert fake.leftovers(cache_folder) == []


def test_threads_keep_the_order_and_hand_errors_on(monkeypatch):
    monkeypatch.setattr("joblib.cpu_count", lambda: 3)
    assert list(cache.in_threads(lambda i: (time.sleep(0.001 * (i % 3)), i)[1], range(200))) == list(range(200))
    done = []
    with pytest.raises(ZeroDivisionError):
        list(cache.in_threads(lambda i: (done.append(i), 1 // (i - 5)), range(10_000)))
    assert len(done) < 1000, "the rest is dropped"


def script(market, body):
    """A process that opens `market` after `body` changed something; prints the fingerprint."""
    code = f"""
        import os, sys, time
        from reidnb.datasets import cache, open_dataset
        {body}
        print(open_dataset("market1501", root={str(market)!r}).fingerprint)
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(HOUSE)},
    )


# Each image takes 50 ms and adds a letter to the file LOG; nothing starts before that file is there.
SLOW = """
        def slow(*args, decode=cache.decode):
            open(os.environ["LOG"], "a").write("x")
            time.sleep(0.05)
            return decode(*args)
        cache.decode = slow
        while not os.path.exists(os.environ["LOG"]):
            time.sleep(0.01)
"""


def test_two_processes_race_and_one_decodes(market, tmp_path, monkeypatch):
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    racers = [script(market, SLOW) for _ in range(2)]
    time.sleep(1)
    (tmp_path / "log").touch()
    outputs = [racer.communicate(timeout=60) for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0] == open_dataset("market1501", root=market).fingerprint + "\n"
    assert (tmp_path / "log").read_text() == "x" * 15, "each image once"
    assert sum("waiting for another process" in error for _, error in outputs) <= 1


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_killed_process_leaves_nothing_that_counts(market, tmp_path, monkeypatch, cache_folder):
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    (tmp_path / "log").touch()
    victim = script(market, SLOW)
    while len((tmp_path / "log").read_text()) < 6:
        assert victim.poll() is None, victim.communicate()
        time.sleep(0.01)
    os.kill(victim.pid, signal.SIGKILL)
    victim.communicate()
    assert all(name.startswith(".") for name in fake.leftovers(cache_folder)) and fake.leftovers(cache_folder)
    assert len(open_dataset("market1501", root=market).gallery) == 6
    assert len(fake.leftovers(cache_folder)) == 1, "and the next build clears it away"
