"""Tracklets: what a tracker cuts out of a video, many frames of one walk past one camera.

A still picture is one moment. A `Tracklets` is a list of walks, of unequal length, over one array of frames. The drawn
ones are planned here: walking phase, a box that jitters, an occluder that comes and goes, some other walker's frames
where the tracker was wrong. Those of MARS, or any set of pictures of a person, are read through the same form.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from reidnb import files
from reidnb.batches import pk_batches
from reidnb.datasets import cache, open_dataset
from reidnb.datasets.builtin import SOURCE, WORLDS, make_world
from reidnb.datasets.splits import Split
from reidnb.sources import source_of

# What one unit of each dial is worth in a video; what the world says of single shots holds here too.
PASSES = 0.5  # share of walks that something comes between, at occlusion = 1
MISTAKES = 0.25  # share of walks in which the tracker jumps to somebody else for a while, at mistakes = 1
PURPOSE = 6  # of the random streams: the world itself uses 0 to 5
PLAN = {"people": 100, "cameras": 3, "frames": (8, 24), "strangers": 40, "mistakes": 1.0, "gait": 0.0}


@dataclass(frozen=True)
class Tracklets:
    """T tracklets of F frames altogether: tracklet i has the frames starts[i] to starts[i] + lengths[i].

    Where a split has none of a thing it is None. `wrong`, `visible` and `hidden` are known of drawn frames alone.
    """

    images: np.ndarray  # uint8 (M, 3, H, W), M >= F: a map of them all, shared by whoever holds some
    rows: np.ndarray  # int64 (F,): which image each frame is
    lengths: np.ndarray  # int64 (T,) frames of each; 0 = a tracklet that has none
    pids: np.ndarray  # int64 (T,) 0 = distractor, -1 = junk
    camids: np.ndarray  # int64 (T,) from 0
    wrong: np.ndarray | None = None  # bool (F,): somebody else's frame, the tracker's mistake
    visible: np.ndarray | None = None  # bool (F, 14): key points of the person that can be seen
    hidden: np.ndarray | None = None  # float32 (F,): the share of the person in the box that something hides

    def __post_init__(self):
        """ValueError for pieces that do not fit together."""
        count, frames = len(self.pids), len(self.rows)
        if not len(self.lengths) == count == len(self.camids) or np.any(np.asarray(self.lengths) < 0):
            counts = f"{len(self.lengths)} lengths, {count} pids, {len(self.camids)} camids"
            raise ValueError(f"each tracklet needs a length from 0, a pid and a camid; got {counts}")
        if np.sum(self.lengths) != frames:
            raise ValueError(f"the lengths add up to {np.sum(self.lengths)} frames, but there are {frames} rows")
        for name in ("wrong", "visible", "hidden"):
            if (values := getattr(self, name)) is not None and len(values) != frames:
                raise ValueError(f"{name} must say something of each of the {frames} frames; got {len(values)}")

    def __len__(self) -> int:
        return len(self.pids)

    @property
    def starts(self) -> np.ndarray:
        """Where each tracklet begins among the frames, int64 (T,)."""
        return np.cumsum(self.lengths) - self.lengths

    def frames(self, i: int) -> np.ndarray:
        """The frames of tracklet i, uint8 (n, 3, H, W)."""
        return self.images[self.rows[self.starts[i] : self.starts[i] + self.lengths[i]]]

    def select(self, which) -> Tracklets:
        """Some tracklets, by a bool mask (T,) or integer indices, with their frames."""
        which = np.asarray(which)
        which = np.flatnonzero(which) if which.dtype == bool else which.astype(np.int64)
        return self.take(which, [np.arange(start, start + n) for start, n in zip(self.starts, self.lengths)])

    def spaced(self, count: int) -> Tracklets:
        """At most `count` frames of each: the middle ones of as many equal pieces."""
        spans = zip(self.starts.tolist(), self.lengths.tolist())
        places = [
            ((np.arange(k := min(count, n)) + 0.5) * n / max(k, 1)).astype(np.int64) + start for start, n in spans
        ]
        return self.take(np.arange(len(self)), places)

    def by_lot(self, count: int, rng: np.random.Generator) -> Tracklets:
        """At most `count` frames of each, drawn by lot, in their order."""
        spans = zip(self.starts.tolist(), self.lengths.tolist())
        places = [start + np.sort(rng.permutation(n)[:count]) for start, n in spans]
        return self.take(np.arange(len(self)), places)

    def take(self, which: np.ndarray, places: Sequence[np.ndarray]) -> Tracklets:
        """Tracklets `which`, each with the frames at `places` (a list of T index arrays into the F frames)."""
        chosen = [places[i] for i in which]
        frames = np.concatenate([np.empty(0, np.int64), *chosen])
        arrays = {name: getattr(self, name) for name in ("rows", "wrong", "visible", "hidden")}
        arrays = {name: None if values is None else values[frames] for name, values in arrays.items()}
        lengths = np.array([len(each) for each in chosen], np.int64)
        return replace(self, lengths=lengths, pids=self.pids[which], camids=self.camids[which], **arrays)


@dataclass(frozen=True)
class Video:
    """A dataset of tracklets under its split. As in MARS a query's own tracklet is in the gallery too, and the rule of
    the same camera takes no notice of it."""

    name: str
    train: Tracklets
    query: Tracklets
    gallery: Tracklets

    @property
    def ids(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(query pids, gallery pids, query camids, gallery camids), as the functions of `evaluation` take them."""
        return self.query.pids, self.gallery.pids, self.query.camids, self.gallery.camids

    def __str__(self) -> str:
        lines = [f"{self.name:<12}{'tracklets':>11}{'frames':>9}{'identities':>12}{'cameras':>9}"]
        for split in ("train", "query", "gallery"):
            part = getattr(self, split)
            people, cameras = len(np.unique(part.pids[part.pids > 0])), len(np.unique(part.camids))
            lines.append(f"{split:<12}{len(part):>11}{len(part.rows):>9}{people:>12}{cameras:>9}")
        return "\n".join(lines)


