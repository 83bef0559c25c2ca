"""The output folder: ours or refused, one owner at a time, one folder in it per lineage."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from xec.errors import FileError, UsageError
from xec_client.reprocess.aside import aside_of, is_aside, sweep
from xec_client.reprocess.failures import OutputError
from xec_client.reprocess.files import Files
from xec_client.reprocess.lineage import Recipe

MARKER: Final = "xec-reprocess.json"
LINEAGE: Final = "lineage.json"
LOCK: Final = ".owner.lock"
FOLDER_FORMAT: Final = "xec-reprocess/1"


@contextmanager
def owned(folder: Path, files: Files) -> Iterator[None]:
    """The output folder, created if missing, for this process alone.

    Raises:
        UsageError: it holds other things, is a single lineage, or another process has it.
        OutputError: the disk refuses.
    """
    _refuse_foreign(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror}.") from error
    try:
        _lock(folder, lock)
        sweep(folder, files)
        _write_once(folder / MARKER, {"format": FOLDER_FORMAT}, files)
        yield
    finally:
        os.close(lock)


def is_in_use(folder: Path) -> bool:
    """Whether a process works on this output folder; True where nobody can tell."""
    try:
        with (folder / LOCK).open("rb") as lock:
            fcntl.flock(lock.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _lock(folder: Path, lock: int) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(
            f"{folder} is in use by another xec reprocess: wait for it, or name another folder."
        ) from None


def _refuse_foreign(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder: name one that is empty or new.")
    if (folder / LINEAGE).exists():
        raise UsageError(
            f"{folder} is the folder of one lineage: name the one above it, {folder.parent}."
        )
    if (folder / MARKER).exists():
        _refuse_other_format(folder)
    elif any(entry.name != LOCK and not is_aside(entry) for entry in folder.iterdir()):
        raise UsageError(
            f"{folder} holds other things than reprocessed runs: name a folder that is empty or "
            "new."
        )


def _refuse_other_format(folder: Path) -> None:
    found = _read(folder / MARKER).get("format")
    if found != FOLDER_FORMAT:
        raise UsageError(
            f"{folder} is of format {found}, this program writes {FOLDER_FORMAT}: name another "
            "folder, or use the program that made it."
        )


def lineage_folder(folder: Path, recipe: Recipe, files: Files) -> Path:
    """The folder of a lineage, created if missing.

    Raises:
        UsageError: it says it is another lineage.
        OutputError: the disk refuses.
    """
    place = folder / recipe.key
    try:
        place.mkdir(exist_ok=True)
        files.sync_folder(folder)
    except OSError as error:
        raise OutputError(f"{place} cannot be written: {error.strerror}.") from error
    sweep(place, files)
    _write_once(place / LINEAGE, recipe.as_dict(), files)
    if _read(place / LINEAGE) != recipe.as_dict():
        raise UsageError(
            f"{place} says it is of another lineage than its name tells: move it away, or name "
            "another output folder."
        )
    return place


def lineages(folder: Path) -> list[Path]:
    """The folders of all lineages in an output folder, oldest first.

    Raises:
        UsageError: it is not an output folder of ours.
    """
    if not (folder / MARKER).is_file():
        raise UsageError(f"{folder} is not an output folder of xec reprocess.")
    _refuse_other_format(folder)
    found = [path.parent for path in folder.glob(f"*/{LINEAGE}")]
    return sorted(found, key=lambda place: ((place / LINEAGE).stat().st_mtime_ns, place.name))


def read_lineage(place: Path) -> dict[str, Any]:
    """What decides the results of a lineage.

    Raises:
        FileError: its description is damaged.
    """
    return _read(place / LINEAGE)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise FileError(f"{path} is damaged: move its folder away.") from error
    if not isinstance(content, dict):
        raise FileError(f"{path} is damaged: move its folder away.")
    return content


def _write_once(path: Path, content: dict[str, Any], files: Files) -> None:
    """A small file, published whole; one that is there stays."""
    if path.exists():
        return
    aside = aside_of(path)
    try:
        file = files.create(aside)
        try:
            file.write((json.dumps(content, indent=2, sort_keys=True) + "\n").encode())
            files.sync(file)
        finally:
            file.close()
        files.link(aside, path)
        files.unlink(aside)
        files.sync_folder(path.parent)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}.") from error
