"""The pictures of a gallery: from the history, from sidecars, and from the results of a batch."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from flux_cli.errors import LocalFileError, os_reason
from flux_cli.pictures import sidecar
from flux_cli.pictures.formats import is_image_extension
from flux_cli.storage.paths import RESULTS_NAME, STATE_NAME
from flux_cli.storage.record import SANDBOX, STDOUT, Record

_FIELDS_OF_RESULTS = ("model", "prompt", "seed")
"""The fields of the request in results of version 0.1.0."""


@dataclass(frozen=True)
class Picture:
    """A picture on disk and the request that made it.

    The request has a description of the image prompt instead of its bytes, and is `trusted` if it is from the
    history of this machine: other files can come from anyone. `created` is a Unix time in seconds.
    """

    path: Path
    request: Mapping[str, Any]
    task_id: str | None
    created: float | None
    sandbox: bool = False
    trusted: bool = False

    def stamp(self) -> str:
        """Return a text that changes with the file: its size and modification time. Empty if the file is gone."""
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


def from_history(records: Iterable[Record], directory: Path | None = None) -> tuple[list[Picture], int]:
    """Return the pictures of records, and the number of files that are gone.

    Records are the newest first: if a path was used twice, the newer one counts. With a directory, return only the
    pictures in it and below.
    """
    found: dict[str, Picture] = {}
    gone: set[str] = set()
    top = os.path.realpath(directory) if directory else None
    for record in records:
        if record.path is None or record.path == STDOUT:
            continue
        path = os.path.realpath(record.path)
        if path in found or path in gone or (top and not Path(path).is_relative_to(top)):
            continue
        if not os.path.isfile(path):
            gone.add(path)
            continue
        sandbox = record.service == SANDBOX
        found[path] = Picture(Path(path), record.request, record.task_id, record.created, sandbox, trusted=True)
    return list(found.values()), len(gone)


def from_directory(directory: Path) -> Iterator[Picture]:
    """Yield the pictures in a directory and below that have a sidecar or are in the results of a batch.

    A sidecar takes precedence over results. Files that have neither, and hidden directories, are ignored.
    Raises LocalFileError if the directory cannot be read.
    """

    def fail(error: OSError) -> None:
        if error.filename == top:
            raise LocalFileError(f"cannot read {directory}: {os_reason(error)}")

    top = os.path.realpath(directory)
    found: set[Path] = set()
    batches: list[Path] = []
    for folder, folders, names in os.walk(top, onerror=fail):
        if RESULTS_NAME in names or STATE_NAME in folders:
            batches.append(Path(folder))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for picture in _with_sidecars(Path(folder), sorted(names)):
            found.add(picture.path)
            yield picture
    for batch in batches:
        for path, picture in _in_batch(batch).items():
            if path not in found:
                found.add(path)
                yield picture


def _with_sidecars(folder: Path, names: Sequence[str]) -> Iterator[Picture]:
    for path in (folder / name for name in names):
        if not is_image_extension(path.suffix[1:]):
            continue
        try:
            content = sidecar.read(sidecar.path_for(path))
        except LocalFileError:
            continue
        sandbox = content.service == SANDBOX
        yield Picture(path, content.request, content.task_id, content.created, sandbox)


def _in_batch(directory: Path) -> dict[Path, Picture]:
    """Return the pictures of a batch directory; of several results about a file, the last counts."""
    files = [*sorted(directory.glob(f"{STATE_NAME}/journal-*.jsonl")), directory / RESULTS_NAME]
    found: dict[Path, Picture] = {}
    for file in files:
        for result in _results(file):
            path = _located(result.get("path"), directory)
            if path is None:
                continue
            request = result.get("request")
            if not isinstance(request, dict):
                request = {name: result[name] for name in _FIELDS_OF_RESULTS if result.get(name) is not None}
            task_id = result.get("task_id")
            found[path] = Picture(
                path,
                request,
                task_id if isinstance(task_id, str) else None,
                path.stat().st_mtime,  # results have no time; a picture was saved soon after its submission
                sandbox=result.get("service") == SANDBOX,
            )
    return found


def _results(file: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = file.read_bytes().split(b"\n")
    except OSError:
        return
    for line in lines:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            result = value.get("result", value)
            if isinstance(result, dict):
                yield result


def _located(value: object, directory: Path) -> Path | None:
    """Return a picture's path in a batch directory that may have moved: its longest suffix that exists there."""
    if not isinstance(value, str) or "\0" in value:
        return None
    parts = [part for part in PurePath(value).parts if part != ".."]
    for start in range(len(parts)):
        path = directory.joinpath(*parts[start:])
        if path.is_relative_to(directory) and path.is_file():
            return Path(os.path.realpath(path))
    return None
