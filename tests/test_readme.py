"""Every command in the README runs, in order, and prints what the README shows."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flux_cli import sandbox
from tests.conftest import FLUX_CLI, Cli, tool

README = Path(__file__).parents[1] / "README.md"
ANYTHING = "…"
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
"""The command for scripts: tasks of the embedded sandbox are short, and pictures small."""


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
    """Return the console blocks by chapter."""
    found: dict[str, list[str]] = {}
    for chapter, text in blocks():
        found.setdefault(chapter, []).append(text)
    return found


def steps(text: str) -> Iterator[tuple[str, int, list[str]]]:
    """Yield each command of a block with its exit code (from a comment `# exit N`) and its output."""
    for step in re.split(r"^\$ ", text, flags=re.M)[1:]:
        command, *output = step.rstrip("\n").split("\n")
        code = re.search(r"# exit (\d+)$", command)
        yield command, int(code[1]) if code else 0, output


def pattern(line: str) -> str:
    """Return a pattern for a line of output: IDs differ from run to run, and `…` is any text."""
    escaped = re.escape(line).replace(re.escape(ANYTHING), ".*")
    escaped = re.sub(r"[0-9a-f]{8}(\\-[0-9a-f]{4}){3}\\-[0-9a-f]{12}", "[0-9a-f-]{36}", escaped)
    return re.sub(r"(?<=\\-)[0-9a-f]{8}(?=\\\.)|(?<=task\\ )[0-9a-f]{8}", "[0-9a-f]{8}", escaped)


def test_the_readme_is_short() -> None:
    """Three screens long, with blocks that can be run."""
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 250
    assert len(chapters()) >= 4


class Shell:
    """Runs the commands of a chapter: flux-cli in this process, and the rest in bash."""

    def __init__(self, cli: Cli) -> None:
        """Commands share the directory and the environment."""
        self.cli = cli
        self.url = SANDBOX_URL
        self._jobs: list[subprocess.Popen[bytes]] = []

    def run(self, command: str) -> tuple[int, str]:
        """Return the exit code and what is on stdout, followed by errors, warnings and hints."""
        command = command.replace(SANDBOX_URL, self.url)
        lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = list(lexer)
        if words[0] == "export":
            self.cli.env |= dict(word.split("=", 1) for word in words[1:])
            return 0, ""
        if words[0] == "unset":
            del self.cli.env[words[1]]
            return 0, ""
        if words[0] != "flux-cli":
            return self._bash(command)
        if words[-1] == "&":
            return 0, self._start(words[1:-1])
        piped = "|" in words
        arguments = words[1 : words.index("|")] if piped else words[1:]
        return self._flux(arguments, command.partition(" | ")[2] if piped else "")

    def close(self) -> None:
        """End what runs in the background."""
        for job in self._jobs:
            job.terminate()
            job.communicate()

    def _flux(self, words: list[str], rest: str) -> tuple[int, str]:
        source = target = None
        if "<" in words:
            words, source = words[: words.index("<")], self.cli.cwd / words[-1]
        elif ">" in words:
            words, target = words[: words.index(">")], self.cli.cwd / words[-1]
        done = self.cli(*words, input=source.read_bytes() if source else None)
        notes = "".join(re.findall(r"^(?:error|warning|hint): .*\n", done.stderr, flags=re.M))
        if target:
            target.write_bytes(done.stdout_bytes)
            return done.code, notes
        if not rest:
            return done.code, done.stdout + notes
        code, shown = self._bash(rest, done.stdout_bytes)
        return code, shown + notes

    def _bash(self, command: str, content: bytes = b"") -> tuple[int, str]:
        done = subprocess.run(
            ["bash", "-c", command],
            input=content,
            cwd=self.cli.cwd,
            env=self.cli.env,
            capture_output=True,
            check=False,
        )
        return done.returncode, done.stdout.decode()

    def _start(self, words: list[str]) -> str:
        """Run the sandbox on free ports; return what it prints, with the URL of the README."""
        assert words == ["sandbox"]
        job = self.cli.start("sandbox", "--port", "0", "--seconds", str(TASK_SECONDS))
        self._jobs.append(job)
        assert job.stdout is not None
        printed = [job.stdout.readline().decode() for _ in range(3)]
        self.url = printed[0].strip()
        return "".join(printed).replace(self.url, SANDBOX_URL)


@pytest.fixture
def shell(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command, also on the PATH of a shell, with the sandbox as its service."""
    defaults = sandbox.running.__wrapped__.__kwdefaults__  # type: ignore[attr-defined] # of contextmanager
    monkeypatch.setitem(defaults, "seconds", TASK_SECONDS)
    path = cli.home / "bin" / "flux-cli"
    path.parent.mkdir()
    path.write_text(COMMAND)
    path.chmod(0o700)
    cli.env |= {"FLUX_CLI_SANDBOX": "1", "PATH": f"{path.parent}:{cli.env['PATH']}"}
    return cli


