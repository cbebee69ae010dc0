"""`flux-cli listen` as a process that receives real webhooks, and its server with malicious senders."""

import contextlib
import gzip
import io
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from flux_cli.api.client import Client
from flux_cli.api.transport import Transport
from flux_cli.errors import UsageError
from flux_cli.pictures.saving import Saver
from flux_cli.ui.event_display import EventDisplay
from flux_cli.webhooks.bridge import Bridge, BridgeSettings
from flux_cli.webhooks.event import MAX_BODY_BYTES, WebhookEvent, read_event
from flux_cli.webhooks.journal import EventJournal
from flux_cli.webhooks.receiver import MAX_CONNECTIONS, ReceiverSettings, _ServerThread, receiving
from flux_cli.webhooks.secret import check_secret, is_secret, read_secret_file
from tests.conftest import Cli, Done, Service, wait_until
from tests.server import Server, fetched

SECRET = "a-secret-of-the-test"
GOOD = json.dumps({"task_id": "some-task", "task_type": "flux-imagine", "status": "processing", "percentage": 40})


GZIPPED = gzip.compress(GOOD.encode())


@dataclass
class Listening:
    """A running listener and its output."""

    process: "subprocess.Popen[bytes]"
    url: str
    out: Path
    err: Path

    def post(self, body: object, secret: str | None = SECRET) -> int:
        """Send a webhook and return the status code of the response."""
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
    """Return the body of a webhook about a finished task."""
    return {"task_id": task_id, "task_type": "flux-imagine", "image_url": "https://127.0.0.1:1/no.png", **fields}


def failed(task_id: str) -> dict[str, object]:
    """Return the body of a webhook about a failed task."""
    return {"task_id": task_id, "status": "failed", "errors": [{"msg": "says the webhook"}]}


# From webhook to picture


def test_picture_of_a_webhook(flux: Cli, listen: Listen) -> None:
    """It is saved, printed and recorded."""
    listening = listen("--until", "1", "-o", "pics/")
    task_id = submitted(flux, "a kite", "--webhook-url", listening.url)
    done = listening.end()
    assert done.code == 0, done.stderr
    path = f"pics/a-kite-{task_id[:8]}.png"
    assert listening.lines[-1] == [task_id, "finished", "100", path]
    assert {line[1] for line in listening.lines[:-1]} == {"processing"}
    assert flux.files() == [path]
    (record,) = flux.history()
    assert (record["status"], record["path"]) == ("finished", str(flux.cwd / path))


def test_json_objects(flux: Cli, listen: Listen) -> None:
    """Each is the object of a task, with all its keys, and with the request from the history."""
    listening = listen("--until", "1", "--json")
    task_id = submitted(flux, "a [bold] kite", "--seed", "7", "--webhook-url", listening.url)
    events = listening.end().objects
    assert {event["task_id"] for event in events} == {task_id}
    last = events[-1]
    assert (last["status"], last["prompt"], last["seed"], last["exit_code"]) == ("finished", "a [bold] kite", 7, 0)
    assert last["path"] in flux.files()
    assert last["raw"]["image_url"] == last["image_url"]


def test_introduction(flux: Cli, listen: Listen) -> None:
    """The URL for `--webhook-url`, and that the service needs a tunnel or a proxy to reach it."""
    listening = listen()
    printed = listening.err.read_text()
    assert f"--webhook-url {listening.url}" in printed
    wait_until(lambda: "tunnel" in listening.err.read_text() and "proxy" in listening.err.read_text())
    assert SECRET not in listening.err.read_text()
    assert flux.files() == []


def test_no_download(flux: Cli, listen: Listen) -> None:
    """The line has the URL instead of a path, and the end is recorded."""
    listening = listen("--until", "1", "--no-download")
    task_id = submitted(flux, "a kite", "--webhook-url", listening.url)
    assert listening.end().code == 0
    assert listening.lines[-1][3].startswith("http")
    assert flux.files() == []
    assert [(record["task_id"], record["status"]) for record in flux.history()] == [(task_id, "finished")]


def test_failed_task(flux: Cli, listen: Listen) -> None:
    """It counts for `--until`, and gives its exit code."""
    listening = listen("--until", "1")
    task_id = submitted(flux, "a kite [[moderated]]", "--webhook-url", listening.url)
    done = listening.end()
    assert done.code == 4
    assert f"\nerror: task {task_id[:8]} failed: Content Moderated" in done.stderr
    assert flux.history()[0]["status"] == "failed"


