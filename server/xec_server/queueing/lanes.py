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


class _Line(Generic[T]):
    """First come, first served."""

    def __init__(self, weight: Callable[[T], int]) -> None:
        self._weight = weight
        self._items: deque[T] = deque()
        self.size = 0

    def __bool__(self) -> bool:
        return bool(self._items)

    def __iter__(self) -> Iterator[T]:
        return iter(self._items)

    def put(self, path: Path, item: T) -> None:
        del path  # it has led here
        self._items.append(item)
        self.size += self._weight(item)

    def take(self) -> T:
        item = self._items.popleft()
        self.size -= self._weight(item)
        return item

    def place(self, path: Path, more: int) -> int:
        del path
        return self.size + more

    def firsts(self) -> Iterator[T]:
        yield self._items[0]

    def keep(self, wanted: Callable[[T], bool]) -> None:
        self._items = deque(item for item in self._items if wanted(item))
        self.size = sum(self._weight(item) for item in self._items)


class _Ring(Generic[T]):
    """Takes from its members in turns; `size` is the weight of all that they hold."""

    def __init__(self, weight: Callable[[T], int]) -> None:
        self._weight = weight
        self._members: OrderedDict[str, _Ring[T] | _Line[T]] = OrderedDict()
        self.size = 0

    def __bool__(self) -> bool:
        return bool(self._members)

    def __iter__(self) -> Iterator[T]:
        for member in self._members.values():
            yield from member

    def put(self, path: Path, item: T) -> None:
        name, *rest = path
        member = self._members.get(name)
        if member is None:
            member = _Ring(self._weight) if rest else _Line(self._weight)
            self._members[name] = member
        member.put(tuple(rest), item)
        self.size += self._weight(item)

    def take(self) -> T:
        name, member = next(iter(self._members.items()))
        item = member.take()
        if member:
            self._members.move_to_end(name)
        else:
            del self._members[name]
        self.size -= self._weight(item)
        return item

    def place(self, path: Path, more: int) -> int:
        """What will have been taken once `more` that come now by this path are, themselves too.

        Each other member has its turn as often as this one; for items of one weight it is exact,
        as long as nothing else comes.
        """
        name, *rest = path
        mine = self._members.get(name)
        place = more if mine is None else mine.place(tuple(rest), more)
        others = (member.size for key, member in self._members.items() if key != name)
        return place + sum(min(size, place) for size in others)

    def firsts(self) -> Iterator[T]:
        """The one of each call that has waited longest."""
        for member in self._members.values():
            yield from member.firsts()

    def clear(self) -> None:
        self._members.clear()
        self.size = 0

    def keep(self, wanted: Callable[[T], bool]) -> None:
        for name, member in list(self._members.items()):
            member.keep(wanted)
            if not member:
                del self._members[name]
        self.size = sum(member.size for member in self._members.values())


def _one(item: object) -> int:
    del item
    return 1


class Lanes(Generic[T]):
    """Items that wait: all online ones go before all offline ones, in each lane by turns.

    No share is kept for the offline lane: where the online one alone needs all there is, its events
    are being refused already, and what is offline is on a disk and can wait. It is told so.

    Args:
        weight: how much an item adds to the length.
    """

    def __init__(self, weight: Callable[[T], int] = _one) -> None:
        self._rings: dict[Priority, _Ring[T]] = {lane: _Ring(weight) for lane in sorted(Priority)}

    def __len__(self) -> int:
        """The weight of all items."""
        return sum(ring.size for ring in self._rings.values())

    def waiting(self, lane: Priority) -> int:
        """The weight of those in one lane."""
        return self._rings[lane].size

    def up_to(self, lane: Priority) -> int:
        """The weight of those that go before what comes to this lane now, were it by one path."""
        return sum(ring.size for other, ring in self._rings.items() if other <= lane)

    def __iter__(self) -> Iterator[T]:
        """All items, in no order that matters."""
        for ring in self._rings.values():
            yield from ring

    def put(self, item: T, lane: Priority, path: Path) -> None:
        """Let `item` wait in the lane, behind those of the same path."""
        self._rings[lane].put(path, item)

    def take(self) -> T:
        """The next one; there must be one."""
        return next(ring for ring in self._rings.values() if ring).take()

    def place(self, weight: int, lane: Priority, path: Path) -> int:
        """The weight that will have been taken once so much more, put there now, has been."""
        before = sum(ring.size for other, ring in self._rings.items() if other < lane)
        return before + self._rings[lane].place(path, weight)

    def firsts(self) -> Iterator[T]:
        """The oldest of each call; the oldest of all is among them."""
        for ring in self._rings.values():
            yield from ring.firsts()

    def keep(self, wanted: Callable[[T], bool]) -> None:
        """Drop the items that are not `wanted`."""
        for ring in self._rings.values():
            ring.keep(wanted)

    def clear(self) -> None:
        """Drop all."""
        for ring in self._rings.values():
            ring.clear()
