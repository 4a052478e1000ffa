"""Models: shapes, sizes, weights from everywhere they may come from, and errors that say what to do."""

import copy
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from reidnb import models
from reidnb.models import (
    DRAWN,
    MODELS,
    Stripes,
    Students,
    Verifier,
    build_model,
    horizontal_pooling,
    save_backbone,
    weights_fingerprint,
)

CHANNELS = {"resnet18": 512, "resnet50": 2048, "resnet50_xception": 2048}


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def pictures(n=2, size=(64, 32), seed=0):
    return torch.randn(n, 3, *size, generator=torch.Generator().manual_seed(seed))


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
    assert CHANNELS.get(name, channels) == channels


@pytest.mark.parametrize("name", ["resnet50", "resnet50_xception"])
def test_shapes_of_the_large_ones(name):
    with torch.inference_mode():
        output = build_model(name).eval()(pictures(1))
    assert output.map.shape == (1, 2048, 4, 2) and output.logits is None


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_last_stride(name):
    with torch.inference_mode():
        one, two = (build_model(name, last_stride=s).eval()(pictures(1)).map.shape[2:] for s in (1, 2))
    assert one == (4, 2) and two == (2, 1)
    assert parameters(build_model(name, last_stride=1)) == parameters(build_model(name, last_stride=2))


def test_last_stride_refuses():
    with pytest.raises(ValueError, match="last_stride 1 or 2.* 3"):
        build_model("resnet18", last_stride=3)


@pytest.mark.parametrize("name", MODELS)
def test_the_head(name):
    model = build_model(name, classes=5)
    assert model.classifier.bias is None and not model.neck.bias.requires_grad
    assert parameters(model.classifier) == 5 * model.backbone.channels


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


def test_random_weights_come_from_torchs_seed():
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(build_model("small", classes=4).state_dict())
    same = [torch.equal(states[0][k], states[1][k]) for k in states[0]]
    assert all(same) and not torch.equal(states[0]["classifier.weight"], states[2]["classifier.weight"])


def test_the_small_backbone_is_small(tmp_path):
    """At most 2 MB in the package, below 0.7 M parameters."""
    model = build_model("small")
    save_backbone(model, tmp_path / "small.safetensors")
    assert (tmp_path / "small.safetensors").stat().st_size <= 2 * 1024**2
    assert parameters(model.backbone) < 0.7e6


def test_the_small_backbones_text_names_its_channels():
    model = build_model("small")
    assert f"(N, {model.backbone.channels}, H / 8, W / 8)" in models.Small.__doc__


# ---- verification ---------------------------------------------------------------------------------------------------


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
            logits = module(embedding)
        (logits * torch.arange(49.0).reshape(7, 7)).sum().backward()
        results.append((logits, embedding.grad, module.weight.grad, module.bias.grad))
    assert results[0][0].shape == (7, 7)
    for ours, expected in zip(*results):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-3)  # sums of a thousand, in float32


def test_a_new_verifier_takes_near_for_one_person():
    """One and the same is one person, two a unit apart in each channel are undecided, farther ones are two."""
    embedding = torch.tensor([[0.0], [0.0], [1.0], [5.0]]).expand(4, 6)
    torch.testing.assert_close(Verifier(6)(embedding)[0], torch.tensor([1.0, 1.0, 0.0, -24.0]))


def test_the_verifier_under_autocast_is_float32():
    module, embedding = verifier(64)
    embedding = embedding.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        logits = module(embedding)
    assert logits.dtype == torch.float32 and torch.equal(logits, module(embedding.float()))


def test_pairs_are_there_in_training_with_a_verifier():
    model = build_model("small", 5, None, verify=True).train()
    output = model(pictures(4))
    assert output.pairs.shape == (4, 4) and output.pairs.dtype == torch.float32
    torch.testing.assert_close(output.pairs, model.verifier(output.embedding))
    output.pairs.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.verifier.parameters())
    assert all(p.grad is not None for p in model.backbone.parameters()), "it teaches the backbone"
    assert model.eval()(pictures(4)).pairs is None, "not asked at test"


def test_without_a_verifier_there_are_no_pairs():
    model = build_model("small", 5)
    assert model.verifier is None and model.train()(pictures(4)).pairs is None
    assert not [key for key in model.state_dict() if key.startswith("verifier")]


# ---- stripes --------------------------------------------------------------------------------------------------------


def a_map(n=3, channels=5, size=(8, 4), seed=0):
    return torch.randn(n, channels, *size, generator=torch.Generator().manual_seed(seed))


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
    local, logits = Stripes(5, parts, width, classes)(a_map())
    assert local.shape == (3, parts, width or 5) and local.dtype == torch.float32
    assert logits is None if classes == 0 else logits.shape == (3, parts, 7)


