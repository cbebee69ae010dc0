"""Results onto stdout as they come: paths, ids, JSON objects, or the picture itself."""

from flux_cli.api.task import Status
from flux_cli.engine.job import Job, Result
from flux_cli.errors import ExitCode, LocalFileError, SignalReceived
from flux_cli.ui import console
from flux_cli.ui.progress import Silence


class _Around:
    """An observer that passes on to another."""

    def __init__(self, inner: Silence) -> None:
        self._inner = inner
        self.submitted = inner.submitted
        self.waiting = inner.waiting
        self.trouble = inner.trouble
        self.unrecorded = inner.unrecorded
        self.downloading = inner.downloading


class Collector(_Around):
    """Keeps each result, by task id, for a command that prints them later."""

    def __init__(self, inner: Silence) -> None:
        super().__init__(inner)
        self.results: dict[str | None, Result] = {}

    def ended(self, job: Job, result: Result) -> None:
        """Keep the result."""
        self.results[result.task_id] = result
        self._inner.ended(job, result)


class Printer(_Around):
    """Prints each result, with the other's bars out of the way.

    Where stdout cannot take it any more it goes on in silence, so that what is paid for still gets to the disk;
    `exit_code` tells afterwards.
    """

    def __init__(self, inner: Silence, *, json: bool) -> None:
        super().__init__(inner)
        self._json = json
        self._failure: ExitCode | None = None

    def ended(self, job: Job, result: Result) -> None:
        """Let the inner observer tell of it, then print the result."""
        self._inner.ended(job, result)
        if self._failure is not None:
            return
        with self._inner.paused():
            try:
                self._print(job, result)
            except BrokenPipeError:
                self._failure = ExitCode.SIGPIPE
                console.discard_stdout()
            except LocalFileError as error:
                self._failure = error.exit_code
                console.error(error.message)
            except (KeyboardInterrupt, SignalReceived):  # a second one, since nobody reads what is written
                self._failure = ExitCode.SIGPIPE
                console.discard_stdout()
                raise
            only_there = result.content is not None or result.status is Status.PROCESSING
            if self._failure is not None and only_there and not result.resumable:
                self._inner.lives_on(job)

    def _print(self, job: Job, result: Result) -> None:
        if self._json:
            console.out_json(self._as_json(job, result))
        elif result.content is not None:
            console.out_bytes(result.content)
        elif result.path is not None:
            console.out(str(result.path))
            if result.original_path is not None:
                console.out(str(result.original_path))
        elif result.status is Status.PROCESSING and result.exit_code == ExitCode.OK and result.task_id:
            console.out(result.task_id)

    def _as_json(self, job: Job, result: Result) -> dict[str, object]:  # noqa: ARG002 - a batch adds the job's row
        return result.as_json()

    def exit_code(self, code: ExitCode) -> ExitCode:
        """Return the command's exit code: its tasks', unless all went well but for stdout."""
        return self._failure if self._failure is not None and code == ExitCode.OK else code
