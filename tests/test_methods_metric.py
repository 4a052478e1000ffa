"""The metric losses as terms of a recipe: each is its own loss of the features that it works on, times its weight."""

from dataclasses import replace

import pytest
import torch
from toys import EIGHT, LABELS, TOY, apart, check, hardest, mean_hinge, terms_of, tiny_output

from reidnb import losses
from reidnb.methods import MSML, Contrastive, ImprovedTriplet, Quadruplet, TriHard, Triplet, UnitLength
from reidnb.methods.metric import over_branches
from reidnb.network import Output
from reidnb.recipes import recipe

TERMS = [  # the term, its loss with what the term was told, and what it is called
    (Contrastive(2.0), lambda x: losses.contrastive_loss(x, LABELS, 2.0), "contrastive"),
    (Triplet(0.7), lambda x: losses.triplet_loss(x, LABELS, 0.7), "triplet"),
    (ImprovedTriplet(0.7, 0.1), lambda x: losses.improved_triplet_loss(x, LABELS, 0.7, 0.1), "improved_triplet"),
    (Quadruplet(0.7, 0.4), lambda x: losses.quadruplet_loss(x, LABELS, 0.7, 0.4), "quadruplet"),
    (TriHard(0.7), lambda x: losses.trihard_loss(x, LABELS, 0.7), "trihard"),
    (TriHard(None), lambda x: losses.trihard_loss(x, LABELS, None), "trihard"),
    (MSML(0.7), lambda x: losses.msml_loss(x, LABELS, 0.7), "msml"),
]


@pytest.mark.parametrize(("term", "loss", "name"), TERMS, ids=lambda v: str(v)[:24])
def test_a_term_is_its_loss(term, loss, name):
    output = tiny_output(1)
    for weight in (1.0, 0.3):
        plan = replace(TOY, losses=(replace(term, weight=weight),))
        (found,) = terms_of(plan, output).items()
        assert found[0] == name and plan.needs_pairs
        torch.testing.assert_close(found[1], weight * loss(output.features))
    assert found[1].item() > 0.005, "a term that is 0 tells nothing"


@pytest.mark.parametrize(("term", "loss", "name"), TERMS, ids=lambda v: str(v)[:24])
def test_on_several_branches_it_is_the_sum_of_each(term, loss, name):
    branches = torch.stack([tiny_output(seed).features.detach() for seed in (1, 2, 3)], 1)
    output = Output(branch_features=branches, features=torch.zeros(8, 2))
    found = replace(term, on="branch_features")(output, EIGHT)
    torch.testing.assert_close(found, sum(loss(branches[:, b]) for b in range(3)))
    torch.testing.assert_close(over_branches(loss, branches[:, 0]), loss(branches[:, 0]))


@pytest.mark.parametrize(
    ("term", "kept"),
    [
        (Contrastive(), {"margin": 1.0}),
        (Triplet(), {"margin": 0.3}),
        (ImprovedTriplet(), {"margin": 0.3, "pull": 1.0}),
        (Quadruplet(), {"margin": 0.3, "margin2": 0.15}),
        (TriHard(), {"margin": 0.3}),
        (MSML(), {"margin": 0.3}),
    ],
)
def test_what_a_term_is_unless_told_otherwise(term, kept):
    assert {name: getattr(term, name) for name in kept} == kept and (term.weight, term.on) == (1.0, "features")


def test_trihard_by_hand():
    output = tiny_output(1)
    chosen = hardest(apart(output))
    check(output, recipe("trihard"), {"trihard": mean_hinge(apart(output), chosen)})
    check(output, recipe("trihard", margin=0.6, weight=2.0), {"trihard": 2 * mean_hinge(apart(output), chosen, 0.6)})


def test_at_unit_length_a_loss_sees_what_the_test_compares():
    plan = replace(TOY, heads=(UnitLength(),), losses=(Triplet(0.3, on="unit"),))
    output = tiny_output(1)
    output.update(UnitLength().build(2, {})(output))
    unit = torch.stack([row / row.norm() for row in output.features])
    torch.testing.assert_close(output.unit, unit)
    (found,) = terms_of(plan, output).values()
    torch.testing.assert_close(found, losses.triplet_loss(unit, LABELS, 0.3))
    zeros = UnitLength("embedding").build(2, {})(Output(features=torch.ones(2, 3), embedding=torch.zeros(2, 3)))
    assert not zeros["unit"].any()
    with pytest.raises(ValueError, match="needs 'unit', which no head gives"):
        replace(plan, heads=())


def test_the_gradient_through_unit_length_is_at_right_angles_and_shorter_for_longer_features():
    def slope(x):
        x = x.detach().clone().requires_grad_()
        unit = UnitLength().build(2, {})(Output(features=x))["unit"]
        return torch.autograd.grad(losses.triplet_loss(unit, LABELS, 0.3), x)[0]

    x = tiny_output(1).features.double()
    assert slope(x).norm() > 0.01 and (slope(x) * x).sum(1).abs().max() < 1e-9
    torch.testing.assert_close(slope(3 * x), slope(x) / 3)
