"""Events as work for the engine, where they wait, and the messages that answer them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from xec.answer import answer_one
from xec.assembly import Outputs, finite_rows
from xec.engines.base import Engine, ModelInfo, Tensors, tensors_of
from xec.engines.priority import Priority
from xec.event import Event, EventBatch
from xec.lineage import Provenance
from xec.wire.codec import reconstruction_to_proto
from xec.wire.v1 import reconstruction_pb2 as pb
from xec_server.batcher import Answered, Counts
from xec_server.gateway import Gateway
from xec_server.lanes import NOBODY, Path
from xec_server.pace import margin


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """An event for the engine, and what its answer will say of its origin."""

    event: Event
    provenance: Provenance
    lane: Priority = Priority.ONLINE


class EventQueue(Protocol):
    """Where accepted events wait for the engine."""

    @property
    def waiting(self) -> int:
        """Events that wait."""
        ...

    @property
    def counts(self) -> Counts:
        """What became of all events."""
        ...

    def check(
        self,
        count: int,
        deadline: float | None = None,
        lane: Priority = Priority.ONLINE,
        path: Path = NOBODY,
    ) -> None:
        """Refuse `count` events as `submit` would just now, before they cost anything."""
        ...

    async def submit(
        self,
        items: Sequence[Work],
        deadline: float | None = None,
        lane: Priority = Priority.ONLINE,
        path: Path = NOBODY,
    ) -> list[Answered[pb.ReconstructResponse]]:
        """Wait for the answers to `items`; `deadline` is by the clock of the event loop."""
        ...

    async def drain(self) -> None:
        """Take no more events and wait until all that were accepted are answered."""
        ...

    def close(self) -> None:
        """Refuse what still waits."""
        ...


def answer_to(work: Work, outputs: Outputs, row: int, model: ModelInfo) -> pb.ReconstructResponse:
    """The message for one event, of whose outputs all are numbers."""
    provenance = work.provenance
    if provenance.engine != model.engine:  # the fall-back answers
        provenance = replace(provenance, engine=model.engine)
    return reconstruction_to_proto(answer_one(work.event, outputs, row, provenance, model))


def computation(
    engine: Engine,
) -> Callable[[Sequence[Work]], list[pb.ReconstructResponse | Exception]]:
    """What the batcher runs in its threads: from events to messages."""

    def compute(works: Sequence[Work]) -> list[pb.ReconstructResponse | Exception]:
        return _answers(works, engine.infer(_inputs(works)), engine.model)

    return compute


def forwarding(
    gateway: Gateway,
) -> Callable[[Sequence[Work], float | None], list[pb.ReconstructResponse | Exception]]:
    """What the forwarder runs in its threads: events to Triton, answers to messages."""

    def compute(
        works: Sequence[Work], seconds: float | None
    ) -> list[pb.ReconstructResponse | Exception]:
        limit = None if seconds is None else seconds - margin(seconds)
        outputs, model = gateway.infer_within(_inputs(works), limit, works[0].lane)
        return _answers(works, outputs, model)

    return compute


def _answers(
    works: Sequence[Work], outputs: Outputs, model: ModelInfo
) -> list[pb.ReconstructResponse | Exception]:
    return [
        answer_to(work, outputs, row, model) if is_number else _not_finite(work.event)
        for row, (work, is_number) in enumerate(zip(works, finite_rows(outputs), strict=True))
    ]


def _not_finite(event: Event) -> Exception:
    return ArithmeticError(
        f"The model's answer to event {event.event} of run {event.run} is not finite."
    )


def _inputs(works: Sequence[Work]) -> Tensors:
    return tensors_of(EventBatch.stack([work.event for work in works]))


def timed(answered: Answered[pb.ReconstructResponse]) -> pb.ReconstructResponse:
    """The message with its timings."""
    answered.value.timings.queue_seconds = answered.queue_seconds
    answered.value.timings.compute_seconds = answered.compute_seconds
    answered.value.timings.batch_size = answered.batch_size
    return answered.value
