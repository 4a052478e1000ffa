"""The key of a kept run: everything that numbers depend on is in it, and words are not."""

import ast
import dataclasses
import functools
import importlib
import shutil
import sys
import textwrap
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from reidnb import methods, recipes, result, sources
from reidnb.batches import Augmentation
from reidnb.datasets import ReIDDataset, Split
from reidnb.files import digest
from reidnb.methods import Identity
from reidnb.models import save_backbone
from reidnb.network import build_model
from reidnb.recipes import RECIPES, Recipe, recipe
from reidnb.result import key_of_run
from reidnb.sources import source_of
from reidnb.values import change, flat_names, places
from reidnb.values import value as as_value

DATA = SimpleNamespace(name="world", fingerprint="abc", attribute_names=("hat",), options={})
PLAN = recipe("baseline_scratch")


def key(plan=PLAN, data=DATA, seed=0, device="cpu", profile="full"):
    return key_of_run(plan, data, seed, torch.device(device), profile)


def test_a_dataset_made_of_another_is_another_one():
    """Whoever selects some of a dataset's pictures, or makes one by hand, may leave the fingerprint as it was."""
    images = np.zeros((4, 3, 8, 8), np.uint8)

    def made(fingerprint, pids=(1, 1, 2, 2), images=images):
        part = Split(images[: len(pids)], np.array(pids), np.zeros(len(pids), int))
        return ReIDDataset("mine", part, part, part, fingerprint=fingerprint)

    assert key(data=made("abc")) == key(data=made("abc")) != key(data=made("abc", (1, 1, 2)))
    assert key(data=made("abc")) != key(data=made("abc", (1, 1, 2, 3)))
    assert key(data=made("")) == key(data=made("")) != key(data=made("", images=images + 1))


def test_a_field_of_a_readers_part_may_be_called_source():
    @as_value
    class Mine:
        source: str = "here"
        weight: float = 1.0

    plain = result.to_plain(Mine("there"))
    assert plain["source"] == "there" and plain[result.SOURCE] == source_of(Mine)


# --------------------------------------------------------------------------------------------------- fields and facts

# Another value for each field of a recipe and of its parts.
OTHER = {
    "name": "x", "title": "words", "model": "resnet18", "weights": "imagenet", "last_stride": 2, "pooling": "max",
    "width": 16, "heads": (), "size": (32, 16), "p": 3, "k": 3, "augmentation": None, "label_noise": 0.5,
    "extra": None, "losses": (Identity(weight=0.125),), "epochs": 11, "optimizer": "sgd", "lr": 1.0,
    "weight_decay": 0.0, "warmup": 0.5, "schedule": "step", "steps": (3,), "compare": "features", "flip_test": False,
    "fresh_norm": True, "weight": 0.125, "smoothing": 0.5, "on": "features", "margin": 0.7, "pull": 0.5,
    "margin2": 0.5, "parts": 5, "classifiers": True, "distance": "rigid", "local_margin": 0.5, "local_weight": 0.5,
    "mining": "both", "loss": "weighted", "overlap": 0.25, "vote": "mean", "focal_gamma": 1.0, "focal_alpha": 0.5,
    "question": "hat", "blind_start": False, "adapt": "style", "fake_labels": "own", "target_p": 3, "copies": 2,
    "styles": "truth", "fakes": 0.25, "branches": "parts", "dropout": 0.25, "inner": (Identity(weight=0.125),),
    "norm": False, "unit": False, "peer": "resnet18", "class_mutual": 0.5, "metric_mutual": 0.5, "zero_gradient": False,
    "boxes": "posebox1", "points": "mean", "keypoint_noise": 1.0, "prior": 0.5, "start": "random",
    "choose": "all", "last": 7, "pairs_by": "all", "cells": 3, "reach": 2, "top": 5,
    "generated": 7, "painter": "noise", "nobody_labels": "one_more", "states": "last",
}  # fmt: skip

SECOND = {"heads": (methods.Stripes(3),), "extra": methods.TrainingCopies()}  # where it is that already
SECOND |= {"distance": "aligned", "adapt": "domain", "on": "embedding"}


