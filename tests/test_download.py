"""Whether a picture is complete, judged by its bytes; how it is transferred, resumed and saved."""

import base64
import contextlib
import hashlib
import io
import os
import stat
import struct
from collections.abc import Callable
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
from tests.conftest import KEY, Cli
from tests.faults.table import is_whole, records
from tests.server import Action, Reply, Request, Server, finished, http, in_turn, png, reply


@cache
def picture(kind: ImageType) -> bytes:
    """Return a noisy picture of a type; a JPEG with a thumbnail, which is a complete JPEG inside it."""
    image = Image.effect_noise((60, 40), 80).convert("RGB")
    file = io.BytesIO()
    if kind is JPEG:
        thumbnail = io.BytesIO()
        image.resize((12, 8)).save(thumbnail, "JPEG")
        image.save(file, "JPEG", comment=b"\xff\xd9", exif=b"Exif\0\0" + thumbnail.getvalue())
    else:
        image.save(file, kind.extension)
    return file.getvalue()


def boxes(*kinds: bytes, brand: bytes = b"avif") -> bytes:
    """Return an ISO media file with these boxes after the first."""
    content = [(b"ftyp", brand + bytes(4)), *((kind, bytes(20)) for kind in kinds)]
    return b"".join(struct.pack(">I4s", 8 + len(each), kind) + each for kind, each in content)


def damage(content: bytes, kind: ImageType) -> Damage | None:
    """Return what is wrong with a file of these bytes."""
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
    file = io.BytesIO()
    Image.effect_noise((60, 40), 80).save(file, "JPEG", progressive=progressive)
    content = file.getvalue()[:-2] + blank + b"\xff\xd9"
    for size in range(7, 40):
        monkeypatch.setattr(formats, "_BLOCK_BYTES", size)
        assert damage(content, JPEG) is None
        assert damage(content[:-2], JPEG) is Damage.INCOMPLETE


def test_every_flipped_byte_of_a_png_is_noticed() -> None:
    """Its checksums cover all but the first bytes, which make it a PNG at all."""
    whole = picture(PNG)
    for index in range(8, len(whole), 7):
        flipped = whole[:index] + bytes([whole[index] ^ 0x10]) + whole[index + 1 :]
        assert damage(flipped, PNG) is not None, index


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (PNG, png()[:8] + png()[33:]),  # no header
        (PNG, png().replace(b"IDAT", b"IDAU")),
        (PNG, png()[:33] + png()[-12:]),  # no pixels
        (JPEG, b"\xff\xd8\xff\xd9"),
        (JPEG, b"\xff\xd8\xff\xda\0\x02\xff\xd9"),  # a scan without a frame
        (JPEG, b"\xff\xd8\xff\xdb\0\x02\xff\xd9"),  # no scan
        (JPEG, b"\xff\xd8\xff\xe0\0\x01\xff\xd9"),
        (JPEG, b"\xff\xd8\0\0\0\0"),
        (GIF, b"GIF89a" + bytes(7) + b";"),
        (GIF, b"GIF89a" + bytes(7) + b"?;"),
        (WEBP, b"RIFF\x0c\0\0\0WEBPEXIF\0\0\0\0"),
        (WEBP, b"RIFF\x12\0\0\0WEBPVP8L\x05\0\0\0\x2e\0\0\0\0\0"),
        (WEBP, b"RIFF\x12\0\0\0WEBPVP8L\xff\0\0\0\x2f\0\0\0\0\0"),
        (AVIF, boxes() + bytes(8)),
        (AVIF, boxes(b"mdat") + bytes(8)),
        (AVIF, boxes(b"meta") + b"\0\0\0\7mdat"),
    ],
)
def test_damage_inside_is_noticed(kind: ImageType, content: bytes) -> None:
    """Missing or invalid parts: more bytes would not help."""
    assert damage(content, kind) is Damage.CORRUPT


