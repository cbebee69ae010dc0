"""Completion in real shells, and the program's responses to the scripts."""

import contextlib
import os
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from flux_cli.api.task import Status
from flux_cli.commands import SUMMARIES as COMMANDS
from flux_cli.completion import MAX_TASKS
from flux_cli.completion import SCRIPTS as SCRIPT_NAMES
from flux_cli.main import app
from flux_cli.storage.history import History
from tests.conftest import FLUX_CLI, Cli, Done, tool
from tests.screen import Screen

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "completions"

OLDEST, OLD, NEW, NEWEST = (
    "1d5e0001-0000-4000-8000-000000000000",
    "ee0e0002-0000-4000-8000-000000000000",
    "aa0e0003-0000-4000-8000-000000000000",
    "bb0e0004-0000-4000-8000-000000000000",
)
NEWEST_FIRST = [NEWEST, NEW, OLD, OLDEST]
PROMPTS = {
    OLDEST: "a red kite",
    OLD: 'it\'s a "dune": $HOME `x` [b] \\ %s',
    NEW: "a blue kite",
    NEWEST: "a blue kite",
}

TYPED = {
    "flux-cli his": "flux-cli history",
    "flux-cli imagine --model=flux-s": "flux-cli imagine --model=flux-schnell",
    "flux-cli imagine --aspect-ratio 21:": "flux-cli imagine --aspect-ratio 21:9",
    "flux-cli imagine --aspect-ratio=21": "flux-cli imagine --aspect-ratio=21:9",
    "flux-cli imagine --image-prompt pic": "flux-cli imagine --image-prompt picture.png",
    "flux-cli imagine --image-prompt=pic": "flux-cli imagine --image-prompt=picture.png",
    "flux-cli imagine --image-prompt my": r"flux-cli imagine --image-prompt my\ picture.png",
    "flux-cli imagine -o 'cat-{se": "flux-cli imagine -o 'cat-{seed}'",
    "flux-cli gallery al": "flux-cli gallery album/",
    "flux-cli wait 1d": f"flux-cli wait {OLDEST}",
    'flux-cli wait "1d': f'flux-cli wait "{OLDEST}"',
    f"flux-cli fetch {NEW} 1d": f"flux-cli fetch {NEW} {OLDEST}",
    'flux-cli imagine "é … ß" --ra': 'flux-cli imagine "é … ß" --raw',
    "X=1 flux-cli acc": "X=1 flux-cli account",
    "echo x | flux-cli wait 1d": f"echo x | flux-cli wait {OLDEST}",
    f"{FLUX_CLI} mod": f"{FLUX_CLI} models",
}
"""What is typed before a TAB, and the line after it."""


class ShellHome(Cli):
    """A home for running shells, with files and a history."""

    def run(self, *arguments: str, env: Mapping[str, str] | None = None) -> Done:
        done = subprocess.run(
            arguments, cwd=self.cwd, env={**self.env, **(env or {})}, stdin=subprocess.DEVNULL, capture_output=True
        )
        return Done.of(done.returncode, done.stdout, done.stderr)

    def answer(self, line: str) -> list[list[str]]:
        """Return the program's response to a script: kind, word and description of each candidate."""
        done = self(env={"_FLUX_CLI_COMPLETE": "zsh", "_FLUX_CLI_LINE": line})
        assert (done.code, done.stderr) == (0, "")
        return [each.split("\t") for each in done.stdout.splitlines()]

    def words(self, line: str) -> list[str]:
        """Return the words that the program offers, and `<file>` or `<dir>` if the shell completes those."""
        return [word if kind == "word" else f"<{kind}>" for kind, word, _ in self.answer(line)]


def remember(
    history: Path, prompts: dict[str, str], status: Status = Status.FINISHED, path: Path | str | None = None
) -> None:
    opened = History(history)
    with opened.transaction():
        for task_id, prompt in prompts.items():
            (number,) = opened.begin("sandbox", [{"model": "flux-pro", "prompt": prompt}])
            opened.accepted(number, task_id)
            opened.ended(number, status, path=str(path) if path else None)
    opened.close()