@pytest.mark.parametrize("width", [None, 4])
def test_stripes_are_reduced_and_whitened_and_classified(width):
    """All as it is written: the mean of the rows, a matrix for all, batch norm over images and stripes, a matrix
    each."""
    torch.manual_seed(0)
    stripes = Stripes(5, 4, width, classes=3)
    local, logits = stripes(a_map())
    expected = slow_pooling(a_map(), 4)
    expected = expected @ stripes.reduce.weight.T if width else expected
    mean, variance = expected.mean((0, 1)), expected.var((0, 1), correction=0)
    expected = (expected - mean) / (variance + stripes.norm.eps).sqrt()
    torch.testing.assert_close(local, expected, rtol=1e-4, atol=1e-5)  # float32, in another order
    for part in range(4):
        own = local[:, part] @ stripes.classifiers[part]
        torch.testing.assert_close(logits[:, part], own, rtol=1e-4, atol=1e-6)


def test_a_stripe_sees_its_own_rows_only():
    """In evaluation mode; 3 stripes of 8 rows share two of them."""
    for parts in (8, 4, 3):
        stripes = Stripes(5, parts, 4).eval()
        for row in range(8):
            cells = a_map()
            before = stripes(cells)[0]
            cells[:, :, row] += 1
            changed = (stripes(cells)[0] - before).abs().amax((0, 2)) > 0
            assert changed.tolist() == [row in rows_of(part, parts, 8) for part in range(parts)]


def test_each_stripe_has_a_classifier_of_its_own():
    """What the second stripe gets wrong teaches the second classifier alone; equal stripes get unequal logits."""
    stripes = Stripes(5, 4, None, classes=3).eval()
    stripes(a_map())[1][:, 1].square().sum().backward()
    taught = stripes.classifiers.grad.abs().amax((1, 2)) > 0
    assert taught.tolist() == [False, True, False, False]
    logits = stripes(a_map()[:, :, :1].expand(-1, -1, 8, -1))[1]
    assert (logits[:, 0] - logits[:, 1]).abs().max() > 1e-4


@pytest.mark.parametrize("width", [None, 16])
def test_a_model_with_stripes(width):
    model = build_model("small", 7, parts=4, local_width=width, part_classes=True).eval()
    output = model(pictures(3))
    assert output.local.shape == (3, 4, width or 256) and output.part_logits.shape == (3, 4, 7)
    # float32's rounding of a length of 1, over at most 256 values
    torch.testing.assert_close(output.local.norm(dim=2), torch.ones(3, 4), rtol=0, atol=1e-6)
    local, part_logits = model.stripes(output.map)
    torch.testing.assert_close(output.local, local / local.norm(dim=2, keepdim=True))
    torch.testing.assert_close(output.part_logits, part_logits)
    assert model(pictures(3)).features.shape == (3, 256), "the global branch stays what it is"


def test_without_stripes_there_is_no_local_branch():
    model = build_model("small", 7)
    output = model(pictures())
    assert model.stripes is None and output.local is None and output.part_logits is None
    assert not [key for key in model.state_dict() if key.startswith("stripes")]
    assert build_model("small", 7, parts=4)(pictures()).part_logits is None, "classifiers are asked for"
    assert build_model("small", 0, parts=4, part_classes=True)(pictures()).part_logits is None, "of no classes"


def test_stripes_under_autocast_are_float32():
    """Whatever precision the map comes in."""
    model = build_model("small", 7, parts=4, part_classes=True).eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        output = model(pictures())
    assert output.map.dtype == torch.bfloat16
    assert {output.local.dtype, output.part_logits.dtype, output.logits.dtype} == {torch.float32}
    # and unit lengths are those of float32, which bf16 would keep to 0.004 only
    torch.testing.assert_close(output.local.norm(dim=2), torch.ones(2, 4), rtol=0, atol=1e-6)


def test_trap_8_stripes_do_not_depend_on_batch_mates():
    model = build_model("small", parts=4).eval()
    one, others = pictures(1), pictures(3, seed=1)
    with torch.inference_mode():
        torch.testing.assert_close(model(one).local, model(torch.cat([others, one])).local[3:], rtol=1e-4, atol=1e-4)


# ---- two students ---------------------------------------------------------------------------------------------------


def two_students():
    torch.manual_seed(0)
    return Students(build_model("small", 5, parts=4), build_model("small_xception", 5, parts=4))


def same_output(one, other):
    for name in ("features", "embedding", "logits", "map", "local"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name))


def test_students_in_training_see_the_same_batch():
    students = two_students().train()
    alone = copy.deepcopy(students)  # its running means move by themselves
    output = students(pictures(4))
    assert output.peer.peer is None
    same_output(output, alone.first(pictures(4)))
    same_output(output.peer, alone.second(pictures(4)))
    assert (output.features - output.peer.features).abs().max() > 0.1, "they are two"


