"""The state that the API, the images' origin and the webhooks of one server share."""

import asyncio
import re
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import urlsplit

from aiohttp import web

from flux_cli.sandbox.faults import FaultSet
from flux_cli.sandbox.formats import file_format
from flux_cli.sandbox.injection import FaultCounter
from flux_cli.sandbox.recent import Recent
from flux_cli.sandbox.render import Renderer
from flux_cli.sandbox.store import TaskStore
from flux_cli.sandbox.tasks import Submission, describe

CACHED_TASKS = 4096
REMEMBERED = 1000
"""How many keys and expired URLs are remembered."""
MIN_KEY_LENGTH = 8
"""Shorter keys are not searched for in URLs and headers: any text could contain them."""
PICTURES_PATH = "/pictures"
"""Where the API's origin serves pictures, for host-relative URLs."""

_TASK_ID = re.compile(r"[0-9a-f-]{36}|[0-9]{15}")
_HOST_NAME = re.compile(r"[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]")

R = TypeVar("R")


@dataclass(frozen=True)
class SandboxSettings:
    """How a server behaves; see `running`."""

    seconds: float = 3.0
    key: str | None = None
    faults: FaultSet = field(default_factory=FaultSet)
    free: bool = False
    allow_remote_webhooks: bool = False
    log: Callable[[str], None] = lambda _: None


@dataclass
class Stats:
    """Counts since the server started, as returned by `GET /_sandbox/stats`.

    Attributes:
        submissions: Calls of /flux-imagine with a valid key, rejected ones included.
        accepted: Accepted tasks, whatever the response was.
        fetches: Calls of /fetch and /fetch-many with a valid key.
        images: Requests for pictures.
        leaked_keys: Requests to the images' origin that contained a key.
        webhooks: Delivered webhooks.
        webhook_failures: Failed webhook deliveries.
    """

    submissions: int = 0
    accepted: int = 0
    fetches: int = 0
    images: int = 0
    leaked_keys: int = 0
    webhooks: int = 0
    webhook_failures: int = 0


class SandboxService:
    """The state of one server, for its event loop. The store and the renderer work in threads."""

    def __init__(
        self, settings: SandboxSettings, store: TaskStore, stats: Stats, images_url: str, any_address: bool
    ) -> None:
        self.settings = settings
        self.stats = stats
        self.images_url = images_url
        self.counter = FaultCounter()
        self.webhook_added = asyncio.Event()
        self.store = store
        self.renderer = Renderer(self._image_prompt)
        self._any_address = any_address
        self._store_thread = ThreadPoolExecutor(1, "sandbox-store")
        self._tasks: Recent[str, Submission] = Recent(CACHED_TASKS)
        self._keys: Recent[str, None] = Recent(REMEMBERED)
        self._expired: Recent[str, None] = Recent(REMEMBERED)
        self.remember_key(settings.key or "")

    def close(self) -> None:
        """Start no more pictures, finish the store's work, and close the store."""
        self.renderer.close()
        self._store_thread.shutdown()
        self.store.close()

    async def in_store(self, work: Callable[[], R]) -> R:
        """Run a function in the store's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._store_thread, work)

    def in_store_later(self, work: Callable[[], object]) -> None:
        """Run a function in the store's thread, before the service closes."""
        self._store_thread.submit(work)

    async def accept(self, submission: Submission, image_prompt: bytes | None) -> bool:
        """Store a task; return False if no credits are left."""
        has_webhook = "webhook_url" in submission.body and "webhook-never" not in self.faults(submission)
        due, free = submission.submitted if has_webhook else None, self.settings.free
        if not await self.in_store(lambda: self.store.accept(submission, image_prompt, due, free)):
            return False
        self.stats.accepted += 1
        self._tasks[submission.task_id] = submission
        if has_webhook:
            self.webhook_added.set()
        return True

    async def find(self, task_id: str) -> Submission | None:
        """Return a task that this server, or another one with the same directory, has accepted."""
        if not _TASK_ID.fullmatch(task_id):  # SQLite rejects half of a surrogate pair
            return None
        submission = self._tasks.get(task_id) or await self.in_store(lambda: self.store.find(task_id))
        if submission is None or "unknown-task" in self.faults(submission):
            return None
        self._tasks[task_id] = submission
        return submission

    def faults(self, submission: Submission) -> FaultSet:
        """Return a task's faults together with the server's."""
        return submission.faults.merged(self.settings.faults)

    def images_url_for(self, request: web.Request) -> str:
        """Return the images' origin under the host name of an API request.

        It differs from `images_url` only for a server that listens on all addresses.
        """
        name = _HOST_NAME.match(request.host) if self._any_address else None
        return f"http://{name[0]}:{urlsplit(self.images_url).port}" if name else self.images_url

    async def describe(self, submission: Submission, images_url: str, now: float) -> dict[str, object]:
        """Return the object that describes a task at `now` (Unix time), with its pictures at `images_url`."""
        faults = self.faults(submission)
        picture_format = file_format(faults)
        base = images_url
        if "protocol-relative" in faults:
            base = base.removeprefix("http:")
        if "host-relative" in faults:
            base = PICTURES_PATH
        end = f".{picture_format.extension}"
        if "expired-url" in faults:
            end += f"?fresh={int(submission.task_id in self._expired)}"
        urls = f"{base}/{submission.task_id}{end}", f"{base}/{submission.task_id}-original{end}"
        if "data-url" in faults and submission.has_picture(faults, now):
            from base64 import b64encode

            picture = await self.picture(submission, original=False)
            urls = (f"data:{picture_format.content_type};base64,{b64encode(picture).decode()}",) * 2
        return describe(submission, faults, now, urls)

    async def picture(self, submission: Submission, original: bool) -> bytes:
        """Return the bytes of a task's picture."""
        picture_format = file_format(self.faults(submission))
        return picture_format.content or await self.renderer.picture(submission, original, picture_format.pillow)

    def has_picture(self, submission: Submission) -> bool:
        """Return whether a task has a picture now."""
        return submission.has_picture(self.faults(submission), time.time())

    def expire(self, submission: Submission) -> None:
        """Remember that a client got a 403 for the expired URL: the next URL works."""
        self._expired[submission.task_id] = None

    def remember_key(self, key: str) -> None:
        """Remember a key, to recognise it in requests to the images' origin."""
        if len(key) >= MIN_KEY_LENGTH:
            self._keys[key] = None

    def contains_key(self, texts: Iterable[str]) -> bool:
        """Return whether one of the texts contains a remembered key."""
        return any(key in text for text in texts for key in self._keys)

    async def _image_prompt(self, submission: Submission) -> bytes | None:
        if submission.image_prompt is None:
            return None
        return await self.in_store(lambda: self.store.image_prompt(submission))
