"""``flwr-fleet device``: who is in the fleet."""

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from schemas.base import ConfigError
from server.fleet.commands.changes import carry_out, chosen, in_parts, tell
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
    from server.fleet.registry import Write

app = typer.Typer(help="Devices: who waits, who is in, who is out.")
Names = Annotated[list[str] | None, typer.Argument(help="Names of devices.")]
TagOption = Annotated[
    str | None, typer.Option("--tag", help="All devices with this tag, beside those named.")
]
Reason = Annotated[str, typer.Option(help="Why, for the audit log.")]
_HEAD: Final = ("device", "state", "online", "seen", "certificate_until", "tags", "quarantine")
T = TypeVar("T")


@app.command("list")
def list_devices(
    fleet: FleetOption = None,
    state: Annotated[
        str | None,
        typer.Option(help="expected, pending, accepted, rejected, revoked or removed."),
    ] = None,
    tag: TagOption = None,
    quarantined: Annotated[
        bool, typer.Option("--quarantined", help="Those alone whose updates count for nothing.")
    ] = False,
    format_: Formats = Format.table,
) -> None:
    """List devices. ONLINE is what `flwr-fleet serve` hears; where it hears nothing, that is said.

    In JSON as `unheard` and `unheard_since` of each: null while somebody hears.

    Example: flwr-fleet device list --state pending
    """
    from server.fleet.heard import fields, unheard
    from server.fleet.listing import device_rows
    from server.fleet.registry.identity import STATES

    if state is not None and state not in STATES:
        raise ConfigError("--state", [f"{state!r}: no such state; there are {', '.join(STATES)}"])
    it = Fleet(fleet)
    with it.registry() as registry:
        with registry.read() as db:
            rows = device_rows(db, state=state, tag=tag)
        rows = [row for row in rows if row["quarantined"] or not quarantined]
        heard = any(row["online"] is not None for row in rows)
        found = unheard(registry.engine, it.folder, it.config) if heard else None
    rows = [row | fields(found) for row in rows]
    answer(rows, format_, lambda: columns(_HEAD, map(_cells, rows), "no devices"))
    if found:
        say(f"{found}: who is online is as old as SEEN")


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A device.")],
    fleet: FleetOption = None,
    format_: Formats = Format.table,
) -> None:
    """Show all that is known of a device; compare its request's fingerprint with the device's.

    Example: flwr-fleet device show watch-7
    """
    from server.fleet.heard import fields, unheard
    from server.fleet.listing import device_card, find, fingerprint

    it = Fleet(fleet)
    with it.registry() as registry:
        with registry.read() as db:
            card = device_card(db, find(db, [name])[0])
        heard = card["online"] is not None
        found = unheard(registry.engine, it.folder, it.config) if heard else None
    card |= fields(found)
    lines = [(key, value) for key, value in card.items() if not isinstance(value, list)]
    lines.append(("tags", " ".join(card["tags"])))
    lines += [
        ("quarantine", f"{one['since']} to {one['lifted'] or one['until'] or 'release'}")
        for one in card["quarantines"]
    ]
    lines += [
        ("refused", f"{one['at']} {one['reason']}: {one['detail']}") for one in card["refused"]
    ]
    lines += [("key", f"{key['sha256']} {key['state']} {key['kind']}") for key in card["keys"]]
    lines += [
        ("certificate", f"{one['serial']} until {one['until']}{_revoked(one)}")
        for one in card["certificates"]
    ]
    lines += [
        ("request", f"{one['at']} {one['address']}\n           {fingerprint(one['csr_sha256'])}")
        for one in card["requests"]
    ]
    answer(card, format_, lambda: "\n".join(f"{key:<20} {_plain(value)}" for key, value in lines))


