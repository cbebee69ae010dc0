"""The page of `flux-cli gallery` in a real browser."""

import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from flux_cli.gallery import page as gallery_page
from flux_cli.gallery.collection import Picture, Thumbnail
from flux_cli.gallery.thumbnails import thumbnails
from tests.conftest import tool
from tests.test_gallery import entries

pytest.importorskip("playwright", reason="the gallery's page is not tested: Playwright is not installed")
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

INJECTIONS = (
    "</script><script>document.title='broken in'</script>",
    "<img src=x onerror=\"document.title='broken in'\">",
    "<!--<script>",
    "]]>{{script}}&lt;b&gt;\\u003cb",
)
REQUESTS: list[tuple[Mapping[str, Any], tuple[int, int]]] = [
    ({"prompt": "a red kite over the sea", "seed": 1}, (320, 240)),
    ({"prompt": "wide dunes at night", "model": "flux-pro-1.1-ultra", "aspect_ratio": "21:9"}, (420, 180)),
    ({"prompt": "Ein Käfer", "model": "flux-dev", "seed": 12345678901234567890}, (64, 48)),
    *(({"prompt": text, "model": "flux-dev"}, (64, 48)) for text in INJECTIONS),
    *(({"prompt": f"a kite, number {number}", "seed": 100 - number}, (64, 48)) for number in range(5)),
]
"""The requests of twelve pictures and their sizes, the oldest first."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = tool("chromium", "chromium-browser", "google-chrome")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with twelve pictures and their page."""
    directory = tmp_path_factory.mktemp("gallery")
    pictures = []
    for number, (request, size) in enumerate(REQUESTS, 1):
        path = directory / ("kite.png" if number == 1 else f"{number:03}.png")
        Image.new("RGB", size, (number * 40 % 256, 90, 160)).save(path)
        pictures.append(Picture(path, {"model": "flux-pro", **request}, f"task-{number}", 1.7e9 + number))
    pictures.reverse()
    made = list(thumbnails([picture.path for picture in pictures]))
    gallery_page.write(directory / "gallery.html", pictures, made)
    return directory


@pytest.fixture
def page_file(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "copy") / "gallery.html"


