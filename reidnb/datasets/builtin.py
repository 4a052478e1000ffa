"""Opening the built-in world: plan it, draw it once with a process per core, map it like any other dataset."""

import contextlib
import inspect
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from reidnb import files
from reidnb.datasets import cache
from reidnb.datasets.splits import ReIDDataset

# What each name changes from `synthetic.make_world`'s own defaults. The pair for adaptation differs in everything:
# other people, other cameras and backgrounds (domain), another wardrobe and light (season). The world for validation is
# like the first, with other people and cameras: learning rates are chosen there, never on the test set. World w of a
# name is that of w seeds further on. Summer and winter are two places: their worlds are other people before the same
# cameras, whose styles a generator has learned.
WORLDS = {
    "synthetic": {},
    "synthetic_validation": {"seed": 1_000_000},
    "synthetic_summer": {"season": 0.0, "domain": 2, "seed": 20, "place": 20},
    "synthetic_winter": {"season": 2.0, "domain": 3, "seed": 30, "place": 30},
}
SIZE = (128, 64)
# What the world is drawn by, as this process imported it: part of the key of kept worlds, and helpers must agree.
SOURCE = files.digest(
    [(path.name, path.read_bytes()) for path in sorted(Path(__file__).parents[1].glob("synthetic/*.py"))]
)
WORTH_PROCESSES = 1000  # shots: below, starting Python again costs more than it saves
PIECE = 64  # shots that a process draws at a time


def open_drawn(name: str, size: tuple[int, int] | None, options: dict) -> ReIDDataset:
    """See `open_dataset`; `name` is one of WORLDS, options are dials and arguments of `synthetic.make_world`."""
    defaults = _defaults()
    if unknown := sorted(set(options) - {*defaults, "world"}):
        raise TypeError(f"{name} has no option {', '.join(unknown)}; it has {', '.join(defaults)}")
    height, width = cache.check_size(size or SIZE)
    options = {**defaults, **_plan(name, options), "size": (height, width)}
    settings = f"{height}x{width}-{files.digest(sorted(options.items()))}"
    return cache.load(name, settings, SOURCE, partial(_draw_all, name, options))


def _plan(name: str, options: dict) -> dict:
    """What a name and its options change from the defaults; of world w the seed is w further on."""
    plan = {**WORLDS[name], **options}
    world = plan.pop("world", 0)
    return plan | ({"seed": plan.get("seed", 0) + world} if world else {})


def _defaults() -> dict:
    """The dials and arguments of `synthetic.make_world`, and what they are unless told."""
    from reidnb import synthetic

    plan = inspect.signature(synthetic.make_world).parameters.values()
    defaults = {item.name: item.default for item in (*plan, *fields(synthetic.Dials))}
    del defaults["dials"]
    return defaults


def options_of_worlds() -> tuple[str, ...]:
    """What the built-in world can be told beside its size."""
    return tuple(name for name in _defaults() if name != "size")


def true_styles(name: str, size: tuple[int, int], options: dict, split: str = "train") -> np.ndarray:
    """Every picture of a split of the built-in world as each of its cameras would have taken it: the same person at the
    same moment, drawn anew with the other camera's optics, light and scene -> uint8 (N, cameras, 3, H, W), kept.

    What a style transfer can at best come to. Only the side from which the person is seen stays, as it does there.
    Raises ValueError for a dataset that is not drawn.
    """
    if name not in WORLDS:
        raise ValueError(f"only the built-in world can be drawn anew for another camera; {name} was photographed")
    if split not in ("train", "query", "gallery"):
        raise ValueError(f"split must be train, query or gallery; got {split!r}")
    from reidnb import synthetic

    options = {**_plan(name, options), "size": cache.check_size(size)}

    def fill(aside):
        world = make_world(options)
        shots, cameras = world.shots[split], range(len(world.cameras))
        cache.require_room(aside, len(shots) * len(cameras), world.size)
        drawings = (synthetic.draw(world, replace(shot, camid=camera)) for shot in shots for camera in cameras)
        drawings = cache.progress(drawings, len(shots) * len(cameras), f"drawing {name} by every camera")
        shape = len(shots), len(cameras), 3, *world.size
        cache.write_arrays([aside], [shape], ((drawing.image.transpose(2, 0, 1),) for drawing in drawings))

    file = f"truth-{name}-{split}-{files.digest([SOURCE, sorted(options.items())])}.npy"
    opened = {}

    def read(path):
        opened[path] = np.load(path, mmap_mode="r")

    return opened[files.kept(files.cache_root() / "styles" / file, fill, read)]


def redraw(data: ReIDDataset, split: str, rows, **changes) -> np.ndarray:
    """Pictures `rows` of a split of the built-in world drawn anew, with fields of `synthetic.Shot` changed (dy=0.1,
    occluder="") -> uint8 (len(rows), 3, H, W). Nothing changed, they are the same to the byte. ValueError for a dataset
    of photographs; of a pair it is the source's training pictures, and the target's queries and gallery."""
    source, _, target = data.name.rpartition("->")
    name = source if source and split == "train" else target
    if name not in WORLDS:
        raise ValueError(f"only the built-in world can be drawn anew; {name} was photographed")
    if "partial" in data.options and split != "train":
        raise ValueError(f"{name} with partial={data.options['partial']} was cut after it was drawn: open it whole")
    from reidnb import synthetic

    size = getattr(data, split).images.shape[2:]
    options = {option: value for option, value in data.options.items() if option != "partial"}
    world, _ = _planned(tuple(sorted({**_plan(name, options), "size": size}.items())))
    shots = [replace(world.shots[split][row], **changes) for row in np.asarray(rows).tolist()]
    return np.stack([synthetic.draw(world, shot).image.transpose(2, 0, 1) for shot in shots])


