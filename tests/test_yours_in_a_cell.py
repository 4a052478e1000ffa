"""A loss and a head that a reader writes, in a script and in a notebook: trained once, kept, and in the tables."""

import re
import textwrap

import nbformat
import pytest
from nbclient import NotebookClient
from tiny_world import said_by, start

from reidnb.ledger import results, run_name, summarise
from reidnb.result import kept_results

PARTS = """
    import logging, sys
    from dataclasses import dataclass

    import torch
    import torch.nn.functional as F
    from torch import nn

    from reidnb import evaluation, losses
    from reidnb.experiments import run
    from reidnb.methods import Identity
    from reidnb.recipes import Recipe

    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout, force=True)

    def squeeze(distances):
        return distances.square()  # the square of a distance

    @dataclass(frozen=True)
    class Pull:
        '''Everybody who is one person comes together.'''
        weight: float = 0.1
        key, pairs = "pull", True

        def __call__(self, output, batch):
            same = batch.labels[:, None] == batch.labels
            return self.weight * squeeze(losses.pairwise_distances(output.features))[same].mean()

    class Halves(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.norm = nn.BatchNorm1d(channels)

        def forward(self, output):
            upper = output.map[:, :, : output.map.shape[2] // 2].float().mean((2, 3))
            return {"upper": self.norm(upper)}

    @dataclass(frozen=True)
    class UpperBody:
        '''A head: the upper half alone, and how well it finds people.'''
        key, gives, outputs = "upper", ("upper",), ("upper",)

        def build(self, channels, facts):
            return Halves(channels)

        def test(self, query, gallery, trial):
            distances = evaluation.euclidean_distances(query["upper"], gallery["upper"])
            found = evaluation.evaluate(distances, *trial.data.ids)
            return {"scores": {"mine": found}, "numbers": {"mine_best": distances.min()}}

    @dataclass(frozen=True)
    class UpperTriHard:
        margin: float = 0.3
        key, pairs, needs = "upper_trihard", True, ("upper",)

        def __call__(self, output, batch):
            return losses.trihard_loss(output.upper, batch.labels, self.margin)
"""
RUN = """
    WORLD = {"train_identities": 12, "test_identities": 6, "distractors": 4, "junk": 2}
    mine = Recipe("mine", "My own", heads=(UpperBody(),), losses=(Identity(), Pull(), UpperTriHard()))
    found = run(mine, epochs=2, p=4, device="cpu", **WORLD)
    picture = found.data().query.images[:1]
    assert abs(found.embed(picture, "cpu") - found.features.query[:1]).max() < 1e-5
    print("FOUND", found.key, found.history[-1]["pull"], found.history[-1]["upper_trihard"],
          found.extra_scores["mine"].mAP, found.row()["mine_mAP"], found.row()["mine_best"])
"""


def script(path, before="", after=""):
    """A reader's script, with one thing in it changed."""
    assert not before or PARTS.count(before) == 1
    path.write_text(textwrap.dedent(PARTS.replace(before, after) if before else PARTS) + textwrap.dedent(RUN))
    return path


def outcome(said):
    """Whether it trained, and the line of its result."""
    return "mine epoch 2/2" in said, re.search(r"FOUND (\S+) .*", said)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A cache, and what the first process said: it trained."""
    folder = tmp_path_factory.mktemp("yours")
    trained, found = outcome(said_by(start(script(folder / "first.py"), folder / "cache")))
    assert trained
    return folder, found


def test_the_second_process_finds_what_the_first_has_made(home, tmp_path):
    """Though its class is defined anew there, in another file, with other comments and another docstring."""
    folder, found = home
    (kept,) = (folder / "cache" / "runs").glob("*.npz")
    written = kept.stat().st_mtime_ns
    again = script(tmp_path / "second.py", "  # the square of a distance", "\n        # squared, as in the paper")
    again.write_text(again.read_text().replace("'''Everybody who is one person comes together.'''", "'''Another.'''"))
    trained, theirs = outcome(said_by(start(again, folder / "cache")))
    assert not trained and theirs[0] == found[0] and kept.stat().st_mtime_ns == written


CHANGES = {
    "its method": ("self.weight * squeeze", "2 * self.weight * squeeze"),
    "a helper that it calls": ("distances.square()", "distances.abs()"),
    "a module that the head builds": ("// 2]", "// 4]"),
    "its distance at test": ("euclidean_distances(query", "euclidean_distances(-query"),
    "a field": ("weight: float = 0.1", "weight: float = 0.2"),
}
KEY_ALONE = """
    from types import SimpleNamespace
    from reidnb.result import key_of_run
    data = SimpleNamespace(name="world", fingerprint="abc", attribute_names=(), options={})
    mine = Recipe("mine", "My own", heads=(UpperBody(),), losses=(Identity(), Pull(), UpperTriHard()))
    print("KEY", key_of_run(mine, data, 0, torch.device("cpu")))
"""


def test_other_code_is_another_run(home, tmp_path):
    """Not trained here: the keys alone, all of one process, a script after the other in its main module."""
    paths = [script(tmp_path / "plain.py"), script(tmp_path / "again.py", "# the square of", "# squared:")]
    paths += [script(tmp_path / f"{i}.py", *change) for i, change in enumerate(CHANGES.values())]
    for path in paths:
        path.write_text(path.read_text().split("\nWORLD =")[0] + textwrap.dedent(KEY_ALONE))
    every = f"import runpy\nfor path in {[*map(str, paths)]!r}:\n    runpy.run_path(path, run_name='__main__')"
    plain, again, *changed = re.findall(r"KEY (\S+)", said_by(start(every, home[0] / "cache")))
    assert plain == again and len({plain, *changed}) == 1 + len(CHANGES)


def test_it_stands_in_the_tables_of_who_does_not_have_the_class(home, monkeypatch):
    monkeypatch.setenv("REIDNB_CACHE", str(home[0] / "cache"))
    table = results()
    (row,) = table[table.recipe == "mine"].to_dict("records")
    assert 0 < row["mine_mAP"] <= 1 and row["key"] == home[1][1] and 0 < row["mine_best"] < 10
    line = summarise(table[table.recipe == "mine"]).iloc[0]
    assert line.mAP == f"{100 * row['mAP']:.1f}" and run_name(line.recipe, line.changes).startswith("mine, ")
    (found,) = kept_results()
    assert found.recipe is None and found.name == "mine"
    with pytest.raises(ValueError, match=r"mine has a part that is defined in a notebook: run\(\) it there"):
        found.model()


def notebook(*cells):
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(textwrap.dedent(text)) for text in cells])


def said_in(cell):
    return "".join(output.get("text", "") for output in cell.outputs)


def test_in_a_notebook(home, monkeypatch):
    """Cells instead of a file: the run that the script made; and a class that is defined anew in the kernel is still
    the same, or another one."""
    monkeypatch.setenv("REIDNB_CACHE", str(home[0] / "cache"))
    book = notebook(PARTS, RUN, PARTS, RUN, PARTS.replace("distances.square()", "distances.abs()"), RUN)
    NotebookClient(book, timeout=240, kernel_name="python3").execute()
    first, second, third = (outcome(said_in(book.cells[i])) for i in (1, 3, 5))
    assert not first[0] and not second[0] and first[1][0] == second[1][0] == home[1][0]
    assert third[0] and third[1][1] != home[1][1]
