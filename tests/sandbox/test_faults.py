"""Every fault of the table, asked for in a prompt and seen on the wire."""

import gzip
import io
import json
import math
import re
from collections.abc import Callable
from email.utils import parsedate_to_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from flux_cli.api.task import Status, read_task
from flux_cli.errors import UsageError
from flux_cli.sandbox.faults import FAULTS, Stage, parse_faults, parse_prompt
from tests.sandbox.conftest import Answer, Api, Start, exchange

Check = Callable[[Api], None]
CHECKS: dict[str, Check] = {}


def seen(*names: str) -> Callable[[Check], Check]:
    """Register what shows that faults happen."""

    def register(check: Check) -> Check:
        CHECKS.update(dict.fromkeys(names, check))
        return check

    return register


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault.stage is not Stage.WEBHOOK])
def test_each_fault_happens(api: Api, name: str) -> None:
    """One row of the table each; those of the webhooks are in their own tests."""
    CHECKS[name](api)


def running(api: Api, prompt: str) -> dict[str, object]:
    """Return what is said of a running task."""
    answer: dict[str, object] = api.fetch(api.submit(f"{prompt} [[slow 60]]")).json()
    return answer


# What becomes of the task.


@seen("fail")
def _fail(api: Api) -> None:
    for where in ("", "errors", "error", "message"):
        answer = api.finished(f"[[fail {where}]]")
        assert answer["status"] == "failed"
        reason = answer[where] if where in ("error", "message") else answer["errors"][0]["msg"]
        assert "asked for this failure" in reason
        assert "image_url" not in answer
    assert set(api.finished("[[fail none]]")) == {"task_id", "task_type", "status"}


@seen("moderated")
def _moderated(api: Api) -> None:
    answer = api.finished("[[moderated]][[slow 1]]")
    assert answer["status"] == "failed"
    assert "moderation" in answer["errors"][0]["msg"]


@seen("never")
def _never(api: Api) -> None:
    task_id = api.submit("[[never]][[slow 0]]")
    answer = api.fetch(task_id).json()
    assert (answer["status"], answer["percentage"]) == ("processing", 99)


@seen("slow", "seconds")
def _slow(api: Api) -> None:
    for name in ("slow", "seconds"):
        assert api.fetch(api.submit(f"[[{name} 1000]]")).json()["percentage"] == 0
        assert api.fetch(api.submit(f"[[{name} 0]]")).json()["status"] == "finished"


@seen("no-status")
def _no_status(api: Api) -> None:
    assert list(api.finished("[[no-status]]")) == ["task_id", "task_type", "original_image_url", "image_url"]


@seen("completed")
def _completed(api: Api) -> None:
    assert api.finished("[[completed]]")["status"] == "completed"


@seen("status")
def _status(api: Api) -> None:
    assert running(api, "[[status queued]]")["status"] == "queued"


@seen("no-percentage")
def _no_percentage(api: Api) -> None:
    assert "percentage" not in running(api, "[[no-percentage]]")


@seen("string-percentage")
def _string_percentage(api: Api) -> None:
    assert running(api, "[[string-percentage]]")["percentage"] == "0"


@seen("percentage")
def _percentage(api: Api) -> None:
    for text in ("null", "-5", "1e400", '{"a": ["]", 1]}', '"40%"'):
        answer = api.fetch(api.submit(f"[[percentage {text}]][[slow 60]]"))
        assert f'"percentage": {text}'.encode() in answer.body
        assert answer.json()["percentage"] == json.loads(text)


@seen("percentage-backwards")
def _percentage_backwards(api: Api) -> None:
    task_id = api.submit("[[percentage-backwards]][[slow 0.6]]")
    percentages = []
    while (answer := api.fetch(task_id).json())["status"] == "processing":
        percentages.append(answer["percentage"])
    assert max(percentages) > 30
    assert percentages != sorted(percentages)


@seen("no-image")
def _no_image(api: Api) -> None:
    answer = api.finished("[[no-image]]")
    assert answer["status"] == "finished"
    assert "image_url" not in answer
    assert exchange("GET", f"{api.service.images_url}/{answer['task_id']}.png").status == 404