class Browsing:
    """Opens pages from disk, without a network; fails on an error in a page's script or policy."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self.errors: list[str] = []
        self.expected: set[str] = set()
        self.blocked: set[str] = set()
        self.requests: list[str] = []

    def open(self, path: Path, width: int = 1280, height: int = 800, **options: Any) -> Page:
        context = self.browser.new_context(viewport={"width": width, "height": height}, **options)
        context.set_offline(True)
        page = context.new_page()
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: self.errors.append(message.text))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(path.absolute().as_uri())
        return page


@pytest.fixture
def browsing(browser: Browser) -> Iterator[Browsing]:
    """Only expected errors, and no request that leaves the machine."""
    opened = Browsing(browser)
    yield opened
    for context in browser.contexts:
        context.close()
    assert set(opened.errors) == opened.expected
    assert {url for url in opened.requests if not url.startswith(("file:", "data:"))} <= opened.blocked


@pytest.fixture
def page(browsing: Browsing, page_file: Path) -> Page:
    return browsing.open(page_file)


def shown(page: Page) -> list[str]:
    return page.locator("#grid .prompt").all_text_contents()


def search(page: Page, text: str) -> list[str]:
    """Search for a text, and return the prompts of the cards."""
    page.get_by_label("Search").fill(text)
    return shown(page)


def choose(page: Page, name: str, option: str) -> list[str]:
    """Choose an option of a list, and return the prompts of the cards."""
    page.get_by_role("combobox", name=name).select_option(option)
    return shown(page)


def test_search_filter_and_sort(page: Page) -> None:
    count = page.get_by_role("status").first
    kites = [f"a kite, number {n}" for n in range(5)]
    expect(count).to_have_text("12 pictures")
    assert shown(page)[0] == kites[4]
    assert search(page, "KITE sea") == ["a red kite over the sea"]
    expect(count).to_have_text("1 of 12 pictures")
    assert len(search(page, "kite")) == 6
    assert choose(page, "Sort", "Oldest first") == ["a red kite over the sea", *kites]
    assert choose(page, "Sort", "Seed") == ["a red kite over the sea", *reversed(kites)]
    search(page, "")
    assert len(choose(page, "Model", "flux-dev")) == 1 + len(INJECTIONS)
    assert choose(page, "Model", "flux-pro-1.1-ultra") == ["wide dunes at night"]
    assert search(page, "nothing like it") == []
    page.get_by_role("button", name="Show all").click()
    expect(count).to_have_text("12 pictures")
    assert choose(page, "Sort", "Largest first")[:2] == ["a red kite over the sea", "wide dunes at night"]
    for text in ("12345678901234567890", "task-3", "kite.png"):
        assert len(search(page, text)) == 1


def test_the_large_view_by_keyboard(page: Page) -> None:
    page.keyboard.press("/")
    expect(page.get_by_label("Search")).to_be_focused()
    page.keyboard.type("kite")
    page.locator("#grid button").first.focus()
    page.keyboard.press("Enter")
    large = page.get_by_role("dialog")
    expect(large).to_be_visible()
    heading = large.get_by_role("heading", level=2)
    expect(heading).to_have_text("a kite, number 4")
    expect(large.get_by_role("button", name="Previous picture")).to_be_disabled()
    page.keyboard.press("ArrowRight")
    expect(heading).to_have_text("a kite, number 3")
    expect(large.get_by_role("status")).to_have_text("2 of 6")
    page.keyboard.press("End")
    expect(heading).to_have_text("a red kite over the sea")
    page.keyboard.press("ArrowRight")
    expect(large.get_by_role("status")).to_have_text("6 of 6")
    page.keyboard.press("ArrowLeft")
    expect(heading).to_have_text("a kite, number 0")
    for _ in range(12):  # the focus stays inside
        page.keyboard.press("Tab")
        assert page.evaluate(
            "document.activeElement === document.body || !!document.activeElement.closest('dialog')"
        )
    page.keyboard.press("Escape")
    expect(large).to_be_hidden()
    expect(page.locator("#grid button").nth(4)).to_be_focused()


def test_filter_changes_while_the_view_closes(page: Page) -> None:
    """The card is gone by then; a search field that is in use keeps the focus."""
    page.locator("#grid button").nth(5).click()
    page.evaluate("""() => {
        document.querySelector("dialog").close();
        search.focus();
        search.value = "dunes";
        search.dispatchEvent(new Event("input"));
    }""")
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.keyboard.type(" night")
    expect(page.get_by_label("Search")).to_have_value("dunes night")
    page.locator("#grid button").first.click()
    page.evaluate("""() => {
        document.querySelector("dialog").close();
        search.value = "nothing like it";
        search.dispatchEvent(new Event("input"));
    }""")
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.get_by_role("button", name="Show all").click()
    assert len(shown(page)) == 12


def test_the_large_view_shows_the_file_and_its_facts(page: Page) -> None:
    search(page, "dunes")
    page.get_by_role("button", name="wide dunes at night").click()
    image = page.locator("#picture")
    expect(image).to_have_js_property("naturalWidth", 420)
    expect(image).to_have_attribute("src", "./002.png")
    expect(image).to_have_attribute("alt", "wide dunes at night")
    facts = page.locator("#facts").inner_text().splitlines()
    for name, value in (
        ("Model", "flux-pro-1.1-ultra"),
        ("Seed", "not set"),
        ("Size", "420 × 180"),
        ("Aspect ratio", "21:9"),
        ("Task", "task-2"),
        ("File", "002.png"),
    ):
        assert facts[facts.index(name) + 1] == value
    assert page.locator("#facts time").get_attribute("datetime")
    expect(page.locator("#note")).to_have_text("No seed was set: the same request gives another picture.")
    page.get_by_role("button", name="Close").click()
    search(page, "12345678901234567890")
    page.locator("#grid button").click()
    assert "12345678901234567890" in page.locator("#facts").inner_text()


def test_a_moved_file_leaves_its_thumbnail(browsing: Browsing, page_file: Path) -> None:
    (page_file.parent / "kite.png").unlink()
    browsing.expected.add("Failed to load resource: net::ERR_FILE_NOT_FOUND")
    page = browsing.open(page_file)
    page.get_by_role("button", name="a red kite over the sea").click()
    expect(page.get_by_text("The file is no longer there.")).to_be_visible()
    expect(page.locator("#picture")).to_have_attribute("src", re.compile("^data:image/webp"))
    expect(page.locator("#picture")).to_have_js_property("complete", True)
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_text("The file is no longer there.")).to_be_hidden()


@pytest.mark.parametrize("clipboard", [True, False], ids=["clipboard", "no clipboard"])
def test_copy_puts_the_command_on_the_clipboard(browsing: Browsing, page_file: Path, clipboard: bool) -> None:
    """By the clipboard's interface, or without it by the selection; either way it is what the page shows."""
    page = browsing.open(page_file, permissions=["clipboard-read", "clipboard-write"])
    search(page, "document.title")
    page.locator("#grid button").first.click()
    if not clipboard:
        page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(); }")
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    copied = page.evaluate("navigator.clipboard.readText()")
    (entry,) = [entry for entry in entries(page_file) if entry["prompt"] == INJECTIONS[1]]
    assert copied == entry["command"]
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("button", name="Copy", exact=True)).to_be_visible()


