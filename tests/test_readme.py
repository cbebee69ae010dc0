"""Every command in the README runs, in order, and prints what the README says."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import FLUX_CLI, Cli, port_to_come_back_to, tool

README = Path(__file__).parents[1] / "README.md"
ANYTHING = "…"
COMMAND = """\
#!{python}
import sys
from flux_cli import main, sandbox
sandbox.running.__wrapped__.__kwdefaults__["seconds"] = 0.2
ports = {{"listen": "{listen}", "sandbox": "{sandbox}"}}
if sys.argv[1:2] and sys.argv[1] in ports:
    sys.argv += ["--port", ports[sys.argv[1]]]
main.run()
"""
"""The command for the README's scripts: tasks of the embedded sandbox take 0.2 s, and ports are free ones."""


def blocks() -> Iterator[tuple[str, str]]:
    """Yield the chapter and the text of each console block."""
    chapter = ""
    text = README.read_text(encoding="utf-8")
    for part in re.split(r"^(#+ [^\n]*|```[a-z]*\n.*?\n```)$", text, flags=re.M | re.S):
        if part.startswith("#"):
            chapter = part.lstrip("# ")
        elif part.startswith("```console"):
            yield chapter, part.removeprefix("```console\n").removesuffix("\n```")


def chapters() -> dict[str, list[str]]:
    """Return the console blocks by chapter; those of one chapter share a directory, and run in order."""
    found: dict[str, list[str]] = {}
    for chapter, text in blocks():
        found.setdefault(chapter, []).append(text)
    return found


def steps(text: str) -> Iterator[tuple[str, int, list[str]]]:
    """Yield each command of a block with its exit code (`# exit N` behind it, else 0) and its output."""
    for step in re.split(r"^\$ ", text, flags=re.M)[1:]:
        command, *output = step.rstrip("\n").split("\n")
        while command.endswith("\\"):
            command = command[:-1] + output.pop(0)
        code = re.search(r"# exit (\d+)$", command)
        yield command, int(code[1]) if code else 0, output


def pattern(line: str) -> str:
    """Return a pattern for a line of output: ids and times differ from run to run, `…` stands for anything."""
    escaped = re.escape(line).replace(re.escape(ANYTHING), ".*")
    escaped = re.sub(r"[0-9a-f]{8}(\\-[0-9a-f]{4}){3}\\-[0-9a-f]{12}", "[0-9a-f-]{36}", escaped)
    escaped = re.sub(r"(?<=\\-)[0-9a-f]{8}(?=\\\.)", "[0-9a-f]{8}", escaped)
    escaped = re.sub(r"\bprocessing\b", "(processing|finished)", escaped)
    return re.sub(r"\d+\\\.\d(?=\\ s)", r"\\d+\\.\\d", escaped)


def test_console_blocks_are_found() -> None:
    """The blocks are found at all."""
    assert len(chapters()) > 3


def script(commands: list[str]) -> str:
    """Return a shell script that runs commands one after the other, each with its output and code in files."""
    lines = []
    for number, command in enumerate(commands):
        lines += [f"exec > out.{number} 2>&1 < /dev/null", command, f"echo $? > code.{number}"]
    return "\n".join([*lines, "kill $(jobs -p) 2> /dev/null; wait"])


@pytest.fixture
def shell(cli: Cli) -> Cli:
    """The command on the PATH of a shell, with the sandbox as its service."""
    ports = {"8787": str(port_to_come_back_to()), "8788": str(port_to_come_back_to())}
    path = cli.home / "bin" / "flux-cli"
    path.parent.mkdir()
    path.write_text(COMMAND.format(python=sys.executable, listen=ports["8787"], sandbox=ports["8788"]))
    path.chmod(0o700)
    cli.env |= {"FLUX_CLI_SANDBOX": "1", "PATH": f"{path.parent}:{cli.env['PATH']}", "PORTS": json.dumps(ports)}
    return cli


@pytest.mark.parametrize("chapter", chapters())
def test_console_blocks(shell: Cli, chapter: str) -> None:
    """The commands of a chapter, in one shell, exit as they say and print what the README shows."""
    steps_of_chapter = [step for text in chapters()[chapter] for step in steps(text)]
    records = shell.home / "records"
    records.mkdir()
    commands = script([command for command, _, _ in steps_of_chapter])
    for name in ("out", "code"):
        commands = commands.replace(f"> {name}.", f"> {records}/{name}.")
    for port, free in json.loads(shell.env["PORTS"]).items():
        commands = commands.replace(f":{port}", f":{free}")
    subprocess.run(["bash", "-c", commands], cwd=shell.cwd, env=shell.env, timeout=40, check=False)
    for number, (command, code, output) in enumerate(steps_of_chapter):
        shown = re.sub(r"\s+$", "", (records / f"out.{number}").read_text(), flags=re.M)
        assert (records / f"code.{number}").read_text().strip() == str(code), f"$ {command}\n{shown}"
        assert re.fullmatch("\n".join(map(pattern, output)), shown, flags=re.S), f"$ {command}\n{shown}"


