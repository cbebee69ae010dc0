"""Decoding pictures, reduced, in little memory."""

import contextlib
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageFile, PngImagePlugin

from flux_cli.errors import LocalFileError
from flux_cli.pictures import decoding
from flux_cli.pictures.decoding import decode
from tests.server import png_file


def noise(mode: str = "RGB", size: tuple[int, int] = (101, 67)) -> Image.Image:
    """Return an image with both smooth and noisy parts, so that a PNG uses every filter."""
    smooth = Image.linear_gradient("L").resize(size)
    noisy = Image.effect_noise(size, 60)
    mixed = Image.merge("RGB", (smooth, noisy, ImageChops.add(smooth, noisy, 2)))
    return mixed if mode == "RGB" else mixed.convert(mode)


def saved(directory: Path, image: Image.Image, kind: str = "PNG", **options: Any) -> Path:
    path = directory / f"x.{kind.lower()}"
    image.save(path, kind, **options)
    return path


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("strip_bytes", [1, 2000, 10**6])
@pytest.mark.parametrize("side", [1000, 50, 10, 1])
def test_a_large_png_is_decoded_in_strips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, strip_bytes: int, side: int
) -> None:
    """With the same result as at once."""
    path = saved(tmp_path, noise(mode))
    expected = decode(path, side)
    monkeypatch.setattr(decoding, "MAX_MEMORY", 0)
    monkeypatch.setattr(decoding, "_STRIP_BYTES", strip_bytes)
    found = decode(path, side)
    assert (found.width, found.height) == (expected.width, expected.height) == (101, 67)
    assert found.image.size == expected.image.size
    assert max(found.image.size) >= min(side, 101)
    assert found.image.tobytes() == expected.image.tobytes()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_mode_is_reduced(tmp_path: Path, mode: str) -> None:
    """To the size of the whole, if no reduction is possible; always in RGB."""
    image = noise("L" if mode == "I;16" else mode).convert(mode)
    path = saved(tmp_path, image)
    for side, factor, size in ((1000, 1, (101, 67)), (101, 1, (101, 67)), (50, 2, (51, 34))):
        picture = decode(path, side)
        assert (picture.image.mode, picture.image.size) == ("RGB", size)
        assert picture.image.tobytes() == image.convert("RGB").reduce(factor).tobytes()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_is_reduced_by_its_decoder(tmp_path: Path, mode: str) -> None:
    """So that it costs little memory whatever its size."""
    picture = decode(saved(tmp_path, noise(mode, (1600, 800)), "JPEG"), 150)
    assert (picture.width, picture.height, picture.image.size) == (1600, 800, (200, 100))
    assert picture.image.mode == "RGB"


def test_orientation(tmp_path: Path) -> None:
    """A picture that is turned by its EXIF data is upright, and so are its width and height."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("JPEG", "PNG", "WEBP"):
        picture = decode(saved(tmp_path, noise(), kind, exif=exif), 50)
        assert (picture.width, picture.height) == (67, 101)
        assert picture.image.height > picture.image.width


@pytest.mark.parametrize(
    ("kind", "mode", "options", "bytes_per_pixel"),
    [
        *(("PNG", mode, {}, count) for mode, count in {"1": 1, "P": 1, "I;16": 2, "LA": 4}.items()),
        ("PNG", "P", {"bits": 4}, 1),
        ("JPEG", "L", {}, 1),
        ("JPEG", "RGB", {}, 4),
        ("JPEG", "RGB", {"progressive": True}, 4 + 6),
        ("WEBP", "RGB", {}, 8),
        ("GIF", "P", {}, 2),
    ],
)
def test_the_limit_of_memory(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    mode: str,
    options: dict[str, Any],
    bytes_per_pixel: int,
) -> None:
    """What a picture needs depends on its pixels, its mode and its decoder; the error says how large it is."""
    path = saved(tmp_path, noise("L" if mode != "RGB" else mode).convert(mode), kind, **options)
    for missing in (0, 1):
        monkeypatch.setattr(decoding, "MAX_MEMORY", bytes_per_pixel * 101 * 67 - missing)
        too_large = pytest.raises(LocalFileError, match="101 × 67 pixels are too many")
        with too_large if missing else contextlib.nullcontext():
            decode(path, 1000)


def test_strips_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their heights are multiples of the factor, but for the last; each needs at most 2,000 bytes if it can."""
    monkeypatch.setattr(decoding, "_STRIP_BYTES", 2000)
    for width, factor, heights in ((10, 2, [50, 50, 20]), (10, 9, [45, 45, 30]), (200, 50, [50, 50, 20])):
        strips = decoding._strips(Image.new("L", (width, 120)), factor)
        assert [strip.size for strip in strips] == [(width, height) for height in heights]


@pytest.mark.parametrize(("color_type", "at_once"), [(0, True), (2, False), (3, True), (6, False)])
def test_a_huge_png_is_never_decoded_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, color_type: int, at_once: bool
) -> None:
    """In RGB, 13,300 x 13,300 pixels would need 0.7 GB; in gray or with a palette they fit."""

    def load(image: ImageFile.ImageFile) -> None:
        if image.size == (13_300, 13_300):
            raise MemoryError

    chunks = (b"PLTE", bytes(768)), (b"IDAT", zlib.compress(bytes(1000)))
    path = tmp_path / "x.png"
    path.write_bytes(png_file(*chunks, width=13_300, height=13_300, color_type=color_type))
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    with pytest.raises(LocalFileError) as raised:
        decode(path, 50)
    assert ("incomplete" in raised.value.message) is not at_once


@pytest.mark.parametrize("cut", [60, 200, -60])
def test_an_incomplete_png(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int) -> None:
    path = saved(tmp_path, noise())
    path.write_bytes(path.read_bytes()[:cut])
    for limit in (decoding.MAX_MEMORY, 0):
        monkeypatch.setattr(decoding, "MAX_MEMORY", limit)
        with pytest.raises(LocalFileError, match="cannot be decoded"):
            decode(path, 50)


def test_large_pictures_are_decoded_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several threads of the gallery may not each need the memory of a large picture."""
    path, reduced, locked = saved(tmp_path, noise()), decoding._reduced, []

    def watched(*arguments: Any) -> Image.Image:
        locked.append(decoding._one_large_picture.locked())
        return reduced(*arguments)

    monkeypatch.setattr(decoding, "_reduced", watched)
    for limit in (decoding.LARGE_MEMORY, 0):
        monkeypatch.setattr(decoding, "LARGE_MEMORY", limit)
        decode(path, 50)
    assert locked == [False, True]
