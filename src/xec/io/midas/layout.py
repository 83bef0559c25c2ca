"""The MIDAS event format: sizes, numbers and type codes.

An event is a header of 16 bytes and its data. The data of most events are a list of banks: 8 bytes
(size of all banks, flags), then bank after bank, each with a header and data padded to 8 bytes.
Source: FACTS 7; MidasWiki, "Event Structure".
"""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import Final

EVENT_HEADER_BYTES: Final = 16
BANK_LIST_HEADER_BYTES: Final = 8

EVENT_HEADER: Final = "HHIII"  # id, trigger mask, serial, unix time, size of the data
BANK_LIST_HEADER: Final = "II"  # size of all banks, flags

LAST_EQUIPMENT_ID: Final = 0x7FFF
RUN_MAGIC: Final = 0x494D
"""Trigger mask of begin and end of run."""

LARGEST_NUMBER: Final = 0xFFFF_FFFF
"""Run numbers, serials, times and sizes are 32-bit."""


class ByteOrder(Enum):
    """Order of bytes, as `struct` and numpy write it; MIDAS writes that of its machine."""

    LITTLE = "<"
    BIG = ">"

    @property
    def other(self) -> ByteOrder:
        """The opposite order."""
        return ByteOrder.BIG if self is ByteOrder.LITTLE else ByteOrder.LITTLE


class EventKind(IntEnum):
    """What an event is; the values are MIDAS's own event ids."""

    DATA = 0  # of an equipment of the experiment, whatever its id
    BEGIN_OF_RUN = 0x8000
    END_OF_RUN = 0x8001
    MESSAGE = 0x8002


class BankKind(IntEnum):
    """How the headers of an event's banks look; the values are the flags that say so."""

    BANK16 = 0x01
    BANK32 = 0x11
    BANK32A = 0x31  # 32-bit, data aligned to 64 bits by a reserved word

    @property
    def header(self) -> str:
        """Type and size, and the reserved word, as `struct` writes them; 4 name bytes before."""
        return {BankKind.BANK16: "4sHH", BankKind.BANK32: "4sII", BankKind.BANK32A: "4sIII"}[self]

    @property
    def largest(self) -> int:
        """Most bytes that one bank holds."""
        return 0xFFFF if self is BankKind.BANK16 else LARGEST_NUMBER


VERSION_FLAG: Final = 0x01
"""Set by MIDAS in all flags; older programs of other origin leave it out."""


class BankType(IntEnum):
    """Type of the values of a bank, by MIDAS's names (TID_...)."""

    BYTE = 1
    SBYTE = 2
    CHAR = 3
    WORD = 4
    SHORT = 5
    DWORD = 6
    INT = 7
    BOOL = 8  # 4 bytes
    FLOAT = 9
    DOUBLE = 10
    BITFIELD = 11
    STRING = 12
    ARRAY = 13
    STRUCT = 14
    KEY = 15
    LINK = 16
    INT64 = 17
    QWORD = 18


ITEM: Final = {
    BankType.BYTE: "u1",
    BankType.SBYTE: "i1",
    BankType.CHAR: "u1",
    BankType.WORD: "u2",
    BankType.SHORT: "i2",
    BankType.DWORD: "u4",
    BankType.INT: "i4",
    BankType.BOOL: "u4",
    BankType.FLOAT: "f4",
    BankType.DOUBLE: "f8",
    BankType.BITFIELD: "u4",
    BankType.INT64: "i8",
    BankType.QWORD: "u8",
}
"""Numpy code of one value; the types that are not here have no values of one size."""


def padded(size: int) -> int:
    """Bytes that the data of a bank take, padding included."""
    return (size + 7) & ~7
