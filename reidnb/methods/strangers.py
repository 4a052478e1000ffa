"""People whom a world does not know, before its own cameras: drawn, so that what else joins a training set can be
compared with the best that could."""

import inspect

import numpy as np

from reidnb import files
from reidnb.datasets.builtin import SOURCE, WORLDS, make_world
from reidnb.datasets.splits import ReIDDataset
from reidnb.sources import source_of

SHOTS = 8  # pictures of each stranger at most; a person of the world has some 13


def drawn_strangers(data: ReIDDataset, count: int) -> np.ndarray:
    """`count` pictures of people who are in no split of `data`, a drawn dataset, as its cameras see them -> uint8
    (count, 3, H, W), kept. ValueError for photographs."""
    name = data.name.split("->")[0]
    if name not in WORLDS:
        raise ValueError(f"only the built-in world can draw strangers; {name} was photographed")
    if count < 1:
        raise ValueError(f"a number of pictures from 1 on, got {count}")
    from reidnb import synthetic

    usual = {item.name: item.default for item in inspect.signature(synthetic.make_world).parameters.values()}
    given = {option: held for option, held in data.options.items() if option not in ("partial", "world")}
    options = {**WORLDS[name], **given, "size": tuple(data.train.images.shape[2:])}
    options["seed"] = options.get("seed", 0) + data.options.get("world", 0)
    born = sum(options.get(side, usual[side]) for side in ("train_identities", "test_identities"))
    # Who stands at a number of the stream of people, and before which cameras, hangs on the seed and the number alone.
    town = {"train_identities": 1, "test_identities": born - 1 + -(-count // SHOTS), "distractors": 0, "junk": 0}

    def draw(path):
        world = make_world({**options, **town})
        shots = [shot for part in world.shots.values() for shot in part if shot.pid > born]
        rng = np.random.default_rng(options["seed"])
        chosen = rng.permutation(len(shots))[:count]
        pictures = [synthetic.draw(world, shots[row]).image.transpose(2, 0, 1) for row in chosen]
        np.save(path, np.stack(pictures))

    told = files.digest(SOURCE, source_of(drawn_strangers), sorted((k, repr(v)) for k, v in options.items()), count)
    return np.load(files.kept(files.cache_root() / "styles" / f"strangers-{name}-{told}.npy", draw), mmap_mode="r")
