"""Where every event is: offered = result + quarantined(reason) + spooled + gap(reason)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from xec_client.daq.spool.gap_table import GapReason


@dataclass(frozen=True, slots=True)
class Accounting:
    """Numbers of events since the spool was opened, all at one moment.

    Args:
        offered: handed over by the source.
        carried: left over from before: spooled, damaged or lost in memory when it was opened.
        results: acknowledged by the sink.
        rejected: refused by the consumer, with a reason on record.
        damaged: unreadable on disk, reported and kept aside.
        spooled: accepted and waiting.
        in_memory: waiting for the disk; a kill turns them into a gap on record.
        gaps: not kept, on record, by reason.
    """

    offered: int
    carried: int
    results: int
    rejected: int
    damaged: int
    spooled: int
    in_memory: int
    gaps: Mapping[GapReason, int]

    @property
    def unaccounted(self) -> int:
        """What the law leaves over; anything but 0 is a defect."""
        quarantined = self.rejected + self.damaged
        waiting = self.spooled + self.in_memory
        kept = self.results + quarantined + waiting
        return self.offered + self.carried - kept - sum(self.gaps.values())

    @property
    def analysed(self) -> float:
        """Results per event, from 0 to 1; 1 where there were no events."""
        events = self.offered + self.carried
        return self.results / events if events else 1.0
