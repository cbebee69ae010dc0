"""The table of faults, its parser, and each fault as it arrives over HTTP."""

import base64
import gzip
import io
import json
import re
import socket
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from flux_cli.errors import UsageError
from flux_cli.sandbox.faults import FAULTS, FORMATS, Stage, check, faults_in, parse_faults
from flux_cli.sandbox.injection import HANDLERS
from tests.sandbox.conftest import Api, Response, Start, exchange

# The table and its parser


def test_kinds_and_handlers_match() -> None:
    """The table and the handlers agree."""
    assert set(HANDLERS) <= set(FAULTS)


def test_every_fault_is_tested() -> None:
    """Each row of the stages submission, fetch and image has a check below."""
    rows = {name for name, fault in FAULTS.items() if fault.stage in (Stage.SUBMISSION, Stage.FETCH, Stage.IMAGE)}
    both = {f"{prefix}{name}" for name in (*RESPONSES, "endless-continue") for prefix in ("", "fetch-")}
    assert both | {"image-endless-continue"} | {*SUBMISSION_FAULTS, *FETCH_FAULTS, *IMAGES, *IMAGE_FAULTS} == rows


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("lost-repl", "did you mean `lost-reply`"),
        ("nothing-like-it-at-all", "unknown fault"),
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
def test_an_invalid_fault_is_rejected(start: Start, fault: str, message: str) -> None:
    """A usage error for a server; 400 in a prompt if the name is known."""
    with pytest.raises(UsageError, match=re.escape(message)):
        start(faults=[fault])
    if fault.split(" ")[0] in FAULTS and fault.isprintable():
        response = start().imagine(f"[[{fault}]]")
        assert (response.status, message in response.reasons[0]) == (400, True)


@pytest.mark.parametrize("prompt", ["[[]]", "[[ ]]", "[[", "]] [[fail", "[fail]", "[[[fail]", "[[-fail]]"])
def test_other_brackets_mean_nothing(prompt: str) -> None:
    """A prompt can contain them."""
    assert faults_in(prompt) == {}


@pytest.mark.parametrize("prompt", ["[[fail]]", "[[FAIL]]", "[[ fail ]]", "a[[fail]]b", "[[\nfail\n]]"])
def test_case_and_spaces_do_not_matter(prompt: str) -> None:
    """Faults are found however people write them."""
    assert faults_in(prompt) == {"fail": ""}


@given(
    st.sampled_from(sorted(FAULTS)),
    st.text(st.characters(blacklist_characters="[]", blacklist_categories=["Cs"]), max_size=20),
)
def test_arguments_are_parsed_alike_in_prompts_and_options(name: str, argument: str) -> None:
    """Both use the same table, and raise nothing but ValueError."""
    in_prompt = faults_in(f"x [[{name} {argument}]]")
    try:
        check(in_prompt)
    except ValueError:
        with pytest.raises(ValueError, match=name):
            parse_faults([f"{name} {argument}"])
    else:
        assert in_prompt == parse_faults([f"{name} {argument}"])


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a [[lost-repl]] kite", "unknown fault `lost-repl`; did you mean `lost-reply`?"),
        ("a [[wat]] kite", "unknown fault `wat`"),
    ],
)
def test_an_unknown_name_in_a_prompt_is_rejected(shared: Api, prompt: str, message: str) -> None:
    """It is probably a typing error: without the fault, the test that it is for would succeed."""
    response = shared.imagine(prompt)
    assert response.status == 400
    assert response.reasons == [f"invalid fault in `prompt`: {message}"]


# Faults of a submission and of a fetch

Check = Callable[[Response], object]


def is_html(response: Response) -> bool:
    """Return whether a gateway's page came."""
    return b"<html>" in response.body and response.headers["content-type"].startswith("text/html")


def is_cut(response: Response) -> bool:
    """Return whether half of the promised bytes came."""
    return (
        response.broken == "IncompleteRead" and len(response.body) == int(response.headers["content-length"]) // 2
    )


def is_truncated(response: Response) -> bool:
    """Return whether half of the JSON came, with the right length."""
    return not response.broken and response.body.startswith(b'{"task_id"') and not response.body.endswith(b"}")


