"""Your own pictures: who in this folder looks like that one, are these two one person, and the network for elsewhere.

    for found in search("query.jpg", "my_folder"):
        print(found.distance, found.file)

What a folder's pictures were embedded to is kept, and made anew for new and changed files only. So torch, which takes
seconds to import, is needed only where there is something to embed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from reidnb.datasets import decode, pictures_below
from reidnb.datasets.cache import in_threads
from reidnb.files import at_home, atomic_write, cache_root, digest, locked, passing, put_aside

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from reidnb.result import Result

PAIRS = 1_000_000  # of two people, that a calibration looks at
START = Path(__file__).parent / "models" / "small_drawn.safetensors"
LOOSE = 1000  # pictures outside the folder whose features are kept, the last ones embedded
FORMAT = 1  # raise it when a change to this package gives other features of the same files by the same weights


@dataclass(frozen=True)
class Embedder:
    """What makes features of files: `embed`, (list of paths) -> float32 (N, D) of unit length, and the `key` under
    which they are kept."""

    key: str
    embed: Callable[[Sequence[Path]], np.ndarray]


@dataclass(frozen=True)
class Found:
    """A picture of the folder, and how far it lies from the query: 0 to 2, the features being of unit length."""

    file: Path
    distance: float


@dataclass(frozen=True)
class Comparison:
    """Two pictures. `ratio` says how many times as frequent such a distance is between pictures of one person, by
    different cameras, as between pictures of two; `likely` is the share of one person among such pairs where pairs of
    either kind are equally many; `nearer` the share of pairs of two people that lie as near or nearer. All three are
    None without a Calibration."""

    distance: float
    ratio: float | None = None
    likely: float | None = None
    nearer: float | None = None

    def likely_among(self, others: int) -> float:
        """How likely it is one person when one of `others` + 1 candidates is, and nothing else is known of them.
        ValueError without a Calibration."""
        if self.ratio is None:
            raise ValueError("how likely it is one person takes a Calibration: compare_pictures(..., calibration)")
        return self.ratio / (self.ratio + others)


# --------------------------------------------------------------------------------------------------- what embeds files


def shipped() -> Embedder:
    """The small backbone that learned to tell drawn people apart, as it ships: for a first look. On photographs it
    finds little (results/runs.csv: untrained_drawn on market1501)."""

    def embed(files):
        from reidnb import inference
        from reidnb.network import build_model

        return inference.embed(build_model("small", weights="drawn"), files, "cpu").numpy()

    return Embedder(f"shipped-{digest(START.read_bytes(), FORMAT)}", embed)


def of_run(result: Result, device: str | None = None) -> Embedder:
    """A trained network as `experiments.run` gives it."""

    def embed(files):
        pictures = in_threads(partial(decode, size=result.recipe.size), files)
        return result.embed(np.stack([*pictures]), device)

    return Embedder(result.key, embed)


# --------------------------------------------------------------------------------------------------------------- search


def search(query: str | Path, folder: str | Path, embedder: Embedder | None = None, k: int = 10) -> list[Found]:
    """The k pictures of `folder`, with all that lies below it, that look most like `query`, nearest first.

    The query itself is left out where it lies in the folder. Equal distances come in the order of names. Raises
    ValueError for a file that is no picture, a folder without one and k below 1, FileNotFoundError for what is not
    there.
    """
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise ValueError(f"k must be a whole number of pictures from 1 on, got {k!r}")
    query, folder, embedder = _file(query), at_home(folder), embedder or shipped()
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}: wanted one with pictures")
    files = pictures_below(folder)
    gallery = embedded(files, embedder, folder)
    itself = query.stat()  # by whatever name: a link to it is no find
    own = [i for i, path in enumerate(files) if os.path.samestat(path.stat(), itself)]
    asked = gallery[own[0]] if own else embedded([query], embedder)[0]
    distances = np.linalg.norm(gallery - asked, axis=1)
    distances[own] = np.inf
    order = np.argsort(distances, kind="stable")[: min(k, len(files) - len(own))]
    return [Found(files[i], float(distances[i])) for i in order]


def picture(query: str | Path, found: Sequence[Found], size: tuple[int, int] = (256, 128)) -> Figure:
    """The query (blue) and what was found, in a row, each with its distance and its file's name."""
    from reidnb import plots

    images = [decode(file, size) for file in (_file(query), *(one.file for one in found))]
    names = [one.file.name.encode(errors="replace").decode()[:18].replace("$", r"\$") for one in found]
    titles = ["query", *(f"{one.distance:.2f}\n{name}" for one, name in zip(found, names))]
    return plots.picture_row(images, titles, [plots.BLUE, *[None] * len(found)])


