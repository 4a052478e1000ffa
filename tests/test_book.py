"""The book is built without a warning and without a network, and every link inside it leads somewhere."""

import importlib.util
import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[1]
NEEDED = ("sphinx", "myst_nb", "sphinx_book_theme", "sphinx_copybutton", "sphinx-mathjax-offline")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
FOLLOWED = {"a": "href", "link": "href", "img": "src", "script": "src", "source": "src", "iframe": "src"}

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"pip install 'reidnb[book]': {', '.join(MISSING)} not installed")


class Page(HTMLParser):
    """What a page links to, as (tag, address), and the anchors that it has."""

    def __init__(self, text):
        super().__init__()
        self.links, self.anchors = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.anchors |= {attrs[name] for name in ("id", "name") if attrs.get(name)}
        if address := attrs.get(FOLLOWED.get(tag)):
            self.links.append((tag, address))


def dangling(folder):
    """The links of the pages below a folder that lead to no file, to no anchor, or, for what a page is made of, out."""
    paths = [path for path in sorted(folder.rglob("*.html")) if "_static" not in path.parts]  # the theme's own
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in paths}
    for path, page in pages.items():
        for tag, address in page.links:
            where = f"{path.relative_to(folder)}: {address}"
            link = urlsplit(address)
            if link.scheme == "data":
                continue
            if link.scheme or link.netloc:
                if tag != "a":
                    yield f"{where} is fetched from elsewhere"
                continue
            target = (path.parent / unquote(link.path)).resolve() if link.path else path
            if not target.is_file():
                yield f"{where} leads to no file"
            elif link.fragment and target in pages and unquote(link.fragment) not in pages[target].anchors | {"top"}:
                yield f"{where} leads to no place on its page"


def build(source, out):
    return subprocess.run(
        [sys.executable, "-m", "sphinx", "-b", "html", "-c", "docs", "-q", "-W", "--keep-going", str(source), str(out)],
        cwd=source, capture_output=True, text=True, timeout=600,
        env=os.environ | {"GITHUB_REPOSITORY": "somebody/reidnb"},  # as hosted CI says it
    )  # fmt: skip


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    out = tmp_path_factory.mktemp("book").resolve()
    built = build(ROOT, out)
    assert built.returncode == 0, built.stderr
    return out


def test_no_link_dangles_and_nothing_is_fetched(book):
    assert not list(dangling(book))


def test_every_notebook_is_a_page_with_its_outputs_and_a_way_on(book):
    chapters = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
    order = [path.stem for path in chapters]
    for number, path in enumerate(chapters):
        text = (book / "notebooks" / f"{path.stem}.html").read_text(encoding="utf-8")
        links = {address for _, address in Page(text).links}
        assert f"{path.stem}.ipynb" in {address.rsplit("/")[-1] for address in links}, "it can be downloaded"
        for neighbour in order[max(number - 1, 0) : number] + order[number + 1 : number + 2]:
            assert f'<a class="{"left" if neighbour < path.stem else "right"}-' in text and f"{neighbour}.html" in links
        if (path.parent / "solutions" / path.name).exists():
            assert f"solutions/{path.stem}.html" in links
            answers = (book / "notebooks" / "solutions" / f"{path.stem}.html").read_text(encoding="utf-8")
            assert f"../{path.stem}.html" in {address for _, address in Page(answers).links}
        assert f"https://colab.research.google.com/github/somebody/reidnb/blob/main/notebooks/{path.name}" in links
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        shown = sum("image/" in kind for cell in cells for o in cell.get("outputs", []) for kind in o.get("data", {}))
        assert text.count("<img") >= min(shown, 1)


def test_mathematics_lies_beside_the_pages(book):
    pages = [path.read_text(encoding="utf-8") for path in (book / "notebooks").glob("*.html")]
    assert sum('src="../_static/mathjax/tex-chtml.js"' in text for text in pages) >= len(pages) // 2
    assert (book / "_static" / "mathjax" / "tex-chtml.js").stat().st_size > 1_000_000
    assert list((book / "_static" / "mathjax" / "output" / "chtml" / "fonts").rglob("*.woff"))


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("losses", ["reidnb.losses.trihard_loss", "reidnb.losses.focal_loss"]),
        ("evaluation", ["reidnb.evaluation.evaluate", "reidnb.evaluation.rerank", "reidnb.evaluation.search.nearest"]),
        ("alignment", ["reidnb.alignment.local_distances"]),
        ("datasets", ["reidnb.datasets.open_dataset"]),
        ("experiments", ["reidnb.experiments.run", "reidnb.experiments.claims"]),
        ("inference", ["reidnb.inference.embed"]),
        ("methods", ["reidnb.methods.TriHard"]),
        ("recipes", ["reidnb.recipes.Recipe"]),
    ],
)
def test_the_reference_holds_the_names_that_are_fixed(book, page, names):
    anchors = Page((book / "docs" / "api" / f"{page}.html").read_text(encoding="utf-8")).anchors
    assert set(names) <= anchors


def test_a_dangling_link_is_seen(tmp_path):
    (tmp_path / "b.html").write_text('<h1 id="here">b</h1>')
    (tmp_path / "a.html").write_text(
        '<a href="b.html#here"></a><a href="b.html#there"></a><a href="c.html"></a><a href="#top"></a><a href="#x"></a>'
        '<img src="d.png"><script src="https://example.org/x.js"></script><a href="https://example.org"></a>'
    )
    assert [line.split(": ")[1].split()[0] for line in dangling(tmp_path)] == [
        "b.html#there", "c.html", "#x", "d.png", "https://example.org/x.js"
    ]  # fmt: skip
