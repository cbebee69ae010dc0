"""Faults of the service, of its pictures and of the network between: nothing is charged twice or lost silently.

What the text of a response means is tested without a network in `test_client.py`, `test_task.py` and
`test_lenient_json.py`, and a picture's response in `test_download.py`; here each outcome has one row.
"""

import base64
import gzip
import json
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import KEY, Cli, new_cli
from tests.faults.table import BRIEF, IMAGINE, Row, check, row
from tests.server import Action, Server, fetched, finished, http, in_turn, png, reply, slowly, submitted

GOOD = json.dumps({"task_id": "task-0"}).encode()
PNG = png()
ZIPPED = gzip.compress(GOOD)
EARLY = b"HTTP/1.1 103 Early Hints\r\n\r\n"
TLS = "https://127.0.0.1:{port}"

submitting = row("/flux-imagine")
SUBMITTING: list[Row] = [
    submitting("400", "[[http 400]]", 2, "rejected the request: HTTP 400"),
    submitting("402", "[[http 402]]", 3, "out of credits", "hint: .*flux-cli account"),
    submitting("a redirect to another host", "[[redirect]]", 2, "a redirect to http", "hint: .*--api-url"),
    submitting("a redirect to itself", "[[redirect /flux-imagine]]", 2, "a redirect to /flux-imagine"),
    submitting("429 once", "[[rate-limit]]", 0, "rate limit reached.*retrying", submissions=2),
    submitting("503", "[[http 503]]", 9, "HTTP 503"),
    submitting("503, then a good response", in_turn(http(503), submitted), 9),
    submitting("reset instead of a response", "[[reset]]", 9, "connection reset"),
    submitting("closed instead of a response", "[[lost-reply]]", 9, "no response"),
    submitting("JSON cut short, its length promises more", "[[cut-json]]", 9, "no response"),
    submitting("an ID of escape sequences", '[[task-id "\\u001b[2J"]]', 9, "no usable task ID"),
    submitting("an ID that is no text", '[[task-id "\\ud800"]]', 9, "no usable task ID"),
    submitting("64 MiB of JSON", "[[huge-answer]]", 9, "larger than 8 MiB"),
    submitting("JSON 100,000 deep", "[[deep-json]]", 9),
    submitting("silence", "[[hang]]", 9, "no response had arrived yet", command=BRIEF),
    submitting("100 Continue without end", slowly(b"HTTP/1.1 100 Continue\r\n\r\n" * 500, 0.001), 9),
    submitting("103 before the response", [EARLY, 0.2, reply({"task_id": "task-0"})]),
    submitting("a length that is too small", http(200, GOOD, Content_Length="9"), 9),
    submitting("a length that is too large", http(200, GOOD, Content_Length="99")),
    submitting("an ID, then a reset", [http(200, GOOD, Content_Length="99"), 0.1, Action.RESET]),
    submitting("two lengths", http(200, GOOD, Content_Length="3", content_length="22"), 9),
    submitting("a negative length", http(200, GOOD, Content_Length="-5")),
    submitting("cut in a chunk", http(200, b"30\r\n" + GOOD, Content_Length="", Transfer_Encoding="chunked")),
    submitting(
        "chunks without sense", http(200, b"zz\r\n" + GOOD, Content_Length="", Transfer_Encoding="chunked"), 9
    ),
    submitting("a compressed response", http(200, ZIPPED, Content_Encoding="gzip")),
    submitting("a compressed response, cut", http(200, ZIPPED[:-12], Content_Encoding="gzip"), 9),
    submitting("called compressed, and is not", http(200, GOOD, Content_Encoding="gzip"), 9),
    submitting("64 MiB that come as 64 KiB", http(200, gzip.compress(b" " * 2**26), Content_Encoding="gzip"), 9),
    submitting("no HTTP", b"220 ready\r\n", 9),
    submitting("a status line without a number", b"HTTP/1.1 abc\r\n\r\n", 9),
    submitting("300 headers", http(200, GOOD, **{f"X_{n}": "x" for n in range(300)}), 9),
    submitting("a header of 100 KB", http(200, GOOD, X="x" * 100_000), 9),
    submitting("headers of escape sequences", http(500, b"", Location="\x1b[2J", X="\x1b]0;owned\x07"), 9),
    submitting("half a status line, then a reset", [b"HTTP/1.1 2", 0.1, Action.RESET], 9, "connection reset"),
    submitting(
        "reset while the request is sent",
        Server({"/flux-imagine": [Action.RESET]}, reads=100_000),
        9,
        submissions=0,
        command="imagine --image-prompt large.png",
    ),
    submitting("reset as soon as it connects", Server(greeting=[0.1, Action.RESET]), 9, submissions=0),
    submitting(
        "the key comes back in the rejection",
        lambda r: reply({"errors": [{"msg": f"bad key {r.headers['authorization']}"}]}, 400),
        2,
        r"bad key \[redacted\]",
    ),
    submitting(
        "the key comes back in a redirect",
        lambda r: http(302, Location=f"http://127.0.0.1:1/?k={r.headers['authorization']}"),
        2,
        r"a redirect to http://127.0.0.1:1/\?k=\[redacted\]",
        command="imagine --json",
    ),
    submitting(
        "a host that does not exist", Server(), 5, "DNS lookup", submissions=0, url="http://nowhere.invalid"
    ),
    submitting("nobody listens", Server(), 5, "refused", "retrying", submissions=0, url="http://127.0.0.1:1"),
    submitting(
        "TLS with a server of HTTP", Server(greeting=[http(400)]), 5, "cannot reach", submissions=0, url=TLS
    ),
    submitting(
        "reset in the TLS handshake", Server(greeting=[0.1, Action.RESET]), 5, "reset", submissions=0, url=TLS
    ),
    submitting("closed in the TLS handshake", Server(greeting=[0.1]), 5, "cannot reach", submissions=0, url=TLS),
    submitting(
        "silence in the TLS handshake",
        Server(greeting=[60.0]),
        5,
        "timed out before it was sent",
        submissions=0,
        url=TLS,
        command=BRIEF,
    ),
]