def test_prompts_cannot_inject_markup(page: Page) -> None:
    for text in INJECTIONS:
        assert text in shown(page)
    page.get_by_role("button", name=INJECTIONS[-1]).click()
    for text in reversed(INJECTIONS):  # newest first
        expect(page.get_by_role("heading", level=2)).to_have_text(text)
        page.keyboard.press("ArrowRight")
    assert page.title() == "Gallery – flux-cli"
    assert page.locator("script").count() == 2


def test_the_policy_blocks_everything_else(browsing: Browsing, page: Page) -> None:
    """Even if markup got in: no script, no handler, no request."""
    page.evaluate(
        """() => { const script = document.createElement('script'); script.textContent = "document.title = 'in'";
        document.body.append(script);
        document.body.insertAdjacentHTML('beforeend', `<img src="data:," onerror="document.title = 'in'">`);
        document.body.insertAdjacentHTML('beforeend', '<img src="https://example.com/x.png">'); }"""
    )
    for _ in range(100):
        if len(browsing.errors) < 3:
            page.wait_for_timeout(50)  # handles the browser's events
    assert page.title() == "Gallery – flux-cli"
    assert len(browsing.errors) == 3
    assert all("Content Security Policy" in error for error in browsing.errors)
    assert any("https://example.com/x.png" in error for error in browsing.errors)
    browsing.expected.update(browsing.errors)
    browsing.blocked.add("https://example.com/x.png")


@pytest.mark.parametrize("width", [320, 768, 2560])
def test_no_width_needs_sideways_scrolling(browsing: Browsing, page_file: Path, width: int) -> None:
    """Phones to wide screens, with words of any length, in the list and in the large view."""
    request = {"model": "flux-pro", "prompt": "w" * 3000, "seed": 10**200}
    pictures = [Picture(page_file.parent / f"{n:03}.png", request, None, None) for n in range(2, 8)]
    gallery_page.write(page_file, pictures, [None] * 6)
    page = browsing.open(page_file, width=width, height=640)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for control in page.locator("header input, header select").all():
        assert_within(control, width)
    page.locator("#grid button").first.click()
    assert page.evaluate("document.getElementById('large').scrollWidth") == width
    assert_within(page.get_by_role("button", name="Copy"), width)
    for name in ("Close", "Previous picture", "Next picture"):
        assert_within(page.get_by_role("button", name=name), width, size=44)  # what a thumb hits


