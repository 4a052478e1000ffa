"""The rules that choose triplets, a memory of batches and mined pairs, against slow forms in plain Python."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import EIGHT, LABELS, TOY, apart, network_of, pictures, tiny_output

from reidnb import losses
from reidnb.methods import Identity, Matching, Mined, Remembered, choose_triplets
from reidnb.methods.mining import BINS, Matcher, Memory, chosen_loss, rarity
from reidnb.methods.parts import Trial
from reidnb.network import Output
from reidnb.training import Batch

RULES = ("random", "all", "above_zero", "semi_hard", "distance", "hard")


def masks(labels):
    same = labels[:, None] == labels
    return same.clone().fill_diagonal_(False), ~same


def every_triplet(d, labels):
    n = range(len(labels))
    return [(a, p, o) for a in n for p in n for o in n if p != a and labels[p] == labels[a] != labels[o]]


def slowly(rule, d, labels, margin):
    """A rule that leaves nothing to chance, in plain Python -> list of (a, p, n)."""
    triplets = every_triplet(d, labels)
    if rule == "all":
        return triplets
    if rule == "above_zero":
        return [(a, p, n) for a, p, n in triplets if d[a][p] - d[a][n] + margin > 0]
    found, every = [], range(len(labels))
    for a in every:
        mine = [p for p in every if p != a and labels[p] == labels[a]]
        others = [n for n in every if labels[n] != labels[a]]
        if not mine or not others:
            continue
        if rule == "hard":
            found.append((a, max(mine, key=lambda p: d[a][p]), min(others, key=lambda n: d[a][n])))
            continue
        for p in mine:
            beyond = [n for n in others if d[a][n] > d[a][p]]
            found.append((a, p, min(beyond, key=lambda n: d[a][n]) if beyond else max(others, key=lambda n: d[a][n])))
    return found


def triplets_of(rule, d, labels, margin=0.3):
    return list(zip(*(some.tolist() for some in choose_triplets(d, *masks(labels), rule, margin))))


batches = st.tuples(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.integers(0, 10**6), st.floats(0, 2))


@pytest.mark.parametrize("rule", ["all", "above_zero", "semi_hard", "hard"])
@settings(max_examples=60, deadline=None)
@given(batches)
def test_a_rule_chooses_what_its_slow_form_does(rule, batch):
    labels, seed, margin = batch
    d = losses.pairwise_distances(torch.randn(len(labels), 3, generator=torch.Generator().manual_seed(seed)))
    assert sorted(triplets_of(rule, d, torch.tensor(labels), margin)) == sorted(
        slowly(rule, d.tolist(), labels, margin)
    )


@pytest.mark.parametrize("rule", ["random", "distance"])
@settings(max_examples=60, deadline=None)
@given(batches)
def test_what_is_drawn_by_lot_are_triplets(rule, batch):
    labels, seed, _ = batch
    torch.manual_seed(seed)
    d, who = losses.pairwise_distances(torch.randn(len(labels), 3)), torch.tensor(labels)
    found, possible = triplets_of(rule, d, who), every_triplet(d, labels)
    assert set(found) <= set(possible)
    one_each = {a for a, _, _ in possible} if rule == "random" else {(a, p) for a, p, _ in possible}
    assert sorted(one_each) == sorted(t[0] if rule == "random" else t[:2] for t in found)


def test_random_triplets_are_all_equally_likely():
    labels, counts = torch.tensor([0, 0, 0, 1, 1, 2]), {}
    torch.manual_seed(0)
    for _ in range(3000):
        for triplet in triplets_of("random", torch.zeros(6, 6), labels):
            counts[triplet] = counts.get(triplet, 0) + 1
    shares = {t: n / sum(c for u, c in counts.items() if u[0] == t[0]) for t, n in counts.items()}
    wanted = {t: 1 / sum(u[0] == t[0] for u in shares) for t in every_triplet(None, labels.tolist())}
    assert shares.keys() == wanted.keys() and all(abs(shares[t] - wanted[t]) < 0.03 for t in shares)


def test_distances_are_drawn_as_rarely_as_they_are_common():
    d = torch.tensor([[0.0, 1.0, *[2.0] * 97, 3.0]])
    negative = torch.tensor([[False] + [True] * 99])
    weights = rarity(d, negative)
    assert weights[0, 0] == 0
    by_distance = [weights[0, d[0] == x].sum().item() for x in (1.0, 2.0, 3.0)]
    assert by_distance == pytest.approx([1, 1, 1])
    counts = {}
    for x in d[0, 1:].tolist():  # the same by hand
        place = min(int((x - 1) / (3 - 1) * BINS), BINS - 1)
        counts[place] = counts.get(place, 0) + 1
    assert weights[0, 1:].tolist() == pytest.approx(
        [1 / counts[min(int((x - 1) / 2 * BINS), BINS - 1)] for x in d[0, 1:].tolist()]
    )
    assert not rarity(d, torch.zeros_like(negative)).any()
    assert rarity(torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool)).tolist() == [[pytest.approx(1 / 6)] * 3] * 2


@pytest.mark.parametrize("rule", RULES)
def test_the_term_is_the_mean_hinge_of_what_is_chosen(rule):
    output = tiny_output(1)
    d = apart(output)
    torch.manual_seed(5)
    chosen = triplets_of(rule, losses.pairwise_distances(output.features.detach()), LABELS, 0.7)
    torch.manual_seed(5)
    found = Mined(rule, 0.7, weight=0.5)(output, EIGHT)
    wanted = sum(max(d[a][p] - d[a][n] + 0.7, 0) for a, p, n in chosen) / len(chosen)
    assert found.item() == pytest.approx(0.5 * wanted, rel=1e-4) and found.item() > 0.005
    found.backward()
    assert output.features.grad.isfinite().all() and output.features.grad.abs().sum() > 0


def test_the_ladder_meets_the_losses_that_have_a_name():
    output = tiny_output(2)
    x = output.features
    torch.testing.assert_close(Mined("hard", 0.7)(output, EIGHT), losses.trihard_loss(x, LABELS, 0.7))
    torch.testing.assert_close(Mined("all", 0.7)(output, EIGHT), losses.triplet_loss(x, LABELS, 0.7))
    share = losses.active_shares(x, LABELS, 0.7)[
        0
    ]  # the mean over all is that over those above zero, times their share
    torch.testing.assert_close(Mined("above_zero", 0.7)(output, EIGHT) * share, losses.triplet_loss(x, LABELS, 0.7))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("labels", [[], [1], [1, 1, 1], [1, 2, 3]])
def test_a_batch_without_triplets_costs_nothing(rule, labels):
    x = torch.randn(len(labels), 4, requires_grad=True)
    batch = Batch(torch.tensor(labels, dtype=torch.long), np.arange(len(labels)))
    loss = Mined(rule)(Output(features=x), batch)
    loss.backward()
    assert loss.item() == 0 and not x.grad.any()


@pytest.mark.parametrize("wrong", [{"choose": "hardest"}, {"margin": "x"}, {"weight": -1}])
def test_what_cannot_be_meant_is_refused(wrong):
    with pytest.raises(ValueError):
        Mined(**wrong)


# --------------------------------------------------------------------------------------------------------------- memory


def remembering(term, values=6):
    memory = Memory(term.last, values)
    net = type("Net", (), {"heads": {term.key: memory}})()
    return term.bind(None, net), memory


@pytest.mark.parametrize("choose", ["hard", "above_zero"])
def test_with_a_memory_the_candidates_are_the_batches_before_too(choose):
    term, memory = remembering(Remembered(choose, last=12, margin=0.7))
    gone, seen = [], []
    for seed in range(4):
        output = tiny_output(seed)
        found = term(output, EIGHT)
        old, who = ([*gone][-12:], [*seen][-12:])
        rows = output.features.tolist() + old
        people = LABELS.tolist() + who
        d = [[math.dist(x, y) for y in rows] for x in output.features.tolist()]
        hinges = []
        for a in range(8):
            mine = [d[a][i] for i in range(len(rows)) if i != a and people[i] == people[a]]
            others = [d[a][i] for i in range(len(rows)) if people[i] != people[a]]
            pairs = [(max(mine), min(others))] if choose == "hard" else [(p, n) for p in mine for n in others]
            hinges += [p - n + 0.7 for p, n in pairs if choose == "hard" or p - n + 0.7 > 0]
        assert found.item() == pytest.approx(sum(max(h, 0) for h in hinges) / len(hinges), rel=1e-3)
        gone, seen = gone + output.features.tolist(), seen + LABELS.tolist()
    assert sorted(memory.labels.tolist()) == sorted(seen[-12:])


def test_only_the_batch_is_moved_and_the_memory_is_in_the_state():
    term, memory = remembering(Remembered("hard", last=20))
    term(tiny_output(1), EIGHT)
    kept = memory.features.clone()
    output = tiny_output(2)
    term(output, EIGHT).backward()
    assert output.features.grad.abs().sum() > 0 and not memory.features.requires_grad
    assert torch.equal(memory.features[:8], kept[:8])
    assert {"features", "labels", "next"} == set(memory.state_dict()) and memory.next == 16
    with pytest.raises(TypeError, match="bind"):
        Remembered()(output, EIGHT)


def test_the_oldest_go_first_and_of_too_many_the_last_stay():
    memory = Memory(5, 1)
    for start in (0, 3, 6):
        memory.keep(torch.arange(start, start + 3.0)[:, None], torch.arange(start, start + 3))
    assert sorted(memory.labels.tolist()) == [4, 5, 6, 7, 8]
    assert memory.features[:, 0].tolist() == memory.labels.tolist()
    memory.keep(torch.arange(20.0)[:, None], torch.arange(20))
    assert sorted(memory.labels.tolist()) == [15, 16, 17, 18, 19]


# ------------------------------------------------------------------------------------------------------------- matching


def test_a_match_by_hand():
    torch.manual_seed(0)
    net = Matcher(5, cells=3, reach=1).eval()
    x, y = torch.randn(2, 3, 4, 2)
    h, w, c = 4, 2, 3
    read = torch.zeros(6, h, w)
    for one, other in ((x, y), (y, x)):
        for i in range(h):
            for j in range(w):
                apart = []
                for channel in range(c):
                    for di in (-1, 0, 1):
                        for dj in (-1, 0, 1):
                            inside = 0 <= i + di < h and 0 <= j + dj < w
                            there = other[channel, i + di, j + dj] if inside else 0.0
                            apart.append(max(float(one[channel, i, j] - there), 0.0))
                weights = net.near.weight[:, :, 0, 0]
                read[:, i, j] += torch.relu(weights @ torch.tensor(apart) + net.near.bias)
    wanted = net.whole(torch.relu(net.around(read[None])).mean((2, 3)))[0, 0]
    torch.testing.assert_close(net.match(x[None], y[None])[0], wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net.match(x[None], y[None]), net.match(y[None], x[None]))


def matching(**settings):
    plan = replace(TOY, losses=(Identity(), Matching(cells=4, **settings)))
    net = network_of(plan)
    output = net.train()(pictures(8, (32, 16)))
    return plan.losses[1].bind(None, net), net.heads["matching"], output


@pytest.mark.parametrize("pairs_by", ["hard", "all"])
def test_the_pairs_it_learns_from(pairs_by):
    term, head, output = matching(pairs_by=pairs_by)
    cells, people = output.cells.detach(), LABELS.tolist()
    sure = [[head.match(x[None], y[None]).item() for y in cells] for x in cells]
    assert np.allclose(head.all_pairs(cells).masked_fill(torch.eye(8, dtype=bool), 0),
                       np.array(sure) * (1 - np.eye(8)), atol=1e-4)  # fmt: skip
    if pairs_by == "all":
        pairs = [(i, j) for i in range(8) for j in range(i)]
    else:
        pairs = []
        for a in range(8):
            mine = [i for i in range(8) if i != a and people[i] == people[a]]
            others = [i for i in range(8) if people[i] != people[a]]
            pairs += [(a, min(mine, key=lambda i: sure[a][i])), (a, max(others, key=lambda i: sure[a][i]))]
    costs = {True: [], False: []}
    for i, j in pairs:
        one = people[i] == people[j]
        costs[one].append(math.log1p(math.exp(-sure[i][j] if one else sure[i][j])))
    wanted = sum(sum(some) / len(some) for some in costs.values()) / 2
    found = term(output, EIGHT)
    assert found.item() == pytest.approx(wanted, rel=1e-4)
    found.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_pairs_by_lot_are_one_of_each_an_anchor():
    term, head, output = matching(pairs_by="random")
    asked = []
    term.head.match = lambda x, y: asked.append((x, y)) or Matcher.match(head, x, y)
    assert term(output, EIGHT).isfinite()
    (x, y), cells = asked[0], output.cells
    assert torch.equal(x, torch.cat([cells, cells])) and len(asked) == 1
    them = [next(i for i in range(8) if torch.equal(one, cells[i])) for one in y]
    assert all((LABELS[i] == LABELS[a]) == (k < 8) for k, (a, i) in enumerate(zip([*range(8)] * 2, them)))
    assert all(a != i for a, i in zip([*range(8)] * 2, them))
    twice, found = matching(pairs_by="mixed")[0], []
    twice.head.match = lambda x, y: found.append(len(x)) or Matcher.match(head, x, y)
    assert twice(output, EIGHT).isfinite() and found == [28, 32], "all 28 pairs to choose by, then two a rule"
    lone = Batch(torch.arange(8), np.arange(8))
    assert matching(pairs_by="random")[0](output, lone).item() == 0
    with pytest.raises(TypeError, match="bind"):
        Matching()(output, EIGHT)


def test_the_nearest_are_ordered_anew_and_nobody_else():
    term, head, _ = matching(top=3)
    head.eval()
    rng = np.random.default_rng(0)

    def side(n):
        whole = rng.normal(size=(n, 4)).astype(np.float32)
        return {"whole": whole, "cells": rng.normal(size=(n, 4, 4, 2)).astype(np.float32)}

    query, gallery = side(2), side(6)
    pids = np.array([1, 2]), np.array([1, 1, 2, 2, 3, 1])
    trial = Trial(None, SimpleNamespace(ids=(*pids, np.zeros(2, int), np.ones(6, int))), None, torch.device("cpu"))
    found, wanted = term.test(query, gallery, trial)["scores"], {"match": [], "both": []}
    for q in range(2):
        d = [math.dist(query["whole"][q], g) for g in gallery["whole"]]
        order = sorted(range(6), key=lambda i: d[i])
        pairs = [(torch.from_numpy(side[name][i][None]) for side, i in ((query, q), (gallery, g))) for g in order[:3]
                 for name in ["cells"]]  # fmt: skip
        sure = [head.match(*pair).item() for pair in pairs]
        keys = {"match": [-s for s in sure], "both": [d[g] + 1 / (1 + math.exp(s)) for g, s in zip(order, sure)]}
        for name, key in keys.items():
            ranked = [order[i] for i in sorted(range(3), key=key.__getitem__)] + order[3:]
            right = [pids[1][i] == pids[0][q] for i in ranked]
            wanted[name].append(np.mean([sum(right[: i + 1]) / (i + 1) for i, hit in enumerate(right) if hit]))
    assert {name: scores.mAP for name, scores in found.items()} == pytest.approx(
        {name: np.mean(aps) for name, aps in wanted.items()}
    )


def test_chosen_loss_of_nothing():
    nothing = torch.empty(0, dtype=torch.long)
    d = torch.ones(3, 3, requires_grad=True)
    chosen_loss(d, (nothing, nothing, nothing)).backward()
    assert not d.grad.any()
