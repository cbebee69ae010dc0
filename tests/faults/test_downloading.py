"""Faults of downloads: a charged picture is complete under its final name, or not there."""

from pathlib import Path

import pytest

from flux_cli.api.task import Status
from tests.conftest import Cli
from tests.faults.table import Row, check, check_deadlines, each
from tests.server import Action, Reply, Server, http, in_turn, png, reply, slowly

RESUME = r"hint: already charged; resume with: flux-cli wait "
BRIEF = "imagine --width 256 --height 256 --timeout 5"


def overcome(fault: str, magic: str, *says: str, command: str = Row.command, pictures: int = 1) -> Row:
    """Return the row of a fault that retries overcome."""
    return Row(fault, 0, 1, pictures, says=says, magic=magic, status=Status.FINISHED, command=command)


def lost_for_now(fault: str, magic: str, *says: str, code: int = 5, command: str = Row.command) -> Row:
    """Return the row of a picture that cannot be downloaded now."""
    return Row(fault, code, says=(RESUME, *says), magic=magic, status=Status.FINISHED, command=command)


def on_the_wire(fault: str, reply: Reply, code: int = 0, *says: str, command: str = Row.command) -> Row:
    """Return the row of a fault in the response for a picture."""
    resume = () if code == 0 else (RESUME,)
    return Row(
        fault,
        code,
        1,
        1 if code == 0 else 0,
        says=(*resume, *says),
        server=lambda: Server({"/image": reply}),
        status=Status.FINISHED,
        command=command,
    )


OVERCOME = [
    *(overcome(f"{code} once", f"[[image-http {code} 1]]") for code in (204, 206, 400, 429, 500, 502, 503)),
    overcome("the URL has expired", "[[expired-url]]"),
    overcome("an HTML page with 200, once", "[[html-image 1]]"),
    overcome("JSON with 200, once", "[[json-image 1]]"),
    overcome("no bytes, once", "[[empty-image 1]]"),
    overcome("a reset half-way, once", "[[image-reset 1]]"),
    overcome("half of it, its length promises the rest, once", "[[cut-download 1]]"),
    overcome("half of it, its length agrees, once", "[[short-length 1]]"),
    overcome("half of it, without a length, once", "[[cut-no-length 1]]"),
    overcome("half of it, in chunks, once", "[[cut-chunked 1]]"),
    overcome("compressed, once", "[[gzip 1]]"),
    overcome("no length", "[[no-length]]"),
    overcome("in chunks", "[[chunked]]"),
    overcome("a redirect", "[[image-redirect]]"),
    overcome("a JPEG that is called PNG", "[[jpeg-as-png]]"),
    overcome("a WebP", "[[webp]]"),
    overcome("a GIF", "[[gif]]"),
    overcome("a WebP in chunks", "[[webp]] [[chunked]]"),
    overcome("a JPEG without a length", "[[jpeg-as-png]] [[no-length]]"),
    overcome("no original, though it was asked for", "[[no-original]]", command=f"{Row.command} --original"),
    overcome("the original, too", "[[expired-url]]", command=f"{Row.command} --original", pictures=2),
]

