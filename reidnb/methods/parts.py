"""What is done with the parts of a recipe, whichever they are: see `reidnb.methods` for what a part may have."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import nn


class Trial(NamedTuple):
    """A recipe at work: on which data, with which network, where."""

    recipe: Any  # recipes.Recipe
    data: Any  # datasets.ReIDDataset
    net: nn.Module
    device: torch.device


def bound(part: Any, data, net: nn.Module) -> Any:
    """A part that knows the dataset and the network it belongs to."""
    return part.bind(data, net) if hasattr(part, "bind") else part


def all_parts(parts: Iterable) -> Iterator:
    """Parts, and the loss terms inside them."""
    for part in parts:
        yield part
        yield from all_parts(getattr(part, "inner", ()))


def needed(part: Any) -> tuple[str, ...]:
    """Names in network.Output that a loss term cannot do without: its `needs`, and what it works `on`."""
    return (*getattr(part, "needs", ()), *((part.on,) if hasattr(part, "on") else ()))


def facts_of(parts: Iterable, data) -> dict:
    """What heads have to know of a dataset before they are built."""
    found = {}
    for part in all_parts(parts):
        found |= part.facts(data) if hasattr(part, "facts") else {}
    return found
