"""The table of faults, its parser, and each fault as it arrives over HTTP."""

import base64
import gzip
import io
import json
import re
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from flux_cli.sandbox.faults import FAULTS, FORMATS, Stage, check, faults_in, parse_faults
from flux_cli.sandbox.injection import HANDLERS
from tests.sandbox.conftest import Api, Response, Start, connected, exchange

# The table and its parser


def test_every_fault_is_tested() -> None:
    """Each row of the stages submission, fetch and image is in a table below, or has a test of its own."""
    both = {f"{prefix}{name}" for name in (*RESPONSES, "endless-continue") for prefix in ("", "fetch-")}
    rows = {name for name, fault in FAULTS.items() if fault.stage in (Stage.SUBMISSION, Stage.FETCH, Stage.IMAGE)}
    assert rows == {*both, *IMAGES, *OTHERS}
    assert set(HANDLERS) <= set(FAULTS)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("lost-repl", "unknown fault `lost-repl`; did you mean `lost-reply`?"),
        ("wat", "unknown fault `wat`"),
        ("http", "CODE"),
        ("http 99", "CODE is 200 to 599"),
        ("slow fast", "slow SECONDS"),
        ("slow nan", "SECONDS is a number"),
        ("html 0", "TIMES"),
        ("html 1 2", "html [TIMES]"),
        ("percentage {", "percentage JSON"),
        ("fail here", "FIELD is one of"),
        ("charset klingon", "charset CHARSET"),
        ("redirect http://\x7f", "without control characters"),
        ("", "unknown fault"),
    ],
)
def test_an_invalid_fault_is_rejected(shared: Api, fault: str, message: str) -> None:
    """In a prompt with a 400: without its fault, a test of a script would succeed without testing anything."""
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_faults([fault])
    if fault and fault.isprintable():
        response = shared.imagine(f"a [[{fault}]] kite")
        assert response.status == 400
        assert message in response.reasons[0]


NONE: dict[str, str] = {}


@pytest.mark.parametrize(
    ("prompt", "faults"),
    [
        *((prompt, NONE) for prompt in ("[[]]", "[[ ]]", "[[", "]] [[fail", "[fail]", "[[[fail]", "[[-fail]]")),
        *((prompt, {"fail": ""}) for prompt in ("[[FAIL]]", "[[ fail ]]", "a[[fail]]b", "[[\nfail\n]]")),
        ("[[json [[1], []]]] [[slow 2]]", {"json": "[[1], []]", "slow": "2"}),
    ],
)
def test_faults_in_a_prompt(prompt: str, faults: dict[str, str]) -> None:
    assert faults_in(prompt) == faults


@given(
    st.sampled_from(sorted(FAULTS)),
    st.text(st.characters(blacklist_characters="[]", blacklist_categories=["Cs"]), max_size=20),
)
def test_arguments_are_parsed_alike_in_prompts_and_options(name: str, argument: str) -> None:
    in_prompt = faults_in(f"x [[{name} {argument}]]")
    try:
        check(in_prompt)
    except ValueError:
        with pytest.raises(ValueError, match=name):
            parse_faults([f"{name} {argument}"])
    else:
        assert in_prompt == parse_faults([f"{name} {argument}"])


OTHERS = set(
    "image-endless-continue task-id no-task-id rejected left-out fetch-flaky expired-url ignore-range wrong-range"
    " changed-file image-trickle huge-image image-redirect utf8-redirect format".split()
)

# Faults of a submission and of a fetch

Check = Callable[[Response], object]


def is_html(response: Response) -> bool:
    return b"<html>" in response.body and response.headers["content-type"].startswith("text/html")


def is_half(response: Response) -> bool:
    return bool(response.broken) and len(response.body) == int(response.headers["content-length"]) // 2


def is_truncated(response: Response) -> bool:
    return not response.broken and response.body.startswith(b'{"task_id"') and not response.body.endswith(b"}")


