"""The entry point: `flux-cli`, and `python -m flux_cli`."""

import gc
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
    gc.set_threshold(50_000, 20, 20)  # the default collects 30 times while modules are imported: 8 ms of `fetch`
    if (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ):  # not if a shell ignores it in the background
        signal.signal(signal.SIGINT, _exit_interrupted)
    from flux_cli.main import run as run_command

    if signal.getsignal(signal.SIGINT) is _exit_interrupted:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        run_command()
    finally:
        gc.freeze()  # the interpreter's last collections would find nothing in it, in 14 ms of `fetch`


if __name__ == "__main__":
    run()
