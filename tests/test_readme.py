"""Every command in the README runs, in order, and prints what the README shows."""

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE

import pytest

from flux_cli.commands import SUMMARIES
from flux_cli.errors import ExitCode
from tests.conftest import FLUX_CLI, Cli, tool

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")
SANDBOX_URL = "http://127.0.0.1:8788"
TASK_SECONDS = 0.1
COMMAND = f"""\
#!{sys.executable}
from flux_cli import main, sandbox
from flux_cli.sandbox import render
sandbox.running.__wrapped__.__kwdefaults__["seconds"] = {TASK_SECONDS}
render.DEFAULT_SIZE = (256, 192)
main.run()
"""
"""The command: tasks of the embedded sandbox are short, and pictures small."""


def blocks(language: str, text: str = TEXT) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.M | re.S)


CHAPTERS = {
    title: blocks("console", text)
    for title, text in re.findall(r"^## ([^\n]*)\n(.*?)(?=^## |\Z)", TEXT, flags=re.M | re.S)
    if "```console" in text
}
"""The console blocks by chapter."""


def steps(text: str) -> Iterator[tuple[str, int, list[str]]]:
    """Yield each command of a block with its exit code (from a comment `# exit N`) and its output."""
    for step in re.split(r"^\$ ", text, flags=re.M)[1:]:
        command, *output = step.rstrip("\n").split("\n")
        code = re.search(r"# exit (\d+)$", command)
        yield command, int(code[1]) if code else 0, output


def pattern(line: str) -> str:
    """Return a pattern for a line of output: IDs differ from run to run, and `…` is any text."""
    escaped = re.escape(line).replace("…", ".*")
    escaped = re.sub(r"[0-9a-f]{8}(\\-[0-9a-f]{4}){3}\\-[0-9a-f]{12}", "[0-9a-f-]{36}", escaped)
    return re.sub(r"(?<=\\-)[0-9a-f]{8}(?=\\\.)|(?<=task\\ )[0-9a-f]{8}", "[0-9a-f]{8}", escaped)


def test_the_readme_is_short() -> None:
    assert len(TEXT.splitlines()) <= 250
    assert len(CHAPTERS) >= 4


class Shell:
    """A bash that runs the commands of a chapter."""

    def __init__(self, cli: Cli, stack: contextlib.ExitStack) -> None:
        self._cli, self._stack, self._url = cli, stack, SANDBOX_URL
        bash = subprocess.Popen(["bash"], cwd=cli.cwd, env=cli.env, text=True, stdin=PIPE, stdout=PIPE)
        self._bash = stack.enter_context(bash)

    def run(self, command: str) -> tuple[int, str]:
        """Return the exit code and what is on stdout, followed by errors, warnings and hints."""
        if command == "flux-cli sandbox &":
            return 0, self._start()
        stdin, stdout = self._bash.stdin, self._bash.stdout
        assert stdin
        assert stdout
        stderr = self._cli.home / "stderr"
        stdin.write(f"{{ {command.replace(SANDBOX_URL, self._url)}\n}} 2>{stderr}; printf '\\nexit %d\\n' $?\n")
        stdin.flush()
        lines: list[str] = []
        while not (lines and (end := re.fullmatch(r"exit (\d+)\n", lines[-1]))):
            lines.append(stdout.readline())
        notes = re.findall(r"^(?:error|warning|hint): .*\n", stderr.read_text(), flags=re.M)
        return int(end[1]), "".join([*lines[:-1], *notes])

    def _start(self) -> str:
        """Run the sandbox on free ports; return what it prints, with the URL of the README."""
        job = self._cli.start("sandbox", "--port", "0", "--seconds", str(TASK_SECONDS))
        self._stack.callback(job.communicate)
        self._stack.callback(job.terminate)
        assert job.stdout is not None
        printed = [job.stdout.readline().decode() for _ in range(3)]
        self._url = printed[0].strip()
        return "".join(printed).replace(self._url, SANDBOX_URL)


@pytest.fixture
def shell(cli: Cli) -> Cli:
    path = cli.home / "bin" / "flux-cli"
    path.parent.mkdir()
    path.write_text(COMMAND)
    path.chmod(0o700)
    cli.env |= {"FLUX_CLI_SANDBOX": "1", "PATH": f"{path.parent}:{cli.env['PATH']}"}
    return cli


