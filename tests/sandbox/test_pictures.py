"""The sandbox's pictures: their size, their likeness to the request, and that they are always the same."""

import base64
import io
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageStat

from flux_cli.sandbox.render import Scene, render, size_of
from tests.sandbox.conftest import Api, exchange

ULTRA = "flux-pro-1.1-ultra"


def opened(content: bytes) -> Image.Image:
    """Return the decoded picture."""
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def drawn(seed: int = 1, image_prompt: bytes | None = None, captioned: bool = True, **body: object) -> bytes:
    """Draw the picture of a request."""
    return render(
        Scene.from_request({"model": "flux-pro", "prompt": "x", **body}, seed, image_prompt, captioned), "PNG"
    )


def solid(colour: str, kind: str = "PNG", size: tuple[int, int] = (64, 48)) -> bytes:
    """Return an image of one colour."""
    file = io.BytesIO()
    Image.new("RGBA" if kind == "PNG" else "RGB", size, colour).save(file, kind)
    return file.getvalue()


def distance(one: bytes, other: bytes) -> float:
    """Return how far two pictures of one size are apart on average, 0 to 255."""
    difference = ImageChops.difference(opened(one).convert("RGB"), opened(other).convert("RGB"))
    return sum(ImageStat.Stat(difference).mean) / 3


SIZES: list[tuple[dict[str, object], tuple[int, int]]] = [
    ({}, (1024, 768)),
    ({"width": 256, "height": 256}, (256, 256)),
    ({"width": 1440}, (1440, 768)),
    ({"height": 1440}, (1024, 1440)),
    ({"width": 257, "height": 1439}, (257, 1439)),
    ({"model": ULTRA}, (1360, 765)),
    ({"model": ULTRA, "aspect_ratio": "1:1"}, (1024, 1024)),
    ({"model": ULTRA, "aspect_ratio": "9:16"}, (765, 1360)),
    ({"model": ULTRA, "aspect_ratio": "16:9", "width": 300, "height": 300}, (1360, 765)),
    ({"model": ULTRA, "width": 300, "height": 400}, (300, 400)),
]


@pytest.mark.parametrize(("fields", "size"), SIZES, ids=[str(fields) for fields, _ in SIZES])
def test_a_picture_has_exactly_the_size_that_was_asked_for(
    api: Api, fields: dict[str, object], size: tuple[int, int]
) -> None:
    """Over the wire, both the picture and the original."""
    done = api.finished("x [[slow 0]]", **{"width": None, "height": None, **fields})
    for name in ("image_url", "original_image_url"):
        assert opened(exchange("GET", done[name]).body).size == size


@given(st.integers(1, 9999), st.integers(1, 9999))
def test_any_aspect_ratio_is_kept_as_nearly_as_pixels_allow(across: int, down: int) -> None:
    """At about a megapixel, never at a size that no machine can draw."""
    if not 9 / 21 <= across / down <= 21 / 9:
        return
    width, height = size_of({"model": ULTRA, "aspect_ratio": f"{across}:{down}"})
    assert 0.4e6 < width * height < 2.2e6
    assert abs(width / height - across / down) < 0.003


def test_the_same_request_and_seed_give_the_same_bytes(api: Api) -> None:
    """In two tasks; another seed, prompt or model gives another picture."""
    first = api.picture("a kite [[slow 0]]", seed=7).body
    assert api.picture("a kite [[slow 0]]", seed=7).body == first
    for other in ({"seed": 8}, {"seed": 7, "model": "flux-dev"}):
        assert distance(api.picture("a kite [[slow 0]]", **other).body, first) > 1
    assert distance(api.picture("a fox in the forest [[slow 0]]", seed=7).body, first) > 1


def test_another_process_draws_the_same_bytes() -> None:
    """Nothing depends on Python's own hashes, on the time or on an address."""
    code = (
        "import hashlib; from flux_cli.sandbox.render import *;"
        "wanted = Scene.from_request({'model': 'flux-pro', 'prompt': 'x', 'width': 300}, 5, None, True);"
        "print(hashlib.sha256(render(wanted, 'PNG')).hexdigest())"
    )
    printed = {
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
        for _ in range(2)
    }
    assert len(printed) == 1


