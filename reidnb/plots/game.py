"""The human performance game of AlignedReID (section 5): can you find a person better than the network?

A round shows a query and candidates, the network's nearest with the truth put in, shuffled. `play` is the page, and
needs ipywidgets.
"""

import io
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from reidnb.evaluation import valid_gallery
from reidnb.plots.figures import BLUE, GREEN, RED, finite, to_png
from reidnb.plots.pictures import as_picture, people_grid
from reidnb.plots.widgets import Page, page

LETTERS = "abcdefghijklmnopqrstuvwxyz"
EDGE = 3  # pixels of a frame
NARROWEST = 48  # pixels: a button below it has place for a tick and a letter


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


def play(game: Game, query, gallery, height: int = 136) -> Page:
    """The game as a page of ipywidgets: the query, the candidates with a button each, and the score so far.

    A guess frames the right pictures in green, with a tick, and a wrong choice in red, with a cross; the button "next
    round", which then has the keyboard, goes on. At `height` pixels eleven pictures stand in a row of JupyterLab in a
    window of 1280. The still picture of the page is the first round.
    """
    try:
        import ipywidgets
    except ImportError as error:
        raise ImportError("the game needs ipywidgets: pip install 'reidnb[notebooks]'") from error
    if not game.rounds:
        raise ValueError("a game needs a round: make some with make_round")
    most = max(len(turn.candidates) for turn in game.rounds)
    names = LETTERS if most <= len(LETTERS) else [str(i + 1) for i in range(most)]
    high, wide = query.images.shape[-2:]
    width = max((height - 2 * EDGE) * wide // high + 2 * EDGE, NARROWEST)
    size = {"height": f"{height}px", "width": f"{width}px", "object_fit": "contain"}
    person, *pictures = [ipywidgets.Image(format="png", layout=size) for _ in range(most + 1)]
    person.layout.border = f"{EDGE}px solid {BLUE}"
    buttons = [ipywidgets.Button(tooltip=f"choose {name}", layout={"width": "auto"}) for name in names[:most]]
    boxes = [ipywidgets.VBox([p, b]) for p, b in zip(pictures, buttons)]
    candidates = ipywidgets.HBox(boxes, layout={"flex_flow": "row wrap", "flex": "1 1 0"})
    onward, said = ipywidgets.Button(description="next round", layout={"width": "9em"}), ipywidgets.HTML()

    def ask(turn):
        now = game.rounds[turn]
        candidates.children = boxes[: len(now.candidates)]
        person.value = _png(query.images[now.query])
        for name, picture, button, candidate in zip(names, pictures, buttons, now.candidates):
            picture.value, picture.layout.border = _png(gallery.images[candidate]), f"{EDGE}px solid transparent"
            button.description, button.button_style = name, ""
        said.value = f"Round {turn + 1} of {len(game.rounds)}: who is the person in the blue frame?"
        onward.disabled = True

    def tell():
        """Mark the answer of the round just played."""
        now, place = game.rounds[len(game.answers) - 1], game.answers[-1]
        right = np.flatnonzero(now.right)
        for i in {place, *right}:
            sign, colour, style = ("✓", GREEN, "success") if now.right[i] else ("✗", RED, "danger")
            pictures[i].layout.border = f"{EDGE}px solid {colour}"
            buttons[i].description, buttons[i].button_style = f"{sign} {names[i]}", style
        remark = "Right!" if now.right[place] else f"Somebody else: it was {' and '.join(names[i] for i in right)}."
        network = f"The network took {names[now.networks]}: {'right' if now.right[now.networks] else 'wrong'}."
        yours, networks = game.score()
        score = f"you {yours:.0%}, the network {networks:.0%} right after {len(game.answers)} of {len(game.rounds)}"
        said.value = f"{remark} {network} So far {score}."
        onward.disabled = game.done

    def choose(place):
        if onward.disabled and not game.done:  # else this round has its answer
            game.answer(place)
            tell()
            onward.focus()

    def go_on(_):
        ask(len(game.answers))
        buttons[0].focus()

    for place, button in enumerate(buttons):
        button.on_click(lambda _, place=place: choose(place))
    onward.on_click(go_on)
    ask(min(len(game.answers), len(game.rounds) - 1))
    if game.done:
        tell()
    first = game.rounds[0]
    shown = [query.images[first.query], *gallery.images[first.candidates]]
    still = to_png(people_grid([shown], None, ["query", *names[: len(first.candidates)]]))
    asked = ipywidgets.VBox([person, ipywidgets.Label("query", layout={"align_self": "center"})])
    return page(ipywidgets.HBox([asked, candidates]), said, onward, still=still)


def _png(image, enlarge=3):
    """An image (3, H, W) uint8 as PNG bytes, large enough for eyes."""
    picture = Image.fromarray(np.ascontiguousarray(as_picture(image)))
    buffer = io.BytesIO()
    picture.resize((enlarge * picture.width, enlarge * picture.height), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()
