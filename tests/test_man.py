"""The manual: up to date, lint-clean, and complete."""

import filecmp
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from flux_cli.api.task import Status
from flux_cli.commands import SUMMARIES
from flux_cli.engine.result import Result
from flux_cli.errors import ExitCode
from flux_cli.pictures.naming import FIELD_NAMES
from tests.conftest import Cli, tool

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "man").glob("man[0-9]/flux-cli*.[0-9]"))
SOURCES = sorted((ROOT / "man").glob("flux-cli*.rst"))


def rendered(path: Path, *command: str) -> str:
    """Return a page as a renderer shows it, without overstriking; it must print no warning."""
    done = subprocess.run([*command, path], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return re.sub(".\b", "", done.stdout)


@cache
def shown(name: str) -> str:
    """Return a page as man shows it, on a wide terminal."""
    tool("man")
    settings = ("MANWIDTH=200", "LC_ALL=C.UTF-8", "MANROFFOPT=-c")
    return rendered(ROOT / "man" / f"man{name[-1]}" / name, "env", *settings, "man", "--local-file")


def section(name: str, title: str) -> str:
    found = re.search(rf"^{title}\n(.*?)(?=^\S|\Z)", shown(name), re.MULTILINE | re.DOTALL)
    assert found, f"{title} is missing"
    return found[1]


def flags(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))


def exit_codes(name: str) -> set[int]:
    return set(map(int, re.findall(r"^ {7}(\d+) {4,}[A-Z-]", section(name, "EXIT STATUS"), re.MULTILINE)))


def test_pages_are_up_to_date(tmp_path: Path) -> None:
    """If this fails, run `make docs` and review the changes."""
    env = {**os.environ, "HOME": str(tmp_path), "TZ": "Asia/Tokyo", "COLUMNS": "40", "FLUX_CLI_MODEL": "other"}
    subprocess.run([sys.executable, "-m", "man.generate", tmp_path], cwd=ROOT, env=env, check=True)
    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("man[0-9]/*"))
    assert names == [str(path.relative_to(ROOT / "man")) for path in PAGES]
    assert filecmp.cmpfiles(tmp_path, ROOT / "man", names, shallow=False) == (names, [], [])


def test_every_command_has_a_page() -> None:
    names = {path.name for path in PAGES}
    assert names >= {f"flux-cli-{name}.1" for name in SUMMARIES}
    assert names == {path.stem for path in SOURCES}


@pytest.mark.parametrize(
    ("name", "terms"),
    [
        ("flux-cli.1", tuple(Result(Status.UNSENT).as_json())),
        ("flux-cli-imagine.1", tuple(f"{{{name}}}" for name in FIELD_NAMES)),
    ],
)
def test_lists_are_complete(name: str, terms: tuple[str, ...]) -> None:
    """The tables of the program that the sources describe in their own words."""
    source = (ROOT / "man" / f"{name}.rst").read_text()
    assert set(re.findall(r"^\*\*(\{?[a-z_0-9]+\}?)\*\*\n    ", source, re.MULTILINE)) == set(terms)


@pytest.mark.needs("mandoc", "groff")
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_page(path: Path) -> None:
    assert rendered(path, "mandoc", "-T", "lint", "-W", "all") == ""
    assert rendered(path, "groff", "-ww", "-man", "-T", "utf8", "-z") == ""
    call = ["SYNOPSIS", "OPTIONS"] if path.suffix == ".1" else []
    for title in ("NAME", "DESCRIPTION", "EXAMPLES", "ENVIRONMENT", "FILES", "EXIT STATUS", "SEE ALSO", *call):
        assert section(path.name, title).strip()
    names = re.findall(r"(flux-cli[a-z-]*)\((\d)\)", re.sub(r"\s+", "", path.read_text().replace("\\", "")))
    assert names
    assert {f"{name}.{number}" for name, number in names} <= {path.name for path in PAGES}


@pytest.mark.needs("mandoc", "groff")
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
@pytest.mark.parametrize("command", ["groff -man -T utf8 -P-c -P-b -P-u -rLL={}n", "mandoc -T utf8 -O width={}"])
def test_no_word_is_broken(path: Path, command: str) -> None:
    """Names such as flux-cli-login or webhook_secret are never on two lines."""
    words = re.compile(r"\w+(?:[_-]\w+)+")
    narrow, wide = (rendered(path, *command.format(columns).split()) for columns in (80, 1000))
    assert set(words.findall(wide)) == set(words.findall(narrow))
    assert re.findall(r"^.*\w[-\u2010]$", narrow, re.MULTILINE) == []


@pytest.mark.parametrize("command", SUMMARIES)
def test_page_of_a_command(cli: Cli, command: str) -> None:
    name = f"flux-cli-{command}.1"
    lines = cli(command, "--help", env={"COLUMNS": "200", "LC_ALL": "C.UTF-8"}).lines
    options = "\n".join(lines).partition("Examples:")[0]
    assert "--help" in flags(options)
    assert flags(options) <= flags(shown(name))
    variables = re.findall(r"Environment:\s+(\w+)\.", options)
    assert set(variables) <= set(re.findall(r"^ {7}(\w+)", section(name, "ENVIRONMENT"), re.MULTILINE))
    examples = [line.strip() for line in lines if line.lstrip().startswith("$ ")]
    assert examples == [] or [line.strip() for line in section(name, "EXAMPLES").splitlines() if line] == examples
    codes = exit_codes(name)
    assert {0, 2} <= codes
    assert (8 in codes) == (command == "fetch")
    assert (9 in codes) == (command in {"imagine", "batch"})
    assert (7 in codes) == (command in {"imagine", "batch", "fetch", "wait"})
    assert "flux-cli-exit-codes(7)" in section(name, "EXIT STATUS")


def test_exit_codes() -> None:
    for name in ("flux-cli-exit-codes.7", "flux-cli.1"):
        assert exit_codes(name) == set(ExitCode)


def test_files(cli: Cli) -> None:
    """On Linux, with nothing set in the environment."""
    files = section("flux-cli.1", "FILES")
    cli.env = {"HOME": str(cli.home), "PATH": cli.env["PATH"]}
    assert cli("config", "path").stdout.strip().replace(str(cli.home), "~") in files
    assert cli("imagine", "x", "--sandbox", "--no-wait").code == 0
    made = [str(path).replace(str(cli.home), "~") for path in cli.home.rglob("*.sqlite3")]
    assert made
    assert [path for path in made if path not in files and f"{os.path.dirname(path)}/" not in files] == []


def test_config_page(cli: Cli) -> None:
    """The example works, and the page, which is flux-cli-config(5), does not refer to itself."""
    assert "flux-cli-config(5)" not in section("flux-cli-config.5", "FILES")
    example = section("flux-cli-config.5", "EXAMPLES")
    cli.config.parent.mkdir(parents=True)
    cli.config.write_text("\n".join(line.strip() for line in example.splitlines()))
    listed = [line for line in cli("config", "list").lines if line.endswith("# file")]
    assert "model = flux-pro-1.1  # file" in listed
    assert len(listed) == example.count(" = ")


def test_example_script() -> None:
    example = section("flux-cli-exit-codes.7", "EXAMPLES")
    done = subprocess.run(["sh", "-n"], input=example, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "flux-cli imagine" in example
