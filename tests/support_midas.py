"""MIDAS files for tests: bytes put together by hand after FACTS 7, and files of our writer."""

from __future__ import annotations

import bz2
import gzip
import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import lz4.frame
import numpy as np

from xec.errors import FileError
from xec.io.midas.event import Bank, MidasEvent
from xec.io.midas.layout import BankKind, BankType, ByteOrder
from xec.io.midas.reader import FileEnd, MidasFile
from xec.io.midas.writer import Label, Layout, MidasWriter

SUFFIXES = (".mid", ".mid.lz4", ".mid.gz", ".mid.bz2")
LONG_AGO = 1_600_000_000.0

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".mid": bytes,
    ".mid.lz4": lambda raw: bytes(lz4.frame.compress(raw)),
    ".mid.gz": gzip.compress,
    ".mid.bz2": bz2.compress,
}
"""By the libraries' own functions, not by ours."""


def event_bytes(
    event_id: int, serial: int, data: bytes, *, mask: int = 0, order: str = "<", moment: int = 99
) -> bytes:
    """Header and data: u16 id, u16 mask, u32 serial, u32 time, u32 size."""
    numbers = ((event_id, 2), (mask, 2), (serial, 4), (moment, 4), (len(data), 4))
    endian = "little" if order == "<" else "big"
    return b"".join(number.to_bytes(width, endian) for number, width in numbers) + data


def begin_of_run(run: int, odb: bytes = b"<odb/>\0", order: str = "<") -> bytes:
    return event_bytes(0x8000, run, odb, mask=0x494D, order=order)


def end_of_run(run: int, odb: bytes = b"<odb/>\0", order: str = "<") -> bytes:
    return event_bytes(0x8001, run, odb, mask=0x494D, order=order)


def bank_list(banks: bytes, flags: int = 0x31, order: str = "<") -> bytes:
    return struct.pack(f"{order}II", len(banks), flags) + banks


def old(path: Path) -> Path:
    """As if nobody had written it for long."""
    os.utime(path, (LONG_AGO, LONG_AGO))
    return path


def put(path: Path, raw: bytes) -> Path:
    """A file of these bytes, compressed as its name says, that nobody is writing."""
    suffix = next(suffix for suffix in reversed(SUFFIXES) if path.name.endswith(suffix))
    path.write_bytes(COMPRESS[suffix](raw))
    return old(path)


def read_all(path: Path) -> tuple[list[MidasEvent], FileEnd]:
    with MidasFile(path) as file:
        events = list(file)
    assert file.end is not None
    return events, file.end


def delivered(path: Path) -> tuple[list[MidasEvent], FileEnd | FileError]:
    """Events until the end or the error; banks are looked at, as whoever reads them does."""
    events: list[MidasEvent] = []
    try:
        with MidasFile(path) as file:
            for event in file:
                for bank in event.banks():
                    if bank.type is not None and len(bank.data) % 8 == 0:
                        bank.array()
                events.append(event)
    except FileError as error:
        return events, error
    assert file.end is not None
    return events, file.end


def small_run(
    order: ByteOrder = ByteOrder.LITTLE, kind: BankKind = BankKind.BANK32A, events: int = 4
) -> bytes:
    """A short run by hand: begin, events of two banks of odd sizes, a message, end."""
    o = order.value
    parts = [begin_of_run(407, order=o)]
    for serial in range(events):
        banks = b""
        for name, code, data in (
            (b"ADC0", 4, struct.pack(f"{o}3H", serial, 2, 3)),
            (b"TEMP", 9, struct.pack(f"{o}5f", *range(5))),
        ):
            head = struct.pack(f"{o}HH" if kind is BankKind.BANK16 else f"{o}II", code, len(data))
            reserved = bytes(4) if kind is BankKind.BANK32A else b""
            banks += name + head + reserved + data + bytes(-len(data) % 8)
        parts.append(event_bytes(1, serial, bank_list(banks, int(kind), o), order=o))
    parts += [event_bytes(0x8002, 0, b"hello\0", order=o), end_of_run(407, order=o)]
    return b"".join(parts)


def boundaries(raw: bytes) -> list[int]:
    """Where events begin and end, from the sizes alone (little endian)."""
    places = [0]
    while places[-1] < len(raw):
        size = int.from_bytes(raw[places[-1] + 12 : places[-1] + 16], "little")
        places.append(places[-1] + 16 + size)
    return places


def write_banks(
    path: Path, events: Sequence[Sequence[Bank]], layout: Layout | None = None, run: int = 407
) -> Path:
    with MidasWriter(path, run, layout=layout, odb=b"<odb/>\0") as writer:
        for serial, banks in enumerate(events):
            writer.write(Label(serial), banks)
    return path


def banks_of_every_type(order: ByteOrder, seed: int = 0) -> list[Bank]:
    """Random bytes as every type, of 0 to 7 values."""
    rng = np.random.default_rng(seed)
    return [
        Bank.of(f"T{kind:03d}", kind, rng.bytes(8 * int(rng.integers(8))), order)
        for kind in BankType
    ]
