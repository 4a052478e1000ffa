"""What a generator's copies are worth: by hand, with painters and networks whose answers are known."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_world import TINY, WORLD
from torch import nn

from reidnb import copies, generators
from reidnb.datasets import ReIDDataset, Split, open_dataset
from reidnb.evaluation import evaluate_features
from reidnb.inference import embed
from reidnb.network import Output


def picture_of(pid, camid):
    """8 x 4 pixels: red says who, green which camera."""
    picture = np.zeros((3, 8, 4), np.uint8)
    picture[0], picture[1] = 40 * pid, 60 * camid
    return picture


def split(pids, camids):
    pids, camids = np.array(pids), np.array(camids)
    return Split(np.stack([picture_of(p, c) for p, c in zip(pids, camids)]), pids, camids)


DATA = ReIDDataset("toy", split([1, 2, 3], [0, 1, 2]), split([4, 5], [0, 1]), split([4, 5, 4, 5, 6], [1, 0, 2, 2, 2]))


class Cameras(nn.Module):
    """Reads the camera off the green."""

    def forward(self, pixels):
        green = pixels[:, 1].mean((1, 2))
        levels = torch.stack([channel_of(60 * camid, 1) for camid in range(3)])
        return Output(logits=-(green[:, None] - levels).abs(), embedding=green[:, None])


class People(nn.Module):
    """Reads the person off the red, as a direction in the plane."""

    def forward(self, pixels):
        red = pixels[:, 0].mean((1, 2)) - channel_of(0, 0)
        found = torch.stack([red.cos(), red.sin()], 1)
        return Output(features=found, embedding=found)


def channel_of(level, channel):
    """What a picture's level becomes on its way into a network."""
    from reidnb.batches import make_batch

    images = np.full((1, 3, 8, 4), level, np.uint8)
    return make_batch(images, np.arange(1), device=torch.device("cpu"))[0, channel].mean()


def true_copies(asked):
    return np.stack([picture_of(pid, camid) for pid, camid in zip(DATA.query.pids, asked)])


def unchanged(asked):
    return DATA.query.images


def strangers(asked):
    return np.stack([picture_of(9 - pid, camid) for pid, camid in zip(DATA.query.pids, asked)])  # 4 <-> 5


def test_the_classifier_says_a_camera_for_each_picture():
    assert copies.says_camera(Cameras(), DATA.gallery.images, "cpu").tolist() == DATA.gallery.camids.tolist()


def test_the_classifier_sees_a_picture_as_it_is():
    """Not its mirror image too: a camera is known by what stands where."""

    class Left(Cameras):
        def forward(self, pixels):
            return super().forward(pixels[..., :2])

    pictures = DATA.gallery.images.copy()
    pictures[..., 2:] = 0
    assert copies.says_camera(Left(), pictures, "cpu").tolist() == DATA.gallery.camids.tolist()


def test_worth_by_hand():
    painters = {"truth": true_copies, "nothing": unchanged, "strangers": strangers}
    found = copies.style_scores(painters, DATA, Cameras(), People(), "cpu")
    assert list(found) == list(painters)
    features = [embed(People(), s.images, "cpu") for s in (DATA.query, DATA.gallery)]
    real = evaluate_features(*features, *DATA.ids)
    for worth in found.values():
        assert worth["camera"] == 1 and (worth["rank1"], worth["mAP"]) == (real.rank1, real.mAP) == (1, 1)
    truth, nothing, strange = (found[name] for name in painters)
    assert (truth["fooled"], truth["styled_mAP"], truth["styled_rank1"]) == (1, 1, 1)
    assert (nothing["fooled"], nothing["styled_mAP"], nothing["change"]) == (0, 1, 0)
    assert strange["fooled"] == 1 and strange["styled_rank1"] == 0
    # green moves by 60 or 120 levels in one of three channels: camera 0 to 1 and 2, camera 1 to 2 and 0
    assert truth["change"] == pytest.approx(np.mean([60, 60, 120, 60]) / 3)


