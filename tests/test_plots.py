"""Pictures: only what could do harm or break is tested; what they look like is for eyes."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

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
