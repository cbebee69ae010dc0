"""`flux-cli logout`: remove the stored API key."""

import os

import typer

from flux_cli import options
from flux_cli.storage import config
from flux_cli.storage.settings import KEY_VARIABLE
from flux_cli.ui import console

app = typer.Typer(add_completion=False)


@app.command(epilog="Examples:\n\n$ flux-cli logout\n\n$ flux-cli logout && pass show apiframe | flux-cli login")
def logout(quiet: options.Quiet = False) -> int:  # noqa: ARG001 - its callback acts
    """Remove the stored API key."""
    removed = config.unset("api_key")
    console.note("the key was removed" if removed else "no key was stored")
    if os.environ.get(KEY_VARIABLE):
        console.warning(f"{KEY_VARIABLE} is still set in the environment")
    return 0