def owners():
    """Each class of value that stands in a recipe: a recipe that has one, and the ways to its fields."""
    found = {}
    for name in RECIPES:
        for place in places(RECIPES[name]):
            whole = RECIPES[name]
            for step in place.way[:-1]:
                whole = whole[step] if isinstance(step, int) else getattr(whole, step)
            found.setdefault((type(whole), place.name), (RECIPES[name], place.way))
    return found


OWNERS = owners()
MET = {cls for cls, _ in OWNERS}


def test_every_part_stands_in_some_recipe():
    """So that the test below meets each of them."""
    values = {thing for thing in vars(methods).values() if isinstance(thing, type) and dataclasses.is_dataclass(thing)}
    assert values | {Recipe, Augmentation} == MET


@pytest.mark.parametrize("cls, field", OWNERS, ids=[f"{cls.__name__}.{field}" for cls, field in OWNERS])
def test_every_field_is_in_the_key(cls, field, monkeypatch):
    plan, way = OWNERS[cls, field]
    if (cls, field) == (Recipe, "title"):
        assert key(replace(plan, title="Other words")) == key(plan), "words change no number"
        return
    monkeypatch.setattr(Recipe, "__post_init__", lambda self: None)  # one field alone need not make sense
    monkeypatch.setattr(result, "weights_fingerprint", lambda *_: "the same")
    names = {places_way: flat for flat, places_way in flat_names(plan).items()}
    held = next(place.held for place in places(plan) if place.way == way)
    other = 0.3 if cls is Augmentation else OTHER[field]
    other = SECOND.get(field) if other == held else other
    assert other != held, "a new field: give it another value above"
    assert key(change(plan, **{names[way]: other})) != key(plan)


def test_what_else_is_in_the_key(monkeypatch):
    asks = recipe("apr")
    keys = [
        key(),
        key(seed=1),
        key(device="cuda"),
        key(profile="paper"),
        key(data=replace_in(DATA, fingerprint="abd")),
        key(data=replace_in(DATA, name="other")),
        key(data=replace_in(DATA, options={"misalignment": 1.0})),
        key(replace(PLAN, augmentation=replace(PLAN.augmentation, colour=0.2))),
        key(asks),
        key(asks, data=replace_in(DATA, attribute_names=("bag",))),
    ]
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "9.9.9+cpu")
        keys.append(key())
    for name, value in {"code_digest": "other", "precision": "fp8", "FORMAT": 99}.items():
        with monkeypatch.context() as patch:
            patch.setattr(result, name, value if name == "FORMAT" else lambda *_, value=value: value)
            keys.append(key())
    paints = recipe("camstyle")
    keys.append(key(paints))
    monkeypatch.setattr(result, "styles_fingerprint", lambda: "other generators")
    keys.append(key(paints))
    assert len(set(keys)) == len(keys)
    assert key() == keys[0], "who paints nothing does not mind"
    assert key(data=replace_in(DATA, attribute_names=("bag",))) == keys[0], "nor who asks nothing"
    assert key(seed=np.int64(1)) == keys[1]


def replace_in(data, **more):
    return SimpleNamespace(**vars(data) | more)


def test_weights_in_a_file_count_by_their_content(tmp_path):
    path, keys = tmp_path / "w.safetensors", set()
    for seed in (0, 1):
        torch.manual_seed(seed)
        save_backbone(build_model("small").backbone, path)
        keys.add(key(replace(PLAN, weights=str(path))))
    shutil.copy(path, tmp_path / "copy.safetensors")
    assert len(keys) == 2


def test_both_students_starts_are_in_the_key(monkeypatch):
    asked = []
    monkeypatch.setattr(result, "weights_fingerprint", lambda model, weights: asked.append(model) or model)
    key(recipe("aligned_mm"))
    assert asked == ["small", "small_xception"]


# --------------------------------------------------------------------------------------------------------- our sources

ROOMS = (*sources.CODE_OF_ALL, *sources.CODE_OF_SOME)
FILES = [
    file.relative_to(sources.PACKAGE).as_posix()
    for part in ROOMS
    for file in sorted((sources.PACKAGE / part).rglob("*.py")) or [sources.PACKAGE / part]
]
FILES = list(dict.fromkeys(FILES))  # methods/parts.py stands in both


@as_value
class Own(Identity):
    """A part that is no part of the package: a reader's."""


