"""Validation of what clients send: JSON bodies, the request's fields, image prompts, webhook URLs."""

import base64
import io
import ipaddress
import json
from urllib.parse import urlsplit

from flux_cli.api.request import MAX_IMAGE_PROMPT_BYTES, is_http_url, violations
from flux_cli.pictures.formats import PROMPT_TYPES, sniff
from flux_cli.sandbox.faults import check, faults_in

MAX_BODY_BYTES = 32 * 1024 * 1024
"""An image prompt of 20 MiB is 27 MiB of base64; a larger body gets a 413."""
MAX_IMAGE_PROMPT_PIXELS = 64_000_000
"""192 MB when decoded; a PNG of a few kilobytes can claim any size."""


class RejectedError(Exception):
    """A request is rejected, with a status code and reasons."""

    def __init__(self, *reasons: str, status: int = 400) -> None:
        super().__init__(*reasons)
        self.status = status
        self.reasons = reasons


def parse_object(body: bytes) -> dict[str, object]:
    """Return the JSON object in a body.

    Raises:
        RejectedError: It is not one. `NaN` and `Infinity` are not JSON.
    """
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=int)  # which raises ValueError for these
    except (ValueError, RecursionError):
        raise RejectedError("the body is not JSON") from None
    if not isinstance(value, dict):
        raise RejectedError("the body is not a JSON object")
    return value


def parse_submission(content: bytes, allow_remote_webhooks: bool) -> tuple[dict[str, object], bytes | None]:
    """Return the body of a submission without its image prompt, and the bytes of that.

    Raises:
        RejectedError: With a reason for each violation, as the service rejects it.
    """
    body = parse_object(content)
    reasons = violations(body)
    url = str(body.get("webhook_url"))
    if is_http_url(url) and not (allow_remote_webhooks or is_loopback(urlsplit(url).hostname or "")):
        reasons.append("`webhook_url` is on another machine: start the sandbox with --allow-remote-webhooks")
    if reasons:
        raise RejectedError(*reasons)
    try:
        check(faults_in(str(body["prompt"])))
    except ValueError as error:
        raise RejectedError(f"invalid fault in `prompt`: {error}") from None
    encoded = body.pop("image_prompt", None)
    return body, None if encoded is None else _decode_image_prompt(str(encoded))


def _decode_image_prompt(encoded: str) -> bytes:
    try:
        image_prompt = base64.b64decode("".join(encoded.split()), validate=True)
    except ValueError:
        raise RejectedError("`image_prompt` is not base64") from None
    if len(image_prompt) > MAX_IMAGE_PROMPT_BYTES:
        raise RejectedError(f"`image_prompt` is larger than {MAX_IMAGE_PROMPT_BYTES // 2**20} MiB")
    if sniff(image_prompt) not in PROMPT_TYPES:
        raise RejectedError("`image_prompt` is not a PNG, JPEG or WebP image")
    from PIL import Image

    try:
        with Image.open(io.BytesIO(image_prompt), formats=("PNG", "JPEG", "WEBP")) as image:
            pixels = image.width * image.height
    except Image.DecompressionBombError:
        pixels = MAX_IMAGE_PROMPT_PIXELS + 1
    except Exception:  # a damaged file makes Pillow raise almost anything
        raise RejectedError("`image_prompt` cannot be decoded") from None
    if pixels > MAX_IMAGE_PROMPT_PIXELS:
        raise RejectedError(f"`image_prompt` has more than {MAX_IMAGE_PROMPT_PIXELS // 1_000_000} million pixels")
    return image_prompt


def is_loopback(host: str) -> bool:
    """Return whether a host is `localhost` or a loopback address; other names are not resolved."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
