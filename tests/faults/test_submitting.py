"""Faults of submissions: none is charged twice, and none is lost silently."""

import gzip
import json
import re
import subprocess
from pathlib import Path

import pytest

from flux_cli.api.task import Status
from tests.conftest import KEY, Cli
from tests.faults.table import Row, check, check_deadlines, each
from tests.server import Action, Reply, Server, http, in_turn, png, reply, slowly, submitted

UNKNOWN = r"may have been accepted and charged"
HOW_TO_CHECK = r"`flux-cli history` and `flux-cli account`"


def unknown(fault: str, magic: str, *says: str) -> Row:
    """Return the row of a submission that was sent once and whose outcome is unknown."""
    return Row(fault, 9, says=(UNKNOWN, HOW_TO_CHECK, *says), magic=magic, command=command_for(fault))


def inconclusive(fault: str, reply: Reply, *says: str) -> Row:
    """Return the row of a submission whose response is inconclusive."""
    return Row(
        fault,
        9,
        says=(UNKNOWN, HOW_TO_CHECK, *says),
        server=lambda: Server({"/flux-imagine": reply}),
        command=command_for(fault),
    )


def accepted(fault: str, reply: Reply) -> Row:
    """Return the row of a submission whose ID arrives in an unusual response."""
    return Row(fault, 0, 1, 1, server=lambda: Server({"/flux-imagine": reply}), status=Status.FINISHED)


def command_for(fault: str) -> str:
    """Return the command for a fault, with a short timeout if the fault lasts until the deadline."""
    return f"{Row.command} --timeout 5" if "until the deadline" in fault else Row.command


def refused(fault: str, code: int, magic: str, *says: str) -> Row:
    """Return the row of a submission that the service rejects."""
    return Row(fault, code, says=says, magic=magic, status=Status.FAILED)


GOOD = json.dumps({"task_id": "task-0"}).encode()


def with_large_image(cli: Cli) -> None:
    """Put an image prompt into the working directory that does not fit into the socket's buffers."""
    (cli.cwd / "large.png").write_bytes(png(9_000_000))


REFUSED = [
    refused("400", 2, "[[http 400]]", "rejected the request: HTTP 400"),
    refused("401", 3, "[[http 401]]", "rejected the key", "hint: .*flux-cli login"),
    refused("402", 3, "[[http 402]]", "out of credits", "hint: .*flux-cli account"),
    refused("403", 3, "[[http 403]]", "rejected the key"),
    refused("404", 2, "[[http 404]]", "takes no submissions", "--api-url"),
    *(refused(f"{code}", 2, f"[[http {code}]]", f"HTTP {code}") for code in (405, 422)),
    refused("413", 2, "[[http 413]]", "too large", "hint: .*image prompt"),
    refused("a redirect to another host", 2, "[[redirect]]", "a redirect to http", "hint: .*--api-url"),
    refused("a redirect to itself", 2, "[[redirect /flux-imagine]]", "a redirect to /flux-imagine"),
    refused("an error with 200", 2, '[[json {"error": "no"}]]', "rejected the request: no"),
    Row(
        "400 that says `not found` of a model",
        2,
        says=("no such model; it was not found",),
        server=lambda: Server(
            {"/flux-imagine": reply({"errors": [{"msg": "no such model; it was not found"}]}, 400)}
        ),
        status=Status.FAILED,
    ),
    Row(
        "429 once",
        0,
        2,
        1,
        says=("rate limit reached.*retrying",),
        magic="[[rate-limit]]",
        status=Status.FINISHED,
    ),
    *(
        Row(
            f"429 with Retry-After: {value[:12]}",
            0,
            2,
            1,
            magic=f"[[rate-limit 1 {value}]]",
            status=Status.FINISHED,
        )
        for value in ("-5", "nan", "date", "none", "soon", "0.1", "Thu, 01 Jan 1970 00:00:00 GMT")
    ),
    *(
        Row(
            f"429 with Retry-After: {value[:12]}",
            5,
            says=("rate limit reached",),
            magic=f"[[rate-limit 9 {value}]]",
            status=Status.FAILED,
        )
        for value in ("9" * 5000, "inf", "61", "Fri, 31 Dec 2199 23:59:59 GMT")
    ),
    Row(
        "429 until the deadline",
        5,
        2,
        says=("timed out before it was sent",),
        magic="[[rate-limit 99 3]]",
        status=Status.UNSENT,
        command=command_for("until the deadline"),
    ),
]

