"""Scales of the sigmas: curves by what is predicted, in the network and in its exported graph."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from xec.contract import ESTIMATES, OUTPUTS
from xec.detector.channels import N_CHANNELS, N_MPPC
from xec.detector.geometry import parametric
from xec.errors import ModelError
from xec.models.build import build_reconstructor, preset
from xec.models.calibration import (
    COLUMNS,
    GAMMA_AXES,
    Curve,
    PiecewiseLinear,
    SigmaScale,
)
from xec.models.checkpoint import DESCRIPTION, Checkpoint, load_checkpoint, save_checkpoint

RANDOM = np.random.default_rng(3)


def curve(axis: str, knots: list[float]) -> Curve:
    return Curve(np.array(knots), RANDOM.uniform(0.5, 2.0, (len(knots), COLUMNS[axis])))


CURVES = {
    "depth": curve("depth", [0.5, 1.0, 2.5, 7.0, 20.0]),
    "u": curve("u", [10.0, 24.0]),
    "v": curve("v", [50.0]),
    "inner": curve("inner", [0.0, 1.0, 3.0, 8.0]),
    "pmt": curve("pmt", [1.0, 4.0, 6.0]),
}


def outputs(count: int) -> dict[str, torch.Tensor]:
    """Random answers of a model, with sigmas of 1."""
    found = {t.name: torch.ones(count, t.width) for t in OUTPUTS}
    rng = torch.Generator().manual_seed(1)
    found["uvw"] = torch.randn(count, 3, generator=rng) * torch.tensor([20.0, 60.0, 8.0])
    found["npho_mean"] = (6 * torch.randn(count, N_CHANNELS, generator=rng)).exp() - 0.5
    return found


def scaled(curves: dict[str, Curve], given: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    module = SigmaScale()
    for number, buffer in enumerate(module.buffers()):
        buffer.fill_(1 + number / 10)
    module.set_curves(curves)
    return {name: value.numpy() for name, value in module(given).items()}


def test_the_factors_are_those_of_linear_interpolation() -> None:
    given = outputs(50)
    found = scaled(CURVES, given)
    plain = dict(zip([e.sigma_name for e in ESTIMATES], 1 + np.arange(6) / 10, strict=True))
    u, v, w = given["uvw"].numpy().T
    places = {"depth": w, "u": np.abs(u), "v": np.abs(v)}
    columns = ["energy_sigma", "gamma_time_sigma", *["uvw_sigma"] * 3, *["angle_sigma"] * 2]
    place_in_output = [0, 0, 0, 1, 2, 0, 1]
    for column, (name, place) in enumerate(zip(columns, place_in_output, strict=True)):
        expected = np.full(50, plain[name])
        for axis in GAMMA_AXES:
            c = CURVES[axis]
            expected *= np.interp(places[axis], c.knots, c.factors[:, column])
        np.testing.assert_allclose(found[name][:, place], expected, rtol=3e-5)
    light = np.log1p(given["npho_mean"].numpy().astype(np.float64).clip(min=0.0))
    for column, name in enumerate(("npho_sigma", "time_sigma")):
        for axis, rows in (("inner", slice(0, N_MPPC)), ("pmt", slice(N_MPPC, None))):
            c = CURVES[axis]
            expected = plain[name] * np.interp(light[:, rows], c.knots, c.factors[:, column])
            np.testing.assert_allclose(found[name][:, rows], expected, rtol=3e-5)


def test_without_curves_there_is_one_factor_per_task() -> None:
    found = scaled({}, outputs(3))
    for number, estimate in enumerate(ESTIMATES):
        np.testing.assert_allclose(found[estimate.sigma_name], 1 + number / 10, rtol=1e-6)


def test_a_curve_stays_between_its_factors_and_has_no_jumps() -> None:
    c = CURVES["inner"]
    x = torch.linspace(-5.0, 15.0, 4001)
    found = PiecewiseLinear(c)(x).numpy()
    assert found.min() >= c.factors.min() - 1e-5
    assert found.max() <= c.factors.max() + 1e-5
    steepest = np.abs(np.diff(c.factors, axis=0) / np.diff(c.knots)[:, None]).max()
    assert np.abs(np.diff(found, axis=0)).max() <= steepest * (20 / 4000) * 1.01 + 1e-6
    assert PiecewiseLinear(c)(torch.tensor(math.inf)).isfinite().all()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(2)
    model = build_reconstructor(preset("tiny"), parametric())
    described = {name: c.as_dict() for name, c in CURVES.items()}
    checkpoint = Checkpoint(
        preset("tiny"), "tiny", parametric().hash, sigma_curves=described, reliability={}
    )
    path = tmp_path_factory.mktemp("curves") / "c"
    save_checkpoint(path, model, checkpoint)
    return path


def test_a_checkpoint_brings_its_curves(folder: Path) -> None:
    model, _ = load_checkpoint(folder, parametric())
    given = outputs(4)
    expected = SigmaScale()
    expected.set_curves(CURVES)
    for name, value in expected(given).items():
        assert torch.equal(model.sigma_scale(given)[name], value), name


def test_a_checkpoint_of_before_the_curves_still_loads(folder: Path, tmp_path: Path) -> None:
    model, checkpoint = load_checkpoint(folder, parametric())
    save_checkpoint(tmp_path, model, replace(checkpoint, sigma_curves={}))
    text = (tmp_path / DESCRIPTION).read_text()
    old = text.replace('"sigma_curves": {},', "").replace('"reliability": {},', "")
    assert old != text
    (tmp_path / DESCRIPTION).write_text(old)
    loaded, _ = load_checkpoint(tmp_path, parametric())
    given = outputs(2)
    assert torch.equal(loaded.sigma_scale(given)["energy_sigma"], given["energy_sigma"])


@pytest.mark.parametrize(
    "entry",
    [
        {"knots": [1.0, 1.0], "factors": [[1.0] * 7] * 2},
        {"knots": [1.0], "factors": [[-1.0] * 7]},
        {"knots": [1.0], "factors": [[1.0] * 6]},
        {"knots": [1.0]},
        "much",
    ],
)
def test_curves_that_are_none_are_refused(folder: Path, tmp_path: Path, entry: object) -> None:
    model, checkpoint = load_checkpoint(folder, parametric())
    broken = replace(checkpoint, sigma_curves={"depth": entry})
    save_checkpoint(tmp_path, model, broken)
    with pytest.raises(ModelError, match="xec train calibrate"):
        load_checkpoint(tmp_path, parametric())


def test_the_exported_scales_are_the_same() -> None:
    """The scales alone; the graph of a whole network with curves is tests/test_export.py's."""
    onnxruntime = pytest.importorskip("onnxruntime")
    module = SigmaScale().eval()
    module.set_curves(CURVES)
    given = outputs(3)
    names = list(given)

    class View(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = module

        def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(self.scale(dict(zip(names, values, strict=True))).values())

    batch = torch.export.Dim("batch", min=1, max=64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            View(),
            tuple(given.values()),
            dynamo=True,
            opset_version=18,
            input_names=[f"in_{name}" for name in names],
            output_names=[f"out_{name}" for name in names],
            dynamic_shapes=(tuple({0: batch} for _ in names),),
            verbose=False,
        )
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    fresh = {name: torch.cat([value, value]) for name, value in outputs(8).items()}
    feed = {f"in_{name}": value.numpy() for name, value in fresh.items()}
    wanted = {i.name for i in session.get_inputs()}
    answers = session.run(None, {name: value for name, value in feed.items() if name in wanted})
    expected = module(fresh)
    for name, answer in zip((o.name for o in session.get_outputs()), answers, strict=True):
        value = expected[name.removeprefix("out_")].numpy()
        np.testing.assert_allclose(answer, value, rtol=1e-5, err_msg=name)
    assert not torch.allclose(expected["npho_sigma"], fresh["npho_sigma"], rtol=0.02)
