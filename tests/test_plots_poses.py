"""Skeletons and frames of parts: drawn where they lie, and nothing that is not known."""

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest

from reidnb import plots
from reidnb.methods.pose import GLAD, standard_pose

IMAGES = np.full((2, 3, 64, 32), 120, np.uint8)
BODIES = standard_pose((64, 32)).numpy()[None].repeat(2, 0)


def lines(ax, marker="None"):
    return [line for line in ax.get_lines() if line.get_marker() == marker]


def test_a_bone_for_each_pair_that_is_seen():
    bodies = BODIES.copy()
    bodies[1, 4, 2] = 0  # an elbow: two bones go with it
    figure = plots.skeletons([IMAGES], [bodies], row_labels=["row"])
    whole, less = figure.axes
    assert len(lines(whole)) == 13 and len(lines(less)) == 11
    (cross,) = lines(less, "x")
    np.testing.assert_allclose(cross.get_xydata()[0], bodies[1, 4, :2] - 0.5)
    assert whole.get_xlim() == (-0.5, 31.5), "the picture keeps its edges"
    with pytest.raises(ValueError, match="key points must have the shape"):
        plots.skeletons([IMAGES], [bodies[:, :5]])


def test_frames_lie_where_the_parts_are():
    maps = np.tile(np.eye(2, 3), (2, 3, 1, 1))  # whole pictures have no frame
    maps[0, 1] = [[0.5, 0, 0], [0, 0.25, -0.5]]
    figure = plots.parts_over(IMAGES, maps, GLAD, titles=["a", "b"])
    first, second = figure.axes
    (frame,) = lines(first)
    corners = frame.get_xydata()
    np.testing.assert_allclose(corners.min(0), [16 - 8 - 0.5, 16 - 8 - 0.5])
    np.testing.assert_allclose(corners.max(0), [16 + 8 - 0.5, 16 + 8 - 0.5])
    assert not lines(second) and first.get_title() == "a"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(GLAD)


def test_parts_beside_their_picture():
    maps, parts = np.tile(np.eye(2, 3), (2, 3, 1, 1)), np.zeros((2, 3, 3, 64, 32), np.uint8)
    figure = plots.parts_over(IMAGES, maps, GLAD, parts)
    assert len(figure.axes) == 8 and figure.axes[2].get_title() == "upper\nbody" and not figure.legends
    with pytest.raises(ValueError, match="maps must have the shape"):
        plots.parts_over(IMAGES, maps[:, :2], GLAD)
    with pytest.raises(ValueError, match="no pictures"):
        plots.skeletons([], [])
