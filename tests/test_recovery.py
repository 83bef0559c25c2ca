"""Conventional recovery: slow loops as oracle, light with a known answer, what must not matter."""

import numpy as np
import pytest

from xec.detector.channels import FACE_IDS, N_CHANNELS, N_MPPC, Face
from xec.detector.coordinates import uvw_from_xyz, xyz_from_uvw
from xec.detector.geometry import mirror_y, mirror_z, parametric
from xec.detector.solid_angle import fractions
from xec.recovery.neighbour_average import NEIGHBOUR_RADIUS, NeighbourSums, neighbour_average
from xec.recovery.solid_angle import solid_angle_ratio
from xec.recovery.vertex import conventional_vertex

GEOMETRY = parametric()
POSITION = GEOMETRY.position

VERTEX = xyz_from_uvw(np.array([[5.0, -12.0, 3.0], [-14.0, 40.0, 8.0], [2.0, 1.0, 25.0]]))
LIGHT = 3e6 * fractions(GEOMETRY, VERTEX)

# One sensor in the middle, at a corner, and at a border of every face.
SAMPLE = [2046, 0, 43, 1980, 4200, 4092, 4308, 4380, 4451, 4500, 4596, 4630, 4741, 4745]


def neighbours(target: int) -> np.ndarray:
    face = next(ids for ids in FACE_IDS.values() if target in ids)
    near = np.linalg.norm(POSITION[face] - POSITION[target], axis=1) <= 20.0
    return face[near & (face != target)]


def some_dead(seed: int, events: int) -> np.ndarray:
    """Valid bits with single dead sensors and a dead board."""
    valid = np.random.default_rng(seed).random((events, N_CHANNELS)) > 0.02
    valid[:, 2000:2016] = False
    return valid


