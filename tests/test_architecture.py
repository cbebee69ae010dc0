"""The direction of the imports, and what start-up must not import."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import flux_cli

ROOT = Path(flux_cli.__file__).parent
STDLIB_ONLY = {"request", "task", "errors", "images"}
FRONT = {"main", "__main__", "options", "completion", "commands", "ui"}
"""What may know typer, rich and the two streams; everything else is below."""


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


def test_the_arrows_point_down() -> None:
    """Main → commands → core; ui is handed in; nothing below the commands knows typer, rich or ui."""
    wrong = []
    for name, tree in rooms():
        room = name.split(".")[0]
        for target in imported(tree):
            if target.startswith("flux_cli.commands") and room not in ("main", "commands"):
                wrong.append(f"{name} imports {target}")
            if target.startswith("flux_cli.main") and room != "__main__":
                wrong.append(f"{name} imports {target}")
            if room not in FRONT and target.split(".")[0] in ("typer", "rich"):
                wrong.append(f"{name} imports {target}")
            if room not in FRONT and target.startswith(("flux_cli.ui", "flux_cli.options")):
                wrong.append(f"{name} imports {target}")
            if room == "ui" and target.startswith(("flux_cli.options", "flux_cli.generate")):
                wrong.append(f"{name} imports {target}")
    assert wrong == []


def test_the_rules_and_meanings_need_nothing_but_the_standard_library() -> None:
    """request, task, errors and images import only the standard library and each other."""
    for name, tree in rooms():
        if name in STDLIB_ONLY:
            for target in imported(tree):
                first = target.split(".")[0]
                assert first in sys.stdlib_module_names or target.split(".")[1] in STDLIB_ONLY, f"{name}: {target}"


def test_nothing_below_the_commands_prints() -> None:
    """The core hands results back; only ui and the commands write."""
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
        (["history"], ["requests", "rich", "flux_cli.generate"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_a_command_imports_no_more_than_it_needs(tmp_path: Path, arguments: list[str], spared: list[str]) -> None:
    """Each of the spared modules costs more than the command itself."""
    code = (
        "import sys\nfrom flux_cli.main import main\n"
        f"code = main({arguments!r})\nsys.stderr.write(' '.join(sys.modules))\nsys.exit(code)"
    )
    env = {"XDG_STATE_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert [module for module in spared if module in done.stderr.split()] == []
