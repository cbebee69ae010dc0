"""Shards: equal parts of the rows of a batch, for several processes or machines."""

import re
from dataclasses import dataclass
from math import gcd

from flux_cli.errors import UsageError

_SHARD = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")


@dataclass(frozen=True)
class Shard:
    """Every `count`-th row, starting with the `index`-th. `1/1` is all of them."""

    index: int = 1
    count: int = 1

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
        return f"{self.index}/{self.count}"

    def has(self, position: int) -> bool:
        """Return whether the row at this position, from 1, belongs to it."""
        return position % self.count == self.index % self.count

    def overlaps(self, other: "Shard") -> bool:
        """Return whether a row can belong to both."""
        return (self.index - other.index) % gcd(self.count, other.count) == 0
