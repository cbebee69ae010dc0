"""The landscape of a picture: sky, sun and ridges, in colours chosen by the prompt's words."""

import hashlib
import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageDraw

Colour = tuple[int, int, int]

SCALE = 2
"""Shapes are drawn at this scale and reduced, which smooths their edges at less cost than masks."""
BANDS, STEPS, OCTAVES = 14, 96, 4
"""A ridge's bands, the lines of a band's edge, and the sine waves that it is the sum of."""
DARK = 110
"""A sky has stars if red, green and blue of its top colour add up to less."""


@dataclass(frozen=True)
class Palette:
    """A scene's colours: the sky from top to horizon, the sun, the ridges from far to near; and its words."""

    sky: tuple[str, str, str]
    sun: str
    ridges: tuple[str, str, str]
    words: frozenset[str]


def _palette(colours: str, words: str) -> Palette:
    top, middle, horizon, sun, far, between, near = colours.split()
    return Palette((top, middle, horizon), sun, (far, between, near), frozenset(words.split()))


_TABLE = """\
#1f4e79 #f2b04a #ffe3a1 #fff6d8 #f0b43c #9c7a1e #2f3d1c
    sunflower gold field wheat honey summer lemon yellow sun
#2b1b4d #c2477f #ffb27a #ffe9c9 #c4566f #6b2d5c #1d1233
    sunset dusk evening dream purple violet love magic
#0d2b45 #3b7ea1 #cfe8e5 #ffffff #5fa3b5 #1f5f7a #08202f
    ocean sea wave water river lake blue fish ship rain whale lighthouse
#dbe9d8 #b9d3b0 #f4f1d0 #fffdf0 #8fb48a #3f7355 #12302a
    forest tree green leaf jungle garden mountain spring fox meadow
#05081c #1b2a5c #5b6fae #f4f0da #3c4f8f #1c2857 #060a1d
    night moon star space galaxy city dark robot cyber midnight
#7d9cc0 #c9d9ea #f7f4f0 #ffffff #bdd0e2 #7897b8 #2f4763
    winter snow ice frost arctic glass white cloud fog
#5a1a1a #d9622b #ffc46b #fff0c4 #d9753a #8c2f22 #2a0e12
    fire desert lava autumn red orange dragon dune mars volcano
#f6c1c7 #f9d9cf #fff3e4 #ffffff #ee9fb0 #b9617f #56304f
    rose flower blossom pink cherry portrait girl cat cake candy
#041f2b #0b6b6b #8ff0c0 #eafff4 #2fae93 #13595c #041c26
    aurora north neon teal emerald turquoise crystal
#3a3a44 #8d8b90 #e8e2d6 #ffffff #9a958f #55525a #1b1a20
    ink paper sketch mono black grey stone marble street old photo
""".splitlines()
PALETTES = [_palette(colours, words) for colours, words in zip(_TABLE[::2], _TABLE[1::2], strict=True)]


def palette_for(prompt: str, rng: random.Random) -> Palette:
    """Return the palette with most of the prompt's words, or a random one of the best."""
    words = {word.removesuffix("s") for word in re.findall(r"[a-z]+", prompt.lower())}
    scores = [len(words & palette.words) for palette in PALETTES]
    best = max(scores)
    return rng.choice([palette for palette, score in zip(PALETTES, scores, strict=True) if score == best])


