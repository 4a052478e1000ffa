"""StarGAN's generators as the package keeps them, and the copies that a generator painted."""

from collections.abc import Callable
from functools import partial

import numpy as np

from reidnb.batches import Styled
from reidnb.files import cache_root, digest, kept, kept_files, require_space
from reidnb.generators import keeping
from reidnb.generators.keeping import Kept, digest_of_weights, load_or_train, weights_digest
from reidnb.generators.stargan import Generator, StarGAN, restyle, train_stargan
from reidnb.runtime import choose_device
from reidnb.sources import source_of

PAINTED = (  # what ships: whose cameras, and the weight of the cycle
    ("synthetic_summer", 20.0),
    ("synthetic_winter", 1.0),
    ("synthetic_winter", 20.0),
    ("synthetic_winter", 40.0),
)
CAMERAS = 6  # each of theirs


def load_or_train_generator(
    split, name: str, options: dict | None = None, plan: StarGAN | None = None, seed: int = 0, device=None
) -> Kept:
    """The generator for the cameras of a training split -> keeping.Kept: shipped with the package, kept from an earlier
    call, or trained now (and kept).

    name, options: of the dataset, as `open_dataset` takes them.
    """
    plan = plan or StarGAN()

    def train(checkpoint):
        return *train_stargan(split.images, split.camids, plan, seed, device, checkpoint), {}

    def build():
        return Generator(int(np.max(split.camids)) + 1, plan.width, plan.blocks)

    pictures = [split.images, np.asarray(split.camids)[None]]
    return load_or_train("stargan", name, options, plan, seed, pictures, train, build, source_of(train_stargan), device)


def shipped_painters() -> list[Kept]:
    """The generators that ship with the package, by dataset and by how hard they were held to the picture."""
    found = []
    for path in kept_files(keeping.SHIPPED, "stargan-*.safetensors"):
        plan = StarGAN(**keeping.about_of(path)["what"]["plan"])
        found.append(keeping.load_kept(path, plan, partial(Generator, CAMERAS, plan.width, plan.blocks)))
    return sorted(found, key=lambda painter: (painter.dataset, painter.plan.reconstruction))


def styles_fingerprint() -> str:
    """What goes into the key of a kept run: the shipped generators' weights."""
    return weights_digest("stargan")


def all_styles(split, painter: Kept, device=None) -> Styled:
    """Every picture of a split in the style of every camera -> batches.Styled, painted once and kept."""
    generator = painter.generator.to(choose_device(device))
    by = partial(restyle, generator, split.images)
    return kept_copies(split, generator.cameras, by, digest_of_weights(painter.path))


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


def _digest_of_pictures(split):
    """Of the cameras and of all pictures, in their order."""
    return digest(np.asarray(split.camids), np.asarray(split.images))
