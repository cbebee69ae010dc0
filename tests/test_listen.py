"""`flux-cli listen`, and its server with malicious senders. What becomes of an event: `test_bridge.py`."""

import contextlib
import gzip
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from flux_cli.commands import listen as listen_command
from flux_cli.commands import load_config
from flux_cli.errors import UsageError
from flux_cli.webhooks.bridge import Bridge
from flux_cli.webhooks.event import MAX_BODY_BYTES, WebhookEvent, read_event
from flux_cli.webhooks.journal import EventJournal
from flux_cli.webhooks.receiver import MAX_CONNECTIONS, _ServerThread, receiving
from flux_cli.webhooks.secret import check_secret, is_secret, read_secret_file
from tests.conftest import Cli, Done, Service, wait_until
from tests.server import Request, Server, Step, fetched, http, png

SECRET = "a-secret-of-the-test"
GOOD = json.dumps({"task_id": "some-task", "task_type": "flux-imagine", "status": "processing", "percentage": 40})
GZIPPED = gzip.compress(GOOD.encode())


def head(*headers: str, path: str = "/webhook") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"x-webhook-secret: {SECRET}", *headers, "", ""]
    return "\r\n".join(lines).encode()


RUDE = [
    b"garbage\r\n\r\n",
    head("Content-Length: -1"),
    head("Content-Length: 2097152"),
    head("Content-Length: 9"),
    b"",
]


def address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return str(parts.hostname), int(parts.port or 0)


@dataclass
class Listening:
    """A running listener and its output."""

    process: "subprocess.Popen[bytes]"
    url: str
    out: Path
    err: Path

    def post(self, body: object, secret: str | None = SECRET) -> int:
        headers = {} if secret is None else {"x-webhook-secret": secret}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return requests.post(self.url, data=content, headers=headers, timeout=20).status_code

    @property
    def lines(self) -> list[list[str]]:
        """The whole lines on stdout, split at their tabs."""
        return [line.split("\t") for line in self.out.read_text().splitlines()]

    def end(self, number: int | None = None) -> Done:
        """Wait for its end, or ask for it with a signal."""
        if number is not None:
            self.process.send_signal(number)
        code = self.process.wait(timeout=30)
        return Done(code, self.out.read_text(), self.err.read_text())


Listen = Callable[..., Listening]


@pytest.fixture
def listen(cli: Cli, tmp_path: Path) -> Iterator[Listen]:
    """Start listeners on free ports, with a secret in the environment; kill them at the end."""
    started: list[subprocess.Popen[bytes]] = []
    cli.env["FLUX_CLI_WEBHOOK_SECRET"] = SECRET

    def start(*arguments: str | Path, **options: Any) -> Listening:
        out, err = (tmp_path / f"{len(started)}.{name}" for name in ("out", "err"))
        with open(out, "wb") as stdout, open(err, "wb") as stderr:
            process = cli.start(
                "listen", "--port", "0", *arguments, **{"stdout": stdout, "stderr": stderr, **options}
            )
        started.append(process)
        wait_until(lambda: process.poll() is not None or b"--webhook-url" in err.read_bytes())
        assert process.poll() in (None, 0), err.read_text()  # with `--until` it may have ended
        return Listening(process, err.read_text().split("--webhook-url ")[1].split()[0], out, err)

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


def submitted(flux: Cli, prompt: str = "a kite", *arguments: str) -> str:
    """Submit a task with `--no-wait` and return its ID."""
    done = flux("imagine", prompt, "--no-wait", "--width", "256", "--height", "256", *arguments)
    assert done.code == 0, done.stderr
    return done.stdout.strip()


def finished(task_id: str, **fields: object) -> dict[str, object]:
    return {"task_id": task_id, "task_type": "flux-imagine", "image_url": "https://127.0.0.1:1/no.png", **fields}


