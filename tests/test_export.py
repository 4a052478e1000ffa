"""A network as ONNX says what it says here."""

import numpy as np
import pytest
import torch

from reidnb import export, inference
from reidnb.experiments import run
from reidnb.export import CLOSE, Described, export_onnx

WORLD = {"train_identities": 8, "test_identities": 6, "distractors": 0, "junk": 0, "p": 4, "epochs": 1, "warmup": 0.0}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REIDNB_CACHE", str(tmp_path_factory.mktemp("cache")))
        return run("aligned", device="cpu", **WORLD)


def test_it_says_what_embed_says(made, monkeypatch):
    """Of uint8 pictures, as `embed` takes them; in float32, which is what is exported."""
    monkeypatch.setenv("REIDNB_FP32", "1")
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 64, 32), np.uint8)
    found = Described(made)(torch.from_numpy(images).float()).detach().numpy()
    np.testing.assert_allclose(found, made.embed(images, "cpu"), atol=1e-5)  # another order of the same sums
    wanted = inference.embed(made.model(), images, "cpu", flip=made.recipe.flip_test)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_logits_of_stripes_are_not_made_unit_vectors(tmp_path, monkeypatch):
    """As `embed` leaves them: three-dimensional ones once were, stripe by stripe."""
    monkeypatch.setenv("REIDNB_FP32", "1")
    monkeypatch.setenv("REIDNB_CACHE", str(tmp_path))
    by_classes = run("pcb", device="cpu", compare="part_logits", **WORLD)
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 64, 32), np.uint8)
    found = Described(by_classes)(torch.from_numpy(images).float()).detach().numpy()
    np.testing.assert_allclose(found, by_classes.embed(images, "cpu"), atol=1e-5)


def test_onnx_and_any_number_of_pictures(made, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")
    pytest.importorskip("onnxscript", reason="the extra [onnx] is not installed")
    path = export_onnx(made, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(path))
    assert [part.name for part in (*session.get_inputs(), *session.get_outputs())] == ["pixels", "features"]
    for n in (1, 2, 7):
        pixels = np.random.default_rng(n).integers(0, 256, (n, 3, 64, 32)).astype(np.float32)
        (found,) = session.run(None, {"pixels": pixels})
        wanted = Described(made)(torch.from_numpy(pixels)).detach().numpy()
        assert np.abs(found - wanted).max() < CLOSE
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"], "the weights are inside"


def test_what_differs_is_not_given_out(made, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")
    monkeypatch.setattr(export, "CLOSE", -1.0)
    with pytest.raises(RuntimeError, match="onnxruntime and torch differ by .* of 1 pictures: nothing written"):
        export_onnx(made, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_names_and_recipes_that_cannot_be(made, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="must end in .onnx, got 'model.pt'"):
        export_onnx(made, tmp_path / "model.pt")
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'reidnb\[onnx\]'"):
        export_onnx(made, tmp_path / "model.onnx")