OWN = replace(PLAN, losses=(Own(),))


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A copy of the package's sources, and the digest of the code that a recipe (one with a reader's own part) depends
    on in it, with one file's text changed or not."""
    folder = tmp_path_factory.mktemp("copied") / "reidnb"
    shutil.copytree(sources.PACKAGE, folder, ignore=shutil.ignore_patterns("*.safetensors", "__pycache__", "results"))

    def after(file=None, change=None, plan=OWN):
        if file:
            text = (folder / file).read_text(encoding="utf-8")
            (folder / file).write_text(change(text), encoding="utf-8")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sources, "PACKAGE", folder)
            sources._digest_of_code.cache_clear()
            found = sources.code_digest(plan)
        if file:
            (folder / file).write_text(text, encoding="utf-8")
        return found

    return after


def test_every_file_that_computes_is_in_the_key(copied, monkeypatch):
    """A line more in any of them is other code."""
    monkeypatch.setattr(ast, "parse", functools.cache(ast.parse))  # 40 files, 40 times
    monkeypatch.setattr(sources, "_without_docstrings", functools.cache(ast.unparse))
    plain = copied()
    digests = [copied(file, lambda text: text + "\n\ndef more():\n    pass\n") for file in FILES]
    assert len({plain, *digests}) == 1 + len(FILES) and len(FILES) > 30


def test_what_is_no_code_is_not_in_the_key(copied):
    plain = copied()
    assert plain == sources.code_digest(OWN)
    assert copied("training.py", lambda text: text.replace('"""The training loop', '"""# Words\nAnother loop')) == plain
    assert copied("losses.py", lambda text: text.replace("\n\n\ndef ", "\n\n\n# A comment.\ndef ", 1)) == plain
    assert copied("losses.py", lambda text: text.replace("margin: float", "margin: int", 1)) != plain
    row = 'RECIPES["mine"] = Recipe("mine", losses=IDE)\n'
    assert copied("recipes.py", lambda text: text + row) == plain, "a recipe's fields are in its own key"
    assert copied("recipes.py", lambda text: text.replace("self.k < 2", "self.k < 3")) != plain
    assert copied("ledger.py", lambda text: text + "\nx = 1\n") == plain
    assert copied("plots/curves.py", lambda text: text + "\nx = 1\n") == plain


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("ide", {"methods/identification.py"}),
        ("trihard", {"methods/metric.py"}),
        ("hplf", {"methods/identification.py", "methods/stripes.py"}),
        ("apr", {"methods/identification.py", "methods/attributes.py"}),
        ("aligned_mm", {"methods/identification.py", "methods/stripes.py", "methods/mutual.py"}),
        ("colour_histogram", set()),
    ],
)
def test_a_method_is_in_the_key_of_those_who_use_it(copied, name, own, monkeypatch):
    """So that a new method, or a change in another, makes no kept run old."""
    monkeypatch.setattr(ast, "parse", functools.cache(ast.parse))
    monkeypatch.setattr(sources, "_without_docstrings", functools.cache(ast.unparse))
    plan, more = recipe(name), lambda text: text + "\n\ndef more():\n    pass\n"
    plain = copied(plan=plan)
    changed = {file for file in FILES if copied(file, more, plan) != plain}
    shared = {file for file in FILES if not file.startswith(("methods/", "generators/"))}
    assert changed == shared | own | {"methods/parts.py"}
    assert copied("recipes.py", lambda text: "from reidnb.methods import Mutual\n" + text, plan) == plain


def test_who_paints_depends_on_what_paints(copied):
    plan, more = recipe("camera_style"), lambda text: text + "\n\ndef more():\n    pass\n"
    plain = copied(plan=plan)
    for file in ("methods/adaptation.py", "methods/stripes.py", "generators/stargan.py", "generators/styles.py"):
        assert copied(file, more, plan) != plain, file
    assert copied("methods/mutual.py", more, plan) == plain
    assert copied("methods/adaptation.py", more, replace(recipe("ide"), fresh_norm=True)) != copied(
        plan=replace(recipe("ide"), fresh_norm=True)
    ), "AdaBN's target is chosen there"


