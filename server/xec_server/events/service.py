"""The methods of `xec.v1.Reconstruction`: check, wait for the engine, answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from itertools import count

from xec.engines.priority import Priority
from xec.wire.codec import provenance_to_proto
from xec.wire.limits import MAX_EVENTS_PER_BATCH
from xec.wire.v1 import reconstruction_pb2 as pb
from xec.wire.v1 import reconstruction_pb2_grpc as pb_grpc
from xec_server.calls.call import Context, current_caller, note_events
from xec_server.calls.refusal import Reason, Refusal
from xec_server.events.admission import Admission, lane_of
from xec_server.events.streams import Streams
from xec_server.events.work import EventQueue, timed
from xec_server.model.models import ServedModel


class ReconstructionService(pb_grpc.ReconstructionServicer):  # type: ignore[misc]  # untyped code
    """Answers from the model that is served.

    Args:
        admission: checks events.
        queue: takes them to the engine.
        streams: the streaming calls.
    """

    def __init__(self, admission: Admission, queue: EventQueue, streams: Streams) -> None:
        self._admission = admission
        self._queue = queue
        self._streams = streams
        self._numbers = count()

    async def Reconstruct(  # noqa: N802  (the schema's name)
        self, request: pb.ReconstructRequest, context: Context
    ) -> pb.ReconstructResponse:
        """One event."""
        lane = lane_of(request.lane, Priority.ONLINE)
        with self._admission.models.leased(request.model_version) as served:
            answers = await self._reconstruct(
                served, [request.event], ["event"], request.dead_list, lane, context
            )
        return answers[0]

    async def ReconstructBatch(  # noqa: N802  (the schema's name)
        self, request: pb.ReconstructBatchRequest, context: Context
    ) -> pb.ReconstructBatchResponse:
        """Many events, answered in their order; all or none."""
        number = len(request.events)
        if number > MAX_EVENTS_PER_BATCH:
            raise Refusal(
                Reason.TOO_MANY_EVENTS,
                f"A batch holds at most {MAX_EVENTS_PER_BATCH} events, not {number}: split it.",
            )
        paths = [f"events[{index}]" for index in range(number)]
        lane = lane_of(request.lane, Priority.OFFLINE)
        with self._admission.models.leased(request.model_version) as served:
            answers = await self._reconstruct(
                served, request.events, paths, request.dead_list, lane, context
            )
        return pb.ReconstructBatchResponse(responses=answers)

    async def ReconstructStream(  # noqa: N802  (the schema's name)
        self, requests: AsyncIterator[pb.StreamRequest], context: Context
    ) -> None:
        """Events as they come, answered as they are ready."""
        await self._streams.serve(requests, context)

    async def GetModel(  # noqa: N802  (the schema's name)
        self, request: pb.GetModelRequest, context: Context
    ) -> pb.GetModelResponse:
        """What model answers, and which dead list the server holds."""
        del request, context
        own = self._admission.lists.own
        list_id = "" if own is None else own.list_id
        served = self._admission.models.current
        return pb.GetModelResponse(
            provenance=provenance_to_proto(replace(served.provenance, dead_list_id=list_id)),
            contract_version=served.model.contract_version,
            dead_channels=0 if own is None else len(own),
            metadata=dict(served.model.metadata),
            dead_lists=self._admission.lists.source,
        )

    async def _reconstruct(
        self,
        served: ServedModel,
        messages: Sequence[pb.Event],
        paths: Sequence[str],
        dead_list: pb.DeadList,
        lane: Priority,
        context: Context,
    ) -> list[pb.ReconstructResponse]:
        note_events(messages)
        remaining = context.time_remaining()
        deadline = None if remaining is None else asyncio.get_running_loop().time() + remaining
        path = (current_caller(context), f"call {next(self._numbers)}")
        self._queue.check(len(messages), deadline, lane, path)
        works = await self._admission.works(served, messages, paths, dead_list, lane)
        answered = await self._queue.submit(works, deadline, lane, path)
        return [timed(one) for one in answered]
