"""Reading the config file, with its warnings: what nearly every command does first."""

from typing import TYPE_CHECKING

from flux_cli.ui import console

if TYPE_CHECKING:
    from flux_cli.storage.config import Config


def load_config() -> "Config":
    """Return the config, and print what is unusual about its file. Raises as `config.load` does."""
    from flux_cli.storage import config  # 3 ms, which completion does without

    loaded = config.load()
    for warning in loaded.warnings:
        console.warning(warning)
    return loaded
