"""Keeping: written aside and renamed, made once, read without writing; and what a disk can refuse."""

import dataclasses
import errno
import fcntl
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest

from reidnb import files

HOUSE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Fields:
    margin: float
    shape: tuple


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def never(path):
    raise AssertionError("made again")


# --- where ---------------------------------------------------------------------------------------------------------


def test_cache_root(monkeypatch, tmp_path):
    monkeypatch.setenv("REIDNB_CACHE", str(tmp_path / "cache"))
    assert files.cache_root() == tmp_path / "cache"
    monkeypatch.delenv("REIDNB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert files.cache_root() == tmp_path / "xdg" / "reidnb"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.cache_root() == tmp_path / ".cache" / "reidnb"


def test_a_user_without_a_home(monkeypatch):
    """As in a container that runs under a number: there is no HOME, and the number is in no list of users."""
    monkeypatch.setenv("REIDNB_CACHE", "~nobody_of_this_name/cache")
    with pytest.raises(OSError, match="no home folder is known for ~nobody_of_this_name/cache.*set REIDNB_CACHE"):
        files.cache_root()
    for name in ("REIDNB_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])
    with pytest.raises(OSError, match="no home folder is known for the cache.*set REIDNB_CACHE to a folder"):
        files.cache_root()


# --- keys ----------------------------------------------------------------------------------------------------------


def test_digest_is_the_same_everywhere():
    """Spelled out: another value would orphan every kept dataset and run."""
    assert files.digest("a", 1, (2.5, None), ["x"], b"y", {"k": True}) == "bc99c4fd0d4b12f3"
    code = "from reidnb import files; print(files.digest('a', 1, (2.5, None), ['x'], b'y', {'k': True}))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=HOUSE, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "bc99c4fd0d4b12f3"


def test_digest_tells_things_apart():
    torch = pytest.importorskip("torch")
    long = np.zeros(5000, np.float32)  # its repr is "[0., 0., 0., ..., 0., 0., 0.]"
    changed = long.copy()
    changed[2500] = 1
    different = [
        ("a",), ("a", "b"), (("a", "b"),), (1,), (1.0,), (True,), ("1",), (b"1",), (None,), (Fields(0.3, (1,)),),
        (Fields(0.3, (2,)),), (long,), (changed,), ([long],), ({"x": (changed,)},), ({"x": (long,)},),
        (long.astype(np.float64),), (long.reshape(50, 100),), (long.view(np.int32),),
    ]  # fmt: skip
    assert len({files.digest(*parts) for parts in different}) == len(different)
    assert files.digest(torch.from_numpy(changed)) == files.digest(changed)


def test_digest_sees_into_the_middle_of_an_array_in_a_dataclass():
    @dataclasses.dataclass(frozen=True)
    class Held:
        values: np.ndarray
        name: str = "a"

    long, other = np.zeros(5000), np.zeros(5000)
    other[2500] = 1
    assert files.digest(Held(long)) == files.digest(Held(long.copy())) != files.digest(Held(other))
    assert files.digest([Held(long)]) != files.digest([Held(long, "b")])


def test_digest_refuses_what_is_never_the_same_again():
    for part in (never, object(), (1, {"loss": never}), lambda: 0):
        with pytest.raises(TypeError, match="cannot make a key of <.*give its name and its source, or its fields"):
            files.digest("run", part)


# --- written in one step -------------------------------------------------------------------------------------------


def test_atomic_write(tmp_path):
    path = tmp_path / "deep" / "result.json"
    files.atomic_write(path, lambda aside: aside.write_text("old"))
    for accident in (KeyboardInterrupt, OSError):

        def writer(aside, accident=accident):
            aside.write_text("half")
            raise accident

        with pytest.raises(accident):
            files.atomic_write(path, writer)
    assert path.read_text() == "old" and [one.name for one in path.parent.iterdir()] == ["result.json"]
    assert files.atomic_write(path, lambda aside: aside.write_text(aside.suffix)).read_text() == ".json"


TORCH = "[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError(TORCH),
        ValueError("Error while serializing: IoError(Os { code: 28, message: No space left on device })"),
        RuntimeError("I/O error: Datei nicht geschrieben (os error 28)"),
    ],
)
def test_a_full_disk_says_so(tmp_path, error):
    def writer(aside):
        (aside / "part" if aside.is_dir() else aside).write_text("half")
        raise error

    for make in (files.atomic_write, files.kept):
        for name in ("run.npz", "folder") if make is files.kept else ("run.npz",):
            with pytest.raises(OSError, match="the disk is full.* GB are free in .*REIDNB_CACHE") as caught:
                make(tmp_path / name, writer)
            assert caught.value.errno == errno.ENOSPC and str(tmp_path / name) in str(caught.value)
    assert names(tmp_path) == []


