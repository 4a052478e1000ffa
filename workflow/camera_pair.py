"""CamStyle's own painter is CycleGAN, two networks for each pair of cameras: what an identity mapping and a mask of the
person do for it, beside the StarGAN that knows all cameras and the truth -> reidnb/results/camera_pair.csv, and some
copies of each in camera_pair.npz.

Queries of one camera of winter are painted for another, the two whose light differs most. One training of each kind,
about a minute a training on one core, StarGAN's ten; rows that are there already are not made again."""

import argparse
from functools import partial

import numpy as np
import pandas as pd

from reidnb import evaluation
from reidnb.copies import camera_classifier, says_camera
from reidnb.datasets import open_dataset, true_styles
from reidnb.experiments import run
from reidnb.files import atomic_write
from reidnb.generators import PTGAN, StarGAN, move, restyle, shipped_painters, train_stargan
from reidnb.generators.ptgan import train_ptgan
from reidnb.inference import embed
from reidnb.ledger import RESULTS
from reidnb.runtime import choose_device, circumstances

WORLD, FILE, SAMPLES = "synthetic_winter", RESULTS / "camera_pair.csv", RESULTS / "camera_pair.npz"
SHOWN = 7  # queries whose copies are kept, evenly spaced
FREE = {"same": 0.0, "person": 0.0}
PLANS = {
    "CycleGAN": FREE,
    "CycleGAN, identity mapping": FREE | {"same": 1.0},
    "CycleGAN, identity mapping times 5": FREE | {"same": 5.0},
    "CycleGAN, person held by a mask": FREE | {"person": 2.0},
}


def apart(split) -> tuple[int, int]:
    """The two cameras (from, to) of a split whose mean pictures differ most."""
    colours = np.stack([split.images[split.camids == c].mean((0, 2, 3)) for c in np.unique(split.camids)])
    far = np.linalg.norm(colours[:, None] - colours, axis=2)
    return tuple(sorted(map(int, np.unravel_index(far.argmax(), far.shape))))


def painters(data, here: int, there: int, asked: np.ndarray, steps: int):
    """Words and a function that paints the queries `asked`, one after another."""
    yield "as they are", lambda: data.query.images[asked]
    yield "drawn anew (truth)", lambda: true_styles(WORLD, (64, 32), {}, "query")[asked, there]
    for painter in shipped_painters():
        if painter.dataset == WORLD and painter.plan.reconstruction == 20:
            yield "StarGAN, reconstruction 20", partial(restyle, painter.generator, data.query.images[asked], there)
    yield "StarGAN, trained on this calibration", lambda: anew(data, asked, there)
    source, target = (data.train.select(data.train.camids == camera) for camera in (here, there))
    for words, changes in PLANS.items():
        yield words, partial(paint, source, target, PTGAN(steps=steps, **changes), data.query.images[asked])


def anew(data, asked, there: int) -> np.ndarray:
    """By the package's own plan; the shipped one learned from these cameras in an earlier calibration of the world."""
    generator = train_stargan(data.train.images, data.train.camids, StarGAN(), device="cpu")[0]
    return restyle(generator, data.query.images[asked], there)


def paint(source, target, plan: PTGAN, images) -> np.ndarray:
    return move(train_ptgan(source, target, plan, device="cpu")[0], images)


def worth(copies, truth, data, asked, there: int, classifier, finder, gallery) -> dict:
    """What copies of the queries `asked` for camera `there` are worth; colours against the truth, in levels of 255."""
    query = data.query
    ids = query.pids[asked], data.gallery.pids, query.camids[asked], data.gallery.camids
    scores = evaluation.evaluate_features(embed(finder, copies, "cpu"), gallery, *ids)
    person = data.query.masks[asked] > 0
    off = np.abs(copies.astype(np.int16) - truth).mean(1)  # (Q, H, W)
    return {
        "fooled": float((says_camera(classifier, copies, "cpu") == there).mean()),
        "rank1": float(scores.rank1),
        "mAP": float(scores.mAP),
        "off_person": float(off[person].mean()),
        "off_background": float(off[~person].mean()),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=700)
    steps, table = parser.parse_args().steps, pd.read_csv(FILE) if FILE.exists() else pd.DataFrame()
    data, result = open_dataset(WORLD, size=(64, 32)), run("baseline", WORLD, "full", device="cpu")
    here, there = apart(data.train)
    asked = np.flatnonzero(data.query.camids == here)
    finder, classifier = result.model(), camera_classifier(data.train, device="cpu")
    gallery, truth = embed(finder, data.gallery.images, "cpu"), true_styles(WORLD, (64, 32), {}, "query")[asked, there]
    about = {"dataset": WORLD, "camera": here, "asked": there, "queries": len(asked), "key": result.key}
    samples = dict(np.load(SAMPLES)) if SAMPLES.exists() else {}
    shown = np.linspace(0, len(asked) - 1, SHOWN).astype(int)
    for words, paint_them in painters(data, here, there, asked, steps):
        row = about | {"copies": words, "steps": steps if words in PLANS else 0}
        if words in samples and len(table) and (table[list(row)] == pd.Series(row)).all(axis=1).any():
            continue
        copies = paint_them()
        found = worth(copies, truth, data, asked, there, classifier, finder, gallery)
        row |= {name: round(value, 4) for name, value in found.items()} | circumstances(choose_device("cpu"))
        others = table[table.copies != words] if len(table) else table
        table, samples[words] = pd.concat([others, pd.DataFrame([row])], ignore_index=True), copies[shown]
        atomic_write(SAMPLES, lambda file: np.savez_compressed(file, **samples))
        atomic_write(FILE, lambda file, table=table: table.to_csv(file, index=False, lineterminator="\n"))
        print({name: row[name] for name in ("copies", *found)}, flush=True)


if __name__ == "__main__":
    main()