@pytest.fixture
def home(cli: Cli) -> ShellHome:
    """A home with four tasks in its history."""
    home = ShellHome(cli.home, {**cli.env, "PATH": f"{FLUX_CLI.parent}{os.pathsep}{cli.env['PATH']}"})
    home.env |= {"ZDOTDIR": str(home.home), "LC_ALL": "C.UTF-8"}
    for name in ("picture.png", "my picture.png"):
        (home.cwd / name).touch()
    (home.cwd / "album").mkdir()
    remember(home.history_file, PROMPTS, path=home.cwd / "picture.png")
    (home.home / ".bashrc").write_text(f"PS1='> '\nsource {SCRIPTS}/flux-cli.bash\n")
    (home.home / ".zshrc").write_text(
        f"PS1='> '\nfpath=({SCRIPTS} $fpath)\nautoload -Uz compinit\ncompinit -u -D\nLISTMAX=0\n"
    )
    return home


SHELLS = {"bash": ("bash", "--noprofile", "-i"), "zsh": ("zsh", "-d", "-i")}
LIST_OF_BASH, LIST_OF_ZSH = "\x1b?", "\x04"
"""The keys that list the candidates."""


@contextlib.contextmanager
def opened(home: ShellHome, shell: str, columns: int = 120) -> Iterator[Screen]:
    """Start a shell in a terminal, wait for its prompt, and leave it at the end."""
    tool(SHELLS[shell][0])
    screen = Screen(home, columns=columns, lines=40, program=SHELLS[shell])
    clear(screen)
    yield screen
    screen.type("\x15exit\r")
    screen.end()


def clear(screen: Screen) -> None:
    screen.until(lambda shown: any(line.startswith(">") for line in shown))
    screen.type("\x15\x0c")
    until_shown(screen, [">"])


def until_shown(screen: Screen, lines: list[str]) -> None:
    screen.until(lambda shown: shown == lines)


@pytest.mark.parametrize("shell", SHELLS)
def test_tab(home: ShellHome, shell: str) -> None:
    with opened(home, shell) as screen:
        for typed, completed in TYPED.items():
            screen.type(typed + "\t")
            until_shown(screen, [f"> {completed}"])
            clear(screen)
        # A prompt or a number: no files are offered.
        screen.type("flux-cli imagine pic\t--seed \tZ")
        until_shown(screen, ["> flux-cli imagine pic--seed Z"])


@pytest.mark.slow
@pytest.mark.needs("fish")
def test_fish(home: ShellHome) -> None:
    for typed, completed in TYPED.items():
        code = f"source {SCRIPTS}/flux-cli.fish; complete -C $argv[1]"
        done = home.run("fish", "--no-config", "-c", code, typed)
        offered = [line.split("\t")[0] for line in done.stdout.splitlines()]
        assert (done.stderr, offered) == ("", shlex.split(completed)[-1:]), typed


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("flux-cli", [f"{name:7}  -- {summary}" for name, summary in COMMANDS.items()]),
        ("flux-cli wait", [f"{each}  -- finished: {PROMPTS[each]}" for each in NEWEST_FIRST]),
    ],
)
def test_zsh_lists_candidates(home: ShellHome, line: str, expected: list[str]) -> None:
    """In their order, one per line, even if descriptions are equal or contain syntax of zsh."""
    with opened(home, "zsh") as screen:
        screen.type(f"{line} {LIST_OF_ZSH}")
        until_shown(screen, [f"> {line}", *expected])


@pytest.mark.needs("fish")
def test_fish_lists_tasks(home: ShellHome) -> None:
    code = f"source {SCRIPTS}/flux-cli.fish; complete -C 'flux-cli wait '"
    done = home.run("fish", "--no-config", "-c", code)
    assert done.lines == [f"{task_id}\tfinished: {PROMPTS[task_id]}" for task_id in NEWEST_FIRST]


def test_bash_lists_tasks(home: ShellHome) -> None:
    """The second TAB lists them, cut to the terminal; the first letter of one then inserts its ID."""
    with opened(home, "bash", 60) as screen:
        screen.type("flux-cli wait \t\t")
        tasks = [f"{task_id}  (finished: {PROMPTS[task_id][:8]}…)" for task_id in NEWEST_FIRST]
        until_shown(screen, ["> flux-cli wait", *tasks, "> flux-cli wait"])
        screen.type("1\t")
        until_shown(screen, ["> flux-cli wait", *tasks, f"> flux-cli wait {OLDEST}"])


