"""MIDAS files that are foreign, cut, damaged or hostile: events, then one clear sentence."""

from __future__ import annotations

import gzip
import os
import random
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lz4.frame
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from support_midas import (
    COMPRESS,
    SUFFIXES,
    bank_list,
    begin_of_run,
    boundaries,
    delivered,
    end_of_run,
    event_bytes,
    old,
    put,
    read_all,
    small_run,
)
from xec.errors import FileError
from xec.io.midas.event import MOST_BANKS, Bank
from xec.io.midas.layout import BankKind, ByteOrder
from xec.io.midas.reader import LARGEST_EVENT, FileEnd, MidasFile

RUN = small_run()
EVENTS = 7
MEGABYTE = 1 << 20
FUZZ = settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])

suffixes = st.sampled_from(SUFFIXES)


@contextmanager
def memory_below(limit: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def refused(path: Path, message: str) -> None:
    with pytest.raises(FileError, match=message) as caught:
        banks_of(path)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text


def banks_of(path: Path) -> list[list[Bank]]:
    with MidasFile(path) as file:
        return [list(event.banks()) for event in file]


def test_control_is_complete(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        events, end = read_all(put(tmp_path / f"a{suffix}", RUN))
        assert len(events) == EVENTS
        assert end.complete


def test_every_cut_gives_what_was_complete_and_tells_the_rest(tmp_path: Path) -> None:
    places = boundaries(RUN)
    assert len(places) == EVENTS + 1
    path = tmp_path / "a.mid"
    for cut in range(len(RUN)):
        events, end = read_all(put(path, RUN[:cut]))
        whole = sum(place <= cut for place in places) - 1
        assert len(events) == whole
        assert end.lost == cut - places[whole]
        assert not end.complete
        assert str(path) in str(end)
        if end.lost and whole:
            assert f"its last {end.lost} bytes are lost, the {whole} events before" in str(end)


def test_a_whole_run_minus_its_last_event_is_not_taken_for_whole(tmp_path: Path) -> None:
    """Control of the above at the one kind of cut that leaves whole events only."""
    _, end = read_all(put(tmp_path / "a.mid", RUN[: boundaries(RUN)[-2]]))
    assert (end.lost, end.complete) == (0, False)
    assert "has no end of run" in str(end)


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_every_cut_of_a_compressed_file(suffix: str, tmp_path: Path) -> None:
    packed = COMPRESS[suffix](RUN)
    path = tmp_path / f"a{suffix}"
    for cut in range(len(packed)):
        path.write_bytes(packed[:cut])
        events, end = read_all(old(path))
        assert not end.complete
        assert b"".join(bytes(event.data) for event in events) == b"".join(
            RUN[first + 16 : last]
            for first, last in list(zip(boundaries(RUN), boundaries(RUN)[1:], strict=False))[
                : len(events)
            ]
        )


def test_most_of_a_long_cut_file_is_there(tmp_path: Path) -> None:
    """An event is lost only where its own bytes, or its block of compression, are."""
    noise = random.Random(1)
    data = [bank_list(b"", 0x31) + noise.randbytes(0) for _ in range(3)]
    raw = begin_of_run(1) + b"".join(
        event_bytes(1, n, data[0]) + event_bytes(0x8002, 0, noise.randbytes(5000))
        for n in range(400)
    )
    packed = COMPRESS[".mid.lz4"](raw)
    path = tmp_path / "a.mid.lz4"
    path.write_bytes(packed[: len(packed) * 3 // 4])
    events, end = read_all(old(path))
    assert len(events) > 0.7 * 801
    assert end.within_member


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    refused(tmp_path / "absent.mid", "does not exist")
    (tmp_path / "folder.mid").mkdir()
    refused(tmp_path / "folder.mid", "is no regular file")
    os.mkfifo(tmp_path / "pipe.mid")
    refused(tmp_path / "pipe.mid", "is no regular file")
    refused(put(tmp_path / "text.mid", b"run 407 was taken by the night shift\n"), "is not a MIDAS")
    refused(put(tmp_path / "short.mid", b"PK"), "is not a MIDAS file")
    refused(put(tmp_path / "zeros.mid", bytes(500)), "is not a MIDAS file")
    refused(put(tmp_path / "root.mid", b"root" + bytes.fromhex("0000f1d9") * 30), "is not a MIDAS")
    (tmp_path / "a.root").write_bytes(RUN)
    refused(tmp_path / "a.root", r"is not named like a MIDAS file, which ends in one of \.mid")


def test_a_root_file_is_no_midas_file(tmp_path: Path) -> None:
    import uproot

    with uproot.recreate(tmp_path / "a.root") as file:
        file["note"] = "text"
    (tmp_path / "a.root").rename(tmp_path / "a.mid")
    refused(tmp_path / "a.mid", "is not a MIDAS file")


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_a_compression_that_the_name_does_not_tell(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(RUN)
    refused(path, "is not compressed as its name says")
    other = next(each for each in SUFFIXES[1:] if each != suffix)
    path.write_bytes(COMPRESS[other](RUN))
    refused(path, "is not compressed as its name says")


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_what_follows_the_compression(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(COMPRESS[suffix](RUN) + b"and more")
    events, error = delivered(old(path))
    assert len(events) == EVENTS
    assert "is damaged: not all of it is compressed" in str(error)


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_a_changed_byte_of_compressed_events_is_noticed(suffix: str, tmp_path: Path) -> None:
    noise = random.Random(3).randbytes(20_000)
    raw = begin_of_run(1) + event_bytes(0x8002, 0, noise) + end_of_run(1)
    packed = bytearray(COMPRESS[suffix](raw))
    if suffix == ".mid.lz4":
        packed = bytearray(lz4.frame.compress(raw, content_checksum=True))
    packed[len(packed) // 2] ^= 1
    path = tmp_path / f"a{suffix}"
    path.write_bytes(packed)
    refused(path, "is damaged near its byte .* cannot be decompressed")


@pytest.mark.parametrize(
    ("event_id", "mask"), [(0x8003, 0), (0x9000, 0), (0xFFFF, 0), (0x8000, 0), (0x8001, 0x494C)]
)
def test_unknown_event_ids(event_id: int, mask: int, tmp_path: Path) -> None:
    raw = begin_of_run(1) + event_bytes(event_id, 5, b"", mask=mask) + end_of_run(1)
    events, error = delivered(put(tmp_path / "a.mid", raw))
    assert len(events) == 1
    assert "is damaged at byte 23, after 1 events: no event begins there" in str(error)


def test_zeros_where_a_disk_was_lost(tmp_path: Path) -> None:
    events, error = delivered(put(tmp_path / "a.mid", RUN + bytes(4096)))
    assert len(events) == EVENTS
    assert f"is damaged at byte {len(RUN)}" in str(error)


def test_a_size_beyond_the_limit(tmp_path: Path) -> None:
    header = event_bytes(1, 9, b"")[:12] + (LARGEST_EVENT + 1).to_bytes(4, "little")
    path = put(tmp_path / "a.mid", begin_of_run(1) + header + bytes(100))
    refused(
        path, f"event 9 of id 1 at byte 23 announces {LARGEST_EVENT + 1} bytes, above the limit"
    )
    small = put(tmp_path / "b.mid", RUN)
    with (
        pytest.raises(FileError, match="above the limit of 40"),
        MidasFile(small, largest_event=40) as file,
    ):
        list(file)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"1234567", "its 7 bytes are too few for a list of banks"),
        (bank_list(b"", 0x21), "not a list of banks"),
        (bank_list(b"", 0x51), "not a list of banks"),
        (bank_list(b"")[:4] + b"\xff" * 4, "not a list of banks"),
        (b"\x09\0\0\0\x31\0\0\0" + bytes(8), "its banks take 17 bytes, but its header says 16"),
        (bank_list(b"") + bytes(8), "its banks take 8 bytes, but its header says 16"),
        (bank_list(b"DATA\4\0\0\0"), "8 bytes follow its last bank"),
        (bank_list(b"DA\nA" + bytes(12)), r"a bank is named b'DA\\nA'"),
        (bank_list(bytes(16)), "a bank is named"),
        (
            bank_list(b"DATA\4\0\0\0\x09\0\0\0\0\0\0\0" + bytes(8)),
            "its bank DATA announces 9 bytes where 8 are left",
        ),
        (
            bank_list(b"DATA\4\0\0\0\xff\xff\xff\xff\0\0\0\0" + bytes(8)),
            "its bank DATA announces 4294967295 bytes where 8 are left",
        ),
    ],
)
def test_damaged_lists_of_banks(data: bytes, message: str, tmp_path: Path) -> None:
    path = put(tmp_path / "a.mid", begin_of_run(1) + event_bytes(2, 5, data) + end_of_run(1))
    refused(path, message)
    refused(path, "event 5 of id 2 at byte 23: ")


def test_events_that_nobody_looks_into_do_not_matter(tmp_path: Path) -> None:
    """Events of MIDAS's FIXED format hold no banks; only who asks for banks is refused."""
    path = put(tmp_path / "a.mid", begin_of_run(1) + event_bytes(2, 5, b"abc") + end_of_run(1))
    events, end = read_all(path)
    assert len(events) == 3
    assert end.complete


def test_no_event_has_endless_banks(tmp_path: Path) -> None:
    bank = b"DATA" + bytes(4)
    for count, good in ((MOST_BANKS, True), (MOST_BANKS + 1, False)):
        raw = begin_of_run(1) + event_bytes(1, 5, bank_list(bank * count, 0x01)) + end_of_run(1)
        path = put(tmp_path / "a.mid", raw)
        if good:
            assert len(list(read_all(path)[0][1].banks())) == count
        else:
            refused(path, f"it lists more than {MOST_BANKS} banks")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_announced_sizes_take_no_memory(suffix: str, tmp_path: Path) -> None:
    header = event_bytes(1, 9, b"")[:12] + LARGEST_EVENT.to_bytes(4, "little")
    path = put(tmp_path / f"a{suffix}", begin_of_run(1) + header + bytes(100))
    with memory_below(4 * MEGABYTE):
        events, end = read_all(path)
    assert len(events) == 1
    assert end.lost == 116


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_a_bomb_is_not_unpacked_at_once(suffix: str, tmp_path: Path) -> None:
    raw = begin_of_run(1) + event_bytes(1, 5, bank_list(b"")) + bytes(64 * MEGABYTE)
    path = put(tmp_path / f"a{suffix}", raw)
    assert path.stat().st_size < MEGABYTE
    with memory_below(8 * MEGABYTE):
        events, error = delivered(path)
    assert len(events) == 2
    assert "no event begins there" in str(error)


def test_the_measure_of_memory_can_tell(tmp_path: Path) -> None:
    """Control: who does unpack the bomb at once is noticed."""
    packed = gzip.compress(bytes(64 * MEGABYTE))
    with pytest.raises(AssertionError), memory_below(8 * MEGABYTE):
        gzip.decompress(packed)


def test_tiny_pieces_take_no_memory(tmp_path: Path) -> None:
    """An event of many members of one byte each must not be held as many objects."""
    size = 100_000
    header = event_bytes(0x8002, 0, b"")[:12] + size.to_bytes(4, "little")
    path = tmp_path / "a.mid.gz"
    path.write_bytes(gzip.compress(begin_of_run(1) + header) + gzip.compress(b"x") * size)
    with memory_below(4 * MEGABYTE):
        events, _ = read_all(old(path))
    assert len(events) == 2
    assert bytes(events[1].data) == b"x" * size


def check(path: Path) -> tuple[int, FileEnd | FileError]:
    """Every outcome is events and then an end or one sentence, in little memory."""
    with memory_below(8 * MEGABYTE):
        events, outcome = delivered(path)
    if isinstance(outcome, FileError):
        text = str(outcome)
        assert str(path) in text
        assert "\n" not in text
    else:
        assert outcome.events == len(events)
    return len(events), outcome


@FUZZ
@given(content=st.binary(max_size=300), suffix=suffixes, packed=st.booleans())
@example(content=b"", suffix=".mid", packed=False)
@example(content=bytes.fromhex("00804d49"), suffix=".mid", packed=False)
def test_any_bytes(content: bytes, suffix: str, packed: bool, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(COMPRESS[suffix](content) if packed else content)
    check(old(path))


@FUZZ
@given(tail=st.binary(max_size=200), suffix=suffixes)
def test_any_bytes_after_a_begin_of_run(tail: bytes, suffix: str, tmp_path: Path) -> None:
    count, _ = check(put(tmp_path / f"a{suffix}", begin_of_run(1) + tail))
    assert count >= 1


@FUZZ
@given(data=st.binary(max_size=100), flags=st.sampled_from([0x01, 0x11, 0x31, 0x10, 0x1000000]))
def test_any_banks(data: bytes, flags: int, tmp_path: Path) -> None:
    raw = begin_of_run(1) + event_bytes(1, 5, bank_list(data, flags)) + end_of_run(1)
    count, _ = check(put(tmp_path / "a.mid", raw))
    assert count in (1, 3)


@FUZZ
@given(
    places=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4),
    suffix=suffixes,
    before=st.booleans(),
    order=st.sampled_from(ByteOrder),
    kind=st.sampled_from(BankKind),
)
def test_altered_bytes(
    places: list[tuple[float, int]],
    suffix: str,
    before: bool,
    order: ByteOrder,
    kind: BankKind,
    tmp_path: Path,
) -> None:
    """Altered before compression or after it."""
    raw = small_run(order, kind)
    content = bytearray(raw if before else COMPRESS[suffix](raw))
    for place, value in places:
        content[int(place * (len(content) - 1))] = value
    path = tmp_path / f"a{suffix}"
    path.write_bytes(COMPRESS[suffix](bytes(content)) if before else bytes(content))
    check(old(path))


@FUZZ
@given(cut=st.floats(0, 1), suffix=suffixes, extra=st.binary(max_size=20))
def test_cut_and_something_else_behind(
    cut: float, suffix: str, extra: bytes, tmp_path: Path
) -> None:
    packed = COMPRESS[suffix](RUN)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(packed[: int(cut * len(packed))] + extra)
    check(old(path))
