"""``flwr-fleet audit``: what was done, by whom, and whether the log still says so."""

import json
from collections.abc import Iterable
from typing import Annotated, Any, Final

import typer

from server.fleet.commands.options import Fleet, FleetOption, Format, Formats, answer, columns
from server.fleet.errors import FoundError

app = typer.Typer(help="What was done and refused, by whom; and whether the log was touched.")
_TIMES: Final = ("expires", "since")  # of a detail, Unix


@app.command()
def show(
    fleet: FleetOption = None,
    subject: Annotated[
        str | None, typer.Option(help="Only this device, claim or other thing.")
    ] = None,
    action: Annotated[
        str | None, typer.Option(help="Only actions that begin so, as in device.revoke.")
    ] = None,
    actor: Annotated[
        str | None, typer.Option(help="Only what this one did, as in operator:ann.")
    ] = None,
    last: Annotated[
        int, typer.Option(min=1, max=10_000_000, help="So many rows, the newest.")
    ] = 50,
    format_: Formats = Format.table,
) -> None:
    """Show the newest rows, oldest first.

    Example: flwr-fleet audit show --subject watch-7 --format json
    """
    from server.fleet.registry import audit

    with Fleet(fleet).registry() as registry, registry.read() as db:
        rows = [_row(row) for row in audit.newest(db, last, subject, action, actor)]
    head = ("number", "at", "actor", "action", "subject", "detail")
    told = [row | {"detail": _object(row["detail"])} for row in rows]
    answer(told, format_, lambda: columns(head, (_cells(row, head) for row in rows)))


@app.command()
def verify(fleet: FleetOption = None, format_: Formats = Format.table) -> None:
    """Check that no row was changed, removed, or moved; exit code 5 where one was.

    Every row holds the hash of the one before it, and the fleet's folder notes the last row's hash
    from time to time, so that a log that was cut off or written anew is found too.

    Example: flwr-fleet audit verify
    """
    from server.fleet.anchor import anchors, thin
    from server.fleet.registry import audit

    opened = Fleet(fleet)
    with opened.registry() as registry, registry.read() as db:
        head = audit.head(db)
        found = list(audit.faults(db, anchors(opened.folder.anchor)))
        thin(opened.folder.anchor, db)
    result: dict[str, Any] = {"rows": head.number, "head": head.hash, "faults": found}
    good = f"{head.number} rows, none was changed, removed or moved; head {head.hash}"
    answer(result, format_, lambda: "\n".join(found) or good)
    if found:
        raise FoundError(f"the audit log was touched: {len(found)} faults")


def _row(row: Any) -> dict[str, Any]:
    from server.fleet.listing import when

    fields = ("number", "actor", "action", "subject", "detail", "hash")
    return {"at": when(row.at)} | {key: getattr(row, key) for key in fields}


def _cells(row: dict[str, Any], head: Iterable[str]) -> list[Any]:
    dated = row | {"detail": _dated(row["detail"])}
    return [dated[key] for key in head]


def _dated(detail: str) -> str:
    """A row's detail with its times as dates; what somebody else wrote there, as it is."""
    from server.fleet.listing import when

    try:
        said = json.loads(detail)
    except ValueError:
        return detail
    for key in _TIMES if isinstance(said, dict) else ():
        if isinstance(said.get(key), float):
            said[key] = when(said[key])
    return json.dumps(said)


def _object(detail: str) -> Any:
    """A row's detail for programs; what somebody wrote into it that is no JSON as it stands."""
    try:
        return json.loads(detail)
    except ValueError:
        return detail
