"""People of two colours each, the networks that learn them, and eight made-up outputs with the loss terms written out
in plain Python: what several test files train or compare with."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from reidnb.alignment import shortest_path, stripe_costs
from reidnb.batches import Augmentation
from reidnb.methods import Identity, TriHard
from reidnb.network import Output
from reidnb.recipes import Recipe
from reidnb.training import Batch, evaluate_terms

HOUSE = Path(__file__).resolve().parents[1]
PEOPLE, EACH = 12, 12
TOY = Recipe(
    "toy",
    "Toy",
    weights=None,
    size=(32, 16),
    p=6,
    k=4,
    losses=(Identity(), TriHard()),
    epochs=5,
    lr=4e-3,
    augmentation=Augmentation(erase=0.2),
)


def coloured_people(seed=0, people=PEOPLE, each=EACH):
    """uint8 (people * each, 3, 32, 16) of noisy two-coloured pictures, and who they show."""
    rng = np.random.default_rng(seed)
    upper, lower = np.random.default_rng(77).integers(30, 226, (2, people, 3))
    labels = np.repeat(np.arange(people), each)
    images = np.empty((len(labels), 3, 32, 16))
    images[:, :, :16], images[:, :, 16:] = upper[labels][:, :, None, None], lower[labels][:, :, None, None]
    images = images * rng.uniform(0.85, 1.15, (len(labels), 1, 1, 1)) + rng.normal(0, 25, images.shape)
    return images.clip(0, 255).astype(np.uint8), labels


def network_of(plan=TOY, seed=0, classes=PEOPLE, **facts):
    """A recipe's network, drawn from a seed."""
    torch.manual_seed(seed)
    return plan.network({"classes": classes, **facts}, plan.weights)


def without_seconds(history):
    return [{k: v for k, v in line.items() if k != "seconds"} for line in history]


def same_weights(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def pictures(n=2, size=(64, 32), seed=0):
    """What `make_batch` gives: float32 (N, 3, H, W)."""
    return torch.randn(n, 3, *size, generator=torch.Generator().manual_seed(seed))


def a_map(n=3, channels=5, size=(8, 4), seed=0):
    return torch.randn(n, channels, *size, generator=torch.Generator().manual_seed(seed))


# ---- the terms of a loss, on eight images of three people -----------------------------------------------------------

LABELS = torch.tensor([4, 4, 4, 0, 0, 2, 2, 2])
STRIPES, CLASSES = 4, 5
EIGHT = Batch(LABELS, np.arange(8))


def tiny_output(seed, peer=None):
    """What a model might say of them: people far enough from each other that not every triplet costs something."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    features, local = draw(8, 6) + 1.2 * F.one_hot(LABELS, 6), draw(8, STRIPES, 3) + F.one_hot(LABELS // 2, 3)[:, None]
    logits, part_logits = 2 * draw(8, CLASSES), 2 * draw(8, STRIPES, CLASSES)
    leaves = [x.requires_grad_() for x in (features, logits, F.normalize(local, dim=2), part_logits)]
    said = Output(zip(("features", "logits", "local", "part_logits"), leaves)) | {"embedding": features}
    return Output(said | ({"peer": peer} if peer else {}))


def terms_of(plan, output):
    return evaluate_terms(plan.terms, output, EIGHT)


def apart(output):
    return [[math.dist(x, y) for y in output.features.tolist()] for x in output.features.tolist()]


def rigid(output):
    """Stripe i against stripe i."""
    rows = output.local.tolist()
    return [[sum(math.tanh(math.dist(f, g) / 2) for f, g in zip(x, y)) for y in rows] for x in rows]


def aligned(output):
    """The readable form of the package's shortest path, pair by pair."""
    return [[shortest_path(stripe_costs(x, y))[0] for y in output.local] for x in output.local]


def hardest(d):
    """Each anchor's farthest positive and nearest negative."""
    people, every = LABELS.tolist(), range(len(LABELS))
    return [
        (
            max((p for p in every if p != a and people[p] == people[a]), key=lambda p: d[a][p]),
            min((n for n in every if people[n] != people[a]), key=lambda n: d[a][n]),
        )
        for a in every
    ]


def mean_hinge(d, triplets, margin=0.3):
    return sum(max(0.0, d[a][p] - d[a][n] + margin) for a, (p, n) in enumerate(triplets)) / len(triplets)


def smoothed(logits, labels, smoothing=0.1):
    """Mean over the rows of -sum target log p."""
    costs = []
    for row, label in zip(logits.detach().double(), labels.tolist(), strict=True):
        target = [smoothing / len(row) + (1 - smoothing) * (c == label) for c in range(len(row))]
        costs.append(-sum(t * float(x) for t, x in zip(target, row - row.logsumexp(0))))
    return sum(costs) / len(costs)


def kl(q_logits, p_logits):
    q, p = (logits.detach().double().log_softmax(1) for logits in (q_logits, p_logits))
    return float((q.exp() * (q - p)).sum(1).mean())


def check(output, plan, expected):
    """Distances of length 1 to 5 in float32, whose product form keeps about four digits and a half of them."""
    terms = terms_of(plan, output)
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(expected, rel=1e-4)
    assert min(expected.values()) > 0.005, "a term that is 0 tells nothing"
    return terms
