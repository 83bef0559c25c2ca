"""Log lines: nothing breaks them, too many are left out, and no disk or pipe fails a call."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st

from conftest import random_events
from support_server import Code, Events, Running, request
from support_small_disk import mount
from support_telemetry import Page, failing, spoiled
from xec.wire.v1.reconstruction_pb2_grpc import ReconstructionStub
from xec_server.telemetry.lines import JsonFormatter, LineCounts, LogFormat, TextFormatter, escaped
from xec_server.telemetry.log_writer import logging_to
from xec_server.telemetry.repetition import Repetition

EVIL = 'good\n2026-01-01T00:00:00.000Z ERROR xec: forged\r\x1b[2J\x00\u2028\u202e"quoted" \\n'


@contextmanager
def logged(form: LogFormat = LogFormat.TEXT, **how: Any) -> Iterator[list[str]]:
    lines: list[str] = []
    with logging_to(form, LineCounts(), lambda content: lines.append(content.decode()), **how):
        yield lines


def lines_of(lines: list[str]) -> list[str]:
    return "".join(lines).splitlines()


def record_of(message: str, **fields: object) -> logging.LogRecord:
    record = logging.LogRecord("xec", logging.INFO, "", 0, message, None, None)
    record.__dict__.update(fields)
    return record


@given(st.text(), st.text())
def test_a_message_is_one_line_whatever_it_holds(message: str, caller: str) -> None:
    record = record_of(message, caller=caller, method="/a/B", run=7)
    text = TextFormatter().format(record)
    assert text.isprintable()
    assert len(text.splitlines()) == 1
    line = JsonFormatter().format(record)
    assert line.isascii()
    assert line.isprintable()
    content = json.loads(line)
    assert (content["message"], content["run"]) == (message, 7)


def test_a_line_that_is_not_escaped_would_be_seen() -> None:
    assert len(EVIL.splitlines()) > 1
    assert len(escaped(EVIL).splitlines()) == 1
    assert escaped("a\\nb") != escaped("a\nb")  # what was escaped is told from what looks so


async def test_a_client_cannot_forge_a_line(service: Running, events: Events) -> None:
    event = next(iter(events(1)))
    with logged() as lines:
        call = service.stub.Reconstruct(request(event, model_version=EVIL[:80]))
        assert await failing(call) is Code.NOT_FOUND
    (line,) = [line for line in lines_of(lines) if "unknown_model_version" in line]
    assert "forged" in line
    assert not any(line.startswith("2026-01-01T00:00:00") for line in lines_of(lines))


def test_a_traceback_cannot_forge_a_line() -> None:
    with logged() as lines:
        try:
            raise ValueError(EVIL)
        except ValueError:
            logging.getLogger("xec").exception("failed")
    first, *rest = lines_of(lines)
    assert first.endswith("ERROR xec: failed")
    assert len(rest) >= 3
    assert all(line.startswith("    | ") for line in rest)


async def test_a_line_tells_method_reason_run_and_event(service: Running, events: Events) -> None:
    event = next(iter(events(1)))
    with logged(LogFormat.JSON) as lines:
        await service.stub.Reconstruct(request(event))
        assert await failing(service.stub.Reconstruct(request(spoiled(event))))
    (line,) = map(json.loads, lines_of(lines))  # and none of the call that went well
    assert line["level"] == "INFO"
    assert line["method"] == "/xec.v1.Reconstruction/Reconstruct"
    assert (line["code"], line["reason"]) == ("INVALID_ARGUMENT", "invalid_event")
    assert (line["run"], line["event"]) == (event.run, event.event)
    assert line["caller"].startswith("ipv4:127.0.0.1:")
    assert 0 < line["seconds"] < 60
    assert "npho" in line["message"]


async def test_calls_that_went_well_are_told_at_debug_each_of_them(
    service: Running, events: Events
) -> None:
    with logged(level=logging.DEBUG) as lines:
        for event in events(25):
            await service.stub.Reconstruct(request(event))
    assert sum("code=OK" in line for line in lines_of(lines)) == 25


async def test_a_service_of_grpc_itself_is_no_defect(service: Running) -> None:
    """The health of what is not here: NOT_FOUND by its protocol, without a reason."""
    asked = health_pb2.HealthCheckRequest(service="nobody")
    with logged(LogFormat.JSON) as lines:
        call = health_pb2_grpc.HealthStub(service.channel).Check(asked)
        assert await failing(call) is Code.NOT_FOUND
    (line,) = map(json.loads, lines_of(lines))
    assert (line["level"], line["code"]) == ("INFO", "NOT_FOUND")


async def test_what_a_thousand_calls_have_in_common_is_said_a_few_times(
    service: Running, events: Events
) -> None:
    event = spoiled(next(iter(events(1))))
    with logged() as lines:
        for _ in range(60):
            assert await failing(service.stub.Reconstruct(request(event)))
    told = [line for line in lines_of(lines) if "reason=invalid_event" in line]
    (left_out,) = [line for line in lines_of(lines) if "were left out" in line]
    assert len(told) == 10
    assert " 50 more lines" in left_out
    assert "invalid_event" in left_out


def test_repetition_begins_anew_with_each_period() -> None:
    now = 0.0
    repetition = Repetition(lines=2, period=10, clock=lambda: now)
    assert [repetition.allows("a") for _ in range(5)] == [True, True, False, False, False]
    assert repetition.allows("b")
    assert list(repetition.overdue()) == []
    now = 11.0
    assert list(repetition.overdue()) == [("a", 3)]
    assert repetition.allows("a")
    for number in range(2000):
        repetition.allows(f"kind {number}")
    assert len(repetition._kinds) < 600


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("closed")])
def test_a_sink_that_fails_is_counted_and_nothing_else(error: Exception) -> None:
    counts = LineCounts()

    def fail(content: bytes) -> None:
        raise error

    with logging_to(LogFormat.TEXT, counts, fail):
        for number in range(5):
            logging.getLogger("xec").info("line %d of %s", number, number)
    assert counts.lost == 5


def test_a_sink_that_hangs_holds_nobody_up() -> None:
    counts, release = LineCounts(), threading.Event()
    with logging_to(LogFormat.TEXT, counts, lambda content: release.wait() and None, room=16):
        for number in range(100):
            logging.getLogger(f"xec.{number}").info("line")  # kinds of their own
    # One hangs, 16 wait, the rest found no room; those that wait are lost at the end.
    assert counts.lost >= 99
    release.set()


XEC = [sys.executable, "-c", "from xec.cli import main; main()", "serve", "--sessions", "1"]


@contextmanager
def serving(
    repository: Path, tmp_path: Path, errors: IO[bytes] | None
) -> Iterator[tuple[str, Callable[[], Page]]]:
    """`xec serve` as a process whose standard error goes somewhere bad."""
    port_file = tmp_path / "ready"
    metrics = _free_port()
    options = ("--listen", "127.0.0.1:0", "--metrics", str(metrics), "--no-dead-list")
    command = [*XEC, "--model", str(repository), "--ready-file", str(port_file), *options]
    if errors is None:
        command = ["sh", "-c", 'exec "$@" 2>&-', "sh", *command]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors) as process:
        try:
            end = time.monotonic() + 60
            while not port_file.exists():
                assert process.poll() is None
                assert time.monotonic() < end
                time.sleep(0.02)

            def page() -> Page:
                url = f"http://127.0.0.1:{metrics}/metrics"
                with urllib.request.urlopen(url, timeout=30) as answer:
                    return Page(answer.read().decode())

            yield port_file.read_text().strip(), page
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()


def _free_port() -> int:
    from support_databases import free_port

    return free_port()


def fail_and_answer(address: str) -> None:
    """Calls that are logged, and one after them that is answered."""
    event = next(iter(random_events(1)))
    with grpc.insecure_channel(address) as channel:
        stub = ReconstructionStub(channel)
        for _ in range(5):
            with pytest.raises(grpc.RpcError) as caught:
                stub.Reconstruct(request(spoiled(event)), timeout=20)
            assert caught.value.code() is Code.INVALID_ARGUMENT
        assert stub.Reconstruct(request(event), timeout=20).event == event.event


def test_a_full_device_fails_no_call(stub_repository: Path, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    with (
        Path("/dev/full").open("wb") as full,
        serving(stub_repository, tmp_path, full) as (address, page),
    ):
        fail_and_answer(address)
        assert _lost(page) >= 5


@pytest.mark.faults
def test_a_pipe_that_nobody_reads_any_more_fails_no_call(
    stub_repository: Path, tmp_path: Path
) -> None:
    reading, writing = os.pipe()
    with (
        os.fdopen(writing, "wb") as pipe,
        serving(stub_repository, tmp_path, pipe) as (address, page),
    ):
        os.close(reading)
        fail_and_answer(address)
        assert _lost(page) >= 5


@pytest.mark.faults
def test_a_closed_standard_error_fails_no_call(stub_repository: Path, tmp_path: Path) -> None:
    with serving(stub_repository, tmp_path, None) as (address, page):
        fail_and_answer(address)
        assert _lost(page) >= 5


@pytest.mark.faults
def test_a_full_disk_fails_no_call_and_lines_come_back(
    stub_repository: Path, tmp_path: Path
) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=64k", "none", place):
        pytest.skip("a small tmpfs cannot be mounted here")
    try:
        filler = place / "filler"
        with (
            (place / "log").open("ab") as log,
            serving(stub_repository, tmp_path, log) as (address, page),
        ):
            assert page().sum("xec_log_lines_lost_total") == 0
            log.write(bytes(4096 - (place / "log").stat().st_size % 4096))  # to the block's end
            log.flush()
            fill(filler)
            fail_and_answer(address)
            assert _lost(page) >= 5
            filler.unlink()
        assert "stopping" in (place / "log").read_text()
    finally:
        subprocess.run(["umount", str(place)], check=True)


def fill(path: Path) -> None:
    """Take all the room of a disk."""
    with path.open("wb", 0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


def _lost(page: Callable[[], Page]) -> float:
    """Lines lost, once the thread that writes them has tried."""
    end = time.monotonic() + 60
    while (lost := page().sum("xec_log_lines_lost_total")) < 5 and time.monotonic() < end:
        time.sleep(0.05)
    return lost
