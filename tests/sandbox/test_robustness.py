"""Clients that misbehave: the sandbox keeps serving the others."""

import contextlib
import random
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.sandbox.conftest import Api, Start, connected, exchange

POST = "POST /fetch HTTP/1.1\r\nHost: x\r\nAuthorization: k\r\n"


def response_to(url: str, sent: bytes) -> bytes:
    """Send bytes, then no more, and return everything until the server closes; nothing if it resets."""
    with connected(url) as connection:
        with contextlib.suppress(OSError):  # it may have closed already
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
        received = b""
        with contextlib.suppress(ConnectionError):
            while piece := connection.recv(65536):
                received += piece
        return received


def is_well(api: Api) -> bool:
    return api.picture("a kite").status == 200


REJECTED = {
    "a negative length": f"{POST}Content-Length: -1\r\n\r\n".encode(),
    "two lengths": f"{POST}Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx".encode(),
    "chunks of nonsense": f"{POST}Transfer-Encoding: chunked\r\n\r\nzz\r\nxx\r\n0\r\n\r\n".encode(),
    "10,000 headers": (POST + "X: y\r\n" * 10_000 + "\r\n").encode(),
    "a request line of 1 MiB": f"GET /{'x' * 2**20} HTTP/1.1\r\n\r\n".encode(),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "control characters": b"GET /\x00\x1b[31m HTTP/1.1\r\n\r\n",
    "a compressed body that is not": f"{POST}Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd".encode(),
}


@pytest.mark.parametrize("name", REJECTED)
def test_what_is_not_http(shared: Api, name: str) -> None:
    for origin in (shared.service.url, shared.service.images_url):
        response = response_to(origin, REJECTED[name])
        assert response == b"" or response.split(b" ")[1].startswith(b"4"), response[:200]
    assert is_well(shared)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_any_bytes(shared: Api, sent: bytes) -> None:
    assert b" 200 OK" not in response_to(shared.service.url, sent)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from(["/flux-imagine", "/fetch", "/fetch-many"]),
)
def test_any_json(shared: Api, body: object, path: str) -> None:
    assert shared.post(path, body).status in (400, 404)


def test_any_values_of_the_fields(shared: Api) -> None:
    chance = random.Random(1)  # noqa: S311 - not a secret
    names = "width height seed steps guidance interval aspect_ratio raw image_prompt x".split()
    values = [0, -1, 2**63, 10**400, 1e308, "", "16:9", "\ud800", None, True, [], {}, 300, "a" * 10_000, 0.5]
    seen = set()
    for _ in range(150):
        fields = {name: chance.choice(values) for name in chance.sample(names, 2)}
        body = {"model": chance.choice(["flux-pro", "flux-pro-1.1-ultra"]), "prompt": "a kite", **fields}
        seen.add(shared.post("/flux-imagine", body).status)
    assert seen == {200, 400}


@pytest.mark.parametrize("chunked", [False, True], ids=["announced", "in chunks"])
def test_a_body_of_64_mib(shared: Api, chunked: bool) -> None:
    """413, even while the client is still sending."""
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {64 * 2**20}"
    block = b"100000\r\n" + bytes(2**20) + b"\r\n" if chunked else bytes(2**20)
    with connected(shared.service.url) as connection:
        connection.sendall(f"{POST.replace('/fetch', '/flux-imagine')}{length}\r\n\r\n".encode())
        with contextlib.suppress(ConnectionError):
            for _ in range(64):
                connection.sendall(block)
        response = connection.recv(4096)
        assert response.startswith(b"HTTP/1.1 413 ")
        assert chunked or b"the body is larger than 32 MiB" in response
    assert is_well(shared)


def test_idle_and_half_sent_connections(shared: Api) -> None:
    half_a_body = f"{POST}Content-Length: 100\r\n\r\n{{".encode()
    beginnings = [b"", b"POST", b"POST /fetch HTTP/1.1\r\nContent-Le", half_a_body]
    with contextlib.ExitStack() as stack:
        for number in range(100):
            connection = stack.enter_context(connected(shared.service.url))
            connection.sendall(beginnings[number % len(beginnings)])
        assert is_well(shared)
    assert is_well(shared)


def test_clients_that_leave(start: Start) -> None:
    lines: list[str] = []
    api = start(log=lines.append)
    picture = api.finished("[[image-trickle]]")["image_url"]
    for fault in ("trickle", "hang", "huge-answer", "slow-header", "endless-continue"):
        body = f'{{"model": "flux-pro", "prompt": "[[{fault}]]"}}'
        for _ in range(3):
            with connected(api.service.url) as connection:
                head = f"{POST.replace('/fetch', '/flux-imagine')}Content-Length: {len(body)}\r\n\r\n{body}"
                connection.sendall(head.encode())
        exchange("GET", picture, most=1)
    assert is_well(api)
    assert not any("Error" in line for line in lines), lines


def test_many_clients(api: Api) -> None:
    with ThreadPoolExecutor(8) as clients:
        pictures = list(clients.map(lambda number: api.picture(f"a kite {number}"), range(32)))
    assert [picture.status for picture in pictures] == [200] * 32
    assert len({picture.body for picture in pictures}) == 32
    assert api.service.stats.accepted == api.service.stats.images == 32