@pytest.mark.needs("jq", "curl", "file")
@pytest.mark.parametrize("chapter", CHAPTERS)
def test_console_blocks(shell: Cli, chapter: str) -> None:
    with contextlib.ExitStack() as stack:
        runner = Shell(shell, stack)
        for command, expected, output in (step for text in CHAPTERS[chapter] for step in steps(text)):
            code, shown = runner.run(command)
            shown = re.sub(r"\s+$", "", shown, flags=re.M).lstrip("\n")
            assert code == expected, f"$ {command}\n{shown}"
            assert re.fullmatch("\n".join(map(pattern, output)), shown, flags=re.S), f"$ {command}\n{shown}"


def test_tables() -> None:
    codes = re.findall(r"^\| ([\d, ]+) \|", TEXT, flags=re.M)
    assert {int(code) for row in codes for code in row.split(",")} == {int(code) for code in ExitCode}
    commands = re.findall(r"^\| (`.*?) \| ", TEXT, flags=re.M)
    assert {name for row in commands for name in re.findall(r"`([a-z]+)", row)} >= set(SUMMARIES)


def recipe(language: str, word: str) -> str:
    (text,) = [text for text in blocks(language) if word in text]
    return text


def test_make_recipe(shell: Cli) -> None:
    (shell.cwd / "Makefile").write_text(recipe("make", "hero.png"))
    for _ in range(2):
        subprocess.run(["make", "hero.png"], cwd=shell.cwd, env=shell.env, check=True, capture_output=True)
    assert (shell.cwd / "hero.png").read_bytes().startswith(b"\x89PNG")
    assert len(shell.history()) == 1


def test_cron_recipe(shell: Cli) -> None:
    """In the environment of cron, it saves a picture and prints nothing."""
    directory = shell.home / ".local" / "bin"
    directory.mkdir(parents=True)
    (directory / "flux-cli").symlink_to(shell.home / "bin" / "flux-cli")
    *_, command = recipe("crontab", "flux-cli").split(maxsplit=5)
    env = {"HOME": str(shell.home), "PATH": "/usr/bin:/bin", "SHELL": "/bin/sh", "FLUX_CLI_SANDBOX": "1"}
    done = subprocess.run(["/bin/sh", "-c", command], cwd=shell.cwd, env=env, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert [path.suffix for path in (shell.home / "Pictures").iterdir()] == [".png"]


def test_ci_recipe(shell: Cli) -> None:
    text = recipe("yaml", "steps:")
    shell.env |= re.findall(r'(FLUX_CLI_SANDBOX): "(.*)"', text)
    (shell.cwd / "prompts.txt").write_text("a red kite\na blue kite\n")
    commands = re.findall(r"run: (flux-cli .*)", text)
    assert commands
    for command in commands:
        subprocess.run(["bash", "-e", "-c", command], cwd=shell.cwd, env=shell.env, check=True)
    assert len(list((shell.cwd / "pictures").glob("*.png"))) == 2


def test_case_recipe(shell: Cli) -> None:
    """It ends at once if the picture exists, and passes on the error for a file that exists."""
    command = ["sh", "-c", recipe("sh", "case $?")]
    for code in (0, 1):
        done = subprocess.run(command, cwd=shell.cwd, env=shell.env, capture_output=True, check=False)
        assert done.returncode == code, done.stderr
    assert shell.files() == ["hero.png"]


def test_startup_lines_of_the_manual(cli: Cli) -> None:
    """They enable completion in shells that do not find the scripts; test_completions.py types the first two."""
    manual = (README.parent / "man" / "flux-cli-completion.7.rst").read_text(encoding="utf-8")
    for line in ("source <(flux-cli --show-completion bash)", "source <(flux-cli --show-completion zsh)"):
        assert f"    {line}\n" in manual
    line = "flux-cli --show-completion fish | source"
    assert f"    {line}\n" in manual
    env = {**cli.env, "PATH": f"{FLUX_CLI.parent}:{cli.env['PATH']}"}
    command = [tool("fish"), "-c", f"{line}; complete -C 'flux-cli acc'"]
    done = subprocess.run(command, cwd=cli.cwd, env=env, capture_output=True, text=True, check=True)
    assert (done.stdout.split("\t")[0], done.stderr) == ("account", "")
