"""Dead lists by run for a reconstruction in this process: what `--conditions` and `--tag` open."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from xec.conditions.dead_list import DeadList
from xec.conditions.intervals import Tag
from xec.conditions.option import wanted_tag
from xec.errors import UsageError

if TYPE_CHECKING:  # it needs SQLAlchemy, which not everybody has
    from xec.conditions.snapshot import Snapshot


@contextmanager
def lists_by_run(
    conditions: str | None, tag: Tag | None, dead: DeadList | None, server: str | None
) -> Iterator[Snapshot | None]:
    """The lists that the options ask for, as they stand now; None where they ask for none.

    Args:
        conditions: URL or path of the database.
        tag: whose lists.
        dead: a list that was given besides.
        server: the server that reconstructs; None: this process.

    Raises:
        UsageError: the options contradict each other.
        ConditionsError: the database is away, damaged or missing.
    """
    wanted = wanted_tag(conditions, tag, "--dead-list does", other=dead is not None)
    if wanted is None:
        yield None
        return
    if server is not None:
        raise UsageError(
            "--conditions and --tag are for the engine in this process: a server has its own "
            "(xec serve --conditions)."
        )
    from xec.conditions.snapshot import open_snapshot  # noqa: PLC0415

    with open_snapshot(conditions, wanted) as lists:
        yield lists
