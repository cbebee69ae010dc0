"""What pictures are called: safe on Linux, macOS and Windows, whatever a prompt or a service says."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_cli.errors import UsageError
from flux_cli.pictures.formats import JPEG, KNOWN_TYPES, PNG, WEBP, ImageType
from flux_cli.pictures.naming import FIELD_NAMES, MAX_NAME_BYTES, Target, plan, slug, values_for

ANY_TEXT = st.text(st.characters(codec=None), max_size=400)
FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)


def assert_safe(name: str) -> None:
    """See that a name is one file's, on every system."""
    assert name not in ("", ".", "..")
    assert not FORBIDDEN.search(name), name
    assert not RESERVED.fullmatch(name), name
    assert name.rstrip(" .") == name
    assert name.isascii()
    assert len(name.encode()) <= MAX_NAME_BYTES + 10  # room for an extension
    assert not name.startswith("-")


@given(ANY_TEXT, ANY_TEXT, ANY_TEXT, st.sampled_from(KNOWN_TYPES))
def test_made_up_names_are_safe_everywhere(prompt: str, task_id: str, model: str, kind: ImageType) -> None:
    """Of the default template, whatever is in it."""
    path = Target(Path("dir")).path(values_for(task_id, {"prompt": prompt, "model": model}), kind)
    assert path.parent == Path("dir")
    assert path.suffix == f".{kind.extension}"
    assert_safe(path.name)


@given(
    st.lists(st.sampled_from(["{" + name + "}" for name in FIELD_NAMES] + ["/", "."]), min_size=1, max_size=6),
    ANY_TEXT,
    ANY_TEXT,
)
def test_no_field_of_a_template_leaves_its_directory(parts: list[str], prompt: str, word: str) -> None:
    """Slashes and dots are the template's own; a value adds none that climbs."""
    template = "out/x" + "".join(parts) + "x.{ext}"
    if "/." in template or "//" in template:  # what the user writes is the user's
        return
    request = {"prompt": prompt, "model": word, "seed": word}
    path = Target(Path("dir"), template).path(values_for(word, request), PNG)
    assert path.parts[:2] == ("dir", "out")
    assert ".." not in path.parts
    assert len(path.parts) == 2 + template.count("/")
    assert_safe(path.name)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("A red kite, over the sea!", "a-red-kite-over-the-sea"),
        ("../../etc/passwd", "etc-passwd"),
        ("CON", "con"),
        ("", "image"),
        ("🦊🦊🦊", "image"),
        ("日本語", "image"),
        ("Ünïcödé — naïve", "unicode-naive"),
        ("\x1b[2J\x00\u202e", "2j"),
        ("-rf", "rf"),
        ("x" * 300, "x" * 60),
        ("word " * 100, "word-word-word-word-word-word-word-word-word-word-word-word"),
        ("\udcff\ud800", "image"),
    ],
)
def test_slugs(prompt: str, expected: str) -> None:
    """A prompt as a part of a name: readable, short, never empty."""
    assert slug(prompt) == expected


@given(ANY_TEXT)
def test_any_slug_is_letters_digits_and_single_dashes(prompt: str) -> None:
    """And starts and ends with none of the latter."""
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", slug(prompt))
    assert len(slug(prompt)) <= 60


@pytest.mark.parametrize("word", ["CON", "nul", "com1", "LPT9", "aux", "prn", "con."])
def test_windows_devices_are_no_names(word: str) -> None:
    """In the file's name and in a directory's that a field makes."""
    request = {"prompt": word}
    path = Target(Path(), "{slug}/{slug}.{ext}").path(values_for("id", request), PNG)
    for part in path.parts:
        assert not RESERVED.fullmatch(part)


