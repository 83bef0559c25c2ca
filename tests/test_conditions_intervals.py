"""Intervals of validity: the rule where they overlap, against a replay run by run."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support_conditions import LISTS, N_RUNS, expected, replayed, revisions
from xec.conditions.dead_list import DeadList
from xec.conditions.intervals import LAST_RUN, Runs, Timeline, Validity, refuse_overlap, run_number
from xec.conditions.revisions import Change
from xec.errors import ConditionsError, RunAfterLastInterval, UnknownRun

BY_ID = {dead.list_id: dead for dead in LISTS}
histories = st.lists(revisions(), min_size=0, max_size=6)


def validities(changes: list[Change]) -> list[Validity]:
    return [
        Validity(change.runs, None if change.dead_list is None else change.dead_list.list_id)
        for change in changes
    ]


def timeline(history: list[list[Change]]) -> Timeline:
    return Timeline.of((n, validities(changes)) for n, changes in enumerate(history, start=1))


def found(line: Timeline, run: int) -> object:
    try:
        return BY_ID[line.find(run).list_id]
    except UnknownRun as error:
        return type(error)


@given(histories)
def test_every_run_has_the_list_of_its_last_revision(history: list[list[Change]]) -> None:
    line, known = timeline(history), replayed(history)
    assert [found(line, run) for run in range(N_RUNS + 9)] == [
        expected(known, run) for run in range(N_RUNS + 9)
    ]


@given(histories)
def test_segments_are_disjoint_and_ascend(history: list[list[Change]]) -> None:
    segments = timeline(history).segments
    for one, other in itertools.pairwise(segments):
        assert one.runs.last < other.runs.first
    for segment in segments:
        revision = history[segment.revision - 1]
        assert any(
            change.runs.first <= segment.runs.first and segment.runs.last <= change.runs.last
            for change in revision
        )


def test_another_rule_would_be_seen() -> None:
    """The control: were the first revision to win, the replay would say so."""
    history = [[Change(Runs(3, 9), LISTS[1])], [Change(Runs(5), LISTS[2])]]
    known = replayed(history)
    backwards = timeline(history[::-1])
    assert found(timeline(history), 7) == expected(known, 7)
    assert found(backwards, 7) != expected(known, 7)


@given(histories, revisions())
def test_changed_by_keeps_what_differs_and_nothing_else(
    history: list[list[Change]], changes: list[Change]
) -> None:
    parts = timeline(history).changed_by(validities(changes))
    refuse_overlap(parts)
    as_changes = [Change(part.runs, BY_ID.get(part.list_id or "")) for part in parts]
    before, after = replayed(history), replayed([*history, changes])
    assert replayed([*history, as_changes]) == after
    named = {run for part in parts for run in range(N_RUNS + 9) if run in part.runs}
    assert named == {
        run for run in range(N_RUNS + 9) if before.get(run) != after.get(run)
    } | {  # beyond the window an open end may differ as well, from its first run on
        run for run in named if run >= N_RUNS + 5
    }


def test_gap_end_and_beginning_are_told_apart() -> None:
    line = timeline([[Change(Runs(100, 199), LISTS[1]), Change(Runs(300, 399), LISTS[0])]])
    with pytest.raises(UnknownRun, match=r"run 250: .* gap .* after run 199 and before run 300"):
        line.find(250)
    with pytest.raises(UnknownRun, match="run 99: the first known run is 100"):
        line.find(99)
    with pytest.raises(RunAfterLastInterval, match="Run 400 comes after run 399"):
        line.find(400)
    with pytest.raises(UnknownRun, match="run 5, nor for any other") as caught:
        Timeline(()).find(5)
    assert not isinstance(caught.value, RunAfterLastInterval)
    assert [line.find(run).list_id for run in (100, 199, 300, 399)] == [
        LISTS[i].list_id for i in (1, 1, 0, 0)
    ]


def test_an_open_interval_has_no_run_after_it() -> None:
    line = timeline([[Change(Runs(5), LISTS[1])]])
    assert line.find(LAST_RUN).runs.open
    assert str(line.segments[0].runs) == "5 and later"


def test_overlaps_within_a_revision_are_refused() -> None:
    one = Validity(Runs(3, 9), LISTS[1].list_id)
    with pytest.raises(ConditionsError, match="Runs 3 to 9 and runs 9 overlap"):
        refuse_overlap([Validity(Runs(9, 9), None), one])
    refuse_overlap([one, Validity(Runs(10), None)])


@pytest.mark.parametrize(("first", "last"), [(-1, 3), (4, 3), (0, LAST_RUN + 1)])
def test_what_holds_no_run_is_no_interval(first: int, last: int) -> None:
    with pytest.raises(ConditionsError, match="are no runs"):
        Runs(first, last)


def test_run_numbers() -> None:
    import numpy as np

    assert run_number(np.int64(7)) == 7
    assert type(run_number(np.int32(7))) is int
    for wrong in (-1, LAST_RUN + 1):
        with pytest.raises(ConditionsError, match="is no run number"):
            run_number(wrong)
    assert DeadList.of(()) == LISTS[0]
