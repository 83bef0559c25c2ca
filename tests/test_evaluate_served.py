"""The served intervals of many events are those of each event by itself."""

from __future__ import annotations

import numpy as np
import pytest

from xec.contract import GAMMA_ESTIMATES
from xec.engines.base import ModelInfo
from xec.reliability.intervals import LEVELS, Intervals
from xec.reliability.record import Reliability
from xec_evaluation.quantities import COMPONENTS
from xec_evaluation.served import gamma_scales, sensor_scales


def factors(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.5, 3.0, shape)


INTERVALS = Intervals(
    depth_edges=np.array([1.0, 5.0]),
    gamma={"energy": factors(0, 2, 3, 1), "uvw": factors(1, 2, 3, 3)},
    light_edges=np.array([10.0, 100.0, 1000.0]),
    sensors={"npho": factors(2, 2, 2, 4)},
)


def model(reliability: Reliability) -> ModelInfo:
    scale = {"energy": 7.0, "angle": 1.5}
    return ModelInfo("stub", "1", "", "", "1", {}, scale, reliability)


def rows(count: int) -> np.ndarray:
    """Estimates with depths from -2 to 9, on the edges as well."""
    estimate = np.zeros((count, len(COMPONENTS)))
    estimate[:, COMPONENTS.index("w")] = np.linspace(-2, 9, count)
    return estimate


def test_calibrated_factors_go_before_plain_ones() -> None:
    estimate = rows(23)
    found = gamma_scales(model(Reliability(INTERVALS)), estimate)
    for level, scales in zip(LEVELS, found, strict=True):
        for row, scale in zip(estimate, scales, strict=True):
            depth = row[COMPONENTS.index("w")]
            np.testing.assert_array_equal(scale[:1], INTERVALS.gamma_scale("energy", depth, level))
            np.testing.assert_array_equal(scale[2:5], INTERVALS.gamma_scale("uvw", depth, level))
    assert len(np.unique(found[0][:, 0])) == 3  # the bins do differ
    # What was not calibrated: the plain factor, or the normal distribution's.
    np.testing.assert_allclose(found[0][:, 5:], 1.5)
    np.testing.assert_allclose(found[0][:, 1], 1.0, rtol=1e-4)
    np.testing.assert_allclose(found[1][:, [1, 5, 6]], 1.959964, rtol=1e-6)


def test_without_calibration_the_plain_factors_count() -> None:
    first, second = gamma_scales(model(Reliability()), rows(4))
    wanted = [7.0, 1.0, 1.0, 1.0, 1.0, 1.5, 1.5]
    np.testing.assert_allclose(first, np.tile(wanted, (4, 1)), rtol=1e-4)
    np.testing.assert_allclose(second, 1.959964, rtol=1e-6)
    assert sum(estimate.width for estimate in GAMMA_ESTIMATES) == first.shape[1]


@pytest.mark.parametrize("calibrated", [True, False])
def test_sensors_take_the_factor_of_their_kind_and_light(calibrated: bool) -> None:
    light = np.array([-3.0, 5.0, 50.0, 500.0, 5e4, 5e4])
    inner = np.array([True, False, True, False, True, False])
    first, second = sensor_scales(
        model(Reliability(INTERVALS if calibrated else None)), light, inner
    )
    if calibrated:
        np.testing.assert_array_equal(first, INTERVALS.sensor_scale("npho", light, inner))
        assert len(np.unique(first)) == 6
    else:
        np.testing.assert_allclose(first, 1.0, rtol=1e-4)
        np.testing.assert_allclose(second, 1.959964, rtol=1e-6)
