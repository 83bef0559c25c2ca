"""The tables and their migrations, SQLite's settings, and databases that are something else."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from support_conditions import LISTS, NOTE, address_of, writer
from support_databases import PostgreSQL
from xec.conditions import database
from xec.conditions.address import Address
from xec.conditions.database import Access, connect
from xec.conditions.dead_list import DeadList
from xec.conditions.intervals import Runs, Tag
from xec.conditions.revisions import Change
from xec.conditions.schema import SCHEMA_REVISION, VERSION_TABLE, Base
from xec.conditions.store import ConditionsStore
from xec.errors import ConditionsError, ConditionsUnavailable


def look(address: Address, run: int) -> DeadList:
    with ConditionsStore(address) as store:
        return store.lookup(run, Tag.ONLINE).dead_list


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Address:
    """A database with one revision."""
    where = tmp_path / "conditions.sqlite"
    if request.param == "postgresql":
        server: PostgreSQL = request.getfixturevalue("postgresql")
        address = address_of(server.new_database())
    else:
        address = address_of(where)
    with writer(address) as store:
        store.record(Tag.ONLINE, [Change(Runs(3, 4), LISTS[1])], NOTE)
    return address


def test_migrations_make_the_tables_of_the_code(address: Address) -> None:
    engine = connect(address, Access.READ)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, Base.metadata) == []
    engine.dispose()


def test_the_code_wants_the_last_migration() -> None:
    configuration = Config()
    configuration.set_main_option("script_location", "xec.conditions:migrations")
    configuration.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(configuration).get_heads() == [SCHEMA_REVISION]


def test_a_database_of_another_version_is_refused(address: Address) -> None:
    engine = connect(address, Access.WRITE)
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(ConditionsError, match="has version 9999, this program knows 0001"):
        look(address, 3)
    with writer(address) as store, pytest.raises(ConditionsError, match="has version 9999"):
        store.record(Tag.ONLINE, [Change(Runs(1), LISTS[2])], NOTE)


def test_a_migration_that_fails_leaves_nothing(
    tmp_path: Path, postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables come with their guards or not at all, also where the driver would split this."""

    def failing(connection: object, address: object) -> None:
        migrate(connection, address)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    migrate = database.migrate
    monkeypatch.setattr("xec.conditions.store.migrate", failing)
    for where in (tmp_path / "conditions.sqlite", postgresql.new_database()):
        address = address_of(where)
        with writer(address) as store, pytest.raises(KeyboardInterrupt):
            store.record(Tag.ONLINE, [Change(Runs(1), LISTS[2])], NOTE)
        with pytest.raises(ConditionsError, match="holds no conditions yet"):
            look(address, 3)


def test_sqlite_is_durable_and_checks_foreign_keys(tmp_path: Path) -> None:
    address = address_of(tmp_path / "conditions.sqlite")
    with writer(address) as store:
        store.record(Tag.ONLINE, [Change(Runs(3, 4), LISTS[1])], NOTE)
    for access, read_only in ((Access.WRITE, 0), (Access.READ, 1)):
        engine = connect(address, access)
        with engine.connect() as connection:
            settings = {
                name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("journal_mode", "synchronous", "foreign_keys", "query_only")
            }
        engine.dispose()
        full = 2
        assert settings == {
            "journal_mode": "wal",
            "synchronous": full,
            "foreign_keys": 1,
            "query_only": read_only,
        }


KILLED = """
import os, sys
sys.path.insert(0, sys.argv[2])
from support_conditions import LISTS, NOTE, address_of, writer
from xec.conditions import recording
from xec.conditions.dead_list import DeadList
from xec.conditions.intervals import Runs, Tag
from xec.conditions.revisions import Change

store = writer(address_of(sys.argv[1]))
print(store.record(Tag.ONLINE, [Change(Runs(1, 5), LISTS[1])], NOTE), flush=True)
recording._moment = lambda connection: os.kill(os.getpid(), 9)  # intervals written, seal not
store.record(Tag.ONLINE, [Change(Runs(1, 5), LISTS[2])], NOTE)
"""


def test_a_writer_that_is_killed_leaves_whole_revisions(tmp_path: Path) -> None:
    path = tmp_path / "conditions.sqlite"
    command = [sys.executable, "-c", KILLED, str(path), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-9, "1\n"), done.stderr
    with ConditionsStore(address_of(path)) as store:
        assert [revision.number for revision in store.history()] == [1]
        assert store.lookup(3, Tag.ONLINE).dead_list == LISTS[1]
    with writer(address_of(path)) as store:
        assert store.record(Tag.ONLINE, [Change(Runs(9), LISTS[2])], NOTE) == 2


def test_what_is_no_conditions_database_is_said(tmp_path: Path) -> None:
    text_file = tmp_path / "text.sqlite"
    text_file.write_text("17\n" * 1000)
    empty = tmp_path / "empty.sqlite"
    empty.touch()
    foreign = tmp_path / "foreign.sqlite"
    connection = sqlite3.connect(foreign)
    connection.execute("CREATE TABLE runs (id INTEGER)")
    connection.close()
    for path, message in (
        (text_file, "refuses: file is not a database"),
        (empty, "holds no conditions yet"),
        (foreign, "holds no conditions yet"),
        (tmp_path, "does not exist"),
    ):
        with ConditionsStore(address_of(path)) as store, pytest.raises(ConditionsError) as caught:
            store.lookup(1, Tag.ONLINE)
        assert message in str(caught.value)
        assert str(path) in str(caught.value)


def test_a_writer_that_waits_too_long_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "READ_SECONDS", 0.2)
    path = tmp_path / "conditions.sqlite"
    with writer(address_of(path)) as store:
        store.record(Tag.ONLINE, [Change(Runs(1), LISTS[1])], NOTE)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(ConditionsUnavailable, match="database is locked"):
            store.record(Tag.ONLINE, [Change(Runs(2), LISTS[2])], NOTE)
    assert look(address_of(path), 1) == LISTS[1]  # readers go on meanwhile
    other.close()
