"""Commands in a real terminal, a pty with a screen behind it: bars, resizing, signals and job control."""

import re
import signal
from collections.abc import Callable

import pytest

from tests.cli import FLUX_CLI, Cli
from tests.conftest import wait_until
from tests.screen import Screen
from tests.server import Reply, Request, Server, http, png, reply

SMALL = ("--width", "256", "--height", "256")


def progress(percentage: int) -> dict[str, Reply]:
    """Return the routes of a server whose tasks have reached a percentage."""

    def task(task_id: str) -> dict[str, object]:
        return {"task_id": task_id, "status": "processing", "percentage": percentage}

    def fetch_many(request: Request) -> bytes:
        return reply({"tasks": [task(task_id) for task_id in request.json()["task_ids"]]})

    return {"/fetch": lambda request: reply(task(request.json()["task_id"])), "/fetch-many": fetch_many}


@pytest.fixture
def running(server: Server) -> Server:
    server.routes = progress(40)
    return server


def bars(count: int) -> Callable[[list[str]], bool]:
    return lambda lines: sum(bool(re.search(r"\d+%", line)) for line in lines) == count


def assert_left(screen: Screen, *lines: str) -> None:
    """Check that nothing but these lines is left, and that the cursor is back."""
    assert screen.text == [*lines]
    assert not screen.cursor_hidden


@pytest.mark.parametrize("columns", [40, 200])
def test_a_bar_per_task_and_afterwards_only_the_results(cli: Cli, running: Server, columns: int) -> None:
    """Three bars with number, prompt, percentage and time, one per line; then three paths in order."""
    prompt = "日本の富士山と桜 [bold]x[/bold] 🗻 in spring light"
    screen = Screen(cli, "imagine", "-n", "3", prompt, "-o", "{n}.{ext}", columns=columns)
    for number, line in enumerate(screen.until(bars(3)), 1):
        assert line.startswith(f"{number}/3 日本")
        assert re.search(r"\d+% +\d:\d\d$", line)
    running.routes = {}
    assert screen.end() == 0
    assert_left(screen, "1.png", "2.png", "3.png")


def test_a_resize_leaves_nothing_behind(cli: Cli, running: Server) -> None:
    screen = Screen(cli, "imagine", "a kite", "-o", "x.png", columns=80)
    screen.until(bars(1))
    screen.resize(40)
    running.routes = progress(60)
    screen.until(lambda lines: any("60%" in line for line in lines))
    screen.resize(120)
    running.routes = {}
    assert screen.end() == 0
    assert_left(screen, "x.png")


@pytest.mark.parametrize("flags", [(), ("-v",)])
def test_terminal_that_reflows_lines(cli: Cli, running: Server, flags: tuple[str, ...]) -> None:
    """From 100 to 40 to 120 columns, where a bar becomes three lines: two bars, then only the results."""
    screen = Screen(cli, "imagine", "-n", "2", "a kite", *flags, columns=100)
    screen.until(bars(2))
    for columns in (40, 120):
        screen.reflow(columns)
        screen.until(lambda lines: [len(line) for line in lines if "%" in line] == [columns - 1] * 2)  # noqa: B023 - now
    running.routes = {}
    assert screen.end() == 0
    assert not [line for line in screen.text if "━" in line]
    if not flags:
        assert sorted(screen.text) == cli.files()


def test_without_a_utf_8_locale_nothing_breaks(flux: Cli) -> None:
    """An ASCII terminal gets bars of ASCII, and errors that quote an umlaut as an escape."""
    env = {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    screen = Screen(flux, "imagine", "a kite [[seconds 1]]", *SMALL, env=env)
    assert screen.end() == 0
    screen.raw.decode("ascii")
    screen = Screen(flux, "imagine", "x", "-m", "flüx", env=env)
    assert screen.end() == 2
    assert "unknown model" in "".join(screen.text)


@pytest.mark.parametrize(
    ("phase", "number", "code"),
    [
        ("/fetch", None, 130),
        ("/fetch", signal.SIGTERM, 143),
        ("/fetch", signal.SIGHUP, 129),
        ("/image", signal.SIGINT, 130),
    ],
)
def test_a_signal_removes_the_bar(cli: Cli, running: Server, phase: str, number: int | None, code: int) -> None:
    """Also Ctrl-C on the keyboard. The cursor comes back, and the screen says how to resume."""
    if phase == "/image":
        running.routes = {"/image": [http(200, png(300_000))[:200_000], 60.0]}
    screen = Screen(cli, "imagine", "x", columns=100)
    wait_until(lambda: running.requests(phase))
    screen.until(lambda lines: any("0:0" in line for line in lines))
    if number is None:
        screen.type("\x03")
    else:
        screen.process.send_signal(number)
    assert screen.end() == code
    assert b"\x1b[?25l" in screen.raw
    assert not screen.cursor_hidden
    assert "flux-cli wait task-0" in "\n".join(screen.text)
    assert not [line for line in screen.text if "0:0" in line]


def test_a_terminal_that_is_closed(cli: Cli, running: Server) -> None:
    """If SIGHUP is ignored, as with `nohup` and `disown`, the picture is saved all the same."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        screen = Screen(cli, "imagine", "x")
    finally:
        signal.signal(signal.SIGHUP, before)
    screen.until(bars(1))
    checks = len(running.requests("/fetch"))
    screen.close()
    wait_until(lambda: len(running.requests("/fetch")) > checks)
    running.routes = {}
    assert screen.process.wait(timeout=30) == 6  # for stdout was the terminal, too
    assert cli.files() == ["x-task-0.png"]


def shell(cli: Cli) -> Screen:
    path = f"{FLUX_CLI.parent}:{cli.env['PATH']}"
    screen = Screen(cli, "--norc", "--noprofile", "-i", env={"PATH": path, "PS1": "$ "}, program=["bash"])
    screen.until(lambda lines: lines[-1:] == ["$"])
    return screen


def leave(screen: Screen) -> None:
    screen.type("exit\n")
    assert screen.end() == 0


@pytest.mark.needs("bash")
def test_ctrl_z_restores_the_terminal_and_fg_draws_again(cli: Cli, running: Server) -> None:
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
    running.routes = {}
    screen.until(lambda lines: lines[-2:] == ["kite-task-0.png", "$"])
    assert not [line for line in screen.text if "━" in line]
    leave(screen)


@pytest.mark.needs("bash")
def test_a_background_job_draws_nothing(cli: Cli, running: Server) -> None:
    screen = shell(cli)
    screen.type("flux-cli imagine kite &\n")
    wait_until(lambda: len(running.requests("/fetch")) > 1)
    running.routes = {}
    screen.until(lambda lines: any("kite-task-0.png" in line for line in lines))
    assert "━" not in screen.raw.decode()
    leave(screen)