def test_a_disk_that_is_really_full(tmp_path):
    """torch.save on a file that may not grow: the message is torch's own, whatever this version of it says."""
    code = f"""
        import resource, signal, torch
        from reidnb import files
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
        files.atomic_write({str(tmp_path / "run.checkpoint")!r}, lambda file: torch.save(torch.zeros(99_999), file))
    """
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=HOUSE, capture_output=True, text=True)
    assert ran.returncode == 1 and "OSError" in ran.stderr.splitlines()[-1], ran.stderr
    assert "the disk is full, or your share of it is used up" in ran.stderr and names(tmp_path) == []


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_folder_that_may_not_be_written_to(tmp_path, monkeypatch, number):
    def refuse(self, *args, **kwargs):
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    for act in (lambda path: files.atomic_write(path, never), lambda path: files.kept(path, never)):
        with pytest.raises(OSError, match="cannot write .*set REIDNB_CACHE to a folder that you may write to") as found:
            act(tmp_path / "new" / "run.npz")
        assert found.value.errno == number


def test_what_a_builder_may_not_read_is_no_fault_of_the_cache(tmp_path):
    def build(aside):
        raise PermissionError(errno.EACCES, "Permission denied", "/elsewhere/picture.jpg")

    with pytest.raises(PermissionError, match="Permission denied: '/elsewhere/picture.jpg'"):
        files.kept(tmp_path / "world", build)


# --- kept ----------------------------------------------------------------------------------------------------------


def test_kept_is_made_once(tmp_path):
    made = []

    def folder(aside):
        made.append(aside.name)
        (aside / "part").write_text("whole")

    for _ in range(2):
        assert files.kept(tmp_path / "a" / "world", folder) == tmp_path / "a" / "world"
        assert files.kept(tmp_path / "a" / "run.npz", lambda aside: aside.write_text(aside.suffix)).suffix == ".npz"
    assert len(made) == 1 and made[0].startswith(".") and (tmp_path / "a/world/part").read_text() == "whole"
    assert names(tmp_path / "a") == ["run.npz", "world"] and (tmp_path / "a/run.npz").read_text() == ".npz"


@pytest.mark.parametrize("name", ["world", "run.npz"])
def test_kept_leaves_nothing_half_made(tmp_path, name):
    def build(aside):
        (aside / "part" if name == "world" else aside).write_text("half")
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            files.kept(tmp_path / name, build)
        assert names(tmp_path) == []


def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    code = f"""
        import os, signal
        from reidnb import files
        def build(aside):
            (aside / "part").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
        files.kept({str(tmp_path / "world")!r}, build)
    """
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=HOUSE)
    assert ran.returncode == -signal.SIGKILL and names(tmp_path) == [".world.building"]
    assert files.kept_files(tmp_path, "*world*") == []
    files.kept(tmp_path / "world", lambda aside: (aside / "other").write_text("whole"))
    assert names(tmp_path) == ["world"] and names(tmp_path / "world") == ["other"]


def test_two_processes_and_one_builds(tmp_path):
    code = f"""
        import sys, time
        from pathlib import Path
        from reidnb import files
        log = Path({str(tmp_path / "log")!r})
        def build(aside):
            log.open("a").write("x")
            time.sleep(1)
            aside.write_text("whole")
        while not log.exists():
            time.sleep(0.01)
        print(files.kept({str(tmp_path / "run.npz")!r}, build).read_text())
    """
    racers = [
        subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], cwd=HOUSE, text=True, stdout=-1, stderr=-1)
        for _ in range(2)
    ]
    time.sleep(1)
    (tmp_path / "log").touch()
    outputs = [racer.communicate(timeout=60) for racer in racers]
    assert [out for out, _ in outputs] == ["whole\n"] * 2 and (tmp_path / "log").read_text() == "x"
    assert sum("waiting for another process that is making" in error for _, error in outputs) <= 1


def test_what_is_kept_is_read_without_a_lock_or_a_write(tmp_path, monkeypatch):
    (tmp_path / "run.npz").write_text("whole")
    (tmp_path / "world").mkdir()
    monkeypatch.setattr(files, "locked", never)
    for name in ("run.npz", "world"):
        assert files.kept(tmp_path / name, never, readable=os.stat) == tmp_path / name
    assert names(tmp_path) == ["run.npz", "world"]


@pytest.mark.parametrize("name", ["world", "run.npz"])
def test_what_is_damaged_is_put_aside_and_made_again(tmp_path, name, caplog):
    def build(aside):
        (aside / "part" if name == "world" else aside).write_text("whole")

    def readable(path):
        if (path / "part" if name == "world" else path).read_text() != "whole":
            raise ValueError("it is cut short")

    path = files.kept(tmp_path / name, build, readable)
    (path / "part" if name == "world" else path).write_text("wh")
    with caplog.at_level(logging.WARNING, "reidnb"):
        files.kept(path, build, readable)
    assert f"{path} cannot be read (it is cut short): it is put aside as" in caplog.text
    assert "made again" in caplog.text and names(tmp_path) == sorted([name, f"{path.stem}.damaged"])
    readable(path)