# Duplicates


@pytest.mark.parametrize("fault", ["webhook-twice", "webhook-out-of-order"])
def test_repeated_events(flux: Cli, service: Service, listen: Listen, fault: str) -> None:
    """Repeats and late updates are answered with 200, and change nothing."""
    listening = listen()
    task_id = submitted(flux, f"a kite [[{fault}]]", "--webhook-url", listening.url)
    wait_until(lambda: [line for line in listening.lines if line[1] == "finished"])
    assert listening.post(finished(task_id)) == 200
    assert listening.post({"task_id": task_id, "status": "processing", "percentage": 10}) == 200
    assert listening.post(failed(task_id)) == 200
    done = listening.end(signal.SIGINT)
    assert [line.split("\t")[1] for line in done.lines].count("finished") == 1
    assert done.lines[-1].split("\t")[1] == "finished"
    assert len({tuple(line.split("\t")) for line in done.lines}) == len(done.lines)
    assert service.running.stats.images == 1
    assert service.running.stats.webhook_failures == 0


def test_events_of_an_earlier_listener(flux: Cli, service: Service, listen: Listen) -> None:
    """The history knows which tasks are saved."""
    task_id = submitted(flux)
    first = listen("--until", "1")
    wait_until(lambda: flux("fetch", task_id, "--exit-status").code == 0)
    assert first.post(finished(task_id)) == 200
    assert first.end().code == 0
    second = listen()
    assert second.post(finished(task_id)) == 200
    assert second.post(finished("nobody-knows-this")) == 200
    wait_until(lambda: second.lines)
    done = second.end(signal.SIGINT)
    assert [line.split("\t")[0] for line in done.lines] == ["nobody-knows-this"]
    assert service.running.stats.images == 1


# Confirmation by the service


def test_url_in_the_body_is_not_trusted(flux: Cli, service: Service, listen: Listen) -> None:
    """The picture comes from the URL in the service's response."""
    task_id = submitted(flux)
    wait_until(lambda: flux("fetch", task_id, "--exit-status").code == 0)
    with bait() as (url, asked):
        listening = listen("--until", "1")
        assert listening.post(finished(task_id, image_url=url, original_image_url=url)) == 200
        assert listening.end().code == 0
    assert asked.empty()
    assert service.running.stats.images == 1
    assert service.running.stats.leaked_keys == 0
    assert len(flux.files()) == 1


def test_webhook_before_the_status(flux: Cli, listen: Listen) -> None:
    """The status of the service may lag behind its webhook."""
    listening = listen("--until", "1")
    task_id = submitted(flux, "a kite [[slow 2]]")
    assert listening.post(finished(task_id)) == 200
    assert listening.end().code == 0
    assert len(flux.files()) == 1


def test_failure_that_is_not_confirmed(flux: Cli, listen: Listen) -> None:
    """A forged failure does not lose a charged picture."""
    task_id = submitted(flux)
    wait_until(lambda: flux("fetch", task_id, "--exit-status").code == 0)
    listening = listen("--until", "1")
    assert listening.post(failed(task_id)) == 200
    assert listening.end().code == 0
    assert (flux.history()[0]["status"], len(flux.files())) == ("finished", 1)


def test_unknown_task(flux: Cli, listen: Listen) -> None:
    """A forged event is reported, and does not count for `--until`."""
    listening = listen("--until", "1")
    assert listening.post(finished("made-up")) == 200
    wait_until(lambda: listening.lines)
    assert listening.lines[0][:2] == ["made-up", "failed"]
    task_id = submitted(flux, "a kite", "--webhook-url", listening.url)
    assert listening.end().code == 0
    assert listening.lines[-1][0] == task_id


def test_without_a_key(cli: Cli, service: Service, listen: Listen) -> None:
    """The body is trusted, with one warning; the service is not called."""
    key = {"APIFRAME_API_KEY": "some-key-of-a-test"}
    cli.env["FLUX_CLI_API_URL"] = service.url
    task_id = cli("imagine", "a kite", "--no-wait", env=key).stdout.strip()
    wait_until(lambda: cli("fetch", task_id, "--exit-status", env=key).code == 0)
    (task,) = cli("fetch", task_id, "--json", env=key).objects
    fetches = service.running.stats.fetches
    listening = listen("--until", "1")
    assert listening.post(finished(task_id, image_url=task["image_url"])) == 200
    done = listening.end()
    assert done.code == 0, done.stderr
    assert done.stderr.count("no API key") == 1
    assert service.running.stats.fetches == fetches
    assert len(cli.files()) == 1


