"""`reidnb keypoints`: what mediapipe's landmarks become, and a folder gone through by a worker that may be killed. A
small script stands in for mediapipe's; one test asks the real one, where REIDNB_POSE_PYTHON names a Python with it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fake_datasets as fake
import numpy as np
import pytest

from reidnb import __main__ as command
from reidnb import pose_on_photographs as pose
from reidnb.datasets.points import Body, read_points, write_points
from reidnb.synthetic import KEYPOINTS

AT = {name: i for i, name in enumerate(KEYPOINTS)}
ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.usefixtures("cache")

FAKE = """
import json, pathlib, sys, time
seen = open(pathlib.Path(__file__).with_name("seen.txt"), "a")
print(json.dumps({"ready": "a stand-in"}), flush=True)
for line in sys.stdin:
    path = pathlib.Path(json.loads(line))
    seen.write(path.name + "\\n"), seen.flush()
    if path.stem == "bad":
        print(json.dumps({"error": "no picture"}), flush=True)
        continue
    if path.stem == "die":
        sys.exit("a picture too much")
    time.sleep(PAUSE)
    body = None if path.stem == "nobody" else [[len(path.stem), n, 0.5] for n in range(33)]
    print(json.dumps({"size": [16, 32], "body": body, "mask": [[n % 2] * 32 for n in range(64)]}), flush=True)
