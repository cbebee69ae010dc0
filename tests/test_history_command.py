"""`flux-cli history` and `flux-cli forget`."""

import hashlib
import os
import re
import time
from contextlib import closing
from pathlib import Path

import pytest

from flux_cli.api.task import Status
from flux_cli.storage.durations import parse_moment
from flux_cli.storage.history import History
from flux_cli.storage.record import Record
from flux_cli.ui import history_lines
from tests.conftest import KEY, Cli
from tests.server import Server, png

SERVICE = "https://api.example"
DIGEST = hashlib.sha256(png()).hexdigest()
NOW = 1_764_072_000.0  # 2025-11-25 12:00 UTC


@pytest.fixture
def tasks(cli: Cli) -> Cli:
    (cli.cwd / "kite.png").write_bytes(png())
    (cli.cwd / "other.png").write_bytes(png(7))
    outcomes: list[tuple[str, str | None, Status | None, dict[str, str | int | None]]] = [
        ("a kite", "aaaa0000-1", Status.FINISHED, {"path": str(cli.cwd / "kite.png"), "sha256": DIGEST}),
        ("a lamp", "aaaa1111-2", Status.FINISHED, {}),
        ("a wolf", "bbbb0000-3", Status.FAILED, {"error": "prompt was moderated", "exit_code": 4}),
        ("a boat", "cccc0000-4", None, {}),
        ("a moon", None, None, {}),
    ]
    with closing(History(cli.history_file)) as history:
        for prompt, task_id, status, columns in outcomes:
            model = "flux-dev" if prompt == "a wolf" else "flux-pro"
            service = "sandbox" if prompt == "a boat" else SERVICE
            (number,) = history.begin(service, [{"model": model, "prompt": prompt}])
            if task_id:
                history.accepted(number, task_id)
            if status:
                history.ended(number, status, **columns)
    return cli


def prompts(cli: Cli, *arguments: str) -> list[str]:
    """Return the prompts that `history` lists, in its order."""
    return [task["prompt"] for task in cli.history(*arguments)]


def test_in_a_pipe(tasks: Cli) -> None:
    """The newest first; the error has a column of its own."""
    rows = [line.split("\t")[1:] for line in tasks("history").lines]
    assert rows == [
        ["", "unknown", "a moon", "", ""],
        ["cccc0000-4", "processing", "a boat", "", ""],
        ["bbbb0000-3", "failed", "a wolf", "", "prompt was moderated"],
        ["aaaa1111-2", "finished", "a lamp", "", ""],
        ["aaaa0000-1", "finished", "a kite", str(tasks.cwd / "kite.png"), ""],
    ]


def test_on_a_terminal(tasks: Cli) -> None:
    """One line per task, the newest at the bottom; sandbox and unsaved tasks are recognisable."""
    done = tasks("history", tty=["stdout"], env={"COLUMNS": "80", "LINES": "24", "TERM": "dumb"})
    lines = [re.sub(r"\d+s ago ", "", line).split() for line in done.lines]
    assert lines == [
        ["task", "when", "status", "model", "prompt", "file"],
        ["aaaa0000", "finished", "pro", "a", "kite", "kite.png"],
        ["aaaa1111", "not", "saved", "pro", "a", "lamp"],
        ["bbbb0000", "failed", "dev", "a", "wolf"],
        ["cccc0000", "processing", "pro", "(sandbox)", "a", "boat"],
        ["-", "unknown", "pro", "a", "moon"],
    ]
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--status", "failed", "--status", "not-saved"], ["a wolf", "a lamp"]),
        (["--model", "flux-dev"], ["a wolf"]),
        (["--since", "1h", "--limit", "2"], ["a moon", "a boat"]),
        (["--until", "today"], []),
        (["--search", "KITE"], ["a kite"]),
        (["aaaa1"], ["a lamp"]),
        (["kite.png"], ["a kite"]),
    ],
)
def test_filters(tasks: Cli, arguments: list[str], expected: list[str]) -> None:
    assert prompts(tasks, *arguments) == expected