# Rooms that a run imports and whose code is not in its key, and why not: the pictures and labels that come of the
# first are in the key by the dataset's fingerprint; the others keep, name and check, and compute nothing.
NOT_IN_THE_KEY = {"datasets", "synthetic", "files", "result", "checks", "sources", "profiles"}


def test_no_room_is_forgotten():
    """What `experiments` imports, and what that imports, is either in the key or named above."""
    waiting, met = ["experiments"], set()
    while waiting:
        room = waiting.pop()
        if room in met:
            continue
        met.add(room)
        path = sources.PACKAGE / room
        for file in sorted(path.rglob("*.py")) or [path.with_suffix(".py")]:
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                names = []
                if isinstance(node, ast.ImportFrom) and node.module == "reidnb":
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("reidnb."):
                    names = [node.module.split(".")[1]]
                rooms = [n for n in names if (sources.PACKAGE / n).is_dir() or (sources.PACKAGE / f"{n}.py").exists()]
                waiting += rooms
    in_the_key = {part.split("/")[0].removesuffix(".py") for part in ROOMS} - {"datasets"}
    assert met - in_the_key - {"ledger", "verdicts"} <= NOT_IN_THE_KEY, "is it to be in sources.CODE_OF_ALL?"
    assert in_the_key <= met


# --------------------------------------------------------------------------------------------------- a reader's sources

READERS = '''
    """A notebook, say."""
    import functools
    from dataclasses import dataclass
    import torch

    SCALE = 2.0
    TABLE = [1, 2]

    def near(x):
        """How near."""
        return far(x) * SCALE

    def far(x):
        return x - 1  # one

    double = lambda x: 2 * x
    triple = lambda x: 3 * x

    @torch.no_grad()
    def quiet(x):
        return loud(x)

    def loud(x):
        return x + 7

    @functools.cache
    def once(x):
        return x + 8

    def outer(power):
        @dataclass(frozen=True)
        class Inside:
            def __call__(self, output, batch):
                return output ** power
        return Inside

    class Base:
        def inherited(self):
            return 3

    class Net(torch.nn.Module):
        def forward(self, x):
            return x / 2

    @dataclass(frozen=True)
    class Mine(Base):
        """A loss."""
        margin: float = 0.5
        key = "mine"

        class Nested:
            def deep(self):
                return 11

        @property
        def needs(self):
            return ("logits",)

        @staticmethod
        def still(x):
            return 13

        def build(self, channels, facts):
            return Net()

        def __call__(self, output, batch):
            found = [near(x) for x in output]
            if self.key in {"a", "b", "mine"}:
                return double(found[0]) + triple(found[0]) + quiet(1) + once(2) + self.needs

    def unused():
        return 99

    MINE, INSIDE = Mine, outer(2)
'''
COUNTS = {
    "the method": ("found[0]) +", "found[0]) -"),
    "a field's default": ("margin: float = 0.5", "margin: float = 0.25"),
    "a field more": ('key = "mine"', 'key = "mine"\n        more: int = 1'),
    "a class's own word": ('key = "mine"', 'key = "yours"'),
    "a property": ('("logits",)', '("features",)'),
    "a static method": ("return 13", "return 14"),
    "a nested class": ("return 11", "return 12"),
    "a helper": ("far(x) * SCALE", "far(x) + SCALE"),
    "a helper's helper": ("x - 1", "x - 2"),
    "the first of two lambdas": ("2 * x", "4 * x"),
    "the second of two lambdas": ("3 * x", "5 * x"),
    "behind a decorator of torch": ("x + 7", "x + 6"),
    "a helper that remembers": ("x + 8", "x + 9"),
    "a base class": ("return 3", "return 4"),
    "a module that it builds": ("x / 2", "x / 3"),
    "a number from outside": ("SCALE = 2.0", "SCALE = 3.0"),
    "a word in a set": ('"a", "b", "mine"', '"a", "c", "mine"'),
}
DOES_NOT = {
    "a comment": ("# one", "# another"),
    "a docstring": ("How near.", "How far."),
    "the class's docstring": ("A loss.", "A better loss."),
    "blank lines": ("    def far", "\n\n    def far"),
    "what it does not use": ("return 99", "return 98"),
    "a list from outside": ("TABLE = [1, 2]", "TABLE = [3]"),
}


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of a reader's, made anew from READERS with one thing replaced."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def made(before="", after="", called=[0]):  # noqa: B006, a counter
        assert before in READERS
        called[0] += 1
        monkeypatch.delitem(sys.modules, "mine", raising=False)
        text = textwrap.dedent(READERS.replace(before, after, 1) if before else READERS)
        folder = tmp_path / str(called[0])
        folder.mkdir()
        (folder / "mine.py").write_text(text)
        monkeypatch.syspath_prepend(str(folder))
        importlib.invalidate_caches()
        return importlib.import_module("mine")

    return made


