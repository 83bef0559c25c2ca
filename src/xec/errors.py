"""Errors that a user can act on: one sentence that names the thing and the way out.

    XecError                exit 1
    ├── UsageError          exit 2   a command or setting that contradicts itself
    ├── FileError           exit 3   a file that is missing, foreign, cut or of another shape
    ├── InvalidEvent        exit 3   an event that breaks the contract (see its violations)
    ├── ConditionsError     exit 4   a dead-channel list that is unknown or unreadable
    │   ├── UnknownList              no list has this id
    │   ├── UnknownRun               no list is known for a run: never "nothing is dead"
    │   │   └── RunAfterLastInterval  the run lies beyond all that is known
    │   └── ConditionsUnavailable    the database of lists cannot be reached
    ├── ModelError          exit 5   a model that is missing, altered or of another contract
    ├── EngineError         exit 6   an engine that cannot run
    │   ├── EngineAway               one in another process that is gone, stalled or another one
    │   ├── EngineBusy               one whose queue is full
    │   └── EngineTooLate            one that did not answer in the time that the call had
    ├── ServiceError        exit 7   a server that cannot listen or cannot be reached
    │   └── AccessError     exit 11  a server that does not know who asks, or does not permit it
    ├── DivergedError       exit 8   a training whose loss is no number any more
    ├── OutOfMemoryError    exit 9   a training that does not fit into memory
    └── IncompleteError     exit 10  some of many runs failed; the others are done

Anything else that escapes is a defect and keeps its traceback.
"""

from __future__ import annotations

from dataclasses import dataclass


class XecError(Exception):
    """Base of all errors whose text is meant for the user."""

    exit_code = 1


class UsageError(XecError):
    """A command line or a setting that cannot be followed."""

    exit_code = 2


class FileError(XecError):
    """A file that is missing, foreign, cut short or of another shape."""

    exit_code = 3


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken rule: the field (a path such as ``npho[17]``) and what is wrong with it."""

    field: str
    description: str


class InvalidEvent(XecError):
    """An event that breaks the contract.

    Args:
        summary: one sentence.
        violations: the broken rules, as many as are worth reporting.
        total: how many there are in all, when not all are listed.
    """

    exit_code = 3

    def __init__(
        self, summary: str, violations: tuple[Violation, ...] = (), total: int | None = None
    ) -> None:
        super().__init__(summary)
        self.violations = violations
        self.total = len(violations) if total is None else total


class ConditionsError(XecError):
    """A dead-channel list that is unknown, unreadable or names unknown sensors."""

    exit_code = 4


class UnknownList(ConditionsError):
    """An id that no dead-channel list has."""


class UnknownRun(ConditionsError):
    """A run for which no dead-channel list is known; it is never taken for an empty list."""


class RunAfterLastInterval(UnknownRun):
    """A run after the last one for which a dead-channel list is known: nobody has said yet."""


class ConditionsUnavailable(ConditionsError):
    """The database of dead-channel lists cannot be reached or does not answer in time."""


class ModelError(XecError):
    """A model that is missing, altered, or made for another contract or geometry."""

    exit_code = 5


class EngineError(XecError):
    """An inference engine that cannot be started or failed while running."""

    exit_code = 6


class EngineAway(EngineError):
    """An engine in another process that cannot be reached, stalls, or runs another model."""


class EngineBusy(EngineError):
    """An engine that refuses events because too many wait already.

    Args:
        message: one sentence.
        retry_after: seconds after which to try again.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class EngineTooLate(EngineError):
    """An engine that is alive and did not answer in the time that the call had."""


class ServiceError(XecError):
    """A server that cannot listen, or cannot be reached."""

    exit_code = 7


class AccessError(ServiceError):
    """A server that does not know who asks, or does not permit it."""

    exit_code = 11


class DivergedError(XecError):
    """A training whose loss stays NaN or infinite."""

    exit_code = 8


class OutOfMemoryError(XecError):
    """A training that needs more memory than there is."""

    exit_code = 9


class IncompleteError(XecError):
    """Some of many runs failed, each with a reason of its own; the others are done."""

    exit_code = 10
