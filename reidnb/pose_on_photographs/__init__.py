"""Bodies on photographs: mediapipe's pose model, in a Python of its own, looks at every picture below a folder.

    find_keypoints("/data/Market-1501-v15.09.15", only=["bounding_box_train/*", "query/*"])

mediapipe 0.10.21 brings its models inside its wheel and needs numpy below 2, so it lives apart: in an environment that
is made on first use, or in a Python that the caller names. `worker.py` runs there.
"""

import contextlib
import csv
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from reidnb import files
from reidnb.datasets import pictures_below
from reidnb.datasets.cache import progress
from reidnb.datasets.points import TABLE, Body, as_row, read_points, write_points
from reidnb.synthetic import KEYPOINTS

WORKER = Path(__file__).with_name("worker.py")
WANTED = ("mediapipe==0.10.21", "numpy<2")
PYTHONS = range(9, 13)  # 3.9 to 3.12 have a wheel of it
NEEDS = 1_500_000_000  # bytes while it is made; about 1 GB stays
LANDMARKS = 33
NOSE_TO_FEET = {"shoulder": 11, "elbow": 13, "wrist": 15, "hip": 23, "knee": 25, "ankle": 27}  # left; right is one more
EARS, SHOULDERS = (7, 8), (11, 12)
ABOVE_EARS = 0.55  # the top of the head lies above the ears by this share of their height above the neck
log = logging.getLogger("reidnb")


# ------------------------------------------------------------------------------------------------------- the landmarks


def fourteen(body: Iterable) -> np.ndarray:
    """mediapipe's 33 landmarks (33, 3), x, y, visibility, -> our 14 KEYPOINTS (14, 3), in the same units.

    Left and right are the person's own in both. The neck is the middle of the shoulders. No landmark is the top of the
    head: it lies on the line from the neck through the middle of the ears, beyond them by 0.55 of what lies between
    (an upright body of height 1 has its shoulders at 0.82, its ear holes at 0.935). Both are as visible as the pair
    that they come from, in mean.
    """
    body = np.asarray(body, float)
    if body.shape != (LANDMARKS, 3):
        raise ValueError(f"mediapipe's landmarks are (33, 3): x, y, visibility; got {body.shape}")
    neck, ears = body[[*SHOULDERS]].mean(0), body[[*EARS]].mean(0)
    points = {"neck": neck, "head_top": ears + (*ABOVE_EARS * (ears - neck)[:2], 0)}
    for name, left in NOSE_TO_FEET.items():
        points |= {f"left_{name}": body[left], f"right_{name}": body[left + 1]}
    return np.stack([points[name] for name in KEYPOINTS])


def of_answer(answer: dict) -> Body:
    """What the worker says of a picture -> Body. A point that lies outside the picture is not visible there."""
    width, height = answer["size"]
    if answer["body"] is None:
        return Body(width, height, None)
    points = fourteen(answer["body"])
    x, y = points[:, 0], points[:, 1]
    points[:, 2] = np.where((x >= 0) & (x <= width) & (y >= 0) & (y <= height), points[:, 2].clip(0, 1), 0)
    mask = answer.get("mask")
    return Body(width, height, points, None if mask is None else np.array(mask, bool))


# ---------------------------------------------------------------------------------------------------------- the folder


