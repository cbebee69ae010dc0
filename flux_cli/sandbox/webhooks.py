"""Posts a task's updates and its final result to its webhook URL, as the service does.

The events are in the store, not in memory: a restarted server continues where the last one stopped, and
`flux-cli sandbox` posts the events of a command that has ended. A server claims an event for a limited time, so
that no two servers post it.
"""

import asyncio
import contextlib
import math
import time
from functools import partial
from urllib.parse import urlsplit

import aiohttp

from flux_cli.sandbox.service import SandboxService
from flux_cli.sandbox.tasks import Task, to_json

POST_SECONDS = 5.0
CLAIM_SECONDS = 2 * POST_SECONDS
CHECK_SECONDS = 0.5
"""How often a server checks for events of other servers' tasks."""
BACKOFF = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds before each retry of a failed post; after the last one the event is dropped."""
UPDATES_AT = (0.0, 0.5)
"""The shares of a task's duration at which updates are posted."""
MAX_CONCURRENT = 20
GRACE_SECONDS = 0.5
"""How long a stopping server waits for its posts; the event of a cancelled one is posted again later."""

NextEvent = tuple[float | None, int, int]
"""When an event is due (Unix time; None: never), its number, and how often posting it has failed."""


class WebhookSender:
    """Posts the events that are due."""

    def __init__(self, service: SandboxService) -> None:
        self._service = service
        self._posts: set[asyncio.Task[NextEvent]] = set()

    async def run(self) -> None:
        """Post events until this is cancelled; unfinished ones go back to the store."""
        timeout = aiohttp.ClientTimeout(total=POST_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session:
            try:
                while True:
                    await self._post_due(session)
            finally:
                if self._posts:
                    await asyncio.wait(self._posts, timeout=GRACE_SECONDS)
                for post in self._posts:
                    post.cancel()
                await asyncio.gather(*self._posts, return_exceptions=True)

    async def _post_due(self, session: aiohttp.ClientSession) -> None:
        """Start to post what is due, and wait until something else may be due."""
        store, changed = self._service.store, self._service.webhook_changed
        changed.clear()
        while len(self._posts) < MAX_CONCURRENT and (due := store.claim_webhook(time.time(), CLAIM_SECONDS)):
            post = asyncio.create_task(self._deliver(session, *due))
            self._posts.add(post)
            post.add_done_callback(partial(self._settle, *due))
        later = store.next_webhook() if len(self._posts) < MAX_CONCURRENT else None
        pause = CHECK_SECONDS if later is None else min(CHECK_SECONDS, later - time.time())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await changed.wait()

    def _settle(self, task: Task, event: int, tries: int, post: "asyncio.Task[NextEvent]") -> None:
        """Store the next event; one whose post was cancelled, even before it began, is due again."""
        self._posts.discard(post)
        following = (time.time(), event, tries) if post.cancelled() else post.result()
        self._service.store.settle_webhook(task.task_id, *following)
        self._service.webhook_changed.set()  # the next event can be due before the next check

    async def _deliver(self, session: aiohttp.ClientSession, task: Task, event: int, tries: int) -> NextEvent:
        """Post one event and return the next one."""
        now = time.time()
        ended = now >= task.end
        delivered = await self._post(session, task, now)
        if delivered and "webhook-twice" in task.faults:
            await self._post(session, task, now)
        if delivered and ended and "webhook-out-of-order" in task.faults:
            await self._post(session, task, task.submitted + task.seconds / 2)
        if not delivered and tries < len(BACKOFF):
            return time.time() + BACKOFF[tries], event, tries + 1
        return None if ended else next_event(task, event), event + 1, 0

    async def _post(self, session: aiohttp.ClientSession, task: Task, now: float) -> bool:
        """Post a task's description at `now`; return whether the response was 2xx."""
        url, headers = str(task.body["webhook_url"]), {"Content-Type": "application/json"}
        secret = task.body.get("webhook_secret")
        if secret is not None and "webhook-no-secret" not in task.faults:
            headers["x-webhook-secret"] = "wrong" if "webhook-wrong-secret" in task.faults else str(secret)
        body = to_json(await self._service.describe(task, self._service.images_url, now))
        try:
            async with session.post(url, data=body.encode(), headers=headers, allow_redirects=False) as response:
                outcome, delivered = str(response.status), response.ok
        except (aiohttp.ClientError, OSError, ValueError) as error:  # ValueError: a secret that is not a header
            outcome, delivered = type(error).__name__, False
        self._service.stats.webhooks += delivered
        self._service.stats.webhook_failures += not delivered
        parts = urlsplit(url)
        self._service.log(f"webhook to {parts.hostname}:{parts.port} {outcome} {task.task_id}")
        return delivered


def next_event(task: Task, event: int) -> float | None:
    """Return the Unix time at which the event after the given one is due; None if there is none."""
    if event + 1 < len(UPDATES_AT):
        return min(task.end, task.submitted + UPDATES_AT[event + 1] * task.seconds)
    return task.end if math.isfinite(task.end) else None
