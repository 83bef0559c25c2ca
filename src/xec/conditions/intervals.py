"""Intervals of validity: which dead-channel list holds for which runs, revision after revision.

The rule where intervals overlap: **the later revision wins for the runs that it names; for all
other runs what was said before stays in force.** Within one revision intervals do not overlap. An
interval without a list withdraws what was known: its runs are unknown again, which is an error for
whoever asks, never an empty list.
"""

from __future__ import annotations

import operator
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise
from typing import Final, Self

from xec.errors import ConditionsError, RunAfterLastInterval, UnknownRun

# The largest run number that every database here can hold; an open interval ends there.
LAST_RUN: Final = 2**63 - 1


class Tag(StrEnum):
    """Whose lists: the experiment's while it runs, or the analysts' of afterwards.

    Each has its own history. One never answers for the other.
    """

    ONLINE = "ONLINE"
    OFFLINE = "OFFLINE"


def run_number(run: int) -> int:
    """`run` as a Python integer.

    Raises:
        ConditionsError: it cannot be the number of a run.
    """
    number = operator.index(run)
    if not 0 <= number <= LAST_RUN:
        raise ConditionsError(f"{number} is no run number: they go from 0 on.")
    return number


@dataclass(frozen=True, slots=True, order=True)
class Runs:
    """Runs from `first` to `last`, both included.

    Raises:
        ConditionsError: when there are none, or they are no run numbers.
    """

    first: int
    last: int = LAST_RUN

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.last <= LAST_RUN:
            raise ConditionsError(
                f"{self.first} to {self.last} are no runs: give the first one, from 0 on, and "
                "then the last one."
            )

    @property
    def open(self) -> bool:
        """Whether the interval has no end yet."""
        return self.last == LAST_RUN

    def __str__(self) -> str:
        if self.open:
            return f"{self.first} and later"
        return f"{self.first}" if self.first == self.last else f"{self.first} to {self.last}"

    def __contains__(self, run: int) -> bool:
        return self.first <= run <= self.last


@dataclass(frozen=True, slots=True)
class Validity:
    """What a revision says of some runs: a list holds for them, or (None) none is known."""

    runs: Runs
    list_id: str | None


@dataclass(frozen=True, slots=True)
class Segment:
    """Runs for which a list is in force, and the revision that says so."""

    runs: Runs
    list_id: str
    revision: int


def refuse_overlap(validities: Iterable[Validity]) -> None:
    """Refuse intervals of one revision that overlap.

    Raises:
        ConditionsError: naming the first two that do.
    """
    ascending = sorted(validity.runs for validity in validities)
    for one, other in pairwise(ascending):
        if other.first <= one.last:
            raise ConditionsError(
                f"Runs {one} and runs {other} overlap within one revision: a run has one list."
            )


def _paint(segments: list[Segment], runs: Runs, painted: Segment | None) -> None:
    """Replace what `segments` (disjoint, ascending) say of `runs`."""
    begin = bisect_left(segments, runs.first, key=lambda segment: segment.runs.last)
    end = bisect_right(segments, runs.last, key=lambda segment: segment.runs.first)
    pieces = [] if painted is None else [painted]
    if begin < end:
        left, right = segments[begin], segments[end - 1]
        if left.runs.first < runs.first:
            pieces.insert(0, replace(left, runs=Runs(left.runs.first, runs.first - 1)))
        if right.runs.last > runs.last:
            pieces.append(replace(right, runs=Runs(runs.last + 1, right.runs.last)))
    segments[begin:end] = pieces


@dataclass(frozen=True, slots=True)
class Timeline:
    """Which list is in force for which runs: disjoint segments, ascending."""

    segments: tuple[Segment, ...]

    @classmethod
    def of(cls, revisions: Iterable[tuple[int, Sequence[Validity]]]) -> Self:
        """What holds after these revisions (number, intervals), in the order in which they came."""
        segments: list[Segment] = []
        for number, validities in revisions:
            for validity in validities:
                known = validity.list_id is not None
                painted = Segment(validity.runs, validity.list_id or "", number) if known else None
                _paint(segments, validity.runs, painted)
        return cls(tuple(segments))

    def find(self, run: int) -> Segment:
        """The segment that holds `run`.

        Raises:
            RunAfterLastInterval: it lies after the last segment.
            UnknownRun: it lies in a gap, before the first segment, or nothing at all is known.
        """
        index = bisect_left(self.segments, run, key=lambda segment: segment.runs.last)
        if index < len(self.segments) and run in self.segments[index].runs:
            return self.segments[index]
        raise self._unknown(run, index)

    def _unknown(self, run: int, index: int) -> UnknownRun:
        if not self.segments:
            return UnknownRun(f"No dead-channel list is known for run {run}, nor for any other.")
        if index == len(self.segments):
            last = self.segments[-1].runs.last
            return RunAfterLastInterval(
                f"Run {run} comes after run {last}, the last with a known dead-channel list."
            )
        before = f"after run {self.segments[index - 1].runs.last}" if index else "before the first"
        after = self.segments[index].runs.first
        return UnknownRun(
            f"No dead-channel list is known for run {run}: it lies in a gap of the known "
            f"intervals, {before} and before run {after}."
            if index
            else f"No dead-channel list is known for run {run}: the first known run is {after}."
        )

    def changed_by(self, validities: Iterable[Validity]) -> list[Validity]:
        """The parts of `validities` that say something else than this timeline, ascending.

        Neighbouring parts with the same list are joined.
        """
        changed: list[Validity] = []
        for validity in sorted(validities, key=lambda validity: validity.runs):
            for part in self._different(validity):
                previous = changed[-1] if changed else None
                if (
                    previous is not None
                    and previous.list_id == part.list_id
                    and previous.runs.last + 1 == part.runs.first
                ):
                    changed[-1] = replace(previous, runs=Runs(previous.runs.first, part.runs.last))
                else:
                    changed.append(part)
        return changed

    def _different(self, validity: Validity) -> list[Validity]:
        """The parts of one interval whose list is not the one in force."""
        parts: list[Validity] = []
        runs = validity.runs
        begin = bisect_left(self.segments, runs.first, key=lambda segment: segment.runs.last)
        start = runs.first
        for segment in self.segments[begin:]:
            if segment.runs.first > runs.last:
                break
            first = max(segment.runs.first, runs.first)
            last = min(segment.runs.last, runs.last)
            if first > start and validity.list_id is not None:
                parts.append(replace(validity, runs=Runs(start, first - 1)))
            if segment.list_id != validity.list_id:
                parts.append(replace(validity, runs=Runs(first, last)))
            start = last + 1
        if start <= runs.last and validity.list_id is not None:
            parts.append(replace(validity, runs=Runs(start, runs.last)))
        return parts
