"""The oldest and the newest Typer: help, usage errors, completion and a picture, without a traceback."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import flux_cli
from tests.cli import Cli, Done

USAGE_ERRORS = {
    "imagine x --widht 3": "hint: did you mean `--width`?",
    "imagine x --count many": "error: `--count` must be a whole number, not `many`",
    "imagine x --count": "error: `--count` needs a value",
    "imagine x --raw=3": "error: `--raw` takes no value",
    "imagine a b": "error: too many arguments: b",
    "config get": "error: NAME is missing",
    "history --status x": "error: `--status` must be one of",
    "stauts": "error: unknown command `stauts`",
    "config ste": "hint: did you mean `flux-cli config set`?",
}


def test_private_imports() -> None:
    """Typer's private modules change between versions: only completion uses one."""
    package = Path(flux_cli.__file__).parent
    private = re.compile(r"(from|import) (typer\._|click)")
    found = [path.name for path in package.rglob("*.py") if private.search(path.read_text(encoding="utf-8"))]
    assert found == ["completion.py"]


def test_completion_without_private_modules(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "typer._click.shell_completion", None)
    done = cli(env={"_FLUX_CLI_COMPLETE": "zsh", "_FLUX_CLI_LINE": "flux-cli im"})
    assert (done.code, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
@pytest.mark.parametrize("requirement", ["typer==0.27.0", "typer"])
def test_typer_version(cli: Cli, tmp_path: Path, requirement: str) -> None:
    """One test, since the installation, into a directory before the others on the path, takes the most time."""
    pip = [*(sys.executable, "-m", "pip", "install", "--quiet"), "--disable-pip-version-check", "--no-compile"]
    installed = subprocess.run(
        [*pip, "--upgrade", "--target", tmp_path / "typer", requirement],
        capture_output=True,
        text=True,
        check=False,
    )
    if installed.returncode:
        reason = installed.stderr.splitlines()[-1][:200]
        pytest.skip(f"NOT TESTED: {requirement} cannot be installed: {reason}")

    def python(*arguments: str, **env: str) -> Done:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=cli.cwd,
            env={**cli.env, "PYTHONPATH": str(tmp_path / "typer"), "COLUMNS": "80", **env},
            capture_output=True,
            check=False,
        )
        assert b"Traceback" not in done.stderr
        return Done.of(done.returncode, done.stdout, done.stderr)

    def flux(line: str, **env: str) -> Done:
        return python("-m", "flux_cli", *line.split(), **env)

    assert python("-c", "import typer; print(typer.__file__)").stdout.startswith(str(tmp_path / "typer"))
    for line in ("--help", "imagine --help", "help config set", "batch --help", ""):
        done = flux(line)
        assert (done.code, done.stderr) == (0, "")
        assert done.stdout == cli(*line.split(), env={"COLUMNS": "80"}).stdout
    for line, expected in USAGE_ERRORS.items():
        done = flux(line)
        assert (done.code, done.stdout) == (2, "")
        assert f"\n{expected}" in f"\n{done.stderr}"
    for line in ("im", "imagine --model=flux-pro-", "history --status f", "config "):
        words = {"_FLUX_CLI_COMPLETE": "zsh", "_FLUX_CLI_LINE": f"flux-cli {line}"}
        assert flux("", **words).stdout == cli(env=words).stdout != ""
    done = flux("imagine x --sandbox --width 256 --height 256 -o x.png")
    assert (done.code, done.stdout) == (0, "x.png\n"), done.stderr
