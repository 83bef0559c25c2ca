"""The tables of the conditions database.

A revision says, for a tag, which list holds for which runs; a list is the set of its channels. All
four tables only ever grow: triggers (see the migrations) refuse changes and removals, and seal a
revision and a list once their own row is there. Intervals and channels are therefore written
before the row that they belong to, and their foreign keys are checked at commit.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    ForeignKey,
    Integer,
    String,
    TypeDecorator,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# The migration that this code was written for; see `migrations`.
SCHEMA_REVISION: Final = "0001"
# Not alembic's own name, so that another program's tables may lie in the same database.
VERSION_TABLE: Final = "conditions_version"

TEXT_LENGTH: Final = 500


class UtcTime(TypeDecorator[datetime]):
    """A time in UTC; SQLite keeps no zone, so that it is added when reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Into UTC."""
        del dialect
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """With its zone."""
        del dialect
        if value is None or value.tzinfo is not None:
            return value
        return value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    """All tables."""


class DeadListRow(Base):
    """A dead-channel list: its id is the digest of its channels."""

    __tablename__ = "dead_list"

    list_id: Mapped[str] = mapped_column(String(80), primary_key=True)
    dead: Mapped[int] = mapped_column(Integer)  # how many channels it holds


class DeadChannelRow(Base):
    """A channel that is dead in a list."""

    __tablename__ = "dead_channel"
    __table_args__ = (
        CheckConstraint("channel BETWEEN 0 AND 4759", name="dead_channel_is_a_sensor"),
    )

    list_id: Mapped[str] = mapped_column(
        ForeignKey("dead_list.list_id", deferrable=True, initially="DEFERRED"), primary_key=True
    )
    channel: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)


class RevisionRow(Base):
    """Who said what when, and why. Numbers go 1, 2, 3, ... over all tags, and times ascend."""

    __tablename__ = "revision"
    __table_args__ = (CheckConstraint("tag IN ('ONLINE', 'OFFLINE')", name="revision_has_a_tag"),)

    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    tag: Mapped[str] = mapped_column(String(16))
    author: Mapped[str] = mapped_column(String(TEXT_LENGTH))
    reason: Mapped[str] = mapped_column(String(TEXT_LENGTH))
    source: Mapped[str] = mapped_column(String(TEXT_LENGTH))  # file or database that it came from
    recorded_at: Mapped[datetime] = mapped_column(UtcTime())


class ValidityRow(Base):
    """What a revision says of the runs from `first_run` to `last_run` (none: and all later)."""

    __tablename__ = "validity"
    __table_args__ = (
        CheckConstraint(
            "first_run >= 0 AND (last_run IS NULL OR last_run >= first_run)",
            name="validity_holds_runs",
        ),
    )

    revision: Mapped[int] = mapped_column(
        ForeignKey("revision.number", deferrable=True, initially="DEFERRED"), primary_key=True
    )
    first_run: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    last_run: Mapped[int | None] = mapped_column(BigInteger)
    # None withdraws what was known of these runs.
    list_id: Mapped[str | None] = mapped_column(ForeignKey("dead_list.list_id"), index=True)
