"""Values that check themselves, and how one field deep inside a value is found and changed by its name.

    @value
    class TriHard:
        margin: float | None = 0.3
        weight: Weight = 1.0

A value is a frozen dataclass whose fields must be what their types say when it is made, whoever makes it. A value made
of values (a recipe, its heads, its losses) is changed from outside by flat names: `change(recipe, margin=0.1)` finds
the one field of that name wherever it sits. Where several have it, it is called by its owner too: `trihard_margin`.
"""

import difflib
import math
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Annotated, Any, Literal, NamedTuple, Union, dataclass_transform, get_args, get_origin, get_type_hints

import numpy as np


class Within(NamedTuple):
    """A number's bounds; `above` excludes the lower one."""

    least: float = -math.inf
    most: float = math.inf
    above: bool = False

    def holds(self, number: float) -> bool:
        return (number > self.least if self.above else number >= self.least) and number <= self.most

    def __str__(self) -> str:
        if self.most < math.inf:
            return f"from {self.least:g} to {self.most:g}"
        return f"above {self.least:g}" if self.above else f"from {self.least:g} on"


Share = Annotated[float, Within(0, 1)]
Weight = Annotated[float, Within(0)]
Positive = Annotated[float, Within(0, above=True)]
Count = Annotated[int, Within(1)]


@dataclass_transform(frozen_default=True)
def value(cls: type) -> type:
    """A frozen dataclass that raises ValueError for a field that is not what its type says. Numbers of numpy become
    Python's, lists become tuples and whole numbers floats where a float is wanted, so that equal values are equal."""
    own = cls.__dict__.get("__post_init__")

    def __post_init__(self):
        hints = get_type_hints(cls, include_extras=True)
        for f in fields(self):
            given = getattr(self, f.name)
            fits, kept = _fit(given, hints[f.name])
            if not fits:
                who = getattr(self, "name", None) if f.name != "name" else None
                owner = f"recipe {who}" if isinstance(who, str) else cls.__name__
                raise ValueError(f"{owner}: {f.name} must be {_said(hints[f.name])}, got {given!r}")
            object.__setattr__(self, f.name, kept)
        if own:
            own(self)

    cls.__post_init__ = __post_init__
    return dataclass(frozen=True)(cls)


def _fit(given: Any, kind: Any) -> tuple[bool, Any]:
    """Whether `given` is of a type, and what is kept of it."""
    given = given.item() if isinstance(given, np.generic) else given
    origin, of = get_origin(kind), get_args(kind)
    if kind is Any:
        return True, given
    if origin is Annotated:
        fits, kept = _fit(given, of[0])
        return fits and all(bound.holds(kept) for bound in of[1:]), kept
    if origin is Literal:
        return any(given is v or type(given) is type(v) and given == v for v in of), given
    if origin in (Union, types.UnionType):
        return next((found for found in (_fit(given, option) for option in of) if found[0]), (False, given))
    if kind is tuple:
        return isinstance(given, (tuple, list)), tuple(given) if isinstance(given, list) else given
    if origin is tuple:
        if not isinstance(given, (tuple, list)) or (of[-1] is not ... and len(of) != len(given)):
            return False, given
        found = [_fit(v, of[0] if of[-1] is ... else k) for v, k in zip(given, of if of[-1] is not ... else given)]
        return all(fits for fits, _ in found), tuple(kept for _, kept in found)
    if kind is float:
        fits = isinstance(given, (int, float)) and not isinstance(given, bool) and abs(given) < math.inf
        try:
            return fits, float(given) if fits else given
        except OverflowError:  # a whole number that no float holds
            return False, given
    if kind is int:
        return isinstance(given, int) and not isinstance(given, bool), given
    return isinstance(given, types.NoneType if kind is None else kind), given


