"""The whole network: contract, invariances, mirror of its rooms with the detector's geometry."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from xec.contract import INPUTS, OUTPUTS
from xec.detector.channels import N_CHANNELS
from xec.detector.coordinates import angles_from_direction, xyz_from_uvw
from xec.detector.geometry import parametric
from xec.errors import ModelError, UsageError
from xec.models.build import (
    PRESETS,
    build_reconstructor,
    config_as_dict,
    config_from_dict,
    preset,
)
from xec.models.heads import LOG_SIGMA_BOUND, bounded
from xec.models.moments import angles_of_xyz, xyz_of_uvw
from xec.models.reconstructor import Reconstructor

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


@pytest.fixture(scope="module")
def model() -> Reconstructor:
    """A tiny network with random weights everywhere, also where it starts at zero."""
    torch.manual_seed(5)
    network = build_reconstructor(preset("tiny"), parametric()).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim and not parameter.any():
                parameter.normal_(std=0.05)
    return network


def events(B: int = 3, seed: int = 0) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    npho = torch.rand(B, N_CHANNELS, generator=generator) ** 8 * 2000.0
    time = torch.rand(B, N_CHANNELS, generator=generator) * 4.0
    npho_valid = (torch.rand(B, N_CHANNELS, generator=generator) > 0.05).to(torch.uint8)
    time_valid = npho_valid * (npho > 100.0)
    return npho, time, npho_valid, time_valid


@torch.no_grad()
def test_outputs_are_those_of_the_contract(model: Reconstructor) -> None:
    outputs = model(*events())
    assert list(outputs) == [tensor.name for tensor in OUTPUTS]
    for tensor in OUTPUTS:
        value = outputs[tensor.name]
        assert value.shape == (3, tensor.width)
        assert value.dtype is torch.float32
        assert torch.isfinite(value).all()
        if tensor.name.endswith("_sigma"):
            assert (value > 0).all()


@torch.no_grad()
@pytest.mark.parametrize("stored", [-1.0, 1e3, 1e10, float("nan"), float("-inf")])
def test_the_value_stored_at_a_dead_sensor_changes_nothing(
    model: Reconstructor, stored: float
) -> None:
    npho, time, npho_valid, time_valid = events()
    plain = model(npho, time, npho_valid, time_valid)
    other = model(
        torch.where(npho_valid > 0, npho, stored),
        torch.where(time_valid > 0, time, stored),
        npho_valid,
        time_valid,
    )
    for name, value in plain.items():
        assert torch.equal(value, other[name]), name


@torch.no_grad()
def test_validity_is_not_the_same_as_a_reading_of_zero(model: Reconstructor) -> None:
    """Negative control: without the validity channel these two would agree."""
    npho, time, npho_valid, time_valid = events()
    zero = npho * npho_valid
    alive = torch.ones_like(npho_valid)
    dead = model(zero, time, npho_valid, time_valid)["npho_mean"]
    assert not torch.allclose(dead, model(zero, time, alive, time_valid)["npho_mean"], rtol=1e-2)


@torch.no_grad()
def test_an_event_does_not_depend_on_its_batch_mates(model: Reconstructor) -> None:
    inputs = events(5)
    together = model(*inputs)
    for row in range(5):
        alone = model(*(x[row : row + 1] for x in inputs))
        for name, value in alone.items():
            assert torch.allclose(value, together[name][row : row + 1], rtol=2e-4, atol=2e-4), name


@torch.no_grad()
def test_times_move_with_the_zero_of_time_and_nothing_else_does(model: Reconstructor) -> None:
    npho, time, npho_valid, time_valid = events()
    plain = model(npho, time, npho_valid, time_valid)
    later = model(npho, time + 32.0, npho_valid, time_valid)
    for name, value in plain.items():
        shift = 32.0 if name in ("time_mean", "gamma_time") else 0.0
        assert torch.allclose(later[name], value + shift, rtol=2e-3, atol=2e-3), name


@torch.no_grad()
@pytest.mark.parametrize("face", [slice(0, 4092), slice(4092, 4760), slice(0, 4760)])
def test_a_dead_face_stays_finite(model: Reconstructor, face: slice) -> None:
    npho, time, npho_valid, time_valid = events()
    npho_valid[:, face] = 0
    for name, value in model(npho, time, npho_valid, time_valid).items():
        assert torch.isfinite(value).all(), name


def test_each_group_reads_back_the_sensor_that_it_gathered(model: Reconstructor) -> None:
    """Sensor ids through gather, patches and back: every channel once, at its own place."""
    ids = torch.arange(N_CHANNELS, dtype=torch.float32).reshape(1, 1, -1)
    parts = []
    for group in model.encoder.face_groups:
        parts.append(group.to_sensors(group.to_cells(ids)))
        assert torch.equal(parts[-1][0, 0], group.channels.reshape(-1).float())
    assert torch.equal(model.channel_order(parts), ids)


def test_the_loss_of_a_spread_leaves_trunk_and_mean_alone(model: Reconstructor) -> None:
    prediction = model.predict(*events())
    spreads = [v for n, v in prediction._asdict().items() if n.endswith("_log_sigma")]
    model.zero_grad()
    torch.stack([s.square().mean() for s in spreads]).sum().backward()
    for name, parameter in model.named_parameters():
        touched = parameter.grad is not None and bool(parameter.grad.any())
        assert touched == (".spread" in name), name
    model.zero_grad()


def test_every_cell_reaches_the_gamma(model: Reconstructor) -> None:
    npho, time, npho_valid, time_valid = events(1)
    npho.requires_grad_()
    alive = torch.ones_like(npho_valid)
    model.predict(npho, time, alive, time_valid).energy.sum().backward()
    assert npho.grad is not None
    assert (npho.grad != 0).all()


def test_log_sigma_is_bounded_with_finite_gradients() -> None:
    raw = torch.tensor([-1e4, -1.0, 0.0, 1.0, 1e4], requires_grad=True)
    value = bounded(raw)
    assert value.abs().max() <= LOG_SIGMA_BOUND
    value.exp().sum().backward()
    assert raw.grad is not None
    assert torch.isfinite(raw.grad).all()


def test_torch_coordinates_agree_with_the_detector() -> None:
    uvw = np.array([[0.0, 0.0, 0.5], [20.0, -60.0, 10.0], [-23.0, 67.0, 38.0]])
    xyz = xyz_from_uvw(uvw)
    assert np.allclose(xyz_of_uvw(torch.tensor(uvw)).numpy(), xyz, atol=1e-9)
    direction = xyz / np.linalg.norm(xyz, axis=1, keepdims=True)
    expected = angles_from_direction(direction)
    assert np.allclose(angles_of_xyz(torch.tensor(xyz)).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_configurations_survive_json(name: str) -> None:
    assert config_from_dict(config_as_dict(preset(name))) == preset(name)


def test_base_is_the_network_of_the_specification() -> None:
    config = preset("base")
    assert (config.width, config.heads, config.feed_forward, config.layers) == (1024, 8, 4096, 2)
    assert (config.inner.channels, config.inner.blocks) == ((32, 64), (2, 3))
    assert (config.hexagonal.channels, config.hexagonal.blocks) == (96, 4)
    network = build_reconstructor(config, parametric()).eval()
    with torch.no_grad():
        assert network(*events(1))["npho_mean"].shape == (1, N_CHANNELS)


def test_unknown_preset_and_damaged_configuration_are_named() -> None:
    with pytest.raises(UsageError, match="huge"):
        preset("huge")
    values = config_as_dict(preset("tiny"))
    del values["inner"]
    with pytest.raises(ModelError, match="inner"):
        config_from_dict(values)


def test_inputs_of_the_contract_are_the_arguments_in_order() -> None:
    assert [t.name for t in INPUTS] == ["npho", "time", "npho_valid", "time_valid"]