RESPONSES: Mapping[str, tuple[str, int, Check]] = {
    "http": ("503", 503, is_html),
    "html": ("", 200, is_html),
    "reset": ("", 0, lambda response: response.broken == "ConnectionResetError"),
    "lost-reply": ("", 0, lambda response: response.broken == "RemoteDisconnected"),
    "empty": ("", 200, lambda response: (response.body, response.broken) == (b"", "")),
    "truncated-json": ("", 200, is_truncated),
    "cut-json": ("", 200, is_cut),
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
def test_response_of_a_submission(shared: Api, name: str) -> None:
    """The task is accepted unless the client can know that it is not."""
    argument, status, check = RESPONSES[name]
    before = shared.service.stats.accepted
    response = shared.imagine(f"[[{name} {argument}]]", timeout=0.1 if name in ENDLESS else 20)
    assert response.status == status
    assert check(response)
    assert shared.service.stats.accepted - before == (name not in NOT_ACCEPTED)


@pytest.mark.parametrize("name", RESPONSES)
def test_response_of_a_fetch(shared: Api, name: str) -> None:
    """The same faults, with a prefix."""
    argument, status, check = RESPONSES[name]
    task_id = shared.submit(f"[[fetch-{name} {argument}]]")
    response = shared.fetch(task_id, timeout=0.1 if name in ENDLESS else 20)
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


@pytest.mark.parametrize(
    ("arguments", "header"), [("1 -5", "-5"), ("1 nan", "nan"), ("1 none", None), ("1 99999", "99999")]
)
def test_rate_limit_headers(shared: Api, arguments: str, header: str | None) -> None:
    """Any Retry-After; after the last 429 the same prompt can be used again."""
    responses = [shared.imagine(f"a kite [[rate-limit {arguments}]]") for _ in range(4)]
    assert [response.status for response in responses] == [429, 200, 429, 200]
    assert responses[0].headers.get("retry-after") == header


def test_rate_limit_date(shared: Api) -> None:
    """Retry-After can be a date."""
    header = shared.imagine("[[rate-limit 1 date]]").headers["retry-after"]
    assert parsedate_to_datetime(header).tzinfo is not None


def first_bytes(url: str, request: bytes, count: int) -> bytes:
    """Send a request and return the first bytes of the response."""
    parts = urlsplit(url)
    with socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=10) as connection:
        connection.sendall(request)
        with connection.makefile("rb") as stream:
            return stream.read(count)


def test_interim_responses(shared: Api) -> None:
    """103 comes before the response; 100 comes again and again."""
    forever = b"HTTP/1.1 100 Continue\r\n\r\n" * 3
    for fault, path, expected in (
        ("early-hints", "/flux-imagine", b"HTTP/1.1 103 Early Hints\r\n"),
        ("endless-continue", "/flux-imagine", forever),
        ("fetch-endless-continue", "/fetch", forever),
    ):
        prompt = f"[[{fault}]]"
        body = {"task_id": shared.submit(prompt)} if path == "/fetch" else {"model": "flux-pro", "prompt": prompt}
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: k\r\nContent-Length: {len(content)}\r\n\r\n"
        assert first_bytes(shared.service.url, head.encode() + content, len(expected)) == expected
    url = shared.finished("[[image-endless-continue]]")["image_url"]
    request = f"GET {urlsplit(url).path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    assert first_bytes(url, request, len(forever)) == forever


def check_task_ids(api: Api) -> None:
    """Any JSON value, or none at all."""
    for text in ("null", "17", '"../../x"', '""'):
        assert api.imagine(f"[[task-id {text}]]").body == f'{{"task_id": {text}}}'.encode()
    assert api.imagine("[[no-task-id]]").json() == {}


def check_rejected(api: Api) -> None:
    """Status 200 with a reason, and nothing is charged."""
    before = api.service.stats.accepted
    response = api.imagine("[[rejected]]")
    assert (response.status, list(response.json())) == (200, ["error"])
    assert list(api.imagine("[[rejected detail]]").json()) == ["detail"]
    assert api.service.stats.accepted == before


