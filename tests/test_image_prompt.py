"""Image prompts from every kind of source: complete before they are sent, and recorded without secrets."""

import base64
import io
import os
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from flux_cli.errors import FluxError, LocalFileError, ServiceDownError, UsageError
from flux_cli.pictures import image_prompt
from tests.server import Server, http, png


@cache
def picture(name: str) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((40, 30), 80).convert("RGB").save(file, name)
    return file.getvalue()


UNUSABLE = [
    (b"", "an empty file"),
    (b"a kite", "a file of another kind"),
    (b"GIF89a" + bytes(20), "not image/gif"),
    (png(21 * 2**20), "at most 20 MiB"),
    (png()[:-12], "incomplete"),
    (picture("JPEG")[:-100], "incomplete"),
    (picture("WEBP")[:-10], "incomplete"),
    (png()[:40] + b"x" + png()[41:], "damaged"),
]


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> io.BytesIO:
    content = io.BytesIO()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=content))
    return content


def data_url(content: bytes, head: str = "data:image/png;base64,") -> str:
    return head + base64.b64encode(content).decode()


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP"])
def test_every_kind_of_source(name: str, tmp_path: Path, stdin: io.BytesIO, server: Server) -> None:
    content = picture(name)
    path = tmp_path / "in put.bin"
    path.write_bytes(content)
    stdin.write(content)
    stdin.seek(0)
    server.routes = {"/in": http(200, content)}
    for source in (
        *(str(path), "-", path.as_uri(), path.as_uri().replace("file://", "FILE://localhost")),
        *(data_url(content), data_url(content, "DATA:;BASE64,")),
        *(f"{server.url}/in", server.url.replace("http", "HTTP") + "/in?a=1"),
    ):
        image = image_prompt.load_checked(source)
        assert image.content == base64.b64decode(image.encoded()) == content


@pytest.mark.parametrize(("content", "message"), UNUSABLE, ids=[message for _, message in UNUSABLE])
def test_unusable_images(content: bytes, message: str, tmp_path: Path, stdin: io.BytesIO) -> None:
    """Rejected from every kind of source, before anything is sent."""
    path = tmp_path / "in.png"
    path.write_bytes(content)
    stdin.write(content)
    stdin.seek(0)
    for source in (str(path), "-", data_url(content)):
        with pytest.raises(UsageError, match=message):
            image_prompt.load_checked(source)
    assert message in (image_prompt.problem(str(path)) or "")
    assert message in (image_prompt.problem(data_url(content)) or "")


@pytest.mark.parametrize(
    ("content", "kind"),
    [(b"", FluxError), (b"<html>", UsageError), (png()[:-12], ServiceDownError), (png(21 * 2**20), UsageError)],
    ids=["empty", "page", "incomplete", "large"],
)
def test_unusable_images_from_a_url(server: Server, content: bytes, kind: type[FluxError]) -> None:
    """A download that breaks off may be repeated; what is no image is a usage error."""
    server.routes = {"/in": http(200, content)}
    with pytest.raises(kind):
        image_prompt.load_checked(f"{server.url}/in")


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("", LocalFileError, "is empty"),
        ("nowhere.png", LocalFileError, "nowhere.png: no such file"),
        ("x" * 5000, LocalFileError, "x" * 59 + "…"),
        ("a\0b", LocalFileError, "null byte"),
        ("~nobody-has-this-name/x.png", LocalFileError, "no such file"),
        (".", LocalFileError, "is a directory"),
        ("data:image/png;base64,%%%" + "x" * 500, UsageError, "not a valid data: URL"),
        ("data:image/png", UsageError, "not a valid data: URL"),
        ("http://", UsageError, "not a valid URL"),
        ("https://me:hush@exa mple/x.png", UsageError, "not a valid URL"),
        ("https://example:port/x.png", UsageError, "not a valid URL"),
        ("file://elsewhere/x.png", UsageError, "another host"),
        ("file:///nowhere/x.png", LocalFileError, "no such file"),
        ("ftp://example.com/x.png", UsageError, "cannot be a ftp: URL"),
        ("S3://bucket/x.png", UsageError, "cannot be a s3: URL"),
    ],
)
def test_unusable_sources(source: str, kind: type[FluxError], message: str) -> None:
    """One short line that quotes at most 60 characters."""
    with pytest.raises(kind) as raised:
        image_prompt.load(source)
    assert message in raised.value.message
    assert len(raised.value.message) < 150
    assert "hush" not in raised.value.message
    if kind is UsageError:
        assert len(image_prompt.problem(source) or "") in range(1, 150)


