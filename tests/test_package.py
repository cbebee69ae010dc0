"""The built package: its content, and that it works in an empty environment."""

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from flux_cli import __version__
from flux_cli.completion import SCRIPTS
from tests.conftest import KEY, Service

ROOT = Path(__file__).parents[1]
PACKAGING = tomllib.loads((ROOT / "pyproject.toml").read_text())
SHARED: dict[str, str] = PACKAGING["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]


Process = subprocess.CompletedProcess[str]


@dataclass
class Installed:
    """An environment with the wheel and its dependencies only."""

    prefix: Path
    home: Path

    def run(self, *command: str, **env: str) -> Process:
        """Run a command of the environment, or of the system, in an empty home."""
        path = f"{self.prefix / 'bin'}{os.pathsep}{os.environ['PATH']}"
        clean = {"PATH": path, "HOME": str(self.home), "LC_ALL": "C.UTF-8", **env}
        return subprocess.run(command, env=clean, cwd=self.home, capture_output=True, text=True, check=False)

    def pip(self, *arguments: str) -> Process:
        """Run the pip of the tests for this environment."""
        return python("-m", "pip", "--python", str(self.prefix), "--disable-pip-version-check", *arguments)


def python(*arguments: str) -> Process:
    """Run the Python of the tests; it must succeed."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the sdist, and the wheel built from it."""
    directory = tmp_path_factory.mktemp("dist")
    python("-m", "build", "--outdir", str(directory), str(ROOT))
    return directory


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return install(built, tmp_path_factory, with_pip=True)


def install(
    built: Path, tmp_path_factory: pytest.TempPathFactory, *requirements: str, with_pip: bool = False
) -> Installed:
    """Install the wheel and further requirements into a new environment. Its own pip takes 3 s more."""
    prefix = tmp_path_factory.mktemp("prefix")
    venv.create(prefix, with_pip=with_pip)
    (wheel,) = built.glob("*.whl")
    new = Installed(prefix, tmp_path_factory.mktemp("home"))
    new.pip("install", "--quiet", "--no-compile", str(wheel), *requirements)
    return new


def test_wheel(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    assert wheel.name == f"apiframe_flux_cli-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = (
            archive.read(f"apiframe_flux_cli-{__version__}.dist-info/METADATA").decode().partition("\n\n")[0]
        )
    assert {name.split("/")[0].split("-")[0] for name in names} == {"flux_cli", "apiframe_flux_cli"}
    assert [name for name in names if "__pycache__" in name or name.endswith(".pyc")] == []
    assert "flux_cli/py.typed" in names
    shared = {name.split(".data/data/")[1] for name in names if ".data/data/" in name}
    pages = {f"share/man/{path.parent.name}/{path.name}" for path in (ROOT / "man").glob("man*/*")}
    scripts = {target for source, target in SHARED.items() if source.startswith("completions/")}
    assert shared == pages | scripts
    assert {f"flux_cli/completions/{name}" for name in SCRIPTS.values()} <= set(names)
    assert "Metadata-Version: 2.4\n" in metadata
    assert "License-Expression: MIT\n" in metadata
    assert "github.com" not in metadata, "an invented address"


def test_sdist(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "CHANGELOG.md", "LICENSE", "Makefile", "man/generate.py", "tests/conftest.py"} <= names
    assert [name for name in names if name.startswith((".git/", ".venv", "dist/")) or name.endswith(".pyc")] == []


def test_installed_program(installed: Installed) -> None:
    for command, expected in (
        ("--version", f"flux-cli {__version__}\n"),
        ("imagine x --dry-run", '{"model": "flux-pro", "prompt": "x"}\n'),
        ("history", ""),
    ):
        done = installed.run("flux-cli", *command.split())
        assert (done.returncode, done.stdout) == (0, expected)
    assert installed.run("flux-cli", "--help").returncode == 0
    packages = re.findall(r"^(.*?)==", installed.pip("list", "--format", "freeze").stdout.lower(), re.MULTILINE)
    assert not {"aiohttp", "pillow", "textual-image", "pydantic"} & set(packages)
    installed.pip("check")


def test_oldest_dependencies(built: Path, tmp_path_factory: pytest.TempPathFactory, service: Service) -> None:
    """An environment may have them already, and pip keeps them."""
    oldest = [each.partition(",")[0].replace(">=", "==") for each in PACKAGING["project"]["dependencies"]]
    old = install(built, tmp_path_factory, *oldest)
    key = {"APIFRAME_API_KEY": KEY, "FLUX_CLI_API_URL": service.url}
    done = old.run("flux-cli", "imagine", "x", "--width", "256", "--height", "256", "-o", "x.png", **key)
    assert (done.returncode, done.stdout) == (0, "x.png\n"), done.stderr
    assert old.run("flux-cli", "config", "set", "model", "flux-dev").returncode == 0
    assert old.run("flux-cli", "--help").returncode == 0
    slip = old.run("flux-cli", "imagine", "--widht", "3")
    assert (slip.returncode, slip.stderr.splitlines()[1]) == (2, "hint: did you mean `--width`?")


@pytest.mark.parametrize(
    ("command", "extra"),
    [("imagine x --sandbox", "sandbox"), ("sandbox", "sandbox"), ("listen --insecure", "listen")],
)
def test_missing_extra(installed: Installed, command: str, extra: str) -> None:
    done = installed.run("flux-cli", *command.split())
    assert (done.returncode, done.stdout) == (2, "")
    error, hint = done.stderr.splitlines()
    assert f"`{extra}`" in error
    assert re.search(r"/bin/python[0-9.]* -m pip install 'aiohttp>=3\.14'", hint)


def test_man(installed: Installed) -> None:
    """`man flux-cli` works with share/man of the environment on the path, where pipx links it."""
    path = str(installed.prefix / "share" / "man")
    for name in ("flux-cli", "flux-cli-imagine", "flux-cli-exit-codes"):
        done = installed.run("man", name, MANPATH=path, MANPAGER="cat")
        assert done.returncode == 0, done.stderr
        assert f"{name.upper()}(" in done.stdout
    assert "TOML" in installed.run("man", "5", "flux-cli-config", MANPATH=path, MANPAGER="cat").stdout


def test_shells_load_the_completions(installed: Installed) -> None:
    """From the directories of the wheel, without a start-up file."""
    share = str(installed.prefix / "share")
    fish = installed.run("fish", "-c", "complete -C 'flux-cli acc'", XDG_DATA_DIRS=f"{share}:/usr/share")
    assert fish.stdout.split("\t")[0] == "account"
    code = "source /usr/share/bash-completion/bash_completion; _completion_loader flux-cli; complete -p flux-cli"
    bash = installed.run("bash", "-c", code, XDG_DATA_DIRS=f"{share}:/usr/share")
    assert "_flux_cli" in bash.stdout, bash.stderr
    code = "autoload -Uz compinit; compinit -u -D; print $_comps[flux-cli]; whence -w $_comps[flux-cli]"
    zsh = installed.run("zsh", "-c", f"fpath=({share}/zsh/site-functions $fpath); {code}")
    assert zsh.stdout.split() == ["_flux-cli", "_flux-cli:", "function"], zsh.stderr
