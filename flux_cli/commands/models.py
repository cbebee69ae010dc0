"""`flux-cli models`: the models and the parameters that each takes."""

import sys
from typing import Annotated

import typer

from flux_cli.api.request import FIELDS, MODELS, flag
from flux_cli.ui import console, tables

app = typer.Typer(add_completion=False)

OWN = "takes besides what all models take"


@app.command(epilog="Examples:\n\n$ flux-cli models\n\n$ flux-cli models --json | jq -r .model")
def models(json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line.")] = False) -> int:
    """Show each model and the parameters that only some models take."""
    for model in MODELS if json else ():
        console.out_json({"model": model, "parameters": _parameters(model, special_only=False)})
    if not json:
        tables.show(("model", OWN), [(model, _own(model)) for model in MODELS], grow=(OWN,))
    return 0


def _own(model: str) -> str:
    """Return what a model takes that others do not: as flags for people, as fields in a pipe."""
    names = _parameters(model, special_only=True)
    if sys.stdout.isatty():
        names = [flag(name).strip("`") for name in names]
    return " ".join(names) or "-"


def _parameters(model: str, *, special_only: bool) -> list[str]:
    return [
        name
        for name, field in FIELDS.items()
        if name != "model" and (model in field.models or not (field.models or special_only))
    ]
