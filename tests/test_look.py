"""What a person sees: bars, tables and errors in real terminals of several widths."""

import re

import pytest
from rich.cells import cell_len
from rich.color import Color

from tests.conftest import Cli
from tests.screen import Screen
from tests.server import Server, reply

SMALL = ("--width", "256", "--height", "256")
WIDE = "日本の富士山と桜 [bold]x[/bold] 🗻 in spring light"


def has_bars(count: int) -> "object":
    """Return a condition: so many lines show a percentage."""
    return lambda lines: sum(bool(re.search(r"\d+%", line)) for line in lines) == count


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_bar_a_task_and_afterwards_only_the_results(flux: Cli, columns: int) -> None:
    """Three bars with prompt, percentage and time, each on a line; then three paths and nothing else."""
    screen = Screen(flux, "imagine", "-n", "3", f"{WIDE} [[seconds 2]]", *SMALL, columns=columns)
    bars = screen.until(has_bars(3))  # type: ignore[arg-type]
    for number, line in enumerate(bars, 1):
        assert line.startswith(f"{number}/3 日本")
        assert re.search(r"\d+% +\d:\d\d$", line)
    assert screen.end() == 0
    assert "".join(screen.text).count(".png") == 3
    assert len("".join(screen.text)) == len("".join(flux.files()))  # where it is narrow the paths wrap
    assert not screen.cursor_hidden


def test_a_long_prompt_is_shortened_and_markup_is_text(flux: Cli) -> None:
    """Brackets come through as they are; the line stays one line."""
    screen = Screen(flux, "imagine", "[red]a[/red] [/b] kite " * 20 + "[[seconds 2]]", *SMALL, columns=60)
    (line,) = screen.until(has_bars(1))  # type: ignore[arg-type]
    assert line.startswith("[red]a[/red] [/")
    assert "…" in line
    assert screen.end() == 0


def test_a_resize_leaves_nothing_behind(flux: Cli) -> None:
    """From 80 to 40 to 120 columns while a bar is shown: the result is right, the cursor is back."""
    screen = Screen(flux, "imagine", "a kite [[seconds 3]]", *SMALL, columns=80)
    screen.until(has_bars(1))  # type: ignore[arg-type]
    screen.resize(40)
    screen.until(lambda lines: any(re.search(r"[3-9]\d%", line) for line in lines))
    screen.resize(120)
    assert screen.end() == 0
    assert screen.text[-1] in flux.files()
    assert not screen.cursor_hidden


@pytest.mark.parametrize("flags", [(), ("-v",)])
def test_a_terminal_that_breaks_lines_anew_keeps_no_dead_bars(flux: Cli, flags: tuple[str, ...]) -> None:
    """From 100 to 40 to 120 columns, where a bar becomes three lines: two bars, then only the results."""
    screen = Screen(flux, "imagine", "-n", "2", "a kite [[seconds 3]]", *SMALL, *flags, columns=100)
    screen.until(has_bars(2))  # type: ignore[arg-type]
    for columns in (40, 120):
        screen.reflow(columns)
        screen.until(lambda lines: [len(line) for line in lines if "%" in line] == [columns - 1] * 2)  # noqa: B023 - now
    assert screen.end() == 0
    assert not [line for line in screen.text if "━" in line]
    if not flags:
        assert sorted(screen.text) == flux.files()


def test_ctrl_c_takes_the_bar_away_and_tells_how_to_go_on(flux: Cli) -> None:
    """130, the id, the command that goes on, and a cursor."""
    screen = Screen(flux, "imagine", "a kite [[never]]", columns=100)
    screen.until(has_bars(1))  # type: ignore[arg-type]
    screen.type("\x03")
    assert screen.end() == 130
    (task_id,) = [record["task_id"] for record in flux.history()]
    shown = "\n".join(screen.text)
    assert f"flux-cli wait {task_id}" in shown
    assert "%" not in shown
    assert not screen.cursor_hidden


@pytest.mark.parametrize(
    ("env", "colour", "bars"),
    [
        ({}, True, True),
        ({"NO_COLOR": "1"}, False, True),
        ({"NO_COLOR": ""}, True, True),
        ({"TERM": "dumb"}, False, False),
    ],
)
def test_colour_and_bars_only_where_they_are_welcome(
    flux: Cli, env: dict[str, str], colour: bool, bars: bool
) -> None:
    """`NO_COLOR` takes the colour away, `TERM=dumb` the bars too; plain lines stand in for them."""
    screen = Screen(flux, "imagine", "a kite [[seconds 1]]", *SMALL, env=env)
    assert screen.end() == 0
    assert bool(re.search(rb"\x1b\[[0-9;]*3[0-9]", screen.raw)) is colour
    assert (b"\x1b" in screen.raw) is bars
    assert (b"submitted" in screen.raw) is not bars


