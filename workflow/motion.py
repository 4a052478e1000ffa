"""What motion adds to what is seen (AMOC): a motion network, and two streams under one recurrent network, by frames of
the baseline `ide` -> reidnb/results/motion.csv. Some ten minutes a world on one thread; the rows of a world and a
change are written when they are done, and are not made again for the same run. `python workflow/motion.py`"""

import argparse

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from reidnb import motion, video
from reidnb.datasets.flow import flows_of
from reidnb.datasets.tracklets import open_video, walks
from reidnb.experiments import run
from reidnb.files import atomic_write
from reidnb.inference import embed
from reidnb.ledger import RESULTS

FILE = RESULTS / "motion.csv"
# What is changed in the world: nothing; how fast somebody walks is theirs; and twice as many wear another's clothes.
CHANGES = {
    "": {},
    "gait=1.0": {"gait": 1.0},
    "gait=1.0, lookalikes=2.0": {"gait": 1.0, "lookalikes": 2.0},
}
WORLDS = range(5)
PLACES = ("flow", "half", "quarter", "eighth")  # where an endpoint error is taken: every pixel, and each output's cells
TEST = 5  # every fifth pair of the test tracklets is enough for an endpoint error


def pairs_with_next(tracklets) -> np.ndarray:
    """The frames that have a next one, as places among the frames."""
    first, second = motion.next_frames(tracklets)
    return np.flatnonzero((first == np.arange(len(first))) & (second > first))


def as_flow(frames_first: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.float32(frames_first)).permute(0, 3, 1, 2)


def errors(found, truth, known) -> dict:
    """Endpoint errors in pixels of a flow at full size, or of three outputs; truth (N, 2, H, W), known (N, H, W)."""
    if isinstance(found, torch.Tensor):
        full, outputs = found, [F.avg_pool2d(found, cell) for cell in motion.CELLS]
    else:
        full, outputs = F.interpolate(found[0], scale_factor=2, mode="bilinear", align_corners=False), found
    scales = [motion.coarser(truth, known, cell) for cell in motion.CELLS]
    each = [motion.endpoint_error(full, truth, known)]
    each += [motion.endpoint_error(flow, *scale) for flow, scale in zip(outputs, scales)]
    return {f"epe_{place}": float(value) for place, value in zip(PLACES, each)}


def networks(seed: int) -> tuple[dict, list[dict]]:
    """Motion networks of the unchanged world, taught by the truth and by the classical estimator -> ({teacher:
    network}, rows of endpoint errors on test tracklets)."""
    seen, (world, planned) = open_video(world=seed), walks(world=seed)
    truths, parts = {half: flows_of(world, planned[half]) for half in planned}, (seen.train, seen.gallery)
    (train, rows), (test, test_rows) = ((part, pairs_with_next(part)) for part in parts)
    test_rows = test_rows[::TEST]
    flow, known = (values[rows] for values in truths["train"])
    classic = [
        motion.lucas_kanade(*[motion.grey(train.images[some + k]) for k in (0, 1)]).permute(0, 2, 3, 1).numpy()
        for some in np.array_split(rows, 16)
    ]
    nets = {
        "truth": motion.train_motion(train.images, rows, flow, known, seed),
        "estimator": motion.train_motion(train.images, rows, np.concatenate(classic), np.ones_like(known), seed),
    }
    before, after = test.images[test_rows], test.images[test_rows + 1]
    truth, known = as_flow(truths["test"][0][test_rows]), torch.from_numpy(truths["test"][1][test_rows])
    lines = [{"way": "no motion", **errors(torch.zeros_like(truth), truth, known)}]
    guess = motion.lucas_kanade(motion.grey(before), motion.grey(after))
    lines.append({"way": "Lucas-Kanade", **errors(guess, truth, known)})
    for teacher, net in nets.items():
        with torch.inference_mode():
            lines.append(
                {"way": f"network, {teacher}", **errors(net(motion.six_channels(before, after)), truth, known)}
            )
    return nets, lines


def measured(result, nets: dict, seed: int, changes: dict) -> list[dict]:
    """Spatial alone, motion alone, both, in one world, on the features of a run -> rows."""
    model, world = result.model(), open_video(world=seed, **changes)
    parts, asked, rows = (world.train, world.gallery), np.flatnonzero(world.gallery.pids > 0), []
    spatial = [embed(model, part.images, flip=False).numpy() for part in parts]

    def note(way, features):
        scores = video.evaluate_tracklets(features[asked], features, world.query, world.gallery)
        rows.append({"way": way, "mAP": scores.mAP, "rank1": scores.rank1})
        print(rows[-1], flush=True)

    def learned(way, features, widths, kind):
        torch.manual_seed(seed)
        head = motion.TwoStreams(*widths, kind)
        head = video.train_head(head, features[0], world.train, seed, rule="consecutive")
        note(way, video.aggregate(head, features[1], world.gallery.lengths))

    note("spatial, mean", video.aggregate(video.mean, spatial[1], world.gallery.lengths))
    wide = spatial[0].shape[1]
    for kind in ("rnn", "layer"):
        learned(f"spatial, {kind}", spatial, (wide, 0), kind)
    for teacher, net in nets.items():
        moving = [motion.motion_features(net, part) for part in parts]
        joined = [np.concatenate(both, 1) for both in zip(spatial, moving)]
        for kind in ("rnn", "layer") if teacher == "truth" else ("rnn",):
            learned(f"motion of {teacher}, {kind}", moving, (0, moving[0].shape[1]), kind)
            learned(f"both, motion of {teacher}, {kind}", joined, (wide, moving[0].shape[1]), kind)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--changes", nargs="*", default=list(CHANGES), choices=list(CHANGES))
    parser.add_argument("--worlds", nargs="*", type=int, default=list(WORLDS))
    given = parser.parse_args()
    table = pd.read_csv(FILE, keep_default_na=False) if FILE.exists() else pd.DataFrame(columns=["seed", "changes"])
    for seed in given.worlds:
        result, made = run("ide", profile="full", seed=seed), None
        for changes in given.changes:
            old = (table.seed == seed) & (table.changes == changes)
            if old.any() and set(table[old].key) == {result.key}:
                continue
            nets, lines = made = made or networks(seed)
            rows = measured(result, nets, seed, CHANGES[changes]) + (lines if not changes else [])
            rows = pd.DataFrame([{"seed": seed, "changes": changes, **row, "key": result.key} for row in rows])
            names = ["way", "mAP", "rank1", *(f"epe_{place}" for place in PLACES)]
            rows = rows.reindex(columns=["seed", "changes", *names, "key"]).round(5)
            table = pd.concat([table[~old], rows], ignore_index=True)
            atomic_write(FILE, lambda file, table=table: table.to_csv(file, index=False))
            print(rows[names].to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
