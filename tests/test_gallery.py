"""`flux-cli gallery`: which pictures, the page as a file, and the page in a real browser."""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from flux_cli.api.task import Status
from flux_cli.gallery import page as gallery_page
from flux_cli.gallery.again import command, quoted
from flux_cli.gallery.pictures import Picture, Thumbnail
from flux_cli.pictures import sidecar
from flux_cli.storage.history import History
from tests.conftest import FLUX_CLI, Cli
from tests.test_imagine import SMALL

INJECTIONS = (
    "</script><script>document.title='broken in'</script>",
    "<img src=x onerror=\"document.title='broken in'\">",
    "<!--<script>",
    "]]>{{script}}&lt;b&gt;\\u003cb",
)


class Made:
    """Pictures on disk that the history knows, in a command's home."""

    def __init__(self, cli: Cli) -> None:
        self.cli = cli
        cli.history_file.parent.mkdir(parents=True, exist_ok=True)
        self.history = History(cli.history_file)
        self.number = 0

    def add(
        self, prompt: str, name: str | None = None, *, service: str = "sandbox", size: tuple[int, int] = (64, 48),
        **fields: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """Make one, newer than those before; return its request."""
        self.number += 1
        path = self.cli.cwd / (name or f"{self.number:03}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (self.number * 40 % 256, 90, 160)).save(path, "PNG")
        request = {"model": "flux-pro", "prompt": prompt, **fields}
        (number,) = self.history.begin(service, [request])
        self.history.accepted(number, f"task-{self.number}")
        self.history.ended(number, Status.FINISHED, path=str(path))
        return request


@pytest.fixture
def made(cli: Cli) -> Made:
    """An empty history to add pictures to."""
    return Made(cli)


def entries(page: Path) -> list[dict[str, Any]]:
    """Return the data of a page, as a browser would find it."""

    class Finder(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.inside = False
            self.text = ""

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.inside = tag == "script" and ("id", "data") in attrs

        def handle_data(self, data: str) -> None:
            self.text += data if self.inside else ""

    finder = Finder()
    finder.feed(page.read_text())
    found: list[dict[str, Any]] = json.loads(finder.text)
    return found


def prompts(page: Path) -> list[str]:
    """Return the prompts on a page, in the order of its data."""
    return [entry["prompt"] for entry in entries(page)]


def test_without_a_directory_it_is_all_of_the_history_that_is_on_disk(made: Made) -> None:
    """Newest first, wherever the files are; what is gone is left out and counted on stderr."""
    for prompt, name in (("one", "a/1.png"), ("two", "b/2.png"), ("gone", "b/3.png"), ("four", "4.png")):
        made.add(prompt, name)
    (made.cli.cwd / "b/3.png").unlink()
    done = made.cli("gallery")
    assert (done.code, done.lines) == (0, ["gallery.html"])
    assert done.stderr == "left out: 1 of the history whose file is gone\n"
    assert prompts(made.cli.cwd / "gallery.html") == ["four", "two", "one"]


def test_a_directory_gives_what_lies_in_it_and_below(made: Made) -> None:
    """From the history and from sidecars, also those of pictures that were copied here; the page is put in it."""
    made.add("outside", "outside.png")
    made.add("inside", "pics/a.png")
    made.add("below", "pics/deep/b.png")
    folder = made.cli.cwd / "pics"
    for name in ("deep/copied.png", ".hidden/no.png", "plain.png", "broken.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(folder / "a.png", folder / name)
    request = {"model": "flux-dev", "prompt": "copied"}
    for name in ("deep/copied.png", ".hidden/no.png"):
        sidecar.write(folder / name, request, task_id="x", created=1.0, service="sandbox", force=True)
    (folder / "broken.png.json").write_text("{")
    (folder / "alone.png.json").write_text((folder / "deep/copied.png.json").read_text())
    done = made.cli("gallery", "pics")
    assert (done.code, done.lines, done.stderr) == (0, ["pics/gallery.html"], "")
    assert prompts(folder / "gallery.html") == ["below", "inside", "copied"]


def test_sidecars_alone_are_enough(flux: Cli) -> None:
    """A directory from another machine, without its history."""
    name = flux("imagine", "a kite", "--seed", "3", "--sidecar", "-o", "pics/", *SMALL).lines[0]
    flux.history_file.unlink()
    assert flux("gallery", "pics").code == 0
    (entry,) = entries(flux.cwd / "pics/gallery.html")
    assert (entry["prompt"], entry["seed"], entry["url"]) == ("a kite", "3", f"./{Path(name).name}")
    assert (entry["width"], entry["height"]) == (256, 256)
    assert entry["created"] == pytest.approx(time.time(), abs=600)


def test_of_a_path_that_was_used_again_the_last_picture_counts(made: Made) -> None:
    """`--force` replaces a file; the page tells of what is there now."""
    made.add("old", "x.png")
    made.add("new", "x.png")
    assert made.cli("gallery", "-q").code == 0
    assert prompts(made.cli.cwd / "gallery.html") == ["new"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 6, "there is no picture in the history"),
        (["."], 6, "there is no picture in ."),
        (["missing"], 6, "cannot read missing: no such file or directory"),
        (["-o", "."], 2, "is a directory"),
        (["-o", "missing/x.html"], 6, "missing"),
    ],
)
def test_without_pictures_there_is_no_page(cli: Cli, arguments: list[str], code: int, message: str) -> None:
    """One clear line, and nothing is written, not even a history."""
    if arguments[-1:] == ["missing/x.html"]:
        Made(cli).add("x")
    before = cli.files()
    done = cli("gallery", *arguments)
    assert done.code == code
    assert message in done.stderr
    assert cli.files() == before
    assert bool(before) == cli.history_file.exists()


def test_only_an_earlier_page_is_replaced(made: Made) -> None:
    """Somebody's own gallery.html is safe without `--force`; ours is brought up to date."""
    made.add("one")
    page = made.cli.cwd / "gallery.html"
    page.write_text("<h1>mine</h1>")
    done = made.cli("gallery")
    assert done.code == 6
    assert "gallery.html exists and is no gallery" in done.stderr
    assert page.read_text() == "<h1>mine</h1>"
    assert made.cli("gallery", "--force").code == 0
    made.add("two")
    assert made.cli("gallery").code == 0
    assert prompts(page) == ["two", "one"]


def test_thumbnails_are_kept_until_their_file_changes(made: Made) -> None:
    """A thumbnail on the earlier page is used again, by name, size and time of the file."""
    made.add("one", "1.png")
    made.add("two", "2.png")
    page = made.cli.cwd / "gallery.html"
    assert made.cli("gallery").code == 0
    new, old = entries(page)
    mark = "data:image/webp;base64,AAAA"
    page.write_text(page.read_text().replace(new["thumbnail"], mark).replace(old["thumbnail"], mark))
    Image.new("RGB", (80, 80), "red").save(made.cli.cwd / "1.png")
    assert made.cli("gallery").code == 0
    kept, renewed = entries(page)
    assert kept["thumbnail"] == mark
    assert renewed["thumbnail"].startswith("data:image/webp;base64,UklG")  # RIFF
    assert (renewed["width"], renewed["height"]) == (80, 80)
    page.write_text(page.read_text().replace('"stamp":', '"stamp":[', 1))
    assert made.cli("gallery").code == 0  # a page that cannot be understood is no reason to stop
    assert [entry["thumbnail"] == mark for entry in entries(page)] == [False, False]


def test_the_page_needs_nothing_else(made: Made) -> None:
    """No URL in it leads anywhere but to the pictures, and its policy lets nothing but its own parts run."""
    made.add("a kite")
    assert made.cli("gallery").code == 0
    text = re.sub(r"data:image/webp;base64,[\w+/=]+", "data:", (made.cli.cwd / "gallery.html").read_text())
    assert re.findall(r"""(?:src|href)=["'](?!data:)""", text) == []
    assert re.findall(r"(?:https?:)?//(?!www\.w3\.org/2000/svg)[a-z]", text) == []
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy


def test_without_pillow_the_page_shows_the_files(made: Made, tmp_path: Path) -> None:
    """No extra is needed for a gallery; one line says what there would be."""
    made.add("a kite")
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['PIL'] = None\n")
    done = made.cli.process("gallery", env={"PYTHONPATH": str(tmp_path)})
    assert (done.code, done.lines) == (0, ["gallery.html"])
    assert done.stderr.startswith("no thumbnails: they need the extra `preview`")
    (entry,) = entries(made.cli.cwd / "gallery.html")
    assert (entry["thumbnail"], entry["url"]) == ("", "./001.png")


def test_a_file_that_is_no_picture_any_more_is_no_reason_to_stop(made: Made) -> None:
    """It gets no thumbnail; the others do."""
    made.add("one", "1.png")
    made.add("two", "2.png")
    (made.cli.cwd / "1.png").write_text("not a picture")
    assert made.cli("gallery").code == 0
    assert [bool(entry["thumbnail"]) for entry in entries(made.cli.cwd / "gallery.html")] == [True, False]


NAMES = ["a b.png", "a#b?c.png", "100%.png", "javascript:alert(1).png", "ü.png", "'\".png", "\udcff.png", "..png"]


def test_urls_lead_from_the_page_to_the_files(made: Made) -> None:
    """Relative, whatever the names hold, also to a page elsewhere."""
    for name in NAMES:
        made.add("x", name)
    (made.cli.cwd / "pages").mkdir()
    for output, up in (("gallery.html", "./"), ("pages/all.html", "../")):
        assert made.cli("gallery", "-o", output).code == 0
        for entry in entries(made.cli.cwd / output):
            assert entry["url"].startswith(up)
            from urllib.parse import unquote_to_bytes

            target = os.fsencode(made.cli.cwd / output).rpartition(b"/")[0] + b"/" + unquote_to_bytes(entry["url"])
            assert os.path.isfile(target)
            assert re.fullmatch(r"[A-Za-z0-9._/%~-]+", entry["url"])


REQUESTS: list[Mapping[str, Any]] = [
    {"prompt": "a kite"},
    {"prompt": "it's \"5 o'clock\" in $HOME `id` $(id) \\ !! *"},
    {"prompt": "-starts with a dash"},
    {"prompt": "--help"},
    {"prompt": "two\nlines\tand a tab\r"},
    {"prompt": "\x1b[201~; id\x07 \x85 \u202e evil '\\"},
    {"prompt": "砂丘 🪁 قطة"},
    {"prompt": "x", "seed": -3, "width": 1024, "height": 768, "guidance": 2.5, "steps": 30, "interval": 4},
    {"prompt": "x", "model": "flux-pro-1.1-ultra", "raw": True, "aspect_ratio": "21:9", "safety_tolerance": 0},
    {"prompt": "x", "model": "flux-pro-1.1-ultra", "raw": False, "prompt_upsampling": False},
    {"prompt": "x", "model": "flux-9", "width": 4096},
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: str(request["prompt"])[:20].encode())
def test_the_command_makes_the_very_same_request(cli: Cli, request_: Mapping[str, Any]) -> None:
    """Each is run by a real shell, with `--dry-run` before its end."""
    picture = Picture(Path("/x.png"), {"model": "flux-pro", **request_}, "task-1", None, "sandbox")
    line = command(picture)
    assert line.startswith("flux-cli imagine ")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", line)
    run = line.replace("flux-cli imagine", f"{FLUX_CLI} imagine --dry-run", 1)
    done = subprocess.run(["bash", "-c", run], env=cli.env, cwd=cli.cwd, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == picture.request


def test_the_command_names_the_image_prompt_and_the_service(cli: Cli) -> None:
    """A file or URL again, `-` for what came from stdin; the service where it is not the usual one."""
    Image.new("RGB", (8, 8)).save(cli.cwd / "in.png")
    described = {"source": str(cli.cwd / "in.png"), "sha256": "0", "type": "image/png", "bytes": 1}
    request = {"model": "flux-pro", "prompt": "x", "image_prompt": described, "webhook_url": "https://e.org"}
    picture = Picture(Path("/x.png"), request, "t", None, "https://example.com/api")
    assert command(picture) == (
        f"flux-cli imagine --model flux-pro --image-prompt {cli.cwd}/in.png --api-url https://example.com/api x"
    )
    request = {**request, "image_prompt": {**described, "source": None}}
    usual = Picture(Path("/x.png"), request, "t", None, "https://api.apiframe.pro")
    assert command(usual) == "flux-cli imagine --model flux-pro --image-prompt - x"
    unspeakable = Picture(Path("/x.png"), {"prompt": "a\0b"}, "task-1", None, "sandbox")
    assert command(unspeakable) == "flux-cli imagine --like task-1"


SHELLS = (["bash", "-c"], ["dash", "-c"], ["zsh", "-fc"], ["fish", "--no-config", "-c"])


# Without the private characters: some of them are bytes to fish.
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs", "Co"]), max_size=60))
@example("'")
@example("\\")
@example("=ls")
@example("%self")
@example("a\\\\b\\'c\\")
@example("-\x1b%s%%\\n\\134!!'\n$(x)\"`x`\n\n")
@example("\x1b'\\")
@example("\x07" + "0")
@example("\u202e" + "f")
@settings(max_examples=60, deadline=None)
def test_any_text_is_one_word_for_a_shell(text: str) -> None:
    """Each gives back what was quoted."""
    environment = {"LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"]}
    for shell in SHELLS:
        done = subprocess.run(
            [*shell, f"printf %s {quoted(text)}"], env=environment, capture_output=True, check=True
        )
        assert done.stdout.decode() == text, shell


# The page in a browser


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, headless."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            pytest.fail("there is no Chromium: apt-get install chromium")
        pytest.skip("THE GALLERY'S PAGE IS NOT TESTED: there is no Chromium")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()


class Browsing:
    """Opens pages from disk, without a network; fails on an error in a page's script or policy."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self.complaints: list[str] = []
        self.expected: set[str] = set()
        self.refused: set[str] = set()
        self.requests: list[str] = []

    def open(self, path: Path, width: int = 1280, height: int = 800, **options: Any) -> Page:
        """Return the page at `path` once it is there."""
        context = self.browser.new_context(viewport={"width": width, "height": height}, **options)
        context.set_offline(True)
        page = context.new_page()
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(path.absolute().as_uri())
        return page


@pytest.fixture
def browsing(browser: Browser) -> Iterator[Browsing]:
    """Without complaints to the end but for those expected, and without a request that leaves the machine."""
    opened = Browsing(browser)
    yield opened
    for context in browser.contexts:
        context.close()
    assert set(opened.complaints) == opened.expected
    assert {url for url in opened.requests if not url.startswith(("file:", "data:"))} <= opened.refused


@pytest.fixture
def page_file(made: Made) -> Path:
    """A page of twelve pictures."""
    made.add("a red kite over the sea", "kite.png", seed=1, size=(320, 240))
    made.add("wide dunes at night", model="flux-pro-1.1-ultra", aspect_ratio="21:9", size=(420, 180))
    made.add("Ein Käfer", model="flux-dev", seed=12345678901234567890)
    for text in INJECTIONS:
        made.add(text, model="flux-dev")
    for number in range(5):
        made.add(f"a kite, number {number}", seed=100 - number)
    assert made.cli("gallery").code == 0
    return made.cli.cwd / "gallery.html"


def shown(page: Page) -> list[str]:
    """Return the prompts of the cards, in order."""
    return page.locator("#grid .prompt").all_text_contents()


def test_search_filter_and_sort(browsing: Browsing, page_file: Path) -> None:
    """Each narrows or orders the cards, together, and the count is told."""
    page = browsing.open(page_file)
    count = page.get_by_role("status").first
    expect(count).to_have_text("12 pictures")
    assert shown(page)[0] == "a kite, number 4"
    page.get_by_label("Search").fill("KITE sea")
    assert shown(page) == ["a red kite over the sea"]
    expect(count).to_have_text("1 of 12 pictures")
    page.get_by_label("Search").fill("kite")
    page.get_by_role("combobox", name="Sort").select_option("Oldest first")
    assert shown(page) == ["a red kite over the sea", *[f"a kite, number {n}" for n in range(5)]]
    page.get_by_role("combobox", name="Sort").select_option("Seed")
    assert shown(page) == ["a red kite over the sea", *[f"a kite, number {n}" for n in (4, 3, 2, 1, 0)]]
    page.get_by_label("Search").fill("")
    page.get_by_role("combobox", name="Model").select_option("flux-dev")
    assert len(shown(page)) == 1 + len(INJECTIONS)
    page.get_by_role("combobox", name="Model").select_option("flux-pro-1.1-ultra")
    assert shown(page) == ["wide dunes at night"]
    page.get_by_label("Search").fill("nothing like it")
    assert shown(page) == []
    page.get_by_role("button", name="Show all").click()
    expect(count).to_have_text("12 pictures")
    page.get_by_role("combobox", name="Sort").select_option("Largest first")
    assert shown(page)[:2] == ["a red kite over the sea", "wide dunes at night"]
    for text, found in (("12345678901234567890", 1), ("task-3", 1), ("kite.png", 1)):
        page.get_by_label("Search").fill(text)
        assert len(shown(page)) == found


def test_the_large_view_by_keyboard(browsing: Browsing, page_file: Path) -> None:
    """Enter opens it, the arrows turn, Home and End jump, Escape closes and the focus is where one was."""
    page = browsing.open(page_file)
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


def test_the_filter_may_change_before_the_closing_is_told(browsing: Browsing, page_file: Path) -> None:
    """The card is gone by then; and who has begun to type a search keeps the focus."""
    page = browsing.open(page_file)
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


def test_the_large_view_shows_the_file_and_all_there_is_to_know(browsing: Browsing, page_file: Path) -> None:
    """The real file at its full size, by its relative URL, with its facts."""
    page = browsing.open(page_file)
    page.get_by_label("Search").fill("dunes")
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
    page.get_by_label("Search").fill("12345678901234567890")
    page.locator("#grid button").click()
    assert "12345678901234567890" in page.locator("#facts").inner_text()


def test_a_file_that_was_moved_leaves_its_thumbnail(browsing: Browsing, page_file: Path) -> None:
    """And says so; the browser's own complaint about the file is expected."""
    (page_file.parent / "kite.png").unlink()
    browsing.expected.add("Failed to load resource: net::ERR_FILE_NOT_FOUND")
    page = browsing.open(page_file)
    page.get_by_role("button", name="a red kite over the sea").click()
    expect(page.get_by_text("The file is not where it was.")).to_be_visible()
    expect(page.locator("#picture")).to_have_attribute("src", re.compile("^data:image/webp"))
    expect(page.locator("#picture")).to_have_js_property("complete", True)
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_text("The file is not where it was.")).to_be_hidden()


@pytest.mark.parametrize("clipboard", [True, False], ids=["clipboard", "no clipboard"])
def test_copy_puts_the_command_on_the_clipboard(browsing: Browsing, page_file: Path, clipboard: bool) -> None:
    """By the clipboard's interface, or without it by the selection; either way it is what the page shows."""
    page = browsing.open(page_file, permissions=["clipboard-read", "clipboard-write"])
    page.get_by_label("Search").fill("document.title")
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


def test_prompts_cannot_inject_markup(browsing: Browsing, page_file: Path) -> None:
    """They are shown as they are, in the card and in the large view, and nothing in them runs."""
    page = browsing.open(page_file)
    for text in INJECTIONS:
        assert text in shown(page)
    page.get_by_role("button", name=INJECTIONS[-1]).click()
    for text in reversed(INJECTIONS):  # newest first
        expect(page.get_by_role("heading", level=2)).to_have_text(text)
        page.keyboard.press("ArrowRight")
    assert page.title() == "Gallery – flux-cli"
    assert page.locator("script").count() == 2


def test_the_policy_stops_what_is_not_the_pages_own(browsing: Browsing, page_file: Path) -> None:
    """Even if markup got in: no script, no handler, no request."""
    page = browsing.open(page_file)
    page.evaluate(
        """() => { const script = document.createElement('script'); script.textContent = "document.title = 'in'";
        document.body.append(script);
        document.body.insertAdjacentHTML('beforeend', `<img src="data:," onerror="document.title = 'in'">`);
        document.body.insertAdjacentHTML('beforeend', '<img src="https://example.com/x.png">'); }"""
    )
    for _ in range(100):
        page.wait_for_timeout(100)
        if len(browsing.complaints) >= 3:
            break
    assert page.title() == "Gallery – flux-cli"
    assert len(browsing.complaints) == 3
    assert all("Content Security Policy" in complaint for complaint in browsing.complaints)
    assert any("https://example.com/x.png" in complaint for complaint in browsing.complaints)
    browsing.expected.update(browsing.complaints)
    browsing.refused.add("https://example.com/x.png")


@pytest.mark.parametrize("width", [320, 390, 768, 1280, 2560])
def test_no_width_needs_sideways_scrolling(browsing: Browsing, page_file: Path, made: Made, width: int) -> None:
    """Phones to wide screens, with words of any length, in the list and in the large view."""
    made.add("w" * 3000, seed=10**200)
    assert made.cli("gallery").code == 0
    page = browsing.open(page_file, width=width, height=640)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for button in page.locator("header input, header select").all():
        box = button.bounding_box()
        assert box
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
    page.locator("#grid button").first.click()
    assert page.evaluate("document.getElementById('large').scrollWidth") == width
    for name in ("Close", "Previous picture", "Next picture", "Copy"):
        box = page.get_by_role("button", name=name).bounding_box()
        assert box
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        assert name == "Copy" or min(box["width"], box["height"]) >= 44  # what a thumb hits


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_colours_follow_the_system_and_can_be_read(browsing: Browsing, page_file: Path, scheme: str) -> None:
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


def test_everything_has_a_name(browsing: Browsing, page_file: Path) -> None:
    """For those who hear the page: controls are labelled, pictures are described by their prompts."""
    page = browsing.open(page_file)
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
    """Only the thumbnails near what is seen are decoded, and finding one of all takes one word."""
    tiny = "data:image/webp;base64,UklGRhoAAABXRUJQVlA4TA0AAAAvAAAAEAcQERGIiP4HAA=="
    pictures = [
        Picture(tmp_path / f"{n}.png", {"model": "flux-pro", "prompt": f"kite{n:04}", "seed": n}, f"t{n}", n, None)
        for n in range(2000)
    ]
    path = tmp_path / "gallery.html"
    gallery_page.write(path, pictures, [Thumbnail(tiny, 1024, 768)] * 2000)
    page = browsing.open(path)
    expect(page.locator("#count")).to_have_text("2,000 pictures")
    expect(page.locator("#grid img").first).to_have_js_property("naturalWidth", 1)
    loaded = "[...document.querySelectorAll('#grid img')].filter(image => image.src).length"
    assert 4 <= page.evaluate(loaded) <= 100
    page.get_by_label("Search").fill("kite0007")
    assert shown(page) == ["kite0007"]
    page.get_by_label("Search").fill("")
    page.keyboard.press("End")
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    expect(page.locator("#grid li:last-child img")).to_have_attribute("src", tiny)
    assert page.evaluate(loaded) <= 200


def test_without_thumbnails_the_files_are_shown(browsing: Browsing, made: Made, tmp_path: Path) -> None:
    """A page that was made without Pillow works in the browser, under its policy."""
    made.add("a kite", "a b#.png", size=(100, 50))
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['PIL'] = None\n")
    assert made.cli("gallery", "-q", env={"PYTHONPATH": str(tmp_path)}).code == 0
    page = browsing.open(made.cli.cwd / "gallery.html")
    expect(page.locator("#grid img")).to_have_js_property("naturalWidth", 100)


def test_open_opens_the_page(made: Made, tmp_path: Path) -> None:
    """`--open` hands the page to the default browser, after its path was printed."""
    made.add("a kite")
    log = tmp_path / "opened"
    for name in ("xdg-open", "open"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "$1" >> {log}\n')
        (tmp_path / name).chmod(0o755)
    done = made.cli("gallery", "--open", env={"PATH": str(tmp_path)})
    assert (done.code, done.lines) == (0, ["gallery.html"])
    assert log.read_text() == f"{made.cli.cwd}/gallery.html\n"
