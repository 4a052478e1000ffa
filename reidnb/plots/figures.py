"""The look of every picture, how it becomes bytes, and where it is kept."""

import base64
import io
import itertools
import logging
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.image import AxesImage, BboxImage
from PIL import Image

from reidnb.files import atomic_write, cache_root

LEVELS = np.array([2**16, 2**8, 1])  # red, green, blue as one number
log = logging.getLogger("reidnb")

# The three kinds of colour blindness tell any two of these apart: a test simulates them.
GREEN, RED, BLUE, GREY, ORANGE = "#009a70", "#c1272d", "#0a5ca8", "#9aa3ad", "#f0a830"
COLOURS = (BLUE, ORANGE, GREEN, RED, GREY)
LINES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)))  # the second mark of a line, beside its colour
MARKERS = ("o", "s", "^", "D", "v")  # and that of a dot
GROUPS = (BLUE, ORANGE, GREEN, "#c979a6", "#56b4e9", RED, "#7b5d2a", "black")  # of points in a map
CHECKOUT = Path(__file__).parents[2]  # or, of an installed package, the folder it is installed in


def style() -> None:
    """Set the look of all figures; call it once at the top of a notebook.

    In Jupyter, figures that hold pictures are kept as JPEG and all others as sharp PNG of few colours: either is a
    tenth of what the other would be.
    """
    _choose_format_in_jupyter()  # first: loading Jupyter's backend resets the look
    plt.rcParams.update(
        {
            "axes.prop_cycle": cycler(color=COLOURS) + cycler(linestyle=LINES),
            "figure.dpi": 80,
            "figure.facecolor": "white",
            "savefig.dpi": 110,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": "0.8",
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "0.85",
            "xtick.bottom": False,
            "ytick.left": False,
            "axes.titlesize": 11,
            "axes.labelsize": 10,
            "font.size": 10,
            "legend.frameon": True,  # white, so that no grid line runs through the words
            "legend.edgecolor": "white",
            "legend.framealpha": 0.85,
            "legend.fancybox": False,
            "legend.handlelength": 2.6,  # long enough to tell dashes
        }
    )


