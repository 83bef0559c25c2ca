"""`xec reconstruct` refuses in one sentence and leaves nothing behind."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uproot

from support_client import real_server
from support_reconstruct import (
    COUNT,
    GEOMETRY,
    Run,
    assert_refused,
    command_line,
    left_behind,
    write_events,
)
from xec.detector.channels import N_CHANNELS
from xec.engines.onnx import OnnxEngine
from xec.event import EventBatch
from xec.io.root_writer import RootEventWriter
from xec_client import places


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


def test_an_answer_that_is_not_finite_is_never_written(
    run: Run, source: Path, stub_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    infer = OnnxEngine.infer

    def broken(self: OnnxEngine, inputs: Any) -> dict[str, np.ndarray]:
        outputs = infer(self, inputs)
        outputs["uvw"][-1, 2] = np.nan
        return outputs

    monkeypatch.setattr(OnnxEngine, "infer", broken)
    outcome = run(source, "--local", "--model", stub_repository, "--out", tmp_path / "o.parquet")
    assert_refused(outcome, 6, "event 63 of run", "not finite")
    assert left_behind(tmp_path) == set()


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
