"""Hints that depend on how the program was installed."""

import os
import sys

import pytest

from flux_cli import errors


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("/home/me/.local/share/pipx/venvs/apiframe-flux-cli", "pipx inject apiframe-flux-cli 'a>=1' b"),
        ("/home/me/.local/share/uv/tools/apiframe-flux-cli", f"uv pip install --python {sys.executable} 'a>=1' b"),
        ("/home/me/flux-cli/.venv", f"{sys.executable} -m pip install 'a>=1' b"),
    ],
)
def test_install_command(monkeypatch: pytest.MonkeyPatch, prefix: str, expected: str) -> None:
    monkeypatch.setattr(sys, "prefix", prefix.replace("/", os.sep))
    assert errors.install_command("a>=1", "b") == expected


def test_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    assert errors.missing_packages("sandbox") == []
    found = metadata.distribution

    def distribution(name: str) -> metadata.Distribution:
        if name == "pillow":
            raise metadata.PackageNotFoundError(name)
        return found(name)

    monkeypatch.setattr(metadata, "distribution", distribution)
    assert errors.missing_packages("sandbox") == ["pillow>=11"]
    assert errors.MissingExtraError("the sandbox", "sandbox").hint == (
        f"install it with: {errors.install_command('pillow>=11')}"
    )


@pytest.mark.parametrize(
    ("called", "path", "expected"),
    [
        ("flux-cli", "", "flux-cli"),
        (".venv/bin/flux-cli", "", ".venv/bin/flux-cli"),
        ("/x/flux_cli/__main__.py", "", f"{sys.executable} -m flux_cli"),
        ("/x/app.pyz", "", f"{sys.executable} /x/app.pyz"),
        (".venv/bin/flux-cli", os.path.dirname(sys.executable), "flux-cli"),
    ],
)
def test_program(monkeypatch: pytest.MonkeyPatch, called: str, path: str, expected: str) -> None:
    """A hint can be copied, whether or not the program is on the PATH."""
    monkeypatch.setattr(sys, "argv", [called])
    monkeypatch.setenv("PATH", path)
    assert errors.program() == expected
