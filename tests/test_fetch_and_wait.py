"""`flux-cli fetch` and `flux-cli wait`, as processes against the sandbox."""

import json
import sqlite3

import pytest

from tests.conftest import Cli, Service

SMALL = ("--width", "256", "--height", "256", "-q")
UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"


def submit(flux: Cli, prompt: str) -> str:
    """Submit a prompt and return the task's id."""
    done = flux("imagine", prompt, "--no-wait", *SMALL)
    assert done.code == 0, done.stderr
    return done.lines[0]


def test_a_look_is_a_row_with_tabs_between(flux: Cli) -> None:
    """`task_id`, status, percentage, image_url; nothing on stderr."""
    running, finished = submit(flux, "a [[never]]"), submit(flux, "b [[seconds 0]]")
    done = flux("fetch", running, finished)
    assert (done.code, done.stderr) == (0, "")
    first, second = (line.split("\t") for line in done.lines)
    assert (first[0], first[1], first[3]) == (running, "processing", "")
    assert 0 <= float(first[2]) < 100
    assert (second[0], second[1], second[2]) == (finished, "finished", "100")
    assert second[3].startswith("http://127.0.0.1:")


@pytest.mark.parametrize(
    ("prompts", "code"),
    [
        (["a [[seconds 0]]"], 0),
        (["a [[never]]"], 8),
        (["a [[fail]][[seconds 0]]"], 4),
        (["a [[seconds 0]]", "b [[never]]"], 8),
        (["a [[never]]", "b [[fail]][[seconds 0]]"], 4),
    ],
)
def test_exit_status_tells_how_the_tasks_stand(flux: Cli, prompts: list[str], code: int) -> None:
    """0 all finished, 4 any failed, 8 any running; without the flag a look that worked is 0."""
    ids = [submit(flux, prompt) for prompt in prompts]
    assert flux("fetch", *ids, "--exit-status").code == code
    assert flux("fetch", *ids).code == 0


def test_an_unknown_id_is_exit_4_and_the_others_are_told_all_the_same(flux: Cli) -> None:
    """One bad id costs the rest nothing, in text and in JSON."""
    known = submit(flux, "a [[seconds 0]]")
    done = flux("fetch", UNKNOWN_ID, known)
    assert done.code == 4
    assert [line.split("\t")[0] for line in done.lines] == [known]
    assert f"error: {UNKNOWN_ID}:" in done.stderr
    first, second = flux("fetch", "--json", UNKNOWN_ID, known).objects
    assert (first["exit_code"], first["raw"], second["exit_code"]) == (4, None, 0)
    assert first["error"]


def test_fetch_downloads_what_is_finished(flux: Cli) -> None:
    """`-o` saves it; a task that still runs is only told of."""
    finished, running = submit(flux, "a [[seconds 0]]"), submit(flux, "b [[never]]")
    first, second = flux("fetch", "--json", "-o", "{n}.{ext}", finished, running).objects
    assert (first["path"], second["path"]) == ("1.png", None)
    assert flux.files() == ["1.png"]
    assert flux.history("--search", finished)[0]["path"] == str(flux.cwd / "1.png")


@pytest.mark.parametrize("form", ["bare", "json", "mixed with blanks"])
def test_ids_come_from_stdin(flux: Cli, form: str) -> None:
    """Bare ids and JSON Lines, once each."""
    one, two = submit(flux, "a [[seconds 0]]"), submit(flux, "b [[seconds 0]]")
    text = {
        "bare": f"{one}\n{two}\n{one}\n",
        "json": "".join(json.dumps({"task_id": task_id, "prompt": "x"}) + "\n" for task_id in (one, two)),
        "mixed with blanks": f"\n  {one} {two}\r\n\n{json.dumps({'task_id': one})}",
    }[form]
    assert [line.split("\t")[0] for line in flux("fetch", "-", input=text).lines] == [one, two]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"id": 3}', "line 1 of stdin"),
        ('{"task_id": [3]}', "neither text nor a number"),
        ("{broken", "line 1 of stdin"),
        ("caf\xe9", "is not a task ID"),
        ("a\x1b[31mb", "is not a task ID"),
        ("x" * 201, "is not a task ID"),
    ],
)
def test_what_is_no_id_is_refused(flux: Cli, service: Service, text: str, message: str) -> None:
    """Exit 2, one clear line, and the service is not asked."""
    done = flux("fetch", "-", input=text)
    assert done.code == 2
    assert message in done.stderr
    assert "\x1b" not in done.stderr
    assert service.running.stats.fetches == 0


