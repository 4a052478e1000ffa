"""The widgets as a reader has them: JupyterLab in a real browser, a window of 1280 x 720, a keyboard.

Skipped where playwright (the extra [browser]) or a Chromium or Chrome is missing. REIDNB_SCREENSHOTS names a folder for
pictures of what the browser showed.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
from widget_pages import widget_cells, widget_notebook

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install 'reidnb[browser]'")

CELLS = [f"{chapter}: {source.rstrip().splitlines()[-1]}" for chapter, source in widget_cells()]
WINDOW = {"width": 1280, "height": 720}
QUIET = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]


def browser_of_this_machine(p):
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    if found := next(filter(None, map(shutil.which, names)), None):
        return p.chromium.launch(executable_path=found, args=QUIET)
    if Path(p.chromium.executable_path).exists():
        return p.chromium.launch(args=QUIET)
    pytest.skip("no browser: apt-get install chromium, or playwright install --with-deps chromium")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as p:
        started = browser_of_this_machine(p)
        yield started
        started.close()


def free_port():
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return door.getsockname()[1]


@pytest.fixture(scope="module")
def lab(browser, tmp_path_factory):
    """The address of a JupyterLab of its own, settings and cache included; it asks for no news, which is a dialog."""
    home, port = tmp_path_factory.mktemp("lab"), free_port()
    (home / "books").mkdir()
    nbformat.write(widget_notebook(), home / "books" / "widgets.ipynb")
    settings = home / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))
    folders = {name: str(home / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")}
    own = {"IPYTHONDIR": str(home / "ipython"), "REIDNB_CACHE": str(home / "cache"), "JUPYTER_PREFER_ENV_PATH": "1"}
    said = (home / "log").open("w")
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", "--no-browser", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}",
         "--ServerApp.port_retries=0", "--ServerApp.allow_root=True", "--IdentityProvider.token=secret",
         f"--ServerApp.root_dir={home / 'books'}", f"--LabApp.user_settings_dir={home / 'settings'}",
         f"--LabApp.workspaces_dir={home / 'workspaces'}"],
        env={**os.environ, **folders, **own}, stdout=said, stderr=said,
    )  # fmt: skip
    try:
        wait_for(f"http://127.0.0.1:{port}/api?token=secret", server, home / "log")
        yield f"http://127.0.0.1:{port}/lab/tree/widgets.ipynb?token=secret"
    finally:
        server.terminate()  # it takes its kernels with it
        server.wait(20)


def wait_for(address, server, log, seconds=60):
    for _ in range(5 * seconds):
        assert server.poll() is None, log.read_text()
        try:
            return urllib.request.urlopen(address, timeout=5).close()
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"no answer within {seconds} s: {log.read_text()}")


@pytest.fixture(scope="module")
def book(browser, lab):
    """The notebook in a window, all cells run; and what the browser's console said."""
    window = browser.new_page(viewport=WINDOW)
    window.set_default_timeout(20_000)
    complaints = []
    window.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    window.on("pageerror", lambda error: complaints.append(str(error)))
    window.goto(lab)
    window.locator(".jp-NotebookPanel .jp-Cell").first.wait_for()
    window.get_by_text("| Idle").wait_for()  # cells run before the kernel is there are forgotten
    window.locator(".lm-MenuBar-itemLabel", has_text="Run").first.click()
    window.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    window.locator(".reidnb-page").nth(len(CELLS) - 1).wait_for(state="attached", timeout=90_000)
    yield window, complaints
    window.close()


