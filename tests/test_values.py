"""Values: fields that are what their types say, found and changed by name wherever they sit."""

from dataclasses import FrozenInstanceError, dataclass, fields
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reidnb.values import (  # fmt: skip
    Count,
    Positive,
    Share,
    Weight,
    Within,
    change,
    did_you_mean,
    find,
    flat_names,
    key_of,
    places,
    value,
)


@value
class Leaf:
    size: Count = 3
    rate: Positive = 0.1
    kind: Literal["oak", "ash", 1] = "oak"

    key = "leaf"


@value
class Branch:
    weight: Weight = 1.0
    share: Share | None = None
    on: bool = False
    leaf: Leaf = Leaf()


@value
class Tree:
    name: str = "tree"
    title: str = ""
    height: float = 2.0
    rings: tuple[Count, ...] = ()
    place: tuple[float, Count] = (0.0, 1)
    parts: tuple = (Branch(), Leaf())
    held: Any = None
    low: Annotated[float, Within(-1, 1)] = 0.0


# ---- what a field may be --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "field", "kept"),
    [
        (lambda: Leaf(size=np.int64(5)), "size", 5),
        (lambda: Leaf(size=np.uint8(5)), "size", 5),
        (lambda: Leaf(rate=np.float32(0.5)), "rate", 0.5),
        (lambda: Leaf(rate=2), "rate", 2.0),
        (lambda: Leaf(kind=1), "kind", 1),
        (lambda: Branch(on=np.bool_(True)), "on", True),
        (lambda: Branch(share=0), "share", 0.0),
        (lambda: Branch(share=None), "share", None),
        (lambda: Tree(name=np.str_("oak")), "name", "oak"),
        (lambda: Tree(rings=[np.int32(1), 2]), "rings", (1, 2)),
        (lambda: Tree(place=[3, 4]), "place", (3.0, 4)),
        (lambda: Tree(parts=[Leaf()]), "parts", (Leaf(),)),
        (lambda: Tree(held=np.float64(1.5)), "held", 1.5),
    ],
)
def test_numbers_of_numpy_and_lists_become_pythons(made, field, kept):
    """So that equal values are equal, print alike and have one key."""
    found = getattr(made(), field)
    assert found == kept and type(found) is type(kept) and repr(found) == repr(kept)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda: Leaf(size=0), "Leaf: size must be a whole number from 1 on, got 0"),
        (lambda: Leaf(size=2.0), "size must be a whole number from 1 on, got 2.0"),
        (lambda: Leaf(size=True), "size must be a whole number from 1 on, got True"),
        (lambda: Leaf(size="3"), "size must be a whole number from 1 on, got '3'"),
        (lambda: Leaf(size=torch.tensor(3)), r"size must be a whole number from 1 on, got tensor\(3\)"),
        (lambda: Leaf(size=None), "size must be a whole number from 1 on, got None"),
        (lambda: Leaf(rate=0), "rate must be a number above 0, got 0"),
        (lambda: Leaf(rate=np.nan), "rate must be a number above 0, got nan"),
        (lambda: Leaf(rate=np.inf), "rate must be a number above 0, got inf"),
        (lambda: Leaf(rate=10**400), "rate must be a number above 0, got 1000"),
        (lambda: Leaf(kind="elm"), "kind must be one of 'oak', 'ash', 1, got 'elm'"),
        (lambda: Leaf(kind=True), "kind must be one of 'oak', 'ash', 1, got True"),
        (lambda: Leaf(kind=1.0), "kind must be one of 'oak', 'ash', 1, got 1.0"),
        (lambda: Branch(weight=-1e-9), "Branch: weight must be a number from 0 on, got -1e-09"),
        (lambda: Branch(share=1.1), "share must be a number from 0 to 1 or None, got 1.1"),
        (lambda: Branch(on="false"), "on must be True or False, got 'false'"),
        (lambda: Branch(on=1), "on must be True or False, got 1"),
        (lambda: Branch(leaf=None), "leaf must be a Leaf, got None"),
        (lambda: Tree(name=5), "Tree: name must be a word, got 5"),
        (lambda: Tree("oak", height="2"), "recipe oak: height must be a number, got '2'"),
        (lambda: Tree(rings=5), "rings must be a tuple, each a whole number from 1 on, got 5"),
        (lambda: Tree(rings=(1, 0)), "rings must be a tuple, each a whole number"),
        (lambda: Tree(rings="12"), "rings must be a tuple, each a whole number"),
        (lambda: Tree(place=(1.0,)), r"place must be 2 values, each a number, got \(1.0,\)"),
        (lambda: Tree(place=(1.0, 2, 3)), "place must be 2 values"),
        (lambda: Tree(parts=Leaf()), "parts must be a tuple, got Leaf"),
        (lambda: Tree(low=1.5), "low must be a number from -1 to 1, got 1.5"),
    ],
)
def test_a_field_that_is_not_what_its_type_says(made, says):
    with pytest.raises(ValueError, match=says):
        made()


