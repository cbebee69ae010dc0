"""Decoding pictures with Pillow, which is not among the core dependencies: importing this module needs it."""

import io
import warnings
from pathlib import Path

from PIL import Image, ImageOps

from flux_cli.errors import LocalFileError
from flux_cli.pictures.formats import KNOWN_TYPES

_FORMATS = [kind.mime.removeprefix("image/").upper() for kind in KNOWN_TYPES]
"""Named, since for some others Pillow would start Ghostscript."""


def decoded(path: Path) -> Image.Image:
    """Return a picture, upright and in RGB.

    Raises:
        LocalFileError: The file cannot be read, is no picture that Pillow knows, is cut short, or has more than
            178 million pixels.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise LocalFileError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a large picture that is decoded all the same
            with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
                return ImageOps.exif_transpose(image).convert("RGB")
    except Exception as error:  # decoders raise what they like: OSError, SyntaxError, struct.error and more
        raise LocalFileError(f"{path} is not a picture that can be shown: {error}") from error
