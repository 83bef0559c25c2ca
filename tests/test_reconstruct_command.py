"""`xec reconstruct` on real files, through the command line, in both places."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import uproot
from support_client import FaultyServicer, real_server, rich, serving
from xec_client import places

from xec import cli
from xec.conditions.dead_list import DeadList, write_dead_list
from xec.detector.channels import N_CHANNELS
from xec.event import EventBatch, Reconstruction
from xec.io.parquet_read import describe_results, read_results
from xec.io.root import read_events
from xec.io.root_writer import RootEventWriter
from xec.wire.v1 import reconstruction_pb2 as pb

GEOMETRY = "9" * 64  # of the stub model
COUNT = 70
DEAD = DeadList.of([5, 6, 7, 4100])


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    error: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line in this process, with `reconstruct` as its only subcommand."""
    installed = cli.entry_points

    def only_ours(**group: str) -> list[Any]:
        return [entry for entry in installed(**group) if entry.name == "reconstruct"]

    monkeypatch.setattr(cli, "entry_points", only_ours)

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["xec", "reconstruct", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


def write_events(path: Path, batch: EventBatch, dead: Any = None, geometry: str = GEOMETRY) -> Path:
    with RootEventWriter(path, geometry_hash=geometry, synthetic=True) as writer:
        writer.write(batch, dead)
    return path


@pytest.fixture
def source(tmp_path: Path, events: Callable[..., EventBatch]) -> Path:
    return write_events(tmp_path / "in.root", events(COUNT))


@pytest.fixture(scope="module")
def server(stub_repository: Path) -> Iterator[str]:
    with real_server(stub_repository) as address:
        yield address


def stored(path: Path) -> EventBatch:
    (batch,) = read_events(path)
    return batch


def assert_same(first: list[Reconstruction], second: list[Reconstruction]) -> None:
    """Bit by bit; only the id under which the dead list is recorded may differ."""
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert (one.run, one.event, one.flags) == (other.run, other.event, other.flags)
        for name in ("energy", "gamma_time", "uvw", "angle"):
            for field in ("mean", "sigma", "low", "high"):
                np.testing.assert_array_equal(
                    getattr(getattr(one, name), field), getattr(getattr(other, name), field)
                )
        for field in ("channel", "npho", "npho_sigma", "time", "time_sigma", "status"):
            np.testing.assert_array_equal(
                getattr(one.recovered, field), getattr(other.recovered, field)
            )
        assert one.provenance.model_sha256 == other.provenance.model_sha256


def left_behind(folder: Path, *known: str) -> set[str]:
    """Names in the folder, hidden ones too, beyond those known."""
    return {path.name for path in folder.iterdir()} - {"in.root", *known}


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


def assert_refused(outcome: Outcome, code: int, *words: str) -> None:
    assert outcome.code == code, outcome.error
    assert outcome.error.startswith("xec: ")
    assert outcome.error.count("\n") == 1
    for word in words:
        assert word in outcome.error


@pytest.mark.parametrize("where", [(), ("--local", "--server", "127.0.0.1:1")])
def test_one_place_exactly(run: Run, source: Path, tmp_path: Path, where: tuple[str, ...]) -> None:
    outcome = run(source, *where, "--out", tmp_path / "out.parquet")
    assert_refused(outcome, 2, "--local", "--server")


def test_the_input_is_never_overwritten(
    run: Run, source: Path, stub_repository: Path, tmp_path: Path
) -> None:
    before = source.read_bytes()
    link = tmp_path / "link.root"
    link.symlink_to(source)
    for out in (source, link):
        assert_refused(run(source, "--local", "--model", stub_repository, "--out", out), 2)
    assert source.read_bytes() == before


def test_other_kinds_of_output(
    run: Run, source: Path, stub_repository: Path, tmp_path: Path
) -> None:
    arguments = (source, "--local", "--model", stub_repository, "--out")
    assert_refused(run(*arguments, tmp_path / "out.csv"), 2, ".parquet", ".root")
    assert_refused(run(*arguments, tmp_path / "nowhere" / "out.root"), 3, "nowhere")
    assert left_behind(tmp_path) == set()


def test_bad_input_files(run: Run, source: Path, stub_repository: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    foreign, cut = tmp_path / "foreign.root", tmp_path / "cut.root"
    foreign.write_text("not a ROOT file")
    cut.write_bytes(source.read_bytes()[:-5000])
    for path in (tmp_path / "missing.root", foreign, cut):
        outcome = run(path, "--local", "--model", stub_repository, "--out", out)
        assert_refused(outcome, 3, path.name)
        assert not out.exists()


def _damage_last_basket(path: Path) -> None:
    with uproot.open(path) as file:
        branch = file["tree"]["npho"]
        key = branch.basket_key(branch.num_baskets - 1)
        start, stop = key.fSeekKey, key.fSeekKey + key.fNbytes
    content = bytearray(path.read_bytes())
    content[start:stop] = b"\xff" * (stop - start)
    path.write_bytes(content)


def test_damage_midway_leaves_nothing(
    run: Run, stub_repository: Path, events: Callable[..., EventBatch], tmp_path: Path
) -> None:
    source, out = tmp_path / "in.root", tmp_path / "out.parquet"
    with RootEventWriter(source, geometry_hash=GEOMETRY, synthetic=True) as writer:
        for _ in range(4):
            writer.write(events(20))
    _damage_last_basket(source)
    out.write_bytes(b"from before")
    outcome = run(source, "--local", "--model", stub_repository, "--out", out, "--batch-size", 8)
    assert_refused(outcome, 3, "in.root")
    assert out.read_bytes() == b"from before"
    assert left_behind(tmp_path) == {"out.parquet"}


def test_a_server_gone_midway_leaves_nothing(run: Run, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    servicer = FaultyServicer()
    # The first call asks for the model, then three batches are answered.
    servicer.script = [_stub_description] + [None] * 3
    servicer.script += [rich(grpc.StatusCode.UNAVAILABLE, "draining")] * 50
    with serving(servicer) as address:
        arguments = ("--server", address, "--batch-size", 8, "--timeout", 5)
        outcome = run(source, *arguments, "--out", out)
    assert_refused(outcome, 7, address)
    assert left_behind(tmp_path) == set()


def test_a_failure_does_not_wait_for_the_other_batches(
    run: Run, source: Path, tmp_path: Path
) -> None:
    hanging, release, finished = threading.Event(), threading.Event(), threading.Event()

    def fail_or_hang(request: Any) -> Any:
        if request.events[0].event == 0:
            assert hanging.wait(30)
        else:
            hanging.set()
            release.wait(30)
            finished.set()
        return pb.ReconstructBatchResponse()  # answers nothing: a defect

    servicer = FaultyServicer()
    servicer.script = [_stub_description, fail_or_hang, fail_or_hang]
    with serving(servicer) as address:
        outcome = run(
            source,
            *("--server", address, "--batch-size", 40, "--in-flight", 2),
            *("--out", tmp_path / "out.parquet"),
        )
        early = not finished.is_set()
        release.set()
    assert_refused(outcome, 7, "not the")
    assert early


def _stub_description(_: Any) -> Any:
    return pb.GetModelResponse(
        contract_version="1", provenance=pb.Provenance(geometry_hash=GEOMETRY)
    )


def test_no_server(run: Run, source: Path, tmp_path: Path) -> None:
    with serving(FaultyServicer()) as address:
        pass
    out = tmp_path / "out.parquet"
    outcome = run(source, "--server", address, "--out", out, "--timeout", 0.3)
    assert_refused(outcome, 7, address)
    assert left_behind(tmp_path) == set()


def test_a_server_of_another_contract(run: Run, source: Path, tmp_path: Path) -> None:
    servicer = FaultyServicer()
    servicer.script = [lambda _: pb.GetModelResponse(contract_version="77")]
    with serving(servicer) as address:
        outcome = run(source, "--server", address, "--out", tmp_path / "out.parquet")
    assert_refused(outcome, 4, "77", address)
    assert len(servicer.requests) == 1


def test_bad_models(run: Run, source: Path, stub_repository: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    missing = run(source, "--local", "--model", tmp_path / "nowhere", "--out", out)
    assert_refused(missing, 5, "nowhere")
    changed = tmp_path / "changed"
    shutil.copytree(stub_repository, changed)
    model = changed / "reconstruct" / "1" / "model.onnx"
    model.write_bytes(model.read_bytes() + b"x")
    assert_refused(run(source, "--local", "--model", changed, "--out", out), 5, "sha256")
    assert not out.exists()


def test_another_geometry(
    run: Run,
    stub_repository: Path,
    server: str,
    events: Callable[..., EventBatch],
    tmp_path: Path,
) -> None:
    source = write_events(tmp_path / "in.root", events(2), geometry="7" * 64)
    out = tmp_path / "out.parquet"
    for place in (("--local", "--model", stub_repository), ("--server", server)):
        assert_refused(run(source, *place, "--out", out), 5, "geometry")
    assert not out.exists()


def test_an_event_without_any_valid_sensor(
    run: Run,
    stub_repository: Path,
    server: str,
    events: Callable[..., EventBatch],
    tmp_path: Path,
) -> None:
    batch = events(5)
    blind = np.zeros((5, N_CHANNELS), np.bool_)
    blind[3] = True
    source = write_events(tmp_path / "in.root", batch.with_dead(blind))
    for place in (("--local", "--model", stub_repository), ("--server", server)):
        outcome = run(source, *place, "--out", tmp_path / "out.parquet")
        assert_refused(outcome, 3, "Event 3 of run 1000")
    assert left_behind(tmp_path) == set()


def test_bad_dead_lists(run: Run, source: Path, stub_repository: Path, tmp_path: Path) -> None:
    listed = tmp_path / "dead.txt"
    listed.write_text("12\n5000\n")
    for path in (listed, tmp_path / "missing.txt"):
        arguments = ("--local", "--model", stub_repository, "--dead-list", path)
        outcome = run(source, *arguments, "--out", tmp_path / "out.parquet")
        assert_refused(outcome, 4, path.name)


def test_without_onnxruntime(
    run: Run,
    source: Path,
    stub_repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(places, "find_spec", lambda _: None)
    arguments = ("--local", "--model", stub_repository, "--out", tmp_path / "out.parquet")
    assert_refused(run(source, *arguments), 2, "xec-reconstruct[server]")


def test_help_has_an_example(run: Run) -> None:
    outcome = run("--help")
    assert outcome.code == 0
    assert "Example: xec reconstruct run00407.root" in outcome.out