def test_a_prefix_of_several_tasks(tasks: Cli) -> None:
    """Exit 2, and the candidates. `--like` takes a unique one, as all commands do."""
    for command in ("history", "show", "forget", "fetch", "wait"):
        done = tasks.fails(2, "prefix aaaa is ambiguous: 2 tasks", command, "aaaa", env={"APIFRAME_API_KEY": KEY})
        assert "give one of aaaa1111-2, aaaa0000-1" in done.stderr
    assert tasks("imagine", "--like", "bbbb", "--dry-run").objects == [{"model": "flux-dev", "prompt": "a wolf"}]


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("history nothing.png", 6, "there is no file nothing.png"),
        ("history other.png", 6, "error: other.png is not a picture in the history"),
        ("history kite.png --status failed", 2, "cannot be combined"),
        ("history --since soon", 2, "--since"),
        ("history --status odd", 2, "--status"),
        ("forget", 2, "give either task IDs or `--before`"),
        ("forget aaaa1 --before 1h", 2, "give either task IDs or `--before`"),
        ("forget aaaa1 dddd0000", 6, "there is no task dddd0000 in the history"),
        ("forget --before soon", 2, "--before"),
        ("show .", 6, "error: . is not a file"),
        ("show pipe.png", 6, "error: pipe.png is not a file"),
    ],
)
def test_wrong_arguments(tasks: Cli, command: str, code: int, message: str) -> None:
    """One error each. No task is removed, and a named pipe is not opened."""
    os.mkfifo(tasks.cwd / "pipe.png")
    tasks.fails(code, message, *command.split())
    assert len(prompts(tasks)) == 5


def test_an_empty_history(cli: Cli, tasks: Cli, tmp_path: Path) -> None:
    """A terminal says so; a pipe stays empty."""
    empty = {"XDG_STATE_HOME": str(tmp_path / "empty")}
    assert cli("history", env=empty).stderr == cli("history", "--json", env=empty).stdout == ""
    assert cli("history", tty=["stdout"], env=empty).stderr == "the history is empty\n"
    assert tasks("history", "--search", "nothing", tty=["stdout"]).stderr == "no task matches\n"


def test_pager(tasks: Cli) -> None:
    """A history longer than the screen goes to the pager; without a pager it is printed."""
    (tasks.home / "pager").write_text(f"#!/bin/sh\ncat > {tasks.home}/paged\n")
    (tasks.home / "pager").chmod(0o755)
    env = {"PAGER": str(tasks.home / "pager"), "COLUMNS": "80", "LINES": "4", "TERM": "xterm"}
    for other in ({"LINES": "24"}, {"PAGER": "/no/such/pager"}, {"TERM": "dumb"}):
        assert len(tasks("history", tty=["stdout"], env={**env, **other}).lines) == 6
    assert not (tasks.home / "paged").exists()
    assert tasks("history", tty=["stdout"], env=env).stdout == ""
    assert (tasks.home / "paged").read_text().count("\n") == 6


def a_record(**columns: object) -> Record:
    values: dict[str, object] = {
        "number": 1,
        "created": NOW,
        "service": SERVICE,
        "status": Status.FINISHED,
        "task_id": "64cd7965-1b78-42c8-b929-9d7751a2e149",
        "model": "flux-pro",
        "prompt": "a sunflower field in the wind under a very big sky",
        "request": {},
        "path": "/pictures/2025/a-sunflower-field-in-the-wind-64cd7965.png",
        **columns,
    }
    return Record(**values)  # type: ignore[arg-type] # each is of its own type


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (200, "task when status model prompt file"),
        (80, "task when status model prompt file"),
        (60, "task when status prompt file"),
        (50, "task when status prompt"),
        (40, "task status prompt"),
        (20, "task status"),
    ],
)
def test_widths(width: int, columns: str) -> None:
    """No line is wider than the terminal: what is least important goes first."""
    wide = a_record(prompt="日本の庭園と桜の木、夕暮れ時の美しい景色" * 3, path=None)
    lines = history_lines.lines([a_record(), wide, a_record(service="sandbox")], width, NOW)
    header = lines[0].plain.split()
    assert header[: len(columns.split())] == columns.split()[: len(header)]
    if width > 30:
        assert header == columns.split()
        assert max(line.cell_len for line in lines) <= width


