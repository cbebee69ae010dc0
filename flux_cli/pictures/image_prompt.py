"""An image prompt: read from a file, standard input or a URL, and checked before it is sent."""

import base64
import hashlib
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from flux_cli.api.request import MAX_IMAGE_PROMPT_BYTES, is_http_url
from flux_cli.errors import FluxError, LocalFileError, ServiceDownError, UsageError
from flux_cli.pictures.formats import PROMPT_TYPES, SNIFF_BYTES, ImageType, sniff

DOWNLOAD_SECONDS = 60.0
"""How long the download of an image prompt may take."""


@dataclass(frozen=True)
class ImagePrompt:
    """The bytes of an image prompt and where they came from: an absolute path, a URL, or None for stdin."""

    content: bytes
    source: str | None

    @property
    def kind(self) -> ImageType | None:
        """The image's type, None if it has none that is known."""
        return sniff(self.content[:SNIFF_BYTES])

    def broken_rule(self) -> str | None:
        """Return what is wrong with it, if anything is."""
        broken = _broken(len(self.content), self.kind)
        return f"`--image-prompt` {broken}" if broken else None

    def encoded(self) -> str:
        """Return it as the request holds it: base64 of the bytes."""
        return base64.b64encode(self.content).decode()

    def described(self) -> dict[str, object]:
        """Return what stands for it where the bytes are too much: type, size in bytes, SHA-256 and source."""
        return {
            "type": self.kind.mime if self.kind else None,
            "bytes": len(self.content),
            "sha256": hashlib.sha256(self.content).hexdigest(),
            "source": self.source,
        }


def load(source: str) -> ImagePrompt:
    """Read an image prompt from a path, `-` (standard input, bytes) or an http(s) URL.

    At most a byte more than the largest image prompt is read; whether it is one, `broken_rule` tells.

    Raises:
        LocalFileError: The file cannot be read.
        ServiceDownError: The URL cannot be had.
        UsageError: What it serves is no image.
    """
    if source == "-":
        return ImagePrompt(sys.stdin.buffer.read(MAX_IMAGE_PROMPT_BYTES + 1), None)
    if source.startswith(("http://", "https://")) and is_http_url(source):
        return ImagePrompt(_downloaded(source), source)
    if not source:
        raise LocalFileError("`--image-prompt` takes a file, a URL or -, not nothing")
    path = Path(source).expanduser()
    try:
        with path.open("rb") as file:
            content = file.read(MAX_IMAGE_PROMPT_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise LocalFileError(f"cannot read the image prompt {source}: {reason.lower()}") from None
    return ImagePrompt(content, str(path.absolute()))


def load_checked(source: str) -> ImagePrompt:
    """Read an image prompt that has to be one. Raises as `load` does, and UsageError where it is none."""
    image = load(source)
    if broken := image.broken_rule():
        raise UsageError(f"{broken}: {source}")
    return image


def problem(source: str) -> str | None:
    """Return what is wrong with a path or URL as an image prompt, as far as it shows without reading all of it."""
    if source == "-":
        return "takes a file or a URL, standard input has the rows"
    if source.startswith(("http://", "https://")) and is_http_url(source):
        return None
    try:
        with Path(source).expanduser().open("rb") as file:
            return _broken(os.fstat(file.fileno()).st_size, sniff(file.read(SNIFF_BYTES)))
    except (OSError, ValueError) as error:
        return f"cannot be read: {source}: {(getattr(error, 'strerror', None) or str(error)).lower()}"


def _broken(size: int, kind: ImageType | None) -> str | None:
    if size > MAX_IMAGE_PROMPT_BYTES:
        return f"takes at most {MAX_IMAGE_PROMPT_BYTES // 2**20} MiB"
    if kind not in PROMPT_TYPES:
        what = "an empty file" if not size else "a file of another kind" if kind is None else kind.mime
        return f"takes a PNG, JPEG or WebP image, not {what}"
    return None


def _downloaded(url: str) -> bytes:
    from flux_cli.pictures.download import (  # requests: 160 ms
        DownloadError,
        NotAnImageError,
        Partial,
        fetch_image,
        image_session,
    )

    until = time.monotonic() + DOWNLOAD_SECONDS

    def in_time(_received: int, _total: int | None) -> None:
        if time.monotonic() > until:
            raise ServiceDownError(f"the image prompt {url} took more than {DOWNLOAD_SECONDS:.0f} s to arrive")

    with tempfile.NamedTemporaryFile() as file:
        try:
            fetch_image(
                url,
                Partial(cast(BinaryIO, file)),  # it acts as one; `fetch_image` needs its name
                session=image_session(),
                allow_http=True,
                on_bytes=in_time,
                limit=MAX_IMAGE_PROMPT_BYTES,
            )
        except DownloadError as error:
            kind: type[FluxError] = UsageError if isinstance(error, NotAnImageError) else ServiceDownError
            raise kind(f"`--image-prompt` cannot be had from {url}: {error.reason}") from None
        file.seek(0)
        return file.read()
