"""Reading what a client sends: JSON objects, image prompts, webhook URLs; and the reasons to refuse them."""

import base64
import binascii
import hashlib
import io
import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import urlsplit

from flux_cli.api.request import MAX_IMAGE_PROMPT_BYTES, violations
from flux_cli.pictures.formats import PROMPT_TYPES, sniff
from flux_cli.sandbox.asked import asked_in

MAX_BODY_BYTES = 32 * 1024 * 1024
"""An image prompt of 20 MiB is 27 MiB of base64; more than this is answered with 413."""
MAX_IMAGE_PROMPT_PIXELS = 64_000_000
"""What Pillow would unpack into 192 MB; a PNG of a few kilobytes may claim any size."""


ALLOWING = "the sandbox posts to others only when started with --allow-remote-webhooks"


class RefusedError(Exception):
    """What was sent is refused, with a status and the reasons for it."""

    def __init__(self, *reasons: str, status: int = 400) -> None:
        super().__init__(*reasons)
        self.status = status
        self.reasons = reasons


def read_object(body: bytes) -> dict[str, object]:
    """Return the JSON object in a body.

    Raises:
        RefusedError: It is not one; `NaN` and `Infinity`, which JSON does not have, included.
    """
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise RefusedError("the body is not JSON") from None
    if not isinstance(value, dict):
        raise RefusedError("the body is not a JSON object")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


@dataclass(frozen=True)
class Order:
    """A submission that the rules allow: its body, and apart from it the image prompt's bytes and SHA-256."""

    body: Mapping[str, object]
    image_prompt: bytes | None
    digest: str | None


def read_order(body: bytes, allow_remote_webhooks: bool) -> Order:
    """Return a submission, checked as the service checks it.

    Raises:
        RefusedError: With a reason for each rule that it breaks.
    """
    fields = read_object(body)
    broken = violations(fields)
    if isinstance(url := fields.get("webhook_url"), str) and not (allow_remote_webhooks or is_loopback(url)):
        broken.append(f"`webhook_url` is not on this machine; {ALLOWING}")
    if broken:
        raise RefusedError(*broken)
    try:
        asked_in(str(fields["prompt"]))
    except ValueError as error:
        raise RefusedError(f"a fault in `prompt` cannot be understood: {error}") from None
    encoded = fields.pop("image_prompt", None)
    if encoded is None:
        return Order(fields, None, None)
    image_prompt = _read_image_prompt(str(encoded))
    return Order(fields, image_prompt, hashlib.sha256(image_prompt).hexdigest())


def _read_image_prompt(encoded: str) -> bytes:
    try:
        image_prompt = base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError):
        raise RefusedError("`image_prompt` is not base64") from None
    if len(image_prompt) > MAX_IMAGE_PROMPT_BYTES:
        raise RefusedError(f"`image_prompt` is larger than {MAX_IMAGE_PROMPT_BYTES // 2**20} MiB")
    if sniff(image_prompt) not in PROMPT_TYPES:
        raise RefusedError("`image_prompt` is not a PNG, JPEG or WebP image")
    _check_size(image_prompt)
    return image_prompt


def _check_size(image_prompt: bytes) -> None:
    """Refuse what claims to be an image and cannot be opened as one, or is too large to unpack."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(image_prompt), formats=("PNG", "JPEG", "WEBP")) as image:
            width, height = image.size
    except Image.DecompressionBombError:
        width = height = MAX_IMAGE_PROMPT_PIXELS
    except Exception:  # Pillow raises whatever a damaged file makes it raise
        raise RefusedError("`image_prompt` cannot be read as an image") from None
    if width * height > MAX_IMAGE_PROMPT_PIXELS:
        raise RefusedError(f"`image_prompt` has more than {MAX_IMAGE_PROMPT_PIXELS // 1_000_000} million pixels")


def is_loopback(url: str) -> bool:
    """Say whether a URL's host is `localhost` or a loopback address; other names are not looked up."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