def assert_within(control: Locator, width: int, size: int = 0) -> None:
    box = control.bounding_box()
    assert box
    assert 0 <= box["x"] <= width - box["width"]
    assert min(box["width"], box["height"]) >= size


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_system_and_are_legible(browsing: Browsing, page_file: Path, scheme: str) -> None:
    """All text has the contrast that WCAG 2.2 asks for (1.4.3: 4.5 to 1), in the list and in the large view."""
    page = browsing.open(page_file, color_scheme=scheme)
    background = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (luminance(background) < 0.1) == (scheme == "dark")
    assert contrasts(page, "h1, label, input, select, #count, #grid .prompt, #grid .meta") == []
    page.locator("#grid button").first.click()
    assert contrasts(page, "#place, h2, h3, dt, dd, dd a, pre, #note, #copy, #close") == []


def luminance(colour: str) -> float:
    """Return a CSS colour's relative luminance, as WCAG 2.2 defines it."""
    channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrasts(page: Page, selector: str) -> list[str]:
    """Return the elements whose text has too little contrast with what is behind it."""
    found = page.locator(selector).evaluate_all(
        """elements => elements.map(element => {
          let behind = element;
          const ground = each => getComputedStyle(each).backgroundColor;
          while (behind && /rgba\\(.*, 0\\)/.test(ground(behind))) behind = behind.parentElement;
          const back = behind ? ground(behind) : "rgb(255, 255, 255)";
          return [element.outerHTML.slice(0, 80), getComputedStyle(element).color, back];
        })"""
    )
    assert found
    poor = []
    for name, ink, ground in found:
        light, dark = sorted((luminance(ink) + 0.05, luminance(ground) + 0.05), reverse=True)
        if light / dark < 4.5:
            poor.append(f"{name}: {ink} on {ground}")
    return poor


def test_everything_has_a_name(page: Page) -> None:
    """For screen readers: controls are labelled, pictures are described by their prompts."""
    unnamed = "elements => elements.filter(e => !(e.textContent.trim() || e.ariaLabel || e.labels?.length)).length"
    assert page.locator("button, input, select").evaluate_all(unnamed) == 0
    assert page.locator("img:not([alt])").count() == 0
    assert page.get_by_role("listitem").count() == 12
    page.get_by_role("button", name=re.compile("^a red kite over the sea flux-pro · seed 1")).click()
    expect(page.get_by_role("dialog", name="a red kite over the sea")).to_be_visible()
    expect(page.get_by_role("link", name="a red kite over the sea")).to_be_visible()
    expect(page.get_by_role("img", name="a red kite over the sea")).to_be_visible()
    assert page.evaluate("document.documentElement.lang") == "en"


def test_two_thousand_pictures(browsing: Browsing, tmp_path: Path) -> None:
    """Only the thumbnails near the visible part are decoded, and one word finds one of them."""
    tiny = "data:image/webp;base64,UklGRhoAAABXRUJQVlA4TA0AAAAvAAAAEAcQERGIiP4HAA=="
    pictures = [
        Picture(tmp_path / f"{n}.png", {"model": "flux-pro", "prompt": f"kite{n:04}", "seed": n}, f"t{n}", n)
        for n in range(2000)
    ]
    path = tmp_path / "gallery.html"
    gallery_page.write(path, pictures, [Thumbnail(tiny, 1024, 768)] * 2000)
    page = browsing.open(path)
    expect(page.locator("#count")).to_have_text("2,000 pictures")
    expect(page.locator("#grid img").first).to_have_js_property("naturalWidth", 1)
    loaded = "[...document.querySelectorAll('#grid img')].filter(image => image.src).length"
    assert 4 <= page.evaluate(loaded) <= 100
    assert search(page, "kite0007") == ["kite0007"]
    search(page, "")
    page.keyboard.press("End")
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    expect(page.locator("#grid li:last-child img")).to_have_attribute("src", tiny)
    assert page.evaluate(loaded) <= 200


def test_without_thumbnails_the_files_are_shown(browsing: Browsing, tmp_path: Path) -> None:
    path = tmp_path / "a b#.png"
    Image.new("RGB", (100, 50)).save(path)
    picture = Picture(path, {"model": "flux-pro", "prompt": "a kite"}, None, None)
    gallery_page.write(tmp_path / "gallery.html", [picture], [None])
    page = browsing.open(tmp_path / "gallery.html")
    expect(page.locator("#grid img")).to_have_js_property("naturalWidth", 100)
