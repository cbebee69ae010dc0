"""A terminal to run commands in: a pty with an emulator, so that tests see what a user would see."""

import contextlib
import fcntl
import os
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pyte
from rich.style import Style
from rich.text import Text

from tests.cli import FLUX_CLI, Cli

NAMES = {name: name for name in ("black", "red", "green", "blue", "magenta", "cyan", "white")} | {
    "brown": "yellow"
}
"""The emulator's names of the basic colours, and rich's; the others come as six hexadecimal digits."""


class Emulator:
    """A pty with an emulator. What is written to `slave` is shown once it has been read."""

    def __init__(self, columns: int = 80, lines: int = 24) -> None:
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self.raw = b""
        self._master, self.slave = os.openpty()
        self._set_size(columns, lines)

    @property
    def text(self) -> list[str]:
        """What the screen shows: its lines, without those that are empty at the end."""
        shown = [line.rstrip() for line in self._screen.display]
        while shown and not shown[-1]:
            shown.pop()
        return shown

    @property
    def cursor_hidden(self) -> bool:
        return bool(self._screen.cursor.hidden)

    def resize(self, columns: int, lines: int = 24) -> None:
        """Change the terminal's size, as dragging a window does."""
        self._screen.resize(lines, columns)
        self._set_size(columns, lines)

    def read(self, seconds: float = 0.0) -> bool:
        """Show what has been written, after waiting so long for it; return whether there was anything."""
        ready, _, _ = select.select([self._master], [], [], seconds)
        content = b""
        with contextlib.suppress(OSError):  # Linux says EIO when the last writer is gone
            content = os.read(self._master, 65536) if ready else b""
        self.raw += content
        self._stream.feed(content)
        return bool(content)

    def _set_size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))


class Screen(Emulator):
    """A command that runs in a terminal of its own."""

    def __init__(
        self,
        cli: Cli,
        *arguments: str,
        columns: int = 80,
        lines: int = 24,
        env: dict[str, str] | None = None,
        program: Sequence[str | Path] = (),
    ):
        """Start the command, or another program."""
        super().__init__(columns, lines)
        environment = {"TERM": "xterm-256color", "LANG": "C.UTF-8", **(env or {})}
        self.process = subprocess.Popen(
            [*(program or [FLUX_CLI]), *arguments],
            cwd=cli.cwd,
            env={**cli.env, **environment},
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that a typed Ctrl-C is a signal
        )
        os.close(self.slave)

    def styled(self) -> list[Text]:
        """What the screen shows, with its colours."""
        lines = []
        for number in range(len(self.text)):
            line = Text()
            for column in range(self._screen.columns):
                cell = self._screen.buffer[number][column]
                bright = cell.fg.removeprefix("bright")
                name = NAMES.get(bright) if bright == cell.fg else f"bright_{NAMES.get(bright, bright)}"
                colour = name or f"#{cell.fg}"
                line.append(cell.data, Style(color=None if cell.fg == "default" else colour, bold=cell.bold))
            line.rstrip()
            lines.append(line)
        return lines

    def reflow(self, columns: int, lines: int = 24) -> None:
        """Change the size as tmux and most terminals do: lines break anew, the cursor keeps its place in them."""
        cursor, shown = self._screen.cursor, self.text
        until = [*shown, *[""] * (cursor.y + 1 - len(shown))]
        above = "\r\n".join([*until[: cursor.y], until[cursor.y][: cursor.x]])
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self._stream.feed(f"{above}\x1b7{until[cursor.y][cursor.x :]}".encode())
        self._stream.feed("".join(f"\r\n{line}" for line in until[cursor.y + 1 :]).encode())
        self._stream.feed(b"\x1b8")
        self._set_size(columns, lines)

    def type(self, text: str) -> None:
        """Type on the keyboard."""
        os.write(self._master, text.encode())

    def until(self, condition: Callable[[list[str]], bool], seconds: float = 20.0) -> list[str]:
        """Read until the screen fulfils a condition; return what it shows."""
        until = time.monotonic() + seconds
        while not condition(self.text):
            assert time.monotonic() < until, "\n".join(self.text)
            if not self.read(0.1) and self.process.poll() is not None:
                break
        assert condition(self.text), "\n".join(self.text)
        return self.text

    def end(self, seconds: float = 30.0) -> int:
        """Read to the end of the command; return its exit code."""
        until = time.monotonic() + seconds
        while self.read(0.1) or self.process.poll() is None:
            assert time.monotonic() < until, "\n".join(self.text)
        os.close(self._master)
        return self.process.wait()

    def close(self) -> None:
        """Close the window."""
        os.close(self._master)