LOST_FOR_NOW = [
    *(
        lost_for_now(f"{code} every time", f"[[image-http {code}]]", f"HTTP {code}", command=BRIEF)
        for code in (403, 503)
    ),
    lost_for_now("an HTML page every time", "[[html-image]]", "an HTML page", command=BRIEF),
    lost_for_now("resets every time", "[[image-reset]]", "connection (reset|ended)", command=BRIEF),
    lost_for_now("half of it always, its length agrees", "[[short-length]]", "incomplete", command=BRIEF),
    lost_for_now("half of it every time, in chunks", "[[cut-chunked]]", command=BRIEF),
    lost_for_now("compressed, and cut", "[[cut-gzip]]", "compressed", command=BRIEF),
    lost_for_now("300 MiB", "[[huge-image]]", "larger than 256 MiB"),
    lost_for_now("a byte now and then, without end", "[[image-trickle]]", code=7, command=BRIEF),
    lost_for_now("half of it, then silence", "[[image-hang]]", code=7, command=BRIEF),
    lost_for_now("a redirect to itself", "[[redirect-loop]]", "more than 10 redirects"),
    *(
        lost_for_now(f"a redirect to {url}", f"[[image-redirect {url}]]", "invalid URL")
        for url in (
            "file:///etc/passwd",
            "ftp://127.0.0.1/x.png",
            "javascript:1",
            "http://[",
            "https://",
            "data:image/png,x",
        )
    ),
    lost_for_now(
        "a redirect to nowhere", "[[image-redirect http://nowhere.invalid/]]", "DNS lookup", command=BRIEF
    ),
    *(
        lost_for_now(f"the image_url {url}", f"[[image-url {url}]]", "invalid URL")
        for url in ("file:///etc/passwd", "http://[::1", "https:x.png")
    ),
    lost_for_now("the image_url has a port of 99999", "[[image-url http://127.0.0.1:99999/x.png]]"),
    lost_for_now("the image_url has a host that is no name", "[[image-url http://a..b/x.png]]"),
    lost_for_now(
        "the image_url is of 100,000 characters",
        f"[[image-url http://127.0.0.1:1/{'x' * 100_000}]]",
        command=BRIEF,
    ),
]

PNG = png()
ON_THE_WIRE = [
    Row(
        "the image_url holds escape sequences",
        5,
        says=(RESUME,),
        command=BRIEF,
        server=lambda: Server({"/fetch": reply({"image_url": "http://\x1b[2J\u202e/x.png"})}),
        status=Status.FINISHED,
    ),
    on_the_wire("headers a byte now and then", slowly(http(200, PNG)[:60], 0.2), 7, command=BRIEF),
    on_the_wire("a length that is too small", http(200, PNG, Content_Length="20"), 5, "incomplete", command=BRIEF),
    on_the_wire("a length that is too large, once", in_turn(http(200, PNG, Content_Length="999"), http(200, PNG))),
    on_the_wire("a negative length", http(200, PNG, Content_Length="-1")),
    on_the_wire("a length that is no number", http(200, PNG, Content_Length="many")),
    on_the_wire("a length of 5000 digits", http(200, PNG, Content_Length="9" * 5000)),
    on_the_wire("two lengths", http(200, PNG, content_length="9"), 5, command=BRIEF),
    on_the_wire("no HTTP, once", in_turn(b"\x00\xff\x00", http(200, PNG))),
    on_the_wire("103 Early Hints, once", in_turn(b"HTTP/1.1 103 Early\r\n\r\n", http(200, PNG))),
    on_the_wire("100 Continue", b"HTTP/1.1 100 Continue\r\n\r\n" + http(200, PNG)),
    on_the_wire(
        "chunks without sense, once", in_turn(http(200, b"zz", Transfer_Encoding="chunked"), http(200, PNG))
    ),
    on_the_wire("reset before a byte, once", in_turn([Action.RESET], http(200, PNG))),
    on_the_wire("reset after the last byte", [http(200, PNG), Action.RESET]),
    on_the_wire("redirect without a Location", http(302), 5, "HTTP 302", command=BRIEF),
    on_the_wire(
        "a redirect by name, without a host",
        lambda r: http(200, PNG) if r.path.endswith("?2") else http(302, Location="?2"),
    ),
    on_the_wire(
        "a text that begins like a picture", http(200, b"\x89PNG\r\n\x1a\n<html>"), 5, "incomplete", command=BRIEF
    ),
    on_the_wire(
        "the key, and another user's, asked for by the images' host",
        lambda r: (
            http(401, WWW_Authenticate="Basic realm=x") if "authorization" not in r.headers else http(200, PNG)
        ),
        5,
        "HTTP 401",
        command=BRIEF,
    ),
]


TABLES = [OVERCOME, LOST_FOR_NOW, ON_THE_WIRE]


@each(*TABLES)
def test_download_fault(row: Row, cli: Cli) -> None:
    """Each row: the exit code, one submission, whole pictures or none, and how to resume."""
    check(row, cli)


@pytest.mark.slow
def test_download_fault_until_the_deadline(tmp_path: Path, subtests: pytest.Subtests) -> None:
    """The same for faults that last."""
    check_deadlines(TABLES, tmp_path, subtests)
