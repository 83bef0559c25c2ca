"""Which failures end one run of a list, and which end all of them."""

from __future__ import annotations

from xec.errors import EngineAway, EngineBusy, EngineTooLate, FileError, ModelError, ServiceError
from xec_client.errors import AccessDenied, RequestRefused


class OutputError(FileError):
    """The output folder cannot be written, or is not what it should be: no run can go on."""


class ModelChanged(ModelError):
    """Answers come from another model than the one that the lineage names."""


_ENDS_ALL = (OutputError, ModelChanged, EngineAway, EngineBusy, EngineTooLate, ServiceError)


def ends_all(error: Exception) -> bool:
    """Whether further runs would fail for the same reason, which lies not in the run.

    Such a failure is no attempt at the run: a full disk or a server that is away says nothing
    about the events. That a server refuses them, or knows no dead list for their run, does.
    """
    if isinstance(error, RequestRefused):
        return isinstance(error, AccessDenied)
    return isinstance(error, _ENDS_ALL)
