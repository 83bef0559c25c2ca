"""The output folder of a forwarder: parts complete or absent, each event once, one model each."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conftest import random_events
from support_client import answer_to
from xec.errors import FileError, UsageError
from xec.event import Event
from xec.io.parquet_read import describe_results
from xec.wire.codec import event_to_proto, reconstruction_from_proto
from xec_client.daq.parts import ids_in, parts_in
from xec_client.daq.sink import STAGING, Answered, PartSink, SinkSettings
from xec_client.daq.spool import EventId


def answered(event: Event, version: str = "1") -> Answered:
    answer = reconstruction_from_proto(answer_to(event_to_proto(event)))
    provenance = replace(answer.provenance, model_version=version)
    return Answered(event, replace(answer, provenance=provenance), True)


def some(count: int, run: int = 1, first: int = 0, version: str = "1") -> list[Answered]:
    batch = random_events(count, run)
    batch.run[:] = run
    batch.event[:] += first
    return [answered(event, version) for event in batch]


class Opened:
    """A sink and what it said to be durable."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.durable: list[EventId] = []
        self.folder = folder
        self.sink = PartSink(folder, SinkSettings(**settings), self.note)

    def note(self, ids: Sequence[EventId]) -> None:
        # Said only of what others can read by now.
        there = {i for part in parts_in(self.folder) for i in ids_in(part.path)}
        assert set(ids) <= there
        self.durable += ids


def names(folder: Path) -> list[str]:
    return [part.path.name for part in parts_in(folder)]


def ids_of(folder: Path) -> list[EventId]:
    return [event_id for part in parts_in(folder) for event_id in ids_in(part.path)]


def test_nothing_is_durable_before_its_part_is_there(tmp_path: Path) -> None:
    opened = Opened(tmp_path)
    opened.sink.write(some(3))
    assert (opened.durable, names(tmp_path), len(opened.sink)) == ([], [], 3)
    opened.sink.publish()
    assert [event_id.event for event_id in opened.durable] == [0, 1, 2]
    assert names(tmp_path) == ["run00001-000001.parquet"]
    assert describe_results(tmp_path / names(tmp_path)[0]).label.synthetic
    opened.sink.close()


@pytest.mark.parametrize("kind", ["parquet", "root"])
def test_runs_and_models_are_not_mixed(tmp_path: Path, kind: str) -> None:
    opened = Opened(tmp_path, kind=kind)
    opened.sink.write([*some(2), *some(2, first=2, version="2"), *some(2, run=7)])
    opened.sink.publish()
    expected = [f"run00001-000001.{kind}", f"run00001-000002.{kind}", f"run00007-000003.{kind}"]
    assert names(tmp_path) == expected
    assert len(ids_of(tmp_path)) == 6
    opened.sink.close()


def test_an_event_comes_once_also_after_a_restart(tmp_path: Path) -> None:
    opened = Opened(tmp_path, part_events=4)
    opened.sink.write([*some(3), *some(3)])
    opened.sink.write(some(2))
    opened.sink.publish()
    opened.sink.close()
    again = Opened(tmp_path)
    assert EventId(1, 2) in again.sink.durable
    again.sink.write(some(5))
    again.sink.publish()
    again.sink.close()
    assert [event_id.event for event_id in ids_of(tmp_path)] == [0, 1, 2, 3, 4]
    assert names(tmp_path) == ["run00001-000001.parquet", "run00001-000002.parquet"]


def test_without_the_seen_ids_it_would_come_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control of the test above."""
    monkeypatch.setattr("xec_client.daq.sink.SeenIds.__contains__", lambda *_: False)
    opened = Opened(tmp_path)
    for _ in range(2):
        opened.sink.write(some(2))
        opened.sink.publish()
    opened.sink.close()
    assert len(ids_of(tmp_path)) == 4


def test_what_a_killed_process_was_writing_is_removed(tmp_path: Path) -> None:
    staging = tmp_path / STAGING
    staging.mkdir()
    (staging / ".run00001-000001.parquet.abcd.part").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    opened = Opened(tmp_path)
    assert list(staging.iterdir()) == []
    opened.sink.close()
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", "owner.lock"}


def test_a_part_never_replaces_another(tmp_path: Path) -> None:
    opened = Opened(tmp_path)
    opened.sink.write(some(1))
    foreign = tmp_path / "run00001-000001.parquet"
    foreign.write_bytes(b"of somebody else")
    with pytest.raises(FileError, match="File exists"):
        opened.sink.publish()
    assert foreign.read_bytes() == b"of somebody else"
    assert opened.durable == []
    opened.sink.close()


@pytest.mark.parametrize(
    ("call", "number"), [("os.link", 1), ("os.fsync", 1), ("os.fsync", 2), ("os.fsync", 3)]
)
def test_a_disk_that_refuses_leaves_no_part_and_claims_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    """The N-th call is refused: of the content's sync, the staging folder's, and the folder's."""
    opened = Opened(tmp_path)
    opened.sink.write(some(2))
    real = getattr(os, call.removeprefix("os."))
    calls: list[Any] = []

    def refuse(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == number:
            raise OSError(errno.EIO, "Input/output error")
        real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(f"xec_client.daq.sink.{call}", refuse)
        with pytest.raises(FileError, match="Input/output error"):
            opened.sink.publish()
    assert len(calls) == number
    assert (opened.durable, names(tmp_path), len(opened.sink)) == ([], [], 0)
    opened.sink.write(some(2))
    opened.sink.publish()
    assert len(opened.durable) == 2
    opened.sink.close()


def test_the_folder_is_synced_before_anything_is_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    real_link, real_fsync = os.link, os.fsync

    def link(source: Any, target: Any) -> None:
        calls.append("link")
        real_link(source, target)

    def fsync(fd: int) -> None:
        calls.append(Path(f"/proc/self/fd/{fd}").resolve().name)
        real_fsync(fd)

    monkeypatch.setattr(os, "link", link)
    monkeypatch.setattr(os, "fsync", fsync)
    opened = Opened(tmp_path / "out")
    opened.sink.write(some(1))
    opened.sink._on_durable = lambda ids: calls.append("durable")
    opened.sink.publish()
    content, staging, *rest = calls
    assert content.startswith(".run00001-000001.parquet.")
    assert staging == STAGING
    assert rest == ["link", "out", "durable"]
    opened.sink.close()


def test_a_part_that_reads_back_otherwise_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Opened(tmp_path)
    opened.sink.write(some(2))
    with monkeypatch.context() as patched:
        patched.setattr("xec_client.daq.sink.ids_in", lambda path: iter([EventId(1, 0)]))
        with pytest.raises(FileError, match="does not hold what was written"):
            opened.sink.publish()
    assert (opened.durable, names(tmp_path)) == ([], [])
    opened.sink.close()


@pytest.mark.parametrize("name", ["run00001-000001.parquet", "run00001-000001.root"])
def test_a_damaged_part_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PAR1 root damaged")
    with pytest.raises(FileError, match=name):
        Opened(tmp_path)
    (tmp_path / name).unlink()
    Opened(tmp_path).sink.close()  # the folder is free again


def test_settings_that_make_no_sense() -> None:
    with pytest.raises(UsageError, match="parquet or root files, not csv"):
        SinkSettings(kind="csv")
    with pytest.raises(UsageError, match="positive"):
        SinkSettings(part_seconds=0)