RESPONSES: Mapping[str, tuple[str, int, Check]] = {
    "http": ("503", 503, is_html),
    "html": ("", 200, is_html),
    "reset": ("", 0, lambda response: response.broken == "ConnectionResetError"),
    "lost-reply": ("", 0, lambda response: response.broken == "RemoteDisconnected"),
    "empty": ("", 200, lambda response: (response.body, response.broken) == (b"", "")),
    "truncated-json": ("", 200, is_truncated),
    "cut-json": ("", 200, is_half),
    "json": ("[[1], []]", 200, lambda response: response.body == b"[[1], []]"),
    "nested": ("result", 200, lambda response: response.json()["result"]["task_id"]),
    "padded-json": ("", 200, lambda response: re.fullmatch(rb"[^{]+\{.*\}[^}]+", response.body, re.S)),
    "charset": ("utf-16", 200, lambda response: "task_id" in json.loads(response.body.decode("utf-16"))),
    "redirect": ("", 307, lambda response: response.headers["location"].startswith("http://127.0.0.1:")),
    "rate-limit": ("", 429, lambda response: response.headers["retry-after"] == "1"),
    "early-hints": ("", 103, lambda response: response.headers["link"]),  # http.client takes it for the response
    "slow-header": ("", 0, lambda response: response.broken == "TimeoutError"),
    "trickle": ("", 200, lambda response: response.broken == "TimeoutError"),
    "hang": ("", 0, lambda response: response.broken == "TimeoutError"),
    "huge-answer": ("", 200, lambda response: len(response.body) == 64 * 2**20 and "padding" in response.json()),
    "deep-json": ("", 200, lambda response: response.body == b"[" * 100_000 + b"]" * 100_000),
}
"""The argument, the status code, and what has to hold for the response."""
ENDLESS = ("slow-header", "trickle", "hang")
NOT_ACCEPTED = ("rate-limit", "redirect")


@pytest.mark.parametrize("name", RESPONSES)
def test_response(shared: Api, name: str) -> None:
    """Of a submission, accepted unless the client can know that it is not; and of a fetch, with a prefix."""
    argument, status, check = RESPONSES[name]
    timeout = 0.1 if name in ENDLESS else 20
    before = shared.service.stats.accepted
    submission = shared.imagine(f"[[{name} {argument}]]", timeout=timeout)
    assert shared.service.stats.accepted - before == (name not in NOT_ACCEPTED)
    fetch = shared.fetch(shared.submit(f"[[fetch-{name} {argument}]]"), timeout=timeout)
    for response in (submission, fetch):
        assert response.status == status
        assert check(response)


@pytest.mark.parametrize(
    "code", [200, 201, 202, 204, 301, 303, 308, 400, 401, 405, 408, 409, 413, 425, 429, 500, 504]
)
def test_http_statuses(shared: Api, code: int) -> None:
    """2xx has the usual body, 3xx a Location; a clear rejection costs nothing."""
    before = shared.service.stats.accepted
    response = shared.imagine(f"[[http {code}]]")
    assert response.status == code
    accepted = code < 300 or code in (303, 408, 409, 425) or code >= 500
    assert shared.service.stats.accepted - before == accepted
    if code < 300:
        assert code == 204 or response.json()["task_id"]
    elif code < 400:
        assert response.headers["location"].endswith("/flux-imagine")
    elif code >= 502:
        assert is_html(response)
    else:
        assert response.json() == {} if code in (401, 500) else response.reasons


@pytest.mark.parametrize("header", ["-5", "nan", "99999", "none", "date"])
def test_rate_limit_headers(shared: Api, header: str) -> None:
    """Any Retry-After; after the last 429 the same prompt can be used again."""
    responses = [shared.imagine(f"a kite [[rate-limit 1 {header}]]") for _ in range(4)]
    assert [response.status for response in responses] == [429, 200, 429, 200]
    value = responses[0].headers.get("retry-after")
    if header == "date":
        assert parsedate_to_datetime(str(value)).tzinfo is not None
    else:
        assert value == (None if header == "none" else header)


