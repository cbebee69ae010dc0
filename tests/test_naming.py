"""File names of pictures: legal on Linux, macOS and Windows, whatever a prompt or the service contains."""

import contextlib
import datetime
import os
import re
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from flux_cli.errors import LocalFileError, UsageError
from flux_cli.pictures.formats import JPEG, KNOWN_TYPES, PNG, WEBP, ImageType
from flux_cli.pictures.naming import (
    DEFAULT_TEMPLATE,
    FIELD_NAMES,
    MAX_NAME_BYTES,
    MAX_SLUG,
    MAX_SLUG_BYTES,
    Target,
    check,
    parse_output,
    slug,
    values_for,
)

ANY_TEXT = st.text(st.characters(codec=None), max_size=400)
FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)


def assert_safe(name: str) -> None:
    """Assert that a name is legal on every system, and harmless on a command line and a terminal."""
    assert name not in ("", ".", "..")
    assert not FORBIDDEN.search(name), name
    assert not RESERVED.fullmatch(name), name
    assert name.rstrip(" .") == name
    assert name.isprintable()
    assert unicodedata.is_normalized("NFC", name)
    assert len(name.encode()) <= MAX_NAME_BYTES
    assert not name.startswith(("-", "."))


@given(ANY_TEXT, ANY_TEXT, ANY_TEXT, st.sampled_from(KNOWN_TYPES))
def test_generated_names_are_safe(prompt: str, task_id: str, model: str, kind: ImageType) -> None:
    """Also if every field begins a name."""
    values = values_for(task_id, {"prompt": prompt, "model": model, "seed": -5})
    for template in (
        DEFAULT_TEMPLATE,
        *(f"{{{name}}}.{{ext}}" for name in FIELD_NAMES),
        "{task_id}{slug}{seed}.{ext}",
    ):
        path = Target(Path("dir"), template).path(values, kind)
        assert path.parent == Path("dir")
        assert path.suffix == f".{kind.extension}"
        assert_safe(path.name)


@given(
    st.lists(st.sampled_from(["{" + name + "}" for name in FIELD_NAMES] + ["/", "."]), min_size=1, max_size=6),
    ANY_TEXT,
    ANY_TEXT,
)
def test_no_field_leaves_the_directory(parts: list[str], prompt: str, word: str) -> None:
    """Slashes and dots come from the template only."""
    template = "out/x" + "".join(parts) + "x.{ext}"
    assume("/." not in template and "//" not in template)
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
        *((nothing, "image") for nothing in ("", "...", "\u0301", "\udcff\ud800")),
        ("日本語の猫", "日本語の猫"),
        ("Ünïcödé — naïve", "ünïcödé-naïve"),
        ("cafe\u0301 noir", "café-noir"),
        ("हिन्दी बिल्ली", "हिन्दी-बिल्ली"),
        ("แมวสีแดง", "แมวสีแดง"),
        ("قطة حمراء", "قطة-حمراء"),
        ("می\u200cخواهم", "میخواهم"),
        ("ИСКРА, 2024", "искра-2024"),
        ("a 🦊 in the snow", "a-in-the-snow"),
        ("🦊🦊🦊", "fox-face"),
        ("🐈\u200d⬛ ❤️", "cat-black-large-square-heavy-black-heart"),
        ("\x1b[2J\x00\u202e", "2j"),
        ("-rf", "rf"),
        ("a／b", "a-b"),
        ("x" * 300, "x" * 60),
        ("word " * 100, "word-word-word-word-word-word-word-word-word-word-word-word"),
        ("日本 " * 100, "-".join(["日本"] * 17)),
        ("日" * 300, "日" * 40),
        ("ab" + "日" * 300, "ab" + "日" * 39),
        ("kitten " * 20, "-".join(["kitten"] * 8)),
        ("a " + "x" * 300, "a-" + "x" * 58),
        ("𒀀" * 300, "𒀀" * 30),
    ],
)
def test_slugs(prompt: str, expected: str) -> None:
    """Words of every script, readable and short; symbols have names, and nothing is empty."""
    assert slug(prompt) == expected


