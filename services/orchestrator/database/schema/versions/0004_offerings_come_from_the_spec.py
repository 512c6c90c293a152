"""The offering of a data disk is what the spec says when it is imported."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the schema to this version."""
    with op.batch_alter_table("disks", schema=None) as batch_op:
        batch_op.drop_column("offering_id")
