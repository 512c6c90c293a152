"""The orchestrator's tables. Times are UTC; sizes are bytes; JSON columns hold no secrets."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import TypeDecorator

__all__ = [
    "Base",
    "Debt",
    "DebtKind",
    "Disk",
    "Event",
    "Job",
    "Migration",
    "Pass",
    "PassDisk",
    "PassKind",
    "Setting",
]


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime; SQLite does not store the zone, so it is added again on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse a naive datetime: passing one is a bug."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime cannot be stored")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Add the zone."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """The base class of all tables."""

    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own protocol
        datetime: UtcDateTime,
        dict[str, Any]: JSON,
        list[Any]: JSON,
        int: BigInteger().with_variant(Integer, "sqlite"),
    }


class Migration(Base):
    """One machine's migration."""

    __tablename__ = "migrations"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    revision: Mapped[int] = mapped_column(default=1)
    # The tick that may run now; any other is stale and does nothing.
    tick: Mapped[int] = mapped_column(default=0)
    due_time: Mapped[datetime | None] = mapped_column(default=None)
    # Grows with each retry: agents refuse a command with an older epoch.
    epoch: Mapped[int] = mapped_column(default=1)
    # Counts operators' requests, so that a tick that is about to wait notices a new one.
    requests: Mapped[int] = mapped_column("wishes", default=0)

    spec: Mapped[str] = mapped_column(Text)
    spec_source: Mapped[str] = mapped_column(Text, default="")
    vm_name: Mapped[str] = mapped_column(Text, index=True)
    vm_moref: Mapped[str] = mapped_column(String(128), default="", index=True)
    source: Mapped[dict[str, Any]] = mapped_column(default=dict)

    stage: Mapped[str] = mapped_column(String(40), default="init")
    state: Mapped[str] = mapped_column(String(20), default="queued", index=True)
    activity: Mapped[str] = mapped_column(Text, default="")
    started: Mapped[bool] = mapped_column(default=False)
    admitted: Mapped[bool] = mapped_column(default=False)
    error: Mapped[dict[str, Any] | None] = mapped_column(JSON, default=None)
    attempts: Mapped[int] = mapped_column(default=0)

    finalize_requested: Mapped[bool] = mapped_column(default=False)
    finalize_now_requested: Mapped[bool] = mapped_column(default=False)
    finalize_time: Mapped[datetime | None] = mapped_column(default=None)
    shutdown_action: Mapped[str] = mapped_column(String(10), default="")
    pause_requested: Mapped[bool] = mapped_column(default=False)
    # "", cancel or rollback (`Control`): if set, ticks undo instead of running the stage's handler.
    undo: Mapped[str] = mapped_column(String(10), default="")

    pass_number: Mapped[int] = mapped_column(default=-1)
    shutdown_time: Mapped[datetime | None] = mapped_column(default=None)
    off_time: Mapped[datetime | None] = mapped_column(default=None)
    up_time: Mapped[datetime | None] = mapped_column(default=None)
    target_vm_id: Mapped[str] = mapped_column(String(64), default="")
    requires_uefi: Mapped[bool] = mapped_column(default=False)
    runtime_dir: Mapped[str] = mapped_column(Text, default="")
    stage_times: Mapped[list[Any]] = mapped_column(default=list)
    create_time: Mapped[datetime]
    end_time: Mapped[datetime | None] = mapped_column(default=None)

    disks: Mapped[list["Disk"]] = relationship(
        order_by="Disk.unit", cascade="all, delete-orphan", lazy="selectin"
    )
    passes: Mapped[list["Pass"]] = relationship(
        order_by="Pass.number", cascade="all, delete-orphan", lazy="selectin"
    )
    jobs: Mapped[list["Job"]] = relationship(cascade="all, delete-orphan", lazy="selectin")
    debts: Mapped[list["Debt"]] = relationship(
        order_by="Debt.id", cascade="all, delete-orphan", lazy="selectin"
    )


