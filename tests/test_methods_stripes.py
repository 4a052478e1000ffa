"""Stripes: pooling against loops, the head as it is written, the terms of HPLF, AlignedReID and PCB by hand."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import (
    LABELS,
    STRIPES,
    TOY,
    a_map,
    aligned,
    apart,
    check,
    coloured_people,
    hardest,
    mean_hinge,
    network_of,
    pictures,
    rigid,
    smoothed,
    terms_of,
    tiny_output,
)

from reidnb import evaluation
from reidnb.losses import trihard_loss
from reidnb.methods import Identity, LocalTriHard, PartIdentity, Stripes, horizontal_pooling
from reidnb.methods.parts import Trial
from reidnb.methods.stripes import StripeHead
from reidnb.network import Output, build_model
from reidnb.recipes import recipe
from reidnb.training import train


def said_of(head, cells):
    """Local features and logits, or None without classifiers."""
    found = head(Output(map=cells))
    return found["local"], found.get("part_logits")


def rows_of(part, parts, height):
    """Which rows a stripe is made of: whole ones, those that its share of the height touches."""
    return [row for row in range(height) if (row + 1) * parts > part * height and row * parts < (part + 1) * height]


def slow_pooling(cells, parts):
    """Image by image, stripe by stripe, channel by channel."""
    n, channels, height, _ = cells.shape
    out = torch.zeros(n, parts, channels)
    for i in range(n):
        for part in range(parts):
            for c in range(channels):
                values = [float(x) for row in rows_of(part, parts, height) for x in cells[i, c, row]]
                out[i, part, c] = sum(values) / len(values)
    return out


@pytest.mark.parametrize("parts", [None, 8, 4, 2, 1, 3], ids=str)
def test_horizontal_pooling_is_the_loop(parts):
    pooled = horizontal_pooling(a_map(), parts)
    torch.testing.assert_close(pooled, slow_pooling(a_map(), parts or 8))


def test_stripes_of_8_rows_by_hand():
    """Row i holds the number i: 3 of 8 share the rows 2 and 5."""
    rows = torch.arange(8.0)[None, None, :, None].expand(1, 1, 8, 4)
    assert horizontal_pooling(rows)[0, :, 0].tolist() == list(range(8))
    assert horizontal_pooling(rows, 2)[0, :, 0].tolist() == [1.5, 5.5]
    assert horizontal_pooling(rows, 3)[0, :, 0].tolist() == [1.0, 3.5, 6.0]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 9))
def test_horizontal_pooling_of_any_map(height, width, parts):
    cells = a_map(2, 2, (height, width), seed=height)
    torch.testing.assert_close(horizontal_pooling(cells, parts), slow_pooling(cells, parts))


@pytest.mark.parametrize("classes", [0, 7])
@pytest.mark.parametrize("width", [None, 2])
@pytest.mark.parametrize("parts", [8, 4, 3])
def test_the_shapes_of_stripes(parts, width, classes):
    local, logits = said_of(StripeHead(5, parts, width, classes), a_map())
    assert local.shape == (3, parts, width or 5) and local.dtype == torch.float32
    assert logits is None if classes == 0 else logits.shape == (3, parts, 7)


@pytest.mark.parametrize("width", [None, 4])
def test_stripes_are_reduced_and_whitened_and_classified(width):
    """All as it is written: the mean of the rows, a matrix for all, batch norm over images and stripes, a matrix
    each."""
    torch.manual_seed(0)
    stripes = StripeHead(5, 4, width, classes=3)
    local, logits = said_of(stripes, a_map())
    expected = slow_pooling(a_map(), 4)
    expected = expected @ stripes.reduce.weight.T if width else expected
    mean, variance = expected.mean((0, 1)), expected.var((0, 1), correction=0)
    expected = (expected - mean) / (variance + stripes.norm.eps).sqrt()
    unit = expected / expected.norm(dim=2, keepdim=True)
    torch.testing.assert_close(local, unit, rtol=1e-4, atol=1e-5)  # float32, in another order
    for part in range(4):
        own = expected[:, part] @ stripes.classifiers[part]
        torch.testing.assert_close(logits[:, part], own, rtol=1e-4, atol=1e-5)


def test_a_stripe_sees_its_own_rows_only():
    """In evaluation mode; 3 stripes of 8 rows share two of them."""
    for parts in (8, 4, 3):
        stripes = StripeHead(5, parts, 4).eval()
        for row in range(8):
            cells = a_map()
            before = said_of(stripes, cells)[0]
            cells[:, :, row] += 1
            changed = (said_of(stripes, cells)[0] - before).abs().amax((0, 2)) > 0
            assert changed.tolist() == [row in rows_of(part, parts, 8) for part in range(parts)]


def test_each_stripe_has_a_classifier_of_its_own():
    """What the second stripe gets wrong teaches the second classifier alone; equal stripes get unequal logits."""
    stripes = StripeHead(5, 4, None, classes=3).eval()
    said_of(stripes, a_map())[1][:, 1].square().sum().backward()
    taught = stripes.classifiers.grad.abs().amax((1, 2)) > 0
    assert taught.tolist() == [False, True, False, False]
    logits = said_of(stripes, a_map()[:, :, :1].expand(-1, -1, 8, -1))[1]
    assert (logits[:, 0] - logits[:, 1]).abs().max() > 1e-4


@pytest.mark.parametrize("width", [None, 16])
def test_a_model_with_stripes(width):
    model = build_model("small", 7, heads=(Stripes(4, width, classifiers=True),)).eval()
    output = model(pictures(3))
    assert output.local.shape == (3, 4, width or 256) and output.part_logits.shape == (3, 4, 7)
    # float32's rounding of a length of 1, over at most 256 values
    torch.testing.assert_close(output.local.norm(dim=2), torch.ones(3, 4), rtol=0, atol=1e-6)
    local, part_logits = said_of(model.heads["stripes"], output.map)
    torch.testing.assert_close(output.local, local)
    torch.testing.assert_close(output.part_logits, part_logits)
    assert model(pictures(3)).features.shape == (3, 256), "the global branch stays what it is"


def test_without_stripes_there_is_no_local_branch():
    model = build_model("small", 7)
    output = model(pictures())
    assert not model.heads and "local" not in output and "part_logits" not in output
    assert not [key for key in model.state_dict() if "stripes" in key]
    assert "part_logits" not in build_model("small", 7, heads=(Stripes(4),))(pictures()), "classifiers are asked for"
    none = build_model("small", 0, heads=(Stripes(4, classifiers=True),))
    assert "part_logits" not in none(pictures()), "of no classes"


def test_stripes_under_autocast_are_float32():
    """Whatever precision the map comes in."""
    model = build_model("small", 7, heads=(Stripes(4, classifiers=True),)).eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        output = model(pictures())
    assert output.map.dtype == torch.bfloat16
    assert {output.local.dtype, output.part_logits.dtype, output.logits.dtype} == {torch.float32}
    # and unit lengths are those of float32, which bf16 would keep to 0.004 only
    torch.testing.assert_close(output.local.norm(dim=2), torch.ones(2, 4), rtol=0, atol=1e-6)


# ---- the terms of a loss ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, distances", [("hplf", rigid), ("aligned", aligned)])
def test_the_terms_of_stripes(name, distances):
    """Triplets chosen by the global distance, judged by both; the weights are the recipe's."""
    output, chosen = tiny_output(1), hardest(apart(tiny_output(1)))
    expected = {
        "identity": smoothed(output.logits, LABELS),
        "trihard": mean_hinge(apart(output), chosen),
        "local": 0.3 * mean_hinge(distances(output), chosen),
    }
    check(output, recipe(name), expected)
    weights = {"identity_weight": 0.5, "trihard_weight": 2.0, "local_weight": 0.7, "margin": 0.6, "local_margin": 0.9}
    expected = {
        "identity": 0.5 * smoothed(output.logits, LABELS),
        "trihard": 2.0 * mean_hinge(apart(output), chosen, 0.6),
        "local": 0.7 * mean_hinge(distances(output), chosen, 0.9),
    }
    check(output, recipe(name, **weights), expected)
    assert mean_hinge(rigid(output), chosen) != pytest.approx(mean_hinge(aligned(output), chosen), rel=0.1)


