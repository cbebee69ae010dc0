"""Reading the config file, with its warnings: what nearly every command does first."""

from flux_cli.storage import config
from flux_cli.storage.config import Config
from flux_cli.ui import console


def load_config(*, quiet: bool = False) -> Config:
    """Return the config, and print what is unusual about its file. Raises as `config.load` does."""
    loaded = config.load()
    for warning in () if quiet else loaded.warnings:
        console.warning(warning)
    return loaded
