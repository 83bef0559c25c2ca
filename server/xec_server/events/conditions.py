"""Which sensors are dead for a request: the server's list, that of the run, or the one it carries.

A list is recorded under the digest of its channels, so that the same list gives the same
provenance whichever way it came.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache

from xec.conditions.dead_list import DeadList
from xec.conditions.held import Held
from xec.detector.channels import N_CHANNELS
from xec.errors import InvalidEvent
from xec.wire.codec import dead_mask_of_channels
from xec.wire.v1 import reconstruction_pb2 as pb
from xec_server.calls.refusal import Reason, Refusal
from xec_server.events.run_lists import RunLists


@lru_cache(maxsize=64)
def _known(ids: tuple[int, ...]) -> DeadList:
    """The list of these channels: a client sends the same one with each of its requests."""
    return DeadList.from_mask(dead_mask_of_channels(ids))


def _carried(message: pb.DeadList.Channels) -> DeadList:
    try:
        if len(message.id) > N_CHANNELS:
            dead_mask_of_channels(message.id)  # says so, without a copy of whatever it is
        return _known(tuple(message.id))
    except InvalidEvent as error:
        raise Refusal(
            Reason.INVALID_DEAD_LIST, str(error), error.violations, error.total
        ) from error


def _of_server(own: DeadList | None) -> DeadList:
    if own is None:
        raise Refusal(
            Reason.NO_DEAD_LIST,
            "This server holds no dead-channel list: send one with the request (an empty one "
            "if the events mark all that is dead), or start the server with --dead-list FILE.",
        )
    return own


def _named(own: DeadList | None, list_id: str) -> DeadList:
    if own is None or list_id != own.list_id:
        held = "none" if own is None else own.list_id
        raise Refusal(
            Reason.UNKNOWN_DEAD_LIST,
            f"This server does not know the dead-channel list {list_id[:80]!r}; it holds {held}.",
        )
    return own


def _refuse_all_dead(dead: DeadList) -> None:
    if len(dead) == N_CHANNELS:
        raise Refusal(
            Reason.ALL_SENSORS_DEAD,
            f"The dead-channel list {dead.list_id} says that every sensor is dead: correct it.",
        )


def dead_list_of(message: pb.DeadList, own: DeadList | None) -> DeadList:
    """The list that holds for a request.

    Args:
        message: of the request; without a source it means the server's own list.
        own: what the server holds; None is not "nothing is dead" but "not known".

    Raises:
        Refusal: no list is held, the named one is unknown, the carried one names unknown
            channels, or every sensor is dead.
    """
    match message.WhichOneof("source"):
        case "channels":
            dead = _carried(message.channels)
        case "list_id":
            dead = _named(own, message.list_id)
        case _:
            dead = _of_server(own)
    _refuse_all_dead(dead)
    return dead


class DeadLists:
    """All that a server knows of dead sensors.

    Args:
        own: its own list, if it holds one.
        runs: its conditions database, if it has one; then it has no list of its own.
    """

    def __init__(self, own: DeadList | None, runs: RunLists | None = None) -> None:
        self.own = own
        self._runs = runs

    @property
    def source(self) -> str:
        """Where lists come from that a request does not carry: ``database``, ``own``, ``none``."""
        if self._runs is not None:
            return "database"
        return "none" if self.own is None else "own"

    async def of(self, message: pb.DeadList, run: int) -> Held:
        """The list that holds for an event.

        Args:
            message: of the request.
            run: of the event.

        Raises:
            Refusal: the list is unknown, or says that every sensor is dead.
        """
        if self._runs is None:
            return Held(dead_list_of(message, self.own))
        match message.WhichOneof("source"):
            case "channels":
                held = Held(_carried(message.channels))
            case "list_id":
                held = await self._runs.named(message.list_id)
            case _:
                held = await self._runs.of_run(run)
        _refuse_all_dead(held.dead)
        return held

    @property
    def away_since(self) -> datetime | None:
        """Since when the database cannot be asked, as far as is known."""
        return None if self._runs is None else self._runs.away_since

    def close(self) -> None:
        """Close the database."""
        if self._runs is not None:
            self._runs.close()
