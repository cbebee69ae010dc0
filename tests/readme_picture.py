"""Draw the README's image: a session as a terminal shows it. `python -m tests.readme_picture`.

The terminal emulator has no graphics, so the picture that `--preview` shows below the path is added here.
"""

import base64
import io
import re
import tempfile
from pathlib import Path

from PIL import Image
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.style import Style
from rich.text import Text

from tests.cli import Cli, new_cli
from tests.screen import Screen

PICTURE = Path(__file__).parents[1] / ".github" / "session.svg"
COLUMNS = 84
FIRST = ["imagine", "a sunflower field in the wind", "--seed", "7", "--sandbox", "--preview"]
SECOND = ["imagine", "-n", "3", "dunes at dusk", "--seed", "40", "--sandbox"]
THIRD = ["history", "--limit", "4"]
SIZE = (480, 360)
"""The size of the picture in pixels."""
ROW_HEIGHT = 24.4
"""The height of a row in the units of rich's SVG."""
ROWS = int(SIZE[1] / ROW_HEIGHT) + 2


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        cli = new_cli(Path(directory))
        console = Console(record=True, width=COLUMNS, file=io.StringIO())
        without_preview = FIRST[:-1]
        rows = _show(console, FIRST, _finished(cli, without_preview))
        (path,) = cli.cwd.glob("*.png")
        console.print("\n" * ROWS, end="")
        _show(console, SECOND, _midway(cli))
        _show(console, THIRD, _finished(cli, THIRD))
        svg = console.export_svg(title="flux-cli", code_format=_format(path, rows))
        PICTURE.write_text(
            "".join(f"{line.strip()}\n" for line in svg.splitlines() if line.strip()), encoding="utf-8"
        )


def _finished(cli: Cli, arguments: list[str]) -> list[Text]:
    screen = Screen(cli, *arguments, columns=COLUMNS)
    screen.end()
    return screen.styled()


def _midway(cli: Cli) -> list[Text]:
    """Capture the progress bars halfway, then let the command end."""
    screen = Screen(cli, *SECOND, columns=COLUMNS)
    screen.until(lambda lines: sum(bool(re.search(r"[4-8]\d%", line)) for line in lines) == 3)
    bars = screen.styled()
    screen.end()
    return bars


def _show(console: Console, arguments: list[str], output: list[Text]) -> int:
    """Add a command and its output; return the number of rows."""
    words = " ".join(f'"{word}"' if " " in word else word for word in arguments)
    prompt = ("$ ", Style(color="green", bold=True))
    console.print(Text.assemble(prompt, (f"flux-cli {words}", Style(bold=True))), highlight=False)
    for line in output:
        console.print(line, no_wrap=True, crop=True)
    console.print()
    return len(output) + 1


def _format(path: Path, rows: int) -> str:
    """Return rich's template without fonts from the network, with the picture below the first rows."""
    with Image.open(path) as picture:
        small = picture.convert("RGB").resize(SIZE, Image.Resampling.LANCZOS)
    content = io.BytesIO()
    small.save(content, "JPEG", quality=88)
    url = "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()
    x, y = 12, (rows + 0.5) * ROW_HEIGHT
    image = f'<image x="{x}" y="{y:.0f}" width="{SIZE[0]}" height="{SIZE[1]}" href="{url}"/>'
    template = re.sub(r"@font-face {{.*?}}", "", CONSOLE_SVG_FORMAT, flags=re.S)
    return template.replace("{matrix}", "{matrix}\n" + image)


if __name__ == "__main__":
    main()