@pytest.mark.parametrize("segment", [b"\0\xfe\0\2", b"\xff\x01\0\2", b"\xff\xd0\0\2", b"\xff\xd8\0\2"])
def test_damage_between_the_segments_of_a_jpeg(segment: bytes) -> None:
    """Each begins with FF and a marker of a segment."""
    jpeg = picture(JPEG)
    assert damage(jpeg[:2] + segment + jpeg[2:], JPEG) is Damage.CORRUPT


def test_fill_bytes_and_extensions_are_skipped() -> None:
    """Before a JPEG's markers, and in an animated GIF, before its pictures."""
    jpeg = picture(JPEG)
    empty_comment = b"\xff\xfe\0\2"
    assert damage(jpeg[:2] + b"\xff" * 3 + empty_comment + jpeg[2:], JPEG) is None
    file = io.BytesIO()
    frames = [Image.effect_noise((20, 20), spread) for spread in (40, 80)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], loop=0, comment=b"; not the end")
    assert damage(file.getvalue(), GIF) is None
    assert damage(file.getvalue()[:-1], GIF) is Damage.INCOMPLETE
    file = io.BytesIO()
    Image.new("P", (9, 9)).quantize(4).save(file, "GIF")  # a small color table
    assert damage(file.getvalue(), GIF) is None


@pytest.mark.parametrize(
    "options", [{"lossless": True}, {"save_all": True, "append_images": [Image.new("L", (9, 9))]}]
)
def test_a_lossless_or_animated_webp(options: dict[str, Any]) -> None:
    """Its pixels are in chunks of other types."""
    file = io.BytesIO()
    Image.new("RGB", (9, 9)).save(file, "WEBP", **options)
    assert damage(file.getvalue(), WEBP) is None
    assert damage(file.getvalue()[:-2], WEBP) is Damage.INCOMPLETE


def test_an_svg_ends() -> None:
    """With the tag that closes it."""
    assert damage(b"<svg xmlns='x'><g/>", SVG) is Damage.INCOMPLETE
    assert damage(b"<svg xmlns='x'><g/></svg >\n", SVG) is None
    assert damage(b"<svg xmlns='x'/>\n", SVG) is None
    assert damage(b"<svg xmlns='x'><svg></svg>" + b"<g></g>" * 10_000, SVG) is Damage.INCOMPLETE


def test_media_boxes() -> None:
    """They add up, hold metadata and pixels, and may be followed by something else."""
    assert damage(boxes(b"meta", b"xml ", b"mdat") + struct.pack(">I4s", 8, b"free"), AVIF) is None
    assert damage(boxes(b"meta", b"mdat") + b"\0\0\r\n\0\0\0\0\0", AVIF) is None
    assert damage(boxes(b"meta") + struct.pack(">I4s", 0, b"mdat") + b"pixels", AVIF) is None
    assert damage(boxes(b"meta") + struct.pack(">I4sQ", 1, b"mdat", 20) + b"1234", AVIF) is None
    assert damage(boxes(b"meta"), AVIF) is Damage.INCOMPLETE
    assert damage(boxes(b"mdat"), AVIF) is Damage.INCOMPLETE
    assert damage(boxes(b"meta", b"mdat")[:-1], AVIF) is Damage.INCOMPLETE


@given(st.sampled_from(WITH_AN_ENCODER), st.integers(0, 200), st.binary(max_size=300))
def test_any_bytes_can_be_judged(kind: ImageType, kept: int, rest: bytes) -> None:
    """Whatever follows the first bytes of a picture, no check raises; nothing is complete without an end."""
    content = picture(kind)[:kept] + rest
    assert sniff(content[:512]) is not None or kept < 12
    assert damage(content, kind) is not None


