"""Clients that misbehave: the sandbox goes on for everybody else."""

import contextlib
import random
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flux_cli.sandbox import Running
from tests.sandbox.conftest import Api, Start, exchange

POST = "POST /fetch HTTP/1.1\r\nHost: x\r\nAuthorization: k\r\n"
HEADERS_AND_HALF_A_BODY = f"{POST}Content-Length: 100\r\n\r\n{{".encode()


@contextlib.contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    """Yield a bare connection to an origin."""
    parts = urlsplit(url)
    with socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=10) as connection:
        yield connection


def answer_to(url: str, sent: bytes) -> bytes:
    """Send bytes, then no more, and return all that comes until the server closes; nothing where it resets."""
    with connected(url) as connection:
        with contextlib.suppress(OSError):  # it may have closed already
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
        pieces = []
        with contextlib.suppress(ConnectionError):
            while piece := connection.recv(65536):
                pieces.append(piece)
        return b"".join(pieces)


def is_well(service: Running) -> bool:
    """Say whether both origins still answer as they should."""
    api = Api(service)
    done = api.ended(api.submit("a kite [[slow 0]]"))
    return exchange("GET", done["image_url"]).status == 200


REFUSED = {
    "a negative length": f"{POST}Content-Length: -1\r\n\r\n".encode(),
    "a length that is no number": f"{POST}Content-Length: many\r\n\r\n".encode(),
    "two lengths": f"{POST}Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx".encode(),
    "a length and chunks": f"{POST}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".encode(),
    "chunks of nonsense": f"{POST}Transfer-Encoding: chunked\r\n\r\nzz\r\nxx\r\n0\r\n\r\n".encode(),
    "a header of 1 MiB": f"{POST}X: {'x' * 2**20}\r\n\r\n".encode(),
    "10,000 headers": (POST + "X: y\r\n" * 10_000 + "\r\n").encode(),
    "a request line of 1 MiB": f"GET /{'x' * 2**20} HTTP/1.1\r\n\r\n".encode(),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no method at all": b"\r\n\r\n \r\n\r\n",
    "another protocol": b"EHLO example.com\r\n",
    "control characters": b"GET /\x00\x1b[31m HTTP/1.1\r\n\r\n",
    "a compressed body that is not": f"{POST}Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd".encode(),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("origin", ["url", "images_url"])
def test_what_is_not_http_is_refused_and_does_no_harm(service: Running, name: str, origin: str) -> None:
    """With a status of 4xx, or by closing the connection."""
    answer = answer_to(getattr(service, origin), REFUSED[name])
    assert answer == b"" or answer.split(b" ")[1].startswith(b"4"), answer[:200]
    assert is_well(service)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_any_bytes_do_no_harm(service: Running, sent: bytes) -> None:
    """Garbage never brings an answer that says that all is well, nor ends the server."""
    assert b" 200 OK" not in answer_to(service.url, sent)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from(["/flux-imagine", "/fetch", "/fetch-many"]),
)
def test_any_json_is_answered(service: Running, body: object, path: str) -> None:
    """With 400 or 404, never with 500."""
    assert Api(service).post(path, body).status in (400, 404)


def test_any_values_in_the_request_s_fields_are_answered(service: Running) -> None:
    """Of every type, at the limits and beyond them: 200 or 400."""
    chance = random.Random(1)  # noqa: S311 - no secret
    names = [
        "width",
        "height",
        "seed",
        "steps",
        "guidance",
        "interval",
        "aspect_ratio",
        "raw",
        "image_prompt",
        "x",
    ]
    values = [0, -1, 2**63, 10**400, 1e308, "", "16:9", "\ud800", None, True, [], {}, 300, "a" * 10_000, 0.5]
    seen = set()
    for _ in range(300):
        fields = {name: chance.choice(values) for name in chance.sample(names, 2)}
        body = {"model": chance.choice(["flux-pro", "flux-pro-1.1-ultra"]), "prompt": "a kite", **fields}
        seen.add(Api(service).post("/flux-imagine", body).status)
    assert seen == {200, 400}


def test_a_body_of_64_mib_is_refused_and_the_client_hears_of_it(service: Running) -> None:
    """413, even while the client is still sending."""
    with connected(service.url) as connection:
        connection.sendall(
            f"{POST.replace('/fetch', '/flux-imagine')}Content-Length: {64 * 2**20}\r\n\r\n".encode()
        )
        block = bytes(2**20)
        with contextlib.suppress(ConnectionError):
            for _ in range(64):
                connection.sendall(block)
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")
    assert is_well(service)


def test_a_body_of_64_mib_in_chunks_is_refused_too(service: Running) -> None:
    """Though its length is not announced."""
    with connected(service.url) as connection:
        connection.sendall(f"{POST.replace('/fetch', '/flux-imagine')}Transfer-Encoding: chunked\r\n\r\n".encode())
        chunk = b"100000\r\n" + bytes(2**20) + b"\r\n"
        with contextlib.suppress(ConnectionError):
            for _ in range(64):
                connection.sendall(chunk)
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")
    assert is_well(service)


def test_idle_and_half_sent_connections_hold_up_nobody(service: Running) -> None:
    """Three hundred of them, while others are served; they may leave at any time."""
    beginnings = [b"", b"POST", b"POST /fetch HTTP/1.1\r\nContent-Le", HEADERS_AND_HALF_A_BODY]
    with contextlib.ExitStack() as stack:
        for number in range(300):
            connection = stack.enter_context(connected(service.url))
            connection.sendall(beginnings[number % len(beginnings)])
        assert is_well(service)
    assert is_well(service)


def test_a_body_that_arrives_a_byte_at_a_time_is_taken(service: Running) -> None:
    """Slowness is no crime."""
    body = b'{"task_id": "nothing"}'
    with connected(service.url) as connection:
        connection.sendall(f"{POST}Content-Length: {len(body)}\r\n\r\n".encode())
        for index in range(len(body)):
            connection.sendall(body[index : index + 1])
        assert connection.recv(4096).startswith(b"HTTP/1.1 404 ")


def test_clients_that_leave_in_the_middle_do_no_harm(start: Start) -> None:
    """During an answer without end, a silent one, a huge one and a picture."""
    lines: list[str] = []
    api = start(log=lines.append)
    picture = api.finished("[[image-trickle]]")["image_url"]
    for fault in ("trickle", "hang", "huge-answer"):
        body = f'{{"model": "flux-pro", "prompt": "[[{fault}]]"}}'
        for _ in range(5):
            with connected(api.service.url) as connection:
                head = f"{POST.replace('/fetch', '/flux-imagine')}Content-Length: {len(body)}\r\n\r\n{body}"
                connection.sendall(head.encode())
            exchange("GET", picture, most=1)
    assert is_well(api.service)
    assert not any("Error" in line for line in lines), lines


def test_many_clients_at_once_are_all_served(service: Running) -> None:
    """Each gets its own task's picture; the counts agree."""
    api, failures = Api(service), []

    def client(number: int) -> None:
        for turn in range(5):
            done = api.ended(api.submit(f"a kite {number} {turn} [[slow 0]]"))
            if exchange("GET", done["image_url"]).status != 200:
                failures.append(done)

    clients = [threading.Thread(target=client, args=(number,)) for number in range(12)]
    for each in clients:
        each.start()
    for each in clients:
        each.join()
    assert failures == []
    assert service.stats.accepted == service.stats.images == 60
    assert api.account()["credits"] == 940