@seen("no-original")
def _no_original(api: Api) -> None:
    answer = api.finished("[[no-original]]")
    assert "original_image_url" not in answer
    assert exchange("GET", answer["image_url"]).status == 200


@seen("image-url")
def _image_url(api: Api) -> None:
    for url in ("file:///etc/passwd", "http://[::1]:9/x.png", "not a URL"):
        assert api.finished(f"[[image-url {url}]]")["image_url"] == url


@seen("hostile-text")
def _hostile_text(api: Api) -> None:
    reason = api.finished("[[hostile-text]]")["errors"][0]["msg"]
    assert all(evil in reason for evil in ("[bold red]", "[/foo]", "\x1b", "\x9b", "\r", "\n", "\u202e", "\x00"))


@seen("unknown-task")
def _unknown_task(api: Api) -> None:
    assert api.fetch(api.submit("[[unknown-task]]")).status == 404


# The answer to a submission, and the same at /fetch.


def at_submission(api: Api, fault: str) -> Answer:
    """Submit, and see that the task was accepted all the same."""
    before = api.account()["credits"]
    answer = api.imagine(f"[[{fault}]]")
    assert api.account()["credits"] == before - 1
    return answer


def both(check: Callable[[Callable[..., Answer], Api], None], name: str) -> None:
    """Register a check for a fault at submission, where it is billed, and for the same fault of /fetch."""

    @seen(name)
    def _submission(api: Api) -> None:
        check(lambda arguments="", **_: at_submission(api, f"{name}{arguments}"), api)

    @seen(f"fetch-{name}")
    def _fetch(api: Api) -> None:
        check(
            lambda arguments="", **options: api.fetch(api.submit(f"[[fetch-{name}{arguments}]]"), **options), api
        )


def _html(ask: Callable[..., Answer], _: Api) -> None:
    answer = ask()
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b"<html>" in answer.body


def _reset(ask: Callable[..., Answer], _: Api) -> None:
    assert ask().broken == "ConnectionResetError"


def _lost_reply(ask: Callable[..., Answer], _: Api) -> None:
    assert ask().broken == "RemoteDisconnected"


def _empty(ask: Callable[..., Answer], _: Api) -> None:
    answer = ask()
    assert (answer.status, answer.body, answer.broken) == (200, b"", "")


def _truncated_json(ask: Callable[..., Answer], _: Api) -> None:
    answer = ask()
    assert (answer.status, answer.broken) == (200, "")
    assert answer.body.startswith(b'{"task_id"')
    with pytest.raises(ValueError, match="line 1"):
        answer.json()


def _cut_json(ask: Callable[..., Answer], _: Api) -> None:
    answer = ask()
    assert (answer.status, answer.broken) == (200, "IncompleteRead")
    assert 0 < len(answer.body) < int(answer.headers["content-length"])


def _json(ask: Callable[..., Answer], _: Api) -> None:
    for text in ("null", "[]", "[[1], []]", "17", '{"task_id": 5}'):
        assert ask(f" {text}").body == text.encode()


def _redirect(ask: Callable[..., Answer], api: Api) -> None:
    answer = ask()
    assert answer.status == 307
    assert answer.headers["location"].startswith(api.service.images_url)
    assert ask(" https://example.com/x").headers["location"] == "https://example.com/x"


def _trickle(ask: Callable[..., Answer], _: Api) -> None:
    answer = ask(timeout=0.1)
    assert (answer.status, answer.broken) == (200, "TimeoutError")


def _hang(ask: Callable[..., Answer], _: Api) -> None:
    assert ask(timeout=0.2).broken == "TimeoutError"


def _huge_answer(ask: Callable[..., Answer], _: Api) -> None:
    answer = ask()
    assert len(answer.body) > 64 * 2**20
    assert "task_id" in answer.json()


def _deep_json(ask: Callable[..., Answer], _: Api) -> None:
    answer = ask()
    assert answer.body == b"[" * 100_000 + b"]" * 100_000


