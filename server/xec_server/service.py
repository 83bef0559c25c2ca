"""The methods of `xec.v1.Reconstruction`: check, wait for the engine, answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, TypeAlias

import grpc

from xec.answer import answer_one
from xec.assembly import Outputs, finite_rows
from xec.conditions.dead_list import DeadList
from xec.engines.base import Engine, ModelInfo, Tensors, provenance_of, tensors_of
from xec.event import Event, EventBatch
from xec.lineage import Provenance
from xec.wire.codec import provenance_to_proto, reconstruction_to_proto
from xec.wire.limits import MAX_EVENTS_PER_BATCH
from xec.wire.v1 import reconstruction_pb2 as pb
from xec.wire.v1 import reconstruction_pb2_grpc as pb_grpc
from xec_server.batcher import Answered, Counts
from xec_server.conditions import dead_list_of
from xec_server.gateway import Gateway
from xec_server.refusal import Reason, Refusal
from xec_server.validation import checked_events

_LONGEST_MARGIN: Final = 0.25  # seconds

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """An event for the engine, and what its answer will say of its origin."""

    event: Event
    provenance: Provenance


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

    async def submit(
        self, items: Sequence[Work], deadline: float | None = None
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
        limit = None if seconds is None else seconds - _margin(seconds)
        outputs, model = gateway.infer_within(_inputs(works), limit)
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


def _timed(answered: Answered[pb.ReconstructResponse]) -> pb.ReconstructResponse:
    answered.value.timings.queue_seconds = answered.queue_seconds
    answered.value.timings.compute_seconds = answered.compute_seconds
    answered.value.timings.batch_size = answered.batch_size
    return answered.value


class ReconstructionService(pb_grpc.ReconstructionServicer):  # type: ignore[misc]  # untyped code
    """Answers from one model.

    Args:
        model: which one.
        queue: takes events to it.
        own: the server's own list of dead sensors, if it holds one.
    """

    def __init__(self, model: ModelInfo, queue: EventQueue, own: DeadList | None) -> None:
        self._model = model
        self._queue = queue
        self._own = own
        self._provenance = provenance_of(model)

    async def Reconstruct(  # noqa: N802  (the schema's name)
        self, request: pb.ReconstructRequest, context: Context
    ) -> pb.ReconstructResponse:
        """One event."""
        self._check_version(request.model_version)
        answers = await self._reconstruct([request.event], ["event"], request.dead_list, context)
        return answers[0]

    async def ReconstructBatch(  # noqa: N802  (the schema's name)
        self, request: pb.ReconstructBatchRequest, context: Context
    ) -> pb.ReconstructBatchResponse:
        """Many events, answered in their order; all or none."""
        self._check_version(request.model_version)
        count = len(request.events)
        if count > MAX_EVENTS_PER_BATCH:
            raise Refusal(
                Reason.TOO_MANY_EVENTS,
                f"A batch holds at most {MAX_EVENTS_PER_BATCH} events, not {count}: split it.",
            )
        paths = [f"events[{index}]" for index in range(count)]
        answers = await self._reconstruct(request.events, paths, request.dead_list, context)
        return pb.ReconstructBatchResponse(responses=answers)

    async def GetModel(  # noqa: N802  (the schema's name)
        self, request: pb.GetModelRequest, context: Context
    ) -> pb.GetModelResponse:
        """What model answers, and which dead list the server holds."""
        del request, context
        own = self._own
        list_id = "" if own is None else own.list_id
        return pb.GetModelResponse(
            provenance=provenance_to_proto(replace(self._provenance, dead_list_id=list_id)),
            contract_version=self._model.contract_version,
            dead_channels=0 if own is None else len(own),
            metadata=dict(self._model.metadata),
        )

    def _check_version(self, version: str) -> None:
        if version not in ("", self._model.version):
            raise Refusal(
                Reason.UNKNOWN_MODEL_VERSION,
                f"Model version {version[:80]!r} is not served; {self._model.version!r} is.",
            )

    async def _reconstruct(
        self,
        messages: Sequence[pb.Event],
        paths: Sequence[str],
        dead_list: pb.DeadList,
        context: Context,
    ) -> list[pb.ReconstructResponse]:
        dead = dead_list_of(dead_list, self._own)
        events = checked_events(messages, dead.mask, paths)
        provenance = replace(self._provenance, dead_list_id=dead.list_id)
        remaining = context.time_remaining()
        deadline = None if remaining is None else asyncio.get_running_loop().time() + remaining
        answered = await self._queue.submit([Work(event, provenance) for event in events], deadline)
        return [_timed(one) for one in answered]
