"""Whether a picture is complete, judged by its bytes; how it is transferred, resumed and saved."""

import base64
import contextlib
import hashlib
import io
import os
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from flux_cli.api.task import Status, Task
from flux_cli.errors import LocalFileError
from flux_cli.pictures import download, formats
from flux_cli.pictures.download import DownloadError, Partial, Retry, fetch_image, image_session
from flux_cli.pictures.formats import (
    AVIF,
    GIF,
    JPEG,
    KNOWN_TYPES,
    PNG,
    SVG,
    WEBP,
    Damage,
    ImageType,
    find_damage,
    is_image_extension,
    sniff,
    suggested_type,
)
from flux_cli.pictures.naming import Target
from flux_cli.pictures.saving import Saved, Saver, Transfer
from flux_cli.storage.files import temporary
from tests.conftest import Cli
from tests.faults.table import is_whole, records
from tests.server import Action, Reply, Request, Server, finished, http, in_turn, png, reply

NOISE = Image.effect_noise((60, 40), 80).convert("RGB")


def encoded(image: Image.Image, kind: ImageType, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG" if kind is JPEG else kind.extension, **options)
    return file.getvalue()


@cache
def picture(kind: ImageType) -> bytes:
    """Return a noisy picture of a type; a JPEG with a thumbnail, which is a complete JPEG inside it."""
    if kind is not JPEG:
        return encoded(NOISE, kind)
    thumbnail = encoded(NOISE.resize((12, 8)), JPEG)
    return encoded(NOISE, JPEG, comment=b"\xff\xd9", exif=b"Exif\0\0" + thumbnail)


def jpeg_with(content: bytes) -> bytes:
    return picture(JPEG)[:2] + content + picture(JPEG)[2:]


def boxes(*kinds: bytes, brand: bytes = b"avif") -> bytes:
    """Return an ISO media file with these boxes after the first."""
    content = [(b"ftyp", brand + bytes(4)), *((kind, bytes(20)) for kind in kinds)]
    return b"".join(struct.pack(">I4s", 8 + len(each), kind) + each for kind, each in content)


def damage(content: bytes, kind: ImageType) -> Damage | None:
    return find_damage(io.BytesIO(content), kind)


WITH_AN_ENCODER = [kind for kind in KNOWN_TYPES if kind is not AVIF or ".avif" in Image.registered_extensions()]


@pytest.mark.parametrize("kind", WITH_AN_ENCODER, ids=lambda kind: kind.extension)
def test_a_cut_file_is_incomplete(kind: ImageType) -> None:
    """No prefix of a picture passes, although each is recognised."""
    whole = picture(kind)
    assert sniff(whole[:64]) is kind
    assert damage(whole, kind) is None
    passing = [cut for cut in range(32, len(whole)) if damage(whole[:cut], kind) is not Damage.INCOMPLETE]
    # The end of a picture may be followed by a byte that carries nothing.
    assert len(whole) - min(passing, default=len(whole)) <= 1


@pytest.mark.parametrize("kind", [PNG, JPEG, WEBP, GIF], ids=lambda kind: kind.extension)
def test_data_after_the_end_is_allowed(kind: ImageType) -> None:
    """Any amount: decoders allow it, and some cameras and services write it."""
    assert damage(picture(kind) + b"\0\r\ntrailing" * 100_000, kind) is None


@pytest.mark.parametrize("blank", [b"", b"\xff" * 3])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_of_several_scans_and_blocks(
    monkeypatch: pytest.MonkeyPatch, blank: bytes, progressive: bool
) -> None:
    """Scans are skipped block by block, wherever a marker crosses a block's end; fill bytes precede markers."""
    content = encoded(NOISE.convert("L"), JPEG, progressive=progressive)[:-2] + blank + b"\xff\xd9"
    for size in range(7, 40):
        monkeypatch.setattr(formats, "_BLOCK_BYTES", size)
        assert damage(content, JPEG) is None
        assert damage(content[:-2], JPEG) is Damage.INCOMPLETE


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (WEBP, encoded(NOISE, WEBP, lossless=True)),
        (WEBP, encoded(NOISE, WEBP, save_all=True, append_images=[NOISE.convert("L")])),
        (GIF, encoded(NOISE, GIF, save_all=True, append_images=[NOISE.rotate(5)], comment=b"; not the end")),
        (GIF, encoded(NOISE.quantize(4), GIF)),  # a small color table
        (JPEG, jpeg_with(b"\xff" * 3 + b"\xff\xfe\0\2")),
    ],
    ids=range(5),
)
def test_other_structures(kind: ImageType, content: bytes) -> None:
    """Pixels in chunks of other types, extensions and empty comments."""
    assert damage(content, kind) is None
    assert damage(content[:-2], kind) is Damage.INCOMPLETE