for _check in (_html, _reset, _lost_reply, _empty, _truncated_json, _cut_json, _json, _redirect, _huge_answer):
    both(_check, _check.__name__[1:].replace("_", "-"))
both(_deep_json, "deep-json")


@seen("trickle", "hang")
def _slow_submission(api: Api) -> None:
    for name in ("trickle", "hang"):
        answer = api.post("/flux-imagine", {"model": "flux-pro", "prompt": f"[[{name}]]"}, timeout=0.15)
        assert answer.broken == "TimeoutError"
    assert api.account()["credits"] == 998


@seen("fetch-trickle")
def _slow_fetch(api: Api) -> None:
    _trickle(lambda **options: api.fetch(api.submit("[[fetch-trickle]]"), **options), api)


@seen("fetch-hang")
def _silent_fetch(api: Api) -> None:
    _hang(lambda **options: api.fetch(api.submit("[[fetch-hang]]"), **options), api)


@seen("http")
def _http(api: Api) -> None:
    for code in (400, 401, 402, 403, 404, 408, 413, 422, 429, 500, 502, 503, 504, 201, 204, 418, 599):
        before = api.account()["credits"]
        answer = api.imagine(f"[[http {code}]]")
        assert answer.status == code
        accepted = before - api.account()["credits"]
        assert accepted == (not 400 <= code < 500)
        if code in (401, 500):
            assert answer.json() == {}
        elif 400 <= code < 500:
            assert answer.reasons
        elif code in (502, 503, 504):
            assert b"<html>" in answer.body


@seen("fetch-http")
def _fetch_http(api: Api) -> None:
    task_id = api.submit("[[fetch-http 503 2]] [[fetch-http 500]]")
    assert api.fetch(task_id).status == 500, "of the same fault the last one counts"
    task_id = api.submit("[[fetch-http 503 2]]")
    assert [api.fetch(task_id).status for _ in range(3)] == [503, 503, 200]


@seen("rate-limit", "fetch-rate-limit")
def _rate_limit(api: Api) -> None:
    for text, header in (("", "1"), (" 1 -5", "-5"), (" 1 nan", "nan"), (" 1 none", None), (" 1 99999", "99999")):
        answers = [api.imagine(f"a kite [[rate-limit{text}]]") for _ in range(4)]
        assert [answer.status for answer in answers] == [429, 200, 429, 200], "it can be rehearsed again"
        assert answers[0].headers.get("retry-after") == header
    dated = api.imagine("[[rate-limit 1 date]]").headers["retry-after"]
    assert parsedate_to_datetime(dated).tzinfo is not None
    task_id = api.submit("[[fetch-rate-limit 2 7]]")
    answers = [api.fetch(task_id) for _ in range(3)]
    assert [answer.status for answer in answers] == [429, 429, 200]
    assert answers[0].headers["retry-after"] == "7"


@seen("no-task-id")
def _no_task_id(api: Api) -> None:
    assert at_submission(api, "no-task-id").json() == {}


@seen("task-id")
def _task_id(api: Api) -> None:
    for text in ("null", "17", '"../../x"', '""'):
        assert at_submission(api, f"task-id {text}").body == f'{{"task_id": {text}}}'.encode()


@seen("left-out")
def _left_out(api: Api) -> None:
    ids = [api.submit("a [[left-out 1]]"), api.submit("b"), api.submit("c [[left-out]]")]
    for expected in ({ids[1]}, {ids[0], ids[1]}, {ids[0], ids[1]}):
        answer = api.post("/fetch-many", {"task_ids": ids}).json()
        assert {task["task_id"] for task in answer["tasks"]} == expected
    assert api.fetch(ids[2]).status == 200


