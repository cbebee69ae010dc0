"""An earlier request, for `--like`: found by its task id, its sidecar or its picture; and its image prompt."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flux_cli.errors import FluxError, LocalFileError, UsageError
from flux_cli.pictures import image_prompt, sidecar
from flux_cli.pictures.formats import SNIFF_BYTES, sniff
from flux_cli.pictures.image_prompt import ImagePrompt

_GIVE_ONE = "give an image with --image-prompt"


@dataclass(frozen=True)
class Earlier:
    """An earlier request as it was recorded, without its webhook.

    Attributes:
        name: What the user called it.
        request: The fields of the body; an image prompt is described there, not held.
    """

    name: str
    request: Mapping[str, Any]

    def image_prompt(self) -> ImagePrompt | None:
        """Read the image prompt again, None if there was none.

        It has to be the very image that was sent then: another one would cost the same and show something else,
        and a sidecar from elsewhere must not be able to send a file that its writer does not have.

        Raises:
            UsageError: It came from standard input, or its URL serves another image now.
            LocalFileError: Its file is gone, or has changed.
            DownloadError: Its URL cannot be had.
        """
        described = self.request.get("image_prompt")
        if described is None:
            return None
        source = described.get("source") if isinstance(described, Mapping) else None
        if not isinstance(described, Mapping) or not isinstance(source, str) or source in ("", "-"):
            raise UsageError(f"the image prompt of {self.name} came from stdin and was not kept", _GIVE_ONE)
        try:
            image = image_prompt.load(source)
        except FluxError as error:
            error.hint = error.hint or _GIVE_ONE
            raise
        if image.described()["sha256"] != described.get("sha256"):
            kind = UsageError if source.startswith(("http://", "https://")) else LocalFileError
            raise kind(f"the image prompt {source} is not the one of {self.name} any more", _GIVE_ONE)
        return image


def find(text: str) -> Earlier:
    """Find an earlier request: a sidecar, a picture that has one or is in the history, or a task id.

    Raises:
        LocalFileError: There is no such thing, or it cannot be read.
    """
    path = Path(text).expanduser()
    if path.is_file():
        request = _of_picture(path) if _is_picture(path) else sidecar.read(path).request
    else:
        request = _of_task(text)
    return Earlier(text, {name: value for name, value in request.items() if not name.startswith("webhook_")})


def _of_picture(path: Path) -> Mapping[str, object]:
    beside = sidecar.path_for(path)
    if beside.exists():
        return sidecar.read(beside).request
    from flux_cli.storage.history import open_readonly

    record = open_readonly().find_picture(path)
    if record is not None:
        return record.request
    raise LocalFileError(f"{path} has no sidecar, and the history does not know it")


def _of_task(text: str) -> Mapping[str, object]:
    from flux_cli.storage.history import open_readonly

    record = open_readonly().find(text)
    if record is None:
        raise LocalFileError(f"there is no file {text}, and no task of that id in the history")
    return record.request


def _is_picture(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return sniff(file.read(SNIFF_BYTES)) is not None
    except OSError:
        return False