def test_what_cannot_be_read_as_soon_as_it_is_made_is_an_error_and_no_damage(tmp_path):
    def readable(path):
        raise ValueError("no such augmentation")

    with pytest.raises(ValueError, match="no such augmentation"):
        files.kept(tmp_path / "run.npz", lambda aside: aside.write_text("x"), readable)


def test_what_may_not_be_read_is_not_damaged(tmp_path):
    (tmp_path / "run.npz").write_text("someone else's")

    def readable(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with pytest.raises(PermissionError, match="Permission denied: .*run.npz"):
        files.kept(tmp_path / "run.npz", never, readable)
    assert names(tmp_path) == ["run.npz"]


@pytest.mark.parametrize("problem", [MemoryError(), OSError(errno.EMFILE, "Too many open files")], ids=repr)
def test_what_passes_by_itself_is_no_damage(tmp_path, problem):
    (tmp_path / "run.npz").write_text("hours of training")

    def readable(path):
        raise problem

    with pytest.raises(type(problem)):
        files.kept(tmp_path / "run.npz", never, readable)
    assert names(tmp_path) == ["run.npz"]


def test_walking_follows_links_once_and_passes_over_what_leads_nowhere(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("a/1.jpg", "a/b/2.jpg", "a/.hidden"):
        (tmp_path / name).write_text("x")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "3.jpg").write_text("x")
    (tmp_path / "a" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "nowhere.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "a" / ".#lock").symlink_to("user@host")
    assert sorted(name for name, _ in files.walk(tmp_path / "a")) == ["1.jpg", "b/2.jpg", "linked/3.jpg"]


def test_who_lists_does_not_meet_what_is_being_written(tmp_path):
    seen = []

    def writer(aside):
        aside.write_text("half")
        seen.extend(files.kept_files(tmp_path, "*.npz"))

    files.atomic_write(tmp_path / "b.npz", writer)
    files.kept(tmp_path / "a.npz", writer)
    assert seen == [tmp_path / "b.npz"]
    assert [path.name for path in files.kept_files(tmp_path, "*.npz")] == ["a.npz", "b.npz"]
    assert files.kept_files(tmp_path / "nowhere", "*.npz") == []


# --- locks ---------------------------------------------------------------------------------------------------------


def test_one_at_a_time_in_a_lock(tmp_path, capsys):
    inside, most = [], []

    def visit(number):
        with files.locked(tmp_path / "thing"):
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.02)
            inside.remove(number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(visit, range(6)))
    assert most == [1] * 6
    assert "reidnb: waiting for another process that is making" in capsys.readouterr().err


def test_a_lock_ends_with_an_error_inside(tmp_path):
    with pytest.raises(ZeroDivisionError), files.locked(tmp_path / "thing"):
        raise ZeroDivisionError
    with files.locked(tmp_path / "thing"):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_a_disk_without_locks(tmp_path, monkeypatch, number):
    def refuse(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    message = "cannot lock .*thing.lock .*set REIDNB_CACHE to a folder on a local disk"
    with pytest.raises(OSError, match=message), files.locked(tmp_path / "thing"):
        raise AssertionError("inside")


# --- space ---------------------------------------------------------------------------------------------------------


def test_require_space(tmp_path, monkeypatch):
    files.require_space(tmp_path / "not" / "there" / "yet", 1000)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: SimpleNamespace(free=2_500_000))
    files.require_space(tmp_path, 2_500_000)
    with pytest.raises(OSError, match="what is to be kept there needs 2.5 MB, but .* has 2.5 MB free: free some") as no:
        files.require_space(tmp_path, 2_500_001)
    assert no.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match="the copies needs 3.0 GB, but .*: ask for less, or set REIDNB_CACHE"):
        files.require_space(tmp_path, 3 * 10**9, "the copies", "ask for less")
    with pytest.raises(OSError, match="^.Errno 28. what is to be kept there needs 3.0 GB"):  # said once
        files.kept(tmp_path / "x.npy", lambda aside: files.require_space(aside.parent, 3 * 10**9))


class Pair(NamedTuple):
    name: str
    values: np.ndarray


def test_named_tuples_and_views_have_digests_of_their_content():
    long = np.arange(5000)
    other = long.copy()
    other[2500] = 0  # in the middle, which a repr leaves out
    assert files.digest(Pair("a", long)) != files.digest(Pair("a", other))
    assert files.digest(Pair("a", long)) == files.digest(Pair("a", long.copy()))
    for array in (long[::-2], long.reshape(50, 100).T, np.array(3.0), np.array([], "U0"), np.array(["ä", "bc"])):
        assert files.digest(array) == files.digest(array.copy())
    assert files.digest(long[::-1]) != files.digest(long)
