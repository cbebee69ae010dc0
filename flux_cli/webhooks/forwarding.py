"""Forwarding webhook events to another receiver, in a separate thread, because it may be slow or unreachable."""

import queue
import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from flux_cli.api.request import is_http_url
from flux_cli.api.transport import USER_AGENT, cause
from flux_cli.errors import FluxError, ServiceDownError, UsageError
from flux_cli.webhooks.event import WebhookEvent
from flux_cli.webhooks.secret import SECRET_HEADER

SILENCE_SECONDS = 10.0
"""How long the receiver may be silent."""


class Forwarder:
    """Forwards events one after the other, in its own thread."""

    def __init__(self, url: str, secret: str | None, report: Callable[[str], None]) -> None:
        """`report` is called, in the forwarding thread, with each failure."""
        self._url = url
        self._secret = secret
        self._report = report
        self._queue: queue.Queue[WebhookEvent] = queue.Queue()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def start(self) -> None:
        """Start the thread. Raises ServiceDownError if the system allows no more threads."""
        try:
            self._thread.start()
        except RuntimeError as error:
            raise ServiceDownError(f"cannot forward events: {error}") from None

    def put(self, event: WebhookEvent) -> None:
        """Forward an event."""
        self._queue.put(event)

    @property
    def left(self) -> int:
        """How many events are still to be forwarded."""
        return self._queue.unfinished_tasks

    def finish(self, seconds: float, hurry: Callable[[], bool]) -> int:
        """Wait for the remaining events, at most this long or until `hurry`; return how many are left."""
        until = time.monotonic() + seconds
        with self._queue.all_tasks_done:
            while self.left and time.monotonic() < until and not hurry():
                self._queue.all_tasks_done.wait(0.1)
            return self.left

    def _work(self) -> None:
        while True:
            event = self._queue.get()
            try:
                forward(event, self._url, self._secret)
            except FluxError as error:
                self._report(error.message)
            self._queue.task_done()


def check_forward_url(url: str) -> str:
    """Return a URL to forward events to. Raises UsageError if it is not http(s), or contains a user name."""
    if not is_http_url(url) or "@" in urlsplit(url).netloc:
        raise UsageError("`--forward-to` takes an http or https URL without a user name")
    return url


def forward(event: WebhookEvent, url: str, secret: str | None) -> None:
    """Post an event to a URL, unchanged, once.

    Raises:
        ServiceDownError: The response was not 2xx, or there was none.
    """
    import requests

    headers: dict[str, str | bytes] = {"Content-Type": "application/json", "User-Agent": USER_AGENT}
    if secret is not None:
        headers[SECRET_HEADER] = secret.encode()
    with requests.Session() as session:
        session.auth = lambda prepared: prepared  # None would let netrc supply credentials
        try:
            with session.post(
                url, data=event.body, headers=headers, timeout=SILENCE_SECONDS, allow_redirects=False, stream=True
            ) as response:
                if 200 <= response.status_code < 300:
                    return
                reason = f"HTTP {response.status_code}"
        except (requests.RequestException, OSError, ValueError) as error:
            reason = cause(error).text
    raise ServiceDownError(f"{event.task.task_id} could not be forwarded to {url}: {reason}")
