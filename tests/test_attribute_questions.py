"""Questions about people's looks: what a dataset's columns become, and what is unknown. And descriptors of colour."""

import math
from types import SimpleNamespace

import fake_datasets as fake
import numpy as np
import pytest

from reidnb.attributes import attribute_questions
from reidnb.datasets import layouts, open_dataset
from reidnb.descriptors import colour_histogram, hsv, lomo

MARKET = {
    "bounding_box_train": ["0002_c1s1_000451_03.jpg"],
    "query": ["0001_c1s1_001051_00.jpg"],
    "bounding_box_test": ["0001_c2s1_001051_00.jpg"],
}
THREE = [[0, 2, 1], [1, 0, 0]], ("hat", "age", "upblue")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("REIDNB_CACHE", str(tmp_path / "cache"))


def dataset(attributes, names):
    return SimpleNamespace(name="made", attribute_names=names, train=SimpleNamespace(attributes=np.array(attributes)))


def test_the_built_in_worlds_questions():
    world = open_dataset("synthetic", size=(32, 16), train_identities=6, test_identities=2, distractors=2, junk=2)
    asked = attribute_questions(world)
    assert len(asked.names) == 12 and len(asked.statements) == 30 and asked.names[:2] == ("age", "backpack")
    answers = asked.answers(world.train.attributes)
    names = world.attribute_names
    for row, truth in zip(answers, world.train.attributes):
        for k, statement in enumerate(asked.statements):
            if statement.startswith("age="):
                ages = ("young", "teenager", "adult", "old")
                assert row[k] == (ages.index(statement[4:]) == truth[names.index("age")])
            else:
                assert row[k] == truth[names.index(statement)]
    assert np.allclose(asked.shares, answers.mean(0))
    junk = asked.answers(world.gallery.attributes[world.gallery.pids <= 0])
    assert len(junk) and np.isnan(junk).all(), "nobody knows what a distractor wears"
    by_name = dict(zip(asked.names, asked.groups))
    for name in ("age", "upcolour", "downcolour"):
        assert (answers[:, by_name[name]].sum(1) == 1).all(), "one of them is true"
    assert asked.words(asked.statements.index("upred")) == "red top" and asked.words(1) == "teenager"
    said = {("gender", 0): "not female", ("gender", 1): "female", ("hat", 0): "not hat", ("age", 3): "old"}
    assert {value: asked.meaning(names.index(value[0]), value[1]) for value in said} == said


@pytest.mark.parametrize(
    "names, counts",
    [
        (layouts.MARKET_ATTRIBUTES, {"age": 4, "gender": 1, "upcolour": 8, "downcolour": 9, None: (12, 30)}),
        (layouts.DUKE_ATTRIBUTES, {"boots": 1, "top": 1, "upcolour": 8, "downcolour": 7, None: (10, 23)}),
    ],
)
def test_the_questions_of_the_real_datasets(names, counts):
    """Lin et al. (2019) count 27 and 23 labels: Market-1501's age is one of them, in four classes."""
    asked = attribute_questions(dataset(np.zeros((2, len(names)), int), names))
    sizes = {name: group.stop - group.start for name, group in zip(asked.names, asked.groups)}
    assert (len(sizes), sum(sizes.values())) == counts.pop(None)
    assert {name: sizes[name] for name in counts} == counts
    assert [k for group in asked.groups for k in range(group.start, group.stop)] == list(range(sum(sizes.values())))


def test_labels_from_a_market_attribute_file(tmp_path):
    """From 1-based labels an identity, in a .mat file whose halves order their fields differently, to statements."""
    folder = fake.market1501(tmp_path / "Market-1501-v15.09.15", MARKET)
    where = folder / "market_attribute.mat"
    fake.attributes(where, "market_attribute", layouts.MARKET_ATTRIBUTES, {2: {"age": 3, "upred": 2}}, {1: {"hat": 2}})
    market = open_dataset("market1501", root=folder, size=(32, 16))
    asked = attribute_questions(market)
    train = dict(zip(asked.statements, asked.answers(market.train.attributes)[0]))
    assert train["age=adult"] == train["upred"] == 1 and sum(train.values()) == 2
    query = dict(zip(asked.statements, asked.answers(market.query.attributes)[0]))
    assert query["hat"] == query["age=young"] == 1 and sum(query.values()) == 2


def test_columns_of_ones_own():
    """A table with columns of its own (open_dataset("csv")): two values are one statement, more are one each."""
    asked = attribute_questions(dataset([[0, 2, 1], [1, 0, -1], [0, 1, 0]], ("glasses", "shoe", "upblue")))
    assert asked.statements == ("glasses", "shoe=0", "shoe=1", "shoe=2", "upblue")
    assert asked.names == ("glasses", "shoe", "upcolour")
    answers = asked.answers([[1, 2, -1]])
    assert answers[0, :4].tolist() == [1, 0, 0, 1] and np.isnan(answers[0, 4])
    assert asked.shares.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1 / 3, 1 / 2]), "of what is known"