def test_every_exit_code_is_in_the_table() -> None:
    """The README's table and the code's enumeration agree."""
    from flux_cli.errors import ExitCode

    table = re.findall(r"^\| ([\d, ]+) \|", README.read_text(encoding="utf-8"), flags=re.M)
    assert {int(code) for row in table for code in row.split(",")} == {int(code) for code in ExitCode}


def test_every_command_is_in_the_table() -> None:
    """The README's table of commands is complete."""
    from flux_cli.commands import SUMMARIES as COMMANDS

    table = README.read_text(encoding="utf-8").split("## Commands")[1].split("\n## ")[0]
    named = set(re.findall(r"`([a-z]+)[^`]*`", "".join(line.split(" | ")[0] for line in table.splitlines())))
    assert set(COMMANDS) <= named


def test_make_recipe(shell: Cli) -> None:
    """The target is made, and not made again."""
    recipe = re.search(r"```make\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.S)
    assert recipe is not None
    (shell.cwd / "Makefile").write_text(recipe[1])
    for _ in range(2):
        subprocess.run(
            ["make", "hero.png"], cwd=shell.cwd, env=shell.env, check=True, capture_output=True, timeout=60
        )
    assert (shell.cwd / "hero.png").read_bytes().startswith(b"\x89PNG")
    assert len(shell.history()) == 1


def block(language: str, word: str) -> str:
    """Return the README's block in a language that has a word in it."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(encoding="utf-8"), flags=re.M | re.S)
    (text,) = [text for text in found if word in text]
    return str(text)


def test_cron_recipe(shell: Cli) -> None:
    """With no more environment than cron gives, it makes a picture and says nothing."""
    directory = shell.home / ".local" / "bin"
    directory.mkdir(parents=True)
    (directory / "flux-cli").symlink_to(shell.home / "bin" / "flux-cli")
    *_, command = block("crontab", "flux-cli").split(maxsplit=5)
    env = {"HOME": str(shell.home), "PATH": "/usr/bin:/bin", "SHELL": "/bin/sh", "FLUX_CLI_SANDBOX": "1"}
    done = subprocess.run(
        ["/bin/sh", "-c", command], cwd=shell.cwd, env=env, capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert [path.suffix for path in (shell.home / "Pictures").iterdir()] == [".png"]


def test_ci_recipe(shell: Cli) -> None:
    """All its steps that call the command, in the environment that it sets."""
    recipe = block("yaml", "runs-on")
    variable = re.search(r'(FLUX_CLI_SANDBOX): "(.*)"', recipe)
    assert variable is not None
    (shell.cwd / "prompts.txt").write_text("a red kite\na blue kite\n")
    commands = re.findall(r"run: (flux-cli .*)", recipe)
    assert commands
    shell.env[variable[1]] = variable[2]
    for command in commands:
        subprocess.run(["bash", "-e", "-c", command], cwd=shell.cwd, env=shell.env, timeout=60, check=True)
    assert len(list((shell.cwd / "pictures").glob("*.png"))) == 2


@pytest.mark.parametrize(
    ("shell", "before", "after", "answer"),
    [
        ("bash", "", "complete -p flux-cli", "_flux_cli flux-cli"),
        ("zsh", "autoload -Uz compinit; compinit -u -D", "print $_comps[flux-cli]", "_flux-cli"),
        ("fish", "", "complete -C 'flux-cli acc'", "account"),
    ],
)
def test_shell_startup_line(cli: Cli, shell: str, before: str, after: str, answer: str) -> None:
    """It switches the completion on where the shell finds no script by itself."""
    tool(shell)
    line = re.search(rf"^(.*--show-completion {shell}.*?) +# ~", block("sh", "--show-completion"), flags=re.M)
    assert line is not None
    env = {**cli.env, "PATH": f"{FLUX_CLI.parent}:{cli.env['PATH']}"}
    code = "\n".join([before, line[1], after])
    done = subprocess.run([shell, "-c", code], cwd=cli.cwd, env=env, capture_output=True, text=True, check=True)
    assert answer in done.stdout
    assert done.stderr == ""
