"""`flux-cli account`: the account that the key belongs to."""

import typer

from flux_cli import options
from flux_cli.commands import load_config
from flux_cli.options import ServiceOptions
from flux_cli.ui import console, tables

app = typer.Typer(add_completion=False)


@app.command(epilog="Examples:\n\n$ flux-cli account\n\n$ flux-cli account --json | jq .credits")
@options.expanded
def account(*, service: ServiceOptions) -> int:
    """Show the account: e-mail, credits, images made, plan."""
    from flux_cli.commands.service import choose, connect

    with connect(choose(service, load_config())) as connected:
        values = connected.client.account()
    if service.json:
        console.out_json(values)
    else:
        rows = [(name, "-" if value is None else str(value)) for name, value in values.items()]
        tables.show(("name", "value"), rows, header=False)
    return 0
