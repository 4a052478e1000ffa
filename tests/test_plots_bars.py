"""Bars of scores before training and after it."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest

from reidnb import plots

GROUPS = {
    "drawn": {"random": ([1.0], [30.0, 34.0]), "colour": ([4.0, 5.0], [])},
    "photographs": {"random": ([], [36.0]), "distilled": ([], []), "spoilt": ([9.0], [6.0])},
}


def test_each_row_says_what_it_started_from_and_where_it_ended():
    figure = plots.before_and_after(GROUPS, xlabel="points")
    (ax,) = figure.axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["random", "colour", "random", "distilled", "spoilt"]
    said = [text.get_text().strip() for text in ax.texts]
    assert said == ["drawn", "1.0 → 32.0", "4.5", "photographs", "? → 36.0", "not run yet", "9.0 → 6.0"]
    bars = {(round(float(bar.get_height()), 6), round(float(bar.get_width()), 6)) for bar in ax.patches}
    assert bars == {(0.68, 32.0), (0.3, 1.0), (0.3, 4.5), (0.68, 36.0), (0.68, 6.0), (0.3, 9.0)}
    assert [dots.get_offsets()[:, 0].tolist() for dots in ax.collections] == [[30.0, 34.0], [4.0, 5.0]], "seeds"
    assert (np.diff(ax.get_yticks()) > 0).all() and ax.yaxis_inverted() and ax.get_xlabel() == "points"
    lines = ax.get_legend().get_lines()
    assert [line.get_color() for line in lines] == [plots.ORANGE, plots.BLUE]
    assert lines[0].get_linewidth() < lines[1].get_linewidth(), "a second mark beside the colour"
    plt.close(figure)


def test_words_of_a_row_stand_right_of_all_that_is_drawn():
    figure = plots.before_and_after({"one": {"a": ([80.0], [20.0, 90.0])}})
    (ax,) = figure.axes
    assert ax.texts[1].get_position()[0] == 90.0 and ax.get_xlim()[1] > 100
    plt.close(figure)


def test_scores_that_cannot_be():
    with pytest.raises(ValueError, match="there are no scores to draw"):
        plots.before_and_after({"empty": {}})
    with pytest.raises(ValueError, match="scores of 'x'"):
        plots.before_and_after({"bad": {"x": ([1.0], [np.nan])}})
