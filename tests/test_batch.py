"""The `batch` command: what it submits, what it does not resubmit, and what it prints."""

import contextlib
import json
import re
import select
import signal
import sqlite3
import time
from collections import Counter
from pathlib import Path
from unittest import mock

import pytest
from PIL import Image

from flux_cli import sandbox as sandbox_service
from flux_cli.batch.plan import RowCounts
from flux_cli.errors import LocalFileError
from flux_cli.storage.history import History
from flux_cli.ui import console
from flux_cli.ui.batch_summary import print_unresolved
from tests.batches import SMALL, charged, pictures, results, write
from tests.conftest import KEY, Cli, Service, interrupt, port_to_come_back_to, wait_until
from tests.screen import Screen
from tests.server import Request, Server, http, in_turn, png, reply, submitted


def test_each_row_is_made_once(flux: Cli, service: Service) -> None:
    """Paths on stdout; one line per finished row and a summary on stderr; every row in results.jsonl."""
    write(flux, "a red kite", "", "a blue kite", "a red kite")
    done = flux("batch", "rows.txt", "-o", "out", *SMALL)
    assert done.code == 0, done.stderr
    assert sorted(done.lines) == pictures(flux)
    assert len(done.lines) == 3
    finished, summary = done.stderr.splitlines()[:3], done.stderr.splitlines()[3:]
    for number, line in enumerate(finished, 1):
        assert re.fullmatch(rf"{number}/3 finished rows.txt:[134] in \d+\.\d s: [-0-9a-f]{{36}}", line)
    assert summary[0] == "3 of 3 rows finished"
    assert summary[1].endswith("credits: 1000 before, 997 after")
    again = flux("batch", "rows.txt", "-o", "out", *SMALL)
    assert (again.code, again.stdout) == (0, "")
    assert "3 of 3 rows finished (3 by earlier runs)" in again.stderr
    assert service.submissions == 3
    kept = results(flux.cwd / "out")
    assert len(kept) == len({each["row"] for each in kept}) == 3
    assert {(each["line"], each["status"], each["exit_code"]) for each in kept} == {
        (line, "finished", 0) for line in (1, 3, 4)
    }
    assert all(Path(each["path"]).is_file() for each in kept)
    assert sorted(name for name in flux.files() if not name.endswith(".png")) == ["out/results.jsonl", "rows.txt"]


@pytest.mark.parametrize(
    ("rows", "flags"), [("prompt,model\na kite,flux-9\n", []), ("a kite\n", ["--model", "flux-9"])]
)
def test_no_validate(cli: Cli, server: Server, rows: str, flags: list[str]) -> None:
    """It sends what the local rules reject, for models newer than this program."""
    (cli.cwd / "rows").write_text(rows)
    command = ("batch", "rows", "--format", "text" if flags else "csv", "-o", "out", *flags)
    cli.fails(2, "unknown model `flux-9`", *command)
    assert server.received == []
    assert cli(*command, "--no-validate").code == 0
    assert [request.json()["model"] for request in server.requests("/flux-imagine")] == ["flux-9"]


def test_rows_from_stdin(flux: Cli) -> None:
    """The fields of a row override flags. `id` is its key, `output` its file; the JSON objects have the key."""
    rows = [
        {"prompt": "a kite", "id": "first", "output": "sub/kite.png", "seed": 5},
        {"prompt": "a cat", "id": 2, "output": "{n}-{model}-{seed}.{ext}", "model": "flux-dev", "width": 512},
    ]
    done = flux("batch", "-", "-o", "out", *SMALL, "--seed", "7", "--json", input="\n".join(map(json.dumps, rows)))
    assert done.code == 0, done.stderr
    assert pictures(flux) == ["out/2-flux-dev-7.png", "out/sub/kite.png"]
    with Image.open(flux.cwd / "out/2-flux-dev-7.png") as image:
        assert image.size == (512, 256)
    by_row = {each["row"]: each for each in done.objects}
    assert {row: (each["line"], each["seed"]) for row, each in by_row.items()} == {"first": (1, 5), "2": (2, 7)}
    assert {record["row"]: record["batch"] for record in flux.history()} == dict.fromkeys(
        ["first", "2"], str(flux.cwd / "out")
    )
    (kept,) = (each for each in results(flux.cwd / "out") if each["row"] == "first")
    shown = by_row["first"]
    assert kept.items() >= {**shown, "path": str(flux.cwd / shown["path"])}.items()