def test_a_pipeline_of_no_wait_and_wait_gets_the_picture(flux: Cli) -> None:
    """The contract's pipeline, with JSON Lines between the two."""
    submitted = flux("imagine", "a kite", "--no-wait", "--json", "-n", "2", *SMALL)
    done = flux("wait", "-", "-q", input=submitted.stdout)
    assert done.code == 0, done.stderr
    assert flux.files() == sorted(done.lines)
    assert len(done.lines) == 2


def test_many_ids_are_asked_for_twenty_at_a_time(flux: Cli, service: Service) -> None:
    """45 finished tasks take three requests, and come in the order asked for."""
    ids = flux("imagine", "a [[seconds 0]]", "--no-wait", "-n", "45", *SMALL).lines
    done = flux("fetch", "-", input="\n".join(ids))
    assert [line.split("\t")[0] for line in done.lines] == ids
    assert service.running.stats.fetches == 3


def test_wait_knows_what_the_history_knows(flux: Cli) -> None:
    """Prompt and seed of a task that was submitted here come back with its result."""
    (task_id,) = flux("imagine", "a kite", "--seed", "5", "--no-wait", *SMALL).lines
    (task,) = flux("wait", task_id, "--json", "-q").objects
    assert (task["prompt"], task["seed"], task["model"]) == ("a kite", 5, "flux-pro")
    assert task["path"] == f"a-kite-{task_id[:8]}.png"


def test_wait_last_and_all_take_what_is_not_saved_yet(flux: Cli) -> None:
    """The newest, then every one, then there is none left."""
    first, second, third = (submit(flux, prompt) for prompt in ("one", "two", "three"))
    assert flux("wait", "--last", "-q").lines == [f"three-{third[:8]}.png"]
    assert sorted(flux("wait", "--all", "-q").lines) == sorted([f"one-{first[:8]}.png", f"two-{second[:8]}.png"])
    done = flux("wait", "--all")
    assert (done.code, done.stderr) == (0, "nothing left to save\n")
    assert flux("wait", "--all", "-q").stderr == ""


def test_waiting_twice_yields_one_file(flux: Cli) -> None:
    """The same picture under the same name is not made a second file."""
    task_id = submit(flux, "a kite")
    assert flux("wait", task_id, "-q").lines == flux("wait", task_id, "-q").lines
    assert len(flux.files()) == 1


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("x [[fail]]", "errors"),
        ("x [[fail error]]", "error"),
        ("x [[fail message]]", "message"),
        ("x [[moderated]]", "moderat"),
    ],
)
def test_a_failed_task_prints_the_services_reason(flux: Cli, prompt: str, reason: str) -> None:
    """Exit 4, wherever the service puts the reason; and the history keeps it."""
    assert reason
    done = flux("imagine", prompt, "--json", *SMALL)
    (task,) = done.objects
    assert (done.code, task["status"], task["exit_code"]) == (4, "failed", 4)
    assert task["error"]
    assert task["error"] in done.stderr
    assert flux.history()[0]["error"] == task["error"]
    assert flux.files() == []


@pytest.mark.parametrize(
    "prompt",
    [
        "x [[no-status]]",
        "x [[no-percentage]]",
        "x [[string-percentage]]",
        "x [[completed]]",
        "x [[status staged]]",
        "x [[status quantum]]",
    ],
)
def test_answers_are_read_tolerantly(flux: Cli, prompt: str) -> None:
    """Each loose form of the service's answers ends in a picture."""
    done = flux("imagine", prompt, *SMALL)
    assert done.code == 0, done.stderr
    assert len(flux.files()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["wait"], "no task IDs"),
        (["wait", "--last", "--all"], "exclude each other"),
        (["wait", "--last", UNKNOWN_ID], "exclude each other"),
        (["wait", "--last"], "nothing left to save"),
        (["fetch"], "TASK_ID"),
    ],
)
def test_what_makes_no_sense_is_exit_2(flux: Cli, arguments: list[str], message: str) -> None:
    """Missing and contradicting arguments."""
    done = flux(*arguments)
    assert done.code == 2
    assert message in done.stderr


