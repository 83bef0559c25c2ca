"""What our writer notes about a run in its begin of run, beside the run number.

MIDAS keeps a dump of its online database there, as XML or JSON. Ours is a small JSON database with
a folder of its own; the dumps of an experiment are kept as bytes and not looked into.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from xec import __version__

RUN_FORMAT: Final = "xec-midas/1"

_FOLDER: Final = "XEC Reconstruct"
_LARGEST: Final = 1 << 14  # bytes; ours is small, and an experiment's takes megabytes


@dataclass(frozen=True, slots=True)
class RunLabel:
    """Where the events of a run come from.

    Args:
        synthetic: whether they were simulated.
        geometry_hash: of the geometry that they were simulated with; None if not known.
    """

    synthetic: bool = False
    geometry_hash: str | None = None


def label_dump(run: int, label: RunLabel) -> bytes:
    """The label as a dump of an online database."""
    database = {
        "Runinfo": {"Run number": run},
        _FOLDER: {
            "format": RUN_FORMAT,
            "synthetic": label.synthetic,
            "geometry_hash": label.geometry_hash,
            "software_version": __version__,
        },
    }
    return json.dumps(database).encode()


def label_of(dump: bytes | memoryview) -> RunLabel:
    """The label in a dump; of dumps that are not ours, that nothing is known."""
    if len(dump) > _LARGEST:
        return RunLabel()
    try:
        folder = json.loads(bytes(dump).rstrip(b"\0"))[_FOLDER]
        geometry = folder["geometry_hash"]
        known = folder["format"] == RUN_FORMAT
    except (ValueError, LookupError, TypeError, RecursionError):
        return RunLabel()
    if not known or not isinstance(geometry, str | None):
        return RunLabel()
    return RunLabel(folder.get("synthetic") is True, geometry)