def test_without_a_seed_one_is_chosen_once_for_a_task(api: Api) -> None:
    """The same task always shows the same picture; another task of the same request another one."""
    tasks = [api.finished("a kite [[slow 0]]") for _ in range(2)]
    bodies = [exchange("GET", task["image_url"]).body for task in tasks for _ in range(2)]
    assert bodies[0] == bodies[1]
    assert bodies[2] == bodies[3]
    assert bodies[0] != bodies[2]


def test_the_prompt_is_written_on_the_picture_but_not_on_the_original() -> None:
    """They differ at the foot, where the caption stands, and nowhere above the middle."""
    with_words, without = opened(drawn()), opened(drawn(captioned=False))
    difference = ImageChops.difference(with_words, without)
    box = difference.getbbox()
    assert box is not None
    assert box[1] > with_words.height // 2


def test_long_prompts_take_more_lines_but_never_more_than_three() -> None:
    """A caption covers no more than the lower half."""
    without = opened(drawn(prompt="word " * 300, captioned=False))
    box = ImageChops.difference(opened(drawn(prompt="word " * 300)), without).getbbox()
    assert box is not None
    assert box[1] > without.height * 0.45


def test_an_image_prompt_is_blended_in_by_its_strength() -> None:
    """The stronger, the nearer to the image and the farther from the scene; at 1 nothing of the scene is left."""
    scene, red = drawn(captioned=False), solid("#ff0000", size=(1024, 768))
    steps = [drawn(captioned=False, image_prompt=red, image_prompt_strength=s) for s in (0, 0.1, 0.5, 0.9, 1)]
    to_scene, to_red = [distance(step, scene) for step in steps], [distance(step, red) for step in steps]
    assert to_scene == sorted(to_scene)
    assert to_red == sorted(to_red, reverse=True)
    assert to_scene[0] == 0
    assert to_scene[1] > 10, "a strength of 0.1 is to be seen"
    assert to_red[4] < 3, "only the tag stands on it"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_image_prompts_of_every_type_and_shape_are_blended_in(api: Api, kind: str) -> None:
    """Over the wire; a portrait is cropped to the picture's shape."""
    image = base64.b64encode(solid("#00ff00", kind, (100, 900))).decode()
    fields = {"model": ULTRA, "image_prompt": image, "image_prompt_strength": 0.9, "width": None, "height": None}
    picture = opened(api.picture("x [[slow 0]]", **fields).body).convert("RGB")
    red, green, blue = picture.getpixel((picture.width // 2, picture.height // 3))  # type: ignore[misc] # it is RGB
    assert green > 200 > max(red, blue)


def test_a_transparent_or_damaged_image_prompt_spoils_nothing() -> None:
    """Where it shows nothing, the scene stays."""
    scene = drawn(captioned=False)
    assert distance(drawn(captioned=False, image_prompt=solid("#ff000000")), scene) == 0
    assert drawn(captioned=False, image_prompt=solid("red")[:60]) == scene


@pytest.mark.parametrize(
    "prompt",
    [
        "a 🌻 in the wind, 向日葵 — Žluťoučký кот مرحبا 🐈\u200d⬛",
        "🌻" * 500,
        "\x1b[31m\x00\x07\x9b\u202egnp",
        "\ud800\udfff",
        "\u0301\u0301\u200b\u2060",
        "w" * 5000,
        "a\tb\nc\r\nd",
        "[bold]x[/bold] [/foo] %s {0}",
    ],
    ids=["many scripts", "emoji", "controls", "surrogates", "marks", "one long word", "spaces", "markup"],
)
@pytest.mark.parametrize("side", [256, 768])
def test_any_prompt_can_be_written(prompt: str, side: int) -> None:
    """Without glyphs for it, something readable stands for it; nothing crashes."""
    assert opened(drawn(prompt=prompt, width=side, height=side)).size == (side, side)


@settings(max_examples=30, deadline=None)
@given(prompt=st.text(min_size=1, max_size=60), seed=st.integers(), width=st.integers(256, 400))
def test_any_request_can_be_drawn(prompt: str, seed: int, width: int) -> None:
    """Whatever the prompt and however large or negative the seed."""
    assert opened(drawn(prompt=prompt, seed=seed, width=width, height=256)).size == (width, 256)
