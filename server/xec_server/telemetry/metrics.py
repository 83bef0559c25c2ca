"""What is counted and timed as calls come and go; see docs/telemetry.md for what it means.

No label tells events, runs, addresses or paths: their values would grow without end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from grpc import StatusCode
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from xec.engines.priority import Priority
from xec.wire.v1 import reconstruction_pb2 as pb
from xec_server.calls.call import Call
from xec_server.calls.refusal import CODES, Reason, Refusal
from xec_server.events.work import Work
from xec_server.queueing.outcomes import Answered

SECONDS: Final = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2),
    *(0.5, 1.0, 2.0, 5.0, 10.0, 30.0),
)
MOST_CLIENTS: Final = 64
"""Names of clients that are told apart; those after them are counted as `OTHER_CLIENT`."""
UNNAMED_CLIENT: Final = "unnamed"
OTHER_CLIENT: Final = "other"
FLAGS: Final = ("outside_fiducial", "outside_domain", "too_much_dead_light")

_NO_TIME: Final = 0.05
"""Seconds: a client ends a call by its own clock, which began a little earlier than ours."""


class Metrics:
    """The metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._clients: set[str] = set()
        self._calls = self._new(
            Counter,
            "xec_calls",
            "Calls that have ended.",
            ("method", "code", "reason", "client"),
        )
        self._in_progress = self._new(
            Gauge, "xec_calls_in_progress", "Calls that have not ended yet.", ("method",)
        )
        self._call_seconds = self._timer("xec_call_seconds", "Time of a call.", ("method",))
        self._queue_seconds = self._timer(
            "xec_queue_seconds", "Time that an answered event waited for the engine.", ("lane",)
        )
        self._compute_seconds = self._timer(
            "xec_compute_seconds", "Time of the engine call that an event was in."
        )
        self._misses = self._new(
            Counter,
            "xec_deadline_misses",
            "Too late: events refused unread by the engine, calls cut off by their deadline.",
            ("how",),
        )
        self._event_refusals = self._new(
            Counter,
            "xec_stream_events_refused",
            "Events of streams that were answered by an error.",
            ("code", "reason"),
        )
        self._flags = self._new(Counter, "xec_flags", "Answers that carry a flag.", ("flag",))
        self._stale = self._new(
            Counter, "xec_stale_lists", "Answers by a dead list that could not be confirmed."
        )
        self._recovered = self._new(
            Counter, "xec_recovered_sensors", "Dead sensors that were filled."
        )
        for how in ("refused", "cut_off"):
            self._misses.labels(how)
        for flag in FLAGS:
            self._flags.labels(flag)
        self._lanes = {lane: self._queue_seconds.labels(lane.name.lower()) for lane in Priority}

    def _new(
        self, kind: Callable[..., Any], name: str, text: str, labels: Sequence[str] = ()
    ) -> Any:
        return kind(name, text, labels, registry=self.registry)

    def _timer(self, name: str, text: str, labels: Sequence[str] = ()) -> Any:
        return Histogram(name, text, labels, buckets=SECONDS, registry=self.registry)

    @contextmanager
    def watch(self, call: Call) -> Iterator[None]:
        """A gate that counts and times a call."""
        method, connection = call.method.removeprefix("/"), call.caller
        in_progress = self._in_progress.labels(method)
        in_progress.inc()
        call.listeners.append(self._refused_event)
        began = time.perf_counter()
        try:
            yield
        finally:
            in_progress.dec()
            self._call_seconds.labels(method).observe(time.perf_counter() - began)
            client = UNNAMED_CLIENT if call.caller == connection else self._client(call.caller)
            self._calls.labels(method, call.code.name, call.reason or "", client).inc()
            self._count_miss(call)

    def _client(self, name: str) -> str:
        if name not in self._clients:
            if len(self._clients) >= MOST_CLIENTS:
                return OTHER_CLIENT
            self._clients.add(name)
        return name

    def _count_miss(self, call: Call) -> None:
        if call.reason is Reason.DEADLINE_PASSED:
            self._misses.labels("refused").inc()
        elif call.code is StatusCode.CANCELLED:
            remaining = call.context.time_remaining()
            if remaining is not None and remaining <= _NO_TIME:
                self._misses.labels("cut_off").inc()

    def _refused_event(self, call: Call, refusal: Refusal, run: int, event: int) -> None:
        del call, run, event
        self._event_refusals.labels(CODES[refusal.reason].name, refusal.reason).inc()
        if refusal.reason is Reason.DEADLINE_PASSED:
            self._misses.labels("refused").inc()

    def answered(
        self,
        works: Sequence[Work],
        lane: Priority,
        answers: Sequence[Answered[pb.ReconstructResponse]],
    ) -> None:
        """Count and time events that were answered."""
        queue = self._lanes[lane]
        for work, answer in zip(works, answers, strict=True):
            queue.observe(answer.queue_seconds)
            self._compute_seconds.observe(answer.compute_seconds)
            self._recovered.inc(len(answer.value.recovered.channel))
            for flag, is_raised in answer.value.flags.ListFields():
                if is_raised and flag.name in FLAGS:
                    self._flags.labels(flag.name).inc()
            if work.provenance.dead_list_stale_since:
                self._stale.inc()