def shown(window, place):
    """A widget, scrolled into view, once its pictures are there."""
    page = window.locator(".reidnb-page").nth(place)
    page.evaluate("page => page.scrollIntoView({block: 'start'})")
    loaded = "page => [...page.querySelectorAll('img')].every(image => image.complete && image.naturalWidth)"
    window.wait_for_function(loaded, arg=page.element_handle())
    if folder := os.environ.get("REIDNB_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        window.screenshot(path=Path(folder) / f"{place:02d}.png")
    return page


MEASURE = """page => {
    const panel = page.closest('.jp-WindowedPanel-outer') || page.closest('.jp-Notebook');
    const output = page.closest('.jp-OutputArea-output'), box = page.getBoundingClientRect();
    const images = [...page.querySelectorAll('img')].map(image => image.getBoundingClientRect());
    const words = [...page.querySelectorAll('.widget-label, .widget-readout, button, select, .widget-html-content')];
    return {
        height: Math.max(box.height, page.scrollHeight), room: panel.clientHeight,
        width: Math.max(box.width, page.scrollWidth), across: output.clientWidth,
        images: images.map(image => [image.left - box.left, image.top - box.top, image.width, image.height]),
        natural: [...page.querySelectorAll('img')].map(image => image.naturalWidth / image.naturalHeight),
        cut: words.filter(word => word.scrollWidth > word.clientWidth + 1).map(word => word.textContent),
        words: words.length,
    };
}"""


@pytest.mark.parametrize("place", range(len(CELLS)), ids=CELLS)
def test_a_widget_fits_the_window_and_its_words_are_whole(book, place):
    found = shown(book[0], place).evaluate(MEASURE)
    assert found["height"] <= found["room"] and found["width"] <= found["across"]
    table = "still=" in CELLS[place]  # a page of words alone, which scrolls
    assert (found["images"] or table) and found["words"] and not found["cut"]
    for (left, top, width, height), shape in zip(found["images"], found["natural"]):
        assert left >= 0 and top >= 0 and left + width <= found["width"] + 1 and top + height <= found["height"] + 1
        assert height >= 90, "no picture is squeezed to nothing"
        assert "game" in CELLS[place] or width / height == pytest.approx(shape, rel=0.02), "nor out of shape"


def test_arrow_keys_turn_every_slider_and_the_picture(book):
    """A step of a dial may leave a small crowd as it is; all the steps to its end do not."""
    window, turned = book[0], 0
    for place in range(len(CELLS)):
        page = shown(window, place)
        image, sliders = page.locator("img").first, page.get_by_role("slider")
        for slider in sliders.all():
            readout = slider.locator("xpath=ancestor::*[contains(@class, 'widget-slider')]").locator(".widget-readout")
            before, value = image.get_attribute("src"), readout.text_content()
            slider.focus()
            window.keyboard.press("ArrowRight")
            assert readout.text_content() != value
            for _ in range(3):
                window.keyboard.press("ArrowUp")
            changed = "([image, before]) => image.getAttribute('src') !== before"
            window.wait_for_function(changed, arg=[image.element_handle(), before])
            turned += 1
    assert turned >= 12


def game_state(page):
    return page.evaluate("""page => ({
        buttons: [...page.querySelectorAll('button')].map(button => button.textContent),
        frames: [...page.querySelectorAll('img')].map(image => getComputedStyle(image).borderTopColor),
        sizes: [...page.querySelectorAll('img')].map(i => `${i.offsetWidth} x ${i.offsetHeight}`),
        said: page.querySelector('.widget-html-content').textContent,
        focus: document.activeElement.textContent,
    })""")


def test_the_game_is_played_by_keyboard_and_shows_who_was_right(book):
    window = book[0]
    page = shown(window, next(i for i, cell in enumerate(CELLS) if "game.play" in cell))
    before = game_state(page)
    assert before["buttons"] == [*"abcdefghij", "next round"] and len(set(before["sizes"])) == 1
    assert "Round 1 of 10" in before["said"] and "rgb(0, 154, 112)" not in before["frames"]
    page.get_by_role("button").first.focus()
    window.keyboard.press("Tab")
    window.keyboard.press("Enter")
    page.get_by_text("So far you").wait_for()
    after = game_state(page)
    right = [name for name in after["buttons"] if name.startswith("✓")]
    assert right and after["frames"].count("rgb(0, 154, 112)") == len(right), (
        "green frames and ticks for the right ones"
    )
    assert after["buttons"][1] in ("✓ b", "✗ b") and ("Right!" in after["said"]) == (after["buttons"][1] == "✓ b")
    assert "Right!" in after["said"] or all(name[2:] in after["said"] for name in right)
    assert after["sizes"] == before["sizes"] and not page.evaluate(MEASURE)["cut"]
    window.wait_for_function("() => document.activeElement.textContent === 'next round'")
    window.keyboard.press("Space")
    page.get_by_text("Round 2 of 10").wait_for()
    again = game_state(page)
    assert again["buttons"] == before["buttons"] and "rgb(0, 154, 112)" not in again["frames"]
    window.wait_for_function("() => document.activeElement.textContent === 'a'")


def test_the_console_stayed_silent(book):
    assert not book[1]