def test_by_the_global_distance_it_is_trihard():
    terms = terms_of(recipe("aligned"), tiny_output(1))
    torch.testing.assert_close(terms["trihard"], trihard_loss(tiny_output(1).features, LABELS, 0.3))


@pytest.mark.parametrize("mining", ["global", "local", "both"])
def test_mining_chooses_by_the_distance_it_names(mining):
    output = tiny_output(3)
    by = {"global": apart(output), "local": aligned(output)}
    by["both"] = [[x + y for x, y in zip(*rows)] for rows in zip(by["global"], by["local"])]
    chosen = {name: hardest(d) for name, d in by.items()}
    costs = [(mean_hinge(apart(output), c), mean_hinge(aligned(output), c)) for c in chosen.values()]
    for i in range(3):
        assert costs[i] != pytest.approx(costs[i - 1], rel=1e-3), "the three choose otherwise: the test can tell"
    expected = {
        "identity": smoothed(output.logits, LABELS),
        "trihard": mean_hinge(apart(output), chosen[mining]),
        "local": 0.3 * mean_hinge(aligned(output), chosen[mining]),
    }
    check(output, recipe("aligned", mining=mining), expected)


def test_mining_each_for_itself():
    """HPLF, section 2.1: two branches, two choices of triplets."""
    output = tiny_output(3)
    by_global, by_local = hardest(apart(output)), hardest(rigid(output))
    assert mean_hinge(rigid(output), by_global) != pytest.approx(mean_hinge(rigid(output), by_local), rel=1e-3)
    expected = {
        "identity": smoothed(output.logits, LABELS),
        "trihard": mean_hinge(apart(output), by_global),
        "local": 0.3 * mean_hinge(rigid(output), by_local),
    }
    check(output, recipe("hplf", mining="each"), expected)


