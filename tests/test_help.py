"""Help pages: their layout, and their examples, which all run."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer

from flux_cli import __version__
from flux_cli.main import app
from tests.conftest import FLUX_CLI, KEY, Cli, Done, Service, wait_until

DOCUMENTED_ID = "64cd7965-1b78-42c8-b929-9d7751a2e149"
PROGRAM: Any = typer.main.get_command(app)
SERVERS = ("flux-cli sandbox", "flux-cli listen")


def leaves(group: Any, path: str = "flux-cli") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        found |= leaves(command, f"{path} {name}") if hasattr(command, "commands") else {f"{path} {name}": command}
    return found


def examples() -> dict[str, list[str]]:
    commands = {"": PROGRAM, "config": PROGRAM.get_command(None, "config")}
    commands |= {path.removeprefix("flux-cli "): command for path, command in leaves(PROGRAM).items()}
    return {path: re.findall(r"^\$ (.+)$", each.epilog or "", flags=re.M) for path, each in commands.items()}


def test_number_of_examples() -> None:
    assert {path: lines for path, lines in examples().items() if not 2 <= len(lines) <= 4} == {}


def test_every_option_has_a_description() -> None:
    for path, command in leaves(PROGRAM).items():
        assert command.help, path
        for parameter in command.params:
            if not parameter.hidden:
                assert re.search(r"\S+\.$", parameter.help or ""), f"{path} {parameter.name}: {parameter.help}"


def shown(cli: Cli, path: str, columns: int) -> str:
    done = cli(*path.split(), "--help", env={"COLUMNS": str(columns), "LC_ALL": "C.UTF-8"})
    assert (done.code, done.stderr) == (0, "")
    return done.stdout


def names(text: str) -> set[str]:
    words = r"(?<![\w-])(--[a-z][a-z-]*|-[a-z]\b|flux-[a-z0-9.-]*[a-z0-9]|[A-Z]+_[A-Z_]+)"
    return set(re.findall(words, text)) | set(re.findall(r"^  ([a-z]+)(?:  |$)", text, re.MULTILINE))


@pytest.mark.parametrize("path", examples())
def test_names_are_never_cut(cli: Cli, path: str) -> None:
    wide = shown(cli, path, 200)
    assert "--help" in names(wide)
    for columns in (30, 40, 60, 80):
        narrow = shown(cli, path, columns)
        assert names(narrow) == names(wide)
        assert "…" in wide or "…" not in narrow
        if columns >= 40:  # but for a task id in an example
            assert max(map(len, narrow.split("Examples:")[0].splitlines())) <= columns


def test_no_program_text_in_help(cli: Cli) -> None:
    """Defaults, limits and variables are in sentences, without types."""
    for path in examples():
        text = shown(cli, path, 200)
        assert not re.search(r"<str>|<=|>=|\d\.0\b(?!\.)|\[(default|env var|required)|\d{7}", text), text
    assert "The model. Default: flux-pro. Environment: FLUX_CLI_MODEL." in shown(cli, "imagine", 200)
    assert "from 1 to 1000; fewer" in shown(cli, "batch", 200)
    assert "api_key" in shown(cli, "config get", 80)
    assert "api_key" not in shown(cli, "config set", 80)


@pytest.mark.parametrize("path", ["imagine", "config", "config set"])
def test_help_command(cli: Cli, path: str) -> None:
    for tty in (False, True):
        assert cli("help", *path.split(), tty=tty) == cli(*path.split(), "--help", tty=tty)
        assert cli("help", tty=tty) == cli("--help", tty=tty) == cli(tty=tty)


def test_version(cli: Cli) -> None:
    assert cli("-V") == cli("--version") == Done(0, f"flux-cli {__version__}\n", "")


def test_examples_can_be_copied(cli: Cli) -> None:
    """On a narrow terminal, long lines are continued with a backslash, never inside quotes."""
    for name, lines in examples().items():
        text = shown(cli, name, 40).partition("Examples:")[2]
        assert [line.strip() for line in re.sub(r" \\\n +", " ", text).splitlines() if line] == [
            f"$ {line}" for line in lines
        ]


def test_help_in_ascii(cli: Cli) -> None:
    """An ASCII terminal gets a question mark for every other character."""
    env = {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = cli.process("listen", "--help", env=env)
    assert (done.code, done.stderr) == (0, "")
    assert "SECRET=? flux-cli listen" in done.stdout


@pytest.fixture
def stage(flux: Cli) -> Cli:
    """A home for the examples: a finished task, files with IDs, prompts and rows, and a password manager."""
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
    for name in ("pass", "xdg-open", "www-browser", "nano"):
        (bin_directory / name).write_text(f"#!/bin/sh\necho {KEY}\n")
        (bin_directory / name).chmod(0o755)
    flux.env["PATH"] = f"{bin_directory}:{FLUX_CLI.parent}:{flux.env['PATH']}"
    flux.env["BROWSER"] = "www-browser"
    return flux


@pytest.mark.slow
@pytest.mark.parametrize("part", range(6))  # so that several workers can share them
def test_examples_run(stage: Cli, service: Service, subtests: pytest.Subtests, part: int) -> None:
    """Each as it is, except for the ID, the address of the sandbox and the directory of a web server."""
    env = stage.env
    forget_last = sorted(examples().items(), key=lambda item: item[0] == "forget")
    for path, lines in forget_last[part::6]:
        for example in lines:
            stage.env = dict(env)
            with subtests.test(f"{path}: {example}"):
                run_example(stage, service, example)


def run_example(stage: Cli, service: Service, example: str) -> None:
    task_id = (stage.cwd / "task-id").read_text()
    command = example.replace(DOCUMENTED_ID, task_id).replace(DOCUMENTED_ID[:8], task_id[:8])
    command = command.replace("/var/www", str(stage.home))
    command = command.replace("http://127.0.0.1:8788", service.url).replace("…", "a-long-and-random-text")
    tools = re.findall(r"(?:^|\| )([a-z-]+)(?= )", command)
    if missing := [tool for tool in tools if not shutil.which(tool, path=stage.env["PATH"])]:
        pytest.skip(f"NOT TESTED: {', '.join(missing)} is not installed")
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
    with (stage.home / "output").open("w+b") as output:
        process = subprocess.Popen(
            ["bash", "-c", f"{command} --port 0"],
            cwd=stage.cwd,
            env=stage.env,
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
        )
        written = Path(output.name)
        wait_until(lambda: "http://" in written.read_text() or process.poll() is not None)
        assert process.poll() is None, written.read_text()
        process.send_signal(2)
        assert process.wait(20) == 130, written.read_text()
