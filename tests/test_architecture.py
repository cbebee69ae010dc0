"""The direction of the imports, and what start-up must not import."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import flux_cli

ROOT = Path(flux_cli.__file__).parent
LAYERS = ("errors", "api", "storage", "pictures", "engine", "webhooks", "batch", "commands", "main", "__main__")
"""Each package imports only itself and those before it."""
BESIDE = {"gallery": "pictures", "sandbox": "pictures"}
"""Packages beside the layers, each with the highest layer that it may import."""
FRONT = {"main", "__main__", "options", "completion", "commands", "ui"}
"""What may use typer, rich and the two streams; everything else is below."""


def rooms() -> Iterator[tuple[str, ast.Module]]:
    """Yield each module's dotted name below the package, with its syntax tree."""
    for path in ROOT.rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        yield name, ast.parse(path.read_text(encoding="utf-8"))


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


def allowed(room: str) -> set[str]:
    """Return the packages that a package of the core may import."""
    if room in BESIDE:
        return {room, *LAYERS[: LAYERS.index(BESIDE[room]) + 1]}
    return set(LAYERS[: LAYERS.index(room) + 1])


def test_import_direction() -> None:
    """Each package of the core imports only packages below it; only the front knows typer, rich and ui."""
    wrong = []
    for name, tree in rooms():
        room = name.split(".")[0]
        for target in imported(tree):
            package, _, rest = target.partition(".")
            first = rest.split(".")[0]
            if package in ("typer", "rich"):
                bad = room not in FRONT
            elif package != "flux_cli" or first in ("__version__", ""):
                bad = False
            elif room in FRONT:
                bad = (first == "main" and room != "__main__") or (
                    room == "ui" and first in ("commands", "options")
                )
            else:
                bad = first not in allowed(room)
            if bad:
                wrong.append(f"{name} imports {target}")
    assert wrong == []


def test_nothing_below_the_commands_prints() -> None:
    """The core returns results; only ui and the commands write."""
    for name, tree in rooms():
        if name.split(".")[0] not in FRONT:
            calls = [
                node.func.id
                for node in ast.walk(tree)
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            ]
            assert "print" not in calls, name


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