def test_pcb_asks_every_stripe_who_it_is():
    """Its mean is over images and stripes, and nothing else is asked."""
    output = tiny_output(4)
    each = [smoothed(output.part_logits[:, part], LABELS) for part in range(STRIPES)]
    check(output, recipe("pcb"), {"parts": sum(each) / STRIPES})
    check(output, recipe("pcb", weight=0.5), {"parts": 0.5 * sum(each) / STRIPES})


@pytest.mark.parametrize(
    ("heads", "losses", "terms"),
    [
        ((Stripes(4),), (Identity(), LocalTriHard("rigid")), {"identity", "trihard", "local"}),
        ((Stripes(4, classifiers=True),), (PartIdentity(),), {"parts"}),
    ],
    ids=["rigid", "pcb"],
)
def test_stripes_learn(heads, losses, terms):
    """Every term falls, and what has a part in it moves."""
    images, labels = coloured_people(each=8)
    plan = replace(TOY, epochs=3, heads=heads, losses=losses, compare="local")
    model, start = (network_of(plan) for _ in range(2))
    history = train(model, images, labels, plan, device="cpu")
    assert terms < set(history[0]) and all(history[-1][term] < 0.9 * history[0][term] for term in terms)
    for name in ("reduce.weight", *(["classifiers"] if terms == {"parts"} else [])):
        moved, before = (net.heads["stripes"].get_parameter(name) for net in (model, start))
        assert not torch.equal(moved, before)


PATHS = [("rigid", rigid, STRIPES), ("aligned", aligned, 2 * STRIPES - 1)]


@pytest.mark.parametrize(("distance", "slow", "cells"), PATHS)
def test_scores_by_the_local_distance_and_by_both(distance, slow, cells):
    """ "both": the global distance and the mean of a path's cells."""
    output = tiny_output(3)
    said = {"whole": output.features.detach().numpy(), "local": output.local.detach().numpy()}
    ids = np.array([1, 1, 2, 2, 3, 3, 4, 4]), np.array([1, 1, 2, 2, 3, 3, 4, 4]), np.zeros(8, int), np.ones(8, int)
    trial = Trial(None, SimpleNamespace(ids=ids), None, None)
    found = LocalTriHard(distance).test(said, said, trial)["scores"]
    local, whole = np.array(slow(output)), evaluation.euclidean_distances(said["whole"], said["whole"])
    for name, matrix in (("local", local), ("both", whole + local / cells)):
        assert found[name].mAP == pytest.approx(evaluation.evaluate(matrix, *ids).mAP, abs=1e-6)
    assert set(found) == {"local", "both"}
