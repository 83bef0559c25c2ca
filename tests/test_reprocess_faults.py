"""`xec reprocess` on a disk that fails, or where the process is killed, at every operation."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import support_sizes as sizes
from support_faulty_files import FaultyFiles, Killed, at, broken, no_space
from support_reprocess import contents, event_ids, parts, the_folder, write_run, wrong_with
from xec.detector.channels import N_CHANNELS
from xec.errors import IncompleteError, XecError
from xec.event import EventBatch
from xec.io.parquet_read import read_results
from xec_client.places import Backend, Embedded
from xec_client.reprocess import sink
from xec_client.reprocess.aside import aside_of, is_aside, sweep
from xec_client.reprocess.failures import OutputError
from xec_client.reprocess.files import DiskFiles, Files
from xec_client.reprocess.job import Job, reprocess
from xec_client.reprocess.local import InProcess

COUNTS = {1: 5, 2: 0}
EVENTS = Counter((1001, event) for event in range(5))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [write_run(folder, number, count) for number, count in COUNTS.items()]


@dataclass(frozen=True)
class Opened(Embedded):
    """The engine, loaded once for all calls."""

    backend: Backend | None = None

    @contextmanager
    def open(self) -> Iterator[Backend]:
        assert self.backend is not None
        yield self.backend


@pytest.fixture(scope="module")
def place(stub_repository: Path) -> Iterator[Embedded]:
    with Embedded(stub_repository, sessions=1).open() as backend:
        yield Opened(stub_repository, 1, backend)


@pytest.fixture
def job(runs: list[Path], place: Embedded, tmp_path: Path) -> Callable[..., Job]:
    def make(files: Files, **changes: Any) -> Job:
        options = {"part_events": 3, "batch_size": 4, "in_flight": 1, "files": files, **changes}
        return Job(runs, tmp_path / "out", place, **options)

    return make


def attempt(job: Job, beside: bool = True) -> XecError | Killed | None:
    """One call, as the command line makes it (or with parts in turn); what ended it."""
    try:
        reprocess(job, InProcess(job.files, beside), lambda _: None).refuse_failed()
    except (XecError, Killed) as error:
        return error
    return None


def walk(
    job: Callable[..., Job],
    out: Path,
    error: Callable[[], BaseException],
    suffix: str,
    most_wrong: int = 100,
    beside: bool = False,
    step: int = 1,
) -> tuple[int, list[str]]:
    """Put the fault at every `step`-th operation and call again without: how many, what is wrong.

    With a thread that publishes beside, the order of operations differs from call to call.
    """
    wrong: list[str] = []
    tried, number = 0, 1 - step
    reference: dict[str, str] = {}
    while True:
        number += step
        files = FaultyFiles(at(number, error), number)
        ended = attempt(job(files, suffix=suffix), beside)
        reached = number <= len(files.log)
        told = ended is not None and not isinstance(ended, IncompleteError)
        # Only the removal of what is swept anyway may fail unnoticed.
        if reached and not told and files.log[number - 1][0] != "unlink":
            wrong.append(f"{number} {files.log[number - 1]}: not told, {ended}")
        again = attempt(job(DiskFiles(), suffix=suffix))
        wrong += [f"{number}: {again}"] * (again is not None)
        wrong += [f"{number} {what}" for what in wrong_with(out, EVENTS)]
        reference = reference or contents(out)
        if contents(out) != reference:
            wrong.append(f"{number}: other content")
        shutil.rmtree(out)
        if not reached or len(wrong) >= most_wrong:
            return tried, wrong
        tried += 1


@pytest.mark.parametrize(
    ("error", "beside"), [(Killed, False), (Killed, True), (no_space, False), (no_space, True)]
)
def test_a_fault_at_any_operation_loses_and_doubles_nothing(
    job: Callable[..., Job], tmp_path: Path, error: Callable[[], BaseException], beside: bool
) -> None:
    walked, wrong = walk(job, tmp_path / "out", error, ".parquet", beside=beside)
    assert wrong == []
    assert walked > 40


@pytest.mark.faults
@pytest.mark.parametrize(
    ("suffix", "error"),
    [(".root", Killed), (".root", no_space), (".root", broken), (".parquet", broken)],
)
@pytest.mark.parametrize("beside", [False, True])
def test_a_fault_at_any_operation_of_either_kind_of_part(
    job: Callable[..., Job],
    tmp_path: Path,
    error: Callable[[], BaseException],
    beside: bool,
    suffix: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What `make test` leaves out."""
    least, step = (600, sizes.of(22, 1)) if suffix == ".root" else (40, 1)
    walked, wrong = walk(job, tmp_path / "out", error, suffix, beside=beside, step=step)
    with capsys.disabled():
        how = "beside the next part" if beside else "in turn"
        where = f"{error.__name__} at {walked} operations ({suffix}, {how})"
        sys.stdout.write(f"\nreprocess: {where}: {len(wrong)} with loss\n")
    assert wrong == []
    assert walked > least // step


