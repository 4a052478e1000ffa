"""The page of a picture and its dials, without a browser; tests/test_browser.py looks at it in one."""

import base64
import io
import re

import ipywidgets
import nbconvert
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image
from widget_pages import widget_cells, widget_notebook

from reidnb import plots

VIEW = "application/vnd.jupyter.widget-view+json"


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


FLAT, NOISE = np.full((40, 60, 3), 200, np.uint8), np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def test_a_page_has_whole_labels_and_no_stretched_picture():
    picture = ipywidgets.Image(value=png(FLAT))
    first, second = ipywidgets.IntSlider(description="of"), ipywidgets.FloatSlider(description="wrong labels")
    shown = plots.page(picture, ipywidgets.HBox([first]), second)
    assert first.style.description_width == second.style.description_width == "14ch"
    assert picture.layout.align_self == "flex-start" and picture.layout.max_width.startswith("calc(100%")
    assert "100vh" in shown.widget.layout.max_height


def test_beside_the_widget_stands_the_picture_of_the_moment():
    picture = ipywidgets.Image(value=png(FLAT))
    shown = plots.page(picture, ipywidgets.IntSlider(description="query"))
    assert set(shown._repr_mimebundle_()) == {VIEW, "image/png", "text/plain"}
    picture.value = png(NOISE)
    bundle = shown._repr_mimebundle_()
    still = Image.open(io.BytesIO(base64.b64decode(bundle["image/jpeg"])))  # noise and photographs: shorter as JPEG
    assert still.size == (60, 40) and bundle[VIEW]["model_id"] == shown.widget.model_id


def test_a_still_picture_of_its_own():
    bundle = plots.page(ipywidgets.Button(), still=png(FLAT))._repr_mimebundle_()
    assert Image.open(io.BytesIO(base64.b64decode(bundle["image/png"]))).size == (60, 40)
    with pytest.raises(ValueError, match="a page needs an Image, or a still picture"):
        plots.page(ipywidgets.IntSlider(description="query"))


def test_in_a_rendered_notebook_a_picture_stands_for_every_widget(tmp_path, monkeypatch):
    """Every chapter's widgets, executed without a browser and rendered without their state, as on GitHub."""
    monkeypatch.setenv("REIDNB_CACHE", str(tmp_path / "cache"))
    book = widget_notebook()
    NotebookClient(book, timeout=120, kernel_name="python3").execute()
    del book.metadata["widgets"]
    page, _ = nbconvert.HTMLExporter(template_name="basic").from_notebook_node(book)
    pictures = re.findall(r'<img[^>]+src="data:image/(?:png|jpeg);base64,([^"]+)"', page, re.DOTALL)
    assert len(pictures) == len(widget_cells()) >= 10 and "widget-view" not in page
    for picture in pictures:
        width, height = Image.open(io.BytesIO(base64.b64decode(picture))).size
        assert width >= 200 and 100 <= height <= 2000
