"""`show`, `--preview` and `--open`: pictures in a terminal that replies like real ones, and in a viewer."""

import base64
import fcntl
import io
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import sys
import termios
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import FLUX_CLI, Cli, Done, Service, wait_until
from tests.server import png_file
from tests.test_imagine import SMALL

RED, BLUE = (255, 0, 0), (0, 0, 255)
PLACEHOLDER = "\U0010eeee"

# Makes stdout the controlling terminal, as a shell does, and becomes the command.
IN_TERMINAL = """
import fcntl, os, runpy, sys, termios
os.setsid()
fcntl.ioctl(1, termios.TIOCSCTTY, 0)
replies, program = sys.argv[1].split(), sys.argv[2]
try:
    from textual_image import _terminal
except ImportError:
    pass
else:
    capture = _terminal.capture_terminal_response
    def patient(start_marker, end_marker, timeout=None):
        kind = {"\\x1b[?": "attributes", "\\x1b_G": "kitty"}.get(start_marker[:3])
        return capture(start_marker, end_marker, 20 if kind in replies else timeout)
    _terminal.capture_terminal_response = patient
sys.argv = sys.argv[2:]
runpy.run_path(program, run_name="__main__")
"""
"""Runs the command in the terminal. The library waits 0.1 s for a response; here it waits for those that come."""


@dataclass
class Terminal:
    """A terminal of 80 × 24 cells of 8 × 16 pixels; `sixel` and `kitty` say which protocols it supports.

    `pixels` says whether the system knows their number; over ssh it often does not.
    """

    sixel: bool = False
    kitty: bool = False
    pixels: bool = True
    rows: int = 24
    columns: int = 80

    def run(
        self,
        cli: Cli,
        *arguments: str | Path,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        code: int = 0,
    ) -> str:
        """Run a command in it; return everything it shows. `stdin`, if given, is piped in."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(
            theirs,
            termios.TIOCSWINSZ,
            struct.pack("HHHH", self.rows, self.columns, *((640, 384) if self.pixels else (0, 0))),
        )
        environment = {**cli.env, "TERM": "xterm-256color", "COLORTERM": "truecolor", **(env or {})}
        replies = "attributes kitty" if self.kitty else "attributes"
        process = subprocess.Popen(
            [sys.executable, "-c", IN_TERMINAL, replies, str(FLUX_CLI), *map(str, arguments)],
            stdin=theirs if stdin is None else subprocess.PIPE,
            stdout=theirs,
            stderr=theirs,
            cwd=cli.cwd,
            env=environment,
        )
        os.close(theirs)
        if stdin is not None and process.stdin:
            process.stdin.write(stdin)
            process.stdin.close()
        shown = self._replying(ours).decode()
        os.close(ours)
        assert process.wait(20) == code, shown
        return shown

    def _replying(self, terminal: int) -> bytes:
        """Read until the command is gone, and answer what it asks, in order: device attributes, Kitty's query."""
        shown = b""
        replied = 0
        while select.select([terminal], [], [], 30)[0]:
            try:
                shown += os.read(terminal, 65536)
            except OSError:  # the last one that had it open is gone
                break
            queries = re.compile(rb"\x1b\[c|\x1b_Gi=(\d+),s=1,v=1,a=q[^\x1b]*\x1b\\")
            while query := queries.search(shown, replied):
                replied = query.end()
                if query[0] == b"\x1b[c":
                    os.write(terminal, b"\x1b[?62;4;22c" if self.sixel else b"\x1b[?62;22c")
                elif self.kitty:
                    os.write(terminal, b"\x1b_Gi=%s;OK\x1b\\" % query[1])
        return shown


@pytest.fixture
def flag_png(cli: Cli) -> Path:
    """A picture whose left half is red and whose right half is blue."""
    image = Image.new("RGB", (320, 240), RED)
    image.paste(BLUE, (160, 0, 320, 240))
    image.save(cli.cwd / "flag.png")
    return cli.cwd / "flag.png"


def half_blocks(shown: str) -> list[list[tuple[int, int, int]]]:
    rows = []
    for line in shown.splitlines():
        cells = re.findall(r"\x1b\[38;2;(\d+);(\d+);(\d+);48;2;\d+;\d+;\d+m▀", line)
        if cells:
            rows.append([(int(r), int(g), int(b)) for r, g, b in cells])
    return rows