@pytest.mark.parametrize("attacked", [False, True])
def test_picture_of_a_webhook(flux: Cli, listen: Listen, attacked: bool) -> None:
    """It is saved, printed and recorded, even while malicious connections are open."""
    listening = listen("--until", "1", "-o", "pics/")
    with contextlib.ExitStack() as stack:
        for content in RUDE * 40 if attacked else []:
            connection = stack.enter_context(socket.create_connection(address(listening.url), timeout=20))
            with contextlib.suppress(ConnectionError):
                connection.sendall(content)
        wait_until(lambda: not attacked or "(413)" in listening.err.read_text())
        task_id = submitted(flux, "a kite", "--webhook-url", listening.url)
        done = listening.end()
    assert done.code == 0, done.stderr
    path = f"pics/a-kite-{task_id[:8]}.png"
    assert listening.lines[-1] == [task_id, "finished", "100", path]
    assert {line[1] for line in listening.lines[:-1]} == {"processing"}
    assert flux.files() == [path]
    (record,) = flux.history()
    assert (record["status"], record["path"]) == ("finished", str(flux.cwd / path))
    assert all(word in done.stderr for word in ("tunnel", "proxy"))  # to reach the URL
    assert not any(word in done.stderr for word in (SECRET, "Traceback"))
    assert done.stderr.count("(413)") == attacked


def one_event(flux: Cli, body: dict[str, object], *arguments: str, before: Sequence[object] = ()) -> Done:
    """Run a listener, in this process, that ends after an event which an earlier one has left."""
    journal = EventJournal(flux.home / "state" / "flux-cli" / "webhooks")
    for each in (*before, body):
        journal.add(read_event(json.dumps(each).encode()))
    journal.close()
    return flux("listen", "--port", "0", "--until", "1", *arguments, env={"FLUX_CLI_WEBHOOK_SECRET": SECRET})


def test_the_object_of_an_event(flux: Cli) -> None:
    """With all its keys, and with the request from the history."""
    task_id = submitted(flux, "a [bold] kite", "--seed", "7")
    (event,) = one_event(flux, finished(task_id), "--json").objects
    assert (event["task_id"], event["status"], event["exit_code"]) == (task_id, "finished", 0)
    assert (event["prompt"], event["seed"]) == ("a [bold] kite", 7)
    assert event["path"] in flux.files()
    assert event["raw"]["image_url"] == event["image_url"] != "https://127.0.0.1:1/no.png"


@pytest.mark.parametrize(
    ("magic", "arguments", "code", "status", "says"),
    [
        ("", ["--no-download"], 0, "finished", ""),
        ("", ["--forward-to", "http://127.0.0.1:1/"], 0, "finished", "{} could not be forwarded"),
        ("[[moderated]]", [], 4, "failed", "\nerror: task {:.8} failed: Content Moderated"),
        ("[[image-url ftp://127.0.0.1/x.png]]", [], 5, "finished", "flux-cli wait {}"),
    ],
)
def test_how_an_event_ends(flux: Cli, magic: str, arguments: list[str], code: int, status: str, says: str) -> None:
    """What is not saved can be had with `wait`: the service does not send the event again."""
    task_id = submitted(flux, f"a kite {magic}")
    done = one_event(flux, finished(task_id), *arguments)
    assert (done.code, done.stdout.split("\t")[:2]) == (code, [task_id, status])
    assert says.format(task_id) in done.stderr
    assert [(record["task_id"], record["status"]) for record in flux.history()] == [(task_id, status)]
    saved = code == 0 and arguments != ["--no-download"]
    assert len(flux.files()) == saved
    assert done.lines[0].split("\t")[3].startswith("http") == (arguments == ["--no-download"])


def test_events_that_do_not_count(flux: Cli) -> None:
    """A task that the service does not know, and one that is saved."""
    (saved,) = flux("imagine", "x", "--json").objects
    task_id = submitted(flux)
    done = one_event(flux, finished(task_id), "-v", before=[finished("made-up"), finished(saved["task_id"])])
    assert done.code == 0
    assert sorted(line.split("\t")[0] for line in done.lines) == sorted(["made-up", task_id])
    assert re.search("error: task made-up failed: the service does not know the task.*\nhint: ", done.stderr)
    assert f"task {saved['task_id']}: finished, repeated" in done.stderr


