"""`flux-cli fetch` and `flux-cli wait` against the sandbox."""

import json
import re
import shutil
import sqlite3
from contextlib import closing

import pytest

from flux_cli.storage.history import History
from tests.conftest import Cli, Done, Service
from tests.faults.mounts import make_read_only, tmpfs

SMALL = ("--width", "256", "--height", "256", "-q")
UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"
FINISHED, RUNNING, FAILED = "a [[seconds 0]]", "b [[never]]", "c [[fail]][[seconds 0]]"


def submit(flux: Cli, prompt: str) -> str:
    done = flux("imagine", prompt, "--no-wait", *SMALL)
    assert done.code == 0, done.stderr
    return done.lines[0]


# fetch: the status


def test_fetch_in_a_pipe(flux: Cli) -> None:
    """`task_id`, status, percentage, image_url and path, separated by tabs; nothing on stderr."""
    running, finished = submit(flux, RUNNING), submit(flux, FINISHED)
    done = flux("fetch", running, finished)
    assert (done.code, done.stderr) == (0, "")
    first, second = (line.split("\t") for line in done.lines)
    assert (first[0], first[1], *first[3:]) == (running, "processing", "", "")
    assert 0 <= float(first[2]) < 100
    assert (second[0], second[1], second[2], second[4]) == (finished, "finished", "100", "")
    assert second[3].startswith("http://127.0.0.1:")
    (path,) = flux("wait", finished, "-q").lines
    assert flux("fetch", finished).lines[0].split("\t")[4] == str(flux.cwd / path)
    assert flux("fetch", finished, "--json").objects[0]["path"] == str(flux.cwd / path)


def test_fetch_on_a_terminal(flux: Cli) -> None:
    """The beginning of the ID, and the file if there is one."""

    def rows() -> list[list[str]]:
        shown = flux("fetch", task_id, tty=["stdout"], env={"COLUMNS": "120"}).stdout
        return [line.split() for line in re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()]

    task_id = submit(flux, FINISHED)
    header, row = rows()
    assert header == ["task", "status", "%", "picture"]
    assert row[:3] == [task_id[:8], "finished", "100"]
    assert row[3].startswith("http://127.0.0.1:")
    (path,) = flux("wait", task_id, "-q").lines
    assert rows()[1][3] == path


def test_exit_status(flux: Cli) -> None:
    """0 all finished, 4 any failed, 8 any running; without the flag 0, and no `error:` line."""
    finished, running, failed = (submit(flux, prompt) for prompt in (FINISHED, RUNNING, FAILED))
    cases = ([finished], 0), ([running], 8), ([failed], 4), ([finished, running], 8), ([running, failed], 4)
    for ids, code in cases:
        done = flux("fetch", *ids, "--exit-status")
        assert (done.code, "error:" in done.stderr) == (code, code != 0)
        done = flux("fetch", *ids)
        assert (done.code, "error:" in done.stderr) == (0, False)
        assert ("failed: " in done.stderr) is (failed in ids)
        assert flux("fetch", *ids, "-q").stderr == ""


def test_fetch_an_unknown_id(flux: Cli) -> None:
    """Exit 4; the others are printed all the same, in text and in JSON."""
    known = submit(flux, FINISHED)
    done = flux("fetch", UNKNOWN_ID, known)
    assert done.code == 4
    assert [line.split("\t")[0] for line in done.lines] == [known]
    assert "error: task 00000000: " in done.stderr
    first, second = flux("fetch", "--json", UNKNOWN_ID, known).objects
    assert (first["exit_code"], first["raw"], second["exit_code"]) == (4, None, 0)
    assert first["error"]
    for command in ("fetch", "wait"):
        (task,) = flux(command, "no-such-task", "--json").objects
        assert (task["status"], task["exit_code"]) == ("failed", 4)  # `unknown` is for submissions


def test_fetch_records_a_status_for_its_own_service(flux: Cli) -> None:
    """It once changed the record of every service's task with this ID."""
    with closing(History(flux.history_file)) as history:
        (other,) = history.begin("https://elsewhere", [{}])
        task_id = submit(flux, FINISHED)
        history.accepted(other, task_id)
    assert flux("fetch", task_id).code == 0
    assert [task["status"] for task in flux.history()] == ["finished", "processing"]
    task_id = submit(flux, FINISHED)
    with closing(History(flux.history_file)) as history:
        (newer,) = history.begin("https://elsewhere", [{}])
        history.accepted(newer, task_id)
    assert flux("fetch", task_id).code == 0
    assert flux.history()[0]["status"] == "processing"


