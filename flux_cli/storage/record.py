"""A submission as the history keeps it, and its conversion to and from the values of SQLite."""

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from flux_cli.api.task import Status

SANDBOX = "sandbox"
"""The name of the embedded sandbox in `Record.service`: its URL differs from run to run."""
STDOUT = "-"
"""`Record.path` of a picture that went to stdout."""


@dataclass(frozen=True)
class Record:
    """One submission.

    Attributes:
        number: Its ID in its history file, counting up.
        created: When it was recorded, just before it was sent (Unix time, seconds).
        service: The API's URL, or `sandbox`.
        request: The body, without the webhook secret and with an image prompt described instead of held.
        path: The saved picture; `-` if it went to stdout.
        ended: When it was seen to have ended, saved or failed (Unix time), or None.
        batch: The batch that it belongs to, and `row`, its row there.
        sha256: The digest of the saved picture, in hexadecimal.
        adopted: Whether it is a copy of another host's record.
        file: The name of its history file.
    """

    number: int
    created: float
    service: str
    status: Status
    task_id: str | None
    model: str | None
    prompt: str | None
    request: Mapping[str, Any]
    image_url: str | None = None
    original_image_url: str | None = None
    path: str | None = None
    original_path: str | None = None
    error: str | None = None
    exit_code: int | None = None
    ended: float | None = None
    batch: str | None = None
    row: str | None = None
    sha256: str | None = None
    adopted: bool = False
    file: str = ""

    @classmethod
    def of_row(cls, row: Sequence[Any], file: str) -> "Record":
        """Return a row with `COLUMNS` as a record. Raises TypeError or ValueError if it is damaged."""
        import json  # 3 ms, which a TAB after `show` does not need

        values = dict(zip(COLUMNS, row, strict=True))
        for name in _PATHS:
            if isinstance(values[name], bytes):
                values[name] = os.fsdecode(values[name])
        request, adopted = json.loads(values["request"]), bool(values["adopted"])
        texts = [values[name] for name in ("task_id", "path", "prompt") if values[name] is not None]
        valid = isinstance(request, dict) and isinstance(values["created"], float | int)
        if not valid or not all(isinstance(text, str) for text in texts):
            raise TypeError("not a record")
        values |= {"status": Status(values["status"]), "request": request, "adopted": adopted}
        return cls(values.pop("id"), **values, file=file)

    @property
    def age(self) -> float:
        """Seconds since it was recorded."""
        return max(0.0, time.time() - self.created)

    @property
    def unsaved(self) -> bool:
        """Whether its picture may still be had: the task is running, or finished without a file."""
        return bool(self.task_id) and self.path is None and self.status in (Status.PROCESSING, Status.FINISHED)


COLUMNS = ("id", *(field.name for field in fields(Record) if field.name not in ("number", "file")))
_PATHS = ("path", "original_path")


def storable(value: object, *, path: bool = False) -> object:
    """Return a value as SQLite can hold it: lone surrogates become escapes.

    A `path` that is not UTF-8 becomes bytes, so that the file is found again.
    """
    if not isinstance(value, str):
        return value
    try:
        value.encode()
        return value
    except UnicodeEncodeError:
        if path:
            with contextlib.suppress(UnicodeEncodeError):
                return os.fsencode(value)
        return value.encode(errors="backslashreplace").decode()


def storable_values(columns: Mapping[str, object]) -> list[object]:
    """Return the values of columns as SQLite can hold them."""
    return [storable(value, path=name in _PATHS) for name, value in columns.items()]
