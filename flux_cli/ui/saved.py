"""Actions on saved pictures: write a sidecar, show them in the terminal, open them in the viewer."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from flux_cli.engine.events import Ended, Event
from flux_cli.errors import FluxError, LocalFileError, UsageError, os_reason
from flux_cli.pictures import sidecar
from flux_cli.pictures.naming import Target
from flux_cli.ui import console, preview, viewer
from flux_cli.ui.part import Part

if TYPE_CHECKING:
    from flux_cli.options import PictureOptions


def check(options: "PictureOptions", target: Target | None) -> None:
    """Check before submission that the options are possible for pictures saved to `target`.

    Raises UsageError or MissingExtraError if there will be no file, or nothing to show it with, and LocalFileError
    if the sidecar's name is taken.
    """
    flags = {"--sidecar": options.sidecar, "--preview": options.preview, "--open": options.viewer}
    for name in [name for name, given in flags.items() if given]:
        if target is None:
            raise UsageError(f"`{name}` needs the picture and cannot be used with `--no-wait`")
        if target.stdout:
            raise UsageError(f"`{name}` needs a file and cannot be used with `-o -`")
    if options.preview:
        preview.check()
    if options.viewer:
        viewer.check()
    if options.sidecar and target and target.explicit and not target.force:
        path = sidecar.path_for(target.directory / target.template)
        if os.path.lexists(path):
            raise LocalFileError(f"{path} exists", "choose another name, or replace it with --force")


class Sidecars(Part):
    """Writes a sidecar next to each saved picture. The picture is already saved, so a failure is a warning."""

    def __init__(self, *, service: str, force: bool) -> None:
        self._service = service
        self._force = force

    def handle(self, event: Event) -> None:
        """Write the sidecar of a saved picture."""
        if not isinstance(event, Ended) or (path := event.result.path) is None:
            return
        with _failures_as_warnings("no sidecar"):
            if not event.result.request:
                raise LocalFileError(f"the history does not contain the request of {path}")
            sidecar.write(
                path,
                event.result.request,
                task_id=event.result.task_id,
                created=time.time() - event.job.age_at() if event.job.known_start else None,
                service=self._service,
                force=self._force,
            )


class Viewer(Part):
    """Opens each saved picture in the default viewer, at the end of the run."""

    def __init__(self) -> None:
        self._paths: list[Path] = []

    def handle(self, event: Event) -> None:
        """Collect a saved picture."""
        if isinstance(event, Ended) and event.result.path is not None:
            self._paths.append(event.result.path)

    def close(self) -> None:
        """Open the pictures."""
        paths, self._paths = self._paths, []
        for path in paths:
            with _failures_as_warnings("saved, but not opened"):
                viewer.open_file(path)


def previewer() -> Callable[[Path], None]:
    """Return a function that shows a saved picture in the terminal; it does nothing if stdout is not one."""
    if not console.is_terminal(sys.stdout):
        console.warning("no preview: stdout is not a terminal")
        return lambda _path: None

    def show(path: Path) -> None:
        with _failures_as_warnings("no preview"), console.above_live_display():
            preview.show(path)

    return show


@contextlib.contextmanager
def _failures_as_warnings(what: str) -> Iterator[None]:
    try:
        yield
    except FluxError as error:
        console.warning(f"{what}: {error.message}")
    except OSError as error:
        console.warning(f"{what}: {os_reason(error)}")
    except Exception as error:  # a library's: textual-image divides by zero on a terminal without a size
        console.warning(f"{what}: {type(error).__name__}: {error}")