def contrast(colour: Color, other: float) -> float:
    """Return the ratio of the lightness of a colour and another one, by the rule of the web's guidelines."""
    parts = [part / 255 for part in colour.get_truecolor()]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    lightness = sum(part * weight for part, weight in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))
    return (max(lightness, other) + 0.05) / (min(lightness, other) + 0.05)


def test_colours_hold_on_dark_and_light(flux: Cli) -> None:
    """No yellow, no white, nothing nearly black: in bars with and without a percentage, tables and help."""
    with Server({"/fetch": reply({"task_id": "task-0", "status": "x"})}) as server:
        shown = [Screen(flux, "imagine", "x", env={"FLUX_CLI_API_URL": server.url})]
        shown[0].until(lambda lines: any("0:01" in line for line in lines))
        shown[0].type("\x03")
        assert shown[0].end() == 130
    bars = Screen(flux, "imagine", "a kite [[seconds 1]]", *SMALL)
    shown += [bars, Screen(flux, "history"), Screen(flux, "imagine", "--help", lines=90)]
    for screen in shown[1:]:
        assert screen.end() == 0
    found = set(re.findall(rb"\x1b\[([\d;]+)m", b"".join(screen.raw for screen in shown)))
    basic = {code for code in found if b"5;" not in code}
    assert basic <= {b"0", b"1", b"2", b"31", b"32", b"36", b"1;31", b"1;32", b"1;36", b"90"}
    for code in found - basic:
        colour = Color.from_ansi(int(code.removeprefix(b"38;5;")))
        assert min(contrast(colour, 0), contrast(colour, 1)) > 2.5, code
        assert colour.get_truecolor().red <= colour.get_truecolor().green, code  # red is for errors


def test_without_a_utf_8_locale_nothing_breaks(flux: Cli) -> None:
    """An ASCII terminal gets bars of ASCII, and errors that quote an umlaut as an escape."""
    env = {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    screen = Screen(flux, "imagine", "a kite [[seconds 1]]", *SMALL, env=env)
    assert screen.end() == 0
    screen.raw.decode("ascii")
    screen = Screen(flux, "imagine", "x", "-m", "flüx", env=env)
    assert screen.end() == 2
    assert "unknown model" in "".join(screen.text)


@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize("command", [["history"], ["models"], ["account"], ["history", "--limit", "1"]])
def test_tables_fit_the_terminal(flux: Cli, command: list[str], columns: int) -> None:
    """No line is longer than the terminal is wide, and no row loses its status."""
    for prompt in (WIDE, "a kite " * 30, "short"):
        flux("imagine", prompt, "--no-wait", "-q")
    screen = Screen(flux, *command, columns=columns, lines=60)
    assert screen.end() == 0
    if command[0] == "history":
        assert "".join(screen.text).count("processing") == (1 if "--limit" in command else 3)
    if columns == 200:
        assert len(screen.text) <= 8


@pytest.mark.parametrize("columns", [40, 80, 110, 200])
def test_no_column_of_a_table_vanishes(flux: Cli, columns: int) -> None:
    """If they do not all fit side by side, a row takes more lines: no cell is lost at any width."""
    for prompt in (WIDE, "a kite " * 30, "short"):
        output = f"pictures/{'long-' * 8}{prompt[0]}.png"
        assert flux("imagine", prompt, "-o", output, *SMALL, "-q").code == 0
    task_ids = [record["task_id"] for record in flux.history()]
    for command, expected in {
        ("history",): [*(task_id[:8] for task_id in task_ids), "日本の富", "a kite", "short"],
        ("fetch", *task_ids): [f"/{task_id}.png" for task_id in task_ids],
        ("models",): ["--image-prompt-strength", "--aspect-ratio", "--raw", "--guidance"],
        ("account",): ["email", "plan"],
    }.items():
        screen = Screen(flux, *command, columns=columns, lines=80)
        assert screen.end() == 0
        together = re.sub(r"\s+", "", "".join(screen.text))
        for each in expected:
            assert re.sub(r"\s+", "", each) in together, "\n".join(screen.text)
        assert max(map(cell_len, screen.text)) <= columns


def test_help_is_shown_without_a_command(cli: Cli) -> None:
    """`flux-cli` alone is its help."""
    screen = Screen(cli, columns=100, lines=80)
    assert screen.end() == 0
    for name in ("imagine", "fetch", "wait", "batch", "gallery"):
        assert any(name in line for line in screen.text)
