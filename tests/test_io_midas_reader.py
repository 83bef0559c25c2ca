"""Reading whole MIDAS files: compression, subruns, ends, files that are still being written."""

from __future__ import annotations

import os
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from support_midas import (
    COMPRESS,
    SUFFIXES,
    begin_of_run,
    end_of_run,
    event_bytes,
    old,
    put,
    read_all,
    small_run,
    write_banks,
)
from xec.errors import FileError, UsageError
from xec.io.midas.compression import Compression, midas_suffix
from xec.io.midas.event import Bank
from xec.io.midas.layout import BankType, EventKind
from xec.io.midas.reader import Follow, MidasFile
from xec.io.midas.runs import files_of_run, open_run, run_of_name, subrun_path
from xec.io.midas.stream import PIECE
from xec.io.midas.writer import Label, MidasStream, MidasWriter

SECOND = 1.0


def words(count: int, start: int = 0) -> list[Bank]:
    return [Bank.of("WORD", BankType.DWORD, range(start, start + count))]


def serials(path: Path) -> list[int]:
    events, end = read_all(path)
    assert end.complete, str(end)
    return [event.header.serial for event in events if event.kind is EventKind.DATA]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_compressed_by_the_libraries_themselves(suffix: str, tmp_path: Path) -> None:
    assert serials(put(tmp_path / f"run1{suffix}", small_run())) == [0, 1, 2, 3]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_libraries_decompress_what_we_write(suffix: str, tmp_path: Path) -> None:
    import bz2
    import gzip

    import lz4.frame

    path = write_banks(tmp_path / f"run00407{suffix}", [words(10)])
    raw = write_banks(tmp_path / "raw.mid", [words(10)]).read_bytes()
    open_with = {".mid.lz4": lz4.frame.open, ".mid.gz": gzip.open, ".mid.bz2": bz2.open}
    with open_with.get(suffix, open)(path, "rb") as file:
        plain = file.read()
    assert len(plain) == len(raw)
    assert plain[16:24] == raw[16:24]  # all but the time of writing


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
@pytest.mark.parametrize("size", [1, 7, 50, 10_000])
def test_several_members_one_after_the_other(suffix: str, size: int, tmp_path: Path) -> None:
    """pbzip2, pigz and a logger that was restarted write such files."""
    raw = small_run()
    members = [COMPRESS[suffix](raw[at : at + size]) for at in range(0, len(raw), size)]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"".join(members))
    assert serials(old(path)) == [0, 1, 2, 3]


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_an_empty_member_between(suffix: str, tmp_path: Path) -> None:
    raw = small_run()
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"".join(COMPRESS[suffix](part) for part in (b"", raw[:99], b"", raw[99:])))
    assert serials(old(path)) == [0, 1, 2, 3]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_events_of_all_sizes_around_a_piece(suffix: str, tmp_path: Path) -> None:
    """Events that end just before, at and after the border of what is held at a time."""
    sizes = [0, 1, PIECE // 4 - 20, 3, PIECE // 4, PIECE // 2 + 1, 5, PIECE, 0, 2]
    path = write_banks(tmp_path / f"a{suffix}", [words(n, n) for n in sizes])
    events, end = read_all(path)
    assert end.complete
    for event, n in zip(events[1:-1], sizes, strict=True):
        (bank,) = event.banks()
        assert len(bank.data) == 4 * n
        assert bank.array()[:3].tolist() == list(range(n, n + min(n, 3)))
        assert bank.array()[-3:].tolist() == list(range(2 * n - min(n, 3), 2 * n))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_little_that_becomes_much(suffix: str, tmp_path: Path) -> None:
    """One piece of the file holds many pieces of data."""
    data = bytes(5 * PIECE) + b"and the end"
    raw = begin_of_run(1) + event_bytes(0x8002, 0, data) + end_of_run(1)
    events, end = read_all(put(tmp_path / f"a{suffix}", raw))
    assert end.complete
    assert bytes(events[1].data) == data


def test_run_number_is_that_of_the_begin_of_run(tmp_path: Path) -> None:
    with MidasFile(put(tmp_path / "run00001.mid", small_run())) as file:
        assert file.run is None
        list(file)
        assert file.run == 407


def test_message_and_offsets(tmp_path: Path) -> None:
    raw = small_run()
    events, _ = read_all(put(tmp_path / "a.mid.lz4", raw))
    for event in events:
        at = event.offset + 16
        assert raw[at : at + event.header.size] == event.data
    assert sum(16 + event.header.size for event in events) == len(raw)


def test_without_begin_of_run_nothing_is_missed(tmp_path: Path) -> None:
    """MIDAS can be told to write no dumps; such a file has no end of run either."""
    raw = small_run()
    first = 16 + 7
    events, end = read_all(put(tmp_path / "a.mid", raw[first : -(16 + 7)]))
    assert len(events) == 5
    assert (end.begun, end.ended, end.complete) == (False, False, True)


def test_no_end_of_run_is_told(tmp_path: Path) -> None:
    _, end = read_all(put(tmp_path / "a.mid", begin_of_run(1) + event_bytes(1, 1, b"")))
    assert not end.complete
    assert str(end).endswith("a.mid has no end of run: events after its 2 may be missing.")
    whole = begin_of_run(1) + event_bytes(1, 1, b"") + end_of_run(1)
    assert read_all(put(tmp_path / "a.mid", whole))[1].complete


def test_names_tell_the_compression() -> None:
    names = {".mid": Compression.NONE, ".mid.lz4": Compression.LZ4, ".mid.gz": Compression.GZIP}
    for name, compression in names.items():
        assert midas_suffix(Path(f"run00407sub0000{name}")) is compression
    for name in ("a.root", "a.lz4", "a.mid.xz", "mid", "amid"):
        assert midas_suffix(Path(name)) is None


def test_subruns_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "run00123.mid.lz4"
    with MidasWriter(path, 123, subrun_bytes=1000) as writer:
        for serial in range(40):
            writer.write(Label(serial), words(50))
    assert len(writer.paths) == 8
    assert writer.paths[3].name == "run00123sub0003.mid.lz4"
    assert files_of_run(path) == tuple(writer.paths)
    assert [serial for each in files_of_run(path) for serial in serials(each)] == list(range(40))
    assert files_of_run(writer.paths[2]) == (writer.paths[2],)
    assert {run_of_name(each) for each in writer.paths} == {123}


def test_order_is_by_number_not_by_name(tmp_path: Path) -> None:
    run = tmp_path / "run00123.mid"
    for number in range(12):
        (tmp_path / f"run00123sub{number}.mid").touch()
    for other in ("run00124sub0.mid", "run00123sub0.mid.lz4", "run00123subX.mid"):
        (tmp_path / other).touch()
    assert [path.name for path in files_of_run(run)] == [f"run00123sub{n}.mid" for n in range(12)]


def test_a_missing_subrun_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "run00123.mid.lz4"
    for number in (0, 1, 3):
        subrun_path(run, number).touch()
    with pytest.raises(FileError, match="subrun 2 is missing, although there is subrun 3"):
        files_of_run(run)
    with pytest.raises(FileError, match="does not exist, and neither do subruns run00124sub"):
        files_of_run(tmp_path / "run00124.mid.lz4")


@pytest.mark.parametrize(
    ("name", "run"),
    [("run00407.mid", 407), ("run00407sub0001.mid.lz4", 407), ("run.mid", None), ("r7.mid", None)],
)
def test_run_of_a_name(name: str, run: int | None) -> None:
    assert run_of_name(Path(name)) == run


def test_our_writer_shows_only_complete_files(tmp_path: Path) -> None:
    path = tmp_path / "run00001.mid"
    writer = MidasWriter(path, 1)
    writer.__enter__()
    writer.write(Label(1), words(3))
    assert not path.exists()
    writer.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
    assert list(tmp_path.iterdir()) == []


def test_what_the_writer_refuses(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not named like a MIDAS file"):
        MidasWriter(tmp_path / "a.root", 1)
    with pytest.raises(UsageError, match="run number"):
        MidasWriter(tmp_path / "a.mid", 2**32)
    with MidasWriter(tmp_path / "a.mid", 1) as writer, pytest.raises(FileError, match="32768"):
        writer.write(Label(1, event_id=0x8000), [])
    with pytest.raises(FileError, match="cannot be written"), MidasWriter(tmp_path / "x/a.mid", 1):
        pass


def _peak(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("suffix", [".mid", ".mid.lz4", ".mid.gz"])
def test_memory_does_not_grow_with_the_file(suffix: str, tmp_path: Path) -> None:
    small, large = tmp_path / f"small{suffix}", tmp_path / f"large{suffix}"
    for path, count in ((small, 100), (large, 600)):
        write_banks(path, [words(10_000)] * count)

    def stream(path: Path) -> int:
        with MidasFile(path) as file:
            return sum(len(bank.array()) for event in file for bank in event.banks())

    assert (stream(small), stream(large)) == (1_000_000, 6_000_000)
    peaks = [_peak(lambda path=path: stream(path)) for path in (small, large)]
    assert peaks[1] < 1.2 * peaks[0]
    # Control: holding all events does grow, so the measure can tell.
    held = [_peak(lambda path=path: read_all(path)) for path in (small, large)]
    assert held[1] > 3 * held[0]


class GrowingFile:
    """A run that a thread writes event by event into a file that is visible from the start."""

    def __init__(self, path: Path, count: int, ends: bool = True) -> None:
        self.path, self.count, self.ends = path, count, ends
        self.thread = threading.Thread(target=self.write)

    def write(self) -> None:
        compression = midas_suffix(self.path)
        assert compression is not None
        with self.path.open("wb", buffering=0) as file:
            stream = MidasStream(file, 7, compression)
            stream.begin_of_run(b"{}")
            for serial in range(self.count):
                stream.event(Label(serial), words(2000, serial))
                time.sleep(0.002)
            if self.ends:
                stream.end_of_run(b"{}")
                stream.finish()

    def __enter__(self) -> Path:
        self.path.touch()
        self.thread.start()
        return self.path

    def __exit__(self, *_: object) -> None:
        self.thread.join()


@pytest.mark.parametrize("suffix", [".mid", ".mid.lz4", ".mid.gz"])
def test_following_a_file_to_its_end_of_run(suffix: str, tmp_path: Path) -> None:
    follow = Follow(patience=30 * SECOND, poll=0.001)
    start = time.monotonic()
    with (
        GrowingFile(tmp_path / f"a{suffix}", 100) as path,
        MidasFile(path, follow=follow) as file,
    ):
        seen = [event.header.serial for event in file if event.kind is EventKind.DATA]
    assert seen == list(range(100))
    assert file.end is not None
    assert file.end.ended
    assert file.end.lost == 0
    assert time.monotonic() - start < follow.patience  # the end of run, not patience, ended it


def test_without_following_it_is_told(tmp_path: Path) -> None:
    """Control: a file in the making, read at once, ends where it ends, and says so."""
    growing = GrowingFile(tmp_path / "a.mid", 10, ends=False)
    growing.write()
    events, end = read_all(growing.path)
    assert len(events) == 11
    assert end.still_written
    assert not end.complete
    assert "is still being written" in str(end)


def test_patience_ends_the_wait(tmp_path: Path) -> None:
    growing = GrowingFile(tmp_path / "a.mid", 20, ends=False)
    growing.write()
    start = time.monotonic()
    with MidasFile(growing.path, follow=Follow(patience=0.2, poll=0.01)) as file:
        assert len(list(file)) == 21
    assert time.monotonic() - start > 0.2
    assert file.end is not None
    assert not file.end.complete


def test_asking_to_stop_ends_the_wait(tmp_path: Path) -> None:
    path = put(tmp_path / "a.mid", begin_of_run(1))
    looks = iter([False, False, True])
    follow = Follow(patience=1000 * SECOND, poll=0.001, stopped=lambda: next(looks))
    with MidasFile(path, follow=follow) as file:
        assert len(list(file)) == 1


def test_growth_while_reading_is_noticed_without_a_clock(tmp_path: Path) -> None:
    path = put(tmp_path / "a.mid", begin_of_run(1) + event_bytes(1, 1, b""))
    with MidasFile(path) as file:
        events = iter(file)
        next(events)
        with path.open("ab") as more:
            more.write(b"\1")
        old(path)
        list(events)
    assert file.end is not None
    assert file.end.still_written


def test_a_file_that_shrinks_is_refused(tmp_path: Path) -> None:
    path = write_banks(tmp_path / "a.mid", [words(100_000)] * 10)
    with MidasFile(path) as file:
        events = iter(file)
        next(events)
        os.truncate(path, 1000)
        with pytest.raises(FileError, match="shrank while it was read"):
            list(events)


def test_following_a_run_from_subrun_to_subrun(tmp_path: Path) -> None:
    """Subruns appear while it is read; the first of them even loses its end."""
    run = tmp_path / "run00007.mid"

    def write() -> None:
        for number in range(4):
            with GrowingFile(subrun_path(run, number), 10, ends=number > 0):
                pass

    subrun_path(run, 0).touch()
    thread = threading.Thread(target=write)
    thread.start()
    ends, seen = [], []
    follow = Follow(patience=30 * SECOND, poll=0.001, stopped=lambda: not thread.is_alive())
    for file in open_run(run, follow):
        seen += [event.header.serial for event in file if event.kind is EventKind.DATA]
        ends.append(file.end)
    thread.join()
    assert seen == list(range(10)) * 4
    assert [end.ended for end in ends if end is not None] == [False, True, True, True]


@pytest.mark.parametrize("numbers", [{"patience": 0.0}, {"poll": 0.0}, {"patience": float("nan")}])
def test_following_needs_times(numbers: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="patience"):
        Follow(**numbers)
