"""Boxes and arrows; gains with their intervals."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy.stats import ttest_1samp

from reidnb import plots

BOXES = {"a": (0, 0, "one", "data"), "b": (1, 0, "two", "layer"), "c": (1, 1, "three", "loss")}


def test_a_diagram_has_a_box_for_each_name_and_an_arrow_for_each_pair():
    figure = plots.diagram(BOXES, [("a", "b"), ("a", "c", "by")])
    (ax,) = figure.axes
    words = [text.get_text() for text in ax.texts]
    assert {"one", "two", "three", "by"} <= set(words)
    arrows = [text for text in ax.texts if getattr(text, "arrow_patch", None) is not None]
    assert len(arrows) == 2
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    places = {t.get_text(): t.get_bbox_patch().get_window_extent(renderer) for t in ax.texts if t.get_bbox_patch()}
    boxes, frame = [*places.values()], figure.bbox
    assert {*places} == {"one", "two", "three", "by"}, "a word beside an arrow lies on white"
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes), "nothing is cut off"
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    plt.close(figure)


@pytest.mark.parametrize(
    ("boxes", "arrows", "says"),
    [
        (BOXES, [("a", "d")], "an arrow leads to d, which is no box; there are a, b, c"),
        (BOXES | {"d": (0, 1, "four", "cloud")}, [], "kinds of boxes are layer, data, loss, distance; got cloud"),
    ],
)
def test_diagrams_that_cannot_be(boxes, arrows, says):
    with pytest.raises(ValueError, match=says):
        plots.diagram(boxes, arrows)


def test_gains_are_means_with_students_interval():
    gains = {"first": {"x": [1.0, 2.0, 4.0], "y": [-3.0, -3.2, -2.9]}, "second": {"z": [0.5], "none": []}}
    figure = plots.gain_intervals(gains)
    (ax,) = figure.axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["x", "y", "z", "none"]
    points = [container.lines[0] for container in ax.containers]
    assert [point.get_xdata()[0] for point in points] == pytest.approx([7 / 3, np.mean(gains["first"]["y"]), 0.5])
    segment = ax.containers[0].lines[2][0].get_segments()[0]
    low, high = ttest_1samp(gains["first"]["x"], 0).confidence_interval(0.95)
    assert segment[:, 0] == pytest.approx([low, high])
    looks = [(point.get_color(), point.get_marker()) for point in points]
    assert looks == [(plots.GREY, "s"), (plots.RED, "X"), (plots.GREY, "s")], "undecided, below, one seed"
    assert "not run yet" in [text.get_text() for text in ax.texts]
    plt.close(figure)


def test_gains_that_cannot_be():
    with pytest.raises(ValueError, match="there are no gains to draw"):
        plots.gain_intervals({"empty": {}})
    with pytest.raises(ValueError, match="gains of 'x'"):
        plots.gain_intervals({"bad": {"x": [np.nan, 1.0]}})