def test_invalid_rows(flux: Cli, service: Service) -> None:
    """Every invalid row is reported with line and column; nothing is sent; exit code 2."""
    (flux.cwd / "rows.csv").write_text("prompt,width,seed\nok,512,\nbad,12,x\n,300,\nbad,8,\n")
    done = flux("batch", "rows.csv", "-o", "out")
    assert (done.code, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "error: rows.csv:3: column 3: `seed` must be a whole number, not `x`",
        "error: rows.csv:4: column 1 (`prompt`) must not be blank",
        "error: rows.csv:5: column 2 (`width`) must be 256 to 1440, not 8",
        "error: nothing was sent: 3 rows of rows.csv cannot be used",
    ]
    assert service.submissions == 0
    assert flux.files() == ["rows.csv"]


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["nowhere.txt"], 6, "cannot read nowhere.txt: no such file or directory"),
        (["empty.txt"], 2, "empty.txt has no rows"),
        (["rows.txt", "--shard", "x"], 2, "`--shard` takes K/N with K from 1 to N, not `x`"),
        (["rows.txt", "--concurrency", "0"], 2, "`--concurrency` must be 1 to 1000, not `0`"),
        (["rows.txt", "--width", "x"], 2, "`--width` must be a whole number, not `x`"),
        (["rows.txt", "--raw"], 2, "`--raw` needs `flux-pro-1.1-ultra`, but the model is `flux-pro`"),
        (["rows.txt", "--timeout", "nan"], 2, "`--timeout` takes seconds"),
        (["rows.txt", "--timeout", "nan", "--dry-run"], 2, "`--timeout` takes seconds"),
        (["rows.txt", "-o", "-"], 2, "`-o` of a batch takes a directory"),
        (["rows.txt", "-o", "{slug}.png"], 2, "`-o` of a batch takes a directory"),
        (["rows.txt", "-o", "a\0b"], 2, "`-o` of a batch takes a directory"),
        (["rows.txt", "-o", "rows.txt"], 6, "rows.txt is not a directory"),
        (["-", "--image-prompt", "-"], 2, "FILE and `--image-prompt` cannot both come from stdin"),
    ],
)
def test_invalid_command_lines(
    flux: Cli, service: Service, arguments: list[str], code: int, expected: str
) -> None:
    """One error, and nothing is sent."""
    write(flux, "a kite")
    write(flux, "", name="empty.txt")
    done = flux("batch", *arguments)
    assert (done.code, done.stdout) == (code, "")
    assert expected in done.stderr
    assert done.stderr.count("error:") == 1
    assert service.submissions == 0


def test_dry_run(cli: Cli) -> None:
    """It prints the requests of the shard, needs no key, and creates neither directory nor history."""
    (cli.cwd / "rows.csv").write_text(
        "prompt,seed,webhook_url,webhook_secret\na,1,,\nb,2,https://x.example,hush-hush\n"
    )
    (cli.cwd / "in.png").write_bytes(png())
    flags = ("--shard", "2/2", "--model", "flux-dev", "--image-prompt", "in.png")
    done = cli("batch", "rows.csv", "-o", "out", "--dry-run", *flags)
    assert done.code == 0, done.stderr
    (request,) = done.objects
    assert request.pop("image_prompt")["source"] == str(cli.cwd / "in.png")
    assert request == {"model": "flux-dev", "prompt": "b", "seed": 2, "webhook_url": "https://x.example"}
    assert cli.files() == ["in.png", "rows.csv"]
    assert not cli.history_file.exists()


def test_failed_rows(flux: Cli, service: Service) -> None:
    """They are resubmitted only on request; exit code 4 until then."""
    write(flux, "a kite", "a cat [[fail]]")
    done = flux("batch", "rows.txt", "-o", "out", *SMALL)
    assert done.code == 4
    assert re.search(
        r"^error: rows.txt:2: task [0-9a-f]{8} failed: the prompt asked for this failure$", done.stderr, re.M
    )
    assert "1 of 2 rows finished, 1 failed" in done.stderr
    again = flux("batch", "rows.txt", "-o", "out", *SMALL, "-q")
    assert (again.code, service.submissions) == (4, 2)
    assert again.stderr == (
        "error: 1 row failed in an earlier run\nhint: use --retry-failed to resubmit the failed rows\n"
    )
    assert flux("batch", "rows.txt", "-o", "out", *SMALL, "--retry-failed").code == 4
    assert service.submissions == 3
    one, two = sorted(results(flux.cwd / "out"), key=lambda each: int(each["line"]))
    assert (one["status"], two["status"], two["task_id"]) == ("finished", "failed", flux.history()[0]["task_id"])


