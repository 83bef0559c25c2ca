"""Dead-channel lists in text form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xec.conditions.dead_list import (
    MAX_BYTES,
    DeadList,
    parse_dead_list,
    read_dead_list,
    write_dead_list,
)
from xec.errors import ConditionsError

channel_sets = st.sets(st.integers(0, 4759), max_size=200)


def test_comments_blanks_order_and_repetition() -> None:
    text = "# dead sensors\r\n\n 17 # weak\n4759\n\t3\n#99\n17\n0003\n"
    dead = parse_dead_list(text, "x")
    assert dead.channels == (3, 17, 4759)
    assert np.flatnonzero(dead.mask).tolist() == [3, 17, 4759]
    assert dead.mask.shape == (4760,)
    assert dead.mask.dtype == np.bool_


@given(channel_sets, st.randoms())
def test_the_id_depends_on_the_channels_only(channels: set[int], random: object) -> None:
    shuffled = list(channels)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    dead = DeadList.of(shuffled)
    assert dead == DeadList.of(sorted(channels)) == DeadList.from_mask(dead.mask)
    assert len(dead) == len(channels) == np.count_nonzero(dead.mask)
    other = DeadList.of(channels ^ {7})
    assert other.list_id != dead.list_id


def test_the_id_is_a_digest_that_stays() -> None:
    """Ids are kept with results for years: sha256 of the JSON list, its first 16 digits."""
    import hashlib

    digest = hashlib.sha256(b"[3,17,4759]").hexdigest()
    assert DeadList.of([17, 3, 4759]).list_id == f"sha256:{digest[:16]}"


@given(channels=channel_sets)
def test_written_lists_return(channels: set[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "dead.txt"
    dead = DeadList.of(channels)
    write_dead_list(path, dead)
    assert read_dead_list(path) == dead


def test_an_empty_list_is_a_list_and_a_missing_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "none.txt"
    path.write_text("# nothing is dead\n")
    assert read_dead_list(path).channels == ()
    assert not read_dead_list(path).mask.any()
    with pytest.raises(ConditionsError, match=r"absent\.txt does not exist"):
        read_dead_list(tmp_path / "absent.txt")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("4760", "there is no channel 4760; ids go from 0 to 4759"),
        ("-1", "there is no channel -1"),
        ("9" * 5000, "there is no channel 9999"),
        ("abc", "'abc' is not a channel id"),
        ("12 13", "'12 13' is not a channel id; write one per line"),
        ("12,", "'12,' is not a channel id"),
        ("1.0", "'1.0' is not a channel id"),
        ("1_0", "'1_0' is not a channel id"),
        ("٣", "is not a channel id"),
        ("--1", "is not a channel id"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "list.txt"
    path.write_text(f"# first\n1\n{line}\n2\n", encoding="utf-8")
    with pytest.raises(ConditionsError) as caught:
        read_dead_list(path)
    assert f"{path}, line 3: " in str(caught.value)
    assert message in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 150


def test_files_that_are_no_lists(tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    huge = tmp_path / "huge"
    huge.write_bytes(b"1\n" * MAX_BYTES)
    for path, message in {binary: "not text", huge: "longer", tmp_path: "cannot be read"}.items():
        with pytest.raises(ConditionsError, match=message):
            read_dead_list(path)
    with pytest.raises(ConditionsError, match="cannot be written"):
        write_dead_list(tmp_path / "absent" / "list", DeadList.of([1]))


def test_a_byte_order_mark_is_no_channel(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(b"\xef\xbb\xbf17\n")
    assert read_dead_list(path).channels == (17,)


@pytest.mark.parametrize("channels", [(4760,), (-1,), (2, 1), (1, 1)])
def test_a_list_cannot_be_made_wrong(channels: tuple[int, ...]) -> None:
    with pytest.raises(ConditionsError):
        DeadList(channels, "x")


@pytest.mark.parametrize("channel", [True, np.True_, 1.5, "7"])
def test_what_is_no_channel_id_is_refused(channel: Any) -> None:
    with pytest.raises(ConditionsError, match="integer channel ids"):
        DeadList.of([3, channel])
    assert DeadList.of([np.int32(7), 3]).channels == (3, 7)
