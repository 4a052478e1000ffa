"""The house in order: its floors, one list of dependencies, notebooks that were run, a README that says what the
tables say."""

import ast
import graphlib
import itertools
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "reidnb"
NOTEBOOKS = sorted((ROOT / "notebooks").rglob("[0-9]*.ipynb"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# The floors of the house, from the top. A room, which is a file or a folder of reidnb/, imports rooms of floors below.
FLOORS = """
    __main__
    notebook
    pretraining copies causes clustering yours export pose_on_photographs
    experiments
    ledger
    verdicts
    result
    recipes
    methods failures profiles
    generators
    training motion
    inference video
    network
    models
    runtime
    datasets
    batches attributes descriptors
    alignment
    losses evaluation
    values sources
    files checks synthetic
"""
FLOOR = {room: -floor for floor, line in enumerate(FLOORS.strip().splitlines()) for room in line.split()}
# Beside the floors: pictures are functions of arrays, and a notebook's matter.
BESIDE = {"plots": {"files", "evaluation", "alignment", "losses", "synthetic"}}
MAY_OPEN = {"plots": {"notebook", "yours"}}


def between(text, name):
    return text.split(f"<!-- {name} -->")[1].split(f"<!-- /{name} -->")[0].strip()


def code_cells(path):
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def test_environment_yml_installs_pyproject_and_nothing_else():
    lines = [line.strip() for line in (ROOT / "environment.yml").read_text().splitlines()]
    assert [line for line in lines if line.startswith("- ")] == [
        "- conda-forge", "- python" + PROJECT["requires-python"], "- pip", "- pip:", "- --editable .[test]"
    ]  # fmt: skip


IMPORTED_AS = {"pillow": "PIL", "faiss-cpu": "faiss", "scikit-learn": "sklearn"}


def packages(lines):
    """How the packages of a list of requirements are imported."""
    names = {re.match(r"[\w-]+", line)[0].lower() for line in lines}
    return {IMPORTED_AS.get(name, name.replace("-", "_")) for name in names}


def test_every_import_of_the_package_is_a_declared_dependency():
    """The core's anywhere; an extra's only inside a function, or where its lack is said, so that the package imports
    without it."""
    core = packages(PROJECT["dependencies"]) | {"reidnb"} | sys.stdlib_module_names
    extras = packages(itertools.chain(*PROJECT["optional-dependencies"].values()))
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for functions, allowed in ((False, core), (True, core | extras)):
            for name in imports(tree, functions):
                assert name.split(".")[0] in allowed, f"{path.relative_to(ROOT)} imports {name}"


# ------------------------------------------------------------------------------------------------------- the floors


def imports(tree, functions=True):
    """The modules that a file imports, inside functions too; "from reidnb import files" is reidnb.files."""
    nodes = list(ast.walk(tree)) if functions else outside_functions(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: imports are written out in full here"
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from [name if name in MODULES else node.module for name in inside]


def outside_functions(tree):
    """What is imported when the file is, come what may: no `try: import faiss` either."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Try)):
            yield node
            yield from outside_functions(node)


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
ROOMS = {name.split(".")[1] for name in MODULES if "." in name}


def upward(name, tree):
    """What a module of the package imports that it may not, as sentences."""
    room = name.split(".")[1]
    for other in {found.split(".")[1] for found in imports(tree) if found.startswith("reidnb.")} - {room}:
        below = other in BESIDE[room] if room in BESIDE else FLOOR.get(other, 1) < FLOOR[room]
        opened = room in MAY_OPEN[other] if other in MAY_OPEN else below
        if not opened:
            yield f"{name} imports {other}, which does not lie below it"


def test_every_room_has_a_floor_and_every_floor_is_lived_on():
    assert set(FLOOR) | set(BESIDE) == ROOMS


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"reidnb"}))
def test_a_room_imports_only_rooms_below(name):
    assert not list(upward(name, TREES[name]))


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("reidnb.files", "def f():\n    from reidnb import experiments"),
        ("reidnb.training", "from reidnb.methods.metric import TriHard"),
        ("reidnb.plots.maps", "from reidnb.datasets import open_dataset"),
        ("reidnb.experiments", "import reidnb.plots"),
        ("reidnb.losses", "from reidnb.alignment import local_distances"),
        ("reidnb.losses", "from reidnb.evaluation import euclidean_distances"),  # a floor is no corridor
        ("reidnb.losses", "from reidnb.nowhere import f"),
    ],
)
def test_an_upward_arrow_is_seen(name, source):
    assert len(list(upward(name, ast.parse(source)))) == 1


def test_what_lies_below_is_allowed():
    source = (
        "from reidnb import __version__, files\nimport numpy\ndef f():\n    from reidnb.evaluation import evaluate\n"
    )
    assert not list(upward("reidnb.plots.maps", ast.parse(source)))
    assert not list(upward("reidnb.notebook", ast.parse(source + "from reidnb import plots, experiments")))


def test_no_circle_of_files():
    """Within a room, too, where its face, `__init__`, imports the others and they each other."""
    graph = {name: {found for found in imports(tree) if found in MODULES} for name, tree in TREES.items()}
    order = list(graphlib.TopologicalSorter(graph).static_order())  # CycleError names the circle
    assert order.index("reidnb.files") < order.index("reidnb.experiments")


def test_no_file_is_long():
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES.values()}
    assert not {path.name: n for path, n in lines.items() if n > 400}
    # The world, the datasets and the pictures are long and simple; the rest should read in an afternoon.
    rest = [n for path, n in lines.items() if not {"synthetic", "datasets", "plots"} & set(path.parts)]
    assert sum(rest) <= 12_600, (
        f"{sum(rest)} lines"
    )  # a third is methods and generators, a file each; much of the rest refuses bad input


def test_names_are_listed_in_faces_alone():
    """`__all__` outside `__init__.py` is a second list of what a file's first lines already say."""
    for name, path in MODULES.items():
        assert path.name == "__init__.py" or "__all__" not in names_bound(TREES[name]), name


def names_bound(tree):
    assigned = [node for node in tree.body if isinstance(node, ast.Assign)]
    return {target.id for node in assigned for target in node.targets if isinstance(target, ast.Name)}


def private_names(tree):
    """The private names of reidnb that a file outside asks for, by import or as `module._name`."""
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "reidnb":
            yield from (alias.name for alias in node.names if re.match(r"_(?!_)", alias.name))
            modules |= {alias.asname or alias.name for alias in node.names if f"{node.module}.{alias.name}" in MODULES}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            yield from [node.attr] * bool(re.match(r"_(?!_)", node.attr))


@pytest.mark.parametrize("name", sorted(MODULES))
def test_no_private_name_crosses_a_file(name):
    assert not list(private_names(TREES[name]))


def test_a_private_name_is_seen():
    source = "from reidnb import files\nfrom reidnb.files import _a\nfiles._b()\nfiles.__doc__, other._c"
    assert list(private_names(ast.parse(source))) == ["_a", "_b"]


def test_no_helper_is_defined_twice():
    """Neither one name for two public functions of different files, nor one body under two names.

    Some words mean what their room makes of them: a picture and a run are saved by different functions.
    """
    said_with_their_room = {"load", "save", "prepare", "claims", "make_world", "cut", "agreement", "whole"}
    said_with_their_room |= {"critic_terms", "generator_terms"}
    homes, bodies = {}, {}
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                lines = [line for line in node.body if not is_docstring(line)]
                if len(lines) > 1:
                    bodies.setdefault(ast.dump(ast.Module([node.args, *lines], [])), set()).add(f"{name}.{node.name}")
        if name != "reidnb.__main__":  # its functions are commands, and call what they are named after
            public = [node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
            for helper in public:
                if not helper.startswith("_") and helper not in said_with_their_room:
                    homes.setdefault(helper, set()).add(name)
    assert not [f"{helper} in {sorted(where)}" for helper, where in homes.items() if len(where) > 1]
    assert not [sorted(where) for where in bodies.values() if len(where) > 1]


def is_docstring(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


# ---------------------------------------------------------------------------------------------- tests and notebooks


def test_exact_pins_of_what_nbval_lives_in():
    test = {re.match(r"[\w-]+", line)[0]: line for line in PROJECT["optional-dependencies"]["test"]}
    assert all("==" in test[name] for name in ("nbval", "pytest", "ipykernel", "jupyter_client"))


def test_readme_names_the_test_command_that_ci_runs():
    ci = (ROOT / ".ci" / "run").read_text()
    lines = ci.splitlines()
    assert "make lint" in lines and "make test" in lines and "make test" in README and "make reproduce" in README


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_notebook_was_run_from_a_clean_kernel(path):
    cells = [cell for cell in code_cells(path) if "".join(cell["source"]).strip()]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"]
    assert path.stat().st_size < 1_000_000
    # Of two runs no two objects share an address: nbval could never find such an output again.
    compared = [c for c in cells if "nbval-ignore-output" not in c["metadata"].get("tags", [])]
    shown = json.dumps([output for cell in compared for output in cell["outputs"]])
    assert not re.search(r" at 0x[0-9a-f]{6}", shown)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_notebook_cells_are_short_and_parameters_are_literals(path):
    cells = code_cells(path)
    lines = ["".join(cell["source"]).splitlines() for cell in cells]
    assert max(map(len, lines)) <= 25
    assert not [line for cell in lines for line in cell if len(line) > 100], "cut off on the page"
    if path.parent.name == "solutions":
        return
    about = json.loads(path.read_text(encoding="utf-8"))["metadata"]["reidnb"]
    assert type(about["seconds"]) is int, "the batch takes the longest first, and wants a number"
    tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1
    for statement in ast.parse("".join(tagged[0]["source"])).body:
        assert isinstance(statement, ast.Assign)
        ast.literal_eval(statement.value)


def test_readme_tables_say_what_results_say():
    from reidnb import ledger  # here: the house is looked at without being entered

    runs = ledger.read_runs(PACKAGE / "results" / "runs.csv")
    judged = ledger.judge(runs)
    for name, text in ledger.pages(runs, judged).items():
        assert (PACKAGE / "results" / f"{name}.md").read_text(encoding="utf-8") == text
    assert between(README, "findings") == ledger.findings(judged)
    verdicts = ledger.count_verdicts(judged)
    assert between(README, "verdicts") == ledger.markdown(verdicts.rename_axis("").reset_index())
    assert verdicts.to_numpy().sum() == (~judged.note.str.contains("follows from")).sum(), "each counted once"


def test_readme_is_one_page():
    assert len(README.splitlines()) <= 120


def test_readme_lists_every_notebook():
    for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"):
        assert f"notebooks/{path.name}" in between(README, "notebooks")


def test_every_picture_the_readme_shows_is_there():
    for name in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize(
    ("parameter", "value", "said"),
    [
        ("profile", "fast", "quick, full"),
        ("dataset", "market", "market1501"),
        ("seed", "-1", "from 0"),
        ("device", "gpu", "cpu"),
    ],
)
def test_notebook_refuses_a_bad_parameter(tmp_path, parameter, value, said):
    ran = subprocess.run(
        [sys.executable, "-m", "papermill", "--cwd", "notebooks", "-p", parameter, value, "--no-progress-bar",
         "notebooks/00_start_here.ipynb", str(tmp_path / "out.ipynb")],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 1 and "ValueError" in ran.stderr and said in ran.stderr


@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if p.parent.name == "notebooks"], ids=lambda path: path.stem)
def test_every_notebook_checks_its_parameters_first(path):
    """In its second cell, which is short: what a section needs is imported there."""
    cell = "".join(code_cells(path)[1]["source"])
    assert re.search(r"\bsetup\(profile, dataset, seed, device\)", cell) and len(re.findall(r"(?m)^.+$", cell)) <= 10
    for work in ("open_dataset(", "experiments.run(", "results(", "claims("):
        assert work not in cell or cell.index("setup(profile") < cell.index(work)


def test_the_batch_bears_a_space_in_its_path():
    batch = (ROOT / "workflow" / "Snakefile").read_text(encoding="utf-8")
    assert "{sys.executable:q} -m reidnb run" in batch and "{sys.executable}" not in batch
