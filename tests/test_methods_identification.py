"""Identification and verification: the terms by hand, the question of every pair in its two forms."""

from dataclasses import replace

import pytest
import torch
from toys import CLASSES, EIGHT, LABELS, TOY, check, pictures, smoothed, terms_of, tiny_output

from reidnb.losses import verification_loss
from reidnb.methods import Identity, Verification
from reidnb.methods.identification import Verifier
from reidnb.network import Output, build_model
from reidnb.recipes import recipe


def test_identity_is_the_smoothed_cross_entropy():
    output = tiny_output(1)
    check(output, recipe("ide"), {"identity": smoothed(output.logits, LABELS)})
    plan = recipe("ide", weight=0.5, smoothing=0.3)
    check(output, plan, {"identity": 0.5 * smoothed(output.logits, LABELS, 0.3)})


def test_identity_of_several_branches_is_their_sum():
    logits = torch.randn(8, 3, CLASSES, generator=torch.Generator().manual_seed(0))
    found = Identity(on="branch_logits", weight=2.0)(Output(branch_logits=logits), EIGHT)
    each = [smoothed(branch, LABELS) for branch in logits.unbind(1)]
    assert float(found) == pytest.approx(2 * sum(each), rel=1e-5)


def test_the_term_of_verification_is_its_loss():
    pairs = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    pairs = pairs + pairs.T
    for weight in (1.0, 0.2):
        found = Verification(weight)(Output(pairs=pairs), EIGHT)
        torch.testing.assert_close(found, weight * verification_loss(pairs, LABELS))
    both = replace(TOY, losses=(Identity(), Verification(weight=0.2)))
    assert set(terms_of(both, Output(tiny_output(1) | {"pairs": pairs}))) == {"identity", "verification"}


# ---- the head -------------------------------------------------------------------------------------------------------


def verifier(channels=6, seed=0):
    """One with weights of both signs, and embeddings for it."""
    generator = torch.Generator().manual_seed(seed)
    module = Verifier(channels)
    with torch.no_grad():
        module.weight.normal_(generator=generator)
        module.bias.normal_(generator=generator)
    return module, torch.randn(7, channels, generator=generator)


def test_the_verifier_is_a_linear_layer_on_squared_differences():
    """Written out for every pair, N x N x C numbers, with the same gradients."""
    results = []
    for explicit in (False, True):
        module, embedding = verifier()
        embedding.requires_grad_()
        if explicit:
            logits = (embedding[:, None] - embedding).square() @ module.weight[0] + module.bias
        else:
            logits = module.all_pairs(embedding)
        (logits * torch.arange(49.0).reshape(7, 7)).sum().backward()
        results.append((logits, embedding.grad, module.weight.grad, module.bias.grad))
    assert results[0][0].shape == (7, 7)
    for ours, expected in zip(*results):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-3)  # sums of a thousand, in float32


def test_a_new_verifier_takes_near_for_one_person():
    """One and the same is one person, two a unit apart in each channel are undecided, farther ones are two."""
    embedding = torch.tensor([[0.0], [0.0], [1.0], [5.0]]).expand(4, 6)
    torch.testing.assert_close(Verifier(6).all_pairs(embedding)[0], torch.tensor([1.0, 1.0, 0.0, -24.0]))


def test_the_verifier_under_autocast_is_float32():
    module, embedding = verifier(64)
    embedding = embedding.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        logits = module.all_pairs(embedding)
    assert logits.dtype == torch.float32 and torch.equal(logits, module.all_pairs(embedding.float()))


def test_pairs_are_there_in_training_with_a_verifier():
    model = build_model("small", 5, None, heads=(Verification(),)).train()
    output = model(pictures(4))
    assert output.pairs.shape == (4, 4) and output.pairs.dtype == torch.float32
    verifier = model.heads["verification"]
    torch.testing.assert_close(output.pairs, verifier.all_pairs(output.embedding))
    output.pairs.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in verifier.parameters())
    assert all(p.grad is not None for p in model.backbone.parameters()), "it teaches the backbone"
    assert "pairs" not in model.eval()(pictures(4)), "not asked at test"


def test_without_a_verifier_there_are_no_pairs():
    model = build_model("small", 5)
    assert not model.heads and "pairs" not in model.train()(pictures(4))
    assert not [key for key in model.state_dict() if "verif" in key]


def test_a_verifier_reads_features_as_wide_as_they_are():
    assert build_model("small", width=16, heads=(Verification(),)).heads["verification"].weight.shape == (1, 16)
