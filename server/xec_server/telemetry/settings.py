"""What is told of a server, and where."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from xec.errors import UsageError
from xec_server.address import Address
from xec_server.telemetry.lines import LineCounts

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


@dataclass(frozen=True, slots=True)
class TelemetrySettings:
    """What is told of a server, and where.

    Args:
        metrics: where Prometheus finds its metrics; None keeps none.
        trace: ``http://HOST:PORT`` of an OpenTelemetry collector (OTLP over gRPC), for spans; empty
            takes the standard variables' (``OTEL_EXPORTER_OTLP_ENDPOINT``); None makes none.
        lines: of the process's log.
    """

    metrics: Address | None = None
    trace: str | None = None
    lines: LineCounts = field(default_factory=LineCounts)


def metrics_address(text: str) -> Address:
    """Read ``HOST:PORT``, or ``PORT`` on the loopback interface.

    Raises:
        UsageError: the text has another form.
    """
    return Address.parse(f"127.0.0.1:{text}" if text.isdecimal() else text)


def trace_target(url: str | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """Where spans go, as `TelemetrySettings.trace` says it.

    Args:
        url: of the command line, if it has one.
        environment: with OpenTelemetry's standard variables.

    Raises:
        UsageError: it is no ``http://`` or ``https://`` URL.
    """
    if url is not None:
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"{url!r} is no collector of traces: write --trace http://HOST:PORT.")
        return url
    off = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    off = off or environment.get("OTEL_TRACES_EXPORTER", "") == "none"
    named = any(environment.get(name) for name in _ENDPOINTS)
    return "" if named and not off else None


def telemetry_settings(metrics: str | None, trace: str | None) -> TelemetrySettings:
    """What the options of a command line mean.

    Raises:
        UsageError: one of them makes no sense.
    """
    address = None if metrics is None else metrics_address(metrics)
    return TelemetrySettings(address, trace_target(trace))