@pytest.mark.parametrize("before, after", COUNTS.values(), ids=COUNTS)
def test_a_readers_code_that_counts(before, after, module):
    assert source_of(module().MINE) != source_of(module(before, after).MINE)


@pytest.mark.parametrize("before, after", DOES_NOT.values(), ids=DOES_NOT)
def test_a_readers_words_that_do_not(before, after, module):
    assert source_of(module().MINE) == source_of(module(before, after).MINE)


DEFAULTS = """
    W = 0.1


    def mine(output, batch, w=W, *, v=(W, 1)):
        return w * v[0] * output.logits.mean()
"""


def test_what_a_default_was_counts(tmp_path, monkeypatch):
    """It is worked out where the function is defined, and its text says a name: `w=W`."""

    def made(folder, text):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "of_defaults.py").write_text(textwrap.dedent(text))
        monkeypatch.delitem(sys.modules, "of_defaults", raising=False)
        monkeypatch.syspath_prepend(str(tmp_path / folder))
        importlib.invalidate_caches()
        return source_of(importlib.import_module("of_defaults").mine)

    one = made("one", DEFAULTS)
    assert made("same", DEFAULTS) == one
    assert made("other", DEFAULTS.replace("W = 0.1", "W = 5.0")) != one
    by_keyword = DEFAULTS.replace("w=W", "w=0.1")
    assert made("third", by_keyword) != made("fourth", by_keyword.replace("W = 0.1", "W = 5.0"))


def test_what_a_function_around_it_was_given_counts(module):
    assert source_of(module().INSIDE) != source_of(module("outer(2)", "outer(3)").INSIDE)
    assert source_of(module().INSIDE) == source_of(module("outer(2)", "outer( 2 )").INSIDE)


def test_a_part_of_ones_own_is_in_the_key_by_its_fields_and_source(module):
    mine = module().Mine
    one, other = (Recipe("mine", losses=(mine(margin),)) for margin in (0.5, 0.25))
    assert key(one) != key(other) and key(one) == key(Recipe("mine", losses=(module().Mine(0.5),)))
    assert key(Recipe("mine", losses=(module("x - 1", "x - 2").Mine(0.5),))) != key(one)


def test_a_function_may_be_a_term(module):
    mine, other = module(), module("return 99", "return 98")
    one = Recipe("mine", losses=(mine.unused,))
    assert key(one) != key(Recipe("mine", losses=(other.unused,)))
    assert result.to_plain(one)["losses"][0]["is"] == "mine:unused"


@pytest.mark.parametrize(
    "held", [[1], {"a": 1}, object(), np.zeros(2), torch.nn.ReLU()], ids=lambda v: type(v).__name__
)
def test_a_part_that_has_no_key_is_refused(held):
    @dataclasses.dataclass(frozen=True)
    class Holder:
        held: object

        def __call__(self, output, batch):
            return 0

    with pytest.raises(TypeError, match="a part of a recipe is a frozen dataclass or a function, so that it has a key"):
        key(Recipe("odd", losses=(Holder(held),)))


def test_typed_at_a_prompt_it_is_known_by_its_bytecode():
    """Where there is no source: the same in every process, though sets of words have no order there."""
    found = []
    for text in ("x in {'a', 'b', 'c'}", "x in {'c', 'b', 'a'}", "x in {'a', 'b', 'd'}"):
        names = {"__name__": "prompt"}
        exec(f"def term(x):\n    return {text}", names)
        found.append(source_of(names["term"]))
    assert found[0] == found[1] != found[2] and len(digest(found[0])) == 16
    assert recipes.RECIPES is RECIPES
