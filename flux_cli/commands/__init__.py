"""One module per subcommand: its signature, one call into the core, and the output of the result."""

from typing import TYPE_CHECKING

from flux_cli.ui import console

if TYPE_CHECKING:
    from flux_cli.storage.config import Config

SUMMARIES = {
    "imagine": "Generate a picture from a prompt, and save it.",
    "fetch": "Show the status of tasks.",
    "wait": "Wait for tasks, and save their pictures.",
    "batch": "Generate many pictures from a file; run it again to resume.",
    "history": "Show what was submitted from here, and its outcome.",
    "forget": "Remove tasks from the history.",
    "show": "Show a picture in the terminal, or print its path in a pipe.",
    "gallery": "Write one HTML page of generated pictures.",
    "login": "Store the API key: typed at a hidden prompt, or read from stdin.",
    "logout": "Remove the stored API key.",
    "config": "Show and change the settings.",
    "account": "Show the account: e-mail, credits, images made, plan.",
    "models": "Show each model and its parameters.",
    "listen": "Receive webhooks, and save the pictures of tasks that finish.",
    "sandbox": "Run a free stand-in for the service.",
    "help": "Show the help of a command.",
}
"""The subcommands in the order of the help, each with its description.

Each is a module here with an `app`. The descriptions are here because importing all modules takes 30 ms, too long
for a TAB. They are not docstrings because `python -OO` removes those.
"""


def load_config() -> "Config":
    """Return the config, and print the warnings about its file. Raises as `config.load` does."""
    from flux_cli.storage import config  # 3 ms, which completion does not need

    loaded = config.load()
    for warning in loaded.warnings:
        console.warning(warning)
    return loaded
