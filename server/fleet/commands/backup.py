"""``flwr-fleet backup`` and ``restore``."""

import getpass
import os
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from schemas.base import ConfigError
from server.fleet.commands.options import DryRun, Fleet, FleetOption, actor, say

VARIABLE: Final = "FLWR_FLEET_BACKUP_PASSPHRASE"
KeyFile = Annotated[
    Path | None,
    typer.Option(help=f"Its first line is the passphrase; left out: {VARIABLE}, or asked for."),
]
_LEAST: Final = 12


def backup(
    out: Annotated[Path, typer.Argument(help="The file to write.")],
    fleet: FleetOption = None,
    key_file: KeyFile = None,
    objects: Annotated[
        bool, typer.Option("--objects", help="Also what devices pull and send; it is large.")
    ] = False,
) -> None:
    """Write the whole fleet into one encrypted file, while it serves.

    Database, CA, keys, settings, bundles: who has the file and its passphrase has the fleet.

    Example: flwr-fleet backup /mnt/usb/fleet-2026-11.flwrseal
    """
    from server.fleet.backup import backup as write

    opened = Fleet(fleet)
    passphrase = _passphrase(key_file, confirm=True)
    rows = write(opened.folder, opened.config, out, passphrase, objects=objects)
    size = f", {out.stat().st_size} bytes" if out.is_file() else ""
    say(f"wrote {out}: {rows} rows{size}")
    _note(opened, rows, out)


def restore(
    file: Annotated[Path, typer.Argument(help="A backup.")],
    folder: Annotated[Path, typer.Argument(help="A new folder for the fleet.")],
    database: Annotated[
        str | None, typer.Option(help="Another database than the backup's, which must be empty.")
    ] = None,
    key_file: KeyFile = None,
    dry_run: DryRun = False,
) -> None:
    """Make a fleet from a backup, on this machine; its devices go on as they were.

    What was done after the backup is not known here. Revoke again who was revoked since. Devices
    that rotated since go on until their certificates end, and cannot rotate again: audit show
    --action enrol.refused names them as they try, and device rotate makes the claims that they
    need; those enrolled since need new claims. Stop the old server first: two of them would each
    decide alone.

    Example: flwr-fleet restore fleet.flwrseal /srv/fleet && flwr-fleet serve --fleet /srv/fleet
    """
    from server.fleet.backup import check
    from server.fleet.backup import restore as make
    from server.fleet.listing import when
    from server.fleet.registry import audit

    passphrase = _passphrase(key_file, confirm=False)
    if dry_run:
        say(f"{file} is whole: {check(file, passphrase)} rows; nothing was changed")
        return
    rows = make(file, folder, passphrase, database)
    opened = Fleet(folder)
    with opened.registry() as registry, registry.write(actor()) as transaction:
        last = audit.newest(transaction.db, 1)
        transaction.audit("fleet.restore", opened.config.name, rows=rows, file=file.name)
    at = f", as of {when(last[0].at)}" if last else ""
    say(f"restored {rows} rows{at}")
    say("what was revoked, rotated or enrolled since then it does not know: restore --help")
    say(f"next: flwr-fleet broker config --fleet {folder}, and flwr-fleet serve --fleet {folder}")


def _note(opened: Fleet, rows: int, out: Path) -> None:
    """Audit it, where the database is of this release; before an upgrade there is no way to."""
    try:
        with opened.registry() as registry, registry.write(actor()) as transaction:
            transaction.audit("fleet.backup", opened.config.name, rows=rows, file=out.name)
    except ConfigError as error:
        say(f"it is not in the audit log: {error}")


def _passphrase(file: Path | None, *, confirm: bool) -> bytes:
    if file is not None:
        text = file.read_text(encoding="utf-8").split("\n", 1)[0]
    else:
        text = os.environ.get(VARIABLE) or _asked(confirm=confirm)
    if len(text) < _LEAST:
        raise ConfigError("passphrase", [f"expected {_LEAST} characters or more"])
    return text.encode()


def _asked(*, confirm: bool) -> str:
    if not sys.stdin.isatty():
        raise ConfigError("passphrase", [f"nobody to ask for it; set {VARIABLE} or --key-file"])
    text = getpass.getpass("passphrase of the backup: ")
    if confirm and getpass.getpass("again: ") != text:
        raise ConfigError("passphrase", ["the two are not the same"])
    return text
