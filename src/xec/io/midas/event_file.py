"""The events of a MIDAS run as a stream of chunks: memory does not grow with the files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from xec.errors import FileError, UsageError
from xec.io.midas.event import MidasEvent
from xec.io.midas.label import RunLabel, label_of
from xec.io.midas.layout import EventKind
from xec.io.midas.reader import MidasFile
from xec.io.midas.readings import (
    DEFAULT_BANKS,
    RawReading,
    ReadingBanks,
    find_reading,
    to_batch,
)
from xec.io.midas.runs import files_of_run, open_run, run_of_name
from xec.io.root_columns import EventChunk

DEFAULT_CHUNK: Final = 256

_MOST_NAMES: Final = 16  # of banks, in the sentence that lists them


class MidasEventFile:
    """A MIDAS run, one file or all subruns, as events; a context manager.

    The run number is that of the begin of run or, where there is none, of the file's name; event
    numbers are serials. Events without readings (scalers, slow control) are counted in `notes`.

    Args:
        path: a file, or ``run00407.mid.lz4`` for ``run00407sub0000.mid.lz4`` and the others.
        banks: where the readings are.

    Raises:
        FileError: the file is missing, foreign or empty, or a subrun is missing.
    """

    def __init__(self, path: Path | str, banks: ReadingBanks = DEFAULT_BANKS) -> None:
        self.path = Path(path)
        self._banks = banks
        self._label, self._run = _read_label(files_of_run(self.path)[0])
        self._others: Counter[int] = Counter()
        self._names: dict[str, None] = {}
        self._entries = 0
        self._ends: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing is open between chunks."""

    @property
    def synthetic(self) -> bool:
        """Whether the run is labelled synthetic, as our writer does."""
        return self._label.synthetic

    @property
    def geometry_hash(self) -> str | None:
        """Of the geometry of simulated runs; None for others."""
        return self._label.geometry_hash

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of a run that was read to its end, one sentence each."""
        others = tuple(
            f"{self.path}: {count} events of id {event_id} hold no readings and were left out."
            for event_id, count in sorted(self._others.items())
        )
        return (*self._ends, *others)

    def runs(self) -> tuple[int, ...]:
        """The one run of the file; none where nothing tells it, and so its events are refused."""
        return () if self._run is None else (self._run,)

    def chunks(self, size: int = DEFAULT_CHUNK) -> Iterator[EventChunk]:
        """All events, at most `size` at a time, of one file each; afterwards `notes` is complete.

        Raises:
            FileError: a file is damaged, still being written, or holds readings of another form;
                chunks before that were already given. Or no event at all holds readings.
            UsageError: the size is below 1.
        """
        if size < 1:
            raise UsageError("A chunk has at least one event.")
        self._others.clear()
        self._ends.clear()
        self._entries = 0
        for file in open_run(self.path):
            yield from self._chunks_of(file, size)
        self._refuse_other_banks()

    def _chunks_of(self, file: MidasFile, size: int) -> Iterator[EventChunk]:
        waiting: list[RawReading] = []
        for event in file:
            reading = self._reading(event, file.run)
            if reading is not None:
                waiting.append(reading.copied())
            if len(waiting) == size:
                yield self._chunk(file.path, waiting)
                waiting.clear()
        if waiting:
            yield self._chunk(file.path, waiting)
        assert file.end is not None
        if file.end.still_written:
            raise FileError(str(file.end))
        if not file.end.complete:
            self._ends.append(str(file.end))

    def _reading(self, event: MidasEvent, run: int | None) -> RawReading | None:
        if event.kind is not EventKind.DATA:
            return None
        run = run_of_name(event.path) if run is None else run
        if run is None:
            raise FileError(
                f"{event}: its run is not known, as there is no begin of run: name the file "
                "after it, such as run00407.mid.lz4."
            )
        reading = find_reading(event, run, self._banks)
        if reading is None:
            self._others[event.header.event_id] += 1
            self._note_names(event)
        return reading

    def _note_names(self, event: MidasEvent) -> None:
        """Names of banks, for the sentence that refuses a run without readings."""
        if self._entries == 0 and len(self._names) < _MOST_NAMES:
            self._names.update(dict.fromkeys(bank.name for bank in event.banks()))

    def _chunk(self, path: Path, readings: list[RawReading]) -> EventChunk:
        events = to_batch(readings, self._banks, str(path), self._entries)
        self._entries += len(events)
        return EventChunk(events, None, None)

    def _refuse_other_banks(self) -> None:
        if self._entries or not self._others:
            return
        names = ", ".join(list(self._names)[:_MOST_NAMES]) or "none"
        raise FileError(
            f"{self.path}: none of its {self._others.total()} events holds the banks "
            f"{self._banks.npho.name} and {self._banks.time.name}; the first banks are {names}."
        )


def _read_label(path: Path) -> tuple[RunLabel, int | None]:
    """What the begin of run says, and the run number, as far as it or the name tells."""
    with MidasFile(path) as file:
        first = next(iter(file), None)
    if first is None:
        raise FileError(str(file.end))
    begins = first.kind is EventKind.BEGIN_OF_RUN
    label = label_of(first.data) if begins else RunLabel()
    return label, run_of_name(path) if file.run is None else file.run