def test_bash_lists_models_and_files(home: ShellHome) -> None:
    """Words of different lengths are in columns, also after `=`; a file has no description."""
    with opened(home, "bash") as screen:
        screen.type(f"flux-cli imagine --model=flux-pro{LIST_OF_BASH}")
        screen.until(lambda shown: len(shown) == 5)
        assert [line[:32] for line in screen.text[1:4]] == [
            "flux-pro            (the default",
            "flux-pro-1.1        (better and ",
            "flux-pro-1.1-ultra  (the highest",
        ]
        clear(screen)
        screen.type(f"flux-cli imagine --like {LIST_OF_BASH}")
        screen.until(lambda shown: shown.count("> flux-cli imagine --like") == 2)
        assert f"{NEWEST}  (finished: a blue kite)" in screen.text
        assert {"album", "my picture.png", "picture.png"} <= set(screen.text)


HOSTILE = {
    "cc0e0001-0000": "$(touch owned) `touch owned`; touch owned & \"x' \\ %s !! ~ * {a,b}\n\ttouch owned\r\x1b[2J",
    "cc0e0002-0000": "a 猫 猫猫猫猫猫猫猫猫猫猫猫猫猫猫猫猫猫猫猫猫猫猫猫猫猫猫猫猫猫猫猫猫猫猫猫猫猫猫猫猫猫",
    "cc0e0003": "(finished: $(touch owned)",
    "cc0e0003-0000": "(finished: $(touch owned)",
}


def test_bash_inserts_words_only(home: ShellHome) -> None:
    """No part of a description is inserted, whatever a prompt contains and whichever key completes the line."""
    remember(home.history_file, HOSTILE)
    remember(home.history_file, {"cc0e0002-0000": "the same task id once more"})
    (home.home / ".inputrc").write_text('"\\C-t": menu-complete\n"\\C-o": insert-completions\n')
    with opened(home, "bash", 60) as screen:
        screen.type("flux-cli wait c\t\t\t")
        listed = [
            "cc0e0002-0000  (finished: the same task id once more)",
            "cc0e0003-0000  (finished: (finished: $(touch owned))",
            "cc0e0003       (finished: (finished: $(touch owned))",
            "cc0e0001-0000  (finished: $(touch owned) `touch owned`; t…)",
        ]
        until_shown(screen, ["> flux-cli wait cc0e000", *listed, "> flux-cli wait cc0e000"])
        screen.resize(120)
        for keys, line in {
            "3\tZ": "cc0e0003Z",
            "3-\tZ": "cc0e0003-0000 Z",
            "\x14Z": "cc0e0002-0000 Z",
            "\x14\x14Z": "cc0e0003-0000 Z",
            "\x0fZ": "cc0e0002-0000 cc0e0003-0000 cc0e0003 cc0e0001-0000 Z",
        }.items():
            clear(screen)
            screen.type(f"flux-cli wait cc0e000{keys}")
            until_shown(screen, [f"> flux-cli wait {line}"])
        screen.resize(60)
        clear(screen)
        screen.type("bind 'set show-all-if-ambiguous on'\r")
        clear(screen)
        screen.type("flux-cli wait c\t")
        until_shown(screen, ["> flux-cli wait c", *listed, "> flux-cli wait cc0e000"])
    assert not (home.cwd / "owned").exists()


def test_bash_cuts_wide_characters(home: ShellHome) -> None:
    remember(home.history_file, {"cc0e01": "猫" * 50, "cc0e02": "ab" + "猫" * 50})
    with opened(home, "bash", 40) as screen:
        screen.type("flux-cli wait cc\t\t\t")
        listed = [f"cc0e02  (finished: ab{'猫' * 8}…)", f"cc0e01  (finished: {'猫' * 9}…)"]
        until_shown(screen, ["> flux-cli wait cc0e0", *listed, "> flux-cli wait cc0e0"])


@pytest.mark.parametrize("shell", SHELLS)
def test_source_the_script(home: ShellHome, shell: str) -> None:
    (home.home / ".bashrc").write_text("PS1='> '\n")
    (home.home / ".zshrc").write_text("PS1='> '\nautoload -Uz compinit\ncompinit -u -D\n")
    with opened(home, shell) as screen:
        screen.type(f"source <(flux-cli --show-completion {shell})\r")
        clear(screen)
        screen.type("flux-cli his\t")
        until_shown(screen, ["> flux-cli history"])


