"""Posts what happens to a task to its webhook URL, as the service does: updates, then the final result.

The events wait in the store, not in memory: a server that is started again goes on where the last one stopped, and
a standing server posts for the tasks of a command that has long ended. Whoever takes one holds it for a lease,
so that two servers do not post it both.
"""

import asyncio
import math
import time
from functools import partial
from urllib.parse import urlsplit

import aiohttp

from flux_cli.sandbox.asked import Asked
from flux_cli.sandbox.service import Service
from flux_cli.sandbox.store import DueWebhook
from flux_cli.sandbox.tasks import Submission, to_json

POST_SECONDS = 5.0
LEASE_SECONDS = 2 * POST_SECONDS
LOOK_SECONDS = 0.5
"""How often a server looks for events of other servers' tasks."""
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds before an event that the receiver did not take is posted again; after the last, it is dropped."""
UPDATES_AT = (0.0, 0.5)
"""The shares of a task's time at which updates are posted."""
AT_ONCE = 20
GRACE_SECONDS = 0.5
"""How long a server that ends waits for posts under way: one that is cut off comes again, taken or not."""

Following = tuple[float | None, int, int]
"""When an event is due (seconds since the epoch, None: never), which one, and how often it was tried in vain."""


class Webhooks:
    """One server's postman."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._posts: set[asyncio.Task[Following]] = set()
        self._stopping = False

    async def run(self) -> None:
        """Post events as they fall due, until `stop`; what is then under way goes back to the store."""
        timeout = aiohttp.ClientTimeout(total=POST_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session:
            while not self._stopping:
                await self._wait()
                await self._post_due(session)
            if self._posts:
                await asyncio.wait(self._posts, timeout=GRACE_SECONDS)
            for post in self._posts:
                post.cancel()
            await asyncio.gather(*self._posts, return_exceptions=True)

    def stop(self) -> None:
        """Let `run` end soon. It is not cancelled: an event that it is just taking would stay taken."""
        self._stopping = True
        self._service.webhook_waits.set()

    async def _wait(self) -> None:
        """Return when an event is due: at its time, or when a task with a webhook was accepted here."""
        while len(self._posts) >= AT_ONCE and not self._stopping:
            await asyncio.wait(self._posts, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if not self._stopping:
            self._service.webhook_waits.clear()
        due = await self._service.in_store(self._service.store.next_webhook)
        pause = LOOK_SECONDS if due is None else min(LOOK_SECONDS, due - time.time())
        if pause > 0:
            try:
                async with asyncio.timeout(pause):
                    await self._service.webhook_waits.wait()
            except TimeoutError:
                pass

    async def _post_due(self, session: aiohttp.ClientSession) -> None:
        store = self._service.store
        while len(self._posts) < AT_ONCE:
            due = await self._service.in_store(lambda: store.claim_webhook(time.time(), LEASE_SECONDS))
            if due is None:
                return
            post = asyncio.ensure_future(self._deliver(session, due))
            self._posts.add(post)
            post.add_done_callback(partial(self._settle, due))

    def _settle(self, due: DueWebhook, post: "asyncio.Task[Following]") -> None:
        """Note what follows an event; one whose post was cancelled, even before it began, is due again."""
        self._posts.discard(post)
        following = (time.time(), due.event, due.tries) if post.cancelled() else post.result()
        store, task_id = self._service.store, due.submission.task_id
        self._service.in_store_later(lambda: store.settle_webhook(task_id, *following))
        self._service.webhook_waits.set()  # what follows may be due before the next look

    async def _deliver(self, session: aiohttp.ClientSession, due: DueWebhook) -> Following:
        """Post one event; return when which event follows, and how often that was tried."""
        submission, now = due.submission, time.time()
        asked = self._service.asked(submission)
        over = submission.is_over(asked, now)
        taken = await self._post(session, submission, now)
        if taken and "webhook-twice" in asked:
            await self._post(session, submission, now)
        if taken and over and "webhook-out-of-order" in asked:
            await self._post(session, submission, submission.submitted + submission.seconds / 2)
        if not taken and due.tries < len(PAUSES):
            return time.time() + PAUSES[due.tries], due.event, due.tries + 1
        return None if over else next_event(submission, asked, due.event), due.event + 1, 0

    async def _post(self, session: aiohttp.ClientSession, submission: Submission, now: float) -> bool:
        """Post what is said of a task at `now`; say whether the receiver took it, with a status of 2xx."""
        url, headers = str(submission.body["webhook_url"]), {"Content-Type": "application/json"}
        asked, secret = self._service.asked(submission), submission.body.get("webhook_secret")
        if secret is not None and "webhook-no-secret" not in asked:
            headers["x-webhook-secret"] = "wrong" if "webhook-wrong-secret" in asked else str(secret)
        body = to_json(self._service.describe(submission, self._service.images_url, now))
        try:
            async with session.post(url, data=body.encode(), headers=headers, allow_redirects=False) as response:
                outcome, taken = str(response.status), response.ok
        except (aiohttp.ClientError, OSError, ValueError) as error:  # ValueError: a secret that is no header
            outcome, taken = type(error).__name__, False
        self._service.stats.webhooks += taken
        self._service.stats.webhook_failures += not taken
        parts = urlsplit(url)
        self._service.settings.log(f"webhook to {parts.hostname}:{parts.port} {outcome} {submission.task_id}")
        return taken


def next_event(submission: Submission, asked: Asked, event: int) -> float | None:
    """Return when the event after the given one is due, in seconds since the epoch; None when there is none."""
    end = submission.ends_at(asked)
    if event + 1 < len(UPDATES_AT):
        return min(end, submission.submitted + UPDATES_AT[event + 1] * submission.seconds)
    return end if math.isfinite(end) else None