@seen("fetch-flaky")
def _fetch_flaky(api: Api) -> None:
    task_id = api.submit("[[fetch-flaky 7]]")
    answers = [api.fetch(task_id) for _ in range(8)]
    expected = [
        (503, ""),
        (0, "ConnectionResetError"),
        (429, ""),
        (200, ""),
        (500, ""),
        (200, "IncompleteRead"),
        (504, ""),
        (200, ""),
    ]
    assert [(answer.status, answer.broken) for answer in answers] == expected
    assert b"<html>" in answers[3].body
    assert answers[7].json()["task_id"] == task_id


# The download.


def download(api: Api, fault: str, **options: int) -> Answer:
    """Download a picture that meets a fault."""
    return exchange("GET", api.finished(f"[[{fault}]]")["image_url"], **options)  # type: ignore[arg-type] # numbers


def is_png(content: bytes) -> bool:
    """Say whether bytes are a whole PNG."""
    try:
        Image.open(io.BytesIO(content)).load()
    except OSError:
        return False
    return content.startswith(b"\x89PNG")


@seen("image-http")
def _image_http(api: Api) -> None:
    url = api.finished("[[image-http 503 2]]")["image_url"]
    assert [exchange("GET", url).status for _ in range(3)] == [503, 503, 200]
    assert download(api, "image-http 404").status == 404


@seen("expired-url")
def _expired_url(api: Api) -> None:
    first = api.finished("[[expired-url]]")
    assert api.ended(first["task_id"])["image_url"] == first["image_url"], "it has not expired before it was tried"
    assert exchange("GET", first["image_url"]).status == 403
    second = api.ended(first["task_id"])
    assert second["image_url"] != first["image_url"]
    assert exchange("GET", first["image_url"]).status == 403
    for name in ("image_url", "original_image_url"):
        assert exchange("GET", second[name]).status == 200


@seen("html-image", "json-image", "empty-image")
def _not_an_image(api: Api) -> None:
    html, told, empty = (download(api, f"{name}-image") for name in ("html", "json", "empty"))
    assert [answer.status for answer in (html, told, empty)] == [200, 200, 200]
    assert b"<html>" in html.body
    assert "message" in told.json()
    assert (empty.body, empty.headers["content-type"]) == (b"", "image/png")


@seen("image-reset")
def _image_reset(api: Api) -> None:
    answer = download(api, "image-reset")
    assert answer.broken in ("ConnectionResetError", "IncompleteRead")


@seen("cut-download")
def _cut_download(api: Api) -> None:
    url = api.finished("[[cut-download 1]]")["image_url"]
    cut, good = exchange("GET", url), exchange("GET", url)
    assert (cut.status, cut.broken) == (200, "IncompleteRead")
    assert good.body.startswith(cut.body)
    assert len(cut.body) == len(good.body) // 2
    assert is_png(good.body)


@seen("short-length")
def _short_length(api: Api) -> None:
    answer = download(api, "short-length")
    assert (answer.status, answer.broken) == (200, "")
    assert not is_png(answer.body)


@seen("no-length", "cut-no-length")
def _no_length(api: Api) -> None:
    for name in ("no-length", "cut-no-length"):
        answer = download(api, name)
        assert (answer.status, answer.broken) == (200, "")
        assert not {"content-length", "transfer-encoding"} & set(answer.headers)
        assert is_png(answer.body) == (name == "no-length")


@seen("chunked", "cut-chunked")
def _chunked(api: Api) -> None:
    good, cut = download(api, "chunked"), download(api, "cut-chunked")
    for answer in (good, cut):
        assert answer.headers["transfer-encoding"] == "chunked"
        assert "content-length" not in answer.headers
    assert is_png(good.body)
    assert cut.broken == "IncompleteRead"


@seen("gzip", "cut-gzip")
def _gzip(api: Api) -> None:
    good, cut = download(api, "gzip"), download(api, "cut-gzip")
    assert good.headers["content-encoding"] == cut.headers["content-encoding"] == "gzip"
    assert is_png(gzip.decompress(good.body))
    assert cut.broken == ""
    with pytest.raises(EOFError):
        gzip.decompress(cut.body)


@seen("image-trickle")
def _image_trickle(api: Api) -> None:
    answer = download(api, "image-trickle", most=3)
    assert answer.body == b"\x89PN"
    assert int(answer.headers["content-length"]) > 1000


