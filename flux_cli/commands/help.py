"""`flux-cli help`: the help page of a command."""

from typing import Annotated, Any

import typer

from flux_cli import completion
from flux_cli.ui import console, usage_errors

app = typer.Typer(add_completion=False)


@app.command(epilog="Examples:\n\n$ flux-cli help imagine\n\n$ flux-cli help config set")
def show_help(
    context: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="COMMAND", help="The command. Default: the program.", autocompletion=completion.commands
        ),
    ] = None,
) -> int:
    """Print the same page as `--help`."""
    page = context.find_root()
    for n, name in enumerate(names or ()):
        group: Any = page.command if hasattr(page.command, "get_command") else None
        command = group.get_command(page, name) if group else None
        if command is None:
            known = group.list_commands(page) if group else []
            raise usage_errors.unknown_command(page.command_path, (names or [])[n:], known)
        page = type(page)(command, info_name=name, parent=page)
    console.out_bytes(f"{page.get_help()}\n".encode())  # with its colours
    return 0
