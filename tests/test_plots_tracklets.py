"""Film strips: each frame in its place, and above it a bar as high as its share of the strip's heaviest."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

from reidnb import plots


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def strip(*greys):
    return np.uint8(greys)[:, None, None, None] * np.ones((1, 3, 8, 4), np.uint8)


STRIPS = [strip(10, 20, 30), strip(40)]


def greys(figure):
    return [int(ax.images[0].get_array()[0, 0, 0]) for ax in figure.axes if ax.images]


def heights(figure):
    return [[bar.get_height() for bar in ax.patches] for ax in figure.axes if ax.patches]


def test_frames_and_bars_in_their_places():
    figure = plots.film_strips(STRIPS, [[1.0, 4.0, 0.0], [0.5]], ["first", "second"])
    assert greys(figure) == [10, 20, 30, 40]
    assert heights(figure) == [[0.25], [1.0], [0.0], [1.0]]
    assert [text.get_text() for ax in figure.axes for text in ax.texts] == ["first", "second"]


def test_two_kinds_of_weights_stand_side_by_side_and_are_named():
    figure = plots.film_strips(STRIPS, {"one": [[1, 2, 2], [1]], "other": [[3, 0, 0], [0]]})
    assert heights(figure) == [[0.5, 1.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]
    assert [text.get_text() for text in figure.legends[0].texts] == ["one", "other"]
    hatches = {patch.get_hatch() for ax in figure.axes for patch in ax.patches}
    assert len(hatches) == 2, "a second mark beside the colour"


def test_without_weights_there_are_no_bars():
    figure = plots.film_strips(STRIPS)
    assert greys(figure) == [10, 20, 30, 40] and not heights(figure) and not figure.legends


@pytest.mark.parametrize(
    "weights",
    [
        [[1, 2, 3]],
        [[1, 2], [1]],
        [[1, np.nan, 1], [1]],
        {"a": [[1] * 3, [1]], "b": [[1] * 3, [1]], "c": [[1] * 3, [1]]},
    ],
)
def test_weights_that_do_not_fit_are_refused(weights):
    with pytest.raises(ValueError, match="weights"):
        plots.film_strips(STRIPS, weights)


def test_titles_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="titles"):
        plots.film_strips(STRIPS, titles=["one"])
    with pytest.raises(ValueError, match="strips"):
        plots.film_strips([])


def test_flow_in_colours():
    """Still is white; opposite ways have opposite hues; beyond the most nothing grows."""
    flow = np.array([[(0, 0), (4, 0), (-4, 0), (0, 4), (2, 0), (40, 0)]], float)
    found = plots.flow_colours(flow, 4)
    np.testing.assert_allclose(found[0, :3], [(1, 1, 1), (1, 0, 0), (0, 1, 1)], atol=1e-6)
    np.testing.assert_allclose(found[0, 4:], [(1, 0.5, 0.5), (1, 0, 0)], atol=1e-6)
    assert found[0, 3, 1] > found[0, 3, 0] > found[0, 3, 2], "down is a yellow green"


def test_flow_grid_has_frames_flows_and_a_wheel():
    frames, flows = [strip(10)[0], strip(20)[0]], [np.full((8, 4, 2), 3.0), np.zeros((64, 32, 2))]
    figure = plots.flow_grid({"frame": frames, "flow": flows}, most=6)
    assert [ax.get_title() for ax in figure.axes] == ["frame", "", "flow", "", "goes to ..."]
    assert figure.axes[2].images[0].get_array().shape == (8, 4, 3) and "6.0" in figure.axes[4].texts[0].get_text()
    arrows = figure.axes[2].collections[0]
    assert (arrows.U == 3).all() and (arrows.V == 3).all() and not len(figure.axes[3].collections[0].U)
    with pytest.raises(ValueError, match="one length"):
        plots.flow_grid({"frame": frames, "flow": flows[:1]})
