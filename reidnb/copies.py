"""What a generator's copies are worth: who is fooled by them, and are the people still found in them?"""

import functools
import itertools
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import nn

from reidnb import evaluation
from reidnb.batches import Augmentation
from reidnb.datasets import ReIDDataset, Split, open_dataset, true_styles
from reidnb.experiments import run
from reidnb.generators import (
    PTGAN,
    StarGAN,
    keeping,
    load_or_train_dcgan,
    load_or_train_generator,
    load_or_train_pairs,
    load_or_train_pngan,
    load_or_train_ptgan,
    repaint,
    restyle,
    shipped_painters,
)
from reidnb.generators.camera_pairs import PLAN
from reidnb.generators.styles import PAINTED
from reidnb.inference import embed
from reidnb.network import ReIDModel, build_model
from reidnb.recipes import recipe
from reidnb.runtime import choose_device, circumstances
from reidnb.training import train

BY_PAIRS = "CycleGAN, one for each pair of cameras"  # CamStyle's own way
TWICE = "CycleGAN of twice the steps, one for each pair of cameras"
PARTLY = "CycleGAN of twice the steps, nine tenths of the way, one for each pair of cameras"


def camera_classifier(split: Split, epochs: int = 2, seed: int = 0, device=None) -> ReIDModel:
    """A network that tells the cameras of a training split apart, by its pictures as they are.

    It knows nothing of the generator, nor the generator of it: whoever fools it looks like that camera's pictures.
    """
    plain = Augmentation(pad=0.04, erase=0.0)  # colours stay: they are what a camera is known by
    plan = recipe("ide", epochs=epochs, smoothing=0.0, augmentation=plain)
    torch.manual_seed(seed)
    model = build_model("small", int(split.camids.max()) + 1, "drawn")
    train(model, split.images, split.camids, plan, seed, device)
    return model.eval()


def says_camera(classifier: nn.Module, images: np.ndarray, device=None) -> np.ndarray:
    """Which camera it takes each picture for -> int64 (N,)."""
    return embed(classifier, images, device, flip=False, compare="logits").argmax(1).numpy()


def style_scores(
    painters: Mapping[str, Callable], data: ReIDDataset, classifier: nn.Module, finder: nn.Module, device=None
) -> dict[str, dict[str, float]]:
    """What copies of the queries are worth, for each of `painters` by name -> a dict of shares in [0, 1] each.

    A painter is asked for a camera for each query (Q,) and gives uint8 (Q, 3, H, W). Each query is painted for every
    camera of the training split but its own; means over them. "camera": how often `classifier` names the camera of a
    real query; "fooled": how often it names the one that a copy imitates; "rank1" and "mAP" of the real queries by
    `finder`, a trained model, and "styled_rank1", "styled_mAP" of their copies, in the same gallery by the same
    rules; "change": mean absolute difference of a pixel, in levels of 255.
    """
    query, cameras, gallery = data.query, int(data.train.camids.max()) + 1, embed(finder, data.gallery.images, device)
    real = evaluation.evaluate_features(embed(finder, query.images, device), gallery, *data.ids)
    known = float((says_camera(classifier, query.images, device) == query.camids).mean())
    worth = {}
    for name, paint in painters.items():
        found = []
        for step in range(1, cameras):
            asked = (query.camids + step) % cameras
            copies = paint(asked)
            scores = evaluation.evaluate_features(embed(finder, copies, device), gallery, *data.ids)
            change = np.abs(copies.astype(np.int16) - query.images).mean()
            found.append([(says_camera(classifier, copies, device) == asked).mean(), scores.rank1, scores.mAP, change])
        means = dict(zip(("fooled", "styled_rank1", "styled_mAP", "change"), np.mean(found, 0).tolist()))
        worth[name] = {"camera": known, "rank1": real.rank1, "mAP": real.mAP} | means
    return worth


def measure_styles(seed: int = 0, device=None) -> pd.DataFrame:
    """What each shipped generator's copies are worth, those of a CycleGAN for each pair of cameras (trained as long as
    it is elsewhere; twice as long; and of these nine tenths of the way), and the true ones: results/styles.csv.

    The finder is the baseline, trained on that world with its people known; the camera classifier is trained here.
    """
    rows = []
    for name, painters in itertools.groupby(shipped_painters(), lambda painter: painter.dataset):
        data = open_dataset(name, size=(64, 32))
        classifier = camera_classifier(data.train, seed=seed, device=device)
        finder = run("baseline", name, seed=seed, world=0, device=device).model()
        truth = true_styles(name, (64, 32), {}, "query")
        found = {f"StarGAN, reconstruction {painter.plan.reconstruction:g}": painter for painter in painters}
        trained = {copies: [painter] for copies, painter in found.items()}
        paint = {k: functools.partial(restyle, painter.generator, data.query.images) for k, painter in found.items()}
        longer, queries = replace(PLAN, steps=2 * PLAN.steps), (data.query.images, data.query.camids)
        for copies, plan, share in ((BY_PAIRS, PLAN, 1.0), (TWICE, longer, 1.0), (PARTLY, longer, 0.9)):
            pairs = load_or_train_pairs(data.train, name, data.options, plan, seed=seed, device=device)
            paint[copies] = functools.partial(repaint, pairs, *queries, share=share)
            trained[copies] = [*pairs.values()]
        paint["drawn anew (truth)"] = lambda asked, truth=truth: truth[np.arange(len(asked)), asked]
        for copies, scores in style_scores(paint, data, classifier, finder, device).items():
            lasts = [painter.history[-1] for painter in trained.get(copies, ())]
            about = {"steps": sum(last["step"] for last in lasts)}
            about["training_seconds"] = round(sum(last["seconds"] for last in lasts))
            scores = {k: round(v, 4) for k, v in scores.items()} | about | circumstances(choose_device(device))
            rows.append({"dataset": name, "copies": copies, **scores})
    return pd.DataFrame(rows)


def ship(device=None) -> None:
    """Train every generator that ships with the package where it is not there."""
    found, place, (summer, winter) = {}, keeping.SHIPPED, ("synthetic_summer", "synthetic_winter")
    trains = {name: open_dataset(name, size=(64, 32)).train for name in ("synthetic", summer, winter)}
    for name, weight in PAINTED:
        plan = StarGAN(reconstruction=weight)
        found[f"stargan-{name}-{weight:g}"] = load_or_train_generator(trains[name], name, plan=plan, device=device)
    found["dcgan-synthetic"] = load_or_train_dcgan(trains["synthetic"], "synthetic", device=device)
    found["pngan-synthetic"] = load_or_train_pngan(trains["synthetic"], "synthetic", device=device)
    for weight in keeping.PERSON:
        plan, pair = PTGAN(person=weight), (trains[summer], trains[winter], f"{summer}->{winter}")
        found[f"ptgan-summer-to-winter-{weight:g}"] = load_or_train_ptgan(*pair, plan=plan, device=device)
    for name, painter in found.items():
        if painter.path.parent != place:
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(painter.path, place / f"{name}.safetensors")
