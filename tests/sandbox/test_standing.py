"""`flux-cli sandbox` as a process: what it prints, how it ends, and that it still knows its tasks afterwards."""

import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from PIL import Image

from flux_cli.errors import LocalFileError
from flux_cli.sandbox import Running, running
from flux_cli.sandbox.faults import FAULTS
from tests.conftest import Cli, interrupt
from tests.sandbox.conftest import KEY, Api, Start, exchange


@contextlib.contextmanager
def standing(cli: Cli, *options: str) -> Iterator[tuple[Api, "subprocess.Popen[bytes]"]]:
    """Run `flux-cli sandbox` on free ports; yield a client of it and its process."""
    process = cli.start("sandbox", "--port", "0", "--seconds", "0.2", *options)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().decode().strip()
        yield Api(cast(Running, SimpleNamespace(url=url))), process
    finally:
        process.kill()
        process.communicate()


def test_it_prints_its_url_and_the_two_lines_that_point_a_client_at_it(cli: Cli) -> None:
    """On stdout, for a shell to take; a client that follows them gets its picture."""
    with standing(cli) as (api, process):
        assert process.stdout is not None
        exports = [process.stdout.readline().decode().strip() for _ in range(2)]
        assert exports == [f"export FLUX_CLI_API_URL={api.service.url}", "export APIFRAME_API_KEY=anything"]
        env = dict(line.removeprefix("export ").split("=", 1) for line in exports)
        done = cli("imagine", "a kite", "--width", "256", "--height", "256", "-o", "kite.png", env=env)
        assert (done.code, done.lines) == (0, ["kite.png"]), done.stderr
        assert Image.open(cli.cwd / "kite.png").size == (256, 256)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=str
)
def test_a_signal_ends_it_quietly(cli: Cli, number: int, code: int) -> None:
    """Without a traceback, and while it is busy drawing, waiting and holding connections."""
    with standing(cli) as (api, process):
        task_id = api.submit("a kite [[slow 0]]", width=1440, height=1440)
        url = api.ended(task_id)["image_url"]
        for target in (url, url.replace(".png", "-original.png")):
            threading.Thread(target=exchange, args=("GET", target), daemon=True).start()
        threading.Thread(target=api.imagine, args=("[[hang]]",), daemon=True).start()
        time.sleep(0.05)
        done = interrupt(process, number)
    assert done.code == code
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def logged(cli: Cli, *requests: Any) -> str:
    """Let a sandbox handle requests, and return its log."""
    with standing(cli, "--key", "sandbox-only-key") as (api, process):
        api.key = "sandbox-only-key"
        for request in requests:
            request(api)
        return interrupt(process).stderr


def test_it_logs_a_line_a_request_and_never_a_key(cli: Cli) -> None:
    """Method, path, status, task, fault and time; queries, headers and bodies stay out."""
    ids: list[str] = []

    def calls(api: Api) -> None:
        ids.append(api.submit("a kite [[fetch-http 503]]"))
        api.fetch(ids[0])
        api.post("/fetch?key=sandbox-only-key", {"task_id": ids[0]})
        exchange("GET", f"{api.service.url}/account", headers={"Authorization": "a-wrong-key"})

    log = logged(cli, calls)
    lines = [line.split(" ", 1)[1] for line in log.splitlines()[1:]]
    assert lines[0].startswith(f"POST /flux-imagine 200 {ids[0]} ")
    assert lines[1].startswith(f"POST /fetch 503 {ids[0]} [[fetch-http]] ")
    assert lines[2].startswith(f"POST /fetch 503 {ids[0]} ")
    assert lines[3].startswith("GET /account 401 ")
    assert all(line.endswith(" ms") for line in lines)
    assert "sandbox-only-key" not in log
    assert "a-wrong-key" not in log


def test_what_clients_send_reaches_the_log_escaped(cli: Cli) -> None:
    """A path or an id with escape sequences is shown, not obeyed."""
    log = logged(
        cli,
        lambda api: exchange("GET", f"{api.service.url}/%1b%5b31mred%0d%0aFAKE"),
        lambda api: api.fetch("\x1b]0;owned\x07\u202e\x9b31m"),
        lambda api: exchange("GET", f"{api.service.url}/{'x' * 3000}"),
    )
    assert not {character for character in log if not character.isprintable()} - {"\n"}
    assert not any(line.startswith("FAKE") for line in log.splitlines())
    assert max(map(len, log.splitlines())) < 400


