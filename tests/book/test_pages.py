"""The built book in a real browser, page by page."""

import functools
import http.server
import io
import json
import re
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from pi_lib.book import runner
from pi_lib.transforms import and_transform


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


def pages(built):
    return sorted(
        str(p.relative_to(built)) for p in built.rglob("*.html") if "_static" not in p.parts
    )


class Page(HTMLParser):
    """The links of a page, those that cells printed among them, and the places that it names."""

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.places = set(), {""}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.places |= {named[key] for key in ("id", "name") if named.get(key)}
        self.links |= {named[key] for key in ("href", "src") if named.get(key)}


def dead_links(folder: Path) -> list[str]:
    """Internal links that lead to no file, or to no place in one, by the page that has them."""
    read = functools.cache(Page)
    dead = []
    for page in (folder / name for name in pages(folder)):
        for link in sorted(read(page).links):
            to = urlsplit(link)
            if to.scheme or to.netloc:
                continue
            target = (page.parent / unquote(to.path)).resolve() if to.path else page
            there = target.is_file()
            if there and to.fragment and target.suffix == ".html":
                there = unquote(to.fragment) in read(target).places
            if not there:
                dead.append(f"{page.relative_to(folder)}: {link}")
    return dead


class Prose(HTMLParser):
    """What a page says to its readers, alternative texts among it: no code, but what it prints."""

    CODE = {"script", "style", "code", "svg", "head", "dt"}
    EMPTY = {"br", "img", "hr", "input", "meta", "link", "wbr", "source", "col"}

    def __init__(self, text: str):
        super().__init__()
        self.open, self.said = [("", False, False)], []  # tag, whether code, whether output
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        named, (_, code, output) = dict(attributes), self.open[-1]
        self.said += [named[key] for key in ("alt", "aria-label") if named.get(key) and not code]
        if tag not in self.EMPTY:
            output = output or "cell_output" in (named.get("class") or "").split()
            self.open.append((tag, code or tag in self.CODE or tag == "pre" and not output, output))

    def handle_endtag(self, tag):
        while tag in [name for name, *_ in self.open[1:]] and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        if not self.open[-1][1]:
            self.said.append(data)


RAW = re.compile(
    r"cifar10-jpeg|fashion-mnist|(efficientnet-|resnet|vgg|vit-)\w+ on |\(published\)"  # cells
    r"|ipykernel"  # where a warning came from
    r"|\b[a-z]+_[a-z_]+=|\b(epochs|n|samples|runs)=\d"  # settings
    r"|\bnan\b|(?<![\w.])[-−]0(\.0+)?(?![\w.])|\d\.\d{6}"  # numbers
)


def raw_words(folder: Path) -> list[str]:
    """Identifiers and numbers as only code writes them, with what stands around them, by page."""
    found = []
    for page in pages(folder):
        said = " ".join(" ".join(Prose((folder / page).read_text(encoding="utf-8")).said).split())
        hits = [said[max(hit.start() - 30, 0) : hit.end() + 30] for hit in RAW.finditer(said)]
        found += [f"{page}: {hit}" for hit in hits]
    return found


# Nothing fades in while it is looked at.
STILL = "*, *::before, *::after { transition: none !important; animation: none !important; }"
WHAT_IS_WRONG = (Path(__file__).with_name("page.js")).read_text()


