"""One MIDAS event and its banks, as views of the bytes of the file."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xec.errors import FileError
from xec.io.midas.layout import (
    BANK_LIST_HEADER,
    BANK_LIST_HEADER_BYTES,
    EVENT_HEADER,
    ITEM,
    LAST_EQUIPMENT_ID,
    RUN_MAGIC,
    VERSION_FLAG,
    BankKind,
    BankType,
    ByteOrder,
    EventKind,
    padded,
)

MOST_BANKS: Final = 4096
"""Of one event; more are a damaged list, and would take memory out of proportion to the file."""

_BYTE: Final = np.dtype("u1")
_SPECIAL: Final = {int(kind): kind for kind in EventKind if kind is not EventKind.DATA}
_KINDS: Final = {int(kind): kind for kind in BankKind}
_TYPES: Final = {int(kind): kind for kind in BankType}


@dataclass(frozen=True, slots=True)
class EventHeader:
    """The header of an event.

    Args:
        event_id: number of the equipment, or of a special event (`EventKind`).
        trigger_mask: as the frontend set it.
        serial: number of the event in its equipment; of begin and end of run the run number.
        unix_time: seconds since 1970.
        size: bytes of data that follow.
    """

    event_id: int
    trigger_mask: int
    serial: int
    unix_time: int
    size: int

    @classmethod
    def read(cls, raw: bytes | memoryview, order: ByteOrder) -> Self:
        """From its 16 bytes."""
        return cls(*struct.unpack_from(order.value + EVENT_HEADER, raw))

    @property
    def kind(self) -> EventKind:
        """What the event is."""
        return _SPECIAL.get(self.event_id, EventKind.DATA)

    @property
    def credible(self) -> bool:
        """Whether MIDAS writes such an event: its id exists, and it is not all zeros."""
        if self.event_id in (EventKind.BEGIN_OF_RUN, EventKind.END_OF_RUN):
            return self.trigger_mask == RUN_MAGIC
        return (
            self.event_id <= LAST_EQUIPMENT_ID or self.event_id == EventKind.MESSAGE
        ) and self != EventHeader(0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Bank:
    """A named array of an event.

    Args:
        name: four characters, shorter if padded with zero bytes in the file.
        code: type of the values, as in the file; see `BankType`.
        data: the values, without padding; a view of what was read.
        order: their order of bytes.
    """

    name: str
    code: int
    data: memoryview
    order: ByteOrder = ByteOrder.LITTLE

    @classmethod
    def of(
        cls,
        name: str,
        kind: BankType,
        values: ArrayLike | bytes,
        order: ByteOrder = ByteOrder.LITTLE,
    ) -> Self:
        """A bank of numbers, or of bytes as they are."""
        if not isinstance(values, bytes):
            item = np.dtype(ITEM.get(kind, "u1")).newbyteorder(order.value)
            values = np.ascontiguousarray(values, dtype=item).tobytes()
        return cls(name, int(kind), memoryview(values), order)

    @property
    def type(self) -> BankType | None:
        """Type of the values, or None for a code that is not of the format."""
        return _TYPES.get(self.code)

    def array(self) -> NDArray[Any]:
        """The values (n,) without a copy, in the byte order of the file and not writeable.

        CHAR gives uint8, BOOL gives uint32 (zero or not); strings, structures and what else has
        no values of one size give their bytes as uint8.

        Raises:
            ValueError: the type is unknown, or the data end within a value.
        """
        kind = self.type
        if kind is None:
            raise ValueError(f"is of unknown type {self.code}")
        item = _BYTE if kind not in ITEM else np.dtype(ITEM[kind]).newbyteorder(self.order.value)
        if len(self.data) % item.itemsize:
            raise ValueError(
                f"holds {len(self.data)} bytes, no multiple of the {item.itemsize} of a {kind.name}"
            )
        return np.frombuffer(self.data, item)


@dataclass(frozen=True, slots=True, eq=False)
class MidasEvent:
    """One event; its data are a view, which stays valid and keeps up to 1 MiB of the file alive.

    Args:
        header: its header.
        data: what follows the header: a list of banks, an ODB dump or a message.
        order: of bytes, in the header.
        path: file that it comes from.
        offset: of its header, in bytes after decompression.
    """

    header: EventHeader
    data: memoryview
    order: ByteOrder
    path: Path
    offset: int

    def __str__(self) -> str:
        return (
            f"{self.path}: event {self.header.serial} of id {self.header.event_id} at byte "
            f"{self.offset}"
        )

    @property
    def kind(self) -> EventKind:
        """What the event is."""
        return self.header.kind

    @property
    def text(self) -> str:
        """A message, or an ODB dump where that is text."""
        return bytes(self.data).rstrip(b"\0").decode("utf-8", "replace")

    def banks(self) -> Iterator[Bank]:
        """The banks in their order; none for begin and end of run and messages.

        Raises:
            FileError: the list of banks is damaged, or the event is not of the bank format.
        """
        if self.kind is not EventKind.DATA:
            return
        order, kind, stop = self._bank_list()
        form = struct.Struct(order.value + kind.header)
        at = BANK_LIST_HEADER_BYTES
        for _ in range(MOST_BANKS):
            if at >= stop:
                return
            if at + form.size > stop:
                raise self._damaged(f"{stop - at} bytes follow its last bank")
            raw_name, code, size = form.unpack_from(self.data, at)[:3]
            name = _name(raw_name)
            if name is None:
                raise self._damaged(f"a bank is named {raw_name!r}")
            at += form.size
            if at + size > stop:
                raise self._damaged(
                    f"its bank {name} announces {size} bytes where {stop - at} are left"
                )
            yield Bank(name, code, self.data[at : at + size], order)
            at += padded(size)
        if at < stop:
            raise self._damaged(f"it lists more than {MOST_BANKS} banks")

    def _bank_list(self) -> tuple[ByteOrder, BankKind, int]:
        """Order of bytes, kind, and where the last bank ends."""
        if len(self.data) < BANK_LIST_HEADER_BYTES:
            raise self._damaged(f"its {len(self.data)} bytes are too few for a list of banks")
        found = bank_list_header(self.data, self.order)
        if found is None:
            raise FileError(
                f"{self}: it is not a list of banks; it is of MIDAS's FIXED format, or the file is "
                "damaged there."
            )
        order, kind, size = found
        stop = BANK_LIST_HEADER_BYTES + size
        if not 0 <= len(self.data) - stop < 8:
            raise self._damaged(
                f"its banks take {stop} bytes, but its header says {len(self.data)}"
            )
        return order, kind, stop

    def _damaged(self, reason: str) -> FileError:
        return FileError(f"{self}: {reason}; the file is damaged there, copy it again.")


def _name(raw: bytes) -> str | None:
    """The name of a bank, or None where that is no name."""
    name = raw.rstrip(b"\0").decode("latin-1")
    return name if name and name.isascii() and name.isprintable() else None


def bank_list_header(
    data: bytes | memoryview, order: ByteOrder
) -> tuple[ByteOrder, BankKind, int] | None:
    """Byte order, kind and size of all banks from the first 8 bytes of an event's data.

    As in MIDAS, the flags tell the order of the banks: events that came over a network have the
    order of the machine they were made on, headers that of the machine that wrote the file.

    Args:
        data: of an event.
        order: of its header.

    Returns:
        None where the flags are of no kind of bank.
    """
    for tried in (order, order.other):
        size, flags = struct.unpack_from(tried.value + BANK_LIST_HEADER, data)
        kind = _KINDS.get(flags | VERSION_FLAG)
        if kind is not None:
            return tried, kind, size
    return None
