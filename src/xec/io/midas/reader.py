"""One MIDAS file as a stream of events, and how it ended."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from xec.errors import FileError, UsageError
from xec.io.midas.event import EventHeader, MidasEvent, bank_list_header
from xec.io.midas.layout import (
    BANK_LIST_HEADER_BYTES,
    EVENT_HEADER_BYTES,
    RUN_MAGIC,
    ByteOrder,
    EventKind,
)
from xec.io.midas.stream import ByteStream, Pieces

LARGEST_EVENT: Final = 64 << 20
"""Bytes; MIDAS's own default limit is 4 MiB, raw waveforms of one event are about 10 MB."""

_FIRST: Final = EVENT_HEADER_BYTES + BANK_LIST_HEADER_BYTES


@dataclass(frozen=True, slots=True)
class Follow:
    """Reading on while a file is being written.

    Args:
        patience: seconds without anything new after which the file is taken for complete.
        poll: seconds between two looks.
        stopped: asked at each look; True ends the wait.

    Raises:
        UsageError: a number makes no sense.
    """

    patience: float = 60.0
    poll: float = 0.2
    stopped: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        if not (self.patience > 0 and self.poll > 0):
            raise UsageError("Following a file needs a positive patience and a positive poll time.")


@dataclass(frozen=True, slots=True)
class FileEnd:
    """How a file ended.

    Args:
        path: the file.
        events: that were complete.
        begun: whether it holds a begin of run.
        ended: whether its last event, messages aside, is an end of run.
        lost: bytes after the last complete event, after decompression.
        within_member: whether its compression has no end.
        growing: whether it was still being written a few seconds ago.
    """

    path: Path
    events: int
    begun: bool
    ended: bool
    lost: int
    within_member: bool
    growing: bool

    @property
    def complete(self) -> bool:
        """Whether nothing shows that anything is missing.

        Files without begin of run (MIDAS told to write no ODB dump) have no end of run either: of
        those a cut just behind an event cannot be noticed, unless they are compressed.
        """
        cut = self.lost or self.within_member or self.still_written or not self.events
        return not cut and (self.ended or not self.begun)

    @property
    def still_written(self) -> bool:
        """Whether more is to be expected."""
        return self.growing and not self.ended

    def __str__(self) -> str:
        """One sentence, whatever the end was."""
        if self.still_written:
            return (
                f"{self.path} is still being written, or changed within the last seconds, and has "
                "no end of run: wait for it, or for 10 s without a change."
            )
        if self.complete:
            return f"{self.path} is complete."
        if not self.events:
            lost = "it is empty" if not self.lost else f"its {self.lost} bytes are no whole event"
            return f"{self.path} holds nothing: {lost}."
        if self.lost:
            return (
                f"{self.path} is cut within an event: its last {self.lost} bytes are lost, the "
                f"{self.events} events before them are not."
            )
        if self.within_member:
            return (
                f"{self.path} is cut: its compression has no end; the {self.events} events before "
                "the cut were read."
            )
        return f"{self.path} has no end of run: events after its {self.events} may be missing."


