"""Renders the picture of a request: the same bytes for the same request and seed, on every machine."""

import asyncio
import io
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from PIL import Image, ImageOps

from flux_cli.api.request import ULTRA
from flux_cli.sandbox import caption
from flux_cli.sandbox.recent import Recent
from flux_cli.sandbox.scenery import landscape, palette_for, random_for
from flux_cli.sandbox.store import TaskStore
from flux_cli.sandbox.tasks import Task

DEFAULT_SIZE = (1024, 768)
DEFAULT_RATIO = "16:9"
ULTRA_PIXELS = 1024 * 1024
MAX_PIXELS = 2 * ULTRA_PIXELS
"""A ratio such as 1777:1000 is exact up to this size, and approximate beyond it."""
DEFAULT_STRENGTH = 0.4
CACHED_PICTURES = 12
THREADS = 2


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


def render(
    body: Mapping[str, object], seed: int, image_prompt: bytes | None, *, captioned: bool, image_format: str
) -> bytes:
    """Return the picture of a valid request in one of Pillow's formats; the original is not `captioned`."""
    model, prompt = str(body["model"]), str(body["prompt"])
    width, height = size_of(body)
    chance = random_for(model, prompt, width, height, seed)
    picture = landscape(width, height, palette_for(prompt, chance), chance)
    if image_prompt is not None:
        strength = body.get("image_prompt_strength")
        share = float(strength) if isinstance(strength, int | float) else DEFAULT_STRENGTH
        picture = _blended(picture, image_prompt, share)
    if captioned:
        number = str(seed) if len(str(seed)) <= 24 else f"{str(seed)[:22]}…"
        caption.draw_caption(picture, prompt, f"{model}  ·  {width} x {height}  ·  seed {number}")
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

    def __init__(self, store: TaskStore) -> None:
        self._store = store
        self._threads = ThreadPoolExecutor(THREADS, "sandbox-picture")
        self._pictures: Recent[tuple[str, bool], asyncio.Future[bytes]] = Recent(CACHED_PICTURES)

    def close(self) -> None:
        """Start no more pictures."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def picture(self, task: Task, original: bool, image_format: str) -> bytes:
        """Return a task's picture in one of Pillow's formats: with the caption, or the original."""
        key = (task.task_id, original)
        if key not in self._pictures or (self._pictures[key].done() and self._pictures[key].exception()):
            draw = partial(render, captioned=not original, image_format=image_format)
            self._pictures[key] = asyncio.get_running_loop().run_in_executor(
                self._threads, draw, task.body, task.seed, self._store.image_prompt(task)
            )
        return await asyncio.shield(self._pictures[key])
