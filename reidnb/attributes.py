"""Attributes: what a dataset knows of people's looks, as questions with yes-or-no answers.

A dataset holds a row of integers an image (`Split.attributes`): age in four classes, a backpack or none, and a column
for each colour. Here every value becomes a statement that is true (1) or not (0) of a picture, and statements of which
one at most can be true make one question:

    question    statements
    backpack    backpack
    age         age=young, age=teenager, age=adult, age=old
    upcolour    upblack, upwhite, upred, ...

Market-1501 has 12 questions and 30 statements, DukeMTMC-reID 10 and 23.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

COLOURS = ("black", "white", "red", "purple", "yellow", "gray", "blue", "green", "pink", "brown")
CLASSES = {"age": ("young", "teenager", "adult", "old")}
# What "yes" means where the column's name does not say it (Lin et al., 2019: the READMEs of both label files).
WORDS = {
    "clothes": "trousers",
    "down": "bare legs",
    "up": "short sleeves",
    "top": "long upper garment",
    "hair": "long hair",
    "gender": "female",
    "shoes": "light shoes",
    "bag": "shoulder bag",
    **{f"up{colour}": f"{colour} top" for colour in COLOURS},
    **{f"down{colour}": f"{colour} bottoms" for colour in COLOURS},
}
WORN = {"up": "upcolour", "down": "downcolour"}


@dataclass(frozen=True)
class Questions:
    """M questions about a person, K statements in all.

    `groups` says which statements belong to which question, as slices of 0..K-1; `columns` and `values` are (K,): a
    statement is true where its column of `Split.attributes` has its value. `shares` (K,) are the shares of training
    images of which it is true.
    """

    names: tuple[str, ...]
    statements: tuple[str, ...]
    groups: tuple[slice, ...]
    columns: np.ndarray
    values: np.ndarray
    shares: np.ndarray

    def answers(self, attributes: np.ndarray) -> np.ndarray:
        """attributes (N, A) as a split holds them -> float32 (N, K): 1 true, 0 not true, NaN unknown.

        Unknown is what is below 0, or NaN. Raises ValueError for another shape, or values that are no whole numbers.
        """
        found = _whole_numbers(attributes)
        if found.ndim != 2 or found.shape[1] <= self.columns.max():
            raise ValueError(
                f"attributes must be (N, A), a column for each attribute of the dataset, {self.columns.max() + 1} or "
                f"more; got shape {found.shape}"
            )
        found = found[:, self.columns]
        return np.where(found < 0, np.nan, found == self.values).astype(np.float32)

    def words(self, k: int) -> str:
        """Statement k as people say it."""
        return WORDS.get(self.statements[k], self.statements[k].removeprefix("age="))

    def meaning(self, column: int, value: int) -> str:
        """What a value in a column of `Split.attributes` says, in words: what it makes true, or what it denies."""
        asked = np.flatnonzero(self.columns == column)
        if value in self.values[asked]:
            return self.words(asked[self.values[asked] == value][0])
        return f"not {self.words(asked[0])}" if len(asked) == 1 else str(value)


def _whole_numbers(attributes) -> np.ndarray:
    """As int64, NaN as -1."""
    values = np.asarray(attributes)
    if values.dtype.kind == "f":
        known = np.isfinite(values)
        if (values[known] != np.floor(values[known])).any() or np.isinf(values).any():
            raise ValueError("attributes must be whole numbers from 0, -1 or NaN where unknown; got fractions")
        return np.where(known, values, -1).astype(np.int64)
    if values.dtype.kind not in "biu":
        raise ValueError(f"attributes must be whole numbers from 0, -1 or NaN where unknown; got {attributes!r:.100}")
    return values.astype(np.int64)


def attribute_questions(dataset, only: str | Sequence[str] | None = None) -> Questions:
    """The questions that a dataset's attributes answer -> Questions; with `only`, a name or names, no others.

    Colours are told by their names (upred, downblue); of the other columns those that hold 0 and 1 are one statement,
    those that hold more a statement for each value that occurs in training. Raises ValueError for a dataset without
    attributes, or an unknown name.
    """
    if not hasattr(dataset, "train") or not hasattr(dataset, "attribute_names"):
        raise TypeError(f"wanted a dataset, as open_dataset gives it; got {type(dataset).__name__}")
    train, names = dataset.train.attributes, tuple(dataset.attribute_names)
    if train is None or not names:
        raise ValueError(
            f"{dataset.name} has no attributes. The built-in world has; for Market-1501 and DukeMTMC-reID put "
            "market_attribute.mat or duke_attribute.mat into the dataset's folder"
        )
    train = _whole_numbers(train)
    if train.ndim != 2 or train.shape[1] != len(names):
        raise ValueError(f"{dataset.name}: {len(names)} names of attributes for attributes of shape {train.shape}")
    questions = {}  # name -> list of (statement, column, value)
    for column, name in enumerate(names):
        garment = next((worn for worn in WORN if name in {worn + colour for colour in COLOURS}), None)
        highest = int(train[:, column].max(initial=0))
        labels = CLASSES.get(name, ())
        labels = labels if highest < len(labels) else [*map(str, np.unique(train[:, column][train[:, column] >= 0]))]
        if garment:
            questions.setdefault(WORN[garment], []).append((name, column, 1))
        elif highest <= 1 and name not in CLASSES:
            questions[name] = [(name, column, 1)]
        else:
            values = range(len(labels)) if name in CLASSES and highest < len(CLASSES[name]) else map(int, labels)
            questions[name] = [(f"{name}={label}", column, value) for value, label in zip(values, labels)]
    if only is not None:
        only = (only,) if isinstance(only, str) else tuple(only)
        if not only:
            raise ValueError(f"only=() asks nothing; {dataset.name} answers {', '.join(questions)}")
        if unknown := [name for name in only if name not in questions]:
            raise ValueError(
                f"{dataset.name} does not answer {', '.join(map(str, unknown))}; it answers {', '.join(questions)}"
            )
        questions = {name: questions[name] for name in questions if name in only}
    statements, columns, values = zip(*(line for lines in questions.values() for line in lines))
    ends = np.cumsum([len(lines) for lines in questions.values()]).tolist()
    groups = tuple(slice(end - len(lines), end) for end, lines in zip(ends, questions.values()))
    found = Questions(tuple(questions), statements, groups, np.array(columns), np.array(values), np.empty(0))
    answers = found.answers(train)
    known = ~np.isnan(answers)
    shares = np.where(known, answers, 0).sum(0) / np.maximum(known.sum(0), 1)
    return Questions(found.names, statements, groups, found.columns, found.values, shares)
