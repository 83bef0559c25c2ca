"""The checker finds each kind of fault, and the set of seen ids is a set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support_spool import ids
from xec.errors import FileError
from xec_client.daq.spool.accounting import Accounting
from xec_client.daq.spool.check import check, read_ledger
from xec_client.daq.spool.contents import Contents
from xec_client.daq.spool.gap_table import GapRange, GapReason
from xec_client.daq.spool.ids import EventId
from xec_client.daq.spool.quarantine import DamageReport, Rejection
from xec_client.daq.spool.seen import SeenIds

A, B, C, D, E, F = ids(6)
OFFERED = {event_id: f"digest of {event_id.event}" for event_id in (A, B, C, D, E, F)}
GAP = GapRange(E, F, 2, GapReason.SPOOL_FULL, 1.0, 2.0)
DAMAGE = DamageReport("1", 128, 50, (C,), 0, 1.0)
CONTENTS = Contents((D,), (Rejection(B, "NaN", 1.0),), (DAMAGE,), (GAP,))
RESULTS = [(A, OFFERED[A])]


def test_each_event_in_one_state_is_clean() -> None:
    verdict = check(OFFERED, RESULTS, CONTENTS)
    assert verdict.is_clean
    numbers = (verdict.results, verdict.quarantined, verdict.spooled, verdict.gap)
    assert numbers == (1, 2, 1, 2)
    assert sum(numbers) == verdict.offered
    assert str(verdict).startswith("0 lost of 6 offered: 1 results, 2 quarantined, 1 spooled, 2")


@pytest.mark.parametrize(
    ("contents", "lost"),
    [
        (replace(CONTENTS, spooled=()), D),
        (replace(CONTENTS, rejected=()), B),
        (replace(CONTENTS, damage=()), C),
        (replace(CONTENTS, gaps=(replace(GAP, first=F, count=1),)), E),
        # A range that is not exact accounts for as many as it counts, not for all between.
        (replace(CONTENTS, gaps=(replace(GAP, first=A, count=1),)), F),
    ],
)
def test_an_event_in_no_state_is_lost(contents: Contents, lost: EventId) -> None:
    assert check(OFFERED, RESULTS, contents).lost == (lost,)


def test_damage_without_readable_ids_accounts_for_its_number() -> None:
    damage = replace(DAMAGE, ids=(), unreadable=1)
    assert check(OFFERED, RESULTS, replace(CONTENTS, damage=(damage,))).is_clean
    nobody = replace(CONTENTS, damage=(damage,), spooled=())
    assert len(check(OFFERED, RESULTS, nobody).lost) == 1


def test_a_result_that_should_not_be_is_seen() -> None:
    stranger = EventId(99, 1)
    assert check(OFFERED, [*RESULTS, (stranger, "x")], CONTENTS).invented == (stranger,)
    assert check(OFFERED, [*RESULTS, *RESULTS], CONTENTS).doubled == (A,)
    altered = check(OFFERED, [(A, OFFERED[B])], CONTENTS)
    assert altered.altered == (A,)
    assert not altered.is_clean


def test_an_event_of_the_gap_ledger_that_came_again_is_a_result() -> None:
    verdict = check(OFFERED, [*RESULTS, (E, OFFERED[E])], CONTENTS)
    assert (verdict.is_clean, verdict.gap, verdict.filled) == (True, 1, 1)


def test_a_ledger_is_read_without_its_cut_end(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    path.write_text("7 1 aa\n7 2 bb\n7 3 c")
    assert read_ledger(path) == {EventId(7, 1): "aa", EventId(7, 2): "bb"}
    path.write_text("7 1 aa\nseven 2 bb\n")
    with pytest.raises(FileError, match="line 2: not a run, an event and a digest"):
        read_ledger(path)


def test_the_law_is_a_sum() -> None:
    accounting = Accounting(10, 2, 4, 1, 1, 3, 1, {GapReason.SPOOL_FULL: 2})
    assert accounting.unaccounted == 0
    assert accounting.analysed == pytest.approx(4 / 12)
    assert replace(accounting, spooled=2).unaccounted == 1
    assert replace(accounting, offered=0, carried=0, results=0).analysed == 1.0


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-3, 12))))
def test_seen_ids_are_a_set(pairs: list[tuple[int, int]]) -> None:
    seen, plain = SeenIds(), set[EventId]()
    for pair in pairs:
        event_id = EventId(*pair)
        assert seen.add(event_id) == (event_id not in plain)
        plain.add(event_id)
    assert list(seen) == sorted(plain)
    assert len(seen) == len(plain)
    assert all((i in seen) == (i in plain) for r in range(3) for i in ids(14, run=r))
    assert SeenIds(plain).stretches == sum(EventId(i.run, i.event - 1) not in plain for i in plain)
