"""From the spool to the server and from there to the sink: at least once, then exactly once.

An event is acknowledged when its result is durable, rejected when it can never have one, and stays
in the spool otherwise. Nothing here ends the data acquisition: whatever fails is tried again.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from xec.conditions.dead_list import DeadList
from xec.contract import CONTRACT_VERSION
from xec.errors import FileError, ModelError, UsageError
from xec.event import Reconstruction
from xec_client.client import Client
from xec_client.daq.breaker import Breaker
from xec_client.daq.fate import Fate, fate_of
from xec_client.daq.payload import Parcel, Unreadable, unpack
from xec_client.daq.sink import Answered, PartSink
from xec_client.daq.spool import EventId, Spool, Spooled
from xec_client.errors import ClientError, DeadlineExceeded, Overloaded

_LOG = logging.getLogger(__name__)

MOST_DEFECTS: Final = 3
"""Times that the server may fail on one event, while it answers others, before it is rejected."""


@dataclass(frozen=True, slots=True)
class ForwardSettings:
    """How events are sent.

    Args:
        batch: events in a request at most.
        timeout: seconds for a request.
        dead: the dead list of all events; None: what their source told, else the server's own.
        hold_seconds: after which events of a run that the server does not know, or that it failed
            on, are tried again; doubles up to `longest_hold`.
        longest_hold: seconds.

    Raises:
        UsageError: a value makes no sense.
    """

    batch: int = 16
    timeout: float = 10.0
    dead: DeadList | None = None
    hold_seconds: float = 5.0
    longest_hold: float = 300.0

    def __post_init__(self) -> None:
        if not (self.batch > 0 and self.timeout > 0 and self.hold_seconds > 0):
            raise UsageError("Batch size, time-out and hold are positive numbers.")


@dataclass(frozen=True, slots=True)
class _Work:
    id: EventId
    parcel: Parcel
    dead: DeadList | None

    @property
    def key(self) -> tuple[int, str]:
        """What the events of a request share, so that conditions are resolved for one run."""
        return self.id.run, "" if self.dead is None else self.dead.list_id


class Forwarder:
    """Carries events from a spool to a server and its answers to a sink.

    Args:
        spool: where events wait.
        client: of the server; without retries of its own, as these are made here.
        sink: takes the results.
        settings: how to send.
        geometry: of the events, where the source knows it.
        breaker: when to ask a server that failed.
    """

    def __init__(
        self,
        spool: Spool,
        client: Client,
        sink: PartSink,
        settings: ForwardSettings | None = None,
        geometry: Callable[[], str | None] = lambda: None,
        breaker: Breaker | None = None,
    ) -> None:
        self._spool, self._client, self._sink = spool, client, sink
        self._settings = settings or ForwardSettings()
        self._geometry = geometry
        self.server = breaker or Breaker()
        """How the server does."""
        self.output = Breaker()
        """How the output does."""
        self.run: int | None = None
        """The run that is being forwarded."""
        self.held: dict[int, str] = {}
        """Runs whose events wait until the server knows them, and what it said."""
        self.answered = 0
        """Events answered by the server."""
        self.models = 0
        """Changes of model, dead list or software while forwarding."""
        self._waiting: deque[_Work] = deque()
        self._size = self._settings.batch
        self._single = 0
        self._known = False
        self._defects: dict[EventId, tuple[int, int]] = {}
        self._hold = self._settings.hold_seconds
        self._again: float | None = None
        self._provenance: object = None

    def step(self, timeout: float) -> None:
        """Do what can be done now; wait up to `timeout` seconds for something to do.

        Raises:
            ModelError: at first contact the server turns out to have a model for another geometry.
        """
        now = time.monotonic()
        self._guarded(self._publish_if_due)
        if self._again is not None and now >= self._again:
            self._begin_anew()
        if not self._waiting:
            self._fetch(timeout)
        if not self._waiting:
            return
        wait = max(self.server.wait(time.monotonic()), self.output.wait(time.monotonic()))
        if wait > 0:
            time.sleep(min(wait, timeout))
        else:
            self._forward()

    def publish(self) -> None:
        """End the part that is being written, so that its events can leave the spool."""
        self._guarded(self._sink.publish)

    def _publish_if_due(self) -> None:
        if self._sink.is_due():
            self._sink.publish()

    def _guarded(self, write: Callable[[], None]) -> None:
        """Write; where the disk refuses, all that is not durable is done again later."""
        try:
            write()
        except FileError as error:
            _LOG.error("results cannot be written: %s", error)
            self.output.failed(str(error), time.monotonic())
            self._sink.abandon()
            self._begin_anew()

    def _begin_anew(self) -> None:
        """Have everything that is not settled delivered again."""
        self._waiting.clear()
        self.held.clear()
        self._again = None
        self._spool.rewind()

    # -- out of the spool

    def _fetch(self, timeout: float) -> None:
        done: list[EventId] = []
        for spooled in self._spool.take(self._settings.batch, timeout):
            if spooled.id in self._sink.durable:
                done.append(spooled.id)  # published, and killed before that was noted
            elif spooled.id not in self._sink and spooled.id.run not in self.held:
                self._open(spooled)
        if done:
            self._spool.acknowledge(done)

    def _open(self, spooled: Spooled) -> None:
        try:
            parcel = unpack(spooled.payload)
        except Unreadable as error:
            self._reject(spooled.id, str(error))
            return
        dead = self._settings.dead or parcel.dead
        self._waiting.append(_Work(spooled.id, parcel, dead))

    def _reject(self, event_id: EventId, reason: str) -> None:
        _LOG.warning("%s is rejected: %s", event_id, reason)
        self._defects.pop(event_id, None)
        try:
            self._spool.reject([event_id], reason)
        except OSError as error:
            # It stays in the spool, and is judged again.
            self.output.failed(f"The record of rejections cannot be written: {error}.", _now())
            self._hold_back()

    # -- to the server

    def _group(self) -> list[_Work]:
        size = 1 if self._single or self.server.is_open else self._size
        first = self._waiting[0]
        group: list[_Work] = []
        for work in self._waiting:
            if work.key != first.key or len(group) == size:
                break
            group.append(work)
        return group

    def _forward(self) -> None:
        group = self._group()
        if group[0].id.run != self.run:
            self.run = group[0].id.run
            self._known = False
        try:
            self._know_server()
            events = [work.parcel.event for work in group]
            answers = self._client.reconstruct_batch(events, group[0].dead)
        except ClientError as error:
            self._failed(group, error)
            return
        self.server.succeeded()
        self.answered += len(group)
        self._single = max(self._single - len(group), 0)
        self._size = min(self._size * 2, self._settings.batch)
        for work in group:
            self._waiting.popleft()
            self._defects.pop(work.id, None)
        self._keep(group, answers)

    def _know_server(self) -> None:
        """Before the first request, and those of another run or after a failure: who answers."""
        if self._known:
            return
        model = self._client.model()
        geometry = self._geometry()
        other = ""
        if model.contract_version != CONTRACT_VERSION:
            other = f"contract version {model.contract_version}, this program {CONTRACT_VERSION}"
        elif geometry is not None and geometry != model.provenance.geometry_hash:
            there = model.provenance.geometry_hash
            other = f"geometry {there[:12]}…, the events are of {geometry[:12]}…"
        if other:
            sentence = f"The server's model follows {other}: start it with a matching model."
            if not self.answered:
                raise ModelError(sentence)
            raise ClientError(sentence, server="")
        self._known = True
        _LOG.info("run %s: model %s", self.run, model.provenance.model_version)

    def _failed(self, group: list[_Work], error: ClientError) -> None:
        self._known = False
        fate = fate_of(error)
        if fate is Fate.LATER:
            later = error.retry_after if isinstance(error, Overloaded) else None
            if isinstance(error, DeadlineExceeded):
                self._size = max(len(group) // 2, 1)
            self.server.failed(str(error), _now(), later)
        elif fate is Fate.RUN:
            self._hold_run(group[0].id.run, str(error))
        elif len(group) > 1:
            self._single = len(group)  # which of them is it?
        else:
            work = self._waiting.popleft()
            self._single = max(self._single - 1, 0)
            if fate is Fate.EVENT:
                self._reject(work.id, str(error))
            else:
                self._suspect(work.id, error)

    def _hold_run(self, run: int, reason: str) -> None:
        if run not in self.held:
            _LOG.warning("the events of run %d wait: %s", run, reason)
        self.held[run] = reason
        self._waiting = deque(work for work in self._waiting if work.id.run != run)
        self._hold_back()

    def _hold_back(self) -> None:
        """What is left in the spool now is delivered again after a while."""
        if self._again is None:
            self._again = _now() + self._hold
            self._hold = min(2 * self._hold, self._settings.longest_hold)

    def _suspect(self, event_id: EventId, error: ClientError) -> None:
        """The server fails on this event: its fault if others are answered meanwhile."""
        count, answered = self._defects.get(event_id, (0, self.answered))
        self._defects[event_id] = (count + 1, answered)
        self.server.failed(str(error), _now())
        if count + 1 >= MOST_DEFECTS and self.answered > answered:
            self._reject(event_id, str(error))
        else:
            self._hold_back()

    # -- to the sink

    def _keep(self, group: Sequence[_Work], answers: Sequence[Reconstruction]) -> None:
        answered = [
            Answered(work.parcel.event, answer, work.parcel.synthetic)
            for work, answer in zip(group, answers, strict=True)
        ]
        for one in answered:
            self._note_provenance(one.answer)
        self._hold = self._settings.hold_seconds
        before = self.output.failures
        self._guarded(lambda: self._sink.write(answered))
        if self.output.failures == before:
            self.output.succeeded()

    def _note_provenance(self, answer: Reconstruction) -> None:
        if self._provenance not in (None, answer.provenance):
            self.models += 1
            found = answer.provenance
            _LOG.warning(
                "%s: the answers are of another origin from here on (model %s, sha256 %s, dead "
                "list %s, software %s, engine %s); a new part begins",
                EventId(answer.run, answer.event),
                found.model_version,
                found.model_sha256[:12],
                found.dead_list_id,
                found.software_version,
                found.engine,
            )
        self._provenance = answer.provenance


def _now() -> float:
    return time.monotonic()