waiting = row("/fetch")
WAITING: list[Row] = [
    waiting("503 twice", "[[fetch-http 503 2]]", 0, "HTTP 503.*retrying"),
    waiting("404 once", "[[fetch-http 404 1]]"),
    waiting("503, then a reset, then 429, then HTML", "[[fetch-flaky 4]]"),
    waiting("an HTML page with 200", "[[fetch-html 2]]", 0, "an HTML page"),
    waiting("resets", "[[fetch-reset 2]]", 0, "connection reset"),
    waiting("closed instead of a response", "[[fetch-lost-reply 2]]"),
    waiting("an empty body", "[[fetch-empty 2]]", 0, "is not JSON"),
    waiting("JSON cut short, its length promises more", "[[fetch-cut-json 1]]"),
    waiting("64 MiB of JSON", "[[fetch-huge-answer 1]]", 0, "larger than 8 MiB"),
    waiting("JSON 100,000 deep", "[[fetch-deep-json 1]]"),
    waiting("429 once", "[[fetch-rate-limit 1 -5]]", 0, "rate limit reached"),
    waiting("a percentage of 5000 digits", f'[[percentage "{"9" * 5000}"]]'),
    waiting("no percentage", "[[no-percentage]]"),
    waiting("a percentage that falls back", "[[percentage-backwards]]"),
    waiting("a response without a status", "[[no-status]]"),
    waiting("it never ends", "[[never]]", 7, "timed out, the task is still running", command=BRIEF),
    waiting("it never ends, and -q", "[[never]]", 7, command=f"{BRIEF} -q"),
    waiting("503 every time", "[[fetch-http 503]]", 5, "HTTP 503", command=BRIEF),
    waiting("silence", "[[fetch-hang]]", 7, command=BRIEF),
    waiting("429 that asks for a century", f"[[fetch-rate-limit 9 {'9' * 5000}]]", 5, "rate limit", command=BRIEF),
    waiting("the key is refused", "[[fetch-http 401]]", 3, "rejected the key"),
    waiting("400", "[[fetch-http 400]]", 2, "rejected the request"),
    waiting("it fails", "[[fail]]", 4, "the prompt asked for this failure"),
    waiting("a reason of escape sequences", "[[hostile-text]]", 4, r"\[/foo\]", r"\\x1b\[2J", r"\\u202e"),
    waiting("a reason that is no text", reply({"status": "failed", "error": "half a \ud83d face"}), 4, "half a"),
    waiting("the service does not know it", "[[unknown-task]]", 4, "does not know the task"),
    waiting("headers a byte now and then, once", in_turn(slowly(http(503), 0.01), fetched)),
    waiting("103, then 503", in_turn([EARLY, 0.3, http(503)], fetched)),
    waiting("a length that is too small", in_turn(reply({}, Content_Length="1"), fetched)),
    waiting("no HTTP", in_turn(b"\x00\x01\x02", fetched)),
    waiting("half a header, then a reset", in_turn([b"HTTP/1.1 200 OK\r\nConte", 0.1, Action.RESET], fetched)),
    waiting(
        "what is left of one response is not the next one",
        in_turn([reply({"status": "x"}, Connection="") + reply({"status": "failed"}), Action.KEEP], fetched),
    ),
    waiting(
        "a number of 5000 digits",
        in_turn(http(200, b'{"task_id": "task-0", "percentage": ' + b"1" * 5000 + b"}"), fetched),
    ),
    waiting("a URL of the API's host", reply({"task_id": "task-0", "image_url": "/image/x.png"})),
    waiting("a data: URL", reply({"image_url": f"data:image/png;base64,{base64.b64encode(PNG).decode()}"})),
]

