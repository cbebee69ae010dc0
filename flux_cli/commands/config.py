"""`flux-cli config`: look at the settings and change them."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Annotated, Any

import typer

from flux_cli import completion
from flux_cli.commands import SUMMARIES
from flux_cli.errors import UsageError
from flux_cli.storage import config as settings
from flux_cli.ui import console

app = typer.Typer(
    add_completion=False,
    help=f"{SUMMARIES['config']} Their names: {', '.join(settings.NAMES)}.",
    epilog="Examples:\n\n"
    "$ flux-cli config set model flux-pro-1.1\n\n"
    "$ flux-cli config set output_dir ~/Pictures/flux\n\n"
    "$ flux-cli config list",
)


def _one_of(names: Iterable[str]) -> Any:
    return typer.Argument(
        metavar="NAME", help=f"One of {', '.join(names)}.", autocompletion=completion.setting_names
    )


Name = Annotated[str, _one_of(settings.NAMES)]


@app.command(
    help="Print the path of the config file.",
    epilog='Examples:\n\n$ flux-cli config path\n\n$ cat "$(flux-cli config path)"',
)
def path() -> int:
    """Print where the config file is."""
    console.out(str(settings.config_path()))
    return 0


@app.command(
    "list",
    help="Print the settings, key and webhook secret masked.",
    epilog="Examples:\n\n$ flux-cli config list\n\n$ flux-cli config list | grep output_dir",
)
def list_all() -> int:
    """Print what is set, the key and the webhook secret masked."""
    for name, value in asdict(settings.load()).items():
        if value is not None:
            console.out(f"{name} = {_shown(name, value)}")
    return 0


@app.command(
    help="Print one setting; exit with 1 if it is not set. Key and webhook secret are masked.",
    epilog='Examples:\n\n$ flux-cli config get model\n\n$ ls "$(flux-cli config get output_dir)"',
)
def get(name: Name) -> int:
    """Print one setting; exit with 1 if it is not set. The key and the webhook secret are masked."""
    if name not in settings.NAMES:
        raise settings.unknown_name(name)
    value = getattr(settings.load(), name)
    if value is None:
        return 1
    console.out(_shown(name, value))
    return 0


@app.command(
    "set",
    help="Change one setting. The key is stored with `flux-cli login` instead: arguments are public.",
    epilog="Examples:\n\n"
    "$ flux-cli config set model flux-pro-1.1\n\n"
    "$ flux-cli config set output_dir ~/Pictures/flux\n\n"
    "$ flux-cli config set sandbox true",
)
def set_one(
    name: Annotated[str, _one_of(name for name in settings.NAMES if name != "api_key")],
    value: Annotated[
        str,
        typer.Argument(metavar="VALUE", help="The new value.", autocompletion=completion.setting_values),
    ],
) -> int:
    """Change one setting. The key is stored with `flux-cli login` instead: arguments are public."""
    if name == "api_key":
        raise UsageError(
            "the key does not belong on a command line, which others can read", "use `flux-cli login`"
        )
    settings.set_value(name, value)
    return 0


@app.command(
    help="Remove one setting.",
    epilog="Examples:\n\n$ flux-cli config unset model\n\n$ flux-cli config unset webhook_secret",
)
def unset(name: Name) -> int:
    """Remove one setting."""
    settings.unset(name)
    return 0


def _shown(name: str, value: object) -> str:
    if name in settings.SECRET_NAMES:
        return settings.masked(str(value))
    return str(value).lower() if isinstance(value, bool) else str(value)
