"""Pictures in grids: the right picture in the right place, framed and marked as it should be."""

from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from reidnb import plots
from reidnb.plots.pictures import as_picture


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def flat(values, height=16, width=8):
    """A picture of one grey for each value, so that each can be told by its first pixel."""
    return np.broadcast_to(np.uint8(values)[:, None, None, None], (len(values), 3, height, width))


def shown(ax):
    """The grey of the picture on the axes; None if there is none."""
    return int(ax.images[0].get_array()[0, 0, 0]) if ax.images else None


def frame(ax):
    spine = ax.spines["left"]
    return matplotlib.colors.to_hex(spine.get_edgecolor()) if spine.get_visible() else None


def badge(ax):
    return "".join(text.get_text() for text in ax.texts)


def grid(figure, rows):
    return np.array(figure.axes).reshape(rows, -1)


# --------------------------------------------------------------------------------------------------------- one picture


def test_a_picture_in_any_form_is_height_width_colours():
    picture = np.random.default_rng(0).integers(0, 256, (3, 5, 4), dtype=np.uint8)
    for form in (picture, picture.transpose(1, 2, 0), torch.from_numpy(picture)):
        np.testing.assert_array_equal(as_picture(form), picture.transpose(1, 2, 0))
    assert as_picture(np.ones((3, 5, 4), np.float32)).shape == (5, 4, 3)


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (np.zeros((4, 5), np.uint8), r"shape \(3, H, W\) or \(H, W, 3\), got \(4, 5\)"),
        (np.zeros((3, 0, 4), np.uint8), r"got \(3, 0, 4\)"),
        (np.zeros((4, 5, 6), np.uint8), r"got \(4, 5, 6\)"),
        (None, r"got \(\)"),
        (np.full((3, 4, 5), np.nan), "uint8, or floats from 0 to 1 without NaN; got float64"),
        (np.full((3, 4, 5), 255.0), "floats from 0 to 1"),
        (np.zeros((3, 4, 5), int), "got int64"),
    ],
)
def test_what_is_no_picture(picture, said):
    with pytest.raises(ValueError, match=said):
        as_picture(picture)


@pytest.mark.parametrize(("colour", "sign"), [("GREEN", "✓"), ("RED", "✗"), ("BLUE", ""), ("GREY", ""), (None, "")])
def test_right_and_wrong_have_a_mark_beside_the_colour(colour, sign):
    colour = colour and getattr(plots, colour)
    ax = plots.picture_row(flat([7]), ["a title"], [colour]).axes[0]
    assert badge(ax) == sign and frame(ax) == colour and shown(ax) == 7 and ax.get_title() == "a title"


# --------------------------------------------------------------------------------------------------------------- grids


def test_a_grid_puts_pictures_in_their_places():
    one, two, three = flat([1, 2, 3])
    axes = grid(plots.people_grid([[one, None, two], [three]], ["first", "second"], list("abc")), 2)
    assert [[shown(ax) for ax in line] for line in axes] == [[1, None, 2], [3, None, None]]
    assert [ax.get_title() for ax in axes.flat] == ["a", "", "c", "", "", ""]  # no picture, no title
    assert [line[0].get_ylabel() for line in axes] == ["first", "second"]
    assert frame(axes[1, 2]) is None and not len(axes[1, 2].get_xticks())


def test_a_row_of_pictures_is_as_wide_as_they_are():
    tall, wide = plots.picture_row(flat([1, 2])), plots.picture_row(flat([1, 2], 16, 32))
    assert wide.get_figwidth() > 2 * tall.get_figwidth() and wide.get_figheight() == tall.get_figheight()
    box, drawn = tall.axes[0].get_position(), tall.get_size_inches()
    assert box.width * drawn[0] > 0.5  # inches: the labels left room for the pictures


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda: plots.picture_row([]), "there are no pictures to draw"),
        (lambda: plots.people_grid([]), "there are no pictures to draw"),
        (lambda: plots.people_grid([[], [None]]), "there are no pictures to draw"),
        (lambda: plots.picture_row(flat([1, 2]), ["a"]), r"titles for \[1\] places, pictures in \[2\]"),
        (lambda: plots.picture_row(flat([1, 2]), None, [None] * 3), r"frames for \[3\] places"),
        (lambda: plots.people_grid([flat([1])], ["a", "b"]), "2 row labels for 1 rows"),
        (lambda: plots.people_grid([flat([1, 2])], None, ["a"]), r"titles for \[1\] places"),
        (lambda: plots.picture_row([np.zeros((4, 5))]), r"got \(4, 5\)"),
    ],
)
def test_grids_that_cannot_be_drawn(draw, said):
    with pytest.raises(ValueError, match=said):
        draw()