def test_picture_that_cannot_be_downloaded(flux: Cli, listen: Listen) -> None:
    """The service does not send the event again: the hint has the ID and the command."""
    listening = listen("--until", "1")
    task_id = submitted(flux, "a kite [[image-url ftp://127.0.0.1/x.png]]", "--webhook-url", listening.url)
    done = listening.end()
    assert done.code == 5
    assert f"flux-cli wait {task_id}" in done.stderr
    assert flux.files() == []


# The secret


@pytest.mark.parametrize("fault", ["webhook-wrong-secret", "webhook-no-secret"])
def test_wrong_secret(flux: Cli, service: Service, listen: Listen, fault: str) -> None:
    """401: no line, no file, no request to the service."""
    listening = listen()
    submitted(flux, f"a kite [[{fault}]]", "--webhook-url", listening.url)
    stats = service.running.stats
    wait_until(lambda: stats.webhook_failures and "(401)" in listening.err.read_text())
    done = listening.end(signal.SIGINT)
    assert (done.stdout, flux.files(), stats.fetches, stats.webhooks) == ("", [], 0, 0)


def test_no_secret(flux: Cli) -> None:
    """Exit code 2, and a hint."""
    done = flux("listen", "--port", "0")
    assert done.code == 2
    assert "FLUX_CLI_WEBHOOK_SECRET" in done.stderr
    assert "--insecure" in done.stderr


def test_insecure(flux: Cli, listen: Listen) -> None:
    """Every sender is accepted, with a warning, even if the environment has a secret."""
    listening = listen("--insecure")
    assert listening.post(json.loads(GOOD), secret=None) == 200
    assert listening.post({"task_id": "other"}, secret="anything") == 200
    wait_until(lambda: len(listening.lines) == 2)
    assert "without a secret" in listening.err.read_text()
    assert flux.files() == []


def test_sources_of_the_secret(cli: Cli, listen: Listen) -> None:
    """The first line of the file, the environment, the config file."""
    cli("config", "set", "webhook_secret", "of-the-config")
    (cli.cwd / "secret").write_bytes("of-the-file-ä\r\nsecond line\n".encode())
    cases: list[tuple[tuple[str, ...], dict[str, str], bytes]] = [
        (("--secret-file", "secret"), {"FLUX_CLI_WEBHOOK_SECRET": SECRET}, "of-the-file-ä".encode()),
        ((), {"FLUX_CLI_WEBHOOK_SECRET": SECRET}, SECRET.encode()),
        ((), {"FLUX_CLI_WEBHOOK_SECRET": ""}, b"of-the-config"),
    ]
    for arguments, env, secret in cases:
        listening = listen(*arguments, env=env)
        for sent in (secret, b"wrong"):
            response = requests.post(listening.url, data=GOOD, headers={"x-webhook-secret": sent}, timeout=20)
            assert response.status_code == (200 if sent == secret else 401), (arguments, sent)


@pytest.mark.parametrize(
    ("arguments", "env", "code"),
    [
        (("--secret-file", "missing"), {}, 6),
        (("--secret-file", "empty"), {}, 2),
        (("--secret-file", "empty", "--insecure"), {}, 2),
        ((), {"FLUX_CLI_WEBHOOK_SECRET": " padded "}, 2),
        (("--forward-to", "ftp://127.0.0.1/"), {}, 2),
        (("--forward-to", "http://user:password@127.0.0.1/"), {}, 2),
        (("-o", "-"), {}, 2),
        (("-o", "one.png"), {}, 2),
        (("-o", "pics/", "--no-download"), {}, 2),
        (("--until", "0"), {}, 2),
        (("--host", "192.0.2.1"), {}, 2),
    ],
)
def test_invalid_command_lines(flux: Cli, arguments: tuple[str, ...], env: dict[str, str], code: int) -> None:
    """Each has its exit code, and nothing is started."""
    (flux.cwd / "empty").write_text("")
    done = flux("listen", "--port", "0", *arguments, env={"FLUX_CLI_WEBHOOK_SECRET": SECRET, **env})
    assert done.code == code, done.stderr
    assert "password" not in done.stderr


