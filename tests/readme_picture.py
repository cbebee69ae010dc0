"""The README's picture: a real session in a terminal, as the emulator saw it. `python -m tests.readme_picture`."""

import os
import re
import tempfile
from pathlib import Path

from rich.console import Console
from rich.style import Style
from rich.text import Text

from tests.conftest import Cli
from tests.screen import Screen

PICTURE = Path(__file__).parents[1] / ".github" / "session.svg"
COLUMNS = 92
FIRST = ["imagine", "a sunflower field in the wind", "--sandbox", "--seed", "7"]
SECOND = ["imagine", "-n", "3", "dunes at dusk", "--sandbox", "--seed", "40"]
THIRD = ["history", "--limit", "4"]


def main() -> None:
    """Run the session and write the picture."""
    with tempfile.TemporaryDirectory() as directory:
        cli = Cli(Path(directory), {**os.environ, "XDG_STATE_HOME": directory, "XDG_CONFIG_HOME": directory})
        cli.cwd.mkdir()
        console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"))  # noqa: SIM115 - only recorded
        _show(console, FIRST, _finished(cli, FIRST))
        _show(console, SECOND, _midway(cli))
        _show(console, THIRD, _finished(cli, THIRD))
        svg = re.sub(
            r"@font-face {.*?}", "", console.export_svg(title="flux-cli"), flags=re.S
        )  # no font from afar
        PICTURE.write_text("".join(f"{line.rstrip()}\n" for line in svg.splitlines()), encoding="utf-8")


def _finished(cli: Cli, arguments: list[str]) -> list[Text]:
    screen = Screen(cli, *arguments, columns=COLUMNS)
    screen.end()
    return screen.styled()


def _midway(cli: Cli) -> list[Text]:
    """Catch the bars half way, then let the command end."""
    screen = Screen(cli, *SECOND, columns=COLUMNS)
    screen.until(lambda lines: sum(bool(re.search(r"[4-8]\d%", line)) for line in lines) == 3)
    bars = screen.styled()
    screen.end()
    return bars


def _show(console: Console, arguments: list[str], output: list[Text]) -> None:
    words = " ".join(f'"{word}"' if " " in word else word for word in arguments)
    console.print(Text("$ ", Style(color="green", bold=True)) + Text(f"flux-cli {words}", Style(bold=True)))
    for line in output:
        console.print(line, no_wrap=True, crop=True)
    console.print()


if __name__ == "__main__":
    main()
