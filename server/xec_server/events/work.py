"""Events as work for the engine, where they wait, and the messages that answer them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, cast

from xec.assembly import Outputs, finite_rows
from xec.engines.base import Engine, ModelInfo, Tensors, tensors_of
from xec.engines.priority import Priority
from xec.event import Event, EventBatch
from xec.lineage import Provenance
from xec.wire.v1 import reconstruction_pb2 as pb
from xec_server.events.answers import answer_to
from xec_server.model.gateway import Gateway
from xec_server.model.models import ServedModel
from xec_server.queueing.lanes import NOBODY, Path
from xec_server.queueing.outcomes import Answered, Counts
from xec_server.queueing.pace import margin

Observe: TypeAlias = Callable[[Engine, Tensors, Outputs, ModelInfo], None]
"""Sees, in threads, what an engine was given and answered, and by which model; does not raise."""


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """An event, the model that is to compute it, and what its answer will say of its origin."""

    event: Event
    provenance: Provenance
    served: ServedModel
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


def unobserved(engine: Engine, inputs: Tensors, outputs: Outputs, model: ModelInfo) -> None:
    """Nobody looks."""


def compute(
    works: Sequence[Work], observe: Observe = unobserved
) -> list[pb.ReconstructResponse | Exception]:
    """What the batcher runs in its threads: from events to messages.

    Just after a swap events of two models may have been collected; each model gets its own.

    Args:
        works: in any mixture.
        observe: sees what the engine was given and answered.
    """
    if all(work.served is works[0].served for work in works):
        return _computed(works, observe)
    answers: dict[int, pb.ReconstructResponse | Exception] = {}
    for served in dict.fromkeys(work.served for work in works):
        rows = [row for row, work in enumerate(works) if work.served is served]
        answers |= zip(rows, _computed_apart([works[row] for row in rows], observe), strict=True)
    return [answers[row] for row in range(len(works))]


def _computed(works: Sequence[Work], observe: Observe) -> list[pb.ReconstructResponse | Exception]:
    with works[0].served.used() as engine:
        inputs = _inputs(works)
        outputs = engine.infer(inputs)
        observe(engine, inputs, outputs, engine.model)
        return _answers(works, outputs, engine.model)


def _computed_apart(
    works: Sequence[Work], observe: Observe
) -> Sequence[pb.ReconstructResponse | Exception]:
    """A failure of one model concerns its own events."""
    try:
        return _computed(works, observe)
    except Exception as error:  # whatever it is, as in the batcher
        return [error] * len(works)


def forward(
    works: Sequence[Work], seconds: float | None, observe: Observe = unobserved
) -> list[pb.ReconstructResponse | Exception]:
    """What the forwarder runs in its threads: events of one call to Triton, answers to messages.

    Args:
        works: all for one model.
        seconds: in which they must be answered.
        observe: sees what Triton was given and answered.
    """
    limit = None if seconds is None else seconds - margin(seconds)
    with works[0].served.used() as engine:
        gateway = cast("Gateway", engine)
        inputs = _inputs(works)
        outputs, model = gateway.infer_within(inputs, limit, works[0].lane)
        observe(gateway, inputs, outputs, model)
        return _answers(works, outputs, model)


def _answers(
    works: Sequence[Work], outputs: Outputs, model: ModelInfo
) -> list[pb.ReconstructResponse | Exception]:
    return [
        answer_to(work.event, work.provenance, outputs, row, model)
        if is_number
        else _not_finite(work.event)
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
