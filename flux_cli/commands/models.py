"""`flux-cli models`: the models and the parameters that each takes."""

from typing import Annotated

import typer

from flux_cli.request import FIELDS, MODELS
from flux_cli.ui import console, tables

app = typer.Typer(add_completion=False)


@app.command(epilog="Examples:\n\n$ flux-cli models\n\n$ flux-cli models --json | jq -r .model")
def models(json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line.")] = False) -> int:
    """Show each model and the parameters that only some models take."""
    for model in MODELS if json else ():
        console.out_json({"model": model, "parameters": _parameters(model, special_only=False)})
    if not json:
        rows = [(model, " ".join(_parameters(model, special_only=True)) or "-") for model in MODELS]
        tables.show(("model", "parameters of its own"), rows, grow=("parameters of its own",))
    return 0


def _parameters(model: str, *, special_only: bool) -> list[str]:
    return [
        name
        for name, field in FIELDS.items()
        if name != "model" and (model in field.models or not (field.models or special_only))
    ]