def test_without_a_key_and_a_secret(cli: Cli) -> None:
    """The body is trusted, with warnings; the service is not called."""
    with Server() as server:
        cli.env["FLUX_CLI_API_URL"] = server.url
        done = one_event(cli, finished("some-task", image_url=f"{server.url}/image/x.png"), "--insecure")
        assert (done.code, len(cli.files())) == (0, 1), done.stderr
        assert done.stderr.count("no API key") == done.stderr.count("without a secret") == 1
        assert [request.path for request in server.received] == ["/image/x.png"]


# The secret


@pytest.mark.parametrize(
    ("file", "insecure", "env", "expected"),
    [
        ("secret", False, SECRET, "of-the-file-ä"),
        (None, False, SECRET, SECRET),
        (None, False, "", "of-the-config"),
        (None, True, SECRET, None),
    ],
)
def test_sources_of_the_secret(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, file: str | None, insecure: bool, env: str, expected: str | None
) -> None:
    """The first line of the file, the environment, the config file; none with `--insecure`."""
    cli("config", "set", "webhook_secret", "of-the-config")
    (cli.cwd / "secret").write_bytes("of-the-file-ä\r\nsecond line\n".encode())
    monkeypatch.setenv("XDG_CONFIG_HOME", cli.env["XDG_CONFIG_HOME"])
    monkeypatch.setenv("FLUX_CLI_WEBHOOK_SECRET", env)
    path = cli.cwd / file if file else None
    assert listen_command._secret(path, insecure, load_config()) == expected


@pytest.mark.parametrize(
    ("arguments", "secret", "code", "says"),
    [
        ([], "", 2, "FLUX_CLI_WEBHOOK_SECRET[^\n]*--insecure"),
        ([], " padded ", 2, "space"),
        (["--secret-file", "missing"], SECRET, 6, "missing"),
        (["--secret-file", "empty"], SECRET, 2, "empty"),
        (["--secret-file", "empty", "--insecure"], SECRET, 2, "--insecure"),
        (["--forward-to", "ftp://127.0.0.1/"], SECRET, 2, "--forward-to"),
        (["--forward-to", "http://user:password@127.0.0.1/"], SECRET, 2, "--forward-to"),
        (["-o", "-"], SECRET, 2, "stdout"),
        (["-o", "one.png"], SECRET, 2, "one.png"),
        (["-o", "pics/", "--no-download"], SECRET, 2, "--no-download"),
        (["--until", "0"], SECRET, 2, "--until"),
        (["--host", "192.0.2.1"], SECRET, 2, "--host"),
    ],
)
def test_invalid_command_lines(flux: Cli, arguments: list[str], secret: str, code: int, says: str) -> None:
    (flux.cwd / "empty").write_text("")
    done = flux("listen", "--port", "0", *arguments, env={"FLUX_CLI_WEBHOOK_SECRET": secret})
    assert done.code == code, done.stderr
    assert re.search(says, done.stderr)
    assert "password" not in done.stderr