def test_shares() -> None:
    """Prompt and file share the space; of a path the end is kept, of a prompt the beginning."""
    line = history_lines.lines([a_record()], 80, NOW)[1].plain
    assert line.startswith("64cd7965  0s ago  finished  pro    a sunflower")
    assert line.endswith("64cd7965.png")
    assert line.count("…") == 2
    assert len(line) == 80
    short = history_lines.lines([a_record(prompt="x", path="/p/x.png")], 80, NOW)[1].plain
    assert short == "64cd7965  0s ago  finished  pro    x       /p/x.png"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0s ago"),
        (59, "59s ago"),
        (60, "1m ago"),
        (7200, "2h ago"),
        (86400 * 29, "29d ago"),
        (86400 * 31, "Oct 25"),
        (86400 * 400, "2024-10"),
    ],
)
def test_ages(seconds: float, text: str) -> None:
    assert history_lines.age(seconds, NOW - seconds) == text


def test_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As short as they can be: relative to the working directory, or to the home."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    cases: dict[str | None, str] = {
        None: "",
        "-": "(stdout)",
        f"{tmp_path}/x.png": "x.png",
        "/home/me/x.png": "~/x.png",
        "/home/mean/x.png": "/home/mean/x.png",
    }
    for path, shown in cases.items():
        assert history_lines.short_path(path) == shown
    monkeypatch.setenv("HOME", "/")
    assert history_lines.short_path("/x.png") == "/x.png"