def test_rows_with_unknown_outcome(flux: Cli, service: Service) -> None:
    """They are listed, and resubmitted only on request; exit code 9 until then."""
    write(flux, "a kite", "a cat [[lost-reply 1]]")
    done = flux("batch", "rows.txt", "-o", "out", *SMALL)
    assert done.code == 9
    again = flux("batch", "rows.txt", "-o", "out", *SMALL)
    assert again.code == 9
    listed = r"^error: rows\.txt:2: the outcome is unknown; it may have been charged$"
    assert re.search(listed, done.stderr, re.M)
    assert re.search(listed, again.stderr, re.M)
    assert "--retry-unknown" in again.stderr
    assert service.submissions == 2
    assert flux("batch", "rows.txt", "-o", "out", *SMALL, "--retry-unknown").code == 0
    assert service.submissions == 3
    assert {each["line"]: each["status"] for each in results(flux.cwd / "out")} == {1: "finished", 2: "finished"}


def test_rejected_request(flux: Cli, service: Service) -> None:
    """400 is about this row: it counts as failed, and the others are made."""
    write(flux, "a kite", "a cat [[http 400]]", "an owl")
    done = flux("batch", "rows.txt", "-o", "out", *SMALL)
    assert done.code == 2
    assert "error: rows.txt:2: the service rejected the request" in done.stderr
    assert len(pictures(flux)) == 2
    assert flux("batch", "rows.txt", "-o", "out", *SMALL).code == 2
    assert service.submissions == 3


REJECTED = (
    "error: the service rejected the key: HTTP 401",
    "hint: store a valid key with `flux-cli login`, or set APIFRAME_API_KEY",
)


@pytest.mark.parametrize(
    ("path", "code", "sent", "messages"),
    [
        ("/account", 401, 0, REJECTED),
        ("/flux-imagine", 401, 8, REJECTED),
        ("/flux-imagine", 403, 8, (REJECTED[0].replace("401", "403"), REJECTED[1])),
        ("/flux-imagine", 402, 8, ("error: out of credits: HTTP 402", "hint: see `flux-cli account`")),
    ],
)
def test_rejected_key(
    cli: Cli, server: Server, path: str, code: int, sent: int, messages: tuple[str, str]
) -> None:
    """One error, although several are on the way then; nothing more is sent. A later run submits all."""
    write(cli, *(f"kite {number}" for number in range(40)))
    server.routes = {path: reply({}, code)}
    done = cli("batch", "rows.txt", "-o", "out")
    assert done.code == 3
    assert server.submissions <= sent
    printed = [line for line in done.stderr.splitlines() if not line.startswith("submitting 40 pictures")]
    assert printed[:3] == [*messages, "0 of 40 rows finished, 40 not sent"]
    assert printed[4:] == ["hint: resume with the same command"]
    assert ("submitting" in done.stderr) == (sent > 0)
    server.routes = {}
    assert cli("batch", "rows.txt", "-o", "out").code == 0
    assert len(pictures(cli)) == 40


def test_a_row_that_is_forbidden(cli: Cli, server: Server) -> None:
    """After an accepted submission, the key is valid: the error names the row, and the others are sent."""
    write(cli, "a kite", "a word that a gateway rejects", "a dog")
    server.routes = {"/flux-imagine": in_turn(submitted, reply({}, 403), submitted)}
    done = cli("batch", "rows.txt", "-o", "out", "--concurrency", "1")
    assert (done.code, server.submissions, len(pictures(cli))) == (3, 3, 2)
    paths = [request.path for request in server.received if request.method == "POST"]
    assert paths == ["/flux-imagine", "/fetch", "/flux-imagine", "/flux-imagine", "/fetch"]  # one after the other
    assert "error: rows.txt:2: the service rejected the key: HTTP 403\n" in done.stderr


@pytest.mark.parametrize(
    ("path", "asked", "status", "error"),
    [
        ("/flux-imagine", "100", "unsent", "timed out before it was sent: rate limit reached: HTTP 429"),
        ("/image", "500", "finished", "timed out: cannot download the picture: HTTP 429"),
        ("/image", "601", "finished", "cannot download the picture: HTTP 429"),
    ],
)
def test_patience(cli: Cli, server: Server, path: str, asked: str, status: str, error: str) -> None:
    """An hour for a submission, unlike in `imagine`, and ten minutes for a picture: a later run tries again."""
    write(cli, "a kite")
    server.routes = {path: reply({}, 429, Retry_After=asked)}
    done = cli("batch", "rows.txt", "-o", "out", "--timeout", "2", "--json")
    assert (done.code, [(each["status"], each["error"]) for each in done.objects]) == (5, [(status, error)])


