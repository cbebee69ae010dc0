"""Write the shells' scripts, as the program prints them: `python -m completions.generate [DIRECTORY]`."""

import sys
from pathlib import Path

from flux_cli.ui import shells

NAMES = {"bash": "flux-cli.bash", "zsh": "_flux-cli", "fish": "flux-cli.fish", "powershell": "flux-cli.ps1"}


def main() -> None:
    """Write all scripts into a directory, by default the one that this file is in."""
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for shell in shells.SHELLS:
        (directory / NAMES[shell]).write_text(shells.script(shell), encoding="ascii", newline="\n")


if __name__ == "__main__":
    main()
