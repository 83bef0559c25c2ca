"""What a server is in at the moment of a scrape: read from it, not kept beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from xec import __version__
from xec.engines.priority import Priority
from xec_server.telemetry.lines import LineCounts

if TYPE_CHECKING:
    from datetime import datetime

    from prometheus_client import Metric

    from xec.engines.base import ModelInfo
    from xec_server.events.streams import Streams
    from xec_server.events.work import EventQueue


def _by(
    family: GaugeMetricFamily | CounterMetricFamily, values: dict[str, float]
) -> GaugeMetricFamily | CounterMetricFamily:
    for label, value in values.items():
        family.add_metric((label,), value)
    return family


class Observed(Protocol):
    """What is read of a server."""

    @property
    def model(self) -> ModelInfo:
        """Which model answers."""
        ...

    @property
    def is_serving(self) -> bool:
        """What its health says."""
        ...

    @property
    def listens_insecurely(self) -> bool:
        """Whether other machines are listened to and nothing is encrypted."""
        ...

    @property
    def batcher(self) -> EventQueue:
        """Where events wait."""
        ...

    @property
    def queue_limit(self) -> int:
        """Events that may wait in each lane."""
        ...

    @property
    def streams(self) -> Streams:
        """Those that are open, and what became of others."""
        ...

    @property
    def conditions_away_since(self) -> datetime | None:
        """Since when the conditions database cannot be asked."""
        ...


class ServerState(Collector):
    """Reads a server.

    Args:
        server: may be in use by its event loop meanwhile: only whole numbers are read.
        lines: of the process's log.
        failures: defects of telemetry itself so far.
    """

    def __init__(self, server: Observed, lines: LineCounts, failures: Callable[[], int]) -> None:
        self._server = server
        self._lines = lines
        self._failures = failures

    def register(self, registry: CollectorRegistry) -> None:
        """Let a registry tell it, with what the system knows of the process."""
        registry.register(self)
        ProcessCollector(registry=registry)

    def collect(self) -> Iterator[Metric]:
        """The state, for a scrape."""
        yield from self._life()
        yield from self._events()
        yield from self._streams()
        yield from self._conditions()
        yield CounterMetricFamily(
            "xec_log_lines_lost", "Log lines that could not be written.", value=self._lines.lost
        )
        yield CounterMetricFamily(
            "xec_log_lines_suppressed",
            "Log lines left out because they repeat others.",
            value=self._lines.suppressed,
        )
        yield CounterMetricFamily(
            "xec_telemetry_failures", "Defects in telemetry itself.", value=self._failures()
        )

    def _life(self) -> Iterator[Metric]:
        model = self._server.model
        yield InfoMetricFamily("xec_build", "The software.", value={"version": __version__})
        identity = {
            "name": model.name,
            "version": model.version,
            "sha256": model.sha256[:12],
            "preset": model.metadata.get("preset", ""),
            "engine": model.engine,
        }
        yield InfoMetricFamily("xec_model", "The model that answers.", value=identity)
        yield GaugeMetricFamily(
            "xec_serving", "Whether health says SERVING.", value=self._server.is_serving
        )
        yield GaugeMetricFamily(
            "xec_insecure_listen",
            "Whether other machines are listened to and nothing is encrypted.",
            value=self._server.listens_insecurely,
        )

    def _events(self) -> Iterator[Metric]:
        queue = self._server.batcher
        fates = {name: float(value) for name, value in dataclasses.asdict(queue.counts).items()}
        yield _by(CounterMetricFamily("xec_events", "Events by fate.", labels=("fate",)), fates)
        waiting = {lane.name.lower(): float(queue.waiting_in(lane)) for lane in Priority}
        text = "Events that wait for the engine."
        yield _by(GaugeMetricFamily("xec_queue_events", text, labels=("lane",)), waiting)
        yield GaugeMetricFamily(
            "xec_queue_limit", "Events that may wait in each lane.", value=self._server.queue_limit
        )

    def _streams(self) -> Iterator[Metric]:
        streams = self._server.streams
        yield GaugeMetricFamily("xec_streams_open", "Streams that are open.", value=streams.open)
        yield GaugeMetricFamily(
            "xec_stream_events_held", "Events that streams hold.", value=streams.held
        )
        counts = dataclasses.asdict(streams.counts)
        yield GaugeMetricFamily(
            "xec_stream_events_most_held",
            "The most that one stream has held.",
            value=counts.pop("most_held"),
        )
        opened = {name: float(counts.pop(name)) for name in ("opened", "refused")}
        text = "Streams by whether they were let in."
        yield _by(CounterMetricFamily("xec_streams", text, labels=("fate",)), opened)
        events = {("read" if name == "events" else name): float(n) for name, n in counts.items()}
        text = "Events of streams by fate."
        yield _by(CounterMetricFamily("xec_stream_events", text, labels=("fate",)), events)

    def _conditions(self) -> Iterator[Metric]:
        since = self._server.conditions_away_since
        yield GaugeMetricFamily(
            "xec_conditions_away",
            "Whether the conditions database could not be asked last time.",
            value=since is not None,
        )
        yield GaugeMetricFamily(
            "xec_conditions_away_since_seconds",
            "Since when, in seconds since 1970; 0 while it answers.",
            value=0.0 if since is None else since.timestamp(),
        )
