"""Reading dead-channel lists from the experiment's own database (MySQL or MariaDB).

Its tables, as FACTS 4 gives them: RunCatalog(id, XECConf_id) -> XECConf(id, XECPMStatusDB_id) ->
XECPMStatusDB(id, XECPMStatus_id) -> XECPMStatus(id, idx, IsBad), 4760 rows per list. A run that is
not in RunCatalog, or from which this chain leads to no list, stays unknown; no interval spans it.

Nothing is ever written there: the session is read-only, and one snapshot answers all questions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import Connection, Engine, bindparam, create_engine, event, exc, text

from xec.conditions.address import Address
from xec.conditions.database import CONNECT_SECONDS
from xec.conditions.dead_list import DeadList
from xec.conditions.intervals import Runs
from xec.conditions.revisions import Change
from xec.detector.channels import N_CHANNELS
from xec.errors import ConditionsError, ConditionsUnavailable

ANSWER_SECONDS: Final = 60
# Rows that are held at a time: lists are read one after the other, runs in pieces.
_PIECE: Final = 1000

# Numbers from 2000 on are the client's: no connection, or none any more.
_CLIENT_ERRORS: Final = 2000
_NO_TABLE_OR_COLUMN: Final = (1054, 1146)

_COUNT: Final = text("SELECT COUNT(*) FROM RunCatalog WHERE id BETWEEN :first AND :last")
_RUNS: Final = text(
    "SELECT run.id, db.XECPMStatus_id FROM RunCatalog run "
    "LEFT JOIN XECConf conf ON conf.id = run.XECConf_id "
    "LEFT JOIN XECPMStatusDB db ON db.id = conf.XECPMStatusDB_id "
    "WHERE run.id BETWEEN :first AND :last ORDER BY run.id"
)
_LIST: Final = text("SELECT idx, IsBad FROM XECPMStatus WHERE id = :id").bindparams(bindparam("id"))


@dataclass(slots=True)
class Upstream:
    """What was read: intervals with their lists, and what could not be used.

    Args:
        changes: ascending intervals of consecutive runs that share a list.
        runs: how many runs have a list.
        without_list: how many runs lead to none; they stay unknown.
        lists: how many different lists were read.
    """

    changes: list[Change] = field(default_factory=list)
    runs: int = 0
    without_list: int = 0
    lists: int = 0


def _engine(address: Address) -> Engine:
    seconds = {"connect_timeout": CONNECT_SECONDS, "read_timeout": ANSWER_SECONDS}
    engine = create_engine(address.url, connect_args=seconds)

    @event.listens_for(engine, "begin")
    def began(connection: Connection) -> None:
        # The driver's own transaction is empty so far; this one sees a single state of the tables.
        connection.exec_driver_sql("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        connection.exec_driver_sql("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")

    return engine


def _refusal(error: exc.DBAPIError, address: Address) -> ConditionsError:
    """The driver's error as a sentence. It counts a missing column among failures to operate."""
    code, *words = getattr(error.orig, "args", ()) or (0,)
    reason = address.masked(str(words[0] if words else error.orig))[:200].rstrip(".")
    if error.connection_invalidated or (isinstance(code, int) and code >= _CLIENT_ERRORS):
        return ConditionsUnavailable(
            f"The experiment's database {address} cannot be reached: {reason}."
        )
    if code in _NO_TABLE_OR_COLUMN:
        return ConditionsError(
            f"The experiment's database {address} does not hold the tables that are expected: "
            f"{reason}."
        )
    return ConditionsError(f"The experiment's database {address} refuses: {reason}.")


@contextmanager
def _session(address: Address) -> Iterator[Connection]:
    engine = _engine(address)
    try:
        with engine.connect() as connection:
            yield connection
    except exc.DBAPIError as error:
        raise _refusal(error, address) from error
    finally:
        engine.dispose()


def _list(connection: Connection, status_id: int) -> DeadList:
    """A list, after checking that it says something of every sensor exactly once."""
    dead = []
    said = set()
    rows = 0
    for index, is_bad in connection.execute(_LIST, {"id": status_id}):
        if is_bad is None or index is None:
            raise ConditionsError(
                f"XECPMStatus {status_id} of the experiment's database leaves sensor {index} "
                "undecided: correct it there, or import other runs."
            )
        rows += 1
        said.add(int(index))
        if is_bad:
            dead.append(int(index))
    if rows != N_CHANNELS or said != set(range(N_CHANNELS)):
        raise ConditionsError(
            f"XECPMStatus {status_id} of the experiment's database has {rows} rows for "
            f"{len(said & set(range(N_CHANNELS)))} of the {N_CHANNELS} sensors: each must occur "
            "once; correct it there, or import other runs."
        )
    return DeadList.of(dead)


def _intervals(
    rows: Iterable[tuple[int, int | None]], found: Upstream
) -> Iterator[tuple[Runs, int]]:
    """Consecutive runs with the same list, ascending; counts the runs in `found`."""
    begin = end = -1
    current: int | None = None
    for run, status_id in rows:
        if status_id is None:
            found.without_list += 1
        else:
            found.runs += 1
        if status_id == current and run == end + 1:
            end = run
            continue
        if current is not None:
            yield Runs(begin, end), current
        begin, end, current = run, run, status_id
    if current is not None:
        yield Runs(begin, end), current


def read_upstream(
    address: Address, runs: Runs, progress: Callable[[int, int], None] | None = None
) -> Upstream:
    """Read the lists of `runs` from the experiment's database.

    Args:
        address: a MySQL or MariaDB database; its account needs the right to SELECT only.
        runs: which runs.
        progress: is told, now and then, how many of how many runs were read.

    Raises:
        ConditionsUnavailable: it cannot be reached.
        ConditionsError: tables are missing, or a list does not cover every sensor once.
    """
    found = Upstream()
    lists: dict[int, DeadList] = {}
    limits = {"first": runs.first, "last": runs.last}
    with _session(address) as connection:
        total = int(connection.scalar(_COUNT, limits) or 0)

        def rows() -> Iterator[tuple[int, int | None]]:
            piece = connection.execute(_RUNS, limits)
            for done, (run, status_id) in enumerate(piece, start=1):
                yield int(run), None if status_id is None else int(status_id)
                if progress is not None and (done % _PIECE == 0 or done == total):
                    progress(done, total)

        intervals = list(_intervals(rows(), found))
        for interval, status_id in intervals:
            if status_id not in lists:
                lists[status_id] = _list(connection, status_id)
            found.changes.append(Change(interval, lists[status_id]))
    found.lists = len(lists)
    return found