def some_counts(seed: int, events: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.gamma(0.3, 200, (events, N_CHANNELS)) - 1


def test_average_equals_the_loop() -> None:
    npho, valid = some_counts(1, 3), some_dead(2, 3)
    got = neighbour_average(npho, valid, GEOMETRY)
    for event in range(3):
        for target in SAMPLE:
            live = [i for i in neighbours(target) if valid[event, i]]
            expected = sum(npho[event, i] for i in live) / len(live)
            assert got[event, target] == pytest.approx(expected, rel=1e-9)


def test_ratio_equals_the_loop_and_is_no_mean_of_ratios() -> None:
    npho, valid = 20 * some_counts(3, 3), some_dead(4, 3)
    got = solid_angle_ratio(npho, valid, VERTEX, GEOMETRY)
    omega = fractions(GEOMETRY, VERTEX)
    for event in range(3):
        for target in (2046, 4200, 4380, 4630):
            live = [i for i in neighbours(target) if valid[event, i] and omega[event, i] > 0]
            hidden = [i for i in neighbours(target) if valid[event, i] and omega[event, i] == 0]
            light = sum(npho[event, i] for i in live + hidden)
            assert light > 50
            expected = light * omega[event, target] / sum(omega[event, i] for i in live)
            assert got[event, target] == pytest.approx(expected, rel=1e-8)
            if omega[event, target] > 0:
                mean_of_ratios = omega[event, target] * np.mean(
                    npho[event, live] / omega[event, live]
                )
                assert got[event, target] != pytest.approx(mean_of_ratios, rel=1e-3)
    assert (omega[:, [2046, 4200, 4380, 4630]] > 0).sum() >= 9


def test_uniform_light_is_returned() -> None:
    npho = np.full((2, N_CHANNELS), 137.0)
    np.testing.assert_allclose(neighbour_average(npho, some_dead(5, 2), GEOMETRY), 137, rtol=1e-9)


def test_point_source_is_exact_by_solid_angle_and_not_by_average() -> None:
    valid = some_dead(6, len(VERTEX))
    ratio = solid_angle_ratio(LIGHT, valid, VERTEX, GEOMETRY)
    seen = LIGHT > 1
    np.testing.assert_allclose(ratio[seen], LIGHT[seen], rtol=1e-7)
    average = neighbour_average(LIGHT, valid, GEOMETRY)
    bright = LIGHT > 100
    error = np.abs(average[bright] / LIGHT[bright] - 1)
    assert np.median(error) > 0.1
    assert error.max() > 1


def test_a_wrong_vertex_spoils_the_ratio() -> None:
    valid = np.ones(LIGHT.shape, dtype=bool)
    moved = VERTEX + np.array([0.0, 3.0, 0.0])
    ratio = solid_angle_ratio(LIGHT, valid, moved, GEOMETRY)
    bright = LIGHT > 1000
    assert np.abs(ratio[bright] / LIGHT[bright] - 1).max() > 0.2


@pytest.mark.parametrize("junk", [np.nan, 1e10, -999.0])
def test_what_stands_at_dead_sensors_is_not_read(junk: float) -> None:
    valid = some_dead(7, len(VERTEX))
    spoilt = np.where(valid, LIGHT, junk)
    clean = np.where(valid, LIGHT, 0.0)
    for method in (
        neighbour_average,
        lambda npho, valid, geometry: solid_angle_ratio(npho, valid, VERTEX, geometry),
        conventional_vertex,
    ):
        np.testing.assert_array_equal(
            method(spoilt, valid, GEOMETRY), method(clean, valid, GEOMETRY)
        )


@pytest.mark.parametrize("sensor", [2046, 4200, 4630])
def test_a_sensor_informs_its_neighbours_and_never_itself(sensor: int) -> None:
    valid = np.ones((1, N_CHANNELS), dtype=bool)
    npho = np.full((1, N_CHANNELS), 100.0)
    raised = npho.copy()
    raised[0, sensor] = 5000.0
    change = neighbour_average(raised, valid, GEOMETRY) - neighbour_average(npho, valid, GEOMETRY)
    changed = np.flatnonzero(np.abs(change[0]) > 1e-6)
    np.testing.assert_array_equal(changed, np.sort(neighbours(sensor)))


def test_without_live_neighbours_there_is_no_answer() -> None:
    valid = np.ones((1, N_CHANNELS), dtype=bool)
    valid[:, FACE_IDS[Face.TOP]] = False
    valid[:, neighbours(2046)] = False
    npho = np.full((1, N_CHANNELS), 100.0)
    for answer in (
        neighbour_average(npho, valid, GEOMETRY),
        solid_angle_ratio(npho, valid, VERTEX[:1], GEOMETRY),
    ):
        missing = np.flatnonzero(np.isnan(answer[0]))
        assert set(FACE_IDS[Face.TOP]) | {2046} == set(missing)


def test_dim_neighbours_are_averaged() -> None:
    valid = np.ones((2, N_CHANNELS), dtype=bool)
    near = neighbours(2046)
    npho = np.zeros((2, N_CHANNELS))
    npho[0, near] = 49.9 / len(near)
    npho[1, near] = 50.1 / len(near)
    vertex = np.repeat(POSITION[[2046]] + GEOMETRY.normal[[2046]] * 3, 2, axis=0)
    ratio = solid_angle_ratio(npho, valid, vertex, GEOMETRY)[:, 2046]
    average = neighbour_average(npho, valid, GEOMETRY)[:, 2046]
    assert ratio[0] == pytest.approx(average[0])
    assert ratio[1] > 5 * average[1]


def test_hidden_and_unknown_vertices_fall_back_to_the_average() -> None:
    valid = np.ones((2, N_CHANNELS), dtype=bool)
    npho = np.full((2, N_CHANNELS), 30.0)
    inside_the_bore = np.array([-40.0, 0.0, 0.0])
    vertex = np.stack([inside_the_bore, np.full(3, np.nan)])
    ratio = solid_angle_ratio(npho, valid, vertex, GEOMETRY)
    np.testing.assert_allclose(ratio[0, :N_MPPC], 30)
    np.testing.assert_allclose(ratio[1], 30)


@pytest.mark.parametrize(
    ("permutation", "signs"), [(mirror_z(), (1, 1, -1)), (mirror_y(), (1, -1, 1))]
)
def test_mirrored_events_are_recovered_alike(
    permutation: np.ndarray, signs: tuple[int, int, int]
) -> None:
    npho, valid = some_counts(8, 2), some_dead(9, 2)
    mirrored = npho[:, permutation], valid[:, permutation]
    np.testing.assert_allclose(
        neighbour_average(*mirrored, GEOMETRY),
        neighbour_average(npho, valid, GEOMETRY)[:, permutation],
        rtol=1e-9,
    )
    np.testing.assert_allclose(
        solid_angle_ratio(*mirrored, VERTEX[:2] * signs, GEOMETRY),
        solid_angle_ratio(npho, valid, VERTEX[:2], GEOMETRY)[:, permutation],
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        conventional_vertex(*mirrored, GEOMETRY),
        conventional_vertex(npho, valid, GEOMETRY) * signs,
        atol=1e-9,
    )


def test_an_event_does_not_depend_on_its_batch() -> None:
    npho, valid = some_counts(10, 3).astype(np.float32), some_dead(11, 3)
    vertex = conventional_vertex(npho, valid, GEOMETRY)
    whole = solid_angle_ratio(npho, valid, vertex, GEOMETRY)
    own_vertex = conventional_vertex(npho[1:2], valid[1:2], GEOMETRY)
    alone = solid_angle_ratio(npho[1:2], valid[1:2], own_vertex, GEOMETRY)
    np.testing.assert_array_equal(whole[1:2], alone)
    assert neighbour_average(npho[:0], valid[:0], GEOMETRY).shape == (0, N_CHANNELS)


def test_sums_over_a_small_radius_are_those_of_the_grid() -> None:
    ones = np.ones((1, N_CHANNELS))
    inner = NeighbourSums(GEOMETRY, 1.6)(ones)[0, :N_MPPC].reshape(93, 44)
    assert (inner[1:-1, 1:-1] == 4).all()
    assert inner[0, 0] == 2
    assert (inner[0, 1:-1] == 3).all()
    assert NEIGHBOUR_RADIUS == 20.0


@pytest.mark.parametrize("depth", [2.0, 4.0, 8.0])
@pytest.mark.parametrize("v", [0.0, 31.7, -50.2])
def test_conventional_vertex_finds_a_point_source(depth: float, v: float) -> None:
    truth = np.array([[3.3, v, depth]])
    npho = 1e6 * fractions(GEOMETRY, xyz_from_uvw(truth))
    valid = np.ones((1, N_CHANNELS), dtype=bool)
    found = uvw_from_xyz(conventional_vertex(npho, valid, GEOMETRY))
    np.testing.assert_allclose(found[0, :2], truth[0, :2], atol=0.25)
    np.testing.assert_allclose(found[0, 2], depth, rtol=0.1)
    brighter = conventional_vertex(50 * npho, valid, GEOMETRY)
    np.testing.assert_allclose(uvw_from_xyz(brighter), found, rtol=1e-9, atol=1e-9)


def test_conventional_vertex_of_a_dark_event_is_unknown() -> None:
    npho = np.full((3, N_CHANNELS), -0.5)
    npho[1:, :N_MPPC] = 20.0
    valid = np.ones((3, N_CHANNELS), dtype=bool)
    valid[2, :N_MPPC] = False
    vertex = conventional_vertex(npho, valid, GEOMETRY)
    assert np.isnan(vertex).all(axis=1).tolist() == [True, False, True]
