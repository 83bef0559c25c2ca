"""The independent checker: is every offered event in exactly one state, with the right content?

It reads only what the producing side wrote down before each hand-over and what came out in the end.
It knows nothing of the spool's counters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from xec.errors import FileError
from xec_client.daq.spool.contents import Contents
from xec_client.daq.spool.ids import EventId


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the checker found; `is_clean` if the claim "0 lost without record" holds.

    Args:
        offered: events, by id.
        results: with a result.
        quarantined: without one, and rejected or damaged.
        spooled: without these, and in the spool.
        gap: in the gap ledger only.
        lost: in no state at all.
        doubled: with more than one result.
        invented: with a result, though never offered.
        altered: whose result is of other content than was offered.
        filled: in the gap ledger, though handed over again later and kept; no defect.
    """

    offered: int
    results: int
    quarantined: int
    spooled: int
    gap: int
    lost: tuple[EventId, ...]
    doubled: tuple[EventId, ...]
    invented: tuple[EventId, ...]
    altered: tuple[EventId, ...]
    filled: int

    @property
    def is_clean(self) -> bool:
        """Whether nothing is lost without record, doubled, invented or altered."""
        return not (self.lost or self.doubled or self.invented or self.altered)

    def __str__(self) -> str:
        return (
            f"{len(self.lost)} lost of {self.offered} offered: {self.results} results, "
            f"{self.quarantined} quarantined, {self.spooled} spooled, {self.gap} in the gap "
            f"ledger; {len(self.doubled)} doubled, {len(self.invented)} invented, "
            f"{len(self.altered)} altered"
        )


def check(
    offered: Mapping[EventId, str], results: Iterable[tuple[EventId, str]], contents: Contents
) -> Verdict:
    """Compare ids and contents, never only counts.

    Args:
        offered: digest of each event, by the producing side's own ledger.
        results: id and digest of the input of each result, in the final output.
        contents: of the spool, after the last process has closed it.
    """
    digests = Counter(results)
    times = Counter(event_id for event_id, _ in digests.elements())
    known = [event_id for event_id in times if event_id in offered]
    rest = set(offered) - set(times)
    quarantined = rest & _quarantined(contents)
    rest -= quarantined
    spooled = rest & set(contents.spooled)
    rest -= spooled
    in_ledger = _in_ledger(contents, rest)
    gap = rest & in_ledger
    rest -= gap
    # Of damaged records whose header is unreadable only the number is known.
    unreadable = min(sum(report.unreadable for report in contents.damage), len(rest))
    lost = sorted(rest)[: len(rest) - unreadable]
    return Verdict(
        offered=len(offered),
        results=len(known),
        quarantined=len(quarantined) + unreadable,
        spooled=len(spooled),
        gap=len(gap),
        lost=tuple(lost),
        doubled=tuple(sorted(event_id for event_id, count in times.items() if count > 1)),
        invented=tuple(sorted(set(times) - set(offered))),
        altered=tuple(sorted({i for i, digest in digests if offered.get(i, digest) != digest})),
        filled=len(_in_ledger(contents, set(offered)) - gap),
    )


def _quarantined(contents: Contents) -> set[EventId]:
    rejected = {rejection.id for rejection in contents.rejected}
    return rejected | {event_id for report in contents.damage for event_id in report.ids}


def _in_ledger(contents: Contents, ids: set[EventId]) -> set[EventId]:
    """Those of `ids` that the gap ledger names; of an inexact range as many as it counts."""
    found: set[EventId] = set()
    for gap in contents.gaps:
        inside = {event_id for event_id in ids if gap.first <= event_id <= gap.last} - found
        found |= inside if gap.is_exact else set(sorted(inside)[: gap.count])
    return found


def read_ledger(path: Path) -> dict[EventId, str]:
    """A producing side's ledger: one line ``run event digest`` per event; a cut last line is none.

    Raises:
        FileError: a whole line is no such line.
    """
    offered: dict[EventId, str] = {}
    text = path.read_text(encoding="utf-8")
    for number, line in enumerate(text.splitlines(keepends=True), start=1):
        if not line.endswith("\n"):
            break
        try:
            run, event, digest = line.split()
            offered[EventId(int(run), int(event))] = digest
        except ValueError:
            raise FileError(
                f"{path}, line {number}: not a run, an event and a digest, but {line.strip()!r}."
            ) from None
    return offered