@pytest.mark.needs("jq", "curl", "file")
@pytest.mark.parametrize("chapter", chapters())
def test_console_blocks(shell: Cli, chapter: str) -> None:
    """The commands of a chapter exit as they say and print what the README shows."""
    runner = Shell(shell)
    try:
        for text in chapters()[chapter]:
            for command, expected, output in steps(text):
                code, shown = runner.run(command)
                shown = re.sub(r"\s+$", "", shown, flags=re.M)
                assert code == expected, f"$ {command}\n{shown}"
                assert re.fullmatch("\n".join(map(pattern, output)), shown, flags=re.S), f"$ {command}\n{shown}"
    finally:
        runner.close()


def test_every_exit_code_is_in_the_table() -> None:
    """The README's table and the code's enumeration agree."""
    from flux_cli.errors import ExitCode

    table = re.findall(r"^\| ([\d, ]+) \|", README.read_text(encoding="utf-8"), flags=re.M)
    assert {int(code) for row in table for code in row.split(",")} == {int(code) for code in ExitCode}


def test_every_command_is_in_the_table() -> None:
    """The table of commands is complete."""
    from flux_cli.commands import SUMMARIES

    rows = re.findall(r"^\| (`.*?) \| ", README.read_text(encoding="utf-8"), flags=re.M)
    assert {name for row in rows for name in re.findall(r"`([a-z]+)", row)} >= set(SUMMARIES)


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
    """In the environment of cron, it saves a picture and prints nothing."""
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
    recipe = block("yaml", "steps:")
    variable = re.search(r'(FLUX_CLI_SANDBOX): "(.*)"', recipe)
    assert variable is not None
    (shell.cwd / "prompts.txt").write_text("a red kite\na blue kite\n")
    commands = re.findall(r"run: (flux-cli .*)", recipe)
    assert commands
    shell.env[variable[1]] = variable[2]
    for command in commands:
        subprocess.run(["bash", "-e", "-c", command], cwd=shell.cwd, env=shell.env, timeout=60, check=True)
    assert len(list((shell.cwd / "pictures").glob("*.png"))) == 2


def test_case_recipe(shell: Cli) -> None:
    """It ends at once if the picture exists, and passes on the error for a file that exists."""
    recipe = block("sh", "case $?")
    for code in (0, 1):
        done = subprocess.run(["sh", "-c", recipe], cwd=shell.cwd, env=shell.env, capture_output=True, check=False)
        assert done.returncode == code, done.stderr
    assert shell.files() == ["hero.png"]


@pytest.mark.parametrize(
    ("shell", "before", "after", "shown"),
    [
        ("bash", "", "complete -p flux-cli", "_flux_cli flux-cli"),
        ("zsh", "autoload -Uz compinit; compinit -u -D", "print $_comps[flux-cli]", "_flux-cli"),
        ("fish", "", "complete -C 'flux-cli acc'", "account"),
    ],
)
def test_startup_line_of_the_manual(cli: Cli, shell: str, before: str, after: str, shown: str) -> None:
    """It enables completion in a shell that does not find the scripts by itself."""
    tool(shell)
    manual = README.with_name("man") / "flux-cli-completion.7.rst"
    line = re.search(rf"^ +(\S.*--show-completion {shell}\b.*)$", manual.read_text(encoding="utf-8"), flags=re.M)
    assert line is not None
    env = {**cli.env, "PATH": f"{FLUX_CLI.parent}:{cli.env['PATH']}"}
    code = "\n".join([before, line[1], after])
    done = subprocess.run([shell, "-c", code], cwd=cli.cwd, env=env, capture_output=True, text=True, check=True)
    assert shown in done.stdout
    assert done.stderr == ""
