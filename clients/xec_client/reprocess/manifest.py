"""The manifest of a lineage: what happened to each run, and each part with its digest.

Lines of JSON that are only ever appended, each durable before the next thing happens. A line that
a kill cut short is dropped when the manifest is opened for writing; what it said is found anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from xec.errors import FileError
from xec_client.reprocess.failures import OutputError
from xec_client.reprocess.files import Files
from xec_client.reprocess.sink import Part
from xec_client.reprocess.states import RunStatus

NAME: Final = "manifest.jsonl"


@dataclass(frozen=True, slots=True)
class Manifest:
    """The manifest of a folder, open for appending by its one owner.

    Args:
        path: of the file.
        files: the disk.
    """

    path: Path
    files: Files

    def add_part(self, identity: str, part: Part) -> None:
        """A part that is durable under its name."""
        self._append({"part": asdict(part), "identity": identity})

    def add_state(self, status: RunStatus) -> None:
        """What became of a run."""
        self._append({"run": status.as_dict()})

    def _append(self, row: Mapping[str, Any]) -> None:
        line = json.dumps(row, sort_keys=True, ensure_ascii=True) + "\n"
        try:
            self.files.append(self.path, line.encode())
        except OSError as error:
            raise OutputError(f"{self.path} cannot be written: {error.strerror}.") from error


@dataclass(slots=True)
class Contents:
    """What a manifest says, its last word on each run and part.

    Args:
        runs: by the identity of the input.
        parts: by the identity of the input, then by name.
    """

    runs: dict[str, RunStatus]
    parts: dict[str, dict[str, Part]]

    def parts_of(self, identity: str) -> dict[str, Part]:
        """The parts of a run by name, none if it is not known."""
        return self.parts.get(identity, {})

    def events_of(self, identity: str) -> int:
        """Events in the parts of a run."""
        return sum(part.rows for part in self.parts_of(identity).values())


def read_manifest(folder: Path) -> Contents:
    """Read the manifest of a lineage; none there is an empty one, and a torn last line no line.

    Raises:
        FileError: it cannot be read, or is damaged before its end.
    """
    contents = Contents({}, {})
    for row in _rows(folder / NAME):
        if "run" in row:
            status = RunStatus.from_dict(row["run"])
            contents.runs.pop(status.identity, None)  # in the order of their last words
            contents.runs[status.identity] = status
        else:
            part = Part(**row["part"])
            contents.parts.setdefault(row["identity"], {})[part.name] = part
    return contents


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}.") from error
    whole, _, _ = content.rpartition(b"\n")
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            row = json.loads(line)
            if "run" in row:
                RunStatus.from_dict(row["run"])
            else:
                Part(**row["part"])
                str(row["identity"])
        except (ValueError, KeyError, TypeError) as error:
            raise FileError(
                f"{path} is damaged at line {number}: move it away; published parts are then read "
                "back, not made anew."
            ) from error
        yield row


def open_manifest(folder: Path, files: Files) -> Manifest:
    """The manifest for appending, after cutting off a torn last line.

    Raises:
        OutputError: the disk refuses.
    """
    path = folder / NAME
    try:
        if path.exists():
            content = path.read_bytes()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                files.truncate(path, whole)
        else:
            files.append(path, b"")
            files.sync_folder(folder)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}.") from error
    return Manifest(path, files)
