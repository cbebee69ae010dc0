"""`flux-cli sandbox`: its output, its options, how it ends, and that it keeps its tasks."""

import contextlib
import json
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn, cast

import pytest

from flux_cli.errors import LocalFileError, UsageError
from flux_cli.sandbox import running
from flux_cli.sandbox.faults import FAULTS
from flux_cli.sandbox.server import Running
from flux_cli.sandbox.validation import is_loopback
from tests.conftest import Cli, interrupt
from tests.sandbox.conftest import Api, Start, exchange


@contextlib.contextmanager
def process(cli: Cli, *options: str) -> Iterator[tuple[Api, "subprocess.Popen[bytes]"]]:
    """Run `flux-cli sandbox` on free ports; yield a client of it and its process."""
    process = cli.start("sandbox", "--port", "0", "--seconds", "0", *options)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().decode().strip()
        yield Api(cast(Running, SimpleNamespace(url=url))), process
    finally:
        process.kill()
        process.communicate()


def test_a_signal_ends_it_while_it_is_busy(cli: Cli) -> None:
    with process(cli) as (api, server):
        url = api.finished("a kite", width=1440, height=1440)["image_url"]
        for target in (url, url.replace(".png", "-original.png")):
            threading.Thread(target=exchange, args=("GET", target), daemon=True).start()
        threading.Thread(target=api.imagine, args=("[[hang]]",), daemon=True).start()
        done = interrupt(server, signal.SIGTERM)
    assert done.code == 143
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_its_log(cli: Cli) -> None:
    with process(cli, "--key", "sandbox-only-key") as (api, server):
        api.key = "sandbox-only-key"
        task_id = api.submit("a kite [[fetch-http 503]]")
        api.fetch(task_id)
        api.post("/fetch?key=sandbox-only-key", {"task_id": task_id})
        exchange("GET", f"{api.service.url}/account", headers={"Authorization": "a-wrong-key"})
        exchange("GET", f"{api.service.url}/%1b%5b31mred%0d%0aFAKE", headers={"Authorization": api.key})
        api.fetch("\x1b]0;owned\x07\u202e\x9b31m")
        exchange("GET", f"{api.service.url}/{'x' * 3000}", headers={"Authorization": api.key})
        done = interrupt(server)
    assert done.code == 130
    log = done.stderr
    lines = [line.split(" ", 1)[1] for line in log.splitlines()[1:]]
    assert lines[0].startswith(f"POST /flux-imagine 200 {task_id} ")
    assert lines[1].startswith(f"POST /fetch 503 {task_id} [[fetch-http]] ")
    assert lines[2].startswith(f"POST /fetch 503 {task_id} ")
    assert lines[3].startswith("GET /account 401 ")
    assert len(lines) == 7
    assert all(line.endswith(" ms") and len(line) < 400 for line in lines)
    assert "sandbox-only-key" not in log
    assert "a-wrong-key" not in log
    assert not {character for character in log if not character.isprintable()} - {"\n"}


def test_tasks_survive_a_kill(cli: Cli) -> None:
    """Every ID that a client has seen is known afterwards, with its picture; credits stay charged."""
    with process(cli) as (api, server):
        ids = [api.submit(prompt) for prompt in ("a kite", "[[slow 1000]]", "[[fail]]")]
        before = exchange("GET", api.fetch(ids[0]).json()["image_url"]).body
        server.kill()
        server.wait()
    with process(cli) as (api, _):
        tasks = [api.fetch(task_id).json() for task_id in ids]
        assert exchange("GET", tasks[0]["image_url"]).body == before
        assert [task["status"] for task in tasks] == ["finished", "processing", "failed"]
        assert api.account()["credits"] == 997


def test_servers_share_their_tasks(cli: Cli) -> None:
    """Even if several start at once in a new directory. The embedded ones charge no credits."""
    processes = [cli.start("imagine", "x", "--sandbox", "--no-wait", "-q") for _ in range(5)]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0] * 5, outputs
    with running(cli.home / "state" / "flux-cli" / "sandbox", seconds=0) as service:
        api = Api(service)
        assert all(api.fetch(out.decode().strip()).status == 200 for out, _ in outputs)
        assert (api.account()["credits"], api.account()["total_images"]) == (1000, 5)
        other = api.submit("b")
    done = cli("wait", other, "--sandbox", "-q")
    assert done.code == 0, done.stderr


STATE_OF_0_1_0 = """
CREATE TABLE tasks (task_id TEXT PRIMARY KEY, submitted REAL NOT NULL, seconds REAL NOT NULL, seed TEXT NOT NULL,
    body TEXT NOT NULL, image_prompt TEXT, webhook_due REAL, webhook_event INTEGER NOT NULL DEFAULT 0,
    webhook_tries INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE TABLE image_prompts (digest TEXT PRIMARY KEY, bytes BLOB NOT NULL);
CREATE TABLE account (only INTEGER PRIMARY KEY CHECK (only = 1), credits INTEGER NOT NULL,
    total_images INTEGER NOT NULL);
INSERT INTO account VALUES (1, 17, 3);
INSERT INTO tasks (task_id, submitted, seconds, seed, body) VALUES ('64cd7965-1b78-42c8-b929-9d7751a2e149',
    unixepoch(), 0, '0x7', '{"model": "flux-pro", "prompt": "[[unknown then]]"}'),
    ('64cd7965-1b78-42c8-b929-9d7751a2e14a', unixepoch() - 700000, 0, '0x7', '{}');
PRAGMA user_version = 1;
"""


