"""The landscape of a picture: a sky, a sun, and ridges that flow, in colours that the prompt's words suggest."""

import hashlib
import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageDraw

Colour = tuple[int, int, int]

SCALE = 2
"""Shapes are drawn this much larger and reduced, which smooths their edges: cheaper than masks for each."""


BANDS, STEPS, OCTAVES = 14, 96, 4
"""How many bands a ridge is drawn with, lines each band's edge, and sine waves it is the sum of."""
DARK = 110
"""A sky whose top has no more red, green and blue together than this shows stars."""


@dataclass(frozen=True)
class Palette:
    """Colours of a scene: the sky from top to horizon, the sun, and the ridges from far to near."""

    sky: tuple[str, str, str]
    sun: str
    ridges: tuple[str, str, str]
    words: str


PALETTES = (
    Palette(
        sky=("#1f4e79", "#f2b04a", "#ffe3a1"),
        sun="#fff6d8",
        ridges=("#f0b43c", "#9c7a1e", "#2f3d1c"),
        words="sunflower gold field wheat honey summer lemon yellow sun",
    ),
    Palette(
        sky=("#2b1b4d", "#c2477f", "#ffb27a"),
        sun="#ffe9c9",
        ridges=("#c4566f", "#6b2d5c", "#1d1233"),
        words="sunset dusk evening dream purple violet love magic",
    ),
    Palette(
        sky=("#0d2b45", "#3b7ea1", "#cfe8e5"),
        sun="#ffffff",
        ridges=("#5fa3b5", "#1f5f7a", "#08202f"),
        words="ocean sea wave water river lake blue fish ship rain whale lighthouse",
    ),
    Palette(
        sky=("#dbe9d8", "#b9d3b0", "#f4f1d0"),
        sun="#fffdf0",
        ridges=("#8fb48a", "#3f7355", "#12302a"),
        words="forest tree green leaf jungle garden mountain spring fox meadow",
    ),
    Palette(
        sky=("#05081c", "#1b2a5c", "#5b6fae"),
        sun="#f4f0da",
        ridges=("#3c4f8f", "#1c2857", "#060a1d"),
        words="night moon star space galaxy city dark robot cyber midnight",
    ),
    Palette(
        sky=("#7d9cc0", "#c9d9ea", "#f7f4f0"),
        sun="#ffffff",
        ridges=("#bdd0e2", "#7897b8", "#2f4763"),
        words="winter snow ice frost arctic glass white cloud fog",
    ),
    Palette(
        sky=("#5a1a1a", "#d9622b", "#ffc46b"),
        sun="#fff0c4",
        ridges=("#d9753a", "#8c2f22", "#2a0e12"),
        words="fire desert lava autumn red orange dragon dune mars volcano",
    ),
    Palette(
        sky=("#f6c1c7", "#f9d9cf", "#fff3e4"),
        sun="#ffffff",
        ridges=("#ee9fb0", "#b9617f", "#56304f"),
        words="rose flower blossom pink cherry portrait girl cat cake candy",
    ),
    Palette(
        sky=("#041f2b", "#0b6b6b", "#8ff0c0"),
        sun="#eafff4",
        ridges=("#2fae93", "#13595c", "#041c26"),
        words="aurora north neon teal emerald turquoise crystal",
    ),
    Palette(
        sky=("#3a3a44", "#8d8b90", "#e8e2d6"),
        sun="#ffffff",
        ridges=("#9a958f", "#55525a", "#1b1a20"),
        words="ink paper sketch mono black grey stone marble street old photo",
    ),
)


def palette_for(prompt: str, chance: random.Random) -> Palette:
    """Return the palette that most of the prompt's words belong to; without any, one by chance."""
    words = {word.removesuffix("s") for word in re.findall(r"[a-z]+", prompt.lower())}
    scores = [len(words & set(palette.words.split())) for palette in PALETTES]
    best = max(scores)
    return chance.choice([palette for palette, score in zip(PALETTES, scores, strict=True) if score == best])