def test_values_that_occur_make_the_statements():
    asked = attribute_questions(dataset([[30, 7], [61, 7], [-1, 9]], ("age", "luggage")))
    assert asked.statements == ("age=30", "age=61", "luggage=7", "luggage=9"), "an age in years has no class name"
    assert asked.words(0) == "30" and asked.words(2) == "luggage=7"
    assert [asked.meaning(1, 9), asked.meaning(0, 2)] == ["luggage=9", "2"], "two years old, not an adult"
    assert asked.answers([[61, 7]]).tolist() == [[0, 1, 1, 0]]
    asked = attribute_questions(dataset([[0], [0]], ("age",)))
    assert asked.statements[1] == "age=teenager", "named, though only one occurs"


def test_unknown_is_what_is_below_0_or_nan():
    asked = attribute_questions(dataset([[0, math.nan], [1, 1], [math.nan, -1]], ("hat", "upblue")))
    assert asked.shares.tolist() == [0.5, 1.0], "of what is known"
    answers = asked.answers([[math.nan, 1.0], [-1.0, 0.0], [-3.0, math.nan]])
    assert np.array_equal(answers, [[math.nan, 1], [math.nan, 0], [math.nan, math.nan]], equal_nan=True)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ([[0.5, 1, 1]], "whole numbers from 0, -1 or NaN where unknown; got fractions"),
        ([[np.inf, 1, 1]], "got fractions"),
        ([["yes", "no", "no"]], "must be whole numbers from 0, -1 or NaN where unknown; got"),
        (None, "must be whole numbers .* got None"),
        ([0, 1, 1], r"attributes must be \(N, A\), .* 3 or more; got shape \(3,\)"),
        ([[0, 1]], r"got shape \(1, 2\)"),
    ],
)
def test_answers_refuse(attributes, message):
    asked = attribute_questions(dataset(*THREE))
    with pytest.raises(ValueError, match=message):
        asked.answers(attributes)


def test_only_some_questions():
    asked = attribute_questions(dataset(*THREE), only=("upcolour", "hat"))
    assert asked.names == ("hat", "upcolour") and asked.groups == (slice(0, 1), slice(1, 2))
    assert asked.answers([[1, 3, 0]]).tolist() == [[1, 0]]
    assert attribute_questions(dataset(*THREE), only="hat").names == ("hat",), "one name is a name, not three letters"
    for only, message in (
        (("hats",), "made does not answer hats; it answers hat, age"),
        ("hats", "made does not answer hats; it answers hat, age, upcolour"),
        (("hat", 3), "made does not answer 3"),
        ((), "only=.. asks nothing; made answers hat, age, upcolour"),
    ):
        with pytest.raises(ValueError, match=message):
            attribute_questions(dataset(*THREE), only=only)


def test_a_dataset_without_attributes():
    with pytest.raises(ValueError, match="made has no attributes. .* put market_attribute.mat or"):
        attribute_questions(SimpleNamespace(name="made", attribute_names=(), train=SimpleNamespace(attributes=None)))
    with pytest.raises(TypeError, match="wanted a dataset, as open_dataset gives it; got str"):
        attribute_questions("synthetic")
    with pytest.raises(ValueError, match=r"made: 2 names of attributes for attributes of shape \(2, 3\)"):
        attribute_questions(dataset(THREE[0], ("hat", "age")))


# --- descriptors ---------------------------------------------------------------------------------------------------


def test_hue_saturation_and_value_to_the_last_bit():
    from matplotlib.colors import rgb_to_hsv

    levels = np.array([0, 1, 2, 63, 64, 127, 128, 200, 254, 255], np.uint8)
    picture = np.stack(np.meshgrid(levels, levels, levels)).reshape(3, 25, 40)
    theirs = rgb_to_hsv(np.moveaxis(picture.astype(np.float32) / 255, 0, -1))
    for ours, channel in zip(hsv(picture), np.moveaxis(theirs, -1, 0)):
        assert ours.dtype == np.float32 and np.array_equal(ours, channel)


@pytest.mark.parametrize("describe", [colour_histogram, lomo])
def test_descriptors_have_length_one_and_refuse_what_is_no_picture(describe):
    pictures = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 16), dtype=np.uint8)
    found = describe(pictures)
    assert found.dtype == np.float32 and np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)  # float32 rounding
    assert describe(pictures[:0]).shape == (0, found.shape[1])
    for images, error in (
        (pictures.astype(float), ValueError), (pictures[0], ValueError), (pictures[:, :1], ValueError),
        (pictures[:, :, :4, :4], ValueError), ([[1]], TypeError), (None, TypeError),
    ):  # fmt: skip
        with pytest.raises(error, match="images must be"):
            describe(images)
    for bins in (0, 2.5, True, "8"):
        with pytest.raises(ValueError, match="bins must be a whole number from 1, got"):
            describe(pictures, bins=bins)
