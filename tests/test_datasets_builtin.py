"""The built-in world as a dataset: drawn once, by several processes, the same as drawn by one."""

import os
import subprocess
import sys
from pathlib import Path

import fake_datasets as fake
import numpy as np
import pytest

from reidnb.datasets import builtin, cache, open_dataset, true_styles

HOUSE = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("REIDNB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("REIDNB_DATA", raising=False)
    return tmp_path / "cache" / "datasets" / f"v{cache.FORMAT}"


def test_synthetic():
    from reidnb import synthetic

    dataset = open_dataset("synthetic", **fake.SMALL_WORLD, misalignment=2.0)
    world = synthetic.make_world(**fake.SMALL_WORLD, dials=synthetic.Dials(misalignment=2.0))
    for split in ("train", "query", "gallery"):
        part, shots = getattr(dataset, split), world.shots[split]
        assert part.images.shape == (len(shots), 3, 64, 32) and part.masks.shape == (len(shots), 64, 32)
        assert part.pids.tolist() == [shot.pid for shot in shots]
        assert part.files.tolist() == [synthetic.file_name(shot) for shot in shots]
        assert part.shots["box_dx"].tolist() == [shot.dx for shot in shots]
        assert part.shots["view"].tolist() == [shot.view for shot in shots]
        drawing = synthetic.draw(world, shots[1])
        assert np.array_equal(part.images[1], drawing.image.transpose(2, 0, 1))
        assert np.array_equal(part.masks[1], drawing.mask) and np.allclose(part.keypoints[1], drawing.keypoints)
        assert part.shots["occlusion"][1] == pytest.approx(drawing.occlusion)
        assert np.array_equal(part.attributes[1], synthetic.attributes(world, shots[1].pid))
    assert dataset.attribute_names == tuple(synthetic.ATTRIBUTES)
    assert open_dataset("synthetic", **fake.SMALL_WORLD).fingerprint != dataset.fingerprint


def test_a_world_drawn_by_processes_is_the_same(monkeypatch, tmp_path, cache_folder):
    alone = open_dataset("synthetic", **fake.SMALL_WORLD)
    monkeypatch.setattr(builtin, "WORTH_PROCESSES", 1)
    monkeypatch.setattr(builtin, "PIECE", 7)  # shots of two splits in a piece, and a last one that is shorter
    monkeypatch.setattr(builtin, "_record", fake.never)  # here, not in the other processes
    monkeypatch.setattr("joblib.cpu_count", lambda: 2)
    monkeypatch.setenv("REIDNB_CACHE", str(tmp_path / "other"))
    assert open_dataset("synthetic", **fake.SMALL_WORLD).fingerprint == alone.fingerprint
    monkeypatch.setattr(builtin, "SOURCE", "as edited since")
    with pytest.raises(RuntimeError, match="reidnb/synthetic was edited since this process"):
        open_dataset("synthetic", **fake.SMALL_WORLD, seed=1)
    assert len(fake.leftovers(tmp_path / "other" / cache_folder.relative_to(tmp_path / "cache"))) == 1


def test_a_script_without_a_guard_draws_the_world_once(tmp_path):
    """Processes that run the caller's script again would open the world again, and again."""
    script = tmp_path / "script.py"
    script.write_text(
        "print('ran', flush=True)\n"
        "from reidnb.datasets import builtin, open_dataset\n"
        "builtin.WORTH_PROCESSES = 1\n"
        f"open_dataset('synthetic', **{fake.SMALL_WORLD})\n"
    )
    ran = subprocess.run(
        [sys.executable, script], cwd=HOUSE, env=os.environ | {"PYTHONPATH": str(HOUSE)}, capture_output=True, text=True
    )
    assert ran.returncode == 0 and ran.stdout == "ran\n", ran.stderr


def test_true_styles_are_kept(monkeypatch):
    options = {name: value for name, value in fake.SMALL_WORLD.items() if name != "size"} | {"cameras": 3}
    copies = true_styles("synthetic", (64, 32), options, "query")
    own = open_dataset("synthetic", size=(64, 32), **options).query
    assert copies.shape == (len(own), 3, 3, 64, 32) and copies.dtype == np.uint8
    assert np.array_equal(copies[np.arange(len(own)), own.camids], own.images), "its own camera took it as it is"
    assert not np.array_equal(copies[:, 0], copies[:, 1])
    monkeypatch.setattr(builtin, "make_world", fake.never)
    assert np.array_equal(true_styles("synthetic", (64, 32), options, "query"), copies)
    with pytest.raises(ValueError, match="market1501 was photographed"):
        true_styles("market1501", (64, 32), {})
    with pytest.raises(ValueError, match="split must be train, query or gallery; got 'test'"):
        true_styles("synthetic", (64, 32), {}, "test")


def test_summer_and_winter_are_two_domains():
    pair = [open_dataset(f"synthetic_{season}", **fake.SMALL_WORLD) for season in ("summer", "winter")]
    up = pair[0].attribute_names.index("up")
    assert pair[0].fingerprint != pair[1].fingerprint
    assert pair[0].train.attributes[:, up].mean() > pair[1].train.attributes[:, up].mean(), "short sleeves in summer"