def test_worst_of_several_tasks_is_the_exit_code(flux: Cli) -> None:
    """A failed task among finished ones: 4, and the finished ones are saved."""
    good, bad = submit(flux, "a"), submit(flux, "b [[fail]]")
    done = flux("wait", good, bad, "--json", "-q")
    assert done.code == 4
    assert sorted(task["exit_code"] for task in done.objects) == [0, 4]
    assert len(flux.files()) == 1


def test_a_later_look_that_fails_takes_no_saved_picture_back(flux: Cli) -> None:
    """The service forgets a task that is saved: the history still says where the picture is."""
    (path,) = flux("imagine", "a kite [[fetch-http 404 1000]]", "-q", "--no-wait", *SMALL).lines or [""]
    (saved,) = flux("imagine", "a kite", "--json", *SMALL).objects
    with sqlite3.connect(flux.history_file) as history:
        history.execute(
            "UPDATE submissions SET path = '/kept.png', status = 'finished' WHERE task_id = ?", (path,)
        )
    assert flux("wait", path, "-q").code == 4
    (kept,) = [record for record in flux.history() if record["task_id"] == path]
    assert (kept["status"], kept["path"], kept["exit_code"]) == ("finished", "/kept.png", None)
    assert saved["path"] in flux.files()


def test_a_gateways_page_is_no_word_of_the_service(flux: Cli) -> None:
    """HTML with status 404 while the service is redeployed: the task is waited for, and is not called failed."""
    done = flux("imagine", "a kite [[fetch-html 2]]", *SMALL)
    assert done.code == 0, done.stderr


def test_fetch_to_stdout_claims_nothing_without_a_picture(flux: Cli) -> None:
    """A running task is exit 7 (8 where the status is asked for), an unknown one 4; stdout stays empty."""
    running = submit(flux, "a [[never]]")
    done = flux("fetch", running, "-o", "-")
    assert (done.code, done.stdout) == (7, "")
    assert "still runs" in done.stderr
    assert flux("fetch", running, "-o", "-", "--exit-status").code == 8
    done = flux("fetch", UNKNOWN_ID, "-o", "-")
    assert (done.code, done.stdout) == (4, "")
    assert "does not know the task" in done.stderr


def test_a_sandboxs_task_is_not_asked_for_elsewhere(cli: Cli) -> None:
    """Without `--sandbox` the service would only say that it does not know it."""
    (task_id,) = cli("imagine", "x", "--no-wait", "--sandbox", *SMALL).lines
    for command in ("wait", "fetch"):
        done = cli(command, task_id, env={"APIFRAME_API_KEY": "a-key-of-no-use"})
        assert done.code == 2
        assert "hint: add --sandbox" in done.stderr


def test_fetch_into_a_named_file_claims_nothing_without_it(flux: Cli) -> None:
    """As with `-o -`: 7 where the task still runs, 4 where it failed; a directory takes what there is."""
    running, failed = (
        flux("imagine", prompt, "--no-wait", "-q").lines[0] for prompt in ("a kite [[never]]", "x [[fail]]")
    )
    assert flux("wait", failed).code == 4
    assert [flux("fetch", task, "-o", "x.png").code for task in (running, failed)] == [7, 4]
    assert flux("fetch", running, "-o", "x.png", "--exit-status").code == 8
    assert flux("fetch", running, "-o", "there/").code == 0
    assert not (flux.cwd / "x.png").exists()


def test_an_id_that_the_service_does_not_know_has_one_status(flux: Cli) -> None:
    """`unknown` is for submissions whose outcome is in doubt."""
    for command in ("fetch", "wait"):
        (task,) = flux(command, "no-such-task", "--json").objects
        assert (task["status"], task["exit_code"]) == ("failed", 4)


def test_ids_in_a_file_with_a_byte_order_mark(flux: Cli) -> None:
    """As editors on Windows write them."""
    (task_id,) = flux("imagine", "x", "--no-wait", "-q").lines
    assert flux("wait", "-", "-q", input=f"\ufeff{task_id}\r\n").code == 0
