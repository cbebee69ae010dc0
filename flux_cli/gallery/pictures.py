"""Which pictures there are: what the history tells and what sidecars tell, as far as the files exist."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flux_cli.errors import LocalFileError
from flux_cli.pictures import sidecar
from flux_cli.pictures.formats import is_image_extension
from flux_cli.storage.record import Record


@dataclass(frozen=True)
class Picture:
    """A picture on disk and what made it.

    Attributes:
        path: Its absolute path.
        request: The body that was sent, with an image prompt described instead of held.
        created: When it was asked for (Unix time, seconds), where that is known.
        service: The API's URL, or `sandbox`.
    """

    path: Path
    request: Mapping[str, Any]
    task_id: str | None
    created: float | None
    service: str | None

    def stamp(self) -> str:
        """Return what changes when the file does: its size and when it was written. Empty where it is gone."""
        try:
            status = self.path.stat()
        except OSError:
            return ""
        return f"{status.st_size:x}-{status.st_mtime_ns:x}"


@dataclass(frozen=True)
class Thumbnail:
    """A small copy, as a `data:` URL, and the full picture's width and height in pixels."""

    url: str
    width: int
    height: int


def in_history(records: Iterable[Record], directory: Path | None = None) -> tuple[list[Picture], int]:
    """Return the pictures of records, newest first, and of how many the file is gone.

    Args:
        records: The history, newest first: of a path that was used again the last picture counts.
        directory: Only what lies in it or below.
    """
    found: dict[str, Picture] = {}
    gone: set[str] = set()
    top = os.path.realpath(directory) if directory else None
    for record in records:
        if record.path is None or record.path == "-":
            continue
        path = os.path.realpath(record.path)
        if path in found or path in gone or (top and not Path(path).is_relative_to(top)):
            continue
        if os.path.isfile(path):
            found[path] = Picture(Path(path), record.request, record.task_id, record.created, record.service)
        else:
            gone.add(path)
    return list(found.values()), len(gone)


def with_sidecars(directory: Path) -> Iterator[Picture]:
    """Yield the pictures in a directory and below that have a sidecar; what is no sidecar is passed over.

    Raises:
        LocalFileError: The directory cannot be read.
    """

    def fail(error: OSError) -> None:
        if error.filename == top:
            raise LocalFileError(f"cannot read {directory}: {(error.strerror or str(error)).lower()}")

    top = os.path.realpath(directory)
    for folder, folders, names in os.walk(top, onerror=fail):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        beside = set(names)
        for name in sorted(names):
            path = Path(folder, name)
            told = sidecar.path_for(path)
            if not is_image_extension(path.suffix[1:]) or told.name not in beside:
                continue
            try:
                found = sidecar.read(told)
            except LocalFileError:
                continue
            yield Picture(path, found.request, found.task_id, found.created, found.service)
