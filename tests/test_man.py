"""The manual: in step with the program, without a word from the linters, and read by man."""

import filecmp
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flux_cli.commands import SUMMARIES as COMMANDS
from flux_cli.errors import ExitCode
from tests.conftest import Cli

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "man").glob("flux-cli*.[0-9]"))


def shown(page: Path) -> str:
    """Return a page as man shows it, on a wide terminal and without overstriking."""
    env = {"PATH": os.environ["PATH"], "MANWIDTH": "200", "LC_ALL": "C.UTF-8", "MANROFFOPT": "-c"}
    done = subprocess.run(["man", "--local-file", page], env=env, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return re.sub(".\b", "", done.stdout)


def section(text: str, title: str) -> str:
    """Return what a page says under a headline."""
    found = re.search(rf"^{title}\n(.*?)(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"{title} is missing"
    return found[1]


def flags(text: str) -> set[str]:
    """Return the long options that a text names."""
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))


def test_making_the_manual_again_changes_nothing(tmp_path: Path) -> None:
    """If this fails: python -m man.generate, and look at what changed."""
    env = {**os.environ, "HOME": str(tmp_path), "TZ": "Asia/Tokyo", "COLUMNS": "40", "FLUX_CLI_MODEL": "other"}
    made = tmp_path / "made"
    made.mkdir()
    subprocess.run([sys.executable, "-m", "man.generate", made], cwd=ROOT, env=env, check=True)
    names = sorted(path.name for path in made.iterdir())
    assert names == [path.name for path in PAGES]
    assert filecmp.cmpfiles(made, ROOT / "man", names, shallow=False) == (names, [], [])


