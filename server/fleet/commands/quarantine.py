"""``flwr-fleet device quarantine`` and ``release``: whose updates count for nothing for a while."""

from typing import Annotated

import typer

from server.fleet.commands.changes import carry_out, chosen
from server.fleet.commands.device import Names, Reason, TagOption
from server.fleet.commands.options import DryRun, Fleet, FleetOption, Yes


def quarantine(
    names: Names = None,
    fleet: FleetOption = None,
    tag: TagOption = None,
    reason: Reason = "",
    hours: Annotated[
        float, typer.Option(min=0, help="Until they count again by themselves; 0: until released.")
    ] = 0.0,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Ask devices nothing and take nothing of them, for a while; they stay in the fleet.

    A federation does so by itself with devices whose updates it refuses again and again, by the
    rules of [validation] in fleet.toml.

    Example: flwr-fleet device quarantine watch-7 --hours 12 --reason "its sensor is loose"
    """
    from server.fleet import quarantine as quarantines
    from server.fleet.claims import check_hours
    from server.fleet.hooks import Changes

    check_hours(hours, endless=True)
    with Fleet(fleet).keeper() as keeper:
        them = chosen(keeper.registry, names, tag, ("accepted",))
        carry_out(
            keeper,
            "quarantine",
            them,
            lambda write: quarantines.by_hand(write, them, reason, hours),
            lambda done: Changes(held=done),
            yes=yes,
            dry_run=dry_run,
        )


def release(
    names: Names = None,
    fleet: FleetOption = None,
    tag: TagOption = None,
    reason: Reason = "",
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Let quarantined devices count again; what they failed before is not held against them.

    device show says why a device was quarantined.

    Example: flwr-fleet device release watch-7 --reason "sensor replaced"
    """
    from server.fleet import quarantine as quarantines
    from server.fleet.hooks import Changes

    with Fleet(fleet).keeper() as keeper:
        them = chosen(keeper.registry, names, tag, ("accepted",), held=True)
        carry_out(
            keeper,
            "release",
            them,
            lambda write: quarantines.release(write, them, reason),
            lambda done: Changes(released=done),
            yes=yes,
            dry_run=dry_run,
        )