def open_video(
    name: str = "synthetic",
    root: str | Path | None = None,
    size: tuple[int, int] = (64, 32),
    world: int = 0,
    **options,
) -> Video:
    """A dataset of tracklets by name: the built-in world's, which are drawn once and kept, or MARS.

    size, world, root as in `open_dataset`. options of a drawn one: `people` of either half (100), `cameras` that see
    each (3), `frames` (8, 24), the least and the most of a tracklet, `strangers` (40 tracklets of nobody in the
    gallery), `mistakes` of the tracker (a dial, 1), `gait` (0: how fast somebody walks is drawn by lot each time; 1: it
    is theirs), and the world's own dials and counts. Of others the options of `open_dataset`: frames=16 of MARS.
    Raises what `open_dataset` raises; ValueError for a plan that cannot be, and for a dataset without tracklets.
    """
    if name not in WORLDS:
        data = open_dataset(name, root, size, **options)
        return Video(name, *(tracklets_of(part) for part in (data.train, data.query, data.gallery)))
    plan, options = _chosen(name, root, size, world, options)
    chosen = sorted(plan.items()), sorted(options.items())
    key = files.digest(SOURCE, source_of(_draw_all), *chosen)  # whoever edits the plan draws it anew
    opened = {}

    def read(folder):
        opened[folder] = _map(folder)

    home = files.cache_root() / "tracklets" / f"{name}-{key}"
    train, test = opened[files.kept(home, partial(_draw_all, options, plan), read)]
    return Video(name, train, test.select(test.pids > 0), test)


def walks(name: str = "synthetic", size: tuple[int, int] = (64, 32), world: int = 0, **options) -> tuple:
    """What a drawn video was drawn from, under the options of `open_video`: (the `synthetic.World`, {"train", "test"}:
    a list of `synthetic.Shot` for each tracklet, in order). Nothing is drawn."""
    if name not in WORLDS:
        raise ValueError(f"only a drawn video has a plan ({', '.join(WORLDS)}); {name} was filmed")
    plan, options = _chosen(name, None, size, world, options)
    planned, halves = make_world(options), {"train": [], "test": []}
    for half, shots in _plan_all(planned, plan):
        halves[half].append(shots)
    return planned, halves