# ----------------------------------------------------------------------------------------------------- who is whom


@pytest.fixture
def world():
    """A query of person 1 by camera 0. The gallery: junk, its own camera, a distractor, the right one, a stranger."""
    query = SimpleNamespace(images=flat([100, 101]), pids=np.array([1, 2]), camids=np.array([0, 2]))
    gallery = SimpleNamespace(
        images=flat([10, 11, 12, 13, 14]), pids=np.array([-1, 1, 0, 1, 2]), camids=np.array([1, 0, 1, 1, 0])
    )
    return query, gallery, np.array([[0.0, 1, 3, 2, 4], [5.0, 4, 3, 2, 1]])


def test_rankings_leave_out_what_the_protocol_ignores(world):
    axes = grid(plots.rankings(*world, [0]), 1)[0]
    assert [shown(ax) for ax in axes] == [100, 13, 12, 14], "a list ends where the gallery does"
    assert [frame(ax) for ax in axes] == [plots.BLUE, plots.GREEN, plots.RED, plots.RED]
    assert [badge(ax) for ax in axes] == ["", "✓", "✗", "✗"]
    assert [ax.get_title() for ax in axes] == ["query c1", "1: 2.00", "2: 3.00", "3: 4.00"]


def test_rankings_of_two_queries_stop_at_the_top(world):
    axes = grid(plots.rankings(*world, np.array([1, 0]), top=2), 2)
    assert [[shown(ax) for ax in line] for line in axes] == [[101, 14, 13], [100, 13, 12]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": []}, "rows must be a list of indices"),
        ({"rows": [2]}, "rows must lie below 2, got 2 to 2"),
        ({"rows": [0.5]}, "rows must be a list of indices, got float64"),
        ({"distances": np.zeros((2, 4))}, r"shape \(2, 5\), queries by gallery; got \(2, 4\)"),
        ({"distances": np.full((2, 5), np.nan)}, "distances of query 0 holds 5 NaN"),
        ({"top": 0}, "top must be at least 1, got 0"),
    ],
)
def test_rankings_that_cannot_be_drawn(world, change, said):
    query, gallery, distances = world
    with pytest.raises(ValueError, match=said):
        plots.rankings(query, gallery, **{"distances": distances, "rows": [0], **change})


def test_triplets_are_columns_with_their_distances():
    distances = torch.tensor([[0.0, 0.5, 0.7, 0.3], [0.5, 0, 1, 1], [0.7, 1, 0, 1], [0.3, 1, 1, 0]])
    anchors, positives, negatives = torch.tensor([0, 0]), torch.tensor([1, 1]), torch.tensor([2, 3])
    truth = np.array([1, 2, 2, 2])
    for known, right in ((None, plots.GREEN), (truth, plots.RED)):
        axes = grid(plots.triplet_rows(flat([0, 1, 2, 3]), anchors, positives, negatives, distances, truth=known), 3)
        assert [[shown(ax) for ax in line] for line in axes] == [[0, 0], [1, 1], [2, 3]]
        assert [[frame(ax) for ax in line] for line in axes] == [
            [plots.BLUE] * 2, [right] * 2, [plots.GREY, plots.RED]  # the second negative lies nearer than the positive
        ]  # fmt: skip
        assert [[ax.get_title() for ax in line] for line in axes[1:]] == [["0.50", "0.50"], ["0.70", "0.30"]]
    assert [line[0].get_ylabel() for line in axes] == ["anchor", "farthest\nof the same", "nearest\nof the others"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"anchors": []}, "anchors must be a list of indices"),
        ({"positives": [9]}, "positives must lie below 2"),
        ({"negatives": [0, 1]}, "1 anchors, 1 positives and 2 negatives"),
        ({"distances": np.zeros((2, 3))}, r"distances must have the shape \(2, 2\)"),
    ],
)
def test_triplets_that_cannot_be_drawn(change, said):
    given = {"anchors": [0], "positives": [1], "negatives": [1], "distances": np.zeros((2, 2)), **change}
    with pytest.raises(ValueError, match=said):
        plots.triplet_rows(flat([1, 2]), **given)


