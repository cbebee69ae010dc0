"""The file formats of the sandbox's pictures."""

from dataclasses import dataclass

from flux_cli.sandbox.faults import Faults


@dataclass(frozen=True)
class FileFormat:
    """A format: its extension and content type, and Pillow's name for it or the bytes of a complete file."""

    extension: str
    content_type: str
    pillow: str = ""
    content: bytes = b""


_SVG = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><rect width="8" height="8"/></svg>\n'
_MDAT = b"\0\0\x04\x08mdat" + bytes(1024)
_HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0\0\0\x0cmeta\0\0\0\0" + _MDAT
_MP4 = b"\0\0\0\x18ftypisom\0\0\x02\0isommp41" + b"\0\0\0\x08moov" + _MDAT
_JXL = b"\0\0\0\x0cJXL \r\n\x87\n" + b"\0\0\0\x14ftypjxl \0\0\0\0jxl " + b"\0\0\x04\x08jxlc" + bytes(1024)

PNG = FileFormat("png", "image/png", "PNG")
_FORMATS = {
    "avif": FileFormat("avif", "image/avif", "AVIF"),
    "bmp": FileFormat("bmp", "image/bmp", "BMP"),
    "gif": FileFormat("gif", "image/gif", "GIF"),
    "heic": FileFormat("heic", "image/heic", content=_HEIC),
    "jpeg-as-png": FileFormat("png", "image/png", "JPEG"),
    "jxl": FileFormat("jxl", "image/jxl", content=_JXL),
    "mp4": FileFormat("mp4", "video/mp4", content=_MP4),
    "svg": FileFormat("svg", "image/svg+xml", content=_SVG),
    "tiff": FileFormat("tiff", "image/tiff", "TIFF"),
    "webp": FileFormat("webp", "image/webp", "WEBP"),
}


def file_format(faults: Faults) -> FileFormat:
    """Return the format of a task's pictures."""
    alone = (name for name in ("jpeg-as-png", "webp", "gif") if name in faults)
    return _FORMATS.get(next(alone, faults.get("format", "")), PNG)