def test_submitted_rows_outlive_a_rejected_key(cli: Cli, server: Server) -> None:
    """On another host, they are waited for, saved and recorded; each new row has its JSON object."""
    write(cli, "a kite", "a cat", "a dog")
    server.routes = {"/fetch": reply({}, 401)}
    assert cli("batch", "rows.txt", "-o", "out", "--max-tasks", "1").code == 3
    server.routes = {"/account": reply({}, 401)}
    cli.env["XDG_STATE_HOME"] = str(cli.home / "other")
    done = cli("batch", "rows.txt", "-o", "out", "--json")
    assert (done.code, server.submissions, len(pictures(cli))) == (3, 1, 1)
    assert [(each["task_id"], each["status"]) for each in cli.history()] == [("task-0", "finished")]
    assert {each["line"]: each["status"] for each in done.objects} == {1: "finished", 2: "unsent", 3: "unsent"}
    assert done.stderr.count("error:") == 1


def test_out_of_credits(cli: Cli, tmp_path: Path) -> None:
    """A rejected submission was not accepted: a later run submits it."""
    write(cli, *(f"kite {number}" for number in range(40)))
    port = port_to_come_back_to()
    cli.env |= {"APIFRAME_API_KEY": KEY, "FLUX_CLI_API_URL": f"http://127.0.0.1:{port}"}
    with sandbox_service.running(tmp_path / "sandbox", port=port, seconds=0.3, credits=3) as poor:
        done = cli("batch", "rows.txt", "-o", "out", *SMALL)
        assert done.stderr.splitlines()[:2] == [
            "submitting 40 pictures for about 40 credits; the account has 3",
            "warning: the account has too few credits for 40 pictures",
        ]
        assert poor.stats.submissions < 20
    assert (done.code, done.stderr.count("error:")) == (3, 1)
    assert "37 not sent" in done.stderr
    assert "credits: 3 before, 0 after" in done.stderr
    assert len(pictures(cli)) == len(results(cli.cwd / "out")) == 3
    with sandbox_service.running(tmp_path / "sandbox", port=port, seconds=0.3, credits=100):
        done = cli("batch", "rows.txt", "-o", "out", *SMALL)
    assert done.code == 0, done.stderr
    assert charged(tmp_path) == {f"kite {number}": 1 for number in range(40)}


def test_service_that_fails_every_submission(cli: Cli, server: Server) -> None:
    """It gets few submissions, since each may have been accepted; a later run submits the rest."""
    write(cli, *(f"kite {number}" for number in range(60)))
    server.routes = {"/flux-imagine": reply({}, 500)}
    done = cli("batch", "rows.txt", "-o", "out", "--concurrency", "60", timeout=120)
    unknown = done.stderr.count("; it may have been charged")
    assert done.code == 9
    assert 5 <= unknown <= 16
    assert f"0 of 60 rows finished, {unknown} with unknown outcome, {60 - unknown} not sent" in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "not sent: " in line]
    assert line.startswith("error: not sent: submissions keep failing: HTTP 500")
    assert Counter(record["status"] for record in cli.history()) == {"unknown": unknown}


def test_max_tasks(flux: Cli, service: Service) -> None:
    """It limits the submissions of a run; rows that are left are no error."""
    write(flux, "a kite", "a cat", "a dog")
    first = flux("batch", "rows.txt", "-o", "out", *SMALL, "--max-tasks", "2")
    assert (first.code, "1 not sent" in first.stderr, service.submissions) == (0, True, 2)
    second = flux("batch", "rows.txt", "-o", "out", *SMALL, "--max-tasks", "2")
    assert (second.code, "not sent" in second.stderr, service.submissions) == (0, False, 3)
    quiet = flux("batch", "rows.txt", "-o", "other", *SMALL, "--max-tasks", "2", "-q")
    assert (quiet.code, quiet.stderr) == (0, "")


@pytest.mark.slow
def test_ctrl_c(flux: Cli, service: Service, tmp_path: Path) -> None:
    """Exit code 130 and one hint; the next run waits for the tasks and submits the rest."""
    prompts = [f"kite {number} [[seconds 3]]" for number in range(6)]
    write(flux, *prompts)
    process = flux.start("batch", "rows.txt", "-o", "out", *SMALL, "--concurrency", "4")
    wait_until(lambda: service.submissions == 4)
    wait_until(lambda: sum(record["task_id"] is not None for record in flux.history()) == 4)
    done = interrupt(process)
    assert done.code == 130
    for record in flux.history():
        assert f"task {record['task_id'][:8]}: interrupted" in done.stderr
    assert done.stderr.count("hint:") == 1
    assert "0 of 6 rows finished, 4 still running, 2 not sent" in done.stderr
    assert "resume with the same command" in done.stderr
    assert service.submissions == 4
    assert results(flux.cwd / "out") == []
    again = flux("batch", "rows.txt", "-o", "out", *SMALL, "--concurrency", "4")
    assert again.code == 0, again.stderr
    assert charged(tmp_path) == dict.fromkeys(prompts, 1)
    assert len(pictures(flux)) == len(results(flux.cwd / "out")) == 6