def kitty_picture(shown: str) -> Image.Image:
    chunks = re.findall(r"\x1b_Gi=\d+,m=[01],f=100,q=2;([^\x1b]*)\x1b\\", shown)
    return Image.open(io.BytesIO(base64.b64decode("".join(chunks))))


def test_half_blocks(cli: Cli, flag_png: Path) -> None:
    """Red to the left, blue to the right, as large as fits and with its ratio kept."""
    shown = Terminal().run(cli, "show", flag_png)
    rows = half_blocks(shown)
    assert len(rows) <= 22
    (width,) = {len(row) for row in rows}
    assert width * 8 / (len(rows) * 16) == pytest.approx(4 / 3, rel=0.05)
    assert {row[0] for row in rows} == {RED}
    assert {row[-1] for row in rows} == {BLUE}


def test_kitty(cli: Cli, flag_png: Path) -> None:
    """The picture as a PNG, and placeholders for it whose colour is its number, whatever NO_COLOR says."""
    shown = Terminal(kitty=True).run(cli, "show", flag_png, env={"NO_COLOR": "1", "COLORTERM": ""})
    image = kitty_picture(shown)
    assert image.getpixel((2, 2)) == RED
    assert image.getpixel((image.width - 3, 2)) == BLUE
    assert shown.count(PLACEHOLDER) > 100
    (number,) = set(re.findall(r"a=p,i=(\d+)", shown))
    red, green, blue = (int(number) >> 16 & 255, int(number) >> 8 & 255, int(number) & 255)
    assert f"\x1b[38;2;{red};{green};{blue}m{PLACEHOLDER}" in shown


@pytest.mark.parametrize("stdin", [None, b"", b"a kite"])
def test_sixel(cli: Cli, flag_png: Path, stdin: bytes | None) -> None:
    """Red and blue; the terminal is asked for its protocols even if it is not stdin."""
    shown = Terminal(sixel=True).run(cli, "show", flag_png, stdin=stdin)
    (sixels,) = re.findall(r"\x1bP[\d;]*q(.*?)\x1b\\", shown, re.DOTALL)
    colours = set(re.findall(r"#\d+;2;(\d+;\d+;\d+)", sixels))
    assert colours >= {"100;0;0", "0;0;100"}  # and what the edge between them takes


@pytest.mark.parametrize("stdin", [None, b""])
def test_unknown_pixels(cli: Cli, flag_png: Path, stdin: bytes | None) -> None:
    """The terminal does not answer either, so a common cell size is used."""
    shown = Terminal(sixel=True, pixels=False).run(cli, "show", flag_png, stdin=stdin)
    assert re.search(r"\x1bP[\d;]*q", shown)


def test_a_terminal_without_a_size(flux: Cli, flag_png: Path) -> None:
    """`show` says so; for `imagine --preview` it is a warning after the path."""
    terminal = Terminal(sixel=True, rows=0, columns=0)
    assert "the terminal is too small" in terminal.run(flux, "show", flag_png, code=2)
    assert "x.png" in terminal.run(flux, "imagine", "x", "--preview", "-o", "x.png", *SMALL)


def test_half_blocks_without_colour(cli: Cli, flag_png: Path) -> None:
    shown = Terminal().run(cli, "show", flag_png, env={"NO_COLOR": "1"}, code=2)
    assert "NO_COLOR is set" in shown
    assert "▀" not in shown


def test_without_a_terminal(cli: Cli, flag_png: Path) -> None:
    """A pipe gets the path without escape sequences, and so does a dumb terminal."""
    assert cli("show", "flag.png") == Done(0, "flag.png\n", "")
    assert Terminal(sixel=True).run(cli, "show", flag_png, env={"TERM": "dumb"}) == f"{flag_png}\r\n"


def test_a_task(flux: Cli) -> None:
    (task,) = flux("imagine", "x", "--json", *SMALL).objects
    assert flux("show", task["task_id"]).lines == [str(flux.cwd / task["path"])]


