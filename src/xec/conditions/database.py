"""Connections to the conditions database: SQLite and PostgreSQL, for reading or for writing.

SQLite: write-ahead log, synchronous FULL, foreign keys on. A reader is held to reading by the
database itself (`query_only`, `default_transaction_read_only`), whatever its account may do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, create_engine, event, exc, text

from xec.conditions.address import Address
from xec.conditions.schema import SCHEMA_REVISION, VERSION_TABLE
from xec.errors import ConditionsError, ConditionsUnavailable

CONNECT_SECONDS: Final = 3
READ_SECONDS: Final = 5
WRITE_SECONDS: Final = 60

# Held by whoever writes; any number does that no other program takes in the same database.
_WRITER_LOCK: Final = 0x584543
_CONNECTION_LOST: Final = (exc.OperationalError, exc.InterfaceError, exc.TimeoutError)


class Access(StrEnum):
    """What a connection is for."""

    READ = "read"
    WRITE = "write"


def _prepare_sqlite(engine: Engine, access: Access) -> None:
    pragmas = ["foreign_keys = ON", "synchronous = FULL", "recursive_triggers = ON"]
    pragmas.append("query_only = ON" if access is Access.READ else "journal_mode = WAL")
    begin = "BEGIN" if access is Access.READ else "BEGIN IMMEDIATE"

    @event.listens_for(engine, "connect")
    def connected(connection: Any, record: Any) -> None:
        del record
        # Transactions begin and end where we say, not where the driver guesses: DDL too.
        connection.isolation_level = None
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def began(connection: Connection) -> None:
        connection.exec_driver_sql(begin)


def _postgresql_arguments(access: Access) -> dict[str, Any]:
    seconds = READ_SECONDS if access is Access.READ else WRITE_SECONDS
    options = f"-c statement_timeout={seconds * 1000} -c timezone=UTC"
    if access is Access.READ:
        options += " -c default_transaction_read_only=on"
    return {
        "connect_timeout": CONNECT_SECONDS,
        # A peer that vanished without a word is noticed within seconds, not a quarter of an hour.
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
        "options": options,
        "application_name": f"xec conditions ({access})",
    }


def connect(address: Address, access: Access) -> Engine:
    """An engine for `address`; nothing is opened before its first use."""
    if address.kind == "sqlite":
        engine = create_engine(address.url, connect_args={"timeout": READ_SECONDS})
        _prepare_sqlite(engine, access)
        return engine
    return create_engine(
        address.url, connect_args=_postgresql_arguments(access), pool_pre_ping=True
    )


def reason_of(error: BaseException, address: Address) -> str:
    """The driver's words, in one line, without secrets."""
    cause = getattr(error, "orig", None) or error
    lines = str(cause).strip().splitlines() or [type(cause).__name__]
    first = lines[0].rpartition(" failed: ")[2].strip().rstrip(".")
    return address.masked(first)[:200]


@contextmanager
def explained(address: Address) -> Iterator[None]:
    """Turn the driver's errors inside into sentences that name the database.

    Raises:
        ConditionsUnavailable: it cannot be reached, or does not answer in time.
        ConditionsError: it refuses what was asked.
    """
    try:
        yield
    except _CONNECTION_LOST as error:
        raise ConditionsUnavailable(
            f"The conditions database {address} cannot be reached: {reason_of(error, address)}."
        ) from error
    except exc.DBAPIError as error:
        raise ConditionsError(
            f"The conditions database {address} refuses: {reason_of(error, address)}."
        ) from error


def refuse_missing_file(address: Address) -> None:
    """Refuse to read a file that is not there; SQLite would create an empty one.

    Raises:
        ConditionsUnavailable: when it is missing.
    """
    if address.kind == "sqlite" and not Path(address.url.database or "").is_file():
        raise ConditionsUnavailable(
            f"The conditions database {address} does not exist; xec conditions import creates it."
        )


def _foreign_version(address: Address, found: str) -> ConditionsError:
    return ConditionsError(
        f"The conditions database {address} has version {found}, this program knows "
        f"{SCHEMA_REVISION}: use the version of xec that wrote it."
    )


def _version(connection: Connection) -> str | None:
    options = {"version_table": VERSION_TABLE}
    return MigrationContext.configure(connection, opts=options).get_current_revision()


def check_schema(connection: Connection, address: Address) -> None:
    """Refuse a database that this code was not written for.

    Raises:
        ConditionsError: it holds no conditions, or those of another version.
    """
    found = _version(connection)
    if found is None:
        raise ConditionsError(
            f"The database {address} holds no conditions yet; xec conditions import creates them."
        )
    if found != SCHEMA_REVISION:
        raise _foreign_version(address, found)


def lock_for_writing(connection: Connection) -> None:
    """Wait for other writers and keep them out until the transaction ends.

    On SQLite the transaction itself (BEGIN IMMEDIATE) does so.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _WRITER_LOCK})


def migrate(connection: Connection, address: Address) -> None:
    """Bring the tables to the version of this code, within the caller's transaction.

    Raises:
        ConditionsError: the database was written by a later version.
    """
    found = _version(connection)
    if found == SCHEMA_REVISION:
        return
    configuration = Config()
    configuration.set_main_option("script_location", "xec.conditions:migrations")
    configuration.set_main_option("path_separator", "os")
    configuration.attributes["connection"] = connection
    try:
        command.upgrade(configuration, SCHEMA_REVISION)
    except CommandError as error:  # a version that these migrations do not lead from
        raise _foreign_version(address, found or "none") from error
