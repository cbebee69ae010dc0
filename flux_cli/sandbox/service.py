"""What the sandbox knows and does, apart from HTTP."""

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import urlsplit

from flux_cli.sandbox.asked import Asked
from flux_cli.sandbox.darkroom import Darkroom
from flux_cli.sandbox.occurrences import Occurrences
from flux_cli.sandbox.store import Store
from flux_cli.sandbox.tasks import Submission, describe, ends_without_picture, file_format

CACHED_TASKS = 4096
AHEAD_SECONDS = 5.0
"""The picture of a task that ends within this time may be drawn already."""
REMEMBERED = 1000
"""Keys seen, and URLs let expire, that are remembered at most."""
SHORTEST_TELLING_KEY = 8
"""Shorter keys are not looked for in URLs and headers: they would be found in any."""

_TASK_ID = re.compile(r"[0-9a-f-]{36}")
_HOST_NAME = re.compile(r"[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]")

_R = TypeVar("_R")


@dataclass(frozen=True)
class Settings:
    """How a server behaves.

    Attributes:
        seconds: How long a task takes that does not ask for another length.
        key: The only key that is taken; None takes any.
        faults: Faults that every request meets.
        allow_remote_webhooks: Post webhooks to other hosts than this one.
        log: Takes a line for people, which may hold what a client sent; called from the server's thread.
    """

    seconds: float = 3.0
    key: str | None = None
    faults: Asked = field(default_factory=Asked)
    allow_remote_webhooks: bool = False
    log: Callable[[str], None] = lambda _: None


@dataclass
class Stats:
    """What a server has seen since it started, as `GET /_sandbox/stats` tells it.

    Attributes:
        submissions: Calls of /flux-imagine with a good key, refused ones included.
        accepted: Tasks accepted, each a credit, whatever was answered.
        fetches: Calls of /fetch and /fetch-many with a good key.
        images: Requests for pictures.
        leaked_keys: Requests to the images' origin that carried a key.
        webhooks: Webhook posts that the receiver took.
        webhook_failures: Webhook posts that it did not.
    """

    submissions: int = 0
    accepted: int = 0
    fetches: int = 0
    images: int = 0
    leaked_keys: int = 0
    webhooks: int = 0
    webhook_failures: int = 0


class Service:
    """One server's view of the tasks. All of it but the store's and the drawing's work is for its event loop."""

    def __init__(
        self, settings: Settings, store: Store, stats: Stats, images_url: str, on_every_address: bool
    ) -> None:
        self.settings = settings
        self.stats = stats
        self.images_url = images_url
        self._on_every_address = on_every_address
        self.occurrences = Occurrences()
        self.webhook_waits = asyncio.Event()
        self.store = store
        self._store_thread = ThreadPoolExecutor(1, "sandbox-store")
        self._tasks: OrderedDict[str, Submission] = OrderedDict()
        self._keys: OrderedDict[str, None] = OrderedDict()
        self._expired: OrderedDict[str, None] = OrderedDict()
        self.darkroom = Darkroom(self._image_prompt)
        self.saw_key(settings.key or "")

    def close(self) -> None:
        """Start no more pictures, finish the store's work, and close it."""
        self.darkroom.close()
        self._store_thread.shutdown()
        self.store.close()

    async def in_store(self, work: Callable[[], _R]) -> _R:
        """Run a piece of the store's work in its thread."""
        return await asyncio.get_running_loop().run_in_executor(self._store_thread, work)

    def in_store_later(self, work: Callable[[], object]) -> None:
        """Run a piece of the store's work in its thread, at the latest before the service closes."""
        self._store_thread.submit(work)

    async def accept(self, submission: Submission, image_prompt: bytes | None) -> bool:
        """Keep a task; False when there are no credits left."""
        due = None
        if "webhook_url" in submission.body and "webhook-never" not in self.asked(submission):
            due = submission.submitted
        if not await self.in_store(lambda: self.store.accept(submission, image_prompt, due)):
            return False
        self.stats.accepted += 1
        self._remember(submission)
        if due is not None:
            self.webhook_waits.set()
        return True

    async def find(self, task_id: str) -> Submission | None:
        """Return a task that this server, or another one of the same directory, has accepted."""
        if not _TASK_ID.fullmatch(task_id):  # SQLite would choke on half a surrogate pair
            return None
        submission = self._tasks.get(task_id) or await self.in_store(lambda: self.store.find(task_id))
        if submission is None or "unknown-task" in self.asked(submission):
            return None
        self._remember(submission)
        return submission

    def asked(self, submission: Submission) -> Asked:
        """Return a task's faults together with the server's."""
        return submission.faults.over(self.settings.faults)

    def images_url_for(self, host: str) -> str:
        """Return the images' origin as a client reaches it that called the API by this `Host` header.

        It differs only for a server that listens on every address, and so does not know its own name.
        """
        name = _HOST_NAME.match(host) if self._on_every_address else None
        return f"http://{name[0]}:{urlsplit(self.images_url).port}" if name else self.images_url

    def has_picture(self, submission: Submission) -> bool:
        """Say whether the images' origin has a picture of a task by now."""
        asked = self.asked(submission)
        return submission.is_over(asked, time.time()) and not ends_without_picture(asked)

    def describe(self, submission: Submission, images_url: str, now: float) -> dict[str, object]:
        """Return what is said of a task at `now` (seconds since the epoch), its pictures at `images_url`."""
        asked = self.asked(submission)
        extension = file_format(asked).extension
        fresh = ""
        if "expired-url" in asked:
            fresh = f"?fresh={int(submission.task_id in self._expired)}"
        base = f"{images_url}/{submission.task_id}"
        urls = f"{base}.{extension}{fresh}", f"{base}-original.{extension}{fresh}"
        if 0 < submission.ends_at(asked) - now < AHEAD_SECONDS and not ends_without_picture(asked):
            self.darkroom.draw_ahead(submission, file_format(asked).pillow)
        return describe(submission, asked, now, urls)

    def expire(self, submission: Submission) -> None:
        """Note that a client has seen a URL expire: the next one works."""
        _remember_newest(self._expired, submission.task_id)

    def saw_key(self, key: str) -> None:
        """Note a key, so that it is recognised where it does not belong."""
        if len(key) >= SHORTEST_TELLING_KEY:
            _remember_newest(self._keys, key)

    def holds_key(self, texts: Iterable[str]) -> bool:
        """Say whether one of the texts holds a key that the API has seen."""
        return any(key in text for text in texts for key in self._keys)

    async def _image_prompt(self, submission: Submission) -> bytes | None:
        if submission.image_prompt is None:
            return None
        return await self.in_store(lambda: self.store.image_prompt(submission))

    def _remember(self, submission: Submission) -> None:
        self._tasks[submission.task_id] = submission
        self._tasks.move_to_end(submission.task_id)
        if len(self._tasks) > CACHED_TASKS:
            self._tasks.popitem(last=False)


def _remember_newest(remembered: OrderedDict[str, None], text: str) -> None:
    remembered[text] = None
    remembered.move_to_end(text)
    if len(remembered) > REMEMBERED:
        remembered.popitem(last=False)
