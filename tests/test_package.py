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


@dataclass
class Installed:
    """An environment with the wheel and its dependencies only."""

    prefix: Path
    home: Path

    def run(self, *command: str, **env: str) -> "subprocess.CompletedProcess[str]":
        """Run a command of the environment, or of the system, in an empty home."""
        path = f"{self.prefix / 'bin'}{os.pathsep}{os.environ['PATH']}"
        clean = {"PATH": path, "HOME": str(self.home), "LC_ALL": "C.UTF-8", **env}
        return subprocess.run(command, env=clean, cwd=self.home, capture_output=True, text=True, check=False)

    def pip(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run the pip of the tests for this environment."""
        command = [sys.executable, "-m", "pip", "--python", str(self.prefix), "--disable-pip-version-check"]
        return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the sdist, and the wheel built from it."""
    directory = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--outdir", str(directory), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel in an environment of its own."""
    return install(built, tmp_path_factory, with_pip=True)


def install(
    built: Path, tmp_path_factory: pytest.TempPathFactory, *requirements: str, with_pip: bool = False
) -> Installed:
    """Install the wheel and further requirements into a new environment. Its own pip takes 3 s more."""
    prefix = tmp_path_factory.mktemp("prefix")
    venv.create(prefix, with_pip=with_pip)
    (wheel,) = built.glob("*.whl")
    new = Installed(prefix, tmp_path_factory.mktemp("home"))
    done = new.pip("install", "--quiet", "--no-compile", str(wheel), *requirements)
    assert done.returncode == 0, done.stderr
    return new


def test_wheel(built: Path) -> None:
    """The package and the shared files, without caches."""
    (wheel,) = built.glob("*.whl")
    assert wheel.name == f"apiframe_flux_cli-{__version__}-py3-none-any.whl"
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"flux_cli", "apiframe_flux_cli"}
    assert [name for name in names if "__pycache__" in name or name.endswith(".pyc")] == []
    assert "flux_cli/py.typed" in names
    shared = {name.split(".data/data/")[1] for name in names if ".data/data/" in name}
    pages = {f"share/man/{path.parent.name}/{path.name}" for path in (ROOT / "man").glob("man*/*")}
    scripts = {target for source, target in SHARED.items() if source.startswith("completions/")}
    assert shared == pages | scripts
    assert {f"flux_cli/completions/{name}" for name in SCRIPTS.values()} <= set(names)


def test_metadata(built: Path) -> None:
    """Of a version that older upload tools accept, and without an invented address."""
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = archive.read(name).decode().partition("\n\n")[0]
    assert "Metadata-Version: 2.4\n" in metadata
    assert "License-Expression: MIT\n" in metadata
    assert "github.com" not in metadata


def test_sdist(built: Path) -> None:
    """Sources, tests and the generator of the manual."""
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "CHANGELOG.md", "LICENSE", "Makefile", "man/generate.py", "tests/conftest.py"} <= names
    assert [name for name in names if name.startswith((".git/", ".venv", "dist/")) or name.endswith(".pyc")] == []


def test_installed_program(installed: Installed) -> None:
    """It runs with its core dependencies only."""
    version = installed.run("flux-cli", "--version")
    assert (version.returncode, version.stdout, version.stderr) == (0, f"flux-cli {__version__}\n", "")
    dry_run = installed.run("flux-cli", "imagine", "x", "--dry-run")
    assert (dry_run.returncode, dry_run.stdout, dry_run.stderr) == (
        0,
        '{"model": "flux-pro", "prompt": "x"}\n',
        "",
    )
    assert installed.run("flux-cli", "--help").returncode == 0
    assert installed.run("flux-cli", "history").returncode == 0


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


def test_no_extra_is_installed(installed: Installed) -> None:
    """The core installs no package of an extra."""
    listed = installed.pip("list", "--format", "freeze").stdout.lower()
    for name in ("aiohttp", "pillow", "textual-image", "pydantic"):
        assert f"{name}==" not in listed
    assert installed.pip("check").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [(["imagine", "x", "--sandbox"], "sandbox"), (["sandbox"], "sandbox"), (["listen", "--insecure"], "listen")],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_missing_extra(installed: Installed, arguments: list[str], extra: str) -> None:
    """A usage error with the command that installs it."""
    done = installed.run("flux-cli", *arguments)
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
    bash = installed.run(
        "bash",
        "-c",
        "source /usr/share/bash-completion/bash_completion; _completion_loader flux-cli; complete -p flux-cli",
        XDG_DATA_DIRS=f"{share}:/usr/share",
    )
    assert "_flux_cli" in bash.stdout, bash.stderr
    code = "autoload -Uz compinit; compinit -u -D; print $_comps[flux-cli]; whence -w $_comps[flux-cli]"
    zsh = installed.run("zsh", "-c", f"fpath=({share}/zsh/site-functions $fpath); {code}")
    assert zsh.stdout.split() == ["_flux-cli", "_flux-cli:", "function"], zsh.stderr
