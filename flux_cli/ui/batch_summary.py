"""The summary of a batch: the counts, and the rows that need a decision."""

from flux_cli.batch.plan import RowCounts
from flux_cli.ui import console


def counted(count: int, noun: str) -> str:
    """Return a number of things, such as `1 row` or `2 rows`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def print_counts(counts: RowCounts, seconds: float, credits_before: object, credits_after: object) -> None:
    """Print the number of rows in each state, the duration, and the credits if they are known."""
    done = counts.done + counts.done_before
    before = f" ({counts.done_before} by earlier runs)" if counts.done_before else ""
    parts = [f"{done} of {counts.total} rows finished{before}"]
    others = {
        "failed": counts.failed,
        "with unknown outcome": counts.unknown,
        "not saved": counts.not_saved,
        "still running": counts.left + counts.running,
        "not sent": counts.not_sent,
    }
    parts += [f"{count} {name}" for name, count in others.items() if count]
    console.note(", ".join(parts))
    console.note(f"{seconds:.1f} s{_rate(counts.done, seconds)}{_credits(credits_before, credits_after)}")


def _rate(done: int, seconds: float) -> str:
    if done < 2 or not seconds:
        return ""
    rate = done / seconds
    return f", {rate:.1f} pictures per second" if rate >= 1 else f", {60 * rate:.1f} pictures per minute"


def _credits(before: object, after: object) -> str:
    if before is None and after is None:
        return ""
    first, last = ("unknown" if value is None else console.shortened(str(value), 20) for value in (before, after))
    return f", credits: {last}" if first == last else f", credits: {first} before, {last} after"


def print_unresolved(counts: RowCounts, name: str, failed_before: int) -> None:
    """Print the rows that failed or have an unknown outcome, and what the user can do about them.

    `failed_before` is the number of rows that failed in earlier runs. Failures in this run are already printed.
    """
    for line in counts.unknown_lines:
        console.error(f"{name}:{line}: the outcome is unknown; it may have been charged")
    if counts.unknown:
        console.hint("see `flux-cli account`; use --retry-unknown to resubmit these rows (may charge twice)")
    if failed_before:
        runs = "an earlier run" if failed_before == 1 else "earlier runs"
        console.error(f"{counted(failed_before, 'row')} failed in {runs}")
    if counts.failed:
        console.hint("use --retry-failed to resubmit the failed rows")
    if counts.changed:
        rows = counted(counts.changed, "finished row")
        console.warning(f"not generated again: {rows} with values that have changed since")
    if not console.quiet and counts.missing:
        pictures, verb = ("picture", "is") if counts.missing == 1 else ("pictures", "are")
        console.warning(f"the {pictures} of {counted(counts.missing, 'finished row')} {verb} missing")
        console.hint("use --refetch to download the missing pictures again, free of charge")
    if counts.not_saved or counts.left or counts.running or (counts.not_sent and not console.quiet):
        console.hint("resume with the same command")
