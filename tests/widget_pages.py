"""A small notebook of the chapters' own widget cells, with little worlds in place of datasets and trained networks."""

import json
from pathlib import Path

import nbformat

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
MARKS = ("ipywidgets.", "plots.page(", "game.play(")  # of a cell that makes widgets

# What the cells take from the cells above them. Pictures, questions and pairs are of the chapters' sizes.
STAND_INS = '''
import ast
from types import SimpleNamespace as Namespace

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import display

from reidnb import alignment, evaluation, ledger, losses, plots
from reidnb.methods.mining import choose_triplets
from reidnb.synthetic import Dials, draw, make_world



class Part(Namespace):
    def __len__(self):
        return len(self.pids)


plots.style()
dataset = "elsewhere"  # so that plots.save keeps nothing
seed, rng = 0, np.random.default_rng(0)
small = make_world(train_identities=12, test_identities=1, distractors=0, junk=0)
shots = small.shots["train"][:60]
images = np.stack([draw(small, shot).image[::2, ::2].transpose(2, 0, 1) for shot in shots])
pids = np.unique([shot.pid for shot in shots], return_inverse=True)[1] + 1
query = gallery = Part(images=images, pids=pids, camids=np.arange(60) % 6)
data = winter = Namespace(query=query, gallery=gallery)
features = torch.rand(60, 8)
result = Namespace(features=Namespace(query=features, gallery=features), scores=Namespace(ap=np.full(60, 0.5)))
few = {"train_identities": 14, "test_identities": 1, "distractors": 0, "junk": 0}

# 01, 02
points = torch.randn(12, 2, dtype=torch.float64)
d = torch.cdist(points, points)
slow_contrastive = lambda d, labels, margin: (margin - d).clamp(min=0).triu(1).sum()
slow_triplet = slow_improved_triplet = slow_quadruplet = slow_trihard = slow_msml = slow_contrastive
batch, plan, pictures = np.arange(44), Namespace(k=4), images[:44]


def wrong_labels(labels, share, rng):
    return np.where(rng.random(len(labels)) < share, rng.integers(1, 12, len(labels)), labels)


def masks(who):
    same = torch.as_tensor(who[:, None] == who)
    return same & ~torch.eye(len(who), dtype=bool), ~same


# 03 to 06
def show_pairs(q):
    pairs = [(images[q], images[q + k - 3]) for k in range(3)]
    titles = [f"{who}\\nsum 3.21" for who in ("same person, nearest", "same person, farthest", "another, nearest")]
    return plots.rigid_pairs(pairs, np.random.default_rng(q).random((3, 8)), titles)


def cards(rows):
    words = ["black top", "blue bottoms", "long hair", "backpack", "short sleeves", "teenager", "hat", "dress"]
    return plots.attribute_cards(images[rows], [[(word, bool(i % 2)) for i, word in enumerate(words)]] * len(rows))


weights = {weight: Namespace(generator=weight) for weight in (1.0, 20.0, 40.0)}
restyle = lambda weight, images, camera: np.roll(images, camera, 1) // np.uint8(1 + weight // 20)


def align(pairs, titles):
    costs = [np.abs(a.mean(0)[4::8, :8] - b.mean(0)[4::8, :8]) / 255 for a, b in pairs]
    paths = [alignment.shortest_path(torch.as_tensor(cost))[1] for cost in costs]
    return plots.alignments(pairs, costs, paths, [f"{title}\\naligned 4.05, rigid 4.21" for title in titles])


distances = torch.cdist(features, features).numpy()

# 13
words = {"id": "a", "statement": "One method beats another, in words as long as claims have them, on drawn people"}
words |= {"dataset": "synthetic", "profile": "full", "method": "baseline", "baseline": "ide", "metric": "mAP"}
words |= {"gain": 5.2, "paper_gain": 7.8, "spread": 1.8, "seeds": 3, "verdict": "holds", "decides": 0}
words |= {"q": 0.01, "sign": 1, "slack": 0.0, "notebook": 13, "note": ""}
judged = pd.DataFrame([words] * 20)
row, sides = judged.iloc[0], lambda row: (np.array([60.0, 62.0, 61.0]), np.array([55.0, 57.0, 55.5]))


def cell(source, more):
    """Run a chapter's cell with names of its own: another chapter's `look` or `which` is another one."""
    tree, own = ast.parse(source), globals() | more
    last = tree.body.pop().value
    exec(compile(tree, "cell", "exec"), own)
    display(eval(compile(ast.Expression(last), "cell", "eval"), own))
'''
# No chapter's: a picture much higher than a window.
HIGH = """
high = ipywidgets.Image(value=plots.to_png(plots.people_grid(images.reshape(12, 5, 3, 64, 32))))
plots.page(high, ipywidgets.Label("twelve people, five pictures of each"))
"""
# Names that mean one thing in a chapter and another in the next.
MORE = {"01": "{'labels': torch.arange(12) // 4}", "02": "{'labels': pids}"}


def widget_cells():
    """(chapter, source) of each widget: from the first cell that makes ipywidgets to the one that shows them."""
    found = []
    for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb")):
        begun = ""
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] == "code" and any(mark in source for mark in MARKS):
                begun += source + "\n"
                if any(mark in source for mark in MARKS[1:]):
                    found.append((path.name[:2], begun))
                    begun = ""
        assert not begun, f"{path.name} makes widgets that no plots.page or game.play shows"
    return [*found, ("--", HIGH)]


def widget_notebook():
    cells = [STAND_INS, *(f"cell({source!r}, {MORE.get(chapter, {})})" for chapter, source in widget_cells())]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return book
