"""`xec conditions`: dead-channel lists by run, recorded and looked up."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Final

import typer

from xec.cli import Command
from xec.conditions.intervals import Tag
from xec.errors import UsageError

app = typer.Typer(
    no_args_is_help=True,
    help="Dead-channel lists by run: import, show, diff, history, export.",
)

Database = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="SQLite file or postgresql://user@host/name, without a password; otherwise the "
        "environment variable XEC_CONDITIONS_DATABASE, or conditions.sqlite.",
        show_default=False,
    ),
]
OfTag = Annotated[
    Tag,
    typer.Option("--tag", case_sensitive=False, help="Whose lists; each tag has its own history."),
]
AsOfOption = Annotated[
    str | None,
    typer.Option(
        "--as-of", metavar="REVISION|TIME", help="As things stood then.", show_default=False
    ),
]
DEFAULT_TAG: Final = Tag.OFFLINE


def _author(given: str | None) -> str:
    import getpass  # noqa: PLC0415

    try:
        return getpass.getuser() if given is None else given
    except (KeyError, OSError):
        raise UsageError("This account has no name: say who you are with --author.") from None


@app.command("import")
def import_lists(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="A list (one channel id per line) or a table of intervals.",
            show_default=False,
        ),
    ] = None,
    *,
    why: Annotated[str, typer.Option(metavar="TEXT", help="The reason; kept in the history.")],
    author: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Who says so; this account by default.", show_default=False
        ),
    ] = None,
    first_run: Annotated[
        int | None, typer.Option(min=0, help="First run of a list.", show_default=False)
    ] = None,
    last_run: Annotated[
        int | None,
        typer.Option(min=0, help="Its last run; without, all later runs.", show_default=False),
    ] = None,
    upstream: Annotated[
        bool,
        typer.Option(
            "--upstream", help="Read the experiment's database, XEC_UPSTREAM_DATABASE, instead."
        ),
    ] = False,
    upstream_database: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="mysql://user@host/name, without a password.", show_default=False
        ),
    ] = None,
    tag: OfTag = DEFAULT_TAG,
    database: Database = None,
) -> None:
    """Record a list for some runs, a table of intervals, or the experiment's own lists.

    A new revision wins over earlier ones for the runs that it names; these stay readable.

    Example: xec conditions import dead.txt --first-run 430000 --why "board 17 replaced"
    """
    from xec.conditions import importing, presentation  # noqa: PLC0415
    from xec.conditions.address import conditions_address, upstream_address  # noqa: PLC0415
    from xec.conditions.database import Access  # noqa: PLC0415
    from xec.conditions.revisions import Note  # noqa: PLC0415
    from xec.conditions.store import ConditionsStore  # noqa: PLC0415

    from_database = upstream or upstream_database is not None
    if from_database == (source is not None):
        raise UsageError("Say what to import: a FILE, or --upstream, one of them.")
    bounds = importing.Bounds(first_run, last_run)
    address = conditions_address(database)
    if source is not None:
        changes = importing.changes_of_file(source, bounds)
        note = Note(_author(author), why, str(source))
    else:
        other = upstream_address(upstream_database)
        note = Note(_author(author), why, str(other))
        found = importing.changes_upstream(other, bounds)
        changes = found.changes
        presentation.say(importing.summary(found, other))
    if changes:
        with ConditionsStore(address, Access.WRITE) as store:
            presentation.say([importing.record(store, tag, changes, note, from_database)])


@app.command()
def show(
    run: Annotated[
        int | None, typer.Argument(metavar="RUN", help="All intervals without it.", min=0)
    ] = None,
    *,
    tag: OfTag = DEFAULT_TAG,
    as_of: AsOfOption = None,
    database: Database = None,
) -> None:
    """Show the list that is in force for a run, or all intervals.

    Example: xec conditions show 430123
    """
    from xec.conditions import exporting, operands, presentation  # noqa: PLC0415
    from xec.conditions.address import conditions_address  # noqa: PLC0415
    from xec.conditions.store import ConditionsStore  # noqa: PLC0415

    moment = operands.as_of(as_of)
    with ConditionsStore(conditions_address(database)) as store:
        if run is None:
            timeline, head = exporting.some_timeline(store, tag, moment)
            presentation.show(presentation.intervals(timeline, tag, head, cache(store.dead_list)))
        else:
            known = store.lookup(run, tag, moment)
            revision = next(r for r in store.history(tag) if r.number == known.revision)
            presentation.show(presentation.known_list(known, revision))


@app.command()
def diff(
    one: Annotated[str, typer.Argument(metavar="LIST", help="[TAG:]RUN[@REVISION], id or file.")],
    other: Annotated[str, typer.Argument(metavar="LIST", help="The same.")],
    *,
    tag: OfTag = DEFAULT_TAG,
    database: Database = None,
) -> None:
    """Show which channels are dead in one list and not in the other.

    Example: xec conditions diff 430000 OFFLINE:430123@7
    """
    from xec.conditions import operands, presentation  # noqa: PLC0415
    from xec.conditions.address import conditions_address  # noqa: PLC0415
    from xec.conditions.store import ConditionsStore  # noqa: PLC0415

    with ConditionsStore(conditions_address(database)) as store:
        lists = [(name, operands.list_of(name, store, tag)) for name in (one, other)]
    presentation.show(presentation.difference(*lists))


@app.command()
def history(
    *,
    tag: Annotated[
        Tag | None,
        typer.Option("--tag", case_sensitive=False, help="Of one tag only.", show_default=False),
    ] = None,
    run: Annotated[
        int | None,
        typer.Option(min=0, help="Only what was said of this run.", show_default=False),
    ] = None,
    database: Database = None,
) -> None:
    """Show who recorded what, when and why, the last revision first.

    Example: xec conditions history --run 430123
    """
    from xec.conditions import presentation  # noqa: PLC0415
    from xec.conditions.address import conditions_address  # noqa: PLC0415
    from xec.conditions.store import ConditionsStore  # noqa: PLC0415

    with ConditionsStore(conditions_address(database)) as store:
        revisions = store.history(tag)
    if run is not None:
        revisions = [r for r in revisions if any(run in v.runs for v in r.validities)]
    presentation.show(presentation.history(revisions))


@app.command()
def export(
    *,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Text file; replaced if it exists.")],
    run: Annotated[
        int | None,
        typer.Option(min=0, help="Only the list of this run; all intervals without it."),
    ] = None,
    tag: OfTag = DEFAULT_TAG,
    as_of: AsOfOption = None,
    database: Database = None,
) -> None:
    """Write the list of a run, or a table of all intervals, as text that import reads.

    Example: xec conditions export --run 430123 --out dead.txt
    """
    from xec.conditions import exporting, operands, presentation  # noqa: PLC0415
    from xec.conditions.address import conditions_address  # noqa: PLC0415
    from xec.conditions.store import ConditionsStore  # noqa: PLC0415

    moment = operands.as_of(as_of)
    with ConditionsStore(conditions_address(database)) as store:
        if run is None:
            said = exporting.export_table(store, tag, moment, out)
        else:
            said = exporting.export_list(store, run, tag, moment, out)
    presentation.say([said])


COMMAND = Command(
    run=app, needs=("sqlalchemy", "alembic", "psycopg", "pymysql"), extra="conditions"
)
