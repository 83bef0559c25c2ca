"""The MIDAS format byte by byte: what we read and write against bytes written down by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from support_midas import (
    SUFFIXES,
    bank_list,
    banks_of_every_type,
    begin_of_run,
    event_bytes,
    put,
    read_all,
    small_run,
    write_banks,
)
from xec.errors import FileError
from xec.io.midas.event import Bank
from xec.io.midas.layout import ITEM, BankKind, BankType, ByteOrder, EventKind
from xec.io.midas.writer import Label, Layout, pack_banks, pack_event

LITTLE, BIG = ByteOrder.LITTLE, ByteOrder.BIG

# Event 3 of equipment 5, mask 0x0102, at 0x5F5E1000 s, of the bank DATA with the words 7, 8, 9.
BY_HAND = {
    (BankKind.BANK16, LITTLE): "05000201 03000000 00105e5f 18000000"
    "10000000 01000000 44415441 0400 0600 0700 0800 0900 0000",
    (BankKind.BANK32, LITTLE): "05000201 03000000 00105e5f 1c000000"
    "14000000 11000000 44415441 04000000 06000000 0700 0800 0900 0000",
    (BankKind.BANK32A, LITTLE): "05000201 03000000 00105e5f 20000000"
    "18000000 31000000 44415441 04000000 06000000 00000000 0700 0800 0900 0000",
    (BankKind.BANK16, BIG): "00050102 00000003 5f5e1000 00000018"
    "00000010 00000001 44415441 0004 0006 0007 0008 0009 0000",
    (BankKind.BANK32, BIG): "00050102 00000003 5f5e1000 0000001c"
    "00000014 00000011 44415441 00000004 00000006 0007 0008 0009 0000",
    (BankKind.BANK32A, BIG): "00050102 00000003 5f5e1000 00000020"
    "00000018 00000031 44415441 00000004 00000006 00000000 0007 0008 0009 0000",
}
CASES = list(BY_HAND)
IDS = [f"{kind.name}-{order.name}" for kind, order in CASES]


@pytest.mark.parametrize(("kind", "order"), CASES, ids=IDS)
def test_reading_an_event_written_down_by_hand(
    kind: BankKind, order: ByteOrder, tmp_path: Path
) -> None:
    path = put(tmp_path / "run1.mid", bytes.fromhex(BY_HAND[kind, order]))
    (event,), end = read_all(path)
    header = event.header
    assert (header.event_id, header.trigger_mask, header.serial) == (5, 0x0102, 3)
    assert (header.unix_time, event.kind) == (0x5F5E1000, EventKind.DATA)
    (bank,) = event.banks()
    assert (bank.name, bank.type) == ("DATA", BankType.WORD)
    assert bank.array().tolist() == [7, 8, 9]
    assert end.complete


@pytest.mark.parametrize(("kind", "order"), CASES, ids=IDS)
def test_writing_it_gives_these_bytes(kind: BankKind, order: ByteOrder) -> None:
    bank = Bank.of("DATA", BankType.WORD, [7, 8, 9], order)
    label = Label(3, event_id=5, trigger_mask=0x0102, unix_time=0x5F5E1000)
    raw = pack_event(label, pack_banks([bank], Layout(kind, order)), order)
    assert raw == bytes.fromhex(BY_HAND[kind, order])


def test_a_wrong_byte_order_would_be_seen() -> None:
    """Control: the hand-written bytes of both orders differ, and give other words if confused."""
    assert BY_HAND[CASES[0]] != BY_HAND[CASES[3]]
    bank = Bank("DATA", 4, memoryview(b"\x07\x00\x08\x00"), BIG)
    assert bank.array().tolist() == [0x0700, 0x0800]


@pytest.mark.parametrize(("kind", "order"), CASES, ids=IDS)
def test_a_run_by_hand(kind: BankKind, order: ByteOrder, tmp_path: Path) -> None:
    events, end = read_all(put(tmp_path / "a.mid", small_run(order, kind)))
    kinds = [event.kind for event in events]
    data = [EventKind.DATA] * 4
    assert kinds == [EventKind.BEGIN_OF_RUN, *data, EventKind.MESSAGE, EventKind.END_OF_RUN]
    assert end.complete
    assert end.ended
    assert bytes(events[0].data) == b"<odb/>\0"
    assert (events[0].text, events[5].text) == ("<odb/>", "hello")
    assert events[0].header.serial == 407
    assert list(events[0].banks()) == list(events[5].banks()) == []
    for serial, event in enumerate(events[1:5]):
        adc, temperature = event.banks()
        assert adc.array().tolist() == [serial, 2, 3]
        assert temperature.array().tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_begin_of_run_as_midas_writes_it() -> None:
    assert begin_of_run(407)[:16].hex() == "00804d49970100006300000007000000"


# Values of every numeric type whose bytes are known: minus one, or 1.5, or the largest.
BYTES_OF_ONE = {
    BankType.BYTE: ("ff", 255),
    BankType.SBYTE: ("ff", -1),
    BankType.CHAR: ("41", ord("A")),
    BankType.WORD: ("feff", 65534),
    BankType.SHORT: ("feff", -2),
    BankType.DWORD: ("feffffff", 4294967294),
    BankType.INT: ("feffffff", -2),
    BankType.BOOL: ("01000000", 1),
    BankType.FLOAT: ("0000c03f", 1.5),
    BankType.DOUBLE: ("000000000000f83f", 1.5),
    BankType.BITFIELD: ("0f000080", 0x8000000F),
    BankType.INT64: ("feffffffffffffff", -2),
    BankType.QWORD: ("feffffffffffffff", 2**64 - 2),
}


def test_every_type_with_values_is_covered() -> None:
    assert set(BYTES_OF_ONE) == set(ITEM)
    assert [int(kind) for kind in BankType] == list(range(1, 19))


@pytest.mark.parametrize("kind", BYTES_OF_ONE, ids=lambda kind: kind.name)
def test_values_of_every_type(kind: BankType) -> None:
    raw, value = bytes.fromhex(BYTES_OF_ONE[kind][0]), BYTES_OF_ONE[kind][1]
    assert Bank("ANY ", int(kind), memoryview(raw)).array().tolist() == [value]
    assert Bank("ANY ", int(kind), memoryview(raw[::-1]), BIG).array().tolist() == [value]
    assert Bank.of("ANY ", kind, [value]).data == raw
    assert Bank.of("ANY ", kind, [value], BIG).data == raw[::-1]


@pytest.mark.parametrize("kind", sorted(set(BankType) - set(ITEM)), ids=lambda kind: kind.name)
def test_types_without_values_give_bytes(kind: BankType) -> None:
    bank = Bank.of("TEXT", kind, b"abc")
    assert bank.array().tobytes() == b"abc"


def test_what_is_no_array_says_why() -> None:
    with pytest.raises(ValueError, match="unknown type 19"):
        Bank("NEW ", 19, memoryview(b"")).array()
    with pytest.raises(ValueError, match="6 bytes, no multiple of the 4 of a FLOAT"):
        Bank("FLOT", 9, memoryview(b"abcdef")).array()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("kind", "order"), CASES, ids=IDS)
def test_round_trip_of_every_type(
    kind: BankKind, order: ByteOrder, suffix: str, tmp_path: Path
) -> None:
    sent = [banks_of_every_type(order, seed) for seed in range(5)]
    path = write_banks(tmp_path / f"run00407{suffix}", sent, Layout(kind, order))
    events, end = read_all(path)
    assert end.complete
    assert len(events) == len(sent) + 2
    for event, banks in zip(events[1:-1], sent, strict=True):
        for got, bank in zip(event.banks(), banks, strict=True):
            assert (got.name, got.code, got.order) == (bank.name, bank.code, order)
            assert got.data == bank.data
            np.testing.assert_array_equal(got.array(), bank.array())


def test_arrays_are_views_of_what_was_read(tmp_path: Path) -> None:
    path = write_banks(tmp_path / "a.mid", [[Bank.of("DATA", BankType.DWORD, range(1000))]])
    events, _ = read_all(path)
    (bank,) = events[1].banks()
    array = bank.array()
    assert not array.flags.owndata
    assert not array.flags.writeable
    assert np.shares_memory(array, np.frombuffer(events[1].data, "u1"))


def test_flags_without_the_version_and_names_with_zero_bytes(tmp_path: Path) -> None:
    """Older programs leave the version out of the flags, and pad short names."""
    bank = b"AB\0\0" + (1).to_bytes(4, "little") + (1).to_bytes(4, "little") + b"x" + bytes(7)
    raw = begin_of_run(1) + event_bytes(1, 1, bank_list(bank, 0x10))
    events, _ = read_all(put(tmp_path / "a.mid", raw))
    (got,) = events[1].banks()
    assert (got.name, bytes(got.data)) == ("AB", b"x")


def test_banks_of_another_order_than_the_headers(tmp_path: Path) -> None:
    """As MIDAS: headers are swapped on a network, banks are not; their flags tell."""
    bank = b"DATA" + (4).to_bytes(4, "big") + (2).to_bytes(4, "big") + b"\x01\x02" + bytes(6)
    raw = begin_of_run(1) + event_bytes(1, 1, bank_list(bank, 0x11, ">"))
    events, _ = read_all(put(tmp_path / "a.mid", raw))
    (got,) = events[1].banks()
    assert got.array().tolist() == [0x0102]


def test_what_cannot_be_written() -> None:
    with pytest.raises(FileError, match=r"Bank LONG has 65536 bytes.*16-bit.*32-bit"):
        pack_banks([Bank.of("LONG", BankType.BYTE, bytes(65536))], Layout(BankKind.BANK16))
    for name in ("ABC", "ABCDE", "µABC"):
        with pytest.raises(FileError, match="named by four characters"):
            pack_banks([Bank.of(name, BankType.BYTE, b"")], Layout())
    with pytest.raises(FileError, match="Event -1 of id 1 cannot be written"):
        pack_event(Label(-1), b"", LITTLE)
    with pytest.raises(ValueError, match="another order"):
        pack_banks([Bank.of("DATA", BankType.WORD, [1], BIG)], Layout())
    assert len(pack_banks([Bank.of("FITS", BankType.BYTE, bytes(65535))], Layout(BankKind.BANK16)))
