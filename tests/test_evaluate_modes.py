"""What is masked: the three modes, drawn dead lists, and differences from the truth."""

from __future__ import annotations

import numpy as np
import pytest

from support_evaluate import simulate, whole
from xec.conditions.dead_list import DeadList
from xec.detector.channels import FACE_IDS, INNER_GRID, N_CHANNELS, N_MPPC, Face
from xec.detector.coordinates import REFF, direction_from_angles
from xec.detector.geometry import parametric
from xec.io.root_columns import EventChunk
from xec_evaluation.filling import dead_neighbours
from xec_evaluation.modes import Artificial, Front, Pseudo, fixed_list, no_list
from xec_evaluation.patterns import DrawnLists, Pattern, Redraw, draw
from xec_evaluation.quantities import errors


@pytest.fixture(scope="module")
def chunk(tmp_path_factory: pytest.TempPathFactory) -> EventChunk:
    return whole(simulate(tmp_path_factory.mktemp("modes") / "events.root", 300, 5))


def test_pseudo_hides_the_list_and_knows_what_it_would_have_read(chunk: EventChunk) -> None:
    dead = DeadList.of([3, 500, 4100])
    masked = Pseudo(fixed_list(dead))(chunk)
    np.testing.assert_array_equal(masked.asked, np.tile(dead.mask, (len(chunk), 1)))
    assert not masked.events.npho_valid[masked.asked].any()
    assert not masked.events.npho[masked.asked].any()
    assert chunk.npho_reference is not None
    np.testing.assert_array_equal(masked.reading[masked.asked], chunk.npho_reference[masked.asked])
    others = ~masked.asked
    np.testing.assert_array_equal(masked.events.npho[others], chunk.events.npho[others])


def test_pseudo_without_a_list_takes_that_of_the_file(chunk: EventChunk) -> None:
    masked = Pseudo(None)(chunk)
    assert chunk.dead is not None
    np.testing.assert_array_equal(masked.asked, chunk.dead)
    np.testing.assert_array_equal(masked.events.npho, chunk.events.npho)


def test_pseudo_on_data_asks_only_for_what_was_read(chunk: EventChunk) -> None:
    data = EventChunk(chunk.events, chunk.dead, None)
    dead = DeadList.of(range(0, N_CHANNELS, 3))
    masked = Pseudo(fixed_list(dead))(data)
    np.testing.assert_array_equal(masked.asked, dead.mask & chunk.events.npho_valid)
    assert not (dead.mask <= masked.asked).all()  # the file's own dead ones are unknown


def test_artificial_masks_ten_inner_and_one_of_each_other_live_sensors(chunk: EventChunk) -> None:
    masked = Artificial(no_list, seed=1)(chunk)
    for face, ids in FACE_IDS.items():
        assert set(masked.asked[:, ids].sum(axis=1)) == {10 if face is Face.INNER else 1}
    assert chunk.events.npho_valid[masked.asked].all()
    np.testing.assert_array_equal(masked.events.npho_valid, chunk.events.npho_valid & ~masked.asked)
    used = masked.asked[:, :N_MPPC].sum(axis=0)
    assert (used > 0).sum() > 0.4 * N_MPPC  # 3000 draws of 4092
    other = Artificial(no_list, seed=2)(chunk)
    assert (masked.asked != other.asked).any()


def test_artificial_takes_what_is_left_of_a_face(chunk: EventChunk) -> None:
    dead = DeadList.of([*range(4, N_MPPC), *FACE_IDS[Face.TOP].tolist()])
    masked = Artificial(fixed_list(dead), seed=1)(chunk)
    np.testing.assert_array_equal(
        masked.asked[:, :N_MPPC], chunk.events.npho_valid[:, :N_MPPC] & (np.arange(N_MPPC) < 4)
    )
    assert not masked.asked[:, FACE_IDS[Face.TOP]].any()


def test_front_masks_the_sensor_before_the_conversion(chunk: EventChunk) -> None:
    truth = chunk.events.truth
    assert truth is not None
    wanted = []
    place = parametric().position
    for row in range(len(chunk)):
        u, v, w = map(float, truth.uvw[row])
        for channel in range(N_MPPC):
            x, y, z = place[channel]
            beside = abs(z - u) < 0.5 and abs(np.arctan2(y, -x) * REFF - v) < 0.5
            if beside and 0 < w < 1 and chunk.events.npho_valid[row, channel]:
                wanted.append((int(chunk.events.event[row]), channel))
    masked = Front(no_list, parametric())(chunk)
    found = [
        (int(masked.events.event[row]), int(channel))
        for row, channel in zip(*np.nonzero(masked.asked), strict=True)
    ]
    assert found == wanted
    assert len(found) > 5
    assert masked.events.truth is not None
    assert (masked.events.truth.uvw[:, 2] < 1).all()
    assert not masked.events.npho_valid[masked.asked].any()


