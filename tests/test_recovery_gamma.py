"""Conventional energy, position, time and direction: point sources, known constants, symmetry."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from xec.detector.channels import FACE_IDS, IS_MPPC, N_CHANNELS, N_MPPC, Face
from xec.detector.coordinates import direction_from_angles, xyz_from_uvw
from xec.detector.geometry import mirror_y, mirror_z, parametric
from xec.detector.solid_angle import fractions
from xec.errors import UsageError
from xec.recovery import energy as energies
from xec.recovery import gamma_time as times
from xec.recovery import position as positions
from xec.recovery.constants import (
    SIGNAL_ENERGY,
    Correction,
    EnergyConstants,
    GammaConstants,
    TimeConstants,
    default_constants,
)
from xec.recovery.conventional import ConventionalGamma, conventional_gamma
from xec.recovery.least_squares import trimmed_least_squares
from xec.recovery.light_centre import LightCentre
from xec.simulation.generator import Generator, SimulationConfig

GEOMETRY = parametric()
SOURCES = np.array([[0.0, 0.0, 5.0], [-22.0, 63.0, 2.0], [10.0, 31.7, 9.0], [20.0, -50.2, 4.0]])
SCALE = 2e7
LIGHT = SCALE * fractions(GEOMETRY, xyz_from_uvw(SOURCES))
SLOWNESS = 0.055  # ns/cm, of light in xenon
T0 = np.array([-3.0, 1.5, 0.0, 7.25])  # ns
FLIGHT = SLOWNESS * np.linalg.norm(xyz_from_uvw(SOURCES)[:, None] - GEOMETRY.position, axis=2)
TIME = T0[:, None] + FLIGHT
ALIVE = np.ones(LIGHT.shape, dtype=np.bool_)

ONE_WEIGHT = (1.0,) + (0.0,) * 8
PLAIN = GammaConstants(
    position=replace(
        default_constants().position,
        fit=Correction(u=(1, 0, 0), v=(1, 0, 0), w=(0, 1, 0, 0)),
    ),
    energy=EnergyConstants(ONE_WEIGHT, ONE_WEIGHT, (*ONE_WEIGHT, 0, 0, 0), (*ONE_WEIGHT, 0, 0, 0)),
    time=TimeConstants((0.0, 0.0, 0.0), 0.0, SLOWNESS, SLOWNESS),
)
FIELDS = ("uvw", "energy", "gamma_time", "angle")


def some_dead(seed: int, events: int = len(LIGHT)) -> np.ndarray:
    valid = np.random.default_rng(seed).random((events, N_CHANNELS)) > 0.02
    valid[:, 2000:2016] = False
    return valid


@cache
def simulated(events: int = 12) -> tuple[np.ndarray, ...]:
    """npho, time and both validity bits of signal events."""
    batch = Generator(SimulationConfig(), GEOMETRY, "cpu", seed=940_001).sample(events)
    live = (batch.npho_valid & ~batch.dead).numpy()
    return batch.npho.numpy(), batch.time.numpy(), live, batch.time_valid.numpy() & live


def same(first: ConventionalGamma, second: ConventionalGamma) -> bool:
    return all(
        np.array_equal(getattr(first, name), getattr(second, name), equal_nan=True)
        for name in FIELDS
    )


def test_a_point_source_is_measured_exactly() -> None:
    valid = some_dead(1)
    gamma = conventional_gamma(LIGHT, TIME, valid, valid, GEOMETRY, PLAIN)
    np.testing.assert_allclose(gamma.uvw, SOURCES, atol=2e-3)
    np.testing.assert_allclose(gamma.energy, LIGHT.sum(axis=1) / energies.LIGHT_UNIT, rtol=2e-3)
    np.testing.assert_allclose(gamma.gamma_time, T0, atol=1e-3)
    flight = xyz_from_uvw(SOURCES) / np.linalg.norm(xyz_from_uvw(SOURCES), axis=1, keepdims=True)
    np.testing.assert_allclose(direction_from_angles(gamma.angle), flight, atol=1e-4)
    # Without the light's flight the times would be nanoseconds late.
    still = replace(PLAIN, time=TimeConstants((0.0, 0.0, 0.0), 0.0, 0.0, 0.0))
    late = conventional_gamma(LIGHT, TIME, valid, valid, GEOMETRY, still)
    assert (late.gamma_time - T0 > 0.2).all()


def test_energy_is_linear_in_the_light() -> None:
    valid = some_dead(2)
    for constants in (PLAIN, default_constants()):
        once = conventional_gamma(LIGHT, TIME, valid, valid, GEOMETRY, constants)
        thrice = conventional_gamma(3 * LIGHT, TIME, valid, valid, GEOMETRY, constants)
        np.testing.assert_allclose(thrice.energy, 3 * once.energy, rtol=1e-5)


def test_dead_sensors_are_filled_before_the_sum() -> None:
    valid = some_dead(3)
    valid[:, 1000:1300] = False
    lost = (LIGHT * ~valid).sum(axis=1) / LIGHT.sum(axis=1)
    assert lost.max() > 0.03
    light = energies.face_light(LIGHT, valid, SOURCES, GEOMETRY)
    for column, face in enumerate(Face):
        expected = LIGHT[:, FACE_IDS[face]].sum(axis=1)
        np.testing.assert_allclose(light[:, column], expected, rtol=1e-3)


def test_uniform_light_has_its_sum() -> None:
    npho = np.full((2, N_CHANNELS), 137.0)
    light = energies.face_light(npho, np.ones(npho.shape, np.bool_), SOURCES[:2], GEOMETRY)
    counts = [len(FACE_IDS[face]) for face in Face]
    np.testing.assert_allclose(light, 137.0 * np.array([counts, counts]))


def test_an_outlying_time_is_left_out() -> None:
    time = TIME.copy()
    brightest = LIGHT[:, :N_MPPC].argmax(axis=1)
    time[np.arange(len(time)), brightest] += 30.0
    gamma = conventional_gamma(LIGHT, time, ALIVE, ALIVE, GEOMETRY, PLAIN)
    np.testing.assert_allclose(gamma.gamma_time, T0, atol=1e-3)
    hits = times.time_hits(LIGHT, time, ALIVE, ALIVE, SOURCES, GEOMETRY)
    corrected = hits.time - SLOWNESS * hits.distance
    plain = np.bincount(hits.event, hits.weight * corrected) / np.bincount(hits.event, hits.weight)
    assert (plain - T0 > 5e-3).all()  # without the rejection the mean is late


def test_dim_times_do_not_count_unless_there_is_nothing_else() -> None:
    npho = np.full((2, N_CHANNELS), 1000.0)
    npho[:, 100:] = 150.0  # 18 photoelectrons of an MPPC, 24 of a PMT
    npho[1] = 1.0
    npho[1, 7] = 110.0
    centre = SOURCES[:2]
    alive = np.ones(npho.shape, np.bool_)
    hits = times.time_hits(npho, np.zeros_like(npho), alive, alive, centre, GEOMETRY)
    first = np.flatnonzero(hits.event == 0)
    assert len(first) == 100 + (~IS_MPPC).sum()
    assert (hits.event == 1).sum() == 1
    assert hits.is_mppc[-1]
    none = times.time_hits(npho, npho, alive, ~alive, centre, GEOMETRY)
    answer = times.conventional_time(none, centre, np.ones(2), PLAIN.time)
    assert np.isnan(answer).all()


def test_without_a_fit_the_weighted_mean_serves_and_without_light_nothing() -> None:
    truth = default_constants().position
    uvw = SOURCES[:2].copy()
    centre = LightCentre(uvw, np.array([True, False]))
    answer = positions.conventional_position(centre, np.full(2, SIGNAL_ENERGY), truth)
    for row, way in enumerate((truth.fit, truth.mean)):
        u, _, w = uvw[row]
        assert answer[row, 0] == pytest.approx(u * (way.u[0] + way.u[1] * w))
        assert answer[row, 2] == pytest.approx(way.w[0] + way.w[1] * w)
    assert truth.fit != truth.mean
    npho, time, valid, time_valid = (values[:2].copy() for values in simulated())
    npho[0] = -0.5
    valid[1, :N_MPPC] = False
    gamma = conventional_gamma(npho, time, valid, time_valid, GEOMETRY)
    for name in FIELDS:
        assert np.isnan(getattr(gamma, name)).all()


@pytest.mark.parametrize("junk", [np.nan, 1e10, -999.0])
def test_what_stands_at_dead_sensors_is_not_read(junk: float) -> None:
    npho, time, valid, time_valid = simulated()
    spoilt = conventional_gamma(
        np.where(valid, npho, junk), np.where(time_valid, time, junk), valid, time_valid, GEOMETRY
    )
    assert same(spoilt, conventional_gamma(npho, time, valid, time_valid, GEOMETRY))
    assert np.isfinite(spoilt.energy).all()
    assert np.isfinite(spoilt.gamma_time).all()
    # A live sensor is read: the comparison can fail.
    other = conventional_gamma(npho * 1.01, time, valid, time_valid, GEOMETRY)
    assert not same(spoilt, other)


def test_an_event_does_not_depend_on_its_batch() -> None:
    event = simulated()
    whole = conventional_gamma(*event, GEOMETRY)
    order = np.random.default_rng(4).permutation(len(event[0]))
    shuffled = conventional_gamma(*(values[order] for values in event), GEOMETRY)
    alone = [
        conventional_gamma(*(values[row : row + 1] for values in event), GEOMETRY)
        for row in range(len(event[0]))
    ]
    for name in FIELDS:
        values = getattr(whole, name)
        np.testing.assert_array_equal(values[order], getattr(shuffled, name))
        single = np.concatenate([getattr(gamma, name) for gamma in alone])
        np.testing.assert_array_equal(values, single)
    empty = conventional_gamma(*(values[:0] for values in event), GEOMETRY)
    assert (empty.uvw.shape, empty.energy.shape, empty.angle.shape) == ((0, 3), (0,), (0, 2))


@pytest.mark.parametrize(
    ("permutation", "signs"), [(mirror_z(), (-1, 1, 1)), (mirror_y(), (1, -1, 1))]
)
def test_mirrored_events_are_measured_alike(
    permutation: np.ndarray, signs: tuple[int, int, int]
) -> None:
    event = simulated()
    gamma = conventional_gamma(*event, GEOMETRY)
    mirrored = conventional_gamma(*(values[:, permutation] for values in event), GEOMETRY)
    np.testing.assert_allclose(mirrored.uvw, gamma.uvw * signs, atol=1e-4)
    np.testing.assert_allclose(mirrored.energy, gamma.energy, rtol=1e-5)
    np.testing.assert_allclose(mirrored.gamma_time, gamma.gamma_time, atol=1e-4)
    theta, phi = gamma.angle.T
    expected = (180 - theta, phi) if signs[0] < 0 else (theta, -phi)
    np.testing.assert_allclose(mirrored.angle, np.stack(expected, axis=1), atol=1e-3)


def some_centres(seed: int, events: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.uniform([-24, -68, 0.5], [24, 68, 20], (events, 3))


def test_the_fit_of_the_position_finds_known_constants() -> None:
    known = Correction((0.97, -0.002, 0.01), (1.01, 0.001, -0.02), (-2.0, 0.9, -0.5, -0.1))
    centre, energy = some_centres(5, 500), np.random.default_rng(6).uniform(15, 60, 500)
    log = np.log(energy / SIGNAL_ENERGY)
    u, v, w = centre.T
    truth = np.stack(
        [
            u * (0.97 - 0.002 * w + 0.01 * log),
            v * (1.01 + 0.001 * w - 0.02 * log),
            -2.0 + 0.9 * w - 0.5 * log - 0.1 * log * w,
        ],
        axis=1,
    )
    found = positions.fit_position_correction(centre, energy, truth)
    for name in "uvw":
        np.testing.assert_allclose(getattr(found, name), getattr(known, name), atol=1e-9)


def test_the_fit_of_the_energy_finds_known_constants() -> None:
    known = default_constants().energy
    centre, rng = some_centres(7, 3000), np.random.default_rng(8)
    light = rng.uniform(1e4, 1e5, (3000, 6))
    energy = energies.conventional_energy(light, centre, known)
    light, centre, energy = light[energy > 5], centre[energy > 5], energy[energy > 5]
    found = energies.fit_energy_weights(light, centre, energy)
    for name in ("inner", "outer", "side", "lid"):
        np.testing.assert_allclose(getattr(found, name), getattr(known, name), atol=1e-5)


def test_the_fit_of_the_time_finds_known_constants() -> None:
    known = TimeConstants((0.2, -0.01, 0.05), 0.3, 0.09, 0.07)
    energy = np.array([52.8, 20.0, 35.0, 60.0])
    centre = SOURCES
    log, depth = np.log(energy / SIGNAL_ENERGY), centre[:, 2]
    late = (0.2 - 0.01 * depth + 0.05 * log)[:, None] + np.where(
        IS_MPPC, 0.09 / SLOWNESS * FLIGHT, 0.3 + 0.07 / SLOWNESS * FLIGHT
    )
    hits = times.time_hits(LIGHT, T0[:, None] + late, ALIVE, ALIVE, centre, GEOMETRY)
    found = times.fit_time_constants(hits, centre, energy, T0)
    np.testing.assert_allclose(found.event, known.event, atol=1e-9)
    assert found.pmt_delay == pytest.approx(known.pmt_delay)
    assert found.mppc_slowness == pytest.approx(known.mppc_slowness)
    assert found.pmt_slowness == pytest.approx(known.pmt_slowness)


def test_a_tail_does_not_pull_the_constants() -> None:
    rng = np.random.default_rng(9)
    features = np.stack([np.ones(4000), rng.uniform(0, 1, 4000)], axis=1)
    target = features @ [3.0, 2.0] + rng.normal(0, 0.1, 4000)
    target[:400] -= rng.exponential(2.0, 400)  # leakage: on one side
    found = trimmed_least_squares(features, target)
    np.testing.assert_allclose(found, [3.0, 2.0], atol=0.03)
    plain = np.linalg.lstsq(features, target, rcond=None)[0]
    assert abs(plain @ [1, 0.5] - 4.0) > 0.1


def test_too_few_events_are_refused() -> None:
    with pytest.raises(UsageError, match="19 usable events cannot fix 2 constants"):
        trimmed_least_squares(np.ones((19, 2)), np.ones(19))


def test_constants_survive_their_file() -> None:
    constants = default_constants()
    assert GammaConstants.from_dict(constants.as_dict()) == constants
