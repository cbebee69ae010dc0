"""The sandbox's endpoints: what is accepted, what is rejected, and with which response."""

import base64
import io
import itertools
import uuid

import pytest
from PIL import Image

from tests.sandbox.conftest import KEY, Api, Start, exchange
from tests.server import png_file

UNKNOWN_ID = "64cd7965-1b78-42c8-b929-9d7751a2e149"


def image(kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 160), "red").save(file, kind)
    return file.getvalue()


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def test_submit_fetch_download(api: Api) -> None:
    submitted = api.imagine("a kite")
    assert (submitted.status, list(submitted.json())) == (200, ["task_id"])
    task = api.fetch(submitted.json()["task_id"]).json()
    assert str(uuid.UUID(task["task_id"])) == submitted.json()["task_id"]
    bodies = [exchange("GET", task[name]).body for name in ("image_url", "original_image_url")]
    for body in bodies:
        Image.open(io.BytesIO(body)).load()
    assert bodies[0] != bodies[1]
    assert task["image_url"].startswith(f"{api.service.images_url}/")
    assert exchange("HEAD", task["image_url"]).status == 200


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401), ("", 401), ("   ", 401), ("Bearer", 401), ("Bearer ", 401),
        ("anything", 200), ("Bearer anything", 200), ("bearer anything", 200), ("key with spaces", 200),
        ("afk_0123456789", 400), ("Bearer afk_0123456789", 400),
    ],
)  # fmt: skip
def test_keys(shared: Api, header: str | None, status: int) -> None:
    """Any key is valid, raw or after `Bearer`, except one of the service's other API."""
    headers = {} if header is None else {"Authorization": header}
    response = exchange("GET", f"{shared.service.url}/account", headers=headers)
    assert response.status == status
    assert status == 200 or ("afk_" in response.reasons[0] if status == 400 else response.json() == {})


def test_a_single_valid_key(start: Start) -> None:
    api = start(key="right")
    paths = ("/flux-imagine", "/fetch", "/fetch-many", "/account", "/nothing")
    for path, wrong in itertools.product(paths, ("wrong", "Bearer wrong", "rightx", "r\xefght")):
        assert exchange("POST", api.service.url + path, b"{}", {"Authorization": wrong}).status == 401
    for valid in ("right", "Bearer right"):
        assert exchange("GET", f"{api.service.url}/account", headers={"Authorization": valid}).status == 200


REJECTED: list[tuple[dict[str, object], list[str]]] = [
    ({"prompt": None}, ["`prompt`"]),
    ({"model": None}, ["`model`"]),
    ({"model": "flux-por"}, ["`flux-pro`"]),
    ({"colour": 1}, ["`colour`"]),
    ({"width": 255}, ["`width`"]),
    ({"width": "512"}, ["`width`"]),
    ({"width": 1, "height": 5000, "seed": "no"}, ["`width`", "`height`", "`seed`"]),
    ({"model": "flux-pro-1.1", "steps": 5}, ["`steps`"]),
    ({"image_prompt": f"*{encoded(image())}"}, ["base64"]),
    ({"image_prompt": f"data:image/png;base64,{encoded(image())}"}, ["base64"]),
    ({"image_prompt": encoded(image("GIF"))}, ["PNG, JPEG or WebP"]),
    ({"image_prompt": encoded(image()[:20])}, ["decoded"]),
    ({"image_prompt": encoded(image() + bytes(20 * 2**20))}, ["20 MiB"]),
    ({"image_prompt": encoded(png_file(width=8001, height=8000))}, ["64 million pixels"]),
    ({"image_prompt": encoded(png_file(width=20_000, height=20_000))}, ["64 million pixels"]),
    ({"webhook_url": "ftp://127.0.0.1"}, ["http"]),
]


@pytest.mark.parametrize(("fields", "words"), REJECTED, ids=[" ".join(fields) for fields, _ in REJECTED])
def test_rejected_submissions(shared: Api, fields: dict[str, object], words: list[str]) -> None:
    before = shared.service.stats.accepted
    body = {"model": "flux-pro", "prompt": "x", **fields}
    response = shared.post("/flux-imagine", {name: value for name, value in body.items() if value is not None})
    assert response.status == 400
    assert [word for word, reason in zip(words, response.reasons, strict=True) if word not in reason] == []
    assert shared.service.stats.accepted == before


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_image_prompts(shared: Api, kind: str) -> None:
    """Three types, with the line breaks of the `base64` program; the picture shows them, cropped to its shape."""
    fields = {"model": "flux-pro-1.1-ultra", "image_prompt_strength": 1}
    task = shared.finished("x", image_prompt=base64.encodebytes(image(kind)).decode(), **fields)
    picture = Image.open(io.BytesIO(exchange("GET", task["original_image_url"]).body)).convert("RGB")
    red, green, blue = picture.getpixel((128, 128))  # type: ignore[misc] # it is RGB
    assert red > 200 > 50 > max(green, blue)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"null", b"[]", b'"text"', b"7", b'{"task_id": NaN}', b'{"task_id": Infinity}', b"\xff\xfe",
        b'{"a": "\xff"}', b"[" * 100_000, b'{"task_id": ' + b"9" * 10_000 + b"}", b"model=flux-pro&prompt=x",
    ],
    ids=range(13),
)  # fmt: skip
def test_bodies_that_are_not_json_objects(shared: Api, body: bytes) -> None:
    for path in ("/flux-imagine", "/fetch", "/fetch-many"):
        response = shared.post(path, body)
        assert response.status == 400
        assert response.reasons