def compare_pictures(
    a: str | Path, b: str | Path, embedder: Embedder | None = None, calibration: Calibration | None = None
) -> Comparison:
    """How far two pictures lie apart and, with a Calibration of the same embedder, what such a distance means."""
    x, y = embedded([_file(a), _file(b)], embedder or shipped())
    distance = float(np.linalg.norm(x - y))
    return Comparison(distance) if calibration is None else calibration.read(distance)


def embedded(files: Sequence[Path], embedder: Embedder, folder: Path | None = None) -> np.ndarray:
    """Features (N, D) of files, kept in the cache and made for those only that are new or changed (by size and time of
    change), a block at a time, so that who is stopped goes on. `folder` is whose pictures they are; without one the
    last thousand that were embedded are kept."""
    place = str(folder.resolve()) if folder else "loose"
    kept = cache_root() / "embeddings" / f"{embedder.key}-{digest(place)}.npz"
    names = [str(path.relative_to(folder) if folder else path.resolve()) for path in files]
    states, wanted = [_state(path) for path in files], set(names)

    def missing():
        return [i for i, name in enumerate(names) if name not in table or table[name][0] != states[i]]

    table = _load(kept)
    if missing():
        with locked(kept):
            table = _load(kept)  # another process may have made them
            for block in _blocks(missing()):
                made = embedder.embed([files[i] for i in block])
                for i, features in zip(block, made, strict=True):
                    table.pop(names[i], None)
                    table[names[i]] = states[i], features
                if folder:
                    table = {name: row for name, row in table.items() if name in wanted}
                else:
                    older = [name for name in table if name not in wanted][:-LOOSE]
                    table = {name: row for name, row in table.items() if name not in older}
                _keep(kept, table)
    return np.stack([table[name][1] for name in names])


def _blocks(items, size=2048):
    return [items[start : start + size] for start in range(0, len(items), size)]


def _keep(path, table):
    states, features = zip(*table.values())
    arrays = {"names": np.array([*table]), "states": np.array(states), "features": np.stack(features)}
    atomic_write(path, lambda file: np.savez(file, **arrays))


def _load(path):
    """What is kept at `path`: name -> (state, features), in the order in which they were embedded."""
    try:
        with np.load(path) as file:
            rows = zip(map(tuple, file["states"].tolist()), file["features"], strict=True)
            return dict(zip(file["names"].tolist(), rows, strict=True))
    except FileNotFoundError:
        pass
    except Exception as problem:  # zipfile and numpy raise many kinds for a damaged file
        if passing(problem):
            raise
        with contextlib.suppress(FileNotFoundError):  # another process did it first
            put_aside(path, problem)
    return {}


def _state(path):
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def check_files(*paths: str | Path) -> None:
    """FileNotFoundError for a picture that is not there."""
    for path in paths:
        _file(path)


