"""The sidecar of a picture, `<image>.json`: enough to generate it again and to know where it came from.

It is shared with the picture, so it contains no secret, no webhook, and no credentials or query of a URL.
"""

import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flux_cli.errors import LocalFileError
from flux_cli.pictures.image_prompt import public_source
from flux_cli.storage.files import sha256_of, write_file
from flux_cli.storage.filesystem import local_errors

VERSION = 1
"""The value of `flux_cli_sidecar`, which also marks the file as a sidecar."""
MAX_BYTES = 4 * 1024 * 1024
"""No sidecar is larger: prompts are short, and image prompts are described, not included."""


@dataclass(frozen=True)
class Sidecar:
    """The contents of a sidecar.

    `request` describes an image prompt instead of containing it. `created` is when the task was submitted, in
    Unix time. `service` is the API's URL, or `sandbox`. `sha256` is the hash of the image's bytes, in hexadecimal.
    """

    request: Mapping[str, object]
    task_id: str | None = None
    created: float | None = None
    service: str | None = None
    sha256: str | None = None


def path_for(image: Path) -> Path:
    """Return the path of an image's sidecar: `pic.png.json` for `pic.png`."""
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
    """Write the sidecar of a saved image atomically; return its path.

    One for the same task and the same bytes is kept. Raises LocalFileError if another file has that name (without
    `force`), or it cannot be written.
    """
    path = path_for(image)
    sha256 = sha256_of(image)
    if not force:
        with contextlib.suppress(LocalFileError):
            found = read(path)
            if (found.task_id, found.sha256) == (task_id, sha256):
                return path
    kept = {name: _public(value) for name, value in request.items() if not name.startswith("webhook_")}
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
    text = json.dumps(content, ensure_ascii=False, indent=2)
    write_file(path, text.encode("utf-8", "backslashreplace") + b"\n", force=force)
    return path


def read(path: Path) -> Sidecar:
    """Read a sidecar. Raises LocalFileError if it cannot be read, or is not one."""
    with local_errors(path, "read"), path.open("rb") as file:
        content = file.read(MAX_BYTES)  # the start of a larger file is not JSON
    try:
        value = json.loads(content)
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


def _public(value: object) -> object:
    """Return a field without the secrets of an image prompt's URL: histories of 0.1.0 contain whole URLs."""
    if isinstance(value, Mapping) and isinstance(source := value.get("source"), str):
        return {**value, "source": public_source(source)}
    return value


def _is_request(value: object) -> bool:
    """Return whether a JSON value can be a recorded request: plain values, and a described image prompt."""
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
