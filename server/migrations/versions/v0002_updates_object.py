"""Updates by the object that they came as, so that one is told that was here before."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Do it."""
    op.add_column("updates", sa.Column("object", sa.String(length=64), nullable=True))
    op.create_index("updates_by_object", "updates", ["object"])


def downgrade() -> None:
    """Undo."""
    op.drop_index("updates_by_object", "updates")
    op.drop_column("updates", "object")
