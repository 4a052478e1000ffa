"""What eight poses are worth to a search: painted by the shipped PN-GAN, or drawn truly by the world, fused with the
real picture by maximum or mean (notebook 11) -> reidnb/results/pose_normalised.csv. Three worlds of people; the
generator has seen the first one's training people alone. Some five minutes a world on one core. Rows of what is there
already are not made again."""

import argparse
import itertools
import time
from dataclasses import replace

import numpy as np
import pandas as pd

from reidnb.datasets import open_dataset, redraw
from reidnb.evaluation import evaluate_features
from reidnb.experiments import run
from reidnb.files import atomic_write, digest
from reidnb.generators import (
    PNGAN,
    diversity,
    draw_poses,
    frechet_distance,
    fuse,
    load_or_train_pngan,
    nearest_training,
    paint,
)
from reidnb.generators.keeping import weights_digest
from reidnb.inference import embed
from reidnb.ledger import RESULTS
from reidnb.network import build_model
from reidnb.sources import source_of

SIZE = (64, 32)
SHORT = 900  # steps of a generator that is trained for one comparison
NOTHING, ONE, TWO = "nothing", "one network", "a second one for painted pictures"
FEATURES = ("embedding", "features")  # behind the BNNeck and before it, where no value is below zero
FILE = RESULTS / "pose_normalised.csv"
SPLITS = ("query", "gallery")


def copies_of(data, painter, first) -> tuple[dict, float]:
    """Eight pictures more of each, by how they were made and by split, uint8 (8, N, 3, H, W); and what painting took,
    in milliseconds of one core a query."""
    started = time.process_time()
    painted = {"query": paint(painter.generator, data.query.images, painter.extra["poses"])}
    cost = 1000 * (time.process_time() - started) / len(data.query)
    painted["gallery"] = paint(painter.generator, data.gallery.images, painter.extra["poses"])
    drawn, poses = {}, first.train.shots.iloc[painter.extra["rows"]][["yaw", "phase"]].to_numpy(float)
    for split in SPLITS:
        every = np.arange(len(getattr(data, split)))
        drawn[split] = np.stack([redraw(data, split, every, yaw=yaw, phase=phase) for yaw, phase in poses])
    again = [redraw(data, "query", np.arange(len(data.query)), seed=10_000 + k) for k in range(len(poses))]
    return {"painted": painted, "drawn": drawn, "drawn in its own pose": {"query": np.stack(again)}}, cost


def said_by(model, images) -> dict:
    """FEATURES of images by name, float32 (N, D)."""
    return dict(zip(FEATURES, (part.numpy() for part in embed(model, images, "cpu", compare=FEATURES))))


def scored(data, real, copies, about, both=True) -> list[dict]:
    """A row for each way of fusing: of the queries alone, and of the gallery too where it has copies.

    real: what a network says of the pictures, by split; copies: of eight copies of each, a list by split.
    """
    rows, places = [], ["queries"] * both + ["queries and gallery"] * ("gallery" in copies)
    for feature, place in ((feature, place) for feature in FEATURES for place in places):
        plain = {split: real[split][feature] for split in SPLITS}
        eight = {split: np.stack([part[feature] for part in parts]) for split, parts in copies.items()}
        ways = {split: fused(plain[split], eight[split]) for split in eight}
        gallery = ways["gallery"] if place != "queries" else {}
        for how, features in ways["query"].items():
            found = evaluate_features(features, gallery.get(how, plain["gallery"]), *data.ids)
            rows.append(about | {"fused": how, "whose": place, "feature": feature} | numbers(found))
        if place == "queries":
            each = [evaluate_features(part, plain["gallery"], *data.ids) for part in eight["query"]]
            one = {name: round(np.mean([numbers(found)[name] for found in each]), 5) for name in ("mAP", "rank1")}
            rows.append(about | {"fused": "one copy alone", "whose": place, "feature": feature} | one)
    return rows


def fused(plain, eight) -> dict:
    found = {how: fuse(plain, eight, how) for how in ("max", "mean")}
    return found | {"the copies alone, mean": fuse(eight[0], eight[1:], "mean")}


def numbers(scores) -> dict:
    return {"mAP": round(scores.mAP, 5), "rank1": round(float(scores.rank1), 5)}


def worth(data, copies) -> dict:
    """How far the crowd of one copy of each query is from half of the training people, how unlike they are, and how far
    each is from the nearest training picture (the median), by the shipped start's features."""
    start = build_model("small", 0, "distilled")

    def look(images):
        return embed(start, np.ascontiguousarray(images), "cpu", flip=False, compare="features").numpy()

    half = np.isin(data.train.pids, np.unique(data.train.pids)[::2])
    known, train, found = look(data.train.images[half]), look(data.train.images), {}
    which = np.arange(len(data.query))
    crowds = {NOTHING: data.query.images} | {how: parts["query"][which % 8, which] for how, parts in copies.items()}
    for how, images in crowds.items():
        crowd = look(images)
        near = float(np.median(nearest_training(crowd, train)[1]))
        found[how] = {"frechet": frechet_distance(crowd, known), "diversity": diversity(crowd), "nearest": near}
    return {how: {name: round(number, 5) for name, number in row.items()} for how, row in found.items()}