def chance_for(*parts: object) -> random.Random:
    """Return a source of numbers that depends on the parts alone, on every machine."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode(errors="surrogatepass")).digest()
    return random.Random(int.from_bytes(digest, "big"))  # noqa: S311 - chance for a picture


def paint(width: int, height: int, palette: Palette, chance: random.Random) -> Image.Image:
    """Return a landscape of exactly this size."""
    horizon = chance.uniform(0.34, 0.5)
    large = _sky(width * SCALE, height * SCALE, palette, horizon, chance)
    pen = ImageDraw.Draw(large)
    layers = chance.choice((4, 5, 6))
    for layer in range(layers):
        depth = layer / (layers - 1)
        _ridge(pen, large.size, depth, horizon, layers, palette, chance)
    return _lit(large.reduce(SCALE), chance)


def _sky(width: int, height: int, palette: Palette, horizon: float, chance: random.Random) -> Image.Image:
    """Return a sky with its sun and the glow around it."""
    rows = 64
    column = Image.new("RGB", (1, rows))
    for row in range(rows):
        column.putpixel((0, row), ramp(palette.sky, min(1.0, row / rows / (horizon + 0.1))))
    sky = column.resize((1, height), Image.Resampling.BICUBIC).resize((width, height), Image.Resampling.NEAREST)
    sun = rgb(palette.sun)
    if sum(rgb(palette.sky[0])) < DARK:
        _stars(sky, int(height * horizon), chance)
    across, size = chance.uniform(0.15, 0.72), min(width, height)
    up = chance.uniform(0.35, 0.8) * horizon
    x, y = int(across * width), int(up * height)
    glow = Image.radial_gradient("L").point([int(170 * max(0.0, 1 - v / 180) ** 2) for v in range(256)])
    reach = int(size * chance.uniform(1.1, 1.4))
    halo = mix(sun, rgb(palette.sky[1]), 0.3)
    sky.paste(halo, (x - reach // 2, y - reach // 2), glow.resize((reach, reach), Image.Resampling.BILINEAR))
    radius = int(size * chance.uniform(0.05, 0.085))
    ImageDraw.Draw(sky).ellipse((x - radius, y - radius, x + radius, y + radius), fill=sun)
    return sky


def _stars(sky: Image.Image, floor: int, chance: random.Random) -> None:
    """Scatter stars above `floor`, the fewer and fainter the lower."""
    pen, unit = ImageDraw.Draw(sky), max(1, min(sky.size) // 700)
    for _ in range(90):
        x, down = chance.randrange(sky.width), chance.random() ** 1.5
        bright = int(225 - 130 * down)
        radius = unit * chance.choice((0.5, 0.5, 1, 1.6))
        y = down * floor
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(bright, bright, min(255, bright + 20)))


def _ridge(
    pen: ImageDraw.ImageDraw,
    size: tuple[int, int],
    depth: float,
    horizon: float,
    layers: int,
    palette: Palette,
    chance: random.Random,
) -> None:
    """Draw a ridge as bands from its crest down, each a little darker: the nearer, the bolder."""
    width, height = size
    base = height * (horizon + (1.02 - horizon) * depth * 0.82)
    swing = height * (0.03 + 0.075 * depth) * chance.uniform(0.75, 1.25)
    waves = [
        (swing * 0.6**octave, math.tau * chance.uniform(0.7, 1.3) * 1.8**octave, chance.uniform(0, math.tau))
        for octave in range(OCTAVES)
    ]
    colour = ramp(palette.ridges, depth)
    haze = rgb(palette.sky[2])
    crest = mix(mix(colour, haze, 0.55 * (1 - depth)), (255, 255, 255), 0.16)
    foot = mix(colour, haze, 0.35 * (1 - depth) ** 2)
    foot = mix(foot, (0, 0, 0), 0.2 * depth)
    fall = height * (1.15 - horizon) / layers * (0.9 + depth)
    drift = chance.uniform(-1.2, 1.2)
    lowest = 2.2 * sum(amplitude for amplitude, _, _ in waves) + fall / 4
    for band in range(BANDS):
        t = band / (BANDS - 1)
        top = base + fall * t**1.25
        bottom = float(height) if band == BANDS - 1 else min(float(height), top + lowest)
        outline = [0.0, bottom, float(width), bottom]
        for step in range(STEPS, -1, -1):
            u = step / STEPS
            y = top
            for amplitude, frequency, phase in waves:
                y += amplitude * (1 - 0.45 * t) * math.sin(frequency * u + phase + drift * t)
            outline += (u * width, y)
        pen.polygon(outline, fill=mix(crest, foot, t**0.7))


def _lit(picture: Image.Image, chance: random.Random) -> Image.Image:
    """Return the picture under uneven light: a soft sheen from one side, and corners that fall back."""
    across, tiny = chance.uniform(0.2, 0.8), 24
    light = Image.new("L", (tiny, tiny))
    for x in range(tiny):
        for y in range(tiny):
            u, v = x / (tiny - 1), y / (tiny - 1)
            from_light = math.hypot(u - across, 0.8 * (v - 0.3))
            light.putpixel((x, y), int(158 - 75 * min(1.0, from_light)))
    shade = light.resize(picture.size, Image.Resampling.BICUBIC)
    return ImageChops.soft_light(picture, Image.merge("RGB", (shade,) * 3))


def ramp(stops: Sequence[str], t: float) -> Colour:
    """Return the colour at `t` (0 to 1) along evenly spaced stops."""
    position = max(0.0, min(1.0, t)) * (len(stops) - 1)
    index = min(int(position), len(stops) - 2)
    return mix(rgb(stops[index]), rgb(stops[index + 1]), position - index)


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """Return a colour between two: `share` 0 is the one, 1 the other."""
    return (
        round(one[0] + (other[0] - one[0]) * share),
        round(one[1] + (other[1] - one[1]) * share),
        round(one[2] + (other[2] - one[2]) * share),
    )


def rgb(text: str) -> Colour:
    """Return the colour of `#rrggbb`."""
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)
