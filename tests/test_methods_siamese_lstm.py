"""The Siamese LSTM: its gates by hand, that the order of stripes counts, its loss by hand, and a tiny training."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_world import TINY

from reidnb import evaluation, experiments, training
from reidnb.inference import embed
from reidnb.methods import StripeLSTM
from reidnb.network import Output
from reidnb.recipes import recipe


def head_of(channels=5, **fields):
    torch.manual_seed(0)
    return StripeLSTM(**fields).build(channels, {})


def cells_of(n=3, channels=5, h=8, w=4):
    return torch.randn(n, channels, h, w, generator=torch.Generator().manual_seed(1))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def states_by_hand(lstm, stripes):
    """Stripes of one picture, lists of numbers -> the hidden states, one after the other, unit by unit."""
    of_input, of_state = lstm.weight_ih_l0.tolist(), lstm.weight_hh_l0.tolist()
    shifts = (lstm.bias_ih_l0 + lstm.bias_hh_l0).tolist()
    width = len(shifts) // 4
    hidden, memory, states = [0.0] * width, [0.0] * width, []
    for stripe in stripes:
        asked = [
            sum(w * x for w, x in zip(of_input[row], stripe))
            + sum(w * x for w, x in zip(of_state[row], hidden))
            + shifts[row]
            for row in range(4 * width)
        ]
        i, f, g, o = (asked[gate * width : (gate + 1) * width] for gate in range(4))
        memory = [sigmoid(f[u]) * memory[u] + sigmoid(i[u]) * math.tanh(g[u]) for u in range(width)]
        hidden = [sigmoid(o[u]) * math.tanh(memory[u]) for u in range(width)]
        states.append(hidden)
    return states


@pytest.mark.parametrize("states", ["all", "last"])
@pytest.mark.parametrize("parts", [1, 4, 8])
def test_the_lstm_unrolled_by_hand(states, parts):
    head, cells = head_of(parts=parts, width=3, states=states), cells_of()
    found = head(Output(map=cells))["read"]
    for n in range(3):
        rows = 8 // parts
        stripes = [
            [float(cells[n, c, part * rows : (part + 1) * rows].mean()) for c in range(5)] for part in range(parts)
        ]
        slow = states_by_hand(head.lstm, stripes)
        wanted = slow[-1]
        if states == "all":
            row = [value for state in slow for value in state]
            wanted = [sum(w * x for w, x in zip(line, row)) for line in head.combine.weight.tolist()]
        torch.testing.assert_close(found[n], torch.tensor(wanted), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("states", ["all", "last"])
def test_the_order_of_stripes_counts(states):
    """Upside down is another person; the order of columns, which a stripe's mean forgets, is not."""
    head, cells = head_of(states=states), cells_of()
    read = head(Output(map=cells))["read"]
    assert (head(Output(map=cells.flip(2)))["read"] - read).abs().max() > 0.01
    torch.testing.assert_close(head(Output(map=cells.flip(3)))["read"], read)


def test_what_was_read_before_is_remembered_and_nothing_of_what_comes():
    """The state at a stripe depends on all above it and on none below."""
    head, cells = head_of(width=4, states="last"), cells_of().requires_grad_()
    states, _ = head.lstm(cells.mean(3).transpose(1, 2))
    (slope,) = torch.autograd.grad(states[:, 3].sum(), cells)
    reached = slope.abs().sum((0, 1, 3)) > 0
    assert reached.tolist() == [True] * 4 + [False] * 4


def test_the_contrastive_loss_of_pairs_by_hand():
    plan = recipe("siamese_lstm", parts=4, lstm_width=8)
    torch.manual_seed(0)
    net = plan.network({"classes": 3}).train()
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    output = net(torch.randn(6, 3, 64, 32))
    found = training.evaluate_terms(plan.terms, output, training.Batch(labels, np.arange(6)))
    total, read = [], output.read.tolist()
    for i in range(6):
        for j in range(i + 1, 6):
            apart = math.dist(read[i], read[j])
            total.append(apart**2 if labels[i] == labels[j] else max(0.0, 2.0 - apart) ** 2)
    assert found["contrastive"].item() == pytest.approx(sum(total) / len(total), rel=1e-4)
    found["contrastive"].backward()
    (head,) = net.heads.values()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())
    assert net.backbone.stem[0].weight.grad.abs().sum() > 0 and plan.needs_pairs


def test_what_cannot_be():
    for wrong in ({"parts": 0}, {"width": 0}, {"states": "first"}):
        with pytest.raises(ValueError, match="StripeLSTM: "):
            StripeLSTM(**wrong)
    with pytest.raises(ValueError, match="siamese_lstm: contrastive needs 'read', which no head gives"):
        recipe("siamese_lstm", heads=())


def test_the_tiny_world(monkeypatch, tmp_path):
    monkeypatch.setenv("REIDNB_CACHE", str(tmp_path))
    made = experiments.run("siamese_lstm", **TINY)
    assert made.history[-1]["contrastive"] < made.history[0]["contrastive"]
    data, sides = made.data(), []
    for split in (data.query, data.gallery):
        read, whole = embed(made.model(), split.images, compare=("read", "features"))
        sides.append(F.normalize(torch.cat([read, whole], 1)).numpy())
    assert made.scores.mAP == pytest.approx(made.extra_scores["local"].mAP, abs=1e-3)
    both = evaluation.evaluate_features(*sides, *data.ids)
    assert made.extra_scores["both"].mAP == pytest.approx(both.mAP, abs=1e-3)