def test_ids_that_are_not_ids(shared: Api) -> None:
    for body in ({}, {"task_id": None}, {"task_id": ["x"]}, {"task_id": True}):
        assert shared.post("/fetch", body).status == 400
    for task_id in ("", "nothing", UNKNOWN_ID, "../../etc/passwd", "\x00", "x" * 100_000, "\ud800"):
        response = shared.fetch(task_id)
        assert (response.status, len(response.reasons)) == (404, 1)


def test_fetch_many(shared: Api) -> None:
    ids = [shared.submit(f"a kite {number}") for number in range(20)]
    found = [task["task_id"] for task in shared.post("/fetch-many", {"task_ids": ids}).json()["tasks"]]
    assert sorted(found) == sorted(ids)
    assert found != ids
    unknown = shared.post("/fetch-many", {"task_ids": [ids[0], "nothing"]}).json()["tasks"]
    assert {"task_id": "nothing", "errors": [{"msg": "unknown task"}]} in unknown
    assert len(unknown) == 2
    for wrong in ([], ids[:1], [*ids, ids[0]], "ab", None, [None, "x"], {"a": 1, "b": 2}):
        assert shared.post("/fetch-many", {"task_ids": wrong}).status == 400


def test_credits(start: Start) -> None:
    api = start(credits=2)
    assert api.account() == {"email": "you@example.com", "credits": 2, "total_images": 0, "plan": "sandbox"}
    api.submit("one")
    assert api.imagine(" ").status == 400
    api.submit("two")
    assert (api.account()["credits"], api.account()["total_images"]) == (0, 2)
    rejected = api.imagine("three")
    assert rejected.status == 402
    assert "--credits" in rejected.reasons[0]
    assert start().account()["credits"] == 0
    start(credits=5).submit("three")
    assert api.account()["credits"] == 4


def test_a_free_sandbox_charges_nothing(start: Start) -> None:
    """As the embedded one is: it accepts tasks even if the stored balance is 0."""
    start(credits=0)
    free = start(free=True)
    free.submit("a kite")
    assert free.account()["credits"] > 1000
    assert start().account()["credits"] == 0


def test_other_paths_and_methods(shared: Api) -> None:
    for request, status in (
        ("GET /flux-imagine", 405),
        ("DELETE /account", 405),
        ("GET /", 404),
        ("POST /flux-imagine/", 404),
        ("GET /../../etc/passwd", 404),
    ):
        method, path = request.split()
        response = exchange(method, shared.service.url + path, headers={"Authorization": "key"})
        assert (response.status, len(response.reasons)) == (status, 1)


def test_stats(api: Api) -> None:
    """They need no key, and agree with the object in the process."""
    api.picture("a kite")
    api.imagine(" ")
    stats = exchange("GET", f"{api.service.url}/_sandbox/stats").json()
    assert stats == api.service.stats.__dict__
    assert stats == {
        "submissions": 2, "accepted": 1, "fetches": 1, "images": 1, "leaked_keys": 0, "webhooks": 0,
        "webhook_failures": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Authorization", "other-key"),
        ("X-Api-Key", KEY),
        ("Cookie", f"session={KEY}"),
        ("Referer", f"http://127.0.0.1/?key={KEY}"),
    ],
)
def test_a_leaked_key_is_detected(start: Start, name: str, value: str) -> None:
    """On any path of the images' origin: 400, a warning in the log, and a count; without the key itself."""
    lines: list[str] = []
    api = start(log=lines.append)
    url = api.finished("a kite")["image_url"]
    for target in (url, f"{api.service.images_url}/anything"):
        response = exchange("GET", target, headers={name: value})
        assert (response.status, b"key" in response.body) == (400, True)
    assert exchange("GET", f"{url}?key={api.key}").status == 400
    assert api.service.stats.leaked_keys == 3
    assert sum(line.startswith("WARNING: a key") for line in lines) == 3
    assert not any("plain-key" in line or "other-key" in line for line in lines)


def test_duration(start: Start) -> None:
    api = start(seconds=1000)
    statuses = [api.finished(prompt)["status"] for prompt in ("a", "[[slow 0]]", "[[seconds 0]]")]
    assert statuses == ["processing", "finished", "finished"]


def test_no_picture_before_its_time(shared: Api) -> None:
    for task_id in (shared.submit("a kite [[never]]"), shared.submit("a kite [[fail]]"), UNKNOWN_ID):
        assert exchange("GET", f"{shared.service.images_url}/{task_id}.png").status == 404
