"""What was kept and yet has no result: damaged records, and events that the consumer rejected.

``quarantine/<segment>-<offset>.json`` reports damage, ``.bin`` beside it holds the damaged bytes;
both names depend on the place alone, so that finding the damage again adds nothing.
``rejected.ledger`` has one line of JSON per rejected event, with a checksum, synced before the
event counts as settled.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from xec_client.daq.spool.checksum import crc32c
from xec_client.daq.spool.files import Files, publish
from xec_client.daq.spool.ids import EventId

FOLDER: Final = "quarantine"
REJECTED: Final = "rejected.ledger"


@dataclass(frozen=True, slots=True)
class DamageReport:
    """Damage in a segment.

    Args:
        segment: name of the file.
        offset: first damaged byte.
        size: damaged bytes.
        ids: events whose header survived.
        unreadable: further events that were there, by the sequences that are missing.
        time: Unix seconds when it was found.
    """

    segment: str
    offset: int
    size: int
    ids: tuple[EventId, ...]
    unreadable: int
    time: float

    @property
    def name(self) -> str:
        """Of its files, without ending."""
        return f"{self.segment}-{self.offset}"


class DamageStore:
    """The reports of damage, and the damaged bytes as long as there is room for them.

    Args:
        files: the disk.
        folder: the spool.
        max_bytes: damaged bytes kept at most.

    Raises:
        OSError: the disk failed.
    """

    def __init__(self, files: Files, folder: Path, max_bytes: int) -> None:
        self._files = files
        self._folder = folder / FOLDER
        files.make_folder(self._folder)
        names = files.list(self._folder)
        self._known = {name for name in names if name.endswith(".json")}
        kept = (name for name in names if name.endswith(".bin"))
        self._room = max_bytes - sum(files.size(self._folder / name) for name in kept)

    def add(self, report: DamageReport, damaged: bytes) -> bool:
        """Keep a report and its bytes; False: it was known.

        Raises:
            OSError: the disk failed.
        """
        name = f"{report.name}.json"
        if name in self._known:
            return False
        if len(damaged) <= self._room:
            publish(self._files, self._folder / f"{report.name}.bin", damaged)
            self._room -= len(damaged)
        content = json.dumps(asdict(report), indent=2).encode()
        publish(self._files, self._folder / name, content)
        self._known.add(name)
        return True


def read_damage(files: Files, folder: Path) -> list[DamageReport]:
    """All reports of a spool, by segment."""
    if FOLDER not in files.list(folder):
        return []
    inside = folder / FOLDER
    names = sorted(name for name in files.list(inside) if name.endswith(".json"))
    contents: list[dict[str, Any]] = [json.loads(files.read(inside / name)) for name in names]
    return [
        DamageReport(**{**content, "ids": tuple(EventId(*pair) for pair in content["ids"])})
        for content in contents
    ]


@dataclass(frozen=True, slots=True)
class Rejection:
    """An event that the consumer will never get a result for, and why."""

    id: EventId
    reason: str
    time: float


class RejectionLedger:
    """Appends rejections, each synced before it counts.

    Args:
        files: the disk.
        folder: the spool.

    Raises:
        OSError: the disk failed.
    """

    def __init__(self, files: Files, folder: Path) -> None:
        self._files = files
        self._path = folder / REJECTED
        if REJECTED not in files.list(folder):
            publish(files, self._path, b"")
        # What a kill cut off is overwritten.
        lines = _lines(files.read(self._path))
        self._size = sum(len(line) for line in lines if line.endswith(b"\n"))
        self._fd = files.open(self._path)
        self._sound = True

    def add(self, rejections: Iterable[Rejection]) -> None:
        """Write down rejections, durable on return.

        Raises:
            OSError: the disk failed; none of them counts.
        """
        data = b"".join(_line(rejection) for rejection in rejections)
        try:
            self._append(data)
        except OSError:
            self._sound = False
            self._renew(data)
        self._size += len(data)

    def _append(self, data: bytes) -> None:
        if not self._sound:
            raise OSError("the file failed before")
        self._files.truncate(self._fd, self._size)
        self._files.write_at(self._fd, data, self._size)
        self._files.fsync(self._fd)

    def _renew(self, data: bytes) -> None:
        """Write all anew: after a failed fsync nothing can be said of the old file."""
        content = self._files.read(self._path)[: self._size]
        publish(self._files, self._path, content + data)
        self._files.close(self._fd)
        self._fd = self._files.open(self._path)
        self._sound = True

    def close(self) -> None:
        """Close the file."""
        self._files.close(self._fd)


def _lines(data: bytes) -> list[bytes]:
    return data.splitlines(keepends=True)


def _line(rejection: Rejection) -> bytes:
    body = json.dumps([*rejection.id, rejection.reason, rejection.time]).encode()
    # The line break before it parts it from bytes that a power cut left behind the last line.
    return b"\n%08x %s\n" % (crc32c(body), body)


def read_rejections(files: Files, folder: Path) -> Iterator[Rejection]:
    """All rejections of a spool; a line that was cut off never counted."""
    if REJECTED not in files.list(folder):
        return
    for line in _lines(files.read(folder / REJECTED)):
        stored, _, body = line.rstrip(b"\n").partition(b" ")
        if stored == b"%08x" % crc32c(body):
            run, event, reason, time = json.loads(body)
            yield Rejection(EventId(run, event), reason, time)