def test_front_needs_a_live_sensor_and_truth(chunk: EventChunk) -> None:
    everything = DeadList.of(range(N_MPPC))
    assert len(Front(fixed_list(everything), parametric())(chunk)) == 0


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        (Pattern.SINGLES, 88),
        (Pattern.BOARDS, 80),
        (Pattern.ROW, 44),
        (Pattern.FIVE_PERCENT, 238),
        (Pattern.TYPICAL, 88),
    ],
)
def test_drawn_lists_have_their_size(pattern: Pattern, count: int) -> None:
    for seed in range(10):
        assert draw(pattern, np.random.default_rng(seed)).sum() == count


def test_a_row_is_a_row_and_boards_are_rectangles_of_sixteen() -> None:
    row = draw(Pattern.ROW, np.random.default_rng(0))[INNER_GRID]
    assert sorted(row.sum(axis=1))[-1] == 44
    boards = draw(Pattern.BOARDS, np.random.default_rng(1))
    assert not boards[N_MPPC:].any()
    around = dead_neighbours(~boards[None])[0][np.flatnonzero(boards[:N_MPPC])]
    assert around.min() >= 1  # none stands alone


def test_single_sensors_fall_everywhere_equally_often() -> None:
    counts = np.sum(
        [draw(Pattern.SINGLES, np.random.default_rng(seed)) for seed in range(500)], axis=0
    )
    expected = 500 * 88 / N_CHANNELS
    assert abs(counts[:N_MPPC].mean() / expected - 1) < 0.02
    assert abs(counts[N_MPPC:].mean() / expected - 1) < 0.06


@pytest.mark.parametrize(
    ("redraw", "lists"), [(Redraw.NEVER, 1), (Redraw.RUN, 3), (Redraw.EVENT, 12)]
)
def test_lists_are_drawn_anew_as_often_as_asked(
    chunk: EventChunk, redraw: Redraw, lists: int
) -> None:
    events = chunk.events[:12]
    runs = np.repeat([7, -8, 9], 4)
    events = type(events)(
        runs, events.event, events.npho, events.time, events.npho_valid, events.time_valid
    )
    drawn = DrawnLists(Pattern.TYPICAL, redraw, seed=3)(events)
    assert len(np.unique(drawn, axis=0)) == lists
    np.testing.assert_array_equal(drawn, DrawnLists(Pattern.TYPICAL, redraw, seed=3)(events))
    assert (drawn != DrawnLists(Pattern.TYPICAL, redraw, seed=4)(events)).any()


def test_dead_neighbours_are_counted_one_by_one() -> None:
    valid = np.random.default_rng(0).random((2, N_CHANNELS)) > 0.2
    counted = dead_neighbours(valid)
    rows, columns = INNER_GRID.shape
    for row, column in ((0, 0), (0, 20), (92, 43), (50, 0), (40, 22), (41, 23)):
        near = [
            INNER_GRID[r, c]
            for r in range(max(row - 1, 0), min(row + 2, rows))
            for c in range(max(column - 1, 0), min(column + 2, columns))
            if (r, c) != (row, column)
        ]
        assert counted[1, INNER_GRID[row, column]] == sum(not valid[1, k] for k in near)


def test_differences_of_angles_and_places() -> None:
    truth = np.array([[50.0, 1.0, 1.0, 2.0, 3.0, 90.0, 179.0], [50, 1, 0, 0, 0, 90.0, 0.0]])
    estimate = np.array([[51.0, 1.5, 1.0, 2.0, 7.0, 90.0, -179.0], [49, 1, 3, 0, 0, 91, 0]])
    found = errors(estimate, truth)
    np.testing.assert_allclose(found["energy"], [1, -1])
    np.testing.assert_allclose(found["relative_energy"], [2, -2])
    np.testing.assert_allclose(found["phi"], [2, 0])  # across the seam
    np.testing.assert_allclose(found["distance"], [4, 3])  # along depth, along z
    np.testing.assert_allclose(found["opening_angle"], [2, 1])


def test_opening_angle_is_that_of_the_scalar_product() -> None:
    random = np.random.default_rng(0)
    rows = np.zeros((2, 50, 7))
    rows[..., 0] = 1
    rows[..., 5] = random.uniform(10, 170, (2, 50))
    rows[..., 6] = random.uniform(-180, 180, (2, 50))
    first, second = direction_from_angles(rows[0, :, 5:]), direction_from_angles(rows[1, :, 5:])
    wanted = np.degrees(np.arccos(np.sum(first * second, axis=1)))
    np.testing.assert_allclose(errors(rows[0], rows[1])["opening_angle"], wanted, rtol=1e-6)
