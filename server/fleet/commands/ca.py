"""``flwr-fleet ca``: the fleet's certificate authorities."""

from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from server.fleet.keeper import Keeper

app = typer.Typer(help="The fleet's authorities: which are trusted, and their roll-over.")


@app.command("list")
def list_authorities(fleet: FleetOption = None, format_: Formats = Format.table) -> None:
    """List authorities, with what each is for now."""
    from server.fleet.listing import when

    with Fleet(fleet).keeper() as keeper:
        authority = keeper.authority
        trusted = {ca.id for ca in authority.trusted}
        rows: list[dict[str, Any]] = [
            {
                "number": ca.number,
                "sha256": ca.id,
                "trusted": ca.id in trusted,
                "devices": ca is authority.newest,
                "server": ca.id == authority.serving.id,
                "until": when(ca.ends),
            }
            for ca in authority.cas
        ]
    head = ("number", "sha256", "trusted", "devices", "server", "until")
    answer(rows, format_, lambda: columns(head, ([row[key] for key in head] for row in rows)))


@app.command()
def rollover(fleet: FleetOption = None, yes: Yes = False, dry_run: DryRun = False) -> None:
    """Make a new authority; the old one is trusted beside it for lifetimes.overlap_days.

    Devices get certificates of the new one as they rotate. The server and the broker change to it
    after half of that time: no device need do anything. Not twice within that time.
    """
    with Fleet(fleet).keeper() as keeper:
        name, authority = keeper.config.name, keeper.authority
        authority.check_settled()
        if not confirm("roll over the authority of", [name], yes=yes, dry_run=dry_run, of="fleet"):
            return
        authority.roll_over(name)  # it looks once more: to ask may have taken long
        say(f"made authority {authority.newest.number}, SHA-256 {authority.newest.id}")
        with keeper.registry.write(actor()) as write:
            write.audit("ca.rollover", name, ca=authority.newest.id)
        _publish(keeper)


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
