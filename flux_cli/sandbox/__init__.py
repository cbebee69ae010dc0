"""The service in miniature: a real HTTP server on loopback that answers as the service does, for free.

`--sandbox` runs it inside a command; `flux-cli sandbox` runs it on a port, for any client of the service.
"""

import atexit
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from flux_cli.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from flux_cli.sandbox.server import ServerThread
    from flux_cli.sandbox.service import Stats


class Running:
    """A server that runs.

    Attributes:
        url: The API's origin, without a slash at the end.
        images_url: The images' origin: another port, which must never see a key.
        stats: What it has seen so far; counts up while it runs.
    """

    def __init__(self, url: str, images_url: str, thread: "ServerThread") -> None:
        self.url = url
        self.images_url = images_url
        self.stats: Stats = thread.stats
        self._thread = thread

    def wait(self) -> None:
        """Wait until a signal's exception comes through, or the server ends by a bug; then that is raised."""
        while not self._thread.wait(0.5):  # a wait without an end cannot be interrupted on Windows
            pass
        if self._thread.failure is not None:
            raise self._thread.failure


def default_directory() -> Path:
    """Return where the sandbox keeps its tasks unless told otherwise."""
    import platformdirs

    return platformdirs.user_state_path("flux-cli") / "sandbox"


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
    allow_remote_webhooks: bool = False,
    log: Callable[[str], None] | None = None,
) -> Iterator[Running]:
    """Run the service in a daemon thread of this process, until the block ends.

    Several servers may use the same directory at once: a task submitted to one is known to all.

    Args:
        directory: Where the tasks are kept; made with mode 0700 if it is missing.
        host: The address to listen on.
        port: The API's port, the images' being the next one; 0 takes two that are free.
        seconds: How long a task takes that does not ask for another length.
        key: The only key that is taken; None takes any.
        faults: Faults that every request meets, as in `("http 503", "slow 10")`.
        credits: The balance from now on; None keeps what is left of the first 1000.
        allow_remote_webhooks: Post webhooks to other hosts than this one.
        log: Takes a line for each request and for what is worth a warning. The lines may hold what clients sent,
            control characters included; it is called from the server's thread.

    Raises:
        MissingExtraError: aiohttp or Pillow is not installed.
        UsageError: The port is in use, the host is not this machine's, or a fault or the seconds make no sense.
        LocalFileError: The directory cannot be used.
    """
    try:
        from flux_cli.sandbox.server import ServerThread, listen
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("aiohttp", "PIL"):
            raise
        raise MissingExtraError("the sandbox", "sandbox") from error
    from flux_cli.sandbox.asked import asked_by_name
    from flux_cli.sandbox.service import Settings
    from flux_cli.sandbox.store import Store

    if key == "":
        raise UsageError("the only key to take is empty", "leave --key out to take any")
    if not (math.isfinite(seconds) and seconds >= 0):
        raise UsageError(f"a task takes a number of seconds from 0, not {seconds}")
    try:
        settings = Settings(seconds, key, asked_by_name(faults), allow_remote_webhooks, log or (lambda _: None))
    except ValueError as error:
        raise UsageError(str(error), "`flux-cli sandbox --list-faults` prints them all") from None
    try:
        origins = listen(host, port)
    except (OSError, UnicodeError) as error:
        ports = f"ports {port} and {port + 1}" if port else "a port"
        reason = getattr(error, "strerror", None) or str(error)
        reason = reason.partition(" (")[0]  # Python adds the address, told already
        raise UsageError(f"cannot listen on {ports} of {host}: {reason}", "try another --port") from error
    try:
        thread = ServerThread(settings, Store(directory, credits), origins)
    except BaseException:
        origins.close()
        raise
    thread.start()
    atexit.register(thread.stop)  # for a block that is never left: Python would end under a running thread
    try:
        yield Running(origins.api_url, origins.images_url, thread)
    finally:
        thread.stop()
        atexit.unregister(thread.stop)
