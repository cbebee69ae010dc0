"""Shards of a batch, and who works on which: no two processes of this machine take up the same row at once."""

import contextlib
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd
from pathlib import Path

from flux_cli.errors import LocalFileError, UsageError
from flux_cli.storage.files import local_errors
from flux_cli.storage.locks import lock
from flux_cli.storage.paths import make_directory, state_directory

_SHARD = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")
_CLAIM = re.compile(r"[0-9a-f]{16}\.([0-9]+)-([0-9]+)\.lock")


@dataclass(frozen=True)
class Shard:
    """Every `of`-th row, beginning with the `number`-th. `1/1` is all of them."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read `K/N`. Raises UsageError unless it is two numbers with 1 <= K <= N."""
        match = _SHARD.fullmatch(text.strip())
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise UsageError(
                f"`--shard` takes K/N with K from 1 to N, not `{text[:60]}`", "the first of four: --shard 1/4"
            )
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def has(self, position: int) -> bool:
        """Say whether the row at this position, from 1, belongs to it."""
        return position % self.of == self.number % self.of

    def overlaps(self, other: "Shard") -> bool:
        """Say whether some row can belong to both."""
        return (self.number - other.number) % gcd(self.of, other.of) == 0


@contextlib.contextmanager
def claimed(service: str, directory: Path, shard: Shard) -> Iterator[None]:
    """Claim a shard of the batch of a directory for this process, until the block ends or the process does.

    Claims lie beside the history, which they protect: what is submitted and has no answer yet looks there just
    like what a crash left behind.

    Raises:
        LocalFileError: Another process works on rows of it.
    """
    place = state_directory() / "batches"
    digest = hashlib.sha256(f"{service}\0{directory}".encode()).hexdigest()[:16]
    own = place / f"{digest}.{shard.number}-{shard.of}.lock"
    with local_errors(place):
        make_directory(place, 0o700)
        with _locked(place / f"{digest}.lock"):
            for path in place.glob(f"{digest}.*-*.lock"):
                _check_other(path, shard, directory)
            claim = own.open("ab")
            lock(claim, wait=False)
    try:
        yield
    finally:
        with contextlib.suppress(OSError), _locked(place / f"{digest}.lock"):
            claim.close()
            own.unlink()


def _check_other(path: Path, shard: Shard, directory: Path) -> None:
    """Remove a claim that a dead process left behind. Raises LocalFileError for a live one that overlaps."""
    match = _CLAIM.fullmatch(path.name)
    other = Shard(int(match[1]), int(match[2])) if match else shard
    with path.open("ab") as file:
        free = lock(file, wait=False)
    if free:
        path.unlink()
    elif other.overlaps(shard):
        which = f"shard {other} of " if other.of > 1 else ""
        raise LocalFileError(
            f"another flux-cli works on {which}the batch in {directory}",
            "wait until it has ended, or end it; this one then goes on where it was",
        )


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("ab") as file:
        lock(file, wait=True)
        yield
