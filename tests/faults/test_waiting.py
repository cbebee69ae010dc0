"""Faults while waiting: temporary ones do not end the wait, and no exit loses the ID."""

import base64
import json
from pathlib import Path

import pytest

from flux_cli.api.task import Status
from tests.conftest import Cli
from tests.faults.table import Row, check, check_deadlines, each
from tests.server import Action, Reply, Server, fetched, finished, http, in_turn, png, reply, slowly

BRIEF = "imagine --width 256 --height 256 --timeout 5"
RESUME = r"hint: already charged; resume with: flux-cli wait "


def overcome(fault: str, magic: str, *says: str) -> Row:
    """Return the row of a fault that retries overcome."""
    return Row(fault, 0, 1, 1, says=says, magic=magic, status=Status.FINISHED)


def resumable(fault: str, code: int, magic: str, *says: str, command: str = BRIEF) -> Row:
    """Return the row of a fault that ends the command while the task is still running."""
    return Row(fault, code, says=(RESUME, *says), magic=magic, status=Status.PROCESSING, command=command)


def failed(fault: str, magic: str, *says: str) -> Row:
    """Return the row of a task that fails."""
    return Row(fault, 4, says=says, magic=magic, status=Status.FAILED)


def on_the_wire(fault: str, reply: Reply, code: int = 0, *says: str, status: Status = Status.FINISHED) -> Row:
    """Return the row of a fault in the responses of `/fetch`."""
    return Row(
        fault,
        code,
        1,
        1 if code == 0 else 0,
        says=says,
        server=lambda: Server({"/fetch": reply}),
        status=status,
        command=BRIEF if code else Row.command,
    )


OVERCOME = [
    *(
        overcome(f"{code} twice", f"[[fetch-http {code} 2]]", f"HTTP {code}.*retrying")
        for code in (500, 502, 503, 504)
    ),
    *(overcome(f"{code} once", f"[[fetch-http {code} 1]]") for code in (204, 301, 404, 408, 418, 425)),
    overcome("503, then a reset, then 429, then HTML", "[[fetch-flaky 4]]"),
    overcome("an HTML page with 200", "[[fetch-html 2]]", "an HTML page"),
    overcome("resets", "[[fetch-reset 2]]", "connection reset"),
    overcome("closed instead of a response", "[[fetch-lost-reply 2]]"),
    overcome("an empty body", "[[fetch-empty 2]]", "is not JSON"),
    overcome("JSON cut short, its length agrees", "[[fetch-truncated-json 1]]"),
    overcome("JSON cut short, its length promises more", "[[fetch-cut-json 1]]"),
    overcome("64 MiB of JSON", "[[fetch-huge-answer 1]]", "larger than 8 MiB"),
    overcome("JSON 100,000 deep", "[[fetch-deep-json 1]]"),
    *(
        overcome(f"429 with Retry-After: {value[:12]}", f"[[fetch-rate-limit 1 {value}]]", "rate limit reached")
        for value in ("0", "-5", "nan", "date", "none", "soon", "1e-9", "-" + "9" * 5000)
    ),
    *(
        overcome(f"the percentage {value[:12]}", f"[[percentage {value}]]")
        for value in ("null", "-5", "1e999", '"40%"', '"NaN"', "{}", "true", '"' + "9" * 5000 + '"')
    ),
    overcome("a percentage that falls back", "[[percentage-backwards]]"),
    overcome("no percentage", "[[no-percentage]]"),
    overcome("a result without status", "[[no-status]]"),
    overcome("a result that is `completed`", "[[completed]]"),
    overcome("an unknown status", "[[status simmering]]"),
]

RESUMABLE = [
    resumable("it never ends", 7, "[[never]]", "timed out, the task is still running"),
    resumable("it never ends, and -q", 7, "[[never]]", command=f"{BRIEF} -q"),
    resumable("it says `finished`, and gives no picture", 7, "[[no-image]]"),
    *(
        resumable(f"{code} every time", 5, f"[[fetch-http {code}]]", f"HTTP {code}")
        for code in (400 + 29, 500, 503, 307)
    ),
    resumable("HTML every time", 5, "[[fetch-html]]"),
    resumable("reset every time", 5, "[[fetch-reset]]", "connection reset"),
    resumable("a byte now and then, without end", 7, "[[fetch-trickle]]"),
    resumable("silence", 7, "[[fetch-hang]]"),
    resumable("a redirect", 5, "[[fetch-redirect]]", "a redirect to http"),
    resumable("429 that asks for a century", 5, f"[[fetch-rate-limit 9 {'9' * 5000}]]", "rate limit reached"),
    *(
        resumable(f"the response {value}", 5, f"[[fetch-json {value}]]")
        for value in (
            "null",
            "7",
            "{}",
            '"text"',
            '{"tasks": null}',
            '{"task_id": "another", "status": "finished"}',
        )
    ),
    resumable("the key is refused", 3, "[[fetch-http 401]]", "rejected the key", command=Row.command),
    resumable("the key is not allowed", 3, "[[fetch-http 403]]", "rejected the key", command=Row.command),
    resumable("out of credits", 3, "[[fetch-http 402]]", "out of credits", command=Row.command),
    resumable("400", 2, "[[fetch-http 400]]", "rejected the request", command=Row.command),
]

