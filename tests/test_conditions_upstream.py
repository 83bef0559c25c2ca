"""Reading the experiment's database, a real MariaDB with the tables of FACTS 4."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from sqlalchemy import create_engine, exc, text

from support_conditions import NOTE, address_of, writer
from support_databases import PASSWORD, MariaDB
from xec.conditions import upstream
from xec.conditions.address import Address, parse_address
from xec.conditions.dead_list import DeadList
from xec.conditions.intervals import Runs, Tag
from xec.conditions.store import ConditionsStore
from xec.conditions.upstream import read_upstream
from xec.errors import ConditionsError, ConditionsUnavailable, UnknownRun

A, B, NOTHING = (DeadList.of(channels) for channels in ((17, 4759), range(300, 316), ()))
TABLES = (
    "CREATE TABLE RunCatalog (id INT PRIMARY KEY, XECConf_id INT, comment TEXT)",
    "CREATE TABLE XECConf (id INT PRIMARY KEY, XECPMStatusDB_id INT, HV INT)",
    "CREATE TABLE XECPMStatusDB (id INT PRIMARY KEY, XECPMStatus_id INT)",
    "CREATE TABLE XECPMStatus (id INT, idx INT, IsBad INT, KEY (id, idx))",
)
TABLE_NAMES = ("RunCatalog", "XECConf", "XECPMStatusDB", "XECPMStatus")
names = itertools.count(1)


class Experiment:
    """A database with the experiment's tables, in which tests write what they need."""

    def __init__(self, server: MariaDB) -> None:
        self.server = server
        self.name = f"MEG2_{next(names)}"
        server.execute(
            f"CREATE DATABASE {self.name}",
            f"CREATE USER IF NOT EXISTS reader IDENTIFIED BY '{PASSWORD}'",
            f"GRANT SELECT ON {self.name}.* TO reader",
            f"USE {self.name}",
            *TABLES,
        )
        self.address = parse_address(server.url(self.name), ("mysql",), "x")

    def write(self, *statements: str) -> None:
        self.server.execute(f"USE {self.name}", "BEGIN", *statements, "COMMIT")

    def fill(self) -> None:
        """Runs 10-14, 16 with A; 17-19 with B by two ways; 20 with nothing dead; 30-33 without."""
        self.write(
            *(f"DELETE FROM {table}" for table in TABLE_NAMES),
            *(status(number, dead) for number, dead in ((57, A), (58, B), (59, NOTHING))),
            # A configuration without a database (5), and a database without a list (16).
            "INSERT INTO XECConf VALUES (1, 11, 9), (2, 12, 9), (3, 13, 9), (4, 14, 9), "
            "(5, NULL, 9), (6, 16, 9)",
            "INSERT INTO XECPMStatusDB VALUES (11, 57), (12, 58), (13, 58), (14, 59), (16, NULL)",
            runs("1", 10, 11, 12, 13, 14, 16),
            runs("2", 17, 18),
            runs("3", 19),
            runs("4", 20),
            runs("NULL", 30),
            runs("5", 31),
            runs("6", 32),
            runs("99", 33),  # a configuration that is not there
        )


def runs(configuration: str, *numbers: int) -> str:
    rows = ",".join(f"({number}, {configuration}, 'a run')" for number in numbers)
    return f"INSERT INTO RunCatalog VALUES {rows}"


def status(number: int, dead: DeadList) -> str:
    channels = ",".join(map(str, (-1, *dead.channels)))
    return (
        f"INSERT INTO XECPMStatus SELECT {number}, seq, seq IN ({channels}) "
        "FROM seq_0_to_4759 ORDER BY seq DESC"
    )


@pytest.fixture(scope="module")
def tables(mariadb: MariaDB) -> Experiment:
    return Experiment(mariadb)


@pytest.fixture
def experiment(tables: Experiment) -> Experiment:
    """The experiment's database as `fill` leaves it."""
    tables.fill()
    return tables


def test_runs_that_share_a_list_become_intervals(experiment: Experiment) -> None:
    seen: list[tuple[int, int]] = []
    found = read_upstream(experiment.address, Runs(0), lambda *count: seen.append(count))
    assert [(change.runs, change.dead_list) for change in found.changes] == [
        (Runs(10, 14), A),
        (Runs(16, 16), A),  # run 15 is in no catalogue: it stays unknown
        (Runs(17, 19), B),
        (Runs(20, 20), NOTHING),
    ]
    assert (found.runs, found.without_list, found.lists) == (10, 4, 3)
    assert seen == [(14, 14)]


def test_only_the_runs_that_were_asked_for(experiment: Experiment) -> None:
    found = read_upstream(experiment.address, Runs(14, 17))
    assert [change.runs for change in found.changes] == [Runs(14, 14), Runs(16, 16), Runs(17, 17)]
    assert read_upstream(experiment.address, Runs(21, 29)).changes == []


