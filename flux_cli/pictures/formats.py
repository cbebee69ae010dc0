"""Recognise image files by their bytes, and find out whether a file is complete and undamaged."""

import os
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import BinaryIO

from flux_cli.storage.filesystem import local_errors


@dataclass(frozen=True)
class ImageType:
    """An image format: its canonical file extension (no dot), the MIME type, and other extensions in use.

    A file begins with one of the `magic` bytes; `sniff` recognises formats without them in another way.
    """

    extension: str
    mime: str
    aliases: tuple[str, ...] = ()
    magic: tuple[bytes, ...] = ()

    def fits(self, extension: str) -> bool:
        """Say whether a file extension (no dot, any case) is one of this format."""
        return extension.lower() in (self.extension, *self.aliases)


PNG = ImageType("png", "image/png", magic=(b"\x89PNG\r\n\x1a\n",))
JPEG = ImageType("jpg", "image/jpeg", ("jpeg", "jpe", "jfif"), (b"\xff\xd8\xff",))
WEBP = ImageType("webp", "image/webp")
GIF = ImageType("gif", "image/gif", magic=(b"GIF87a", b"GIF89a"))
AVIF = ImageType("avif", "image/avif")
HEIC = ImageType("heic", "image/heic", ("heif", "hif"))
SVG = ImageType("svg", "image/svg+xml")
BMP = ImageType("bmp", "image/bmp")
MP4 = ImageType("mp4", "video/mp4", ("m4v",))
QUICKTIME = ImageType("mov", "video/quicktime", ("qt",))

