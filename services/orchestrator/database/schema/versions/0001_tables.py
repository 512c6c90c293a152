"""First version of the tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
# SQLite counts only INTEGER primary keys by itself.
_INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Bring the schema to this version."""
    op.create_table(
        "events",
        sa.Column("sequence", _INTEGER, autoincrement=True, nullable=False),
        sa.Column("time", _TIME, nullable=False),
        sa.Column("migration_id", sa.String(length=32), nullable=False),
        sa.Column("vm_name", sa.Text(), nullable=False),
        sa.Column("action", sa.String(length=60), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("sequence"),
    )
    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_events_migration_id"), ["migration_id"], unique=False)

    op.create_table(
        "migrations",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("revision", _INTEGER, nullable=False),
        sa.Column("tick", _INTEGER, nullable=False),
        sa.Column("due_time", _TIME, nullable=True),
        sa.Column("epoch", _INTEGER, nullable=False),
        sa.Column("wishes", _INTEGER, nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("spec_source", sa.Text(), nullable=False),
        sa.Column("vm_name", sa.Text(), nullable=False),
        sa.Column("vm_moref", sa.String(length=128), nullable=False),
        sa.Column("source", sa.JSON(), nullable=False),
        sa.Column("stage", sa.String(length=40), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("activity", sa.Text(), nullable=False),
        sa.Column("started", sa.Boolean(), nullable=False),
        sa.Column("admitted", sa.Boolean(), nullable=False),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.Column("attempts", _INTEGER, nullable=False),
        sa.Column("finalize_requested", sa.Boolean(), nullable=False),
        sa.Column("finalize_now_requested", sa.Boolean(), nullable=False),
        sa.Column("finalize_time", _TIME, nullable=True),
        sa.Column("shutdown_action", sa.String(length=10), nullable=False),
        sa.Column("pause_requested", sa.Boolean(), nullable=False),
        sa.Column("undo", sa.String(length=10), nullable=False),
        sa.Column("pass_number", _INTEGER, nullable=False),
        sa.Column("shutdown_time", _TIME, nullable=True),
        sa.Column("off_time", _TIME, nullable=True),
        sa.Column("up_time", _TIME, nullable=True),
        sa.Column("target_vm_id", sa.String(length=64), nullable=False),
        sa.Column("requires_uefi", sa.Boolean(), nullable=False),
        sa.Column("runtime_dir", sa.Text(), nullable=False),
        sa.Column("stage_times", sa.JSON(), nullable=False),
        sa.Column("create_time", _TIME, nullable=False),
        sa.Column("end_time", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("migrations", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_migrations_state"), ["state"], unique=False)
        batch_op.create_index(batch_op.f("ix_migrations_vm_moref"), ["vm_moref"], unique=False)
        batch_op.create_index(batch_op.f("ix_migrations_vm_name"), ["vm_name"], unique=False)

    op.create_table(
        "settings",
        sa.Column("name", sa.String(length=60), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "debts",
        sa.Column("id", _INTEGER, autoincrement=True, nullable=False),
        sa.Column("migration_id", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("create_time", _TIME, nullable=False),
        sa.Column("paid_time", _TIME, nullable=True),
        sa.Column("attempts", _INTEGER, nullable=False),
        sa.Column("last_error", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["migration_id"],
            ["migrations.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("migration_id", "kind", "name"),
    )
    with op.batch_alter_table("debts", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_debts_migration_id"), ["migration_id"], unique=False)

    op.create_table(
        "disks",
        sa.Column("migration_id", sa.String(length=32), nullable=False),
        sa.Column("key", _INTEGER, nullable=False),
        sa.Column("unit", _INTEGER, nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("source_path", sa.Text(), nullable=False),
        sa.Column("capacity_bytes", _INTEGER, nullable=False),
        sa.Column("used_bytes", _INTEGER, nullable=False),
        sa.Column("is_root", sa.Boolean(), nullable=False),
        sa.Column("storage_id", sa.String(length=64), nullable=False),
        sa.Column("offering_id", sa.String(length=64), nullable=False),
        sa.Column("image_name", sa.Text(), nullable=False),
        sa.Column("image_path", sa.Text(), nullable=False),
        sa.Column("change_id", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("volume_id", sa.String(length=64), nullable=False),
        sa.Column("total_bytes", _INTEGER, nullable=False),
        sa.Column("done_bytes", _INTEGER, nullable=False),
        sa.Column("rate", _INTEGER, nullable=False),
        sa.Column("eta_seconds", _INTEGER, nullable=False),
        sa.ForeignKeyConstraint(
            ["migration_id"],
            ["migrations.id"],
        ),
        sa.PrimaryKeyConstraint("migration_id", "key"),
    )
    op.create_table(
        "jobs",
        sa.Column("job_id", sa.String(length=36), nullable=False),
        sa.Column("migration_id", sa.String(length=32), nullable=False),
        sa.Column("purpose", sa.String(length=80), nullable=False),
        sa.Column("resource_id", sa.String(length=64), nullable=False),
        sa.Column("done", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["migration_id"],
            ["migrations.id"],
        ),
        sa.PrimaryKeyConstraint("job_id"),
        sa.UniqueConstraint("migration_id", "purpose"),
    )
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_jobs_migration_id"), ["migration_id"], unique=False)

    op.create_table(
        "passes",
        sa.Column("migration_id", sa.String(length=32), nullable=False),
        sa.Column("number", _INTEGER, nullable=False),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("snapshot_name", sa.Text(), nullable=False),
        sa.Column("snapshot_moref", sa.String(length=128), nullable=False),
        sa.Column("start_time", _TIME, nullable=False),
        sa.Column("end_time", _TIME, nullable=True),
        sa.Column("read_bytes", _INTEGER, nullable=False),
        sa.Column("written_bytes", _INTEGER, nullable=False),
        sa.Column("changed_bytes", _INTEGER, nullable=False),
        sa.ForeignKeyConstraint(
            ["migration_id"],
            ["migrations.id"],
        ),
        sa.PrimaryKeyConstraint("migration_id", "number"),
    )
    op.create_table(
        "pass_disks",
        sa.Column("migration_id", sa.String(length=32), nullable=False),
        sa.Column("number", _INTEGER, nullable=False),
        sa.Column("key", _INTEGER, nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("change_id", sa.Text(), nullable=False),
        sa.Column("transfer_id", sa.Text(), nullable=False),
        sa.Column("mode", sa.String(length=10), nullable=False),
        sa.Column("ranges_id", sa.Text(), nullable=False),
        sa.Column("changed_bytes", _INTEGER, nullable=False),
        sa.Column("durable", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["migration_id", "number"],
            ["passes.migration_id", "passes.number"],
        ),
        sa.PrimaryKeyConstraint("migration_id", "number", "key"),
    )