UNKNOWN_OUTCOMES = [
    *(unknown(f"{code}", f"[[http {code}]]", f"HTTP {code}") for code in (204, 303, 304, 409)),
    *(unknown(f"{code}", f"[[http {code}]]", f"HTTP {code}") for code in (500, 503, 599)),
    unknown("an HTML page with 200", "[[html]]", "no usable task ID"),
    unknown("reset instead of a response", "[[reset]]", "connection reset"),
    unknown("closed instead of a response", "[[lost-reply]]", "no response"),
    unknown("an empty body", "[[empty]]"),
    unknown("JSON cut short, its length agrees", "[[truncated-json]]"),
    unknown("JSON cut short, its length promises more", "[[cut-json]]", "no response"),
    *(unknown(f"the response {value}", f"[[json {value}]]") for value in ("null", "{}", '"text"', "1e999", "7")),
    unknown("no task_id", "[[no-task-id]]", "no usable task ID"),
    *(
        unknown(f"the task_id {value[:12]}", f"[[task-id {value}]]", "no usable task ID")
        for value in ("null", '""', '"a b"', '"\\u001b[2J"', '"\\ud800"', json.dumps("x" * 300))
    ),
    unknown("64 MiB of JSON", "[[huge-answer]]", "larger than 8 MiB"),
    unknown("JSON 100,000 deep", "[[deep-json]]"),
    unknown("a byte now and then, until the deadline", "[[trickle]]", "no response had arrived yet"),
    unknown("silence, until the deadline", "[[hang]]", "no response had arrived yet"),
]

ON_THE_WIRE = [
    inconclusive("headers a byte now and then, until the deadline", slowly(reply({"task_id": "task-0"}))),
    inconclusive("100 Continue without end", slowly(b"HTTP/1.1 100 Continue\r\n\r\n" * 500, 0.001)),
    Row(
        "100 Continue before the response",
        0,
        1,
        1,
        server=lambda: Server({"/flux-imagine": b"HTTP/1.1 100 Continue\r\n\r\n" + reply({"task_id": "task-0"})}),
        status=Status.FINISHED,
    ),
    accepted(
        "103 Early Hints before the response",
        [b"HTTP/1.1 103 Early Hints\r\n\r\n", 0.2, reply({"task_id": "task-0"})],
    ),
    inconclusive("a length that is too small", http(200, GOOD, Content_Length="9")),
    accepted("an ID, then the connection ends too early", http(200, GOOD, Content_Length="99")),
    accepted("an ID, then a reset", [http(200, GOOD, Content_Length="99"), 0.1, Action.RESET]),
    accepted("a number as ID", reply({"task_id": 5})),
    accepted("an ID in a 500", reply({"task_id": "task-0", "error": "something else failed"}, 500)),
    accepted("an ID between other text", http(201, b"<b>Notice</b>: slow\n" + GOOD + b"<!-- node 7 -->")),
    inconclusive("two lengths", http(200, GOOD, Content_Length="3", content_length="22")),
    accepted("a negative length", http(200, GOOD, Content_Length="-5")),
    accepted(
        "chunked, and cut in a chunk", http(200, b"30\r\n" + GOOD, Content_Length="", Transfer_Encoding="chunked")
    ),
    inconclusive(
        "chunks without sense", http(200, b"zz\r\n" + GOOD, Content_Length="", Transfer_Encoding="chunked")
    ),
    Row(
        "a compressed response",
        0,
        1,
        1,
        server=lambda: Server({"/flux-imagine": http(200, gzip.compress(GOOD), Content_Encoding="gzip")}),
        status=Status.FINISHED,
    ),
    inconclusive("a compressed response, cut", http(200, gzip.compress(GOOD)[:-12], Content_Encoding="gzip")),
    inconclusive("called compressed, and is not", http(200, GOOD, Content_Encoding="gzip")),
    inconclusive(
        "64 MiB that come as 64 KiB",
        http(200, gzip.compress(b" " * 2**26), Content_Encoding="gzip"),
        "larger than 8 MiB",
    ),
    inconclusive("no HTTP", b"220 ready\r\n"),
    inconclusive("a status line without a number", b"HTTP/1.1 abc\r\n\r\n"),
    inconclusive("300 headers", http(200, GOOD, **{f"X_{n}": "x" for n in range(300)})),
    inconclusive("a header of 100 KB", http(200, GOOD, X="x" * 100_000)),
    inconclusive("a header with escape sequences", http(500, b"", Location="\x1b[2J", X="\x1b]0;owned\x07")),
    inconclusive("half a status line, then a reset", [b"HTTP/1.1 2", 0.1, Action.RESET], "connection reset"),
    Row(
        "reset while the request is sent",
        9,
        0,
        says=(UNKNOWN,),
        server=lambda: Server({"/flux-imagine": [Action.RESET]}, reads=100_000),
        command="imagine --image-prompt large.png",
        prepare=with_large_image,
    ),
    Row(
        "reset as soon as it connects",
        9,
        0,
        says=(UNKNOWN,),
        server=lambda: Server(greeting=[0.1, Action.RESET]),
    ),
    Row(
        "503 for the first, and a good response for any other",
        9,
        says=(UNKNOWN,),
        server=lambda: Server({"/flux-imagine": in_turn(http(503), submitted)}),
    ),
    Row(
        "the key and the prompt come back in the refusal",
        2,
        says=(r"bad key \[redacted\]",),
        server=lambda: Server(
            {"/flux-imagine": lambda r: reply({"errors": [{"msg": f"bad key {r.headers['authorization']}"}]}, 400)}
        ),
        status=Status.FAILED,
    ),
    Row(
        "the key comes back in a redirect",
        2,
        status=Status.FAILED,
        says=(r"a redirect to http://127.0.0.1:1/\?k=\[redacted\]",),
        server=lambda: Server(
            {"/flux-imagine": lambda r: http(302, Location=f"http://127.0.0.1:1/?k={r.headers['authorization']}")}
        ),
        command="imagine --json",
    ),
]


