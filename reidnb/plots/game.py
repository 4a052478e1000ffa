"""The human performance game of AlignedReID (section 5): can you find a person better than the network?

A round shows a query and candidates, the network's nearest with the truth put in, shuffled. `play` is the page, and
needs ipywidgets.
"""

import io
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from reidnb.evaluation import valid_gallery
from reidnb.plots.figures import finite
from reidnb.plots.pictures import as_picture


@dataclass(frozen=True)
class Round:
    """One question: gallery indices in the order shown, which of them are right, and which the network would take."""

    query: int
    candidates: np.ndarray  # (C,) gallery indices, shuffled
    right: np.ndarray  # bool (C,)
    networks: int  # the place of the network's own nearest


def make_round(distances, query, gallery, q: int, rng: np.random.Generator, candidates: int = 10) -> Round:
    """A Round for query q from its row of distances (G,).

    query, gallery: Splits, or anything with pids and camids. The `candidates` nearest images that the protocol counts
    are shown; if none of them is right, the farthest gives way to the nearest right one (as for CUHK03 in the paper).
    Raises ValueError for a query without any right image, or a row that does not belong to the gallery.
    """
    if candidates < 1:
        raise ValueError(f"candidates must be at least 1, got {candidates}")
    distances = finite(distances, "distances", (len(gallery.pids),))
    seen = np.flatnonzero(valid_gallery(query.pids[q], query.camids[q], gallery.pids, gallery.camids))
    order, same = seen[np.argsort(distances[seen], kind="stable")], gallery.pids == query.pids[q]
    if not same[order].any():
        raise ValueError(f"query {q} has no right image in another camera: choose another one")
    shown = order[:candidates].copy()
    if not same[shown].any():
        shown[-1] = order[same[order]][0]
    shuffled = rng.permutation(len(shown))
    return Round(int(q), shown[shuffled], same[shown[shuffled]], int(np.argmin(shuffled)))


@dataclass
class Game:
    """The score so far."""

    rounds: list
    answers: list = field(default_factory=list)  # the place chosen in each round

    @property
    def done(self) -> bool:
        return len(self.answers) == len(self.rounds)

    def answer(self, place: int) -> bool:
        """Choose the picture at `place` of the present round -> whether it is right. Ignored after the last one."""
        if self.done:
            return False
        self.answers.append(int(place))
        return bool(self.rounds[len(self.answers) - 1].right[place])

    def score(self) -> tuple[float, float]:
        """(reader's Rank-1, network's Rank-1) over the rounds answered, shares; NaN before the first."""
        asked = self.rounds[: len(self.answers)]
        yours = [r.right[a] for r, a in zip(asked, self.answers)]
        networks = [r.right[r.networks] for r in asked]
        return (float(np.mean(yours)), float(np.mean(networks))) if asked else (float("nan"), float("nan"))


def play(game: Game, query, gallery, height: int = 150):
    """The game as a page of ipywidgets: the query, the candidates with a button each, and the score so far."""
    try:
        import ipywidgets
    except ImportError as error:
        raise ImportError("the game needs ipywidgets: pip install 'reidnb[notebooks]'") from error
    if not game.rounds:
        raise ValueError("a game needs a round: make some with make_round")
    most = max(len(turn.candidates) for turn in game.rounds)
    pictures = [ipywidgets.Image(format="png", height=height) for _ in range(most)]
    buttons = [ipywidgets.Button(description="this one", layout={"width": "5.5em"}) for _ in pictures]
    boxes = [ipywidgets.VBox([p, b]) for p, b in zip(pictures, buttons)]
    candidates = ipywidgets.HBox(boxes)
    person, said = ipywidgets.Image(format="png", height=height), ipywidgets.HTML()

    def show(remark=""):
        yours, networks = game.score()
        score = f"you {yours:.0%}, the network {networks:.0%} right after {len(game.answers)} of {len(game.rounds)}"
        said.value = f"<p>{remark} {score if game.answers else 'Who is the person on the left?'}</p>"
        if game.done:
            for button in buttons:
                button.disabled = True
            return
        now = game.rounds[len(game.answers)]
        candidates.children = boxes[: len(now.candidates)]
        person.value = _png(query.images[now.query])
        for picture, candidate in zip(pictures, now.candidates):
            picture.value = _png(gallery.images[candidate])

    for place, button in enumerate(buttons):
        button.on_click(lambda _, place=place: show("Right!" if game.answer(place) else "Somebody else."))
    show()
    return ipywidgets.VBox([ipywidgets.HBox([person, ipywidgets.Label("\u2003"), candidates]), said])


def _png(image, enlarge=3):
    """An image (3, H, W) uint8 as PNG bytes, large enough for eyes."""
    picture = Image.fromarray(np.ascontiguousarray(as_picture(image)))
    buffer = io.BytesIO()
    picture.resize((enlarge * picture.width, enlarge * picture.height), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()