def check_left_out(api: Api) -> None:
    """/fetch-many omits the task; /fetch has it."""
    ids = [api.submit("a [[left-out 1]]"), api.submit("b"), api.submit("c [[left-out]]")]
    for expected in ({ids[1]}, {ids[0], ids[1]}, {ids[0], ids[1]}):
        tasks = api.post("/fetch-many", {"task_ids": ids}).json()["tasks"]
        assert {task["task_id"] for task in tasks} == expected
    assert api.fetch(ids[2]).status == 200


def check_flaky(api: Api) -> None:
    """Seven failures, each different, and then the task."""
    task_id = api.submit("[[fetch-flaky 7]]")
    responses = [api.fetch(task_id) for _ in range(8)]
    assert [response.status for response in responses] == [503, 0, 429, 200, 500, 200, 504, 200]
    assert is_html(responses[3])
    assert responses[5].broken
    assert responses[7].json()["task_id"] == task_id


SUBMISSION_FAULTS = {"task-id": check_task_ids, "no-task-id": check_task_ids, "rejected": check_rejected}
FETCH_FAULTS = {"left-out": check_left_out, "fetch-flaky": check_flaky}


@pytest.mark.parametrize(
    "check",
    list(dict.fromkeys([*SUBMISSION_FAULTS.values(), *FETCH_FAULTS.values()])),
    ids=lambda check: check.__name__,
)
def test_special_responses(shared: Api, check: Callable[[Api], None]) -> None:
    """Faults of one endpoint."""
    check(shared)


def test_unknown_task(shared: Api) -> None:
    """A task can be accepted and then unknown."""
    assert shared.fetch(shared.submit("[[unknown-task]]")).status == 404


def test_task_ids_as_numbers_and_with_spaces(shared: Api) -> None:
    """The task is found under the ID without decoration."""
    number = shared.imagine("[[number-id]]").json()["task_id"]
    assert isinstance(number, int)
    for task_id in (number, str(number)):
        assert shared.post("/fetch", {"task_id": task_id}).json()["task_id"] == number
    spaced = shared.submit("[[spaced-id]]")
    assert spaced != spaced.strip()
    assert shared.fetch(spaced.strip()).status == 200


# Faults of the download


def is_picture(response: Response, kind: str = "PNG") -> bool:
    """Return whether the body is a whole picture."""
    try:
        with Image.open(io.BytesIO(response.body)) as image:
            image.load()
            return image.format == kind
    except (OSError, SyntaxError):
        return False


def is_png_of_no_length(response: Response) -> bool:
    """Return whether a picture came that ended with the connection."""
    return is_picture(response) and not {"content-length", "transfer-encoding"} & set(response.headers)


