"""Latent parts: where they begin, what they cost, and that the losses move them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from reidnb import training
from reidnb.methods import LatentParts
from reidnb.methods.latent_parts import as_maps, bands, prior_loss
from reidnb.methods.pose import cut
from reidnb.recipes import recipe


def net_of(**changes):
    torch.manual_seed(0)
    plan = recipe("stn_parts", "quick", **changes)
    return plan, plan.network({"classes": 5}).train()


def test_bands_cover_the_picture_from_head_to_feet():
    for parts in (1, 2, 3, 6):
        sx, sy, tx, ty = bands(parts).T
        assert (sx == 1).all() and (tx == 0).all()
        edges = torch.stack([ty - sy, ty + sy], 1)
        torch.testing.assert_close(edges[0, 0], torch.tensor(-1.0))
        torch.testing.assert_close(edges[-1, 1], torch.tensor(1.0))
        torch.testing.assert_close(edges[1:, 0], edges[:-1, 1])


def test_four_degrees_of_freedom_are_equation_1_5():
    found = as_maps(torch.tensor([0.5, 0.25, -0.1, 0.3]))
    out = torch.tensor([0.4, -0.8, 1.0])
    torch.testing.assert_close(found @ out, torch.tensor([0.5 * 0.4 - 0.1, 0.25 * -0.8 + 0.3]))


def test_bands_read_rows_of_the_map():
    """Of a map whose height the bands divide, each part's mean is that of its rows."""
    cells = torch.randn(2, 5, 6, 4, generator=torch.Generator().manual_seed(0))
    read = cut(cells, as_maps(bands(3)).expand(2, 3, 2, 3), (2, 4)).mean((3, 4))
    torch.testing.assert_close(read, cells.view(2, 5, 3, 8).mean(3).transpose(1, 2), atol=1e-5, rtol=1e-5)


def test_the_prior_by_hand():
    freedom = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))
    total = sum(float(((freedom[n, p] - bands(3)[p]) ** 2).sum()) for n in range(2) for p in range(3))
    assert prior_loss(as_maps(freedom)).item() == pytest.approx(total / 6, rel=1e-5)
    assert prior_loss(as_maps(bands(4)).expand(2, 4, 2, 3)).item() == 0


def test_starts():
    pixels = torch.randn(8, 3, 64, 32)
    _, net = net_of()
    maps = net(pixels).latent_maps
    torch.testing.assert_close(maps, as_maps(bands(3)).expand(8, 3, 2, 3))
    _, net = net_of(start="random")
    assert prior_loss(net(pixels).latent_maps) > 0.3


def test_terms_by_hand():
    plan, net = net_of(prior=2.0, start="random")
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    output = net(torch.randn(8, 3, 64, 32))
    found = training.evaluate_terms(plan.terms, output, training.Batch(labels, np.arange(8)))
    said = [F.cross_entropy(output.latent_logits[:, p], labels, label_smoothing=0.1) for p in range(3)]
    torch.testing.assert_close(found["latent"], sum(said) / 3)
    torch.testing.assert_close(found["prior"], 2 * prior_loss(output.latent_maps))


def test_the_localiser_learns_from_both_terms():
    """The classifiers' loss moves the parts, and the prior draws them back."""
    plan, net = net_of(start="random")
    (head,) = net.heads.values()
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    output = net(torch.randn(8, 3, 64, 32))
    found = training.evaluate_terms(plan.terms, output, training.Batch(labels, np.arange(8)))
    for name in ("latent", "prior"):
        (slope,) = torch.autograd.grad(found[name], head.locate[-1].bias, retain_graph=True)
        assert slope.abs().sum() > 0, name
    optimizer = torch.optim.Adam(head.locate.parameters(), 0.05)
    for _ in range(60):
        loss = prior_loss(net(torch.randn(8, 3, 64, 32)).latent_maps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1


def test_what_cannot_be():
    for wrong in ({"parts": 0}, {"prior": -1.0}, {"start": "somewhere"}):
        with pytest.raises(ValueError, match="LatentParts: "):
            LatentParts(**wrong)