def test_port_in_use(flux: Cli) -> None:
    """The message names the port and the option."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        done = flux("listen", "--port", port, "--insecure")
    assert done.code == 2
    assert port in done.stderr
    assert "--port" in done.stderr


def test_missing_extra(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    monkeypatch.delitem(sys.modules, "flux_cli.webhooks.receiver")
    done = cli("listen")
    assert (done.code, "apiframe-flux-cli[listen]" in done.stderr) == (2, True)


@given(st.text(min_size=1), st.text())
def test_comparing_secrets(secret: str, other: str) -> None:
    with contextlib.suppress(UsageError):
        secret = check_secret(secret)
        sent = secret.encode().decode("utf-8", "surrogateescape")
        assert is_secret([sent], secret)
        assert is_secret([other], secret) == (other == secret)
        assert not is_secret([], secret)
        assert not is_secret([sent, sent], secret)


def test_secret_file(tmp_path: Path) -> None:
    """Only its first line counts, and it must be valid in a header."""
    file = tmp_path / "secret"
    for content, secret in ((b"abc", "abc"), (b"abc\n", "abc"), (b"a b\r\nx", "a b")):
        file.write_bytes(content)
        assert read_secret_file(file) == secret
    for content in (b"\n", b"abc \n", b"a\x00b\n", b"\xff\n", b"x" * 5000):
        file.write_bytes(content)
        with pytest.raises(UsageError):
            read_secret_file(file)


# The end


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals(cli: Cli, listen: Listen, number: int, code: int) -> None:
    """They end an idle listener at once, without an error message."""
    done = listen().end(number)
    assert done.code == code
    assert "error" not in done.stderr
    assert cli.files() == []


def test_ctrl_c_during_a_download(cli: Cli, listen: Listen) -> None:
    """The download is finished; new events get a 503."""
    picture, released = png(1000), threading.Event()

    def image(_: Request) -> Iterator[Step]:
        yield http(200, picture)[:500]
        released.wait(30)
        yield http(200, picture)[500:]

    with Server({"/image": image}) as server:
        cli.env["FLUX_CLI_API_URL"] = server.url  # http, so that pictures may be; without a key it is not asked
        listening = listen()
        assert listening.post(finished("some-task", image_url=f"{server.url}/image/some.png")) == 200
        wait_until(lambda: server.received)
        listening.process.send_signal(signal.SIGINT)
        wait_until(lambda: "Ctrl-C again" in listening.err.read_text())
        assert listening.post(finished("other-task", image_url=f"{server.url}/image/other.png")) == 503
        assert listening.process.poll() is None
        released.set()
        done = listening.end()
    assert done.code == 130
    (line,) = listening.lines
    assert line[:2] == ["some-task", "finished"]
    assert (cli.cwd / cli.files()[0]).read_bytes() == picture


def test_second_ctrl_c(flux: Cli, service: Service, listen: Listen) -> None:
    """It ends at once, leaves no partial file, and says how to resume."""
    listening = listen()
    task_id = submitted(flux, "a kite [[image-hang]]", "--webhook-url", listening.url)
    wait_until(lambda: service.running.stats.images)
    listening.process.send_signal(signal.SIGINT)
    wait_until(lambda: "Ctrl-C again" in listening.err.read_text())
    assert listening.process.poll() is None
    done = listening.end(signal.SIGINT)
    assert done.code == 130
    assert f"flux-cli wait {task_id}" in done.stderr
    assert flux.files() == []


def test_second_ctrl_c_while_forwarding_hangs(flux: Cli, listen: Listen) -> None:
    """The picture is saved while the first event still waits for its response."""
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        listening = listen("--forward-to", f"http://127.0.0.1:{hanging.getsockname()[1]}/")
        submitted(flux, "a kite [[seconds 1]]", "--webhook-url", listening.url)
        wait_until(lambda: any(line[1] == "finished" for line in listening.lines))
        assert "could not be forwarded" not in listening.err.read_text()  # which it says after 10 s
        listening.process.send_signal(signal.SIGINT)
        wait_until(lambda: "Ctrl-C again" in listening.err.read_text())
        assert listening.end(signal.SIGINT).code == 130
    assert len(flux.files()) == 1


def test_closed_stdout(flux: Cli, listen: Listen) -> None:
    """Exit code 141, as with `| head -1`."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    listening = listen("--no-download", stdout=write_end)
    os.close(write_end)
    assert listening.post(json.loads(GOOD)) == 200
    assert listening.end().code == 141
    assert flux.files() == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_full_stdout(flux: Cli, listen: Listen) -> None:
    """It ends with exit code 6, after the end of the task is recorded."""
    task_id = submitted(flux)
    with open("/dev/full", "wb") as full:
        listening = listen(stdout=full)
    assert listening.post(finished(task_id)) == 200
    done = listening.end()
    assert done.code == 6
    assert "error: cannot write to stdout: no space left on device" in done.stderr
    assert flux.history()[0]["path"]
    assert len(flux.files()) == 1