def test_every_run_gets_the_list_that_the_upstream_query_gives(
    experiment: Experiment, tmp_path: Path
) -> None:
    """The oracle asks step by step, run by run, as the experiment's own programs do."""
    connection = experiment.server.connect()
    cursor = connection.cursor()

    def one(query: str, key: object) -> object:
        cursor.execute(query, (key,))
        row = cursor.fetchone()
        return row[0] if row else None

    cursor.execute(f"USE {experiment.name}")
    with writer(address_of(tmp_path / "c.sqlite")) as store:
        changes = read_upstream(experiment.address, Runs(0)).changes
        store.record(Tag.OFFLINE, changes, NOTE)
        for run in range(36):
            key = one("SELECT XECConf_id FROM RunCatalog WHERE id = %s", run)
            key = one("SELECT XECPMStatusDB_id FROM XECConf WHERE id = %s", key)
            key = one("SELECT XECPMStatus_id FROM XECPMStatusDB WHERE id = %s", key)
            if key is None:
                with pytest.raises(UnknownRun):
                    store.lookup(run, Tag.OFFLINE)
                continue
            cursor.execute("SELECT idx FROM XECPMStatus WHERE id = %s AND IsBad = 1", (key,))
            dead = DeadList.of(row[0] for row in cursor.fetchall())
            assert store.lookup(run, Tag.OFFLINE).dead_list == dead
    connection.close()


def test_a_second_import_records_only_what_is_new(experiment: Experiment, tmp_path: Path) -> None:
    def record(store: ConditionsStore) -> int | None:
        changes = read_upstream(experiment.address, Runs(0)).changes
        return store.record(Tag.OFFLINE, changes, NOTE, only_new=True)

    with writer(address_of(tmp_path / "c.sqlite")) as store:
        assert record(store) == 1
        assert record(store) is None
        experiment.write(runs("4", 15, 21, 22))
        assert record(store) == 2
        said = [(v.runs, v.list_id) for v in store.history()[1].validities]
        assert said == [(Runs(15, 15), NOTHING.list_id), (Runs(21, 22), NOTHING.list_id)]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("DELETE FROM XECPMStatus WHERE id = 58 AND idx = 7", "has 4759 rows for 4759 of the 4760"),
        ("INSERT INTO XECPMStatus VALUES (58, 7, 0)", "has 4761 rows for 4760 of the 4760"),
        ("UPDATE XECPMStatus SET idx = 4760 WHERE id = 58 AND idx = 7", "has 4760 rows for 4759"),
        ("UPDATE XECPMStatus SET IsBad = NULL WHERE id = 58 AND idx = 7", "leaves sensor 7 unde"),
        ("DELETE FROM XECPMStatus WHERE id = 58", "has 0 rows for 0 of the 4760 sensors"),
    ],
)
def test_a_list_that_does_not_cover_every_sensor_once_is_refused(
    experiment: Experiment, damage: str, message: str
) -> None:
    experiment.write(damage)
    with pytest.raises(ConditionsError, match="XECPMStatus 58") as caught:
        read_upstream(experiment.address, Runs(0))
    assert message in str(caught.value)
    assert len(read_upstream(experiment.address, Runs(0, 16)).changes) == 2


def test_nothing_can_be_written_upstream(experiment: Experiment) -> None:
    """Even with an account that may: the session itself is read-only."""
    url = experiment.server.url(experiment.name, "root", "")
    address = parse_address(url, ("mysql",), "x")
    statement = text("DELETE FROM RunCatalog")
    with (
        upstream._session(address) as connection,
        pytest.raises(exc.DBAPIError, match="READ ONLY transaction"),
    ):
        connection.execute(statement)
    assert read_upstream(experiment.address, Runs(0)).runs == 10
    engine = create_engine(address.url)  # the control: another session of this account may
    with engine.begin() as connection:
        connection.execute(statement)
    engine.dispose()
    assert read_upstream(experiment.address, Runs(0)).runs == 0


def test_one_snapshot_answers_all_questions(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The experiment writes while its runs are being read."""
    read = upstream._list

    def written_meanwhile(connection: object, status: int) -> DeadList:
        experiment.write(
            "DELETE FROM XECPMStatus WHERE id = 59", "UPDATE XECPMStatus SET IsBad = 1"
        )
        return read(connection, status)  # type: ignore[arg-type]

    monkeypatch.setattr(upstream, "_list", written_meanwhile)
    found = read_upstream(experiment.address, Runs(0))
    lists = [change.dead_list for change in found.changes]
    assert lists == [A, A, B, NOTHING]
    monkeypatch.undo()
    with pytest.raises(ConditionsError, match="XECPMStatus 59"):  # the control: it is gone now
        read_upstream(experiment.address, Runs(0))


def test_other_tables_and_no_server_are_said(mariadb: MariaDB) -> None:
    experiment = Experiment(mariadb)
    experiment.write("ALTER TABLE XECConf DROP COLUMN XECPMStatusDB_id")
    with pytest.raises(ConditionsError, match="does not hold the tables that are expected") as told:
        read_upstream(experiment.address, Runs(0))
    assert "XECPMStatusDB_id" in str(told.value)
    experiment.write("DROP TABLE XECConf")
    with pytest.raises(ConditionsError, match="does not hold the tables") as told:
        read_upstream(experiment.address, Runs(0))
    assert PASSWORD not in str(told.value)
    away = Address(experiment.address.url.set(port=1))
    with pytest.raises(ConditionsUnavailable, match="cannot be reached"):
        read_upstream(away, Runs(0))
