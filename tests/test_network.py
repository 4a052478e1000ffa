"""The network of every recipe: what it says and under which names, and heads of one's own."""

import copy
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from toys import parameters, pictures

from reidnb.methods import Attributes, Branches, Stripes, Verification
from reidnb.models import BACKBONES, load_backbone
from reidnb.network import GIVEN, Output, ReIDModel, build_model, pool

CHANNELS = {"resnet18": 512, "resnet50": 2048, "resnet50_xception": 2048}


@pytest.mark.parametrize("size", [(64, 32), (128, 64), (96, 40)])
@pytest.mark.parametrize("name", ["small", "small_xception", "resnet18"])
def test_shapes(name, size):
    model = build_model(name, classes=7).eval()
    output = model(pictures(2, size))
    channels = model.backbone.channels
    shrink = 8 if name.startswith("small") else 16
    assert output.map.shape == (2, channels, -(-size[0] // shrink), -(-size[1] // shrink))
    assert output.features.shape == output.embedding.shape == (2, channels)
    assert output.logits.shape == (2, 7) and output.logits.dtype == torch.float32
    torch.testing.assert_close(output.features, output.map.mean((2, 3)))
    assert CHANNELS.get(name, channels) == channels and tuple(output) == GIVEN


@pytest.mark.parametrize("name", ["resnet50", "resnet50_xception"])
def test_shapes_of_the_large_ones(name):
    with torch.inference_mode():
        output = build_model(name).eval()(pictures(1))
    assert output.map.shape == (1, 2048, 4, 2) and "logits" not in output


@pytest.mark.parametrize("name", BACKBONES)
def test_the_neck_and_the_classifier(name):
    model = build_model(name, classes=5)
    assert model.classifier.bias is None and not model.neck.bias.requires_grad
    assert parameters(model.classifier) == 5 * model.backbone.channels
    assert parameters(model.neck) == 2 * model.backbone.channels


def test_without_classes_there_is_no_classifier():
    model = build_model("small")
    assert model.classifier is None and not any("classifier" in name for name in model.state_dict())
    with pytest.raises(AttributeError, match="no 'logits', only map, features, embedding"):
        model(pictures()).logits  # noqa: B018


def test_a_layer_behind_the_pooling_narrows_the_features():
    """A projection at first: nothing is farther than it was."""
    wide, narrow = build_model(classes=5, weights="drawn").eval(), build_model(classes=5, weights="drawn", width=32)
    images = pictures(8)
    features, output = wide(images).features, narrow.eval()(images)
    assert output.features.shape == output.embedding.shape == (8, 32) and output.logits.shape == (8, 5)
    assert parameters(narrow.classifier) == 5 * 32
    assert torch.equal(output.features, features @ narrow.narrow.weight.T)
    assert (torch.pdist(output.features) <= torch.pdist(features) * (1 + 1e-5)).all()  # rounding
    assert {name for name in narrow.state_dict() if "narrow" in name} == {"narrow.weight"}
    assert not any("narrow" in name for name in wide.state_dict()), "models kept before it was there still load"


@pytest.mark.parametrize("name", ["small", "resnet18"])
def test_trap_8_an_embedding_does_not_depend_on_its_batch_mates(name):
    model = build_model(name).eval()
    one, others = pictures(1), pictures(3, seed=1)
    with torch.inference_mode():
        alone = model(one).embedding
        together = model(torch.cat([others, one])).embedding[3:]
    # Convolutions may add up in another order for another batch size: rounding, against 0.1 and more in training mode.
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-4)
    model.train()
    with torch.no_grad():
        mates = [model(torch.cat([pictures(3, seed=s), one])).embedding[3:] for s in (1, 2)]
    assert (mates[0] - mates[1]).abs().max() > 0.1, "in training mode it does: the test can tell"


def test_trap_8_stripes_do_not_depend_on_batch_mates():
    model = build_model("small", heads=(Stripes(4),)).eval()
    one, others = pictures(1), pictures(3, seed=1)
    with torch.inference_mode():
        torch.testing.assert_close(model(one).local, model(torch.cat([others, one])).local[3:], rtol=1e-4, atol=1e-4)


def test_random_weights_come_from_torchs_seed():
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(build_model("small", classes=4).state_dict())
    same = [torch.equal(states[0][k], states[1][k]) for k in states[0]]
    assert all(same) and not torch.equal(states[0]["classifier.weight"], states[2]["classifier.weight"])


def test_pooling_by_hand():
    cells = torch.rand(2, 5, 4, 3)
    flat = cells.flatten(2)
    assert torch.equal(pool(cells, "max"), flat.max(2).values)
    torch.testing.assert_close(pool(cells), flat.sum(2) / 12)
    torch.testing.assert_close(pool(cells, "both"), flat.sum(2) / 12 + flat.max(2).values)
    model = build_model("small", pooling="max").eval()
    output = model(pictures())
    assert torch.equal(output.features, output.map.amax((2, 3)))


@pytest.mark.parametrize(
    ("heads", "facts"),
    [
        ((Stripes(8),), {}),
        ((Stripes(3, width=None, classifiers=True),), {}),
        ((Verification(),), {}),
        ((Attributes(parts=2), Stripes(2)), {"statements": 4}),
        ((Branches("lstm"),), {}),
    ],
    ids=lambda v: str(v)[:24],
)
@pytest.mark.parametrize("name", ["small", "small_xception"])
def test_a_state_goes_through_numpy_and_back(name, heads, facts):
    """As in a Result's file: arrays by name, taken by a model that was built anew from other random numbers."""
    torch.manual_seed(0)
    model = build_model(name, 5, heads=heads, facts=facts)
    model.train()(pictures(4))  # running means that are not 0
    state = {name: np.array(value.numpy()) for name, value in model.state_dict().items()}
    again = build_model(name, 5, heads=heads, facts=facts)
    again.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
    one, other = (m.eval()(pictures()) for m in (model, again))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# ---- heads of one's own ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Corner:
    """A head of the top left cell, as a reader may write it in a notebook."""

    width: int = 2
    gives = ("corner",)

    def build(self, channels, facts):
        return CornerHead(channels, self.width, facts)


class CornerHead(nn.Module):
    def __init__(self, channels, width, facts):
        super().__init__()
        self.layer, self.facts = nn.Linear(channels, width), facts

    def forward(self, output):
        return {"corner": self.layer(output.map[:, :, 0, 0])}


def test_a_head_of_ones_own_is_told_what_it_must_know_and_joins_the_output():
    model = build_model("small", 7, heads=(Corner(3), Stripes(4)), pooling="both", width=16, facts={"cameras": 6})
    assert list(model.heads) == ["corner", "stripes"]
    head = model.heads["corner"]
    assert head.facts == {"classes": 7, "values": 16, "pooling": "both", "cameras": 6}
    output = model.eval()(pictures())
    assert tuple(output) == (*GIVEN, "corner", "local") and output.corner.shape == (2, 3)
    assert torch.equal(output.corner, head.layer(output.map[:, :, 0, 0]))
    alone = ReIDModel(load_backbone("small"), 7, {"corner": head})
    assert alone.heads["corner"] is head and alone(pictures()).corner.shape == (2, 3)


def test_a_head_may_read_what_the_head_before_it_gave():
    class Next(nn.Module):
        def forward(self, output):
            return {"next": output.corner + 1}

    model = ReIDModel(load_backbone("small"), 0, {"corner": Corner().build(256, {}), "next": Next()}).eval()
    output = model(pictures())
    assert torch.equal(output.next, output.corner + 1)


# ---- Output ---------------------------------------------------------------------------------------------------------


def said(n=5, seed=0, **more):
    generator = torch.Generator().manual_seed(seed)
    whole = {"features": torch.randn(n, 3, generator=generator), "pairs": torch.randn(n, n, generator=generator)}
    return Output(whole | {"map": torch.randn(n, 3, 2, 2, generator=generator)} | more)


@pytest.mark.parametrize("which", [slice(3), slice(3, None), slice(1, 4), slice(None), slice(0)])
def test_rows_of_an_output(which):
    """Every value by its images; pairs on both sides; a peer's in the same way."""
    output = said(peer=said(seed=1))
    cut = output.rows(which)
    assert isinstance(cut, Output) and isinstance(cut.peer, Output) and cut.keys() == output.keys()
    for some, whole in ((cut, output), (cut.peer, output.peer)):
        assert torch.equal(some.features, whole.features[which]) and torch.equal(some.map, whole.map[which])
        assert torch.equal(some.pairs, whole.pairs[which, which]), "who was cut off is in nobody's pairs"


def test_what_an_output_lacks():
    output = said()
    with pytest.raises(AttributeError, match="the network gives no 'local', only features, pairs, map: is the head"):
        output.local  # noqa: B018
    with pytest.raises(KeyError, match="the network gives no 'local', only features, pairs, map"):
        output["local"]
    assert output.get("local") is None and "local" not in output and not hasattr(output, "local")
    again = copy.deepcopy(output)
    assert isinstance(again, Output) and torch.equal(again.features, output.features)


# ---- what cannot be built -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"name": "resnet34"}, ValueError, r"unknown model 'resnet34' .*: take one of small, small_xception"),
        ({"name": None}, ValueError, "unknown model None: take one of small"),
        ({"name": "lomo"}, ValueError, "unknown model 'lomo'"),
        ({"classes": -1}, ValueError, "classes must be a whole number from 0 on, got -1"),
        ({"classes": 2.5}, ValueError, "classes must be a whole number from 0 on, got 2.5"),
        ({"classes": "5"}, ValueError, "classes must be a whole number from 0 on, got '5'"),
        ({"classes": None}, ValueError, "classes must be a whole number from 0 on, got None"),
        ({"width": 0}, ValueError, "width must be a whole number from 1 on, got 0"),
        ({"width": -4}, ValueError, "width must be a whole number from 1 on, got -4"),
        ({"pooling": "median"}, ValueError, "pooling must be 'avg', 'max' or 'both', got 'median'"),
        ({"pooling": None}, ValueError, "pooling must be 'avg', 'max' or 'both', got None"),
        ({"last_stride": 3}, ValueError, "last_stride must be 1 or 2, got 3"),
        ({"heads": ("stripes",)}, TypeError, r"heads must be parts with build\(channels, facts\).* got 'stripes'"),
        ({"heads": "stripes"}, TypeError, "heads must be parts with build"),
        ({"heads": (nn.Linear(3, 3),)}, TypeError, "heads must be parts with build"),
        ({"weights": "imagenet"}, ValueError, "the small backbone has no ImageNet weights of its own"),
        ({"weights": ""}, FileNotFoundError, "wanted 'distilled', 'drawn', 'imagenet', None"),
        ({"weights": 3}, FileNotFoundError, "no weights at 3: wanted 'distilled', 'drawn', 'imagenet', None"),
        ({"heads": (Branches(),), "width": 16}, ValueError, "branches read the whole map of 256 values"),
    ],
    ids=lambda v: str(v)[:30],
)
def test_build_model_refuses(arguments, error, says):
    with pytest.raises(error, match=says):
        build_model(**arguments)


def test_one_head_needs_no_tuple():
    assert list(build_model("small", heads=Stripes(4)).heads) == ["stripes"]


@pytest.mark.parametrize("how", ["median", None, 3, "AVG"])
def test_pool_refuses(how):
    """Once an unknown word was "both"."""
    with pytest.raises(ValueError, match="pooling must be 'avg', 'max' or 'both', got"):
        pool(torch.rand(2, 3, 4, 4), how)
