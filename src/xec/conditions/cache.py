"""Dead-channel lists for a server: fresh while the database answers, known ones while it does not.

A run that was asked before is answered from memory while the database is away or silent, and the
answer says so (`stale`, `as_of`). A run that was not asked before is an error then, as is one that
the database does not know: neither ever becomes an empty list.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

from xec.conditions.intervals import Tag, run_number
from xec.conditions.revisions import AsOf, Known
from xec.errors import ConditionsError, ConditionsUnavailable, UnknownRun

FRESH_SECONDS: Final = 10.0
PATIENCE_SECONDS: Final = 2.0
RETRY_SECONDS: Final = 1.0
MAX_RUNS: Final = 1024


class Store(Protocol):
    """What knows the lists: `xec.conditions.store.ConditionsStore`."""

    def lookup(self, run: int, tag: Tag, as_of: AsOf = None) -> Known:
        """The list of a run, or `UnknownRun`, or `ConditionsUnavailable`."""
        ...


@dataclass(frozen=True, slots=True)
class Cached:
    """An answer of the cache.

    Args:
        known: the list and where it comes from.
        as_of: when the database last confirmed it.
        stale: whether the database could not be asked again, although that is due.
    """

    known: Known
    as_of: datetime
    stale: bool


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the database said of a run, and when (by the clock on the wall, and monotonically)."""

    said: Known | UnknownRun
    as_of: datetime
    asked: float

    def answer(self, *, stale: bool) -> Cached:
        if isinstance(self.said, UnknownRun):
            raise type(self.said)(str(self.said))
        return Cached(self.said, self.as_of, stale)


class _Memory:
    """Entries by run, at most `size` known and as many unknown ones.

    The two are apart, so that no flood of questions about unknown runs drives out what is known.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._known: OrderedDict[int, _Entry] = OrderedDict()
        self._unknown: OrderedDict[int, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known) + len(self._unknown)

    def get(self, run: int) -> _Entry | None:
        for entries in (self._known, self._unknown):
            if run in entries:
                entries.move_to_end(run)
                return entries[run]
        return None

    def put(self, run: int, entry: _Entry) -> None:
        self._known.pop(run, None)
        self._unknown.pop(run, None)
        entries = self._unknown if isinstance(entry.said, UnknownRun) else self._known
        entries[run] = entry
        if len(entries) > self._size:
            entries.popitem(last=False)


class ConditionsCache:
    """The lists of one tag, for many threads.

    Args:
        store: what is asked.
        tag: whose lists.
        fresh: seconds for which an answer holds without asking again.
        patience: longest wait for the database, in seconds; then it counts as away.
        retry: seconds to leave a database alone that was away, and for which a run stays unknown
            without asking again.
        max_runs: runs to remember; those not asked for longest are forgotten first.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        store: Store,
        tag: Tag,
        *,
        fresh: float = FRESH_SECONDS,
        patience: float = PATIENCE_SECONDS,
        retry: float = RETRY_SECONDS,
        max_runs: int = MAX_RUNS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._tag = tag
        self._fresh = fresh
        self._patience = patience
        self._retry = retry
        self._clock = clock
        self._lock = threading.Lock()
        self._memory = _Memory(max_runs)
        self._asking: dict[int, Future[_Entry]] = {}
        self._away = ""  # why the database is away; empty while it answers
        self._away_since = datetime.now(UTC)  # means something while it is away
        self._retry_at = 0.0

    def __len__(self) -> int:
        """How many runs are held."""
        with self._lock:
            return len(self._memory)

    @property
    def away(self) -> str:
        """Why the database could not be asked last time; empty while it answers."""
        with self._lock:
            return self._away

    @property
    def away_since(self) -> datetime | None:
        """When the database was first found away; None while it answers."""
        with self._lock:
            return self._away_since if self._away else None

    def remembered(self, run: int) -> Cached | None:
        """The list of a run if the database need not be asked for it now; never waits.

        Raises:
            UnknownRun: the database has just said that it knows no list for it.
        """
        run = run_number(run)
        with self._lock:
            entry = self._memory.get(run)
            if entry is not None and self._is_fresh(entry):
                return entry.answer(stale=False)
        return None

    def lookup(self, run: int) -> Cached:
        """The list of a run.

        Raises:
            UnknownRun: the database knows no list for it.
            ConditionsError: it cannot be asked (`ConditionsUnavailable`) or refuses, and the run
                was not asked before.
        """
        run = run_number(run)
        with self._lock:
            entry = self._memory.get(run)
            if entry is not None and self._is_fresh(entry):
                return entry.answer(stale=False)
            question = self._question(run)
            trouble: ConditionsError = ConditionsUnavailable(self._away)
        if question is not None:
            try:
                return question.result(self._patience).answer(stale=False)
            except UnknownRun:
                raise
            except TimeoutError:
                trouble = ConditionsUnavailable(
                    f"The conditions database did not answer within {self._patience:g} s."
                )
                self._leave_alone(str(trouble))
            except ConditionsError as error:
                trouble = error
        if entry is None or isinstance(entry.said, UnknownRun):
            raise type(trouble)(
                f"The dead-channel list of run {run} is not known here, and the database that may "
                f"know it cannot be asked: {trouble}"
            ) from trouble
        return entry.answer(stale=True)

    def _is_fresh(self, entry: _Entry) -> bool:
        unknown = isinstance(entry.said, UnknownRun)
        holds = min(self._retry, self._fresh) if unknown else self._fresh
        return self._clock() < entry.asked + holds

    def _question(self, run: int) -> Future[_Entry] | None:
        """The question about `run`, under way or new; None where it is not to be asked now.

        The lock is held. While the database is away, one question at a time finds out whether it
        is back; a question that hangs is that one, since it ends when the database goes on.
        """
        if self._away and (self._asking or self._clock() < self._retry_at):
            return None
        question = self._asking.get(run)
        if question is None:
            question = self._asking[run] = Future()
            # A thread of its own may hang as long as the database does: nobody waits for it
            # longer than `patience`, and it does not keep the process alive.
            threading.Thread(target=self._ask, args=(run, question), daemon=True).start()
        return question

    def _ask(self, run: int, question: Future[_Entry]) -> None:
        asked, now = self._clock(), datetime.now(UTC)
        said: Known | UnknownRun
        try:
            try:
                said = self._store.lookup(run, self._tag)
            except UnknownRun as unknown:
                said = unknown
        except BaseException as error:  # whoever waits for the answer gets it
            self._leave_alone(str(error) if isinstance(error, ConditionsUnavailable) else "")
            with self._lock:
                del self._asking[run]
            question.set_exception(error)
            return
        entry = _Entry(said, now, asked)
        with self._lock:
            self._away = ""
            self._memory.put(run, entry)
            del self._asking[run]
        question.set_result(entry)

    def _leave_alone(self, reason: str) -> None:
        """Do not ask again for a while; without a reason the database did answer."""
        with self._lock:
            if not self._away:
                self._away_since = datetime.now(UTC)
            self._away = reason
            self._retry_at = self._clock() + self._retry
