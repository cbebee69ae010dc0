"""Help: every command ends with examples, and each of them runs."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer

from flux_cli.main import COMMANDS, app
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
    """Return the examples of each command, as they are to be typed."""
    group: Any = typer.main.get_command(app)
    epilogs = {name: group.get_command(None, name).epilog or "" for name in COMMANDS}
    return {
        name: [line.replace("\\[", "[") for line in re.findall(r"^\$ (.+)$", epilog, flags=re.M)]
        for name, epilog in epilogs.items()
    }


def test_every_command_has_two_to_four_examples() -> None:
    """All but `logout`, about which there is nothing more to say."""
    assert {name: lines for name, lines in examples().items() if not 2 <= len(lines) <= 4} == {"logout": []}


def test_every_option_says_what_it_does() -> None:
    """In one or two sentences, with a full stop."""
    for path, command in leaves().items():
        assert command.help, path
        for parameter in command.params:
            if not parameter.hidden:
                assert re.search(r"\S+\.$", parameter.help or ""), f"{path} {parameter.name}: {parameter.help}"


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
    flux.env["FLUX_CLI_WEBHOOK_SECRET"] = "a-long-and-random-text"
    bin_directory = flux.home / "bin"
    bin_directory.mkdir()
    for name, script in {"pass": f"echo {KEY}", "xdg-open": "exit 0", "www-browser": "exit 0"}.items():
        (bin_directory / name).write_text(f"#!/bin/sh\n{script}\n")
        (bin_directory / name).chmod(0o755)
    flux.env["PATH"] = f"{bin_directory}:{FLUX_CLI.parent}:{flux.env['PATH']}"
    flux.env["BROWSER"] = "www-browser"
    return flux


@pytest.mark.parametrize("name", [name for name, lines in examples().items() if lines])
def test_the_examples_run(stage: Cli, service: Service, subtests: pytest.Subtests, name: str) -> None:
    """Each as it stands, but for the id, the sandbox's address and a directory that only a web server has."""
    for example in examples()[name]:
        with subtests.test(example):
            run_example(stage, service, example)


def run_example(stage: Cli, service: Service, example: str) -> None:
    """Run one example of the help."""
    task_id = (stage.cwd / "task-id").read_text()
    command = example.replace(DOCUMENTED_ID, task_id).replace("/var/www", str(stage.home))
    command = command.replace("http://127.0.0.1:8788", service.url).replace("…", "a-long-and-random-text")
    tools = re.findall(r"(?:^|\| )([a-z-]+)(?= )", command)
    if missing := [tool for tool in tools if not shutil.which(tool, path=stage.env["PATH"])]:
        pytest.skip(f"{', '.join(missing)} is not installed")
    if re.search(rf"(^| )({'|'.join(SERVERS)})(?!.*--list-faults)", command):
        serve(stage, command.replace("flux-cli", "exec flux-cli", 1))
        return
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
