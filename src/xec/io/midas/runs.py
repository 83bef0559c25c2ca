"""The files of a run: one, or subruns ``run00407sub0000.mid.lz4`` and so on in their order."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from xec.errors import FileError
from xec.io.midas.compression import midas_suffix

_RUN: Final = re.compile(r"run(\d+)(?:sub\d+|\.mid)")


def run_of_name(path: Path) -> int | None:
    """The run number that the name of a file tells, or None."""
    match = _RUN.match(path.name)
    return int(match[1]) if match else None


def _stem_and_suffix(path: Path) -> tuple[str, str]:
    compression = midas_suffix(path)
    if compression is None:
        return path.stem, path.suffix
    suffix = f".mid{compression.value}"
    return path.name.removesuffix(suffix), suffix


def subrun_path(run: Path, number: int) -> Path:
    """The file of a subrun, from the name of the run.

    Args:
        run: such as ``run00407.mid.lz4``.
        number: of the subrun, from 0.
    """
    stem, suffix = _stem_and_suffix(run)
    return run.with_name(f"{stem}sub{number:04d}{suffix}")


def files_of_run(path: Path) -> tuple[Path, ...]:
    """The file itself or, where there is none of that name, the subruns of the run it names.

    Args:
        path: ``run00407.mid.lz4`` for all of a run, ``run00407sub0001.mid.lz4`` for a part of it.

    Raises:
        FileError: there is neither, or a subrun is missing between others.
    """
    if path.exists():
        return (path,)
    stem, suffix = _stem_and_suffix(path)
    pattern = re.compile(rf"{re.escape(stem)}sub(\d+){re.escape(suffix)}")
    found: dict[int, Path] = {}
    if path.parent.is_dir():
        for each in path.parent.iterdir():
            if match := pattern.fullmatch(each.name):
                found[int(match[1])] = each
    if not found:
        raise FileError(f"{path} does not exist, and neither do subruns {stem}sub….")
    missing = set(range(max(found) + 1)) - set(found)
    if missing:
        raise FileError(
            f"{path}: subrun {min(missing)} is missing, although there is subrun {max(found)}: "
            "fetch it, or name single files."
        )
    return tuple(found[number] for number in sorted(found))
