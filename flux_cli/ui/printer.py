"""Prints the results of a run to stdout: paths, task IDs, JSON objects, or the picture itself."""

from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from flux_cli.api.task import Status
from flux_cli.engine.events import Ended, Event, NotDeliveredError
from flux_cli.engine.job import Job
from flux_cli.engine.result import Result
from flux_cli.errors import ExitCode, LocalFileError, SignalReceived
from flux_cli.ui import console
from flux_cli.ui.part import Part


class ResultPrinter(Part):
    """Prints each result, in the order of `jobs` if these are given, otherwise in the order in which jobs end.

    If stdout can no longer be written, nothing more is printed and `failure` is the exit code. The run continues,
    because the pictures are charged and still have to be saved.
    """

    def __init__(
        self,
        jobs: Sequence[Job] | None,
        *,
        json: bool,
        preview: Callable[[Path], None] | None = None,
        only_content: bool = False,
    ) -> None:
        """`preview` is called with the path of each picture after the path is printed."""
        self._only_content = only_content
        self._jobs = None if jobs is None else deque(jobs)
        self._json = json
        self._preview = preview
        self._results: dict[Job, Result] = {}
        self.failure: ExitCode | None = None

    def handle(self, event: Event) -> None:
        """Print a result, or keep it until those before it are printed.

        Raises NotDeliveredError if the result contains the picture itself, and that could not be written.
        """
        if not isinstance(event, Ended):
            return
        job, result = event.job, event.result
        if result.content is not None or self._jobs is None:
            self._print(job, result)
            if result.content is not None and self.failure is not None:
                raise NotDeliveredError(self.failure)
        else:
            self._results[job] = result
            while self._jobs and self._jobs[0] in self._results:
                following = self._jobs.popleft()
                self._print(following, self._results.pop(following))

    def close(self) -> None:
        """Print the results that are still kept."""
        for job in self._jobs or ():
            if job in self._results:
                self._print(job, self._results.pop(job))

    def _print(self, job: Job, result: Result) -> None:
        if self.failure is not None:
            return
        try:
            self._write(job, result)
        except BrokenPipeError:
            self.failure = ExitCode.SIGPIPE
            console.discard_stdout()
        except LocalFileError as error:
            self.failure = error.exit_code
            console.error(error.message)
        except (KeyboardInterrupt, SignalReceived):  # a second one: nothing reads the output
            self.failure = ExitCode.SIGPIPE
            console.discard_stdout()
            raise
        else:
            if self._preview is not None and result.path is not None:
                self._preview(result.path)

    def _write(self, job: Job, result: Result) -> None:
        if self._only_content and result.content is None:
            return
        if self._json:
            row = {} if job.row is None else {"row": job.row, "line": job.line}
            console.out_json({**row, **result.as_json()})
        elif result.content is not None:
            console.out_bytes(result.content)
        elif result.path is not None:
            console.out(str(result.path))
            if result.original_path is not None:
                console.out(str(result.original_path))
        elif result.status is Status.PROCESSING and result.exit_code == ExitCode.OK and result.task_id:
            console.out(result.task_id)
