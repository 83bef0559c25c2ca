"""`xec daq` against a real server: files come out once, whatever is killed meanwhile."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from support_daq import (
    Folders,
    ended,
    events_of,
    judged,
    killed,
    ledger_of,
    midas_file,
    other_model,
    root_file,
    server_process,
    spooled,
    verdict_of,
    wait_until,
    xec,
)
from xec.event import EventBatch
from xec.io.parquet_read import describe_results
from xec_client.daq.parts import ids_in
from xec_client.daq.sink import STAGING
from xec_client.daq.spool.contents import read_contents

QUICK = ["--part-seconds", "0.3", "--report-seconds", "0.2"]


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


def test_server_and_forwarder_killed_meanwhile_and_nothing_is_missing(
    folders: Folders, stub_repository: Path, tmp_path: Path
) -> None:
    """The issue's demonstration: a replay, two kills of each, another model at the end."""
    batch = events_of(407, 240)
    source = midas_file(tmp_path / "run00407.mid.lz4", batch)
    with server_process(stub_repository) as server:
        arguments = ["daq", "--replay", source, *QUICK, *folders.arguments(server.address)]
        paced = [*arguments, "--rate", "60"]  # 4 s
        first = xec(*paced)
        wait_until(lambda: folders.parts)
        server.kill()
        assert killed(first, 0.3)  # with the server away
        second = xec(*paced)
        wait_until(lambda: spooled(folders) > 5)
        server.start(other_model(tmp_path / "other"))
        before = len(folders.parts)
        wait_until(lambda: len(folders.parts) > before)
        killed(second, 0)
        status, out, error = ended(xec(*arguments))
    assert status == 0, error
    verdict = verdict_of(folders, batch)
    assert verdict.is_clean, str(verdict)
    assert verdict.results == 240
    assert " 0 rejected, 0 damaged, 0 waiting" in out.splitlines()[-1]
    # Never two models in one part, and both are there.
    versions = [{p.model_version for p in describe_results(p).provenances} for p in folders.parts]
    assert all(len(one) == 1 for one in versions)
    assert set().union(*versions) == {"stub-1", "stub-2"}


def test_the_judge_sees_what_is_missing_doubled_or_mixed_up(
    folders: Folders, stub_repository: Path, tmp_path: Path
) -> None:
    """Control of the test above."""
    batch = events_of(3, 20)
    source = root_file(tmp_path / "in.root", batch)
    with server_process(stub_repository) as server:
        status, _, error = ended(xec("daq", "--replay", source, *folders.arguments(server.address)))
    assert status == 0, error
    results, contents = folders.results(), read_contents(folders.spool)
    ledger = ledger_of(batch)
    assert judged(ledger, results, contents).is_clean
    assert len(judged(ledger, results[1:], contents).lost) == 1
    assert len(judged(ledger, [*results, results[4]], contents).doubled) == 1
    swapped = [replace(results[0], event=1), replace(results[1], event=0), *results[2:]]
    assert len(judged(ledger, swapped, contents).altered) == 2
    assert len(judged(ledger, [*results, replace(results[0], run=9)], contents).invented) == 1


@pytest.mark.parametrize("kind", ["parquet", "root"])
def test_parts_hold_each_event_once_even_if_asked_twice(
    folders: Folders, stub_repository: Path, tmp_path: Path, kind: str
) -> None:
    batch = events_of(5, 30)
    source = root_file(tmp_path / "in.root", batch)
    with server_process(stub_repository) as server:
        arguments = ["daq", "--replay", source, "--format", kind, "--part-events", "8"]
        arguments += ["--batch-size", "1"]
        arguments += folders.arguments(server.address)
        for turn in range(2):
            status, out, error = ended(xec(*arguments))
            assert status == 0, error
            assert ("30 were known already" in out) == (turn == 1)
    ids = [event_id for path in folders.parts for event_id in ids_in(path)]
    assert [event_id.event for event_id in ids] == list(range(30))
    assert {path.suffix for path in folders.parts} == {f".{kind}"}
    assert [len(list(ids_in(path))) for path in folders.parts] == [8, 8, 8, 6]


def test_sigterm_leaves_the_rest_in_the_spool_and_says_so(folders: Folders, tmp_path: Path) -> None:
    batch = events_of(6, 25)
    source = midas_file(tmp_path / "run00006.mid", batch)
    nobody = "127.0.0.1:1"
    process = xec("daq", "--replay", source, "--grace", "0.2", *folders.arguments(nobody))
    wait_until(lambda: spooled(folders) == 25)
    process.send_signal(signal.SIGTERM)
    status, _, error = ended(process)
    assert status == 7
    sentences = [line for line in error.splitlines() if line.startswith("xec: ")]
    assert len(sentences) == 1
    assert sentences[0].startswith("xec: Stopped; 25 events stay in the spool")
    assert nobody in sentences[0]
    assert "Traceback" not in error
    assert verdict_of(folders, batch).spooled == 25


