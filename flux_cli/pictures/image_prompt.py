"""Image prompts: read from a file, standard input or a URL, and checked to be complete before anything is sent."""

import base64
import contextlib
import functools
import hashlib
import io
import os
import re
import stat
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit

from flux_cli.api.request import MAX_IMAGE_PROMPT_BYTES, is_http_url, shown
from flux_cli.errors import FluxError, LocalFileError, ServiceDownError, UsageError
from flux_cli.pictures.formats import PROMPT_TYPES, SNIFF_BYTES, find_damage, sniff
from flux_cli.storage.paths import expanded

if TYPE_CHECKING:
    import requests

DOWNLOAD_SECONDS = 60.0
"""The limit for the download of an image prompt."""

_URL = re.compile(r"(https?|file|data):|([a-z][a-z0-9+.-]{1,20})://", re.IGNORECASE)


@dataclass(frozen=True)
class ImagePrompt:
    """The bytes of an image prompt, and their source: an absolute path or a URL without credentials and query.

    The source is None if they cannot be read again (stdin, a `data:` URL).
    """

    content: bytes
    source: str | None

    def violation(self) -> str | None:
        """Return the rule that the image breaks, or None."""
        if len(self.content) > MAX_IMAGE_PROMPT_BYTES:
            return f"`--image-prompt` must be at most {MAX_IMAGE_PROMPT_BYTES // 2**20} MiB"
        kind = sniff(self.content[:SNIFF_BYTES])
        if kind not in PROMPT_TYPES:
            what = "an empty file" if not self.content else "a file of another kind" if kind is None else kind.mime
            return f"`--image-prompt` must be a PNG, JPEG or WebP image, not {what}"
        damage = find_damage(io.BytesIO(self.content), kind)
        return f"`--image-prompt` cannot be used: {damage.value}" if damage else None

    def encoded(self) -> str:
        """Return the value for the request: the bytes in base64."""
        return base64.b64encode(self.content).decode()

    def described(self) -> dict[str, object]:
        """Return what the history and sidecars record instead of the bytes."""
        kind, sha256 = sniff(self.content[:SNIFF_BYTES]), hashlib.sha256(self.content).hexdigest()
        return {
            "type": kind.mime if kind else None,
            "bytes": len(self.content),
            "sha256": sha256,
            "source": self.source,
        }


def load(source: str) -> ImagePrompt:
    """Read an image prompt from a path, `-` (stdin) or a `file:`, `data:`, http or https URL.

    At most one byte more than the largest image prompt is read. The image itself is checked by `violation`. Raises
    LocalFileError for a file, ServiceDownError for a download, UsageError for an invalid URL or one without image.
    """
    if source == "-":
        return ImagePrompt(sys.stdin.buffer.read(MAX_IMAGE_PROMPT_BYTES + 1), None)
    scheme = _scheme(source)
    if scheme == "data":
        from flux_cli.pictures.download import decode_data_url

        try:
            return ImagePrompt(decode_data_url(source), None)
        except ValueError:
            raise UsageError(f"`--image-prompt` is not a valid data: URL: {quoted(source)}") from None
    if scheme in ("http", "https"):
        return ImagePrompt(_downloaded(source), public_source(source))
    path = _path(source)
    try:
        return _of_file(path)
    except (OSError, ValueError) as error:
        raise LocalFileError(f"cannot read the image prompt {quoted(source)}: {_reason(error)}") from None


def load_checked(source: str) -> ImagePrompt:
    """Read an image prompt and check it. Raises the errors of `load`, and UsageError if it breaks a rule."""
    image = load(source)
    if broken := image.violation():
        raise UsageError(f"{broken}: {quoted(source)}")
    return image


def problem(source: str) -> str | None:
    """Return what is wrong with the image prompt of a batch row, or None; http URLs are not downloaded."""
    if source == "-":
        return "must be a file or a URL: stdin contains the rows"
    try:
        scheme = _scheme(source)
        if scheme in ("http", "https"):
            return None
        found = load(source).violation() if scheme == "data" else _examined_file(source)[0]
    except (UsageError, LocalFileError) as error:
        found = error.message
    except (OSError, ValueError) as error:
        return f"cannot be read: {quoted(source)}: {_reason(error)}"
    return found and found.removeprefix("`--image-prompt` ")


def description(source: str) -> dict[str, object]:
    """Return what is recorded of an image prompt before it is sent; one with an http URL is not downloaded."""
    scheme = _scheme(source)
    if scheme == "data":
        return load(source).described()
    if scheme in (None, "file"):
        with contextlib.suppress(OSError, ValueError, LocalFileError):  # it was removed after the check
            return dict(_examined_file(source)[1])
    return {"type": None, "bytes": None, "sha256": None, "source": public_source(source)}