@pytest.mark.parametrize(
    ("text", "ago"),
    [
        ("2h", 7200),
        ("7d", 7 * 86400),
        ("1h30m", 5400),
        ("2025-11-25T11:00:00", 3600),
        ("2025-11-25 11:00", 3600),
        ("2025-11-25T12:00+02:00", 7200),
        ("today", 43200),
        ("2025-11-25", 43200),
        ("Yesterday", 43200 + 86400),
    ],
)
def test_moments(monkeypatch: pytest.MonkeyPatch, text: str, ago: float) -> None:
    """Dates are local, ages are before now."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert parse_moment(text, NOW) == NOW - ago
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("text", ["", "5", "soon", "2025-13-01", "-2h"])
def test_no_moments(text: str) -> None:
    with pytest.raises(ValueError, match="takes a date"):
        parse_moment(text, NOW)


# forget


def test_forgetting(tasks: Cli) -> None:
    """By ID or prefix; the picture stays, and `wait --all` has nothing left to do."""
    done = tasks("forget", "aaaa1", "bbbb0000-3")
    assert (done.code, done.stdout) == (0, "")
    assert done.stderr == "removed 2 records from the history; 1 not saved\n"
    assert prompts(tasks) == ["a moon", "a boat", "a kite"]
    assert tasks("forget", "aaaa0000-1", "-q").stderr == ""
    assert tasks.files() == ["kite.png", "other.png"]
    env = {"APIFRAME_API_KEY": KEY, "FLUX_CLI_API_URL": SERVICE}
    assert tasks("wait", "--all", env=env).stderr == "nothing left to save\n"


def test_forgetting_from_stdin(tasks: Cli) -> None:
    """What `history --json` prints can be piped in."""
    listed = tasks("history", "--json", "--status", "not-saved").stdout
    assert tasks("forget", "-", input=listed).code == 0
    assert prompts(tasks) == ["a moon", "a boat", "a wolf", "a kite"]
    assert tasks("forget", "-", input="").stderr == "removed 0 records from the history\n"


def test_forgetting_what_is_old(tasks: Cli) -> None:
    assert tasks("forget", "--before", "1h").stderr == "removed 0 records from the history\n"
    assert tasks("forget", "--before", "0s").stderr == "removed 5 records from the history; 2 not saved\n"
    assert prompts(tasks) == []


def test_nothing_to_forget(cli: Cli) -> None:
    assert cli("forget", "--before", "1h").code == 0
    assert not cli.history_file.exists()


# show


def test_show_without_an_argument(tasks: Cli) -> None:
    """The newest picture that exists."""
    assert tasks("show").lines == [str(tasks.cwd / "kite.png")]
    with closing(History(tasks.history_file)) as history:
        for name in ("other.png", "gone.png"):
            (number,) = history.begin(SERVICE, [{"prompt": name}])
            history.ended(number, Status.FINISHED, path=str(tasks.cwd / name))
    assert tasks("show").lines == [str(tasks.cwd / "other.png")]


def test_show_without_any_picture(cli: Cli) -> None:
    cli.fails(6, "the history has no saved picture", "show")


def test_show_a_picture_that_was_renamed(tasks: Cli) -> None:
    """It is found in its directory by its content."""
    (tasks.cwd / "kite.png").rename(tasks.cwd / "best.png")
    (tasks.cwd / "another.png").write_bytes(png(9))
    (tasks.cwd / "directory.png").mkdir()
    assert tasks("show", "aaaa0").lines == [str(tasks.cwd / "best.png")]
    (tasks.cwd / "best.png").unlink()
    tasks.fails(6, "kite.png no longer exists", "show", "aaaa0")


def test_json(tasks: Cli) -> None:
    (task,) = tasks("history", "kite.png", "--json").objects
    assert task.pop("ended") >= task.pop("created")
    assert task == {
        **dict.fromkeys(("seed", "image_url", "original_path", "error", "exit_code", "batch", "row")),
        "service": SERVICE,
        "task_id": "aaaa0000-1",
        "status": "finished",
        "sha256": DIGEST,
        "model": "flux-pro",
        "prompt": "a kite",
        "request": {"model": "flux-pro", "prompt": "a kite"},
        "path": str(tasks.cwd / "kite.png"),
    }


def test_an_unreadable_record(tasks: Cli) -> None:
    with closing(History(tasks.history_file)) as history:
        history._connection.execute("UPDATE submissions SET status = 'odd' WHERE prompt = 'a wolf'")
    done = tasks("history")
    assert (done.code, len(done.lines)) == (0, 4)
    assert done.stderr == f"warning: skipped 1 unreadable record of the history {tasks.history_file}\n"


def test_one_task_on_a_terminal(tasks: Cli) -> None:
    """Everything that is known of it, such as why it failed."""
    done = tasks("history", "bbbb", tty=["stdout"], env={"COLUMNS": "80", "TERM": "dumb"})
    values = dict(line.split(maxsplit=1) for line in done.lines)
    assert values["task"].strip() == "bbbb0000-3"
    assert (values["status"].strip(), values["error"].strip()) == ("failed", "prompt was moderated")
    assert (values["model"].strip(), values["prompt"].strip()) == ("flux-dev", "a wolf")
    assert "file" not in values


def test_the_newest_task_of_a_service(tasks: Cli) -> None:
    """Neither another service's task nor a submission without an ID."""
    with Server() as server:
        env = {"APIFRAME_API_KEY": KEY, "FLUX_CLI_API_URL": server.url}
        with closing(History(tasks.history_file)) as history:
            history._connection.execute(
                "UPDATE submissions SET service = ? WHERE service = ?", (server.url, SERVICE)
            )
        assert tasks("fetch", "--last", env=env).lines[0].split("\t")[0] == "bbbb0000-3"
    assert tasks("fetch", "--last", env={**env, "FLUX_CLI_API_URL": "https://elsewhere"}).code == 2
