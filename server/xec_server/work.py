"""Events as work for the engine, where they wait, and the messages that answer them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeAlias

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

Observe: TypeAlias = Callable[[Engine, Tensors, Outputs, ModelInfo], None]
"""Sees, in threads, what an engine was given and answered, and by which model; does not raise."""

_LONGEST_MARGIN: Final = 0.25  # seconds


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

    def waiting_in(self, lane: Priority) -> int:
        """Events that wait in one lane."""
        ...

    @property
    def counts(self) -> Counts:
        """What became of all events."""
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


def unobserved(engine: Engine, inputs: Tensors, outputs: Outputs, model: ModelInfo) -> None:
    """Nobody looks."""


def computation(
    engine: Engine, observe: Observe = unobserved
) -> Callable[[Sequence[Work]], list[pb.ReconstructResponse | Exception]]:
    """What the batcher runs in its threads: from events to messages."""

    def compute(works: Sequence[Work]) -> list[pb.ReconstructResponse | Exception]:
        inputs = _inputs(works)
        outputs = engine.infer(inputs)
        observe(engine, inputs, outputs, engine.model)
        return _answers(works, outputs, engine.model)

    return compute


def forwarding(
    gateway: Gateway, observe: Observe = unobserved
) -> Callable[[Sequence[Work], float | None], list[pb.ReconstructResponse | Exception]]:
    """What the forwarder runs in its threads: events to Triton, answers to messages."""

    def compute(
        works: Sequence[Work], seconds: float | None
    ) -> list[pb.ReconstructResponse | Exception]:
        limit = None if seconds is None else seconds - _margin(seconds)
        inputs = _inputs(works)
        outputs, model = gateway.infer_within(inputs, limit, works[0].lane)
        observe(gateway, inputs, outputs, model)
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


def _margin(seconds: float) -> float:
    """What is kept of a call's time for what comes after the engine, and for saying why not."""
    return min(0.1 * seconds, _LONGEST_MARGIN)


def timed(answered: Answered[pb.ReconstructResponse]) -> pb.ReconstructResponse:
    """The message with its timings."""
    answered.value.timings.queue_seconds = answered.queue_seconds
    answered.value.timings.compute_seconds = answered.compute_seconds
    answered.value.timings.batch_size = answered.batch_size
    return answered.value
