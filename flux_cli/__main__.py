"""The entry point: `flux-cli`, and `python -m flux_cli`."""

import os
import signal

TYPE_CHECKING = False  # importing typing takes as long as all of this
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn


def _exit_interrupted(_number: int, _frame: "FrameType | None") -> "NoReturn":
    os._exit(130)


def run() -> "NoReturn":
    """Run the program. A Ctrl-C during its imports, which take 50 ms, ends it without a traceback."""
    if (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ):  # not if a shell ignores it in the background
        signal.signal(signal.SIGINT, _exit_interrupted)
    from flux_cli.main import run as run_command

    if signal.getsignal(signal.SIGINT) is _exit_interrupted:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run_command()


if __name__ == "__main__":
    run()
