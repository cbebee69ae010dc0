"""The output of `listen`: one line per event on stdout, messages on stderr."""

from flux_cli.api.task import Task
from flux_cli.engine.result import Result
from flux_cli.ui import console
from flux_cli.ui.messages import resume_command, task_error


class EventDisplay:
    """Prints one event per line on stdout, and messages on stderr."""

    def __init__(self, flags: str, *, json: bool, verbose: bool) -> None:
        self._flags = flags
        self._json = json
        self._verbose = verbose
        self._rejections: set[int] = set()
        self._unsaved: dict[str, None] = {}

    def update(self, result: Result) -> None:
        """Print the event and its error."""
        if self._json:
            console.out_json(result.as_json())
        else:
            console.out("\t".join(console.clean(cell) for cell in _row(result)))
        if result.error is not None:
            console.error(task_error(result))
            if result.hint:
                console.hint(result.hint)
        if result.resumable and result.task_id:
            self._unsaved[result.task_id] = None
        elif result.task_id:
            self._unsaved.pop(result.task_id, None)

    def repeated(self, task: Task) -> None:
        """Print, with `--verbose`, that an event was repeated."""
        if self._verbose:
            console.note(f"task {task.task_id}: {task.status}, repeated")

    def rejected(self, status: int, reason: str) -> None:
        """Print a warning, without `--verbose` only for the first request with each status: scanners send many."""
        if self._verbose or status not in self._rejections:
            self._rejections.add(status)
            console.warning(f"rejected a request: {reason} ({status})")

    def problem(self, message: str) -> None:
        """Print a warning."""
        console.warning(message)

    def stopping(self) -> None:
        """Print that the command is about to end, and how to end it at once."""
        console.note("finishing the tasks in progress; press Ctrl-C again to stop now")

    def close(self) -> None:
        """Print one command that gets all pictures that are not saved."""
        if self._unsaved:
            console.hint(f"already charged; resume with: {resume_command(list(self._unsaved), self._flags)}")


def _row(result: Result) -> tuple[str, str, str, str]:
    """Return an event's columns: task ID, status, percentage, and its file, URL or error."""
    task = result.task
    percentage = f"{task.percentage:g}" if task and task.percentage is not None else ""
    where = result.error or (str(result.path) if result.path else None) or (task.image_url if task else None)
    return result.task_id or "", result.status.value, percentage, where or ""
