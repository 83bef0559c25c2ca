"""Event files that are foreign, cut, unclosed or of another shape: one clear sentence each."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from io_samples import random_events, raw_columns, write_events, write_raw
from xec.errors import FileError
from xec.io.root import event_count, open_events, read_events
from xec.io.root_schema import IDENTITY, META, READINGS

EVENTS = 6


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A complete file as our writer makes it."""
    path = tmp_path_factory.mktemp("ours") / "a.root"
    return write_events(path, random_events(EVENTS)).read_bytes()


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A complete file of several baskets without any note of ours."""
    path = tmp_path_factory.mktemp("foreign") / "a.root"
    columns = raw_columns(EVENTS)
    types = {name: np.dtype((array.dtype, array.shape[1:])) for name, array in columns.items()}
    with uproot.recreate(path) as file:
        tree = file.mktree("tree", types)
        for row in range(EVENTS):
            tree.extend({name: array[row : row + 1] for name, array in columns.items()})
    return path.read_bytes()


def count(path: Path) -> int:
    return sum(len(part) for part in read_events(path, 4))


def refused(path: Path, message: str) -> None:
    with pytest.raises(FileError, match=message) as caught:
        count(path)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text


def test_controls_are_complete(tmp_path: Path, ours: bytes, foreign: bytes) -> None:
    for content in (ours, foreign):
        path = tmp_path / "whole.root"
        path.write_bytes(content)
        assert count(path) == EVENTS


def test_missing_directory_and_foreign_files(tmp_path: Path) -> None:
    refused(tmp_path / "absent.root", "does not exist")
    refused(tmp_path, "is a directory")
    for name, content in {"empty": b"", "text": b"not root at all", "short": b"ro"}.items():
        path = tmp_path / name
        path.write_bytes(content)
        refused(path, "is not a ROOT file")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "pipe.root"
    os.mkfifo(path)
    with pytest.raises(FileError, match="no regular file"):
        open_events(path)


@pytest.mark.parametrize("kind", ["ours", "foreign"])
def test_no_cut_ever_gives_fewer_events(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    content: bytes = request.getfixturevalue(kind)
    rng = np.random.default_rng(0)
    cuts = {0, 1, 3, 4, 50, 99, 100, 101, 402, 403, 404, len(content) // 2, len(content) - 1}
    cuts |= set(rng.integers(0, len(content), 120).tolist())
    path = tmp_path / "cut.root"
    for cut in sorted(cuts):
        path.write_bytes(content[:cut])
        with pytest.raises(FileError):
            count(path)


def test_a_cut_names_the_bytes(tmp_path: Path, ours: bytes) -> None:
    path = tmp_path / "cut.root"
    path.write_bytes(ours[:-1])
    refused(path, f"is cut short: {len(ours) - 1} of {len(ours)} bytes")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["ours", "foreign"]),
    places=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4),
    tail=st.booleans(),
)
def test_altered_bytes_give_all_events_or_a_file_error(
    kind: str,
    places: list[tuple[float, int]],
    tail: bool,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    content = bytearray(request.getfixturevalue(kind))
    # Half of the time only where the structure lies: the last bytes hold trees and keys.
    start = max(0, len(content) - 6000) if tail else 0
    for place, value in places:
        content[start + int(place * (len(content) - 1 - start))] = value
    path = tmp_path / "altered.root"
    path.write_bytes(content)
    with suppress(FileError):
        assert count(path) == EVENTS


def test_a_changed_byte_of_compressed_values_is_noticed(tmp_path: Path) -> None:
    events = random_events(64, truth=False)
    events.npho[:] = np.round(events.npho)
    path = write_events(tmp_path / "a.root", events)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    refused(path, "is damaged")


def _cut_directory(content: bytes) -> bytes:
    """The header of a file as ROOT leaves it when it dies: its directory lists no keys yet.

    At fBEGIN + fNbytesName: version (2), two dates (8), fNbytesKeys (4), fNbytesName (4),
    fSeekDir (4), fSeekParent (4), fSeekKeys (4).
    """
    begin = struct.unpack(">i", content[8:12])[0]
    length = struct.unpack(">i", content[24 + 4 : 24 + 8])[0]
    at = begin + length
    changed = bytearray(content)
    struct.pack_into(">i", changed, at + 10, 0)
    struct.pack_into(">i", changed, at + 26, 0)
    return bytes(changed)


def test_a_file_without_keys_was_not_closed(tmp_path: Path) -> None:
    path = tmp_path / "keyless.root"
    with uproot.recreate(path):
        pass
    refused(path, "holds no objects: it was probably not closed")


def test_a_directory_that_lists_no_keys_yet(tmp_path: Path, foreign: bytes) -> None:
    path = tmp_path / "unclosed.root"
    path.write_bytes(_cut_directory(foreign))
    refused(path, "holds no objects")


def test_our_writer_killed_before_the_end(tmp_path: Path) -> None:
    """The temporary file of a writer that died, renamed by hand, is complete to uproot only."""
    from xec.io.root_writer import RootEventWriter

    rescued = tmp_path / "rescued.root"
    with RootEventWriter(tmp_path / "a.root", geometry_hash="g", synthetic=True) as writer:
        writer.write(random_events(130))
        (part,) = tmp_path.glob(".a.root.*.part")
        rescued.write_bytes(part.read_bytes())
    with uproot.open(rescued) as file:
        assert file["tree"].num_entries == 128
    refused(rescued, "was not closed")
    assert event_count(tmp_path / "a.root") == 130


def test_fewer_entries_than_announced(tmp_path: Path) -> None:
    path = tmp_path / "a.root"
    columns = raw_columns(3)
    with uproot.recreate(path) as file:
        types = {branch.name: branch.type for branch in IDENTITY + READINGS}
        file.mktree("tree", types).extend(columns)
        file[META] = '{"entries": 4}'
    refused(path, "announces 4 events, but tree holds 3")


def test_tree_absent_names_those_present(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "a.root", raw_columns(1), tree="rec")
    refused(path, "has no tree named tree; its trees are rec")
    with uproot.recreate(tmp_path / "b.root") as file:
        file["note"] = "a text"
    refused(tmp_path / "b.root", "has no tree named tree; it holds no tree")
    with uproot.recreate(tmp_path / "c.root") as file:
        file["tree"] = "a text called tree"
    refused(tmp_path / "c.root", "tree is a TObjString; write it as a TTree")


@pytest.mark.parametrize("name", ["run", "event", "npho", "relative_time"])
def test_missing_branch_names_it_and_what_is_there(tmp_path: Path, name: str) -> None:
    columns = raw_columns(1)
    del columns[name]
    path = write_raw(tmp_path / "a.root", columns)
    refused(path, f"has no branch {name}; its branches are {', '.join(columns)}")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("npho", lambda a: a[:, :4759], r"branch npho has shape \(4759,\), not \(4760,\)"),
        ("relative_time", lambda a: a[:, 0], r"relative_time has shape \(\), not \(4760,\)"),
        ("run", lambda a: np.stack([a, a], 1), r"branch run has shape \(2,\), not \(\)"),
        ("npho", lambda a: a.astype("i4"), "branch npho is of type int32_t"),
        ("event", lambda a: a.astype("f4"), "branch event is of type float"),
    ],
)
def test_wrong_shape_or_type(
    tmp_path: Path, name: str, change: Callable[[np.ndarray], np.ndarray], message: str
) -> None:
    columns = raw_columns(2)
    columns[name] = np.ascontiguousarray(change(columns[name]))
    refused(write_raw(tmp_path / "a.root", columns), message)


def test_optional_branch_of_wrong_shape(tmp_path: Path) -> None:
    columns = raw_columns(2) | {"dead": np.zeros((2, 17), dtype=np.bool_)}
    refused(write_raw(tmp_path / "a.root", columns), r"dead has shape \(17,\)")


def test_jagged_branch(tmp_path: Path) -> None:
    path = tmp_path / "a.root"
    columns: dict[str, object] = dict(raw_columns(2))
    columns["npho"] = ak.Array([[1.0, 2.0], [3.0]])
    with uproot.recreate(path) as file:
        file.mktree("tree", {"run": "i4", "event": "i4", "npho": "var * float32"}).extend(
            {name: columns[name] for name in ("run", "event", "npho")}
        )
    refused(path, r"branch npho is .*not of the fixed size \(4760,\)")


def test_the_file_is_closed_after_an_error(tmp_path: Path) -> None:
    """Warnings are errors here: a handle left open would be reported."""
    columns = raw_columns(1)
    del columns["npho"]
    path = write_raw(tmp_path / "a.root", columns)
    for _ in range(3):
        with pytest.raises(FileError):
            open_events(path)
