"""Where a database is, and that its password is shown nowhere."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from urllib.parse import quote

import pytest

from support_conditions import LISTS, NOTE, address_of, writer
from support_databases import PASSWORD, MariaDB, PostgreSQL
from xec.conditions.address import (
    CONDITIONS_VARIABLE,
    DEFAULT_CONDITIONS,
    UPSTREAM_VARIABLE,
    Address,
    conditions_address,
    parse_address,
    upstream_address,
)
from xec.conditions.intervals import Runs, Tag
from xec.conditions.revisions import Change
from xec.conditions.store import ConditionsStore
from xec.conditions.upstream import read_upstream
from xec.errors import ConditionsError, UsageError, XecError

ESCAPED = quote(PASSWORD, safe="")
BOTH = ("postgresql", "sqlite")


@pytest.mark.parametrize(
    ("text", "shown", "driver"),
    [
        ("conditions.sqlite", "conditions.sqlite", "sqlite"),
        ("sqlite:////data/c.db", "/data/c.db", "sqlite"),
        ("postgresql://xec@db/meg", "postgresql://xec@db/meg", "postgresql+psycopg"),
        ("postgres://db:5433/meg", "postgresql://db:5433/meg", "postgresql+psycopg"),
        (f"postgresql://x:{ESCAPED}@db/meg", "postgresql://x@db/meg", "postgresql+psycopg"),
        (f"postgresql://db/meg?password={ESCAPED}", "postgresql://db/meg", "postgresql+psycopg"),
    ],
)
def test_addresses_and_how_they_are_shown(text: str, shown: str, driver: str) -> None:
    address = parse_address(text, BOTH, "--database")
    assert str(address) == shown
    assert address.url.drivername == driver
    for form in (str(address), repr(address), f"{address}"):
        assert PASSWORD not in form
        assert ESCAPED not in form


def test_option_before_environment_before_a_file_here() -> None:
    environment = {CONDITIONS_VARIABLE: "postgresql://xec@db/meg"}
    assert str(conditions_address("c.db", environment)) == "c.db"
    assert str(conditions_address(None, environment)) == "postgresql://xec@db/meg"
    assert str(conditions_address(None, {})) == DEFAULT_CONDITIONS
    mysql = {UPSTREAM_VARIABLE: "mysql://ro@megdb/MEG2"}
    assert str(upstream_address(None, mysql)) == "mysql://ro@megdb/MEG2"
    assert upstream_address("mariadb://megdb/MEG2").url.drivername == "mysql+pymysql"
    with pytest.raises(UsageError, match=f"set {UPSTREAM_VARIABLE} to"):
        upstream_address(None, {})


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://x:{ESCAPED}@db",
        f"postgresql://x:{ESCAPED}@db:port/meg",
        f"oracle://x:{ESCAPED}@db/meg",
        f"mysql://x:{ESCAPED}@db/meg",
        f"://x:{ESCAPED}@db/meg",
        f"postgresql+psycopg2 ://x:{ESCAPED}@db/meg",
        "sqlite://",
        "",
    ],
)
def test_what_is_no_address_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_address(text, BOTH, CONDITIONS_VARIABLE)
    told = "".join(traceback.format_exception(caught.value))
    assert str(caught.value).startswith(CONDITIONS_VARIABLE)
    assert ESCAPED not in told
    assert PASSWORD not in told


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (conditions_address, f"postgresql://x:{ESCAPED}@db/meg"),
        (conditions_address, f"postgresql://x@db/meg?password={ESCAPED}"),
        (conditions_address, f"postgresql://x@db/meg?sslpassword={ESCAPED}"),
        (upstream_address, f"mysql://x:{ESCAPED}@db/meg"),
    ],
)
def test_a_password_in_an_argument_is_refused(read: Callable[[str], Address], text: str) -> None:
    """Arguments are seen by every user of the machine."""
    with pytest.raises(UsageError, match="every user of this machine can see") as caught:
        read(text)
    assert ESCAPED not in str(caught.value)
    assert "XEC_" in str(caught.value)


def shown(error: BaseException, caplog: pytest.LogCaptureFixture) -> str:
    """All that a program could show of an error and of the logs of every library."""
    return "".join(traceback.format_exception(error)) + repr(error) + caplog.text


def refusal(action: Callable[[], object]) -> XecError:
    with pytest.raises(ConditionsError) as caught:
        action()
    return caught.value


def test_passwords_are_in_no_error_and_no_log(
    postgresql: PostgreSQL, mariadb: MariaDB, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "sqlalchemy")  # which else keeps to warnings
    wrong = "not-the-right-one:/@"
    url = postgresql.new_database()
    with writer(address_of(url)) as store:
        store.record(Tag.ONLINE, [Change(Runs(1), LISTS[1])], NOTE)
    name = url.rpartition("/")[2]

    def refused() -> object:
        with ConditionsStore(address_of(postgresql.url(name, password=wrong))) as store:
            return store.lookup(1, Tag.ONLINE)

    def refused_upstream() -> object:
        address = parse_address(mariadb.url("MEG2", "root", wrong), ("mysql",), "x")
        return read_upstream(address, Runs(0))

    for action, because in ((refused, "password authentication"), (refused_upstream, "Access den")):
        error = refusal(action)
        assert because in str(error)
        assert "\n" not in str(error)
        text = shown(error, caplog)
        for secret in (wrong, quote(wrong, safe=""), PASSWORD, ESCAPED):
            assert secret not in text
    assert "sqlalchemy" in caplog.text  # the logs were listened to


def test_a_driver_that_repeats_the_password_is_masked() -> None:
    """The control of `masked`: some driver may say it, some day."""
    address = parse_address(f"postgresql://x:{ESCAPED}@db/m?sslpassword=other", BOTH, "x")
    assert (
        address.masked(f"user x, password {PASSWORD}, key other") == "user x, password ***, key ***"
    )