def find_keypoints(
    folder: str | Path,
    out: str | Path | None = None,
    python: str | Path | None = None,
    only: Iterable[str] = (),
    but: Iterable[str] = (),
    worker: Path = WORKER,
) -> dict[str, Body]:
    """Find the body on every picture below `folder` and keep a row for each in the table `out` -> {file: Body}.

    out: folder/keypoints.csv, where datasets look for it. Pictures that it has are not looked at again; a run that was
    stopped goes on, since rows wait beside the table until it is whole. only, but: patterns of files relative to the
    folder, with * for anything; without `only` all, of which `but` leaves some out. python: one that has mediapipe
    (else `environment()`). Raises FileNotFoundError, ValueError (no picture, a table that is malformed), RuntimeError
    (no mediapipe to be had, the worker died). A picture that cannot be read is warned of and has no row.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    out = Path(out).expanduser() if out else folder / TABLE
    pictures = _chosen(folder, [*only], [*but])
    aside = out.with_name(f".{out.stem}.building{out.suffix}")
    with files.locked(files.cache_root() / "pose" / files.digest(str(out.resolve()))):
        bodies = read_points(out) if out.exists() else {}
        bodies |= read_points(aside, cut=True) if aside.exists() and aside.stat().st_size else {}
        if bare := sum(body.points is not None and body.mask is None for body in bodies.values()):
            log.warning("%s has %d bodies without a mask: where masks are wanted, remove it and start again", out, bare)
        missing = [file for file in pictures if file not in bodies]
        if missing:
            python = Path(python).expanduser() if python else environment()
            with _rows(aside, bodies) as add, _asked(python, worker) as ask:
                for file in progress(missing, len(missing), f"finding bodies in {folder}"):
                    answer = ask(folder / file)
                    if "error" in answer:
                        log.warning("%s cannot be read (%s): it has no row", folder / file, answer["error"])
                        continue
                    bodies[file] = of_answer(answer)
                    add(file, bodies[file])
        if missing or aside.exists():
            files.atomic_write(out, lambda path: write_points(path, bodies))
            aside.unlink(missing_ok=True)
    return {file: bodies[file] for file in pictures if file in bodies}


def _chosen(folder: Path, only: list[str], but: list[str]) -> list[str]:
    """The pictures below a folder that patterns let through, relative to it."""
    found = [path.relative_to(folder).as_posix() for path in pictures_below(folder)]
    chosen = [
        file
        for file in found
        if (not only or any(fnmatchcase(file, pattern) for pattern in only))
        and not any(fnmatchcase(file, pattern) for pattern in but)
    ]
    if not chosen:
        raise ValueError(f"of {len(found)} pictures below {folder}, such as {found[0]}, the patterns leave none")
    return chosen


@contextlib.contextmanager
def _rows(aside: Path, bodies: dict[str, Body]) -> Iterator[Callable[[str, Body], None]]:
    """Gives what adds a row to the table `aside`, which begins with what is known: each is on disk at once."""
    files.atomic_write(aside, lambda path: write_points(path, bodies))  # half a last line is gone with that
    with open(aside, "a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)

        def add(name: str, body: Body) -> None:
            writer.writerow(as_row(name, body))
            file.flush()

        yield add


@contextlib.contextmanager
def _asked(python: Path, worker: Path) -> Iterator[Callable[[Path], dict]]:
    """Starts the worker, and gives what asks it about a picture; it ends with the block."""
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                [str(python), "-I", str(worker)],  # -I: no PYTHONPATH, which may lead to another numpy
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                encoding="utf-8",
            )
        except OSError as error:
            raise RuntimeError(
                f"{python} cannot be run ({error.strerror}): name a Python that has mediapipe"
            ) from error

        def answer(about: str) -> dict:
            line = process.stdout.readline()
            if line.endswith("\n"):
                return json.loads(line)
            process.wait()
            errors.seek(0)
            last = errors.read().decode("utf-8", "replace").strip().splitlines()[-1:] or ["it said nothing"]
            raise RuntimeError(f"the process that finds bodies ended {about} (exit {process.returncode}): {last[0]}")

        def ask(path: Path) -> dict:
            with contextlib.suppress(BrokenPipeError):  # its answer says more
                process.stdin.write(json.dumps(str(path.resolve())) + "\n")
                process.stdin.flush()
            return answer(f"at {path}; leave it out by --but, or start again: what was found is kept")

        try:
            answer(f"before it began: is mediapipe in {python}? pip install {' '.join(map(repr, WANTED))}")
            yield ask
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
            with contextlib.suppress(OSError):
                process.stdin.close()


# ----------------------------------------------------------------------------------------------------- the environment


def environment() -> Path:
    """The Python of an environment that has mediapipe, made on first use. RuntimeError where that fails."""
    home = files.cache_root() / "pose" / "mediapipe"

    def whole(folder: Path) -> None:
        if not _python_of(folder).exists():
            raise FileNotFoundError(f"no Python in {folder}")

    files.kept(home, _make_environment, readable=whole)
    return _python_of(home)


def _python_of(home: Path) -> Path:
    return home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _make_environment(home: Path) -> None:
    base = _base()
    files.require_space(home, NEEDS, "an environment with mediapipe", "name a Python that has it (--python)")
    log.info("mediapipe needs numpy below 2: an environment of its own is made for it, once, about 1 GB in %s",
             home.parent / "mediapipe")  # fmt: skip
    _run("make an environment", [base, "-m", "venv", str(home)])
    pip = [str(_python_of(home)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run(f"install {' '.join(WANTED)}", [*pip, *WANTED])


def _base() -> str:
    """A Python that mediapipe has a wheel for: this one, else one on the path."""
    names = [f"python3.{minor}" for minor in reversed(PYTHONS)]
    here = sys.executable if sys.version_info[1] in PYTHONS else None
    if found := here or next(filter(None, map(shutil.which, names)), None):
        return found
    raise RuntimeError(
        f"mediapipe 0.10.21 runs on Python 3.9 to 3.12; this is {sys.version.split()[0]}, and none of "
        f"{', '.join(names)} is on the path. Install one, or name a Python that has mediapipe by --python"
    )


def _run(what: str, command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:] or ["nothing was said"]
        raise RuntimeError(
            f"cannot {what} ({said[0]}). Make one where there is a network, python -m venv POSE && POSE/bin/pip "
            f"install {' '.join(map(repr, WANTED))}, and name it: --python POSE/bin/python"
        )
