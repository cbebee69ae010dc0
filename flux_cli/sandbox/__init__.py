"""A free stand-in for the service: a real HTTP server on loopback that responds as the service does.

`--sandbox` runs it inside a command; `flux-cli sandbox` runs it on a port, for any client of the service.
"""

import atexit
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from flux_cli.errors import MissingExtraError, UsageError
from flux_cli.sandbox.faults import parse_faults
from flux_cli.storage.paths import state_directory

if TYPE_CHECKING:
    from flux_cli.sandbox.server import Running as Running


def default_directory() -> Path:
    """Return the directory of the sandbox's tasks. Raises LocalFileError if the user has no home directory."""
    return state_directory() / "sandbox"


@contextmanager
def running(
    directory: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    seconds: float = 3.0,
    key: str | None = None,
    faults: Sequence[str] = (),
    credits: int | None = None,  # noqa: A002 - the service's word
    free: bool = False,
    allow_remote_webhooks: bool = False,
    log: Callable[[str], None] = lambda _: None,
) -> Iterator["Running"]:
    """Run the service in a daemon thread of this process until the block ends.

    Several servers can use the same directory at once: each serves the tasks of all.

    Args:
        directory: Holds the tasks; created with mode 0700 if it is missing.
        port: The API's port; images use the next one. 0 picks two free ports.
        seconds: The duration of a task without `[[slow]]`.
        key: The only valid key; None accepts any.
        faults: Faults of every request, such as `("http 503", "slow 10")`.
        credits: The new balance; None keeps the stored one (1000 at first).
        log: Called from the server's thread with a line per request or warning, which can contain control
            characters that a client sent.

    Raises:
        MissingExtraError: aiohttp or Pillow is not installed.
        UsageError: The port is in use, the host is not this machine, or a fault or the duration is invalid.
        LocalFileError: The directory cannot be used.
    """
    if not 0 <= seconds < math.inf:
        raise UsageError(f"the duration must be 0 seconds or more, not {seconds}")
    try:
        parsed = parse_faults(faults)
    except ValueError as error:
        raise UsageError(str(error), "`flux-cli sandbox --list-faults` prints all faults") from None
    try:
        from flux_cli.sandbox.server import WILDCARDS, Running, listen, url_of
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("aiohttp", "PIL"):
            raise
        raise MissingExtraError("the sandbox", "sandbox") from error
    from flux_cli.sandbox.service import SandboxService
    from flux_cli.sandbox.store import TaskStore

    with listen(host, port) as api, listen(host, port + 1 if port else 0) as images:
        store, any_address = TaskStore(directory, credits, parsed), images.getsockname()[0] in WILDCARDS
        service = SandboxService(
            store, url_of(images), any_address, seconds, key, parsed, free, allow_remote_webhooks, log
        )
        server = Running(service, api, images)
        server.start()
        atexit.register(server.stop)  # if the block is never left, Python would exit while the thread runs
        try:
            yield server
        finally:
            server.stop()
            atexit.unregister(server.stop)
