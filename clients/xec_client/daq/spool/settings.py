"""Settings of a spool: how large, how soon synced, how much held in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from xec.errors import UsageError

MAX_PAYLOAD_BYTES: Final = 16 << 20
"""No event is larger: the gRPC message limit is far below, and recovery need not look further."""


@dataclass(frozen=True, slots=True)
class SyncPolicy:
    """When written events are made durable: as soon as any one of the limits is reached.

    Until then an event survives a kill, not a power cut, and stays in memory too, so that it can be
    written anew after a failed fsync. `SyncPolicy(events=1)` syncs every event.

    Args:
        events: written since the last fsync.
        seconds: since the first event that is not synced was written.
        size: bytes written since the last fsync.

    Raises:
        UsageError: a limit is not positive.
    """

    events: int = 64
    seconds: float = 0.2
    size: int = 4 << 20

    def __post_init__(self) -> None:
        if min(self.events, self.seconds, self.size) <= 0:
            raise UsageError("The limits of a sync policy are positive numbers.")

    def is_due(self, events: int, age: float, size: int) -> bool:
        """Whether so many events of so many bytes, the oldest `age` seconds old, want an fsync."""
        return events > 0 and (events >= self.events or age >= self.seconds or size >= self.size)


EVERY_EVENT: Final = SyncPolicy(events=1)


@dataclass(frozen=True, slots=True)
class SpoolSettings:
    """How a spool lives.

    Args:
        max_bytes: of all segments and acknowledgements together; at least 4 segments.
        segment_bytes: a segment that would grow beyond this is followed by a new one.
        memory_events: events waiting for the disk at most.
        memory_bytes: their payloads together at most.
        sync: when written events are made durable.
        gap_slots: ranges that the gap ledger can hold apart.
        quarantine_bytes: damaged bytes kept aside at most; their reports are always kept.
        retry_seconds: how long a disk that failed or is full is left alone.
        handover: folder in memory for what must survive a kill but not a power cut; None:
            ``/dev/shm``, or the spool itself where that is missing.

    Raises:
        UsageError: the sizes contradict each other.
    """

    max_bytes: int = 20 << 30
    segment_bytes: int = 64 << 20
    memory_events: int = 4096
    memory_bytes: int = 256 << 20
    sync: SyncPolicy = field(default_factory=SyncPolicy)
    gap_slots: int = 4096
    quarantine_bytes: int = 64 << 20
    retry_seconds: float = 0.2
    handover: Path | None = None

    def __post_init__(self) -> None:
        if self.segment_bytes < 1024 or self.max_bytes < 4 * self.segment_bytes:
            raise UsageError(
                "A spool is at least as large as four of its segments, and these have 1024 bytes "
                f"or more: max_bytes is {self.max_bytes}, segment_bytes {self.segment_bytes}."
            )
        limits = (self.memory_events, self.memory_bytes, self.gap_slots, self.retry_seconds)
        if min(limits) <= 0 or self.quarantine_bytes < 0:
            raise UsageError("The limits of a spool are positive numbers.")