def test_a_task_without_a_picture(flux: Cli) -> None:
    """Not saved, printed to stdout, deleted, or unknown: exit 6, and how to get it."""
    (unsaved,) = flux("imagine", "x", "--no-wait", *SMALL).lines
    process = flux.start("imagine", "x", "-o", "-", *SMALL)
    assert process.communicate(timeout=30)[0]
    streamed = flux.history()[0]["task_id"]
    (deleted,) = flux("imagine", "x", "--json", *SMALL).objects
    (flux.cwd / deleted["path"]).unlink()
    for task_id, message, hint in (
        (unsaved, "is not saved", f"flux-cli wait {unsaved}"),
        (streamed, "went to stdout", f"flux-cli wait {streamed} -o FILE"),
        (deleted["task_id"], "no longer exists", f"flux-cli wait {deleted['task_id']}"),
        ("64cd7965", "there is no file 64cd7965, and no such task", ""),
    ):
        done = flux("show", task_id)
        assert done.code == 6
        assert message in done.stderr
        assert hint in done.stderr


def unfilled(side: int) -> bytes:
    """Return a PNG that claims a size and has hardly any data."""
    return png_file((b"IDAT", zlib.compress(bytes(1000))), width=side, height=side, color_type=2)


def thin_png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (3, 6000), RED).save(file, "PNG")
    return file.getvalue()


ODD: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "text": lambda: b"not a picture",
    "EPS": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "cut": lambda: thin_png()[:60],
    "only a signature": lambda: b"\x89PNG\r\n\x1a\n",
    "no pixels": lambda: unfilled(0),
    "too many pixels": lambda: unfilled(60_000),
    "fewer pixels than claimed": lambda: unfilled(2_000),
    "too thin": thin_png,
    "no JPEG after all": lambda: b"\xff\xd8\xff" + bytes(range(256)) * 9,
    "no WebP after all": lambda: b"RIFF\x20\x00\x00\x00WEBPVP8 " + bytes(40),
    "no GIF after all": lambda: b"GIF89a" + bytes(30),
    "no AVIF after all": lambda: b"\x00\x00\x00\x1cftypavif" + bytes(30),
}


@pytest.mark.parametrize("make", ODD.values(), ids=list(ODD))
def test_a_broken_picture(cli: Cli, make: Callable[[], bytes]) -> None:
    """Exit 6 and one error; nothing of it is sent to the terminal."""
    (cli.cwd / "odd.png").write_bytes(make())
    done = cli("show", "odd.png", tty=True)
    assert (done.code, done.stdout) == (6, "")
    assert done.stderr.count("error:") == 1
    assert "odd.png" in done.stderr


def test_imagine_with_a_preview(flux: Cli) -> None:
    """The path, then the picture, with or without progress bars."""
    shown = Terminal(kitty=True).run(flux, "imagine", "x", "--preview", "-o", "x.png", *SMALL)
    assert shown.index("x.png\r\n") < shown.index("\x1b_G")
    assert kitty_picture(shown).getbbox()
    assert half_blocks(Terminal().run(flux, "imagine", "y", "--preview", "--width", "256", "--height", "256"))


def test_a_preview_with_a_piped_prompt(flux: Cli) -> None:
    """The prompt comes from stdin, and the terminal is still asked for its protocols."""
    shown = Terminal(kitty=True).run(flux, "imagine", "--preview", *SMALL, stdin=b"a kite")
    assert flux.history()[0]["prompt"] == "a kite"
    assert kitty_picture(shown).getbbox()


def test_no_preview_in_a_pipe(flux: Cli) -> None:
    """Stdout has only the path; stderr says why, unless `--quiet`."""
    done = flux("imagine", "x", "--preview", "-o", "x.png", "--width", "256", "--height", "256")
    assert (done.code, done.stdout) == (0, "x.png\n")
    assert "no preview: stdout is not a terminal" in done.stderr
    assert flux("imagine", "x", "--preview", "-o", "y.png", *SMALL) == Done(0, "y.png\n", "")


def test_wait_with_a_preview(flux: Cli) -> None:
    (task_id,) = flux("imagine", "x", "--no-wait", *SMALL).lines
    shown = Terminal(kitty=True).run(flux, "wait", task_id, "--preview", "-q")
    assert kitty_picture(shown).getbbox()


