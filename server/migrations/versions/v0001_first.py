"""The first tables."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

TABLES = (
    "enrolments",
    "updates",
    "rollout_groups",
    "rollout_devices",
    "quarantines",
    "keys",
    "embeddings",
    "device_tags",
    "certificates",
    "rollouts",
    "devices",
    "transport_tasks",
    "transport_drops",
    "transport_devices",
    "claims",
    "bundles",
    "audit",
)  # those that name others first


def upgrade() -> None:
    """Apply; on SQLite also to what a kill left of it in an earlier release."""
    found = op.get_bind().dialect.name == "sqlite"
    op.create_table(
        "audit",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("actor", sa.String(length=80), nullable=False),
        sa.Column("action", sa.String(length=40), nullable=False),
        sa.Column("subject", sa.String(length=80), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("previous", sa.String(length=64), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_audit"),
        if_not_exists=found,
    )
    op.create_index("audit_by_action", "audit", ["action"], if_not_exists=found)
    op.create_index("audit_by_subject", "audit", ["subject"], if_not_exists=found)
    op.create_table(
        "bundles",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("version", sa.String(length=63), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("base", sa.String(length=64), nullable=True),
        sa.Column("signer", sa.String(length=64), nullable=True),
        sa.Column("device", sa.String(length=63), nullable=True),
        sa.Column("published", sa.Double(), nullable=False),
        sa.Column("manifest", sa.JSON(), nullable=False),
        sa.Column("note", sa.String(length=500), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_bundles"),
        if_not_exists=found,
    )
    op.create_index(
        "bundles_by_name", "bundles", ["name", "version"], unique=True, if_not_exists=found
    )
    op.create_table(
        "claims",
        sa.Column("id", sa.String(length=12), nullable=False),
        sa.Column("secret", sa.String(length=64), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("expires", sa.Double(), nullable=False),
        sa.Column("device", sa.String(length=63), nullable=True),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.Column("uses", sa.Integer(), nullable=False),
        sa.Column("used", sa.Integer(), nullable=False),
        sa.Column("replaces", sa.Boolean(), nullable=False),
        sa.Column("approval", sa.String(length=10), nullable=False),
        sa.Column("revoked", sa.Double(), nullable=True),
        sa.Column("note", sa.String(length=500), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_claims"),
        if_not_exists=found,
    )
    op.create_index("ix_claims_device", "claims", ["device"], if_not_exists=found)
    op.create_table(
        "transport_devices",
        sa.Column("id", sa.String(length=63), nullable=False),
        sa.Column("node", sa.BigInteger(), nullable=False),
        sa.Column("enrolled", sa.Boolean(), nullable=False),
        sa.Column("online", sa.Boolean(), nullable=False),
        sa.Column("seen", sa.Double(), nullable=True),
        sa.Column("state", sa.JSON(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_transport_devices"),
        sa.UniqueConstraint("node", name="uq_transport_devices_node"),
        if_not_exists=True,
    )
    op.create_table(
        "transport_drops",
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("reason", sa.String(length=20), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("device", "reason", name="pk_transport_drops"),
        if_not_exists=True,
    )
    op.create_table(
        "transport_tasks",
        sa.Column("number", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("run", sa.String(length=200), nullable=False),
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("node", sa.BigInteger(), nullable=False),
        sa.Column("action", sa.String(length=200), nullable=False),
        sa.Column("group_id", sa.String(length=200), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("expires", sa.Double(), nullable=False),
        sa.Column("payload_sha", sa.String(length=64), nullable=False),
        sa.Column("payload_bytes", sa.Integer(), nullable=False),
        sa.Column("objects", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("reply_sha", sa.String(length=64), nullable=True),
        sa.Column("reply_bytes", sa.Integer(), nullable=True),
        sa.Column("reply_objects", sa.JSON(), nullable=False),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("session", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_transport_tasks"),
        sa.UniqueConstraint("id", name="uq_transport_tasks_id"),
        if_not_exists=True,
    )
    op.create_index(
        "transport_tasks_by_key",
        "transport_tasks",
        ["run", "device", "action", "payload_sha"],
        if_not_exists=True,
    )
    op.create_index(
        "transport_tasks_by_state", "transport_tasks", ["state", "device"], if_not_exists=True
    )
    op.create_table(
        "devices",
        sa.Column("id", sa.String(length=63), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("changed", sa.Double(), nullable=False),
        sa.Column("expected_key", sa.String(length=64), nullable=True),
        sa.Column("claim", sa.String(length=12), nullable=True),
        sa.Column("reason", sa.String(length=500), nullable=True),
        sa.Column("note", sa.String(length=500), nullable=False),
        sa.ForeignKeyConstraint(["claim"], ["claims.id"], name="fk_devices_claim"),
        sa.PrimaryKeyConstraint("id", name="pk_devices"),
        if_not_exists=found,
    )
    op.create_index("ix_devices_state", "devices", ["state"], if_not_exists=found)
    op.create_table(
        "rollouts",
        sa.Column("id", sa.String(length=12), nullable=False),
        sa.Column("bundle", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("changed", sa.Double(), nullable=False),
        sa.Column("success", sa.Double(), nullable=False),
        sa.Column("error", sa.Double(), nullable=False),
        sa.Column("plan", sa.JSON(), nullable=False),
        sa.Column("reason", sa.String(length=500), nullable=True),
        sa.ForeignKeyConstraint(["bundle"], ["bundles.id"], name="fk_rollouts_bundle"),
        sa.PrimaryKeyConstraint("id", name="pk_rollouts"),
        if_not_exists=found,
    )
    op.create_index("ix_rollouts_state", "rollouts", ["state"], if_not_exists=found)
    op.create_table(
        "certificates",
        sa.Column("serial", sa.String(length=40), nullable=False),
        sa.Column("use", sa.String(length=10), nullable=False),
        sa.Column("subject", sa.String(length=64), nullable=False),
        sa.Column("device", sa.String(length=63), nullable=True),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("issuer", sa.String(length=64), nullable=False),
        sa.Column("not_before", sa.Double(), nullable=False),
        sa.Column("not_after", sa.Double(), nullable=False),
        sa.Column("revoked", sa.Double(), nullable=True),
        sa.Column("reason", sa.String(length=40), nullable=True),
        sa.Column("pem", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["device"], ["devices.id"], name="fk_certificates_device"),
        sa.PrimaryKeyConstraint("serial", name="pk_certificates"),
        if_not_exists=found,
    )
    op.create_index("certificates_by_device", "certificates", ["device"], if_not_exists=found)
    op.create_index("certificates_by_revoked", "certificates", ["revoked"], if_not_exists=found)
    op.create_index("ix_certificates_not_after", "certificates", ["not_after"], if_not_exists=found)
    op.create_table(
        "device_tags",
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("tag", sa.String(length=63), nullable=False),
        sa.ForeignKeyConstraint(["device"], ["devices.id"], name="fk_device_tags_device"),
        sa.PrimaryKeyConstraint("device", "tag", name="pk_device_tags"),
        if_not_exists=found,
    )
    op.create_index("device_tags_by_tag", "device_tags", ["tag"], if_not_exists=found)
    op.create_table(
        "embeddings",
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("run", sa.String(length=200), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("values", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["device"], ["devices.id"], name="fk_embeddings_device"),
        sa.PrimaryKeyConstraint("device", "run", name="pk_embeddings"),
        if_not_exists=found,
    )
    op.create_table(
        "keys",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("changed", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["device"], ["devices.id"], name="fk_keys_device"),
        sa.PrimaryKeyConstraint("id", name="pk_keys"),
        if_not_exists=found,
    )
    op.create_index("keys_by_device", "keys", ["device"], if_not_exists=found)
    op.create_index(
        "keys_one_accepted",
        "keys",
        ["device"],
        unique=True,
        sqlite_where=sa.text("state = 'accepted'"),
        postgresql_where=sa.text("state = 'accepted'"),
        if_not_exists=found,
    )
    op.create_table(
        "quarantines",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("since", sa.Double(), nullable=False),
        sa.Column("until", sa.Double(), nullable=True),
        sa.Column("lifted", sa.Double(), nullable=True),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String(length=500), nullable=False),
        sa.ForeignKeyConstraint(["device"], ["devices.id"], name="fk_quarantines_device"),
        sa.PrimaryKeyConstraint("id", name="pk_quarantines"),
        if_not_exists=found,
    )
    op.create_index(
        "quarantines_by_device", "quarantines", ["device", "lifted"], if_not_exists=found
    )
    op.create_table(
        "rollout_devices",
        sa.Column("rollout", sa.String(length=12), nullable=False),
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("group_number", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=12), nullable=False),
        sa.Column("task", sa.String(length=32), nullable=True),
        sa.Column("before", sa.String(length=64), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("changed", sa.Double(), nullable=False),
        sa.Column("reason", sa.String(length=500), nullable=True),
        sa.Column("report", sa.JSON(), nullable=True),
        sa.ForeignKeyConstraint(["device"], ["devices.id"], name="fk_rollout_devices_device"),
        sa.ForeignKeyConstraint(["rollout"], ["rollouts.id"], name="fk_rollout_devices_rollout"),
        sa.PrimaryKeyConstraint("rollout", "device", name="pk_rollout_devices"),
        if_not_exists=found,
    )
    op.create_index("rollout_devices_by_device", "rollout_devices", ["device"], if_not_exists=found)
    op.create_index(
        "rollout_devices_by_state",
        "rollout_devices",
        ["rollout", "group_number", "state"],
        if_not_exists=found,
    )
    op.create_table(
        "rollout_groups",
        sa.Column("rollout", sa.String(length=12), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.ForeignKeyConstraint(["rollout"], ["rollouts.id"], name="fk_rollout_groups_rollout"),
        sa.PrimaryKeyConstraint("rollout", "number", name="pk_rollout_groups"),
        if_not_exists=found,
    )
    op.create_table(
        "updates",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("task", sa.String(length=32), nullable=True),
        sa.Column("run", sa.String(length=200), nullable=False),
        sa.Column("action", sa.String(length=200), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("bytes", sa.Integer(), nullable=False),
        sa.Column("norm", sa.Double(), nullable=True),
        sa.Column("verdict", sa.String(length=10), nullable=False),
        sa.Column("reason", sa.String(length=40), nullable=True),
        sa.Column("detail", sa.String(length=500), nullable=True),
        sa.ForeignKeyConstraint(["device"], ["devices.id"], name="fk_updates_device"),
        sa.PrimaryKeyConstraint("id", name="pk_updates"),
        if_not_exists=found,
    )
    op.create_index("updates_by_device", "updates", ["device", "at"], if_not_exists=found)
    op.create_index("updates_by_task", "updates", ["task"], if_not_exists=found)
    op.create_table(
        "enrolments",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("claim", sa.String(length=12), nullable=True),
        sa.Column("csr", sa.Text(), nullable=False),
        sa.Column("csr_sha256", sa.String(length=64), nullable=False),
        sa.Column("address", sa.String(length=64), nullable=False),
        sa.Column("asked", sa.Double(), nullable=False),
        sa.Column("certificate", sa.String(length=40), nullable=True),
        sa.ForeignKeyConstraint(["claim"], ["claims.id"], name="fk_enrolments_claim"),
        sa.ForeignKeyConstraint(["device"], ["devices.id"], name="fk_enrolments_device"),
        sa.ForeignKeyConstraint(["key"], ["keys.id"], name="fk_enrolments_key"),
        sa.PrimaryKeyConstraint("id", name="pk_enrolments"),
        if_not_exists=found,
    )
    op.create_index("enrolments_by_device", "enrolments", ["device"], if_not_exists=found)
    op.create_index("ix_enrolments_csr_sha256", "enrolments", ["csr_sha256"], if_not_exists=found)


def downgrade() -> None:
    """Undo."""
    for table in TABLES:
        op.drop_table(table)
