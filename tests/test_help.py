"""Help: every command ends with examples, and each of them runs."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer

from flux_cli.main import app
from tests.conftest import FLUX_CLI, KEY, Cli, Service, wait_until

DOCUMENTED_ID = "64cd7965-1b78-42c8-b929-9d7751a2e149"
SERVERS = ("flux-cli sandbox", "flux-cli listen")


def leaves(group: Any = None, path: str = "flux-cli") -> dict[str, Any]:
    """Return all commands that have no subcommands, by what is typed for them."""
    group = group or typer.main.get_command(app)
    found: dict[str, Any] = {}
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        below = (
            leaves(command, f"{path} {name}") if hasattr(command, "list_commands") else {f"{path} {name}": command}
        )
        found |= below
    return found


def examples() -> dict[str, list[str]]:
    """Return the examples of each command, as they are to be typed, by what stands before `--help`."""
    group: Any = typer.main.get_command(app)
    commands = {"": group, "config": group.get_command(None, "config")}
    commands |= {path.removeprefix("flux-cli "): command for path, command in leaves().items()}
    return {path: re.findall(r"^\$ (.+)$", each.epilog or "", flags=re.M) for path, each in commands.items()}


def test_every_command_has_two_to_four_examples() -> None:
    """Subcommands and the program itself, too."""
    assert {path: lines for path, lines in examples().items() if not 2 <= len(lines) <= 4} == {}


def test_every_option_says_what_it_does() -> None:
    """In one or two sentences, with a full stop."""
    for path, command in leaves().items():
        assert command.help, path
        for parameter in command.params:
            if not parameter.hidden:
                assert re.search(r"\S+\.$", parameter.help or ""), f"{path} {parameter.name}: {parameter.help}"


PATHS = list(examples())
"""All that has a help page, by what is typed between `flux-cli` and `--help`."""


def shown(cli: Cli, path: str, columns: int) -> str:
    """Return a help page as it is at a width."""
    done = cli(*path.split(), "--help", env={"COLUMNS": str(columns), "LC_ALL": "C.UTF-8"})
    assert (done.code, done.stderr) == (0, "")
    return done.stdout


def names(text: str) -> set[str]:
    """Return the flags, models, variables and commands that a page names, if they stand whole in it."""
    words = r"(?<![\w-])(--[a-z][a-z-]*|-[a-z]\b|flux-[a-z0-9.-]*[a-z0-9]|[A-Z]+_[A-Z_]+)"
    return set(re.findall(words, text)) | set(re.findall(r"^  ([a-z]+)(?:  |$)", text, re.MULTILINE))


@pytest.mark.parametrize("path", PATHS)
def test_no_name_is_ever_cut(cli: Cli, path: str) -> None:
    """What a wide help names stands whole in a narrow one, and nothing is wider than the terminal."""
    wide = shown(cli, path, 200)
    assert "--help" in names(wide)
    for columns in (30, 40, 60, 80):
        narrow = shown(cli, path, columns)
        assert names(narrow) == names(wide)
        assert "…" in wide or "…" not in narrow
        if columns >= 40:  # but for a task id in an example
            assert max(map(len, narrow.split("Examples:")[0].splitlines())) <= columns


def test_no_program_text_in_help(cli: Cli) -> None:
    """Defaults, limits and variables are told in sentences, without types and fractions that say nothing."""
    for path in PATHS:
        text = shown(cli, path, 200)
        assert not re.search(r"<str>|<=|>=|\d\.0\b(?!\.)|\[(default|env var|required)|\d{7}", text), text
    assert "The model. Default: flux-pro. Environment: FLUX_CLI_MODEL." in shown(cli, "imagine", 200)
    assert "from 1 to 1000; fewer" in shown(cli, "batch", 200)


def test_examples_of_a_narrow_help_can_be_copied(cli: Cli) -> None:
    """A line that is too long goes on after a backslash, never inside of quotes."""
    for name, lines in examples().items():
        text = shown(cli, name, 40).partition("Examples:")[2]
        assert [line.strip() for line in re.sub(r" \\\n +", " ", text).splitlines() if line] == [
            f"$ {line}" for line in lines
        ]


def test_help_on_a_terminal_without_utf_8(cli: Cli) -> None:
    """An ASCII terminal gets a question mark where the help has a character that it does not know."""
    env = {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = cli.process("listen", "--help", env=env)
    assert (done.code, done.stderr) == (0, "")
    assert "SECRET=? flux-cli listen" in done.stdout


@pytest.fixture
def stage(flux: Cli) -> Cli:
    """A home with what the examples speak of: a finished task, files of ids, prompts and rows, a key's keeper."""
    done = flux("imagine", "a kite", "-o", "kite.png", "--width", "256", "--height", "256", "--json", "-q")
    task_id = done.objects[0]["task_id"]
    files = {
        "ids.txt": task_id,
        "key.txt": KEY,
        "secret.txt": "a-long-and-random-text",
        "prompts.txt": "a red kite\na blue kite\n",
        "rows.csv": "prompt,seed\na red kite,1\na blue kite,2\n",
        "rows.jsonl": "".join(f'{{"prompt": "kite {n}", "id": "k{n}"}}\n' for n in range(4)),
        "products.jsonl": '{"title": "a lamp", "sku": "L1"}\n',
        "task-id": task_id,
    }
    for name, content in files.items():
        (flux.cwd / name).write_text(content)
    (flux.cwd / "pictures").mkdir()
    flux("imagine", "dunes", "-o", "pictures/", "--sidecar", "--width", "256", "--height", "256", "-q")
    for name, value in {"model": "flux-pro", "output_dir": "."}.items():
        flux("config", "set", name, value)
    flux.env["FLUX_CLI_WEBHOOK_SECRET"] = "a-long-and-random-text"
    bin_directory = flux.home / "bin"
    bin_directory.mkdir()
    for name, script in {
        "pass": f"echo {KEY}",
        "xdg-open": "exit 0",
        "www-browser": "exit 0",
        "nano": "exit 0",
    }.items():
        (bin_directory / name).write_text(f"#!/bin/sh\n{script}\n")
        (bin_directory / name).chmod(0o755)
    flux.env["PATH"] = f"{bin_directory}:{FLUX_CLI.parent}:{flux.env['PATH']}"
    flux.env["BROWSER"] = "www-browser"
    return flux


