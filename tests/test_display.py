"""What a terminal gets: nothing raw from a prompt, the service or a file name; colours; tables of any width."""

import json
import re

import pytest
from rich.cells import cell_len

from tests.cli import Cli
from tests.server import Reply, Server, finished, http, in_turn, reply

SMALL = ("--width", "256", "--height", "256")
WIDE = "日本の富士山と桜 [bold]x[/bold] 🗻 in spring light"
EVIL = (
    "[bold red]no[/bold red] [/foo] [link=http://x]y[/link] \x1b[2J\x1b]0;owned\x07\x9b31m \x08\r\n over "
    "\u202egnp.exe\u2066 \u2028 \x00 \x7f \ufeff \ud83d end"
)
"""Markup, escape sequences, line breaks, C1, bidi overrides, half a character."""
ARGUMENT = EVIL.replace("\x00", "").replace("\ud83d", "")
"""The same, as far as the system lets it be an argument."""
RAW = re.compile("[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029]")
"""What must not be in what a terminal gets, line breaks and our own escape sequences apart."""
OURS = re.compile(r"\x1b\[(\?(?:25|7)[lh]|\d*[AJK]|[\d;]*m|2K)")
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


def on_terminal(
    cli: Cli, *arguments: str, columns: int = 80, code: int | None = 0, env: dict[str, str] | None = None
) -> str:
    done = cli(*arguments, tty=True, env={"TERM": "xterm-256color", "COLUMNS": str(columns), **(env or {})})
    assert code in (done.code, None), done.stderr
    return done.stdout + done.stderr


def assert_clean(text: str) -> str:
    """Check that nothing raw is in what a terminal got; return it without our own escape sequences."""
    text = OURS.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    assert "\x1b" not in text, re.findall(r"\x1b.{0,20}", text)
    assert not RAW.search(text), RAW.search(text)
    return text


@pytest.mark.parametrize("flags", [(), ("-v",)], ids=" ".join)
@pytest.mark.parametrize("response", REPLIES)
def test_nothing_raw_reaches_a_terminal(cli: Cli, server: Server, response: str, flags: tuple[str, ...]) -> None:
    server.routes = REPLIES[response]
    text = assert_clean(on_terminal(cli, "imagine", ARGUMENT, "--no-validate", *flags, code=None))
    assert "Traceback" not in text
    if response in ("a refusal", "a failure"):
        assert "[bold red]no[/bold red] [/foo] [link=http://x]y[/link]" in re.sub(r"\s+", " ", text)


@pytest.mark.parametrize(
    "command", ["history", "fetch task-0", "fetch nope-1 task-0", "models", "account", "config list"]
)
def test_nothing_raw_reaches_a_terminal_in_tables(cli: Cli, server: Server, command: str) -> None:
    """Nor is it in a pipe, except for the settings, which a program gets as they are."""
    assert cli("imagine", ARGUMENT, "--no-validate").code == 0
    cli("config", "set", "output_dir", f"pictures/{ARGUMENT}")
    server.routes = {
        "/account": reply({"email": EVIL, "credits": EVIL, "total_images": [EVIL], "plan": {"name": EVIL}}),
        "/fetch": lambda r: reply(
            {**finished(r.json()["task_id"], r.origin), "image_url": f"{r.origin}/image/{EVIL}"}
        ),
    }
    assert "Traceback" not in assert_clean(on_terminal(cli, *command.split(), columns=200))
    piped = cli(*command.split()).stdout.replace("\t", " ")
    if command != "config list":
        assert not RAW.search(piped)
        assert "\x1b" not in piped


def test_json_escapes_by_jsons_rules(cli: Cli, server: Server) -> None:
    """A parser gets back exactly what was received, from one line of harmless text."""
    server.routes = REPLIES["a failure"]
    done = cli("imagine", ARGUMENT, "--no-validate", "--json")
    (line,) = done.stdout.rstrip("\n").split("\n")
    assert not RAW.search(line)
    assert "\x1b" not in line
    task = json.loads(line)
    assert task["prompt"] == ARGUMENT
    assert task["raw"]["error"] == EVIL


def test_a_path_with_escape_sequences(cli: Cli, server: Server) -> None:
    """A program gets the path's bytes as they are; a terminal does not."""
    assert cli("imagine", "x", "-o", "a\x1b[2J.png").stdout == "a\x1b[2J.png\n"
    assert_clean(on_terminal(cli, "imagine", "x", "-o", "b\x1b[2J.png"))


def test_the_cursor_is_shown_after_an_error(cli: Cli, server: Server) -> None:
    server.routes = {"/fetch": reply({}, 401)}
    shown = on_terminal(cli, "imagine", "x", code=3)
    assert shown.rfind("\x1b[?25h") >= shown.rfind("\x1b[?25l")


@pytest.mark.parametrize(
    ("env", "colour", "bars"),
    [
        ({}, True, True),
        ({"NO_COLOR": "1"}, False, True),
        ({"NO_COLOR": ""}, True, True),
        ({"TERM": "dumb"}, False, False),
        ({"TTY_COMPATIBLE": "0", "TTY_INTERACTIVE": "0"}, True, True),
    ],
)
def test_when_colours_and_bars_appear(flux: Cli, env: dict[str, str], colour: bool, bars: bool) -> None:
    """`NO_COLOR` removes the colours, `TERM=dumb` the bars too; rich's own variables change nothing."""
    shown = on_terminal(flux, "imagine", "a kite [[seconds 1]]", *SMALL, env=env)
    assert bool(re.search(r"\x1b\[[0-9;]*3[0-9]", shown)) is colour
    assert ("\x1b" in shown) is bars
    assert ("submitted" in shown) is not bars


def test_colours_are_readable(flux: Cli) -> None:
    """No yellow, no white, nothing nearly black: in bars, tables and help."""
    commands = [("imagine", "a kite [[seconds 1]]", *SMALL), ("history",), ("imagine", "--help")]
    found = re.findall(r"\x1b\[([\d;]+)m", "".join(on_terminal(flux, *command) for command in commands))
    assert set(found) <= {"0", "1", "31", "32", "36", "1;31", "1;32", "1;36", "90"}


@pytest.mark.parametrize("columns", [40, 80, 110, 200])
def test_no_column_of_a_table_vanishes(flux: Cli, columns: int) -> None:
    """If they do not all fit side by side, a row takes more lines: no cell is lost at any width."""
    for prompt in (WIDE, "a kite " * 30, "short"):
        output = f"pictures/{'long-' * 8}{prompt[0]}.png"
        assert flux("imagine", prompt, "-o", output, *SMALL, "-q").code == 0
    task_ids = [record["task_id"] for record in flux.history()]
    for command, expected in {
        ("history",): [*(task_id[:8] for task_id in task_ids), "日本の富", "a kite", "short", "finished"],
        ("fetch", *task_ids): [f"pictures/{'long-' * 8}{initial}.png" for initial in (WIDE[0], "a", "s")],
        ("account",): ["email", "plan"],
    }.items():
        text = OURS.sub("", on_terminal(flux, *command, columns=columns))
        together = re.sub(r"\s+", "", text)
        for each in expected:
            assert re.sub(r"\s+", "", each) in together, text
        assert max(map(cell_len, text.splitlines())) <= columns
        assert columns < 200 or len(text.splitlines()) <= 7