def watched(browser, address):
    """A tab, and the list to which everything that goes wrong on its pages is added."""
    tab = browser.new_page(viewport={"width": 1200, "height": 900})
    tab.set_default_timeout(90_000)  # the machine may be busy with other tests
    wrong = []
    tab.on(
        "request", lambda r: None if r.url.startswith((address, "data:")) else wrong.append(r.url)
    )
    tab.on("response", lambda r: wrong.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    tab.on(  # unless the test itself went on to the next page
        "requestfailed",
        lambda r: None if r.failure == "net::ERR_ABORTED" else wrong.append(f"failed {r.url}"),
    )
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("console", lambda m: wrong.append(str(m.location)) if m.type == "error" else None)
    return tab, wrong


def visit(browser, address, page):
    """A tab with the loaded page, and what went wrong on it."""
    tab, wrong = watched(browser, address)
    tab.goto(f"{address}/{page}", wait_until="networkidle")
    return tab, wrong


def move(tab, explorer, name, key="ArrowRight"):
    """Press a key on a slider of an explorer, and wait until what it shows has changed."""
    shown = explorer.locator(".pi-frame:visible").last
    before = shown.inner_html()
    handle = explorer.get_by_role("slider", name=name, exact=True)
    handle.focus()
    handle.press(key)
    tab.wait_for_function(
        """([box, before]) => [...box.querySelectorAll(".pi-frame")]
            .some(f => f.offsetParent !== null && f.innerHTML && f.innerHTML !== before)""",
        arg=[explorer.element_handle(), before],
    )
    return explorer.locator(".pi-frame:visible").last


# What is wider than its place, and does not show it: what is cut, or scrolls without a mark.
CUT = """() => [...document.querySelectorAll("article :is(pre, table, figure, img, svg, details," +
    "div.cell_output, .pi-explore, mjx-container)")]
  .filter(e => e.checkVisibility() && e.getBoundingClientRect().width)
  .filter(e => !e.closest("[data-scrolls]") || matchMedia("print").matches)
  .filter(e => e.scrollWidth > e.clientWidth + 8 && getComputedStyle(e).overflowX !== "visible"
    || e.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .map(e => `${e.tagName} ${e.className} ${e.scrollWidth}: ${e.innerText?.slice(0, 60)}`)"""


def cut(tab):
    """What is cut, once the marks have followed the layout."""
    for _ in range(30):
        if not (found := tab.evaluate(CUT)):
            break
        tab.wait_for_timeout(100)
    return found


def test_every_page_is_whole(browser, server, built):
    """Nothing from outside, no error; text and names for every reader; nothing is cut on a screen,
    a phone or paper."""
    found = pages(built)
    assert len(found) >= 10
    tab, wrong = watched(browser, server)
    scrolls = "[...document.querySelectorAll('article [data-scrolls]')]"
    for page in found:
        assert (built / page).stat().st_size < 3_000_000, page
        tab.emulate_media(media="screen")
        tab.set_viewport_size({"width": 1280, "height": 900})
        tab.goto(f"{server}/{page}", wait_until="networkidle")
        tab.add_style_tag(content=STILL)
        for mode in ("light", "dark"):
            tab.evaluate("mode => { document.documentElement.dataset.theme = mode; }", mode)
            wrong += [f"{mode}: {what}" for what in tab.evaluate(WHAT_IS_WRONG)]
        assert cut(tab) == [], page
        assert tab.evaluate(f"{scrolls}.map(e => e.innerText)") == [], page  # all fits
        tab.set_viewport_size({"width": 390, "height": 800})
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390, page
        assert cut(tab) == [], page
        assert tab.evaluate(f"{scrolls}.every(e => e.tabIndex === 0)"), page  # by keyboard too
        tab.set_viewport_size({"width": 718, "height": 1000})  # A4 within its margins
        tab.emulate_media(media="print")
        tab.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert tab.locator("article details:not([open])").count() == 0
        assert cut(tab) == [], page
        tab.evaluate("dispatchEvent(new Event('afterprint'))")
        assert wrong == [], page
    tab.close()


def test_what_is_cut_is_seen(browser):
    tab = browser.new_page(viewport={"width": 390, "height": 800})
    tab.set_content("<article><pre style='overflow: auto'>" + "x" * 200 + "</pre></article>")
    assert len(tab.evaluate(CUT)) == 1
    tab.set_content("<article><svg width=500></svg><p>whole</p></article>")
    assert len(tab.evaluate(CUT)) == 1
    tab.close()


STATIC = Path(__file__).parents[2] / "book" / "_static"


def test_the_mark_of_what_scrolls_hides_nothing_and_stands_still(browser):
    style, script = (
        (STATIC / name).read_text(encoding="utf-8") for name in ("book.css", "wide-and-folded.js")
    )
    wide = "<span style='display: inline-block; flex: 0 0 auto; width: {}px; height: 9px'></span>"
    tab = browser.new_page(viewport={"width": 390, "height": 800})
    tab.set_content(
        f"<style>body {{ margin: 8px }} div.math {{ display: flex }}\n{style}</style><article>"
        f"<div class='math'>{wide.format(500)}</div>"
        # as wide as its place but for the padding, which counts without the mark alone
        f"<pre style='overflow: auto; padding: 16px; margin: 0'>{wide.format(362)}</pre></article>"
        f"<script>{script}</script>"
    )
    tab.wait_for_selector("div.math[data-scrolls]")
    assert tab.evaluate("document.querySelector('span').getBoundingClientRect().left") < 50
    changes = tab.evaluate(
        """async () => {
          let count = 0;
          const watched = new MutationObserver(changes => { count += changes.length; });
          watched.observe(document.querySelector("pre"), { attributes: true });
          await new Promise(done => setTimeout(done, 500));
          return count;
        }"""
    )
    assert changes < 4 and tab.locator("pre[data-scrolls]").count() == 1
    tab.close()


def test_what_is_folded_is_printed(browser, server):
    """And an explorer's picture as it stands."""
    tab, _ = visit(browser, server, "book/executed/03_what_is_preserved.html")
    tab.locator(".pi-explore").first.wait_for()
    folded = tab.locator("article details:not([open])").count()
    tab.evaluate(
        """() => addEventListener("beforeprint", () => {
          window.printed = [document.querySelectorAll("article details:not([open])").length,
            [...document.querySelectorAll(".pi-explore")].every(
              box => [...box.querySelectorAll(".pi-frame")].some(f => f.checkVisibility()))];
        })"""
    )
    assert tab.pdf(format="A4").startswith(b"%PDF")
    assert tab.evaluate("window.printed") == [0, True]
    assert tab.locator("article details:not([open])").count() == folded > 0


def test_every_page_says_what_it_is_about(built):
    made = {"genindex.html", "index.html", "search.html", "py-modindex.html", "record.html"}
    for page in pages(built):
        text = (built / page).read_text(encoding="utf-8")
        assert Path(page).name in made or text.count('name="description"') == 1, page


def test_every_link_leads_somewhere(built):
    assert dead_links(built) == []


def test_a_dead_link_is_seen(tmp_path):
    """As the front page had it: printed by a cell, to the notebook instead of its page."""
    (tmp_path / "index.html").write_text(
        '<h1 id="top">A</h1> <a href="b.html#claim-1">b</a> <a href="#top">up</a>'
        '<a href="b.html#claim-2">b</a> <div class="output"><a href="b.ipynb">b</a></div>'
        '<a href="https://example.org/x">out</a> <img src="none.png"> <a href="#nowhere">?</a>'
    )
    (tmp_path / "b.html").write_text('<p id="claim-1">b</p> <a href="index.html">a</a>')
    assert dead_links(tmp_path) == [
        f"index.html: {link}" for link in ("#nowhere", "b.html#claim-2", "b.ipynb", "none.png")
    ]


def test_pages_show_names_and_numbers_as_people_write_them(built):
    assert raw_words(built) == []


def test_a_raw_word_is_seen(tmp_path):
    (tmp_path / "index.html").write_text(
        "<head><title>resnet20 on flowers</title></head><p>from <code>cifar10-jpeg</code></p>"
        "<pre>epochs=36</pre><p>One run, 0.50 [-0.10, 0.60], on -0.5 to 10-0</p>"
    )
    assert raw_words(tmp_path) == []
    raw = (
        "resnet20 on flowers",
        "cifar10-jpeg",
        "(published)",
        "epochs=36",
        "n_train=320",
        "nan",
        "ipykernel_1/2.py",
    )
    for word in (*raw, "-0.00", "0.123456"):
        for page in (
            f"<p>one {word} two</p>",
            f'<div class="cell_output x"><pre>{word}</pre></div>',
            f'<p>a <img alt="{word}"> b</p>',
        ):
            (tmp_path / "index.html").write_text(page)
            assert len(raw_words(tmp_path)) == 1, page


def test_every_page_opens_from_disk(browser, built):
    tab, wrong = watched(browser, built.as_uri())
    for page in pages(built):
        leads_on = page == "index.html"  # to the front page, of itself
        tab.goto(f"{built.as_uri()}/{page}", wait_until="networkidle" if leads_on else "load")
        assert wrong == [], page
    tab.close()


@pytest.mark.parametrize("word", ["interaction", "licence", "license"])
def test_search_finds_a_word(browser, server, word):
    tab, wrong = visit(browser, server, f"search.html?q={word}")
    tab.locator("#search-results li a").first.wait_for()
    assert wrong == []


def test_the_reader_chooses_dark(browser, server):
    """The theme's own button leads to what the other tests look at, and the page remembers it."""
    tab, _ = visit(browser, server, "book/choices.html")
    root = tab.locator("html")
    for _ in range(3):
        if root.get_attribute("data-theme") == "dark":
            break
        tab.locator(".theme-switch-button:visible").first.click()
    assert root.get_attribute("data-theme") == "dark"
    tab.reload()
    assert root.get_attribute("data-theme") == "dark"


def test_maths_is_typeset(browser, server):
    tab, _ = visit(browser, server, "book/executed/00_why_pretraining_helps.html")
    assert tab.locator("mjx-container").count() > 0


def test_explorers_move_by_keyboard(browser, server):
    tab, _ = visit(browser, server, "book/executed/01_what_is_an_interaction.html")
    explorers = tab.locator(".pi-explore")
    explorers.nth(2).wait_for()
    game, image, sentence = (explorers.nth(k) for k in range(3))

    shown = move(tab, game, "v({not, very, good})")
    # the strongest interaction follows by its definition from the values that the row shows
    rows = [row.split() for row in shown.locator("tr").all_inner_texts()[1:]]
    v, found = ([float(row[k]) for row in rows] for k in (-2, -1))
    assert found == pytest.approx(and_transform(torch.tensor(v)).tolist())

    for explorer, mark in ((image, "img[alt^='{']"), (sentence, "mark")):
        fewer = move(tab, explorer, "threshold", "ArrowLeft").locator(".pi-readout").inner_text()
        said = explorer.get_by_role("slider", name="threshold").get_attribute("aria-valuetext")
        assert said == "0.2"  # the value, where the widget itself gives the index
        shown = move(tab, explorer, "up to order", "ArrowLeft")
        assert "up to order" in shown.locator(".pi-readout").inner_text() != fewer
        assert shown.locator(mark).count() >= 1
        explorer.get_by_label("kind").select_option("OR")
        shown.locator(".pi-readout", has_text="OR").wait_for()

    for page, name in (("03_what_is_preserved", "threshold"), ("05_how_directly", "checkpoint")):
        tab, _ = visit(browser, server, f"book/executed/{page}.html")
        tab.locator(".pi-explore").first.wait_for()
        assert move(tab, tab.locator(".pi-explore").last, name).locator("img").count() == 1


def test_a_transfer_moves_by_keyboard(browser, server):
    """Groups of the photograph and the sentence: kept, lost and new, in one run and in all."""
    tab, wrong = visit(browser, server, "book/executed/03_what_is_preserved.html")
    explorer = tab.locator(".pi-explore").first
    explorer.wait_for()
    shown = explorer.locator(".pi-frame:visible").last
    said = shown.locator(".pi-readout")
    assert re.search(r"all 3 runs: \w+ groups of order 2 are kept", said.inner_text())
    box = shown.locator("svg").first.bounding_box()
    assert box["width"] > 80 and shown.locator("svg").first.get_attribute("aria-label")
    pixels = shown.locator("svg").first.screenshot()  # the photograph is there, not white alone
    assert len(set(plt.imread(io.BytesIO(pixels))[..., 0].ravel().tolist())) > 50

    shown = move(tab, explorer, "order")
    value = explorer.get_by_role("slider", name="order", exact=True).get_attribute("aria-valuetext")
    assert value == "3" and "of order 3" in shown.locator(".pi-readout").inner_text()
    for menu, key, wanted in (("groups", "l", "lost"), ("run", "ArrowDown", "run 1")):
        explorer.get_by_label(menu).focus()
        tab.keyboard.press(key)
        explorer.locator(".pi-frame:visible .pi-readout", has_text=wanted).wait_for()
    explorer.get_by_label("input").select_option("sentence")
    move(tab, explorer, "order", "ArrowLeft")
    assert explorer.locator(".pi-frame:visible mark").count() >= 2
    assert wrong == []


def test_the_hero_is_drawn_whole(browser, server):
    """Nothing of it moves: an image of three columns that the page shows entirely, and a credit."""
    tab, _ = visit(browser, server, "book/executed/00_why_pretraining_helps.html")
    figure = tab.locator("figure#fig-hero")
    image = figure.locator("img")
    for width in (1280, 390):
        tab.set_viewport_size({"width": width, "height": 900})
        ready = image.evaluate("i => i.complete && i.naturalWidth > 0 && i.naturalHeight > 0")
        box, cut = image.bounding_box(), image.evaluate("i => i.naturalWidth / i.naturalHeight")
        assert ready and box["width"] / box["height"] == pytest.approx(cut, rel=0.02)
    # three photographs side by side, each as many colours as a photograph has
    png = tab.request.get(image.evaluate("i => i.src")).body()
    pixels = plt.imread(io.BytesIO(png))
    top = pixels[: len(pixels) // 2]
    for third in np.array_split(top, 3, axis=1):
        assert len(np.unique((third * 255).astype(int).reshape(-1, third.shape[-1]), axis=0)) > 500
    said = tab.locator("article").inner_text()
    assert re.search(r"Credits: photograph Flickr \d+.*CC BY 2.0", said)
    alt = image.get_attribute("alt")
    assert all(word in alt for word in ("linear probe", "fine-tuned", "scratch"))


def test_the_front_page_needs_no_scripts(browser, server):
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(f"{server}/book/executed/00_why_pretraining_helps.html")
    assert "linear probe" in tab.locator("article").inner_text()
    context.close()


def test_published_notebooks_tell_nothing_of_this_machine(built):
    """The copies offered for download hold no path of the machine that made them."""
    sources = list((built / "_sources").rglob("*.ipynb"))
    assert len(sources) == len(runner.notebooks())
    for source in sources:
        text = source.read_text()
        assert str(built.parents[1]) not in text and '"papermill"' not in text
        assert '"pi_lib"' in text  # the record of how it was made


def test_how_fast_says_of_every_target_whether_it_is_met(browser, server):
    tab, _ = visit(browser, server, "book/executed/22_how_fast.html")
    rows = tab.locator("article table").first.locator("tbody tr").all_inner_texts()
    recorded = json.loads((runner.ROOT / "benchmarks" / "recorded.json").read_text())["targets"]
    verdict = {True: "met", False: "missed", None: "not measured"}
    assert len(rows) == len(recorded)
    for row, one in zip(rows, recorded, strict=True):
        assert row.startswith(one["target"]) and row.endswith(verdict[one["met"]])