def test_second_ctrl_c_with_a_full_stdout(flux: Cli, service: Service) -> None:
    """The first one waits for a reader of stdout; the second ends the run, and no ID is lost."""
    long = "a very long kite " * 500
    write(
        flux, *(f"{number} [[never]]" for number in range(4)), *(f"kite {number} {long}" for number in range(20))
    )
    process = flux.start("batch", "rows.txt", "-o", "out", *SMALL, "--json")
    with open(f"/proc/{process.pid}/fd/1", "wb") as pipe:  # which holds 64 KB, and each of the 20 objects has 9
        wait_until(lambda: not select.select([], [pipe], [], 0)[1])
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    submissions = service.submissions  # with those that were on their way when the pipe was full
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert process.stderr is not None
    assert "resume with the same command" in process.stderr.read().decode()
    assert service.submissions == submissions
    journal = "".join(path.read_text() for path in (flux.cwd / "out" / ".flux-cli").glob("journal-*"))
    assert journal.count('"event": "accepted"') == submissions


def test_two_runs_at_the_same_time(flux: Cli, service: Service) -> None:
    """The second is refused while the first is alive; other shards can run."""
    write(flux, "a kite [[never]]", "a cat")
    first = flux.start("batch", "rows.txt", "-o", "out", "--shard", "1/2")
    wait_until(lambda: service.submissions == 1 and any(record["task_id"] for record in flux.history()))
    assert flux("batch", "rows.txt", "-o", "out").code == 6
    assert flux("batch", "rows.txt", "-o", "out", *SMALL, "--shard", "2/2").code == 0
    first.send_signal(signal.SIGKILL)
    first.communicate()
    done = flux("batch", "rows.txt", "-o", "out", "--timeout", "0.1", "--max-tasks", "0")
    assert (done.code, done.stderr.count("resume with the same command"), service.submissions) == (7, 1, 2)


def test_output_that_exists(flux: Cli, service: Service) -> None:
    """It is rejected before anything is sent, unless --force; the row that made the file is not affected."""
    rows = [{"prompt": "a kite", "output": "kite.png"}, {"prompt": "a cat", "output": "cat.png"}]
    write(flux, *map(json.dumps, rows), name="rows.jsonl")
    (flux.cwd / "out").mkdir()
    (flux.cwd / "out" / "cat.png").write_text("mine")
    done = flux("batch", "rows.jsonl", "-o", "out", *SMALL)
    assert (done.code, service.submissions) == (6, 0)
    assert done.stderr.startswith("error: rows.jsonl:2: out/cat.png exists\n")
    assert flux("batch", "rows.jsonl", "-o", "out", *SMALL, "--force").code == 0
    assert flux("batch", "rows.jsonl", "-o", "out", *SMALL).code == 0
    assert service.submissions == 2
    assert pictures(flux) == ["out/cat.png", "out/kite.png"]


def test_image_prompts_of_rows(flux: Cli) -> None:
    """They are read when the row is sent. One that is missing by then affects only its row."""
    write(flux, "a kite")
    assert flux("batch", "rows.txt", "-o", "first", *SMALL).code == 0
    first = flux.cwd / pictures(flux)[0]
    with Image.open(first) as image:
        image.save(flux.cwd / "in.png")
    url = results(flux.cwd / "first")[0]["image_url"]
    rows = [{"prompt": "a cat", "image_prompt": source} for source in ("in.png", url, f"{url}/gone")]
    write(flux, *map(json.dumps, rows), name="rows.jsonl")
    done = flux("batch", "rows.jsonl", "-o", "out", *SMALL, "--json")
    assert done.code == 5
    assert {each["line"]: each["status"] for each in done.objects} == {1: "finished", 2: "finished", 3: "unsent"}
    kept = {each["line"]: each for each in results(flux.cwd / "out")}
    assert set(kept) == {1, 2}
    requests = {
        record["request"]["image_prompt"]["source"]: record["request"] for record in flux.history("-n", "3")
    }
    local = flux.cwd / "in.png"
    assert requests[str(local)]["image_prompt"]["bytes"] == local.stat().st_size
    assert requests[url]["prompt"] == "a cat"


def test_sidecars_and_originals(flux: Cli) -> None:
    """Each row gets both."""
    write(flux, "a kite", "a cat")
    assert flux("batch", "rows.txt", "-o", "out", *SMALL, "--sidecar", "--original").code == 0
    assert len(pictures(flux)) == 4
    assert len([name for name in flux.files() if name.endswith(".png.json")]) == 2


