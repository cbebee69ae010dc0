"""What reaches a terminal: nothing raw from a prompt, the service or a file name, and the cursor comes back."""

import json
import re
import shutil
import signal

import pytest

from tests.conftest import FLUX_CLI, KEY, Cli, wait_until
from tests.screen import Screen
from tests.server import Reply, Server, finished, http, in_turn, png, reply

EVIL = (
    "[bold red]no[/bold red] [/foo] [link=http://x]y[/link] \x1b[2J\x1b]0;owned\x07\x9b31m \x08\r\n over "
    "\u202egnp.exe\u2066 \u2028 \x00 \x7f \ufeff \ud83d end"
)
"""Markup, escape sequences, line breaks, C1, bidi overrides, half a character."""
ARGUMENT = EVIL.replace("\x00", "").replace("\ud83d", "")
"""The same, as far as the system lets it be an argument."""
RAW = re.compile("[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029]")
"""What must not be in what a terminal gets, line breaks and our own escape sequences apart."""
OURS = re.compile(r"\x1b\[(\?25[lh]|\d*[AJK]|[\d;]*m|2K)")
"""The escape sequences of bars, tables and colours."""

RUNNING = reply({"task_id": "task-0", "status": EVIL, "percentage": 40})
REPLIES: dict[str, dict[str, Reply]] = {
    "all is well": {
        "/fetch": in_turn(RUNNING, lambda r: reply({**finished("task-0", r.origin), "task_type": EVIL}))
    },
    "a refusal": {"/flux-imagine": reply({"errors": [{"msg": EVIL}]}, 400)},
    "a redirect": {"/flux-imagine": http(307, Location="http://x/\x1b[2J\x9b31m")},
    "a failure": {"/fetch": reply({"task_id": "task-0", "status": "failed", "error": EVIL})},
    "trouble": {"/fetch": in_turn(reply({"message": EVIL}, 503), lambda r: reply(finished("task-0", r.origin)))},
    "a URL": {"/fetch": lambda r: reply({**finished("task-0", r.origin), "image_url": f"ftp://{EVIL}"})},
    "no JSON": {"/fetch": in_turn(http(200, EVIL.encode(errors="replace")), reply({}, 401))},
    "a picture elsewhere": {"/image": http(302, Location="ftp://x/\x1b[2J\x9b31m")},
}


def assert_clean(output: bytes) -> str:
    """See that nothing raw is in what a terminal got; return it without our own escape sequences."""
    text = output.decode().replace("\r\n", "\n").replace("\r", "\n")
    text = OURS.sub("", text)
    assert "\x1b" not in text, re.findall(r"\x1b.{0,20}", text)
    assert not RAW.search(text), RAW.search(text)
    return text


@pytest.mark.parametrize("flags", [(), ("-v",)], ids=" ".join)
@pytest.mark.parametrize("reply", REPLIES)
def test_nothing_raw_reaches_a_terminal(cli: Cli, reply: str, flags: tuple[str, ...]) -> None:
    """On a terminal, with bars and colours, whatever the prompt and the service say."""
    with Server(REPLIES[reply]) as server:
        cli.env |= {"APIFRAME_API_KEY": KEY, "FLUX_CLI_API_URL": server.url}
        screen = Screen(cli, "imagine", ARGUMENT, "--no-validate", *flags)
        screen.end()
    text = assert_clean(screen.raw)
    assert "Traceback" not in text
    if reply in ("a refusal", "a failure"):
        assert "[bold red]no[/bold red] [/foo] [link=http://x]y[/link]" in re.sub(r"\s+", " ", text)


@pytest.mark.parametrize(
    "command", ["history", "fetch task-0", "fetch nope-1 task-0", "models", "account", "config list"]
)
def test_nothing_raw_reaches_a_terminal_in_tables(cli: Cli, command: str) -> None:
    """Nor in what other commands show of it."""
    routes: dict[str, Reply] = {
        "/account": reply({"email": EVIL, "credits": EVIL, "total_images": [EVIL], "plan": {"name": EVIL}}),
        "/fetch": lambda r: reply(
            {**finished(r.json()["task_id"], r.origin), "image_url": f"{r.origin}/image/{EVIL}"}
        ),
    }
    with Server() as server:
        cli.env |= {"APIFRAME_API_KEY": KEY, "FLUX_CLI_API_URL": server.url}
        assert cli("imagine", ARGUMENT, "--no-validate").code == 0
        cli("config", "set", "output_dir", f"pictures/{ARGUMENT}")
        server.routes = routes
        screen = Screen(cli, *command.split(), columns=200)
        assert screen.end() == 0
        text = assert_clean(screen.raw)
        assert "Traceback" not in text
        piped = cli(*command.split()).stdout.replace("\t", " ")
        if command != "config list":  # which gives a program the settings as they are
            assert not RAW.search(piped)
            assert "\x1b" not in piped


def test_json_escapes_by_jsons_rules(cli: Cli) -> None:
    """A parser gets back exactly what was said, and what is printed is a line of harmless text."""
    with Server(REPLIES["a failure"]) as server:
        cli.env |= {"APIFRAME_API_KEY": KEY, "FLUX_CLI_API_URL": server.url}
        done = cli("imagine", ARGUMENT, "--no-validate", "--json")
    (line,) = done.stdout.rstrip("\n").split("\n")
    assert not RAW.search(line)
    assert "\x1b" not in line
    told_of = json.loads(line)
    assert told_of["prompt"] == ARGUMENT
    assert told_of["raw"]["error"] == EVIL


