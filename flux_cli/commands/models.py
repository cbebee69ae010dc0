"""`flux-cli models`: the models, what each is for, and its parameters."""

import sys
from typing import Annotated

import typer

from flux_cli.api.request import DEFAULT_MODEL, FIELDS, MODELS, flag
from flux_cli.ui import console, help, tables  # noqa: A004 - a module

app = typer.Typer(add_completion=False)


@app.command(epilog="Examples:\n\n$ flux-cli models\n\n$ flux-cli models --json | jq -r .model")
def models(
    json: Annotated[bool, typer.Option("--json", help="Print JSON Lines, one object per model.")] = False,
) -> int:
    """Print the table of models."""
    if json:
        for model, purpose in MODELS.items():
            default = model == DEFAULT_MODEL
            console.out_json({"model": model, "default": default, "purpose": purpose, "parameters": _all(model)})
        return 0
    if sys.stdout.isatty():
        console.out_bytes(f"{help.listing([(model, _description(model)) for model in MODELS])}\n".encode())
        console.note("Every model accepts the other parameters of `flux-cli imagine`.")
    else:
        rows = [(model, " ".join(_own(model)) or "-", _purpose(model)) for model in MODELS]
        tables.show(("model", "parameters", "purpose"), rows)
    return 0


def _all(model: str) -> list[str]:
    fields = (field for field in FIELDS.values() if field.name != "model")
    return [field.name for field in fields if not field.models or model in field.models]


def _own(model: str) -> list[str]:
    """Return the parameters of a model that not all models accept."""
    return [name for name, field in FIELDS.items() if model in field.models]


def _purpose(model: str) -> str:
    return f"the default; {MODELS[model]}" if model == DEFAULT_MODEL else MODELS[model]


def _description(model: str) -> str:
    flags = " ".join(flag(name).strip("`") for name in _own(model))
    return f"{_purpose(model)}; accepts {flags}" if flags else _purpose(model)
