"""The processes below a process, from Linux's `/proc`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_ENDED: Final = frozenset("ZX")


def descendants(process_id: int) -> frozenset[int]:
    """Process ids of all living children, their children, and so on.

    Source: proc(5), `/proc/<pid>/stat`: state and parent follow the name, which stands in brackets
    and may hold anything.
    """
    children: dict[int, list[int]] = {}
    for path in _PROC.iterdir():
        if not path.name.isdecimal():
            continue
        try:
            state, parent = (path / "stat").read_text().rpartition(")")[2].split()[:2]
        except (OSError, ValueError):  # it ended meanwhile
            continue
        if state not in _ENDED:
            children.setdefault(int(parent), []).append(int(path.name))
    found: set[int] = set()
    ahead = [process_id]
    while ahead:
        below = children.get(ahead.pop(), [])
        found.update(below)
        ahead.extend(below)
    return frozenset(found)
