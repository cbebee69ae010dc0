"""Prints the tables of faults with what each came to: `python -m tests.faults`."""

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faults import test_downloading, test_local, test_submitting, test_waiting
from tests.faults.table import AT_ONCE, Outcome, Row, complaints, run

TABLES: dict[str, list[Row]] = {
    "refused": test_submitting.REFUSED,
    "outcome unknown": test_submitting.UNKNOWN_OUTCOMES,
    "submission, on the wire": test_submitting.ON_THE_WIRE,
    "never sent": test_submitting.NEVER_SENT,
    "waiting, overcome": test_waiting.OVERCOME,
    "waiting, resumable": test_waiting.RESUMABLE,
    "failed": test_waiting.FAILED,
    "waiting, on the wire": test_waiting.ON_THE_WIRE,
    "download, overcome": test_downloading.OVERCOME,
    "download, lost for now": test_downloading.LOST_FOR_NOW,
    "download, on the wire": test_downloading.ON_THE_WIRE,
    "names": test_local.NAMES,
}


def main() -> None:
    """Run all rows and print them."""
    total = wrong = 0
    for title, rows in TABLES.items():
        print(f"\n{title}\n{'':5} {'exit':>4} {'submissions':>11} {'pictures':>8}  {'history':10} fault")
        with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(AT_ONCE) as pool:
            directories = [Path(name) / str(number) for number in range(len(rows))]
            for row, outcome in zip(rows, pool.map(run, rows, directories), strict=True):
                found = list(complaints(row, outcome))
                total, wrong = total + 1, wrong + bool(found)
                print(
                    f"{'WRONG' if found else 'ok':5} {line(outcome)} {row.fault}",
                    *found,
                    sep="\n      " if found else "",
                )
    print(f"\n{total} faults, {wrong} wrong")


def line(outcome: Outcome) -> str:
    """Return what an outcome comes to."""
    status = ", ".join(record.status for record in outcome.records) or "-"
    return f"{outcome.done.code:4} {outcome.submissions:11} {len(outcome.files):8}  {status:10}"


if __name__ == "__main__":
    main()