@seen("image-hang")
def _image_hang(api: Api) -> None:
    answer = exchange("GET", api.finished("[[image-hang]]")["image_url"], timeout=0.5)
    assert answer.broken == "TimeoutError"
    assert len(answer.body) == int(answer.headers["content-length"]) // 2


@seen("huge-image")
def _huge_image(api: Api) -> None:
    answer = download(api, "huge-image", most=2**20)
    assert int(answer.headers["content-length"]) == 300 * 2**20
    assert answer.body.startswith(b"\x89PNG")
    assert len(answer.body) >= 2**20


@seen("image-redirect")
def _image_redirect(api: Api) -> None:
    answer = download(api, "image-redirect")
    assert answer.status == 302
    assert is_png(exchange("GET", api.service.images_url + answer.headers["location"]).body)
    assert download(api, "image-redirect ftp://x/y").headers["location"] == "ftp://x/y"


@seen("redirect-loop")
def _redirect_loop(api: Api) -> None:
    url = api.finished("[[redirect-loop]]")["image_url"]
    for _ in range(3):
        answer = exchange("GET", url)
        assert answer.status == 302
        assert url.endswith(answer.headers["location"])


@seen("jpeg-as-png")
def _jpeg_as_png(api: Api) -> None:
    url = api.finished("[[jpeg-as-png]]")["image_url"]
    answer = exchange("GET", url)
    assert url.endswith(".png")
    assert answer.headers["content-type"] == "image/png"
    assert answer.body.startswith(b"\xff\xd8\xff")


@seen("webp", "gif")
def _other_formats(api: Api) -> None:
    for name in ("webp", "gif"):
        url = api.finished(f"[[{name}]]")["image_url"]
        answer = exchange("GET", url)
        assert url.endswith(f".{name}")
        assert answer.headers["content-type"] == f"image/{name}"
        assert Image.open(io.BytesIO(answer.body)).format == name.upper()


# Several at once, for all requests, and how they are read.


def test_several_faults_in_one_prompt_happen_in_the_table_s_order(api: Api) -> None:
    """At one stage the first that is not used up; at different stages all of them."""
    task_id = api.submit("a [[fetch-html 1]] [[fetch-http 502 1]] [[no-status]] [[image-http 500 1]]")
    first, second = api.fetch(task_id), api.fetch(task_id)
    assert (first.status, second.status) == (502, 200)
    assert b"<html>" in second.body
    done = api.ended(task_id)
    assert "status" not in done
    assert [exchange("GET", done["image_url"]).status for _ in range(2)] == [500, 200]


def test_a_fault_happens_per_task(api: Api) -> None:
    """The same prompt twice: each task has its own count."""
    one, other = api.submit("[[fetch-http 503 1]]"), api.submit("[[fetch-http 503 1]]")
    assert [api.fetch(task_id).status for task_id in (one, other, one, other)] == [503, 503, 200, 200]


def test_a_fault_of_one_task_spoils_the_answer_of_fetch_many(api: Api) -> None:
    """Once for each time that it was asked for."""
    ids = [api.submit("a [[fetch-http 503 1]]"), api.submit("b"), api.submit("c [[fetch-reset 1]]")]
    answers = [api.post("/fetch-many", {"task_ids": ids}) for _ in range(3)]
    assert [(answer.status, answer.broken) for answer in answers] == [
        (0, "ConnectionResetError"),
        (503, ""),
        (200, ""),
    ]
    assert len(answers[2].json()["tasks"]) == 3


