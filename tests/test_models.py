"""Models: shapes, sizes, weights from everywhere they may come from, and errors that say what to do."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn

from reidnb import models
from reidnb.models import MODELS, Verifier, build_model, save_backbone, weights_fingerprint

CHANNELS = {"resnet18": 512, "resnet50": 2048, "resnet50_xception": 2048}


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def pictures(n=2, size=(64, 32), seed=0):
    return torch.randn(n, 3, *size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(64, 32), (128, 64), (96, 40)])
@pytest.mark.parametrize("name", ["small", "resnet18"])
def test_shapes(name, size):
    model = build_model(name, classes=7).eval()
    output = model(pictures(2, size))
    channels = model.backbone.channels
    shrink = 8 if name == "small" else 16
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
        ("resnet34", None, ValueError, "unknown model 'resnet34': take one of small, resnet18, resnet50"),
        ("small", "imagenet", ValueError, "no ImageNet weights: weights='drawn' or None"),
        ("resnet18", "drawn", ValueError, "belong to the small backbone, not to resnet18"),
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
