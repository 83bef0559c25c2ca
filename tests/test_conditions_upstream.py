"""Reading the experiment's database, a real MariaDB with the tables of FACTS 4."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import create_engine, exc, text

from support_conditions import NOTE, address_of, writer
from support_databases import PASSWORD, MariaDB
from support_upstream import NOTHING, A, B, Experiment, runs
from xec.conditions import upstream
from xec.conditions.address import Address, parse_address
from xec.conditions.dead_list import DeadList
from xec.conditions.intervals import Runs, Tag
from xec.conditions.store import ConditionsStore
from xec.conditions.upstream import read_upstream
from xec.errors import ConditionsError, ConditionsUnavailable, UnknownRun


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
