"""Neighbours: brute force, the known counts of the hexagonal faces, and edge offsets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xec.detector.adjacency import HEXAGONAL_RADIUS, edge_offsets, edges_within, face_edges
from xec.detector.channels import FACE_IDS, HEXAGONAL_ROWS, TOP_IDS, Face
from xec.detector.coordinates import REFF
from xec.detector.geometry import mirror_y, mirror_z, parametric

HEXAGONAL = pytest.mark.parametrize("face", [Face.TOP, Face.BOTTOM])


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 60), radius=st.floats(0.01, 3))
def test_edges_are_those_of_the_distance_matrix(seed: int, n: int, radius: float) -> None:
    position = np.random.default_rng(seed).uniform(-1, 1, (n, 3))
    distance = np.linalg.norm(position[:, None] - position, axis=2)
    near = (distance <= radius) & ~np.eye(n, dtype=bool)
    # np.nonzero walks by source, then target: the promised order.
    edges = edges_within(position, radius)
    np.testing.assert_array_equal(edges, np.stack(np.nonzero(near)))
    assert edges.dtype == np.int64


@HEXAGONAL
def test_hexagonal_faces_have_the_known_graph(face: Face) -> None:
    edges = face_edges(parametric(), face, HEXAGONAL_RADIUS)
    assert edges.shape == (2, 2 * 183)
    degrees = np.bincount(edges[0], minlength=73)
    assert dict(zip(*np.unique(degrees, return_counts=True), strict=True)) == {
        2: 2,
        3: 4,
        4: 25,
        5: 2,
        6: 40,
    }


@HEXAGONAL
def test_hexagonal_shells(face: Face) -> None:
    distance = edge_offsets(parametric(), face, face_edges(parametric(), face, 12.0))[:, 2]
    shells = np.unique(distance.round(2))
    np.testing.assert_allclose(shells[:3], [6.12, 7.56, 11.49], atol=0.011)


def parity_rule_edges() -> set[tuple[int, int]]:
    """Neighbours as for rows that are shifted alternately: the rule that fails here."""
    first = np.concatenate([[0], np.cumsum(HEXAGONAL_ROWS)])
    edges = set()
    for row, length in enumerate(HEXAGONAL_ROWS):
        for column in range(length):
            here = first[row] + column
            if column + 1 < length:
                edges.add((here, here + 1))
            if row + 1 < len(HEXAGONAL_ROWS):
                shift = 0 if row % 2 == 0 else -1
                for other in (column + shift, column + shift + 1):
                    if 0 <= other < HEXAGONAL_ROWS[row + 1]:
                        edges.add((here, first[row + 1] + other))
    return edges


def test_a_parity_rule_joins_wrong_sensors() -> None:
    position = parametric().position[TOP_IDS]
    by_radius = {(a, b) for a, b in edges_within(position, HEXAGONAL_RADIUS).T if a < b}
    by_parity = parity_rule_edges()
    # The rule is right while the rows alternate, wrong once they keep growing.
    alternating = int(sum(HEXAGONAL_ROWS[:4]))
    assert {e for e in by_parity if max(e) < alternating} == {
        e for e in by_radius if max(e) < alternating
    }
    assert by_parity != by_radius
    assert max(np.linalg.norm(position[a] - position[b]) for a, b in by_parity) > 11


def test_hexagonal_offsets_are_plane_coordinates() -> None:
    edges = face_edges(parametric(), Face.TOP, HEXAGONAL_RADIUS)
    along, across, distance = edge_offsets(parametric(), Face.TOP, edges).T
    np.testing.assert_allclose(np.hypot(along, across), distance, atol=1e-9)
    np.testing.assert_allclose(np.unique(across.round(6)), [-6.91, 0, 6.91])


def test_inner_offsets_unroll_the_cylinder() -> None:
    edges = np.array([[0, 0, 0, 44], [1, 44, 45, 0]])
    offsets = edge_offsets(parametric(), Face.INNER, edges)
    arc = REFF * np.radians(125.52 / 93)
    pitch = 1.5097721
    expected = [[pitch, 0], [0, -arc], [pitch, -arc], [0, arc]]
    np.testing.assert_allclose(offsets[:, :2], expected, atol=1e-9)
    chord = 2 * REFF * np.sin(np.radians(125.52 / 93) / 2)
    np.testing.assert_allclose(
        offsets[:, 2], np.hypot([pitch, 0, pitch, 0], [0, chord, chord, chord])
    )


@pytest.mark.parametrize("face", [Face.US, Face.DS])
def test_side_offsets_follow_the_slope(face: Face) -> None:
    edges = np.array([[0, 1, 0], [1, 0, 6]])
    offsets = edge_offsets(parametric(), face, edges)
    step = np.hypot(6.684, 2.3369)
    np.testing.assert_allclose(offsets[:, 0], [step, -step, 0], atol=1e-9)
    np.testing.assert_allclose(offsets[:, 1], [0, 0, -69.53 * np.radians(5.23)], atol=1e-9)
    np.testing.assert_allclose(offsets[:2, 2], step)


@pytest.mark.parametrize("face", list(Face))
def test_offsets_change_sign_with_the_direction_of_the_edge(face: Face) -> None:
    edges = face_edges(parametric(), face, 9.0)
    assert edges.shape[1] > 0
    forth = edge_offsets(parametric(), face, edges)
    back = edge_offsets(parametric(), face, edges[::-1])
    np.testing.assert_allclose(forth, back * [-1, -1, 1], atol=1e-9)
    # The arc is never shorter than the chord, and hardly longer between neighbours.
    plane = np.hypot(forth[:, 0], forth[:, 1])
    np.testing.assert_allclose(plane, forth[:, 2], rtol=5e-3)


@pytest.mark.parametrize("face", [Face.INNER, Face.OUTER])
@pytest.mark.parametrize(
    ("permutation", "signs"), [(mirror_z(), (-1, 1, 1)), (mirror_y(), (1, -1, 1))]
)
def test_mirrored_edges_have_mirrored_offsets(
    face: Face, permutation: np.ndarray, signs: tuple[int, int, int]
) -> None:
    ids = FACE_IDS[face]
    image = np.argsort(ids)[np.searchsorted(ids, permutation[ids], sorter=np.argsort(ids))]
    edges = face_edges(parametric(), face, 9.0)
    np.testing.assert_allclose(
        edge_offsets(parametric(), face, image[edges]),
        edge_offsets(parametric(), face, edges) * signs,
        atol=1e-9,
    )