def _said(kind: Any) -> str:
    """A type as an error says it."""
    origin, of = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return f"{_said(of[0])} {of[1]}"
    if origin is Literal:
        return "one of " + ", ".join(map(repr, of))
    if origin in (Union, types.UnionType):
        return " or ".join(_said(option) for option in of)
    if origin is tuple:
        return f"a tuple, each {_said(of[0])}" if of[-1] is ... else f"{len(of)} values, each {_said(of[0])}"
    words = {float: "a number", int: "a whole number", bool: "True or False", str: "a word", types.NoneType: "None"}
    return words.get(kind, f"a {getattr(kind, '__name__', kind)}")


# ----------------------------------------------------------------------------------------------------- fields by name


class Place(NamedTuple):
    """A field inside a value: whose it is, its name, the way to it, and what it holds."""

    owner: str
    name: str
    way: tuple
    held: Any


def key_of(part: object) -> str:
    """What a part of a recipe is called in tables, in history and in flat names: its `key`, else its class's name, or
    that of the function it is."""
    return getattr(part, "key", getattr(part, "__name__", type(part).__name__.lower()))


def places(whole: object, way: tuple = ()) -> Iterator[Place]:
    """All fields of a value and of the values inside it, outermost first."""
    for f in fields(whole):
        held = getattr(whole, f.name)
        yield Place(key_of(whole), f.name, (*way, f.name), held)
        parts = [((f.name,), held)] if is_dataclass(held) else []
        parts += [((f.name, i), v) for i, v in enumerate(held) if is_dataclass(v)] if isinstance(held, tuple) else []
        for more, part in parts:
            yield from places(part, (*way, *more))


def flat_names(whole: object) -> dict[str, tuple]:
    """The names by which `change` knows the fields of a value -> {name: way}: a field's own name where no other has it,
    else its owner's name before it."""
    found = list(places(whole))
    often = {p.name: sum(q.name == p.name for q in found) for p in found}
    return {p.name if often[p.name] == 1 else f"{p.owner}_{p.name}": p.way for p in found}


def find(whole: object, name: str) -> str:
    """The flat name of the one field that `name` means, `margin` or `trihard_margin`. TypeError where there is none, or
    several, that says which there are."""
    known = flat_names(whole)
    meant = [p for p in places(whole) if name in (p.name, f"{p.owner}_{p.name}")]
    if name in known and sum(f"{p.owner}_{p.name}" == name for p in meant) < 2:
        return name
    if len(meant) == 1:
        return next(flat for flat, way in known.items() if way == meant[0].way)
    who = getattr(whole, "name", type(whole).__name__)
    if meant:
        several = ", ".join(f"{p.owner}_{p.name}" for p in meant)
        raise TypeError(f"{who} has {len(meant)} fields called {name!r}: say which, {several}")
    raise TypeError(f"{who} has no field {name!r}{did_you_mean(name, known)}; it has {', '.join(sorted(known))}")


def change(whole: object, **changes: Any) -> object:
    """A value with some of its fields changed by their flat names, all at once. TypeError where one of them lies in
    another, or is the same by another name."""
    known, ways = flat_names(whole), {}
    for name in changes:
        way = known[find(whole, name)]
        if both := [other for other, there in ways.items() if all(a == b for a, b in zip(way, there))]:
            raise TypeError(f"{both[0]} and {name} cannot be changed together: one is in the other; say it once")
        ways[name] = way
    return _put(whole, [(ways[name], given) for name, given in changes.items()])


def _put(whole: Any, news: list) -> Any:
    """`whole`, a value or a tuple, with what lies at each way replaced."""
    here = {}
    for way, given in news:
        here.setdefault(way[0], []).append((way[1:], given))
    made = {}
    for step, inner in here.items():
        old = whole[step] if isinstance(whole, tuple) else getattr(whole, step)
        whole_new = [given for way, given in inner if not way]
        made[step] = whole_new[-1] if whole_new else _put(old, inner)
    if isinstance(whole, tuple):
        return tuple(made.get(i, part) for i, part in enumerate(whole))
    return replace(whole, **made)


def did_you_mean(name: object, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(name), list(known), 1)
    return f" (did you mean {near[0]!r}?)" if near else ""
