"""What is recorded is never changed: the database itself refuses, in both kinds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, exc, text

from support_conditions import LISTS, NOTE, address_of, writer
from support_databases import PASSWORD, PostgreSQL
from xec.conditions.address import Address
from xec.conditions.database import Access, connect
from xec.conditions.intervals import Runs, Tag
from xec.conditions.revisions import Change
from xec.conditions.schema import Base
from xec.conditions.store import ConditionsStore
from xec.errors import ConditionsError

LATER = "'2101-01-01 00:00:00'"

# Each would make yesterday's answer another one.
TAMPERING = [
    "UPDATE dead_list SET dead = 99",
    "UPDATE dead_channel SET channel = channel + 1",
    "UPDATE revision SET author = 'nobody'",
    "UPDATE validity SET last_run = 10",
    "DELETE FROM dead_channel",
    "DELETE FROM validity",
    "DELETE FROM revision WHERE number = 2",
    # More for a list or a revision that is there, and revisions out of turn.
    "INSERT INTO dead_channel SELECT list_id, 77 FROM dead_list WHERE dead > 0",
    "INSERT INTO validity VALUES (1, 7000, 7001, NULL)",
    f"INSERT INTO revision VALUES (9, 'ONLINE', 'me', 'why', '', {LATER})",
    "INSERT INTO revision VALUES (3, 'ONLINE', 'me', 'why', '', '2001-01-01 00:00:00')",
    # Rows that say nothing sensible.
    "INSERT INTO validity VALUES (3, 9, 8, NULL)",
    "INSERT INTO validity VALUES (3, -1, 8, NULL)",
    "INSERT INTO validity VALUES (3, 1, 8, 'sha256:absent')",
    "INSERT INTO validity VALUES (3, 1, 8, NULL)",  # of a revision that never comes
    "INSERT INTO dead_channel VALUES ('sha256:absent', 5)",
    f"INSERT INTO revision VALUES (3, 'TEST', 'me', 'why', '', {LATER})",
]
SQLITE_ONLY = [
    "INSERT OR REPLACE INTO dead_list SELECT list_id, 99 FROM dead_list",
    "INSERT OR REPLACE INTO dead_channel SELECT list_id, channel FROM dead_channel",
    (
        "INSERT OR REPLACE INTO revision SELECT number, tag, 'me', reason, source, recorded_at "
        "FROM revision"
    ),
    "INSERT OR REPLACE INTO validity SELECT revision, first_run, 9, list_id FROM validity",
    (
        "INSERT INTO dead_list SELECT list_id, 9 FROM dead_list WHERE 1 "
        "ON CONFLICT (list_id) DO UPDATE SET dead = 9"
    ),
]
POSTGRESQL_ONLY = [
    "TRUNCATE dead_list, dead_channel, revision, validity",
    "TRUNCATE validity",
    (
        "INSERT INTO dead_list SELECT list_id, 9 FROM dead_list "
        "ON CONFLICT (list_id) DO UPDATE SET dead = 9"
    ),
]


def fill(address: Address) -> None:
    with writer(address) as store:
        store.record(Tag.ONLINE, [Change(Runs(3, 4), LISTS[1])], NOTE)
        store.record(Tag.ONLINE, [Change(Runs(4), LISTS[0])], NOTE)


@pytest.fixture(scope="module")
def sqlite_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A connection as another program would make it: none of our settings but foreign keys."""
    path = tmp_path_factory.mktemp("append") / "conditions.sqlite"
    fill(address_of(path))
    engine = create_engine(f"sqlite:///{path}")
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def postgresql_engine(postgresql: PostgreSQL) -> Iterator[Engine]:
    """As the superuser, to whom no right is denied."""
    address = address_of(postgresql.new_database())
    fill(address)
    engine = create_engine(address.url)
    yield engine
    engine.dispose()


def content(engine: Engine) -> list[list[object]]:
    with engine.connect() as connection:
        return [
            [tuple(row) for row in connection.execute(table.select().order_by(*table.primary_key))]
            for table in Base.metadata.sorted_tables
        ]


def tamper(engine: Engine, statement: str) -> None:
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA foreign_keys = ON")
            connection.exec_driver_sql("BEGIN")
        connection.execute(text(statement))


def refused(engine: Engine, statement: str) -> None:
    before = content(engine)
    with pytest.raises(exc.DBAPIError):
        tamper(engine, statement)
    assert content(engine) == before


@pytest.mark.parametrize("statement", TAMPERING + SQLITE_ONLY)
def test_sqlite_refuses(sqlite_engine: Engine, statement: str) -> None:
    refused(sqlite_engine, statement)


@pytest.mark.parametrize("statement", TAMPERING + POSTGRESQL_ONLY)
def test_postgresql_refuses(postgresql_engine: Engine, statement: str) -> None:
    refused(postgresql_engine, statement)


def test_without_the_guards_the_same_would_pass(tmp_path: Path) -> None:
    """The control: on tables without triggers and constraints these statements are harmless."""
    passed = 0
    for number, statement in enumerate(TAMPERING[:11] + SQLITE_ONLY):
        engine = create_engine(f"sqlite:///{tmp_path / str(number)}.sqlite")
        Base.metadata.create_all(engine)
        with engine.begin() as connection:
            connection.execute(text("INSERT INTO dead_list VALUES ('a', 1)"))
            connection.execute(text("INSERT INTO dead_channel VALUES ('a', 7)"))
            connection.execute(
                text("INSERT INTO revision VALUES (1, 'ONLINE', 'me', 'why', '', '2026-01-01')")
            )
            connection.execute(text("INSERT INTO validity VALUES (1, 3, 4, 'a')"))
        with engine.begin() as connection:
            connection.execute(text(statement))
            passed += 1
        engine.dispose()
    assert passed == 16


def test_accounts_for_reading_and_for_writing(postgresql: PostgreSQL) -> None:
    """Least rights: SELECT for the server, SELECT and INSERT for whoever records."""
    name = postgresql.new_database().rpartition("/")[2]
    fill(address_of(postgresql.url(name)))
    for role, rights in (("reader", "SELECT"), ("recorder", "SELECT, INSERT")):
        postgresql.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")
        postgresql.execute(f"GRANT {rights} ON ALL TABLES IN SCHEMA public TO {role}", name)
    with ConditionsStore(address_of(postgresql.url(name, "reader"))) as store:
        assert store.lookup(3, Tag.ONLINE).dead_list == LISTS[1]
    with writer(address_of(postgresql.url(name, "recorder"))) as store:
        assert store.record(Tag.OFFLINE, [Change(Runs(1), LISTS[2])], NOTE) == 3
    change = [Change(Runs(9), LISTS[3])]
    with (
        writer(address_of(postgresql.url(name, "reader"))) as store,
        pytest.raises(ConditionsError, match="refuses: permission denied"),
    ):
        store.record(Tag.OFFLINE, change, NOTE)
    engine = connect(address_of(postgresql.url(name, "recorder")), Access.WRITE)
    with pytest.raises(exc.DBAPIError, match="permission denied"):
        tamper(engine, "DELETE FROM validity")
    engine.dispose()
