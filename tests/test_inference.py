"""What a model says of pictures, whatever they come as; and batch norms that are taken anew."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from toys import PEOPLE, TOY, coloured_people, network_of

from reidnb.batches import make_batch
from reidnb.datasets import decode
from reidnb.inference import adapt_batch_norm, describe, embed
from reidnb.methods import Attributes, Stripes
from reidnb.network import Output, build_model
from reidnb.recipes import RECIPES, recipe
from reidnb.runtime import autocast

CPU, SIZE = torch.device("cpu"), (32, 16)
STRIPED = recipe(TOY, heads=(Stripes(4),))


def some(n=5, seed=2):
    return coloured_people(seed=seed, people=n, each=1)[0]


# ---- embed ----------------------------------------------------------------------------------------------------------


def test_embed():
    images, model = some(12), network_of()
    model.train()
    features = embed(model, images, "cpu")
    assert model.training, "the model is left in the mode it came in"
    assert features.dtype == torch.float32 and features.shape == (12, model.backbone.channels)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(12), rtol=1e-5, atol=1e-5)
    # bf16 keeps three digits, and another batch size may round otherwise
    torch.testing.assert_close(embed(model, images[:7], "cpu", batch=3), features[:7], rtol=0, atol=0.01)
    mirrored = embed(model, images[..., ::-1].copy(), "cpu")
    torch.testing.assert_close(mirrored, features, rtol=0, atol=0.01)
    one_sided, mirrored = (embed(model, i, "cpu", flip=False) for i in (images, images[..., ::-1].copy()))
    assert (one_sided - mirrored).abs().max() > 0.005, "without flip a picture is not its mirror image"
    torch.testing.assert_close(embed(model, torch.from_numpy(images), "cpu"), features, rtol=0, atol=0)


def test_batch_mates_do_not_matter_in_whichever_mode_the_model_comes():
    images, model = some(6), network_of().train()
    model(make_batch(images, np.arange(6)))  # running means that are not 0
    whole = embed(model, images, "cpu")
    for chosen in ([0], [5, 0], [0, 1, 2, 3]):
        found = embed(model, images[chosen], "cpu")
        torch.testing.assert_close(found, whole[chosen], rtol=0, atol=0.01)  # rounding of bf16


def test_features_or_embedding():
    images, model = some(8), network_of().train()
    model(make_batch(images, np.arange(8)))
    before, behind = (embed(model, images, "cpu", flip=False, compare=name) for name in ("features", "embedding"))
    assert (before >= 0).all() and (behind < 0).any(), "a ReLU's means before the neck, whitened behind it"
    torch.testing.assert_close(before.norm(dim=1), torch.ones(8))


def test_several_outputs_at_once_are_those_one_by_one():
    """In the order of the names; stripes too have unit length, also after the mirror image was added."""
    images, model, names = some(), network_of(STRIPED), ("local", "features", "embedding")
    together = embed(model, images, "cpu", batch=3, compare=names)
    assert isinstance(together, list) and len(together) == 3
    for name, found in zip(names, together):
        alone = embed(model, images, "cpu", batch=3, compare=name)
        torch.testing.assert_close(found, alone, rtol=0, atol=1e-6)  # the same sums twice
        torch.testing.assert_close(found.norm(dim=-1), torch.ones(found.shape[:-1]), rtol=0, atol=1e-6)  # float32's
    assert together[0].shape == (5, 4, 128) and together[0].dtype == torch.float32
    assert isinstance(embed(model, images, "cpu", compare=("local",)), list)


def test_stripes_and_their_mirror_images_are_averaged():
    """Each stripe by itself."""
    images, model = some(), network_of(STRIPED).eval()
    found = embed(model, images, "cpu", compare="local")
    with torch.inference_mode(), autocast(CPU):
        views = [model(make_batch(pixels, np.arange(5))).local for pixels in (images, images[..., ::-1].copy())]
    expected = (views[0] + views[1]) / (views[0] + views[1]).norm(dim=2, keepdim=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert (found - views[0]).abs().max() > 1e-3, "one view is something else"


def test_logits_come_as_they_are():
    """Unit length is for what is compared; averaging a picture's and its mirror image's logits keeps them logits."""
    images = some(24)
    model = build_model(classes=3, heads=(Attributes(parts=2),), facts={"statements": 5})
    nn.init.normal_(model.heads["attribute"].weight)
    nn.init.normal_(model.classifier.weight)
    for name, shape in (("attribute_logits", (24, 2, 5)), ("logits", (24, 3))):
        both, one = (embed(model, images, "cpu", flip=flip, compare=name) for flip in (True, False))
        mirrored = embed(model, images[..., ::-1].copy(), "cpu", flip=False, compare=name)
        assert both.shape == shape and torch.allclose(both, (one + mirrored) / 2, atol=1e-4)
        assert both.norm(dim=-1).max() > 2


# ---- pictures from files --------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """Five pictures as PNG, in two folders, beside what is none."""
    for i, image in enumerate(some()):
        path = tmp_path / "pictures" / ("a" if i < 2 else "b") / f"{i}.{'PNG' if i == 3 else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(path)
    (tmp_path / "pictures" / "notes.txt").write_text("no picture")
    return tmp_path / "pictures"


def test_a_folder_and_a_list_of_files_are_the_pictures_in_them(folder):
    model = network_of()
    expected = embed(model, some(), "cpu")
    files = sorted(path for path in folder.rglob("*.*") if path.suffix != ".txt")
    for given in (folder, str(folder), files, [str(path) for path in files], (path for path in files)):
        assert torch.equal(embed(model, given, "cpu", size=SIZE), expected)
    reverse = embed(model, files[::-1], "cpu", size=SIZE)
    # a picture's place in its batch may move a sum's last digit, of three in bf16
    torch.testing.assert_close(reverse, expected.flip(0), rtol=0, atol=0.01)
    assert embed(model, folder, "cpu", size=(64, 32)).shape == expected.shape


def test_a_picture_that_lies_on_its_side_is_turned_as_its_file_says(tmp_path):
    """EXIF orientation 6: the camera was turned."""
    upright = Image.fromarray(some(1)[0].transpose(1, 2, 0))
    upright.save(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    lying = decode(tmp_path / "turned.png", SIZE)
    assert (lying == some(1)[0]).all()
    model = network_of()
    found = embed(model, [tmp_path / "upright.png", tmp_path / "turned.png"], "cpu", size=SIZE)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-6)


# ---- what embed refuses ---------------------------------------------------------------------------------------------

IMAGES = some()


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"images": None}, ValueError, "wanted images uint8 .N, 3, H, W., a folder or a list of files"),
        ({"images": 3}, ValueError, "wanted images uint8 .*; got 3 among 1"),
        ({"images": []}, ValueError, "at least one; got an empty list"),
        ({"images": list(IMAGES)}, ValueError, "a list of files, at least one; got array"),
        ({"images": ["a.png", None]}, ValueError, "got None among 2"),
        ({"images": "nowhere"}, ValueError, "there is no folder nowhere"),
        ({"images": ["nowhere.png"]}, ValueError, "cannot read the image nowhere.png .No such file"),
        ({"images": [__file__]}, ValueError, "cannot read the image .*test_inference.py .UnidentifiedImageError"),
        ({"images": IMAGES[:0]}, ValueError, "there are no pictures: N is 0"),
        ({"images": IMAGES[0]}, ValueError, r"must be uint8 \(N, 3, H, W\), got uint8 \(3, 32, 16\)"),
        ({"images": IMAGES.astype(np.float32)}, ValueError, r"images must be uint8 .* got float32"),
        ({"images": IMAGES.transpose(0, 2, 3, 1)}, ValueError, r"images must be uint8 .* got uint8 \(5, 32, 16, 3\)"),
        ({"images": torch.zeros(2, 1, 32, 16, dtype=torch.uint8)}, ValueError, r"got torch.uint8 \(2, 1, 32, 16\)"),
        ({"compare": "nope"}, ValueError, "the model says nothing called 'nope'; it says map, features, embedding"),
        ({"compare": ("features", "local")}, ValueError, "the model says nothing called 'local'"),
        ({"compare": ()}, ValueError, r"compare must be a name in network.Output, or a tuple of names; got \(\)"),
        ({"compare": ""}, ValueError, "the model says nothing called ''"),
        ({"compare": None}, ValueError, "compare must be a name .* got None"),
        ({"compare": 3}, ValueError, "compare must be a name .* got 3"),
        ({"compare": ("features", 3)}, ValueError, "compare must be a name"),
        ({"batch": 0}, ValueError, "batch must be a whole number of pictures, at least 1; got 0"),
        ({"batch": 2.5}, ValueError, "batch must be a whole number .* got 2.5"),
        ({"batch": "8"}, ValueError, "batch must be a whole number .* got '8'"),
        ({"flip": "no"}, ValueError, "flip must be True or False, got 'no'"),
        ({"flip": None}, ValueError, "flip must be True or False, got None"),
        ({"device": "tpu"}, ValueError, "unknown device 'tpu'"),
        ({"model": "small"}, TypeError, "model must be an nn.Module, such as network.build_model gives; got 'small'"),
        ({"model": None}, TypeError, "model must be an nn.Module"),
        ({"model": nn.Identity()}, TypeError, "the model must give a network.Output, values by name; got Tensor"),
    ],
    ids=lambda v: str(v)[:24].replace("\n", ""),
)
def test_embed_refuses(changes, error, says, small):
    arguments = {"model": small.train(), "images": IMAGES, "device": "cpu"} | changes
    with pytest.raises(error, match=says):
        embed(**arguments)
    assert small.training, "also after an error the mode is the one it came in"
    with pytest.raises(ValueError, match="size|height and width"):
        embed(small, [__file__], "cpu", size=64)


@pytest.fixture(scope="module")
def small():
    return build_model("small")


def test_a_folder_without_pictures(tmp_path, small):
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(ValueError, match="holds no pictures .*.jpg, .jpeg, .png"):
        embed(small, tmp_path, "cpu")


def test_the_mode_is_restored_also_after_an_error_inside_the_model(small):
    class Breaks(nn.Module):
        def forward(self, images):
            raise RuntimeError("inside the model")

    for mode in (True, False):
        model = Breaks().train(mode)
        with pytest.raises(RuntimeError, match="inside the model"):
            embed(model, IMAGES, "cpu")
        assert model.training == mode


# ---- describe -------------------------------------------------------------------------------------------------------


def test_describe_says_what_is_compared_and_what_is_asked_for():
    model, images = network_of(STRIPED), some()
    plan = recipe(STRIPED, compare="local", flip_test=False)
    found = describe(plan, model, images, CPU, ("features", "logits"))
    assert found.keys() == {"whole", "features", "logits"} and found["logits"].shape == (5, PEOPLE)
    local = embed(model, images, CPU, flip=False, compare="local")
    np.testing.assert_allclose(found["whole"], F.normalize(local.flatten(1)), atol=1e-6)  # the same sums twice
    assert found["whole"].shape == (5, 4 * 128) and found["whole"].dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found["whole"], axis=1), 1, atol=1e-6)  # float32's
    flipped = describe(STRIPED, model, images, CPU)["whole"]
    np.testing.assert_allclose(flipped, embed(model, images, CPU), atol=1e-6)


@pytest.mark.parametrize("name", ["lomo", "colour_histogram"])
def test_where_nothing_is_learned_the_descriptor_is_asked(name):
    found = describe(RECIPES[name], None, some())
    assert found.keys() == {"whole"} and len(found["whole"]) == 5
    np.testing.assert_allclose(np.linalg.norm(found["whole"], axis=1), 1, rtol=1e-5)


# ---- batch norms taken anew -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [True, False])
def test_fresh_norms_are_the_statistics_of_other_pictures(mode, monkeypatch):
    monkeypatch.setenv("REIDNB_FP32", "1")  # bf16 keeps three digits
    target = np.random.default_rng(0).integers(0, 256, (10, 3, 32, 16), np.uint8)
    model = build_model("small", 6).train(mode)
    before = [p.clone() for p in model.parameters()]
    adapt_batch_norm(model, target, "cpu")
    stem = model.backbone.stem
    with torch.no_grad():
        through = stem[0](make_batch(target, np.arange(10)))
    torch.testing.assert_close(stem[1].running_mean, through.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(stem[1].running_var, through.var((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert stem[1].momentum == 0.1 and all(torch.equal(a, b) for a, b in zip(before, model.parameters()))
    assert model.training == mode and all(layer.training == mode for layer in model.modules())


def test_fresh_norms_are_means_over_batches_alike_in_size():
    target = np.random.default_rng(0).integers(0, 256, (10, 3, 32, 16), np.uint8)
    model = nn.ModuleDict({"norm": nn.BatchNorm2d(3)})
    model.forward = lambda pixels: model["norm"](pixels)
    adapt_batch_norm(model, target, "cpu", batch=4)
    batches = [make_batch(target, part) for part in np.array_split(np.arange(10), 3)]
    assert [len(batch) for batch in batches] == [4, 3, 3]
    mean = torch.stack([batch.mean((0, 2, 3)) for batch in batches]).mean(0)
    torch.testing.assert_close(model["norm"].running_mean, mean, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("images", "batch"),
    [(IMAGES[:0], 256), (IMAGES.astype(float), 256), (IMAGES, 0), (None, 256)],
    ids=["none", "floats", "batch", "None"],
)
def test_what_cannot_be_adapted_to_leaves_the_model_whole(images, batch):
    """Once the statistics were gone, and the momentum with them."""
    model = build_model("small", weights="drawn").eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="uint8|batch must be|no pictures"):
        adapt_batch_norm(model, images, "cpu", batch)
    assert not model.training and model.neck.momentum == 0.1
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_mode_and_momenta_are_restored_also_after_an_error():
    class Breaks(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, images):
            raise RuntimeError("inside the model")

    model = Breaks().eval()
    with pytest.raises(RuntimeError, match="inside the model"):
        adapt_batch_norm(model, IMAGES, "cpu")
    assert not model.training and model.norm.momentum == 0.1
    with pytest.raises(TypeError, match="model must be an nn.Module"):
        adapt_batch_norm("small", IMAGES)


def test_an_output_is_a_mapping():
    """What `embed` asks of a model: values by name, of the package's own kind or a reader's."""

    class Plain(nn.Module):
        def forward(self, images):
            return {"embedding": images.mean((2, 3)) + 1.0}

    assert isinstance(Output(), dict) and embed(Plain(), IMAGES, "cpu").shape == (5, 3)
