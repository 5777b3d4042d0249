"""What the fleet knows of its devices: tables, and ``Registry`` to read and write them."""

from server.fleet.registry.audit import Audit
from server.fleet.registry.identity import Certificate, Claim, Device, Enrolment, Key, Tag
from server.fleet.registry.learning import Embedding, Quarantine, Update, held
from server.fleet.registry.registry import Registry, Write
from server.fleet.registry.rollouts import Bundle, Rollout, RolloutDevice, RolloutGroup
from server.transport.tables import TaskRow

__all__ = [
    "Audit",
    "Bundle",
    "Certificate",
    "Claim",
    "Device",
    "Embedding",
    "Enrolment",
    "Key",
    "Quarantine",
    "Registry",
    "Rollout",
    "RolloutDevice",
    "RolloutGroup",
    "Tag",
    "TaskRow",
    "Update",
    "Write",
    "held",
]
