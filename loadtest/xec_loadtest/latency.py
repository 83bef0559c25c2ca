"""What a run says: percentiles from the intended times, goodput, and whether it may be believed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from xec_loadtest.arrivals import Times
from xec_loadtest.record import Outcome, Record

MOST_LAG: Final = 0.25
"""Of the latency at p99 that may be the generator's own lateness (its p99)."""

SHARES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}


def percentile(values: Times, share: float) -> float | None:
    """The value below which this share lies; None where there are too few to say.

    At p99 that takes 100 values: below, the figure would be the worst one by another name.
    """
    if len(values) * (1 - share) < 1 - 1e-9:
        return None
    return float(np.quantile(values, share))


@dataclass(frozen=True, slots=True)
class Point:
    """One offered rate. Rates in events/s, times in seconds from the intended send time.

    Args:
        offered: rate of the schedule, as it came out.
        goodput: rate of the answers that came within the limit.
        answered, refused, late, failed: numbers of events.
        p50, p90, p99, p999, worst: of the answered ones; None where too few were.
        lag: p99 of the generator's own lateness.
        valid: whether the latencies are the server's and not the generator's.
    """

    offered: float
    goodput: float
    answered: int
    refused: int
    late: int
    failed: int
    p50: float | None
    p90: float | None
    p99: float | None
    p999: float | None
    worst: float | None
    lag: float
    valid: bool

    @property
    def events(self) -> int:
        """That were to be sent."""
        return self.answered + self.refused + self.late + self.failed

    @property
    def good_share(self) -> float:
        """Of the offered events, how many were answered within the limit."""
        return self.goodput / self.offered if self.offered else 0.0


def summary(record: Record, limit: float) -> Point:
    """A run in figures.

    Args:
        record: of it.
        limit: seconds within which an answer counts as good.
    """
    latency, counts = record.latency, np.bincount(record.outcome, minlength=len(Outcome))
    lag = float(np.quantile(record.lag, 0.99)) if len(record.lag) else 0.0
    slow = float(np.quantile(latency, 0.99)) if len(latency) else np.inf
    shares = {name: percentile(latency, share) for name, share in SHARES.items()}
    return Point(
        offered=len(record.intended) / record.seconds,
        goodput=int((latency <= limit).sum()) / record.seconds,
        answered=int(counts[Outcome.ANSWERED]),
        refused=int(counts[Outcome.REFUSED]),
        late=int(counts[Outcome.LATE]),
        failed=int(counts[Outcome.FAILED]),
        worst=float(latency.max()) if len(latency) else None,
        lag=lag,
        valid=lag <= MOST_LAG * slow,
        **shares,
    )