downloading = row("/image")
DOWNLOADING: list[Row] = [
    downloading("503 once", "[[image-http 503 1]]"),
    downloading("the URL has expired", "[[expired-url]]"),
    downloading("an HTML page with 200, once", "[[html-image 1]]"),
    downloading("a reset half-way, once", "[[image-reset 1]]"),
    downloading("half of it, its length promises the rest, once", "[[cut-download 1]]"),
    downloading("half of it, its length agrees, once", "[[short-length 1]]"),
    downloading("half of it, in chunks, once", "[[cut-chunked 1]]"),
    downloading("compressed, once", "[[gzip 1]]"),
    downloading("in chunks", "[[chunked]]"),
    downloading("a redirect", "[[image-redirect]]"),
    downloading("a JPEG that is called PNG", "[[jpeg-as-png]] [[no-length]]"),
    downloading("no original, though it was asked for", "[[no-original]]", command=f"{IMAGINE} --original"),
    downloading("the original, too", "[[expired-url]]", pictures=2, command=f"{IMAGINE} --original"),
    downloading("403 every time", "[[image-http 403]]", 5, "HTTP 403", command=BRIEF),
    downloading("503 every time", "[[image-http 503]]", 5, "HTTP 503", command=BRIEF),
    downloading("compressed, and cut", "[[cut-gzip]]", 5, "compressed", command=BRIEF),
    downloading("300 MiB", "[[huge-image]]", 5, "larger than 256 MiB"),
    downloading("half of it, then silence", "[[image-hang]]", 7, command=BRIEF),
    downloading("a redirect to itself", "[[redirect-loop]]", 5, "more than 10 redirects"),
    downloading("a redirect to a file", "[[image-redirect file:///etc/passwd]]", 5, "invalid URL"),
    downloading(
        "a redirect to nowhere", "[[image-redirect http://nowhere.invalid/]]", 5, "DNS lookup", command=BRIEF
    ),
    downloading("the image_url of a file", "[[image-url file:///etc/passwd]]", 5, "invalid URL"),
    downloading("the image_url has a port of 99999", "[[image-url http://127.0.0.1:99999/x.png]]", 5),
    downloading("the image_url has a host that is no name", "[[image-url http://a..b/x.png]]", 5),
    downloading(
        "the image_url has 100,000 characters",
        f"[[image-url http://127.0.0.1:1/{'x' * 100_000}]]",
        5,
        command=BRIEF,
    ),
    downloading(
        "the image_url has escape sequences",
        Server({"/fetch": reply({"image_url": "http://\x1b[2J\u202e/x.png"})}),
        5,
        command=BRIEF,
    ),
    downloading(
        "the image_url is no text",
        Server({"/fetch": lambda r: reply({**finished("task-0", r.origin), "image_url": f"{r.origin}/\ud83d"})}),
        5,
        command=BRIEF,
    ),
    downloading("a length that is too small", http(200, PNG, Content_Length="20"), 5, "incomplete", command=BRIEF),
    downloading("a negative length", http(200, PNG, Content_Length="-1")),
    downloading("a length that is no number", http(200, PNG, Content_Length="many")),
    downloading("a length of 5000 digits", http(200, PNG, Content_Length="9" * 5000)),
    downloading("two lengths", http(200, PNG, content_length="9"), 5, command=BRIEF),
    downloading("no HTTP, once", in_turn(b"\x00\xff\x00", http(200, PNG))),
    downloading("103, and then nothing, once", in_turn(EARLY, http(200, PNG))),
    downloading("100 Continue", b"HTTP/1.1 100 Continue\r\n\r\n" + http(200, PNG)),
    downloading("chunks without sense", in_turn(http(200, b"zz", Transfer_Encoding="chunked"), http(200, PNG))),
    downloading("reset before a byte, once", in_turn([Action.RESET], http(200, PNG))),
    downloading(
        "a text that begins like a picture",
        http(200, b"\x89PNG\r\n\x1a\n<html>"),
        5,
        "incomplete",
        command=BRIEF,
    ),
    downloading(
        "the images' host asks for a key",
        lambda r: http(200, PNG) if "authorization" in r.headers else http(401, WWW_Authenticate="Basic realm=x"),
        5,
        "HTTP 401",
        command=BRIEF,
    ),
]

ROWS = [*SUBMITTING, *WAITING, *DOWNLOADING]
LASTING = [each for each in ROWS if "--timeout" in each.command]
SHORT = [each for each in ROWS if "--timeout" not in each.command]


@pytest.mark.parametrize("row", SHORT, ids=lambda row: f"{row.path[1:]}: {row.fault}")
def test_a_fault(row: Row, cli: Cli) -> None:
    """The exit code, one submission at most, whole pictures or none, and what stderr says of a charged task."""
    if "large.png" in row.command:
        (cli.cwd / "large.png").write_bytes(png(9_000_000))
    check(row, cli)


@pytest.mark.slow
def test_faults_until_the_deadline(tmp_path: Path, subtests: pytest.Subtests) -> None:
    """As processes, and all at the same time, since they only wait."""
    clis = [new_cli(tmp_path / str(number)) for number in range(len(LASTING))]
    with ThreadPoolExecutor(len(LASTING)) as pool:
        ended = [pool.submit(check, *each) for each in zip(LASTING, clis, strict=True)]
    for lasting, outcome in zip(LASTING, ended, strict=True):
        with subtests.test(lasting.fault):
            outcome.result()


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