def test_port_in_use(flux: Cli, listen: Listen) -> None:
    """The message names the port and the option."""
    port = str(urlsplit(listen().url).port)
    done = flux("listen", "--port", port)
    assert done.code == 2
    assert port in done.stderr
    assert "--port" in done.stderr


def test_missing_extra(cli: Cli) -> None:
    """Exit code 2, and the command that installs it."""
    code = "import sys; sys.modules['aiohttp'] = None; from flux_cli.main import main; sys.exit(main(['listen']))"
    done = subprocess.run([sys.executable, "-c", code], env=cli.env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "apiframe-flux-cli[listen]" in done.stderr


@given(st.text(min_size=1), st.text())
def test_comparing_secrets(secret: str, other: str) -> None:
    """Whatever characters they contain."""
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


# Forwarding


@contextlib.contextmanager
def bait(status: int = 200) -> Iterator[tuple[str, "queue.SimpleQueue[tuple[bytes, str | None]]"]]:
    """Run a server that records body and secret of each request; yield its URL and the queue of them."""
    notes: queue.SimpleQueue[tuple[bytes, str | None]] = queue.SimpleQueue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            notes.put((body, self.headers["x-webhook-secret"]))
            self.send_response(status)
            self.end_headers()

        def do_GET(self) -> None:
            notes.put((b"", None))
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as url:
        yield f"{url}/hooks", notes


@contextlib.contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Run a server with this handler and yield its origin."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_forwarding(flux: Cli, listen: Listen) -> None:
    """Events are forwarded unchanged, with the secret; repeats and unconfirmed ones are not."""
    with bait() as (url, notes):
        listening = listen("--until", "1", "--forward-to", url)
        assert listening.post(finished("made-up")) == 200
        submitted(flux, "a kite [[webhook-twice]]", "--webhook-url", listening.url)
        assert listening.end().code == 0
        forwarded = [notes.get(timeout=5) for _ in range(notes.qsize())]
    assert {secret for _, secret in forwarded} == {SECRET}
    bodies = [json.loads(body) for body, _ in forwarded]
    assert [body["status"] for body in bodies][-1] == "finished"
    assert len({body.decode() for body, _ in forwarded}) == len(forwarded) >= 2
    assert "made-up" not in [body["task_id"] for body in bodies]


@pytest.mark.parametrize("status", [500, None])
def test_forwarding_fails(flux: Cli, listen: Listen, status: int | None) -> None:
    """An error of the server, or no server, is a warning."""
    with bait(status or 200) as (url, _):
        target = url if status else "http://127.0.0.1:1/"
        listening = listen("--until", "1", "--forward-to", target)
        submitted(flux, "a kite", "--webhook-url", listening.url)
        done = listening.end()
    assert done.code == 0
    assert "could not be forwarded" in done.stderr
    assert len(flux.files()) == 1


def test_forwarding_hangs(flux: Cli, listen: Listen) -> None:
    """The picture is saved while the first event still waits for its response."""
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        listening = listen("--forward-to", f"http://127.0.0.1:{hanging.getsockname()[1]}/")
        submitted(flux, "a kite [[seconds 1]]", "--webhook-url", listening.url)
        wait_until(lambda: any(line[1] == "finished" for line in listening.lines))
        assert "could not be forwarded" not in listening.err.read_text()  # which it says after 10 s
        listening.process.send_signal(signal.SIGINT)
        wait_until(lambda: "Ctrl-C again" in listening.err.read_text())
        done = listening.end(signal.SIGINT)
    assert done.code == 130
    assert len(flux.files()) == 1


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
    picture = io.BytesIO()
    Image.new("RGB", (64, 64)).save(picture, "PNG")
    asked, released = threading.Event(), threading.Event()

    class Slow(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(picture.getvalue())))
            self.end_headers()
            self.wfile.write(picture.getvalue()[:50])
            asked.set()
            released.wait(30)
            self.wfile.write(picture.getvalue()[50:])

        def log_message(self, *_: object) -> None:
            pass

    with serving(Slow) as url:
        cli.env["FLUX_CLI_API_URL"] = url  # http, so that pictures may be; without a key it is not asked
        listening = listen()
        assert listening.post(finished("some-task", image_url=f"{url}/some.png")) == 200
        assert asked.wait(20)
        listening.process.send_signal(signal.SIGINT)
        wait_until(lambda: "Ctrl-C again" in listening.err.read_text())
        assert listening.post(finished("other-task", image_url=f"{url}/other.png")) == 503
        assert listening.process.poll() is None
        released.set()
        done = listening.end()
    assert done.code == 130
    (line,) = done.lines
    assert line.split("\t")[:2] == ["some-task", "finished"]
    assert (cli.cwd / cli.files()[0]).read_bytes() == picture.getvalue()


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
    wait_until(lambda: flux("fetch", task_id, "--exit-status").code == 0)
    with open("/dev/full", "wb") as full:
        listening = listen(stdout=full)
    assert listening.post(finished(task_id)) == 200
    done = listening.end()
    assert done.code == 6
    assert "error: cannot write to stdout: no space left on device" in done.stderr
    assert flux.history()[0]["path"]
    assert len(flux.files()) == 1


