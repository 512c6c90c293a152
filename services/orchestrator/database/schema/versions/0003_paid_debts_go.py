"""A debt that is paid is no row any more; whether a pass is durable, its own end says."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the schema to this version."""
    debts = sa.table("debts", sa.column("paid_time"))
    op.execute(sa.delete(debts).where(debts.c.paid_time.is_not(None)))
    with op.batch_alter_table("debts", schema=None) as batch_op:
        batch_op.drop_column("paid_time")
    with op.batch_alter_table("pass_disks", schema=None) as batch_op:
        batch_op.drop_column("durable")
