"""The oldest and the newest Typer: help, usage errors, completion and a picture, without a traceback."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import flux_cli
from tests.cli import Cli

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


class Typer:
    """The program with another Typer, installed into a directory before the others on the path."""

    def __init__(self, requirement: str, directory: Path, cli: Cli) -> None:
        pip = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--upgrade",
            "--no-compile",
        ]
        done = subprocess.run(
            [*pip, "--target", str(directory), requirement], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"NOT TESTED: {requirement} cannot be installed: {done.stderr.splitlines()[-1][:200]}")
        self.directory = directory
        self.env = {**cli.env, "PYTHONPATH": str(directory), "COLUMNS": "80"}
        self._cwd = cli.cwd

    def run(self, *arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
        """Run a command line."""
        command = [sys.executable, "-m", "flux_cli", *arguments]
        done = subprocess.run(
            command, cwd=self._cwd, env={**self.env, **env}, capture_output=True, text=True, check=False
        )
        assert "Traceback" not in done.stderr
        return done


def test_private_imports() -> None:
    """Typer's private modules change between versions: only completion uses one."""
    package = Path(flux_cli.__file__).parent
    private = re.compile(r"(from|import) (typer\._|click)")
    found = [path.name for path in package.rglob("*.py") if private.search(path.read_text(encoding="utf-8"))]
    assert found == ["completion.py"]


def test_completion_without_private_modules(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """No candidates, and no traceback."""
    monkeypatch.setitem(sys.modules, "typer._click.shell_completion", None)
    done = cli(env={"_FLUX_CLI_COMPLETE": "zsh", "_FLUX_CLI_LINE": "flux-cli im"})
    assert (done.code, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
@pytest.mark.parametrize("requirement", ["typer==0.27.0", "typer"])
def test_typer_version(cli: Cli, tmp_path: Path, requirement: str) -> None:
    """One test, since the installation takes the most time."""
    typer = Typer(requirement, tmp_path / "typer", cli)
    loaded = subprocess.run(
        [sys.executable, "-c", "import typer; print(typer.__file__)"],
        env=typer.env,
        capture_output=True,
        check=True,
    )
    assert loaded.stdout.startswith(bytes(typer.directory))
    for arguments in (["--help"], ["imagine", "--help"], ["help", "config", "set"], ["batch", "--help"], []):
        done = typer.run(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == cli(*arguments, env={"COLUMNS": "80"}).stdout
    for line, expected in USAGE_ERRORS.items():
        done = typer.run(*line.split())
        assert (done.returncode, done.stdout) == (2, "")
        assert any(each.startswith(expected) for each in done.stderr.splitlines()), done.stderr
    for line in (
        "flux-cli im",
        "flux-cli imagine --model=flux-pro-",
        "flux-cli history --status f",
        "flux-cli config ",
    ):
        words = {"_FLUX_CLI_COMPLETE": "zsh", "_FLUX_CLI_LINE": line}
        assert typer.run(**words).stdout == cli(env=words).stdout != ""
    done = typer.run("imagine", "x", "--sandbox", "--width", "256", "--height", "256", "-o", "x.png")
    assert (done.returncode, done.stdout) == (0, "x.png\n"), done.stderr