def make_world(options: dict):
    """Plain options, dials among them -> `synthetic.World`."""
    from reidnb import synthetic

    dials = {field.name: options[field.name] for field in fields(synthetic.Dials) if field.name in options}
    plan = {key: value for key, value in options.items() if key not in dials}
    return synthetic.make_world(**{**plan, "size": tuple(plan["size"])}, dials=synthetic.Dials(**dials))


def _draw_all(name: str, options: dict, aside: Path) -> None:
    """Fill the folder `aside` with the world's arrays."""
    from reidnb import synthetic

    world = make_world(options)
    shots = [shot for part in world.shots.values() for shot in part]
    cache.require_room(aside, len(shots) * 4 // 3, world.size)  # a mask is a third of an image
    labels, digests = {}, []
    with contextlib.closing(_records(world, options, shots)) as records:
        drawings = cache.progress(records, len(shots), f"drawing {name}")
        for split, part in world.shots.items():
            n, seen = len(part), []  # seen: what does not go into a file of its own
            if n == 0:
                raise ValueError(f"{name}: the {split} split is empty: ask for more identities; got {options}")
            rows = _rows(itertools.islice(drawings, n), seen)
            paths = [aside / f"{split}.npy", aside / f"{split}.masks.npy"]
            digests.append(cache.write_arrays(paths, [(n, 3, *world.size), (n, *world.size)], rows))
            found = _labels(world, part, *zip(*seen, strict=True))
            labels |= {f"{split}.{field}": values for field, values in found.items()}
        next(drawings, None)  # ends the bar
    cache.write_labels(aside, labels, tuple(synthetic.ATTRIBUTES), digests)


def _rows(drawings: Iterable[np.ndarray], seen: list) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The (image, mask) of each record; its (keypoints, occlusion) is appended to `seen`."""
    for record in drawings:
        seen.append((record["keypoints"].copy(), float(record["occlusion"])))
        yield record["image"], record["mask"]


def _labels(world, shots: tuple, keypoints: tuple, occlusion: tuple) -> dict[str, np.ndarray]:
    """The labels of one split, by the fields of `Split`; a column of its table of shots is "shots.<column>"."""
    import pandas as pd

    from reidnb import synthetic

    table = pd.DataFrame([{**asdict(shot), "view": shot.view} for shot in shots])
    table = table.rename(columns={"dx": "box_dx", "dy": "box_dy", "scale": "box_scale"})
    table["occlusion"] = np.array(occlusion, np.float32)
    of_person = {pid: synthetic.attributes(world, pid) for pid in set(table["pid"])}
    columns = {
        f"shots.{name}": table[name].to_numpy(str if table[name].dtype.kind not in "biuf" else None) for name in table
    }
    return {
        "files": np.array([synthetic.file_name(shot) for shot in shots]),
        "pids": table["pid"].to_numpy(np.int64),
        "camids": table["camid"].to_numpy(np.int64),
        "tracklets": table["tracklet"].to_numpy(np.int64),
        "attributes": np.stack([of_person[pid] for pid in table["pid"]]),
        "keypoints": np.stack(keypoints),
        **columns,
    }


def record_type(size: tuple[int, int]) -> np.dtype:
    """One drawing as a record of fixed length, which travels between processes as plain bytes."""
    height, width = size
    return np.dtype(
        [
            ("image", "u1", (3, height, width)),
            ("mask", "u1", (height, width)),
            ("keypoints", "<f4", (14, 3)),
            ("occlusion", "<f4"),
        ]
    )


def _record(world, shot) -> np.ndarray:
    from reidnb import synthetic

    drawing = synthetic.draw(world, shot)
    record = np.zeros((), record_type(world.size))
    record["image"], record["mask"] = drawing.image.transpose(2, 0, 1), drawing.mask
    record["keypoints"], record["occlusion"] = drawing.keypoints, drawing.occlusion
    return record


def _records(world, options: dict, shots: list) -> Iterator[np.ndarray]:
    """The drawings of `shots` in order, by a process a core.

    joblib's processes are fresh interpreters that do not run the caller's script again, as spawned ones do where it
    lacks a `__main__` guard; and forking a process that runs torch's threads may hang.
    """
    if len(shots) < WORTH_PROCESSES:
        yield from (_record(world, shot) for shot in shots)
        return
    from joblib import Parallel, delayed  # slow to import, and a kept world needs no processes

    plan = tuple(sorted(options.items()))
    starts = range(0, len(shots), PIECE)
    parallel = Parallel(n_jobs=-1, return_as="generator", batch_size=1, max_nbytes=None)
    for records in parallel(delayed(_draw_piece)(SOURCE, plan, start, start + PIECE) for start in starts):
        yield from records


def _draw_piece(source: str, plan: tuple, start: int, stop: int) -> np.ndarray:
    """What a process of `_records` does: a piece of the world, its shots from `start` to `stop`."""
    if source != SOURCE:
        raise RuntimeError("reidnb/synthetic was edited since this process (or the notebook's kernel) started: restart")
    world, shots = _planned(plan)
    return np.stack([_record(world, shot) for shot in shots[start:stop]])


@lru_cache(maxsize=1)
def _planned(plan: tuple):
    world = make_world(dict(plan))
    return world, [shot for part in world.shots.values() for shot in part]
