"""What the commands share that talk to the service: which one, and which tasks.

It imports no more than `fetch` needs, which people call in loops.
"""

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from flux_cli.api.task import is_task_id
from flux_cli.commands.service import Choice, Service, choose, connected
from flux_cli.errors import LocalFileError, UsageError
from flux_cli.options import ServiceOptions
from flux_cli.storage.config import Config
from flux_cli.storage.record import SANDBOX
from flux_cli.ui import console

if TYPE_CHECKING:
    from flux_cli.storage.history import History
    from flux_cli.storage.record import Record

MAX_STDIN_BYTES = 16 * 1024 * 1024


def chosen(options: ServiceOptions, config: Config) -> Choice:
    """Decide on the service, and keep its key out of everything that is told. Raises as `choose` does."""
    choice = choose(options.api_url, options.sandbox, config, options.from_flags)
    console.keep_secret(choice.key)
    return choice


@contextlib.contextmanager
def opened(options: ServiceOptions, config: Config, secret: str | None = None) -> Iterator[Service]:
    """Yield the service that options and config choose. Raises as `choose` does."""
    # The service may repeat what an earlier command has told it.
    secrets = (secret, config.webhook_secret, os.environ.get("FLUX_CLI_WEBHOOK_SECRET"))
    for each in secrets:
        console.keep_secret(each)
    with connected(chosen(options, config), console.note if options.verbose else None, *secrets) as service:
        yield service


def existing_history() -> "History | None":
    """Open the history for a command that can do without one; one that cannot be used is a warning there."""
    from flux_cli.storage.history import History
    from flux_cli.storage.paths import history_files, state_directory

    try:
        if not history_files(state_directory()):
            return None
        history = History()
        history.find("")  # some damage shows only on reading
        return history
    except LocalFileError as error:
        console.warning(error.message)
        return None


def records(
    ids: Sequence[str], history: "History | None", options: ServiceOptions, config: Config
) -> "dict[str, Record | None]":
    """Return what the history knows of tasks.

    Raises:
        UsageError: They were submitted to the embedded sandbox, and the real service was chosen.
    """
    known = {task_id: history.find(task_id) if history else None for task_id in ids}
    services = {record.service if record else None for record in known.values()}
    # With an address it may be a sandbox on a port, which knows the embedded one's tasks.
    if services == {SANDBOX} and not (options.sandbox or config.sandbox or options.api_url or config.api_url):
        raise UsageError("this was submitted to the sandbox, of which the service knows nothing", "add --sandbox")
    return known


def task_ids(arguments: Sequence[str]) -> list[str]:
    """Return the ids that were given as arguments or, for `-`, on stdin: bare, or JSON Lines with `task_id`.

    Each comes once, in the order given.

    Raises:
        UsageError: One cannot be an id, a line cannot be read, or there are none.
    """
    found: dict[str, None] = {}
    for argument in arguments:
        for task_id in _ids_on_stdin() if argument == "-" else [argument.strip()]:
            if not is_task_id(task_id):
                raise UsageError(f"{task_id[:80]!r} is not a task id")
            found[task_id] = None
    if not found:
        where = " on stdin" if "-" in arguments else ""
        raise UsageError(f"no task ids{where}", "give them as arguments, or - to read them from stdin")
    return list(found)


def _ids_on_stdin() -> Iterator[str]:
    for number, line in enumerate(read_stdin_text().split("\n"), 1):
        text = line.strip()
        if not text.startswith("{"):
            yield from text.split()
            continue
        try:
            task_id = json.loads(text)["task_id"]
        except (ValueError, KeyError, RecursionError):
            raise UsageError(f"line {number} of stdin is not a JSON object with a `task_id`") from None
        if task_id is None:
            console.warning(f"line {number} of stdin has no task id: it was never accepted")
        elif isinstance(task_id, str):
            yield task_id
        else:
            raise UsageError(f"line {number} of stdin: `task_id` has to be text")


def read_stdin_text(limit: int = MAX_STDIN_BYTES) -> str:
    """Return all of stdin, without a byte order mark. Raises UsageError if it is too large or not UTF-8."""
    if sys.stdin.isatty():
        console.note("reading from stdin; Ctrl-D ends it")
    content = sys.stdin.buffer.read(limit + 1)
    if len(content) > limit:
        raise UsageError(f"stdin has more than {limit // 1024} KiB")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError("stdin is not UTF-8 text") from None
