"""Measure startup, completion and a long history: `python -m tests.benchmarks.startup [RUNS]`.

Each row runs a command and its yardstick in turn, and prints the medians of whole processes and the median of
their ratios. The yardsticks are a bare Typer app with two commands, and the same command with 10 tasks in its
history instead of 100,000. What the shells' scripts add to completion is not in it.
"""

import math
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

from flux_cli.api.task import Status
from flux_cli.storage.history import History
from tests import lean
from tests.measured import FLUX_CLI, Cost, environment, in_turn, measure, submitted

BARE = """
import typer
app = typer.Typer()

@app.command()
def nothing(): pass

@app.command()
def post(url: str, task_id: str):
    import requests
    response = requests.post(url, json={"task_id": task_id}, headers={"Authorization": "key"})
    print(response.json()["status"])

app()
"""
LINES = (
    *("flux-cli ", "flux-cli imagine --", "flux-cli imagine --model ", "flux-cli imagine --image-prompt "),
    *("flux-cli sandbox --fault ", "flux-cli wait ", "flux-cli wait a", "flux-cli wait abc"),
    "flux-cli imagine --like ",
)


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    with tempfile.TemporaryDirectory() as name, lean.running(0.0) as url:
        task_id = submitted(url)
        few, many = (Path(name) / size for size in ("10", "100000"))
        for home in (few, many):
            home.mkdir()
            (home / "rows.txt").write_text("a kite")
            fill(home / "state" / "flux-cli" / "history.sqlite3", int(home.name), url, task_id)
        (many / "bare.py").write_text(BARE)

        def process(*command: str | Path, home: Path = many, **env: str) -> Callable[[], Cost]:
            return partial(measure, command, environment(home, url) | env, home)

        def tab(line: str, home: Path = many) -> Callable[[], Cost]:
            return process(FLUX_CLI, home=home, _FLUX_CLI_COMPLETE="bash", _FLUX_CLI_LINE=line)

        bare = partial(process, sys.executable, many / "bare.py")
        request = bare("post", f"{url}/fetch", task_id)
        rows = [
            ("--version", process(FLUX_CLI, "--version"), "Typer no-op", bare("nothing"), 1.2),
            ("--help", process(FLUX_CLI, "--help"), "Typer --help", bare("--help"), 0.6),
            ("fetch ID", process(FLUX_CLI, "fetch", task_id), "Typer + requests POST", request, 1.15),
        ]
        for peer, option in (("http", "--version"), ("llm", "--version"), ("together", "--help")):
            if shutil.which(peer):
                rows.append((f"{peer} {option}", process(peer, option), "Typer no-op", bare("nothing"), math.nan))
        rows += [(f"{line}<TAB>", tab(line), "Typer no-op", bare("nothing"), 1.0) for line in LINES]
        for command in (f"fetch {task_id}", "history --limit 10", "batch rows.txt -o out -q"):
            long, short = (process(FLUX_CLI, *command.split(), home=home) for home in (many, few))
            rows.append((command[:24], long, "10 tasks", short, 1.1))
        for line in ("flux-cli wait ", "flux-cli wait ab"):
            rows.append((f"{line}<TAB>", tab(line), "10 tasks", tab(line, few), 1.1))
        print(f"{'command':38} {'ms':>5}   {'yardstick':24} {'ms':>5} {'ratio':>6} {'target':>6}")
        for title, process_, other, yardstick, target in rows:
            ours, theirs = ([1000 * cost.wall for cost in costs] for costs in in_turn(runs, process_, yardstick))
            ratio = median(one / another for one, another in zip(ours, theirs, strict=True))
            print(f"{title:38} {median(ours):5.0f}   {other:24} {median(theirs):5.0f} {ratio:6.2f} {target:6.2f}")


def fill(path: Path, records: int, service: str, task_id: str) -> None:
    """Make a history of so many tasks, rows of a batch and saved, and one more that is neither."""
    history = History(path)
    requests: list[dict[str, object]] = [
        {"model": "flux-pro", "prompt": f"kite {n} " * 20} for n in range(records)
    ]
    with history.transaction():
        for number in history.begin(service, requests, "/pictures", [str(n) for n in range(records)]):
            history.accepted(number, str(uuid.uuid4()))
            history.ended(number, Status.FINISHED, path=f"/pictures/{number}.png", exit_code=0)
        (number,) = history.begin(service, requests[:1])
        history.accepted(number, task_id)
    history.close()


if __name__ == "__main__":
    main()