def test_what_cannot_be_set_is_not_among_the_names(cli: Cli) -> None:
    """The key, which `set` refuses."""
    assert "api_key" in shown(cli, "config get", 80)
    assert "api_key" not in shown(cli, "config set", 80)


@pytest.mark.parametrize("path", PATHS)
def test_the_examples_run(stage: Cli, service: Service, subtests: pytest.Subtests, path: str) -> None:
    """Each as it stands, but for the id, the sandbox's address and a directory that only a web server has."""
    for example in examples()[path]:
        with subtests.test(example):
            run_example(stage, service, example)


def run_example(stage: Cli, service: Service, example: str) -> None:
    """Run one example of the help."""
    task_id = (stage.cwd / "task-id").read_text()
    command = example.replace(DOCUMENTED_ID, task_id).replace(DOCUMENTED_ID[:8], task_id[:8])
    command = command.replace("/var/www", str(stage.home))
    command = command.replace("http://127.0.0.1:8788", service.url).replace("…", "a-long-and-random-text")
    tools = re.findall(r"(?:^|\| )([a-z-]+)(?= )", command)
    if missing := [tool for tool in tools if not shutil.which(tool, path=stage.env["PATH"])]:
        pytest.skip(f"{', '.join(missing)} is not installed")
    if re.search(rf"(^| )({'|'.join(SERVERS)})(?!.*--list-faults)", command):
        serve(stage, command.replace("flux-cli", "exec flux-cli", 1))
        return
    if "--api-url" in command:
        del stage.env["APIFRAME_API_KEY"]
    if "wait --last" in command:
        stage("imagine", "x", "--no-wait", "-q")
    stdin = KEY if command == "flux-cli login" else ""
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=stage.cwd,
        env=stage.env,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr


def serve(stage: Cli, command: str) -> None:
    """Run an example that serves until Ctrl-C; on a port of its own, since others may run beside it."""
    command = f"{command} --port 0"
    output = Path(stage.home / "output")
    with output.open("wb") as file:
        process = subprocess.Popen(
            ["bash", "-c", command],
            cwd=stage.cwd,
            env=stage.env,
            stdout=file,
            stderr=file,
            stdin=subprocess.DEVNULL,
        )
        wait_until(lambda: "http://" in output.read_text() or process.poll() is not None)
        assert process.poll() is None, output.read_text()
        process.send_signal(2)
        assert process.wait(20) == 130, output.read_text()