def test_show_completion(cli: Cli) -> None:
    for shell, name in SCRIPT_NAMES.items():
        assert cli("--show-completion", shell).stdout == (SCRIPTS / name).read_text()
    assert cli.fails(2, "bash, zsh, fish, powershell", "--show-completion", "csh").stdout == ""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "flux-cli imagine --model ",
            ["flux-pro", "flux-dev", "flux-pro-1.1", "flux-pro-1.1-ultra", "flux-schnell"],
        ),
        ("flux-cli imagine --interval ", ["1", "2", "3", "4"]),
        ("flux-cli imagine --no-v", ["--no-validate"]),
        ("flux-cli imagine --seed ", ["random"]),
        ("flux-cli imagine --steps ", []),
        ("flux-cli help wa", ["wait"]),
        ("flux-cli help config s", ["set"]),
        ("flux-cli --show-completion ", ["bash", "zsh", "fish", "powershell"]),
        ("flux-cli imagine ", []),
        ("flux-cli imagine 'a kite --ra", []),
        ('flux-cli imagine "a kite" --ra', ["--raw"]),
        ("flux-cli config ", ["path", "list", "get", "set", "unset", "edit"]),
        ("flux-cli config set api_k", []),
        ("flux-cli config get api_k", ["api_key"]),
        ("flux-cli config set models.flux-dev.st", ["models.flux-dev.steps"]),
        ("flux-cli forget 1d5e", [OLDEST]),
        ("flux-cli wait --an", ["--any"]),
        ("flux-cli fetch --l", ["--last"]),
        ("flux-cli config set sandbox ", ["true", "false"]),
        ("flux-cli sandbox --fault fetch-f", ["fetch-flaky"]),
        ("flux-cli wait ", NEWEST_FIRST),
        (f"flux-cli wait {NEW} ", [NEWEST, OLD, OLDEST]),
        ("flux-cli imagine --like ", [*NEWEST_FIRST, "<file>"]),
        ("flux-cli --version ", list(COMMANDS)),
        ("flux-cli imagine --help --ra", ["--raw"]),
        ("flux-cli imagine --safety-t", ["--safety-tolerance"]),
        ("flux-cli config set model flux-s", ["flux-schnell"]),
        ("flux-cli history --status fin", ["finished"]),
        ("flux-cli imagine --image-prompt pic", ["<file>"]),
        ("flux-cli imagine -o pic", ["<file>"]),
        ("flux-cli imagine --like=pic", ["<file>"]),
        ("flux-cli batch pic", ["<file>"]),
        ("flux-cli show pic", ["<file>"]),
        ("flux-cli listen --secret-file pic", ["<file>"]),
        ("flux-cli gallery -o pic", ["<file>"]),
        ("flux-cli batch rows.csv -o pic", ["<dir>"]),
        ("flux-cli gallery pic", ["<dir>"]),
        ("flux-cli config set output_dir pic", ["<dir>"]),
        # Errors are never reported while somebody types.
        ("flux-cli nosuch ", []),
        ("flux-cli nosuch --x", []),
        ("flux-cli wait --nosuch ", NEWEST_FIRST),
        ("x", []),
        ("", []),
    ],
)
def test_candidates(home: ShellHome, line: str, expected: list[str]) -> None:
    """Words and their order; the shell completes files itself."""
    assert home.words(line) == expected


def test_candidates_of_show(home: ShellHome) -> None:
    for name, status, path in (
        ("dd01", Status.PROCESSING, None),
        ("dd02", Status.FAILED, None),
        ("dd03", Status.FINISHED, None),
        ("dd04", Status.FINISHED, "-"),
        ("dd05", Status.FINISHED, home.cwd / "gone.png"),
        ("dd06", Status.FINISHED, home.cwd / "my picture.png"),
    ):
        remember(home.history_file, {name: "a kite"}, status, path)
    assert home.words("flux-cli show d") == ["dd06", "<file>"]
    assert home.words("flux-cli show ") == ["dd06", *NEWEST_FIRST, "<file>"]
    assert home.words("flux-cli wait dd0") == ["dd06", "dd05", "dd04", "dd03", "dd02", "dd01"]


