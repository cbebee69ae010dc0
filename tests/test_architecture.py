"""The direction of the imports, and what start-up must not import."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import flux_cli

ROOT = Path(flux_cli.__file__).parent
LAYERS = ("errors", "api", "storage", "pictures", "engine", "webhooks", "batch")
"""Each package imports only itself and those before it."""
BESIDE = {"gallery": "pictures", "sandbox": "pictures"}
"""Packages beside the layers, each with the highest layer that it may import."""
FRONT = {"main", "__main__", "options", "completion", "commands", "ui"}
"""What may use typer, rich and the two streams; everything else is below."""


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield the dotted names that a module imports, anywhere in it, but not those for the type checker alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        yield from imported(node)


def may_import(room: str, target: str) -> bool:
    package, first = [*target.split("."), ""][:2]
    if package in ("typer", "rich"):
        return room in FRONT
    if package != "flux_cli" or first in (room, "__version__", ""):
        return True
    if room == "ui":
        return first not in ("commands", "options", "main")
    if room in FRONT:
        return first != "main" or room == "__main__"
    return first in LAYERS[: LAYERS.index(BESIDE.get(room, room)) + 1]


def test_import_direction() -> None:
    wrong = []
    for path in ROOT.rglob("*.py"):
        name = path.relative_to(ROOT)
        room = name.parts[0].removesuffix(".py")
        targets = imported(ast.parse(path.read_text(encoding="utf-8")))
        wrong += [f"{name} imports {target}" for target in targets if not may_import(room, target)]
    assert wrong == []


@pytest.mark.parametrize(
    ("arguments", "spared"),
    [
        (["--version"], ["requests", "rich", "sqlite3", "platformdirs", "flux_cli.commands.imagine"]),
        (["models"], ["requests", "rich", "sqlite3"]),
        (["imagine", "x", "--dry-run"], ["requests", "rich", "sqlite3"]),
        (["history"], ["requests", "rich", "flux_cli.engine.run"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_a_command_imports_no_more_than_it_needs(tmp_path: Path, arguments: list[str], spared: list[str]) -> None:
    """Importing each of these modules takes longer than the command itself."""
    code = (
        "import sys\nfrom flux_cli.main import main\n"
        f"code = main({arguments!r})\nsys.stderr.write(' '.join(sys.modules))\nsys.exit(code)"
    )
    env = {"XDG_STATE_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert [module for module in spared if module in done.stderr.split()] == []
