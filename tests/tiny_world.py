"""A world of eight people, for tests of runs: what they are given, and what makes two of them the same."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

HOUSE = Path(__file__).resolve().parents[1]
WORLD = {"train_identities": 8, "test_identities": 8, "distractors": 10, "junk": 5}
TINY = {"epochs": 2, "p": 4, "device": "cpu", **WORLD}


def same_result(one, other):
    assert one.key == other.key and one.history == other.history and one.seconds == other.seconds
    assert (one.features.query == other.features.query).all() and one.recipe == other.recipe
    same_scores(one.scores, other.scores)
    assert one.extra_scores.keys() == other.extra_scores.keys()
    for name, scores in one.extra_scores.items():
        same_scores(scores, other.extra_scores[name])


def same_scores(one, other):
    np.testing.assert_array_equal(one.ap, other.ap)
    np.testing.assert_array_equal(one.cmc, other.cmc)
    assert (one.mAP, one.mINP, one.queries) == (other.mAP, other.mINP, other.queries)


def nearly_the_same(one, other):
    """The model's features are the kept ones up to 1e-6: at most a pair of images may change places, for one query."""
    moved = np.abs(one.ap - other.ap) > 1e-9
    assert moved.sum() <= 1 and one.queries == other.queries
    assert abs(one.mAP - other.mAP) < 0.5 / one.queries


def start(code, cache, **more):
    """A Python process of its own that runs `code`, a program or the path of one, with that cache."""
    environment = {**os.environ, "PYTHONPATH": str(HOUSE), "REIDNB_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    what = [str(code)] if isinstance(code, Path) else ["-c", code]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *what], env=environment | more, **pipes)


def said_by(process, timeout=240):
    """What a process printed, once it has ended well."""
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == 0, err
    return out
