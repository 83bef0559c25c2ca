"""Whether a run of locust passes: failures, and latencies beside those of the unloaded server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What is allowed.

    Args:
        failures: share of the requests.
        p50, p99: of the online requests, in medians of the unloaded server.
    """

    failures: float
    p50: float
    p99: float


@dataclass(frozen=True, slots=True)
class Row:
    """The requests of one kind.

    Args:
        name: of the kind.
        online: whether somebody waits for them; what runs offline may take its time.
        requests: those that ended, failed ones included.
        failures: of them.
        p50, p99: milliseconds.
    """

    name: str
    online: bool
    requests: int
    failures: int
    p50: float
    p99: float


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison, and how it came out."""

    passed: bool
    sentence: str


def checks(rows: Iterable[Row], unloaded: float, thresholds: Thresholds) -> Iterator[Check]:
    """All comparisons of a run. One in which nothing was asked does not pass.

    Args:
        rows: one for each kind of request.
        unloaded: median of single requests before the run, milliseconds.
        thresholds: what is allowed.
    """
    rows = list(rows)
    requests, failures = sum(row.requests for row in rows), sum(row.failures for row in rows)
    if not requests:
        yield Check(False, "no request ended")
        return
    share = failures / requests
    yield Check(
        share <= thresholds.failures,
        f"failed: {share:.2%} of {requests} requests, allowed {thresholds.failures:.2%}",
    )
    for row in rows:
        if row.online and row.requests:
            yield _slowness(f"{row.name} p50", row.p50, unloaded, thresholds.p50)
            yield _slowness(f"{row.name} p99", row.p99, unloaded, thresholds.p99)


def _slowness(what: str, value: float, unloaded: float, most: float) -> Check:
    times = value / unloaded
    return Check(
        times <= most,
        f"{what}: {value:.0f} ms, {times:.1f} times the unloaded {unloaded:.1f} ms, "
        f"allowed {most:g} times",
    )
