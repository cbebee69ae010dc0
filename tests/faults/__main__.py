"""Print every fault with its outcome: `python -m tests.faults`."""

import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.cli import new_cli
from tests.faults import test_downloading, test_local, test_submitting, test_waiting
from tests.faults.table import Outcome, Row, complaints, run

AT_ONCE = 4


def tables() -> Iterator[tuple[str, list[Row]]]:
    """Yield each table of faults with its name."""
    for module in (test_submitting, test_waiting, test_downloading, test_local):
        for name, value in vars(module).items():
            if isinstance(value, list) and value and all(isinstance(row, Row) for row in value):
                yield f"{module.__name__.rpartition('test_')[2]}: {name.lower().replace('_', ' ')}", value


def main() -> None:
    """Run all rows as processes, and print them."""
    total = wrong = 0
    for title, rows in tables():
        print(f"\n{title}\n{'':5} {'exit':>4} {'submissions':>11} {'pictures':>8}  {'history':10} fault")
        with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(AT_ONCE) as pool:
            clis = [new_cli(Path(name) / str(number)) for number in range(len(rows))]
            for row, outcome in zip(rows, pool.map(run, rows, clis), strict=True):
                found = list(complaints(row, outcome))
                total, wrong = total + 1, wrong + bool(found)
                print(f"{'WRONG' if found else 'ok':5} {_line(outcome)} {row.fault}", *found, sep="\n      ")
    print(f"\n{total} faults, {wrong} wrong")
    sys.exit(bool(wrong))


def _line(outcome: Outcome) -> str:
    status = ", ".join(record.status for record in outcome.records) or "-"
    return f"{outcome.done.code:4} {outcome.submissions:11} {len(outcome.files):8}  {status:10}"


if __name__ == "__main__":
    main()