@pytest.mark.parametrize(
    ("content", "extension"),
    [
        (b"\xff\x0a\xfa\x7f", "jxl"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "jxl"),
        (b"MM\0*\0\0\0\x08", "tif"),
        (b"BM\x46\0\0\0\0\0\0\0", "bmp"),
        (b"\x1aE\xdf\xa3", "webm"),
        (boxes(brand=b"heic"), "heic"),
        (boxes(brand=b"mif1"), "heic"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0miafavif", "avif"),
        (b"\0\0\0\x14ftypmif1\0\0\0\0miafavif", "heic"),  # the box ends before that brand
        (boxes(brand=b"isom"), "mp4"),
        (boxes(brand=b"qt  "), "mov"),
        (b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- x -->\n<svg xmlns="x">', "svg"),
    ],
)
def test_other_formats_are_recognised(content: bytes, extension: str) -> None:
    """Their pictures were charged too."""
    kind = sniff(content)
    assert kind is not None
    assert kind.extension == extension


@pytest.mark.parametrize(
    "content", [b"BM is a car", b"<html><svg>", b"<!-- --><html>", b"<!---->" * 70, b"", b"GIF", b"RIFF1234WAVE"]
)
def test_what_is_not_recognised(content: bytes) -> None:
    """Text that begins like a format is none; a page of comments is judged in no time."""
    assert sniff(content) is None


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
    """An extension is that of one type at most, in any case."""
    kinds = [kind for kind in KNOWN_TYPES if kind.fits(text)]
    assert len(kinds) <= 1
    assert is_image_extension(text) == is_image_extension(text.upper()) == bool(kinds)


# The transfer


def saved(
    server: Server,
    directory: Path,
    transfer: Transfer | None = None,
    url: str = "",
    trace: list[str] | None = None,
) -> Saved:
    """Make one attempt to save the picture `cat.png` of a server."""
    task = Task("task-0", Status.FINISHED, {}, image_url=url or f"{server.url}/image/x.png")
    if transfer is None:
        transfer = Transfer(Target(directory, "{id8}.{ext}"), {}, 1)
    return Saver(server.url, (trace if trace is not None else []).append).save(task, transfer, lambda *_: None)


def failed(server: Server, directory: Path, transfer: Transfer | None = None, url: str = "") -> DownloadError:
    """Make one attempt that fails."""
    with pytest.raises(DownloadError) as caught:
        saved(server, directory, transfer, url)
    return caught.value


@pytest.fixture(params=[0, download.IN_MEMORY_BYTES], ids=["file", "memory"])
def _where_verified(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verify pictures in memory, as small ones are, or from their file."""
    monkeypatch.setattr(download, "IN_MEMORY_BYTES", request.param)


@pytest.mark.usefixtures("_where_verified")
def test_a_saved_picture(tmp_path: Path) -> None:
    """Its path and its hash; the file is there, and nothing else. For stdout it is the content."""
    with Server() as server:
        result = saved(server, tmp_path)
        to_stdout = saved(server, tmp_path, Transfer(Target(Path(), stdout=True), {}, 1))
    assert to_stdout == Saved(content=png(), sha256=result.sha256)
    assert result == Saved(tmp_path / "task-0.png", sha256=hashlib.sha256(png()).hexdigest())
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [png()]


@pytest.mark.parametrize(
    ("reply", "kind", "says"),
    [
        (http(404), Retry.EXPIRED, "HTTP 404, its URL may have expired"),
        (http(403), Retry.EXPIRED, "HTTP 403, its URL may have expired"),
        (http(410), Retry.EXPIRED, "HTTP 410, its URL may have expired"),
        (http(400), Retry.EXPIRED, "HTTP 400"),
        *((http(code), Retry.TRANSIENT, f"HTTP {code}") for code in (408, 425, 429)),
        (http(503), Retry.TRANSIENT, "HTTP 503"),
        (http(302), Retry.TRANSIENT, "HTTP 302"),
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
def test_failed_attempts(tmp_path: Path, reply: Reply, kind: Retry, says: str) -> None:
    """Each says whether to try again; none leaves a file behind."""
    transfer = Transfer(Target(tmp_path), {}, 1)
    with Server({"/image": reply}) as server:
        error = failed(server, tmp_path, transfer)
    assert error.kind is kind
    assert says in error.message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), ("-5", 0.0), ("nan", None), ("", None)])
def test_retry_after(tmp_path: Path, header: str, seconds: float | None) -> None:
    """It is passed on in seconds."""
    with Server({"/image": http(503, Retry_After=header)}) as server:
        assert failed(server, tmp_path).retry_after == seconds


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
def test_content_decides_what_is_complete(tmp_path: Path, reply: Reply) -> None:
    """A complete picture is accepted, whatever the status, the length and the coding claim."""
    with Server({"/image": reply}) as server:
        assert saved(server, tmp_path).path == tmp_path / "task-0.png"


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ("/image/\u732b.png", "/image/%E7%8C%AB.png"),
        (b"/image/\x80\xff.png", "/image/%80%FF.png"),
        ("y.png?a=1", "/image/y.png?a=1"),
    ],
)
def test_where_a_redirect_points_to(tmp_path: Path, location: str | bytes, path: str) -> None:
    """Servers send UTF-8, and sometimes other bytes; a relative URL is one too."""
    raw = location.encode() if isinstance(location, str) else location
    with Server({"/image": in_turn(http(302, Location=raw.decode("latin-1")), http(200, png()))}) as server:
        saved(server, tmp_path)
        assert [request.path for request in server.received] == ["/image/x.png", path]


@pytest.mark.parametrize(
    ("content", "name", "mime"),
    [
        (b"\xff\x0a" + bytes(50), "task-0.jxl", "image/jxl"),
        (boxes(b"moov", b"mdat", brand=b"isom"), "task-0.mp4", "video/mp4"),
        (b"\1\2\3", "task-0.tga", "image/x-tga"),
        (b"<svg xmlns='x'></svg>\n", "task-0.svg", "image/svg+xml"),
    ],
)
def test_unusual_formats_are_kept(tmp_path: Path, content: bytes, name: str, mime: str) -> None:
    """With a warning: they were charged. A format that is not recognised was once saved as an empty file."""
    with Server({"/image": http(200, content, Content_Type="image/x-tga")}) as server:
        result = saved(server, tmp_path)
    assert (result.path, (tmp_path / name).read_bytes()) == (tmp_path / name, content)
    assert result.sha256 == hashlib.sha256(content).hexdigest()
    assert f"unusual format: {mime}" in (result.warning or "")


def test_data_urls(tmp_path: Path) -> None:
    """The content is in the URL, base64 or percent-encoded, and checked like any other."""
    encoded = base64.b64encode(png()).decode()
    with Server() as server:
        for url in (f"data:image/png;base64,{encoded}", f"DATA:;BASE64,{encoded.rstrip('=').replace('/', '_')}"):
            assert saved(server, tmp_path, url=url).path == tmp_path / "task-0.png"
        percent = "".join(f"%{byte:02x}" for byte in png())
        assert saved(server, tmp_path, url=f"data:,{percent}").path == tmp_path / "task-0.png"
        for url in ("data:image/png;base64,*", "data:image/png", f"data:;base64,{encoded[:40]}", "data:,%3Chtml"):
            assert failed(server, tmp_path, url=url).kind is not None
        assert not server.received


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("http://127.0.0.1:1/x.png?a=1", "https://127.0.0.1:1/x.png?a=1"),
        ("http://127.0.0.1:80/x.png", "https://127.0.0.1/x.png"),
    ],
)
def test_http_is_upgraded_if_the_api_uses_https(tmp_path: Path, url: str, asked: str) -> None:
    """The port is kept, unless it is that of http."""
    trace: list[str] = []
    task = Task("task-0", Status.FINISHED, {}, image_url=url)
    with pytest.raises(DownloadError):
        Saver("https://127.0.0.1:1", trace.append).save(task, Transfer(Target(tmp_path), {}, 1), lambda *_: None)
    assert trace[0] == f"> GET {asked}"


@pytest.mark.parametrize("length", ["", "2000000"])
def test_a_picture_beyond_the_limit(tmp_path: Path, length: str) -> None:
    """It is refused as soon as that is known; nothing is kept."""
    with (
        Server({"/image": http(200, png(2_000_000), Content_Length=length)}) as server,
        temporary(tmp_path) as file,
    ):
        with pytest.raises(DownloadError, match="larger than 1 MiB") as caught:
            fetch_image(
                f"{server.url}/image/x.png",
                Partial(file),
                session=image_session(),
                allow_http=True,
                on_bytes=lambda *_: None,
                limit=2**20,
            )
        assert caught.value.kind is Retry.FINAL
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("scheme", ["http", "data"])
def test_the_limit_is_exact(tmp_path: Path, scheme: str) -> None:
    """A picture of just that size is accepted."""
    data_url = "data:;base64," + base64.b64encode(png()).decode()
    with Server() as server, image_session() as session:
        for limit in (len(png()), len(png()) - 1):
            with (
                contextlib.nullcontext() if limit == len(png()) else pytest.raises(DownloadError, match="larger"),
                temporary(tmp_path) as file,
            ):
                fetch_image(
                    data_url if scheme == "data" else f"{server.url}/image/x.png",
                    Partial(file),
                    session=session,
                    allow_http=True,
                    on_bytes=lambda *_: None,
                    limit=limit,
                )


# Resuming

BIG = png(50_000)
TAG = {"ETag": '"v1"'}
DATES = {"Last_Modified": "Wed, 01 Jan 2025 10:00:00 GMT", "Date": "Wed, 01 Jan 2025 10:00:05 GMT"}


def cut(**headers: str) -> bytes:
    """Return a response that ends after 20,000 bytes of the picture."""
    return http(200, BIG[:20_000], Content_Length=str(len(BIG)), **headers)


def rest(headers: dict[str, str], start: int = 20_000, total: int | str = len(BIG)) -> bytes:
    """Return a response with the bytes from `start` on."""
    return http(206, BIG[start:], Content_Range=f"bytes {start}-{len(BIG) - 1}/{total}", **headers)


@pytest.mark.parametrize(
    ("first", "second", "ranges", "requests"),
    [
        (TAG, rest(TAG), 1, 2),
        (TAG, rest({}), 1, 2),
        (TAG, rest(TAG, total="*"), 1, 2),
        (DATES, rest(DATES), 1, 2),
        ({**DATES, "Date": "Wed, 01 Jan 2025 10:00:01 GMT"}, rest(DATES), 1, 2),
        ({**DATES, "ETag": 'W/"v1"'}, rest({**DATES, "ETag": 'W/"v1"'}), 1, 2),
        (TAG, http(200, BIG, ETag='"v2"'), 1, 2),  # the file has changed
        (TAG, http(416), 1, 3),
        (TAG, rest({"ETag": '"v2"'}), 1, 3),
        (DATES, rest({"Last_Modified": "Wed, 01 Jan 2025 10:00:01 GMT"}), 1, 3),
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
    tmp_path: Path, first: dict[str, str], second: bytes, ranges: int, requests: int
) -> None:
    """It resumes with a validator, and starts again if the file changed; the picture is the same in any case."""
    transfer = Transfer(Target(tmp_path, "{id8}.{ext}"), {}, 1)
    with Server({"/image": in_turn(cut(**first), second, http(200, BIG))}) as server:
        assert failed(server, tmp_path, transfer).kind is Retry.TRANSIENT
        assert len(list(tmp_path.iterdir())) == ranges
        path = saved(server, tmp_path, transfer).path
    assert path is not None
    assert path.read_bytes() == BIG
    assert list(tmp_path.iterdir()) == [path]
    headers = server.received[1].headers
    validator = first.get("Last_Modified") or first.get("ETag")
    expected = ("bytes=20000-", validator) if ranges else (None, None)
    assert (headers.get("range"), headers.get("if-range")) == expected
    assert ["range" in request.headers for request in server.received[2:]] == [False] * (requests - 2)


@pytest.mark.usefixtures("_where_verified")
def test_a_transfer_that_is_interrupted_twice(tmp_path: Path) -> None:
    """The second time without an error of the connection: the total is known from the first response."""
    transfer = Transfer(Target(tmp_path, "{id8}.{ext}"), {}, 1)
    content_range = f"bytes 20000-{len(BIG) - 1}/{len(BIG)}"
    more = http(206, BIG[20_000:30_000], Content_Range=content_range, Content_Length="", **TAG)
    with Server({"/image": in_turn(cut(**TAG), more, rest(TAG, 30_000))}) as server:
        failed(server, tmp_path, transfer)
        assert f"30000 of {len(BIG)}" in failed(server, tmp_path, transfer).message
        path = saved(server, tmp_path, transfer).path
        assert server.received[2].headers["range"] == "bytes=30000-"
    assert path is not None
    assert path.read_bytes() == BIG


@pytest.mark.parametrize(
    ("name", "ranges"), [("x.png?signature=2", [False, True]), ("other.png?signature=1", [False, True, False])]
)
def test_only_the_same_location_is_resumed(tmp_path: Path, name: str, ranges: list[bool]) -> None:
    """A new signature in the query is the same file; another path is not."""
    transfer = Transfer(Target(tmp_path, "{id8}.{ext}"), {}, 1)
    with Server({"/image": in_turn(cut(**TAG), rest(TAG), http(200, BIG))}) as server:
        failed(server, tmp_path, transfer, f"{server.url}/image/x.png?signature=1")
        assert saved(server, tmp_path, transfer, f"{server.url}/image/{name}").path is not None
        assert ["range" in request.headers for request in server.received] == ranges


def test_a_smaller_file_after_an_interruption(tmp_path: Path) -> None:
    """Nothing of the first transfer remains behind its end."""
    transfer = Transfer(Target(tmp_path, "{id8}.{ext}"), {}, 1)
    with Server({"/image": in_turn(cut(**TAG), http(200, png(5000)))}) as server:
        failed(server, tmp_path, transfer)
        path = saved(server, tmp_path, transfer).path
    assert path is not None
    assert path.read_bytes() == png(5000)


@pytest.mark.parametrize(
    ("received", "validator", "headers"),
    [(0, '"v1"', {}), (1, None, {}), (1, '"v1"', {"Range": "bytes=1-", "If-Range": '"v1"'})],
)
def test_what_can_be_resumed(received: int, validator: str | None, headers: dict[str, str]) -> None:
    """Any number of bytes with a validator."""
    partial = Partial(io.BytesIO(), received, validator=validator)
    assert partial.range_headers() == headers


def test_a_damaged_resumption_starts_again(tmp_path: Path) -> None:
    """If the parts do not fit together, the next attempt starts from the beginning."""
    transfer = Transfer(Target(tmp_path, "{id8}.{ext}"), {}, 1)
    wrong = http(206, bytes(len(BIG) - 20_000), Content_Range=f"bytes 20000-{len(BIG) - 1}/{len(BIG)}", **TAG)
    with Server({"/image": in_turn(cut(**TAG), wrong, http(200, BIG))}) as server:
        failed(server, tmp_path, transfer)
        assert "damaged" in failed(server, tmp_path, transfer).message
        assert saved(server, tmp_path, transfer).path is not None
        assert "range" not in server.received[2].headers


def test_short_writes(tmp_path: Path) -> None:
    """An unbuffered file may write less than it is given."""

    class Narrow(io.FileIO):
        def write(self, content: Any, /) -> int:
            return super().write(memoryview(content)[:7])

    with Narrow(tmp_path / "x", "x+") as file:
        partial = Partial(file)
        partial.append(png())
        assert (partial.received, (tmp_path / "x").read_bytes()) == (len(png()), png())


def test_closing_removes_the_partial_file(tmp_path: Path) -> None:
    """So that a run that gives up leaves nothing behind."""
    transfer = Transfer(Target(tmp_path), {}, 1)
    with Server({"/image": cut(**TAG)}) as server:
        failed(server, tmp_path, transfer)
    assert len(list(tmp_path.iterdir())) == 1
    transfer.close()
    assert list(tmp_path.iterdir()) == []


def test_overlapping_attempts(tmp_path: Path) -> None:
    """Each has a file of its own; what the first one leaves after the end is removed."""
    transfer = Transfer(Target(tmp_path), {}, 1)

    def stall(during: Callable[[], None] = lambda: None) -> None:
        with contextlib.suppress(DownloadError), transfer.partial(tmp_path) as partial:
            partial.received, partial.validator = 9, '"v1"'
            during()
            raise DownloadError("it stalled")

    with transfer.partial(tmp_path) as second:
        stall()
        second.file.write(b"still open")
    assert len(list(tmp_path.iterdir())) == 1
    stall(during=stall)
    assert len(list(tmp_path.iterdir())) == 1
    stall(during=transfer.close)
    assert list(tmp_path.iterdir()) == []


def test_stopping_at_the_last_moment_leaves_no_file(tmp_path: Path) -> None:
    """`on_bytes` is called once more before the picture gets its name."""

    class StopError(Exception):
        pass

    calls: list[int] = []

    def on_bytes(received: int, _total: int | None) -> None:
        calls.append(received)
        if calls.count(len(png())) == 2:
            raise StopError

    with Server() as server:
        task = Task("task-0", Status.FINISHED, {}, image_url=f"{server.url}/image/x.png")
        with pytest.raises(StopError) as _stopped:  # whose traceback keeps the attempt's objects alive
            Saver(server.url).save(task, Transfer(Target(tmp_path), {}, 1), on_bytes)
    assert calls[0] == 0
    assert list(tmp_path.iterdir()) == []


def test_a_picture_is_on_the_disk_before_it_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is synced while its name is temporary, and the directory after it got the final one."""
    synced: list[tuple[bool, set[str]]] = []

    def fsync(descriptor: int) -> None:
        is_directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        synced.append((is_directory, {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}))

    monkeypatch.setattr(os, "fsync", fsync)
    with Server() as server:
        saved(server, tmp_path)
    assert synced == [(False, set()), (True, {"task-0.png"})]


def test_a_run_resumes_a_transfer(cli: Cli) -> None:
    """The partial file survives from one attempt to the next."""
    with Server({"/image": in_turn(cut(**TAG), rest(TAG))}) as server:
        done = flux_at(cli, server)("imagine", "x")
        assert done.code == 0, done.stderr
        assert [request.headers.get("range") for request in server.requests("/image")] == [None, "bytes=20000-"]
    assert cli.files() == ["x-task-0.png"]
    assert (cli.cwd / "x-task-0.png").read_bytes() == BIG


# Names


def test_an_explicit_name_is_exact(tmp_path: Path) -> None:
    """A file of that name that holds something else is an error, one with the same bytes is the result."""
    with Server({"/image": lambda r: http(200, png(r.number))}) as server:
        named = Target(tmp_path, "cat.png", explicit=True)
        assert saved(server, tmp_path, Transfer(named, {}, 1)).path == tmp_path / "cat.png"
        with pytest.raises(LocalFileError, match="exists"):
            saved(server, tmp_path, Transfer(named, {}, 1))
        generated = Target(tmp_path, "cat.{ext}")
        assert saved(server, tmp_path, Transfer(generated, {}, 1)).path == tmp_path / "cat-1.png"


def test_force_does_not_replace_the_runs_own_pictures(tmp_path: Path) -> None:
    """Two pictures of one run whose names are the same are both kept."""
    (tmp_path / "cat.png").write_bytes(b"old")
    with Server({"/image": lambda r: http(200, png(r.number))}) as server:
        saver = Saver(server.url)
        task = Task("task-0", Status.FINISHED, {}, image_url=f"{server.url}/image/x.png")
        target = Target(tmp_path, "cat.{ext}", force=True)
        names = [saver.save(task, Transfer(target, {}, n), lambda *_: None).path for n in (1, 2)]
    assert names == [tmp_path / "cat.png", tmp_path / "cat-1.png"]
    assert (tmp_path / "cat.png").read_bytes() == png(0)


def test_connections_are_reused(tmp_path: Path) -> None:
    """The next picture from the same host needs no new connection."""
    with Server({"/image": [http(200, png(), Connection="keep-alive"), Action.KEEP]}) as server:
        saver, task = Saver(server.url), Task("id", Status.FINISHED, {}, image_url=f"{server.url}/image/x.png")
        for name in ("a.png", "b.png"):
            saver.save(task, Transfer(Target(tmp_path, name), {}, 1), lambda *_: None)
        assert (len(server.received), server.connections) == (2, 1)


# The original


def with_original(server: Server) -> Task:
    """Return a finished task with two pictures."""
    return Task(
        "task-0",
        Status.FINISHED,
        {},
        image_url=f"{server.url}/image/x.png",
        original_image_url=f"{server.url}/image/original.png",
    )


def test_a_missing_original_is_tried_alone(tmp_path: Path) -> None:
    """The picture is kept; the next attempt asks for the original only."""
    replies = in_turn(http(200, png()), http(503), http(200, b"II*\0" + bytes(9)))
    with Server({"/image": replies}) as server:
        saver, transfer = Saver(server.url, original=True), Transfer(Target(tmp_path, "x.{ext}"), {}, 1)
        with pytest.raises(DownloadError, match="cannot download the original: HTTP 503"):
            saver.save(with_original(server), transfer, lambda *_: None)
        assert transfer.saved is not None
        assert transfer.saved.path == tmp_path / "x.png"
        done = saver.save(with_original(server), transfer, lambda *_: None)
        assert done.original_path == tmp_path / "x-original.tif"
        assert "x-original.tif has an unusual format" in (done.warning or "")
        assert [request.path for request in server.received] == ["/image/x.png", *["/image/original.png"] * 2]


def flux_at(cli: Cli, server: Server) -> Cli:
    """Point the command at a server."""
    cli.env |= {"APIFRAME_API_KEY": KEY, "FLUX_CLI_API_URL": server.url}
    return cli


def test_an_original_that_is_not_there(cli: Cli) -> None:
    """The picture itself is saved and its path printed; the error is about the original alone."""

    def only_one(request: Request) -> bytes:
        return http(302, Location="file:///x") if "original" in request.path else http(200, png())

    def both(request: Request) -> bytes:
        result = finished("task-0", request.origin)
        return reply({**result, "original_image_url": f"{request.origin}/image/original.png"})

    with Server({"/image": only_one, "/fetch": both}) as server:
        done = flux_at(cli, server)("imagine", "x", "--original")
        assert done.code == 5
        assert "the original" in done.stderr
        assert "flux-cli wait task-0" in done.stderr
        assert done.lines == ["x-task-0.png"]
        assert cli.files() == ["x-task-0.png"]
        (record,) = records(cli)
        assert record.path is not None
        server.routes = {"/fetch": both}
        assert cli("wait", "task-0", "--original").code == 0
    assert cli.files() == ["x-task-0-original.png", "x-task-0.png"]


def test_an_expired_original(cli: Cli) -> None:
    """Its URL is refreshed as the picture's own is."""

    def image(request: Request) -> bytes:
        return http(403) if "old-original" in request.path else http(200, png())

    def result(age: str) -> Callable[[Request], bytes]:
        return lambda request: reply(
            {
                **finished("task-0", request.origin),
                "original_image_url": f"{request.origin}/image/{age}-original.png",
            }
        )

    with Server({"/image": image, "/fetch": in_turn(result("old"), result("new"))}) as server:
        assert flux_at(cli, server)("imagine", "x", "--original").code == 0
    assert all(is_whole(cli.cwd / name) for name in cli.files())
    assert len(cli.files()) == 2


def test_expired_url_while_the_service_is_down(cli: Cli) -> None:
    """The first URL has expired, and the service fails for a moment: the picture is still saved."""

    def expired(request: Request) -> bytes:
        return http(200, png()) if "fresh" in request.path else http(403)

    def stale(request: Request) -> bytes:
        return reply({**finished("task-0", request.origin), "image_url": f"{request.origin}/image/stale.png"})

    def fresh(request: Request) -> bytes:
        return reply({**finished("task-0", request.origin), "image_url": f"{request.origin}/image/fresh.png"})

    with Server({"/image": expired, "/fetch": in_turn(stale, http(503), http(200, b"<html>"), fresh)}) as server:
        done = flux_at(cli, server)("imagine", "x")
        assert done.code == 0, done.stderr
        assert server.submissions == 1
