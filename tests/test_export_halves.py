"""Halves that are cut out of the shipped network, without a checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from xec.cli import build_app
from xec.contract import outputs_of
from xec.engines.base import Tensors
from xec.engines.golden import GOLDEN_FILE, golden_of
from xec.engines.onnx import OnnxEngine
from xec.errors import ModelError, UsageError
from xec_export.halves import HALVES, run_halves

SHIPPED = Path(__file__).resolve().parents[1] / "model_repository"


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("halves") / "models"
    run_halves(SHIPPED, None, repository)
    return repository


def golden_inputs() -> Tensors:
    path = SHIPPED / "reconstruct" / "1" / GOLDEN_FILE
    return golden_of(path.read_bytes(), path).inputs


@pytest.mark.parametrize("name", HALVES)
def test_a_half_gives_the_answers_of_the_whole(cut: Path, name: str) -> None:
    inputs = golden_inputs()
    whole = OnnxEngine(SHIPPED).infer(inputs)
    half = OnnxEngine(cut, name=name).infer(inputs)
    assert set(half) == {tensor.name for tensor in outputs_of(name)}
    for output, values in half.items():
        np.testing.assert_allclose(values, whole[output], rtol=1e-4, atol=1e-4)


def test_halves_are_smaller_and_have_cards_and_configurations(cut: Path) -> None:
    whole = (SHIPPED / "reconstruct" / "1" / "model.onnx").stat().st_size
    for name in HALVES:
        assert (cut / name / "1" / "model.onnx").stat().st_size < whole
        assert f'name: "{name}"' in (cut / name / "config.pbtxt").read_text()
        assert f"# Model `{name}`, version 1" in (cut / name / "README.md").read_text()


def test_a_network_that_does_not_answer_its_golden_events_is_refused(
    cut: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xec_export import halves

    def wrong(content: bytes, name: str) -> object:
        return lambda inputs: {t.name: np.zeros((3, t.width), "f4") for t in outputs_of(name)}

    monkeypatch.setattr(halves, "runtime_of", wrong)
    with pytest.raises(ModelError, match=r"inpaint, cut out, answers .* wrongly"):
        run_halves(SHIPPED, 1, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_without_golden_events_nothing_is_cut(tmp_path: Path) -> None:
    import json

    shutil.copytree(SHIPPED, tmp_path / "old")
    folder = tmp_path / "old" / "reconstruct" / "1"
    (folder / GOLDEN_FILE).unlink()
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"][GOLDEN_FILE]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match="golden"):
        run_halves(tmp_path / "old", None, tmp_path / "models")


def test_only_halves_are_cut(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="choose among inpaint, regress"):
        run_halves(SHIPPED, None, tmp_path, ("reconstruct",))


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--checkpoint", "runs/c", "--halves-of", str(SHIPPED)],
        ["--halves-of", str(SHIPPED), "--torchscript"],
    ],
)
def test_contradictions_are_refused(options: list[str]) -> None:
    result = CliRunner().invoke(build_app(), ["export", *options])
    assert isinstance(result.exception, UsageError)
