"""Positions and normals: against the experiment's tables, symmetries, and the hash."""

from pathlib import Path

import numpy as np
import pytest

from xec.detector.channels import FACE_IDS, N_CHANNELS, OUTER_PATCH_GRID, TOP_IDS, Face
from xec.detector.geometry import Geometry, load_survey, mirror_y, mirror_z, parametric
from xec.errors import FileError

DATA = Path(__file__).parents[2] / "shared" / "data"
IDEAL, SURVEY = DATA / "sensor_positions.txt", DATA / "sensor_directions.txt"

needs_data = pytest.mark.skipif(not SURVEY.exists(), reason="the tables of sensors are absent")


@needs_data
def test_parametric_positions_reproduce_the_ideal_table() -> None:
    table = np.loadtxt(IDEAL)
    np.testing.assert_array_equal(table[:, 0], np.arange(N_CHANNELS))
    np.testing.assert_allclose(parametric().position, table[:, 1:], rtol=0, atol=1e-3)


@needs_data
def test_survey_deviates_on_the_inner_face_as_known() -> None:
    survey = load_survey(SURVEY)
    off = np.linalg.norm(survey.position - parametric().position, axis=1)
    inner = off[FACE_IDS[Face.INNER]]
    assert inner.mean() == pytest.approx(0.64, abs=0.005)
    assert inner.max() == pytest.approx(1.04, abs=0.005)
    # The survey shifts every PMT by about a millimetre at most.
    assert off[4092:].max() < 0.11
    assert survey.hash != parametric().hash


@needs_data
def test_parametric_normals_agree_with_the_surveyed_ones() -> None:
    cosine = (load_survey(SURVEY).normal * parametric().normal).sum(axis=1)
    assert cosine[FACE_IDS[Face.INNER]].min() > np.cos(np.radians(1.2))
    assert cosine[4092:].min() > np.cos(np.radians(0.1))


def test_face_centroids() -> None:
    position = parametric().position
    expected = {
        Face.INNER: (-52.7, 0, 0),
        Face.US: (-70, 0, -41),
        Face.DS: (-70, 0, 41),
        Face.TOP: (-39.6, 76.9, 0),
        Face.BOTTOM: (-39.6, -76.9, 0),
    }
    for face, centroid in expected.items():
        np.testing.assert_allclose(position[FACE_IDS[face]].mean(axis=0), centroid, atol=0.35)


def test_sensors_stand_apart() -> None:
    position = parametric().position
    gaps = np.linalg.norm(position[1:] - position[:-1], axis=1)
    assert gaps.min() > 1.5
    patch = position[OUTER_PATCH_GRID]
    np.testing.assert_allclose(np.diff(patch[..., 2], axis=1), 6.2)
    assert (np.diff(patch[:, 0, 1]) < 0).all()


def test_normals_are_unit_vectors_into_the_xenon() -> None:
    geometry = parametric()
    np.testing.assert_allclose(np.linalg.norm(geometry.normal, axis=1), 1, atol=1e-15)
    middle_of_xenon = np.array([-85.0, 0.0, 0.0])
    towards = ((middle_of_xenon - geometry.position) * geometry.normal).sum(axis=1)
    flat = np.setdiff1d(np.arange(N_CHANNELS), FACE_IDS[Face.INNER])
    assert (towards[flat] > 0).all()
    radial = (geometry.position * geometry.normal)[FACE_IDS[Face.INNER]].sum(axis=1)
    np.testing.assert_allclose(radial, 64.97)


def test_side_normals_are_those_of_the_drawing() -> None:
    normal = parametric().normal[FACE_IDS[Face.US]]
    np.testing.assert_allclose(np.hypot(normal[:, 0], normal[:, 1]), 0.33, atol=5e-4)
    np.testing.assert_allclose(normal[:, 2], 0.944, atol=5e-4)


@pytest.mark.parametrize(
    ("permutation", "signs"), [(mirror_z(), (1, 1, -1)), (mirror_y(), (1, -1, 1))]
)
def test_mirrors_map_sensors_onto_sensors(
    permutation: np.ndarray, signs: tuple[int, int, int]
) -> None:
    geometry = parametric()
    np.testing.assert_allclose(
        geometry.position[permutation], geometry.position * signs, rtol=0, atol=1e-12
    )
    np.testing.assert_allclose(
        geometry.normal[permutation], geometry.normal * signs, rtol=0, atol=1e-12
    )
    np.testing.assert_array_equal(permutation[permutation], np.arange(N_CHANNELS))
    assert (permutation != np.arange(N_CHANNELS)).any()


