"""The book: the notebooks as they are committed, the pages of the house, and an API reference from the docstrings.

`make book` builds it into build/book. The repository itself is the source folder, so that a link which works on a page
of the repository works in the book. Nothing is executed and nothing is fetched: mathematics is drawn by a copy of
MathJax from the package sphinx-mathjax-offline.
"""

import ast
import inspect
import itertools
import json
import os
import re
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path

from sphinx.util.fileutil import copy_asset

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = os.environ.get("GITHUB_REPOSITORY", "")  # owner/name, as hosted CI says it
sys.path.insert(0, str(ROOT))

from reidnb import __version__  # noqa: E402

project = "reidnb"
author = "the reidnb authors"
version = release = __version__

extensions = [
    "myst_nb",  # notebooks and Markdown
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
]
root_doc = "docs/index"
include_patterns = ["docs/**", "notebooks/**", "*.md", "reidnb/results/*.md", "benchmarks/*.md"]
exclude_patterns = [".*", "build", "figures", "reidnb*/[!r]*", "tests", "workflow", "**/.ipynb_checkpoints"]

# ------------------------------------------------------------------------------------------- notebooks and Markdown

nb_execution_mode = "off"  # the outputs are those that were committed
nb_merge_streams = True
myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 4

# ------------------------------------------------------------------------------------------------------------ pages

html_theme = "sphinx_book_theme"
html_title = "reidnb"
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_additional_pages = {"index": "forward.html"}  # the root of the site leads to docs/index.html
templates_path = ["_templates"]
html_sourcelink_suffix = ""  # a notebook is downloaded as .ipynb
html_theme_options = {
    "use_fullscreen_button": False,
    "home_page_in_toc": True,
    "show_toc_level": 2,
    "logo": {"text": "reidnb"},
    "navbar_persistent": [],  # search stands in the sidebar
}
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system is
smartquotes = False  # a quotation mark in code is none
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

mathjax_path = "mathjax/tex-chtml.js"
MATHJAX = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"
MATHJAX_PARTS = ("tex-chtml.js", "output/chtml/fonts", "input/tex/extensions")  # 2 MB of 20

# ---------------------------------------------------------------------------------------------------- API reference

autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False  # torch's own say nothing of ours
maximum_signature_line_length = 88
add_module_names = False
python_use_unqualified_type_names = True
highlight_language = "python"

CODE = re.compile(r"`([^`\n]+)`")
NAME = re.compile(r"[A-Za-z_][\w.]*")
STRESS = re.compile(r"(?<![\w*\\])\\\*(\w[^*]*?\w|\w)\\\*(?![\w*])")
ITEM = re.compile(r"(\w+(?:, \w+)*): ")
LIST = re.compile(r"[*-] |\d+\. ")


def as_rst(lines, arguments=()):
    """A docstring of this package, which is plain text with `code`, as lines of reStructuredText.

    What is indented after an empty line is shown as it stands, and so is what begins with >>>. A line that begins with
    the name of an argument and a colon is an item of a list, and so is one that begins with the mark of a list.
    """
    out, inside, after_gap = [], "", True  # inside: of what the line above is a part
    for number, line in enumerate(lines):
        if not line.strip():
            inside = inside if inside == "literal" else ""
        elif line.startswith("    ") and (inside == "literal" or after_gap):
            if inside != "literal":
                out += [f".. code-block:: {lexer(lines[number:])}", ""]
            inside = "literal"
        elif inside == "doctest" or line.startswith(">>>"):
            inside = "doctest"
        else:
            text, item = line.strip(), ITEM.match(line)
            is_argument = item and set(item[1].split(", ")) <= set(arguments)
            if is_argument or LIST.match(text):
                out += [""] * (inside != "item")
                inside = "item"
                line = f"* ``{item[1]}``: {prose(text[item.end() :])}" if is_argument else prose(text)
            else:
                inside = inside if inside == "item" else "text"
                line = "  " * (inside == "item") + prose(text)
        after_gap = not line.strip()
        out.append(line)
    return out