def test_every_flipped_byte_of_a_png_is_noticed() -> None:
    """Its checksums cover all but the first bytes, which make it a PNG at all."""
    whole = picture(PNG)
    for index in range(8, len(whole), 7):
        flipped = whole[:index] + bytes([whole[index] ^ 0x10]) + whole[index + 1 :]
        assert damage(flipped, PNG) is not None, index


STRUCTURES: dict[Damage | None, list[tuple[ImageType, bytes]]] = {
    None: [
        (SVG, b"<svg xmlns='x'><g/></svg >\n"),
        (SVG, b"<svg xmlns='x'/>\n"),
        (AVIF, boxes(b"meta", b"xml ", b"mdat") + struct.pack(">I4s", 8, b"free")),
        (AVIF, boxes(b"meta", b"mdat") + b"\0\0\r\n\0\0\0\0\0"),
        (AVIF, boxes(b"meta") + struct.pack(">I4s", 0, b"mdat") + b"pixels"),
        (AVIF, boxes(b"meta") + struct.pack(">I4sQ", 1, b"mdat", 20) + b"1234"),
    ],
    Damage.INCOMPLETE: [
        (SVG, b"<svg xmlns='x'><g/>"),
        (SVG, b"<svg xmlns='x'><svg></svg>" + b"<g></g>" * 10_000),
        (AVIF, boxes(b"meta")),
        (AVIF, boxes(b"mdat")),
        (AVIF, boxes(b"meta", b"mdat")[:-1]),
    ],
    Damage.CORRUPT: [  # more bytes would not help
        (PNG, png()[:8] + png()[33:]),  # no header
        (PNG, png().replace(b"IDAT", b"IDAU")),
        (PNG, png()[:33] + png()[-12:]),  # no pixels
        (JPEG, b"\xff\xd8\xff\xd9"),
        (JPEG, b"\xff\xd8\xff\xda\0\x02\xff\xd9"),  # a scan without a frame
        (JPEG, b"\xff\xd8\xff\xdb\0\x02\xff\xd9"),  # no scan
        (JPEG, b"\xff\xd8\xff\xe0\0\x01\xff\xd9"),
        (JPEG, b"\xff\xd8\0\0\0\0"),
        # Each segment begins with FF and a marker of a segment.
        *((JPEG, jpeg_with(start + b"\0\2")) for start in (b"\0\xfe", b"\xff\x01", b"\xff\xd0", b"\xff\xd8")),
        (GIF, b"GIF89a" + bytes(7) + b";"),
        (GIF, b"GIF89a" + bytes(7) + b"?;"),
        (WEBP, b"RIFF\x0c\0\0\0WEBPEXIF\0\0\0\0"),
        (WEBP, b"RIFF\x12\0\0\0WEBPVP8L\x05\0\0\0\x2e\0\0\0\0\0"),
        (WEBP, b"RIFF\x12\0\0\0WEBPVP8L\xff\0\0\0\x2f\0\0\0\0\0"),
        (AVIF, boxes() + bytes(8)),
        (AVIF, boxes(b"mdat") + bytes(8)),
        (AVIF, boxes(b"meta") + b"\0\0\0\7mdat"),
    ],
}


@pytest.mark.parametrize("found", STRUCTURES)
def test_the_structure_decides(found: Damage | None) -> None:
    for kind, content in STRUCTURES[found]:
        assert damage(content, kind) is found, content


@given(st.sampled_from(WITH_AN_ENCODER), st.integers(0, 200), st.binary(max_size=300))
def test_any_bytes_can_be_judged(kind: ImageType, kept: int, rest: bytes) -> None:
    """Whatever follows the first bytes of a picture, no check raises; nothing is complete without an end."""
    content = picture(kind)[:kept] + rest
    assert sniff(content[:512]) is not None or kept < 12
    assert damage(content, kind) is not None


