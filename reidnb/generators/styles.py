"""Generators as the package keeps them: shipped, or trained once on this machine, and the copies that they painted."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from reidnb.batches import Styled
from reidnb.files import cache_root, digest, kept, kept_files, require_space
from reidnb.generators.descent import train_against
from reidnb.generators.stargan import Generator, StarGAN, restyle, train_stargan
from reidnb.runtime import choose_device, precision
from reidnb.sources import source_of

SHIPPED = Path(__file__).with_name("shipped")
PAINTED = (  # what ships: whose cameras, and the weight of the cycle
    ("synthetic_summer", 20.0),
    ("synthetic_winter", 1.0),
    ("synthetic_winter", 20.0),
    ("synthetic_winter", 40.0),
)


@dataclass(frozen=True)
class Painter:
    """A trained generator, the dataset whose cameras it knows, how it was trained, and the file it lies in."""

    generator: Generator
    dataset: str
    plan: StarGAN
    history: list
    path: Path


def load_or_train_generator(
    split, name: str, options: dict | None = None, plan: StarGAN | None = None, seed: int = 0, device=None
) -> Painter:
    """The generator for the cameras of a training split -> Painter: shipped with the package, kept from an earlier
    call, or trained now (and kept).

    name, options: of the dataset, as `open_dataset` takes them.
    """
    plan = plan or StarGAN()
    what = {"dataset": name, "options": options or {}, "size": list(split.images.shape[2:]), "seed": seed}
    what = json.loads(json.dumps(what | {"plan": asdict(plan)}, default=str))
    for path in kept_files(SHIPPED, "*.safetensors"):
        about = _about(path)
        if about["what"] == what and about["pictures"] == len(split):  # a part of a dataset has one of its own
            return _load(path)

    def train(path):
        checkpoint = home.with_suffix(".checkpoint")
        generator, history = train_stargan(split.images, split.camids, plan, seed, device, checkpoint)
        about = {"what": what, "history": history, "cameras": generator.cameras, "pictures": len(split)}
        state = {k: v.half().contiguous().cpu() for k, v in generator.state_dict().items()}
        safetensors.torch.save_file(state, path, {name: json.dumps(said) for name, said in about.items()})
        checkpoint.unlink(missing_ok=True)

    place = choose_device(device)
    made = source_of(train_stargan), source_of(train_against), precision(place), place.type
    told = digest(json.dumps(what, sort_keys=True), _digest_of_pictures(split), *made)
    home = cache_root() / "styles" / f"{name}-{told}.safetensors"
    return _load(kept(home, train))


def shipped_painters() -> list[Painter]:
    """The generators that ship with the package, by dataset and by how hard they were held to the picture."""
    found = [_load(path) for path in kept_files(SHIPPED, "*.safetensors")]
    return sorted(found, key=lambda painter: (painter.dataset, painter.plan.reconstruction))


def styles_fingerprint() -> str:
    """What goes into the key of a kept run: the shipped generators' weights."""
    return digest(*map(_weights_digest, kept_files(SHIPPED, "*.safetensors")))


def all_styles(split, painter: Painter, device=None) -> Styled:
    """Every picture of a split in the style of every camera -> batches.Styled, painted once and kept."""
    generator = painter.generator.to(choose_device(device))
    by = partial(restyle, generator, split.images)
    return kept_copies(split, generator.cameras, by, _weights_digest(painter.path))


def kept_copies(split, cameras: int, paint: Callable[[int], np.ndarray], told: str) -> Styled:
    """A split's pictures and what `paint` makes of all of them for each camera, uint8 (N, 3, H, W) -> batches.Styled,
    painted once and kept; `told`: a digest of who paints."""

    def fill(path):
        shape, size = (len(split), cameras, *split.images.shape[1:]), int(np.prod(split.images.shape[1:]))
        require_space(path.parent, int(np.prod(shape)))
        with open(path, "wb") as file:  # plain writes: on a full disk a map would kill the process
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            start = file.tell()
            for camera in range(cameras):
                for row, image in enumerate(paint(camera)):
                    file.seek(start + (row * cameras + camera) * size)
                    file.write(np.ascontiguousarray(image).data)

    told = digest(told, split.images.shape, _digest_of_pictures(split))
    path = kept(cache_root() / "styles" / f"copies-{told}.npy", fill)
    return Styled(split.images, split.camids, np.load(path, mmap_mode="r"))


def _weights_digest(path):
    """Of the weights alone: a safetensors file orders what it says of itself as it likes."""
    state = safetensors.torch.load_file(path)
    return digest(*(state[name].numpy().tobytes() for name in sorted(state)))


def _digest_of_pictures(split):
    """Of the cameras and of all pictures, in their order."""
    return digest(np.asarray(split.camids), np.asarray(split.images))


def _about(path):
    with safetensors.safe_open(path, "pt") as file:
        return {name: json.loads(value) for name, value in file.metadata().items()}


def _load(path):
    about = _about(path)
    plan = StarGAN(**about["what"]["plan"])
    generator = Generator(about["cameras"], plan.width, plan.blocks)
    generator.load_state_dict({k: v.float() for k, v in safetensors.torch.load_file(path).items()})
    generator = generator.to(memory_format=torch.channels_last).eval()
    return Painter(generator, about["what"]["dataset"], plan, about["history"], path)
