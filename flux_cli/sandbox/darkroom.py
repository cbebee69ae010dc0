"""Draws pictures in threads when they are asked for, and keeps the last few."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from flux_cli.sandbox.pictures import Wanted, draw
from flux_cli.sandbox.tasks import Submission

KEPT_BYTES = 16 * 1024 * 1024
THREADS = 2
REST_SECONDS = 1.0
"""At most one picture in this time is drawn before it is asked for: a courtesy to one client, not a load."""


@dataclass(frozen=True)
class Print:
    """Which picture of a task: the original or the one with the caption, and in which Pillow format."""

    task_id: str
    original: bool
    format: str


class Darkroom:
    """Lives in one event loop; only the drawing happens in threads."""

    def __init__(self, image_prompt_of: Callable[[Submission], Awaitable[bytes | None]]) -> None:
        self._image_prompt_of = image_prompt_of
        self._threads = ThreadPoolExecutor(THREADS, "sandbox-picture")
        self._kept: OrderedDict[Print, bytes] = OrderedDict()
        self._under_way: dict[Print, asyncio.Task[bytes]] = {}
        self._last_ahead = 0.0

    def close(self) -> None:
        """Start no more pictures."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def picture(self, submission: Submission, original: bool, image_format: str) -> bytes:
        """Return a finished picture's bytes."""
        wanted = Print(submission.task_id, original, image_format)
        if wanted in self._kept:
            self._kept.move_to_end(wanted)
            return self._kept[wanted]
        return await asyncio.shield(self._start(wanted, submission))

    def draw_ahead(self, submission: Submission, image_format: str) -> None:
        """Draw a picture that will be asked for soon, if there is leisure."""
        wanted = Print(submission.task_id, False, image_format)
        if wanted in self._kept or self._under_way or time.monotonic() - self._last_ahead < REST_SECONDS:
            return
        self._last_ahead = time.monotonic()
        self._start(wanted, submission)

    def _start(self, wanted: Print, submission: Submission) -> asyncio.Task[bytes]:
        if wanted not in self._under_way:
            task = asyncio.ensure_future(self._make(wanted, submission))
            self._under_way[wanted] = task
            task.add_done_callback(lambda done: self._put_away(wanted, done))
        return self._under_way[wanted]

    async def _make(self, wanted: Print, submission: Submission) -> bytes:
        image_prompt = await self._image_prompt_of(submission)
        picture = Wanted.from_body(submission.body, submission.seed, image_prompt, captioned=not wanted.original)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, draw, picture, wanted.format)

    def _put_away(self, wanted: Print, done: asyncio.Task[bytes]) -> None:
        del self._under_way[wanted]
        if done.cancelled() or done.exception():
            return
        self._kept[wanted] = done.result()
        while sum(map(len, self._kept.values())) > KEPT_BYTES and len(self._kept) > 1:
            self._kept.popitem(last=False)