def test_flood(tmp_path: Path) -> None:
    """The waiting bodies are limited; there is room for thousands of the service's."""
    client = Client(Transport("http://127.0.0.1:1", ""))
    display = EventDisplay("", json=False, verbose=False)
    saver = Saver("http://127.0.0.1:1")
    listener = Bridge(
        client, saver, None, "", display, BridgeSettings(None), EventJournal(tmp_path), confirms=False
    )
    usual = read_event(GOOD.encode())
    assert all(listener.deliver(usual) for _ in range(10_000))
    large = read_event(GOOD.encode() + b" " * (MAX_BODY_BYTES - len(GOOD)))
    assert sum(listener.deliver(large) for _ in range(100)) < 20


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
    """It keeps unhandled events, in order, of processes that have ended."""
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


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/", GOOD, 404),
        ("POST", "/webhook/x", GOOD, 404),
        ("GET", "/webhook", "", 405),
        ("PUT", "/webhook", GOOD, 405),
        ("DELETE", "/webhook", "", 405),
        ("POST", "/webhook", "", 400),
        ("POST", "/webhook", "no JSON", 400),
        ("POST", "/webhook", "[]", 400),
        ("POST", "/webhook", "null", 400),
        ("POST", "/webhook", "{}", 400),
        ("POST", "/webhook", '{"task_id": 7}', 200),
        ("POST", "/webhook", '{"task_id": ""}', 400),
        ("POST", "/webhook", '{"task_id": "a b"}', 400),
        ("POST", "/webhook", '{"task_id": "\\u202ex"}', 400),
        ("POST", "/webhook", "[" * 100_000, 400),
        ("POST", "/webhook", " " * (MAX_BODY_BYTES + 1), 413),
        ("POST", "/webhook", GOOD, 200),
        ("POST", "/webhook?from=service", GOOD, 200),
        ("POST", "/webhook", GOOD + " " * (MAX_BODY_BYTES - len(GOOD)), 200),
    ],
)
def test_status_codes(received: "Received", method: str, path: str, body: str, status: int) -> None:
    """Only a valid request is delivered."""
    url = received.url.removesuffix("/webhook") + path
    response = requests.request(method, url, data=body, headers={"x-webhook-secret": SECRET}, timeout=20)
    assert response.status_code == status
    assert len(received.events) == (status == 200)
    assert received.rejections == ([] if status == 200 else [status])
    assert ("larger than 1 MiB" in response.text) == (status == 413)
    if status == 405:
        assert response.headers["Allow"] == "POST"


@dataclass
class Received:
    """A receiver in this process, and what it delivered and rejected."""

    url: str
    events: list[WebhookEvent]
    rejections: list[int]

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        parts = urlsplit(self.url)
        return str(parts.hostname), int(parts.port or 0)

    def connect(self) -> socket.socket:
        """Open a connection."""
        return socket.create_connection(self.address, timeout=20)

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


def head(*headers: str, path: str = "/webhook") -> bytes:
    """Return the header of a POST with the right secret."""
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"x-webhook-secret: {SECRET}", *headers, "", ""]
    return "\r\n".join(lines).encode()