def test_credentials_are_used_and_not_recorded(server: Server) -> None:
    """They go to the URL's own origin, not to where it redirects; queries are used and not recorded either.

    A password outside Latin-1 was once reported as an invalid URL.
    """
    with Server({"/in": http(200, png())}) as elsewhere:
        server.routes = {"/in": http(302, Location=f"{elsewhere.url}/in")}
        public = f"{server.url}/in"
        url = public.replace("://", "://me:p%40s%C5%9B@") + "?token=hush#top"
        image = image_prompt.load_checked(url)
        (first,), (second,) = server.requests("/in"), elsewhere.requests("/in")
        image_prompt.load_checked(f"{elsewhere.url}/in")
        without_a_user = elsewhere.requests("/in")[1]
    assert first.path == "/in?token=hush"
    assert first.headers["authorization"] == "Basic " + base64.b64encode("me:p@sś".encode()).decode()
    assert "authorization" not in {**second.headers, **without_a_user.headers}
    assert image.source == image.described()["source"] == image_prompt.description(url)["source"] == public


@pytest.mark.parametrize("code", [401, 404, 500])
def test_messages_do_not_show_credentials(server: Server, code: int) -> None:
    server.routes = {"/in": http(code)}
    with pytest.raises(ServiceDownError) as raised:
        image_prompt.load(server.url.replace("://", "://me:hush@") + "/in?token=hush")
    assert f"cannot be downloaded from {server.url}/in: HTTP {code}" in raised.value.message
    assert "hush" not in raised.value.message


def test_descriptions(tmp_path: Path) -> None:
    """What is recorded before a row is sent; a URL is not downloaded for it, and a new content is noticed."""
    path = tmp_path / "in.png"
    path.write_bytes(png())
    described = image_prompt.description(str(path))
    assert (described["type"], described["bytes"], described["source"]) == ("image/png", len(png()), str(path))
    assert image_prompt.problem(str(path)) is None
    path.write_bytes(png(5)[:-3])
    assert image_prompt.description(str(path))["bytes"] == len(png(5)) - 3
    assert "incomplete" in (image_prompt.problem(str(path)) or "")
    path.unlink()
    unknown = dict.fromkeys(("type", "bytes", "sha256"))
    assert image_prompt.description(str(path)) == {**unknown, "source": str(path)}
    assert image_prompt.description(data_url(png()))["source"] is None
    assert image_prompt.problem("-")


def test_the_limit_is_exact(tmp_path: Path, stdin: io.BytesIO, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "in.png"
    monkeypatch.setattr(image_prompt, "MAX_IMAGE_PROMPT_BYTES", len(png()))
    for extra, accepted in ((0, True), (1, False), (100, False)):
        path.write_bytes(png() + bytes(extra))
        stdin.seek(0)
        stdin.write(png() + bytes(extra))
        stdin.seek(0)
        for source in (str(path), "-"):
            image = image_prompt.load(source)
            assert (image.violation() is None) == accepted
            assert len(image.content) <= len(png()) + 1


def test_a_slow_download_is_an_error(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole download has a time limit, even if bytes keep arriving."""
    monkeypatch.setattr(image_prompt, "DOWNLOAD_SECONDS", -1.0)
    server.routes = {"/in": http(200, png())}
    with pytest.raises(ServiceDownError, match="took more than"):
        image_prompt.load(f"{server.url}/in")


def test_a_file_name_is_not_a_url(tmp_path: Path) -> None:
    """What would be the query of a URL is part of a file's name."""
    path = tmp_path / "what? #1 a@b.png"
    path.write_bytes(png())
    assert image_prompt.load_checked(str(path)).source == str(path)
    assert image_prompt.public_source(str(path)) == str(path)


def test_a_batch_reads_only_regular_files(tmp_path: Path) -> None:
    """A FIFO would block, or be empty when its row is sent."""
    os.mkfifo(tmp_path / "fifo")
    assert "not a regular file" in (image_prompt.problem(str(tmp_path / "fifo")) or "")


@given(
    st.text(st.characters(codec=None), max_size=80)
    | st.from_regex(r"(?i)(data|file|https?):.{0,40}", fullmatch=True)
)
def test_any_text_is_a_source_or_an_error(source: str) -> None:
    """No other exception, short messages, no credentials in what is recorded."""
    assert len(image_prompt.quoted(source)) <= 60
    problem = image_prompt.problem(source)
    if problem is None:
        assert "@" not in str(image_prompt.description(source)["source"]).partition("://")[2].partition("/")[0]
    elif source != "-":
        with pytest.raises(FluxError):
            image_prompt.load_checked(source)