SNIFFED: dict[str | None, list[bytes]] = {
    "jxl": [b"\xff\x0a\xfa\x7f", b"\0\0\0\x0cJXL \r\n\x87\n"],
    "tif": [b"MM\0*\0\0\0\x08"],
    "bmp": [b"BM\x46\0\0\0\0\0\0\0"],
    "webm": [b"\x1aE\xdf\xa3"],
    # The last one's box ends before the brand.
    "heic": [boxes(brand=b"heic"), boxes(brand=b"mif1"), b"\0\0\0\x14ftypmif1\0\0\0\0miafavif"],
    "avif": [b"\0\0\0\x18ftypmif1\0\0\0\0miafavif"],
    "mp4": [boxes(brand=b"isom")],
    "mov": [boxes(brand=b"qt  ")],
    "svg": [b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- x -->\n<svg xmlns="x">'],
    # Text that begins like a format is none; a page of comments is judged in no time.
    None: [b"BM is a car", b"<html><svg>", b"<!-- --><html>", b"<!---->" * 70, b"", b"GIF", b"RIFF1234WAVE"],
}


@pytest.mark.parametrize("extension", SNIFFED)
def test_other_formats_are_recognised(extension: str | None) -> None:
    """Their pictures were charged too."""
    for content in SNIFFED[extension]:
        assert getattr(sniff(content), "extension", None) == extension, content


@pytest.mark.parametrize(
    ("content_type", "path", "extension"),
    [
        ("image/x-tga", "/a/b.png", "tga"),
        ("image/png", "/a/b.qoi", "qoi"),
        ("application/octet-stream", "/a/b.EXR", "exr"),
        ("", "/a/b", "bin"),
        ("image/png", "/a/b.png", "bin"),
        ("image/exe", "/a/b.lnk", "bin"),
        ("text/tab", "/a/b.toolongext", "bin"),
    ],
)
def test_suggested_extensions(content_type: str, path: str, extension: str) -> None:
    """For bytes of no format that is known; never a name that promises one, or that a desktop would run."""
    assert suggested_type(content_type, path).extension == extension


@given(st.text())
def test_extensions(text: str) -> None:
    kinds = [kind for kind in KNOWN_TYPES if kind.fits(text)]
    assert len(kinds) <= 1
    assert is_image_extension(text) == is_image_extension(text.upper()) == bool(kinds)


# The transfer

BIG = png(50_000)
TAG = {"ETag": '"v1"'}
DATES = {"Last_Modified": "Wed, 01 Jan 2025 10:00:00 GMT", "Date": "Wed, 01 Jan 2025 10:00:05 GMT"}
LATER = "Wed, 01 Jan 2025 10:00:01 GMT"


@dataclass
class Attempts:
    """The attempts to save a picture of a server as `task-0.png` in a directory."""

    server: Server
    directory: Path
    trace: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.saver = Saver(self.server.url, self.trace.append)
        self.transfer = self.to(Target(self.directory, "{id8}.{ext}"))

    def to(self, target: Target) -> Transfer:
        return Transfer(target, {}, 1)

    def replies(self, *replies: Reply) -> None:
        self.server.routes = {"/image": in_turn(*replies)}

    def task(self, **urls: str) -> Task:
        more: dict[str, Any] = {"image_url": f"{self.server.url}/image/x.png", **urls}
        return Task("task-0", Status.FINISHED, {}, **more)

    def save(self, url: str | None = None, transfer: Transfer | None = None) -> Saved:
        task = self.task(image_url=url) if url else self.task()
        return self.saver.save(task, transfer or self.transfer, lambda *_: None)

    def fail(self, url: str | None = None) -> DownloadError:
        with pytest.raises(DownloadError) as caught:
            self.save(url)
        return caught.value

    @property
    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.directory.iterdir()}


@pytest.fixture
def attempts(server: Server, tmp_path: Path) -> Attempts:
    (tmp_path / "pictures").mkdir()
    return Attempts(server, tmp_path / "pictures")


