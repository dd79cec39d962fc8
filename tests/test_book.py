"""The built book in a real browser, page by page, from disk."""

import functools
import http.server
import json
import shutil
import threading

import pytest
from playwright.sync_api import sync_playwright

from pi_lib import book


@pytest.fixture(scope="module")
def server(built):
    """Address of a plain web server, on this machine only, that serves the book."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/favicon.ico":  # the browser's own wish: no page of the book names it
                self.send_response(204)
                self.end_headers()
            else:
                super().do_GET()

        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(built))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium")
    assert chromium, "no browser to test the book in: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


def pages(built):
    return sorted(
        str(p.relative_to(built)) for p in built.rglob("*.html") if "_static" not in p.parts
    )


def visit(browser, server, page, width=1200):
    """The loaded page, and what went wrong on it."""
    tab = browser.new_page(viewport={"width": width, "height": 900})
    wrong = []
    tab.on(
        "request", lambda r: None if r.url.startswith((server, "data:")) else wrong.append(r.url)
    )
    tab.on("response", lambda r: wrong.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    tab.on("requestfailed", lambda r: wrong.append(f"failed {r.url}"))
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("console", lambda m: wrong.append(str(m.location)) if m.type == "error" else None)
    tab.goto(f"{server}/{page}", wait_until="networkidle")
    return tab, wrong


def test_every_page_is_whole(browser, server, built):
    """No outside request, no script error, no missing file; images have alternative text."""
    found = pages(built)
    assert len(found) >= 10
    for page in found:
        tab, wrong = visit(browser, server, page)
        assert wrong == [], page
        without = tab.locator("article img:not([alt]), article img[alt='']").count()
        assert without == 0, page
        assert (built / page).stat().st_size < 3_000_000, page
        tab.close()


def test_no_page_scrolls_sideways_on_a_phone(browser, server, built):
    for page in pages(built):
        tab, _ = visit(browser, server, page, width=390)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390, page
        tab.close()


def test_maths_is_typeset(browser, server):
    tab, _ = visit(browser, server, "book/executed/00_why_pretraining_helps.html")
    assert tab.locator("mjx-container").count() > 0


@pytest.mark.parametrize("page", ["01_what_is_an_interaction", "04_how_directly"])
def test_explorers_move_by_keyboard(browser, server, page):
    tab, _ = visit(browser, server, f"book/executed/{page}.html")
    explorers = tab.locator(".pi-explore")
    explorers.first.wait_for()
    assert explorers.count() >= 1
    explorer = explorers.last
    frame = explorer.locator("img:visible").first
    before = frame.get_attribute("src")
    handle = explorer.get_by_role("slider").last
    handle.focus()
    handle.press("ArrowRight")
    tab.wait_for_function(
        """([box, before]) => [...box.querySelectorAll("img")]
            .some(i => i.offsetParent !== null && i.src !== before)""",
        arg=[explorer.element_handle(), before],
    )


def test_the_front_page_needs_no_scripts(browser, server):
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(f"{server}/book/executed/00_why_pretraining_helps.html")
    assert "linear probe" in tab.locator("article").inner_text()
    context.close()


def test_published_notebooks_tell_nothing_of_this_machine(built):
    """The copies offered for download hold no path of the machine that made them."""
    sources = list((built / "_sources").rglob("*.ipynb"))
    assert len(sources) == len(book.notebooks())
    for source in sources:
        text = source.read_text()
        assert str(built.parents[1]) not in text and '"papermill"' not in text
        assert '"pi_lib"' in text  # the record of how it was made


def test_how_fast_says_of_every_target_whether_it_is_met(browser, server):
    tab, _ = visit(browser, server, "book/executed/06_how_fast.html")
    rows = tab.locator("article table").first.locator("tbody tr").all_inner_texts()
    recorded = json.loads((book.ROOT / "benchmarks" / "recorded.json").read_text())["targets"]
    verdict = {True: "met", False: "missed", None: "not measured"}
    assert len(rows) == len(recorded)
    for row, one in zip(rows, recorded, strict=True):
        assert row.startswith(one["target"]) and row.endswith(verdict[one["met"]])
