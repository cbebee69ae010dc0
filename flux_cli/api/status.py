"""Fetch task statuses, 20 per request, with retries."""

import time
from collections.abc import Callable, Iterator, Sequence

from flux_cli.api.backoff import backoff
from flux_cli.api.client import MAX_FETCH_MANY, Client, RateLimitedError
from flux_cli.api.task import Task
from flux_cli.api.transport import NotSentError
from flux_cli.errors import FluxError, ServiceDownError

ATTEMPTS = 4
"""How many times a request is sent in all."""
MAX_PAUSE_SECONDS = 15.0
"""If the service asks for a longer pause, the check fails instead."""


def check_tasks(
    client: Client, task_ids: Sequence[str], sleep: Callable[[float], None] = time.sleep
) -> Iterator[tuple[str, Task | FluxError]]:
    """Yield each ID, in order, with its task or with the error of its check.

    An error that concerns no particular task (no network, a rejected key) is yielded for all remaining IDs.
    """
    failed: FluxError | None = None
    found: dict[str, Task | FluxError] = {}
    for start in range(0, len(task_ids), MAX_FETCH_MANY):
        group = task_ids[start : start + MAX_FETCH_MANY]
        if failed is None:
            try:
                found = _fetch_group(client, group, sleep)
            except FluxError as error:
                failed = error
        yield from ((task_id, failed or found[task_id]) for task_id in group)


def _fetch_group(
    client: Client, group: Sequence[str], sleep: Callable[[float], None]
) -> dict[str, Task | FluxError]:
    for attempt in range(1, ATTEMPTS):
        try:
            return client.fetch_many(group)
        except ServiceDownError as error:
            requested = error.retry_after if isinstance(error, RateLimitedError) else None
            pause = max(backoff(attempt), requested or 0.0)
            permanent = isinstance(error, NotSentError) and error.permanent
            if permanent or pause > MAX_PAUSE_SECONDS:
                raise
            sleep(pause)
    return client.fetch_many(group)
