"""The entry point: imports, interrupts, and optimised Python."""

import errno
import signal
import subprocess
import sys
from unittest import mock

import pytest

from flux_cli.commands import SUMMARIES
from tests.cli import Cli

SLOW_IMPORT = """
import importlib.abc, os, sys, time

class Slow(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "flux_cli.main":
            print("importing", flush=True)
            time.sleep(60)
        return None

sys.meta_path.insert(0, Slow())
from flux_cli.__main__ import run
run()
"""


def test_interrupt_during_imports(cli: Cli) -> None:
    command = [sys.executable, "-c", SLOW_IMPORT]
    with subprocess.Popen(command, env=cli.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"importing\n"
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
    assert (process.returncode, stderr) == (130, b"")


def test_ignored_interrupt_stays_ignored(cli: Cli) -> None:
    """As in `python -m flux_cli … &` of a script: a Ctrl-C is meant for others."""
    code = (
        "import runpy, signal, sys\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nsys.argv = ['flux-cli', '-V']\n"
        "try: runpy.run_module('flux_cli', run_name='__main__')\n"
        "except SystemExit: print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=cli.env, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True"


def test_optimised_python_keeps_the_help(cli: Cli) -> None:
    paths = ["", *SUMMARIES, "config set"]
    code = f"from flux_cli.main import main\nfor path in {paths}: main([*path.split(), '--help'])"
    command = [sys.executable, "-OO", "-c", code]
    done = subprocess.run(command, env={**cli.env, "COLUMNS": "80"}, capture_output=True, text=True, check=True)
    assert done.stdout == "".join(cli(*path.split(), "--help", env={"COLUMNS": "80"}).stdout for path in paths)


BUG = "hint: this is a bug in flux-cli; put --debug before the command, and report the traceback"


@pytest.mark.parametrize(
    ("raised", "code", "lines"),
    [
        (ZeroDivisionError("by zero"), 1, ["error: unexpected ZeroDivisionError: by zero", BUG]),
        (OSError(errno.EMFILE, "Too many open files", "x.png"), 6, ["error: x.png: too many open files"]),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), 6, ["error: no such file or directory"]),
        (MemoryError(), 1, ["error: out of memory"]),
    ],
)
def test_unexpected_exceptions(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, raised: Exception, code: int, lines: list[str]
) -> None:
    """Only a bug is reported as a bug; errors of the system are not."""
    monkeypatch.setattr("flux_cli.commands.models.tables.show", mock.Mock(side_effect=raised))
    done = cli("models")
    assert (done.code, done.stderr.splitlines()) == (code, lines)
    assert "Traceback" in cli("--debug", "models").stderr
