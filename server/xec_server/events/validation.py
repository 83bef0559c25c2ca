"""Events of a request: decoded, without their dead sensors, and checked all at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from xec.contract import LARGEST_READING
from xec.errors import InvalidEvent, Violation
from xec.event import BoolArray, Event, FloatArray
from xec.wire.codec import event_from_proto
from xec.wire.limits import MAX_VIOLATIONS
from xec.wire.v1 import reconstruction_pb2 as pb


@dataclass(slots=True)
class _Findings:
    """Broken rules: all are counted, the first few kept."""

    kept: list[Violation] = field(default_factory=list)
    total: int = 0

    def add(self, path: str, description: str) -> None:
        self.total += 1
        if len(self.kept) < MAX_VIOLATIONS:
            self.kept.append(Violation(path, description))


def _description(value: np.float32) -> str:
    if np.isfinite(value):
        return f"{value:g} is too large for a reading: clear its validity bit if it is a marker."
    return f"{value} in a valid sensor: clear its validity bit."


def _check_values(values: FloatArray, path: str, findings: _Findings) -> None:
    """Report what is no number or a marker; invalid readings are 0 by now."""
    size = np.abs(values)
    if size.max() <= LARGEST_READING:  # False for NaN
        return
    bad = np.flatnonzero(~(size <= LARGEST_READING))
    room = MAX_VIOLATIONS - len(findings.kept)
    for channel in bad[:room]:
        findings.add(f"{path}[{channel}]", _description(values[channel]))
    findings.total += len(bad[room:])


def _checked(message: pb.Event, dead: BoolArray, path: str, findings: _Findings) -> Event | None:
    try:
        event = event_from_proto(message, dead)
    except InvalidEvent as error:
        for violation in error.violations:
            findings.add(f"{path}.{violation.field}", violation.description)
        return None
    if not event.npho_valid.any():
        findings.add(f"{path}.npho_valid", "No sensor is left with a valid count.")
    _check_values(event.npho, f"{path}.npho", findings)
    _check_values(event.time, f"{path}.time", findings)
    return event


def checked_events(
    messages: Sequence[pb.Event], dead: Sequence[BoolArray], paths: Sequence[str]
) -> list[Event]:
    """The events of a request, ready for the engine.

    Args:
        messages: of the request.
        dead: for each a mask (4760,) of sensors that are invalid, whatever they read.
        paths: how to name each event in a violation.

    Raises:
        InvalidEvent: an array of the wrong length, a valid reading that is not finite or is a
            marker, or no valid reading at all; with the first violations of all events and
            their total number.
    """
    findings = _Findings()
    events = [
        _checked(message, mask, path, findings)
        for message, mask, path in zip(messages, dead, paths, strict=True)
    ]
    if findings.total:
        first = findings.kept[0]
        raise InvalidEvent(
            f"The request breaks the contract at {first.field}: {first.description}",
            tuple(findings.kept),
            findings.total,
        )
    return [event for event in events if event is not None]
