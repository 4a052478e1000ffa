"""Installed it works like the checkout: from a wheel, in an empty folder, without the extras."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from reidnb import __version__

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = (
    "jupyterlab",
    "ipywidgets",
    "papermill",
    "snakemake",
    "matplotlib_inline",
    "faiss",
    "h5py",
    "pytest",
)


def copy_of_the_checkout(folder):
    for name in ("reidnb", "pyproject.toml", "README.md", "LICENSE"):
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, folder / name)
    return folder


def build(hook, source, folder):
    """A wheel by the project's own build backend: what pip does, without its isolation, which would need a network."""
    code = f"import setuptools.build_meta as backend; print(backend.{hook}({str(folder)!r}))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return folder / ran.stdout.split()[-1]


def install(wheel, folder):
    """An environment with the wheel in it, which is unpacked there, and with what this environment has beside reidnb:
    its folder is on the path, but the .pth files in it, such as an editable reidnb's, are not read."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    ask = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    packages = Path(subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout.strip())
    zipfile.ZipFile(wheel).extractall(packages)
    others = {sysconfig.get_paths()[kind] for kind in ("purelib", "platlib")}
    (packages / "others.pth").write_text("\n".join(others))
    return SimpleNamespace(python=python, packages=packages)


def without_settings():
    """The environment of someone who never heard of this checkout."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "REIDNB"))}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    source = copy_of_the_checkout(tmp_path_factory.mktemp("source"))
    return build("build_wheel", source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Runs Python where the wheel is installed, in an empty folder."""
    where = install(wheel, tmp_path_factory.mktemp("installed"))
    where.folder = tmp_path_factory.mktemp("empty")
    env = without_settings() | {"REIDNB_CACHE": str(where.folder / "cache"), "OMP_NUM_THREADS": "1"}

    def run(*arguments):
        return subprocess.run(
            [where.python, *arguments], cwd=where.folder, env=env, capture_output=True, text=True, timeout=120
        )

    where.run = run
    return where


def test_the_wheel_holds_the_package_and_its_data_alone(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    kinds = (".py", ".toml", ".csv", ".md", ".safetensors", ".json")
    wanted = {str(path.relative_to(ROOT)) for path in (ROOT / "reidnb").rglob("*") if path.suffix in kinds}
    assert wanted <= names and {"reidnb/papers.toml", "reidnb/results/runs.csv"} <= wanted
    assert all(re.match(r"reidnb(-[\d.]+\.dist-info)?/", name) for name in names - wanted)


def test_list_in_an_empty_folder(installed):
    ran = installed.run("-m", "reidnb", "list")
    assert ran.returncode == 0 and "Identification (IDE)" in ran.stdout and not ran.stderr


SCRIPT = """
import json, sys
sys.modules |= dict.fromkeys(json.loads(sys.argv[1]))  # whoever imports one of these gets an ImportError
from importlib.metadata import entry_points
import reidnb
from reidnb.experiments import claims

(script,) = entry_points(group="console_scripts", name="reidnb")
main = script.load()
ledger = claims()
tiny = "train_identities=8 test_identities=6 distractors=0 junk=0 p=4 epochs=1 warmup=0.0".split()
codes = [main(["tables"]), main(["run", "ide", "--set", *tiny])]
try:
    import reidnb.evaluation.search
except ImportError as problem:
    print(problem)
print(json.dumps({"file": reidnb.__file__, "verdicts": ledger.verdict.tolist(), "codes": codes}))
"""


def test_claims_tables_and_a_run_from_a_wheel_without_extras(installed):
    ran = installed.run("-c", SCRIPT, json.dumps(EXTRAS))
    assert ran.returncode == 0, ran.stderr
    said = ran.stdout.splitlines()
    found = json.loads(said[-1])
    assert Path(found["file"]).is_relative_to(installed.packages), "not the checkout"
    assert found["codes"] == [0, 0], ran.stderr
    assert len(found["verdicts"]) > 100 and {"holds", "undecided"} <= set(found["verdicts"]), "it reads the results"
    assert said[0] == "reidnb is installed, not a checkout: the tables go to build/tables; the package's own stay"
    assert re.match(r"\d+ runs: build/tables/runs.csv", said[1])
    assert re.match(r"ide, .*train_identities=8.* on synthetic, seed 0: .*mAP", said[2])
    assert "pip install 'reidnb[search]'" in said[3], "an extra that is not there is named"
    written = (installed.folder / "build" / "tables" / "claims.md").read_text(encoding="utf-8")
    assert written == (ROOT / "reidnb" / "results" / "claims.md").read_text(encoding="utf-8")
    assert {path.name for path in installed.folder.iterdir()} == {"build", "cache"}, "nothing else is written here"


def test_a_clone_called_reidnb_does_not_hide_the_package(tmp_path):
    """Python puts the working folder first on its path, and takes the clone in it for a package without content, unless
    a real one follows on a plain path."""
    clone = tmp_path / "reidnb"
    clone.mkdir()
    copy_of_the_checkout(clone)
    where = install(build("build_editable", clone, tmp_path), tmp_path / "environment")
    ran = subprocess.run(
        [where.python, "-c", "from reidnb import __version__, __file__; print(__version__, __file__)"],
        cwd=tmp_path,
        env=without_settings(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.stdout.split(" ", 1) == [__version__, f"{clone / 'reidnb' / '__init__.py'}\n"], ran.stderr


def test_the_extras_are_those_of_the_design():
    extras = PROJECT["optional-dependencies"]
    assert {"notebooks", "search", "cuhk03", "imagenet", "test"} <= set(extras)
    assert any(re.fullmatch(r"reidnb\[.*notebooks.*search.*\]", line) for line in extras["test"])
    core = " ".join(PROJECT["dependencies"])
    assert not [name for name in ("jupyter", "snakemake", "papermill", "faiss", "h5py") if name in core]
