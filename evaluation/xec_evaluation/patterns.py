"""Dead lists that are drawn: single sensors, readout boards, a row, 5 %, a typical mixture.

Sizes: FACTS 4 (88 dead of 4760; a board has 16 channels); shapes of a board as simulated.
"""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from typing import Final

import numpy as np

from xec.detector.channels import INNER_GRID, N_CHANNELS
from xec.event import BoolArray, EventBatch

TYPICAL_DEAD: Final = 88
BOARDS: Final = 5
TYPICAL_BOARDS: Final = 3
FRACTION: Final = 0.05

_SHAPES: Final = ((1, 16), (4, 4), (2, 8))


class Pattern(StrEnum):
    """What is drawn."""

    SINGLES = "singles"
    BOARDS = "boards"
    ROW = "row"
    FIVE_PERCENT = "five-percent"
    TYPICAL = "typical"


class Redraw(StrEnum):
    """When a list is drawn anew."""

    RUN = "run"
    EVENT = "event"
    NEVER = "never"


WORDS: Final = {
    Pattern.SINGLES: f"{TYPICAL_DEAD} single sensors",
    Pattern.BOARDS: f"{BOARDS} boards of 16 inner sensors",
    Pattern.ROW: f"a row of {INNER_GRID.shape[1]} inner sensors",
    Pattern.FIVE_PERCENT: "5 % of all sensors",
    Pattern.TYPICAL: f"{TYPICAL_DEAD} sensors, {TYPICAL_BOARDS} boards of 16 among them",
}


def draw(pattern: Pattern, random: np.random.Generator) -> BoolArray:
    """Which sensors are dead, (4760,)."""
    dead = np.zeros(N_CHANNELS, dtype=np.bool_)
    if pattern is Pattern.SINGLES:
        _add_singles(dead, TYPICAL_DEAD, random)
    elif pattern is Pattern.BOARDS:
        _add_boards(dead, BOARDS, random)
    elif pattern is Pattern.ROW:
        dead[INNER_GRID[random.integers(len(INNER_GRID))]] = True
    elif pattern is Pattern.FIVE_PERCENT:
        _add_singles(dead, round(FRACTION * N_CHANNELS), random)
    else:
        _add_boards(dead, TYPICAL_BOARDS, random)
        _add_singles(dead, TYPICAL_DEAD - int(dead.sum()), random)
    return dead


def _add_singles(dead: BoolArray, count: int, random: np.random.Generator) -> None:
    dead[random.choice(np.flatnonzero(~dead), count, replace=False)] = True


def _add_boards(dead: BoolArray, count: int, random: np.random.Generator) -> None:
    """Boards that do not overlap, each of a shape drawn from the three."""
    while count:
        rows, columns = _SHAPES[random.integers(len(_SHAPES))]
        top = random.integers(INNER_GRID.shape[0] - rows + 1)
        left = random.integers(INNER_GRID.shape[1] - columns + 1)
        board = INNER_GRID[top : top + rows, left : left + columns]
        if not dead[board].any():
            dead[board] = True
            count -= 1


class DrawnLists:
    """The dead lists of events: equal seeds, runs and events give equal lists.

    Args:
        pattern: what is drawn.
        redraw: when it is drawn anew.
        seed: of the lists.
    """

    def __init__(self, pattern: Pattern, redraw: Redraw, seed: int) -> None:
        self._pattern, self._redraw, self._seed = pattern, redraw, seed
        self._drawn = lru_cache(maxsize=64)(self._draw)

    def __call__(self, events: EventBatch) -> BoolArray:
        """Dead sensors of each event, (B, 4760)."""
        return np.stack([self._drawn(*key) for key in self._keys(events)])

    def _keys(self, events: EventBatch) -> list[tuple[int, ...]]:
        if self._redraw is Redraw.NEVER:
            return [()] * len(events)
        runs = events.run.tolist()
        if self._redraw is Redraw.RUN:
            return [(run,) for run in runs]
        return list(zip(runs, events.event.tolist(), strict=True))

    def _draw(self, *key: int) -> BoolArray:
        # Seeds are not negative; a run number may be.
        words = [self._seed, *(part % 2**64 for part in key)]
        return draw(self._pattern, np.random.default_rng(words))