def test_a_leaked_key_is_told_of_loudly(cli: Cli) -> None:
    """On stderr, with the word that people look for."""

    def leak(api: Api) -> None:
        url = api.ended(api.submit("a kite"))["image_url"]
        assert exchange("GET", url, headers={"Authorization": api.key}).status == 400

    assert "WARNING: a key was sent to the images' origin" in logged(cli, leak)


def test_killed_and_started_again_it_still_knows_its_tasks(cli: Cli) -> None:
    """Running, finished and failed ones, their seeds and image prompts; credits stay spent."""
    with standing(cli) as (api, process):
        ids = [api.submit(prompt) for prompt in ("a kite", "[[slow 100]]", "[[fail]]")]
        before = exchange("GET", api.ended(ids[0])["image_url"]).body
        process.kill()
        process.wait()
    with standing(cli) as (api, _):
        assert exchange("GET", api.ended(ids[0])["image_url"]).body == before
        assert api.fetch(ids[1]).json()["status"] == "processing"
        assert api.ended(ids[2])["status"] == "failed"
        assert api.account()["credits"] == 997


def test_a_task_that_was_answered_for_survives_a_kill_at_that_moment(cli: Cli) -> None:
    """Ten times over: every id that a client has seen is known afterwards."""
    ids: list[str] = []
    for _ in range(10):
        with standing(cli) as (api, process):
            ids += [api.submit("a kite") for _ in range(3)]
            process.kill()
            process.wait()
    with standing(cli) as (api, _):
        assert [api.fetch(task_id).status for task_id in ids] == [200] * 30
        assert api.account()["credits"] == 970


def test_embedded_and_standing_servers_share_their_tasks(cli: Cli) -> None:
    """What a `--sandbox` command submits, `flux-cli sandbox` knows, and the other way round."""
    (task_id,) = cli("imagine", "a kite", "--sandbox", "--no-wait", "-q").lines
    with standing(cli) as (api, _):
        assert api.fetch(task_id).status == 200
        other = api.submit("b")
    done = cli("wait", other, "--sandbox", "-q")
    assert done.code == 0, done.stderr


def test_many_servers_may_start_at_once_in_a_new_directory(tmp_path: Path) -> None:
    """Ten processes, one file: each serves, and a credit is spent for each."""
    code = (
        "import sys, json, urllib.request; from pathlib import Path; from flux_cli.sandbox import running\n"
        "with running(Path(sys.argv[1])) as service:\n"
        "    body = json.dumps({'model': 'flux-pro', 'prompt': 'x'}).encode()\n"
        "    request = urllib.request.Request(service.url + '/flux-imagine', body, {'Authorization': 'k'})\n"
        "    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))\n"
        "    print(json.load(opener.open(request))['task_id'])\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "new")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(10)
    ]
    ended = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0] * 10, ended
    with running(tmp_path / "new") as service:
        assert all(Api(service).fetch(out.decode().strip()).status == 200 for out, _ in ended)
        assert Api(service).account()["credits"] == 990


def test_what_is_kept_is_for_its_owner_only(start: Start, tmp_path: Path) -> None:
    """The directory is 0700, the file 0600."""
    start(directory=tmp_path / "deep" / "er").submit("a kite")
    assert (tmp_path / "deep" / "er").stat().st_mode & 0o777 == 0o700
    for path in (tmp_path / "deep" / "er").iterdir():
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_file_that_is_not_the_sandbox_s_is_refused(tmp_path: Path) -> None:
    """Damaged, newer, or a directory: one clear error with the path, and nothing is touched."""
    file = tmp_path / "tasks.sqlite3"
    file.write_bytes(b"not a database at all" * 50)
    with pytest.raises(LocalFileError, match=r"tasks\.sqlite3"), running(tmp_path):
        pass
    assert file.read_bytes() == b"not a database at all" * 50
    file.unlink()
    with contextlib.closing(sqlite3.connect(file)) as newer:
        newer.execute("PRAGMA user_version = 99")
    with pytest.raises(LocalFileError, match="99"), running(tmp_path):
        pass
    (tmp_path / "file").write_text("x")
    with pytest.raises(LocalFileError, match="file"), running(tmp_path / "file"):
        pass


