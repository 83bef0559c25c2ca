"""The local fit: sources placed anywhere, an independent minimiser, what must not matter."""

import numpy as np
import pytest
from scipy.optimize import minimize

from xec.detector.channels import N_CHANNELS, N_MPPC
from xec.detector.coordinates import uvw_from_xyz, xyz_from_uvw
from xec.detector.geometry import mirror_y, mirror_z, parametric
from xec.detector.solid_angle import fractions
from xec.recovery.local_fit import (
    MPPC_EFFICIENCY,
    WINDOW_RADIUS,
    FitStatus,
    LocalFit,
    local_fit,
    local_fit_recovery,
)
from xec.recovery.point_light import MppcFrames
from xec.recovery.solid_angle import solid_angle_ratio
from xec.recovery.vertex import conventional_vertex

GEOMETRY = parametric()
SOURCES = np.array(
    [
        [0.0, 0.0, 5.0],  # on the axis of the inner face
        [3.3, -20.1, 0.6],
        [-22.9, 66.0, 2.0],
        [10.0, 31.7, 9.0],
        [20.0, -50.2, 16.0],
    ]
)
SCALE = np.array([1e6, 2e5, 1e6, 3e6, 5e6])
LIGHT = SCALE[:, None] * fractions(GEOMETRY, xyz_from_uvw(SOURCES))


def some_dead(seed: int, events: int) -> np.ndarray:
    valid = np.random.default_rng(seed).random((events, N_CHANNELS)) > 0.02
    valid[:, 2000:2016] = False
    return valid


