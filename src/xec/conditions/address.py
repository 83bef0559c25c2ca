"""Where a database is: its URL from an option or the environment, and a name without secrets.

A password is taken from the environment (inside the URL, or as the driver's own variable or
file, such as PGPASSWORD and ~/.pgpass), never from an argument, which every user of the machine
can read in the list of processes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from xec.conditions.option import CONDITIONS_VARIABLE
from xec.errors import UsageError

UPSTREAM_VARIABLE: Final = "XEC_UPSTREAM_DATABASE"
DEFAULT_CONDITIONS: Final = "conditions.sqlite"

_DRIVERS: Final = {
    "sqlite": "sqlite",
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
}
_SECRET_PARAMETERS: Final = re.compile(r"pass|secret|token|key", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Address:
    """A database: `url` for the driver, and `str()` for people, without password or parameters."""

    url: URL = field(repr=False)

    @property
    def kind(self) -> str:
        """`sqlite`, `postgresql` or `mysql`."""
        return self.url.get_backend_name()

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never be shown."""
        values = [self.url.password or ""]
        for name, value in self.url.query.items():
            if _SECRET_PARAMETERS.search(name):
                values += [value] if isinstance(value, str) else list(value)
        return tuple(filter(None, values))

    def __str__(self) -> str:
        if self.kind == "sqlite":
            return self.url.database or ":memory:"
        shown = URL.create(
            self.kind,
            username=self.url.username,
            host=self.url.host,
            port=self.url.port,
            database=self.url.database,
        )
        return shown.render_as_string()

    def masked(self, text: str) -> str:
        """`text` with every secret of this address replaced by `***`."""
        for secret in sorted(self.secrets, key=len, reverse=True):
            text = text.replace(secret, "***")
        return text


def parse_address(text: str, kinds: tuple[str, ...], origin: str) -> Address:
    """The database that a URL, or the path of an SQLite file, names.

    Args:
        text: `postgresql://user@host/name`, `mysql://user@host/name`, or a path.
        kinds: what may stand here, of `sqlite`, `postgresql`, `mysql`.
        origin: where the text comes from, for errors; the text itself may hold a password.

    Raises:
        UsageError: when it is no URL of these kinds. The sentence does not repeat the text.
    """
    if "://" not in text:
        if "sqlite" not in kinds or not text:
            raise UsageError(f"{origin} is no URL such as {kinds[0]}://user@host/name.")
        return Address(URL.create("sqlite", database=str(Path(text))))
    # The cause is not chained: its text may repeat the password.
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise UsageError(f"{origin} is no URL such as {kinds[0]}://user@host/name.") from None
    driver = _DRIVERS.get(url.drivername.partition("+")[0])
    if driver is None or driver.partition("+")[0] not in kinds:
        raise UsageError(f"{origin} names no database of the kind {' or '.join(kinds)}.")
    if driver != "sqlite" and not url.database:
        raise UsageError(f"{origin} names no database: add its name, as in ...host/name.")
    if driver == "sqlite" and not url.database:
        raise UsageError(f"{origin} names no file: write sqlite:///PATH, or just the path.")
    return Address(url.set(drivername=driver))


def _from_argument(text: str, option: str, variable: str, kinds: tuple[str, ...]) -> Address:
    address = parse_address(text, kinds, option)
    if address.secrets:
        raise UsageError(
            f"{option} holds a password, which every user of this machine can see: give the URL "
            f"in the environment variable {variable} instead."
        )
    return address


def conditions_address(
    option: str | None, environment: Mapping[str, str] | None = None, name: str = "--database"
) -> Address:
    """The conditions database: the option, else the environment, else a file right here.

    Args:
        option: what was said on the command line.
        environment: that of the process by default.
        name: of the option, for errors.

    Raises:
        UsageError: it is no URL, of another kind, or an argument with a password.
    """
    kinds = ("postgresql", "sqlite")
    if option is not None:
        return _from_argument(option, name, CONDITIONS_VARIABLE, kinds)
    value = (os.environ if environment is None else environment).get(CONDITIONS_VARIABLE)
    return parse_address(value or DEFAULT_CONDITIONS, kinds, CONDITIONS_VARIABLE)


def upstream_address(option: str | None, environment: Mapping[str, str] | None = None) -> Address:
    """The experiment's own database: `--upstream-database`, else the environment.

    Raises:
        UsageError: it is not given, no URL, of another kind, or an argument with a password.
    """
    if option is not None:
        return _from_argument(option, "--upstream-database", UPSTREAM_VARIABLE, ("mysql",))
    value = (os.environ if environment is None else environment).get(UPSTREAM_VARIABLE)
    if not value:
        raise UsageError(
            f"Say where the experiment's database is: set {UPSTREAM_VARIABLE} to "
            "mysql://user:password@host/name."
        )
    return parse_address(value, ("mysql",), UPSTREAM_VARIABLE)