def test_fetch_20_ids_per_request(flux: Cli, service: Service) -> None:
    """45 finished tasks take three requests, and come in the order asked for; `wait` checks as many at once."""
    ids = flux("imagine", FINISHED, "--no-wait", "-n", "45", *SMALL).lines
    done = flux("fetch", "-", input="\n".join(ids))
    assert [line.split("\t")[0] for line in done.lines] == ids
    assert service.running.stats.fetches == 3
    assert flux("wait", *ids[:20], "-o", "out/").code == 0
    assert service.running.stats.fetches == 4


def test_fetch_last_and_all(flux: Cli) -> None:
    """The newest task, saved or not; every task that is not saved."""
    flux.fails(2, "the history has no task", "fetch", "--last")
    assert (flux("fetch", "--all").code, flux("fetch", "--all").stderr) == (0, "nothing left to save\n")
    first, second, third = (submit(flux, prompt) for prompt in (FINISHED, RUNNING, FINISHED))
    assert flux("wait", third, "-q").code == 0
    assert [line.split("\t")[0] for line in flux("fetch", "--last").lines] == [third]
    assert [line.split("\t")[0] for line in flux("fetch", "--all").lines] == [second, first]


# fetch -o


def test_fetch_downloads_finished_tasks(flux: Cli) -> None:
    """`-o` prints the paths; a running task is only mentioned in JSON."""
    finished, running, failed = (submit(flux, prompt) for prompt in (FINISHED, RUNNING, FAILED))
    done = flux("fetch", "-o", "{n}.{ext}", failed, finished, running, "-q")
    assert (done.code, done.stdout, done.stderr) == (0, "2.png\n", "")
    assert flux.history("--search", finished)[0]["path"] == str(flux.cwd / "2.png")
    first, second = flux("fetch", "--json", "-o", "again-{n}.{ext}", finished, running).objects
    assert (first["path"], second["path"]) == ("again-1.png", None)
    assert flux.files() == ["2.png", "again-1.png"]


def test_fetch_into_one_file(flux: Cli) -> None:
    """Without a picture it is 7 for a running task (8 with `--exit-status`) and 4 for a failed or unknown one."""
    running, finished, failed = (submit(flux, prompt) for prompt in (RUNNING, FINISHED, FAILED))
    for output in ("-", "x.png"):
        done = flux("fetch", running, "-o", output)
        assert done == Done(7, "", f"error: task {running[:8]} is still running\n")
        assert flux("fetch", running, "-o", output, "--exit-status").code == 8
        for task_id in (failed, UNKNOWN_ID):
            done = flux("fetch", task_id, "-o", output)
            assert (done.code, done.stdout) == (4, "")
    assert flux.files() == []
    assert flux("fetch", running, "-o", "there/").code == 0  # a directory takes what there is
    assert flux("fetch", finished, "-o", "-").stdout_bytes.startswith(b"\x89PNG")


# IDs


def test_ids_on_stdin(flux: Cli) -> None:
    """Plain IDs and JSON Lines, each once; editors on Windows add a byte order mark and carriage returns."""
    one, two = submit(flux, FINISHED), submit(flux, FINISHED)
    for text in (
        f"\ufeff{one}\r\n{two}\n{one}\n",
        "".join(json.dumps({"task_id": task_id, "prompt": "x"}) + "\n" for task_id in (one, two)),
        f"\n  {one} {two}\r\n\n{json.dumps({'task_id': one})}",
    ):
        assert [line.split("\t")[0] for line in flux("fetch", "-", input=text).lines] == [one, two]