def never_sent(fault: str, *says: str, url: str = "{url}", **options: object) -> Row:
    """Return the row of a submission that was certainly not received."""
    return Row(
        fault,
        5,
        0,
        says=says,
        server=lambda: Server(**options),  # type: ignore[arg-type] # whichever of the server's
        status=Status.UNSENT,
        url=url,
        command=command_for(fault),
    )


NEVER_SENT = [
    never_sent("a host that does not exist", "DNS lookup failed", url="http://nowhere.invalid"),
    never_sent("nobody listens", "connection refused", "retrying", url="http://127.0.0.1:1"),
    never_sent("nobody accepts, until the deadline", "timed out before it was sent", accepts=False),
    never_sent("TLS with a server of HTTP", "cannot reach", url="https://127.0.0.1:{port}", greeting=[http(400)]),
    never_sent(
        "reset in the TLS handshake", "reset", url="https://127.0.0.1:{port}", greeting=[0.1, Action.RESET]
    ),
    never_sent("closed in the TLS handshake", "cannot reach", url="https://127.0.0.1:{port}", greeting=[0.1]),
    never_sent(
        "silence in the TLS handshake, until the deadline",
        "timed out before it was sent",
        url="https://127.0.0.1:{port}",
        greeting=[60.0],
    ),
]


TABLES = [REFUSED, UNKNOWN_OUTCOMES, ON_THE_WIRE, NEVER_SENT]


@each(*TABLES)
def test_submission_fault(row: Row, cli: Cli) -> None:
    """Each row: the exit code, one submission at most, nothing on the disk, and stderr says what is known."""
    check(row, cli)


@pytest.mark.slow
def test_submission_fault_until_the_deadline(tmp_path: Path, subtests: pytest.Subtests) -> None:
    """The same for faults that last."""
    check_deadlines(TABLES, tmp_path, subtests)


@pytest.mark.parametrize("task_id", ["$(id)", "a;touch${IFS}x", "-rf", "--all"])
def test_the_resume_hint_is_safe_to_paste(cli: Cli, task_id: str) -> None:
    """A shell reads the ID in the hint as one argument, whatever the service calls a task, and `wait` takes it."""
    with Server({"/flux-imagine": reply({"task_id": task_id}), "/fetch": http(401)}) as server:
        cli.env["APIFRAME_API_KEY"] = KEY
        done = cli("imagine", "x", "--api-url", server.url)
        (hint,) = re.findall(r"resume with: (.*)", done.stderr)
        read = subprocess.run(["bash", "-c", f"printf '%s\\0' {hint}"], capture_output=True, text=True, check=True)
        program, command, *rest = read.stdout.split("\0")[:-1]
        assert (program, command, task_id in rest) == ("flux-cli", "wait", True)
        checks = len(server.requests("/fetch"))
        assert cli("wait", *rest).code == 3
        assert len(server.requests("/fetch")) > checks
