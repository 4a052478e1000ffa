"""Pictures: only what could do harm or break is tested; what they look like is for eyes."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

from reidnb import plots


def figure():
    return plots.picture_row(list(np.zeros((3, 3, 8, 4), np.uint8)), ["a", "b", "c"])


def test_figures_of_real_people_stay_out_of_the_repository(tmp_path, monkeypatch):
    monkeypatch.setenv("REIDNB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(plots.look, "FIGURES", tmp_path / "figures")
    plots.save(figure(), "drawn", "synthetic_winter")
    plots.save(figure(), "both", "synthetic_summer->synthetic_winter")
    plots.save(figure(), "real", "market1501")
    plots.save(figure(), "mixed", "synthetic->market1501")
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"drawn.jpg", "both.jpg"}
    assert (tmp_path / "cache" / "figures" / "market1501" / "real.jpg").exists()
    plt.close("all")


def test_png_bytes_for_a_widget():
    assert plots.to_png(figure()).startswith(b"\x89PNG")
    assert not plt.get_fignums()


def blobs(seed=0):
    """Three well separated clouds of 20 points in 8 dimensions, and which cloud each belongs to."""
    rng, cloud = np.random.default_rng(seed), np.repeat(np.arange(3), 20)
    return (10 * rng.standard_normal((3, 8))[cloud] + rng.standard_normal((60, 8))).astype(np.float32), cloud


@pytest.mark.parametrize("method", ["tsne", "pca"])
def test_a_plane_keeps_clouds_apart(method):
    features, cloud = blobs()
    points = plots.plane(features, method, perplexity=10)
    far = np.linalg.norm(points[:, None] - points, axis=2)
    nearest = np.argsort(far, axis=1)[:, 1:6]
    assert points.shape == (60, 2) and (cloud[nearest] == cloud[:, None]).all()


def test_a_plane_that_cannot_be_drawn():
    with pytest.raises(ValueError, match="must be 'tsne' or 'pca', got 'umap'"):
        plots.plane(blobs()[0], "umap")
    with pytest.raises(ValueError, match="perplexity.* between 1 and 60 points"):
        plots.plane(blobs()[0], perplexity=60)


def test_each_group_of_a_picture_map_has_a_colour():
    figure, ax = plt.subplots()
    images = np.zeros((4, 3, 8, 4), np.uint8)
    colours = plots.picture_map(ax, np.eye(4)[:, :2], images, ["a", "b", "a", None])
    assert set(colours) == {"a", "b"} and len(ax.artists) == 4
    plt.close("all")