def test_mirrors_exchange_the_faces_they_should() -> None:
    assert set(mirror_z()[FACE_IDS[Face.US]]) == set(FACE_IDS[Face.DS])
    assert set(mirror_y()[FACE_IDS[Face.TOP]]) == set(FACE_IDS[Face.BOTTOM])
    assert set(mirror_y()[FACE_IDS[Face.US]]) == set(FACE_IDS[Face.US])
    assert mirror_y()[0] == 44 * 92
    assert mirror_z()[0] == 43


def test_x_is_no_symmetry() -> None:
    geometry = parametric()
    assert not np.isclose(geometry.position[:, 0].min(), -geometry.position[:, 0].max())


# A new value here means that every trained model belongs to another detector.
PARAMETRIC_HASH = "1859bfdb9f12a532736a665ad7411c5c35b9c884379e1bc99e86d740fc909982"


def test_hash_is_pinned() -> None:
    assert parametric().hash == PARAMETRIC_HASH


def test_no_coordinate_is_so_close_to_a_rounding_edge_that_platforms_could_differ() -> None:
    values = np.concatenate([parametric().position, parametric().normal]) * 1e6
    to_edge = np.abs(values - np.floor(values) - 0.5)
    assert to_edge.min() > 1e-6  # steps; the last bit of a position is 2e-8 of a step


def test_hash_ignores_the_sign_of_zero_and_the_last_bits() -> None:
    geometry = parametric()
    position, normal = geometry.position.copy(), geometry.normal.copy()
    normal[normal == 0] = -0.0
    position *= 1 + 2.3e-16
    assert Geometry(position, normal).hash == geometry.hash


@pytest.mark.parametrize("field", ["position", "normal"])
def test_hash_sees_two_microns_and_a_swap(field: str) -> None:
    geometry = parametric()
    moved = {"position": geometry.position.copy(), "normal": geometry.normal.copy()}
    moved[field][TOP_IDS[3], 1] += 2e-4
    assert Geometry(**moved).hash != geometry.hash
    swapped = Geometry(geometry.position[mirror_z()], geometry.normal[mirror_z()])
    assert swapped.hash != geometry.hash


def survey_lines() -> list[str]:
    geometry = parametric()
    code = np.empty(N_CHANNELS, dtype=int)
    for number, ids in enumerate(FACE_IDS.values()):
        code[ids] = number
    return [
        f"{i} {' '.join(f'{value:.12f}' for value in (*normal, *position))} {code[i]}"
        for i, (normal, position) in enumerate(zip(geometry.normal, geometry.position, strict=True))
    ]


LINES = survey_lines()


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_survey_round_trip_in_any_order_with_comments(tmp_path: Path) -> None:
    lines = ["# id nx ny nz x y z face", "", *LINES[::-1]]
    lines[5] += "  # moved in 2021"
    geometry = load_survey(write(tmp_path / "survey.txt", lines))
    assert geometry.hash == parametric().hash
    np.testing.assert_allclose(np.linalg.norm(geometry.normal, axis=1), 1, atol=1e-15)


def replaced(index: int, column: int, word: str) -> list[str]:
    words = LINES[index].split()
    words[column] = word
    return [*LINES[:index], " ".join(words), *LINES[index + 1 :]]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (LINES[:-1], "lists 4759 sensors, not 4760"),
        ([*LINES, LINES[0]], "lists 4761 sensors"),
        ([], "lists 0 sensors"),
        (replaced(7, 0, "8"), "sensor 8 occurs more than once"),
        (replaced(7, 0, "4760"), "sensor id 4760 is unknown"),
        (replaced(7, 0, "-1"), "sensor id -1 is unknown"),
        (replaced(7, 0, "7.5"), "sensor id 7.5 is unknown"),
        (replaced(7, 4, "nan"), "line 8: a value is not finite"),
        (replaced(7, 6, "-inf"), "line 8: a value is not finite"),
        (replaced(7, 4, "far"), "line 8: a column is not a number"),
        (replaced(7, 1, "0.9"), "the normal of sensor 7 has length"),
        (replaced(7, 7, ""), "line 8: 7 columns"),
        (replaced(7, 7, "3"), "does not group the ids"),
    ],
)
def test_a_bad_survey_gets_one_clear_sentence(
    tmp_path: Path, lines: list[str], message: str
) -> None:
    with pytest.raises(FileError) as caught:
        load_survey(write(tmp_path / "survey.txt", lines))
    assert message in str(caught.value)
    assert "survey.txt" in str(caught.value)
    assert str(caught.value).endswith(".")


def test_a_survey_that_is_no_text_or_absent(tmp_path: Path) -> None:
    binary = tmp_path / "survey.root"
    binary.write_bytes(bytes(range(256)))
    with pytest.raises(FileError, match="not a text file"):
        load_survey(binary)
    with pytest.raises(FileError, match="cannot be read"):
        load_survey(tmp_path / "absent.txt")