@pytest.mark.parametrize("command", ["fetch", "wait"])
def test_empty_stdin(flux: Cli, command: str) -> None:
    done = flux(command, "-", input="")
    assert (done.code, done.stdout, done.stderr) == (0, "", "no task IDs on stdin\n")
    assert flux(command, "-", "-q", input=" \n\n").stderr == ""
    flux.fails(0, "was never accepted", command, "-", input='{"task_id": null}\n')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"id": 3}', "line 1 of stdin"),
        ('{"task_id": [3]}', "neither text nor a number"),
        ('{"task_id": true}', "neither text nor a number"),
        ("{broken", "line 1 of stdin"),
        ("caf\xe9", "is not a task ID"),
        ("a\x1b[31mb", "is not a task ID"),
        ("x" * 201, "is not a task ID"),
    ],
)
def test_invalid_ids(flux: Cli, service: Service, text: str, message: str) -> None:
    """Exit 2, one clear line, and no request."""
    done = flux.fails(2, message, "fetch", "-", input=text)
    assert "\x1b" not in done.stderr
    assert max(map(len, done.stderr.splitlines())) < 200
    assert service.running.stats.fetches == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["wait"], "no task IDs"),
        (["wait", "--last", "--all"], "cannot be combined"),
        (["wait", "--last", UNKNOWN_ID], "cannot be combined"),
        (["wait", "--last"], "nothing left to save"),
        (["fetch"], "no task IDs"),
        (["fetch", "--all", UNKNOWN_ID], "cannot be combined"),
    ],
)
def test_wrong_arguments(flux: Cli, arguments: list[str], message: str) -> None:
    flux.fails(2, message, *arguments)


def test_a_picture_is_recognised_after_it_was_moved(flux: Cli) -> None:
    """By its content, which is recorded when it is saved."""
    (path,) = flux("imagine", "a kite", *SMALL).lines
    (flux.cwd / path).rename(flux.cwd / "best.png")
    (task,) = flux.history("best.png")
    assert flux("show", task["task_id"][:8]).lines == [str(flux.cwd / "best.png")]


def test_prefixes(flux: Cli) -> None:
    """A unique prefix selects the task; one that is not in the history is sent unchanged."""
    task_id = submit(flux, FINISHED)
    assert flux("fetch", task_id[:4]).lines[0].split("\t")[0] == task_id
    assert flux("wait", task_id[:8], "-q").lines == [f"a-seconds-0-{task_id[:8]}.png"]
    flux.fails(4, f"error: task {task_id[:3]}: ", "fetch", task_id[:3])


def test_a_task_of_the_sandbox(cli: Cli) -> None:
    """Without `--sandbox` nothing is sent: the service would only say that it does not know it."""
    (task_id,) = cli("imagine", "x", "--no-wait", "--sandbox", *SMALL).lines
    for command in ("wait", "fetch"):
        done = cli(command, UNKNOWN_ID, task_id)
        assert done.code == 2
        assert done.stderr == f"error: task {task_id[:8]} belongs to the sandbox\nhint: add --sandbox\n"
        assert cli(command, UNKNOWN_ID).code == 3  # no key


# wait


def test_a_pipeline_of_no_wait_and_wait(flux: Cli) -> None:
    """The contract's pipeline, with JSON Lines between the two."""
    submitted = flux("imagine", "a kite", "--no-wait", "--json", "-n", "2", *SMALL)
    done = flux("wait", "-", "-q", input=submitted.stdout)
    assert done.code == 0, done.stderr
    assert flux.files() == sorted(done.lines)
    assert len(done.lines) == 2


def test_what_wait_reports(flux: Cli) -> None:
    """Prompt and seed come from the history; a failure, which is exit 4, goes into it. The other task is saved."""
    (good,) = flux("imagine", "a kite", "--seed", "5", "--no-wait", *SMALL).lines
    done = flux("wait", good, submit(flux, "b [[moderated]]"), "--json", "-q")
    assert (done.code, flux.files()) == (4, [f"a-kite-{good[:8]}.png"])
    finished, failed = done.objects
    assert (finished["prompt"], finished["seed"], finished["model"]) == ("a kite", 5, "flux-pro")
    assert (finished["path"], finished["exit_code"]) == (f"a-kite-{good[:8]}.png", 0)
    assert failed["exit_code"] == 4
    assert "moderat" in failed["error"]
    assert failed["error"] in done.stderr
    assert flux.history()[0]["error"] == failed["error"]


def test_wait_last_and_all(flux: Cli, service: Service) -> None:
    """The newest task that is not saved, then every one, oldest first, then nothing is left: no error."""
    first, second, third = (submit(flux, prompt) for prompt in ("one", "two", "three"))
    assert flux("wait", "--last", "-q").lines == [f"three-{third[:8]}.png"]
    assert flux("wait", "--all", "-q").lines == [f"one-{first[:8]}.png", f"two-{second[:8]}.png"]
    done = flux("wait", "--all")
    assert (done.code, done.stderr) == (0, "nothing left to save\n")
    assert flux("wait", "--all", "-q").stderr == ""
    assert service.submissions == 3


