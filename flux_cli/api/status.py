"""One look at each of many tasks, 20 an answer, tried again where that may help."""

import time
from collections.abc import Callable, Iterator, Sequence

from flux_cli.api.backoff import backoff
from flux_cli.api.client import MANY, Client, RateLimitedError
from flux_cli.api.task import Task
from flux_cli.errors import BadAnswerError, FluxError, ServiceDownError

TRIES = 4
"""How often a look is tried in all."""
MAX_PAUSE_SECONDS = 15.0
"""A service that asks for a longer pause is not waited for here."""


def look(
    client: Client, task_ids: Sequence[str], sleep: Callable[[float], None] = time.sleep
) -> Iterator[tuple[str, Task | FluxError]]:
    """Yield each id, in order, with its task as the service sees it or the error that stands for it.

    An error that concerns no task in particular (no network, a refused key) stands for all that are left.
    """
    failed: FluxError | None = None
    for start in range(0, len(task_ids), MANY):
        group = task_ids[start : start + MANY]
        found: dict[str, Task | FluxError] = {}
        if failed is None:
            try:
                found = _try_group(client, group, sleep)
            except FluxError as error:
                failed = error
        for task_id in group:
            yield task_id, found.get(task_id) or failed or BadAnswerError("the service said nothing of this task")


def _try_group(
    client: Client, group: Sequence[str], sleep: Callable[[float], None]
) -> dict[str, Task | FluxError]:
    for attempt in range(1, TRIES):
        try:
            return client.fetch_many(group)
        except ServiceDownError as error:
            wait = max(
                backoff(attempt), (error.retry_after or 0.0) if isinstance(error, RateLimitedError) else 0.0
            )
            if wait > MAX_PAUSE_SECONDS:
                raise
            sleep(wait)
    return client.fetch_many(group)
