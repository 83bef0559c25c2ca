"""Where events come from: files that are there, runs that are being written, and replays of both.

A source gives samples, in any order of numbers; what it cannot read it gives with the reason.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from xec.conditions.dead_list import DeadList
from xec.errors import FileError, UsageError
from xec.io.events import open_events
from xec.io.midas.compression import midas_suffix
from xec.io.midas.event import MidasEvent
from xec.io.midas.label import RunLabel, label_of
from xec.io.midas.layout import EventKind
from xec.io.midas.reader import Follow, MidasFile
from xec.io.midas.readings import DEFAULT_BANKS, ReadingBanks, find_reading, to_batch
from xec.io.midas.runs import open_run, run_of_name
from xec_client.daq.payload import Parcel, pack, pack_unreadable
from xec_client.daq.spool import EventId

Stopped = Callable[[], bool]

_CHUNK: Final = 64
_LOOK_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class Sample:
    """An event ready for the spool."""

    id: EventId
    payload: bytes


class Source(Protocol):
    """Something that gives events."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    @property
    def patient(self) -> bool:
        """Whether it can wait until there is room: a file can, a detector cannot."""
        ...

    @property
    def geometry_hash(self) -> str | None:
        """Of the geometry of its events, where that is known by now."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know at the end, one sentence each."""
        ...

    def samples(self, stopped: Stopped) -> Iterator[Sample]:
        """The events, until there are no more or `stopped` says so.

        Raises:
            XecError: the source is missing, foreign or damaged; events before were given.
        """
        ...


class RootSource:
    """The events of a ROOT file with the dead list that it tells."""

    patient = True
    notes: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        with open_events(path) as file:
            self.geometry_hash = file.geometry_hash

    def samples(self, stopped: Stopped) -> Iterator[Sample]:
        """See `Source`."""
        with open_events(self._path) as file:
            for chunk in file.chunks(_CHUNK):
                for row, event in enumerate(chunk.events):
                    if stopped():
                        return
                    dead = None if chunk.dead is None else DeadList.from_mask(chunk.dead[row])
                    payload = pack(Parcel(event, dead, file.synthetic))
                    yield Sample(EventId(event.run, event.event), payload)


