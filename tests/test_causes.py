"""One thing changed at a time: on networks that can be worked out by hand, and on drawn people."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from reidnb import causes
from reidnb.datasets import open_dataset, redraw
from reidnb.network import Output, build_model
from reidnb.recipes import recipe
from reidnb.synthetic import ATTRIBUTES, PARTS, Dials, draw, make_world
from reidnb.training import Batch


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REIDNB_CACHE", str(tmp_path_factory.mktemp("cache")))
        counts = {"train_identities": 2, "test_identities": 20, "distractors": 10, "junk": 5}
        yield open_dataset("synthetic", size=(64, 32), world=3, **counts)


class Rows(nn.Module):
    """Says of each of eight bands its own mean colour, and nothing of its neighbours."""

    def forward(self, images):
        cells = nn.functional.avg_pool2d(images, (images.shape[2] // 8, images.shape[3])) + 0.01
        return Output(map=cells, embedding=cells.mean((2, 3)), features=cells.mean((2, 3)))


# ---- what a stripe sees ---------------------------------------------------------------------------------------------


def test_a_stripe_that_sees_its_band_alone(world):
    moved = causes.band_response(Rows(), np.array(world.query.images[:8]))
    assert moved.shape == (8, 8) and (np.diag(moved) > 0.02).all()
    assert np.abs(moved - np.diag(np.diag(moved))).max() < 1e-6


def test_the_receptive_field_of_two_convolutions():
    """Stride 2 twice and kernels of 3: a row of the map sees 7 rows of the picture, at the edge one less."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 5, 3, 2, 1))
    seen = causes.receptive_field(net, np.random.default_rng(0).integers(0, 256, (2, 3, 32, 16), np.uint8))
    assert seen.shape == (8, 32) and np.allclose(seen.sum(1), 1, atol=1e-5)
    assert (seen > 0).sum(1).tolist() == [4, *[7] * 7]
    assert np.flatnonzero(seen[2]).tolist() == [*range(5, 12)]


def test_the_small_backbone_sees_far_beyond_its_stripe(world):
    """What the notebooks say: up to 47 of 64 rows stand behind one stripe of eight."""
    seen = causes.receptive_field(build_model().backbone, np.array(world.query.images[:4]))
    assert (seen > 0).sum(1).max() == 47