class MidasFile:
    """An open MIDAS file; a context manager, read once from its beginning to its end.

    Args:
        path: ends in ``.mid``, ``.mid.lz4``, ``.mid.gz`` or ``.mid.bz2``.
        largest_event: bytes; a header that announces more is damage, not a reason for memory.
        follow: wait for what is still being written; None reads what is there.

    Raises:
        FileError: the file is missing, or not named like a MIDAS file.
    """

    def __init__(
        self, path: Path | str, *, largest_event: int = LARGEST_EVENT, follow: Follow | None = None
    ) -> None:
        self.path = Path(path)
        self._largest = largest_event
        self._follow = follow
        self._pieces = Pieces(self.path)
        self._stream = ByteStream(self._pieces)
        self._offset = 0
        self._events = 0
        self._begun = self._ended = False
        self.run: int | None = None
        """Run number, once a begin of run was read."""
        self.end: FileEnd | None = None
        """How the file ended, once it did."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pieces.close()

    def __iter__(self) -> Iterator[MidasEvent]:
        """All events, special ones too; afterwards `end` tells how the file ended.

        Raises:
            FileError: the file is foreign, or damaged; events before the damage were given.
        """
        order = self._byte_order()
        while (event := self._next(order)) is not None:
            yield event
        self.end = FileEnd(
            self.path,
            self._events,
            self._begun,
            self._ended,
            self._stream.left,
            self._pieces.within_member,
            self._pieces.growing,
        )

    def _next(self, order: ByteOrder) -> MidasEvent | None:
        raw = self._wait_for(EVENT_HEADER_BYTES)
        if len(raw) < EVENT_HEADER_BYTES:
            return None
        header = EventHeader.read(raw, order)
        self._refuse(header)
        size = EVENT_HEADER_BYTES + header.size
        raw = self._wait_for(size)
        if len(raw) < size:
            return None
        self._stream.skip(size)
        event = MidasEvent(header, raw[EVENT_HEADER_BYTES:], order, self.path, self._offset)
        self._offset += size
        self._note(header)
        return event

    def _note(self, header: EventHeader) -> None:
        self._events += 1
        if header.kind is EventKind.BEGIN_OF_RUN:
            self.run, self._begun = header.serial, True
        if header.kind is not EventKind.MESSAGE:
            self._ended = header.kind is EventKind.END_OF_RUN

    def _wait_for(self, size: int) -> memoryview:
        """The next bytes without taking them; fewer where the file ends, for good if followed."""
        found = self._stream.peek(size)
        follow = self._follow
        if follow is None:
            return found
        consumed, since = self._pieces.consumed, time.monotonic()
        over = False
        while not over and len(found) < size and not (self._ended and not found):
            over = follow.stopped() or time.monotonic() - since > follow.patience
            if not over:
                time.sleep(follow.poll)
            # Also after the last wait: what came during it, and before a reason to stop, counts.
            found = self._stream.peek(size)
            if self._pieces.consumed > consumed:
                consumed, since = self._pieces.consumed, time.monotonic()
        return found

    def _refuse(self, header: EventHeader) -> None:
        if not header.credible:
            raise FileError(
                f"{self.path} is damaged at byte {self._offset}, after {self._events} events: no "
                "event begins there; copy it again."
            )
        if header.size > self._largest:
            raise FileError(
                f"{self.path}: event {header.serial} of id {header.event_id} at byte "
                f"{self._offset} announces {header.size} bytes, above the limit of "
                f"{self._largest}: the file is damaged there, copy it again."
            )

    def _byte_order(self) -> ByteOrder:
        """Order of bytes, from the first event as far as it is there.

        Raises:
            FileError: nothing of MIDAS begins like that.
        """
        for needed in (EVENT_HEADER_BYTES, _FIRST):
            head = self._wait_for(needed)
            for order in ByteOrder:
                if _begins(head, order, self._largest):
                    return order
        raise FileError(
            f"{self.path} is not a MIDAS file: it begins neither with a begin of run nor with an "
            "event of banks."
        )


def _begins(head: memoryview, order: ByteOrder, largest: int) -> bool:
    """Whether a file can begin like this: `head` are its first bytes, at most 24."""
    if len(head) < EVENT_HEADER_BYTES:
        begin = struct.pack(f"{order.value}HH", EventKind.BEGIN_OF_RUN, RUN_MAGIC)
        return head[: len(begin)] == begin[: len(head)]
    header = EventHeader.read(head, order)
    if not header.credible or header.size > largest:
        return False
    if header.kind is not EventKind.DATA:
        return True
    if len(head) < _FIRST:
        return False
    found = bank_list_header(head[EVENT_HEADER_BYTES:], order)
    return found is not None and found[2] + BANK_LIST_HEADER_BYTES <= header.size