def test_a_state_directory_of_0_1_0(tmp_path: Path) -> None:
    """Its tasks, even with unknown names of faults, and its credits are used; older tasks are deleted."""
    with contextlib.closing(sqlite3.connect(tmp_path / "tasks.sqlite3", isolation_level=None)) as old:
        old.executescript(STATE_OF_0_1_0)
    with running(tmp_path) as service:
        api = Api(service)
        assert api.fetch("64cd7965-1b78-42c8-b929-9d7751a2e149").json()["status"] == "finished"
        assert api.fetch("64cd7965-1b78-42c8-b929-9d7751a2e14a").status == 404
        assert (api.account()["credits"], api.account()["total_images"]) == (17, 3)


def test_permissions(start: Start, tmp_path: Path) -> None:
    start(directory=tmp_path / "deep" / "er").submit("a kite")
    assert (tmp_path / "deep" / "er").stat().st_mode & 0o777 == 0o700
    for path in (tmp_path / "deep" / "er").iterdir():
        assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.parametrize("kind", ["damaged", "newer", "a directory"])
def test_a_file_of_something_else(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "tasks.sqlite3"
    if kind == "newer":
        with contextlib.closing(sqlite3.connect(file)) as newer:
            newer.execute("PRAGMA user_version = 99")
    else:
        file.write_bytes(b"not a database at all" * 50)
    before = file.read_bytes()
    with pytest.raises(LocalFileError, match=r"99" if kind == "newer" else r"tasks\.sqlite3"):
        running(file if kind == "a directory" else tmp_path).__enter__()
    assert file.read_bytes() == before


def test_a_port_in_use(cli: Cli, start: Start) -> None:
    """The sandbox needs two: another program can have the first one of the second attempt."""
    port = int(start().service.url.rpartition(":")[2])
    for given, named in ((port, str(port)), (port - 1, f"({port - 1}|{port})")):
        done = cli.fails(2, "hint: try another --port", "sandbox", "--port", str(given))
        assert re.match(f"error: cannot listen on port {named} ", done.stderr)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ("--seconds nan", "seconds"),
        ("--seconds inf", "seconds"),
        ("--seconds -1", "--seconds"),
        ("--fault lost-repl", "lost-reply"),
        ("--host 203.0.113.7", "203.0.113.7"),
        ("--port 65535", "--port"),
        ("--credits -1", "--credits"),
        ("--key=", "empty"),
    ],
)
def test_invalid_options(cli: Cli, options: str, word: str) -> None:
    assert cli.fails(2, word, "sandbox", "--port", "0", *options.split()).stdout == ""


def test_the_list_of_faults(cli: Cli) -> None:
    rows = [line.split("\t") for line in cli("sandbox", "--list-faults").lines]
    assert rows == [[fault.usage, fault.stage, fault.effect] for fault in FAULTS.values()]
    done = cli("sandbox", "--list-faults", tty=True, env={"COLUMNS": "60"})
    assert "Faults of the webhooks:" in done.lines
    assert max(map(len, done.lines[:-5])) <= 60


def test_host(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any address but this machine's own draws a warning."""

    def fake(*_: object, **__: object) -> NoReturn:
        raise UsageError("not now")

    monkeypatch.setattr("flux_cli.sandbox.running", fake)
    for host in ("127.0.0.1", "localhost", "::1"):
        assert "warning" not in cli("sandbox", "--host", host).stderr
    for host in ("0.0.0.0", "192.168.1.7", "::", "myhost"):  # noqa: S104 - not bound to
        assert "warning: the sandbox accepts requests from other machines" in cli("sandbox", "--host", host).stderr
    assert not is_loopback("127.0.0.1.nip.io")


def test_on_every_address_it_uses_the_name_of_the_request(start: Start) -> None:
    """A container's clients reach it by names that it does not know; the pictures have to be there too."""
    api = start(host="0.0.0.0")  # noqa: S104 - on free ports, for a moment
    assert api.service.url.startswith("http://127.0.0.1:")
    body = json.dumps({"task_id": api.submit("a kite")}).encode()
    for host, expected in (("sandbox:8788", "http://sandbox:"), ("[::1]:1", "http://[::1]:"), ("a b<", "http://")):
        headers = {"Authorization": "k", "Host": host}
        url = exchange("POST", f"{api.service.url}/fetch", body, headers).json()["image_url"]
        assert url.startswith(expected)
        assert "<" not in url


@pytest.mark.parametrize(
    ("ending", "last_word"),
    [
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("sys.exit(3)", ""),
        ("1 / 0", "ZeroDivisionError"),
        ("pass", ""),
    ],
)
def test_the_interpreter_exits_cleanly(tmp_path: Path, ending: str, last_word: str) -> None:
    """However the main thread ends, even if the block is never left."""
    code = (
        # In development mode asyncio warns about callbacks that a busy machine has made slow.
        "import logging; logging.getLogger('asyncio').setLevel(logging.ERROR)\n"
        "import sys; from pathlib import Path; from flux_cli.sandbox import running\n"
        f"server = running(Path(sys.argv[1])); server.__enter__(); {ending}"
    )
    command = [sys.executable, "-X", "dev", "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.stderr.rstrip().rpartition("\n")[2].partition(":")[0] == last_word
    assert "thread" not in done.stderr
