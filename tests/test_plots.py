"""The look of pictures: colours for every eye, formats, where they are kept, and what importing them asks for."""

import ast
import io
import itertools
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from reidnb import plots
from reidnb.plots import figures as look

PICTURES = np.random.default_rng(0).integers(0, 256, (3, 3, 16, 8), dtype=np.uint8)


@pytest.fixture(autouse=True)
def plain_look():
    with plt.rc_context():
        yield
    plt.close("all")


@pytest.fixture
def checkout(tmp_path, monkeypatch, cache):
    """An empty checkout, with no word in the environment about figures."""
    (tmp_path / "checkout" / "notebooks").mkdir(parents=True)
    monkeypatch.setattr(look, "CHECKOUT", tmp_path / "checkout")
    monkeypatch.delenv("REIDNB_FIGURES", raising=False)
    return tmp_path / "checkout"


def row():
    return plots.picture_row(PICTURES, ["a", "b", "c"])


def lines():
    figure, ax = plt.subplots(figsize=(3, 2))
    ax.plot([0, 1], [1, 0])
    return figure


def heat():
    figure, ax = plt.subplots(figsize=(3, 2))
    ax.imshow(np.eye(4))
    return figure


# ------------------------------------------------------------------------------------------------------------ colours

# What an eye without one kind of cone makes of linear RGB (Machado, Oliveira and Fernandes, 2009, severity 1).
EYES = {
    "all cones": np.eye(3),
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


def seen(colour, eye):
    """A colour in CIELAB, as an eye sees it."""
    rgb = np.array(matplotlib.colors.to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = to_xyz @ np.clip(EYES[eye] @ linear, 0, 1) / [0.9505, 1, 1.089]
    x, y, z = (np.cbrt(v) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x, y, z))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("eye", EYES)
def test_every_eye_tells_any_two_colours_apart(eye):
    named = {name: getattr(plots, name) for name in ("GREEN", "RED", "BLUE", "GREY", "ORANGE")}
    for (a, one), (b, other) in itertools.combinations(named.items(), 2):
        distance = np.linalg.norm(seen(one, eye) - seen(other, eye))
        # 2.3 is just noticeable side by side; the green and red of the first palette were 4 apart to one man in 20.
        assert distance > 15, f"{a} and {b} are {distance:.0f} apart"


def test_series_differ_in_more_than_colour():
    looks = [plots.series_look(i) for i in range(10)]
    for one, other in itertools.combinations(looks, 2):
        assert one["color"] == other["color"] or one["marker"] != other["marker"]
        assert one["linestyle"] != other["linestyle"] or one["color"] != other["color"]
    assert plots.series_look(1, "black") == {**looks[1], "color": "black"}


def test_lines_of_a_notebook_differ_in_more_than_colour():
    plots.style()
    figure, ax = plt.subplots()
    drawn = [ax.plot([0, 1], [0, k], color="black")[0].get_linestyle() for k in range(4)]
    assert len(set(drawn)) == 4
    assert not ax.spines["top"].get_visible() and ax.xaxis.get_gridlines()[0].get_visible()


# ------------------------------------------------------------------------------------------------------------ formats


@pytest.mark.parametrize(("figure", "ending"), [(row, ".jpg"), (lines, ".png"), (heat, ".png")])
def test_pictures_become_jpeg_and_lines_become_png_of_few_colours(figure, ending):
    figure = figure()
    data, found = look.encode(figure)
    image = Image.open(io.BytesIO(data))
    assert found == ending and image.format == {".jpg": "JPEG", ".png": "PNG"}[ending]
    if ending == ".png":
        assert image.mode == "P" and image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
        tight = figure.get_tightbbox().padded(0.1)  # matplotlib's own border
        assert abs(image.width - 144 * tight.width) <= 2 and abs(image.height - 144 * tight.height) <= 2  # rounding


def test_a_rare_marker_keeps_its_colour():
    """Median cut alone gives one blue marker among many green ones the green that says something else."""
    figure, ax = plt.subplots()
    for i in range(40):
        ax.plot(np.linspace(0, 1, 9), np.full(9, i), color=plt.cm.viridis(i / 40))
        ax.plot(np.random.default_rng(i).random(5), np.full(5, i), "o", color=plots.GREEN)
    ax.plot([0.5], [20.5], "P", color=plots.BLUE)
    found = np.asarray(Image.open(io.BytesIO(look.encode(figure)[0])).convert("RGB")).reshape(-1, 3)
    blue = np.rint(255 * np.array(matplotlib.colors.to_rgb(plots.BLUE)))
    assert (np.abs(found - blue).max(1) <= 1).sum() > 20, "a marker of some hundred pixels"


def test_a_map_of_pictures_holds_pictures():
    figure, ax = plt.subplots()
    plots.picture_map(ax, [[0, 0], [1, 1], [0, 1]], PICTURES, [1, 2, 3])
    assert look.holds_pictures(figure) and not look.holds_pictures(heat()) and not look.holds_pictures(lines())


def test_jupyter_shows_each_figure_in_its_own_format(monkeypatch):
    kinds = {mime: SimpleNamespace() for mime in ("image/jpeg", "image/png")}
    for kind in kinds.values():
        kind.for_type = lambda cls, shown, kind=kind: vars(kind).update(cls=cls, shown=shown)
    shell = SimpleNamespace(display_formatter=SimpleNamespace(formatters=kinds))
    fake = SimpleNamespace(backend_inline=SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "matplotlib_inline", fake)
    plots.style()
    for figure, own, other in ((row(), "image/jpeg", "image/png"), (lines(), "image/png", "image/jpeg")):
        assert kinds[own].cls is Figure and kinds[other].shown(figure) is None
        assert kinds[own].shown(figure)[0].startswith({"image/jpeg": "/9j/", "image/png": "iVBOR"}[own])
    width = kinds["image/png"].shown(lines())[1]["width"]
    assert abs(width - 80 * lines().get_tightbbox().padded(0.1).width) <= 2  # as wide as figure.dpi asks, but sharper
    assert kinds["image/jpeg"].shown(plt.figure()) is kinds["image/png"].shown(plt.figure()) is None  # empty


def test_png_bytes_for_a_widget():
    one, other, both = (plots.to_png(*figures) for figures in ((row(),), (lines(),), (row(), lines())))
    assert one.startswith(b"\x89PNG") and not plt.get_fignums()
    (width, height), (wide, high), whole = (Image.open(io.BytesIO(png)).size for png in (one, other, both))
    assert whole == (max(width, wide), height + high), "one below the other"


# ---------------------------------------------------------------------------------------------------------- where kept


def test_figures_are_kept_under_build_and_handed_back(checkout):
    figure = row()
    assert plots.save(figure, "row") is figure
    plots.save(lines(), "lines", "synthetic_summer->synthetic_winter")
    assert {path.name for path in (checkout / "build" / "figures").iterdir()} == {"row.jpg", "lines.png"}
    assert {path.name for path in checkout.iterdir()} == {"build", "notebooks"}


@pytest.mark.parametrize("absolute", [True, False])
def test_the_environment_names_another_folder(checkout, tmp_path, monkeypatch, absolute):
    monkeypatch.chdir(checkout / "notebooks")  # where a notebook runs
    monkeypatch.setenv("REIDNB_FIGURES", str(tmp_path / "there") if absolute else "figures")
    plots.save(row(), "row")
    assert ((tmp_path / "there" if absolute else checkout / "figures") / "row.jpg").exists()
    assert not (checkout / "build").exists()


def test_an_installed_package_keeps_figures_in_the_cache(checkout, cache, tmp_path, monkeypatch):
    (checkout / "notebooks").rmdir()
    plots.save(row(), "row")
    assert (cache / "figures" / "row.jpg").exists() and not list(checkout.iterdir())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REIDNB_FIGURES", "mine")
    plots.save(row(), "row")
    assert (tmp_path / "mine" / "row.jpg").exists()


@pytest.mark.parametrize("dataset", ["market1501", "synthetic->market1501", "market1501->synthetic"])
def test_figures_of_real_people_stay_out_of_the_checkout(checkout, cache, monkeypatch, dataset):
    monkeypatch.setenv("REIDNB_FIGURES", str(checkout / "figures"))
    plots.save(row(), "real", dataset)
    assert (cache / "figures" / dataset.replace("->", "-to-") / "real.jpg").exists()
    assert {path.name for path in checkout.iterdir()} == {"notebooks"}


def test_a_checkout_that_cannot_be_written_leaves_it_to_the_cache(checkout, cache, caplog):
    (checkout / "build").write_text("a file where the folder should be")
    plots.save(row(), "row")
    assert (cache / "figures" / "row.jpg").exists() and not caplog.records


def test_a_full_or_read_only_place_is_one_line_and_no_error(checkout, tmp_path, monkeypatch, caplog):
    (tmp_path / "blocked").write_text("")
    monkeypatch.setenv("REIDNB_FIGURES", str(tmp_path / "blocked"))
    figure = row()
    assert plots.save(figure, "row") is figure and plt.fignum_exists(figure.number)
    assert len(caplog.records) == 1 and "row could not be kept (set REIDNB_FIGURES" in caplog.text


@pytest.mark.parametrize("name", ["../row", "a/b", ""])
def test_a_name_is_no_path(checkout, name):
    with pytest.raises(ValueError, match="plain file name"):
        plots.save(row(), name)


# ----------------------------------------------------------------------------------------------------- what it asks for


def test_pictures_know_nothing_of_datasets_and_training():
    for path in Path(plots.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", None)]
            for name in filter(None, names):
                allowed = ("reidnb.plots", "reidnb.evaluation", "reidnb.files", "reidnb.synthetic")
                assert not name.startswith("reidnb") or name.startswith(allowed), f"{path.name} imports {name}"


def test_importing_pictures_asks_neither_for_jupyter_nor_for_seaborn():
    code = (
        "import sys\n"
        "for name in ('matplotlib_inline', 'ipywidgets', 'IPython'): sys.modules[name] = None\n"
        "from reidnb import plots\nfrom reidnb.plots import game\nplots.style()\n"
        "assert not {'seaborn', 'sklearn.manifold', 'sklearn.decomposition'} & set(sys.modules)\n"
        "try: game.play(game.Game([1]), None, None)\n"
        "except ImportError as error: assert 'reidnb[notebooks]' in str(error)\n"
        "else: raise AssertionError\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize(
    ("values", "shape", "said"),
    [
        ([], None, "x is empty"),
        ([1, np.nan, np.inf], None, "x holds 2 NaN or infinite values of 3"),
        ([1, 2], (3,), r"x must have the shape \(3\), got \(2,\)"),
        ([1, 2], (None, 2), r"x must have the shape \(any, 2\), got \(2,\)"),
        (["a"], None, "x must be numbers, got list"),
        (None, None, "x must be numbers|NaN"),
    ],
)
def test_numbers_that_cannot_be_drawn(values, shape, said):
    with pytest.raises(ValueError, match=said):
        look.finite(values, "x", shape)