def rows_of(result) -> pd.DataFrame:
    name, seed = result.name, result.seed
    data, first = (open_dataset("synthetic", size=SIZE, world=world) for world in (seed, 0))
    painter = load_or_train_pngan(first.train, "synthetic", device="cpu")
    copies, cost = copies_of(data, painter, first)
    values, model = worth(data, copies), result.model()
    about = {"recipe": name, "seed": seed, "key": key_of(result)}
    started = time.process_time()
    real = {"query": said_by(model, data.query.images)}
    took = 1000 * (time.process_time() - started) / len(data.query)
    real["gallery"] = said_by(model, data.gallery.images)
    rows = []
    for feature in FEATURES:
        found = evaluate_features(real["query"][feature], real["gallery"][feature], *data.ids)
        plain = about | {"copies": NOTHING, "finder": ONE, "feature": feature, "ms": round(took, 2)}
        rows.append(plain | numbers(found) | values[NOTHING])
    for how, parts in copies.items():
        said = {split: [said_by(model, part) for part in every] for split, every in parts.items()}
        more = about | {"copies": how, "finder": ONE} | values[how]
        rows += scored(data, real, said, more | ({"ms": round(cost + 9 * took, 2)} if how == "painted" else {}))
    other = second(name, data, painter, seed)
    said = {split: [said_by(other, part) for part in every] for split, every in copies["painted"].items()}
    rows += scored(data, real, said, about | {"copies": "painted", "finder": TWO}, both=False)
    return pd.DataFrame(rows)


def key_of(result) -> str:
    """Of all that its rows depend on."""
    ours = (rows_of, load_or_train_pngan, fuse, draw_poses, diversity)
    return digest(result.key, weights_digest(kind="pngan"), *map(source_of, ours))


def second(name, data, painter, seed):
    """The paper's second network: it learns from the training pictures, each painted in one of the poses."""
    which = np.arange(len(data.train))
    images = np.empty(data.train.images.shape, np.uint8)
    for pose, body in enumerate(painter.extra["poses"]):
        mine = which % len(painter.extra["poses"]) == pose
        images[mine] = paint(painter.generator, data.train.images[mine], body[None])[0]
    train = replace(data.train, images=images)
    told = digest(data.fingerprint, images)
    return run(name, replace(data, name="synthetic_painted", train=train, fingerprint=told), "full", seed).model()


def pairs_rows(result) -> pd.DataFrame:
    """One thing changed: the wanted picture is by any camera, or by the given one's. Two generators of SHORT steps."""
    data, first = (open_dataset("synthetic", size=SIZE, world=world) for world in (result.seed, 0))
    train, model, rows = first.train, result.model(), []
    real = {split: said_by(model, getattr(data, split).images) for split in SPLITS}
    about = {"recipe": result.name, "seed": result.seed, "key": key_of_pairs(result), "finder": ONE}
    one_camera = replace(train, pids=100 * train.pids + train.camids)  # a person before a camera is somebody
    for words, split in {"any two cameras": train, "one camera": one_camera}.items():
        painter = load_or_train_pngan(split, "synthetic", plan=PNGAN(steps=SHORT), device="cpu")
        painted = paint(painter.generator, data.query.images, painter.extra["poses"])
        said = {"query": [said_by(model, part) for part in painted]}
        rows += scored(data, real, said, about | {"copies": f"painted, {SHORT} steps, pairs by {words}"})
    return pd.DataFrame(rows)


def key_of_pairs(result) -> str:
    return digest(key_of(result), source_of(pairs_rows))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--recipes", nargs="*", default=["ide"])
    args = parser.parse_args()
    for seed, name in itertools.product(args.seeds, args.recipes):
        result = run(name, "synthetic", "full", seed)
        keep(rows_of, key_of(result), result)
        if seed == 0:
            keep(pairs_rows, key_of_pairs(result), result)


def keep(make, key, result):
    """Rows into the table, where they are not there, and instead of older ones of the same copies and run."""
    table = pd.read_csv(FILE) if FILE.exists() else pd.DataFrame(columns=["key"])
    if key not in set(table.key):
        new = make(result)
        same = ["recipe", "seed", "copies", "finder", "feature", "fused", "whose"]
        table = pd.concat([table, new]).drop_duplicates(same, keep="last") if len(table) else new
        table = table.sort_values(["recipe", "seed"], kind="stable")
        atomic_write(FILE, lambda file: table.to_csv(file, index=False))
        print(new.drop(columns="key").to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
