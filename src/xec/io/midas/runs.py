"""The files of a run: one, or subruns ``run00407sub0000.mid.lz4`` and so on in their order."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from xec.errors import FileError
from xec.io.midas.compression import midas_suffix
from xec.io.midas.reader import Follow, MidasFile

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


def open_run(path: Path, follow: Follow | None = None) -> Iterator[MidasFile]:
    """The files of a run, each open until the next one is asked for.

    Every subrun has an end of run, so only time tells that a followed run is over: no subrun came
    within the patience after the last one.

    Args:
        path: as `files_of_run`.
        follow: wait for what is still being written, further subruns included.

    Raises:
        FileError: as `files_of_run`, or a file is missing or not named like a MIDAS file.
    """
    paths = list(files_of_run(path))
    single = paths == [path]
    for current in paths:  # grows while a run is followed
        following = None if single else subrun_path(path, len(paths))
        last = current is paths[-1]
        with MidasFile(current, follow=_until(follow, following) if last else None) as file:
            yield file
        if last and follow is not None and following is not None and _appears(following, follow):
            paths.append(following)


def _until(follow: Follow | None, following: Path | None) -> Follow | None:
    """Follow a file until the next one is there."""
    if follow is None or following is None:
        return follow
    return replace(follow, stopped=lambda: follow.stopped() or following.exists())


def _appears(path: Path, follow: Follow) -> bool:
    since = time.monotonic()
    while not path.exists():
        if follow.stopped() or time.monotonic() - since > follow.patience:
            # Once more: it may have appeared since, and before there was a reason to stop.
            return path.exists()
        time.sleep(follow.poll)
    return True
