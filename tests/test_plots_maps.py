"""Maps of points, and stripes: every line, picture and dot where the numbers say."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from sklearn.manifold import trustworthiness

from reidnb import plots


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def blobs(seed=0):
    """Three well separated clouds of 20 points in 8 dimensions, and which cloud each belongs to."""
    rng, cloud = np.random.default_rng(seed), np.repeat(np.arange(3), 20)
    return (10 * rng.standard_normal((3, 8))[cloud] + rng.standard_normal((60, 8))).astype(np.float32), cloud


def people(count, height=8, width=4):
    """Pictures of one grey each: 0, 1, 2..."""
    return np.broadcast_to(np.uint8(np.arange(count))[:, None, None, None], (count, 3, height, width))


# ---------------------------------------------------------------------------------------------------------------- maps


@pytest.mark.parametrize("method", ["tsne", "pca"])
def test_a_plane_keeps_clouds_apart(method):
    features, cloud = blobs()
    points = plots.plane(features, method, perplexity=10)
    far = np.linalg.norm(points[:, None] - points, axis=2)
    nearest = np.argsort(far, axis=1)[:, 1:6]
    assert points.shape == (60, 2) and (cloud[nearest] == cloud[:, None]).all()


@pytest.mark.parametrize(
    ("features", "how", "said"),
    [
        (blobs()[0], {"method": "umap"}, "must be 'tsne' or 'pca', got 'umap'"),
        (blobs()[0], {"perplexity": 60}, "perplexity.* between 1 and 60 points"),
        (np.full((9, 4), np.nan), {}, "features holds 36 NaN"),
        (np.zeros((0, 4)), {}, "features is empty"),
        (np.zeros(4), {}, r"features must have the shape \(any, any\), got \(4,\)"),
        (np.zeros((9, 1)), {"method": "pca"}, "two points of two values at least"),
    ],
)
def test_a_plane_that_cannot_be_drawn(features, how, said):
    with pytest.raises(ValueError, match=said):
        plots.plane(features, **how)


def frames(ax):
    return [(matplotlib.colors.to_hex(a.patch.get_edgecolor()), a.patch.get_linestyle()) for a in ax.artists]


def test_a_picture_map_frames_each_group_in_a_colour_and_a_line_of_its_own():
    _, ax = plt.subplots()
    points, groups = np.eye(4)[:, :2], ["b", "a", "b", None]
    handles = plots.picture_map(ax, points, people(4), groups)
    assert list(handles) == ["a", "b"] and [h.get_label() for h in handles.values()] == ["a", "b"]
    drawn = frames(ax)
    assert drawn[0] == drawn[2] and drawn[3][0] == plots.GREY
    assert drawn[0][0] != drawn[1][0] and drawn[0][1] != drawn[1][1]
    assert [tuple(artist.xy) for artist in ax.artists] == [tuple(point) for point in points]
    assert [artist.offsetbox.get_data()[0, 0, 0] for artist in ax.artists] == [0, 1, 2, 3]


def test_many_groups_of_a_picture_map_stay_apart_and_in_order():
    _, ax = plt.subplots()
    cameras = [f"c{i}" for i in range(24, 0, -1)]
    handles = plots.picture_map(ax, np.random.default_rng(0).random((24, 2)), people(24), cameras)
    assert len(set(frames(ax))) == 24 and list(handles) == cameras[::-1]


def test_an_embedding_map_has_a_side_for_each_title_and_tells_how_far_to_believe_it():
    features, cloud = blobs()
    words = np.array(["north", "south", None], object)[cloud]
    sides = {"known people": (features, people(60), words), "new people": (features[20:], people(40), words[20:])}
    figure = plots.embedding_map(sides, "where", method="pca")
    points = plots.plane(features, "pca")
    trust = trustworthiness(features, points, n_neighbors=10)
    assert figure.axes[0].get_title() == f"known people, 60 pictures, trustworthiness {trust:.2f}"
    assert figure.axes[1].get_title().startswith("new people, 40 pictures")
    assert frames(figure.axes[0])[20] == frames(figure.axes[1])[0], "south looks the same where there is no north"
    np.testing.assert_allclose([artist.xy for artist in figure.axes[0].artists], points)
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["north", "south"]
    assert figure.axes[0].get_legend().get_title().get_text() == "where"
    assert plots.embedding_map({"people": (features, people(60), cloud)}, perplexity=10).axes[0].get_legend() is None


@pytest.mark.parametrize(
    ("sides", "said"),
    [
        ({}, "sides must be a dict"),
        ({"new": (np.zeros((4, 3)), people(4), [1] * 4)}, "five pictures or more.*new: 4 features, 4 pictures"),
        ({"new": (np.zeros((6, 3)), people(5), [1] * 6)}, "6 features, 5 pictures and 6 groups"),
    ],
)
def test_an_embedding_map_that_cannot_be_drawn(sides, said):
    with pytest.raises(ValueError, match=said):
        plots.embedding_map(sides)


def test_domains_differ_in_colour_and_shape():
    points, domains = np.arange(8.0).reshape(4, 2), np.array([0, 1, 0, 1])
    figure = plots.domain_maps([points, -points], domains, ("summer", "winter"), ["before", "after"])
    source, target = figure.axes[0].collections
    np.testing.assert_array_equal(source.get_offsets(), points[[0, 2]])
    np.testing.assert_array_equal(figure.axes[1].collections[1].get_offsets(), -points[[1, 3]])
    assert source.get_paths()[0].vertices.shape != target.get_paths()[0].vertices.shape
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["summer", "winter"]
    with pytest.raises(ValueError, match="0 maps"):
        plots.domain_maps([], domains)
    with pytest.raises(ValueError, match=r"points must have the shape \(4, 2\), got \(3, 2\)"):
        plots.domain_maps([points[:3]], domains)


# -------------------------------------------------------------------------------------------------------------- forces


def test_forces_pull_together_or_push_apart():
    _, ax = plt.subplots()
    points, slopes = np.array([[0.0, 0], [1, 0], [0, 1]]), np.zeros((3, 3))
    slopes[0, 1], slopes[2, 0] = 2.0, -1.0  # 0 and 1 attract each other, 0 and 2 repel
    plots.forces(ax, points, [0, 0, 1], slopes, "a loss")
    pull, push = ax.lines
    assert (pull.get_color(), pull.get_linestyle()) == (plots.GREEN, "-")
    assert (push.get_color(), push.get_linestyle()) == (plots.RED, "--")
    assert pull.get_linewidth() > push.get_linewidth() and pull.get_xydata().tolist() == [[0, 0], [1, 0]]
    arrows = next(c for c in ax.collections if isinstance(c, matplotlib.quiver.Quiver))
    moves = np.stack([arrows.U, arrows.V], 1)
    assert moves[0, 0] > 0 > moves[1, 0] and moves[0, 1] < 0 < moves[2, 1] and ax.get_title() == "a loss"


def test_a_film_keeps_its_frames_in_one_frame_of_reference():
    points, labels = np.random.default_rng(0).random((6, 2)), np.repeat([0, 1], 3)
    frames = [(10 + points, labels), (np.zeros((6, 2)), labels)]
    _, first, second = plots.filmstrip(points, labels, np.eye(6), frames, [0, 50]).axes
    drawn = np.concatenate([c.get_offsets() for c in first.collections])
    np.testing.assert_allclose(drawn, points - points.mean(0), atol=1e-12)
    assert first.get_xlim() == second.get_xlim() == second.get_ylim() and second.get_title() == "step 50"
    with pytest.raises(ValueError, match="2 frames for 1 steps"):
        plots.filmstrip(points, labels, np.eye(6), frames, [0])
    with pytest.raises(ValueError, match=r"slopes must have the shape \(6, 6\)"):
        plots.filmstrip(points, labels, np.eye(5), frames, [0, 50])
    with pytest.raises(ValueError, match="slopes holds 36 NaN"):
        plots.filmstrip(points, labels, np.full((6, 6), np.nan), frames, [0, 50])


def test_a_scale_bar_is_as_long_as_it_says():
    points = np.array([[0.0, 0], [2, 0], [0, 1]])
    for where, length in ((points, 0.3), (0.1 * points, 0.3)):  # within the cloud, and longer than all of it
        _, ax = plt.subplots()
        plots.forces(ax, where, [0, 0, 1], np.zeros((3, 3)), bar=length)
        ((x, y),) = [line.get_data() for line in ax.lines]
        assert x[1] - x[0] == pytest.approx(length) and y[0] == y[1] < 0
        assert [text.get_text() for text in ax.texts] == ["0.3"]
    frames = [(points, [0, 0, 1])] * 2
    axes = plots.filmstrip(points, [0, 0, 1], np.zeros((3, 3)), frames, [0, 9], bar=0.5).axes
    assert [np.ptp(ax.lines[-1].get_xdata()) for ax in axes] == pytest.approx([0.5] * 3)


def test_weights_stand_over_their_distances_as_shares_of_the_largest_pull_and_push():
    far, weights, same = np.arange(5.0), np.array([2.0, 4, 0, -1, -0.5]), np.array([1, 1, 0, 0, 0], bool)
    figure = plots.weights_by_distance({"a loss": (far, weights, same), "silent": (far, 0 * far, same)}, columns=3)
    ax, silent, hidden = figure.axes
    grey, push, pull = (c.get_offsets().data for c in ax.collections[:3])
    np.testing.assert_allclose(pull, [[0, 0.5], [1, 1]])
    np.testing.assert_allclose(push, [[3, -1], [4, -0.5]])
    np.testing.assert_allclose(grey, [[2, 0]])
    assert len(silent.collections[0].get_offsets()) == 5 and not hidden.get_visible()
    assert ax.get_title() == "a loss"
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    assert said == ["one person", "two people", "no weight"]
    with pytest.raises(ValueError, match="panels must be a dict"):
        plots.weights_by_distance({})
    with pytest.raises(ValueError, match=r"weights of a loss must have the shape \(5\)"):
        plots.weights_by_distance({"a loss": (far, weights[:4], same)})


# ------------------------------------------------------------------------------------------------------------- stripes


def test_stripe_maps_give_like_features_like_colours():
    stripes = np.random.default_rng(0).standard_normal((2, 4, 8))
    stripes[1, 3] = stripes[0, 0]
    cells = np.random.default_rng(1).random((2, 4, 2))
    axes = plots.stripe_maps(people(2), cells, stripes).axes
    assert [ax.get_title() for ax in axes] == ["picture", "map", "stripes", "", "", ""]
    np.testing.assert_array_equal(axes[4].images[1].get_array(), cells[1])
    first, second = (axes[i].images[0].get_array() for i in (2, 5))
    assert first.shape == (4, 2, 3) and (first[0] == second[3]).all() and (first[0] != first[1]).any()
    with pytest.raises(ValueError, match=r"maps must have the shape \(2, any, any\)"):
        plots.stripe_maps(people(2), cells[:1], stripes)
    with pytest.raises(ValueError, match="three stripes of three values"):
        plots.stripe_maps(people(2), cells, stripes[:, :, :2])
    with pytest.raises(ValueError, match="is empty"):
        plots.stripe_maps(people(0), cells[:0], stripes[:0])


def test_rigid_pairs_show_each_distance_as_a_bar_and_a_number():
    one, other = people(2)
    ax = plots.rigid_pairs([(one, other)], [torch.tensor([0.1, 0.4, 0.9])], ["same"]).axes[0]
    left, right = 4, ax.images[1].get_extent()[0]  # where the pictures, 4 wide and 8 high, leave room for the bars
    widths = [bar.get_width() for bar in ax.patches]
    np.testing.assert_allclose(np.divide(widths, widths[-1]), np.array([0.1, 0.4, 0.9]) / 0.9)  # on the largest's scale
    ends = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in ax.patches]
    assert all(left < start < end < text.get_position()[0] < right for (start, end), text in zip(ends, ax.texts))
    heights = [bar.get_y() + bar.get_height() / 2 for bar in ax.patches]
    np.testing.assert_allclose(heights, [(i + 0.5) * 8 / 3 for i in range(3)])
    assert [text.get_text() for text in ax.texts] == ["0.10", "0.40", "0.90"] and ax.get_title() == "same"
    assert [matplotlib.colors.to_hex(bar.get_facecolor()) for bar in ax.patches] == [plots.GREEN, plots.GREY, plots.RED]
    assert [image.get_array()[0, 0, 0] for image in ax.images] == [0, 1]


def test_alignments_draw_a_line_for_each_step():
    costs, path = np.array([[0.0, 0.9], [0.9, 0.5]]), [(0, 0), (0, 1), (1, 1)]
    above, below = plots.alignments([people(2)], [costs], [path], ["a pair"]).axes
    assert [line.get_ydata().tolist() for line in above.lines] == [[2, 2], [2, 6], [6, 6]]  # middles of two stripes
    thick = [line.get_linewidth() for line in above.lines]
    assert thick[0] > thick[2] > thick[1] and {line.get_linestyle() for line in above.lines} == {"-"}
    np.testing.assert_array_equal(below.images[0].get_array(), costs)
    assert below.lines[0].get_xydata().tolist() == [[0, 0], [1, 0], [1, 1]] and above.get_title() == "a pair"
    assert below.lines[1].get_linestyle() == "--"


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda: plots.alignments([], [], [], []), "got 0 pairs"),
        (lambda: plots.alignments([people(2)], [], [], []), "got 1 pairs, 0 costs"),
        (lambda: plots.rigid_pairs([people(2)], [[0.1]], []), "1 distances, 0 titles"),
        (lambda: plots.rigid_pairs([people(2)], [[np.nan]], ["a"]), "distances of 'a' holds 1 NaN"),
        (
            lambda: plots.alignments([people(2)], [np.zeros(3)], [[(0, 0)]], ["a"]),
            r"costs must have the shape \(any, any\)",
        ),
    ],
)
def test_pairs_that_cannot_be_drawn(draw, said):
    with pytest.raises(ValueError, match=said):
        draw()


def test_stripes_and_votes_stand_in_their_cells():
    edges, known = [[0, 0.5], [0.25, 0.75], [0.5, 1]], np.arange(6.0).reshape(3, 2)
    votes = {"elected": [[0, 2], [1, 2]], "from a half": [[2, 0]]}
    figure = plots.stripes_and_votes(people(1)[0], edges, known, ["hat", "bag"], votes, "gain", (0, 5))
    left, right = figure.axes[:2]
    np.testing.assert_array_equal(right.images[0].get_array(), known)
    first, second = (np.asarray(c.get_offsets()).round() for c in right.collections)
    assert first.tolist() == [[0, 0], [1, 2], [0, 1], [1, 2]] and second.tolist() == [[0, 2], [1, 0]]
    shapes = [c.get_paths()[0].vertices.shape for c in right.collections]
    assert shapes[0] != shapes[1] and [line.get_linestyle() for line in left.lines] == ["-"] * 3
    assert [label.get_text() for label in right.get_xticklabels()] == ["hat", "bag"]
    assert right.images[0].get_clim() == (0, 5) and len(right.get_legend().get_texts()) == 2
    with pytest.raises(ValueError, match=r"3 stripes by 1 names; got \(3, 2\)"):
        plots.stripes_and_votes(people(1)[0], edges, known, ["hat"])
    with pytest.raises(ValueError, match=r"votes of 'elected' must have the shape \(any, 2\)"):
        plots.stripes_and_votes(people(1)[0], edges, known, ["hat", "bag"], {"elected": [[0]]})