def test_a_port_in_use_is_one_clear_error(cli: Cli) -> None:
    """Exit code 2, the port and what to do; for the images' port too."""
    with standing(cli) as (api, _):
        port = int(api.service.url.rpartition(":")[2])
        for taken in (port, port - 1):
            done = cli("sandbox", "--port", str(taken))
            assert done.code == 2
            error, hint = done.stderr.splitlines()
            assert error.startswith("error: cannot listen on ports")
            assert str(port) in error
            assert hint == "hint: try another --port"


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--seconds", "nan"], "seconds"),
        (["--seconds", "-1"], "--seconds"),
        (["--fault", "lost-repl"], "lost-reply"),
        (["--host", "203.0.113.7"], "203.0.113.7"),
        (["--port", "65535"], "--port"),
        (["--credits", "-1"], "--credits"),
        (["--key", ""], "empty"),
    ],
)
def test_options_that_make_no_sense_are_usage_errors(cli: Cli, options: list[str], word: str) -> None:
    """Exit code 2, nothing on stdout."""
    done = cli("sandbox", "--port", "0", *options)
    assert (done.code, done.stdout) == (2, "")
    assert word in done.stderr.splitlines()[0]


def test_the_faults_are_listed_a_row_each(cli: Cli) -> None:
    """Tab-separated in a pipe: how to write it, where it happens, what happens."""
    done = cli("sandbox", "--list-faults")
    rows = [line.split("\t") for line in done.lines]
    assert done.code == 0
    assert [row[0] for row in rows] == [fault.usage for fault in FAULTS.values()]
    assert all(len(row) == 3 and all(row) for row in rows)


def test_options_do_what_they_say(cli: Cli) -> None:
    """`--key`, `--credits`, `--fault`, `--seconds` on the command line."""
    with standing(cli, "--key", KEY, "--credits", "1", "--fault", "fail message", "--seconds", "0") as (api, _):
        assert exchange("GET", f"{api.service.url}/account", headers={"Authorization": "other"}).status == 401
        assert "message" in api.fetch(api.submit("a kite")).json()
        assert api.imagine("a kite").status == 402


def test_it_starts_on_every_address_and_names_the_one_it_was_called_by(cli: Cli) -> None:
    """A container's clients reach it by names that it does not know; pictures have to be reachable there too."""
    with standing(cli, "--host", "0.0.0.0") as (api, _):  # noqa: S104 - on free ports, for a moment
        assert api.service.url.startswith("http://127.0.0.1:")
        task_id = api.submit("a kite [[slow 0]]")
        body = json.dumps({"task_id": task_id}).encode()
        for host, expected in (
            ("sandbox:8788", "http://sandbox:"),
            ("[::1]:1", "http://[::1]:"),
            ("a b<", "http://"),
        ):
            answer = exchange("POST", f"{api.service.url}/fetch", body, {"Authorization": "k", "Host": host})
            assert answer.json()["image_url"].startswith(expected)
            assert "<" not in answer.json()["image_url"]


@pytest.mark.parametrize(
    "block",
    ["with running(Path(sys.argv[1])): ", "kept = running(Path(sys.argv[1])); kept.__enter__(); "],
    ids=len,
)
@pytest.mark.parametrize(
    ("ending", "told"),
    [
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("sys.exit(3)", ""),
        ("1 / 0", "ZeroDivisionError"),
        ("pass", ""),
    ],
)
def test_the_program_ends_in_silence_however_its_main_thread_ends(
    tmp_path: Path, block: str, ending: str, told: str
) -> None:
    """By KeyboardInterrupt, sys.exit, an error, or without leaving the block at all."""
    code = f"import sys; from pathlib import Path; from flux_cli.sandbox import running\n{block}{ending}"
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stderr.rstrip().rpartition("\n")[2].partition(":")[0] == told
    assert "thread" not in done.stderr