def test_kill(flux: Cli, listen: Listen) -> None:
    """An event that was answered with 200 is handled by the next listener."""
    listening = listen()
    task_id = submitted(flux, "a kite [[seconds 3600]]")
    assert listening.post(finished(task_id)) == 200
    listening.process.kill()
    listening.process.wait()
    assert flux("history", "--status", "finished").lines == []
    with Server({"/fetch": fetched}) as server:
        flux.env["FLUX_CLI_API_URL"] = server.url
        done = listen("--until", "1").end()
    assert done.code == 0, done.stderr
    assert done.lines[-1].split("\t")[:2] == [task_id, "finished"]
    assert len(flux.files()) == 1


def test_journal(tmp_path: Path) -> None:
    events = [read_event(json.dumps(finished(f"task-{n}")).encode()) for n in range(4)]
    first = EventJournal(tmp_path)
    for event in events[:3]:
        first.add(event)
    first.remove(events[1])
    assert EventJournal(tmp_path).unprocessed == []  # the first one is still open
    first.close()
    with next(iter(tmp_path.glob("*.jsonl"))).open("ab") as file:
        file.write(b'{"event": "half a li')
    for _ in range(2):  # the second one ends before it handles any
        second = EventJournal(tmp_path)
        assert [event.task.task_id for event in second.unprocessed] == ["task-0", "task-2"]
        assert second.unprocessed[0].body == events[0].body
        second.close()
    third = EventJournal(tmp_path)
    for event in third.unprocessed:
        third.remove(event)
    third.close()
    assert list(tmp_path.iterdir()) == []


# Rejected requests and malicious senders


@dataclass
class Received:
    """A receiver in this process, and what it delivered and rejected."""

    accepts: bool = True
    url: str = ""
    events: list[WebhookEvent] = field(default_factory=list)
    rejections: list[tuple[int, str]] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)

    def deliver(self, event: WebhookEvent) -> bool:
        self.events.append(event)
        return self.accepts

    def rejected(self, status: int, reason: str) -> None:
        self.rejections.append((status, reason))

    def failed(self, error: BaseException) -> None:
        self.errors.append(error)

    @property
    def bridge(self) -> Bridge:
        """Itself, in the place of a bridge."""
        return cast(Bridge, self)

    def connect(self) -> socket.socket:
        return socket.create_connection(address(self.url), timeout=20)

    def talk(self, content: bytes, *, half_close: bool = False) -> bytes:
        """Send bytes and return everything until the connection ends."""
        with self.connect() as connection, contextlib.suppress(ConnectionError):
            connection.sendall(content)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            return read_all(connection)
        return b""

    def assert_good_webhook_works(self) -> None:
        """Send a valid webhook; it is delivered."""
        before = len(self.events)
        response = requests.post(self.url, data=GOOD, headers={"x-webhook-secret": SECRET}, timeout=20)
        assert response.status_code == 200
        assert len(self.events) == before + 1


def read_all(connection: socket.socket) -> bytes:
    """Return everything until the peer ends the connection."""
    content = b""
    with contextlib.suppress(ConnectionError):
        while chunk := connection.recv(65536):
            content += chunk
    return content


