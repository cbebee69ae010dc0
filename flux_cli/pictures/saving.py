"""A finished task's picture, onto the disk: download, verify, give it its name; for an expired URL, ask again."""

import contextlib
import os
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from flux_cli.api.backoff import backoff
from flux_cli.api.client import Client
from flux_cli.api.task import Status, Task
from flux_cli.errors import BadResponseError, FluxError, ServiceDownError
from flux_cli.pictures.download import DownloadError, ExpiredUrlError, OnBytes, fetch_image, image_session
from flux_cli.pictures.formats import PNG
from flux_cli.pictures.naming import Target, values_for
from flux_cli.storage.files import local_errors, place, sync, temporary

if TYPE_CHECKING:
    import requests

TRIES = 5
"""How often a transfer is begun before the picture is given up for this time."""


@dataclass(frozen=True)
class Saved:
    """A picture that is safe: a file's path, or for standard output its bytes; and the task as last seen.

    `lacking` says why the original, which was asked for too, is not there.
    """

    task: Task
    path: Path | None = None
    original_path: Path | None = None
    content: bytes | None = None
    lacking: FluxError | None = None


OnTrouble = Callable[[str], None]
"""Gets what went wrong and will be tried again."""


@dataclass(frozen=True)
class Watch:
    """Who watches a picture being saved, and may stop it."""

    on_bytes: OnBytes
    on_trouble: OnTrouble

    def trouble(self, error: FluxError) -> None:
        """Tell of something that will be tried again."""
        self.on_trouble(error.message)

    def pause(self, seconds: float) -> None:
        """Sleep, in steps short enough to notice a deadline."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.on_bytes(0, None)
            time.sleep(min(0.1, left))


class Saver:
    """Saves pictures, from several threads at once.

    `original` also saves `original_image_url`; `allow_http` is for an API that is itself spoken to over http.
    """

    def __init__(self, client: Client, *, allow_http: bool, original: bool = False) -> None:
        self._client = client
        self._allow_http = allow_http
        self._original = original
        self._idle: queue.LifoQueue[requests.Session] = queue.LifoQueue()
        self._placed: set[str] = set()
        self._placing = threading.Lock()

    def save(
        self,
        task: Task,
        target: Target,
        request: Mapping[str, object],
        n: int,
        on_bytes: OnBytes,
        on_trouble: OnTrouble,
    ) -> Saved:
        """Save a finished task's picture; `request` and `n` fill the target's template.

        `on_bytes` may raise to stop; nothing is left behind then. `on_trouble` hears of what is tried again.

        Raises:
            DownloadError: The picture cannot be had now.
            LocalFileError: It cannot be written.
        """
        values = values_for(task.task_id, request, n)
        watch = Watch(on_bytes, on_trouble)
        saved = self._save_fresh(task, target, values, watch, original=False)
        if self._original and saved.task.original_image_url and not target.stdout:
            try:
                original = self._save_fresh(saved.task, target, values, watch, original=True)
            except FluxError as error:
                return replace(saved, lacking=error)
            return replace(saved, task=original.task, original_path=original.path)
        return saved

    def _save_fresh(
        self, task: Task, target: Target, values: dict[str, str], watch: Watch, *, original: bool
    ) -> Saved:
        try:
            return self._save_one(task, target, values, watch, original=original)
        except ExpiredUrlError:
            return self._save_one(self._refreshed(task, watch), target, values, watch, original=original)

    def _refreshed(self, task: Task, watch: Watch) -> Task:
        """Ask for the task once more: a finished task gets a fresh URL, and is never submitted again for one."""
        attempt = 1
        while True:
            try:
                fresh = self._client.fetch(task.task_id)
            except (ServiceDownError, BadResponseError) as error:
                if attempt == TRIES:
                    raise
                watch.trouble(error)
                watch.pause(backoff(attempt))
                attempt += 1
                continue
            if fresh.status is not Status.FINISHED:
                raise DownloadError("its URL expired, and the service gives no other")
            return fresh

    def _save_one(
        self, task: Task, target: Target, values: dict[str, str], watch: Watch, *, original: bool
    ) -> Saved:
        for attempt in range(1, TRIES):
            try:
                return self._transfer(task, target, values, watch, original)
            except DownloadError as error:
                if error.final or isinstance(error, ExpiredUrlError):
                    raise
                watch.trouble(error)
                watch.pause(backoff(attempt))
        return self._transfer(task, target, values, watch, original)

    def _transfer(self, task: Task, target: Target, values: dict[str, str], watch: Watch, original: bool) -> Saved:
        url = (task.original_image_url if original else task.image_url) or ""
        with self._session() as session, temporary(_directory(target, values)) as file:
            watch.on_bytes(0, None)  # who was stopped in the meantime leaves no file behind
            kind = fetch_image(
                url,
                file,
                session=session,
                allow_http=self._allow_http,
                on_bytes=watch.on_bytes,
                say=self._client.trace,
            )
            watch.on_bytes(file.tell(), None)  # the last chance to stop: from here on there is a picture
            if target.stdout:
                file.seek(0)
                return Saved(task, content=file.read())
            path = target.path(values, kind, original=original)
            with local_errors(path):
                sync(file)
            exact = target.explicit and not original and path.name == target.template
            force = target.force and self._is_new(path)
            return Saved(task, place(file, path, force=force, exact=exact))

    def _is_new(self, path: Path) -> bool:
        """Say whether this run gives a name for the first time: `--force` is not meant for its own pictures."""
        with self._placing:
            absolute = os.path.abspath(path)
            new = absolute not in self._placed
            self._placed.add(absolute)
            return new

    @contextlib.contextmanager
    def _session(self) -> Iterator["requests.Session"]:
        try:
            session = self._idle.get_nowait()
        except queue.Empty:
            session = image_session()
        yield session
        self._idle.put(session)


def _directory(target: Target, values: dict[str, str]) -> Path:
    """Return the directory in which the picture will lie, and so its temporary file."""
    if target.stdout:
        return Path(tempfile.gettempdir())
    directory = target.path(values, PNG).parent
    with local_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
    return directory
