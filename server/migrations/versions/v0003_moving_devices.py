"""Devices on their way through a roll-out, so that those of past ones are not looked at.

What is there stays: tables may have been made by a release that has the index.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

MOVING = sa.text("state IN ('offered', 'testing', 'returning')")


def upgrade() -> None:
    """Do it."""
    op.create_index(
        "rollout_devices_moving",
        "rollout_devices",
        ["state", "rollout"],
        sqlite_where=MOVING,
        postgresql_where=MOVING,
        if_not_exists=True,
    )


def downgrade() -> None:
    """Undo."""
    op.drop_index("rollout_devices_moving", "rollout_devices")