@pytest.fixture(params=[0, download.IN_MEMORY_BYTES], ids=["file", "memory"])
def _where_verified(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verify pictures in memory, as small ones are, or from their file."""
    monkeypatch.setattr(download, "IN_MEMORY_BYTES", request.param)


@pytest.mark.usefixtures("_where_verified")
def test_a_saved_picture(attempts: Attempts) -> None:
    """Its path and its hash; the file is there, and nothing else. For stdout it is the content."""
    result = attempts.save()
    assert result == Saved(attempts.directory / "task-0.png", sha256=hashlib.sha256(png()).hexdigest())
    to_stdout = attempts.save(transfer=attempts.to(Target(Path(), stdout=True)))
    assert to_stdout == Saved(content=png(), sha256=result.sha256)
    assert attempts.files == {"task-0.png": png()}


@pytest.mark.parametrize(
    ("reply", "kind", "says"),
    [
        *((http(code), Retry.EXPIRED, f"HTTP {code}, its URL may have expired") for code in (403, 404, 410)),
        (http(400), Retry.EXPIRED, "HTTP 400"),
        *((http(code), Retry.TRANSIENT, f"HTTP {code}") for code in (302, 408, 425, 429, 503)),
        (http(204), Retry.TRANSIENT, "the response is empty"),
        (http(200, b"<!doctype html><p>no</p>"), Retry.EXPIRED, "HTML"),
        (http(200, b' {"error": "no"}', Content_Type="image/png"), Retry.EXPIRED, "JSON"),
        (http(200, b"no healthy upstream", Content_Type="image/png"), Retry.EXPIRED, "text"),
        (http(200, b"\x1f\x8b" + bytes(99)), Retry.EXPIRED, "compressed"),
        (http(200, b"\x0b\x80" + bytes(99), Content_Encoding="br"), Retry.EXPIRED, "compressed"),
        (http(200, png()[:-1]), Retry.TRANSIENT, "incomplete"),
        (http(200, png()[:40] + b"?" + png()[41:]), Retry.EXPIRED, "damaged"),
        (http(200, b"MM\0*" + bytes(99), Content_Length="999"), Retry.TRANSIENT, "ended"),
        ([http(200, png()[:-9]), Action.RESET], Retry.TRANSIENT, ""),
        ([Action.RESET], Retry.TRANSIENT, ""),
        (http(301, Location="file:///etc/passwd"), Retry.FINAL, "not https"),
        (http(301, Location="ftp://127.0.0.1/x.png"), Retry.FINAL, "not https"),
        (http(301, Location="https:///x.png"), Retry.FINAL, "not https"),
        (http(301, Location="/image/again.png"), Retry.FINAL, "redirects"),
        (http(301, Location="http://[::1"), Retry.FINAL, "invalid URL"),
        (http(301, Location="http://127.0.0.1:99999/"), Retry.FINAL, "invalid URL"),
        (http(301, Location="http://a..b/"), Retry.FINAL, "invalid URL"),
    ],
)
def test_failed_attempts(attempts: Attempts, reply: Reply, kind: Retry, says: str) -> None:
    attempts.replies(reply)
    error = attempts.fail()
    assert error.kind is kind
    assert says in error.message
    assert attempts.files == {}


def test_retry_after(attempts: Attempts) -> None:
    attempts.replies(http(503, Retry_After="7"))
    assert attempts.fail().retry_after == 7


@pytest.mark.parametrize(
    "reply",
    [
        http(201, png()),
        http(203, png(), Content_Encoding="identity"),
        http(206, png(), Content_Range=f"bytes 0-{len(png()) - 1}/{len(png())}"),
        http(200, png(), Content_Encoding="gzip"),
        http(200, png(), Content_Length="9999"),
        [http(200, png(), Content_Length=""), Action.RESET],
        http(200, png() + bytes(3_000_000)),
        *(in_turn(http(code, Location="/image/x.png"), http(200, png())) for code in (301, 302, 303, 307, 308)),
    ],
)
def test_content_decides_what_is_complete(attempts: Attempts, reply: Reply) -> None:
    """A complete picture is accepted, whatever the status, the length and the coding claim."""
    attempts.replies(reply)
    assert attempts.save().path == attempts.directory / "task-0.png"


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ("/image/\u732b.png".encode(), "/image/%E7%8C%AB.png"),
        (b"/image/\x80\xff.png", "/image/%80%FF.png"),
        (b"y.png?a=1", "/image/y.png?a=1"),
    ],
)
def test_where_a_redirect_points_to(attempts: Attempts, location: bytes, path: str) -> None:
    """Servers send UTF-8, and sometimes other bytes; a relative URL is one too."""
    attempts.replies(http(302, Location=location.decode("latin-1")), http(200, png()))
    attempts.save()
    assert [request.path for request in attempts.server.received] == ["/image/x.png", path]


@pytest.mark.parametrize(
    ("content", "name", "mime"),
    [
        (b"\xff\x0a" + bytes(50), "task-0.jxl", "image/jxl"),
        (boxes(b"moov", b"mdat", brand=b"isom"), "task-0.mp4", "video/mp4"),
        (b"\1\2\3", "task-0.tga", "image/x-tga"),
        (b"<svg xmlns='x'></svg>\n", "task-0.svg", "image/svg+xml"),
    ],
)
def test_unusual_formats_are_kept(attempts: Attempts, content: bytes, name: str, mime: str) -> None:
    """With a warning: they were charged. A format that is not recognised was once saved as an empty file."""
    attempts.replies(http(200, content, Content_Type="image/x-tga"))
    result = attempts.save()
    assert (result.path, attempts.files) == (attempts.directory / name, {name: content})
    assert result.sha256 == hashlib.sha256(content).hexdigest()
    assert f"unusual format: {mime}" in (result.warning or "")


BASE_64 = base64.b64encode(png()).decode()


def test_data_urls(attempts: Attempts) -> None:
    for url in (
        f"data:image/png;base64,{BASE_64}",
        f"DATA:;BASE64,{BASE_64.rstrip('=').replace('/', '_')}",
        f"data:,{''.join(f'%{byte:02x}' for byte in png())}",
    ):
        attempts.save(url, attempts.to(attempts.transfer.target))
    assert attempts.files == {"task-0.png": png()}
    for url in ("data:image/png;base64,*", "data:image/png", f"data:;base64,{BASE_64[:40]}", "data:,%3Chtml"):
        attempts.fail(url)
    assert not attempts.server.received


def test_http_is_upgraded_if_the_api_uses_https(attempts: Attempts) -> None:
    """The port is kept, unless it is that of http."""
    attempts.saver = Saver("https://127.0.0.1:1", attempts.trace.append)
    attempts.fail("http://127.0.0.1:1/x.png?a=1")
    attempts.fail("http://127.0.0.1:80/x.png")
    assert attempts.trace == ["> GET https://127.0.0.1:1/x.png?a=1", "> GET https://127.0.0.1/x.png"]


def fetch(url: str, directory: Path, limit: int) -> None:
    with temporary(directory) as file, image_session() as session:
        fetch_image(url, Partial(file), session=session, allow_http=True, on_bytes=lambda *_: None, limit=limit)


@pytest.mark.parametrize("length", ["", "2000000"])
def test_a_picture_beyond_the_limit(attempts: Attempts, length: str) -> None:
    attempts.replies(http(200, png(2_000_000), Content_Length=length))
    with pytest.raises(DownloadError, match="larger than 1 MiB") as caught:
        fetch(f"{attempts.server.url}/image/x.png", attempts.directory, 2**20)
    assert (caught.value.kind, attempts.files) == (Retry.FINAL, {})


@pytest.mark.parametrize("url", ["", f"data:;base64,{BASE_64}"], ids=["http", "data"])
def test_the_limit_is_exact(server: Server, tmp_path: Path, url: str) -> None:
    url = url or f"{server.url}/image/x.png"
    fetch(url, tmp_path, len(png()))
    with pytest.raises(DownloadError, match="larger"):
        fetch(url, tmp_path, len(png()) - 1)


# Resuming


def cut(**headers: str) -> bytes:
    return http(200, BIG[:20_000], Content_Length=str(len(BIG)), **headers)


def rest(headers: dict[str, str], start: int = 20_000, total: int | str = len(BIG)) -> bytes:
    return http(206, BIG[start:], Content_Range=f"bytes {start}-{len(BIG) - 1}/{total}", **headers)


@pytest.mark.parametrize(
    ("first", "second", "ranges", "requests"),
    [
        (TAG, rest(TAG), 1, 2),
        (TAG, rest({}), 1, 2),
        (TAG, rest(TAG, total="*"), 1, 2),
        (DATES, rest(DATES), 1, 2),
        ({**DATES, "Date": LATER}, rest(DATES), 1, 2),
        ({**DATES, "ETag": 'W/"v1"'}, rest({**DATES, "ETag": 'W/"v1"'}), 1, 2),
        (TAG, http(200, BIG, ETag='"v2"'), 1, 2),  # the file has changed
        (TAG, http(416), 1, 3),
        (TAG, rest({"ETag": '"v2"'}), 1, 3),
        (DATES, rest({"Last_Modified": LATER}), 1, 3),
        (TAG, rest(TAG, 19_999), 1, 3),
        (TAG, rest(TAG, total=len(BIG) + 1), 1, 3),
        (TAG, http(206, BIG[20_000:] + b"x", Content_Range=f"bytes 20000-{len(BIG)}/{len(BIG) + 1}", **TAG), 1, 3),
        (TAG, http(206, BIG[20_000:], **TAG), 1, 3),
        ({"ETag": 'W/"v1"'}, http(200, BIG), 0, 2),
        ({}, http(200, BIG), 0, 2),
        ({"Last_Modified": DATES["Date"], "Date": DATES["Date"]}, http(200, BIG), 0, 2),
        ({"Last_Modified": DATES["Last_Modified"]}, http(200, BIG), 0, 2),
    ],
)
@pytest.mark.usefixtures("_where_verified")
def test_an_interrupted_transfer(
    attempts: Attempts, first: dict[str, str], second: bytes, ranges: int, requests: int
) -> None:
    """It resumes with a validator, and starts again if the file changed; the picture is the same in any case."""
    attempts.replies(cut(**first), second, http(200, BIG))
    assert attempts.fail().kind is Retry.TRANSIENT
    assert len(attempts.files) == ranges
    attempts.save()
    assert attempts.files == {"task-0.png": BIG}
    headers = [request.headers for request in attempts.server.received]
    validator = first.get("Last_Modified") or first.get("ETag")
    expected = ("bytes=20000-", validator) if ranges else (None, None)
    assert (headers[1].get("range"), headers[1].get("if-range")) == expected
    assert ["range" in each for each in headers[2:]] == [False] * (requests - 2)


@pytest.mark.usefixtures("_where_verified")
def test_a_transfer_that_is_interrupted_twice(attempts: Attempts) -> None:
    """The second time without an error of the connection: the total is known from the first response."""
    content_range = f"bytes 20000-{len(BIG) - 1}/{len(BIG)}"
    more = http(206, BIG[20_000:30_000], Content_Range=content_range, Content_Length="", **TAG)
    attempts.replies(cut(**TAG), more, rest(TAG, 30_000))
    attempts.fail()
    assert f"30000 of {len(BIG)}" in attempts.fail().message
    attempts.save()
    assert attempts.server.received[2].headers["range"] == "bytes=30000-"
    assert attempts.files == {"task-0.png": BIG}


@pytest.mark.parametrize(
    ("name", "ranges"), [("x.png?signature=2", [False, True]), ("other.png?signature=1", [False, True, False])]
)
def test_only_the_same_location_is_resumed(attempts: Attempts, name: str, ranges: list[bool]) -> None:
    """A new signature in the query is the same file; another path is not."""
    attempts.replies(cut(**TAG), rest(TAG), http(200, BIG))
    attempts.fail(f"{attempts.server.url}/image/x.png?signature=1")
    assert attempts.save(f"{attempts.server.url}/image/{name}").path is not None
    assert ["range" in request.headers for request in attempts.server.received] == ranges


def test_a_smaller_file_after_an_interruption(attempts: Attempts) -> None:
    """Nothing of the first transfer remains behind its end."""
    attempts.replies(cut(**TAG), http(200, png(5000)))
    attempts.fail()
    attempts.save()
    assert attempts.files == {"task-0.png": png(5000)}


@pytest.mark.parametrize(
    ("received", "validator", "headers"),
    [(0, '"v1"', {}), (1, None, {}), (1, '"v1"', {"Range": "bytes=1-", "If-Range": '"v1"'})],
)
def test_what_can_be_resumed(received: int, validator: str | None, headers: dict[str, str]) -> None:
    assert Partial(io.BytesIO(), received, validator=validator).range_headers() == headers


def test_a_damaged_resumption_starts_again(attempts: Attempts) -> None:
    """If the parts do not fit together, the next attempt starts from the beginning."""
    wrong = http(206, bytes(len(BIG) - 20_000), Content_Range=f"bytes 20000-{len(BIG) - 1}/{len(BIG)}", **TAG)
    attempts.replies(cut(**TAG), wrong, http(200, BIG))
    attempts.fail()
    assert "damaged" in attempts.fail().message
    assert attempts.save().path is not None
    assert "range" not in attempts.server.received[2].headers


def test_short_writes(tmp_path: Path) -> None:
    """An unbuffered file may write less than it is given."""

    class Narrow(io.FileIO):
        def write(self, content: Any, /) -> int:
            return super().write(memoryview(content)[:7])

    with Narrow(tmp_path / "x", "x+") as file:
        partial = Partial(file)
        partial.append(png())
        assert (partial.received, (tmp_path / "x").read_bytes()) == (len(png()), png())


def test_overlapping_attempts(attempts: Attempts) -> None:
    """Each has a file of its own; what the first one leaves after the end is removed."""
    transfer, directory = attempts.transfer, attempts.directory

    def stall(during: Callable[[], None] = lambda: None) -> None:
        with contextlib.suppress(DownloadError), transfer.partial(directory) as partial:
            partial.received, partial.validator = 9, '"v1"'
            during()
            raise DownloadError("it stalled")

    with transfer.partial(directory) as second:
        stall()
        second.file.write(b"still open")
    assert len(attempts.files) == 1
    stall(during=stall)
    assert len(attempts.files) == 1
    stall(during=transfer.close)
    assert attempts.files == {}


def test_closing_removes_the_partial_file(attempts: Attempts) -> None:
    attempts.replies(cut(**TAG))
    attempts.fail()
    attempts.transfer.close()
    assert attempts.files == {}


def test_stopping_at_the_last_moment_leaves_no_file(attempts: Attempts) -> None:
    """`on_bytes` is called once more before the picture gets its name."""

    class StopError(Exception):
        pass

    calls: list[int] = []

    def on_bytes(received: int, _total: int | None) -> None:
        calls.append(received)
        if calls.count(len(png())) == 2:
            raise StopError

    with pytest.raises(StopError) as _stopped:  # whose traceback keeps the attempt's objects alive
        attempts.saver.save(attempts.task(), attempts.transfer, on_bytes)
    assert (calls[0], attempts.files) == (0, {})


def test_a_picture_is_on_the_disk_before_it_has_a_name(
    attempts: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is synced while its name is temporary, and the directory after it got the final one."""
    synced: list[tuple[bool, set[str]]] = []

    def fsync(descriptor: int) -> None:
        names = {path.name for path in attempts.directory.iterdir() if not path.name.startswith(".")}
        synced.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), names))

    monkeypatch.setattr(os, "fsync", fsync)
    attempts.save()
    assert synced == [(False, set()), (True, {"task-0.png"})]


