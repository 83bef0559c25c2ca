"""Tables of dead lists with intervals in text form."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support_conditions import LISTS, N_RUNS, replayed, revisions
from xec.conditions.dead_list import DeadList
from xec.conditions.intervals import LAST_RUN, Runs, Timeline, Validity
from xec.conditions.revisions import Change
from xec.conditions.table_text import HEADER, is_table, parse_table, ranges_of, table_lines
from xec.conditions.text_file import read_text, write_text
from xec.errors import ConditionsError

BY_ID = {dead.list_id: dead for dead in LISTS}


def parsed(*lines: str) -> list[Change]:
    return parse_table("\n".join((HEADER, *lines)), "lists.txt")


def test_a_table_by_hand() -> None:
    text = (
        "# from the elog\r\n\n  first_run   last_run\tchannels # header\n"
        "400 449 17,18, 300-302\n450 - none # nothing is dead\n 300 350 unknown\n"
    )
    assert is_table(text)
    assert parse_table(text, "x") == [
        Change(Runs(400, 449), DeadList.of((17, 18, 300, 301, 302))),
        Change(Runs(450), DeadList.of(())),
        Change(Runs(300, 350), None),
    ]


@given(revisions())
def test_what_is_written_is_read_again(changes: list[Change]) -> None:
    known = [change for change in changes if change.dead_list is not None]
    validities = [Validity(c.runs, c.dead_list.list_id) for c in known if c.dead_list is not None]
    timeline = Timeline.of([(1, validities)])
    lines = list(table_lines(timeline, BY_ID.__getitem__, ["a comment"]))
    assert lines[:2] == ["# a comment", HEADER]
    if known:
        again = parse_table("\n".join(lines), "x")
        assert replayed([again]) == replayed([known])
        assert {c.runs.last == LAST_RUN for c in again} == {c.runs.last == LAST_RUN for c in known}
    assert len(lines) == 2 + len(timeline.segments)
    assert all(run in range(N_RUNS + 10) for run in replayed([known]))


@given(st.sets(st.integers(0, 4759), min_size=1, max_size=40))
def test_ranges_name_the_same_channels(channels: set[int]) -> None:
    dead = DeadList.of(channels)
    (change,) = parsed(f"1 2 {ranges_of(dead.channels)}")
    assert change.dead_list == dead


def test_three_in_a_row_make_a_range() -> None:
    assert ranges_of((1, 2, 4, 5, 6, 9)) == "1,2,4-6,9"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("400 449", "line 2: a line holds first_run last_run channels"),
        ("x 449 1", "'x' is no run number"),
        ("-1 449 1", "'-1' is no run number"),
        ("400 ٤٤٩ 1", "is no run number"),
        (f"400 {LAST_RUN + 1} 1", "is no run number"),
        ("9" * 5000 + " - 1", "is no run number"),
        ("449 400 1", "the interval ends before it begins"),
        ("400 449 4760", "'4760' is no channel id (0 to 4759)"),
        ("400 449 1,,2", "'' is no channel id"),
        ("400 449 1 2", "'1 2' is no channel id"),
        ("400 449 20-10", "the range 20-10 runs backwards"),
        ("400 449 10-4760", "'4760' is no end of a range"),
        ("400 449 None", "'None' is no channel id"),
    ],
)
def test_errors_name_the_line(line: str, message: str) -> None:
    with pytest.raises(ConditionsError) as caught:
        parsed(line, "500 - none")
    assert str(caught.value).startswith("lists.txt, line 2: ")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 150


def test_tables_that_contradict_themselves_or_say_nothing() -> None:
    with pytest.raises(ConditionsError, match=r"lists\.txt: Runs 1 to 5 and runs 5 to 6 overlap"):
        parsed("5 6 none", "1 5 17")
    with pytest.raises(ConditionsError, match="holds no interval"):
        parsed("# nothing")
    with pytest.raises(ConditionsError, match="begins with 'first_run"):
        parse_table("17\n18\n", "lists.txt")
    assert not is_table("")
    assert not is_table("17\n" + HEADER)


@given(st.text(max_size=80))
def test_no_text_breaks_the_reader(text: str) -> None:
    """Whatever it is, it is intervals or a sentence."""
    try:
        changes = parse_table(f"{HEADER}\n{text}", "x")
    except ConditionsError:
        return
    assert all(change.runs.first <= change.runs.last for change in changes)


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lists.txt"
    write_text(path, [HEADER, "1 - none"])
    assert read_text(path) == f"{HEADER}\n1 - none\n"
    path.write_bytes(b"\xef\xbb\xbf" + HEADER.encode())
    assert is_table(read_text(path))

    def broken():  # type: ignore[no-untyped-def]
        yield "half"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_text(path, broken())
    assert is_table(read_text(path))
    assert [file.name for file in tmp_path.iterdir()] == ["lists.txt"]
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    monkeypatch.setattr("xec.conditions.text_file.MAX_BYTES", 10)
    for wrong, message in ((binary, "not text"), (path, "longer than"), (tmp_path, "cannot be")):
        with pytest.raises(ConditionsError, match=message):
            read_text(wrong)
    with pytest.raises(ConditionsError, match="does not exist"):
        read_text(tmp_path / "absent")
    with pytest.raises(ConditionsError, match="cannot be written"):
        write_text(tmp_path / "absent" / "x", [])