def test_a_value_is_frozen_and_checks_itself_after_its_fields():
    @value
    class Pair:
        least: float = 0.0
        most: float = 1.0

        def __post_init__(self):
            if self.least > self.most:  # with numbers, whatever was given
                raise ValueError(f"least {self.least!r} is above most")

    with pytest.raises(FrozenInstanceError):
        Pair().least = 2.0
    with pytest.raises(ValueError, match="least 2.0 is above most"):
        Pair(least=2)
    with pytest.raises(ValueError, match="least must be a number"):
        Pair(least="2")
    assert Pair(1) == Pair(1.0) and hash(Pair(1)) == hash(Pair(np.float32(1)))


# ---- fields by name -------------------------------------------------------------------------------------------------


def test_what_a_part_is_called():
    def my_loss(output, batch):
        pass

    assert [key_of(part) for part in (Leaf(), Branch(), my_loss, object())] == ["leaf", "branch", "my_loss", "object"]


def test_flat_names():
    """A field's own name where no other has it, else its owner's name before it."""
    assert flat_names(Tree()) == {
        **{name: (name,) for name in ("name", "title", "height", "rings", "place", "parts", "held", "low")},
        "weight": ("parts", 0, "weight"),
        "share": ("parts", 0, "share"),
        "on": ("parts", 0, "on"),
        "leaf": ("parts", 0, "leaf"),
        # two leaves: the names are the same, and whoever asks for them is told so
        "leaf_size": ("parts", 1, "size"),
        "leaf_rate": ("parts", 1, "rate"),
        "leaf_kind": ("parts", 1, "kind"),
    }
    alone = Tree(parts=(Branch(),))
    assert flat_names(alone)["size"] == ("parts", 0, "leaf", "size")
    assert [(p.owner, p.held) for p in places(alone) if p.name == "kind"] == [("leaf", "oak")]


def test_a_field_deep_inside_is_changed_and_nothing_else():
    tree = Tree(parts=(Branch(), Leaf(size=9)), held="x")
    changed = change(tree, weight=2, share=0.5, height=3)
    assert changed == Tree(parts=(Branch(weight=2.0, share=0.5), Leaf(size=9)), height=3.0, held="x")
    assert tree.parts[0].weight == 1.0, "a value stays what it is"
    one = Tree(parts=(Branch(),))
    assert change(one, leaf_size=4) == change(one, size=4) == Tree(parts=(Branch(leaf=Leaf(4)),))
    assert change(one) == one and change(one, branch_weight=2.0).parts[0].weight == 2.0


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"size": 4}, TypeError, "tree has 2 fields called 'size': say which, leaf_size, leaf_size"),
        ({"leaf_size": 4}, TypeError, "tree has 2 fields called 'leaf_size': say which"),
        ({"wieght": 4}, TypeError, r"tree has no field 'wieght' \(did you mean 'weight'\?\); it has .*height, held"),
        ({"nothing_like_it": 4}, TypeError, "tree has no field 'nothing_like_it'; it has height"),
        ({"weight": -1}, ValueError, "Branch: weight must be a number from 0 on, got -1"),
        ({"weight": 1, "branch_weight": 2}, TypeError, "weight and branch_weight cannot be changed together"),
        ({"parts": (), "weight": 2}, TypeError, "parts and weight cannot be changed together: one is in the other"),
        ({"weight": 2, "parts": ()}, TypeError, "weight and parts cannot be changed together"),
    ],
)
def test_changes_that_cannot_be(changes, error, says):
    """Once an inner change was lost without a word where the outer value was replaced too."""
    with pytest.raises(error, match=says):
        change(Tree(), **changes)


def test_plain_dataclasses_and_what_is_none_are_parts_too():
    @dataclass(frozen=True)
    class Own:
        depth: int = 3
        weight: float = 1.0

    tree = Tree(parts=(Own(), len, "text"))
    assert find(tree, "depth") == "depth" and find(tree, "own_weight") == "weight"
    assert change(tree, depth=5).parts == (Own(5), len, "text")


FIELDS = {
    "height": st.floats(-1e6, 1e6),
    "title": st.text(max_size=3),
    "weight": st.floats(0, 9),
    "share": st.none() | st.floats(0, 1),
    "on": st.booleans(),
    "size": st.integers(1, 99),
    "rate": st.floats(1e-3, 9),
    "kind": st.sampled_from(["oak", "ash", 1]),
    "rings": st.lists(st.integers(1, 9), max_size=3),
}


@given(st.fixed_dictionaries({}, optional=FIELDS))
def test_what_is_changed_by_name_is_found_by_name(changes):
    tree = Tree(parts=(Branch(),))
    changed = change(tree, **changes)
    for name, way in flat_names(changed).items():
        held, before = changed, tree
        for step in way:
            held, before = ((v[step] if isinstance(step, int) else getattr(v, step)) for v in (held, before))
        wanted = changes.get(name, before)
        inside = name in ("parts", "leaf")  # they hold what was changed
        assert inside or held == (tuple(wanted) if isinstance(wanted, list) else wanted)
    assert flat_names(changed) == flat_names(tree) and [f.name for f in fields(changed)] == [
        f.name for f in fields(tree)
    ]
    again = {name: getattr(tree, name) for name in ("height", "title", "rings")}
    assert change(changed, parts=tree.parts, **again) == tree


def test_a_near_name():
    assert did_you_mean("magrin", ["margin", "mining"]) == " (did you mean 'margin'?)"
    assert did_you_mean("zzz", ["margin"]) == did_you_mean(None, []) == ""