# Names


def test_an_explicit_name_is_exact(attempts: Attempts) -> None:
    """A file of that name that holds something else is an error, one with the same bytes is the result."""
    attempts.server.routes = {"/image": lambda request: http(200, png(request.number))}
    named = Target(attempts.directory, "cat.png", explicit=True)
    assert attempts.save(transfer=attempts.to(named)).path == attempts.directory / "cat.png"
    with pytest.raises(LocalFileError, match="exists"):
        attempts.save(transfer=attempts.to(named))
    generated = Target(attempts.directory, "cat.{ext}")
    assert attempts.save(transfer=attempts.to(generated)).path == attempts.directory / "cat-1.png"


def test_the_name_of_an_original_is_generated(attempts: Attempts) -> None:
    """Also next to an explicit name, which was checked for the picture itself only."""
    (attempts.directory / "cat-original.png").write_bytes(b"mine")
    saver, both = Saver(attempts.server.url, original=True), f"{attempts.server.url}/image/original.png"
    transfer = attempts.to(Target(attempts.directory, "cat.png", explicit=True))
    saved = saver.save(attempts.task(original_image_url=both), transfer, lambda *_: None)
    assert saved.original_path == attempts.directory / "cat-original-1.png"


def test_a_name_that_promises_another_format(attempts: Attempts) -> None:
    for content, named in (
        (picture(JPEG), "a JPEG"),
        (picture(WEBP), "a WebP"),
        (boxes(b"meta", b"mdat"), "an AVIF"),
    ):
        attempts.replies(http(200, content))
        result = attempts.save(transfer=attempts.to(Target(attempts.directory, f"{named}.png", explicit=True)))
        assert result.warning == f"{result.path} contains {named}"


