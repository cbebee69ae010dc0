"""The sandbox's endpoints: what is accepted, what is refused, and in which words."""

import base64
import io
import json
import uuid

import pytest
from PIL import Image

from flux_cli.sandbox.validation import MAX_BODY_BYTES
from tests.sandbox.conftest import Api, Start, exchange

UNKNOWN_ID = "64cd7965-1b78-42c8-b929-9d7751a2e149"


def image(kind: str = "PNG") -> bytes:
    """Return a small image."""
    file = io.BytesIO()
    Image.new("RGB", (32, 16), "red").save(file, kind)
    return file.getvalue()


def encoded(content: bytes) -> str:
    """Return base64."""
    return base64.b64encode(content).decode()


def test_a_submission_gets_a_task_id_and_nothing_else(api: Api) -> None:
    """The answer of /flux-imagine is the document's."""
    answer = api.imagine("a kite")
    assert answer.status == 200
    assert list(answer.json()) == ["task_id"]
    assert str(uuid.UUID(answer.json()["task_id"])) == answer.json()["task_id"]


def test_a_running_task_is_described_as_in_the_document(start: Start) -> None:
    """`task_id`, `task_type`, `status` and a whole percentage that rises."""
    api = start(seconds=0.4)
    task_id = api.submit("a kite")
    seen = []
    while (answer := api.fetch(task_id).json())["status"] == "processing":
        assert list(answer) == ["task_id", "task_type", "status", "percentage"]
        assert (answer["task_id"], answer["task_type"]) == (task_id, "flux-imagine")
        seen.append(answer["percentage"])
    assert all(isinstance(percentage, int) and 0 <= percentage < 100 for percentage in seen)
    assert seen == sorted(seen)
    assert seen[-1] > seen[0]


def test_a_finished_task_has_the_document_s_fields_and_the_word_that_clients_wait_for(api: Api) -> None:
    """Both URLs lie on the images' origin and give whole pictures that differ."""
    answer = api.finished("a kite")
    assert list(answer) == ["task_id", "task_type", "original_image_url", "image_url", "status", "percentage"]
    assert (answer["status"], answer["percentage"]) == ("finished", 100)
    bodies = [exchange("GET", answer[name]).body for name in ("image_url", "original_image_url")]
    for body in bodies:
        Image.open(io.BytesIO(body)).load()
    assert bodies[0] != bodies[1]
    assert answer["image_url"].startswith(f"{api.service.images_url}/")
    assert not answer["image_url"].startswith(api.service.url)


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        ("", 401),
        ("   ", 401),
        ("Bearer", 401),
        ("Bearer ", 401),
        ("anything", 200),
        ("Bearer anything", 200),
        ("bearer anything", 200),
        ("k", 200),
        ("key with spaces", 200),
    ],
)
def test_any_key_will_do_raw_or_after_bearer_but_none_will_not(api: Api, header: str | None, status: int) -> None:
    """401 says `{}`, as the service does."""
    answer = exchange(
        "GET", f"{api.service.url}/account", headers={} if header is None else {"Authorization": header}
    )
    assert answer.status == status
    if status == 401:
        assert answer.json() == {}


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("right", 200),
        ("Bearer right", 200),
        ("wrong", 401),
        ("Bearer wrong", 401),
        ("rightx", 401),
        ("r\xefght", 401),
    ],
)
@pytest.mark.parametrize("path", ["/flux-imagine", "/fetch", "/fetch-many", "/account", "/nothing"])
def test_with_a_key_named_only_that_one_will_do(start: Start, header: str, status: int, path: str) -> None:
    """On every path, before anything else is looked at."""
    api = start(key="right")
    answer = exchange("POST", api.service.url + path, b"{}", {"Authorization": header})
    assert (answer.status == 401) == (status == 401)


REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "no prompt": ({"model": "flux-pro"}, "`prompt`"),
    "a blank prompt": ({"model": "flux-pro", "prompt": "  "}, "`prompt`"),
    "no model": ({"prompt": "x"}, "`model`"),
    "an unknown model": ({"model": "flux-por", "prompt": "x"}, "`flux-pro`"),
    "a field that nobody knows": ({"model": "flux-pro", "prompt": "x", "colour": 1}, "`colour`"),
    "a width too small": ({"model": "flux-pro", "prompt": "x", "width": 255}, "`width`"),
    "a height too large": ({"model": "flux-pro", "prompt": "x", "height": 1441}, "`height`"),
    "a width that is text": ({"model": "flux-pro", "prompt": "x", "width": "512"}, "`width`"),
    "steps where they are not taken": ({"model": "flux-pro-1.1", "prompt": "x", "steps": 5}, "`steps`"),
    "an image prompt that is not base64": ({"model": "flux-pro", "prompt": "x", "image_prompt": "a*b"}, "base64"),
    "an image prompt with a data URL's prefix": (
        {"model": "flux-pro", "prompt": "x", "image_prompt": f"data:image/png;base64,{encoded(image())}"},
        "base64",
    ),
    "an image prompt that is text": (
        {"model": "flux-pro", "prompt": "x", "image_prompt": encoded(b"hello")},
        "PNG, JPEG or WebP",
    ),
    "an image prompt that is a GIF": (
        {"model": "flux-pro", "prompt": "x", "image_prompt": encoded(image("GIF"))},
        "PNG, JPEG or WebP",
    ),
    "an image prompt that only begins like a PNG": (
        {"model": "flux-pro", "prompt": "x", "image_prompt": encoded(image()[:20])},
        "cannot be decoded",
    ),
    "an image prompt over 20 MiB": (
        {"model": "flux-pro", "prompt": "x", "image_prompt": encoded(image() + bytes(20 * 2**20))},
        "20 MiB",
    ),
    "a webhook URL of another scheme": (
        {"model": "flux-pro", "prompt": "x", "webhook_url": "ftp://127.0.0.1"},
        "http",
    ),
    "a fault with an argument that it does not take": ({"model": "flux-pro", "prompt": "[[http 99]]"}, "CODE"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_service_refuses_is_refused_with_a_reason(api: Api, name: str) -> None:
    """400 with `errors[].msg`, and no credit is spent."""
    body, word = REFUSED[name]
    answer = api.post("/flux-imagine", body)
    assert answer.status == 400
    assert any(word in reason for reason in answer.reasons)
    assert api.account()["credits"] == 1000
    assert api.service.stats.accepted == 0


def test_every_broken_rule_is_named_at_once(api: Api) -> None:
    """So that all can be mended in one go."""
    answer = api.imagine("x", width=1, height=5000, seed="no")
    assert len(answer.reasons) == 3


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_image_prompts_of_the_three_types_are_taken_with_line_breaks_too(api: Api, kind: str) -> None:
    """The `base64` program breaks its lines."""
    lines = base64.encodebytes(image(kind)).decode()
    assert api.imagine("x", image_prompt=lines).status == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"7",
        b'{"task_id": NaN}',
        b'{"task_id": Infinity}',
        b"\xff\xfe",
        b'{"a": "\xff"}',
        b"[" * 100_000,
        b'{"task_id": ' + b"9" * 10_000 + b"}",
        b"model=flux-pro&prompt=x",
    ],
    ids=range(13),
)
@pytest.mark.parametrize("path", ["/flux-imagine", "/fetch", "/fetch-many"])
def test_bodies_that_are_no_json_object_are_refused(api: Api, path: str, body: bytes) -> None:
    """With 400 and the service's form of an error."""
    answer = api.post(path, body)
    assert answer.status == 400
    assert answer.reasons


@pytest.mark.parametrize("body", [{}, {"task_id": 7}, {"task_id": None}, {"task_id": ["x"]}])
def test_fetch_wants_an_id_that_is_text(api: Api, body: object) -> None:
    """With 400 otherwise."""
    assert api.post("/fetch", body).status == 400


@pytest.mark.parametrize(
    "task_id", ["", "nothing", UNKNOWN_ID, "../../etc/passwd", "\x00", "x" * 100_000, "\ud800"]
)
def test_an_unknown_id_is_not_found(api: Api, task_id: str) -> None:
    """With 404 and a reason."""
    answer = api.fetch(task_id)
    assert answer.status == 404
    assert answer.reasons


def test_fetch_many_answers_for_2_to_20_in_no_promised_order(api: Api) -> None:
    """Each id once, unknown ones with an error; other numbers of ids are refused."""
    ids = [api.submit(f"a kite {number}") for number in range(20)]
    answer = api.post("/fetch-many", {"task_ids": ids}).json()
    found = [task["task_id"] for task in answer["tasks"]]
    assert sorted(found) == sorted(ids)
    assert found != ids
    unknown = api.post("/fetch-many", {"task_ids": [ids[0], "nothing"]}).json()["tasks"]
    assert {"task_id": "nothing", "errors": [{"msg": "unknown task"}]} in unknown
    assert len(unknown) == 2
    for wrong in ([], ids[:1], [*ids, ids[0]], "ab", None, [1, 2], {"a": 1, "b": 2}):
        assert api.post("/fetch-many", {"task_ids": wrong}).status == 400


