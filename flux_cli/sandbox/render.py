"""Renders the picture of a request: the same bytes for the same request and seed, on every machine."""

import asyncio
import io
import math
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from PIL import Image, ImageOps

from flux_cli.api.request import ULTRA
from flux_cli.sandbox import caption
from flux_cli.sandbox.recent import Recent
from flux_cli.sandbox.scenery import landscape, palette_for, random_for
from flux_cli.sandbox.tasks import Submission

DEFAULT_SIZE = (1024, 768)
DEFAULT_RATIO = "16:9"
ULTRA_PIXELS = 1024 * 1024
MAX_PIXELS = 2 * ULTRA_PIXELS
"""A ratio such as 1777:1000 is exact up to this size, and approximate beyond it."""
DEFAULT_STRENGTH = 0.4
CACHED_PICTURES = 12
THREADS = 2


@dataclass(frozen=True)
class Scene:
    """What to render.

    Attributes:
        model: Changes the scene, and is written on it.
        prompt: Chooses the colours, and is written on it.
        width: In pixels.
        height: In pixels.
        seed: The seed of the request, or the one chosen for it.
        image_prompt: The bytes of an image to blend in, or None.
        strength: The image prompt's share, 0 to 1.
        captioned: Whether the prompt is written on it; the original has no caption.
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
    def from_request(
        cls, body: Mapping[str, object], seed: int, image_prompt: bytes | None, captioned: bool
    ) -> "Scene":
        """Return the scene of a valid request."""
        strength = body.get("image_prompt_strength")
        return cls(
            str(body["model"]),
            str(body["prompt"]),
            *size_of(body),
            seed=seed,
            image_prompt=image_prompt,
            strength=float(strength) if isinstance(strength, int | float) else DEFAULT_STRENGTH,
            captioned=captioned,
        )


def size_of(body: Mapping[str, object]) -> tuple[int, int]:
    """Return the width and height in pixels of a valid request."""
    width, height = body.get("width"), body.get("height")
    if body["model"] == ULTRA and ("aspect_ratio" in body or width is height is None):
        across, down = map(int, str(body.get("aspect_ratio", DEFAULT_RATIO)).split(":"))
        return _size_for_ratio(across, down)
    return (
        width if isinstance(width, int) else DEFAULT_SIZE[0],
        height if isinstance(height, int) else DEFAULT_SIZE[1],
    )


def _size_for_ratio(across: int, down: int) -> tuple[int, int]:
    """Return about a megapixel in this ratio, exact if whole pixels allow it."""
    divisor = math.gcd(across, down)
    across, down = across // divisor, down // divisor
    if across * down <= MAX_PIXELS:
        times = max(1, round(math.sqrt(ULTRA_PIXELS / (across * down))))
        return across * times, down * times
    height = round(math.sqrt(ULTRA_PIXELS * down / across))
    return round(height * across / down), height


def render(scene: Scene, image_format: str) -> bytes:
    """Return the picture's bytes in one of Pillow's formats."""
    chance = random_for(scene.model, scene.prompt, scene.width, scene.height, scene.seed)
    picture = landscape(scene.width, scene.height, palette_for(scene.prompt, chance), chance)
    if scene.image_prompt is not None:
        picture = _blended(picture, scene.image_prompt, scene.strength)
    if scene.captioned:
        seed = str(scene.seed)
        seed = seed if len(seed) <= 24 else f"{seed[:22]}…"
        details = f"{scene.model}  ·  {scene.width} x {scene.height}  ·  seed {seed}"
        caption.draw_caption(picture, scene.prompt, details)
    caption.draw_tag(picture)
    file = io.BytesIO()
    if image_format == "GIF":
        picture = picture.quantize(128)
    options = {"PNG": {"compress_level": 4}, "JPEG": {"quality": 90}, "WEBP": {"quality": 90}}
    picture.save(file, image_format, **options.get(image_format, {}))
    return file.getvalue()


def _blended(picture: Image.Image, image_prompt: bytes, strength: float) -> Image.Image:
    """Return the picture with an image, cropped to its size, blended in."""
    try:
        with Image.open(io.BytesIO(image_prompt), formats=("PNG", "JPEG", "WEBP")) as opened:
            longest = 2 * max(picture.size)
            opened.thumbnail((longest, longest))  # first, so that no other step copies a large image
            image = ImageOps.exif_transpose(opened).convert("RGBA")
    except Exception:  # a damaged file makes Pillow raise almost anything
        return picture
    image = ImageOps.fit(image, picture.size, Image.Resampling.BILINEAR)
    over = picture.copy()
    over.paste(image, mask=image)
    return Image.blend(picture, over, strength**0.7)  # the exponent makes a strength of 0.1 visible


class Renderer:
    """Renders pictures in threads and keeps the newest; for one event loop."""

    def __init__(self, image_prompt_of: Callable[[Submission], Awaitable[bytes | None]]) -> None:
        self._image_prompt_of = image_prompt_of
        self._threads = ThreadPoolExecutor(THREADS, "sandbox-picture")
        self._pictures: Recent[tuple[str, bool, str], asyncio.Task[bytes]] = Recent(CACHED_PICTURES)

    def close(self) -> None:
        """Start no more pictures."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def picture(self, submission: Submission, original: bool, image_format: str) -> bytes:
        """Return a task's picture in one of Pillow's formats: with the caption, or the original."""
        key = (submission.task_id, original, image_format)
        if key not in self._pictures or (self._pictures[key].done() and self._pictures[key].exception()):
            self._pictures[key] = asyncio.ensure_future(self._render(submission, original, image_format))
        return await asyncio.shield(self._pictures[key])

    async def _render(self, submission: Submission, original: bool, image_format: str) -> bytes:
        image_prompt = await self._image_prompt_of(submission)
        scene = Scene.from_request(submission.body, submission.seed, image_prompt, captioned=not original)
        return await asyncio.get_running_loop().run_in_executor(self._threads, render, scene, image_format)
