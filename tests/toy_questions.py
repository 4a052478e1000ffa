"""Questions with nothing behind them, and what their answers cost, by loops: for tests of losses and of heads."""

import math

import numpy as np
import torch

from reidnb.attributes import Questions

NAN = math.nan


def questions(*sizes, shares=None):
    """Questions of so many statements each, with nothing behind them."""
    ends = np.cumsum(sizes).tolist()
    groups = tuple(slice(end - size, end) for end, size in zip(ends, sizes))
    names = tuple(f"s{k}" for k in range(ends[-1]))
    shares = np.full(ends[-1], 0.5) if shares is None else np.array(shares)
    return Questions(names[: len(sizes)], names, groups, np.arange(ends[-1]), np.ones(ends[-1], int), shares)


def random_case(seed, images=9, stripes=3, sizes=(1, 4, 1), unknown=0.2):
    rng = np.random.default_rng(seed)
    asked = questions(*sizes, shares=rng.random(sum(sizes)))
    answers = np.zeros((images, sum(sizes)), np.float32)
    for group in asked.groups:
        size = group.stop - group.start
        if size == 1:
            answers[:, group] = rng.random((images, 1)) < 0.4
        else:
            for row in answers:
                choice = rng.integers(size + 1)  # or none of them
                if choice < size:
                    row[group.start + choice] = 1
        answers[rng.random(images) < unknown, group] = NAN
    logits = torch.from_numpy(rng.normal(0, 2, (images, stripes, sum(sizes))))
    return logits, torch.from_numpy(answers), asked


def slow_focal(logit, target, gamma, alpha):
    p = 1 / (1 + math.exp(-logit))
    if target == 1:
        return -(1 if alpha is None else alpha) * (1 - p) ** gamma * math.log(p)
    return -(1 if alpha is None else 1 - alpha) * p**gamma * math.log(1 - p)


def slow_costs(logits, answers, asked, form, gamma, alpha):
    images, stripes, _ = logits.shape
    costs = torch.zeros(images, stripes, len(asked.groups), dtype=torch.float64)
    known = torch.zeros(images, len(asked.groups), dtype=torch.bool)
    for i in range(images):
        for m, group in enumerate(asked.groups):
            ks = range(group.start, group.stop)
            truth = [answers[i, k].item() for k in ks]
            if math.isnan(truth[0]) or (form == "softmax" and len(ks) > 1 and 1 not in truth):
                continue
            known[i, m] = True
            for s in range(stripes):
                x = [logits[i, s, k].item() for k in ks]
                if form == "softmax" and len(ks) > 1:
                    costs[i, s, m] = math.log(sum(map(math.exp, x))) - x[truth.index(1)]
                elif form == "focal":
                    costs[i, s, m] = sum(slow_focal(a, b, gamma, alpha) for a, b in zip(x, truth))
                else:
                    weights = [math.exp(-asked.shares[k]) if form == "weighted" else 1 for k in ks]
                    costs[i, s, m] = sum(w * slow_focal(a, b, 0, None) for a, b, w in zip(x, truth, weights))
    return costs, known


def slow_vote(costs, known, vote):
    lines = []
    for m in range(costs.shape[2]):
        stripes = [[costs[i, s, m] for i in range(len(costs)) if known[i, m]] for s in range(costs.shape[1])]
        if not stripes[0]:
            continue
        if vote == "image":
            lines.append(sum(map(min, zip(*stripes))) / len(stripes[0]))
        else:
            means = [sum(stripe) / len(stripe) for stripe in stripes]
            lines.append(min(means) if vote == "stripe" else sum(means) / len(means))
    return sum(lines) / len(lines) if lines else torch.tensor(0.0, dtype=torch.float64)
