"""``flwr-fleet ca``: the fleet's certificate authorities."""

import math
from typing import TYPE_CHECKING, Any, Final

import typer

from server.fleet.commands.options import (
    DryRun,
    Fleet,
    FleetOption,
    Format,
    Formats,
    Yes,
    actor,
    answer,
    columns,
    confirm,
    say,
)
from server.fleet.errors import Refusal

if TYPE_CHECKING:
    from server.fleet.keeper import Keeper

_DAY: Final = 86_400.0
app = typer.Typer(help="The fleet's authorities: which are trusted, and their roll-over.")


@app.command("list")
def list_authorities(fleet: FleetOption = None, format_: Formats = Format.table) -> None:
    """List authorities, with what each is for now.

    Example: flwr-fleet ca list
    """
    from server.fleet.listing import when

    with Fleet(fleet).keeper() as keeper:
        authority = keeper.authority
        trusted = {ca.id for ca in authority.trusted}
        serving = authority.serving.id if trusted else None
        rows: list[dict[str, Any]] = [
            {
                "number": ca.number,
                "sha256": ca.id,
                "trusted": ca.id in trusted,
                "devices": ca is authority.newest,
                "server": ca.id == serving,
                "until": when(ca.ends),
            }
            for ca in authority.cas
        ]
    head = ("number", "sha256", "trusted", "devices", "server", "until")
    answer(
        rows, format_, lambda: columns(head, ([_word(row[key]) for key in head] for row in rows))
    )


def _word(value: object) -> object:
    return value if not isinstance(value, bool) else "yes" if value else "no"


@app.command()
def rollover(fleet: FleetOption = None, yes: Yes = False, dry_run: DryRun = False) -> None:
    """Make a new authority; the old one is trusted beside it for lifetimes.overlap_days.

    Devices get certificates of the new one as they rotate. The server and the broker change to it
    after half of that time: no device need do anything. Not twice within that time, and not while
    devices' certificates last for longer than half of it.

    Example: flwr-fleet ca rollover --dry-run
    """
    with Fleet(fleet).keeper() as keeper:
        name, authority = keeper.config.name, keeper.authority
        authority.check_settled()
        _check_in_time(keeper)
        if not confirm("roll over the authority of", [name], yes=yes, dry_run=dry_run, of="fleet"):
            return
        authority.roll_over(name)  # it looks once more: to ask may have taken long
        say(f"made authority {authority.newest.number}, SHA-256 {authority.newest.id}")
        with keeper.registry.write(actor()) as write:
            write.audit("ca.rollover", name, ca=authority.newest.id)
        _publish(keeper)


def _check_in_time(keeper: "Keeper") -> None:
    """Refuse what would lock devices out: they hear of the new authority when they rotate alone.

    Who has not rotated before the server changes could not even ask it for another certificate.
    """
    from server.fleet import devices

    now, half = keeper.registry.clock(), keeper.config.lifetimes.overlap_days * _DAY / 2
    changes = min(now + half, keeper.authority.newest.ends)
    with keeper.registry.read() as db:
        late, end = devices.outlasting(db, changes)
    if late:
        raise Refusal(
            f"certificates of {late} device{'s' * (late != 1)} outlast half of overlap_days, when "
            "the server changes to the new authority: who has not rotated by then is locked out; "
            f"set lifetimes.overlap_days = {math.ceil(2 * (end - now) / _DAY)} in "
            f"{keeper.folder.file} until the roll-over is done"
        )


def _publish(keeper: "Keeper") -> None:
    """Have the files and the broker follow; what did not is an error, though the CA is made."""
    from server.fleet.hooks import Changes

    try:
        wrong = keeper.apply(Changes())
    except OSError as error:
        wrong = [str(error)]
    if wrong:
        begin = "the authority is made, but not everywhere; serve tries again every few seconds:"
        raise RuntimeError("\n".join([begin, *wrong]))