def test_a_path_with_escape_sequences(cli: Cli) -> None:
    """A program gets the path's bytes as they are; a terminal does not."""
    with Server() as server:
        cli.env |= {"APIFRAME_API_KEY": KEY, "FLUX_CLI_API_URL": server.url}
        assert cli("imagine", "x", "-o", "a\x1b[2J.png").stdout == "a\x1b[2J.png\n"
        screen = Screen(cli, "imagine", "x", "-o", "b\x1b[2J.png")
        assert screen.end() == 0
        assert_clean(screen.raw)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("phase", ["waiting", "downloading"])
def test_the_cursor_comes_back(cli: Cli, phase: str, number: int) -> None:
    """After each signal the last word on the cursor is to show it, and the id is there."""
    routes: dict[str, Reply] = {"/fetch": reply({"task_id": "task-0", "status": "x", "percentage": 40})}
    if phase == "downloading":
        routes = {"/image": [http(200, png(300_000))[:200_000], 60.0]}
    with Server(routes) as server:
        cli.env |= {"APIFRAME_API_KEY": KEY, "FLUX_CLI_API_URL": server.url}
        screen = Screen(cli, "imagine", "x")
        path = "/fetch" if phase == "waiting" else "/image"
        wait_until(lambda: server.requests(path))
        screen.until(lambda lines: any("0:0" in line for line in lines))
        screen.process.send_signal(number)
        assert screen.end() == {2: 130, 15: 143, 1: 129}[number]
    assert screen.raw.count(b"\x1b[?25l") >= 1
    assert screen.raw.rfind(b"\x1b[?25h") > screen.raw.rfind(b"\x1b[?25l")
    assert b"flux-cli wait task-0" in screen.raw


def test_a_terminal_that_is_closed(cli: Cli) -> None:
    """Where the hang-up is ignored, as `nohup` and `disown` have it, the task goes on to its picture."""
    with Server({"/fetch": RUNNING}) as server:
        cli.env |= {"APIFRAME_API_KEY": KEY, "FLUX_CLI_API_URL": server.url}
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            screen = Screen(cli, "imagine", "x")
        finally:
            signal.signal(signal.SIGHUP, before)
        screen.until(lambda lines: any("40%" in line for line in lines))
        looks = len(server.requests("/fetch"))
        screen.close()
        wait_until(lambda: len(server.requests("/fetch")) > looks + 2)
        server.routes = {}
        assert screen.process.wait(timeout=30) == 6  # for stdout was the terminal, too
    assert cli.files() == ["x-task-0.png"]


def test_the_cursor_comes_back_at_the_deadline_and_on_errors(cli: Cli) -> None:
    """Whatever ends the bars."""
    for routes, code in (({"/fetch": RUNNING}, 7), ({"/image": http(403)}, 5), ({"/fetch": reply({}, 401)}, 3)):
        with Server(routes) as server:
            cli.env |= {"APIFRAME_API_KEY": KEY, "FLUX_CLI_API_URL": server.url}
            screen = Screen(cli, "imagine", "x", "--timeout", "2")
            assert screen.end() == code
        assert screen.raw.rfind(b"\x1b[?25h") >= screen.raw.rfind(b"\x1b[?25l")


def shell(cli: Cli) -> Screen:
    """Return a shell with job control in which `flux-cli` is a command."""
    path = f"{FLUX_CLI.parent}:{cli.env['PATH']}"
    screen = Screen(cli, "--norc", "--noprofile", "-i", env={"PATH": path, "PS1": "$ "}, program=["bash"])
    screen.until(lambda lines: lines[-1:] == ["$"])
    return screen


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_ctrl_z_restores_the_terminal_and_fg_draws_again(cli: Cli) -> None:
    """The shell gets a clean line and a visible cursor; the bar comes back in the foreground only."""
    with Server({"/fetch": RUNNING}) as server:
        cli.env |= {"APIFRAME_API_KEY": KEY, "FLUX_CLI_API_URL": server.url}
        screen = shell(cli)
        screen.type("flux-cli imagine kite\n")
        screen.until(lambda lines: lines[-1].startswith("kite ") and "40%" in lines[-1])
        assert screen.cursor_hidden
        screen.type("\x1a")
        screen.until(lambda lines: lines[-1] == "$" and any("Stopped" in line for line in lines))
        assert not [line for line in screen.text if "━" in line]
        assert not screen.cursor_hidden
        screen.type("fg\n")
        screen.until(lambda lines: lines[-1].startswith("kite ") and "40%" in lines[-1])
        assert screen.cursor_hidden
        server.routes = {}
        screen.until(lambda lines: lines[-2:] == ["kite-task-0.png", "$"])
        assert not [line for line in screen.text if "━" in line]
        screen.type("exit\n")
        assert screen.end() == 0


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_a_background_job_draws_nothing(cli: Cli) -> None:
    """The prompt of the shell stays as it is until the path is printed."""
    with Server({"/fetch": RUNNING}) as server:
        cli.env |= {"APIFRAME_API_KEY": KEY, "FLUX_CLI_API_URL": server.url}
        screen = shell(cli)
        screen.type("flux-cli imagine kite &\n")
        wait_until(lambda: len(server.requests("/fetch")) > 2)
        server.routes = {}
        screen.until(lambda lines: any("kite-task-0.png" in line for line in lines))
        assert "━" not in screen.raw.decode()
        screen.type("exit\n")
        assert screen.end() == 0
