"""What many frames are worth: every way of making one feature of a tracklet, by frames of the baseline `ide`, in five
worlds -> reidnb/results/video.csv. Some minutes a world; the rows of a world are written when it is done, and are not
made again for the same run. `python workflow/video.py`"""

import argparse

import numpy as np
import pandas as pd
import torch

from reidnb import video
from reidnb.datasets.tracklets import open_video
from reidnb.evaluation import euclidean_distances, evaluate
from reidnb.experiments import run
from reidnb.files import atomic_write
from reidnb.inference import embed
from reidnb.ledger import RESULTS

FILE = RESULTS / "video.csv"
WORLDS = range(5)
COUNTS = (1, 2, 4, 8, 16)  # frames
LOTS = 5
# What is changed in the world: nothing; how often somebody is hidden; how fast somebody walks is theirs.
CHANGES = {"": {}, "occlusion=2.0": {"occlusion": 2.0}, "gait=1.0": {"gait": 1.0}}
POOLS = {"middle": video.middle, "mean": video.mean, "largest": video.largest, "agreement": video.agreeing}
HEADS = {
    "attention": lambda: video.Scored(256, "attention"),
    "quality": lambda: video.Scored(256, "quality"),
    "layer": lambda: video.Recurrent(256, "layer"),
    "rnn": lambda: video.Recurrent(256, "rnn"),
    "lstm": lambda: video.Recurrent(256, "lstm"),
    "convolution": lambda: video.Recurrent(256, "convolution"),
}


# A 3-D convolution over three frames' maps, and the same one of each frame by itself.
VOLUMES = {"3-D convolution": 3, "3-D convolution, blind": 1}


def by_lots(how, features, world, count: int, seed: int) -> list:
    """Scores of at most `count` frames of each tracklet, drawn by lot LOTS times; features: of the gallery's frames."""
    found, asked = [], np.flatnonzero(world.gallery.pids > 0)
    for lot in range(LOTS):
        few = world.gallery.by_lot(count, np.random.default_rng([seed, count, lot]))
        one = video.aggregate(how, features[few.rows], few.lengths)
        found.append(video.evaluate_tracklets(one[asked], one, world.query, few))
    return found


def line(way: str, scores, most: np.ndarray, frames="all") -> dict:
    """A row of the table, of Scores or a list of them; `most`: which queries are hidden most."""
    several, row = scores if isinstance(scores, list) else [scores], {"way": way, "frames": frames}
    row["rank1"] = np.mean([each.rank1 for each in several])
    row["mAP"] = np.mean([each.mAP for each in several])
    row["mAP_most_hidden"] = np.mean([np.nanmean(each.ap[most]) for each in several])
    row["mAP_least_hidden"] = np.mean([np.nanmean(each.ap[~most]) for each in several])
    return {name: round(float(value), 5) if isinstance(value, float) else value for name, value in row.items()}


def most_hidden(query) -> np.ndarray:
    """The third of the queries of whom most is hidden, bool (Q,)."""
    hidden = np.array([part.mean() for part in np.split(query.hidden, query.starts[1:])])
    return hidden >= np.quantile(hidden, 2 / 3)


def measured(result, seed: int, changes: dict) -> list[dict]:
    """Every way in one world, on the features of a run -> rows."""
    model, world = result.model(), open_video(world=seed, **changes)
    train, gallery = (embed(model, part.images, flip=False).numpy() for part in (world.train, world.gallery))
    asked, rows, most = np.flatnonzero(world.gallery.pids > 0), [], most_hidden(world.query)

    def note(way, scores, frames="all"):
        rows.append(line(way, scores, most, frames))

    def by(features, tracklets=world.gallery):
        return video.evaluate_tracklets(features[asked], features, world.query, tracklets)

    lengths, starts, rng = world.gallery.lengths, world.gallery.starts, np.random.default_rng(seed)
    mixed = np.concatenate([start + rng.permutation(n) for start, n in zip(starts, lengths)])
    for way, how in POOLS.items():
        note(way, by(video.aggregate(how, gallery, lengths)))
    for count in COUNTS:
        few = world.gallery.spaced(count)
        note("mean", by(video.aggregate(video.mean, gallery[few.rows], few.lengths), few), count)
        note("lot", by_lots(video.mean, gallery, world, count, seed), count)
    truth = world.gallery.visible.mean(1)
    marks = video.train_landmarks(world.train.images, world.train.visible, seed)
    for way, weights in {"truth": truth**4, "landmarks": marks.quality(world.gallery.images)}.items():
        note(way, by(video.aggregate(video.weighted, gallery, lengths, weights)))
    for way, make in HEADS.items():
        torch.manual_seed(seed)
        head = video.train_head(make(), train, world.train, seed)
        note(way, by(video.aggregate(head, gallery, lengths)))
        if way in ("rnn", "lstm", "convolution"):  # does it listen to the order?
            note(f"{way}, shuffled", by(video.aggregate(head, gallery[mixed], lengths)))
        if way == "layer":
            note("layer, lot", by_lots(head, gallery, world, 1, seed), 1)
    (seen, shape), (cells, _) = (video.maps(model, part.images) for part in (world.train, world.gallery))
    for way, reach in VOLUMES.items():
        torch.manual_seed(seed)
        head = video.train_head(video.Volume(shape, reach), seen, world.train, seed)
        note(way, by(video.aggregate(head, cells, lengths)))
        if reach > 1:
            note(f"{way}, shuffled", by(video.aggregate(head, cells[mixed], lengths)))
    once = video.aggregate(video.mean, gallery, lengths)
    frames = np.concatenate([gallery[starts[i] : starts[i] + lengths[i]] for i in asked])
    apart = np.asarray(euclidean_distances(frames, once))
    for how in ("mean", "nearest", "ranks"):
        merged = video.merge_rankings(apart, world.query.lengths, how)
        note(f"merged, {how}", evaluate(merged, *world.ids))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--changes", nargs="*", default=list(CHANGES), choices=list(CHANGES))
    table = pd.read_csv(FILE, keep_default_na=False) if FILE.exists() else pd.DataFrame(columns=["seed", "changes"])
    for changes in parser.parse_args().changes:
        for seed in WORLDS:
            old = (table.seed == seed) & (table.changes == changes)
            result = run("ide", profile="full", seed=seed)
            if set(table[old].key) == {result.key} and {*POOLS, *HEADS, *VOLUMES} <= set(table[old].way):
                continue
            rows = measured(result, seed, CHANGES[changes])
            rows = pd.DataFrame([{"seed": seed, "changes": changes, **row, "key": result.key} for row in rows])
            table = pd.concat([table[~old], rows], ignore_index=True)
            atomic_write(FILE, lambda file, table=table: table.to_csv(file, index=False))
            print(rows[["way", "frames", "mAP", "rank1"]].to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