def test_mistakes_stand_between_the_query_and_the_right_one(world):
    query, gallery, _ = world
    worst = pd.DataFrame({"query": [0, 1], "wrong": [2, 3], "right": [3, 4], "wrong_rank": [1, 6], "rank": [2, 9]})
    axes = grid(plots.mistakes(worst, query, gallery, ["hidden", "bad box"]), 3)
    assert [[shown(ax) for ax in line] for line in axes] == [[100, 101], [12, 13], [13, 14]]
    assert [[badge(ax) for ax in line] for line in axes] == [["", ""], ["✗", "✗"], ["✓", "✓"]]
    assert [ax.get_title() for ax in axes.flat] == ["hidden", "bad box", "rank 1", "rank 6", "rank 2", "rank 9"]
    with pytest.raises(ValueError, match="there are no pictures"):
        plots.mistakes(worst[:0], query, gallery, [])


def test_styles_show_the_real_picture_where_it_was_taken():
    images, camids = flat([50, 51]), np.array([1, 0])
    copies = flat([1, 2, 3, 4]).reshape(2, 2, 3, 16, 8)
    axes = grid(plots.style_grid(images, camids, copies), 2)
    assert [[shown(ax) for ax in line] for line in axes] == [[1, 50], [51, 4]]
    assert [[frame(ax) for ax in line] for line in axes] == [[None, plots.BLUE], [plots.BLUE, None]]
    assert [ax.get_title() for ax in axes.flat] == ["c1", "c2 real", "real", ""]
    axes = grid(plots.style_grid(images, camids, [copies, copies + 100], ["λ = 1", "truth"]), 4)
    assert [line[0].get_ylabel() for line in axes] == ["λ = 1", "truth"] * 2
    assert [[shown(ax) for ax in line] for line in axes] == [[1, 50], [101, 50], [51, 4], [51, 104]]
    for wrong in (copies[:1], [copies, copies[:, :1]], flat([1, 2])):
        with pytest.raises(ValueError, match=r"rows must be copies \(N, C, 3, H, W\) of all N images"):
            plots.style_grid(images, camids, wrong)
    with pytest.raises(ValueError, match="1 row labels for 2 kinds"):
        plots.style_grid(images, camids, [copies, copies], ["λ"])


def test_cards_say_right_wrong_and_missed_by_a_sign_and_a_colour():
    figure = plots.attribute_cards(flat([1, 2]), [[("red top", True), ("hat", False)], [("bag", None)]])
    said = [[(text.get_text(), text.get_color()) for text in ax.texts] for ax in figure.axes]
    assert said == [[("✓ red top", plots.GREEN), ("✗ hat", plots.RED)], [("– bag", "dimgray")]]
    heights = [text.get_position()[1] for text in figure.axes[0].texts]
    assert heights[0] > heights[1]
    with pytest.raises(ValueError, match="1 cards for 2 pictures"):
        plots.attribute_cards(flat([1, 2]), [[]])


def test_sensitivity_lays_each_map_over_its_picture_in_grey():
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 8), dtype=np.uint8)
    maps = np.random.default_rng(1).standard_normal((2, 16, 8))
    figure = plots.sensitivity(images, flat([3, 4]), maps, ["AP 1", "AP 2"])
    axes = grid(SimpleNamespace(axes=figure.axes[:6]), 3)
    assert [ax.get_title() for ax in axes[0]] == ["AP 1", "AP 2"] and [shown(ax) for ax in axes[1]] == [3, 4]
    for ax, image, growth in zip(axes[2], images, maps):
        np.testing.assert_allclose(ax.images[0].get_array()[:, :, 1], image.mean(0) / 255)
        np.testing.assert_array_equal(ax.images[1].get_array(), growth)
        assert ax.images[1].get_clim() == (-np.abs(maps).max(), np.abs(maps).max())
    with pytest.raises(ValueError, match="2 images, 2 matches, 1 maps, 2 titles"):
        plots.sensitivity(images, images, maps[:1], ["a", "b"])
    with pytest.raises(ValueError, match=r"maps must have the shape \(2, 16, 8\), got \(2, 16, 4\)"):
        plots.sensitivity(images, images, maps[:, :, :4], ["a", "b"])
    with pytest.raises(ValueError, match="maps holds 1 NaN"):
        plots.sensitivity(images, images, np.where(maps == maps[0, 0, 0], np.nan, maps), ["a", "b"])
