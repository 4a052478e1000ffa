"""The look of every picture, and where pictures are kept."""

import io
from pathlib import Path

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib_inline.backend_inline import set_matplotlib_formats

from reidnb.files import cache_root, write_aside

__all__ = ["BLUE", "FIGURES", "GREEN", "GREY", "ORANGE", "RED", "save", "style", "to_png"]

GREEN, RED, BLUE, GREY, ORANGE = "#2a9d5c", "#d1495b", "#2f6690", "#8d99a6", "#e09f3e"
FIGURES = Path(__file__).parents[2] / "figures"


def style():
    """Set the look of all figures; call it once at the top of a notebook.

    Notebooks keep their figures as JPEG: people are pictures, and as PNG they would make a notebook ten times the size.
    """
    set_matplotlib_formats("jpeg", pil_kwargs={"quality": 88})
    sns.set_theme(
        context="notebook",
        style="whitegrid",
        palette=[BLUE, ORANGE, GREEN, RED, GREY],
        rc={
            "figure.dpi": 80,
            "savefig.dpi": 110,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 11,
            "axes.labelsize": 10,
            "font.size": 10,
            "legend.frameon": True,  # white, so that no grid line runs through the words
            "legend.edgecolor": "white",
            "legend.framealpha": 0.85,
            "legend.fancybox": False,
        },
    )


def save(figure, name, dataset="synthetic"):
    """Write a figure to figures/<name>.jpg and hand it back.

    Figures of a real dataset show real people: they go to the cache, where nobody commits them by mistake.
    """
    drawn = all(part.startswith("synthetic") for part in dataset.split("->"))
    folder = FIGURES if drawn else cache_root() / "figures" / dataset
    how = {"bbox_inches": "tight", "pil_kwargs": {"quality": 88}}
    write_aside(folder / f"{name}.jpg", lambda file: figure.savefig(file, **how))
    return figure


def to_png(figure):
    """A figure as PNG bytes, for an ipywidgets.Image; the figure is closed."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    plt.close(figure)
    return buffer.getvalue()
