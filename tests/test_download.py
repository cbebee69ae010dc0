"""Whether a picture is whole, told from its bytes; how it is transferred, refreshed and kept."""

import io
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from flux_cli.pictures import formats as images
from flux_cli.pictures.download import DownloadError, Partial, Retry, fetch_image, image_session
from flux_cli.pictures.formats import (
    GIF,
    JPEG,
    KNOWN_TYPES,
    PNG,
    WEBP,
    ImageType,
    has_end,
    is_image_extension,
    sniff,
)
from flux_cli.storage.files import temporary
from tests.conftest import KEY, Cli
from tests.faults.table import is_whole, records
from tests.faults.wire import Request, Wire, after, finished, http, png, told


@cache
def picture(kind: ImageType) -> bytes:
    """Return a noisy picture of a type; a JPEG with a thumbnail, which is a whole JPEG inside it."""
    image = Image.effect_noise((60, 40), 80).convert("RGB")
    file = io.BytesIO()
    if kind is JPEG:
        thumbnail = io.BytesIO()
        image.resize((12, 8)).save(thumbnail, "JPEG")
        image.save(file, "JPEG", comment=b"\xff\xd9", exif=b"Exif\0\0" + thumbnail.getvalue())
    else:
        image.save(file, kind.extension)
    return file.getvalue()


WITH_AN_END = [
    kind for kind in KNOWN_TYPES if kind is not images.AVIF or "AVIF" in Image.registered_extensions().values()
]


@pytest.mark.parametrize("kind", WITH_AN_END, ids=lambda kind: kind.extension)
def test_only_the_whole_file_is_whole(kind: ImageType) -> None:
    """No file that is cut anywhere passes, though each of these is also known for what it is."""
    whole = picture(kind)
    assert sniff(whole[:32]) is kind
    assert has_end(io.BytesIO(whole), kind)
    passing = [cut for cut in range(32, len(whole)) if has_end(io.BytesIO(whole[:cut]), kind)]
    # The end of a picture may be followed by a byte or two that say nothing.
    assert len(whole) - min(passing, default=len(whole)) <= 1


@pytest.mark.parametrize("kind", [PNG, JPEG, WEBP, GIF], ids=lambda kind: kind.extension)
def test_bytes_after_the_end_are_allowed(kind: ImageType) -> None:
    """Decoders allow them, and some cameras and services write them."""
    assert has_end(io.BytesIO(picture(kind) + b"\0\r\ntrailing"), kind)


@given(st.sampled_from(KNOWN_TYPES), st.integers(0, 200), st.binary(max_size=300))
def test_no_bytes_are_too_odd_to_judge(kind: ImageType, kept: int, rest: bytes) -> None:
    """Whatever follows the first bytes of a picture: an answer, in time."""
    content = (picture(kind) if kind in WITH_AN_END else b"\0\0\0\x18ftypavif")[:kept] + rest
    assert has_end(io.BytesIO(content), kind) in (True, False)
    assert sniff(content[:32]) in (None, *KNOWN_TYPES)


@given(st.text())
def test_extensions(text: str) -> None:
    """An extension is that of one type at most, in any case."""
    kinds = [kind for kind in KNOWN_TYPES if kind.fits(text)]
    assert len(kinds) <= 1
    assert is_image_extension(text) == is_image_extension(text.upper()) == bool(kinds)


# The transfer


@pytest.mark.parametrize("length", ["", "2000000"])
def test_a_picture_beyond_the_limit(tmp_path: Path, length: str) -> None:
    """It is refused as soon as that is known, and not asked for again; nothing is kept."""
    with Wire({"/image": http(200, png(2_000_000), Content_Length=length)}) as wire, temporary(tmp_path) as file:
        with pytest.raises(DownloadError, match="larger than 1 MiB") as caught:
            fetch_image(
                f"{wire.url}/image/x.png",
                Partial(file),
                session=image_session(),
                allow_http=True,
                on_bytes=lambda *_: None,
                limit=2**20,
            )
        assert caught.value.kind is Retry.FINAL
    assert list(tmp_path.iterdir()) == []


def flux_at(cli: Cli, wire: Wire) -> Cli:
    """Point the command at a server."""
    cli.env |= {"APIFRAME_API_KEY": KEY, "FLUX_CLI_API_URL": wire.url}
    return cli


def test_a_fresh_url_is_asked_for_until_the_service_answers(cli: Cli) -> None:
    """The first URL has expired, and the service is in trouble for a moment: the picture is saved all the same."""

    def expired(request: Request) -> bytes:
        return http(200, png()) if "fresh" in request.path else http(403)

    def stale(request: Request) -> bytes:
        return told({**finished("task-0", request.origin), "image_url": f"{request.origin}/image/stale.png"})

    def fresh(request: Request) -> bytes:
        return told({**finished("task-0", request.origin), "image_url": f"{request.origin}/image/fresh.png"})

    with Wire({"/image": expired, "/fetch": after(stale, http(503), http(200, b"<html>"), fresh)}) as wire:
        done = flux_at(cli, wire)("imagine", "x")
        assert done.code == 0, done.stderr
        assert wire.submissions == 1


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_an_original_that_cannot_be_had(cli: Cli, flags: tuple[str, ...]) -> None:
    """The picture itself is saved and its path printed; the error is about the original alone."""

    def only_one(request: Request) -> bytes:
        return http(404) if "original" in request.path else http(200, png())

    def both(request: Request) -> bytes:
        result = finished("task-0", request.origin)
        return told({**result, "original_image_url": f"{request.origin}/image/original.png"})

    with Wire({"/image": only_one, "/fetch": both}) as wire:
        done = flux_at(cli, wire)("imagine", "x", "--original", *flags)
        assert done.code == 5
        assert "the original" in done.stderr
        assert "flux-cli wait task-0" in done.stderr
        assert "x-task-0.png" in done.stdout
        assert cli.files() == ["x-task-0.png"]
        (record,) = records(cli)
        assert record.path is not None
        wire.routes = {"/fetch": both}
        assert cli("wait", "task-0", "--original").code == 0
    assert cli.files() == ["x-task-0-original.png", "x-task-0.png"]


def test_an_original_whose_url_has_expired_meanwhile(cli: Cli) -> None:
    """It is refreshed as the picture's own is."""

    def image(request: Request) -> bytes:
        return http(403) if "old-original" in request.path else http(200, png())

    def result(age: str) -> Callable[[Request], bytes]:
        return lambda request: told(
            {
                **finished("task-0", request.origin),
                "original_image_url": f"{request.origin}/image/{age}-original.png",
            }
        )

    with Wire({"/image": image, "/fetch": after(result("old"), result("new"))}) as wire:
        assert flux_at(cli, wire)("imagine", "x", "--original").code == 0
    assert all(is_whole(cli.cwd / name) for name in cli.files())
    assert len(cli.files()) == 2