@pytest.mark.parametrize("package", ["textual_image", "PIL"])
def test_without_the_extra(flux: Cli, service: Service, flag_png: Path, tmp_path: Path, package: str) -> None:
    """Exit 2 and the name of the extra, before anything is sent."""
    # None in sys.modules is Python's own way to say that there is no such module.
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules[{package!r}] = None\n")
    env = {"PYTHONPATH": str(tmp_path)}
    done = flux.process("imagine", "x", "--preview", env=env)
    assert (done.code, service.submissions) == (2, 0)
    assert "pip install 'apiframe-flux-cli[preview]'" in done.stderr
    assert "the extra `preview`" in Terminal().run(flux, "show", flag_png, env=env, code=2)


@pytest.fixture
def opener(cli: Cli, tmp_path: Path) -> Path:
    """Make `xdg-open` (and macOS's `open`) a script that notes its arguments in the file returned."""
    folder = tmp_path / "bin"
    folder.mkdir()
    log = tmp_path / "opened"
    for name in ("xdg-open", "open"):
        script = folder / name
        script.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {log}\necho noise; echo noise >&2\n')
        script.chmod(0o755)
    cli.env["PATH"] = str(folder)
    return log


def test_open(flux: Cli, flag_png: Path, opener: Path) -> None:
    """`show --open` with a file or a task; the viewer's own output goes nowhere."""
    assert flux("show", "flag.png", "--open") == Done(0, "", "")
    (task,) = flux("imagine", "x", "--json", *SMALL).objects
    assert flux("show", task["task_id"], "--open").code == 0
    assert opener.read_text().splitlines() == [str(flag_png), str(flux.cwd / task["path"])]


@pytest.mark.usefixtures("flag_png")
def test_the_environment_of_the_viewer(cli: Cli, opener: Path, tmp_path: Path) -> None:
    """A viewer is any program, and may pass its environment on."""
    (opener.parent / "bin" / "xdg-open").write_text(f"#!/bin/sh\n{shutil.which('env')} > {tmp_path}/environment\n")
    env = {"APIFRAME_API_KEY": "key-of-mine", "FLUX_CLI_WEBHOOK_SECRET": "secret-of-mine", "DISPLAY": ":7"}
    assert cli("show", "flag.png", "--open", env=env).code == 0
    environment = (tmp_path / "environment").read_text()
    assert "DISPLAY=:7" in environment
    assert "-of-mine" not in environment


def test_imagine_with_open(flux: Cli, opener: Path) -> None:
    done = flux("imagine", "x", "-n", "2", "--open", "-o", "{n}.png", *SMALL)
    assert (done.code, sorted(done.lines)) == (0, ["1.png", "2.png"])
    assert sorted(opener.read_text().splitlines()) == [str(flux.cwd / "1.png"), str(flux.cwd / "2.png")]


@pytest.mark.usefixtures("flag_png")
def test_a_viewer_that_stays_open(cli: Cli, opener: Path) -> None:
    """The command ends while the viewer is running, and so does a `$(…)` around it."""
    (opener.parent / "bin" / "xdg-open").write_text(f"#!/bin/sh\necho $$ > {opener}\nexec /bin/sleep 60\n")
    assert cli("show", "flag.png", "--open", timeout=20) == Done(0, "", "")
    wait_until(lambda: opener.exists() and opener.read_text().strip())
    os.kill(int(opener.read_text()), 15)  # it was there to be ended


@pytest.mark.usefixtures("flag_png")
def test_without_a_viewer(flux: Cli, service: Service, tmp_path: Path) -> None:
    """No opener, one that fails, or one that cannot be started: exit 2, the reason and what to do."""
    flux.env["PATH"] = str(tmp_path)
    done = flux("imagine", "x", "--open")
    assert (done.code, service.submissions) == (2, 0)
    assert "which is not installed\nhint: open the file yourself" in done.stderr
    xdg_open = tmp_path / "xdg-open"
    xdg_open.touch(0o755)
    assert flux("imagine", "x", "--sidecar", *SMALL).code == 0
    for script in ("#!/bin/sh\nexit 3\n", "#!/no/such/interpreter\n"):
        xdg_open.write_text(script)
        for command, name in (("show flag.png", "flag.png"), ("gallery -f", "gallery.html")):
            done = flux(*command.split(), "--open")
            error = f"error: cannot open {name} in the default viewer\n"
            hint = f"hint: open it yourself, or install a viewer for {Path(name).suffix} files\n"
            assert (done.code, done.stderr) == (2, error + hint)