def series_look(i: int, colour: str | None = None) -> dict:
    """Colour, marker and line style of the i-th series, for `Axes.plot`: no two series share all, nor only differ in
    colour."""
    n = len(COLOURS)
    return {"color": colour or COLOURS[i % n], "marker": MARKERS[i % n], "linestyle": LINES[(i + i // n) % n]}


def finite(values, name: str, shape: tuple | None = None) -> np.ndarray:
    """Numbers as a float array (an array, a list or a tensor). `shape` may leave a length open with None.

    Raises ValueError for another shape, for none at all, and for NaN or infinity.
    """
    try:
        array = np.asarray(values, float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers, got {type(values).__name__}: {error}") from error
    if shape is not None and (
        array.ndim != len(shape) or any(n not in (None, there) for n, there in zip(shape, array.shape))
    ):
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise ValueError(f"{name} must have the shape ({wanted}), got {array.shape}")
    if not array.size:
        raise ValueError(f"{name} is empty: there is nothing to draw")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds {(~np.isfinite(array)).sum()} NaN or infinite values of {array.size}")
    return array


def holds_pictures(figure: Figure) -> bool:
    """Whether a figure shows pictures in colour; heat maps are not pictures."""
    shown = figure.findobj(lambda artist: isinstance(artist, (AxesImage, BboxImage)))
    return any(image.get_array() is not None and np.ndim(image.get_array()) == 3 for image in shown)


def encode(figure: Figure, jpeg_dpi: float = 110) -> tuple[bytes, str]:
    """A figure as bytes, and the ending of its file: JPEG if it holds pictures, else PNG of 144 dpi (of a
    page of rows, 15 inches high and more, 120) in few colours."""
    buffer = io.BytesIO()
    if holds_pictures(figure):
        how = {"format": "jpeg", "pil_kwargs": {"quality": 88}}
        figure.savefig(buffer, dpi=jpeg_dpi, bbox_inches="tight", **how)
        return buffer.getvalue(), ".jpg"
    figure.savefig(buffer, format="png", dpi=(dpi := _png_dpi(figure)), bbox_inches="tight")
    shades = figure.findobj(lambda artist: isinstance(artist, (AxesImage, QuadMesh)))  # a heat map has many
    drawn = _in_few_colours(Image.open(buffer).convert("RGB"), 128 if shades else 64)
    buffer = io.BytesIO()
    drawn.save(buffer, "PNG", optimize=True, dpi=(dpi, dpi))
    return buffer.getvalue(), ".png"


def _png_dpi(figure):
    return 144 if figure.get_figheight() < 15 else 120


def _in_few_colours(drawn: Image.Image, most: int) -> Image.Image:
    """A drawing in `most` colours: the sixteen greys that are most used, for half of them others that are unlike each
    other, so that a rare marker keeps the one that says what it stands for, and what median cut finds besides."""
    from scipy.spatial import KDTree  # slow to import

    used = [colour for _, colour in sorted(drawn.getcolors(drawn.width * drawn.height), reverse=True)]
    coloured = [max(colour) - min(colour) > 24 for colour in used]
    kept = [colour for colour, it_is in zip(used, coloured) if not it_is][:16]
    for colour in itertools.compress(used, coloured):
        if not kept or len(kept) < 16 + most // 2 and np.abs(np.array(kept) - colour).max(1).min() > 24:
            kept.append(colour)
    others = drawn.quantize(most - len(kept)).getpalette()
    palette = np.array([level for colour in kept for level in colour] + others, np.uint8).reshape(-1, 3)
    entry = np.empty(2**24, np.uint8)  # the nearest of the palette; Pillow's own search is off by up to 3 levels
    entry[np.array(used) @ LEVELS] = KDTree(palette).query(used)[1]
    few = Image.fromarray(entry[np.asarray(drawn) @ LEVELS], "P")
    few.putpalette(palette.tobytes())
    return few


def save(figure: Figure, name: str, dataset: str = "synthetic") -> Figure:
    """Write a figure to <name>.jpg or, without pictures, <name>.png, and hand it back.

    The folder is REIDNB_FIGURES (a relative one starts at the checkout, if there is one, else at the working folder),
    else build/figures of the checkout, else figures/ in the cache. Figures of a real dataset show real people: they
    always go to the cache, where nobody commits them by mistake. A folder that cannot be written is no error: a line
    of the log says so, and the figure is shown all the same. Raises ValueError for a name with folders in it.
    """
    if not name or Path(name).name != name:
        raise ValueError(f"name must be a plain file name without folders, got {name!r}")
    data, ending = encode(figure)
    said = []
    for folder in _folders(dataset):
        try:
            atomic_write(folder() / (name + ending), lambda file: file.write_bytes(data))
            return figure
        except (OSError, RuntimeError) as error:  # RuntimeError: a ~ in REIDNB_FIGURES that is nobody's home
            said.append(str(error))
    log.warning("the figure %s could not be kept (set REIDNB_FIGURES to another folder): %s", name, "; ".join(said))
    return figure


def to_png(*figures: Figure) -> bytes:
    """A figure as PNG bytes, for an ipywidgets.Image, or several one below the other; they are closed."""
    parts = []
    for figure in figures:
        figure.savefig(part := io.BytesIO(), format="png", bbox_inches="tight")
        plt.close(figure)
        parts.append(part)
    if len(parts) == 1:  # a dial that turns does not wait for a second coding
        return parts[0].getvalue()
    drawn, buffer = [Image.open(part).convert("RGB") for part in parts], io.BytesIO()
    whole = Image.new("RGB", (max(part.width for part in drawn), sum(part.height for part in drawn)), "white")
    for i, part in enumerate(drawn):
        whole.paste(part, (0, sum(above.height for above in drawn[:i])))
    whole.save(buffer, format="png")
    return buffer.getvalue()


def _folders(dataset):
    """Where to try to keep a figure, one after the other, as functions: to find a folder may fail, too."""
    if not all(part.startswith("synthetic") for part in dataset.split("->")):
        return [lambda: cache_root() / "figures" / dataset.replace("->", "-to-")]
    checkout = (CHECKOUT / "notebooks").is_dir()
    if named := os.environ.get("REIDNB_FIGURES"):
        return [lambda: (CHECKOUT if checkout else Path.cwd()) / Path(named).expanduser()]
    return [lambda: CHECKOUT / "build" / "figures"] * checkout + [lambda: cache_root() / "figures"]


def _choose_format_in_jupyter():
    """Let each figure choose its format. A plain Python, or one without Jupyter, is left as it is."""
    try:
        from matplotlib_inline import backend_inline  # loaded later, it would put its own choice in place
    except ImportError:
        return
    if (shell := backend_inline.get_ipython()) is None:
        return

    def show_as(ending):
        def shown(figure):
            if not figure.axes or (ending == ".jpg") != holds_pictures(figure):
                return None  # the other format's turn
            data, _ = encode(figure, figure.dpi)
            width, height = (round(n * figure.dpi / _png_dpi(figure)) for n in Image.open(io.BytesIO(data)).size)
            size = {"width": width, "height": height} if ending == ".png" else {}
            return base64.b64encode(data).decode(), size

        return shown

    for mime, ending in (("image/jpeg", ".jpg"), ("image/png", ".png")):
        shell.display_formatter.formatters[mime].for_type(Figure, show_as(ending))
