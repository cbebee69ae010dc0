"""What stands below all that is printed, for as long as something goes on."""

import sys
import threading

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderHook, RenderResult
from rich.control import Control
from rich.file_proxy import FileProxy
from rich.segment import ControlType, Segment

_CLEAR = Segment("\r\x1b[K\n\x1b[J\x1b[A", None, [(ControlType.CARRIAGE_RETURN,)])
"""In two steps: tmux keeps what `J` alone clears from the very first cell on, with each drawing a copy more."""


class Below(RenderHook):
    """Something that is drawn again and again at the end of the terminal.

    Between two drawings the cursor rests at its beginning, and from there on all is cleared: a terminal that is
    resized breaks the lines anew, and only knows where they begin. Rich's own Live counts how many there were.
    """

    def __init__(self, console: Console, drawn: RenderableType, per_second: float) -> None:
        self._console = console
        self._drawn = drawn
        self._pause = 1 / per_second
        self._lock = threading.RLock()
        self._over = threading.Event()

    def start(self) -> None:
        """Draw it, again and again, and print above it whatever is written to stderr."""
        self._stderr = sys.stderr
        sys.stderr = FileProxy(self._console, sys.stderr)
        self._console.show_cursor(False)
        self._console.push_render_hook(self)
        self._console.print(Control())
        threading.Thread(target=self._draw, daemon=True).start()

    def stop(self) -> None:
        """Take it away, and give the cursor back."""
        with self._lock:
            self._over.set()
            self._console.pop_render_hook()
            sys.stderr = self._stderr
            self._console.print(_Cleared(), end="")
            self._console.show_cursor(True)

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Print what is to be printed, and draw below."""
        return [_Cleared(), *renderables, self]

    def _draw(self) -> None:
        while not self._over.wait(self._pause):
            with self._lock:
                if not self._over.is_set():
                    self._console.print(Control())

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        height = options.size.height
        lines = console.render_lines(self._drawn, options, pad=False)
        if len(lines) > height:
            lines = [*lines[: height - 1], [Segment("...")]]
        for number, line in enumerate(lines):
            yield from [Segment.line()] * bool(number)
            yield from line
        up = len(lines) - 1
        yield Control(ControlType.CARRIAGE_RETURN, *[(ControlType.CURSOR_UP, up)] * (up > 0))


class _Cleared:
    """All is cleared from the cursor's line on."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield _CLEAR
