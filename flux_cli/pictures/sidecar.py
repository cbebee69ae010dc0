"""The sidecar: `<image>.json` beside an image, enough to make it again and to know where it came from.

It travels with the picture, so it holds no secret, and no webhook: where a result was posted is no part of how
the picture was made.
"""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flux_cli.errors import LocalFileError
from flux_cli.storage.files import place, sync, temporary

VERSION = 1
"""The number under `flux_cli_sidecar`, which also marks the file as one."""
MAX_BYTES = 4 * 1024 * 1024
"""No sidecar is larger: prompts are short, and image prompts are described, not held."""


@dataclass(frozen=True)
class Sidecar:
    """What a sidecar tells.

    Attributes:
        request: The body that was sent, with an image prompt described instead of held.
        created: When the task was submitted (Unix time, seconds), where that was known.
        service: The API's URL, or `sandbox`.
        sha256: Of the image's bytes, in hexadecimal digits.
    """

    request: Mapping[str, object]
    task_id: str | None = None
    created: float | None = None
    service: str | None = None
    sha256: str | None = None


def path_for(image: Path) -> Path:
    """Return where an image's sidecar is: `pic.png.json` for `pic.png`."""
    return image.with_name(f"{image.name}.json")


def write(
    image: Path,
    request: Mapping[str, object],
    *,
    task_id: str | None,
    created: float | None,
    service: str,
    force: bool,
) -> Path:
    """Write the sidecar of an image that is on disk, whole or not at all; return its path.

    One that already tells of the same task and the same bytes is left as it is.

    Raises:
        LocalFileError: Another file has that name and `force` is not set, or it cannot be written.
    """
    path = path_for(image)
    try:
        with image.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise LocalFileError(f"cannot read {image}: {(error.strerror or str(error)).lower()}") from None
    if not force and _tells_of(path, task_id, sha256):
        return path
    kept = {name: value for name, value in request.items() if not name.startswith("webhook_")}
    content = {
        "flux_cli_sidecar": VERSION,
        "task_id": task_id,
        "service": service,
        "created": None if created is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(created)),
        "model": kept.get("model"),
        "seed": kept.get("seed"),
        "image": image.name,
        "sha256": sha256,
        "request": kept,
    }
    with temporary(path.parent) as part:
        part.write(json.dumps(content, ensure_ascii=False, indent=2).encode("utf-8", "backslashreplace") + b"\n")
        sync(part)
        return place(part, path, force=force, exact=True)


def read(path: Path) -> Sidecar:
    """Read a sidecar.

    Raises:
        LocalFileError: It cannot be read, or is no sidecar.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise LocalFileError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
    try:
        value = json.loads(content) if len(content) <= MAX_BYTES else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or "flux_cli_sidecar" not in value or not _is_request(value.get("request")):
        raise LocalFileError(f"{path} is not a sidecar of flux-cli", "`flux-cli imagine --sidecar` writes them")
    if value["flux_cli_sidecar"] != VERSION:
        raise LocalFileError(f"{path} was written by a newer flux-cli", "update flux-cli")
    return Sidecar(
        request=value["request"],
        task_id=_text(value.get("task_id")),
        created=_time(value.get("created")),
        service=_text(value.get("service")),
        sha256=_text(value.get("sha256")),
    )


def _tells_of(path: Path, task_id: str | None, sha256: str) -> bool:
    try:
        found = read(path)
    except LocalFileError:
        return False
    return (found.task_id, found.sha256) == (task_id, sha256)


def _is_request(value: object) -> bool:
    """Say whether a JSON value can be a recorded request: an object of plain values, and an image prompt's."""
    return isinstance(value, dict) and all(
        isinstance(each, str | int | float | bool) or (name == "image_prompt" and isinstance(each, dict))
        for name, each in value.items()
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _time(value: object) -> float | None:
    from datetime import datetime

    try:
        return datetime.fromisoformat(value).timestamp() if isinstance(value, str) else None
    except (ValueError, OverflowError):
        return None
