"""`xec reconstruct` on real files, through the command line, in both places."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import uproot

from support_client import real_server
from support_reconstruct import (
    COUNT,
    DEAD,
    Run,
    assert_same,
    command_line,
    left_behind,
    stored,
    write_events,
)
from xec.conditions.dead_list import write_dead_list
from xec.event import EventBatch
from xec.io.parquet_read import describe_results, read_results


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return command_line(monkeypatch, capsys)


@pytest.fixture
def source(tmp_path: Path, events: Callable[..., EventBatch]) -> Path:
    return write_events(tmp_path / "in.root", events(COUNT))


@pytest.fixture(scope="module")
def server(stub_repository: Path) -> Iterator[str]:
    with real_server(stub_repository) as address:
        yield address


def test_local_answers_are_those_of_the_model(
    run: Run, source: Path, stub_repository: Path, answers: Callable[..., dict], tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    outcome = run(source, "--local", "--model", stub_repository, "--out", out, "--batch-size", 16)
    assert outcome.code == 0, outcome.error
    batch = stored(source)
    expected = answers(batch)
    results = list(read_results(out))
    assert [result.event for result in results] == list(range(COUNT))
    for row, result in enumerate(results):
        np.testing.assert_allclose(result.energy.mean, expected["energy"][row], rtol=1e-4)
        np.testing.assert_array_equal(
            result.recovered.channel, np.flatnonzero(~batch.npho_valid[row])
        )
    assert f"{COUNT} in" in outcome.out
    assert "stub-1" in outcome.out
    assert describe_results(out).label.synthetic
    assert left_behind(tmp_path) == {"out.parquet"}


@pytest.mark.parametrize("listed", [False, True], ids=["marks only", "with a list"])
def test_both_places_agree_bit_by_bit(
    run: Run, source: Path, stub_repository: Path, server: str, tmp_path: Path, listed: bool
) -> None:
    here, there = tmp_path / "here.parquet", tmp_path / "there.parquet"
    extra: list[object] = []
    if listed:
        write_dead_list(tmp_path / "dead.txt", DEAD)
        extra = ["--dead-list", tmp_path / "dead.txt"]
    common = ("--batch-size", 16, *extra)
    local = run(source, "--local", "--model", stub_repository, "--out", here, *common)
    remote = run(source, "--server", server, "--out", there, *common)
    assert (local.code, remote.code) == (0, 0), local.error + remote.error
    results = list(read_results(here))
    assert_same(results, list(read_results(there)))
    listed_channels = set(DEAD.channels) if listed else set()
    assert all(listed_channels <= set(r.recovered.channel.tolist()) for r in results)


def test_the_split_does_not_matter(
    run: Run, source: Path, stub_repository: Path, tmp_path: Path
) -> None:
    results = []
    for size, in_flight in ((1, 1), (7, 3), (256, 64)):
        out = tmp_path / f"{size}.parquet"
        arguments = ("--batch-size", size, "--in-flight", in_flight, "--quiet")
        outcome = run(source, "--local", "--model", stub_repository, "--out", out, *arguments)
        assert (outcome.code, outcome.out, outcome.error) == (0, "", "")
        results.append(list(read_results(out)))
    for other in results[1:]:
        assert [r.event for r in other] == [r.event for r in results[0]]
        for one, two in zip(results[0], other, strict=True):
            np.testing.assert_allclose(one.energy.mean, two.energy.mean, rtol=1e-6)
            np.testing.assert_allclose(one.recovered.npho, two.recovered.npho, rtol=1e-6)


def test_root_output(run: Run, source: Path, server: str, tmp_path: Path) -> None:
    out, reference = tmp_path / "out.root", tmp_path / "out.parquet"
    assert run(source, "--server", server, "--out", out).code == 0
    assert run(source, "--server", server, "--out", reference).code == 0
    results, batch = list(read_results(reference)), stored(source)
    with uproot.open(out) as file:
        columns = file["tree"].arrays(library="np")
    np.testing.assert_array_equal(columns["energy"], [r.energy.mean[0] for r in results])
    for row, result in enumerate(results):
        live = batch.npho_valid[row]
        np.testing.assert_array_equal(columns["npho"][row, live], batch.npho[row, live])
        np.testing.assert_array_equal(columns["npho"][row, ~live], result.recovered.npho)


def test_the_files_own_dead_branch_counts(
    run: Run, stub_repository: Path, events: Callable[..., EventBatch], tmp_path: Path
) -> None:
    source = write_events(tmp_path / "in.root", events(3), DEAD.mask)
    out = tmp_path / "out.parquet"
    assert run(source, "--local", "--model", stub_repository, "--out", out).code == 0
    for result in read_results(out):
        assert set(DEAD.channels) <= set(result.recovered.channel.tolist())


def test_the_servers_own_list_counts(
    run: Run, source: Path, stub_repository: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    with real_server(stub_repository, DEAD) as address:
        assert run(source, "--server", address, "--out", out).code == 0
    result = next(iter(read_results(out)))
    assert set(DEAD.channels) <= set(result.recovered.channel.tolist())
    assert result.provenance.dead_list_id == DEAD.list_id


def test_tables_on_request(run: Run, source: Path, stub_repository: Path, tmp_path: Path) -> None:
    arguments = ("--local", "--model", stub_repository, "--out", tmp_path / "out.parquet")
    shown = run(source, *arguments, "--show", 2)
    assert f"Reconstructed synthetic events, 2 of {COUNT}" in shown.out
    assert "brightest" in shown.out
    assert "brightest" not in run(source, *arguments).out


def test_no_events_are_a_success(
    run: Run, stub_repository: Path, server: str, events: Callable[..., EventBatch], tmp_path: Path
) -> None:
    source = write_events(tmp_path / "in.root", events(2)[:0])
    for place in (("--local", "--model", stub_repository), ("--server", server)):
        out = tmp_path / "out.parquet"
        outcome = run(source, *place, "--out", out, "--show", 3)
        assert outcome.code == 0, outcome.error
        assert list(read_results(out)) == []
        out.unlink()


def test_help_has_an_example(run: Run) -> None:
    outcome = run("--help")
    assert outcome.code == 0
    assert "Example: xec reconstruct run00407.root" in outcome.out