def test_a_sink_that_writes_in_place_is_seen(
    job: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: parts written under their own names, with the same faults."""

    def in_place(self: sink.Sink, draft: sink.Draft) -> sink.Part:
        with draft.writing():
            draft.writer.__exit__(None, None, None)
        return self._described(draft.path, draft.path, draft.first)

    monkeypatch.setattr(sink, "aside_of", lambda path: path)
    monkeypatch.setattr(sink.Sink, "finish", in_place)
    monkeypatch.setattr(sink.Sink, "discard", lambda *_: None)
    _, wrong = walk(job, tmp_path / "out", Killed, ".parquet", most_wrong=1)
    assert any("is no whole part" in what for what in wrong)


def disorder(log: list[tuple[str, str]]) -> list[str]:
    """Where a power cut could leave a name without content, or a row without a part.

    Before a part gets its name its content is synced, after its last write; before its row is
    written, the folder is synced after the name.
    """
    wrong = []
    synced: set[str] = set()
    unsynced_names: set[str] = set()
    for operation, name in log:
        match operation:
            case "write":
                synced.discard(name)
            case "sync":
                synced.add(name)
            case "link":
                stem = f".{Path(name).stem}."
                if not any(each.startswith(stem) and is_aside(Path(each)) for each in synced):
                    wrong.append(f"{name} got its name before it was synced")
                unsynced_names.add(name)
            case "sync folder":
                unsynced_names.clear()
            case "append":
                if name in unsynced_names:
                    wrong.append("a row was written before the name was synced")
    return wrong


@pytest.mark.parametrize("beside", [False, True])
def test_parts_are_durable_before_their_names_and_rows(
    job: Callable[..., Job], beside: bool
) -> None:
    files = FaultyFiles()
    assert attempt(job(files), beside) is None
    assert Counter(operation for operation, _ in files.log)["link"] == 2 + 3
    assert disorder(files.log) == []


@pytest.mark.parametrize("missing", ["sync", "sync folder"])
def test_a_missing_sync_is_seen(job: Callable[..., Job], missing: str) -> None:
    """Control: without one kind of sync the order is not kept."""
    files = FaultyFiles()
    assert attempt(job(files)) is None
    assert disorder([entry for entry in files.log if entry[0] != missing])


def test_of_two_that_publish_the_same_part_one_wins(
    job: Callable[..., Job], tmp_path: Path, runs: list[Path]
) -> None:
    """The other one finds its own content there."""
    assert attempt(job(DiskFiles())) is None
    folder = the_folder(tmp_path / "out")
    first = parts(folder)[0]
    before = first.stat()
    part = sink.Sink(folder, DiskFiles()).publish(
        first.name, 0, filler(copy_of=first), source=runs[0].name, synthetic=True
    )
    assert part.sha256 == contents(tmp_path / "out")[first.name]
    assert first.stat().st_ino == before.st_ino
    assert wrong_with(tmp_path / "out", EVENTS) == []


def filler(copy_of: Path) -> sink.Fill:
    """Writes the results of a part once more."""
    results = list(read_results(copy_of))

    def fill(writer: Any) -> int:
        shape = (len(results), N_CHANNELS)
        batch = EventBatch(
            np.array([r.run for r in results]),
            np.array([r.event for r in results]),
            np.zeros(shape, np.float32),
            np.zeros(shape, np.float32),
            np.ones(shape, np.bool_),
            np.ones(shape, np.bool_),
        )
        writer.write(batch, results)
        return len(results)

    return fill


def test_another_content_under_the_same_name_is_refused(
    job: Callable[..., Job], tmp_path: Path, runs: list[Path]
) -> None:
    assert attempt(job(DiskFiles())) is None
    folder = the_folder(tmp_path / "out")
    first, second = parts(folder)[:2]
    with pytest.raises(OutputError, match="other content"):
        sink.Sink(folder, DiskFiles()).publish(
            first.name, 0, filler(copy_of=second), source=runs[0].name, synthetic=True
        )
    assert wrong_with(tmp_path / "out", EVENTS) == []


def test_rows_that_were_lost_on_the_way_to_the_disk_are_noticed(
    job: Callable[..., Job], tmp_path: Path, runs: list[Path]
) -> None:
    assert attempt(job(DiskFiles())) is None
    folder = the_folder(tmp_path / "out")
    fill = filler(copy_of=parts(folder)[0])
    with pytest.raises(OutputError, match="3 of 4 rows were read back"):
        sink.Sink(folder, DiskFiles()).publish(
            "new.parquet", 0, lambda writer: fill(writer) + 1, source="x", synthetic=True
        )
    assert event_ids(parts(folder)) == EVENTS


def test_what_a_killed_writer_left_is_swept_and_a_living_one_is_not(tmp_path: Path) -> None:
    files = DiskFiles()
    living, dead = aside_of(tmp_path / "a.parquet"), aside_of(tmp_path / "b.parquet")
    file = files.create(living)
    dead.write_bytes(b"half")
    (tmp_path / "c.parquet").write_bytes(b"whole")
    try:
        assert sweep(tmp_path, files) == 1
        assert living.exists()
        assert not dead.exists()
    finally:
        file.close()
    assert sweep(tmp_path, files) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["c.parquet"]
