"""From the events of a request to work for the engine: resolve, check, or refuse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from xec.engines.priority import Priority
from xec.wire.v1 import reconstruction_pb2 as pb
from xec_server.events.conditions import DeadLists
from xec_server.events.validation import checked_events
from xec_server.events.work import Work
from xec_server.model.models import Models, ServedModel

_LANES: Final = {pb.LANE_ONLINE: Priority.ONLINE, pb.LANE_OFFLINE: Priority.OFFLINE}


def lane_of(lane: int, otherwise: Priority) -> Priority:
    """Where a request waits; a lane of a later version is none that is known here."""
    return _LANES.get(lane, otherwise)  # type: ignore[call-overload, no-any-return]


class Admission:
    """What every method asks of its events.

    Args:
        models: the one that answers; a call leases it before its events become work.
        lists: which sensors are dead.
    """

    def __init__(self, models: Models, lists: DeadLists) -> None:
        self.models = models
        self.lists = lists

    async def works(
        self,
        served: ServedModel,
        messages: Sequence[pb.Event],
        paths: Sequence[str],
        dead_list: pb.DeadList,
        lane: Priority,
    ) -> list[Work]:
        """The events, checked, without their dead sensors.

        Args:
            served: the model that is to compute them, leased until they are answered.
            messages: of the request.
            paths: how to name each event in a violation.
            dead_list: of the request; may mean another list for each run.
            lane: in which they are to wait.

        Raises:
            Refusal: the dead list of one of them is unknown.
            InvalidEvent: one of them breaks the contract.
        """
        held = {
            run: await self.lists.of(dead_list, run)
            for run in dict.fromkeys(message.run for message in messages)
        }
        dead = [held[message.run].dead.mask for message in messages]
        events = checked_events(messages, dead, paths)
        origins = {
            run: replace(
                served.provenance,
                dead_list_id=one.dead.list_id,
                dead_list_revision=one.revision,
                dead_list_stale_since=one.stale_since,
            )
            for run, one in held.items()
        }
        return [Work(event, origins[event.run], served, lane) for event in events]