@given(ANY_TEXT)
def test_any_slug_is_words_and_single_dashes(prompt: str) -> None:
    found = slug(prompt)
    assert re.fullmatch(r"[^-\s/.]+(-[^-\s/.]+)*", found)
    assert found.isprintable()
    assert (len(found) <= MAX_SLUG, len(found.encode()) <= MAX_SLUG_BYTES) == (True, True)


def test_slugs_without_unicode(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system whose encoding is ASCII gets names that it can store."""
    monkeypatch.setattr(os, "fsencode", lambda name: name.encode("ascii"))
    assert slug("Ünïcödé — naïve") == "unicode-naive"
    assert slug("日本語") == "image"


@pytest.mark.parametrize("task_id", ["-rf", "--all", ".hidden", "...", "-.x"])
def test_task_ids_with_a_dash_or_a_dot(task_id: str) -> None:
    """Such a name would be taken for an option, or hidden."""
    values = values_for(task_id, {"seed": -5})
    for template in ("{task_id}.{ext}", "{id8}.{ext}", "{task_id}/{id8}.{ext}", "{seed}.{ext}"):
        for part in Target(Path(), template).path(values, PNG).parts:
            assert not part.startswith(("-", "."))
    assert Target(Path(), "x{task_id}.{ext}").path(values_for("-a", {}), PNG) == Path("x-a.png")


@pytest.mark.parametrize("word", ["CON", "nul", "com1", "LPT9", "aux", "prn", "con."])
def test_windows_devices_are_no_names(word: str) -> None:
    path = Target(Path(), "{slug}/{slug}.{ext}").path(values_for("id", {"prompt": word}), PNG)
    assert not [part for part in path.parts if RESERVED.fullmatch(part)]


@pytest.mark.parametrize(
    "name", ["x.png", "x.PNG", "x.jpeg", "x.tmp", "x", "x.", ".png", "x.y.png", "-x.png", "con"]
)
@pytest.mark.parametrize("kind", KNOWN_TYPES)
def test_an_explicit_name_is_kept(name: str, kind: ImageType) -> None:
    """Whatever format the bytes have: scripts rely on it."""
    assert Target(Path("dir"), name, explicit=True).path({}, kind) == Path("dir", name)


@pytest.mark.parametrize(
    ("name", "expected"), [("x.png", "x-original.jpg"), ("x.jpeg", "x-original.jpeg"), ("x", "x-original")]
)
def test_the_original_of_an_explicit_name(name: str, expected: str) -> None:
    """That name is generated: its extension follows the bytes."""
    assert Target(Path(), name, explicit=True).path({}, JPEG, original=True) == Path(expected)


@pytest.mark.parametrize(
    ("template", "kind", "expected"),
    [
        ("{slug}.{ext}", JPEG, "a-cat.jpg"),
        ("{slug}.png", JPEG, "a-cat.jpg"),
        ("{slug}.png", PNG, "a-cat.png"),
        ("{slug}.jpeg", JPEG, "a-cat.jpeg"),
        ("{slug}", WEBP, "a-cat.webp"),
        ("{slug}.v2", PNG, "a-cat.v2.png"),
        ("{model}/{seed}/{n}.{ext}", PNG, "flux-pro-1.1/random/3.png"),
        ("{task_id}_{id8}.{ext}", PNG, "0123456789_01234567.png"),
        ("{slug}-{ext}.{ext}", PNG, "a-cat-png.png"),
        ("{slug}/{slug}", PNG, "a-cat/a-cat.png"),
        ("x/.{slug}", PNG, "x/.a-cat.png"),
    ],
)
def test_templates(template: str, kind: ImageType, expected: str) -> None:
    values = values_for("0123456789", {"prompt": "a cat", "model": "flux-pro-1.1"}, 3)
    assert Target(Path(), template).path(values, kind) == Path(expected)


@pytest.mark.parametrize("length", [195, 196, 197, 300])
def test_the_longest_name(length: int) -> None:
    path = Target(Path(), "{slug}.{ext}").path({"slug": "x" * length}, PNG)
    assert path.name == "x" * min(length, MAX_NAME_BYTES - 4) + ".png"


def test_the_date_is_a_day() -> None:
    before = datetime.date.today()
    assert before.isoformat() <= values_for("id", {})["date"] <= datetime.date.today().isoformat()


@pytest.mark.parametrize(
    "output",
    [
        *("{nope}.png", "{slug", "slug}", "{}", "{0}", "{slug!r}.png", "{slug:>20}.png", "{slug.upper}", "{n[0]}"),
        *("", " ", "a\0b.png"),
    ],
)
def test_invalid_templates(output: str) -> None:
    with pytest.raises(UsageError):
        parse_output(output, None, 1, force=False)


@given(st.text(st.characters(codec=None), max_size=60), st.none() | st.integers(1, 3))
def test_any_output_is_a_target_or_a_usage_error(output: str, count: int | None) -> None:
    with contextlib.suppress(UsageError):
        target = parse_output(output, None, count, force=False)
        if not target.stdout:
            target.path(values_for("id", {"prompt": "a cat"}), PNG)


def test_several_pictures_need_several_names() -> None:
    for output in ("x.png", "-", "{slug}.{ext}", "{date}-{slug}-{model}.{ext}"):
        with pytest.raises(UsageError):
            parse_output(output, None, 2, force=False)
    for fitting in ("dir/", "{n}.png", "{seed}.png", "{task_id}.png", "{id8}.png", "{date}/", None):
        parse_output(fitting, None, 2, force=False)


def test_a_template_of_a_directory() -> None:
    target = parse_output("{model}/", None, 2, force=False)
    path = target.path(values_for("0123456789", {"prompt": "a cat", "model": "flux-pro"}), PNG)
    assert path == Path("flux-pro/a-cat-01234567.png")


def test_the_home_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse_output("~/x.png", None, 1, force=False).directory == tmp_path
    assert parse_output("~/pictures/", None, 1, force=False).directory == tmp_path / "pictures"
    assert parse_output("~/{n}.png", None, 1, force=False).template == f"{tmp_path}{os.sep}{{n}}.png"
    assert parse_output(None, "~/pictures", 1, force=False).directory == tmp_path / "pictures"
    assert parse_output("~nobody-has-this-name/x.png", None, 1, force=False).template == "x.png"


def test_checking_an_explicit_name(tmp_path: Path) -> None:
    """An existing file is rejected unless `force`, and what is not a file always, without a hint at `--force`."""
    (tmp_path / "file.png").write_bytes(b"x")
    (tmp_path / "directory.png").mkdir()
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "process.png").symlink_to("/proc/self/fd/1")
    (tmp_path / "to directory.png").symlink_to(tmp_path / "directory.png")
    os.mkfifo(tmp_path / "fifo.png")
    for name in ("file", "dangling", "directory", "process", "to directory", "fifo"):
        target = Target(tmp_path, f"{name}.png", explicit=True)
        with pytest.raises(LocalFileError, match="exists") as error:
            check(target)
        replaceable = name in ("file", "dangling")
        assert ("--force" in (error.value.hint or "")) == replaceable
        with (
            contextlib.nullcontext() if replaceable else pytest.raises(LocalFileError, match="not a regular file")
        ):
            check(replace(target, force=True))
    for target in (
        Target(tmp_path, "new.png", explicit=True),
        Target(tmp_path, "new.png", explicit=True, force=True),
        Target(tmp_path, "file.png"),
        Target(tmp_path / "file.png", stdout=True),
    ):
        check(target)


def test_checking_a_directory(tmp_path: Path) -> None:
    """It is created, as far as the template names it; nothing remains in it."""
    (tmp_path / "file").write_bytes(b"x")
    check(Target(tmp_path / "a" / "b", "c/x-{slug}/{n}.png"))
    assert list((tmp_path / "a" / "b" / "c").iterdir()) == []
    for directory in ("file", "file/below"):
        with pytest.raises(LocalFileError, match="not a directory"):
            check(Target(tmp_path / directory))
