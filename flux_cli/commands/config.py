"""`flux-cli config`: show and change the settings."""

import os
import shlex
import shutil
from typing import Annotated, Any

import typer

from flux_cli import completion
from flux_cli.commands import SUMMARIES, load_config
from flux_cli.errors import UsageError
from flux_cli.storage import config
from flux_cli.storage.settings import SETTINGS, parse_name
from flux_cli.ui import console

app = typer.Typer(
    add_completion=False,
    help=f"{SUMMARIES['config']} Every request option can have a default.",
    epilog="Examples:\n\n"
    "$ flux-cli config set model flux-pro-1.1\n\n"
    "$ flux-cli config set models.flux-pro-1.1-ultra.aspect_ratio 21:9\n\n"
    "$ flux-cli config list",
)
EDITORS = ("vi", "nano", "notepad")
"""Tried in this order if neither VISUAL nor EDITOR is set."""


def _name(but: str = "") -> Any:
    names = ", ".join(name for name in SETTINGS if name != but)
    return typer.Argument(
        metavar="NAME",
        help=f"One of {names}; or models.MODEL.NAME for a default of one model.",
        autocompletion=completion.setting_names,
    )


Name = Annotated[str, _name()]


@app.command(
    help="Print the path of the config file.",
    epilog='Examples:\n\n$ flux-cli config path\n\n$ cat "$(flux-cli config path)"',
)
def path() -> int:
    """Print the path of the config file."""
    console.out(str(config.config_path()))
    return 0


@app.command(
    "list",
    help="Show the settings in effect and where each comes from. Key and webhook secret are masked.",
    epilog="Examples:\n\n$ flux-cli config list\n\n$ flux-cli config list | grep output_dir",
)
def list_all() -> int:
    """Show the settings in effect and where each comes from."""
    stored = load_config().values()
    for name, setting in SETTINGS.items():
        variable = os.environ.get(setting.envvar, "") if setting.envvar else ""
        if variable.strip():
            _print(name, variable, f"environment: {setting.envvar}")
        elif name in stored:
            _print(name, stored[name], "file")
        elif setting.default is not None:
            _print(name, setting.default, "default")
    for name, value in stored.items():
        if name not in SETTINGS:  # for one model
            _print(name, value, "file")
    return 0


@app.command(
    help="Print one setting from the file; exit with 1 if it is not set. Key and webhook secret are masked.",
    epilog='Examples:\n\n$ flux-cli config get model\n\n$ ls "$(flux-cli config get output_dir)"',
)
def get(name: Name) -> int:
    """Print one setting of the file."""
    value = load_config().values().get(str(parse_name(name)))
    if value is None:
        return 1
    console.out(_shown(name, value))
    return 0


@app.command(
    "set",
    help="Change one setting. For the key use `flux-cli login`: arguments are public.",
    epilog="Examples:\n\n"
    "$ flux-cli config set model flux-pro-1.1\n\n"
    "$ flux-cli config set output_dir ~/Pictures/flux\n\n"
    "$ flux-cli config set models.flux-pro.steps 40",
)
def set_one(
    name: Annotated[str, _name(but="api_key")],
    value: Annotated[
        str,
        typer.Argument(metavar="VALUE", help="The new value.", autocompletion=completion.setting_values),
    ],
) -> int:
    """Change one setting."""
    if name == "api_key":
        raise UsageError("a key on the command line can be read by others", "use `flux-cli login`")
    config.set_value(name, value)
    return 0


@app.command(
    help="Remove one setting.",
    epilog="Examples:\n\n$ flux-cli config unset model\n\n$ flux-cli config unset models.flux-pro.steps",
)
def unset(name: Name) -> int:
    """Remove one setting."""
    config.unset(name)
    return 0


@app.command(
    help="Change the file in an editor: $VISUAL, $EDITOR or vi. An invalid result does not replace the file.",
    epilog="Examples:\n\n$ EDITOR=nano flux-cli config edit\n\n$ VISUAL='nano -w' flux-cli config edit",
)
def edit() -> int:
    """Change the file in an editor."""
    if config.edit(_editor()):
        load_config()  # for its warnings
    else:
        console.note("nothing was changed")
    return 0


def _editor() -> list[str]:
    """Return the command of the user's editor. Raises UsageError if there is none."""
    chosen = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    try:
        command = shlex.split(chosen or "")
    except ValueError:
        raise UsageError(f"cannot split the editor's command: {chosen}", "check VISUAL and EDITOR") from None
    if not command:
        command = [editor for editor in EDITORS if shutil.which(editor)][:1]
    if not command:
        raise UsageError("no editor", "set VISUAL or EDITOR")
    return command


def _print(name: str, value: object, source: str) -> None:
    console.out(f"{name} = {_shown(name, value)}  # {source}")


def _shown(name: str, value: object) -> str:
    own = SETTINGS[name.rpartition(".")[2]]
    if own.secret:
        return config.masked(str(value).strip())
    return str(value).lower() if isinstance(value, bool) else str(value)
