"""A network for elsewhere: as ONNX, with what belongs to it inside, and compared with itself before it is given out."""

import importlib.util
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from reidnb.batches import MEAN, STD
from reidnb.files import atomic_write
from reidnb.inference import as_compared
from reidnb.result import Result

CLOSE = 1e-4  # of values of unit-length features: what other orders of summing leave in float32, ten times over


class Described(nn.Module):
    """pixels float32 (N, 3, H, W), RGB from 0 to 255 -> features (N, D) of unit length, as a run compares them: colours
    are normalised, the mirror image is averaged in where the recipe does so, stripes stand in a row."""

    def __init__(self, result: Result):
        super().__init__()
        self.model, self.compare, self.flip = result.model(), result.recipe.compare, result.recipe.flip_test
        self.register_buffer("mean", 255 * torch.tensor(MEAN).view(3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(STD).view(3, 1, 1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        pixels = (pixels - self.mean) / self.std
        said = self.model(pixels)[self.compare]
        if self.flip:
            said = (said + self.model(pixels.flip(3))[self.compare]) / 2
        return F.normalize(as_compared(said, self.compare).flatten(1))


def check_onnx(path: str | Path) -> Path:
    """The path of an .onnx file that could be written here, else ValueError or ImportError."""
    path = Path(path).expanduser()
    if path.suffix.lower() != ".onnx":
        raise ValueError(f"the file's name must end in .onnx, got {path.name!r}")
    if missing := [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]:
        raise ImportError(f"ONNX needs an extra: pip install 'reidnb[onnx]' ({', '.join(missing)} not there)")
    return path


def export_onnx(result: Result, path: str | Path) -> Path:
    """Write a run's network to an .onnx file, "pixels" (N, 3, H, W) -> "features" (N, D) with any N; returns the path.

    What it says of pictures is compared with what torch says, for one picture and for three, to 1e-4 in every value;
    where they differ nothing is written. Raises ImportError without the extra [onnx], ValueError for a recipe that
    learns nothing and for a name that does not end in .onnx.
    """
    path = check_onnx(path)
    import onnxruntime

    network = Described(result).eval()
    shape = (3, *result.recipe.size)
    pictures = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, *shape))).float()

    def write(aside: Path):
        torch.onnx.export(
            network,
            (pictures[:2],),
            str(aside),
            input_names=["pixels"],
            output_names=["features"],
            dynamic_shapes=({0: torch.export.Dim("n", min=1)},),
            external_data=False,
            verbose=False,
        )
        session = onnxruntime.InferenceSession(str(aside), providers=["CPUExecutionProvider"])
        for some in (pictures[:1], pictures):
            (found,), wanted = session.run(None, {"pixels": some.numpy()}), network(some).detach().numpy()
            if found.shape != wanted.shape or not np.abs(found - wanted).max() <= CLOSE:
                apart = np.abs(found - wanted).max() if found.shape == wanted.shape else f"{found.shape} values"
                raise RuntimeError(f"onnxruntime and torch differ by {apart} of {len(some)} pictures: nothing written")

    return atomic_write(path, write)
