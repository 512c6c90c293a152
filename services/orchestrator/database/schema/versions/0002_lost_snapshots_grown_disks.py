"""What a base copy that lost its snapshot goes on from, and how large an image was made."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Bring the schema to this version."""
    with op.batch_alter_table("disks", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column("lost_change_id", sa.Text(), nullable=False, server_default="")
        )
        batch_op.add_column(sa.Column("image_bytes", _INTEGER, nullable=False, server_default="0"))
    # Disks could not grow before.
    op.execute("UPDATE disks SET image_bytes = capacity_bytes WHERE image_path != ''")