CHANGED, SINCE = "warning: not generated again:", "with values that have changed since"
ONE_GONE = "warning: the picture of 1 finished row is missing"
TWO_GONE = "warning: the pictures of 2 finished rows are missing"
REFETCH = "hint: use --refetch to download the missing pictures again, free of charge"
RETRY = "hint: use --retry-failed to resubmit the failed rows"


@pytest.mark.parametrize(
    ("counts", "messages"),
    [
        (RowCounts(), []),
        (RowCounts(changed=1, missing=1), [f"{CHANGED} 1 finished row {SINCE}", ONE_GONE, REFETCH]),
        (RowCounts(changed=2, missing=2), [f"{CHANGED} 2 finished rows {SINCE}", TWO_GONE, REFETCH]),
        (RowCounts(total=1, failed=1), ["error: 1 row failed in an earlier run", RETRY]),
        (RowCounts(total=2, failed=2), ["error: 2 rows failed in earlier runs", RETRY]),
    ],
)
@pytest.mark.parametrize("quiet", [False, True])
def test_hints_of_the_summary(
    counts: RowCounts, messages: list[str], quiet: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is done about rows of earlier runs without a flag. Missing pictures are no error."""
    with mock.patch.object(console, "quiet", quiet):
        print_unresolved(counts, "rows.txt", counts.failed)
    expected = [] if quiet and not counts.failed else messages
    assert capsys.readouterr().err.splitlines() == expected


def test_secrets_of_rows(flux: Cli) -> None:
    """They are neither in the history nor in the results, the journal or on stderr."""
    secret = "hush-hush-hush"
    row = {"prompt": "a kite", "webhook_url": "http://127.0.0.1:9/", "webhook_secret": secret}
    write(flux, json.dumps(row), name="rows.jsonl")
    done = flux("batch", "rows.jsonl", "-o", "out", *SMALL, "-v", "--json")
    assert done.code == 0, done.stderr
    kept = flux.history_file.read_bytes() + b"".join(
        path.read_bytes() for path in (flux.cwd / "out").rglob("*.json*")
    )
    assert secret not in done.stderr + done.stdout
    assert secret.encode() not in kept


def test_closed_stdout(flux: Cli) -> None:
    """`| head -1` gets its line, and all rows are made."""
    write(flux, *(f"kite {number}" for number in range(8)))
    process = flux.start("batch", "rows.txt", "-o", "out", *SMALL, "--concurrency", "2")
    assert process.stdout is not None
    assert process.stdout.readline().endswith(b".png\n")
    process.stdout.close()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 141, stderr
    assert len(pictures(flux)) == len(results(flux.cwd / "out")) == 8


@pytest.mark.slow
def test_summary_bar_on_a_terminal(flux: Cli) -> None:
    """A bar, the counts, four tasks of six; at the end paths, summary and a visible cursor."""
    write(flux, *(f"kite {number} [[seconds {3 + number}]]" for number in range(6)), "a cat [[fail]]")
    screen = Screen(flux, "batch", "rows.txt", "-o", "out", *SMALL, columns=72)
    screen.until(lambda lines: any(re.search(r"1/7$", line) for line in lines))
    lines = screen.until(lambda lines: sum("%" in line for line in lines) == 4)
    assert any(line.startswith("6 running, 1 failed") for line in lines)
    assert all(line.startswith("kite ") for line in lines if "%" in line)
    assert screen.end() == 4
    assert not screen.cursor_hidden
    text = "\n".join(screen.text)
    assert text.count(".png") == 6
    assert "6 of 7 rows finished, 1 failed" in text
    assert "running" not in text
    assert "%" not in text


def test_spellings_of_one_service(flux: Cli, service: Service) -> None:
    """Case, zeros before the port and a slash at the end do not matter."""
    write(flux, "a kite")
    port = service.url.rpartition(":")[2]
    for url in (f"http://localhost:{port}", f"HTTP://LOCALHOST:0{port}/", f"http://localhost:{port}//"):
        done = flux("batch", "rows.txt", "-o", "out", *SMALL, "--api-url", url)
        assert done.code == 0, done.stderr
    assert service.submissions == 1


def test_all_invalid_flags_are_reported(flux: Cli, service: Service) -> None:
    """In a text file the fields of all rows come from the flags."""
    write(flux, "a kite")
    done = flux("batch", "rows.txt", "--width", "12", "--raw", "--guidance", "x")
    assert (done.code, service.submissions) == (2, 0)
    for name in ("--width", "--raw", "--guidance"):
        assert f"error: `{name}`" in done.stderr


def test_refetch(flux: Cli, service: Service) -> None:
    """It downloads missing pictures under their names, and submits nothing. The others stay as they are."""
    rows = [{"prompt": "a kite", "id": "1", "output": "kite.png"}, {"prompt": "a cat"}, {"prompt": "an owl"}]
    write(flux, *map(json.dumps, rows), name="rows.jsonl")
    assert flux("batch", "rows.jsonl", "-o", "out", *SMALL).code == 0
    before = {name: (flux.cwd / name).read_bytes() for name in pictures(flux)}
    kept = next(name for name in before if "owl" in name)
    for name in set(before) - {kept}:
        (flux.cwd / name).unlink()
    (flux.cwd / kept).write_bytes(b"edited")
    warned = flux("batch", "rows.jsonl", "-o", "out", *SMALL)
    assert "hint: use --refetch to download the missing pictures again, free of charge" in warned.stderr
    done = flux("batch", "rows.jsonl", "-o", "out", *SMALL, "--refetch")
    assert (done.code, service.submissions) == (0, 3), done.stderr
    assert len(done.lines) == 2
    assert {name: (flux.cwd / name).read_bytes() for name in before} == {**before, kept: b"edited"}
    assert len(results(flux.cwd / "out")) == 3
    assert flux("batch", "rows.jsonl", "-o", "out", *SMALL, "--refetch").stdout == ""


def test_results_that_were_removed(cli: Cli, server: Server) -> None:
    """The next run adds them again, from the history."""
    write(cli, "a kite", "a cat")
    assert cli("batch", "rows.txt", "-o", "out").code == 0
    (cli.cwd / "out" / "results.jsonl").unlink()
    assert cli("batch", "rows.txt", "-o", "out").code == 0
    assert {each["line"]: each["status"] for each in results(cli.cwd / "out")} == {1: "finished", 2: "finished"}
    assert server.submissions == 2


def test_refetch_of_an_expired_task(flux: Cli, service: Service) -> None:
    """The row stays finished: it is not charged again, even with --retry-failed."""
    write(flux, "a kite")
    assert flux("batch", "rows.txt", "-o", "out", *SMALL).code == 0
    (flux.cwd / pictures(flux)[0]).unlink()
    line = results(flux.cwd / "out")[0] | {"task_id": "00000000-0000-4000-8000-000000000000"}
    (flux.cwd / "out" / "results.jsonl").write_text(json.dumps(line) + "\n")
    assert flux("batch", "rows.txt", "-o", "out", *SMALL, "--refetch").code == 4
    done = flux("batch", "rows.txt", "-o", "out", *SMALL, "--retry-failed")
    assert (done.code, service.submissions) == (0, 1)


def test_moved_directory(flux: Cli, service: Service) -> None:
    """On another machine, without history: nothing is charged again, though the results have the old paths."""
    rows = [{"prompt": "a kite", "output": "sub/kite.png"}, {"prompt": "a cat"}, {"prompt": "an owl [[fail]]"}]
    write(flux, *map(json.dumps, rows), name="rows.jsonl")
    assert flux("batch", "rows.jsonl", "-o", "out", *SMALL).code == 4
    (flux.cwd / "out").rename(flux.cwd / "moved")
    flux.history_file.unlink()
    done = flux("batch", "rows.jsonl", "-o", "moved", *SMALL, "--refetch")
    assert (done.code, done.stdout, service.submissions) == (4, "", 3)
    assert "missing" not in done.stderr
    assert flux("batch", "rows.jsonl", "-o", "moved", *SMALL, "--retry-failed").code == 4
    assert service.submissions == 4


def test_another_host_resumes_with_the_same_home(
    cli: Cli, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its history has another record with the number that the task has in the file of the first host."""
    monkeypatch.setattr("flux_cli.storage.history.is_shared", lambda _: True)
    monkeypatch.setattr("flux_cli.storage.history.host_id", lambda: "one-00000000")
    write(cli, "a kite")
    server.routes = {"/fetch": reply({}, 401)}
    assert cli("batch", "rows.txt", "-o", "out").code == 3
    monkeypatch.setattr("flux_cli.storage.history.host_id", lambda: "two-00000000")
    assert cli("imagine", "a cat", "--no-wait").code == 0
    server.routes = {}
    assert cli("batch", "rows.txt", "-o", "out").code == 0
    records = {each["prompt"]: each for each in cli.history()}
    assert (records["a kite"]["status"], records["a cat"]["status"]) == ("finished", "processing")
    assert (records["a kite"]["path"], records["a cat"]["path"]) == (str(cli.cwd / pictures(cli)[0]), None)


@pytest.mark.parametrize(("more", "announced"), [(["11"], True), (["10"], False), (["11", "-q"], False)])
def test_cost_is_announced(flux: Cli, more: list[str], announced: bool) -> None:
    """Before more than ten submissions, in one line."""
    write(flux, *(f"kite {number}" for number in range(20)))
    done = flux("batch", "rows.txt", "-o", "out", *SMALL, "--max-tasks", *more)
    line = "submitting 11 pictures for about 11 credits; the account has 1000\n"
    assert done.stderr.startswith(line) == announced
    assert done.stderr.count("submitting") == announced


def test_locked_history(flux: Cli, service: Service) -> None:
    """Another process holds it during the whole run."""
    write(flux, *(f"kite {number}" for number in range(12)))
    flux("history")
    assert flux("batch", "rows.txt", "-o", "out", *SMALL, "--max-tasks", "1").code == 0
    with contextlib.closing(sqlite3.connect(flux.history_file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        done = flux("batch", "rows.txt", "-o", "out", *SMALL)
    assert (done.code, service.submissions, len(pictures(flux))) == (0, 12, 12), done.stderr
    assert done.stderr.count("warning") == 1
    assert "warning: the history lacks rows of this batch" in done.stderr


def test_history_that_is_locked_for_a_moment(cli: Cli, server: Server) -> None:
    """What it lacks then is recorded at the end."""

    def lock(request: Request) -> bytes:
        other.execute("BEGIN IMMEDIATE")
        return submitted(request)

    def unlock(_: Request) -> bytes:
        other.execute("ROLLBACK")
        return http(200, png())

    write(cli, "a kite")
    History(cli.history_file).close()
    other = sqlite3.connect(cli.history_file, isolation_level=None, check_same_thread=False)
    server.routes = {"/flux-imagine": lock, "/image": unlock}
    with contextlib.closing(other):
        done = cli("batch", "rows.txt", "-o", "out")
    assert (done.code, "warning" in done.stderr) == (0, False)
    (record,) = cli.history()
    assert (record["status"], record["path"]) == ("finished", str(cli.cwd / done.lines[0]))


def test_unknown_columns(flux: Cli, service: Service) -> None:
    """A column of notes is ignored on request; an unknown extension needs a format."""
    write(flux, "prompt,notes", "an owl,for later", name="rows.dat")
    command = ("batch", "rows.dat", "-o", "out", *SMALL)
    assert flux(*command).stderr.splitlines()[-1] == "hint: --format jsonl|csv|tsv|text"
    assert "unknown column `notes`" in flux(*command, "--format", "csv").stderr
    assert service.submissions == 0
    assert flux(*command, "--format", "csv", "--ignore-unknown-columns").code == 0


def test_damaged_history(flux: Cli, service: Service) -> None:
    """One warning; the next run knows everything without it."""
    write(flux, "a kite", "a cat")
    flux.history_file.parent.mkdir(parents=True)
    flux.history_file.write_bytes(b"no database" * 1000)
    done = flux("batch", "rows.txt", "-o", "out", *SMALL)
    assert (done.code, done.stderr.count("warning: the batch continues without the history")) == (0, 1)
    again = flux("batch", "rows.txt", "-o", "out", *SMALL, "-q")
    assert (again.code, again.stderr, service.submissions) == (0, "", 2)


def test_random_seeds(flux: Cli, service: Service) -> None:
    """Each row that sets no seed gets one of its own, which is recorded; it is no changed value later."""
    write(
        flux,
        *(json.dumps(row) for row in ({"prompt": "a", "seed": 7}, {"prompt": "b"}, {"prompt": "c"})),
        name="r.jsonl",
    )
    assert flux("batch", "r.jsonl", "-o", "out", *SMALL, "--seed", "random").code == 0
    seeds = {line["prompt"]: line["seed"] for line in results(flux.cwd / "out")}
    assert seeds["a"] == 7
    assert len(set(seeds.values())) == 3
    again = flux("batch", "r.jsonl", "-o", "out", *SMALL, "--seed", "random")
    assert ("have changed" in again.stderr, service.submissions) == (False, 3)


def test_picture_that_cannot_be_saved(flux: Cli, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row is neither running nor failed; the next run downloads it."""
    write(flux, "a kite", "a cat")

    def failing(*_: object) -> None:
        raise LocalFileError("cannot write out: permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("flux_cli.pictures.saving.Saver.save", failing)
        done = flux("batch", "rows.txt", "-o", "out", *SMALL)
    assert (done.code, service.submissions) == (6, 2)
    assert "0 of 2 rows finished, 2 not saved" in done.stderr
    assert "hint: resume with the same command" in done.stderr
    assert flux("batch", "rows.txt", "-o", "out", *SMALL).code == 0
    assert (len(pictures(flux)), service.submissions) == (2, 2)
