"""Dead-channel lists of a server with a conditions database: by run, or by id.

The database may be slow, silent or away: nothing here waits for it on the event loop, and no
thread that may hang is one that the rest of the server needs.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TypeVar

from xec.conditions.dead_list import DeadList
from xec.conditions.held import Held
from xec.conditions.intervals import LAST_RUN, Tag
from xec.errors import (
    ConditionsError,
    ConditionsUnavailable,
    RunAfterLastInterval,
    UnknownList,
    UnknownRun,
)
from xec_server.calls.refusal import Reason, Refusal

if TYPE_CHECKING:  # they need SQLAlchemy, which a server without a database does not have
    from xec.conditions.cache import Cached, ConditionsCache
    from xec.conditions.store import ConditionsStore

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

_LIST_ID: Final = re.compile(r"sha256:[0-9a-f]{16}")
_LISTS: Final = 256
_THREADS: Final = 8
_PATIENCE_SECONDS: Final = 2.0


def refusal_for(error: ConditionsError) -> Refusal:
    """What a request is told of an error of the conditions."""
    if isinstance(error, RunAfterLastInterval):
        return Refusal(Reason.RUN_AFTER_LAST_INTERVAL, str(error))
    if isinstance(error, UnknownRun):
        return Refusal(Reason.UNKNOWN_RUN, str(error))
    if isinstance(error, UnknownList):
        return Refusal(Reason.UNKNOWN_DEAD_LIST, str(error))
    if isinstance(error, ConditionsUnavailable):
        return Refusal(Reason.CONDITIONS_AWAY, str(error))
    return Refusal(Reason.CONDITIONS_UNUSABLE, str(error))


class _Asked(dict[_Key, "asyncio.Task[_Value]"]):
    """Questions under way: who asks the same waits for the same answer."""

    async def ask(self, key: _Key, question: Callable[[], asyncio.Future[_Value]]) -> _Value:
        task = self.get(key)
        if task is None:
            task = self[key] = asyncio.ensure_future(_awaited(question()))
            task.add_done_callback(lambda done: self._forget(key, done))
        return await asyncio.shield(task)  # one who goes away does not end it for the others

    def _forget(self, key: _Key, done: asyncio.Task[_Value]) -> None:
        del self[key]
        if not done.cancelled():
            done.exception()  # seen, also where all who asked are gone


async def _awaited(future: asyncio.Future[_Value]) -> _Value:
    return await future


class RunLists:
    """The lists in a conditions database, for one event loop.

    Args:
        store: knows lists by their id.
        cache: knows them by run, and what it knew while the database is away.
        tag: of the cache, for provenance.
        patience: seconds to wait for a list that is asked for by its id.
    """

    def __init__(
        self,
        store: ConditionsStore,
        cache: ConditionsCache,
        tag: Tag,
        patience: float = _PATIENCE_SECONDS,
    ) -> None:
        self.tag = tag
        self._store = store
        self._cache = cache
        self._patience = patience
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="xec-conditions")
        self._asked_runs: _Asked[int, Cached] = _Asked()
        self._asked_lists: _Asked[str, DeadList] = _Asked()
        self._lists: OrderedDict[str, DeadList] = OrderedDict()
        self._hanging = threading.Semaphore(_THREADS)

    @property
    def away_since(self) -> datetime | None:
        """Since when the database cannot be asked, as far as is known."""
        return self._cache.away_since

    async def of_run(self, run: int) -> Held:
        """The list that is in force for a run.

        Raises:
            Refusal: it is unknown; or it cannot be asked for, and was not before.
        """
        if not 0 <= run <= LAST_RUN:
            raise Refusal(Reason.UNKNOWN_RUN, f"{run} is no run number: they go from 0 on.")
        try:
            cached = self._cache.remembered(run)
            if cached is None:
                cached = await self._asked_runs.ask(run, lambda: self._look_up(run))
        except ConditionsError as error:
            raise refusal_for(error) from error
        since = cached.as_of.astimezone(UTC).isoformat(timespec="seconds") if cached.stale else ""
        return Held(cached.known.dead_list, f"{self.tag}@{cached.known.revision}", since)

    def _look_up(self, run: int) -> asyncio.Future[Cached]:
        # The cache itself does not wait longer than its patience.
        return asyncio.get_running_loop().run_in_executor(self._threads, self._cache.lookup, run)

    async def named(self, list_id: str) -> Held:
        """The list of this id, in force or not.

        Raises:
            Refusal: no list has it; or the database cannot be asked.
        """
        if _LIST_ID.fullmatch(list_id) is None:
            raise Refusal(
                Reason.UNKNOWN_DEAD_LIST, f"{list_id[:80]!r} is no id of a dead-channel list."
            )
        known = self._lists.get(list_id)
        if known is None:
            try:
                known = await self._asked_lists.ask(list_id, lambda: self._fetch(list_id))
            except ConditionsError as error:
                raise refusal_for(error) from error
            self._lists[list_id] = known  # for good: the id is the digest of the channels
            if len(self._lists) > _LISTS:
                self._lists.popitem(last=False)
        return Held(known)

    def _fetch(self, list_id: str) -> asyncio.Future[DeadList]:
        return asyncio.ensure_future(self._fetched(list_id))

    async def _fetched(self, list_id: str) -> DeadList:
        if not self._hanging.acquire(blocking=False):
            raise ConditionsUnavailable("The conditions database does not answer.")
        answer: Future[DeadList] = Future()
        # A thread of its own may hang as long as the database does, and the process ends all the
        # same; there are never more than a few of them.
        threading.Thread(target=self._ask_store, args=(list_id, answer), daemon=True).start()
        try:
            return await asyncio.wait_for(asyncio.wrap_future(answer), self._patience)
        except TimeoutError:
            raise ConditionsUnavailable(
                f"The conditions database did not answer within {self._patience:g} s."
            ) from None

    def _ask_store(self, list_id: str, answer: Future[DeadList]) -> None:
        try:
            found = self._store.dead_list(list_id)
        except BaseException as error:  # whoever waits for the answer gets it
            if answer.set_running_or_notify_cancel():
                answer.set_exception(error)
        else:
            if answer.set_running_or_notify_cancel():
                answer.set_result(found)
        finally:
            self._hanging.release()

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._store.close()


def open_run_lists(address: str | None, tag: Tag) -> RunLists:
    """The lists of one tag in a database, which need not be there yet, unless it is a file.

    Args:
        address: URL or path; None takes the environment's.
        tag: whose lists.

    Raises:
        UsageError: the address makes no sense, or holds a password.
        ConditionsUnavailable: the file does not exist.
    """
    from xec.conditions.address import conditions_address  # noqa: PLC0415
    from xec.conditions.cache import ConditionsCache  # noqa: PLC0415
    from xec.conditions.database import refuse_missing_file  # noqa: PLC0415
    from xec.conditions.store import ConditionsStore  # noqa: PLC0415

    found = conditions_address(address, name="--conditions")
    refuse_missing_file(found)
    store = ConditionsStore(found)
    return RunLists(store, ConditionsCache(store, tag), tag)