def test_wait_any(flux: Cli) -> None:
    """The first picture ends the wait with exit 0; the other task can be waited for later."""
    running, finished = submit(flux, RUNNING), submit(flux, FINISHED)
    done = flux("wait", "--all", "--any")
    assert (done.code, done.lines) == (0, [f"a-seconds-0-{finished[:8]}.png"])
    assert done.stderr.endswith(f"hint: get the picture with: flux-cli wait {running}\n")
    assert flux("wait", running, submit(flux, FINISHED), "--any", "-q").stderr == ""
    assert [line.split("\t")[0] for line in flux("fetch", "--all").lines] == [running]


def test_timeout_0(flux: Cli) -> None:
    """`wait` checks once, and saves what is finished; `imagine` submits. 7 means that there is a task."""
    running, finished = submit(flux, RUNNING), submit(flux, FINISHED)
    done = flux("wait", running, finished, "--timeout", "0")
    assert (done.code, done.lines) == (7, [f"a-seconds-0-{finished[:8]}.png"])
    assert f"error: task {running[:8]}: timed out, the task is still running\n" in done.stderr
    done = flux("imagine", FINISHED, "--timeout", "0", *SMALL)
    (task_id,) = [each["task_id"] for each in flux.history("--status", "processing") if each["task_id"] != running]
    assert (done.code, done.lines) == (7, [])
    assert done.stderr.endswith(f"hint: already charged; resume with: flux-cli wait {task_id}\n")
    assert flux("wait", task_id, "-q", "--timeout", "0").code == 0


def test_a_saved_picture_stays_saved(flux: Cli) -> None:
    """The service forgets a saved task: the history still has the path of the picture."""
    task_id = submit(flux, "a kite [[fetch-http 404 1000]]")
    with closing(sqlite3.connect(flux.history_file)) as history:
        history.execute("UPDATE submissions SET path = '/kept.png', status = 'finished'")
        history.commit()
    assert flux("wait", task_id, "-q").code == 4
    (kept,) = flux.history()
    assert (kept["status"], kept["path"], kept["exit_code"]) == ("finished", "/kept.png", None)


# Histories that cannot be written, and other hosts' histories


def test_wait_with_a_read_only_history(flux: Cli, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The task is found and its picture saved; a warning says that nothing is recorded."""
    task_id = submit(flux, "a kite")
    with tmpfs(tmp_path_factory.mktemp("state")) as state:
        shutil.copytree(flux.history_file.parent, state / "flux-cli")
        make_read_only(state)
        env = {"XDG_STATE_HOME": str(state)}
        for command in (["wait", "--all"], ["wait", task_id[:8]], ["fetch", "--last"]):
            done = flux(*command, env=env)
            assert (done.code, done.stdout != "") == (0, True)
            assert "nothing is recorded" in done.stderr
        assert flux("imagine", "a lamp", env=env).code == 6


def test_waiting_for_another_hosts_task(flux: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its outcome is recorded in this host's file, so that `wait --all` is done with it on every host."""

    def as_host(name: str) -> None:
        monkeypatch.setattr("flux_cli.storage.history.host_id", lambda: f"{name}-00000000")

    monkeypatch.setattr("flux_cli.storage.history.is_shared", lambda _: True)
    as_host("one")
    submit(flux, "a kite")
    as_host("two")
    assert len(flux("wait", "--all", "-q").lines) == 1
    for host in ("one", "two", "three"):
        as_host(host)
        assert flux("wait", "--all").stderr == "nothing left to save\n"
        assert [task["status"] for task in flux.history()] == ["finished"]
    assert len(flux("show").lines) == 1


def test_quiet_silences_the_warning_of_a_damaged_history(flux: Cli) -> None:
    task_id = submit(flux, FINISHED)
    for file in flux.history_file.parent.iterdir():
        file.write_bytes(b"not a database at all, " * 1000)
    flux.fails(0, "warning: the history ", "fetch", task_id)
    assert flux("fetch", task_id, "-q").stderr == ""
    assert flux("fetch", "--last", "-q").code == 6


def test_a_history_that_another_process_holds(flux: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A status that cannot be recorded is a warning, and the rows are printed."""
    task_id = submit(flux, FINISHED)
    with closing(History(flux.history_file)) as history, history.transaction():
        monkeypatch.setattr("flux_cli.storage.database.patiently.__defaults__", (0.0,))
        done = flux("fetch", task_id)
    assert (done.code, len(done.lines)) == (0, 1)
    assert "cannot use the history" in done.stderr
