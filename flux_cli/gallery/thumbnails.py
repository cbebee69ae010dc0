"""Thumbnails to embed in the page. Importing this module needs Pillow."""

import base64
import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from flux_cli.errors import LocalFileError
from flux_cli.gallery.collection import Thumbnail
from flux_cli.pictures.decoding import decode

BOX = (480, 360)
"""The largest thumbnail, in pixels: sharp in the page's cards at two pixels per CSS pixel."""
QUALITY = 55
"""WebP's, 0 to 100."""


def thumbnails(paths: Sequence[Path]) -> Iterator[Thumbnail | None]:
    """Yield each picture's thumbnail, in order; None for a file that cannot be decoded.

    Pillow releases the GIL while it works, so threads can use all processors. To limit memory, `decode` decodes
    large pictures one at a time.
    """
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        yield from pool.map(_thumbnail, paths)


def _thumbnail(path: Path) -> Thumbnail | None:
    try:
        picture = decode(path, 2 * max(BOX))
    except LocalFileError:
        return None
    image = picture.image
    image.thumbnail(BOX, Image.Resampling.HAMMING)  # 5 ms per megapixel; the default, bicubic, takes 12
    file = io.BytesIO()
    image.save(file, "WEBP", quality=QUALITY, method=2)
    url = f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
    return Thumbnail(url, picture.width, picture.height)