@app.command()
def approve(
    names: Names = None,
    fleet: FleetOption = None,
    tag: TagOption = None,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Accept devices that wait: they get their certificates the next time they ask.

    Example: flwr-fleet device approve watch-7
    """
    from server.fleet import devices
    from server.fleet.hooks import Changes

    with Fleet(fleet).keeper() as keeper:
        them, authority = chosen(keeper.registry, names, tag, ("pending",)), keeper.authority
        carry_out(
            keeper,
            "approve",
            them,
            lambda write: devices.approve(write, authority, them),
            lambda done: Changes(accepted=done),
            yes=yes,
            dry_run=dry_run,
        )


@app.command()
def reject(
    names: Names = None,
    fleet: FleetOption = None,
    tag: TagOption = None,
    reason: Reason = "",
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Turn down devices that wait.

    Example: flwr-fleet device reject watch-9 --reason "nobody knows it"
    """
    from server.fleet import devices

    with Fleet(fleet).keeper() as keeper:
        them = chosen(keeper.registry, names, tag, ("pending", "expected"))
        carry_out(
            keeper,
            "reject",
            them,
            lambda write: devices.reject(write, them, reason),
            yes=yes,
            dry_run=dry_run,
        )


@app.command()
def revoke(
    names: Names = None,
    fleet: FleetOption = None,
    tag: TagOption = None,
    reason: Reason = "",
    keep_claims: Annotated[
        bool,
        typer.Option("--keep-claims", help="Leave open the claims that they enrolled with."),
    ] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Throw devices out for good: at the broker, on the revocation list, and for every claim.

    What may still lie on the device, its claim and its keys, does not bring it back.

    Example: flwr-fleet device revoke watch-7 --reason "lost on a train"
    """
    from server.fleet import devices
    from server.fleet.hooks import Changes

    with Fleet(fleet).keeper() as keeper:
        them = chosen(keeper.registry, names, tag, ("accepted", "pending", "expected", "rejected"))
        with keeper.registry.read() as db:
            them = devices.revocable(db, them)
        if not confirm("revoke", them, yes=yes, dry_run=dry_run):
            return
        done, wrong = list[str](), list[str]()

        def out(write: "Write", part: list[str]) -> list[str]:
            return devices.revoke(write, part, reason, claims=not keep_claims)

        try:
            in_parts(keeper, "revoked", them, out, done)
        finally:
            if done:  # also of an interrupted one: the broker has to know
                wrong = keeper.apply(Changes(revoked=done))
        tell(wrong)
        say(f"revoked {len(done)}")


@app.command()
def remove(
    names: Names = None,
    fleet: FleetOption = None,
    tag: TagOption = None,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Take revoked, rejected or waiting devices out of the lists; their names become free.

    Only a new claim that is bound to the name can use it again.

    Example: flwr-fleet device remove watch-9
    """
    from server.fleet import devices
    from server.fleet.hooks import Changes

    with Fleet(fleet).keeper() as keeper:
        them = chosen(keeper.registry, names, tag, ("revoked", "rejected", "pending", "expected"))
        carry_out(
            keeper,
            "remove",
            them,
            lambda write: devices.remove(write, them),
            lambda done: Changes(gone=done),
            yes=yes,
            dry_run=dry_run,
        )


@app.command()
def tag(
    names: Names = None,
    add: Annotated[list[str] | None, typer.Option(help="A tag to add; repeatable.")] = None,
    drop: Annotated[list[str] | None, typer.Option(help="A tag to drop; repeatable.")] = None,
    fleet: FleetOption = None,
    tag: TagOption = None,
) -> None:
    """Add tags to devices, or drop them.

    Example: flwr-fleet device tag --tag pilot --add autumn
    """
    from server.fleet import devices
    from server.fleet.listing import find
    from server.fleet.registry.identity import STATES

    if not add and not drop:
        raise Refusal("name a tag with --add or --drop")
    with Fleet(fleet).registry() as registry:
        them = chosen(registry, names, tag, STATES)
        with registry.write(actor()) as write:
            rows = find(write.db, them)
            changed = [row.id for row in rows if devices.set_tags(row, add or (), drop or ())]
            said = {"add": add or [], "drop": drop or []}
            write.audit_all(("device.tag", one, said) for one in changed)
    say(f"changed {len(changed)}")


@app.command()
def rotate(
    name: Annotated[str, typer.Argument(help="An accepted device.")],
    fleet: FleetOption = None,
    hours: Annotated[float | None, typer.Option(help="Until the claim expires.")] = None,
    format_: Formats = Format.table,
) -> None:
    """Let an operator replace a device's key: prints a claim that only it can use, once.

    Devices rotate by themselves, under their old identity. This is for one that lost its key, or
    was off until its certificate expired. The old key is good until the claim is used.

    Example: flwr-fleet device rotate watch-7 --hours 2
    """
    from server.fleet import claims
    from server.fleet.commands.claim import shown

    with Fleet(fleet).keeper() as keeper:
        config, ca = keeper.config, keeper.authority.serving.id
        hours = config.enrolment.claim_hours if hours is None else hours
        terms = claims.Terms(hours, replaces=True)
        with keeper.registry.write(actor()) as write:
            (made,) = claims.create(write, terms, ca, [name])
        keeper.note()
    shown([(name, made)], config, format_)


@app.command()
def export(
    fleet: FleetOption = None, tag: TagOption = None, format_: Formats = Format.table
) -> None:
    """Print devices as CSV (device,state,tags,certificate_until), or JSON.

    Example: flwr-fleet device export --tag pilot > pilot.csv
    """
    from server.fleet.listing import device_rows

    with Fleet(fleet).registry() as registry, registry.read() as db:
        rows = device_rows(db, tag=tag)
    answer(rows, format_, lambda: _csv(rows))


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="CSV: device[,tags][,key], a line each.")],
    claims_out: Annotated[
        Path | None,
        typer.Option("--claims", help="Make a claim for each, and write them here (CSV)."),
    ] = None,
    hours: Annotated[float | None, typer.Option(help="Until those claims expire.")] = None,
    fleet: FleetOption = None,
    dry_run: DryRun = False,
) -> None:
    """Know devices beforehand: who comes with such a name, under a good claim, is accepted.

    The first line names the columns. tags are separated by blanks; key is the SHA-256 of the
    device's public key, where only that key may come.

    Example: flwr-fleet device import watches.csv --claims claims.csv
    """
    from server.fleet import claims, devices, names_file
    from server.fleet.commands.claims_file import claims_file

    them, done = names_file.read(file), list[devices.Expected]()
    if claims_out is not None and claims_out.is_file():  # a device or a pipe may be written to
        raise Refusal(f"{claims_out}: is there, and its claims cannot be shown again; name another")
    with Fleet(fleet).keeper() as keeper:
        terms = claims.Terms(keeper.config.enrolment.claim_hours if hours is None else hours)
        ca = keeper.authority.serving.id
        with keeper.registry.read() as db:
            devices.check_expected(db, them)  # before anything is changed, since it is in parts
        if not confirm("expect", [one.name for one in them], yes=True, dry_run=dry_run):
            return
        with claims_file(claims_out, keeper, done) as out:

            def known(write: "Write", part: list[devices.Expected]) -> list[devices.Expected]:
                devices.expect_all(write, part)
                if out is not None:
                    names = [one.name for one in part]
                    out.write(names, claims.create(write, terms, ca, names))
                return part

            in_parts(keeper, "expecting", them, known, done)
        keeper.note()
    say(f"expecting {len(them)}")


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        row["device"],
        row["state"]
        + (", quarantined" if row["quarantined"] else "")
        + (", bundle put aside" if row["bundle_put_aside"] is not None else ""),
        {None: "-", True: "yes", False: "no"}[row["online"]],
        _plain(row["seen"]),
        _plain(row["certificate_until"]) + (" (expired)" if row["certificate_expired"] else ""),
        " ".join(row["tags"]),
        row["quarantine"] or "",
    ]


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)


def _revoked(row: dict[str, Any]) -> str:
    return f", revoked {row['revoked']}" if row["revoked"] else ""


def _csv(rows: list[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["device", "state", "tags", "certificate_until"])
    for row in rows:
        until = row["certificate_until"] or ""
        writer.writerow([row["device"], row["state"], " ".join(row["tags"]), until])
    return out.getvalue().rstrip("\n")
