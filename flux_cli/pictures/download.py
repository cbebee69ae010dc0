"""Download a picture from its URL into a temporary file and verify that it is complete.

The picture comes from a CDN that must never see the API key: this module does not know the key, and its session
sends no credentials of any kind on any hop.
"""

import base64
import contextlib
import hashlib
import io
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import unquote_to_bytes, urljoin, urlsplit

from flux_cli.api import connections
from flux_cli.api.client import parse_retry_after
from flux_cli.api.transport import CONNECT_SECONDS, USER_AGENT, Trace, cause
from flux_cli.errors import ServiceDownError
from flux_cli.pictures.formats import (
    CHECKS,
    SNIFF_BYTES,
    Damage,
    ImageType,
    find_damage,
    sniff,
    suggested_type,
)
from flux_cli.storage.filesystem import local_errors

if TYPE_CHECKING:
    import requests

MAX_IMAGE_BYTES = 256 * 1024 * 1024
MAX_HOPS = 10
SILENCE_SECONDS = 30.0
CHUNK_BYTES = 1024 * 1024
IN_MEMORY_BYTES = 1024 * 1024
"""The size up to which a picture is verified in memory."""

OnBytes = Callable[[int, int | None], None]
"""Called with the bytes received so far and the total if the server announced it. May raise to stop."""


class Retry(Enum):
    """Whether another attempt to download can succeed."""

    TRANSIENT = "the same URL may work later"
    EXPIRED = "the URL does not serve the picture (403, 404, 410); a new status check may return another one"
    FINAL = "no attempt can succeed"


class DownloadError(ServiceDownError):
    """One attempt to download a picture failed; `reason` is the message without its introduction.

    `retry_after` is the pause in seconds that the server asks for, or None.
    """

    def __init__(
        self,
        reason: str,
        kind: Retry = Retry.TRANSIENT,
        *,
        retry_after: float | None = None,
        what: str = "picture",
    ) -> None:
        super().__init__(f"cannot download the {what}: {reason}")
        self.reason = reason
        self.kind = kind
        self.retry_after = retry_after


class NotAnImageError(DownloadError):
    """The response is not an image, or is larger than the limit."""


@dataclass
class Partial:
    """The temporary file of a picture, and what is needed to resume an interrupted transfer.

    The file is open for reading and writing; without a buffer it takes fewer system calls. `close` removes it.
    """

    file: BinaryIO
    received: int = 0
    location: str = ""
    """The URL that served the bytes, without its query: a signature in it may change."""
    validator: str | None = None
    """The strong ETag or Last-Modified of the response, for If-Range; None if it cannot be resumed."""
    total: int | None = None
    """The size of the whole picture in bytes, if announced."""
    close: Callable[[], None] = lambda: None

    def clear(self) -> None:
        """Forget the received bytes: the next attempt starts from the beginning. Raises LocalFileError."""
        if self.received:
            with self._errors():
                self.file.seek(0)
                self.file.truncate()
        self.received, self.location, self.validator, self.total = 0, "", None, None

    def seek_end(self) -> None:
        """Set the file's position for `append`. Raises LocalFileError."""
        if self.received:  # else it is there
            with self._errors():
                self.file.seek(self.received)

    def append(self, content: bytes) -> None:
        """Write the next bytes. Raises LocalFileError."""
        rest = memoryview(content)
        with self._errors():
            while rest:
                rest = rest[self.file.write(rest) :]
        self.received += len(content)

    @contextlib.contextmanager
    def content(self) -> Iterator[io.BytesIO | io.BufferedReader]:
        """Open what was received, at its beginning. Raises LocalFileError.

        A small picture is read into memory: each call of a real file lets another thread take Python's lock.
        """
        with self._errors():
            self.file.flush()
            self.file.seek(0)
            if self.received <= IN_MEMORY_BYTES:
                yield io.BytesIO(self.file.read(self.received))
            else:
                with open(self.file.fileno(), "rb", closefd=False) as file:
                    yield file

    def _errors(self) -> contextlib.AbstractContextManager[None]:
        return local_errors(Path(self.file.name).parent)

    def range_headers(self) -> dict[str, str]:
        """Return the request headers that ask for the missing bytes, or none to ask for everything."""
        if not self.received or self.validator is None:
            return {}
        return {"Range": f"bytes={self.received}-", "If-Range": self.validator}

    def begin(self, response: "requests.Response") -> None:
        """Note where a new response comes from, and overwrite what an earlier one left."""
        self.clear()
        self.location = _without_query(response.url)
        self.validator = _validator(response.headers)
        self.total = _length(response.headers)

    def is_continued_by(self, response: "requests.Response") -> bool:
        """Say whether a 206 response holds exactly the missing bytes of the same file."""
        span = re.fullmatch(
            r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", response.headers.get("Content-Range", "")
        )
        if span is None or _without_query(response.url) != self.location:
            return False
        size = None if span[3] == "*" else int(span[3])
        tagged = (self.validator or "").startswith('"')
        validator = response.headers.get("ETag" if tagged else "Last-Modified")
        return (
            int(span[1]) == self.received
            and (size is None or int(span[2]) == size - 1)
            and (size is None or self.total is None or size == self.total)
            and validator in (None, self.validator)
        )


