"""The state that the API, the images' origin and the webhooks of one server share."""

import asyncio
import re
from base64 import b64encode
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from aiohttp import web

from flux_cli.sandbox.faults import Faults
from flux_cli.sandbox.formats import file_format
from flux_cli.sandbox.injection import FaultCounter
from flux_cli.sandbox.recent import Recent
from flux_cli.sandbox.render import Renderer
from flux_cli.sandbox.store import TaskStore
from flux_cli.sandbox.tasks import Task, describe

REMEMBERED = 1000
"""How many keys and expired URLs are remembered."""
MIN_KEY_LENGTH = 8
"""Shorter keys are not searched for in URLs and headers: any text could contain them."""
PICTURES_PATH = "/pictures"
"""Where the API's origin serves pictures, for host-relative URLs."""

_HOST_NAME = re.compile(r"[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]")


@dataclass
class Stats:
    """Counts since the server started, as returned by `GET /_sandbox/stats`.

    Submissions and fetches are calls with a valid key, rejected ones included. A task is accepted whatever the
    response was. A leaked key is one in a request to the images' origin.
    """

    submissions: int = 0
    accepted: int = 0
    fetches: int = 0
    images: int = 0
    leaked_keys: int = 0
    webhooks: int = 0
    webhook_failures: int = 0


@dataclass
class SandboxService:
    """The state of one server, for its event loop. For the settings see `running`.

    Attributes:
        expired: The IDs of tasks for whose expired URL a client got a 403: the next URL works.
        webhook_changed: Set when an event may be due earlier than before.
    """

    store: TaskStore
    images_url: str
    any_address: bool
    seconds: float
    key: str | None
    faults: Faults
    free: bool
    allow_remote_webhooks: bool
    log: Callable[[str], None]
    stats: Stats = field(default_factory=Stats)
    counter: FaultCounter = field(default_factory=FaultCounter)
    expired: Recent[str, None] = field(default_factory=lambda: Recent(REMEMBERED))
    webhook_changed: asyncio.Event = field(default_factory=asyncio.Event)
    _keys: Recent[str, None] = field(default_factory=lambda: Recent(REMEMBERED))

    def __post_init__(self) -> None:
        self.renderer = Renderer(self.store)
        self.remember_key(self.key or "")

    def close(self) -> None:
        """Start no more pictures and close the store."""
        self.renderer.close()
        self.store.close()

    def accept(self, task: Task, image_prompt: bytes | None) -> bool:
        """Store a task; return False if no credits are left."""
        has_webhook = "webhook_url" in task.body and "webhook-never" not in task.faults
        due, price = task.submitted if has_webhook else None, 0 if self.free else 1
        if not self.store.accept(task, image_prompt, due, price):
            return False
        self.stats.accepted += 1
        if has_webhook:
            self.webhook_changed.set()
        return True

    def images_url_for(self, request: web.Request) -> str:
        """Return the images' origin, under the host name of a request if the server listens on all addresses."""
        name = _HOST_NAME.match(request.host) if self.any_address else None
        return f"http://{name[0]}:{urlsplit(self.images_url).port}" if name else self.images_url

    async def describe(self, task: Task, images_url: str, now: float) -> dict[str, object]:
        """Return the object that describes a task at `now` (Unix time), with its pictures at `images_url`."""
        picture_format = file_format(task.faults)
        base = images_url
        if "protocol-relative" in task.faults:
            base = base.removeprefix("http:")
        if "host-relative" in task.faults:
            base = PICTURES_PATH
        end = f".{picture_format.extension}"
        if "expired-url" in task.faults:
            end += f"?fresh={int(task.task_id in self.expired)}"
        urls = f"{base}/{task.task_id}{end}", f"{base}/{task.task_id}-original{end}"
        if "data-url" in task.faults and task.has_picture(now):
            picture = b64encode(await self.picture(task, original=False)).decode()
            urls = (f"data:{picture_format.content_type};base64,{picture}",) * 2
        return describe(task, now, urls)

    async def picture(self, task: Task, original: bool) -> bytes:
        """Return the bytes of a task's picture."""
        picture_format = file_format(task.faults)
        return picture_format.content or await self.renderer.picture(task, original, picture_format.pillow)

    def remember_key(self, key: str) -> None:
        """Remember a key, to recognise it in requests to the images' origin."""
        if len(key) >= MIN_KEY_LENGTH:
            self._keys[key] = None

    def contains_key(self, texts: Iterable[str]) -> bool:
        """Return whether one of the texts contains a remembered key."""
        return any(key in text for text in texts for key in self._keys)
