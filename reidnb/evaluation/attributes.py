"""How well are attributes recognised? Accuracy is not enough: "nobody wears a hat" is right 97 times in 100."""

from dataclasses import dataclass

import numpy as np

__all__ = ["AttributeScores", "attribute_scores", "decide"]


@dataclass(frozen=True)
class AttributeScores:
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


def decide(logits, groups):
    """Logits (N, K) -> bool (N, K): yes where a statement that stands alone is more likely true than not, and for the
    likeliest of a group of several."""
    logits = np.asarray(logits)
    said = logits > 0
    for group in groups:
        if group.stop - group.start > 1:
            best = logits[:, group].argmax(1)
            said[:, group] = np.arange(group.stop - group.start) == best[:, None]
    return said


def attribute_scores(logits, answers, groups):
    """logits (N, K), answers (N, K): 1, 0 or NaN, groups: slices of K (attributes.Questions) -> AttributeScores.

    Unknown answers (NaN) are left out, statement by statement.
    """
    logits, answers = np.asarray(logits, float), np.asarray(answers, float)
    if logits.shape != answers.shape:
        raise ValueError(f"an answer for each logit is wanted; got {answers.shape} answers for {logits.shape} logits")
    said, known = decide(logits, groups), ~np.isnan(answers)
    true, untrue = answers == 1, answers == 0
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


def _ap(logits, true, untrue):
    known = true | untrue
    if not true.any() or not untrue.any():
        return np.nan
    from sklearn.metrics import average_precision_score  # slow to import, and rankings do not need it

    return average_precision_score(true[known], logits[known])