def image_session() -> "requests.Session":
    """Return a session without credentials; `auth` is a no-op because None would let netrc supply some."""
    session = connections.session(lambda prepared: prepared)
    # requests would parse a redirect's URL even if it does not follow it, and fails if that is not UTF-8.
    session.get_redirect_target = lambda _: None  # type: ignore[assignment, method-assign] # only here
    session.headers["User-Agent"] = USER_AGENT
    session.headers["Accept"] = "image/*, */*;q=0.5"
    # Compression gains nothing for images, and a truncated gzip stream is not detected.
    session.headers["Accept-Encoding"] = "identity"
    return session


def fetch_image(
    url: str,
    partial: Partial,
    *,
    session: "requests.Session",
    allow_http: bool,
    on_bytes: OnBytes,
    limit: int = MAX_IMAGE_BYTES,
    trace: Trace = lambda _: None,
) -> tuple[ImageType, str]:
    """Make one attempt to download the image at `url`; return its type and its SHA-256 in hexadecimal.

    An image that its structure proves complete is accepted whatever the headers say. After an error, `partial`
    keeps what has arrived if the next attempt can resume. Unless `allow_http`, plain http is upgraded to https.
    `limit` is the size of the largest image accepted, in bytes. Raises DownloadError, or LocalFileError if it
    cannot be written.
    """
    import requests
    from urllib3.exceptions import HTTPError

    if url[:5].lower() == "data:":
        try:
            content = decode_data_url(url)
        except ValueError:
            raise DownloadError("invalid data: URL", Retry.FINAL) from None
        if len(content) > limit:
            raise _too_large(limit)
        partial.clear()
        partial.append(content)
        return _verified(partial, url, {}, None)
    interruption: DownloadError | None = None
    headers: Mapping[str, str] = {}
    try:
        with _open(url, partial, session, allow_http, trace) as response:
            url, headers = response.url, response.headers
            interruption = _receive(response, partial, on_bytes, limit)
    except ValueError as error:
        raise DownloadError(f"invalid URL: {error}", Retry.FINAL) from error
    except (requests.RequestException, HTTPError, OSError) as error:
        found = cause(error)
        interruption = DownloadError(found.text, Retry.FINAL if found.permanent else Retry.TRANSIENT)
        if not headers:
            raise interruption from error
    return _verified(partial, url, headers, interruption)


def _open(
    url: str, partial: Partial, session: "requests.Session", allow_http: bool, trace: Trace
) -> "requests.Response":
    """Follow redirects by hand, so that each hop is checked like the first; return a response with an image."""
    headers = partial.range_headers()
    for _ in range(MAX_HOPS):
        url = _checked_url(url, allow_http)
        trace(f"> GET {url}{' from byte ' + str(partial.received) if headers else ''}")
        response = connections.send(
            session, "GET", url, headers=headers, timeout=(CONNECT_SECONDS, SILENCE_SECONDS)
        )
        code = response.status_code
        length = response.headers.get("Content-Length", "of unknown length")
        trace(f"< {code} {response.headers.get('Content-Type', 'untyped')} {length}")
        if code in (301, 302, 303, 307, 308) and "Location" in response.headers:
            response.close()
            url = urljoin(url, _location(response))
        elif headers and (code == 416 or (code == 206 and not partial.is_continued_by(response))):
            response.close()
            headers = {}  # the file has changed, or there is no more of it: start from the beginning
        elif headers and code == 206:
            return response
        elif 200 <= code < 300:
            partial.begin(response)
            return response
        else:
            response.close()
            raise _refused(response)
    raise DownloadError(f"more than {MAX_HOPS} redirects", Retry.FINAL)


def _location(response: "requests.Response") -> str:
    """Return where a redirect points to: http.client decodes headers as Latin-1, but servers send UTF-8."""
    raw = response.headers["Location"].encode("latin-1")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "".join(chr(byte) if byte < 0x80 else f"%{byte:02X}" for byte in raw)


def _refused(response: "requests.Response") -> DownloadError:
    code = response.status_code
    if 400 <= code < 500 and code not in (408, 425, 429):  # storage services report an expired token with 400 too
        expired = ", its URL may have expired" if code in (403, 404, 410) else ""
        return DownloadError(f"HTTP {code}{expired}", Retry.EXPIRED)
    wait = parse_retry_after(response.headers.get("Retry-After"), time.time())
    return DownloadError(f"HTTP {code}", retry_after=wait)