def test_force_does_not_replace_the_runs_own_pictures(attempts: Attempts) -> None:
    """Two pictures of one run whose names are the same are both kept."""
    (attempts.directory / "cat.png").write_bytes(b"old")
    attempts.server.routes = {"/image": lambda request: http(200, png(request.number))}
    target = Target(attempts.directory, "cat.{ext}", force=True)
    for name in ("cat.png", "cat-1.png"):
        assert attempts.save(transfer=attempts.to(target)).path == attempts.directory / name
    assert attempts.files["cat.png"] == png(0)


def test_connections_are_reused(attempts: Attempts) -> None:
    attempts.replies([http(200, png(), Connection="keep-alive"), Action.KEEP])
    for name in ("a.png", "b.png"):
        attempts.save(transfer=attempts.to(Target(attempts.directory, name)))
    assert (len(attempts.server.received), attempts.server.connections) == (2, 1)


# The original


def test_a_missing_original_is_tried_alone(attempts: Attempts) -> None:
    """The picture is kept; the next attempt asks for the original only."""
    attempts.replies(http(200, png()), http(503), http(200, b"II*\0" + bytes(9)))
    saver, transfer = Saver(attempts.server.url, original=True), attempts.transfer
    both = attempts.task(original_image_url=f"{attempts.server.url}/image/original.png")
    with pytest.raises(DownloadError, match="cannot download the original: HTTP 503"):
        saver.save(both, transfer, lambda *_: None)
    assert transfer.saved is not None
    assert transfer.saved.path == attempts.directory / "task-0.png"
    done = saver.save(both, transfer, lambda *_: None)
    assert done.original_path == attempts.directory / "task-0-original.tif"
    assert "task-0-original.tif has an unusual format" in (done.warning or "")
    paths = [request.path for request in attempts.server.received]
    assert paths == ["/image/x.png", *["/image/original.png"] * 2]