def random_for(*parts: object) -> random.Random:
    """Return a random number generator that depends only on the parts."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode(errors="surrogatepass")).digest()
    return random.Random(int.from_bytes(digest, "big"))  # noqa: S311 - not a secret


def landscape(width: int, height: int, palette: Palette, rng: random.Random) -> Image.Image:
    """Return a landscape of this size."""
    horizon = rng.uniform(0.34, 0.5)
    large = _sky(width * SCALE, height * SCALE, palette, horizon, rng)
    pen = ImageDraw.Draw(large)
    layers = rng.choice((4, 5, 6))
    for layer in range(layers):
        depth = layer / (layers - 1)
        _draw_ridge(pen, large.size, depth, horizon, layers, palette, rng)
    return _shaded(large.reduce(SCALE), rng)


def _sky(width: int, height: int, palette: Palette, horizon: float, rng: random.Random) -> Image.Image:
    """Return a sky with a sun and its glow."""
    rows = 64
    column = Image.new("RGB", (1, rows))
    for row in range(rows):
        column.putpixel((0, row), ramp(palette.sky, min(1.0, row / rows / (horizon + 0.1))))
    sky = column.resize((1, height), Image.Resampling.BICUBIC).resize((width, height), Image.Resampling.NEAREST)
    sun = rgb(palette.sun)
    if sum(rgb(palette.sky[0])) < DARK:
        _draw_stars(sky, int(height * horizon), rng)
    across, size = rng.uniform(0.15, 0.72), min(width, height)
    up = rng.uniform(0.35, 0.8) * horizon
    x, y = int(across * width), int(up * height)
    glow = Image.radial_gradient("L").point([int(170 * max(0.0, 1 - v / 180) ** 2) for v in range(256)])
    reach = int(size * rng.uniform(1.1, 1.4))
    halo = mix(sun, rgb(palette.sky[1]), 0.3)
    sky.paste(halo, (x - reach // 2, y - reach // 2), glow.resize((reach, reach), Image.Resampling.BILINEAR))
    radius = int(size * rng.uniform(0.05, 0.085))
    ImageDraw.Draw(sky).ellipse((x - radius, y - radius, x + radius, y + radius), fill=sun)
    return sky


def _draw_stars(sky: Image.Image, floor: int, rng: random.Random) -> None:
    """Draw stars above `floor`, fewer and fainter towards it."""
    pen, unit = ImageDraw.Draw(sky), max(1, min(sky.size) // 700)
    for _ in range(90):
        x, down = rng.randrange(sky.width), rng.random() ** 1.5
        bright = int(225 - 130 * down)
        radius = unit * rng.choice((0.5, 0.5, 1, 1.6))
        y = down * floor
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(bright, bright, min(255, bright + 20)))


def _draw_ridge(
    pen: ImageDraw.ImageDraw,
    size: tuple[int, int],
    depth: float,
    horizon: float,
    layers: int,
    palette: Palette,
    rng: random.Random,
) -> None:
    """Draw a ridge as bands from its crest down, each a little darker; `depth` is 0 (far) to 1 (near)."""
    width, height = size
    base = height * (horizon + (1.02 - horizon) * depth * 0.82)
    swing = height * (0.03 + 0.075 * depth) * rng.uniform(0.75, 1.25)
    waves = [
        (swing * 0.6**octave, math.tau * rng.uniform(0.7, 1.3) * 1.8**octave, rng.uniform(0, math.tau))
        for octave in range(OCTAVES)
    ]
    colour = ramp(palette.ridges, depth)
    haze = rgb(palette.sky[2])
    crest = mix(mix(colour, haze, 0.55 * (1 - depth)), (255, 255, 255), 0.16)
    foot = mix(colour, haze, 0.35 * (1 - depth) ** 2)
    foot = mix(foot, (0, 0, 0), 0.2 * depth)
    fall = height * (1.15 - horizon) / layers * (0.9 + depth)
    drift = rng.uniform(-1.2, 1.2)
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


def _shaded(picture: Image.Image, rng: random.Random) -> Image.Image:
    """Return the picture with light from one side and darker corners."""
    across, tiny = rng.uniform(0.2, 0.8), 24
    light = Image.new("L", (tiny, tiny))
    for x in range(tiny):
        for y in range(tiny):
            u, v = x / (tiny - 1), y / (tiny - 1)
            from_light = math.hypot(u - across, 0.8 * (v - 0.3))
            light.putpixel((x, y), int(158 - 75 * min(1.0, from_light)))
    shade = light.resize(picture.size, Image.Resampling.BICUBIC)
    return ImageChops.soft_light(picture, Image.merge("RGB", (shade,) * 3))


def ramp(stops: Sequence[str], t: float) -> Colour:
    """Return the colour at `t` (0 to 1) of a gradient with evenly spaced stops."""
    position = max(0.0, min(1.0, t)) * (len(stops) - 1)
    index = min(int(position), len(stops) - 2)
    return mix(rgb(stops[index]), rgb(stops[index + 1]), position - index)


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """Return a mixture of two colours: `share` 0 is the first, 1 the second."""
    return (
        round(one[0] + (other[0] - one[0]) * share),
        round(one[1] + (other[1] - one[1]) * share),
        round(one[2] + (other[2] - one[2]) * share),
    )


def rgb(text: str) -> Colour:
    """Return the colour of `#rrggbb`."""
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)
