"""The span that the program has open, for the server: W3C `traceparent`, by OpenTelemetry.

A program that does not use OpenTelemetry has no spans; it is never loaded from here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


def trace_metadata() -> tuple[tuple[str, str], ...]:
    """Metadata that names the open span, if there is one."""
    if "opentelemetry.trace" not in sys.modules:
        return ()
    from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415
        TraceContextTextMapPropagator,
    )

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return tuple(carrier.items())


def traced(call: Callable[..., Any]) -> Callable[..., Any]:
    """A method of a stub that names the open span in the metadata of its calls.

    Args:
        call: takes `metadata`, as those of gRPC do.
    """

    def with_span(*arguments: Any, metadata: Any = None, **options: Any) -> Any:
        named = (*(metadata or ()), *trace_metadata()) or None
        return call(*arguments, metadata=named, **options)

    return with_span