FAILED = [
    failed("it fails", "[[fail]]", "the prompt asked for this failure"),
    failed("it fails, the reason elsewhere", "[[fail message]]", "the prompt asked for this failure"),
    failed("it fails without a reason", "[[fail none]]", "gave no reason"),
    failed("it is moderated", "[[moderated]]", "Content Moderated"),
    failed(
        "its reason holds markup and escape sequences", "[[hostile-text]]", r"\[/foo\]", r"\\x1b\[2J", r"\\u202e"
    ),
    failed("the service does not know it", "[[unknown-task]]", "does not know the task"),
]


def lasts(steps: int) -> Reply:
    """Return a script of a task that runs for so many status checks."""
    running = reply({"task_id": "task-0", "status": "processing", "percentage": 50})
    return in_turn(*[running] * steps, fetched)


NO_TEXT = reply({"task_id": "task-0", "status": "failed", "error": "half a \ud83d face"})

ON_THE_WIRE = [
    on_the_wire("headers a byte now and then, once", in_turn(slowly(http(503), 0.01), fetched)),
    on_the_wire("103 before the response", in_turn([b"HTTP/1.1 103 Early\r\n\r\n", 0.3, http(503)], fetched)),
    on_the_wire("a length that is too small", in_turn(reply({}, Content_Length="1"), fetched)),
    on_the_wire("no HTTP", in_turn(b"\x00\x01\x02", fetched)),
    on_the_wire(
        "half a response, then a reset", in_turn([b"HTTP/1.1 200 OK\r\nContent-Le", 0.1, Action.RESET], fetched)
    ),
    on_the_wire(
        "what is left of one response is not the next one",
        in_turn([reply({"status": "x"}, Connection="") + reply({"status": "failed"}), Action.KEEP], fetched),
    ),
    on_the_wire("it runs for a while", lasts(2)),
    on_the_wire(
        "a percentage of 5000 digits",
        in_turn(http(200, b'{"task_id": "task-0", "percentage": ' + b"1" * 5000 + b"}"), fetched),
    ),
    on_the_wire("a reason that is no text", NO_TEXT, 4, "half a", status=Status.FAILED),
    on_the_wire(
        "a URL that is no text",
        lambda r: reply({**finished("task-0", r.origin), "image_url": f"{r.origin}/\ud83d"}),
        5,
        RESUME,
    ),
    on_the_wire(
        "UTF-16",
        in_turn(http(200, json.dumps({"task_id": "task-0", "percentage": 3}).encode("utf-16")), fetched),
    ),
]


def result(**fields: object) -> bytes:
    """Return a response about the task with these fields, and no others."""
    return reply(fields)


DATA_URL = "data:image/png;base64," + base64.b64encode(png()).decode()
GATEWAY = [
    on_the_wire(
        "a nested result", lambda r: result(data={"status": "SUCCEEDED", "image_url": f"{r.origin}/image/x"})
    ),
    on_the_wire("a list of URLs", lambda r: result(status="Done", images=[{"url": f"{r.origin}/image/x"}])),
    on_the_wire("a URL of the API's host", result(task_id="task-0", image_url="/image/x.png")),
    on_the_wire("a URL without scheme", lambda r: result(image_url=r.origin.removeprefix("http:") + "/image/x")),
    on_the_wire("a data: URL", result(status="finished", image_url=DATA_URL)),
    on_the_wire("202", in_turn(reply({"task_id": "task-0", "percentage": 5}, 202), fetched)),
    on_the_wire(
        "text around the JSON",
        lambda r: http(200, b"<b>Notice</b>\n%s<!-- 7 -->" % json.dumps(finished("task-0", r.origin)).encode()),
    ),
    on_the_wire(
        "a charset in the header",
        http(
            200,
            '{"status": "failed", "error": "Schl\u00fcssel"}'.encode("latin-1"),
            Content_Type="text/json; charset=latin-1",
        ),
        4,
        "Schl\u00fcssel",
        status=Status.FAILED,
    ),
    on_the_wire("an ID with spaces", lambda r: reply({**finished("task-0", r.origin), "task_id": " task-0\n"})),
    *(
        on_the_wire(
            f"the status {word}", result(status=word, message="no luck"), 4, "no luck", status=Status.FAILED
        )
        for word in ("Timed Out", "REJECTED", "cancelled", "Request Moderated", "expired")
    ),
    on_the_wire(
        "a nested reason",
        result(
            code=200,
            message="success",
            data={"status": "failure", "detail": [{"loc": ["prompt"], "msg": "is bad"}]},
        ),
        4,
        "prompt: is bad",
        status=Status.FAILED,
    ),
    on_the_wire(
        "an unknown status word, every time",
        result(task_id="task-0", status="On hold", message="verify your account"),
        7,
        RESUME,
        'status "On hold": verify your account',
        status=Status.PROCESSING,
    ),
]


TABLES = [OVERCOME, RESUMABLE, FAILED, ON_THE_WIRE, GATEWAY]


@each(*TABLES)
def test_fault_while_waiting(row: Row, cli: Cli) -> None:
    """Each row: the exit code, one submission, the picture or the command that resumes."""
    check(row, cli)


@pytest.mark.slow
def test_fault_while_waiting_until_the_deadline(tmp_path: Path, subtests: pytest.Subtests) -> None:
    """The same for faults that last."""
    check_deadlines(TABLES, tmp_path, subtests)
