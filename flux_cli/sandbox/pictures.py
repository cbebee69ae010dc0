"""Draws the picture of a request: recognisably that request's, and the same bytes whenever it is drawn again."""

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass

from PIL import Image, ImageOps

from flux_cli.api.request import ULTRA
from flux_cli.sandbox import caption
from flux_cli.sandbox.scenery import chance_for, paint, palette_for

DEFAULT_SIZE = (1024, 768)
DEFAULT_RATIO = "16:9"
ULTRA_PIXELS = 1024 * 1024
MOST_PIXELS = 2 * ULTRA_PIXELS
"""A ratio of large numbers, like 1777:1000, is kept exactly up to this; beyond it, as nearly as pixels allow."""
DEFAULT_STRENGTH = 0.4


@dataclass(frozen=True)
class Wanted:
    """What is to be drawn.

    Attributes:
        model: Which model was asked; it is named, and changes the scene.
        prompt: What the picture is to show; it is written on it.
        width: In pixels.
        height: In pixels.
        seed: The request's, or the one that was chosen for it.
        image_prompt: The bytes of an image to blend in, or None.
        strength: How much of it, 0 to 1.
        captioned: Whether the prompt is written on it; the original goes without.
    """

    model: str
    prompt: str
    width: int
    height: int
    seed: int
    image_prompt: bytes | None
    strength: float
    captioned: bool

    @classmethod
    def from_body(
        cls, body: Mapping[str, object], seed: int, image_prompt: bytes | None, captioned: bool
    ) -> "Wanted":
        """Read a request that the rules allow."""
        width, height = size_of(body)
        strength = body.get("image_prompt_strength")
        return cls(
            model=str(body["model"]),
            prompt=str(body["prompt"]),
            width=width,
            height=height,
            seed=seed,
            image_prompt=image_prompt,
            strength=float(strength) if isinstance(strength, int | float) else DEFAULT_STRENGTH,
            captioned=captioned,
        )


def size_of(body: Mapping[str, object]) -> tuple[int, int]:
    """Return the width and height in pixels that a request asks for."""
    sides = [body.get("width"), body.get("height")]
    if body["model"] == ULTRA and (sides == [None, None] or "aspect_ratio" in body):
        across, down = str(body.get("aspect_ratio", DEFAULT_RATIO)).split(":")
        return _size_for_ratio(int(across), int(down))
    width, height = (
        side if isinstance(side, int) else default for side, default in zip(sides, DEFAULT_SIZE, strict=True)
    )
    return width, height


def _size_for_ratio(across: int, down: int) -> tuple[int, int]:
    """Return about a megapixel in this ratio, exactly where whole pixels allow it."""
    divisor = math.gcd(across, down)
    across, down = across // divisor, down // divisor
    if across * down <= MOST_PIXELS:
        times = max(1, round(math.sqrt(ULTRA_PIXELS / (across * down))))
        return across * times, down * times
    height = round(math.sqrt(ULTRA_PIXELS * down / across))
    return round(height * across / down), height


def draw(wanted: Wanted, image_format: str) -> bytes:
    """Return a picture's bytes in one of Pillow's formats: PNG, JPEG, WEBP, GIF."""
    chance = chance_for(wanted.model, wanted.prompt, wanted.width, wanted.height, wanted.seed)
    picture = paint(wanted.width, wanted.height, palette_for(wanted.prompt, chance), chance)
    if wanted.image_prompt is not None:
        picture = _blended(picture, wanted.image_prompt, wanted.strength)
    if wanted.captioned:
        details = f"{wanted.model}  ·  {wanted.width} x {wanted.height}  ·  seed {_short(wanted.seed)}"
        caption.write(picture, wanted.prompt, details)
    else:
        caption.write_tag(picture)
    return _encoded(picture, image_format)


def _blended(picture: Image.Image, image_prompt: bytes, strength: float) -> Image.Image:
    """Return the picture with an image laid over it, cropped to its size: the stronger, the less shows through."""
    try:
        with Image.open(io.BytesIO(image_prompt), formats=("PNG", "JPEG", "WEBP")) as opened:
            longest = 2 * max(picture.size)
            opened.thumbnail((longest, longest))  # first of all: other steps would copy a large image as it is
            image = ImageOps.exif_transpose(opened).convert("RGBA")
    except Exception:  # Pillow raises whatever a damaged file makes it raise
        return picture
    image = ImageOps.fit(image, picture.size, Image.Resampling.BILINEAR)
    over = picture.copy()
    over.paste(image, mask=image)
    return Image.blend(picture, over, strength**0.7)  # the root: a strength of 0.1 is to be seen


def _encoded(picture: Image.Image, image_format: str) -> bytes:
    file = io.BytesIO()
    if image_format == "PNG":
        picture.save(file, "PNG", compress_level=4)
    elif image_format == "GIF":
        picture.quantize(128).save(file, "GIF")
    else:
        picture.save(file, image_format, quality=90)
    return file.getvalue()


def _short(seed: int) -> str:
    text = str(seed)
    return text if len(text) <= 24 else f"{text[:22]}…"