@pytest.mark.parametrize(
    ("given", "kind", "expected"),
    [
        ("x.png", PNG, "x.png"),
        ("x.PNG", PNG, "x.PNG"),
        ("x.png", JPEG, "x.jpg"),
        ("x.jpeg", JPEG, "x.jpeg"),
        ("x.jpg", WEBP, "x.webp"),
        ("x.tmp", JPEG, "x.tmp"),
        ("x", JPEG, "x"),
        ("x.", JPEG, "x."),
        (".png", JPEG, ".png"),
        ("x.y.png", WEBP, "x.y.webp"),
    ],
)
def test_the_extension_of_an_explicit_name_follows_the_bytes(given: str, kind: ImageType, expected: str) -> None:
    """Where it promises a type of image; any other is the user's choice."""
    assert Target(Path(), given, explicit=True).path({}, kind) == Path(expected)


@pytest.mark.parametrize(
    ("template", "kind", "expected"),
    [
        ("{slug}.{ext}", JPEG, "a-cat.jpg"),
        ("{slug}.png", JPEG, "a-cat.jpg"),
        ("{slug}.png", PNG, "a-cat.png"),
        ("{slug}", WEBP, "a-cat.webp"),
        ("{slug}.v2", PNG, "a-cat.v2.png"),
        ("{model}/{seed}/{n}.{ext}", PNG, "flux-pro-1.1/random/3.png"),
        ("{task_id}_{id8}.{ext}", PNG, "0123456789_01234567.png"),
        ("{slug}-{ext}.{ext}", PNG, "a-cat-png.png"),
        ("{slug}/{slug}", PNG, "a-cat/a-cat.png"),
    ],
)
def test_templates(template: str, kind: ImageType, expected: str) -> None:
    """Fields, directories, and an extension that is true."""
    values = values_for("0123456789", {"prompt": "a cat", "model": "flux-pro-1.1"}, 3)
    assert Target(Path(), template).path(values, kind) == Path(expected)


def test_the_date_is_a_day() -> None:
    """As it was when the picture was saved, or at a given time."""
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", values_for("id", {})["date"])
    assert values_for("id", {}, 1, 0.0)["date"] in ("1969-12-31", "1970-01-01")


@pytest.mark.parametrize(
    "output",
    [
        "{nope}.png",
        "{slug",
        "slug}",
        "{}",
        "{0}",
        "{slug!r}.png",
        "{slug:>20}.png",
        "{slug.upper}",
        "{n[0]}",
        "",
        " ",
    ],
)
def test_templates_that_make_no_sense(output: str) -> None:
    """They are refused before anything is sent; the fields that there are are named."""
    with pytest.raises(UsageError):
        plan(output, None, 1, force=False)


@given(st.text(st.characters(codec=None), max_size=60), st.none() | st.integers(1, 3))
def test_any_output_is_understood_or_refused(output: str, count: int | None) -> None:
    """Nothing that is typed after `-o` is a crash."""
    try:
        target = plan(output, None, count, force=False)
    except UsageError:
        return
    if not target.stdout:
        target.path(values_for("id", {"prompt": "a cat"}), PNG)


def test_several_pictures_need_several_names() -> None:
    """One file, one stream or one name for all is refused."""
    for output in ("x.png", "-", "{slug}.{ext}"):
        with pytest.raises(UsageError):
            plan(output, None, 2, force=False)
    for fitting in ("dir/", "{n}.png", "{seed}.png", "{task_id}.png", "{id8}.png", "{date}/", None):
        plan(fitting, None, 2, force=False)


def test_a_template_of_a_directory() -> None:
    """The names in it are those that are made up elsewhere, too."""
    target = plan("{model}/", None, 2, force=False)
    path = target.path(values_for("0123456789", {"prompt": "a cat", "model": "flux-pro"}), PNG)
    assert path == Path("flux-pro/a-cat-01234567.png")


def test_a_home_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A tilde is the home directory, in each form; nobody's home is a name like any other."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert plan("~/x.png", None, 1, force=False).directory == tmp_path
    assert plan("~/pictures/", None, 1, force=False).directory == tmp_path / "pictures"
    assert plan("~/{n}.png", None, 1, force=False).template == f"{tmp_path}{os.sep}{{n}}.png"
    assert plan(None, "~/pictures", 1, force=False).directory == tmp_path / "pictures"
    assert plan("~nobody-has-this-name/x.png", None, 1, force=False).template == "x.png"