def test_credits_fall_by_one_a_task_and_end_in_402(start: Start) -> None:
    """A refused task costs nothing; more credits can be given to the same directory."""
    api = start(credits=2)
    assert api.account() == {"email": "you@example.com", "credits": 2, "total_images": 0, "plan": "sandbox"}
    api.submit("one")
    assert api.imagine(" ").status == 400
    api.submit("two")
    assert (api.account()["credits"], api.account()["total_images"]) == (0, 2)
    refused = api.imagine("three")
    assert refused.status == 402
    assert "--credits" in refused.reasons[0]
    assert start().account()["credits"] == 0
    more = start(credits=5)
    more.submit("three")
    assert api.account()["credits"] == 4


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/flux-imagine", 405),
        ("PUT", "/fetch", 405),
        ("DELETE", "/account", 405),
        ("GET", "/", 404),
        ("POST", "/flux-imagine/", 404),
        ("GET", "/../../etc/passwd", 404),
    ],
)
def test_other_paths_and_methods_are_answered(api: Api, method: str, path: str, status: int) -> None:
    """404 and 405, each with a reason."""
    answer = exchange(method, api.service.url + path, headers={"Authorization": "key"})
    assert answer.status == status
    assert answer.reasons


def test_the_stats_count_what_was_seen(api: Api) -> None:
    """They need no key, and the object in the process says the same."""
    api.picture("a kite")
    api.imagine(" ")
    stats = exchange("GET", f"{api.service.url}/_sandbox/stats").json()
    assert stats["submissions"] == 2
    assert stats["accepted"] == 1
    assert stats["fetches"] >= 1
    assert stats["images"] == 1
    assert stats["leaked_keys"] == 0
    assert stats == api.service.stats.__dict__


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "other-key"},
        {"Authorization": "Bearer x"},
        {"X-Api-Key": "plain-key-0123456789"},
        {"Cookie": "session=plain-key-0123456789"},
        {"Referer": "http://127.0.0.1/?key=plain-key-0123456789"},
    ],
)
def test_a_key_at_the_images_origin_is_caught(start: Start, headers: dict[str, str]) -> None:
    """Whether for a picture or not: 400 with plain words, a loud line, and a count."""
    lines: list[str] = []
    api = start(log=lines.append)
    url = api.finished("a kite")["image_url"]
    for target in (url, f"{api.service.images_url}/anything", f"{api.service.images_url}/flux-imagine"):
        answer = exchange("GET", target, headers=headers)
        assert answer.status == 400
        assert b"key" in answer.body
    assert exchange("POST", f"{api.service.images_url}/flux-imagine", b"{}", headers).status == 400
    assert api.service.stats.leaked_keys == 4
    assert sum(line.startswith("WARNING: a key") for line in lines) == 4
    assert not any("plain-key" in line or "other-key" in line for line in lines)
    assert exchange("GET", url).status == 200


def test_a_key_in_an_image_s_url_is_caught(api: Api) -> None:
    """A query is logged nowhere else either."""
    url = api.finished("a kite")["image_url"]
    assert exchange("GET", f"{url}?key={api.key}").status == 400
    assert api.service.stats.leaked_keys == 1


def test_pictures_answer_head_and_nothing_comes_before_its_time(start: Start) -> None:
    """A picture of a running task, of a failed one, and of none: 404."""
    api = start(seconds=30)
    done = api.finished("a kite [[slow 0]]")
    assert exchange("HEAD", done["image_url"]).status == 200
    failed = api.submit("a kite [[fail]][[slow 0]]")
    for task_id in (api.submit("a kite"), failed, UNKNOWN_ID):
        assert exchange("GET", f"{api.service.images_url}/{task_id}.png").status == 404


def test_a_body_that_announces_too_much_is_refused_before_it_is_read(api: Api) -> None:
    """413, in the service's form."""
    answer = api.post("/flux-imagine", json.dumps({"prompt": "x" * MAX_BODY_BYTES}).encode())
    assert answer.status == 413
    assert "32 MiB" in answer.reasons[0]
    assert api.account()["credits"] == 1000