def test_a_classifier_learns_cameras_from_pictures_as_they_are(cache):
    data = open_dataset("synthetic", size=(64, 32), **WORLD)
    asked = {}

    def train(model, images, labels, plan, seed, device):
        asked.update(plan=plan, labels=labels, classes=model.classifier.weight.shape[0])
        return []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copies, "train", train)
        model = copies.camera_classifier(data.train, epochs=3, seed=1)
    assert asked["labels"] is data.train.camids and asked["classes"] == data.train.camids.max() + 1
    assert asked["plan"].augmentation.colour == 0 and asked["plan"].epochs == 3 and not model.training


@pytest.fixture
def tiny_painters(cache, monkeypatch):
    """Two generators of the tiny world, in the place of those that ship."""
    plan = generators.StarGAN(width=4, blocks=1, critic_width=4, steps=1, batch=4)
    data = open_dataset("synthetic", size=(64, 32), **WORLD)
    other = generators.StarGAN(**vars(plan) | {"reconstruction": 1.0})
    found = [generators.load_or_train_generator(data.train, "synthetic", WORLD, p, device="cpu") for p in (plan, other)]
    monkeypatch.setattr(copies, "shipped_painters", lambda: found)
    few = generators.PTGAN(width=4, blocks=1, critic_width=4, steps=1, batch=4, person=0.0)
    monkeypatch.setattr(copies, "PLAN", few)
    monkeypatch.setattr(copies, "open_dataset", lambda name, size: data)
    run, truth = copies.run, copies.true_styles
    monkeypatch.setattr(copies, "run", lambda name, there, world, **more: run("ide_scratch", data, **FINDER | more))
    monkeypatch.setattr(copies, "true_styles", lambda name, size, options, part: truth(name, size, WORLD, part))
    classifier = copies.camera_classifier
    monkeypatch.setattr(copies, "camera_classifier", lambda train, **more: classifier(train, epochs=2, **more))
    return found


FINDER = {name: TINY[name] for name in ("epochs", "p")}


def test_a_row_for_each_generator_and_one_for_the_truth(tiny_painters):
    table = copies.measure_styles(device="cpu")
    names = ["StarGAN, reconstruction 20", "StarGAN, reconstruction 1", copies.BY_PAIRS, copies.TWICE, copies.PARTLY]
    assert table.copies.tolist() == [*names, "drawn anew (truth)"] and table.dataset.tolist() == ["synthetic"] * 6
    assert table.steps.tolist() == [1, 1, 15, 30, 30, 0] and table.camera.nunique() == 1 and table.mAP.nunique() == 1
    shipped = pd.read_csv(copies.__file__.replace("copies.py", "results/styles.csv"))
    assert set(shipped.columns) == set(table.columns), "results/styles.csv is such a table"
    assert table.change[5] > table.change[0], "one step paints next to nothing"


def test_what_ships_is_trained_where_it_is_not_there(tmp_path, monkeypatch, cache):
    trained = tmp_path / "cache" / "one.safetensors"
    trained.parent.mkdir(parents=True)
    trained.write_bytes(b"weights")
    kept, asked = generators.Kept(None, "synthetic", None, [], {}, trained), []
    monkeypatch.setattr(copies.keeping, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setattr(copies, "open_dataset", lambda name, size: DATA)
    kinds = ("generator", "dcgan", "ptgan", "pngan")
    for name in [f"load_or_train_{kind}" for kind in kinds]:
        monkeypatch.setattr(copies, name, lambda *given, **how: asked.append((given, how)) or kept)
    copies.ship(device="cpu")
    names = {path.name for path in (tmp_path / "shipped").iterdir()}
    real = copies.__file__.replace("copies.py", "generators/shipped")
    assert names == {path.name for path in Path(real).glob("*.safetensors")} and len(asked) == 8
