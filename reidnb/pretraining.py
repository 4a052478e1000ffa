"""The stand-in for ImageNet: the small backbones, trained on drawn people of another world.

`make pretrain` draws the world (other identities, cameras, backgrounds and wardrobe palettes than the built-in world
that readers test on: domain 1), trains the baseline on it and writes reidnb/models/small_drawn.safetensors; the same
for the backbone's Xception form. No person in it exists.
"""

import json
import logging
from dataclasses import replace
from pathlib import Path

from reidnb.datasets import open_dataset, relabel
from reidnb.evaluation import Scores, evaluate_features
from reidnb.files import atomic_write, cache_root
from reidnb.inference import embed
from reidnb.models import DRAWN, save_backbone
from reidnb.recipes import recipe
from reidnb.training import train

WORLD = {
    "seed": 1,
    "domain": 1,
    "train_identities": 2000,
    "test_identities": 100,
    "cameras": 16,
    "distractors": 300,
    "junk": 150,
    "misalignment": 2 / 3,  # the weights were trained when dial 1 meant what 2 / 3 means now
    "occlusion": 2 / 3,
}
CHANGES = {"weights": None, "epochs": 20, "p": 32}
log = logging.getLogger("reidnb")


def pretrain(model: str = "small", path: Path | None = None, epochs: int | None = None) -> Scores:
    """Train and save a backbone, "small" or "small_xception" -> its Scores on the 100 test identities of its own world.

    Resumes where it was stopped.
    """
    path = path or DRAWN[model]
    plan = recipe("baseline", model=model, **CHANGES | ({"epochs": epochs} if epochs else {}))
    plan = replace(plan, name=f"pretrain_{model}")
    world = open_dataset("synthetic", size=plan.size, **WORLD)
    labels, people = relabel(world.train.pids)
    net = plan.network({"classes": len(people)})
    checkpoint = cache_root() / "runs" / f"{plan.name}-{world.fingerprint[:12]}.checkpoint"
    history = train(net, world.train.images, labels, plan, checkpoint=checkpoint)
    features = [embed(net, split.images) for split in (world.query, world.gallery)]
    scores = evaluate_features(*features, *world.ids)
    atomic_write(path, lambda file: save_backbone(net.backbone, file))
    note = {
        "world": WORLD,
        "images": len(labels),
        "epochs": plan.epochs,
        "seconds": round(sum(line["seconds"] for line in history)),
        "mAP on its own test identities": round(scores.mAP, 4),
    }
    atomic_write(path.with_suffix(".json"), lambda file: file.write_text(json.dumps(note, indent=1) + "\n"))
    checkpoint.unlink(missing_ok=True)
    log.info("pretrained on %d drawn images of %d people: %s\nwritten: %s", len(labels), len(people), scores, path)
    return scores