def test_gradient_norms_grow_with_the_weight():
    torch.manual_seed(0)
    plan = recipe("hplf")
    model = plan.network({"classes": 4})
    pixels, batch = torch.randn(8, 3, 64, 32), Batch(torch.arange(8) // 2, np.arange(8))
    one = causes.gradient_norms(model, plan.terms, pixels, batch)
    three = causes.gradient_norms(model, recipe("hplf", local_weight=0.9).terms, pixels, batch)
    assert [*one] == ["identity", "trihard", "local"] and min(one.values()) > 0
    assert three["local"] == pytest.approx(3 * one["local"], rel=1e-3) and three["identity"] == one["identity"]


class Counting:
    """A term that remembers how often it was asked."""

    key, needs, weight, asked = "counting", (), 1.0, 0

    def __call__(self, output, batch):
        self.asked += 1
        return output.features.sum()


def test_a_term_learns_nothing_from_the_question():
    term, model = Counting(), recipe("ide").network({"classes": 4})
    pixels, batch = torch.randn(8, 3, 64, 32), Batch(torch.arange(8) // 2, np.arange(8))
    assert causes.gradient_norms(model, [term], pixels, batch)["counting"] > 0
    assert term.asked == 0


# ---- the distance at test -------------------------------------------------------------------------------------------


def test_stripes_at_test_by_hand(world):
    found = causes.stripes_at_test(Rows(), world)
    assert [*found] == ["global", "rigid", "aligned", "global + rigid", "global + aligned"]
    assert len({score.mAP for score in found.values()}) == 5
    assert found["rigid"].mAP > found["global"].mAP, "where a colour sits tells people apart; its mean does not"


def test_distances_by(world):
    rng = np.random.default_rng(0)
    whole, stripes = rng.normal(size=(3, 5)).astype(np.float32), rng.normal(size=(3, 4, 2)).astype(np.float32)
    found = causes.distances_by((whole, stripes), (whole, stripes))
    squashed = np.tanh(np.linalg.norm(stripes[0] - stripes[1], axis=1) / 2)
    assert found["rigid"][0, 1] == pytest.approx(squashed.mean(), rel=1e-5)
    assert found["global"][0, 1] == pytest.approx(np.linalg.norm(whole[0] - whole[1]), rel=1e-5)
    assert found["aligned"][0, 0] >= 0 and found["rigid"][0, 0] == pytest.approx(0, abs=1e-6)


# ---- drawn anew -----------------------------------------------------------------------------------------------------


def test_drawn_anew_unchanged_it_is_the_same_picture(world):
    np.testing.assert_array_equal(redraw(world, "query", range(9)), world.query.images[:9])
    winter = open_dataset("synthetic_winter", size=(64, 32), world=1, train_identities=2, test_identities=3)
    np.testing.assert_array_equal(redraw(winter, "gallery", [4, 2]), winter.gallery.images[[4, 2]])


def test_drawn_anew_without_what_hides_it(world):
    hidden = np.flatnonzero(world.query.shots["occluder"].to_numpy() != "")[:3]
    assert len(hidden)
    clear = redraw(world, "query", hidden, occluder="")
    assert all((one != other).any() for one, other in zip(clear, world.query.images[hidden]))


def test_cured(world):
    def describe(images):
        return images.astype(np.float32).reshape(len(images), -1) / 255

    rows = np.arange(6)
    table = causes.cured(describe, world, rows, describe(np.array(world.gallery.images)))
    assert table.columns.tolist() == ["query", "as seen", *causes.CURES, "all"] and len(table) == 6
    plain = world.query.shots.iloc[:6]
    for name, kept in (("occlusion", plain["occluder"] == ""), ("company", plain["company"] == 0)):
        assert (table["as seen"] == table[name])[kept.to_numpy()].all(), "nothing to take away, nothing changes"


def test_a_box_that_slides(world):
    """Rigid stripes suffer at once; the path follows the slide."""
    table = causes.slid_boxes(Rows(), world, range(20), shares=(0.0, 0.125))
    assert table.distance.tolist() == [*causes.DISTANCES] * 2
    rigid, aligned = (table[table.distance == kind].same.to_numpy() for kind in ("rigid", "aligned"))
    assert rigid[1] - rigid[0] > 2 * (aligned[1] - aligned[0])


def test_photographs_cannot_be_drawn_anew(world):
    photographs = type(world)("market1501", world.train, world.query, world.gallery)
    with pytest.raises(ValueError, match="market1501 was photographed"):
        redraw(photographs, "query", [0])


def test_an_attribute_off_and_on():
    """One of the two is the shot as it is, and what differs lies where the attribute does."""
    calm = Dials(occlusion=0.0, misalignment=0.0)
    few = {"test_identities": 1, "distractors": 0, "junk": 0}
    drawn, changed = make_world(train_identities=4, size=(64, 32), dials=calm, **few), {}
    for shot in drawn.shots["train"]:
        person = drawn.people[shot.subject - 1]
        for name in ("hat", "handbag", "down", "backpack"):
            both = causes.off_and_on(drawn, shot, name)
            assert np.array_equal(both[person.labels[ATTRIBUTES.index(name)]], draw(drawn, shot).image)
            changed.setdefault(name, []).append((both[0] != both[1]).any(2).mean(1))  # by row
    plainer = replace(drawn, dials=replace(calm, cues=2.0))  # the dial of how plainly these two show
    for shot in drawn.shots["train"][:12]:
        for name in ("hair", "gender"):
            for world in (drawn, plainer):
                off, on = (image.astype(int) for image in causes.off_and_on(world, shot, name))
                changed.setdefault((name, world.dials.cues), []).append((np.abs(off - on).max(2) > 25).mean())
    assert all(np.mean(changed[name, 2.0]) > 1.2 * np.mean(changed[name, 0.0]) > 0 for name in ("hair", "gender"))
    hat, legs = (np.mean(changed[name], 0) for name in ("hat", "down"))
    assert hat[:20].sum() > 0.9 * hat.sum() > 0 and legs[30:].sum() > 0.9 * legs.sum() > 0
    with pytest.raises(ValueError, match="unknown attribute 'cape'"):
        causes.off_and_on(drawn, shot, "cape")
    with pytest.raises(ValueError, match="nobody"):
        causes.off_and_on(drawn, replace(shot, subject=0), "hat")


def test_the_backgrounds_share():
    growth, mask = np.array([[1.0, 3.0], [-5.0, 4.0]]), np.full((2, 2), PARTS.index("torso"))
    mask[0, 1] = mask[1, 0] = PARTS.index("background")
    assert causes.background_share(growth, mask) == pytest.approx(3 / 8)
    assert np.isnan(causes.background_share(-np.abs(growth), mask))
