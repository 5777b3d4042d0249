"""Updates by the object that they came as, so that one is told that was here before.

On SQLite, an earlier release could be killed between the two steps: what is there stays.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Do it."""
    if "object" not in {
        column["name"] for column in sa.inspect(op.get_bind()).get_columns("updates")
    }:
        op.add_column("updates", sa.Column("object", sa.String(length=64), nullable=True))
    op.create_index("updates_by_object", "updates", ["object"], if_not_exists=True)


def downgrade() -> None:
    """Undo."""
    op.drop_index("updates_by_object", "updates")
    op.drop_column("updates", "object")
