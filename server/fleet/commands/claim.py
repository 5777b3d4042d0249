"""``flwr-fleet claim``: leave to enroll."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from schemas.base import ConfigError
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
    say_local,
)

if TYPE_CHECKING:
    from schemas.enrolment import ClaimText
    from schemas.fleet import FleetConfig

app = typer.Typer(help="Claims: one-time leave to enroll, to be handed to a device.")
_HEAD: Final = ("claim", "state", "device", "tags", "used", "uses", "approval", "expires", "note")


@app.command()
def create(
    device: Annotated[
        list[str] | None, typer.Option(help="Bind a claim to this name; repeatable.")
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option(help="Tag who enrolls with it; repeatable.")
    ] = None,
    uses: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Devices that one claim may enroll.")
    ] = 1,
    hours: Annotated[float | None, typer.Option(help="Until it expires.")] = None,
    approval: Annotated[
        bool,
        typer.Option("--approval/--automatic", help="Let an operator approve each device first."),
    ] = False,
    note: Annotated[str, typer.Option(help="For your own memory.")] = "",
    qr: Annotated[bool, typer.Option("--qr", help="Also as a QR code, in the terminal.")] = False,
    qr_folder: Annotated[
        Path | None, typer.Option(help="Also as QR codes, NAME.png in this folder.")
    ] = None,
    fleet: FleetOption = None,
    format_: Formats = Format.table,
) -> None:
    """Make claims, and print them: they cannot be shown again.

    Example: flwr-fleet claim create --device watch-7 --tag pilot --hours 2
    """
    from server.fleet import claims

    with Fleet(fleet).keeper() as keeper:
        config, ca = keeper.config, keeper.authority.serving.id
        terms = claims.Terms(
            hours=config.enrolment.claim_hours if hours is None else hours,
            uses=uses,
            tags=tuple(tag or ()),
            approval="operator" if approval else "automatic",
            note=note,
        )
        names: list[str | None] = [*device] if device else [None]
        with keeper.registry.write(actor()) as write:
            made = claims.create(write, terms, ca, names)
        keeper.note()
    pairs = list(zip(names, made, strict=True))
    shown(pairs, config, format_)
    if qr or qr_folder:
        _codes(pairs, config, qr_folder, terminal=qr)


@app.command("list")
def list_claims(
    fleet: FleetOption = None,
    state: Annotated[str | None, typer.Option(help="open, used, revoked or expired.")] = None,
    device: Annotated[str | None, typer.Option(help="Those bound to this name.")] = None,
    format_: Formats = Format.table,
) -> None:
    """List claims, the newest first; their secrets are not kept.

    Example: flwr-fleet claim list --state open
    """
    from server.fleet import claims
    from server.fleet.listing import claim_row

    if state is not None and state not in claims.STATES:
        there = ", ".join(claims.STATES)
        raise ConfigError("--state", [f"{state!r}: no such state; there are {there}"])
    with Fleet(fleet).registry() as registry, registry.read() as db:
        now, found = registry.clock(), claims.listed(db, device)
        rows = [claim_row(claim, claims.state(claim, now)) for claim in found]
    rows = [row for row in rows if state in (None, row["state"])]
    answer(rows, format_, lambda: columns(_HEAD, map(_cells, rows), "no claims"))


@app.command()
def revoke(
    claim: Annotated[list[str], typer.Argument(help="Ids of claims.")],
    fleet: FleetOption = None,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Take claims back; devices that they enrolled stay.

    Example: flwr-fleet claim revoke 0123456789ab
    """
    from server.fleet import claims

    with Fleet(fleet).registry() as registry:
        with registry.read() as db:
            for id_ in claim:
                claims.find(db, id_)
        if not confirm("revoke", claim, yes=yes, dry_run=dry_run, of="claim"):
            return
        with registry.write(actor()) as write:
            claims.revoke(write, claim)
    say(f"revoked {len(claim)}")


def shown(
    pairs: "list[tuple[str | None, ClaimText]]", config: "FleetConfig", format_: Format
) -> None:
    """Print new claims, with what to run on the device."""
    from schemas.address import host_port
    from schemas.enrolment import enrol_url

    server = host_port(config.server.host, config.server.port)
    rows = [
        {
            "device": name,
            "claim": str(claim),
            "url": enrol_url(server, claim),
            "run": f"flwr-edge enroll --server {shlex.quote(server)} --claim {claim}"
            + (f" --name {name}" if name else ""),
        }
        for name, claim in pairs
    ]
    answer(rows, format_, lambda: "\n".join(str(row["run"]) for row in rows))
    say_local(config)


def _cells(row: dict[str, Any]) -> list[str]:
    plain = row | {"tags": " ".join(row["tags"]), "device": row["device"] or "-"}
    return [str(plain[key]) for key in _HEAD]


def _codes(
    pairs: "list[tuple[str | None, ClaimText]]",
    config: "FleetConfig",
    folder: Path | None,
    *,
    terminal: bool,
) -> None:
    import sys

    import segno

    from schemas.address import host_port
    from schemas.enrolment import enrol_url

    server = host_port(config.server.host, config.server.port)
    for name, claim in pairs:
        code = segno.make(enrol_url(server, claim), error="m")
        if terminal:
            code.terminal(out=sys.stderr, compact=True)
        if folder is not None:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = folder / f"{name or claim.id}.png"
            code.save(str(path), scale=6)
            path.chmod(0o600)
            say(f"wrote {path}")
