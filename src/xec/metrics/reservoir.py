"""Samples of a stream in bounded memory: uniform ones, and the largest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
FloatArray = NDArray[np.float64]


class Reservoir:
    """All rows of a stream up to `capacity`; of a longer one a uniform random sample.

    Source: algorithm R of J. S. Vitter, ACM Trans. Math. Softw. 11, 37 (1985).

    Args:
        columns: names of the numbers in a row.
        capacity: most rows that are kept.
        seed: of the sample.
    """

    def __init__(self, columns: Sequence[str], capacity: int, seed: int) -> None:
        self._place = {name: place for place, name in enumerate(columns)}
        self._rows = np.empty((capacity, len(columns)))
        self._random = np.random.default_rng(seed)
        self.seen = 0

    def __len__(self) -> int:
        return min(self.seen, len(self._rows))

    @property
    def exact(self) -> bool:
        """Whether every row of the stream is still here."""
        return self.seen <= len(self._rows)

    def add(self, rows: Floats) -> None:
        """Offer rows (n, columns) to the sample."""
        capacity = len(self._rows)
        free = min(max(capacity - self.seen, 0), len(rows))
        self._rows[self.seen : self.seen + free] = rows[:free]
        rest = rows[free:]
        # Row number i of the stream (from 0) replaces a place drawn from 0 ... i, if there is one.
        number = self.seen + free + np.arange(len(rest))
        place = self._random.integers(0, number + 1)
        taken = place < capacity
        # Of several rows for one place numpy keeps the last, as one after the other would.
        self._rows[place[taken]] = rest[taken]
        self.seen += len(rows)

    def column(self, name: str) -> FloatArray:
        """The numbers of that name in the rows that were kept, (len,)."""
        return self._rows[: len(self), self._place[name]]

    def columns(self, names: Sequence[str]) -> FloatArray:
        """Several columns side by side, (len, names)."""
        return self._rows[: len(self), [self._place[name] for name in names]]


class Largest:
    """The rows of a stream with the largest keys, largest first.

    Args:
        columns: how many numbers a row has.
        capacity: how many rows are kept.
    """

    def __init__(self, columns: int, capacity: int) -> None:
        self._capacity = capacity
        self._keys: Floats = np.empty(0)
        self.rows: Floats = np.empty((0, columns))

    def add(self, keys: Floats, rows: Floats) -> None:
        """Offer rows (n, columns) with keys (n,); a key that is NaN is left out."""
        known = ~np.isnan(keys)
        keys = np.concatenate([self._keys, keys[known]])
        rows = np.concatenate([self.rows, rows[known]])
        order = np.argsort(-keys, kind="stable")[: self._capacity]
        self._keys, self.rows = keys[order], rows[order]
