"""What is done with a picture once it is saved: its sidecar, a look at it in the terminal, the default viewer."""

import os
import sys
import time
from pathlib import Path
from typing import Protocol

from flux_cli.engine.job import Job, Result
from flux_cli.errors import ExitCode, FluxError, LocalFileError, UsageError, worst
from flux_cli.pictures import sidecar
from flux_cli.pictures.naming import Target
from flux_cli.ui import console, preview, viewer
from flux_cli.ui.progress import Silence
from flux_cli.ui.results import Printer


class Wanted(Protocol):
    """What else is wanted of a picture: `--sidecar`, `--preview`, and for `--open`, a viewer."""

    @property
    def sidecar(self) -> bool: ...  # noqa: D102 - as the class says

    @property
    def preview(self) -> bool: ...  # noqa: D102

    @property
    def viewer(self) -> bool: ...  # noqa: D102


def check(wanted: Wanted, target: Target | None) -> None:
    """See, before anything is paid for, that what is wanted can be done with a picture that goes to `target`.

    Raises:
        UsageError: There will be no file, or nothing to show it with.
        MissingExtraError: The preview's packages are not installed.
        LocalFileError: The sidecar's name is taken.
    """
    flags = {"--sidecar": wanted.sidecar, "--preview": wanted.preview, "--open": wanted.viewer}
    for name in [name for name, given in flags.items() if given]:
        if target is None:
            raise UsageError(f"`{name}` needs the picture, and `--no-wait` does not wait for it")
        if target.stdout:
            raise UsageError(f"`{name}` needs a file, and `-o -` makes none")
    if wanted.preview:
        preview.check()
    if wanted.viewer:
        viewer.check()
    if wanted.sidecar and target and target.explicit and not target.force:
        path = sidecar.path_for(target.directory / target.template)
        if os.path.lexists(path):
            raise LocalFileError(f"{path} exists", "choose another name, or replace it with --force")


class PicturePrinter(Printer):
    """A printer that also does with each saved picture what the options ask for.

    A picture is paid for and safe by then: what cannot be done with it is told, and counts in `exit_code`, but
    ends nothing.
    """

    def __init__(
        self, inner: Silence, wanted: Wanted, *, json: bool, service: str, force: bool, quiet: bool
    ) -> None:
        super().__init__(inner, json=json)
        self._wanted = wanted
        self._service = service
        self._force = force
        self._codes = [ExitCode.OK]
        self._to_open: list[Path] = []
        self._previews = wanted.preview and console.is_terminal(sys.stdout)
        if wanted.preview and not self._previews and not quiet:
            console.warning("no preview: stdout is not a terminal")

    def ended(self, job: Job, result: Result) -> None:
        """Write the sidecar, print the result, show the picture."""
        if result.path is not None and self._wanted.sidecar:
            self._write_sidecar(result.path, job, result)
        super().ended(job, result)
        if result.path is not None and self._previews:
            with self._inner.paused():
                self._preview(result.path)
        if result.path is not None and self._wanted.viewer:
            self._to_open.append(result.path)

    def _write_sidecar(self, path: Path, job: Job, result: Result) -> None:
        known = job.request is not None or job.age is not None
        try:
            if not result.request:
                raise LocalFileError(f"no sidecar for {path}: the history does not know its request")
            sidecar.write(
                path,
                result.request,
                task_id=result.task_id,
                created=time.time() - job.seconds() if known else None,
                service=self._service,
                force=self._force,
            )
        except LocalFileError as error:
            self._told(error)

    def _preview(self, path: Path) -> None:
        try:
            preview.show(path)
        except FluxError as error:
            console.warning(f"no preview: {error.message}")

    def _told(self, error: FluxError) -> None:
        with self._inner.paused():
            console.error(error.message)
            if error.hint:
                console.hint(error.hint)
        self._codes.append(error.exit_code)

    def exit_code(self, code: ExitCode) -> ExitCode:
        """Open the viewer where that is wanted; return the command's exit code."""
        for path in self._to_open:
            try:
                viewer.open_file(path)
            except FluxError as error:
                console.warning(f"saved, but {error.message}")
        return super().exit_code(worst([code, *self._codes]))