def test_what_is_left_goes_through_without_a_source(
    folders: Folders, stub_repository: Path, tmp_path: Path
) -> None:
    batch = events_of(6, 25)
    source = midas_file(tmp_path / "run00006.mid", batch)
    nobody = folders.arguments("127.0.0.1:1")
    process = xec("daq", "--replay", source, *nobody)
    wait_until(lambda: spooled(folders) == 25)
    assert killed(process, 0)
    with server_process(stub_repository) as server:
        status, out, error = ended(xec("daq", *folders.arguments(server.address)))
    assert status == 0, error
    assert "analysed 100.0 % of 25 events: 25 results in 1 parts" in out
    assert verdict_of(folders, batch).results == 25


def test_a_second_forwarder_refuses(folders: Folders, tmp_path: Path) -> None:
    source = midas_file(tmp_path / "run00006.mid", events_of(6, 3))
    first = xec("daq", "--replay", source, "--grace", "0", *folders.arguments("127.0.0.1:1"))
    try:
        wait_until((folders.out / STAGING).exists)
        second = ["daq", "--server", "127.0.0.1:1"]
        other = tmp_path / "other"
        for arguments, word in (
            (["--spool", folders.spool, "--out", other], "spool"),
            (["--spool", other, "--out", folders.out], "output folder"),
        ):
            status, _, error = ended(xec(*second, *arguments))
            assert status == 3
            assert error.startswith(f"xec: The {word} ")
            assert "is in use" in error
            assert error.count("\n") == 1
    finally:
        first.terminate()
        assert ended(first)[0] == 7


def test_a_server_that_stalls_is_noticed_and_nothing_is_missing(
    folders: Folders, stub_repository: Path, tmp_path: Path
) -> None:
    batch = events_of(4, 60)
    source = midas_file(tmp_path / "run00004.mid", batch)
    with server_process(stub_repository) as server:
        assert server.process is not None
        arguments = ["--replay", source, "--rate", "100", "--timeout", "0.3", *QUICK]
        process = xec("daq", *arguments, *folders.arguments(server.address))
        wait_until(lambda: folders.parts)
        server.process.send_signal(signal.SIGSTOP)
        assert process.stdout is not None
        try:
            wait_until(lambda: "no answer for" in process.stdout.readline())
        finally:
            server.process.send_signal(signal.SIGCONT)
        status, _, error = ended(process)
    assert status == 0, error
    verdict = verdict_of(folders, batch)
    assert (verdict.is_clean, verdict.results) == (True, 60), str(verdict)


def test_doubled_and_disordered_events_come_out_once(
    folders: Folders, stub_repository: Path, tmp_path: Path
) -> None:
    batch = events_of(4, 20)
    order = np.random.default_rng(1).permutation([*range(20), *range(0, 20, 3)])
    mixed = EventBatch(
        *(
            getattr(batch, name)[order]
            for name in ("run", "event", "npho", "time", "npho_valid", "time_valid")
        )
    )
    source = root_file(tmp_path / "in.root", mixed)
    with server_process(stub_repository) as server:
        status, out, error = ended(
            xec("daq", "--replay", source, *folders.arguments(server.address))
        )
    assert status == 0, error
    assert "7 were known already" in out
    verdict = verdict_of(folders, batch)
    assert (verdict.is_clean, verdict.results) == (True, 20), str(verdict)


def test_metrics_are_written(folders: Folders, stub_repository: Path, tmp_path: Path) -> None:
    source = root_file(tmp_path / "in.root", events_of(5, 6))
    metrics = tmp_path / "xec.prom"
    with server_process(stub_repository) as server:
        arguments = ["--replay", source, "--metrics-file", metrics, "--quiet"]
        status, out, _ = ended(xec("daq", *arguments, *folders.arguments(server.address)))
    assert (status, out) == (0, "")
    lines = metrics.read_text().splitlines()
    values = dict(line.split() for line in lines if not line.startswith("#"))
    assert values['xec_daq_events_total{state="offered"}'] == "6"
    assert values['xec_daq_events_total{state="result"}'] == "6"
    assert values["xec_daq_unaccounted"] == "0"
    assert values["xec_daq_analysed_ratio"] == "1"
    named = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    assert {name.partition("{")[0] for name in values} <= named


def test_answers_are_those_of_numpy(
    folders: Folders, stub_repository: Path, tmp_path: Path
) -> None:
    from conftest import stub_answers
    from xec.engines.base import tensors_of

    batch = events_of(5, 10)
    with server_process(stub_repository) as server:
        source = root_file(tmp_path / "in.root", batch)
        status, _, error = ended(xec("daq", "--replay", source, *folders.arguments(server.address)))
    assert status == 0, error
    expected = stub_answers(tensors_of(batch))["energy"]
    found = [one.energy.mean for one in folders.results()]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
