"""From an `image_url` to bytes in a file that are known to be whole.

The image comes from a CDN that must never see the API key: this module does not know it, and its session sends
no credentials of any kind, on no hop.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urljoin, urlsplit

from flux_cli.api.transport import CONNECT_SECONDS, USER_AGENT, cause
from flux_cli.errors import ServiceDownError
from flux_cli.pictures.formats import SNIFF_BYTES, ImageType, has_end, sniff
from flux_cli.storage.files import local_errors

if TYPE_CHECKING:
    from pathlib import Path

    import requests

MAX_IMAGE_BYTES = 256 * 1024 * 1024
MAX_HOPS = 10
SILENCE_SECONDS = 30.0
CHUNK_BYTES = 1024 * 1024

OnBytes = Callable[[int, int | None], None]
"""Gets the bytes received so far and, where it was announced, the length of the whole. May raise to stop."""


class DownloadError(ServiceDownError):
    """The picture could not be had. `final`: asking the same URL again cannot help."""

    def __init__(self, message: str, *, final: bool = False) -> None:
        super().__init__(f"cannot download the picture: {message}")
        self.reason = message
        self.final = final


class NoImageError(DownloadError):
    """Something came, and it is no image, or too large for one."""


class UnreachableError(DownloadError):
    """The picture's server did not answer at all; the network may be gone."""


class ExpiredUrlError(DownloadError):
    """The URL is no longer served (403, 404, 410); the task has a fresh one."""


def image_session() -> "requests.Session":
    """Return a session without credentials; `auth` is a no-op because None would let netrc supply some."""
    import requests

    session = requests.Session()
    session.auth = lambda prepared: prepared
    session.headers["User-Agent"] = USER_AGENT
    session.headers["Accept"] = "image/*"
    # Compressed images gain nothing, and a truncated gzip stream passes for a whole one.
    session.headers["Accept-Encoding"] = "identity"
    return session


def fetch_image(
    url: str,
    file: BinaryIO,
    *,
    session: "requests.Session",
    allow_http: bool,
    on_bytes: OnBytes,
    limit: int = MAX_IMAGE_BYTES,
    say: Callable[[str], None] = lambda _: None,
) -> ImageType:
    """Write the image at `url` to an empty temporary file and return its type, once it is known to be whole.

    Whole means: as long as announced, and ending as its format ends.

    Args:
        allow_http: Whether plain http will do; only where the API itself is spoken to over http.
        limit: The largest image taken, in bytes.
        say: Gets a line for each request and each answer.

    Raises:
        ExpiredUrlError: 403, 404 or 410.
        DownloadError: Anything else that came short of a whole image.
        LocalFileError: The file cannot be written.
    """
    import requests
    from urllib3.exceptions import HTTPError

    try:
        with _open(url, session, allow_http, say) as response:
            _write_body(response, file, on_bytes, limit)
    except (requests.RequestException, HTTPError, OSError) as error:
        raise DownloadError(cause(error)[0]) from error
    except ValueError as error:  # of a redirect's URL, which requests parses even where it is not to follow it
        raise DownloadError(f"its URL makes no sense: {error}", final=True) from error
    return _checked(file)


def _open(
    url: str, session: "requests.Session", allow_http: bool, say: Callable[[str], None]
) -> "requests.Response":
    """Follow redirects by hand, so that each hop is checked like the first; return a response with status 200."""
    import requests

    for _ in range(MAX_HOPS):
        check_url(url, allow_http)
        say(f"> GET {url}")
        try:
            response = session.get(
                url, stream=True, allow_redirects=False, timeout=(CONNECT_SECONDS, SILENCE_SECONDS)
            )
        except requests.ConnectionError as error:
            raise UnreachableError(cause(error)[0]) from error
        length = response.headers.get("Content-Length", "of unknown length")
        say(f"< {response.status_code} {response.headers.get('Content-Type', 'untyped')} {length}")
        if response.status_code in (301, 302, 303, 307, 308) and "Location" in response.headers:
            response.close()
            url = urljoin(url, response.headers["Location"])
            continue
        if response.status_code == 200:
            return response
        response.close()
        if response.status_code in (403, 404, 410):
            raise ExpiredUrlError(f"HTTP {response.status_code}, its URL may have expired")
        raise DownloadError(f"HTTP {response.status_code}")
    raise DownloadError(f"more than {MAX_HOPS} redirects", final=True)


def check_url(url: str, allow_http: bool) -> None:
    """Raise DownloadError unless the URL is https, or http where that is allowed, and has a host."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        raise DownloadError("its URL makes no sense", final=True) from None
    if parts.scheme not in (("https", "http") if allow_http else ("https",)) or not host:
        raise DownloadError(f"its URL is not https: {url[:100]}", final=True)


def _write_body(response: "requests.Response", file: BinaryIO, on_bytes: OnBytes, limit: int) -> None:
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise DownloadError("it came compressed, though that was not asked for")
    announced = response.headers.get("Content-Length", "")
    total = int(announced) if announced.isascii() and announced.isdigit() and len(announced) < 20 else None
    if total is not None and total > limit:
        raise NoImageError(f"it is larger than {limit // 2**20} MiB", final=True)
    received = 0
    # One `recv` a round: a body that trickles in still moves the bar and notices a deadline.
    while chunk := response.raw.read1(CHUNK_BYTES, decode_content=False):
        received += len(chunk)
        if received > limit:
            raise NoImageError(f"it is larger than {limit // 2**20} MiB", final=True)
        with local_errors(_path(file)):
            file.write(chunk)
        on_bytes(received, total)
    if total is not None and received != total:
        raise DownloadError(f"the connection ended after {received} of {total} bytes")


def _checked(file: BinaryIO) -> ImageType:
    with local_errors(_path(file)):
        file.flush()
        file.seek(0)
        head = file.read(SNIFF_BYTES)
        kind = sniff(head)
        if kind is None:
            what = (
                "an HTML page"
                if head.lstrip()[:1] == b"<"
                else "JSON"
                if head.lstrip()[:1] in (b"{", b"[")
                else "no image"
            )
            raise NoImageError(f"what came is {what if head else 'empty'}")
        if not has_end(file, kind):
            raise DownloadError("the image is cut short")
    return kind


def _path(file: BinaryIO) -> "Path":
    from pathlib import Path

    return Path(file.name).parent
