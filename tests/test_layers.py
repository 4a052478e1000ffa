"""The house has floors: a room imports only rooms below it."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "reidnb"
FLOORS = [
    {"files"},
    {"synthetic", "losses", "alignment", "evaluation", "descriptors", "attributes", "search"},
    {"datasets", "batches", "models"},
    {"training", "recipes", "tables"},
    {"stargan", "failures"},
    {"trials"},
    {"experiments", "pretraining"},
    {"plots", "game"},  # may draw anything, except make experiments
    {"__main__"},
]
FORBIDDEN = {"plots": {"experiments", "pretraining", "trials"}}
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def rooms():
    """Each room of the package and its files."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        inside = path.relative_to(PACKAGE)
        if inside.parts[0] != "__init__.py":
            found.setdefault(inside.parts[0].removesuffix(".py"), []).append(path)
    return found


def imported_rooms(source):
    """The rooms of reidnb that a file imports anywhere, inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: imports are written out in full here"
            names = [node.module]
            if node.module == "reidnb":
                names = [f"reidnb.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            house, _, room = name.partition(".")
            if house == "reidnb" and room and not room.startswith("__version__"):
                yield room.split(".")[0]


@pytest.mark.parametrize("room", sorted(rooms()))
def test_a_room_imports_only_rooms_below(room):
    assert room in FLOOR, f"{room} has no floor yet: say in FLOORS where it belongs"
    for path in rooms()[room]:
        for other in set(imported_rooms(path.read_text(encoding="utf-8"))) - {room}:
            where = f"{path.relative_to(PACKAGE)} imports {other}"
            assert other in FLOOR, where
            assert FLOOR[other] < FLOOR[room], f"{where}, which lies on the same floor or above"
            assert other not in FORBIDDEN.get(room, ()), where


def test_the_test_sees_imports():
    source = (
        "from reidnb import __version__, tables\nimport reidnb.plots.a\ndef f():\n    from reidnb.models import x\n"
    )
    assert set(imported_rooms(source)) == {"tables", "plots", "models"}


def test_every_floor_is_lived_on():
    assert set(FLOOR) - set(rooms()) <= {"plots", "pretraining"}, "a room was renamed or removed"
