"""Dead-channel lists with their intervals, as a table in text form: one line per interval.

    # comment
    first_run last_run channels
    400       449      17,18,300-315
    450       -        none

`-` ends an interval that has no end yet; `none` is a list of no channel (nothing is dead), which
`unknown` is not: it withdraws what was known of these runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Final

from xec.conditions.dead_list import DeadList
from xec.conditions.intervals import LAST_RUN, Runs, Segment, Timeline, Validity, refuse_overlap
from xec.conditions.revisions import Change
from xec.detector.channels import N_CHANNELS
from xec.errors import ConditionsError

HEADER: Final = "first_run last_run channels"
OPEN_END: Final = "-"
NOTHING_DEAD: Final = "none"
WITHDRAWN: Final = "unknown"


def is_table(text: str) -> bool:
    """Whether a text is such a table, rather than a single list: its first line says so."""
    return next((content.split() for _, content in _contents(text)), []) == HEADER.split()


def _contents(text: str) -> Iterator[tuple[int, str]]:
    """Number and content of each line that is more than a comment."""
    for number, line in enumerate(text.splitlines(), start=1):
        content = line.partition("#")[0].strip()
        if content:
            yield number, content


def _number(text: str, where: str, what: str, limit: int) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 19 or int(text) > limit:
        raise ConditionsError(f"{where}: {text[:40]!r} is no {what}.")
    return int(text)


def _channels(text: str, where: str) -> DeadList:
    if text == NOTHING_DEAD:
        return DeadList.of(())
    channels: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        low = _number(first.strip(), where, f"channel id (0 to {N_CHANNELS - 1})", N_CHANNELS - 1)
        high = low
        if dash:
            high = _number(last.strip(), where, "end of a range of channel ids", N_CHANNELS - 1)
        if high < low:
            raise ConditionsError(f"{where}: the range {part.strip()[:40]} runs backwards.")
        channels.update(range(low, high + 1))
    return DeadList.of(channels)


def _change(content: str, where: str) -> Change:
    words = content.split(None, 2)
    if len(words) != 3:
        raise ConditionsError(f"{where}: a line holds {HEADER}.")
    first = _number(words[0], where, "run number", LAST_RUN)
    open_end = words[1] == OPEN_END
    last = LAST_RUN if open_end else _number(words[1], where, "run number", LAST_RUN)
    if last < first:
        raise ConditionsError(f"{where}: the interval ends before it begins.")
    dead = None if words[2] == WITHDRAWN else _channels(words[2], where)
    return Change(Runs(first, last), dead)


def parse_table(text: str, name: str) -> list[Change]:
    """The intervals that a table holds; `name` stands for it in errors.

    Raises:
        ConditionsError: a line is no interval, intervals overlap, or there are none; it names the
            line.
    """
    if not is_table(text):
        raise ConditionsError(f"{name} is no table of dead lists: it begins with {HEADER!r}.")
    lines = list(_contents(text))[1:]
    changes = [_change(content, f"{name}, line {number}") for number, content in lines]
    if not changes:
        raise ConditionsError(f"{name} holds no interval.")
    try:
        refuse_overlap(Validity(change.runs, None) for change in changes)
    except ConditionsError as error:
        raise ConditionsError(f"{name}: {error}") from error
    return changes


def ranges_of(channels: tuple[int, ...]) -> str:
    """Channel ids with three or more in a row as a range."""
    breaks = [i for i, (a, b) in enumerate(pairwise(channels), start=1) if b != a + 1]
    begins, ends = [0, *breaks], [*breaks, len(channels)]
    parts: list[str] = []
    for begin, end in zip(begins, ends, strict=True):
        run = channels[begin:end]
        parts += [f"{run[0]}-{run[-1]}"] if len(run) > 2 else [str(channel) for channel in run]
    return ",".join(parts)


def _line(segment: Segment, dead: DeadList) -> str:
    last = OPEN_END if segment.runs.open else str(segment.runs.last)
    channels = ranges_of(dead.channels) if dead.channels else NOTHING_DEAD
    return f"{segment.runs.first} {last} {channels}"


def table_lines(
    timeline: Timeline, list_of: Callable[[str], DeadList], comments: Iterable[str] = ()
) -> Iterator[str]:
    """The lines of a table that says what a timeline says.

    Args:
        timeline: what is in force.
        list_of: the list of an id.
        comments: lines to begin with.
    """
    yield from (f"# {comment}" for comment in comments)
    yield HEADER
    for segment in timeline.segments:
        yield _line(segment, list_of(segment.list_id))
