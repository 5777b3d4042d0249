"""What else must know when devices come or go: the broker's access list, for one.

Plugins of two groups. ``flwr_edge.fleet_hook`` is called with a batch of changes, after they are in
the database and on the revocation list; ``flwr_edge.fleet_tick`` every few seconds by ``serve``.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from schemas.fleet import FleetConfig, FleetFolder
from schemas.plugins import entry_points

HOOK: Final = "flwr_edge.fleet_hook"
TICK: Final = "flwr_edge.fleet_tick"
_log = logging.getLogger("flwr_edge.fleet")


@dataclass(frozen=True)
class Changes:
    """Devices that were accepted, revoked, or removed; quarantined, or released from that.

    Hooks are told of the first three by name, and of a replaced device, one that has another key
    and whose old one is revoked, first as of a revoked one and then as of an accepted one; of the
    others only that something changed.
    """

    accepted: Sequence[str] = ()
    revoked: Sequence[str] = ()
    gone: Sequence[str] = ()
    held: Sequence[str] = ()
    released: Sequence[str] = ()
    replaced: Sequence[str] = ()

    def __bool__(self) -> bool:
        return any(vars(self).values())


def changed(folder: FleetFolder, config: FleetConfig, changes: Changes) -> list[str]:
    """Tell all hooks; what went wrong, a line each: the registry's word holds anyway."""
    wrong: list[str] = []
    if changes.replaced:  # alone, and first: whoever has the session, it is not let in by this
        wrong += _each(HOOK, folder, config, [], list(changes.replaced), [])
    came = sorted({*changes.accepted, *changes.replaced})
    if changes:
        wrong += _each(HOOK, folder, config, came, list(changes.revoked), list(changes.gone))
    return wrong


def tick(folder: FleetFolder, config: FleetConfig) -> list[str]:
    """Let what is due by the clock be done; what went wrong, a line each."""
    return list(_each(TICK, folder, config))


def _each(group: str, *arguments: Any) -> Iterator[str]:
    for point in entry_points(group):
        try:
            point.load()(*arguments)
        except Exception as error:  # a plugin must not undo what was decided  # noqa: BLE001
            _log.debug("%s", point.name, exc_info=True)
            yield f"{point.name}: {type(error).__name__}: {error}"