"""


@pytest.fixture
def worker(tmp_path):
    """Called, it writes the stand-in and gives what `find_keypoints` is to use; `seen()` is what it was asked."""
    place = tmp_path / "worker"
    place.mkdir()

    def made(pause=0.0, script=FAKE):
        (place / "worker.py").write_text(script.replace("PAUSE", str(pause)))
        return {"python": sys.executable, "worker": place / "worker.py"}

    made.seen = lambda: (place / "seen.txt").read_text().split()
    return made


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    for i, name in enumerate(("a.jpg", "b.jpg", "nobody.jpg", "in/c.png", "in/-1_d.jpg")):
        fake.write_image(folder / name, i)
    return folder


# -------------------------------------------------------------------------------------------------------- the landmarks

# The names in mediapipe's documentation, in their order.
THEIRS = """
nose left_eye_inner left_eye left_eye_outer right_eye_inner right_eye right_eye_outer left_ear right_ear
mouth_left mouth_right left_shoulder right_shoulder left_elbow right_elbow left_wrist right_wrist left_pinky right_pinky
left_index right_index left_thumb right_thumb left_hip right_hip left_knee right_knee left_ankle right_ankle left_heel
right_heel left_foot_index right_foot_index"""
THEIRS = THEIRS.split()


def test_each_of_the_fourteen_is_the_landmark_of_its_name():
    rng = np.random.default_rng(0)
    body = rng.random((33, 3))
    found = pose.fourteen(body)
    assert len(THEIRS) == 33 and found.shape == (14, 3)
    for name in set(KEYPOINTS) - {"neck", "head_top"}:
        np.testing.assert_array_equal(found[AT[name]], body[THEIRS.index(name)], err_msg=name)
    np.testing.assert_allclose(
        found[AT["neck"]], (body[THEIRS.index("left_shoulder")] + body[THEIRS.index("right_shoulder")]) / 2
    )


def test_the_top_of_the_head_lies_beyond_the_ears_as_seen_from_the_neck():
    """An upright body of height 100, its ears at 93.5 and shoulders at 82 from the ground, has it at 100; one lying on
    its side has it beside."""
    body = np.zeros((33, 3))
    body[[THEIRS.index("left_ear"), THEIRS.index("right_ear")]] = (47, 6.5, 0.25), (53, 6.5, 0.75)
    body[[THEIRS.index("left_shoulder"), THEIRS.index("right_shoulder")]] = (40, 18, 1), (60, 18, 0)
    x, y, visible = pose.fourteen(body)[AT["head_top"]]
    assert x == 50 and abs(y) < 0.5 and visible == 0.5
    x, y, _ = pose.fourteen(body[:, [1, 0, 2]])[AT["head_top"]]
    assert y == 50 and abs(x) < 0.5


@pytest.mark.parametrize("shape", [(32, 3), (33, 2), (33,), (1, 33, 3)])
def test_another_number_of_landmarks_is_refused(shape):
    with pytest.raises(ValueError, match=r"landmarks are \(33, 3\).*got"):
        pose.fourteen(np.zeros(shape))


def test_a_point_outside_the_picture_is_not_visible_there():
    body = np.tile((8.0, 16.0, 0.9), (33, 1))
    body[THEIRS.index("left_knee")], body[THEIRS.index("right_knee")] = (8, 32.5, 1), (-0.5, 16, 1)
    found = pose.of_answer({"size": [16, 32], "body": body.tolist()})
    knees = AT["left_knee"], AT["right_knee"]
    assert found[:2] == (16, 32) and not found.points[[*knees], 2].any()
    assert (np.delete(found.points[:, 2], knees) == 0.9).all()
    assert pose.of_answer({"size": [16, 32], "body": None}).points is None


# ----------------------------------------------------------------------------------------------------------- the folder


def test_a_row_for_every_picture_below(pictures, worker, caplog):
    found = pose.find_keypoints(pictures, **worker())
    assert "mask" not in caplog.text
    kept = read_points(pictures / "keypoints.csv")
    assert [*kept] == [*found] == ["a.jpg", "b.jpg", "in/-1_d.jpg", "in/c.png", "nobody.jpg"]
    assert kept["nobody.jpg"].points is None and kept["in/-1_d.jpg"].points[AT["left_hip"]].tolist() == [4, 23, 0.5]
    assert kept["nobody.jpg"].mask is None and kept["a.jpg"].mask.sum(1).tolist() == 32 * [0, 32]
    assert sorted(path.name for path in pictures.iterdir()) == ["a.jpg", "b.jpg", "in", "keypoints.csv", "nobody.jpg"]


def test_what_is_there_is_not_looked_at_again(pictures, worker, caplog):
    by_hand = Body(16, 32, np.ones((14, 3)))
    write_points(pictures / "keypoints.csv", {"a.jpg": by_hand, "gone.jpg": by_hand})
    pose.find_keypoints(pictures, only=["*.jpg"], but=["in/-1_*"], **worker())
    assert worker.seen() == ["b.jpg", "nobody.jpg"]
    kept = read_points(pictures / "keypoints.csv")
    assert [*kept] == ["a.jpg", "b.jpg", "gone.jpg", "nobody.jpg"] and (kept["a.jpg"].points == 1).all()
    pose.find_keypoints(pictures, only=["a.jpg"], python="/nowhere/python")
    assert worker.seen() == ["b.jpg", "nobody.jpg"], "nothing is missing: nobody is asked, not even started"
    assert "keypoints.csv has 2 bodies without a mask" in caplog.text and "remove it" in caplog.text


def test_a_killed_run_goes_on_where_it_was(pictures, worker, cache):
    """The whole process, without a last word; and half a line behind the rows, as a full disk leaves it."""
    how = worker(pause=0.5)
    code = f"from reidnb import pose_on_photographs as pose\npose.find_keypoints({str(pictures)!r}, "
    code += f"python={sys.executable!r}, worker=pose.Path({str(how['worker'])!r}))"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "REIDNB_CACHE": str(cache)})
    aside, deadline = pictures / ".keypoints.building.csv", time.monotonic() + 60
    while not aside.exists() or len(read_points(aside, cut=True)) < 2:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (pictures / "keypoints.csv").exists(), "only what is whole has this name"
    had = [*read_points(aside, cut=True)]
    with open(aside, "a") as file:
        file.write("nobody.jpg,16,32,0,0.0")
    before = worker.seen()
    pose.find_keypoints(pictures, **worker())
    asked = worker.seen()[len(before) :]
    assert (
        asked
        == [name.split("/")[-1] for name in ("a.jpg", "b.jpg", "in/-1_d.jpg", "in/c.png", "nobody.jpg")][len(had) :]
    )
    assert len(read_points(pictures / "keypoints.csv")) == 5 and not aside.exists()


def test_a_picture_that_cannot_be_read_is_warned_of_and_has_no_row(pictures, worker, caplog):
    (pictures / "bad.jpg").write_bytes(b"no picture")
    found = pose.find_keypoints(pictures, only=["b*"], **worker())
    assert [*found] == ["b.jpg"] and "bad.jpg cannot be read (no picture): it has no row" in caplog.text


def test_a_worker_that_dies_says_at_which_picture_and_keeps_what_was_found(pictures, worker):
    fake.write_image(pictures / "die.jpg", 7)
    with pytest.raises(
        RuntimeError, match=r"ended at .*die.jpg; leave it out by --but.*\(exit 1\): a picture too much"
    ):
        pose.find_keypoints(pictures, **worker())
    assert len(read_points(pictures / ".keypoints.building.csv")) == 2
    assert len(pose.find_keypoints(pictures, but=["die.jpg"], **worker())) == 5
    assert worker.seen().count("a.jpg") == 1


def test_a_python_without_mediapipe_is_told_from_one_that_is_not_there(pictures):
    with pytest.raises(
        RuntimeError, match="before it began: is mediapipe in .*pip install 'mediapipe==0.10.21' 'numpy<2'"
    ):
        pose.find_keypoints(pictures, python=sys.executable)  # the real worker, in an environment without
    with pytest.raises(RuntimeError, match="/nowhere/python cannot be run .*: name a Python that has mediapipe"):
        pose.find_keypoints(pictures, python="/nowhere/python")


def test_folders_and_patterns_that_hold_nothing_are_refused(pictures, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere"):
        pose.find_keypoints(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="of 5 pictures below .*, such as a.jpg, the patterns leave none"):
        pose.find_keypoints(pictures, only=["query/*"])
    (pictures / "keypoints.csv").write_text("file\n")
    with pytest.raises(ValueError, match="line 1 of .*keypoints.csv"):
        pose.find_keypoints(pictures, python="/nowhere/python")


def test_the_command(pictures, worker, monkeypatch, capsys):
    monkeypatch.setattr(pose.find_keypoints, "__defaults__", (None, None, (), (), worker()["worker"]))
    there = ["keypoints", str(pictures), "--python", sys.executable, "--but", "in/-1_*"]
    assert command.main([*there, "--out", str(pictures / "mine.csv")]) == 0
    said = capsys.readouterr().out
    assert said == f"somebody was found on 3 of 4 pictures (75.0%)\n{pictures / 'mine.csv'}\n"
    assert command.main(["keypoints", str(pictures / "nowhere")]) == 2
    assert capsys.readouterr().err.startswith("reidnb keypoints: there is no folder ")


# ------------------------------------------------------------------------------------------------------ the environment


def test_an_environment_is_made_once_and_renamed_when_it_is_whole(cache, monkeypatch, caplog):
    ran = []

    def run(command, **how):
        ran.append(command)
        if command[1:3] == ["-m", "venv"]:
            python = pose._python_of(Path(command[3]))
            python.parent.mkdir(parents=True)
            python.write_text("")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(pose.subprocess, "run", run)
    caplog.set_level("INFO", "reidnb")
    python = pose.environment()
    assert python == pose._python_of(cache / "pose" / "mediapipe") and python.exists()
    assert ran[1][1:4] == ["-m", "pip", "install"] and ran[1][-2:] == ["mediapipe==0.10.21", "numpy<2"]
    assert "made for it, once, about 1 GB in" in caplog.text
    assert pose.environment() == python and len(ran) == 2


def test_an_environment_that_cannot_be_made_leaves_nothing_and_names_the_remedy(cache, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "Looking\nERROR: no network\n")
    monkeypatch.setattr(pose.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(
        RuntimeError, match=r"cannot make an environment \(ERROR: no network\).*--python POSE/bin/python"
    ):
        pose.environment()
    assert not [path for path in (cache / "pose").iterdir() if path.suffix != ".lock"]


def test_a_python_for_which_there_is_no_wheel_looks_for_another(monkeypatch):
    monkeypatch.setattr(pose, "PYTHONS", range(9, 10))
    monkeypatch.setattr(pose.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert pose._base() == "/usr/bin/python3.9"
    monkeypatch.setattr(pose.shutil, "which", lambda name: None)
    with pytest.raises(RuntimeError, match="3.9 to 3.12; this is .*none of python3.9 is on the path.*--python"):
        pose._base()


# ------------------------------------------------------------------------------------------------------- the real thing


@pytest.mark.skipif("REIDNB_POSE_PYTHON" not in os.environ, reason="REIDNB_POSE_PYTHON names no Python with mediapipe")
def test_mediapipe_answers(tmp_path):
    """A flat picture holds nobody, one that cannot be read is said, and the sizes are those of the files."""
    fake.write_image(tmp_path / "flat.jpg", 3, (128, 64))
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    found = pose.find_keypoints(tmp_path, python=os.environ["REIDNB_POSE_PYTHON"])
    assert found == {"flat.jpg": Body(64, 128, None)}
