"""Reading the config file and printing its warnings, which nearly every command does first."""

from typing import TYPE_CHECKING

from flux_cli.ui import console

if TYPE_CHECKING:
    from flux_cli.storage.config import Config


def load_config() -> "Config":
    """Return the config, and print the warnings about its file. Raises as `config.load` does."""
    from flux_cli.storage import config  # 3 ms, which completion does not need

    loaded = config.load()
    for warning in loaded.warnings:
        console.warning(warning)
    return loaded