def _chosen(name, root, size, world, options: dict) -> tuple[dict, dict]:
    """(plan, options of the world), whole and checked."""
    plan = {key: options.get(key, usual) for key, usual in PLAN.items()}
    options = {key: value for key, value in options.items() if key not in PLAN}
    _check_plan(plan)
    if root is not None or not isinstance(world, (int, np.integer)) or world < 0:
        raise ValueError(f"{name} is drawn: it has no root, and world is a whole number from 0; got {root}, {world}")
    options = {**WORLDS[name], **options}
    return plan, options | {"seed": options.get("seed", 0) + world, "size": cache.check_size(size)}


def tracklets_of(split: Split) -> Tracklets:
    """The images of any split by its tracklets, in their order (MARS); where it has none, all that one camera saw of a
    person as one unordered set (Market-1501's gt_bbox), and a stranger's picture by itself. An identity and a camera
    are a tracklet's own."""
    groups = split.tracklets
    if groups is None:
        alone = np.where(split.pids > 0, -1, np.arange(len(split.pids)))  # nobody says that two strangers are one
        sets = np.stack([split.pids, split.camids, alone])
        groups = np.unique(sets, axis=1, return_inverse=True)[1].ravel()
    rows = np.argsort(groups, kind="stable").astype(np.int64)
    _, first, lengths = np.unique(groups[rows], return_index=True, return_counts=True)
    for name in ("pids", "camids"):
        values = getattr(split, name)[rows]
        if np.any(values != np.repeat(values[first], lengths)):
            raise ValueError(f"a tracklet has one of the {name}, but some of these have several: they are no tracklets")
    pids, camids = split.pids[rows][first], split.camids[rows][first]
    return Tracklets(split.images, rows, lengths.astype(np.int64), pids, camids)


def from_pictures(tracklets: Sequence[Sequence], pids, camids, size: tuple[int, int] = (64, 32)) -> Tracklets:
    """Tracklets of one's own: a list of lists of pictures, files or uint8 arrays (H, W, 3) of any sizes, which are
    scaled to `size`. A list may be empty. ValueError for what is no picture."""

    def decoded(picture):
        if isinstance(picture, np.ndarray):
            if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
                raise ValueError(f"a frame is uint8 (H, W, 3) or a file; got {picture.dtype} {picture.shape}")
            picture = Image.fromarray(picture)
        return cache.decode(picture, size)

    frames = [decoded(picture) for pictures in tracklets for picture in pictures]
    images = np.stack(frames) if frames else np.empty((0, 3, *size), np.uint8)
    lengths = np.array([len(pictures) for pictures in tracklets], np.int64)
    ids = (np.asarray(values, np.int64) for values in (pids, camids))
    return Tracklets(images, np.arange(len(images)), lengths, *ids)


# ------------------------------------------------------------------------------------------------------------- batches


