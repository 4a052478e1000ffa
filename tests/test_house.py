"""The house in order: one list of dependencies, notebooks that were run, a README that says what results/ says."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from reidnb import tables

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").rglob("[0-9]*.ipynb"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def between(text, name):
    return text.split(f"<!-- {name} -->")[1].split(f"<!-- /{name} -->")[0].strip()


def code_cells(path):
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def test_environment_yml_installs_pyproject_and_nothing_else():
    lines = [line.strip() for line in (ROOT / "environment.yml").read_text().splitlines()]
    assert [line for line in lines if line.startswith("- ")] == [
        "- conda-forge", "- python" + PROJECT["requires-python"], "- pip", "- pip:", "- --editable .[test]"
    ]  # fmt: skip


def test_every_import_of_the_package_is_a_declared_dependency():
    declared = {re.match(r"[\w-]+", line)[0].lower().replace("-", "_") for line in PROJECT["dependencies"]}
    imported_as = {"pillow": "PIL", "faiss_cpu": "faiss", "scikit_learn": "sklearn"}
    declared = {imported_as.get(name, name) for name in declared} | {"reidnb"}
    for path in (ROOT / "reidnb").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            else:
                continue
            for name in names:
                top = name.split(".")[0]
                assert top in declared or top in sys.stdlib_module_names, f"{path.name} imports {name}"


def test_exact_pins_of_what_nbval_lives_in():
    test = {re.match(r"[\w-]+", line)[0]: line for line in PROJECT["optional-dependencies"]["test"]}
    assert all("==" in test[name] for name in ("nbval", "pytest", "ipykernel", "jupyter_client"))


def test_readme_names_the_test_command_that_ci_runs():
    ci = (ROOT / ".ci" / "run").read_text()
    assert "\nmake test\n" in ci and "make test" in README and "make reproduce" in README


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
    assert max(len("".join(cell["source"]).splitlines()) for cell in cells) <= 25
    if path.parent.name == "solutions":
        return
    tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1
    for statement in ast.parse("".join(tagged[0]["source"])).body:
        assert isinstance(statement, ast.Assign)
        ast.literal_eval(statement.value)


def test_readme_tables_say_what_results_say():
    runs = tables.read_runs(ROOT / "results" / "runs.csv")
    plain = tables.summarise(runs[runs.changes == ""]).drop(columns="changes")
    assert between(README, "results") == tables.markdown(plain)
    assert (ROOT / "results" / "results.md").read_text() == tables.markdown(tables.summarise(runs)) + "\n"
    ledger = tables.judge(runs)
    assert between(README, "claims") == tables.markdown(tables.show_claims(ledger))
    verdicts = tables.count_verdicts(ledger)
    assert between(README, "verdicts") == tables.markdown(verdicts.rename_axis("").reset_index())
    assert verdicts.to_numpy().sum() == len(ledger)


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
    setup = "".join(code_cells(path)[1]["source"])
    assert "experiments.check_parameters(profile, dataset, seed, device)" in setup
    for work in ("open_dataset(", "experiments.run(", "experiments.results(", "experiments.claims("):
        assert work not in setup or setup.index("check_parameters") < setup.index(work)


def test_command_line_says_what_is_wrong_in_one_line():
    ran = subprocess.run(
        [sys.executable, "-m", "reidnb", "run", "basline"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 2 and "did you mean 'baseline'" in ran.stderr and "Traceback" not in ran.stderr