def test_there_is_a_page_for_each_command() -> None:
    """And one for the program, the config file and the exit codes."""
    others = ["flux-cli-config.5", "flux-cli-exit-codes.7", "flux-cli.1"]
    assert [path.name for path in PAGES] == sorted([*(f"flux-cli-{name}.1" for name in COMMANDS), *others])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_linters_say_nothing(page: Path) -> None:
    """Neither mandoc's nor groff with all its warnings."""
    for command in (["mandoc", "-T", "lint", "-W", "all"], ["groff", "-ww", "-man", "-T", "utf8", "-z"]):
        done = subprocess.run([*command, page], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def rendered(page: Path, renderer: str, columns: int) -> str:
    """Return a page as one of the two renderers shows it at a width."""
    commands = {
        "groff": ["groff", "-man", "-T", "utf8", "-P-c", "-P-b", "-P-u", f"-rLL={columns}n"],
        "mandoc": ["mandoc", "-T", "utf8", "-O", f"width={columns}"],
    }
    done = subprocess.run([*commands[renderer], page], capture_output=True, text=True, check=True)
    return re.sub(".\b", "", done.stdout)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
@pytest.mark.parametrize("renderer", ["groff", "mandoc"])
def test_no_word_is_broken(page: Path, renderer: str) -> None:
    """What is to be typed as it stands, such as flux-cli-login or webhook_secret, is never on two lines."""
    words = re.compile(r"\w+(?:[_-]\w+)+")
    narrow = rendered(page, renderer, 80)
    assert set(words.findall(rendered(page, renderer, 1000))) == set(words.findall(narrow))
    assert re.findall(r"^.*\w[-\u2010]$", narrow, re.MULTILINE) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_references_lead_to_pages(page: Path) -> None:
    """Every name with a section of the manual is a page's."""
    text = re.sub(r"\s+", "", page.read_text().replace("\\", ""))
    names = {f"{name}.{number}" for name, number in re.findall(r"(flux-cli[a-z-]*)\((\d)\)", text)}
    assert names
    assert names <= {path.name for path in PAGES}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_page_has_all_that_the_help_has(cli: Cli, command: str) -> None:
    """Every option and every example of `--help` is on the page, and the sections that every page has."""
    text = shown(ROOT / "man" / f"flux-cli-{command}.1")
    lines = cli(command, "--help", env={"COLUMNS": "200", "LC_ALL": "C.UTF-8"}).lines
    options = "\n".join(lines).partition("Examples:")[0]
    assert "--help" in flags(options)
    assert flags(options) <= flags(section(text, "OPTIONS"))
    examples = [line.strip() for line in lines if line.lstrip().startswith("$ ")]
    assert examples == [] or [line.strip() for line in section(text, "EXAMPLES").splitlines() if line] == examples


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_page_has_the_usual_sections(page: Path) -> None:
    """Each with something in it; those of a command say how it is called as well."""
    text = shown(page)
    call = ["SYNOPSIS", "OPTIONS"] if page.suffix == ".1" else []
    for title in ("NAME", "DESCRIPTION", "EXAMPLES", "ENVIRONMENT", "FILES", "EXIT STATUS", "SEE ALSO", *call):
        assert section(text, title).strip()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_page_names_the_exit_codes_of_its_command_alone(command: str) -> None:
    """8 is fetch's, 9 is for what submits, 7 for what waits; the rest is in flux-cli-exit-codes(7)."""
    status = section(shown(ROOT / "man" / f"flux-cli-{command}.1"), "EXIT STATUS")
    codes = set(map(int, re.findall(r"^ {7}(\d+) {4,}[A-Z-]", status, re.MULTILINE)))
    assert {0, 2} <= codes
    assert (8 in codes) == (command == "fetch")
    assert (9 in codes) == (command in {"imagine", "batch"})
    assert (7 in codes) == (command in {"imagine", "batch", "fetch", "wait"})
    assert "flux-cli-exit-codes(7)" in status


def test_listen_tells_how_it_is_given_the_secret() -> None:
    """By the variable, which is no option's."""
    text = shown(ROOT / "man" / "flux-cli-listen.1")
    assert "FLUX_CLI_WEBHOOK_SECRET" in section(text, "ENVIRONMENT")


def test_the_config_page_does_not_refer_to_itself() -> None:
    """Whoever reads it is there already."""
    assert "flux-cli-config(5)" not in section(shown(ROOT / "man" / "flux-cli-config.5"), "FILES")


def test_the_files_are_where_the_manual_says(cli: Cli) -> None:
    """On Linux, with nothing set in the environment."""
    files = section(shown(ROOT / "man" / "flux-cli.1"), "FILES")
    bare = {"HOME": str(cli.home), "PATH": cli.env["PATH"]}
    cli.env = bare
    assert cli("config", "path").stdout.strip().replace(str(cli.home), "~") in files
    assert cli("history").code == 0
    made = [str(path).replace(str(cli.home), "~") for path in cli.home.rglob("*.sqlite3")]
    assert made
    for path in made:
        assert path in files


def test_the_example_config_is_one(cli: Cli) -> None:
    """What flux-cli-config(5) shows can be used as it stands."""
    cli.config.parent.mkdir(parents=True)
    example = section(shown(ROOT / "man" / "flux-cli-config.5"), "EXAMPLES")
    cli.config.write_text("\n".join(line.strip() for line in example.splitlines()))
    listed = [line for line in cli("config", "list").lines if line.endswith("# file")]
    assert "model = flux-pro-1.1  # file" in listed
    assert len(listed) == example.count(" = ")


def test_the_example_of_exit_codes_is_a_script() -> None:
    """What flux-cli-exit-codes(7) shows is valid shell."""
    example = section(shown(ROOT / "man" / "flux-cli-exit-codes.7"), "EXAMPLES")
    done = subprocess.run(["sh", "-n"], input=example, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "flux-cli imagine" in example


def test_every_exit_code_is_explained() -> None:
    """In flux-cli-exit-codes(7) and on the page of the program."""
    for page in ("flux-cli-exit-codes.7", "flux-cli.1"):
        text = section(shown(ROOT / "man" / page), "EXIT STATUS")
        assert set(map(int, re.findall(r"^ {7}(\d+) {4,}[A-Z]", text, re.MULTILINE))) == set(ExitCode)