def tracklet_batches(
    tracklets: Tracklets, p: int, k: int, frames: int, rng: np.random.Generator, rule: str = "spread"
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Batches of P people x K tracklets x T frames -> list of (tracklets (P * K,), frames (P * K, T)), all by index.

    Which T frames: "spread" cuts each tracklet into T equal pieces and draws one frame from each; "consecutive" draws
    where a run of T begins (McLaughlin et al., 2016). Both keep the order of time. A tracklet with fewer than T gives
    its frames more than once ("spread") or begins again ("consecutive"); one without frames is left out. ValueError
    for another rule, and where `batches.pk_batches` has too few people.
    """
    if rule not in ("spread", "consecutive") or frames < 1:
        raise ValueError(f"rule must be 'spread' or 'consecutive' of frames >= 1; got {rule!r} of {frames}")
    known = np.flatnonzero((tracklets.lengths > 0) & (tracklets.pids > 0))
    batches = []
    for chosen in pk_batches(tracklets.pids[known], p, k, rng):
        which = known[chosen]
        n, start = tracklets.lengths[which][:, None], tracklets.starts[which][:, None]
        if rule == "spread":
            inside = ((np.arange(frames) + rng.random((len(which), frames))) * n / frames).astype(np.int64)
        else:
            begin = (rng.random((len(which), 1)) * np.maximum(n - frames + 1, 1)).astype(np.int64)
            inside = (begin + np.arange(frames)) % n
        batches.append((which, start + np.minimum(inside, n - 1)))
    return batches


# ------------------------------------------------------------------------------------------------------ drawn tracklets


def _check_plan(plan: dict) -> None:
    low, high = plan["frames"]
    counts = plan["people"], plan["cameras"], plan["strangers"], low, high
    if not all(isinstance(n, (int, np.integer)) for n in counts) or plan["people"] < 2 or plan["cameras"] < 2:
        raise ValueError(f"people and cameras are whole numbers from 2, strangers and frames whole; got {plan}")
    if not 1 <= low <= high or plan["strangers"] < 0 or not 0 <= plan["mistakes"] <= 2 or not 0 <= plan["gait"] <= 1:
        raise ValueError(f"frames are (least, most) from 1, mistakes 0 to 2, gait 0 to 1; got {plan}")


def _plan_all(world, plan: dict) -> Iterator[tuple[str, list]]:
    """("train" or "test", shots) of every tracklet: the people that the world's own splits show, before the same
    cameras, and strangers."""
    from reidnb.synthetic.world import STRANGERS, stream

    number = 0
    for split, part in (("train", "train"), ("test", "query")):
        seen = sorted({(shot.pid, shot.camid) for shot in world.shots[part]})
        people = sorted({pid for pid, _ in seen})[: plan["people"]]
        for pid in people:
            cameras = [camid for who, camid in seen if who == pid]
            rng = stream(world.seed, world.domain, PURPOSE, pid)
            step = rng.uniform(0.3, 0.9)  # radians a frame, how fast somebody walks
            for camid in sorted(rng.permutation(cameras)[: plan["cameras"]].tolist()):
                others = [who for who, where in seen if where == camid and who != pid]
                yield split, _walk(rng, world, plan, pid, camid, number, step, others)
                number += 1
    rng = stream(world.seed, world.domain, PURPOSE, 0)
    for _ in range(plan["strangers"]):
        camid, who = int(rng.integers(len(world.cameras))), int(rng.integers(STRANGERS))
        walk = _walk(rng, world, plan, 0, camid, number, rng.uniform(0.3, 0.9), [])
        yield "test", [replace(shot, stranger=who) for shot in walk]
        number += 1


def _walk(rng, world, plan, pid, camid, number, own_step, others) -> list:
    """The shots of one walk past a camera: all changes smoothly, but for the box, which jitters."""
    from reidnb.synthetic.world import BOX_SCALE, BOX_SHIFT, COMPANY_RATE, CUT_RATE, OCCLUDERS, STRANGERS, Shot

    camera, dials, (low, high) = world.cameras[camid], world.dials, plan["frames"]
    n = int(rng.integers(low, high + 1))
    t = np.arange(n)
    lot = rng.uniform(0.3, 0.9)
    phase = rng.uniform(0, 2 * math.pi) + t * (lot + plan["gait"] * (own_step - lot))
    yaw = camera.yaw + (180 if rng.random() < 0.5 else 0) + rng.normal(0, 14) + t * rng.normal(0, 1.0)
    turn = np.radians(yaw)
    x = rng.uniform(0.18, 0.82) + 0.006 * np.cumsum(np.sin(turn))
    y = rng.uniform(camera.far, camera.near) + 0.004 * np.cumsum(np.cos(turn))
    error = rng.normal(0, 1, (n + 1, 3)) * dials.misalignment * np.array((*BOX_SHIFT, BOX_SCALE))
    dx, dy, scale = (error[0] * 0.85 + error[1:] * 0.5).T
    scale = np.exp(scale)
    if rng.random() < CUT_RATE * dials.misalignment:  # for a while the box loses the feet, or the head
        begin, cut, side = rng.integers(n), rng.uniform(1.15, 1.4), 1 if rng.random() < 0.6 else -1
        cuts = (t >= begin) & (t < begin + max(n // 2, 1))
        scale, dy = np.where(cuts, cut * scale, scale), np.where(cuts, dy + side * (cut - 1) * 0.45, dy)
    comes, kind = rng.random() < PASSES * dials.occlusion, OCCLUDERS[rng.integers(len(OCCLUDERS))]
    when, speed, tall = rng.uniform(0, n), rng.uniform(0.03, 0.12), 0.35 + 0.35 * rng.random()
    across = 0.5 + (1 if rng.random() < 0.5 else -1) * speed * (t - when)
    near = comes & (np.abs(across - 0.5) < 0.8)
    behind = rng.random() < COMPANY_RATE * dials.occlusion
    company = 0.5 + (0.12 + 0.18 * rng.random()) * (1 if rng.random() < 0.5 else -1) + 0.015 * (t - n / 2)
    stranger, jumps = int(rng.integers(STRANGERS)), rng.random() < MISTAKES * plan["mistakes"]
    begin, stays = rng.integers(n), max(2, int(n * rng.uniform(0.15, 0.4)))
    whom = others[rng.integers(len(others))] if others else pid
    subject = np.where(jumps & (t >= begin) & (t < begin + stays), whom, pid)
    seeds = rng.integers(2**31, size=n).tolist()
    return [
        Shot(
            pid, camid, number, i, seeds[i], float(yaw[i] % 360), float(phase[i]), float(x[i]), float(y[i]),
            dx=float(dx[i]), dy=float(dy[i]), scale=float(scale[i]), occluder=kind if near[i] else "",
            occluder_x=float(across[i]), occluder_height=tall, company=float(company[i]) if behind else 0.0,
            stranger=stranger, subject=int(subject[i]),
        )
        for i in range(n)
    ]  # fmt: skip


def _draw_all(options: dict, plan: dict, aside: Path) -> None:
    """Fill the folder `aside`: <half>.npy, the frames, and labels.npz."""
    from reidnb import synthetic

    world = make_world(options)
    walks = {"train": [], "test": []}
    for split, shots in _plan_all(world, plan):
        walks[split].append(shots)
    count = sum(len(shots) for part in walks.values() for shots in part)
    cache.require_room(aside, count, world.size)
    every = (shot for part in walks.values() for shots in part for shot in shots)
    drawings = cache.progress((synthetic.draw(world, shot) for shot in every), count, "drawing tracklets")
    labels = {}
    for split, part in walks.items():
        wrong = np.array([shot.subject != shot.pid for walk in part for shot in walk])
        images = _images(itertools.islice(drawings, len(wrong)), seen := [])
        cache.write_arrays([aside / f"{split}.npy"], [(len(wrong), 3, *world.size)], images)
        visible, hidden = zip(*seen, strict=True)
        found = {
            "lengths": np.array([len(walk) for walk in part], np.int64),
            "pids": np.array([walk[0].pid for walk in part], np.int64),
            "camids": np.array([walk[0].camid for walk in part], np.int64),
            "wrong": wrong,
            "visible": np.stack(visible) & ~wrong[:, None],  # of the person, who is not there then
            "hidden": np.where(wrong, 1, hidden).astype(np.float32),
        }
        labels |= {f"{split}.{name}": values for name, values in found.items()}
    next(drawings, None)  # ends the bar
    np.savez(aside / "labels.npz", **labels)


def _images(drawings: Iterable, seen: list) -> Iterator[tuple[np.ndarray]]:
    """The frame of each drawing; its (visible key points, hidden share) is appended to `seen`."""
    for drawing in drawings:
        seen.append((drawing.keypoints[:, 2] > 0, drawing.occlusion))
        yield (drawing.image.transpose(2, 0, 1),)


def _map(folder: Path) -> list[Tracklets]:
    """The two halves of a folder that `_draw_all` filled."""
    with np.load(folder / "labels.npz") as stored:
        labels = {key: stored[key] for key in stored.files}
    halves = []
    for split in ("train", "test"):
        images = np.load(folder / f"{split}.npy", mmap_mode="r")
        wanted = [field.name for field in dataclasses.fields(Tracklets) if f"{split}.{field.name}" in labels]
        halves.append(Tracklets(images, np.arange(len(images)), **{n: labels[f"{split}.{n}"] for n in wanted}))
    return halves
