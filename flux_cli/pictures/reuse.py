"""A recorded request as the start of a new one (`--like`): found by task ID, sidecar or picture."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flux_cli.errors import FluxError, LocalFileError, UsageError
from flux_cli.pictures import image_prompt, sidecar
from flux_cli.pictures.formats import type_of
from flux_cli.pictures.image_prompt import ImagePrompt, quoted
from flux_cli.storage.paths import expanded

_GIVE_ONE = "give an image with --image-prompt"


@dataclass(frozen=True)
class RecordedRequest:
    """A request as the history or a sidecar has it, without its webhook, and what the user called it."""

    name: str
    request: Mapping[str, Any]

    def image_prompt(self) -> ImagePrompt | None:
        """Read the image prompt again; return None if there was none.

        Only the image that was sent is accepted: another one would be charged and generate something else, and a
        sidecar from elsewhere must not be able to send a file whose content its author does not have. Raises the
        errors of `image_prompt.load`; a changed file is a LocalFileError, any other problem a UsageError.
        """
        described = self.request.get("image_prompt")
        if described is None:
            return None
        source = described.get("source") if isinstance(described, Mapping) else None
        if not isinstance(described, Mapping) or not isinstance(source, str) or source in ("", "-"):
            raise UsageError(f"the image prompt of {self.name} was not kept: it was not a file or URL", _GIVE_ONE)
        try:
            image = image_prompt.load(source)
        except FluxError as error:
            error.hint = error.hint or _GIVE_ONE
            raise
        if image.described()["sha256"] != described.get("sha256"):
            kind = UsageError if source.startswith(("http://", "https://")) else LocalFileError
            raise kind(f"the image prompt {quoted(source)} has changed since {self.name} was generated", _GIVE_ONE)
        return image


def find(text: str) -> RecordedRequest:
    """Find a recorded request by its sidecar, its picture (which may have been renamed) or its task.

    Raises LocalFileError if there is none, or it cannot be read, and UsageError if several tasks have the prefix.
    """
    from flux_cli.storage.history import open_readonly

    path = expanded(text)
    if os.path.isfile(path):  # unlike Path's own, it takes any text
        request = _of_picture(path) if type_of(path) else sidecar.read(path).request
    else:
        request = open_readonly().named(text).request
    return RecordedRequest(
        text, {name: value for name, value in request.items() if not name.startswith("webhook_")}
    )


def _of_picture(path: Path) -> Mapping[str, object]:
    """Return the request of a picture: from a sidecar with its hash, the history, or any sidecar with its name."""
    from flux_cli.storage.files import sha256_of
    from flux_cli.storage.history import open_readonly

    found, missing = None, LocalFileError(f"{path} has no sidecar and is not in the history")
    beside = sidecar.path_for(path)
    if os.path.exists(beside):
        try:
            found = sidecar.read(beside)
        except LocalFileError as error:  # a file of the user's own
            missing = error
    if found is not None and found.sha256 in (None, sha256_of(path)):
        return found.request
    if record := open_readonly().find_picture(path):
        return record.request
    if found is not None:
        return found.request
    raise missing