def test_after_training_the_first_student_stands_for_itself():
    students = two_students().eval()
    students.second.forward = None  # not even asked
    output = students(pictures())
    assert output.peer is None
    same_output(output, students.first(pictures()))


# ---- what a run keeps of a model ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"parts": 8},
        {"parts": 3, "local_width": None, "part_classes": True},
        {"name": "small_xception", "parts": 8, "part_classes": True},
        {"verify": True},
        {"width": 16, "verify": True},
    ],
    ids=str,
)
def test_a_state_goes_through_numpy_and_back(changes):
    """As in a Result's file: arrays by name, taken by a model that was built anew from other random numbers."""
    torch.manual_seed(0)
    model = build_model(classes=5, **changes)
    model.train()(pictures(4))  # running means that are not 0
    state = {name: np.array(value.numpy()) for name, value in model.state_dict().items()}
    again = build_model(classes=5, **changes)
    again.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
    one, other = (m.eval()(pictures()) for m in (model, again))
    for ours, theirs in zip(one, other):
        assert (ours is None and theirs is None) or torch.equal(ours, theirs)


# ---- Xception -------------------------------------------------------------------------------------------------------


def test_xception_form():
    plain, xception = build_model("resnet50"), build_model("resnet50_xception")
    threes = {n: c for n, c in plain.backbone.named_modules() if isinstance(c, nn.Conv2d) and c.kernel_size == (3, 3)}
    modules = dict(xception.backbone.named_modules())
    assert len(threes) == 16
    for name, conv in threes.items():
        each, across = modules[name]
        assert each.kernel_size == (3, 3) and each.groups == each.in_channels == conv.in_channels
        assert each.stride == conv.stride and each.padding == conv.padding
        assert across.kernel_size == (1, 1) and across.out_channels == conv.out_channels and across.groups == 1
    dense = [c for c in modules.values() if isinstance(c, nn.Conv2d) and c.kernel_size == (3, 3) and c.groups == 1]
    assert not dense, "every 3x3 is replaced"
    saved = sum(c.weight.numel() * 8 // 9 - 9 * c.in_channels for c in threes.values())
    assert parameters(plain) - parameters(xception) == saved > 9e6


def test_the_small_xception_form():
    """The 3x3 layers of its blocks are split, the stem's, on three channels, is not."""
    plain, xception = build_model("small"), build_model("small_xception")
    stem = xception.backbone.stem[0]
    assert isinstance(stem, nn.Conv2d) and stem.kernel_size == (3, 3) and stem.groups == 1
    for block, form in zip(plain.backbone.blocks, xception.backbone.blocks, strict=True):
        for conv, (each, across) in ((block.conv1, form.conv1), (block.conv2, form.conv2)):
            assert each.kernel_size == (3, 3) and each.groups == each.in_channels == conv.in_channels
            assert each.stride == conv.stride and across.kernel_size == (1, 1)
            assert across.out_channels == conv.out_channels
    dense = [c for c in xception.modules() if isinstance(c, nn.Conv2d) and c.kernel_size == (3, 3) and c.groups == 1]
    assert dense == [stem]
    assert parameters(xception.backbone) < parameters(plain.backbone) / 3


@pytest.mark.parametrize("name", DRAWN)
def test_shipped_weights_are_what_the_model_starts_from(name):
    kept = safetensors.torch.load_file(DRAWN[name])
    state = build_model(name, 5, "drawn").backbone.state_dict()
    assert state.keys() == kept.keys()
    assert all(torch.equal(state[key], value.to(state[key].dtype)) for key, value in kept.items())


def test_the_small_backbones_do_not_take_each_others_weights():
    for name, other in (("small", "small_xception"), ("small_xception", "small")):
        with pytest.raises(ValueError, match=f"{other}_drawn.safetensors does not hold a {name} backbone"):
            build_model(name, weights=DRAWN[other])
    assert weights_fingerprint("small", "drawn") != weights_fingerprint("small_xception", "drawn")


# ---- weights --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_imagenet_weights_are_torchvisions(name, stride, monkeypatch):
    theirs = getattr(torchvision.models, name)(weights=None).eval()
    monkeypatch.setattr(models, "_imagenet", lambda wanted: theirs.state_dict() if wanted == name else 1 / 0)
    model = build_model(name, weights="imagenet", last_stride=stride).eval()
    ours = {k: v for k, v in model.backbone.state_dict().items()}
    assert len(ours) == len([k for k in theirs.state_dict() if not k.startswith("fc.")])
    if stride == 2:  # the same network then: its map, averaged, is what torchvision's classifier reads
        read = []
        theirs.fc.register_forward_hook(lambda module, inputs, output: read.append(inputs[0]))
        with torch.inference_mode():
            theirs(pictures())
            torch.testing.assert_close(model(pictures()).features, read[0], rtol=1e-4, atol=1e-4)


def test_xception_keeps_imagenets_1x1_layers(monkeypatch):
    theirs = torchvision.models.resnet50(weights=None)
    monkeypatch.setattr(models, "_imagenet", lambda name: theirs.state_dict())
    model = build_model("resnet50_xception", weights="imagenet")
    assert torch.equal(model.backbone.stages[0][0].conv1.weight, theirs.layer1[0].conv1.weight)


def test_imagenet_offline_says_what_to_fetch_and_where_to_put_it(monkeypatch, tmp_path):
    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(FileNotFoundError, match="no route to host") as error:
        build_model("resnet18", weights="imagenet")
    said = str(error.value)
    assert "weights=None" in said and "https://" in said and str(tmp_path / "checkpoints" / "resnet18-") in said


@pytest.mark.parametrize("name", ["small", "resnet18"])
def test_weights_round_trip(name, tmp_path):
    path = tmp_path / "backbone.safetensors"
    torch.manual_seed(0)
    model = build_model(name, classes=3).eval()
    save_backbone(model, path)
    again = build_model(name, classes=9, weights=str(path)).eval()
    for key, value in model.backbone.state_dict().items():
        kept = again.backbone.state_dict()[key]
        expected = value.half().float() if value.is_floating_point() else value
        assert kept.dtype == value.dtype and torch.equal(kept, expected), key
    with torch.inference_mode():
        # float16 keeps three digits of every weight
        torch.testing.assert_close(again(pictures()).features, model(pictures()).features, rtol=0.02, atol=0.02)


def test_xception_weights_round_trip(tmp_path):
    """Once the file was loaded before the layers were split, so that its own names did not fit."""
    model = build_model("resnet50_xception")
    save_backbone(model, tmp_path / "x.safetensors")
    again = build_model("resnet50_xception", weights=tmp_path / "x.safetensors")
    assert again.backbone.state_dict().keys() == model.backbone.state_dict().keys()


def test_the_drawn_weights_load_where_they_are_made(monkeypatch, tmp_path):
    save_backbone(build_model("small"), tmp_path / "drawn.safetensors")
    monkeypatch.setitem(models.DRAWN, "small", tmp_path / "drawn.safetensors")
    assert build_model("small", classes=2, weights="drawn").classifier is not None
    monkeypatch.setitem(models.DRAWN, "small", tmp_path / "missing.safetensors")
    with pytest.raises(FileNotFoundError, match="missing.safetensors.*make pretrain.*weights=None"):
        build_model("small", weights="drawn")


def test_the_fingerprint_of_weights_is_the_files_content(tmp_path):
    path = tmp_path / "w.safetensors"
    prints = set()
    for seed in (0, 1):
        torch.manual_seed(seed)
        save_backbone(build_model("small"), path)
        prints.add(weights_fingerprint("small", str(path)))
    assert len(prints) == 2
    assert weights_fingerprint("resnet50", "imagenet") == "imagenet"
    assert weights_fingerprint("small", None) == "None"


@pytest.mark.parametrize(
    "name, weights, error, says",
    [
        ("resnet34", None, ValueError, "unknown model 'resnet34': take one of small, small_xception, resnet18"),
        ("small", "imagenet", ValueError, "the small backbone has no ImageNet weights: weights='drawn' or None"),
        ("small_xception", "imagenet", ValueError, "the small_xception backbone has no ImageNet weights"),
        ("resnet18", "drawn", ValueError, "belong to the small backbones, not to resnet18"),
        ("resnet18", "nowhere/w.safetensors", FileNotFoundError, "no weights at .*w.safetensors"),
    ],
)
def test_build_model_refuses(name, weights, error, says):
    with pytest.raises(error, match=says):
        build_model(name, weights=weights)


def test_weights_of_another_model_do_not_fit(tmp_path):
    """One line that names the file, not torch's hundred."""
    path = tmp_path / "small.safetensors"
    save_backbone(build_model("small"), path)
    with pytest.raises(ValueError, match="small.safetensors"):
        build_model("resnet18", weights=str(path))


def test_a_damaged_weights_file(tmp_path):
    """safetensors' own error names no file."""
    path = tmp_path / "small.safetensors"
    safetensors.torch.save_file({"x": torch.zeros(3)}, path)
    Path(path).write_bytes(path.read_bytes()[:-6])
    with pytest.raises(ValueError, match="small.safetensors"):
        build_model("small", weights=str(path))
