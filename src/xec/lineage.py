"""Where a result comes from: model, geometry, dead list and software, each by its digest."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from xec import __version__


@dataclass(frozen=True, slots=True)
class Provenance:
    """What produced a reconstruction; equal provenance and input mean an equal answer.

    `engine` is what ran the model: ``onnx``, ``triton`` or ``torch``; empty where nobody said so.
    `dead_list_revision` is where the conditions database says that the list holds (``ONLINE@7``),
    and `dead_list_stale_since` when it last did so, while it is away; empty otherwise.
    """

    model_name: str
    model_version: str
    model_sha256: str
    geometry_hash: str
    dead_list_id: str = ""
    software_version: str = __version__
    engine: str = ""
    dead_list_revision: str = ""
    dead_list_stale_since: str = ""

    def as_dict(self) -> dict[str, str]:
        """The fields by name, for file metadata."""
        return {name: getattr(self, name) for name in _FIELDS}


_FIELDS = tuple(field.name for field in fields(Provenance))


def sha256_of_bytes(content: bytes) -> str:
    """Lower-case hexadecimal SHA-256 of `content`."""
    return hashlib.sha256(content).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Lower-case hexadecimal SHA-256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """SHA-256 of a JSON-serialisable value, independent of the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return sha256_of_bytes(text.encode())
