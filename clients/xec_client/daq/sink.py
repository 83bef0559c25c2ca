"""Results in parts: each complete or absent, of one run and one provenance, each event once.

A part is written in ``.staging``, synced, read back, then linked into the folder under a name that
nobody has, and the folder is synced. Only then do its events count as durable.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final

from xec.errors import FileError, UsageError
from xec.event import Event, EventBatch, Reconstruction
from xec.io.output import writing
from xec.io.results import ResultWriter, open_result_writer
from xec.lineage import Provenance
from xec_client.daq.parts import ids_in, part_name, parts_in
from xec_client.daq.spool import EventId
from xec_client.daq.spool.ownership import Ownership
from xec_client.daq.spool.seen import SeenIds

STAGING: Final = ".staging"
SUFFIXES: Final = {"parquet": ".parquet", "root": ".root"}

_OTHERS: Final = {
    "xec-reprocess.json": "an output folder of xec reprocess",
    "lineage.json": "a lineage of xec reprocess",
    "spool.id": "a spool",
}


@dataclass(frozen=True, slots=True)
class SinkSettings:
    """When a part ends, whatever else ends it.

    Args:
        kind: ``parquet`` or ``root``.
        part_events: as many events end it.
        part_seconds: so long after its first event it ends: until then its events stay spooled.

    Raises:
        UsageError: a value makes no sense.
    """

    kind: str = "parquet"
    part_events: int = 10_000
    part_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.kind not in SUFFIXES:
            raise UsageError(f"Parts are {' or '.join(SUFFIXES)} files, not {self.kind}.")
        if not (self.part_events > 0 and self.part_seconds > 0):
            raise UsageError("A part ends after a positive number of events and of seconds.")


@dataclass(frozen=True, slots=True)
class Answered:
    """An event with its answer."""

    event: Event
    answer: Reconstruction
    synthetic: bool

    @property
    def id(self) -> EventId:
        """Run and event."""
        return EventId(self.event.run, self.event.event)

    @property
    def lineage(self) -> tuple[int, Provenance, bool]:
        """What all events of a part share: run, provenance, whether they are simulated."""
        return self.event.run, self.answer.provenance, self.synthetic


def _refuse_foreign(folder: Path) -> None:
    """Refuse folders that another program keeps its books of, or the spool itself.

    Raises:
        UsageError: it is one of them.
    """
    for name, owner in _OTHERS.items():
        if (folder / name).exists():
            raise UsageError(
                f"{folder} is {owner}: name a folder for the results of xec daq alone."
            )


class PartSink:
    """The output folder of one forwarder.

    Args:
        folder: of the parts; made if it is missing.
        settings: when parts end.
        on_durable: called with the events of a part once it is durable.

    Raises:
        FileError: the folder has another owner, cannot be written, or holds a damaged part.
    """

    def __init__(
        self,
        folder: Path,
        settings: SinkSettings,
        on_durable: Callable[[Sequence[EventId]], object],
    ) -> None:
        self._folder, self._settings, self._on_durable = folder, settings, on_durable
        self._staging = folder / STAGING
        self._writer: ResultWriter | None = None
        self._pending: dict[EventId, None] = {}
        self.parts = 0
        """Parts published by this process."""
        _refuse_foreign(folder)
        with writing(folder):
            self._staging.mkdir(parents=True, exist_ok=True)
        try:
            self._owner = Ownership(folder)
        except FileError as error:
            raise FileError(
                f"The output folder {folder} is in use by another forwarder: stop it, or name "
                "another folder."
            ) from error
        try:
            self._open()
        except BaseException:
            self._owner.release()
            raise

    def _open(self) -> None:
        with writing(self._folder):
            for left in self._staging.iterdir():
                left.unlink()
            parts = parts_in(self._folder)
        self._next = 1 + max((part.number for part in parts), default=0)
        self.durable = SeenIds(event_id for part in parts for event_id in ids_in(part.path))
        """Events in published parts, those of earlier processes included."""

    def __contains__(self, event_id: EventId) -> bool:
        """Whether the event is in the part that is being written."""
        return event_id in self._pending

    def __len__(self) -> int:
        """Events in the part that is being written."""
        return len(self._pending)

    @property
    def lineage(self) -> tuple[int, Provenance, bool] | None:
        """Of the part that is being written, if there is one."""
        return self._lineage if self._writer is not None else None

    def write(self, answers: Sequence[Answered]) -> None:
        """Take answers; an event that is there already is left out.

        Raises:
            FileError: the disk is full or fails: the part that was being written is gone, and its
                events, `answers` among them, are not durable.
        """
        for lineage, group in groupby(answers, key=lambda one: one.lineage):
            fresh = {one.id: one for one in group if one.id not in self.durable}
            new = [one for event_id, one in fresh.items() if event_id not in self._pending]
            if not new:
                continue
            if self._writer is not None and lineage != self._lineage:
                self.publish()
            self._append(new, lineage)
            if len(self._pending) >= self._settings.part_events:
                self.publish()

    def _append(self, answers: list[Answered], lineage: tuple[int, Provenance, bool]) -> None:
        try:
            if self._writer is None:
                self._begin(lineage)
            assert self._writer is not None
            events = EventBatch.stack([one.event for one in answers])
            self._writer.write(events, [one.answer for one in answers])
        except BaseException:
            self.abandon()
            raise
        self._pending.update(dict.fromkeys(one.id for one in answers))

    def _begin(self, lineage: tuple[int, Provenance, bool]) -> None:
        run, _, synthetic = lineage
        suffix = SUFFIXES[self._settings.kind]
        self._path = self._staging / part_name(run, self._next, suffix)
        writer = open_result_writer(self._path, source=f"run {run}", synthetic=synthetic)
        self._writer = writer.__enter__()
        self._lineage = lineage
        self._begun = time.monotonic()

    def is_due(self) -> bool:
        """Whether the part that is being written is old enough to end."""
        age = self._settings.part_seconds
        return self._writer is not None and time.monotonic() - self._begun >= age

    def publish(self) -> None:
        """End the part that is being written, if there is one; its events are durable then.

        Raises:
            FileError: the disk is full or fails: the part is gone, its events are not durable.
        """
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        ids = list(self._pending)
        self._pending.clear()
        try:
            writer.__exit__(None, None, None)
            if list(ids_in(self._path)) != ids:
                raise FileError(f"{self._path} does not hold what was written: check the disk.")
            with writing(self._folder):
                self._link(ids)
        finally:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
        self._next += 1
        self.parts += 1
        self._on_durable(ids)

    def _link(self, ids: list[EventId]) -> None:
        """Give the part its name, which nobody else has, for good."""
        final = self._folder / self._path.name
        os.link(self._path, final)
        try:
            fd = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError:
            # The name may be gone after a power cut: its events are not durable.
            try:
                final.unlink()
            except OSError:
                # Not to be removed either: there it stays, and must not be written again.
                self._next += 1
                for event_id in ids:
                    self.durable.add(event_id)
            raise
        for event_id in ids:
            self.durable.add(event_id)

    def abandon(self) -> None:
        """Drop the part that is being written; its events are not durable."""
        writer, self._writer = self._writer, None
        self._pending.clear()
        if writer is not None:
            error = FileError("abandoned")
            with suppress(FileError, OSError):
                writer.__exit__(type(error), error, None)

    def close(self) -> None:
        """Let others have the folder; what was not published is dropped."""
        self.abandon()
        with suppress(OSError):
            self._staging.rmdir()
        self._owner.release()