KNOWN_TYPES = (PNG, JPEG, WEBP, GIF, AVIF)
"""The formats that the service is known to send, whose structure `find_damage` checks."""
RECOGNISED_TYPES = (
    *(*KNOWN_TYPES, HEIC, SVG, BMP, MP4, QUICKTIME),
    ImageType("jxl", "image/jxl", magic=(b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")),
    ImageType("jp2", "image/jp2", ("jpx", "jpf"), (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")),
    ImageType("tif", "image/tiff", ("tiff",), (b"II*\0", b"II+\0", b"MM\0*", b"MM\0+")),
    ImageType("webm", "video/webm", ("mkv",), (b"\x1aE\xdf\xa3",)),
    ImageType("pdf", "application/pdf", magic=(b"%PDF-",)),
)
"""A picture of one of the others was charged too, and gets a usable name."""
PROMPT_TYPES = (PNG, JPEG, WEBP)
"""The formats of an image prompt."""

SNIFF_BYTES = 512
"""The number of leading bytes that `sniff` reads."""

_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
_SVG_START = re.compile(
    rb"(?>\xef\xbb\xbf|\s+|<\?xml[^>]*>|<!--.*?-->|<!DOCTYPE\s+svg[^>]*>)*+<svg[\s>/]", re.DOTALL
)


def sniff(head: bytes) -> ImageType | None:
    """Return the format of a file from its first `SNIFF_BYTES` bytes, or None if it is not recognised."""
    for kind in RECOGNISED_TYPES:
        if head.startswith(kind.magic):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return WEBP
    if head[4:8] == b"ftyp":
        return _media_type(head)
    if head[:2] == b"BM" and head[6:10] == bytes(4):
        return BMP
    return SVG if _SVG_START.match(head) else None


def type_of(path: Path) -> ImageType | None:
    """Return the format of a file, or None if it is not recognised. Raises LocalFileError if it cannot be read."""
    with local_errors(path, "read"), path.open("rb") as file:
        return sniff(file.read(SNIFF_BYTES))


def _media_type(head: bytes) -> ImageType:
    """Return the format of an ISO media file from its major brand and, for pictures, the compatible ones."""
    length = int.from_bytes(head[:4], "big")
    major, *compatible = (head[at : at + 4] for at in (8, *range(16, min(length, len(head)), 4)))
    if major in (b"avif", b"avis"):
        return AVIF
    if major in _HEIC_BRANDS:
        return AVIF if {b"avif", b"avis"} & set(compatible) else HEIC
    return QUICKTIME if major == b"qt  " else MP4


def suggested_type(content_type: str, path: str) -> ImageType:
    """Return a type for bytes that `sniff` does not recognise, from the MIME type or the URL's path.

    A suggestion of a format that `sniff` would have recognised is wrong, and is not used; nor is an extension of
    something that a desktop would run.
    """
    mime = content_type.partition(";")[0].strip().lower() or "application/octet-stream"
    media, _, subtype = mime.partition("/")
    subtype = subtype.removeprefix("x-").partition("+")[0] if media in ("image", "video") else ""
    for extension in (subtype, os.path.splitext(path)[1][1:].lower()):
        recognised = any(kind.fits(extension) for kind in RECOGNISED_TYPES)
        if re.fullmatch(r"[a-z0-9]{2,5}", extension) and not recognised and extension not in _NO_PICTURES.split():
            return ImageType(extension, mime)
    return ImageType("bin", mime)


_NO_PICTURES = (
    "app asp aspx bash bat cgi chm cmd com cpl dll dmg exe hta htm html ink iso jar js jse json jsp lnk mjs msi"
    " msp php pif pl ps1 py reg scf scr sh so url vbe vbs wsf wsh xhtml xml"
)


def is_image_extension(extension: str) -> bool:
    """Say whether a file extension (no dot) is one of a known image type."""
    return any(kind.fits(extension) for kind in KNOWN_TYPES)


class Damage(Enum):
    """Why a file is not usable."""

    INCOMPLETE = "the image is incomplete"
    CORRUPT = "the image is damaged"


def find_damage(file: BinaryIO, kind: ImageType) -> Damage | None:
    """Walk a seekable image file's structure; return what is wrong with it, or None.

    A body without an announced length is known to be complete this way. Data after the end of the image is
    allowed, as decoders allow it. Types without an end mark are not checked.
    """
    check = CHECKS.get(kind)
    return check(file, file.seek(0, os.SEEK_END)) if check else None


_BLOCK_BYTES = 1024 * 1024


def _png_damage(file: BinaryIO, size: int) -> Damage | None:
    """Check each chunk: length (4 bytes), type, content, CRC-32 of type and content."""
    offset, kinds = 8, set[bytes]()
    while size - offset >= 12:
        file.seek(offset)
        head = file.read(8)
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if not kind.isalpha() or length > 0x7FFFFFFF or (not kinds and (kind, length) != (b"IHDR", 13)):
            return Damage.CORRUPT
        offset += 12 + length
        if offset > size:
            return Damage.INCOMPLETE
        crc = zlib.crc32(kind)
        for start in range(0, length, _BLOCK_BYTES):
            crc = zlib.crc32(file.read(min(_BLOCK_BYTES, length - start)), crc)
        if crc != int.from_bytes(file.read(4), "big"):
            return Damage.CORRUPT
        kinds.add(kind)
        if kind == b"IEND":
            return None if b"IDAT" in kinds else Damage.CORRUPT
    return Damage.INCOMPLETE


_JPEG_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
"""In a scan's data, FF 00 is an escaped FF, and D0 to D7 are restart markers."""


def _jpeg_damage(file: BinaryIO, size: int) -> Damage | None:
    """Walk the segments (FF, marker, length) and skip the data of each scan, up to the end mark."""
    offset, markers = 2, set[int]()
    while size - offset >= 2:
        file.seek(offset)
        head = file.read(4)
        marker = head[1]
        if head[0] != 0xFF or marker < 0xC0 or 0xD0 <= marker <= 0xD8:
            return Damage.CORRUPT
        if marker == 0xFF:  # fill bytes may precede a marker
            offset += 1
            continue
        if marker == 0xD9:
            return None if 0xDA in markers else Damage.CORRUPT
        if len(head) < 4:
            break
        length = int.from_bytes(head[2:], "big")
        if length < 2 or (marker == 0xDA and not _FRAMES & markers):
            return Damage.CORRUPT
        markers.add(marker)
        offset += 2 + length
        if marker == 0xDA:
            offset = _scan_end(file, offset)
    return Damage.INCOMPLETE


_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""The markers of a JPEG frame's header, without which no scan can be decoded."""


def _scan_end(file: BinaryIO, offset: int) -> int:
    """Return the offset of the next marker after the data of a scan, or of the end of the file."""
    while True:
        file.seek(offset)
        block = file.read(_BLOCK_BYTES)
        if found := _JPEG_MARKER.search(block):
            return offset + found.end() - 2
        if len(block) < _BLOCK_BYTES:
            return offset + len(block)
        offset += len(block) - 1  # the last byte may be the first of a marker


def _gif_damage(file: BinaryIO, size: int) -> Damage | None:
    """Walk the blocks; a byte like the trailer's may occur anywhere inside them."""
    file.seek(10)
    offset, images = 13 + _color_bytes(file.read(1)), 0
    while offset < size:
        file.seek(offset)
        head = file.read(10)
        if head.startswith(b";"):
            return None if images else Damage.CORRUPT
        if head.startswith(b"!"):
            offset += 2
        elif head.startswith(b","):
            images += 1
            offset += 11 + _color_bytes(head[9:])
        else:
            return Damage.CORRUPT
        length = 1
        while length and offset < size:
            file.seek(offset)
            (length,) = file.read(1)
            offset += 1 + length
    return Damage.INCOMPLETE


def _color_bytes(flags: bytes) -> int:
    """Return the size of the color table that a GIF's flags announce, in bytes."""
    return 3 << ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0


def _webp_damage(file: BinaryIO, size: int) -> Damage | None:
    """Walk the chunks (type, length, content padded to an even length) that the RIFF header's size covers."""
    file.seek(4)
    end = int.from_bytes(file.read(4), "little") + 8
    if end > size:
        return Damage.INCOMPLETE
    offset, kinds = 12, set[bytes]()
    while end - offset >= 8:
        file.seek(offset)
        head = file.read(14)
        kind, length = head[:4], int.from_bytes(head[4:8], "little")
        offset += 8 + length
        wrong = (kind == b"VP8 " and head[11:14] != b"\x9d\x01\x2a") or (kind == b"VP8L" and head[8:9] != b"\x2f")
        if wrong or offset > end or not all(0x20 <= byte < 0x7F for byte in kind):
            return Damage.CORRUPT
        kinds.add(kind)
        offset += length % 2
    return None if kinds & {b"VP8 ", b"VP8L", b"ANMF"} else Damage.CORRUPT


def _boxes_damage(file: BinaryIO, size: int) -> Damage | None:
    """Walk ISO media boxes: length (4 bytes; 1 = an 8-byte length follows, 0 = to the end), then a type."""
    offset, kinds = 0, set[bytes]()
    while offset < size:
        file.seek(offset)
        header = file.read(16)
        kind, length = header[4:8], int.from_bytes(header[:4], "big")
        if len(kind) < 4 or not all(0x20 <= byte < 0x7F for byte in kind):
            return None if _has_pixels(kinds) else Damage.CORRUPT if len(kind) == 4 else Damage.INCOMPLETE
        if length == 0:
            return None if kinds & {b"meta", b"moov"} else Damage.INCOMPLETE
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length < 8:
            return Damage.CORRUPT
        kinds.add(kind)
        offset += length
    # A file cut between two boxes adds up too, but lacks the one with the pixels.
    return None if offset == size and _has_pixels(kinds) else Damage.INCOMPLETE


def _has_pixels(boxes: set[bytes]) -> bool:
    return b"mdat" in boxes and bool(boxes & {b"meta", b"moov"})


def _svg_damage(file: BinaryIO, size: int) -> Damage | None:
    file.seek(max(0, size - 64 * 1024))
    return None if re.search(rb"</svg\s*>|<svg\b[^>]*/>\s*\Z", file.read()) else Damage.INCOMPLETE


CHECKS: dict[ImageType, Callable[[BinaryIO, int], Damage | None]] = {
    PNG: _png_damage,
    JPEG: _jpeg_damage,
    GIF: _gif_damage,
    WEBP: _webp_damage,
    AVIF: _boxes_damage,
    HEIC: _boxes_damage,
    MP4: _boxes_damage,
    QUICKTIME: _boxes_damage,
    SVG: _svg_damage,
}
"""For each type whose end `find_damage` finds, its check."""
