"""What becomes of events whose request failed: the cause decides, and nothing is lost by it."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from xec_client.errors import (
    AccessDenied,
    ClientError,
    NotFound,
    OutOfRange,
    PreconditionFailed,
    ProtocolDefect,
    RequestRefused,
)

_CONDITIONS: Final = (NotFound, OutOfRange, PreconditionFailed)
_ENGINE_FAILED: Final = "ENGINE_FAILED"
_NO_SUCH_CALL: Final = "UNIMPLEMENTED"


class Fate(Enum):
    """What to do with the events of a failed request."""

    LATER = auto()  # the server is away, too busy or too slow, or lets nobody in: ask again
    EVENT = auto()  # the event is refused for good: reject it, with the reason on record
    RUN = auto()  # nothing is known of its run yet: keep its events and go on with other runs
    DEFECT = auto()  # the server fails on it: ask again, and reject it if others go through


def fate_of(error: ClientError) -> Fate:
    """What to do after an error."""
    if isinstance(error, _CONDITIONS):
        return Fate.RUN
    if isinstance(error, AccessDenied) or error.code == _NO_SUCH_CALL:
        return Fate.LATER
    if isinstance(error, RequestRefused):
        return Fate.EVENT
    if isinstance(error, ProtocolDefect) or error.reason == _ENGINE_FAILED:
        return Fate.DEFECT
    return Fate.LATER
