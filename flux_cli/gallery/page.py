"""The page: one HTML file that contains its style, script and data, and a policy that allows no others."""

import base64
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from flux_cli.errors import LocalFileError, os_reason
from flux_cli.gallery.collection import Picture, Thumbnail
from flux_cli.gallery.command import command, note
from flux_cli.storage.files import write_file

MARK = b'<meta name="generator" content="flux-cli">'
"""In the head of each page, to distinguish it from other files."""

_DATA_START = '<script type="application/json" id="data">'
_SHOWN_SEPARATELY = frozenset({"prompt", "model", "seed", "width", "height", "webhook_url", "webhook_secret"})


def check(path: Path, *, force: bool) -> None:
    """Raise LocalFileError if a file is there that is not an earlier page, or cannot be read; not with `force`."""
    if force or not os.path.lexists(path):
        return
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise LocalFileError(f"cannot replace {path}: {os_reason(error)}") from None
    if MARK not in head:
        raise LocalFileError(
            f"{path} exists and is not a gallery", "choose another name with -o, or replace it with --force"
        )


def write(path: Path, pictures: Sequence[Picture], thumbnails: Sequence[Thumbnail | None]) -> None:
    """Write the page atomically, replacing an earlier one. Raises LocalFileError if it cannot be written."""
    content = html(pictures, thumbnails, path.parent).encode()
    write_file(path, content, force=True)


def thumbnails_in(path: Path) -> dict[tuple[str, str], Thumbnail]:
    """Return the thumbnails of an earlier page by the `key` of their picture; none if there is no page."""
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return {}
    found = {}
    _, _, rest = content.partition(_DATA_START)
    try:
        for entry in json.loads(rest.partition("</script>")[0]):
            if str(entry["thumbnail"]).startswith("data:image/webp;base64,") and entry["stamp"]:
                thumbnail = Thumbnail(entry["thumbnail"], int(entry["width"]), int(entry["height"]))
                found[entry["url"], entry["stamp"]] = thumbnail
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}
    return found


def key(picture: Picture, path: Path) -> tuple[str, str]:
    """Return a key for this version of a picture on a page at `path`."""
    return relative_url(picture.path, path.parent), picture.stamp()


def html(pictures: Sequence[Picture], thumbnails: Sequence[Thumbnail | None], directory: Path) -> str:
    """Return the page, with URLs relative to `directory`."""
    entries = [_entry(*each, directory) for each in zip(pictures, thumbnails, strict=True)]
    # Without `<`, so that no prompt can end the element that contains the data.
    data = json.dumps(entries, separators=(",", ":")).replace("<", "\\u003c")
    style, script = _part("page.css"), _part("page.js")
    policy = (
        f"default-src 'none'; img-src 'self' file: data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = {"policy": policy, "style": style, "script": script, "data": data}
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _part("page.html"))


def _part(name: str) -> str:
    return files("flux_cli.gallery").joinpath(name).read_text(encoding="utf-8")


def _hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


def _entry(picture: Picture, thumbnail: Thumbnail | None, directory: Path) -> dict[str, object]:
    request = picture.request
    return {
        "prompt": str(request.get("prompt", "")),
        "model": str(request.get("model", "")),
        "seed": None if request.get("seed") is None else str(request["seed"]),  # JavaScript would round it
        "width": thumbnail.width if thumbnail else 0,
        "height": thumbnail.height if thumbnail else 0,
        "created": picture.created,
        "task": picture.task_id or "",
        "settings": list(_settings(request).items()),
        "name": picture.path.name,
        "url": relative_url(picture.path, directory),
        "stamp": picture.stamp(),
        "thumbnail": thumbnail.url if thumbnail else "",
        "command": command(picture),
        "note": note(picture),
    }


def _settings(request: Mapping[str, object]) -> dict[str, str]:
    settings = {}
    for name, value in request.items():
        if name in _SHOWN_SEPARATELY:
            continue
        if isinstance(value, Mapping):
            value = value.get("source") or "from stdin"
        text = {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
        settings[name.replace("_", " ").capitalize()] = text
    return settings


def relative_url(path: Path, directory: Path) -> str:
    """Return a file's URL relative to a page in `directory`.

    It begins with a dot, so that no file name looks like a URL's scheme. On Windows a file on another drive has no
    relative URL; it gets an absolute one.
    """
    try:
        relative = os.path.relpath(path, os.path.realpath(directory))
    except ValueError:
        return path.as_uri()
    parts = [quote(os.fsencode(part), safe="") for part in Path(relative).parts]
    return "/".join(parts if parts[0] == ".." else [".", *parts])
