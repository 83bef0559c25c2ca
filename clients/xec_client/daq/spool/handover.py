"""What must survive a kill although it is in memory: which events wait for the disk, and gaps.

A file in the memory file system, mapped, so that noting an event is a copy of 32 bytes that neither
a slow nor a full nor a hanging disk can hold up. It survives the process, not a power cut. The
payloads do not stand in it: an event that was killed in memory becomes an entry of the gap ledger.

Layout, little endian: header of 32 bytes (magic, entries u32, gap slots u32), entries of 32 bytes
(sequence u64, run i64, event i64, reserved u32, CRC32C u32), slots of a gap table.
"""

from __future__ import annotations

import mmap
import os
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from xec.errors import FileError
from xec_client.daq.spool.checksum import crc32c
from xec_client.daq.spool.gap_table import SLOT_BYTES, GapRange, decode_slot
from xec_client.daq.spool.ids import EventId

MEMORY_FOLDER: Final = Path("/dev/shm")  # noqa: S108 (the file is opened as safely as in /tmp)
_MAGIC: Final = b"XECHAND\x01"
_HEADER: Final = struct.Struct("<8sII16x")
_BODY: Final = struct.Struct("<QqqI")
_CRC: Final = struct.Struct("<I")
_ENTRY_BYTES: Final = _BODY.size + _CRC.size


@dataclass(frozen=True, slots=True)
class Remains:
    """What an earlier process left.

    Args:
        waiting: sequence and id of each event that was handed over, in order of hand-over.
        gaps: of its gap table, one per slot.
    """

    waiting: tuple[tuple[int, EventId], ...] = ()
    gaps: tuple[GapRange | None, ...] = ()


def path_for(spool_id: str, folder: Path | None, spool: Path) -> Path:
    """Where a spool's hand-over file is."""
    if folder is None:
        folder = MEMORY_FOLDER if os.access(MEMORY_FOLDER, os.W_OK) else spool
    return folder / f"xec-spool-{spool_id}"


def read_remains(path: Path) -> Remains:
    """What an earlier process left at `path`; nothing, if there is no such file of ours.

    Raises:
        FileError: the file belongs to somebody else.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return Remains()
    with os.fdopen(fd, "rb") as file:
        if os.fstat(fd).st_uid != os.geteuid():
            raise FileError(f"{path} belongs to another user: remove it to open the spool.")
        data = file.read()
    if len(data) < _HEADER.size or not data.startswith(_MAGIC):
        return Remains()
    _, entries, slots = _HEADER.unpack_from(data)
    # What the header says is believed as far as the file goes.
    entries = min(entries, len(data) // _ENTRY_BYTES)
    slots = min(slots, len(data) // SLOT_BYTES)
    waiting = [_entry_at(data, _HEADER.size + row * _ENTRY_BYTES) for row in range(entries)]
    start = _HEADER.size + entries * _ENTRY_BYTES
    places = (start + row * SLOT_BYTES for row in range(slots))
    gaps = tuple(decode_slot(data[place : place + SLOT_BYTES]) for place in places)
    return Remains(tuple(sorted(entry for entry in waiting if entry)), gaps)


def _entry_at(data: bytes, start: int) -> tuple[int, EventId] | None:
    entry = data[start : start + _ENTRY_BYTES]
    if len(entry) < _ENTRY_BYTES or _CRC.pack(crc32c(entry[: _BODY.size])) != entry[_BODY.size :]:
        return None
    sequence, run, event, _ = _BODY.unpack_from(entry)
    return (sequence, EventId(run, event)) if sequence else None


class Handover:
    """The hand-over file of this process.

    Args:
        path: of the file; one that is there is replaced.
        entries: as many events as can wait at a time.
        gap_slots: the gap table's bytes to begin with.

    Raises:
        OSError: there is no room in memory for it.
    """

    def __init__(self, path: Path, entries: int, gap_slots: bytes) -> None:
        self._path = path
        self._entries = entries
        self._gap_start = _HEADER.size + entries * _ENTRY_BYTES
        self._size = self._gap_start + len(gap_slots)
        temporary = path.with_name(path.name + ".part")
        temporary.unlink(missing_ok=True)
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # Without room, a mapped page would kill the process instead of raising an error.
            os.posix_fallocate(fd, 0, self._size)
            self._map = mmap.mmap(fd, self._size)
        finally:
            os.close(fd)
        self._map[: _HEADER.size] = _HEADER.pack(_MAGIC, entries, len(gap_slots) // SLOT_BYTES)
        self._map[self._gap_start :] = gap_slots
        temporary.rename(path)

    def note(self, sequence: int, event_id: EventId) -> None:
        """An event waits for the disk; it takes the place of one that certainly does not."""
        body = _BODY.pack(sequence, *event_id, 0)
        start = _HEADER.size + sequence % self._entries * _ENTRY_BYTES
        self._map[start : start + _ENTRY_BYTES] = body + _CRC.pack(crc32c(body))

    def __len__(self) -> int:
        """Bytes of the gap table's slots."""
        return self._size - self._gap_start

    def __getitem__(self, where: slice) -> bytes:
        start, stop, _ = where.indices(len(self))
        return self._map[self._gap_start + start : self._gap_start + stop]

    def __setitem__(self, where: slice, value: bytes) -> None:
        start, stop, _ = where.indices(len(self))
        self._map[self._gap_start + start : self._gap_start + stop] = value

    def close(self, *, remove: bool) -> None:
        """Close the file, and remove it if all that it says is on disk."""
        self._map.close()
        if remove:
            # If it stays, the next opening finds all that it says on disk.
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
