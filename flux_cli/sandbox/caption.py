"""The text on a picture: the prompt, the request's details, and the tag SANDBOX."""

import unicodedata
from bisect import bisect_right
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

MAX_LINES = 3
MAX_CHARACTERS = 400
"""A longer text never fits, so it is not measured."""
SMALLEST = 11
SYSTEM_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-zenhei.ttc",
    "Arial Unicode.ttf",
    "PingFang.ttc",
    "segoeui.ttf",
    "msyh.ttc",
)
"""Used only if Pillow's own font, which has little beyond ASCII, lacks a letter of the prompt."""
TAG = "SANDBOX"
_INVISIBLE = ("Cc", "Cf", "Cs", "Co", "Cn", "Mn", "Me")


def draw_caption(picture: Image.Image, prompt: str, details: str) -> None:
    """Draw the prompt and the details at the bottom of a picture."""
    width, height = picture.size
    margin = max(10, min(width, height) // 22)
    size = max(SMALLEST + 2, round(min(width, height) ** 0.6 * 0.5 + min(width, height) / 110))
    small = max(SMALLEST, round(size * 0.54))
    text, font = _displayable(prompt, size)
    lines = _wrapped(text, font, width - 2 * margin)
    step = round(size * 1.3)
    top = height - margin - round(small * 1.5) - len(lines) * step
    _darken(picture, max(0, top - round(step * 1.6)))
    pen = ImageDraw.Draw(picture, "RGBA")
    for index, line in enumerate(lines):
        _draw_text(pen, (margin, top + index * step), line, font, 255)
    detail_font = _font(small)
    detail = _shortened(details, detail_font, width - 2 * margin)
    _draw_text(pen, (margin, height - margin - small), detail, detail_font, 205)


def draw_tag(picture: Image.Image) -> None:
    """Draw the tag in the upper right corner."""
    width, height = picture.size
    margin = max(10, min(width, height) // 22)
    size = max(SMALLEST, round(min(width, height) / 48))
    font, pen = _font(size), ImageDraw.Draw(picture, "RGBA")
    gap = size * 0.28
    widths = [font.getlength(letter) for letter in TAG]
    padding = size * 0.8
    left = width - margin - sum(widths) - gap * (len(TAG) - 1) - 2 * padding
    box = (left, margin, width - margin, margin + size * 2.1)
    pen.rounded_rectangle(box, radius=size * 1.05, fill=(10, 12, 24, 120), outline=(255, 255, 255, 150))
    x = left + padding
    for letter, letter_width in zip(TAG, widths, strict=True):
        pen.text((x, margin + size * 1.05), letter, font=font, fill=(255, 255, 255, 240), anchor="lm")
        x += letter_width + gap


def _darken(picture: Image.Image, top: int) -> None:
    """Darken the picture from `top` downwards, so that white text is legible on it."""
    fade = Image.linear_gradient("L").point([int(205 * (v / 255) ** 0.8) for v in range(256)])
    fade = fade.resize((picture.width, picture.height - top), Image.Resampling.BILINEAR)
    picture.paste((8, 10, 20), (0, top), fade)


def _draw_text(pen: ImageDraw.ImageDraw, at: tuple[int, int], line: str, font: Font, strength: int) -> None:
    pen.text((at[0] + 1, at[1] + 1), line, font=font, fill=(0, 0, 0, strength // 3))
    pen.text(at, line, font=font, fill=(255, 255, 255, strength))


def _wrapped(text: str, font: Font, width: int) -> list[str]:
    """Return the text in at most three lines of at most `width` pixels, the last one shortened if necessary."""
    lines: list[str] = []
    rest = text
    while rest and len(lines) < MAX_LINES - 1 and font.getlength(rest) > width:
        cut = _fitting(rest, font, width)
        space = rest.rfind(" ", 1, cut + 1)
        cut = space if space > cut // 2 else cut
        lines.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
    return [*lines, _shortened(rest, font, width)] if rest else lines


def _shortened(text: str, font: Font, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    return text[: _fitting(text, font, width - font.getlength("…"))].rstrip(" ,.;:") + "…"


def _fitting(text: str, font: Font, width: float) -> int:
    """Return how many leading characters fit into `width` pixels; at least one."""
    counts = range(1, len(text) + 1)
    return max(1, bisect_right(counts, width, key=lambda count: font.getlength(text[:count])))


def _displayable(prompt: str, size: int) -> tuple[str, Font]:
    """Return the prompt as far as a font of this machine can display it, and that font."""
    text = " ".join(prompt[: 2 * MAX_CHARACTERS].split())[:MAX_CHARACTERS]
    own = _font(size)
    if all(_has(own, character) for character in set(text)):
        return text, own
    fonts = [own, *(font for name in SYSTEM_FONTS if (font := _system_font(name, size)))]
    best = min(fonts, key=lambda font: sum(not _has(font, character) for character in text))
    shown = "".join(character if _has(best, character) else _substitute(character, best) for character in text)
    return " ".join(shown.split()) or TAG.lower(), best


def _substitute(character: str, font: Font) -> str:
    """Return a substitute for a character that a font lacks: its base letter, its name, or a box."""
    category = unicodedata.category(character)
    if category in _INVISIBLE:
        return ""
    if base := "".join(c for c in unicodedata.normalize("NFKD", character) if _has(font, c)):
        return base
    if category.startswith("S"):
        return f" ({unicodedata.name(character, 'symbol').lower()}) "
    return "\u25a1" if _has(font, "\u25a1") else "\ufffd"


@lru_cache(maxsize=64)
def _font(size: int) -> Font:
    return ImageFont.load_default(size)


@lru_cache(maxsize=64)
def _system_font(name: str, size: int) -> Font | None:
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


@lru_cache(maxsize=4096)
def _has(font: Font, character: str) -> bool:
    """Return whether a font has a glyph for a character: one that differs from that of a noncharacter."""
    if character == " ":
        return True
    if unicodedata.category(character) in _INVISIBLE:
        return False
    return bytes(font.getmask(character)) != bytes(font.getmask("\uffff"))