class MidasReadings:
    """From events of MIDAS to samples, with counts of what holds no readings.

    Args:
        banks: where the readings are.
    """

    def __init__(self, banks: ReadingBanks) -> None:
        self._banks = banks
        self.readable = 0
        self.unreadable = 0
        self.first_reason = ""
        self.others: Counter[int] = Counter()

    def sample(self, event: MidasEvent, run: int, synthetic: bool) -> Sample | None:
        """The sample of an event; None: it holds no readings, and is counted."""
        event_id = EventId(run, event.header.serial)
        try:
            reading = find_reading(event, run, self._banks)
            if reading is None:
                self.others[event.header.event_id] += 1
                return None
            batch = to_batch([reading], self._banks, str(event))
        except FileError as error:
            self.unreadable += 1
            self.first_reason = self.first_reason or str(error)
            return Sample(event_id, pack_unreadable(str(error)))
        self.readable += 1
        return Sample(event_id, pack(Parcel(next(iter(batch)), None, synthetic)))

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out, and what was handed over as unreadable."""
        notes = [
            f"{count} events of id {event_id} hold no readings and were left out."
            for event_id, count in sorted(self.others.items())
        ]
        if self.unreadable:
            notes.append(
                f"{self.unreadable} events could not be read and are rejected on record; the "
                f"first: {self.first_reason}"
            )
        return tuple(notes)


class MidasSource:
    """The events of a MIDAS file or run, complete or still being written.

    Args:
        path: as `open_run` takes it.
        banks: where the readings are.
        patience: seconds without anything new after which a followed run is over; None does not
            follow.
    """

    patient = True

    def __init__(
        self, path: Path, banks: ReadingBanks = DEFAULT_BANKS, patience: float | None = None
    ) -> None:
        self.name = str(path)
        self.geometry_hash: str | None = None
        self._path, self._banks, self._patience = path, banks, patience
        self._readings = MidasReadings(banks)
        self._ends: list[str] = []

    @property
    def notes(self) -> tuple[str, ...]:
        """See `Source`."""
        return (*self._readings.notes, *self._ends)

    def samples(self, stopped: Stopped) -> Iterator[Sample]:
        """See `Source`."""
        follow = None if self._patience is None else Follow(self._patience, stopped=stopped)
        for file in open_run(self._path, follow):
            yield from self._of_file(file, stopped)
            if stopped():
                return
            self._note_end(file)
        self._refuse_without_readings()

    def _of_file(self, file: MidasFile, stopped: Stopped) -> Iterator[Sample]:
        label = RunLabel()
        for event in file:
            if stopped():
                return
            if event.kind is EventKind.BEGIN_OF_RUN:
                label = label_of(event.data)
                self.geometry_hash = label.geometry_hash
            if event.kind is not EventKind.DATA:
                continue
            run = run_of_name(file.path) if file.run is None else file.run
            if run is None:
                raise FileError(
                    f"{event}: its run is not known, as there is no begin of run: name the file "
                    "after it, such as run00407.mid.lz4."
                )
            sample = self._readings.sample(event, run, label.synthetic)
            if sample is not None:
                yield sample

    def _note_end(self, file: MidasFile) -> None:
        assert file.end is not None
        if file.end.still_written and self._patience is None:
            raise FileError(f"{file.end} Or follow it: xec daq --follow {self._path}.")
        if not file.end.complete:
            self._ends.append(str(file.end))

    def _refuse_without_readings(self) -> None:
        readings = self._readings
        if readings.readable:
            return
        if readings.unreadable:
            raise FileError(
                f"{self._path}: none of its {readings.unreadable} events can be read; the first: "
                f"{readings.first_reason}"
            )
        if readings.others:
            ids = ", ".join(map(str, sorted(readings.others)))
            raise FileError(
                f"{self._path}: none of its {readings.others.total()} events (ids {ids}) holds the "
                f"banks {self._banks.npho.name} and {self._banks.time.name}: name them by "
                "--npho-bank and --time-bank."
            )


class Replay:
    """Another source at the pace of a detector: Poisson arrivals that wait for nobody.

    Args:
        source: of the events.
        rate: events per second on average.
        seed: of the arrival times.

    Raises:
        UsageError: the rate is not positive.
    """

    patient = False

    def __init__(self, source: Source, rate: float, seed: int = 0) -> None:
        if not 0 < rate < float("inf"):
            raise UsageError(f"A rate is a positive number of events per second, not {rate:g}.")
        self._source, self._rate = source, rate
        self._random = random.Random(seed)  # noqa: S311  (arrival times, not secrets)

    @property
    def name(self) -> str:
        """See `Source`."""
        return f"{self._source.name} at {self._rate:g} events/s"

    @property
    def geometry_hash(self) -> str | None:
        """See `Source`."""
        return self._source.geometry_hash

    @property
    def notes(self) -> tuple[str, ...]:
        """See `Source`."""
        return self._source.notes

    def samples(self, stopped: Stopped) -> Iterator[Sample]:
        """See `Source`."""
        due = time.monotonic()
        for sample in self._source.samples(stopped):
            due += self._random.expovariate(self._rate)
            while (left := due - time.monotonic()) > 0:
                if stopped():
                    return
                time.sleep(min(left, _LOOK_SECONDS))
            yield sample


def file_source(path: Path, banks: ReadingBanks = DEFAULT_BANKS) -> Source:
    """The source for the kind of file that the name tells.

    Raises:
        FileError: a ROOT file is missing or foreign.
    """
    return RootSource(path) if midas_suffix(path) is None else MidasSource(path, banks)
