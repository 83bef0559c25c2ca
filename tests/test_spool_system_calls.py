"""The real spool when the kernel itself refuses, or kills at, the N-th system call (strace).

Also a disk that is really full: a small tmpfs. Both are skipped where the machine has no strace, or
does not let us mount.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from spool_few import EVENTS
from spool_lives import Sink
from support_spool import SMALL, digest_of, ids, payload_of
from test_spool_offer import drain, wait_until
from xec_client.daq.spool.check import Verdict, check, read_ledger
from xec_client.daq.spool.contents import read_contents
from xec_client.daq.spool.gap_table import GapReason
from xec_client.daq.spool.ids import EventId
from xec_client.daq.spool.spool import DiskState, Spool

TESTS = Path(__file__).parent
STRACE = shutil.which("strace")
CALLS = ("pwrite64", "fsync", "rename", "unlink")  # of the spool alone; Python makes others
FAULTS = ("error=EIO", "error=ENOSPC", "signal=KILL")


def traced(folder: Path, *options: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """Run `spool_few.py` under strace: its end, and strace's log."""
    log = folder / "strace.log"
    command = [str(STRACE), "-f", "-o", str(log), *options]
    done = subprocess.run(
        [*command, sys.executable, str(TESTS / "spool_few.py"), str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    return done, log.read_text() if log.exists() else ""


def can_trace() -> bool:
    if STRACE is None:
        return False
    probe = subprocess.run(
        [STRACE, "-f", "-o", "/dev/null", "true"], check=False, capture_output=True
    )
    return probe.returncode == 0


needs_strace = pytest.mark.skipif(not can_trace(), reason="strace is missing or not allowed")


def verdict_of(folder: Path) -> Verdict:
    """Open the spool once more without faults, bring all to the sink, and check."""
    settings = replace(SMALL, handover=folder)
    offered = read_ledger(folder / "ledger") if (folder / "ledger").exists() else {}
    with Spool(folder / "spool", settings) as spool:
        # The source hands the last one over again: it does not know whether it had been done.
        for event_id in list(offered)[-1:]:
            spool.offer(event_id, payload_of(event_id))
            wait_until(lambda: spool.accounting().in_memory == 0)
        sink = Sink(folder / "results")
        while taken := spool.take(50, 0.05):
            sink.keep(taken)
            spool.acknowledge(spooled.id for spooled in taken)
        assert spool.accounting().unaccounted == 0
    os.close(sink.fd)
    lines = (folder / "results").read_text().splitlines()
    results = [(EventId(int(r), int(e)), digest) for r, e, digest in map(str.split, lines)]
    return check(offered, results, read_contents(folder / "spool"))


def one(folder: Path, call: str, fault: str, number: int) -> bool:
    """One run with the fault at call `number`; False: there are not so many calls."""
    folder.mkdir()
    done, log = traced(folder, "-e", f"trace={call}", "-e", f"inject={call}:{fault}:when={number}")
    hit = "INJECTED" in log or "killed by SIGKILL" in log
    killed = fault.startswith("signal") and hit
    assert killed or done.returncode == 0, done.stderr
    assert killed or re.match(r"done|refused The spool .* cannot be opened: ", done.stdout)
    verdict = verdict_of(folder)
    assert verdict.is_clean, (call, fault, number, str(verdict))
    if not hit:
        assert verdict.offered == len(EVENTS)
    return hit


@needs_strace
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("call", "number"), [("pwrite64", 3), ("fsync", 4), ("rename", 2)])
def test_a_fault_of_the_kernel_loses_nothing(
    tmp_path: Path, call: str, fault: str, number: int
) -> None:
    assert one(tmp_path / "x", call, fault, number)


@needs_strace
@pytest.mark.faults
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("call", CALLS)
def test_a_fault_of_the_kernel_at_any_call_loses_nothing(
    tmp_path: Path, call: str, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    number = 1
    while one(tmp_path / str(number), call, fault, number):
        number += 1
    with capsys.disabled():
        where = f"each of {number - 1} calls of {call}, counted per thread"
        sys.stdout.write(f"\nspool: {fault} at {where}: 0 with loss\n")
    assert number > 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "none", str(place)]
    if (
        not shutil.which("mount")
        or subprocess.run(mount, check=False, capture_output=True).returncode
    ):
        pytest.skip("a small tmpfs cannot be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_loses_nothing_without_record(small_disk: Path, tmp_path: Path) -> None:
    """The spool's own bound is far above the disk's."""
    settings = replace(SMALL, max_bytes=1 << 30, segment_bytes=64 << 10, handover=tmp_path)
    offered, results = {}, []
    with Spool(small_disk / "spool", settings) as spool:
        for event_id in ids(900):
            payload = payload_of(event_id, least=1000)
            offered[event_id] = digest_of(payload)
            if spool.offer(event_id, payload) is not None:
                wait_until(lambda: spool.disk is DiskState.FULL or not spool.accounting().in_memory)
            if event_id.event == 700:
                assert spool.accounting().gaps[GapReason.SPOOL_FULL] > 0
                results += [(s.id, digest_of(s.payload)) for s in drain(spool)]
        results += [(s.id, digest_of(s.payload)) for s in drain(spool)]
        assert spool.accounting().unaccounted == 0
    verdict = check(offered, results, read_contents(small_disk / "spool"))
    assert verdict.is_clean, verdict
    assert verdict.gap > 0
    # After room was made the spool went on.
    assert max(event_id for event_id, _ in results) == EventId(7, 900)


def test_a_spool_opens_on_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    settings = replace(SMALL, max_bytes=1 << 30, segment_bytes=64 << 10, handover=tmp_path)
    with Spool(small_disk / "spool", settings) as spool:
        while spool.disk is not DiskState.FULL:
            spool.offer(EventId(1, 1), bytes(5000))
        kept = spool.watermarks.accepted
    with (small_disk / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while filler.write(bytes(100)):
            pass
    with Spool(small_disk / "spool", settings) as spool:
        assert len(drain(spool)) == kept