@pytest.fixture
def received(request: pytest.FixtureRequest) -> Iterator[Received]:
    """A receiver; the parameter is its time limit for a request, 20 s by default."""
    received, seconds = Received(), getattr(request, "param", 20.0)
    with receiving("127.0.0.1", 0, SECRET, received.bridge, seconds) as received.url:
        yield received
    assert received.errors == []


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/", GOOD, 404),
        ("POST", "/webhook/x", GOOD, 404),
        ("GET", "/webhook", "", 405),
        ("POST", "/webhook", "", 400),
        ("POST", "/webhook", "no JSON", 400),
        ("POST", "/webhook", '{"task_id": 7}', 200),
        ("POST", "/webhook", '{"task_id": "a b"}', 400),
        ("POST", "/webhook", "[" * 100_000, 400),
        ("POST", "/webhook", " " * (MAX_BODY_BYTES + 1), 413),
        ("POST", "/webhook", GOOD, 200),
        ("POST", "/webhook?from=service", GOOD, 200),
        ("POST", "/webhook", GOOD + " " * (MAX_BODY_BYTES - len(GOOD)), 200),
    ],
)
def test_status_codes(received: Received, method: str, path: str, body: str, status: int) -> None:
    """Only a valid request is delivered."""
    url = received.url.removesuffix("/webhook") + path
    response = requests.request(method, url, data=body, headers={"x-webhook-secret": SECRET}, timeout=20)
    assert response.status_code == status
    assert len(received.events) == (status == 200)
    assert [code for code, _ in received.rejections] == ([] if status == 200 else [status])
    assert ("larger than 1 MiB" in response.text) == (status == 413)
    if status == 405:
        assert response.headers["Allow"] == "POST"


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) * 4, b"400"),
        (b"garbage\r\n\r\n", b"400"),
        (head("Content-Length: -1"), b"400"),
        (head("Content-Length: 99999999999999999999"), b"4"),
        (head("Content-Length: 5", "Content-Length: 7") + b"12345", b"400"),
        (head("Transfer-Encoding: chunked") + b"zz\r\n", b"400"),
        (head("Transfer-Encoding: chunked", "Content-Length: 5") + b"5\r\nhello\r\n0\r\n\r\n", b"400"),
        (head("X: " + "x" * 100_000, "Content-Length: 0"), b"400"),
        (head(*[f"X-{n}: 1" for n in range(1000)], "Content-Length: 0"), b"400"),
        (head("Content-Encoding: gzip", f"Content-Length: {len(GZIPPED)}") + GZIPPED, b"400"),
        (head("Content-Length: 2097152") + b"x" * 65536, b"413"),
        (head("Transfer-Encoding: chunked") + b"200000\r\n" + b"x" * 0x200000 + b"\r\n0\r\n\r\n", b"413"),
        (b"POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Length: 2097152\r\n\r\n", b"401"),
        (head("x-webhook-secret: again", "Content-Length: 2") + b"{}", b"401"),
    ],
)
def test_malformed_requests(received: Received, content: bytes, status: bytes) -> None:
    """Garbage, wrong lengths, endless headers, gzip bombs, large bodies: a 4xx, and the next request works."""
    response = received.talk(content)
    assert response.split(b" ")[1:2][0].startswith(status), response[:200]
    assert received.events == []
    received.assert_good_webhook_works()


@pytest.mark.parametrize("received", [0.3], indirect=True)
@pytest.mark.parametrize(
    "begun", [b"", b"POST /web", head("Content-Length: 500")[:-2], head("Content-Length: 500")]
)
def test_slow_senders(received: Received, begun: bytes) -> None:
    """408, whether the header or the body is slow: the time limit is for the whole request."""
    with received.connect() as connection:
        connection.settimeout(20)
        connection.sendall(begun)
        ended = threading.Event()

        def drip() -> None:
            with contextlib.suppress(OSError):
                while not ended.wait(0.05):
                    connection.sendall(b"x" if begun else b"")

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            response = read_all(connection)
        finally:
            ended.set()
            dripping.join()
    assert response.startswith(b"HTTP/1.1 408 ")
    assert received.events == []
    received.assert_good_webhook_works()


def test_incomplete_bodies(received: Received) -> None:
    """A sender that disconnects delivers nothing."""
    for _ in range(20):
        with received.connect() as connection:
            connection.sendall(head(f"Content-Length: {len(GOOD)}") + GOOD[:40].encode())
    received.talk(head(f"Content-Length: {len(GOOD)}") + GOOD[:40].encode(), half_close=True)
    assert received.events == []
    received.assert_good_webhook_works()


