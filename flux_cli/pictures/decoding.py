"""Decode pictures, reduced in size, with Pillow. It is not a core dependency: importing this module needs it."""

import contextlib
import io
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageFile, ImageOps

from flux_cli.errors import LocalFileError
from flux_cli.pictures.formats import KNOWN_TYPES

MAX_MEMORY = 350 * 1024 * 1024
"""The most bytes that Pillow may need for a picture. The interpreter and its modules add about 60 MB."""
LARGE_MEMORY = 64 * 1024 * 1024
"""Pictures that need more are decoded one at a time."""

_FORMATS = [kind.mime.removeprefix("image/").upper() for kind in KNOWN_TYPES]
"""Listed because Pillow would start Ghostscript for some others."""
_STRIP_BYTES = 8 * 1024 * 1024
_BYTES_PER_PIXEL = {"1": 1, "L": 1, "P": 1, "I;16": 2}
"""Of Pillow's modes; all others need 4."""
_PNG_CHANNELS = {2: 3, 6: 4}
"""Channels by color type (RGB, RGBA)."""

_one_large_picture = threading.Lock()


@dataclass(frozen=True)
class DecodedPicture:
    """A decoded picture, upright and in RGB; `width` and `height` are those of the whole picture, in pixels."""

    image: Image.Image
    width: int
    height: int


def decode(path: Path, side: int) -> DecodedPicture:
    """Decode a picture, reduced as long as its longer side has at least `side` pixels.

    Raises LocalFileError if it cannot be read, is not a picture that Pillow knows, is incomplete or too large.
    """
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large pictures, which are decoded anyway
            with Image.open(file, formats=_FORMATS) as image:
                return _decoded(image, file, side)
    except OSError as error:
        if error.strerror is None:  # of a decoder
            raise LocalFileError(f"{path} cannot be decoded: {error}") from error
        raise LocalFileError(f"cannot read {path}: {error.strerror.lower()}") from None
    except Exception as error:  # decoders raise anything: SyntaxError, struct.error and more
        raise LocalFileError(f"{path} cannot be decoded: {error}") from error


def _decoded(image: ImageFile.ImageFile, file: BinaryIO, side: int) -> DecodedPicture:
    width, height = image.size
    coefficients = 6 * width * height if image.info.get("progressive") else 0
    image.draft("RGB", (side, side))  # a JPEG decodes to 1/2, 1/4 or 1/8 directly
    memory = _memory(image) + coefficients
    with _one_large_picture if memory > LARGE_MEMORY else contextlib.nullcontext():
        factor = max(1, max(image.size) // side)
        if memory <= MAX_MEMORY:
            strips = _strips(image, factor)
        elif png := _PngFile.of(file):
            strips = png.strips(factor)
        else:
            raise ValueError(f"{width} × {height} pixels are too many for this format")
        reduced = _reduced(image.size, strips, factor)
    if "exif" in image.info:
        reduced.info["exif"] = image.info["exif"]
    upright = ImageOps.exif_transpose(reduced)
    turned = upright.size != reduced.size
    return DecodedPicture(upright, *((height, width) if turned else (width, height)))


def _memory(image: Image.Image) -> int:
    """Return about how many bytes it takes to decode an image."""
    copies = 1 if image.format in ("PNG", "JPEG") else 2  # others are decoded elsewhere, and copied
    return image.width * image.height * _BYTES_PER_PIXEL.get(image.mode, 4) * copies


def _rows_per_strip(row_bytes: int, factor: int) -> int:
    return factor * max(1, _STRIP_BYTES // (row_bytes * factor))


def _strips(image: Image.Image, factor: int) -> Iterator[Image.Image]:
    """Yield an image in strips, so that a conversion needs no second copy of it."""
    rows = _rows_per_strip(image.width * 4, factor)
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(image.height, top + rows)))


def _reduced(size: tuple[int, int], strips: Iterator[Image.Image], factor: int) -> Image.Image:
    """Return an image of this size, given in strips, in RGB and reduced by a factor in both directions."""
    width, height = (-(-side // factor) for side in size)
    reduced = Image.new("RGB", (width, height))
    top = 0
    for strip in strips:
        part = strip.convert("RGB").reduce(factor)
        reduced.paste(part, (0, top))
        top += part.height
    return reduced


@dataclass(frozen=True)
class _PngFile:
    """A PNG file that can be decoded strip by strip: not interlaced, RGB or RGBA, with 8 bits per channel."""

    file: BinaryIO
    width: int
    height: int
    color_type: int

    @classmethod
    def of(cls, file: BinaryIO) -> "_PngFile | None":
        file.seek(0)
        head = file.read(29)
        if head[:8] != b"\x89PNG\r\n\x1a\n":
            return None
        width, height, depth, color_type, _, _, interlaced = struct.unpack(">IIBBBBB", head[16:29])
        if depth != 8 or interlaced or color_type not in _PNG_CHANNELS:
            return None
        return cls(file, width, height, color_type)

    def strips(self, factor: int) -> Iterator[Image.Image]:
        """Yield the image in strips. Raises ValueError if it is incomplete.

        Each strip becomes a PNG of its own. Its rows refer to the row before, which is therefore put first.
        """
        row_bytes = _PNG_CHANNELS[self.color_type] * self.width
        rows = _rows_per_strip(row_bytes, factor)
        before = bytes(row_bytes)
        pixels = _Reader(self._inflated())
        for top in range(0, self.height, rows):
            count = min(rows, self.height - top)
            content = pixels.read(count * (row_bytes + 1))
            with Image.open(io.BytesIO(self._png(b"\0" + before + content, count + 1)), formats=["PNG"]) as strip:
                before = strip.crop((0, count, self.width, count + 1)).tobytes()
                yield strip.crop((0, 1, self.width, count + 1))

    def _png(self, content: bytes, height: int) -> bytes:
        header = struct.pack(">IIBBBBB", self.width, height, 8, self.color_type, 0, 0, 0)
        chunks = (b"IHDR", header), (b"IDAT", zlib.compress(content, 0)), (b"IEND", b"")
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )

    def _inflated(self) -> Iterator[bytes]:
        """Yield the filtered rows of the whole image in pieces of any size."""
        inflate = zlib.decompressobj()
        self.file.seek(8)
        while len(head := self.file.read(8)) == 8:
            left = int.from_bytes(head[:4], "big")
            if head[4:] != b"IDAT":
                self.file.seek(left + 4, io.SEEK_CUR)
                continue
            while data := self.file.read(min(left, 64 * 1024)):
                left -= len(data)
                while data:
                    yield inflate.decompress(data, _STRIP_BYTES)
                    data = inflate.unconsumed_tail
            self.file.seek(4, io.SEEK_CUR)


class _Reader:
    """Reads exact numbers of bytes from pieces of any size."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def read(self, size: int) -> bytes:
        """Return the next bytes. Raises ValueError if there are fewer."""
        parts, missing = [self._rest], size - len(self._rest)
        while missing > 0:
            piece = next(self._pieces, None)
            if piece is None:
                raise ValueError("the image is incomplete")
            parts.append(piece)
            missing -= len(piece)
        content = b"".join(parts)
        self._rest = content[size:]
        return content[:size]
