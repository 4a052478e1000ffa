"""A picture with its dials, as one page of ipywidgets that fits a window; without a kernel, a still picture."""

import base64
import io

from PIL import Image

BESIDE = 150  # pixels of a window that the page does not get: JupyterLab's menu, tabs, tool and status bars, margins


class Page:
    """What a cell shows: `widget` where its kernel lives; elsewhere (GitHub, a rendered page) the `still` picture,
    PNG bytes or a function that gives them."""

    def __init__(self, widget, still):
        self.widget, self.still = widget, still

    def _repr_mimebundle_(self, include=None, exclude=None):
        png = self.still() if callable(self.still) else self.still
        said = {"text/plain": "a picture with dials: they turn in JupyterLab"}
        return self.widget._repr_mimebundle_() | _smallest(png) | said


def page(*rows, still=None) -> Page:
    """Widgets one below the other: an Image, its sliders, boxes of them.

    No Image is wider than the page, and Images shrink until all is as high as the window. Labels are whole, and as
    wide as the longest. The still picture is `still`, PNG bytes, or else the first Image's content when shown.
    """
    import ipywidgets

    everything = list(_inside(rows))
    pictures = [widget for widget in everything if isinstance(widget, ipywidgets.Image)]
    if not pictures and still is None:
        raise ValueError("a page needs an Image, or a still picture of its own")
    dials = [widget for widget in everything if hasattr(widget, "value") and getattr(widget, "description", "")]
    longest = max((len(widget.description) for widget in dials), default=0)
    for widget in everything:
        widget.layout.flex = widget.layout.flex or "0 0 auto"
        widget.layout.max_width = "calc(100% - 4px)"  # ipywidgets give each a margin of 2 pixels
    for widget in dials:
        words = f"{longest + 2}ch"  # ch, the width of a 0, is more than that of most letters
        widget.style.description_width = words
        widget.layout.width = widget.layout.width or f"calc({words} + 24em)"
    for picture in pictures if still is None else ():
        picture.layout.align_self = "flex-start"  # a box stretches its children, and a stretched picture grows high
        picture.layout.flex, picture.layout.min_height = "0 1 auto", "8em"
        picture.layout.object_fit = "contain"
    layout = {"max_height": f"max(24em, calc(100vh - {BESIDE}px))"}
    box = ipywidgets.VBox(rows, layout=layout)
    box.add_class("reidnb-page")  # for a style sheet, and for the test in a browser
    return Page(box, (lambda: pictures[0].value) if still is None else still)


def _inside(widgets):
    for widget in widgets:
        yield widget
        yield from _inside(getattr(widget, "children", ()))


def _smallest(png):
    """PNG bytes in the shorter form for a notebook: JPEG for what is mostly pictures, else a PNG of 256 colours."""
    drawn, forms = Image.open(io.BytesIO(png)).convert("RGB"), {}
    for mime, picture, how in (
        ("image/jpeg", drawn, {"format": "jpeg", "quality": 88}),
        ("image/png", drawn.quantize(256), {"format": "png", "optimize": True}),
    ):
        buffer = io.BytesIO()
        picture.save(buffer, **how)
        forms[mime] = base64.b64encode(buffer.getvalue()).decode()
    mime = min(forms, key=lambda form: len(forms[form]))
    return {mime: forms[mime]}
