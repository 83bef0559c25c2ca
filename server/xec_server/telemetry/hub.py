"""All that a server tells of itself, behind one door: off where it is not wanted, and harmless.

A defect in here is counted, logged once in a while, and never reaches a call.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

from xec.assembly import Outputs
from xec.engines.base import Engine, ModelInfo, Tensors
from xec.engines.priority import Priority
from xec.errors import UsageError
from xec_server.calls.call import AtTheEnd, Call, Gate
from xec_server.events.work import EventQueue, Observe, Work, unobserved
from xec_server.telemetry.call_log import log_call
from xec_server.telemetry.queue import Answers, WatchedQueue
from xec_server.telemetry.settings import TelemetrySettings

if TYPE_CHECKING:  # loaded only where they are wanted
    from xec_server.address import Address
    from xec_server.telemetry.http import MetricsPage
    from xec_server.telemetry.metrics import Metrics
    from xec_server.telemetry.outputs import OutputMetrics
    from xec_server.telemetry.state import Observed
    from xec_server.telemetry.tracing import Tracing

log = logging.getLogger(__name__)


class Telemetry:
    """What a server tells of itself.

    Args:
        settings: what, and where.

    Raises:
        UsageError: a package that it needs is not installed.
    """

    def __init__(self, settings: TelemetrySettings) -> None:
        self._settings = settings
        self.failures = 0
        self._metrics: Metrics | None = None
        self._outputs: OutputMetrics | None = None
        self._tracing: Tracing | None = None
        self._page: MetricsPage | None = None
        if settings.metrics is not None:
            self._prepare_metrics()
        if settings.trace is not None:
            self._prepare_tracing(settings.trace)

    def _prepare_metrics(self) -> None:
        _need("prometheus_client", "--metrics", "server")
        from xec_server.telemetry.metrics import Metrics  # noqa: PLC0415
        from xec_server.telemetry.outputs import OutputMetrics  # noqa: PLC0415

        self._metrics = Metrics()
        self._outputs = OutputMetrics(self._metrics.registry)

    def _prepare_tracing(self, url: str) -> None:
        _need("opentelemetry", "Tracing", "tracing")
        from xec_server.telemetry.tracing import tracing_to  # noqa: PLC0415

        self._tracing = tracing_to(url)

    @property
    def watchers(self) -> tuple[Gate, ...]:
        """Gates that see each call, from the outside in."""
        gates: list[Gate] = [log_call]
        if self._metrics is not None:
            gates.append(self._metrics.watch)
        if self._tracing is not None:
            gates.append(self._tracing.watch)
        return tuple(self._harmless(gate) for gate in gates)

    @property
    def observe(self) -> Observe:
        """What is to see each batch of the engine."""
        return unobserved if self._outputs is None else self._observe

    def _observe(self, engine: Engine, inputs: Tensors, outputs: Outputs, model: ModelInfo) -> None:
        if self._outputs is not None:
            self._try(self._outputs.observe, engine, inputs, outputs, model)

    def watched(self, queue: EventQueue) -> EventQueue:
        """The queue, watched if somebody wants to know."""
        if self._metrics is None and self._tracing is None:
            return queue
        return WatchedQueue(queue, self)

    def submitted(self) -> int:
        """When events were submitted, for spans."""
        return 0 if self._tracing is None else self._tracing.now()

    def answered(self, began: int, works: Sequence[Work], lane: Priority, answers: Answers) -> None:
        """Count and trace events that were answered."""
        if self._metrics is not None:
            self._try(self._metrics.answered, works, lane, answers)
        if self._tracing is not None:
            self._try(self._tracing.answered, began, works, lane, answers)

    def failed(self, began: int, works: Sequence[Work], error: BaseException) -> None:
        """Trace events that were not."""
        if self._tracing is not None:
            self._try(self._tracing.failed, began, works, error)

    def start(self, server: Observed) -> None:
        """Show the metrics of a server.

        Raises:
            ServiceError: nothing can listen at their address.
        """
        wanted = self._settings.metrics
        if self._metrics is None or wanted is None:
            return
        from xec_server.telemetry.http import MetricsPage  # noqa: PLC0415
        from xec_server.telemetry.state import ServerState  # noqa: PLC0415

        state = ServerState(server, self._settings.lines, lambda: self.failures)
        state.register(self._metrics.registry)
        self._page = MetricsPage(wanted, self._metrics.registry, lambda: server.is_serving)
        if not self._page.address.is_loopback:
            log.warning("metrics can be read from other machines, at %s", self._page.address)
        log.info("metrics are at http://%s/metrics", self._page.address)

    @property
    def address(self) -> Address | None:
        """Where metrics are shown."""
        return None if self._page is None else self._page.address

    def stop(self) -> None:
        """Show nothing any more, and send the last spans; takes a few seconds at most."""
        if self._page is not None:
            self._page.close()
            self._page = None
        if self._tracing is not None:
            self._tracing.close()

    def _harmless(self, gate: Gate) -> Gate:
        """The gate, whose own defects do not reach the call."""

        def around(call: Call) -> AtTheEnd | None:
            entered = self._entered(gate, call)
            if entered is None:
                return None
            return AtTheEnd(partial(self._try, entered.__exit__, None, None, None))

        return around

    def _entered(self, gate: Gate, call: Call) -> AbstractContextManager[object] | None:
        try:
            watching = gate(call)
            if watching is not None:
                watching.__enter__()
        except Exception as error:
            self._note(error)
            return None
        return watching

    def _try(self, tell: Callable[..., object], *arguments: object) -> None:
        try:
            tell(*arguments)
        except Exception as error:
            self._note(error)

    def _note(self, error: Exception) -> None:
        self.failures += 1
        log.error("telemetry failed", exc_info=error)


def _need(package: str, what: str, extra: str) -> None:
    if find_spec(package) is None:
        raise UsageError(f"{what} needs {package}: pip install 'xec-reconstruct[{extra}]'.")
