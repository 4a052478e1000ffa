"""Code as digests: what of ours a run's numbers depend on, and the source of parts that a reader wrote; and names read
from it.

Digests are blind to comments and docstrings, so that words may be mended and no kept run becomes old.
"""

import ast
import contextlib
import dis
import functools
import inspect
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reidnb.files import digest

PACKAGE = Path(__file__).parent
CODE_OF_ALL = (  # that every run's numbers depend on
    *("values.py", "attributes.py", "batches.py", "losses.py", "alignment.py", "evaluation", "descriptors.py"),
    *("runtime.py", "models", "network.py", "training.py", "inference.py", "methods/parts.py", "recipes.py"),
    *("experiments.py", "datasets/splits.py"),
)
CODE_OF_SOME = ("methods", "generators")  # of these rooms a run depends on the files that its recipe's parts come from


def source_of(thing: type | types.FunctionType) -> str:
    """A digest of the source of a reader's class or function, of the functions and classes of the same notebook or
    script that it uses or inherits from, and of the plain values (numbers, words) that they take from outside. Blind
    to comments and docstrings, and to arrays, objects and other modules that they use."""
    waiting, seen, said = [thing], [], []
    while waiting:
        now = inspect.unwrap(waiting.pop())
        if now in seen:
            continue
        seen.append(now)
        functions = _functions(now)
        outside = {name: value for function in functions for name, value in (*_outside(function), *_defaults(function))}
        inside = {k: v for k, v in vars(now).items() if k[:2] != "__"} if isinstance(now, type) else {}
        plain = {k: repr(v) for k, v in (inside | outside).items() if _is_plain(v)}
        said.append([now.__qualname__, [*map(_text, functions)], sorted(plain.items())])
        others = *outside.values(), *inside.values(), *getattr(now, "__mro__", ())
        used = [inspect.unwrap(v) for v in others if callable(v)]
        waiting += [v for v in used if isinstance(v, (type, types.FunctionType)) and v.__module__ == now.__module__]
    return digest(sorted(said))


def _is_plain(given):
    return isinstance(given, (bool, int, float, str, types.NoneType)) or (
        isinstance(given, tuple) and all(map(_is_plain, given))
    )


def _functions(thing):
    """The functions of a class that were written in it, or the function itself."""
    if isinstance(thing, types.FunctionType):
        return [thing]
    wrapped = ("fget", "__func__", "func")  # of a property, a static or class method, a cached property
    members = [next((getattr(v, w) for w in wrapped if hasattr(v, w)), v) for _, v in sorted(vars(thing).items())]
    members = [inspect.unwrap(v) for v in members if callable(v)]
    return [f for f in members if isinstance(f, types.FunctionType) and f.__module__ == thing.__module__]


def _outside(function):
    """What a function takes from its notebook or script, and from functions around it, by name."""
    names = _global_names(function.__code__)
    yield from ((name, function.__globals__[name]) for name in names if name in function.__globals__)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
        with contextlib.suppress(ValueError):  # not filled yet
            yield name, cell.cell_contents


def _defaults(function):
    """What its arguments are where nobody says: worked out when it was defined, and not in its text (`w=W`)."""
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    given = dict(zip(names[::-1], (function.__defaults__ or ())[::-1])) | (function.__kwdefaults__ or {})
    yield from ((f"{function.__name__}({name})", value) for name, value in given.items())


def _global_names(code):
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    own = {step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return own.union(*map(_global_names, inner))


def _text(function):
    try:
        return _without_docstrings(ast.parse(textwrap.dedent(inspect.getsource(function))))
    except (OSError, TypeError, SyntaxError):  # typed at a prompt, or made by exec: its bytecode says it too
        return repr(_bytecode(function.__code__))


def _bytecode(code):
    consts = [_bytecode(c) if isinstance(c, types.CodeType) else c for c in code.co_consts]
    consts = [sorted(map(repr, c)) if isinstance(c, frozenset) else c for c in consts]  # in no order of its own
    return code.co_code.hex(), code.co_names, code.co_varnames, consts


def _without_docstrings(tree):
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            body.pop(0)
    return ast.dump(tree)


def code_digest(recipe: Any) -> str:
    """Of the code that a recipe's numbers depend on, blind to comments and docstrings. Of the recipes' own room the
    tables are left out: what a recipe holds is in the key by its fields. So a new method makes no kept run old."""
    return _digest_of_code(_files(CODE_OF_ALL), _files_of_parts(recipe))


def _files(parts):
    return tuple(file for part in parts for file in sorted((PACKAGE / part).rglob("*.py")) or [PACKAGE / part])


def _files_of_parts(recipe):
    """The files that a recipe's parts are written in, and what those import of the same rooms; for a reader's own
    part, which may call any of ours, all of them."""
    modules = {type(part).__module__ for part in (*recipe.parts, *filter(None, [recipe.extra]))}
    modules |= {"reidnb.methods.adaptation"} if recipe.fresh_norm else set()
    if any(not module.startswith("reidnb.") for module in modules):
        return _files(CODE_OF_SOME)
    waiting, found = [*modules], set()
    while waiting:
        room, *name = waiting.pop().split(".")[1:]
        for file in _files(["/".join([room, *name]) + ".py" * bool(name)]) if room in CODE_OF_SOME else ():
            if file not in found:
                found.add(file)
                waiting += _imported(file)
    return tuple(sorted(found))


def reads_points(recipe: Any) -> bool:
    """Whether a recipe's code has to do with key points; a reader's own part may."""
    return PACKAGE / "methods" / "keypoints.py" in _files_of_parts(recipe)


def _imported(file):
    """Modules of ours that a file imports."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "reidnb":
            yield from (f"reidnb.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("reidnb."):
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("reidnb."))


@functools.cache
def _digest_of_code(shared, own):
    texts = []
    for file in (*shared, *own):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        if file == PACKAGE / "recipes.py":
            tree.body = [node for node in tree.body if not isinstance(node, (ast.Assign, ast.ImportFrom))]
        texts.append(_without_docstrings(tree))
    return digest(*texts)


# ------------------------------------------------------------------------------------------------------ what there is

# Read from the sources, not imported: importing recipes imports torch, which takes seconds, and a slip of the finger
# should be answered at once. A test holds these to what the modules say.


@functools.cache
def recipe_titles() -> dict[str, str]:
    """The recipes and their titles, in the order of recipes.py."""
    calls = [node for node in _nodes("recipes.py") if isinstance(node, ast.Call)]
    named = [call for call in calls if getattr(call.func, "id", "") == "Recipe" and len(call.args) >= 2]
    return {call.args[0].value: call.args[1].value for call in sorted(named, key=lambda call: call.lineno)}


@functools.cache
def profile_names() -> list[str]:
    return list(_keys("PROFILES", "profiles.py"))


@functools.cache
def dataset_names() -> list[str]:
    return [*_keys("WORLDS", "datasets/*.py"), *_keys("LAYOUTS", "datasets/*.py")]


def _nodes(pattern: str) -> Iterator[ast.AST]:
    for path in sorted(PACKAGE.glob(pattern)):
        yield from ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def _keys(name: str, pattern: str) -> Iterator[str]:
    """The keys of the dict that is written out as `name = {...}`."""
    for node in _nodes(pattern):
        targets = {getattr(target, "id", "") for target in getattr(node, "targets", ())}
        if name in targets and isinstance(node.value, ast.Dict):
            yield from (key.value for key in node.value.keys)