def _file(path):
    path = Path(path) if Path(path).is_file() else at_home(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no picture {path}")
    return path


# ---------------------------------------------------------------------------------------------- what a distance means


@dataclass(frozen=True)
class Calibration:
    """What distances mean for one network, on pictures like those of one test: distances of pairs of two people,
    sorted, and of one person seen by two cameras; and how likely one person is, of as many pairs of either kind:
    `shares` at the distances `edges`, falling, straight lines between them."""

    twos: np.ndarray
    ones: np.ndarray
    edges: np.ndarray
    shares: np.ndarray

    def read(self, distance: float) -> Comparison:
        likely = float(np.interp(distance, self.edges, self.shares))
        nearer = float(np.searchsorted(self.twos, distance, side="right") / len(self.twos))
        return Comparison(distance, likely / (1 - likely), likely, nearer)

    def threshold(self, false_accepts: float) -> float:
        """The distance below which that share of pairs of two people lie, as access control asks for one: 0.001 lets
        one stranger in a thousand pass."""
        if not 0 < false_accepts < 1:
            raise ValueError(f"false_accepts is a share of pairs between 0 and 1, got {false_accepts!r}")
        if len(self.twos) * false_accepts < 10:
            raise ValueError(
                f"{len(self.twos)} pairs of two people cannot tell what {false_accepts:g} of all do: wanted ten times "
                f"{1 / false_accepts:.0f} of them, or a larger share"
            )
        return float(np.quantile(self.twos, false_accepts))

    def missed(self, threshold: float) -> float:
        """The share of pairs of one person that lie beyond a threshold."""
        return float(1 - np.searchsorted(self.ones, threshold, side="right") / len(self.ones))


def calibrate(query, gallery, query_pids, gallery_pids, query_camids, gallery_camids, seed: int = 0) -> Calibration:
    """A Calibration from features of a test, query (Q, D) and gallery (G, D), which the network has not learned from.

    Of pairs of two people a million are drawn by lot where there are more; junk (-1) is left out, and so are pairs of
    one person in one camera, as in the ranking. Both kinds weigh the same. Of all curves that never rise the one that
    fits best is taken (isotonic regression: Zadrozny and Elkan, 2002), with two people more who are as near as anybody
    and one more who is as far from herself, so that nothing is surer than the people are many. (Platt's logistic curve
    fits the middle and goes on promising where no pair was ever seen.)
    """
    from sklearn.isotonic import IsotonicRegression

    from reidnb.evaluation.inputs import all_ids, feature_pair, require_finite

    both = feature_pair(query, gallery, "query", "gallery")
    for side, name in zip(both, ("query", "gallery")):
        require_finite(side, name)
    x, y = (side.cpu().numpy() for side in both)
    q_pids, g_pids, q_cams, g_cams = all_ids((len(x), len(y)), query_pids, gallery_pids, query_camids, gallery_camids)
    rng, kept = np.random.default_rng(seed), np.flatnonzero(g_pids != -1)
    own = [np.flatnonzero((g_pids == pid) & (g_cams != cam)) for pid, cam in zip(q_pids, q_cams, strict=True)]
    ones = _apart(x, y, np.repeat(np.arange(len(x)), [*map(len, own)]), np.concatenate(own or [np.arange(0)]))
    if len(x) * len(kept) <= PAIRS:
        q, g = np.repeat(np.arange(len(x)), len(kept)), np.tile(kept, len(x))
    else:
        q, g = rng.integers(0, len(x), PAIRS), kept[rng.integers(0, len(kept), PAIRS)]
    others = q_pids[q] != g_pids[g]
    twos = _apart(x, y, q[others], g[others])
    if len(ones) < 10 or len(twos) < 10:
        raise ValueError(
            f"calibration needs pairs of one person in two cameras and of two people, ten or more of either; got "
            f"{len(ones)} and {len(twos)}"
        )
    nearest, farthest = min(ones.min(), twos.min()), max(ones.max(), twos.max())
    pairs = len(np.unique(q_pids[q[others]].astype(np.int64) * (int(g_pids.max()) + 1) + g_pids[g[others]]))
    people = len({pid for pid, rows in zip(q_pids.tolist(), own) if len(rows)})
    values = np.concatenate([ones, twos, [nearest, farthest]]).astype(np.float64)
    kinds = np.repeat((1.0, 0.0, 0.0, 1.0), (len(ones), len(twos), 1, 1))
    weights = np.repeat((1 / len(ones), 1 / len(twos), 1 / pairs, 1 / people), (len(ones), len(twos), 1, 1))
    curve = IsotonicRegression(increasing=False).fit(values, kinds, weights)
    return Calibration(np.sort(twos), np.sort(ones), curve.X_thresholds_, curve.y_thresholds_)


def _apart(x, y, q, g):
    """Distances of pairs of rows, in pieces of 64 MB of differences."""
    size = max(1, 2**24 // x.shape[1])
    pieces = zip(_blocks(q, size), _blocks(g, size))
    return np.concatenate([np.linalg.norm(x[a] - y[b], axis=1) for a, b in pieces] or [np.empty(0, x.dtype)])


def calibrate_run(result: Result) -> Calibration:
    """The Calibration of a run's network, by the test that it was given."""
    return calibrate(result.features.query, result.features.gallery, *result.data().ids)
