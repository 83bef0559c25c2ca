"""Weights that make a training sample flat."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor

from xec.detector.geometry import parametric
from xec.errors import UsageError
from xec_training.data.simulated import SimulatedSource, training_simulation
from xec_training.reweighting import Reweighting, fit_source, scale_to_mean_one


@pytest.fixture(scope="module")
def sample() -> tuple[Tensor, Tensor]:
    """Energies that fall steeply and angles that crowd in the middle; 20 000 events."""
    rng = np.random.default_rng(0)
    energy = 10 + 50 * rng.beta(1, 3, 20_000)
    theta = 90 + 30 * np.tanh(rng.normal(0, 0.5, 20_000))
    phi = rng.uniform(-40, 40, 20_000)
    angle = np.stack([theta, phi], axis=1)
    return torch.from_numpy(energy).float(), torch.from_numpy(angle).float()


def fitted(sample: tuple[Tensor, Tensor], *bins: int | None, largest: float = 1e9) -> Reweighting:
    one = Reweighting(*bins, largest=largest)
    one.fit(*sample)
    return one


def doubled(weights: Tensor | None) -> Tensor | None:
    """For sums that do not round."""
    return None if weights is None else weights.double()


def energy_histogram(energy: Tensor, weights: Tensor | None, bins: int) -> np.ndarray:
    edges = np.linspace(float(energy.min()), float(energy.max()), bins + 1)
    return np.histogram(energy.double(), edges, weights=doubled(weights))[0]


def angle_histogram(angle: Tensor, weights: Tensor | None, bins: int) -> np.ndarray:
    edges = [np.linspace(float(a.min()), float(a.max()), bins + 1) for a in angle.T]
    return np.histogram2d(*angle.double().T.numpy(), bins=edges, weights=doubled(weights))[0]


def test_the_weighted_energies_are_flat(sample: tuple[Tensor, Tensor]) -> None:
    weights = fitted(sample, 8, None).weights(*sample)
    assert weights.dtype == torch.float32
    assert weights.double().mean() == pytest.approx(1.0, abs=1e-6)
    flat = energy_histogram(sample[0], weights, 8)
    assert flat == pytest.approx(20_000 / 8, rel=1e-4)
    plain = energy_histogram(sample[0], None, 8)
    assert plain.max() > 50 * plain.min()  # control


def test_a_weight_is_the_inverse_of_its_bin(sample: tuple[Tensor, Tensor]) -> None:
    """The closed form: M / (bins x events of the bin)."""
    counts = energy_histogram(sample[0], None, 8)
    width = (sample[0].max() - sample[0].min()) / 8
    centres = sample[0].min() + width * (torch.arange(8) + 0.5)
    weights = fitted(sample, 8, None).weights(centres, torch.zeros(8, 2))
    assert weights.numpy() == pytest.approx(20_000 / (8 * counts), rel=1e-5)


def test_the_weighted_angles_are_flat(sample: tuple[Tensor, Tensor]) -> None:
    weights = fitted(sample, None, 5).weights(*sample)
    flat = angle_histogram(sample[1], weights, 5)
    assert flat == pytest.approx(20_000 / 25, rel=1e-4)
    plain = angle_histogram(sample[1], None, 5)
    assert plain.max() > 2 * plain.min()  # control


def test_both_is_the_product(sample: tuple[Tensor, Tensor]) -> None:
    energy, angle, both = (
        fitted(sample, *bins).weights(*sample).double() for bins in ((8, None), (None, 5), (8, 5))
    )
    ratio = both / (energy * angle)
    assert ratio.numpy() == pytest.approx(float(ratio[0]), rel=1e-5)
    assert both.mean() == pytest.approx(1.0, abs=1e-6)
    assert not torch.allclose(both, energy)


def test_without_bins_all_weigh_the_same(sample: tuple[Tensor, Tensor]) -> None:
    assert (fitted(sample, None, None).weights(*sample) == 1).all()


def test_weights_are_clipped_and_keep_their_mean(sample: tuple[Tensor, Tensor]) -> None:
    free = fitted(sample, 8, 5).weights(*sample).double()
    clipped = fitted(sample, 8, 5, largest=3.0).weights(*sample).double()
    assert free.max() > 30  # control: there is something to clip
    assert clipped.max() == 3.0
    assert clipped.mean() == pytest.approx(1.0, abs=1e-6)
    below = clipped < 3.0
    ratio = (clipped / free)[below]
    assert ratio.numpy() == pytest.approx(float(ratio[0]), rel=1e-5)
    assert ratio[0] > 1


@pytest.mark.parametrize("largest", [1.0, 1.001, 1.5, 2.0, 1e6])
def test_the_scale_solves_its_equation(largest: float) -> None:
    raw = torch.from_numpy(np.random.default_rng(1).pareto(1.0, 1000) + 0.01)
    scale = scale_to_mean_one(raw, largest)
    assert (raw * scale).clamp(max=largest).mean().item() == pytest.approx(1.0, rel=1e-9)


def test_outside_the_sample_the_nearest_bin_counts(sample: tuple[Tensor, Tensor]) -> None:
    one = fitted(sample, 8, 5)
    energy = torch.stack([sample[0].min(), sample[0].max()])
    angle = torch.stack([sample[1].min(dim=0).values, sample[1].max(dim=0).values])
    beyond = torch.tensor([-100.0, 100.0])
    expected = one.weights(energy, angle)
    assert torch.equal(one.weights(energy + beyond, angle + beyond[:, None]), expected)
    assert expected[0] != expected[1]


def test_empty_bins_are_finite(sample: tuple[Tensor, Tensor]) -> None:
    energy = torch.tensor([10.0] * 6 + [60.0] * 2)
    one = Reweighting(5, None, largest=10.0)
    one.fit(energy, sample[1][:8])
    weights = one.weights(torch.tensor([10.0, 35.0, 60.0]), sample[1][:3])
    # Raw 1/6, 1 (as if of one event) and 1/2, times the scale 4 of 8 = 6 c/6 + 2 c/2.
    assert weights.tolist() == pytest.approx([4 / 6, 4.0, 2.0])


def test_events_of_one_energy_all_weigh_the_same(sample: tuple[Tensor, Tensor]) -> None:
    one = Reweighting(8, None)
    energy = torch.full((100,), 52.8)
    one.fit(energy, sample[1][:100])
    assert one.weights(energy, sample[1][:100]).tolist() == pytest.approx([1.0] * 100)


@pytest.mark.parametrize("bins", [(8, None), (None, 5), (8, 5), (None, None)])
def test_the_state_goes_through_json(
    sample: tuple[Tensor, Tensor], bins: tuple[int | None, int | None]
) -> None:
    one, other = fitted(sample, *bins, largest=5.0), Reweighting(*bins, largest=5.0)
    if bins != (None, None):
        assert not torch.equal(other.weights(*sample), one.weights(*sample))  # control
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    assert torch.equal(other.weights(*sample), one.weights(*sample))


def test_senseless_settings_are_named(sample: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(UsageError, match="at least one bin, not 0"):
        Reweighting(0, None)
    with pytest.raises(UsageError, match="at least one bin, not -1"):
        Reweighting(8, -1)
    for largest in (0.99, float("nan")):
        with pytest.raises(UsageError, match="cannot be below 1"):
            Reweighting(8, None, largest)
    with pytest.raises(UsageError, match="there are none"):
        Reweighting(8, None).fit(torch.empty(0), torch.empty(0, 2))


def test_a_source_is_counted_by_its_truth() -> None:
    """The energies of simulated events are flat in 12 to 62 MeV, their angles are not."""
    source = SimulatedSource(training_simulation(), parametric(), torch.device("cpu"), 0, 8, None)
    one = fit_source(Reweighting(5, None), source)
    energy = torch.tensor([12.0, 62.0])
    assert one.weights(energy, torch.zeros(2, 2)).tolist() == pytest.approx([1.0, 1.0], rel=0.05)
    phi = fit_source(Reweighting(None, 5), source)
    assert phi.weights(*source.truth()).double().mean() == pytest.approx(1.0, abs=1e-6)
    assert phi.weights(*source.truth()).std() > 0.2