def lexer(lines):
    """Of the indented lines at the head of some: Python if they can be read as Python."""
    block = itertools.takewhile(lambda line: not line.strip() or line.startswith("    "), lines)
    try:
        ast.parse(textwrap.dedent("\n".join(block)))
    except SyntaxError:
        return "text"
    return "python"


def prose(text):
    """One line of text: nothing in it is mark-up but `code`, *stress* and the mark of a list at its head."""
    mark = (LIST.match(text) or [""])[0]
    parts = CODE.split(text[len(mark) :])
    for i, part in enumerate(parts):
        if i % 2 and NAME.fullmatch(part):  # becomes a link where this book knows it
            inside = find_spec(f"reidnb.{part.split('.')[0]}") if "." in part else None
            parts[i] = rf"\ :py:obj:`{part} <{'reidnb.' * bool(inside)}{part}>`\ "
        elif i % 2:
            parts[i] = rf"\ ``{part}``\ "
        else:
            parts[i] = STRESS.sub(r"\ *\1*\ ", re.sub(r"([\\*|_`])", r"\\\1", part))
    return mark + "".join(parts)


def plain_signature(app, what, name, thing, options, arguments, returns):
    """`Annotated[float, Within(least=0)]` is float to a reader; `<factory>`, of a dataclass, is no Python."""
    if arguments:
        arguments = re.sub(r"Annotated\[(\w+), \w+\([^)]*\)\]", r"\1", arguments).replace("<factory>", "...")
    return arguments, returns


def convert_docstring(app, what, name, thing, options, lines):
    try:
        arguments = [*inspect.signature(thing).parameters]
    except (TypeError, ValueError):  # a module, or nothing that can be called
        arguments = []
    lines[:] = as_rst(lines, [*arguments, "options"])


# ----------------------------------------------------------------------------------------------------------- wiring


def link_solutions(app, docname, source):
    """Where they have none of their own: a chapter ends with a link to its solutions, solutions begin with one back."""
    path = Path(app.srcdir, docname + ".ipynb")
    if not path.exists() or "notebooks" not in path.parts:
        return
    notebook = json.loads(source[0])
    chapters = ROOT / "notebooks"
    if path.parent.name == "solutions" and (chapters / path.name).exists():
        place, text, link = 1, "Chapter", f"../{path.name}"
    elif (chapters / "solutions" / path.name).exists():
        place, text, link = len(notebook["cells"]), "Solutions to this chapter", f"solutions/{path.name}"
    else:
        return
    if f"]({link})" not in source[0]:
        source[0] = with_cell(notebook, place, f"{text}: [{path.stem}]({link})", "link-of-the-book")


def open_in_colab(app, docname, source, repository=REPOSITORY):
    """Where the repository's address is known, a chapter says how it is run without installing anything here."""
    path = Path(app.srcdir, docname + ".ipynb")
    if not repository or not path.exists() or path.parent.name != "notebooks":
        return
    address = f"https://colab.research.google.com/github/{repository}/blob/main/notebooks/{path.name}"
    text = f"[Open in Colab]({address}); there, first: `!pip install git+https://github.com/{repository}`"
    source[0] = with_cell(json.loads(source[0]), 1, text, "colab")


def with_cell(notebook, place, text, name):
    """A notebook's JSON with a cell of text put in."""
    cell = {"cell_type": "markdown", "id": name, "metadata": {}, "source": text}
    notebook["cells"].insert(place, cell)
    return json.dumps(notebook)


def copy_mathjax(app, problem):
    if problem is None and app.builder.format == "html":
        for part in MATHJAX_PARTS:
            copy_asset(MATHJAX / part, Path(app.outdir, "_static", "mathjax", part if "." not in part else ""))


def setup(app):
    app.connect("source-read", open_in_colab)
    app.connect("source-read", link_solutions)
    app.connect("autodoc-process-docstring", convert_docstring)
    app.connect("autodoc-process-signature", plain_signature)
    app.connect("build-finished", copy_mathjax)