def noisy(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.poisson(LIGHT * MPPC_EFFICIENCY) / MPPC_EFFICIENCY + rng.normal(0, 3, LIGHT.shape)


def test_gradient_of_the_solid_angle() -> None:
    frames, step = MppcFrames.of(GEOMETRY), 1e-4
    for source in SOURCES:
        omega, gradient = frames.fractions(source)
        np.testing.assert_allclose(
            omega, fractions(GEOMETRY, xyz_from_uvw(source))[0, :N_MPPC], rtol=0, atol=1e-14
        )
        for axis in range(3):
            moved = np.eye(3)[axis] * step
            high, low = (
                fractions(GEOMETRY, xyz_from_uvw(source + sign * moved))[0, :N_MPPC]
                for sign in (1, -1)
            )
            # Sensors in the plane of the source begin to see it there: no derivative.
            edge = (high > 0) != (low > 0)
            difference = (high - low) / (2 * step)
            np.testing.assert_allclose(
                gradient[axis, ~edge], difference[~edge], atol=1e-6 * np.abs(difference).max()
            )


def test_a_point_before_the_inner_face_is_not_seen() -> None:
    omega, gradient = MppcFrames.of(GEOMETRY).fractions(np.array([0.0, 0.0, -1.0]))
    assert (omega[2024:2068] == 0).all()
    assert (gradient[:, 2024:2068] == 0).all()


def test_sources_anywhere_are_found() -> None:
    fit = local_fit(LIGHT, some_dead(1, len(LIGHT)), GEOMETRY)
    assert fit.valid.all()
    np.testing.assert_allclose(fit.uvw, SOURCES, atol=2e-3)
    np.testing.assert_allclose(fit.scale, SCALE, rtol=1e-3)
    # The start is not so good already: what is tested is the fit.
    start = uvw_from_xyz(conventional_vertex(LIGHT, some_dead(1, len(LIGHT)), GEOMETRY))
    assert np.abs(start - SOURCES).max() > 0.1


def test_a_point_source_is_filled_exactly_on_all_faces() -> None:
    valid = some_dead(2, len(LIGHT))
    answer = local_fit_recovery(LIGHT, valid, GEOMETRY)
    bright = LIGHT > 50  # below, neighbours may hold too little for anything but their average
    np.testing.assert_allclose(answer[bright], LIGHT[bright], rtol=1e-3)
    inner_bright = bright & (np.arange(N_CHANNELS) < N_MPPC) & ~valid
    assert inner_bright.sum() > 50
    fit = local_fit(LIGHT, valid, GEOMETRY)
    beside = fit.uvw + np.array([0.0, 3.0, 0.0])
    wrong = LocalFit(beside, fit.scale, fit.window, fit.status)
    spoilt = local_fit_recovery(LIGHT, valid, GEOMETRY, wrong)
    assert np.abs(spoilt[bright] / LIGHT[bright] - 1).max() > 0.2


def test_the_minimum_is_that_of_another_minimiser() -> None:
    npho, valid = noisy(3), some_dead(4, len(LIGHT))
    fit = local_fit(npho, valid, GEOMETRY)
    for event in range(len(npho)):
        live = np.where(valid[event, :N_MPPC], npho[event, :N_MPPC], -np.inf)
        centre = GEOMETRY.position[live.argmax()]
        near = np.linalg.norm(GEOMETRY.position[:N_MPPC] - centre, axis=1) <= WINDOW_RADIUS
        ids = np.flatnonzero(near & valid[event, :N_MPPC])
        counts = npho[event, ids]
        variance = np.maximum(counts, 1 / MPPC_EFFICIENCY) / MPPC_EFFICIENCY

        def chi2(x: np.ndarray, ids=ids, counts=counts, variance=variance) -> float:
            omega = fractions(GEOMETRY, xyz_from_uvw(x[1:]), ids)[0]
            return float(((counts - np.exp(x[0]) * omega) ** 2 / variance).sum())

        start = np.array([np.log(SCALE[event]), *SOURCES[event]])
        best = minimize(chi2, start, method="Nelder-Mead", options={"xatol": 1e-5, "fatol": 1e-6})
        found = chi2(np.array([np.log(fit.scale[event]), *fit.uvw[event]]))
        assert found <= best.fun + 0.01
        assert chi2(start) > best.fun + 0.1  # so small a difference would be seen
        np.testing.assert_allclose(fit.uvw[event], best.x[1:], atol=0.05)


def test_events_without_a_fit_say_why_and_fall_back() -> None:
    npho = np.repeat(LIGHT[3:4], 5, axis=0)
    valid = np.ones(npho.shape, dtype=np.bool_)
    npho[0] = -0.5
    valid[1, :N_MPPC] = False
    few = np.argsort(npho[2, :N_MPPC])[::-1][:9]
    valid[2, :N_MPPC] = False
    valid[2, few] = True
    npho[3, :N_MPPC] = -10.0  # one bright sensor cannot outweigh all that are negative
    npho[3, 2046] = 1.0
    fit = local_fit(npho, valid, GEOMETRY)
    assert fit.status.tolist() == [
        FitStatus.NO_LIGHT,
        FitStatus.NO_LIGHT,
        FitStatus.TOO_FEW_SENSORS,
        FitStatus.NOT_CONVERGED,
        FitStatus.CONVERGED,
    ]
    assert fit.valid.tolist() == [False, False, False, False, True]
    assert np.isnan(fit.uvw[~fit.valid]).all()
    assert np.isnan(fit.scale[~fit.valid]).all()
    answer = local_fit_recovery(npho, valid, GEOMETRY, fit)
    for event in np.flatnonzero(~fit.valid):
        row = slice(event, event + 1)
        vertex = conventional_vertex(npho[row], valid[row], GEOMETRY)
        np.testing.assert_array_equal(
            answer[row], solid_angle_ratio(npho[row], valid[row], vertex, GEOMETRY)
        )


def test_a_minimum_beside_the_window_is_no_fit() -> None:
    npho = np.repeat(LIGHT[3:4], 2, axis=0)
    flash = np.linalg.norm(GEOMETRY.position[:N_MPPC] - [-50, 40, 20], axis=1).argmin()
    npho[:, flash] = npho.max() * np.array([2.0, 0.5])  # brighter than the light, and dimmer
    valid = np.ones(npho.shape, dtype=np.bool_)
    fit = local_fit(npho, valid, GEOMETRY)
    assert fit.status.tolist() == [FitStatus.OUTSIDE, FitStatus.CONVERGED]
    assert np.isnan(fit.uvw[0]).all()
    np.testing.assert_allclose(fit.uvw[1], SOURCES[3], atol=1e-3)


def test_the_window_may_differ_from_event_to_event() -> None:
    npho, valid = noisy(5), some_dead(6, len(LIGHT))
    radius = np.array([6.0, 7.0, 8.0, 9.0, np.nan])
    fit = local_fit(npho, valid, GEOMETRY, radius)
    assert fit.status[4] == FitStatus.TOO_FEW_SENSORS
    for event in range(4):
        row = slice(event, event + 1)
        alone = local_fit(npho[row], valid[row], GEOMETRY, radius[event])
        np.testing.assert_array_equal(fit.uvw[row], alone.uvw)
    assert (np.diff(fit.window.sum(axis=1)[[0, 3]]) > 50).all()


@pytest.mark.parametrize("junk", [np.nan, 1e10, -999.0])
def test_what_stands_at_dead_sensors_is_not_read(junk: float) -> None:
    npho, valid = noisy(7), some_dead(8, len(LIGHT))
    for method in (lambda n: local_fit(n, valid, GEOMETRY).uvw, lambda n: recovery(n, valid)):
        spoilt, clean = np.where(valid, npho, junk), np.where(valid, npho, 0.0)
        np.testing.assert_array_equal(method(spoilt), method(clean))


def recovery(npho: np.ndarray, valid: np.ndarray) -> np.ndarray:
    return local_fit_recovery(npho, valid, GEOMETRY)


def test_an_event_does_not_depend_on_its_batch() -> None:
    npho, valid = noisy(9).astype(np.float32), some_dead(10, len(LIGHT))
    whole = recovery(npho, valid)
    order = np.array([3, 0, 4, 2, 1])
    np.testing.assert_array_equal(whole[order], recovery(npho[order], valid[order]))
    np.testing.assert_array_equal(whole[1:2], recovery(npho[1:2], valid[1:2]))
    assert recovery(npho[:0], valid[:0]).shape == (0, N_CHANNELS)


@pytest.mark.parametrize(
    ("permutation", "signs"), [(mirror_z(), (-1, 1, 1)), (mirror_y(), (1, -1, 1))]
)
def test_mirrored_events_are_fitted_alike(
    permutation: np.ndarray, signs: tuple[int, int, int]
) -> None:
    npho, valid = noisy(11), some_dead(12, len(LIGHT))
    fit = local_fit(npho, valid, GEOMETRY)
    mirrored = local_fit(npho[:, permutation], valid[:, permutation], GEOMETRY)
    np.testing.assert_allclose(mirrored.uvw, fit.uvw * signs, atol=1e-6)
    np.testing.assert_allclose(mirrored.scale, fit.scale, rtol=1e-6)
