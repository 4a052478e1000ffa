"""APR's re-weighting module: against plain loops, in training, and where it cannot be."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reidnb.methods.reweighting import Reweighting, probabilities
from reidnb.network import Output
from reidnb.recipes import Recipe, recipe
from reidnb.training import Batch

GROUPS = [(0, 1), (1, 4), (4, 5)]


def slow(head, embedding, logits):
    """The joint vector of one picture, in plain Python."""
    said = []
    for start, stop in head.groups:
        if stop - start == 1:
            said.append(1 / (1 + math.exp(-logits[start])))
        else:
            total = sum(math.exp(x) for x in logits[start:stop])
            said += [math.exp(x) / total for x in logits[start:stop]]
    trust = []
    for row, bias in zip(head.trust.weight.tolist(), head.trust.bias.tolist()):
        trust.append(1 / (1 + math.exp(-sum(w * p for w, p in zip(row, said)) - bias)))
    return embedding + [c * p for c, p in zip(trust, said)]


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 5), st.integers(0, 2**31 - 1))
def test_the_module_against_plain_loops(n, seed):
    torch.manual_seed(seed)
    head = Reweighting(4, 7, GROUPS)
    embedding, logits = torch.randn(n, 4), 3 * torch.randn(n, 1, 5)
    found = head(Output(embedding=embedding, attribute_logits=logits))
    wanted = [slow(head, e, x[0]) for e, x in zip(embedding.tolist(), logits.tolist())]
    assert np.allclose(found["reweighted"].detach().numpy(), wanted, atol=1e-5)
    assert torch.allclose(found["reweighted_logits"], found["reweighted"] @ head.classifier.weight.T, atol=1e-5)


def test_the_answers_of_a_question_sum_to_one():
    said = probabilities(torch.randn(6, 5), GROUPS)
    assert torch.allclose(said[:, 1:4].sum(1), torch.ones(6))
    assert ((said > 0) & (said < 1)).all()


def test_identity_teaches_the_attributes_too():
    """Its gradient reaches the answers, or nothing would be re-weighted to tell people apart."""
    head = Reweighting(4, 7, GROUPS)
    torch.nn.init.normal_(head.classifier.weight)
    logits = torch.randn(3, 1, 5, requires_grad=True)
    (term,) = [part for part in recipe("apr_reweighted").losses if part.key == "reweighted"]
    output = Output(embedding=torch.randn(3, 4), attribute_logits=logits)
    output.update(head(output))
    term(output, Batch(torch.tensor([0, 3, 6]), np.arange(3))).backward()
    assert (logits.grad.abs().sum(2) > 0).all() and (head.trust.weight.grad.abs().sum(0) > 0).all()


def test_the_order_of_heads_matters():
    with pytest.raises(ValueError, match="put Attributes"):
        Reweighting(4, 7, GROUPS)(Output(embedding=torch.randn(3, 4)))


def test_without_attributes_it_is_no_recipe():
    (term,) = [part for part in recipe("apr_reweighted").losses if part.key == "reweighted"]
    with pytest.raises(ValueError, match="attribute_logits"):
        Recipe("alone", losses=(term,))


def test_a_question_alone_is_not_enough_to_weigh():
    """`Attributes(question="hat")` answers one statement, and a head for all of them cannot hear it."""
    with pytest.raises(ValueError, match="hears all .* statements of a dataset, and Attributes asks for 1 of them"):
        Reweighting(4, 7, GROUPS)(Output(embedding=torch.randn(3, 4), attribute_logits=torch.randn(3, 1, 1)))
