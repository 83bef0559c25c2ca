"""MIDAS files as the logger of an experiment writes them, for tests and simulated runs."""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from xec.errors import FileError, UsageError
from xec.io.midas.compression import Compression, midas_suffix
from xec.io.midas.event import Bank
from xec.io.midas.layout import (
    BANK_LIST_HEADER,
    EVENT_HEADER,
    LARGEST_NUMBER,
    LAST_EQUIPMENT_ID,
    RUN_MAGIC,
    BankKind,
    ByteOrder,
    EventKind,
    padded,
)
from xec.io.midas.runs import subrun_path
from xec.io.output import replacing, writing


@dataclass(frozen=True, slots=True)
class Layout:
    """How events are laid out: headers of banks and order of bytes."""

    kind: BankKind = BankKind.BANK32A
    order: ByteOrder = ByteOrder.LITTLE


@dataclass(frozen=True, slots=True)
class Label:
    """The header of an event of an equipment.

    Args:
        serial: its number.
        event_id: number of its equipment.
        trigger_mask: any 16 bits.
        unix_time: seconds since 1970; None for now.
    """

    serial: int
    event_id: int = 1
    trigger_mask: int = 0
    unix_time: int | None = None


def pack_event(label: Label, data: bytes, order: ByteOrder) -> bytes:
    """Header and data of an event.

    Raises:
        FileError: a number does not fit its field.
    """
    moment = int(time.time()) if label.unix_time is None else label.unix_time
    numbers = (label.event_id, label.trigger_mask, label.serial, moment, len(data))
    try:
        return struct.pack(order.value + EVENT_HEADER, *numbers) + data
    except struct.error as error:
        raise FileError(
            f"Event {label.serial} of id {label.event_id} cannot be written to a MIDAS file: "
            f"serial and time are between 0 and {LARGEST_NUMBER}, id and mask below 65536."
        ) from error


def pack_banks(banks: Sequence[Bank], layout: Layout) -> bytes:
    """The list of banks of an event.

    Raises:
        ValueError: a bank has another order of bytes than the layout.
        FileError: a name is not four characters, or a bank is larger than its kind allows.
    """
    order, kind = layout.order.value, layout.kind
    parts: list[bytes | memoryview] = []
    for bank in banks:
        if bank.order is not layout.order:
            raise ValueError(f"bank {bank.name} has another order of bytes than the file")
        name = bank.name.encode("ascii", "replace")
        if len(name) != 4 or not bank.name.isascii():
            raise FileError(f"A bank is named by four characters, not {bank.name!r}.")
        size = len(bank.data)
        if size > kind.largest:
            raise FileError(
                f"Bank {bank.name} has {size} bytes, more than a 16-bit bank holds: write 32-bit "
                "banks."
            )
        reserved = (0,) if kind is BankKind.BANK32A else ()
        parts += [struct.pack(order + kind.header, name, bank.code, size, *reserved), bank.data]
        parts.append(bytes(padded(size) - size))
    body = b"".join(parts)
    return struct.pack(order + BANK_LIST_HEADER, len(body), kind) + body


class MidasStream:
    """Events into one open file, as they come.

    Args:
        file: open for writing; stays open.
        run: its run number.
        compression: of the file.
        layout: of the events.
    """

    def __init__(
        self, file: BinaryIO, run: int, compression: Compression, layout: Layout | None = None
    ) -> None:
        self._file = file
        self._run = run
        self._compressor = compression.compressor()
        self._layout = layout or Layout()
        self.size = 0
        """Bytes written, before compression."""

    def begin_of_run(self, odb: bytes, unix_time: int | None = None) -> None:
        """The begin of run with a dump of the online database."""
        self._special(EventKind.BEGIN_OF_RUN, RUN_MAGIC, self._run, odb, unix_time)

    def end_of_run(self, odb: bytes, unix_time: int | None = None) -> None:
        """The end of run with a dump of the online database."""
        self._special(EventKind.END_OF_RUN, RUN_MAGIC, self._run, odb, unix_time)

    def message(self, text: str, unix_time: int | None = None) -> None:
        """A message."""
        self._special(EventKind.MESSAGE, 0, 0, text.encode() + b"\0", unix_time)

    def event(self, label: Label, banks: Sequence[Bank]) -> None:
        """An event of banks.

        Raises:
            FileError: as `pack_banks`, or the id is one of MIDAS's own.
        """
        if not 0 <= label.event_id <= LAST_EQUIPMENT_ID:
            raise FileError(
                f"The id of an event is between 0 and {LAST_EQUIPMENT_ID}, not {label.event_id}."
            )
        self._write(pack_event(label, pack_banks(banks, self._layout), self._layout.order))

    def finish(self) -> None:
        """End the compression."""
        if self._compressor is not None:
            self._file.write(self._compressor.flush())

    def _special(
        self, kind: EventKind, mask: int, serial: int, data: bytes, unix_time: int | None
    ) -> None:
        label = Label(serial, int(kind), mask, unix_time)
        self._write(pack_event(label, data, self._layout.order))

    def _write(self, raw: bytes) -> None:
        self.size += len(raw)
        self._file.write(raw if self._compressor is None else self._compressor.compress(raw))


class MidasWriter:
    """Writes a run, from its begin to its end; a context manager.

    Each file appears complete: that of a run when the block succeeds, each subrun when it is full.

    Args:
        path: the file, ``run00407.mid.lz4`` for instance; its suffix names the compression.
        run: its number.
        layout: of the events.
        odb: dump of the online database, for begin and end of run.
        subrun_bytes: begin another file ``run00407sub0001.mid.lz4`` once one holds as many,
            before compression; None for one file, named as `path` says.

    Raises:
        UsageError: the name is not one of MIDAS, or the run number is none.
        FileError: a file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        run: int,
        *,
        layout: Layout | None = None,
        odb: bytes = b"",
        subrun_bytes: int | None = None,
    ) -> None:
        compression = midas_suffix(path)
        if compression is None:
            raise UsageError(f"{path} is not named like a MIDAS file, such as run00407.mid.lz4.")
        if not 0 <= run <= LARGEST_NUMBER:
            raise UsageError(f"A run number is between 0 and {LARGEST_NUMBER}, not {run}.")
        self._path, self._run, self._odb = path, run, odb
        self._compression, self._layout = compression, layout
        self._subrun_bytes = subrun_bytes
        self.paths: list[Path] = []
        """The files, in order."""

    def __enter__(self) -> Self:
        self._begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._file.__exit__(kind, error, trace)
        else:
            self._end()

    def write(self, label: Label, banks: Sequence[Bank]) -> None:
        """Append an event.

        Raises:
            FileError: as `MidasStream.event`, or the disk is full.
        """
        full = self._subrun_bytes is not None and self._stream.size >= self._subrun_bytes
        if full:
            self._end()
            self._begin()
        with writing(self.paths[-1]):
            self._stream.event(label, banks)

    def message(self, text: str) -> None:
        """Append a message."""
        with writing(self.paths[-1]):
            self._stream.message(text)

    def _begin(self) -> None:
        path = self._path
        if self._subrun_bytes is not None:
            path = subrun_path(path, len(self.paths))
        self._file: AbstractContextManager[BinaryIO] = replacing(path)
        file = self._file.__enter__()
        self.paths.append(path)
        self._stream = MidasStream(file, self._run, self._compression, self._layout)
        with writing(path):
            self._stream.begin_of_run(self._odb)

    def _end(self) -> None:
        with writing(self.paths[-1]):
            self._stream.end_of_run(self._odb)
            self._stream.finish()
        self._file.__exit__(None, None, None)
