"""Dead-channel lists, revisions and intervals, and the triggers that let them only grow."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = ("dead_list", "dead_channel", "revision", "validity")

# What belongs to a row that is already there comes too late: (table, owner, the owner's row).
SEALED = (
    ("dead_channel", "dead_list", "dead_list.list_id = NEW.list_id"),
    ("validity", "revision", "revision.number = NEW.revision"),
)

# A revision is the next one, and later than all before: what holds "as of" one never changes.
IN_TURN = """
    NEW.number <> (SELECT coalesce(max(number), 0) + 1 FROM revision)
    OR NEW.recorded_at <= (SELECT max(recorded_at) FROM revision)
"""


def _create_tables() -> None:
    op.create_table(
        "dead_list",
        sa.Column("list_id", sa.String(80), primary_key=True),
        sa.Column("dead", sa.Integer(), nullable=False),
    )
    op.create_table(
        "revision",
        sa.Column("number", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("tag", sa.String(16), nullable=False),
        sa.Column("author", sa.String(500), nullable=False),
        sa.Column("reason", sa.String(500), nullable=False),
        sa.Column("source", sa.String(500), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("tag IN ('ONLINE', 'OFFLINE')", name="revision_has_a_tag"),
    )
    op.create_table(
        "dead_channel",
        sa.Column(
            "list_id",
            sa.String(80),
            sa.ForeignKey("dead_list.list_id", deferrable=True, initially="DEFERRED"),
            primary_key=True,
        ),
        sa.Column("channel", sa.Integer(), primary_key=True, autoincrement=False),
        sa.CheckConstraint("channel BETWEEN 0 AND 4759", name="dead_channel_is_a_sensor"),
    )
    op.create_table(
        "validity",
        sa.Column(
            "revision",
            sa.Integer(),
            sa.ForeignKey("revision.number", deferrable=True, initially="DEFERRED"),
            primary_key=True,
        ),
        sa.Column("first_run", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("last_run", sa.BigInteger()),
        sa.Column("list_id", sa.String(80), sa.ForeignKey("dead_list.list_id")),
        sa.CheckConstraint(
            "first_run >= 0 AND (last_run IS NULL OR last_run >= first_run)",
            name="validity_holds_runs",
        ),
    )
    op.create_index("ix_validity_list_id", "validity", ["list_id"])


def _sqlite_trigger(name: str, event: str, table: str, when: str, message: str) -> None:
    op.execute(
        f"CREATE TRIGGER {name} BEFORE {event} ON {table} WHEN {when} "
        f"BEGIN SELECT RAISE(ABORT, '{message}'); END"
    )


def _guard_sqlite() -> None:
    for table in TABLES:
        for event in ("UPDATE", "DELETE"):
            name = f"{table}_no_{event.lower()}"
            _sqlite_trigger(name, event, table, "1", f"{table} is append-only")
    # INSERT OR REPLACE removes without asking the trigger for removals; the seals refuse it for
    # the other tables.
    exists = "EXISTS (SELECT 1 FROM dead_list WHERE list_id = NEW.list_id)"
    _sqlite_trigger("dead_list_no_replace", "INSERT", "dead_list", exists, "it is append-only")
    for table, owner, key in SEALED:
        exists = f"EXISTS (SELECT 1 FROM {owner} WHERE {key})"  # noqa: S608
        _sqlite_trigger(f"{table}_sealed", "INSERT", table, exists, f"{owner} is sealed")
    _sqlite_trigger("revision_in_turn", "INSERT", "revision", IN_TURN, "revision is out of turn")


def _postgresql_trigger(name: str, event: str, table: str, condition: str, message: str) -> None:
    op.execute(
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF {condition} THEN RAISE EXCEPTION '{message}'; END IF; RETURN NEW; END $$"
    )
    op.execute(
        f"CREATE TRIGGER {name} BEFORE {event} ON {table} FOR EACH ROW EXECUTE FUNCTION {name}()"
    )


def _guard_postgresql() -> None:
    op.execute(
        "CREATE FUNCTION conditions_append_only() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$"
    )
    for table in TABLES:
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION conditions_append_only()"
        )
    for table, owner, key in SEALED:
        exists = f"EXISTS (SELECT 1 FROM {owner} WHERE {key})"  # noqa: S608
        _postgresql_trigger(f"{table}_sealed", "INSERT", table, exists, f"{owner} is sealed")
    _postgresql_trigger(
        "revision_in_turn", "INSERT", "revision", IN_TURN, "revision is out of turn"
    )


def upgrade() -> None:
    """Create the tables and their guards."""
    _create_tables()
    if op.get_bind().dialect.name == "sqlite":
        _guard_sqlite()
    else:
        _guard_postgresql()


def downgrade() -> None:
    """Refuse: what is recorded is never removed."""
    raise NotImplementedError("the first migration has nothing to go back to")
