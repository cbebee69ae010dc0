"""The sandbox's pictures: their size, how they follow the request, and that they never change."""

import io
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageStat

from flux_cli.sandbox.render import render, size_of
from tests.sandbox.conftest import Api, exchange

ULTRA = "flux-pro-1.1-ultra"


def opened(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def rendered(seed: int = 1, image_prompt: bytes | None = None, captioned: bool = True, **body: object) -> bytes:
    """Render the picture of a request: small, unless it says otherwise."""
    request = {"model": "flux-pro", "prompt": "x", "width": 256, "height": 256, **body}
    return render(request, seed, image_prompt, captioned=captioned, image_format="PNG")


def solid(colour: str, size: tuple[int, int] = (64, 48)) -> bytes:
    file = io.BytesIO()
    Image.new("RGBA", size, colour).save(file, "PNG")
    return file.getvalue()


def distance(one: bytes, other: bytes) -> float:
    """Return the average difference of two pictures of one size, 0 to 255."""
    difference = ImageChops.difference(opened(one).convert("RGB"), opened(other).convert("RGB"))
    return sum(ImageStat.Stat(difference).mean) / 3


SIZES: list[tuple[dict[str, object], tuple[int, int]]] = [
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
def test_size(fields: dict[str, object], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flux_cli.sandbox.render.DEFAULT_SIZE", (1024, 768))
    monkeypatch.setattr("flux_cli.sandbox.render.ULTRA_PIXELS", 1024 * 1024)
    assert size_of({"model": "flux-pro", **fields}) == size


@given(st.integers(1, 9999), st.integers(1, 9999))
def test_any_aspect_ratio(across: int, down: int) -> None:
    if not 9 / 21 <= across / down <= 21 / 9:
        return
    width, height = size_of({"model": ULTRA, "aspect_ratio": f"{across}:{down}"})
    assert abs(width / height - across / down) < 0.02
    assert width * height < 2.2e6


def test_the_same_request_and_seed_give_the_same_bytes(shared: Api) -> None:
    first = rendered(7, prompt="a kite", width=300)
    for _ in range(2):
        task = shared.finished("a kite", seed=7, width=300)
        assert exchange("GET", task["image_url"]).body == first
        assert opened(exchange("GET", task["original_image_url"]).body).size == opened(first).size == (300, 256)
    for other in ({"seed": 8}, {"model": "flux-dev"}, {"prompt": "fox"}):
        request: dict[str, Any] = {"seed": 7, "prompt": "a kite", "width": 300, **other}
        assert distance(rendered(**request), first) > 1


def test_another_process_renders_the_same_bytes() -> None:
    """Nothing depends on hash seeds, time or addresses."""
    code = (
        "import sys; from flux_cli.sandbox.render import render;"
        "body = {'model': 'flux-pro', 'prompt': 'x', 'width': 256, 'height': 256};"
        "sys.stdout.buffer.write(render(body, 1, None, captioned=True, image_format='PNG'))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout == rendered()


def test_without_a_seed_each_task_has_its_own(shared: Api) -> None:
    tasks = [shared.finished("a kite") for _ in range(2)]
    bodies = [exchange("GET", task["image_url"]).body for task in tasks for _ in range(2)]
    assert bodies[0] == bodies[1] != bodies[2] == bodies[3]


def test_the_caption_is_at_the_bottom_and_not_on_the_original() -> None:
    """Long prompts take up to three lines, within the lower half."""
    for prompt in ("x", "word " * 300):
        with_caption, without = opened(rendered(prompt=prompt)), opened(rendered(prompt=prompt, captioned=False))
        box = ImageChops.difference(with_caption, without).getbbox()
        assert box is not None
        assert box[1] > without.height * 0.4


def test_an_image_prompt_is_blended_in_by_its_strength() -> None:
    """At 0 only the scene shows, at 1 only the image, and even 0.1 is visible."""
    scene, red = rendered(captioned=False), solid("#ff0000", size=(256, 256))
    steps = [rendered(captioned=False, image_prompt=red, image_prompt_strength=s) for s in (0, 0.1, 0.5, 0.9, 1)]
    to_scene, to_red = [distance(step, scene) for step in steps], [distance(step, red) for step in steps]
    assert to_scene == sorted(to_scene)
    assert to_red == sorted(to_red, reverse=True)
    assert to_scene[0] == 0
    assert to_scene[1] > 10
    assert to_red[4] < 15, "nothing but the tag"


def test_odd_image_prompts() -> None:
    scene = rendered(captioned=False)
    assert distance(rendered(captioned=False, image_prompt=solid("#ff000000")), scene) == 0
    assert rendered(captioned=False, image_prompt=solid("red")[:60]) == scene


@pytest.mark.parametrize(
    "prompt",
    [
        "a 🌻 in the wind, 向日葵 — Žluťoučký кот مرحبا 🐈\u200d⬛",
        "🌻" * 500,
        "\x1b[31m\x00\x07\x9b\u202egnp \ud800\udfff \u0301\u0301\u200b\u2060",
        "w" * 5000,
        "a\tb\nc\r\nd [bold]x[/bold] [/foo] %s {0}",
    ],
    ids=["many scripts", "emoji", "controls", "one long word", "spaces and markup"],
)
def test_any_prompt_has_a_caption(prompt: str) -> None:
    assert opened(rendered(prompt=prompt)).size == (256, 256)


@settings(max_examples=15)
@given(prompt=st.text(min_size=1, max_size=60), seed=st.integers(), width=st.integers(256, 400))
def test_any_request_is_rendered(prompt: str, seed: int, width: int) -> None:
    assert opened(rendered(prompt=prompt, seed=seed, width=width)).size == (width, 256)
