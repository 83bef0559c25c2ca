"""Surveyed tables of the sensors.

Text with one sensor per line and `#` comments:

    id  nx ny nz  x y z  face

normal: unit vector into the xenon; position in cm; face: an integer code. Two codes are in use,
so the code serves only to check that the table groups the ids into faces as we do.

Source: FACTS 1 (the table that the experiment's analyzer uses).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from xec.detector.channels import FACE_IDS, N_CHANNELS
from xec.errors import FileError

Floats = NDArray[np.float64]

COLUMNS: Final = 8
UNIT_TOLERANCE: Final = 1e-3
"""Normals are printed with six digits; more than this is no rounding."""


def read_survey(path: Path) -> tuple[Floats, Floats]:
    """Positions (4760, 3) in cm and unit normals (4760, 3) of a surveyed table.

    Raises:
        FileError: a file that is missing, no such table, or one that misses or repeats sensors.
    """
    table = _ordered(_rows(path), path)
    normal, position, code = table[:, 1:4], table[:, 4:7], table[:, 7]
    length = np.linalg.norm(normal, axis=1)
    off = np.flatnonzero(np.abs(length - 1) > UNIT_TOLERANCE)
    if off.size:
        raise FileError(
            f"{path}: the normal of sensor {off[0]} has length {length[off[0]]:.4f}, not 1."
        )
    _check_faces(code, path)
    return np.ascontiguousarray(position), normal / length[:, None]


def _rows(path: Path) -> Floats:
    """The numbers of the table (rows, 8), in the order of the file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise FileError(f"{path} is not a text file; give a surveyed sensor table.") from error
    rows = [_row(line, number, path) for number, line in enumerate(lines, 1) if _content(line)]
    if len(rows) != N_CHANNELS:
        raise FileError(f"{path} lists {len(rows)} sensors, not {N_CHANNELS}.")
    return np.array(rows)


def _content(line: str) -> str:
    return line.partition("#")[0].strip()


def _row(line: str, number: int, path: Path) -> list[float]:
    words = _content(line).split()
    if len(words) != COLUMNS:
        raise FileError(
            f"{path}, line {number}: {len(words)} columns where id nx ny nz x y z face are needed."
        )
    try:
        row = [float(word) for word in words]
    except ValueError as error:
        raise FileError(f"{path}, line {number}: a column is not a number.") from error
    if not np.isfinite(row).all():
        raise FileError(f"{path}, line {number}: a value is not finite.")
    return row


def _ordered(rows: Floats, path: Path) -> Floats:
    """The rows by ascending id, once every id is known to occur exactly once."""
    ids = rows[:, 0]
    unknown = ids[(ids != np.rint(ids)) | (ids < 0) | (ids >= N_CHANNELS)]
    if unknown.size:
        raise FileError(
            f"{path}: sensor id {unknown[0]:g} is unknown; ids run from 0 to {N_CHANNELS - 1}."
        )
    order = np.argsort(ids, kind="stable")
    twice = np.flatnonzero(np.diff(ids[order]) == 0)
    if twice.size:
        raise FileError(f"{path}: sensor {ids[order][twice[0]]:g} occurs more than once.")
    return rows[order]


def _check_faces(code: Floats, path: Path) -> None:
    codes_of_face = [set(code[ids]) for ids in FACE_IDS.values()]
    distinct = set().union(*codes_of_face)
    if any(len(codes) > 1 for codes in codes_of_face) or len(distinct) != len(FACE_IDS):
        raise FileError(f"{path}: its face column does not group the ids into the six faces.")
