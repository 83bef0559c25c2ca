"""Which sensors are dead for a request: the server's list, or the one that it carries.

A list is recorded under the digest of its channels, so that the same list gives the same
provenance whichever way it came.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from xec.conditions.dead_list import DeadList
from xec.detector.channels import N_CHANNELS
from xec.errors import InvalidEvent
from xec.wire.codec import dead_mask_of_channels
from xec.wire.v1 import reconstruction_pb2 as pb
from xec_server.refusal import Reason, Refusal


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
    if len(dead) == N_CHANNELS:
        raise Refusal(
            Reason.ALL_SENSORS_DEAD,
            f"The dead-channel list {dead.list_id} says that every sensor is dead: correct it.",
        )
    return dead


@dataclass(frozen=True, slots=True)
class Held:
    """The list that holds for an event, and how that is known.

    Args:
        dead: the list.
        revision: of the conditions database, as ``ONLINE@7``; empty for any other list.
        stale_since: when the database last confirmed it, while it is away; empty otherwise.
    """

    dead: DeadList
    revision: str = ""
    stale_since: str = ""


class DeadLists:
    """All that a server knows of dead sensors.

    Args:
        own: its own list, if it holds one.
    """

    def __init__(self, own: DeadList | None) -> None:
        self.own = own

    async def of(self, message: pb.DeadList, run: int) -> Held:
        """The list that holds for an event of `run` in a request that says `message`.

        Raises:
            Refusal: as `dead_list_of`.
        """
        del run
        return Held(dead_list_of(message, self.own))
