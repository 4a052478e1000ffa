"""How generators are kept, whichever they are: shipped with the package, or trained once on this machine."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import nn

from reidnb.files import cache_root, digest, kept, kept_files
from reidnb.generators.descent import train_against
from reidnb.runtime import choose_device, precision
from reidnb.sources import source_of

SHIPPED = Path(__file__).with_name("shipped")
PERSON = (0.0, 2.0)  # of PTGAN ships, beside DCGAN: how heavily the person was held


@dataclass(frozen=True)
class Kept:
    """A trained generator, the dataset that it learned from, how, and the file that it lies in."""

    generator: nn.Module
    dataset: str
    plan: object
    history: list
    extra: dict  # arrays that were kept beside the weights, by name
    path: Path


def load_or_train(
    kind: str,
    name: str,
    options: dict | None,
    plan: object,
    seed: int,
    pictures: Sequence[np.ndarray],
    train: Callable,
    build: Callable,
    code: str,
    device=None,
) -> Kept:
    """A generator of a kind ("dcgan") for a dataset and a plan -> Kept: shipped, kept, or trained now.

    train(checkpoint) -> generator, history, arrays by name; build() -> a generator without its weights. Weights are
    kept in half precision. `pictures`: what it learns from, one array or more; `code`: a digest of the code that trains
    it. What ships serves as many pictures as it learned from: a part of a dataset has a generator of its own.
    """
    counts = [len(part) for part in pictures]
    what = {"kind": kind, "dataset": name, "options": options or {}, "size": list(pictures[0].shape[2:]), "seed": seed}
    what = json.loads(json.dumps(what | {"plan": asdict(plan)}, default=str))
    for path in kept_files(SHIPPED, f"{kind}-*.safetensors"):
        about = about_of(path)
        if about["what"] == what and about["pictures"] == counts:
            return load_kept(path, plan, build)

    def make(path):
        generator, history, arrays = train(checkpoint)
        state = {f"net.{k}": v.half().contiguous().cpu() for k, v in generator.state_dict().items()}
        state |= {f"extra.{k}": torch.from_numpy(np.ascontiguousarray(v)) for k, v in arrays.items()}
        said = {"what": what, "history": history, "pictures": counts}
        safetensors.torch.save_file(state, path, {k: json.dumps(v) for k, v in said.items()})
        checkpoint.unlink(missing_ok=True)

    place = choose_device(device)
    learned_from = [digest(np.asarray(part)) for part in pictures]
    told = digest(
        json.dumps(what, sort_keys=True), learned_from, code, source_of(train_against), precision(place), place.type
    )
    home = cache_root() / "styles" / f"{kind}-{name.replace('->', '-to-')}-{told}.safetensors"
    checkpoint = home.with_suffix(".checkpoint")
    return load_kept(kept(home, make), plan, build)


def weights_digest(kind: str = "dcgan") -> str:
    """Of what ships of a kind."""
    return digest(*map(digest_of_weights, kept_files(SHIPPED, f"{kind}-*.safetensors")))


def digest_of_weights(path: Path) -> str:
    """Of the weights alone, since a file orders what it says of itself as it likes."""
    state = safetensors.torch.load_file(path)
    return digest(*(state[name].numpy().tobytes() for name in sorted(state)))


def about_of(path: Path) -> dict:
    """What a file says of itself: "what" it learned from and how, and its "history"."""
    with safetensors.safe_open(path, "pt") as file:
        return {name: json.loads(value) for name, value in file.metadata().items()}


def load_kept(path: Path, plan: object, build: Callable) -> Kept:
    """A file that `load_or_train` wrote, into what `build()` gives."""
    about, state = about_of(path), safetensors.torch.load_file(path)
    generator = build()
    net = {k.removeprefix("net."): v for k, v in state.items() if k.startswith("net.")}
    generator.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in net.items()})
    generator = generator.to(memory_format=torch.channels_last).eval()
    extra = {k.removeprefix("extra."): v.numpy() for k, v in state.items() if k.startswith("extra.")}
    return Kept(generator, about["what"]["dataset"], plan, about["history"], extra, path)