@pytest.mark.parametrize("received", [600.0], indirect=True)
def test_idle_connections(received: Received) -> None:
    """The oldest are closed long before their time limit."""
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(received.connect()) for _ in range(1000)]
        for connection in idle[::2]:
            with contextlib.suppress(ConnectionError):
                connection.sendall(b"POST /webhook HTTP/1.1\r\n")
        received.assert_good_webhook_works()
        for connection in idle[: 1000 - MAX_CONNECTIONS]:
            read_all(connection)  # raises TimeoutError if it is still open
        assert 408 in dict(received.rejections)
    received.assert_good_webhook_works()


@pytest.mark.parametrize("received", [600.0], indirect=True)
def test_burst(received: Received) -> None:
    """A thousand connections that arrive at once: all are accepted, none is evicted."""
    message = head(f"Content-Length: {len(GOOD)}") + GOOD.encode()
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(socket.socket()) for _ in range(1000)]
        for connection in connections:
            connection.settimeout(60)
            connection.connect(address(received.url))
            connection.sendall(message)
        responses = [read_all(connection)[:12] for connection in connections]
    assert responses == [b"HTTP/1.1 200"] * 1000
    assert len(received.events) == 1000
    assert received.rejections == []


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),  # noqa: S104 - the subject of the test
        ("::1", "[::1]"),
        ("::", "[::1]"),
    ],
)
def test_url_of_the_receiver(host: str, shown: str) -> None:
    """One at which this machine can reach it."""
    if ":" in host:
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            pytest.skip("NOT TESTED: there is no IPv6")
    received = Received()
    with receiving(host, 0, None, received.bridge) as received.url:
        assert received.url.rpartition(":")[0] == f"http://{shown}"
        received.assert_good_webhook_works()


def test_a_receiver_that_is_busy() -> None:
    """The sender has to send the event again."""
    received = Received(accepts=False)
    with receiving("127.0.0.1", 0, None, received.bridge) as url:
        answer = requests.post(url, data=GOOD, timeout=20)
    assert (answer.status_code, answer.text) == (503, "busy, try later\n")
    assert received.rejections == [(503, "busy, try later")]


def test_a_receiver_that_cannot_go_on() -> None:
    """Its error is reported, and so are errors between requests."""
    received = Received()
    listening = socket.create_server(("127.0.0.1", 0))
    listening.close()
    thread = _ServerThread(listening, None, received.bridge, 20.0)
    assert thread.daemon
    thread._report(thread._loop, {"message": "no more files"})
    thread._report(thread._loop, {"message": "no more files", "exception": OSError("EMFILE")})
    assert received.rejections == [(503, "no more files"), (503, "EMFILE")]
    thread.start()
    thread.join(20)
    thread.stop()
    assert [isinstance(error, OSError) for error in received.errors] == [True]


def test_pipelined_requests(received: Received) -> None:
    """Each connection has one request; the client has to send the others again (RFC 9112, 9.3.2)."""
    one = head(f"Content-Length: {len(GOOD)}") + GOOD.encode()
    response = received.talk(one * 50)
    assert response.startswith(b"HTTP/1.1 200 ")
    assert response.count(b"HTTP/1.1 ") == 1
    assert b"Connection: close" in response
    assert len(received.events) == 1
    received.assert_good_webhook_works()


def test_100_continue(received: Received) -> None:
    """Clients such as curl expect it; a request that its header rules out does not get it."""
    with received.connect() as connection:
        connection.sendall(head(f"Content-Length: {len(GOOD)}", "Expect: 100-continue"))
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        connection.sendall(GOOD.encode())
        assert read_all(connection).startswith(b"HTTP/1.1 200 ")
    response = received.talk(head("Content-Length: 2097152", "Expect: 100-continue"))
    assert response.startswith(b"HTTP/1.1 413 ")


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


OBJECTS = st.dictionaries(st.sampled_from(["task_id", "status", "percentage", "image_url", "errors"]), json_values)


@given(st.binary() | OBJECTS.map(lambda said: json.dumps(said).encode()))
def test_any_body_is_an_event_or_a_value_error(body: bytes) -> None:
    try:
        event = read_event(body)
    except ValueError:
        return
    assert event.body == body
    assert event.task.task_id == str(json.loads(body)["task_id"]).strip()
