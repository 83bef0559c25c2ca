"""What a spool holds on disk, read without changing it: for the console and for the checker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from xec_client.daq.spool import gap_ledger
from xec_client.daq.spool.files import DiskFiles, Files
from xec_client.daq.spool.gap_table import GapRange
from xec_client.daq.spool.ids import EventId
from xec_client.daq.spool.quarantine import DamageReport, Rejection, read_damage, read_rejections
from xec_client.daq.spool.recovery import SEGMENTS, read_pieces, without_copies


@dataclass(frozen=True, slots=True)
class Contents:
    """A spool's content.

    Args:
        spooled: accepted and not settled, in order.
        rejected: refused by the consumer.
        damage: found so far.
        gaps: on record on disk; what only the hand-over file of a killed process knows comes in
            when the spool is opened.
    """

    spooled: tuple[EventId, ...]
    rejected: tuple[Rejection, ...]
    damage: tuple[DamageReport, ...]
    gaps: tuple[GapRange, ...]


def read_contents(folder: Path, files: Files | None = None) -> Contents:
    """Read a spool that nobody is writing.

    Raises:
        OSError: the disk failed.
        FileError: something in it was written by a newer version.
    """
    files = files or DiskFiles()
    return Contents(
        tuple(_spooled(files, folder)),
        tuple(read_rejections(files, folder)),
        tuple(read_damage(files, folder)),
        tuple(gap for gap in gap_ledger.read(files, folder) if gap is not None),
    )


def _spooled(files: Files, folder: Path) -> Iterator[EventId]:
    pieces = read_pieces(files, folder / SEGMENTS)
    settled = set[int]().union(*(piece.acknowledged for piece in pieces))
    for piece in without_copies(pieces):
        segment = piece.segment
        for sequence in range(segment.first, segment.next):
            if sequence not in settled and not segment.is_missing(sequence):
                yield segment.id_of(sequence)
