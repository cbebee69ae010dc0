"""Telling image files by their bytes: which type, and whether the file is whole."""

import os
from dataclasses import dataclass
from typing import BinaryIO


@dataclass(frozen=True)
class ImageType:
    """An image format: its canonical file extension (no dot), the MIME type, and other extensions in use."""

    extension: str
    mime: str
    aliases: tuple[str, ...] = ()

    def fits(self, extension: str) -> bool:
        """Say whether a file name with this extension (no dot, any case) is honest about these bytes."""
        return extension.lower() in (self.extension, *self.aliases)


PNG = ImageType("png", "image/png")
JPEG = ImageType("jpg", "image/jpeg", ("jpeg", "jpe", "jfif"))
WEBP = ImageType("webp", "image/webp")
GIF = ImageType("gif", "image/gif")
AVIF = ImageType("avif", "image/avif")

KNOWN_TYPES = (PNG, JPEG, WEBP, GIF, AVIF)
PROMPT_TYPES = (PNG, JPEG, WEBP)
"""What an image prompt may be."""

SNIFF_BYTES = 32
"""How many leading bytes `sniff` needs to see."""

_PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"


def sniff(head: bytes) -> ImageType | None:
    """Return the image type that a file beginning with `head` has, or None for anything else."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return PNG
    if head.startswith(b"\xff\xd8\xff"):
        return JPEG
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return WEBP
    if head.startswith((b"GIF87a", b"GIF89a")):
        return GIF
    if head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis"):
        return AVIF
    return None


def is_image_extension(extension: str) -> bool:
    """Say whether a file extension (no dot) promises one of the known image types."""
    return any(kind.fits(extension) for kind in KNOWN_TYPES)


def has_end(file: BinaryIO, kind: ImageType) -> bool:
    """Say whether a seekable image file reaches its format's own end mark.

    This is how a body without an announced length is known to be whole: PNG ends in an IEND chunk, JPEG in an
    EOI mark, GIF in its trailer, and RIFF (WebP) states its size up front. AVIF has no end mark; its top-level
    boxes have to add up to the file's length. Bytes after the end mark are allowed, as decoders allow them.
    """
    size = file.seek(0, os.SEEK_END)
    if kind is PNG:
        return _PNG_END in _tail(file, size)
    if kind is WEBP:
        file.seek(4)
        return int.from_bytes(file.read(4), "little") + 8 <= size
    return {JPEG: _jpeg_ends, GIF: _gif_ends, AVIF: _boxes_add_up}[kind](file, size)


def _tail(file: BinaryIO, size: int, start: int = 0) -> bytes:
    file.seek(max(start, size - 64 * 1024))
    return file.read()


def _jpeg_ends(file: BinaryIO, size: int) -> bool:
    """Walk the segments (mark, length) up to the first scan: an end mark before it is that of a thumbnail."""
    offset = 2
    while offset < size:
        file.seek(offset)
        head = file.read(4)
        if len(head) < 4 or head[0] != 0xFF:
            return False
        if head[1] == 0xDA:
            return b"\xff\xd9" in _tail(file, size, offset)
        offset += 1 if head[1] == 0xFF else 2 + int.from_bytes(head[2:], "big")  # FF may be repeated as a filler
    return False


def _gif_ends(file: BinaryIO, size: int) -> bool:
    """Walk the blocks; a byte like the trailer's may stand anywhere inside them."""
    file.seek(10)
    offset = 13 + _colours(file.read(1))
    while offset < size:
        file.seek(offset)
        head = file.read(10)
        if head.startswith(b";"):
            return True
        if head.startswith(b"!"):
            offset += 2
        elif head.startswith(b","):
            offset += 11 + _colours(head[9:])
        else:
            return False
        length = 1
        while length and offset < size:
            file.seek(offset)
            (length,) = file.read(1)
            offset += 1 + length
    return False


def _colours(flags: bytes) -> int:
    """Return the bytes of the colour table that a GIF's flags announce."""
    return 3 << ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0


def _boxes_add_up(file: BinaryIO, size: int) -> bool:
    """Walk ISO media boxes: length (4 bytes, 1 = an 8-byte length follows, 0 = to the end), then a type."""
    offset, kinds = 0, set()
    while offset < size:
        file.seek(offset)
        header = file.read(16)
        kinds.add(header[4:8])
        length = int.from_bytes(header[:4], "big")
        if length == 0 and len(header) >= 8:
            return b"meta" in kinds or b"moov" in kinds
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length < 8:
            return False
        offset += length
    # Cut between two boxes it would add up, too, but lack the one with the pixels.
    return offset == size and b"mdat" in kinds
