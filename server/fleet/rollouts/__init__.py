"""Roll-outs of bundles: plans by group, an engine that offers and judges, and what it came to."""

from typing import TYPE_CHECKING, Any

from server.fleet.rollouts.control import abort, pause, resume
from server.fleet.rollouts.groups import GroupSpec
from server.fleet.rollouts.plan import Plan, Terms, create
from server.fleet.rollouts.status import Status, status, summaries

if TYPE_CHECKING:
    from server.fleet.rollouts.engine import Engine

__all__ = [
    "Engine",
    "GroupSpec",
    "Plan",
    "Status",
    "Terms",
    "abort",
    "create",
    "pause",
    "resume",
    "status",
    "summaries",
]


def __getattr__(name: str) -> Any:
    """Load the engine only for whom drives roll-outs: an operator's command needs the tables."""
    if name != "Engine":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from server.fleet.rollouts.engine import Engine

    return Engine
