"""A data acquisition client from its start to its end: source, spool, forwarder, sink, signals."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final

from xec.errors import ServiceError, XecError
from xec.io.output import refuse_place
from xec_client.access import NO_ACCESS, Access
from xec_client.daq.forwarder import Forwarder, ForwardSettings
from xec_client.daq.intake import Intake
from xec_client.daq.sink import PartSink, SinkSettings
from xec_client.daq.source import Source
from xec_client.daq.spool import Spool, SpoolSettings
from xec_client.daq.spool.contents import read_contents
from xec_client.daq.spool.seen import SeenIds
from xec_client.daq.state import State, write_metrics
from xec_client.retry import NO_RETRY

_STEP_SECONDS: Final = 0.1
_SOURCE_SECONDS: Final = 5.0

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Places:
    """Where everything is.

    Args:
        server: address, ``host:port``.
        spool: folder of the spool.
        out: folder of the parts.
        metrics: file for Prometheus, or None.
        access: what it takes to be let in by the server.

    Raises:
        FileError: the metrics cannot be there.
    """

    server: str
    spool: Path
    out: Path
    metrics: Path | None = None
    access: Access = NO_ACCESS

    def __post_init__(self) -> None:
        if self.metrics is not None:
            refuse_place(self.metrics)


@dataclass(frozen=True, slots=True)
class Manner:
    """How it is done.

    Args:
        spool: how the spool lives.
        sink: when parts end.
        forward: how events are sent.
        grace: seconds that what is spooled has left once the end is asked for.
        report_seconds: between two lines.
    """

    spool: SpoolSettings = field(default_factory=SpoolSettings)
    sink: SinkSettings = field(default_factory=SinkSettings)
    forward: ForwardSettings = field(default_factory=ForwardSettings)
    grace: float = 10.0
    report_seconds: float = 10.0


class Ending:
    """Counts requests to end."""

    def __init__(self) -> None:
        self.requests = 0

    def request(self, number: int = 0, frame: FrameType | None = None) -> None:
        """Ask for the end; twice: at once."""
        del number, frame
        self.requests += 1


@contextmanager
def ending_by_signal() -> Iterator[Ending]:
    """SIGTERM and SIGINT ask for the end inside the block."""
    ending = Ending()
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, ending.request) for number in numbers}
    try:
        yield ending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Session:
    """Everything that is open.

    Args:
        source: of events; None: what is in the spool is all there is.
        places: where everything is.
        manner: how it is done.

    Raises:
        FileError: spool or output have another owner, or cannot be read or written.
    """

    def __init__(self, source: Source | None, places: Places, manner: Manner) -> None:
        self._places, self._manner = places, manner
        with ExitStack() as stack:
            self.spool = Spool(places.spool, manner.spool)
            stack.callback(self.spool.close)
            self.sink = PartSink(places.out, manner.sink, self.spool.acknowledge)
            stack.callback(self.sink.close)
            timeout = manner.forward.timeout
            client = places.access.client(places.server, timeout=timeout, retry=NO_RETRY)
            stack.callback(client.close)
            self._source = source
            self.forwarder = Forwarder(
                self.spool, client, self.sink, manner.forward, self._geometry
            )
            self.intake = None if source is None else Intake(source, self.spool, self._known())
            self._stack = stack.pop_all()

    def _geometry(self) -> str | None:
        return None if self._source is None else self._source.geometry_hash

    def _known(self) -> SeenIds:
        """Events that a source need not offer again."""
        known = SeenIds(self.sink.durable)
        contents = read_contents(self._places.spool)
        for event_id in contents.spooled:
            known.add(event_id)
        for rejection in contents.rejected:
            known.add(rejection.id)
        return known

    @property
    def state(self) -> State:
        """How it does."""
        forwarder = self.forwarder
        return State(
            accounting=self.spool.accounting(),
            written=len(self.sink),
            repeated=0 if self.intake is None else self.intake.repeated,
            parts=self.sink.parts,
            models=forwarder.models,
            run=forwarder.run,
            away=forwarder.server.reason,
            away_seconds=time.monotonic() - forwarder.server.since,
            output=forwarder.output.reason,
            disk=self.spool.health.last,
            held=tuple(sorted(forwarder.held)),
        )

    def run(self, ending: Ending, tell: Tell) -> None:
        """Work until all is through, or the end is asked for and the grace is over.

        Raises:
            ModelError: the server's model is for another geometry.
        """
        if self.intake is not None:
            self.intake.start()
        deadline = float("inf")
        report = time.monotonic() + self._manner.report_seconds
        while True:
            self.forwarder.step(_STEP_SECONDS)
            now = time.monotonic()
            if now >= report:
                report = now + self._manner.report_seconds
                self._report(tell)
            if ending.requests and deadline == float("inf"):
                deadline = now + self._manner.grace
                self._end_source()
            if self._is_through() or (ending.requests and now >= deadline) or ending.requests > 1:
                return

    def _report(self, tell: Tell) -> None:
        state = self.state
        tell(state.line)
        if self._places.metrics is not None:
            write_metrics(self._places.metrics, state)

    def _end_source(self) -> None:
        if self.intake is not None:
            self.intake.stop(_SOURCE_SECONDS)

    def _is_through(self) -> bool:
        """Whether the source has ended and everything is settled, or was settled just now."""
        if self.intake is not None and not self.intake.is_done:
            return False
        if self.state.left > len(self.sink):
            return False
        self.forwarder.publish()
        return not self.state.left

    def close(self, tell: Tell) -> State:
        """End the source, publish what is answered, keep the rest in the spool.

        Returns:
            How it ended.
        """
        try:
            self._end_source()
            self.forwarder.publish()
        finally:
            try:
                # What a full disk did not take of memory is known, and on record, only then.
                self._stack.close()
            finally:
                self._report(tell)
        return self.state


def run_daq(source: Source | None, places: Places, manner: Manner, tell: Tell) -> None:
    """Forward events until the source ends and all are through, or a signal asks for the end.

    Args:
        source: of events; None forwards what is in the spool.
        places: where everything is.
        manner: how it is done.
        tell: prints a line.

    Raises:
        XecError: the source ended by an error, once everything before it is through; the spool or
            the output has another owner; the server's model is for another geometry; or events
            stay in the spool (`ServiceError`).
    """
    with ending_by_signal() as ending:
        session = Session(source, places, manner)
        try:
            session.run(ending, tell)
        finally:
            state = session.close(tell)
    if source is not None:
        for note in source.notes:
            tell(note)
    if session.intake is not None and session.intake.error is not None:
        raise _with_what_is_left(session.intake.error, state)
    if state.left:
        why = f" ({state.away.removesuffix('.')})" if state.away else ""
        raise ServiceError(
            f"Stopped; {state.left} events stay in the spool {places.spool}{why}: start again to "
            "forward them."
        )


def _with_what_is_left(error: BaseException, state: State) -> BaseException:
    if isinstance(error, XecError) and state.left:
        return type(error)(f"{error} {state.left} events before it stay in the spool.")
    return error
