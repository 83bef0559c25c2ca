"""The experiment's database in a real MariaDB, with the tables of FACTS 4 and a few runs."""

from __future__ import annotations

import itertools

from support_databases import PASSWORD, MariaDB
from xec.conditions.address import parse_address
from xec.conditions.dead_list import DeadList

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