def public_source(source: str) -> str:
    """Return a source as it may be recorded: a URL without credentials, query and fragment."""
    try:
        parts = urlsplit(source)
    except ValueError:
        return source
    if parts.scheme not in ("http", "https"):
        return source
    return parts._replace(netloc=_host(parts), query="", fragment="").geturl()


def quoted(source: str) -> str:
    """Return a source as messages quote it: without credentials, at most 60 characters."""
    return shown(public_source(source))


def _scheme(source: str) -> str | None:
    """Return the scheme of a URL in lower case, or None for a path. Raises UsageError for an unusable URL."""
    match = _URL.match(source)
    if not match or (match[2] and os.path.lexists(source)):
        return None
    scheme = (match[1] or match[2]).lower()
    if scheme in ("http", "https") and not is_http_url(source):
        raise UsageError("`--image-prompt` is not a valid URL")
    if scheme == "file" and urlsplit(source).netloc.lower() not in ("", "localhost"):
        raise UsageError("`--image-prompt` is a file: URL of another host")
    if match[2]:
        raise UsageError(f"`--image-prompt` cannot be a {shown(scheme)}: URL; use a file, https: or data:")
    return scheme


def _path(source: str) -> Path:
    if not source:
        raise LocalFileError("`--image-prompt` is empty: give a file, a URL or -")
    if _scheme(source) == "file":
        from urllib.request import url2pathname  # 20 ms

        return Path(os.path.abspath(url2pathname(urlsplit(source).path)))
    return expanded(source)


def _reason(error: OSError | ValueError) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()


def _of_file(path: Path) -> ImagePrompt:
    with path.open("rb") as file:
        return ImagePrompt(file.read(MAX_IMAGE_PROMPT_BYTES + 1), str(path.absolute()))


def _examined_file(source: str) -> tuple[str | None, dict[str, object]]:
    """Return the violation and the description of a file; it is read once, though many rows may use it."""
    path = _path(source)
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise LocalFileError(f"`--image-prompt` is not a regular file: {quoted(source)}")
    return _examined(path, about.st_mtime_ns, about.st_size)


@functools.lru_cache(maxsize=1024)
def _examined(path: Path, _changed: int, _size: int) -> tuple[str | None, dict[str, object]]:
    image = _of_file(path)
    return image.violation(), image.described()


def _host(parts: SplitResult) -> str:
    return parts.netloc.rpartition("@")[2]


def _downloaded(url: str) -> bytes:
    from flux_cli.pictures.download import DownloadError, NotAnImageError, Partial, fetch_image, image_session
    from flux_cli.storage.files import temporary

    until = time.monotonic() + DOWNLOAD_SECONDS

    def in_time(_received: int, _total: int | None) -> None:
        if time.monotonic() > until:
            raise ServiceDownError(
                f"the download of the image prompt {quoted(url)} took more than {DOWNLOAD_SECONDS:.0f} s"
            )

    parts = urlsplit(url)
    session = image_session()
    session.auth = _credentials(parts)
    with temporary(Path(tempfile.gettempdir())) as file:
        try:
            fetch_image(
                parts._replace(netloc=_host(parts), fragment="").geturl(),
                Partial(file),
                session=session,
                allow_http=True,
                on_bytes=in_time,
                limit=MAX_IMAGE_PROMPT_BYTES,
            )
        except DownloadError as error:
            kind: type[FluxError] = UsageError if isinstance(error, NotAnImageError) else ServiceDownError
            raise kind(f"`--image-prompt` cannot be downloaded from {quoted(url)}: {error.reason}") from None
        file.seek(0)
        return file.read(MAX_IMAGE_PROMPT_BYTES + 1)


def _credentials(parts: SplitResult) -> "Callable[[requests.PreparedRequest], requests.PreparedRequest]":
    """Return what authenticates requests to the URL's own origin with its user name, and no others."""
    from requests.auth import HTTPBasicAuth

    # The bytes as they are, as curl sends them: a text could be sent in Latin-1 only.
    basic = HTTPBasicAuth(unquote_to_bytes(parts.username or ""), unquote_to_bytes(parts.password or ""))

    def authenticate(prepared: "requests.PreparedRequest") -> "requests.PreparedRequest":
        target = urlsplit(prepared.url or "")
        same = (target.scheme, target.hostname, target.port) == (parts.scheme, parts.hostname, parts.port)
        return basic(prepared) if same and parts.username is not None else prepared

    return authenticate