class Disk(Base):
    """One disk of a migration, and its resume point."""

    __tablename__ = "disks"

    migration_id: Mapped[str] = mapped_column(ForeignKey("migrations.id"), primary_key=True)
    key: Mapped[int] = mapped_column(primary_key=True)
    unit: Mapped[int]
    label: Mapped[str] = mapped_column(Text)
    source_path: Mapped[str] = mapped_column(Text)
    capacity_bytes: Mapped[int]
    used_bytes: Mapped[int] = mapped_column(default=0)
    is_root: Mapped[bool]
    storage_id: Mapped[str] = mapped_column(String(64), default="")
    image_name: Mapped[str] = mapped_column(Text, default="")
    image_path: Mapped[str] = mapped_column(Text, default="")
    # Advances only after a pass is durable on the target; while it is "", a pass is a re-sync.
    change_id: Mapped[str] = mapped_column(Text, default="")
    # Of the first snapshot that a full copy lost: no copied data is older than that snapshot.
    lost_change_id: Mapped[str] = mapped_column(Text, default="", server_default="")
    # The image's size; smaller than the capacity after the disk has grown, until the image is
    # resized.
    image_bytes: Mapped[int] = mapped_column(default=0, server_default="0")
    digest: Mapped[str] = mapped_column(Text, default="")
    volume_id: Mapped[str] = mapped_column(String(64), default="")
    total_bytes: Mapped[int] = mapped_column(default=0)
    done_bytes: Mapped[int] = mapped_column(default=0)
    rate: Mapped[int] = mapped_column(default=0)
    eta_seconds: Mapped[int] = mapped_column(default=-1)


class PassKind(StrEnum):
    """A full copy; changes while the machine runs; the last changes after it is off."""

    BASE = "base"
    DELTA = "delta"
    FINAL = "final"


class Pass(Base):
    """One pass over all disks of a machine; `kind` is a `PassKind`."""

    __tablename__ = "passes"

    migration_id: Mapped[str] = mapped_column(ForeignKey("migrations.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(10))
    snapshot_name: Mapped[str] = mapped_column(Text)
    snapshot_moref: Mapped[str] = mapped_column(String(128), default="")
    start_time: Mapped[datetime]
    end_time: Mapped[datetime | None] = mapped_column(default=None)
    read_bytes: Mapped[int] = mapped_column(default=0)
    written_bytes: Mapped[int] = mapped_column(default=0)
    changed_bytes: Mapped[int] = mapped_column(default=0)

    disks: Mapped[list["PassDisk"]] = relationship(cascade="all, delete-orphan", lazy="selectin")


class PassDisk(Base):
    """One disk in one pass."""

    __tablename__ = "pass_disks"
    __table_args__ = (
        ForeignKeyConstraint(["migration_id", "number"], ["passes.migration_id", "passes.number"]),
    )

    migration_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[int] = mapped_column(primary_key=True)
    path: Mapped[str] = mapped_column(Text)
    change_id: Mapped[str] = mapped_column(Text)
    transfer_id: Mapped[str] = mapped_column(Text)
    # "" until decided, then full, ranges or resync; repair after a verification found a difference.
    mode: Mapped[str] = mapped_column(String(10), default="")
    ranges_id: Mapped[str] = mapped_column(Text, default="")
    changed_bytes: Mapped[int] = mapped_column(default=0)


class Job(Base):
    """A CloudStack job, written before it is submitted; `purpose` is unique in a migration."""

    __tablename__ = "jobs"
    __table_args__ = (UniqueConstraint("migration_id", "purpose"),)

    job_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    migration_id: Mapped[str] = mapped_column(ForeignKey("migrations.id"), index=True)
    purpose: Mapped[str] = mapped_column(String(80))
    resource_id: Mapped[str] = mapped_column(String(64), default="")
    done: Mapped[bool] = mapped_column(default=False)


class DebtKind(StrEnum):
    """The kinds of debt.

    A debt's name is the snapshot's name, the image's path or the pool's id.
    """

    SNAPSHOT = "snapshot"
    IMAGE = "image"
    MOUNT = "mount"


class Debt(Base):
    """Something that must be undone, recorded before it exists; `kind` is a `DebtKind`.

    The row is removed when the debt is settled or dropped.
    """

    __tablename__ = "debts"
    __table_args__ = (UniqueConstraint("migration_id", "kind", "name"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    migration_id: Mapped[str] = mapped_column(ForeignKey("migrations.id"), index=True)
    kind: Mapped[str] = mapped_column(String(20))
    name: Mapped[str] = mapped_column(Text)
    create_time: Mapped[datetime]
    # How often settling failed, and the message of the last failure.
    attempts: Mapped[int] = mapped_column(default=0)
    last_error: Mapped[str] = mapped_column(Text, default="")


class Event(Base):
    """One entry of the audit trail."""

    __tablename__ = "events"

    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    time: Mapped[datetime]
    migration_id: Mapped[str] = mapped_column(String(32), default="", index=True)
    vm_name: Mapped[str] = mapped_column(Text, default="")
    action: Mapped[str] = mapped_column(String(60))
    message: Mapped[str] = mapped_column(Text)
    actor: Mapped[str] = mapped_column(Text)
    details: Mapped[dict[str, Any]] = mapped_column(default=dict)


class Setting(Base):
    """A value that an operator set at run time, for example parallel_vms."""

    __tablename__ = "settings"

    name: Mapped[str] = mapped_column(String(60), primary_key=True)
    value: Mapped[str] = mapped_column(Text)