def test_many_tasks(home: ShellHome) -> None:
    remember(home.history_file, {f"cc0e{n:04}-0000": f"prompt {n}" for n in range(300)})
    assert home.words("flux-cli wait ") == [f"cc0e{n:04}-0000" for n in range(299, 299 - MAX_TASKS, -1)]
    assert home.words("flux-cli wait cc0e010") == [f"cc0e{n:04}-0000" for n in range(109, 99, -1)]
    assert home.words("flux-cli wait 1") == [OLDEST]


HOSTILE_IDS = (
    "dd$(touch owned)",
    "dd`touch owned`",
    "dd;touch owned",
    "dd>owned",
    "dd{a,b}",
    "dd\ntouch owned",
    "dd é",
)


def test_unsafe_task_ids_are_not_offered(home: ShellHome) -> None:
    """The service chooses the IDs; no shell executes, expands or splits what is inserted."""
    remember(home.history_file, dict.fromkeys([*HOSTILE_IDS, "--force", "dd-fine:1"], "x"))
    assert home.words("flux-cli wait dd") == ["dd-fine:1"]
    assert "--force" not in home.words("flux-cli wait ")
    assert home.words("flux-cli imagine --like=dd") == ["--like=dd-fine:1", "<file>"]
    with opened(home, "bash") as screen:
        screen.type("flux-cli wait dd\tZ")
        until_shown(screen, ["> flux-cli wait dd-fine:1 Z"])
    assert not (home.cwd / "owned").exists()


def test_control_characters_in_a_prompt(home: ShellHome) -> None:
    remember(home.history_file, {"dd01": "red\x1b[31m\nword\tdd02\tfake\u202e kite"})
    assert home.answer("flux-cli wait dd") == [
        ["word", "dd01", "finished: red\\x1b[31m word dd02 fake\\u202e kite"]
    ]


@pytest.mark.parametrize("state", ["absent", "empty", "garbage", "locked", "in use", "a directory"])
def test_completion_never_writes(home: ShellHome, state: str) -> None:
    """No file is created or changed, and an unusable history has no candidates."""
    file = home.history_file
    writer = None
    if state in ("absent", "empty", "garbage", "a directory"):
        file.unlink()
    if state in ("empty", "garbage"):
        file.write_bytes(b"" if state == "empty" else b"SQLite format 3\0" + b"garbage" * 999)
    if state == "a directory":
        file.mkdir()
    if state in ("in use", "locked"):
        writer = sqlite3.connect(file, isolation_level=None)
        writer.execute("BEGIN EXCLUSIVE" if state == "locked" else "BEGIN IMMEDIATE")
        writer.execute("UPDATE submissions SET prompt = 'not yet'")
    before = {path: path.stat().st_size for path in home.home.rglob("*")}
    offered = home.answer("flux-cli wait ")
    assert {path: path.stat().st_size for path in home.home.rglob("*")} == before
    if writer:
        assert [description for _, _, description in offered][:1] == ["finished: a blue kite"]
        writer.close()
    else:
        assert offered == []


def test_imports(home: ShellHome) -> None:
    env = {"_FLUX_CLI_COMPLETE": "zsh", "_FLUX_CLI_LINE": "flux-cli wait "}
    code = (
        "import atexit, os, sys\nos._exit = sys.exit\n"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
        "from flux_cli.main import run\nrun()"
    )
    done = home.run(sys.executable, "-c", code, env=env)
    modules = set(done.stderr.split())
    assert NEWEST in done.stdout
    assert "flux_cli.commands.wait" in modules
    unneeded = {"requests", "rich", "platformdirs", "flux_cli.storage.history", "flux_cli.commands.imagine"}
    assert modules & unneeded == set()


def test_summaries() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    context = group.make_context("flux-cli", [], resilient_parsing=True)
    for name, summary in COMMANDS.items():
        command = group.get_command(context, name)
        assert command
        assert command.get_short_help_str(200) == summary


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_descriptions(home: ShellHome, command: str) -> None:
    """Plain text without markup, and no option of Typer to install a completion."""
    offered = home.answer(f"flux-cli {command} -")
    assert "--help" in [word for _, word, _ in offered]
    assert "--install-completion" not in [word for _, word, _ in offered]
    for _, word, description in offered:
        assert description
        assert "\\" not in description, word
