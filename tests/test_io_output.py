"""Outputs are complete or absent, and never replace what is being read."""

from __future__ import annotations

import gc
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from io_samples import random_answers, random_events, write_events
from xec.errors import FileError, UsageError
from xec.io.output import refuse_same_file, replacing
from xec.io.results import open_result_writer
from xec.io.root_writer import RootEventWriter


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_name_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == {"out.bin"}


def test_a_failing_block_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")

    def interrupted() -> None:
        with replacing(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == {"out.bin"}


@pytest.mark.parametrize("place", ["pipe", "link to a device", "new file among the devices"])
def test_devices_and_pipes_stay_what_they_are(tmp_path: Path, place: str) -> None:
    path = tmp_path / "out.bin"
    if place == "pipe":
        os.mkfifo(path)
    elif place == "link to a device":
        path.symlink_to("/dev/null")
    else:
        path = Path("/dev/xec-test")
    before = path.lstat() if path.is_symlink() or path.exists() else None
    with pytest.raises(FileError, match="device or a pipe; name a file"), replacing(path):
        pytest.fail("the block is not entered")
    after = path.lstat() if path.is_symlink() or path.exists() else None
    assert (before and before.st_ino) == (after and after.st_ino)


def test_a_circle_of_links_is_no_input_and_no_defect(tmp_path: Path) -> None:
    circle = tmp_path / "circle"
    circle.symlink_to("circle")
    refuse_same_file(circle, tmp_path / "out")
    with pytest.raises(UsageError, match="the input file itself"):
        refuse_same_file(circle, circle)


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_bytes(b"precious")
    link = tmp_path / "link"
    link.symlink_to(target)
    with replacing(link) as file:
        file.write(b"new")
    assert target.read_bytes() == b"precious"
    assert not link.is_symlink()


@pytest.mark.parametrize("suffix", [".root", ".parquet"])
def test_missing_folder_and_folder_as_file(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"folder{suffix}").mkdir()
    for path, reason in {
        tmp_path / "absent" / f"a{suffix}": "the directory .*absent does not exist",
        tmp_path / f"folder{suffix}": "it is a directory",
    }.items():
        with (
            pytest.raises(FileError, match=reason),
            open_result_writer(path, source="x", synthetic=True),
        ):
            pass


def test_same_file_by_any_name_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "a.root"
    source.write_bytes(b"x")
    hard, soft = tmp_path / "hard.root", tmp_path / "soft.root"
    hard.hardlink_to(source)
    soft.symlink_to(source)
    (tmp_path / "sub").mkdir()
    for output in (source, hard, soft, tmp_path / "sub" / ".." / "a.root"):
        with pytest.raises(UsageError, match="is the input file itself"):
            refuse_same_file(source, output)
    refuse_same_file(source, tmp_path / "other.root")
    refuse_same_file(tmp_path / "absent.root", tmp_path / "other.root")


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Files of this process may not grow past `size`: the system refuses as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)


@pytest.mark.parametrize("size", [0, 100, 3000, 300_000])
@pytest.mark.parametrize("kind", ["events", "results.root", "results.parquet"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, kind: str, size: int
) -> None:
    events = random_events(40)
    answers = random_answers(events)
    limit = min(size, 20_000) if kind == "results.parquet" else size

    def write() -> None:
        if kind == "events":
            write_events(tmp_path / "a.root", events)
            return
        path = tmp_path / f"a{Path(kind).suffix}"
        with open_result_writer(path, source="x", synthetic=True) as results:
            results.write(events, answers)

    with file_size_limit(limit), pytest.raises(FileError, match="cannot be written: File too"):
        write()
    gc.collect()
    assert names(tmp_path) == set()


def test_an_error_of_the_caller_passes_unchanged(tmp_path: Path) -> None:
    """Only what the system says about our own file is our sentence."""

    def failing() -> None:
        with RootEventWriter(tmp_path / "a.root", geometry_hash="g", synthetic=True) as writer:
            writer.write(random_events(1))
            raise OSError("elsewhere")

    with pytest.raises(OSError, match="elsewhere"):
        failing()
    assert names(tmp_path) == set()