def test_a_server_s_faults_are_every_request_s(start: Start) -> None:
    """At /account those of a submission; a prompt's own arguments win."""
    api = start(faults=["http 503 1", "[[fetch-http 502 1]]"])
    assert exchange("GET", f"{api.service.url}/account", headers={"Authorization": "k"}).status == 503
    assert api.account()["credits"] == 1000
    assert api.imagine("a").status == 503
    task_id = api.submit("a")
    assert api.fetch(task_id).status == 502
    assert api.fetch(task_id).status == 200
    failing = start(faults=["fail message", "slow 0"])
    assert "message" in failing.fetch(failing.submit("a")).json()
    assert "error" in failing.fetch(failing.submit("a [[fail error]]")).json()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("lost-repl", "did you mean `lost-reply`"),
        ("nothing-like-it-at-all", "unknown fault"),
        ("http", "CODE"),
        ("http 99", "CODE is 200 to 599"),
        ("slow fast", "slow SECONDS"),
        ("slow nan", "SECONDS is a number"),
        ("html 0", "TIMES"),
        ("html 1 2", "html [TIMES]"),
        ("percentage {", "percentage JSON"),
        ("", "unknown fault"),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(start: Start, fault: str, message: str) -> None:
    """For a server as a usage error; in a prompt, where its name is known, as a 400."""
    with pytest.raises(UsageError, match=re.escape(message)):
        start(faults=[fault])
    name = fault.split(" ")[0]
    if name in FAULTS:
        assert start().imagine(f"[[{fault}]]").status == 400


@pytest.mark.parametrize(
    "prompt", ["a [[wiki link]]", "[[]]", "[[ ]]", "[[", "]] [[fail", "[fail]", "[[fails]]", "[[http503]]"]
)
def test_brackets_that_are_no_fault_mean_nothing(api: Api, prompt: str) -> None:
    """A prompt may hold them."""
    assert api.finished(prompt)["status"] == "finished"


@pytest.mark.parametrize("prompt", ["[[fail]]", "[[FAIL]]", "[[ fail ]]", "a[[fail]]b", "[[\nfail\n]]"])
def test_a_fault_is_known_in_any_case_and_with_spaces(api: Api, prompt: str) -> None:
    """As people write them."""
    assert api.finished(prompt)["status"] == "failed"


def test_a_slip_in_a_prompt_is_noted_in_the_log(start: Start) -> None:
    """A test that rehearses nothing should not pass in silence."""
    lines: list[str] = []
    start(log=lines.append).submit("a [[lost-repl]] kite")
    assert any("lost-repl" in line and line.startswith("note:") for line in lines)


@given(st.text())
def test_any_prompt_can_be_read(prompt: str) -> None:
    """Nothing but ValueError comes of it, and what is found is in the table."""
    try:
        asked = parse_prompt(prompt)
    except ValueError:
        assert "[[" in prompt
    else:
        assert set(asked.values) <= set(FAULTS)


@given(
    st.sampled_from(sorted(FAULTS)),
    st.text(st.characters(blacklist_characters="[]", blacklist_categories=["Cs"]), max_size=20),
)
def test_any_argument_is_understood_alike_in_a_prompt_and_for_a_server(name: str, argument: str) -> None:
    """Both read the same table."""

    def read(source: Callable[[], object]) -> object:
        try:
            return source()
        except ValueError:
            return None

    in_prompt = read(lambda: parse_prompt(f"x [[{name} {argument}]]").values)
    by_name = read(lambda: parse_faults([f"{name} {argument}"]).values)
    assert in_prompt == by_name


def test_what_is_said_of_tasks_is_read_by_the_program_as_it_is_meant(api: Api) -> None:
    """The sandbox and the client agree on what finished, failed and running look like."""
    for prompt, status in (
        ("[[slow 60]]", Status.PROCESSING),
        ("[[slow 60]][[status staged]][[no-percentage]]", Status.PROCESSING),
        ("[[slow 60]][[percentage 1e400]]", Status.PROCESSING),
        ("[[slow 0]]", Status.FINISHED),
        ("[[slow 0]][[no-status]]", Status.FINISHED),
        ("[[slow 0]][[no-image]]", Status.PROCESSING),
        ("[[slow 0]][[fail none]]", Status.FAILED),
    ):
        task_id = api.submit(prompt)
        task = read_task(api.fetch(task_id).json(), task_id)
        assert task.status is status, prompt
        assert task.percentage is None or math.isfinite(task.percentage)
