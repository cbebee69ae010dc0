"""Save a finished task's picture: one attempt to download it, verify it and give it its name."""

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from flux_cli.api import connections
from flux_cli.api.task import Task
from flux_cli.api.transport import Trace
from flux_cli.pictures.download import DownloadError, OnBytes, Partial, fetch_image, image_session
from flux_cli.pictures.formats import KNOWN_TYPES, PNG, WEBP, ImageType, is_image_extension
from flux_cli.pictures.naming import Target, values_for
from flux_cli.storage.files import place, sync, temporary
from flux_cli.storage.filesystem import local_errors, make_directory


@dataclass(frozen=True)
class Saved:
    """A picture that was saved to `path`, or its `content` for stdout, and its hash in hexadecimal."""

    path: Path | None = None
    original_path: Path | None = None
    content: bytes | None = field(default=None, repr=False)
    sha256: str | None = None
    warning: str | None = None


class Transfer:
    """What the attempts to save one task's pictures have in common; `close` removes a partial file.

    `request` and `n` fill the target's template.
    """

    def __init__(self, target: Target, request: Mapping[str, object], n: int) -> None:
        self.target = target
        self.request = request
        self.n = n
        self.saved: Saved | None = None
        """The picture once it is saved, also if the original is still missing."""
        self._kept: Partial | None = None
        self._lock = threading.Lock()
        self._closed = False

    @contextlib.contextmanager
    def partial(self, directory: Path) -> Iterator[Partial]:
        """Yield the last attempt's partial file, or a new one; keep it after an error if it can be resumed.

        An attempt owns its file: one that was given up may still run, in a DNS lookup, when the next one begins.
        """
        with self._lock:
            partial, self._kept = self._kept, None
        if partial is None:
            stack = contextlib.ExitStack()
            partial = Partial(stack.enter_context(temporary(directory, buffered=False)), close=stack.close)
        keep = False
        try:
            yield partial
        except DownloadError:
            with self._lock:
                keep = bool(partial.range_headers()) and self._kept is None and not self._closed
                self._kept = partial if keep else self._kept
            raise
        finally:
            if not keep:
                partial.close()

    def close(self) -> None:
        """Remove the partial file, if there is one; later attempts leave none."""
        with self._lock:
            partial, self._kept, self._closed = self._kept, None, True
        if partial is not None:
            partial.close()


class Saver:
    """Saves the pictures of one service, and with `original` the originals, from several threads at once."""

    def __init__(self, api_url: str, trace: Trace = lambda _: None, *, original: bool = False) -> None:
        self._api_url = api_url
        self._trace = trace
        self._original = original
        self._sessions = connections.Sessions(image_session)
        self._placed: dict[str, object] = {}  # setdefault is atomic

    def save(self, task: Task, transfer: Transfer, on_bytes: OnBytes) -> Saved:
        """Make one attempt to save a finished task's picture, and the original if that was asked for.

        `on_bytes` may raise to stop. A later attempt with the same transfer continues where this one ended; once
        `transfer.saved` is set, only the original is still missing. Raises DownloadError, whose `kind` says if an
        attempt can help, or LocalFileError if the picture cannot be written.
        """
        if transfer.saved is None:
            transfer.saved = self._save(task.image_url, task.task_id, transfer, on_bytes, original=False)
        wanted = self._original and task.original_image_url and not transfer.target.stdout
        if wanted and transfer.saved.original_path is None:
            try:
                original = self._save(task.original_image_url, task.task_id, transfer, on_bytes, original=True)
            except DownloadError as error:
                raise DownloadError(
                    error.reason, error.kind, retry_after=error.retry_after, what="original"
                ) from error
            warnings = [warning for warning in (transfer.saved.warning, original.warning) if warning]
            transfer.saved = replace(
                transfer.saved, original_path=original.path, warning="; ".join(warnings) or None
            )
        return transfer.saved

    def _save(
        self, url: str | None, task_id: str, transfer: Transfer, on_bytes: OnBytes, *, original: bool
    ) -> Saved:
        target, values = transfer.target, values_for(task_id, transfer.request, transfer.n)
        on_bytes(0, None)  # a stopped run leaves no file behind
        with self._sessions.lend() as session, transfer.partial(_directory(target, values)) as partial:
            kind, sha256 = fetch_image(
                url or "",
                partial,
                session=session,
                allow_http=self._api_url.startswith("http:"),
                on_bytes=on_bytes,
                trace=self._trace,
            )
            on_bytes(partial.received, partial.received)  # the last chance to stop: after this the picture exists
            if target.stdout:
                with partial.content() as content:
                    return Saved(content=content.read(), sha256=sha256)
            path = target.path(values, kind, original=original)
            with local_errors(path):
                sync(partial.file)
            exact = target.explicit and not original and path.name == target.template
            force = target.force and self._is_new(path)
            path = place(partial.file, path, force=force, exact=exact)
            return Saved(path, sha256=sha256, warning=_warning(path, kind))

    def _is_new(self, path: Path) -> bool:
        """Say whether this run uses a name for the first time: `--force` never replaces the run's own pictures."""
        this = object()
        return self._placed.setdefault(os.path.abspath(path), this) is this


def _warning(path: Path, kind: ImageType) -> str | None:
    if kind not in KNOWN_TYPES:
        return f"{path} has an unusual format: {kind.mime}"
    if is_image_extension(path.suffix[1:]) and not kind.fits(path.suffix[1:]):
        name = "WebP" if kind is WEBP else kind.mime.partition("/")[2].upper()
        return f"{path} contains {'an' if name[0] in 'AEIOU' else 'a'} {name}"
    return None


def _directory(target: Target, values: dict[str, str]) -> Path:
    """Return the directory of the picture, which is also that of its temporary file."""
    if target.stdout:
        return Path(tempfile.gettempdir())
    directory = target.path(values, PNG).parent
    with local_errors(directory):
        make_directory(directory)
    return directory