@pytest.fixture
def received(request: pytest.FixtureRequest) -> Iterator[Received]:
    """A receiver; the parameter is its time limit for a request, 20 s by default."""
    events: list[WebhookEvent] = []
    rejections: list[int] = []
    errors: list[BaseException] = []

    def deliver(event: WebhookEvent) -> bool:
        events.append(event)
        return True

    reception = ReceiverSettings(
        SECRET,
        deliver,
        lambda status, _: rejections.append(status),
        errors.append,
        getattr(request, "param", 20.0),
    )
    with receiving("127.0.0.1", 0, reception) as url:
        yield Received(url, events, rejections)
    assert errors == []


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
    received.assert_good_webhook_works()


@pytest.mark.parametrize("received", [600.0], indirect=True)
def test_burst(received: Received) -> None:
    """A thousand connections that arrive at once: all are accepted, none is evicted."""
    message = head(f"Content-Length: {len(GOOD)}") + GOOD.encode()
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(socket.socket()) for _ in range(1000)]
        for connection in connections:
            connection.settimeout(60)
            connection.connect(received.address)
            connection.sendall(message)
        responses = [read_all(connection)[:12] for connection in connections]
    assert responses == [b"HTTP/1.1 200"] * 1000
    assert len(received.events) == 1000
    assert received.rejections == []


@pytest.mark.parametrize("received", [600.0], indirect=True)
def test_evictions_are_reported(received: Received) -> None:
    """As 408."""
    with contextlib.ExitStack() as stack:
        for _ in range(MAX_CONNECTIONS + 2):
            stack.enter_context(received.connect())
        received.assert_good_webhook_works()
        wait_until(lambda: 408 in received.rejections)


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
    reception = ReceiverSettings(None, lambda _: True, lambda *_: None, lambda _: None)
    with receiving(host, 0, reception) as url:
        assert url.rpartition(":")[0] == f"http://{shown}"
        assert requests.post(url, data=GOOD, timeout=20).status_code == 200


def test_a_receiver_that_is_busy() -> None:
    """The sender has to send the event again."""
    rejections: list[tuple[int, str]] = []
    settings = ReceiverSettings(None, lambda _: False, lambda *each: rejections.append(each), lambda _: None)
    with receiving("127.0.0.1", 0, settings) as url:
        answer = requests.post(url, data=GOOD, timeout=20)
    assert (answer.status_code, answer.text) == (503, "busy, try later\n")
    assert rejections == [(503, "busy, try later")]


def test_a_receiver_that_cannot_go_on() -> None:
    """Its error is reported, and so are errors between requests."""
    errors: list[BaseException] = []
    rejections: list[tuple[int, str]] = []
    listening = socket.create_server(("127.0.0.1", 0))
    listening.close()
    settings = ReceiverSettings(None, lambda _: True, lambda *each: rejections.append(each), errors.append)
    thread = _ServerThread(listening, settings)
    assert thread.daemon
    thread._report(thread._loop, {"message": "no more files"})
    thread._report(thread._loop, {"message": "no more files", "exception": OSError("EMFILE")})
    assert rejections == [(503, "no more files"), (503, "EMFILE")]
    thread.start()
    thread.join(20)
    thread.stop()
    assert [isinstance(error, OSError) for error in errors] == [True]


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


def test_saving_under_attack(flux: Cli, listen: Listen) -> None:
    """The whole command works while malicious connections are open."""
    listening = listen("--until", "1")
    parts = urlsplit(listening.url)
    rude = [
        b"garbage\r\n\r\n",
        head("Content-Length: -1"),
        head("Content-Length: 2097152"),
        head("Content-Length: 9"),
        b"",
    ]
    with contextlib.ExitStack() as stack:
        for content in rude * 40:
            connection = stack.enter_context(
                socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=20)
            )
            with contextlib.suppress(ConnectionError):
                connection.sendall(content)
        submitted(flux, "a kite", "--webhook-url", listening.url)
        done = listening.end()
    assert done.code == 0, done.stderr
    assert len(flux.files()) == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.count("(413)") <= 1


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["task_id", "status", "percentage", "image_url", "errors"]), json_values))
def test_any_object(said: dict[str, Any]) -> None:
    """It is an event, or a ValueError."""
    body = json.dumps(said).encode()
    try:
        event = read_event(body)
    except ValueError:
        return
    assert event.task.task_id == str(said["task_id"]).strip()
    assert event.body == body


@given(st.binary())
def test_any_bytes(body: bytes) -> None:
    """They are an event, or a ValueError."""
    with contextlib.suppress(ValueError):
        assert read_event(body).body == body