def test_interim_responses(shared: Api) -> None:
    forever = b"HTTP/1.1 100 Continue\r\n\r\n" * 3
    submission = {"model": "flux-pro", "prompt": "[[endless-continue]]"}
    hints = {"model": "flux-pro", "prompt": "[[early-hints]]"}
    fetch = {"task_id": shared.submit("[[fetch-endless-continue]]")}
    picture = urlsplit(shared.finished("[[image-endless-continue]]")["image_url"]).path
    for url, line, body, expected in (
        (shared.service.url, "POST /flux-imagine", hints, b"HTTP/1.1 103 Early Hints\r\n"),
        (shared.service.url, "POST /flux-imagine", submission, forever),
        (shared.service.url, "POST /fetch", fetch, forever),
        (shared.service.images_url, f"GET {picture}", None, forever),
    ):
        content = json.dumps(body).encode() if body else b""
        headers = f"Content-Length: {len(content)}\r\nAuthorization: k\r\n" if body else ""
        with connected(url) as connection, connection.makefile("rb") as stream:
            connection.sendall(f"{line} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode() + content)
            assert stream.read(len(expected)) == expected


def test_task_ids(shared: Api) -> None:
    for text in ("null", "17", '"../../x"', '""'):
        assert shared.imagine(f"[[task-id {text}]]").body == f'{{"task_id": {text}}}'.encode()
    assert shared.imagine("[[no-task-id]]").json() == {}


def test_rejected(shared: Api) -> None:
    before = shared.service.stats.accepted
    response = shared.imagine("[[rejected]]")
    assert (response.status, list(response.json())) == (200, ["error"])
    assert list(shared.imagine("[[rejected detail]]").json()) == ["detail"]
    assert shared.service.stats.accepted == before


def test_left_out(shared: Api) -> None:
    ids = [shared.submit("a [[left-out 1]]"), shared.submit("b"), shared.submit("c [[left-out]]")]
    for expected in ({ids[1]}, {ids[0], ids[1]}, {ids[0], ids[1]}):
        tasks = shared.post("/fetch-many", {"task_ids": ids}).json()["tasks"]
        assert {task["task_id"] for task in tasks} == expected
    assert shared.fetch(ids[2]).status == 200


def test_flaky(shared: Api) -> None:
    task_id = shared.submit("[[fetch-flaky 7]]")
    responses = [shared.fetch(task_id) for _ in range(8)]
    assert [response.status for response in responses] == [503, 0, 429, 200, 500, 200, 504, 200]
    assert is_html(responses[3])
    assert responses[5].broken
    assert responses[7].json()["task_id"] == task_id


def test_task_ids_to_fetch(shared: Api) -> None:
    """A number and one with spaces are found under the ID without decoration; an accepted task can be unknown."""
    assert shared.fetch(shared.submit("[[unknown-task]]")).status == 404
    number = shared.imagine("[[number-id]]").json()["task_id"]
    assert isinstance(number, int)
    for task_id in (number, str(number)):
        assert shared.post("/fetch", {"task_id": task_id}).json()["task_id"] == number
    spaced = shared.submit("[[spaced-id]]")
    assert spaced != spaced.strip()
    assert shared.fetch(spaced.strip()).status == 200


# Faults of the download


def is_picture(response: Response, kind: str = "PNG") -> bool:
    try:
        with Image.open(io.BytesIO(response.body)) as image:
            image.load()
            return image.format == kind
    except (OSError, SyntaxError):
        return False


def has_type(response: Response, content_type: str) -> bool:
    return response.headers["content-type"] == content_type


def is_png_of_no_length(response: Response) -> bool:
    return is_picture(response) and not {"content-length", "transfer-encoding"} & set(response.headers)


IMAGES: Mapping[str, tuple[str, int, Check]] = {
    "image-http": ("404", 404, lambda response: response.reasons),
    "image-rate-limit": ("1 7", 429, lambda response: response.headers["retry-after"] == "7"),
    "html-image": ("", 200, is_html),
    "json-image": ("", 200, lambda response: response.json()["message"]),
    "empty-image": ("", 200, lambda response: not response.body and has_type(response, "image/png")),
    "image-reset": ("", 200, lambda response: response.broken),
    "cut-download": ("", 200, is_half),
    "short-length": ("", 200, lambda response: not response.broken and not is_picture(response)),
    "no-length": ("", 200, is_png_of_no_length),
    "cut-no-length": ("", 200, lambda response: not response.broken and not is_picture(response)),
    "chunked": ("", 200, lambda response: is_picture(response) and "content-length" not in response.headers),
    "cut-chunked": ("", 200, lambda response: response.broken == "IncompleteRead"),
    "gzip": ("", 200, lambda response: gzip.decompress(response.body).startswith(b"\x89PNG")),
    "cut-gzip": ("", 200, lambda response: not response.broken and response.body.startswith(b"\x1f\x8b")),
    "content-encoding": ("br", 200, lambda response: is_picture(response)),
    "damaged-image": ("", 200, lambda response: not response.broken and not is_picture(response)),
    "trailing-data": ("", 200, lambda response: is_picture(response) and response.body.endswith(bytes(65536))),
    "image-early-hints": ("", 103, lambda response: response.headers["link"]),
    "image-slow-header": ("", 0, lambda response: response.broken == "TimeoutError"),
    "image-hang": ("", 200, is_half),
    "redirect-loop": ("", 302, lambda response: response.headers["location"].endswith(".png")),
    "jpeg-as-png": ("", 200, lambda response: is_picture(response, "JPEG")),
    "webp": ("", 200, lambda response: has_type(response, "image/webp") and is_picture(response, "WEBP")),
    "gif": ("", 200, lambda response: has_type(response, "image/gif") and is_picture(response, "GIF")),
}


@pytest.mark.parametrize("name", IMAGES)
def test_download(shared: Api, name: str) -> None:
    argument, status, check = IMAGES[name]
    timeout = {"image-slow-header": 0.1, "image-hang": 1}.get(name, 20)
    response = shared.picture(f"[[{name} {argument}]]", timeout=timeout)
    assert response.status == status
    assert check(response)


def test_expired_url(shared: Api) -> None:
    """A new fetch gives a new URL, after the old one was tried."""
    first = shared.finished("[[expired-url]]")
    assert shared.fetch(first["task_id"]).json()["image_url"] == first["image_url"]
    assert exchange("GET", first["image_url"]).status == 403
    second = shared.fetch(first["task_id"]).json()
    assert exchange("GET", first["image_url"]).status == 403
    for name in ("image_url", "original_image_url"):
        assert exchange("GET", second[name]).status == 200


def test_ranges(shared: Api) -> None:
    """A cut download resumes; a server can ignore, misread or outdate the range."""
    statuses = {"": 206, "[[ignore-range]]": 200, "[[wrong-range]]": 206, "[[changed-file]]": 200}
    for fault, status in statuses.items():
        url = shared.finished(f"[[cut-download 1]] {fault}")["image_url"]
        cut = exchange("GET", url)
        headers = {"Range": f"bytes={len(cut.body)}-", "If-Range": cut.headers["etag"]}
        rest = exchange("GET", url, headers=headers)
        assert rest.status == status
        whole = exchange("GET", f"{url}?again=1").body
        assert (cut.body + rest.body == whole) == (not fault)
        assert is_picture(rest) == (status == 200)
        assert (rest.headers.get("etag") == cut.headers["etag"]) == (fault in ("", "[[wrong-range]]"))


def test_range_at_the_end(shared: Api) -> None:
    """416, even if the file is to be damaged or cut."""
    for fault in ("", "[[damaged-image]]", "[[cut-download]]", "[[chunked]]", "[[gzip]]"):
        url = shared.finished(f"a kite {fault}")["image_url"]
        size = len(exchange("GET", f"{url}?again=1").body)
        for wanted in (f"bytes={size}-", "bytes=nonsense"):
            assert exchange("GET", url, headers={"Range": wanted}).status == 416


def test_first_bytes(shared: Api) -> None:
    assert shared.picture("[[image-trickle]]", most=2).body[:2] == b"\x89P"
    response = shared.picture("[[huge-image]]", most=2**20)
    assert int(response.headers["content-length"]) == 300 * 2**20
    assert response.body.startswith(b"\x89PNG")


def test_redirects(shared: Api) -> None:
    response = shared.picture("[[image-redirect]]")
    assert response.status == 302
    assert is_picture(exchange("GET", shared.service.images_url + response.headers["location"]))
    assert shared.picture("[[image-redirect ftp://x/y]]").headers["location"] == "ftp://x/y"
    location = shared.picture("[[utf8-redirect]]").headers["location"]
    assert location.endswith("größe".encode().decode("latin-1"))
    url = shared.service.images_url + urlsplit(location).path
    for value, status in (("gr%C3%B6%C3%9Fe", 200), ("gr%C3%83%C2%B6%C3%83%C2%9Fe", 404)):
        assert exchange("GET", f"{url}?again={value}").status == status


def test_formats(shared: Api) -> None:
    for name in FORMATS:
        url = shared.finished(f"[[format {name}]]")["image_url"]
        response = exchange("GET", url)
        assert url.endswith(f".{name}")
        assert response.headers["content-type"].partition("/")[2].startswith(name.replace("svg", "svg+xml"))
        assert response.body[:4] != b"\x89PNG"


def test_urls_without_an_origin(shared: Api) -> None:
    """As data, without a scheme, and on the API's own host; the latter needs no key."""
    url = shared.finished("[[data-url]]")["image_url"]
    assert is_picture(Response(200, {}, base64.b64decode(url.removeprefix("data:image/png;base64,"))))
    url = shared.finished("[[protocol-relative]]")["image_url"]
    assert url.startswith("//")
    assert is_picture(exchange("GET", f"http:{url}"))
    url = shared.finished("[[host-relative]]")["image_url"]
    assert url.startswith("/")
    assert is_picture(exchange("GET", shared.service.url + url))


# Several faults


def test_several_faults_take_effect_in_the_order_of_the_table(shared: Api) -> None:
    """At one stage the first that is not used up; at different stages all; of the same the last."""
    task_id = shared.submit("a [[fetch-html 1]] [[fetch-http 503 1]] [[fetch-http 502 1]] [[no-status]]")
    first, second = shared.fetch(task_id), shared.fetch(task_id)
    assert (first.status, second.status, is_html(second)) == (502, 200, True)
    assert "status" not in shared.fetch(task_id).json()


def test_counts_are_per_task(shared: Api) -> None:
    one, other = shared.submit("[[fetch-http 503 1]]"), shared.submit("[[fetch-http 503 1]]")
    assert [shared.fetch(task_id).status for task_id in (one, other, one, other)] == [503, 503, 200, 200]


def test_fetch_many_meets_one_fault_at_a_time(shared: Api) -> None:
    """The faults of the other tasks happen later."""
    ids = [shared.submit("a [[fetch-http 503 1]]"), shared.submit("b"), shared.submit("c [[fetch-reset 1]]")]
    responses: list[Any] = [shared.post("/fetch-many", {"task_ids": ids}) for _ in range(3)]
    assert [response.status for response in responses] == [0, 503, 200]
    assert len(responses[2].json()["tasks"]) == 3


def test_a_server_s_faults_apply_to_every_request(start: Start) -> None:
    """/account has those of a submission; a prompt's own arguments win."""
    api = start(faults=["http 503 1", "[[fetch-http 502 1]]", "fail message"])
    assert exchange("GET", f"{api.service.url}/account", headers={"Authorization": "k"}).status == 503
    assert api.account()["credits"] == 1000
    assert api.imagine("a").status == 503
    task_id = api.submit("a")
    assert api.fetch(task_id).status == 502
    assert "message" in api.fetch(task_id).json()
    assert "error" in start(faults=["fail message"]).finished("a [[fail error]]")
