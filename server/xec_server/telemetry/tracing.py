"""Spans by OpenTelemetry: a call, and in it how long its events waited and were computed.

Loaded only where traces are wanted: nothing else here knows OpenTelemetry.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import grpc
from opentelemetry import context as otel_context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import (
    Span,
    SpanKind,
    Status,
    StatusCode,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from xec import __version__
from xec.engines.priority import Priority
from xec.wire.v1 import reconstruction_pb2 as pb
from xec_server.calls.call import Call
from xec_server.calls.refusal import CODES, Refusal
from xec_server.events.work import Work
from xec_server.queueing.outcomes import Answered

_FLUSH_SECONDS: Final = 3.0
_EXPORT_SECONDS: Final = 2
_NS: Final = 1e9
_PARENTS: Final = ("traceparent", "tracestate")

Clock = Callable[[], int]


class Tracing:
    """Makes the spans of one server.

    Args:
        exporter: takes them.
        clock: nanoseconds since 1970.
    """

    def __init__(self, exporter: SpanExporter, clock: Clock = time.time_ns) -> None:
        resource = Resource.create({"service.name": "xec", "service.version": __version__})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("xec_server", __version__)
        self._propagator = TraceContextTextMapPropagator()
        self._clock = clock

    @contextmanager
    def watch(self, call: Call) -> Iterator[None]:
        """A gate that makes a call's span, below that of its client where it names one."""
        service, _, method = call.method.removeprefix("/").rpartition("/")
        span = self._tracer.start_span(
            f"{service}/{method}",
            self._parent(call.context.invocation_metadata()),
            SpanKind.SERVER,
            {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method},
        )
        token = otel_context.attach(set_span_in_context(span))
        call.listeners.append(_tell_of_event)
        try:
            yield
        finally:
            otel_context.detach(token)
            _conclude(span, call)
            span.end()

    def _parent(self, metadata: object) -> otel_context.Context | None:
        found = {
            str(key): str(value)
            for key, value in metadata or ()  # type: ignore[attr-defined]  # pairs, or None
            if key in _PARENTS
        }
        return self._propagator.extract(found) if "traceparent" in found else None

    def now(self) -> int:
        """The time for `answered` and `failed`."""
        return self._clock()

    def answered(
        self,
        began: int,
        works: Sequence[Work],
        lane: Priority,
        answers: Sequence[Answered[pb.ReconstructResponse]],
    ) -> None:
        """Make the spans of events that came together: waiting, then the engine.

        Args:
            began: when they came.
            works: the events.
            lane: where they waited.
            answers: to them.
        """
        if not answers or not get_current_span().is_recording():
            return  # nothing is to be told, or this call is not one of those sampled
        first = min(answer.queue_seconds for answer in answers)
        last = max(answer.queue_seconds for answer in answers)
        end = max(answer.queue_seconds + answer.compute_seconds for answer in answers)
        about: dict[str, str | int] = {"xec.events": len(works), "xec.lane": lane.name.lower()}
        if len(works) == 1:
            about |= {"xec.run": works[0].event.run, "xec.event": works[0].event.event}
        self._span("queue", about, began, began + int(last * _NS))
        engines = sorted({answer.value.provenance.engine for answer in answers})
        how: dict[str, str | int] = {  # not once more what they are: each attribute costs
            "xec.engine": ",".join(engines),
            "xec.batch_size": max(answer.batch_size for answer in answers),
        }
        self._span("compute", how, began + int(first * _NS), began + int(end * _NS))

    def failed(self, began: int, works: Sequence[Work], error: BaseException) -> None:
        """Make the span of events that were not answered."""
        about: dict[str, str | int] = {"xec.events": len(works), "error.type": type(error).__name__}
        self._span("queue", about, began, self._clock(), StatusCode.ERROR)

    def _span(
        self,
        name: str,
        about: dict[str, str | int],
        began: int,
        ended: int,
        status: StatusCode = StatusCode.UNSET,
    ) -> None:
        span = self._tracer.start_span(name, attributes=about, start_time=began)
        if status is StatusCode.ERROR:
            span.set_status(Status(status))
        span.end(ended)

    def close(self) -> None:
        """Send what is left, if that goes quickly."""
        # The exporter may wait for a collector that does not answer; the process does not.
        thread = threading.Thread(target=self._provider.shutdown, daemon=True)
        thread.start()
        thread.join(_FLUSH_SECONDS)


def _conclude(span: Span, call: Call) -> None:
    span.set_attribute("rpc.grpc.status_code", call.code.value[0])
    if call.reason is not None:
        span.set_attribute("xec.reason", call.reason)
    if call.run is not None and call.event is not None:
        span.set_attributes({"xec.run": call.run, "xec.event": call.event})
    if call.code is not grpc.StatusCode.OK:
        span.set_status(Status(StatusCode.ERROR, call.message or call.code.name))


def _tell_of_event(call: Call, refusal: Refusal, run: int, event: int) -> None:
    """Keep a refused event of a stream in the call's span."""
    del call
    about: dict[str, str | int] = {
        "xec.reason": refusal.reason,
        "xec.run": run,
        "xec.event": event,
        "rpc.grpc.status_code": CODES[refusal.reason].value[0],
    }
    get_current_span().add_event("event refused", about)


def tracing_to(url: str) -> Tracing:
    """Spans that go to a collector.

    Args:
        url: ``http://HOST:PORT`` (in clear) or ``https://...``; empty takes that of the standard
            variables, as all other settings of the exporter.
    """
    exporter = OTLPSpanExporter(
        endpoint=url or None,
        insecure=True if url.startswith("http://") else None,
        timeout=_EXPORT_SECONDS,
    )
    return Tracing(exporter)