IMAGES: Mapping[str, tuple[str, int, Check]] = {
    "image-http": ("404", 404, lambda response: response.reasons),
    "image-rate-limit": ("1 7", 429, lambda response: response.headers["retry-after"] == "7"),
    "html-image": ("", 200, is_html),
    "json-image": ("", 200, lambda response: response.json()["message"]),
    "empty-image": (
        "",
        200,
        lambda response: not response.body and response.headers["content-type"] == "image/png",
    ),
    "image-reset": ("", 200, lambda response: response.broken),
    "cut-download": ("", 200, is_cut),
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
    "image-hang": ("", 200, lambda response: len(response.body) == int(response.headers["content-length"]) // 2),
    "redirect-loop": ("", 302, lambda response: response.headers["location"].endswith(".png")),
    "jpeg-as-png": ("", 200, lambda response: is_picture(response, "JPEG")),
    "webp": (
        "",
        200,
        lambda response: response.headers["content-type"] == "image/webp" and is_picture(response, "WEBP"),
    ),
    "gif": (
        "",
        200,
        lambda response: response.headers["content-type"] == "image/gif" and is_picture(response, "GIF"),
    ),
}


@pytest.mark.parametrize("name", IMAGES)
def test_download(shared: Api, name: str) -> None:
    """Each fault of the download."""
    argument, status, check = IMAGES[name]
    timeout = {"image-slow-header": 0.1, "image-hang": 1}.get(name, 20)
    response = shared.picture(f"[[{name} {argument}]]", timeout=timeout)
    assert response.status == status
    assert check(response)


def check_expired_url(api: Api) -> None:
    """A new fetch gives a new URL, after the old one was tried."""
    first = api.finished("[[expired-url]]")
    assert api.fetch(first["task_id"]).json()["image_url"] == first["image_url"]
    assert exchange("GET", first["image_url"]).status == 403
    second = api.fetch(first["task_id"]).json()
    assert exchange("GET", first["image_url"]).status == 403
    for name in ("image_url", "original_image_url"):
        assert exchange("GET", second[name]).status == 200


def check_ranges(api: Api) -> None:
    """A cut download resumes; a server can ignore, misread or outdate the range."""
    for fault, status in (
        ("", 206),
        ("[[ignore-range]]", 200),
        ("[[wrong-range]]", 206),
        ("[[changed-file]]", 200),
    ):
        url = api.finished(f"[[cut-download 1]] {fault}")["image_url"]
        cut = exchange("GET", url)
        headers = {"Range": f"bytes={len(cut.body)}-", "If-Range": cut.headers["etag"]}
        rest = exchange("GET", url, headers=headers)
        assert rest.status == status
        whole = exchange("GET", f"{url}?again=1").body
        assert (cut.body + rest.body == whole) == (not fault)
        assert is_picture(rest) == (status == 200)
        assert (rest.headers.get("etag") == cut.headers["etag"]) == (fault in ("", "[[wrong-range]]"))


def check_range_at_the_end(api: Api) -> None:
    """416, even if the file is to be damaged or cut."""
    for fault in ("", "[[damaged-image]]", "[[cut-download]]", "[[chunked]]", "[[gzip]]"):
        url = api.finished(f"a kite {fault}")["image_url"]
        size = len(exchange("GET", f"{url}?again=1").body)
        assert exchange("GET", url, headers={"Range": f"bytes={size}-"}).status == 416


def check_first_bytes(api: Api) -> None:
    """One byte after the other; or 300 MiB that begin like a PNG."""
    assert api.picture("[[image-trickle]]", most=2).body == b"\x89P"
    response = api.picture("[[huge-image]]", most=2**20)
    assert int(response.headers["content-length"]) == 300 * 2**20
    assert response.body.startswith(b"\x89PNG")


def check_redirects(api: Api) -> None:
    """To a good URL, to any URL, and in raw UTF-8."""
    response = api.picture("[[image-redirect]]")
    assert (
        response.status,
        is_picture(exchange("GET", api.service.images_url + response.headers["location"])),
    ) == (302, True)
    assert api.picture("[[image-redirect ftp://x/y]]").headers["location"] == "ftp://x/y"
    location = api.picture("[[utf8-redirect]]").headers["location"]
    assert location.endswith("größe".encode().decode("latin-1"))
    for value, status in (("gr%C3%B6%C3%9Fe", 200), ("gr%C3%83%C2%B6%C3%83%C2%9Fe", 404)):
        assert exchange("GET", f"{api.service.images_url}{urlsplit(location).path}?again={value}").status == status


def check_formats(api: Api) -> None:
    """Each has its extension and content type; none is a PNG."""
    for name in FORMATS:
        url = api.finished(f"[[format {name}]]")["image_url"]
        response = exchange("GET", url)
        assert url.endswith(f".{name}")
        assert response.headers["content-type"].partition("/")[2].startswith(name.replace("svg", "svg+xml"))
        assert response.body[:4] != b"\x89PNG"


IMAGE_FAULTS: Mapping[str, Callable[[Api], None]] = {
    "expired-url": check_expired_url,
    "ignore-range": check_ranges,
    "wrong-range": check_ranges,
    "changed-file": check_ranges,
    "image-trickle": check_first_bytes,
    "huge-image": check_first_bytes,
    "damaged-image": check_range_at_the_end,
    "image-redirect": check_redirects,
    "utf8-redirect": check_redirects,
    "format": check_formats,
}


@pytest.mark.parametrize("check", list(dict.fromkeys(IMAGE_FAULTS.values())), ids=lambda check: check.__name__)
def test_special_downloads(shared: Api, check: Callable[[Api], None]) -> None:
    """Faults that take more than one request to see."""
    check(shared)


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
    """The same prompt twice: each task has its own count."""
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
