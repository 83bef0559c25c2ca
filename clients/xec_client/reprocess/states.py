"""What can be said of a run, and how it goes from one state to the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from xec_client.reprocess.sources import Source


class RunState(StrEnum):
    """Where a run stands."""

    CONSIDERING = "considering"  # its file is being opened
    BUSY = "busy"  # parts are being made
    DONE = "done"  # all parts are published
    FAILED = "failed"  # with a reason; the next call tries again
    ABANDONED = "abandoned"  # failed as often as allowed


@dataclass(frozen=True, slots=True)
class RunStatus:
    """The state of one run.

    Args:
        identity: of its input (`Source`); of a missing file, its path.
        path: where the input was.
        state: where it stands.
        attempts: how many failed.
        reason: of the last failure; empty if there was none since.
        notes: what a user should know of the input, one sentence each.
    """

    identity: str
    path: str
    state: RunState
    attempts: int = 0
    reason: str = ""
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, ready for JSON."""
        return {
            "identity": self.identity,
            "path": self.path,
            "state": self.state.value,
            "attempts": self.attempts,
            "reason": self.reason,
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self:
        """What `as_dict` gave.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        return cls(
            str(row["identity"]),
            str(row["path"]),
            RunState(row["state"]),
            int(row["attempts"]),
            str(row["reason"]),
            tuple(map(str, row["notes"])),
        )

    def failed(self, reason: str, most_attempts: int) -> RunStatus:
        """After one more failure."""
        attempts = self.attempts + 1
        state = RunState.ABANDONED if attempts >= most_attempts else RunState.FAILED
        return replace(self, state=state, attempts=attempts, reason=reason)

    def now(self, state: RunState, notes: tuple[str, ...] = ()) -> RunStatus:
        """In another state, without a reason to complain."""
        return replace(self, state=state, reason="", notes=notes)


def key_of(source: Source) -> str:
    """Under which name the state of an input is kept."""
    return source.identity or f"path:{Path(source.path).absolute()}"


def first_status(source: Source) -> RunStatus:
    """The state of an input that was never seen."""
    return RunStatus(key_of(source), str(source.path), RunState.CONSIDERING)
