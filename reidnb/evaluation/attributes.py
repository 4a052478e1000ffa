"""How well are attributes recognised? Accuracy is not enough: "nobody wears a hat" is right 97 times in 100."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reidnb.evaluation.inputs import EqualByValue, matrix


@dataclass(frozen=True, eq=False)
class AttributeScores(EqualByValue):
    """Scores of K statements, each an array (K,) in [0, 1].

    `share`: how many of the images are true; `accuracy`; `balanced`, the mean of the shares found among the true and
    among the untrue images (the literature's mean accuracy, mA; 0.5 for a constant answer); `f1` of precision and
    recall among the true ones; `ap`, the average precision of the ranking by logit, which no threshold moves. NaN
    where nothing is known, f1 where no image is true, balanced and ap also where all are.
    """

    share: np.ndarray
    accuracy: np.ndarray
    balanced: np.ndarray
    f1: np.ndarray
    ap: np.ndarray


def decide(logits, groups: Sequence[slice]) -> np.ndarray:
    """Logits (N, K) -> bool (N, K): yes where a statement that stands alone is more likely true than not, and for the
    likeliest of a group of several. ValueError for logits that are not finite and groups outside 0..K."""
    logits = _logits(logits)
    said = logits > 0
    for start, stop in _bounds(groups, logits.shape[1]):
        if stop - start > 1:
            best = logits[:, start:stop].argmax(1)
            said[:, start:stop] = np.arange(stop - start) == best[:, None]
    return said


def attribute_scores(logits, answers, groups: Sequence[slice]) -> AttributeScores:
    """logits (N, K), answers (N, K): 1 (yes), 0 (no), NaN or -1 (unknown), groups: slices of K -> AttributeScores.

    Unknown answers are left out, statement by statement. Raises ValueError for any other answer: labels of 1 and 2, as
    Market-1501's attribute file has them, would be read the wrong way round.
    """
    logits, answers = _logits(logits), matrix(answers, "answers", "(images, statements)").astype(float)
    if logits.shape != answers.shape:
        raise ValueError(f"an answer for each logit is wanted; got {answers.shape} answers for {logits.shape} logits")
    true, untrue, unknown = answers == 1, answers == 0, np.isnan(answers) | (answers == -1)
    if not (true | untrue | unknown).all():
        raise ValueError(
            f"answers must be 1 (yes), 0 (no), NaN or -1 (unknown), got {answers[~(true | untrue | unknown)][0]:g}: "
            "labels of 1 (no) and 2 (yes), as Market-1501's attributes have them, want 1 taken off first"
        )
    said, known = decide(logits, groups), ~unknown
    n, positives, negatives = known.sum(0), true.sum(0), untrue.sum(0)
    hits, rejections = (said & true).sum(0), (~said & untrue).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return AttributeScores(
            share=positives / n,
            accuracy=(hits + rejections) / n,
            balanced=(hits / positives + rejections / negatives) / 2,
            f1=np.where(positives, 2 * hits / (positives + (said & known).sum(0)), np.nan),
            ap=np.array([_ap(*column) for column in zip(logits.T, true.T, untrue.T)]),
        )


def _logits(values):
    logits = matrix(values, "logits", "(images, statements)")
    if not np.isfinite(logits).all():
        raise ValueError("logits hold NaN or infinity: the model behind them is broken")
    return logits.astype(float)  # keeps the order of whatever was given


def _bounds(groups, statements):
    """(start, stop) of each group; a slice that reaches beyond the statements would be cut short without a word."""
    if groups is None or isinstance(groups, slice):
        raise ValueError(f"groups must be a sequence of slices, got {groups!r}")
    for group in groups:
        start, stop, step = (group.start or 0, group.stop, group.step) if isinstance(group, slice) else [None] * 3
        if start not in range(statements) or stop not in range(start + 1, statements + 1) or step not in (None, 1):
            raise ValueError(f"each group must be a slice of 0..{statements}, got {group!r}")
        yield start, stop


def _ap(logits, true, untrue):
    known = true | untrue
    if not true.any() or not untrue.any():
        return np.nan
    from sklearn.metrics import average_precision_score  # slow to import, and rankings do not need it

    return average_precision_score(true[known], logits[known])
