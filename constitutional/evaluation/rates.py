"""A share with its interval, as every table of an evaluation or a report shows it."""

from __future__ import annotations

from constitutional.records import Record
from constitutional.statistics import Interval, wilson


class Rate(Record):
    """A share with its Wilson 95 % interval."""

    count: int
    n: int
    interval: Interval

    @property
    def share(self) -> float:
        """count / n."""
        return self.count / self.n if self.n else 0.0


def rate_of(count: int, n: int) -> Rate:
    """`count` of `n`."""
    return Rate(count=count, n=n, interval=wilson(count, n))
