"""What waits for the engine: two lanes, and in each of them clients that take turns.

A client that brings ten thousand events delays one that brings a few by one event a turn.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeAlias, TypeVar

from xec.engines.priority import Priority

T = TypeVar("T")

Path: TypeAlias = tuple[str, ...]
"""Whose turn it is, from the outside in: a client, then one of its calls. Calls of one client
share its turns, so that opening many of them brings nothing. All paths are equally long."""

NOBODY: Final[Path] = ("", "")


class _Ring(Generic[T]):
    """Takes from its members in turns, first come first served within each."""

    def __init__(self) -> None:
        self._members: OrderedDict[str, _Ring[T] | deque[T]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[T]:
        for member in self._members.values():
            yield from member

    def put(self, path: Path, item: T) -> None:
        name, *rest = path
        member = self._members.get(name)
        if member is None:
            member = self._members[name] = _Ring() if rest else deque()
        if isinstance(member, _Ring):
            member.put(tuple(rest), item)
        else:
            member.append(item)

    def take(self) -> T:
        name, member = next(iter(self._members.items()))
        item = member.take() if isinstance(member, _Ring) else member.popleft()
        if len(member):
            self._members.move_to_end(name)
        else:
            del self._members[name]
        return item

    def firsts(self) -> Iterator[T]:
        """The one of each call that has waited longest."""
        for member in self._members.values():
            if isinstance(member, _Ring):
                yield from member.firsts()
            else:
                yield member[0]

    def clear(self) -> None:
        self._members.clear()

    def keep(self, wanted: Callable[[T], bool]) -> None:
        for name, member in list(self._members.items()):
            if isinstance(member, _Ring):
                member.keep(wanted)
            else:
                left = [item for item in member if wanted(item)]
                member.clear()
                member.extend(left)
            if not len(member):
                del self._members[name]


def _one(item: object) -> int:
    del item
    return 1


class Lanes(Generic[T]):
    """Items that wait: all online ones go before all offline ones, in each lane by turns.

    Args:
        weight: how much an item adds to the length.
    """

    def __init__(self, weight: Callable[[T], int] = _one) -> None:
        self._weight = weight
        self._rings: dict[Priority, _Ring[T]] = {lane: _Ring() for lane in sorted(Priority)}
        self._waiting = dict.fromkeys(Priority, 0)

    def __len__(self) -> int:
        """The weight of all items."""
        return sum(self._waiting.values())

    def waiting(self, lane: Priority) -> int:
        """The weight of those in one lane."""
        return self._waiting[lane]

    def __iter__(self) -> Iterator[T]:
        """All items, in no order that matters."""
        for ring in self._rings.values():
            yield from ring

    def put(self, item: T, lane: Priority, path: Path) -> None:
        """Let `item` wait in the lane, behind those of the same path."""
        self._rings[lane].put(path, item)
        self._waiting[lane] += self._weight(item)

    def take(self) -> T:
        """The next one; there must be one."""
        lane = next(lane for lane, ring in self._rings.items() if ring)
        item = self._rings[lane].take()
        self._waiting[lane] -= self._weight(item)
        return item

    def firsts(self) -> Iterator[T]:
        """The oldest of each call; the oldest of all is among them."""
        for ring in self._rings.values():
            yield from ring.firsts()

    def keep(self, wanted: Callable[[T], bool]) -> None:
        """Drop the items that are not `wanted`."""
        for lane, ring in self._rings.items():
            ring.keep(wanted)
            self._waiting[lane] = sum(self._weight(item) for item in ring)

    def clear(self) -> None:
        """Drop all."""
        for ring in self._rings.values():
            ring.clear()
        self._waiting = dict.fromkeys(Priority, 0)
