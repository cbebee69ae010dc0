"""What is left to say when a run of a batch ends: the counts, and the rows that want a decision."""

from flux_cli.batch.standing import Tally
from flux_cli.ui import console


def tell(tally: Tally, seconds: float, credits_before: object, credits_after: object) -> None:
    """Tell how many rows stand how, how long it took, and the credits where they are known."""
    finished = tally.finished + tally.before
    parts = [
        f"{finished} of {tally.rows} rows finished" + (f", {tally.before} of them before" * bool(tally.before))
    ]
    counts = {
        "failed": tally.failed + len(tally.failed_before),
        "of unknown outcome": len(tally.unknown) + len(tally.unknown_before),
        "to wait for": tally.left + tally.under_way,
        "not sent": tally.to_send,
    }
    parts += [f"{count} {name}" for name, count in counts.items() if count]
    console.note("; ".join(parts))
    console.note(f"{seconds:.1f} s{_rate(tally.finished, seconds)}{_credits(credits_before, credits_after)}")


def _rate(finished: int, seconds: float) -> str:
    if finished < 2 or not seconds:
        return ""
    rate = finished / seconds
    return f", {rate:.1f} pictures a second" if rate >= 1 else f", {60 * rate:.1f} pictures a minute"


def _credits(before: object, after: object) -> str:
    if before is None and after is None:
        return ""
    first, last = ("?" if value is None else console.shortened(str(value), 20) for value in (before, after))
    return f"; credits as observed: {first} before, {last} after"


def list_open(tally: Tally, name: str, *, quiet: bool) -> None:
    """List the rows of unknown outcome, and tell what the others need that a later run will not do by itself."""
    unknown = [*tally.unknown_before, *tally.unknown]
    for place in unknown:
        console.error(f"{name}:{place.line}: it is not known whether row {place.row} was accepted and billed")
    if unknown:
        console.hint("see `flux-cli account` and your records; to send them again all the same: --retry-unknown")
    if tally.failed or tally.failed_before:
        console.hint("to send the rows again whose tasks failed: --retry-failed")
    if not quiet and tally.changed:
        rows = "1 finished row was" if tally.changed == 1 else f"{tally.changed} finished rows were"
        console.warning(f"{rows} made with other values than now, and will not be made again")
    if not quiet and tally.gone:
        rows = "1 finished row has" if tally.gone == 1 else f"{tally.gone} finished rows have"
        console.warning(f"{rows} no picture any more where an earlier run saved it")
        console.hint("`flux-cli wait TASK_ID` gets one again, for nothing; the ids are in results.jsonl")
    if tally.to_send or tally.left or tally.under_way:
        console.hint("run the same command again to go on")
