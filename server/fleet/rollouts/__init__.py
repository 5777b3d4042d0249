"""Roll-outs of bundles: plans by group, an engine that offers and judges, and what it came to."""

from server.fleet.rollouts.control import abort, pause, resume
from server.fleet.rollouts.engine import Engine
from server.fleet.rollouts.plan import GroupSpec, Plan, create
from server.fleet.rollouts.status import Status, status, summaries

__all__ = [
    "Engine",
    "GroupSpec",
    "Plan",
    "Status",
    "abort",
    "create",
    "pause",
    "resume",
    "status",
    "summaries",
]