def _checked_url(url: str, allow_http: bool) -> str:
    """Return an https URL with a host, or an http one if that is allowed. Raises DownloadError for any other."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise DownloadError(f"invalid URL: {url[:60]}", Retry.FINAL) from None
    if parts.scheme not in ("https", "http") or not host:
        raise DownloadError(f"invalid URL, not https: {url[:60]}", Retry.FINAL)
    if parts.scheme == "http" and not allow_http:
        netloc = parts.netloc.removesuffix(":80") if port == 80 else parts.netloc
        return parts._replace(scheme="https", netloc=netloc).geturl()
    return url


def decode_data_url(url: str) -> bytes:
    """Return the content of a `data:` URL (RFC 2397). Raises ValueError if it has none."""
    head, comma, text = url[5:].partition(",")
    if not comma:
        raise ValueError("no comma")
    content = unquote_to_bytes(text)
    if not head.lower().endswith(";base64"):
        return content
    content = re.sub(rb"[\s=]", b"", content).translate(bytes.maketrans(b"-_", b"+/"))
    return base64.b64decode(content + b"=" * (-len(content) % 4), validate=True)


def _too_large(limit: int) -> "NotAnImageError":
    return NotAnImageError(f"it is larger than {limit // 2**20} MiB", Retry.FINAL)


def _receive(
    response: "requests.Response", partial: Partial, on_bytes: OnBytes, limit: int
) -> DownloadError | None:
    """Append the response's body to the file; return an error if it is shorter than announced."""
    if partial.total is not None and partial.total > limit:
        raise _too_large(limit)
    partial.seek_end()
    # One `recv` per read: a body that trickles in still moves the progress bar and notices a deadline.
    while chunk := response.raw.read1(CHUNK_BYTES, decode_content=False):
        if partial.received + len(chunk) > limit:
            raise _too_large(limit)
        partial.append(chunk)
        on_bytes(partial.received, partial.total)
    if partial.total is not None and partial.received < partial.total:
        return DownloadError(f"the connection ended after {partial.received} of {partial.total} bytes")
    return None


def _verified(
    partial: Partial, url: str, headers: Mapping[str, str], interruption: DownloadError | None
) -> tuple[ImageType, str]:
    """Return the type and the SHA-256 of a received file, or raise DownloadError if it is no complete image.

    The bytes of an incomplete one are kept for another attempt.
    """
    with partial.content() as file:
        head = file.read(SNIFF_BYTES)
        kind = sniff(head)
        damage = find_damage(file, kind) if kind else None
        file.seek(0)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if damage is None and interruption is not None and kind not in CHECKS:
        damage = Damage.INCOMPLETE
    if damage is Damage.INCOMPLETE:
        raise interruption or DownloadError(damage.value)
    error: DownloadError | None = None
    if damage:
        error = DownloadError(damage.value, Retry.EXPIRED)
    elif not head:
        error = DownloadError("the response is empty")
    elif kind is None and (not_image := _not_an_image(head, headers)):
        error = NotAnImageError(not_image, Retry.EXPIRED)
    if error:
        partial.clear()
        raise error
    return kind or suggested_type(headers.get("Content-Type", ""), urlsplit(url).path), sha256


def _not_an_image(head: bytes, headers: Mapping[str, str]) -> str | None:
    coding = headers.get("Content-Encoding", "").lower()
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if re.search(r"gzip|deflate|compress|br|zstd", coding) or head.startswith(b"\x1f\x8b"):
        return "the response is compressed, which was not requested"
    if start.startswith(b"<"):
        return "the response is an HTML page"
    if start.startswith((b"{", b"[")):
        return "the response is JSON"
    return None if re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]", head) else "the response is text"


def _length(headers: Mapping[str, str]) -> int | None:
    announced = headers.get("Content-Length", "")
    return int(announced) if re.fullmatch("[0-9]{1,19}", announced) else None


def _validator(headers: Mapping[str, str]) -> str | None:
    """Return a validator for If-Range: a strong ETag, or a Last-Modified before Date (RFC 9110, 8.8.2)."""
    from email.utils import parsedate_to_datetime

    tag = headers.get("ETag", "")
    if re.fullmatch(r'"[\x21\x23-\x7e]*"', tag):
        return tag
    try:
        modified = headers["Last-Modified"]
        age = parsedate_to_datetime(headers["Date"]) - parsedate_to_datetime(modified)
    except (KeyError, ValueError, TypeError, IndexError, OverflowError):
        return None
    return modified if age.total_seconds() >= 1 else None


def _without_query(url: str) -> str:
    return url.partition("?")[0]