# A run


def result(name: str, original: str = "original") -> Callable[[Request], bytes]:
    """Return the reply that the task is finished, with two pictures of these names."""
    return lambda request: reply(
        {
            **finished("task-0", request.origin),
            "image_url": f"{request.origin}/image/{name}.png",
            "original_image_url": f"{request.origin}/image/{original}.png",
        }
    )


def without(word: str, otherwise: bytes) -> Callable[[Request], bytes]:
    """Return the reply with a picture, or another one if its name contains a word."""
    return lambda request: otherwise if word in request.path else http(200, png())


def test_a_run_resumes_a_transfer(cli: Cli, server: Server) -> None:
    """The partial file survives from one attempt to the next."""
    server.routes = {"/image": in_turn(cut(**TAG), rest(TAG))}
    done = cli("imagine", "x")
    assert done.code == 0, done.stderr
    assert [request.headers.get("range") for request in server.requests("/image")] == [None, "bytes=20000-"]
    assert cli.files() == ["x-task-0.png"]
    assert (cli.cwd / "x-task-0.png").read_bytes() == BIG


def test_an_original_that_is_not_there(cli: Cli, server: Server) -> None:
    """The picture itself is saved and its path printed; the error is about the original alone."""
    server.routes = {"/image": without("original", http(302, Location="file:///x")), "/fetch": result("x")}
    done = cli("imagine", "x", "--original")
    assert done.code == 5
    assert "the original" in done.stderr
    assert "flux-cli wait task-0" in done.stderr
    assert done.lines == cli.files() == ["x-task-0.png"]
    (record,) = records(cli)
    assert record.path is not None
    server.routes = {"/fetch": result("x")}
    assert cli("wait", "task-0", "--original").code == 0
    assert cli.files() == ["x-task-0-original.png", "x-task-0.png"]


def test_an_expired_original(cli: Cli, server: Server) -> None:
    """Its URL is refreshed as the picture's own is."""
    server.routes = {
        "/image": without("old", http(403)),
        "/fetch": in_turn(result("x", "old"), result("x", "new")),
    }
    assert cli("imagine", "x", "--original").code == 0
    assert [is_whole(cli.cwd / name) for name in cli.files()] == [True, True]


def test_expired_url_while_the_service_is_down(cli: Cli, server: Server) -> None:
    """The first URL has expired, and the service fails for a moment: the picture is still saved."""
    server.routes = {
        "/image": without("stale", http(403)),
        "/fetch": in_turn(result("stale"), http(503), http(200, b"<html>"), result("fresh")),
    }
    done = cli("imagine", "x")
    assert done.code == 0, done.stderr
    assert server.submissions == 1
