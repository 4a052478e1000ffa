"""Papers of the house: cards that say what lies beside the weights, one version, settings that can be read."""

import csv
import inspect
import itertools
import json
import re
import tomllib
from dataclasses import fields
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml

import reidnb
from reidnb.ledger import RESULTS

ROOT = Path(__file__).resolve().parents[1]
CARDS = ROOT / "docs" / "cards"
NOTEBOOKS = sorted((ROOT / "notebooks").rglob("[0-9]*.ipynb"))


def card(name):
    return (CARDS / f"{name}.md").read_text(encoding="utf-8")


def row(text, head):
    """The cells of the table's row that begins with some words."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {head}"))
    return [cell.strip() for cell in line.strip("| ").split("|")][1:]


def test_every_shipped_weight_has_a_line_in_a_card():
    for names, folder in ((["backbones"], "models"), (["styles", "generated"], "generators/shipped")):
        shipped = sorted(path.name for path in (ROOT / "reidnb" / folder).glob("*.safetensors"))
        lines = (re.findall(r"^\| `([\w-]+\.safetensors)`", card(name), re.MULTILINE) for name in names)
        assert shipped == sorted(itertools.chain(*lines))


@pytest.mark.parametrize("start", ["distilled", "drawn"])
def test_numbers_of_the_backbones_are_those_beside_their_weights(start):
    names = [f"small_{start}", f"small_xception_{start}"]
    notes = [json.loads((ROOT / "reidnb" / "models" / f"{name}.json").read_text()) for name in names]
    text = card("backbones").split(f"**{start.capitalize()}.**")[1]
    for head, key in (("epochs", "epochs"), ("seconds", "seconds")):
        assert row(text, head) == [str(note[key]) for note in notes]
    if start == "distilled":
        saw = {"pictures of drawn people": "people", "pieces of two": "photographs", "dead leaves": "leaves"}
        for head, key in saw.items():
            assert row(text, head) == [str(note["saw"][key]) for note in notes]
        assert row(text, "cosine") == [str(note["cosine with its teacher"]) for note in notes]
    else:
        assert row(text, "pictures") == [str(note["images"]) for note in notes]
        world = notes[0]["world"]
        assert row(text, f"mAP on {world['test_identities']} other people") == [
            str(note["mAP on its own test identities"]) for note in notes
        ]
        assert f"{world['train_identities']} people" in text and f"{world['cameras']} cameras" in text


def test_counts_of_parameters():
    from reidnb.generators import shipped_painters
    from reidnb.models import load_backbone

    for name in ("small", "small_xception"):
        count = sum(p.numel() for p in load_backbone(name).parameters())
        assert row(card("backbones"), f"`{name}_distilled")[1] == f"{count:,}"
    painters = shipped_painters()
    assert len({sum(p.numel() for p in painter.generator.parameters()) for painter in painters}) == 1
    count = sum(p.numel() for p in painters[0].generator.parameters())
    assert f"{count:,} parameters" in card("styles")
    for painter in painters:
        assert row(card("styles"), f"`{painter.path.name}")[1] == f"{painter.plan.reconstruction:g}"
        assert f"{painter.plan.steps} steps" in " ".join(card("styles").split())


def test_what_the_card_of_generated_people_says():
    from reidnb.generators import DCGAN, PTGAN, Mover, NoiseGenerator

    text = card("generated")
    for net, plan, name in ((NoiseGenerator(), DCGAN(), "dcgan"), (Mover(), PTGAN(), "ptgan")):
        line = next(line for line in text.splitlines() if line.startswith(f"| `{name}-"))
        cells = [cell.strip() for cell in line.strip("| ").split("|")]
        assert cells[2:] == [f"{sum(p.numel() for p in net.parameters()):,}", str(plan.steps)]


def test_what_the_card_of_styles_says_of_its_table():
    """A heavier cycle keeps more of the person and fools less; true copies are the best."""
    with open(ROOT / "reidnb" / "results" / "styles.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    winter = {r["copies"]: r for r in rows if r["dataset"] == "synthetic_winter"}
    truth, pairs = winter.pop("drawn anew (truth)"), winter.pop("CycleGAN, one for each pair of cameras")
    stars = [r for name, r in winter.items() if "StarGAN" in name]
    ordered = sorted(stars, key=lambda r: float(r["copies"].split()[-1]))
    assert all(float(pairs["fooled"]) > float(r["fooled"]) for r in ordered)
    kept, fooled = ([float(r[name]) for r in ordered] for name in ("styled_mAP", "fooled"))
    assert kept == sorted(kept) and fooled == sorted(fooled, reverse=True)
    assert float(truth["styled_mAP"]) > max(kept) and float(truth["fooled"]) > max(fooled)


def test_the_card_of_the_world_says_its_defaults():
    from reidnb.synthetic import Dials, make_world

    default = {name: item.default for name, item in inspect.signature(make_world).parameters.items()}
    text = card("world")
    assert row(text, "people") == [f"{default['train_identities']}, {default['test_identities']}"]
    assert row(text, "cameras") == [str(default["cameras"])]
    assert row(text, "distractors") == [f"{default['distractors']}, {default['junk']}"]
    assert row(text, "size") == ["{} x {}".format(*default["size"])]
    assert re.findall(r"`(\w+)`", row(text, "dials")[0]) == [field.name for field in fields(Dials)]


def test_what_is_said_of_runs_by_rounding_is_what_was_measured():
    once_more, runs = (pd.read_csv(RESULTS / f"{name}.csv") for name in ("arithmetic", "runs"))
    once_more = once_more[once_more.arithmetic == "bf16 by rounding"]
    same = ["recipe", "dataset", "profile", "seed"]
    both = once_more.merge(runs[runs.changes.isna()], on=same, suffixes=("", "_of_hardware"), validate="one_to_one")
    assert len(both) == len(once_more) and not both.device.str.contains("rounding").any()
    less = 100 * (both.mAP - both.mAP_of_hardware)
    said = (ROOT / "docs" / "measured.md").read_text(encoding="utf-8")
    assert f"{len(less)} runs of identification and of the baseline" in said
    assert f"{less.mean():+.1f} points of mAP on average, standard deviation {less.std():.1f}" in said


def test_what_is_said_of_two_machines_is_what_was_measured():
    again, runs, rounds = (pd.read_csv(RESULTS / f"{name}.csv") for name in ("arithmetic", "runs", "pseudo_labels"))
    again = again[again.arithmetic == "bf16, the other machine"]
    same = ["recipe", "dataset", "changes", "profile", "seed"]  # an empty "changes" is joined to an empty one
    both = again.merge(runs, on=same, suffixes=("", "_here"), validate="one_to_one")
    assert len(both) == len(again) and (both.commit != both.commit_here).all()
    less = 100 * (both.mAP - both.mAP_here)
    said = (ROOT / "docs" / "measured.md").read_text(encoding="utf-8")
    assert f"{len(less)} runs of drawn people were made by both" in said
    assert f"They differ by {(less**2).mean() ** 0.5:.1f} points of mAP (root mean square)" in said
    assert less.min() < -0.5 and less.max() > 0.5, "either way"
    direct = rounds[(rounds["round"] == 0) & rounds.dataset.str.startswith("synthetic_summer->")]
    by_torch = direct.groupby("seed").torch.nunique()
    assert (by_torch == 2).sum() == 2 and (direct.groupby("seed").mAP.nunique()[by_torch == 2] == 1).all()


def test_one_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == reidnb.__version__
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    log = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (\d+\.\d+\.\d+)(.*)$", log, re.MULTILINE)
    assert reidnb.__version__ in [version for version, _ in sections]
    ahead = [version for version, note in sections if "not released" in note]
    assert reidnb.__version__ not in ahead and ahead == [version for version, _ in sections[: len(ahead)]]


def test_hosted_ci_does_what_the_readme_says():
    flows = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / ".github" / "workflows").glob("*.yml")}
    assert set(flows) == {"ci", "book"}
    assert flows["ci"]["jobs"]["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.13"]
    said = [step.get("run", "") for flow in flows.values() for job in flow["jobs"].values() for step in job["steps"]]
    targets = {word for line in said if line.startswith("make ") for word in line.split()[1:] if "=" not in word}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert targets == {".venv/ready", "test", "book"} and all(f"\n{target}: " in makefile for target in targets)
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert container["postCreateCommand"] == "make TORCH=cpu .venv/ready"


def test_one_version_of_the_linter():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (pin,) = [line for line in project["optional-dependencies"]["test"] if line.startswith("ruff")]
    (hooks,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert pin == "ruff==" + hooks["rev"].removeprefix("v")


def test_the_slurm_profile_is_one_that_snakemake_reads():
    profile = yaml.safe_load((ROOT / "workflow" / "profiles" / "slurm" / "config.yaml").read_text())
    from snakemake.cli import get_argument_parser

    known = {word.lstrip("-") for action in get_argument_parser()._actions for word in action.option_strings}
    assert set(profile) <= known and profile["executor"] == "slurm"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_kernels_are_called_what_jupyter_calls_them(path):
    """So that opening a notebook and saving it changes nothing."""
    spec = nbformat.read(path, as_version=4).metadata.kernelspec
    assert spec == {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
