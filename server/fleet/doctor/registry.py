"""Checks of the database, the audit log, the signing key, and of what rows name and say."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from schemas.base import ConfigError
from schemas.incoming import is_whole
from schemas.signing import public_hex
from server.database import newer, open_engine, pending
from server.fleet import devices, hearing
from server.fleet.alone import serving, serving_since
from server.fleet.anchor import anchors
from server.fleet.create import signing_key
from server.fleet.doctor.finding import (
    Check,
    Deployment,
    Finding,
    fault,
    locked,
    ok,
    sealed,
    warning,
)
from server.fleet.heard import unheard
from server.fleet.registry import Bundle, TaskRow, audit
from server.fleet.rollouts.tasks import of_rollout
from server.transport.tables import OPEN

_RESTORE: Final = "bring it back from a backup: flwr-fleet restore"
_ROUNDED: Final = 1.0  # seconds of a start and of a file's time
_OFTEN: Final = 3  # connections lost in ten minutes
_DEAF: Final = (
    "see to what else is said here of certificates and the broker, and whether another flwr-fleet "
    "serve, of a copy of this folder, has its name there; the broker's log may say more"
)
_TWO: Final = (
    "does the broker start again and again, or run another flwr-fleet serve, of a copy or a backup "
    "of this folder? Two of one name end each other's connections: end one"
)
_SHOWN: Final = 3  # files and rows that a finding names


def database(it: Deployment) -> Iterator[Finding]:
    """It can be reached, is of this release, and whole."""
    where = it.folder.database(it.config)
    if isinstance(where, Path) and not where.is_file():
        yield fault("database", f"{where}: no such file", _RESTORE)
        return
    if isinstance(where, Path) and (wrong := _broken(where)):
        yield fault("database", f"{where}: {wrong}", f"stop serve, keep a copy, and {_RESTORE}")
        return
    engine = open_engine(where)
    try:
        other = pending(engine)
        too_new = other and newer(engine)
    except SQLAlchemyError as error:
        advice = f"is it started, and is its URL in {it.folder.file} right?"
        yield fault("database", f"cannot be used: {str(error).splitlines()[0]}", advice)
        return
    finally:
        engine.dispose()
    if too_new:
        seen, advice = "of a newer release", "install the flwr-edge that last used it"
        yield fault("database", seen, f"{advice}, or {_RESTORE}")
    elif other:
        seen, advice = "not of this release", "run flwr-fleet init or serve, which migrate it"
        yield fault("database", seen, advice)
    else:
        yield ok("database", f"{engine.url.render_as_string(hide_password=True)}: up to date")


def served(it: Deployment) -> Iterator[Finding]:
    """Who serves on the database, from this folder or another; nobody is no fault of its own."""
    engine = open_engine(it.folder.database(it.config))
    try:
        who, since = serving(engine), serving_since(engine)
        found = unheard(engine, it.folder, it.config)
    except SQLAlchemyError:  # the check of the database says it
        return
    finally:
        engine.dispose()
    file = it.folder.file
    if who is not None and since is not None and file.stat().st_mtime > since + _ROUNDED:
        seen = f"{who} serves, by an older {file.name} than the one that is there"
        yield warning("serve", seen, "start flwr-fleet serve again: it is read at its start")
    elif who is not None and found and found.deaf:
        yield fault("serve", f"{who} serves, and hears nobody: {found}", _DEAF)
    elif who is not None and (lost := _lost(it, who)) >= _OFTEN:
        seen = f"{who} serves, and lost its connection to the broker {lost} times in 10 minutes"
        yield warning("serve", seen, _TWO)
    else:
        yield ok("serve", "nobody serves on the database now" if who is None else f"{who} serves")


def _lost(it: Deployment, who: str) -> int:
    """How often the connection of who serves ended lately."""
    said = hearing.read(it.folder.hearing)
    return said.lost if said is not None and said.server == who else 0


def log(it: Deployment) -> Iterator[Finding]:
    """The audit log was not touched, and its heads are noted outside of the database."""
    look = "run flwr-fleet audit verify, and compare with a backup: somebody wrote to the database"
    try:
        noted = anchors(it.folder.anchor)
    except ConfigError as error:
        yield fault("audit-log", str(error), f"{it.folder.anchor} was changed; {_RESTORE}")
        return
    with it.read() as db:
        head, wrong = audit.head(db), list(audit.faults(db, noted))
    if wrong:
        yield fault("audit-log", _some(wrong, "; "), look)
    elif head.number and not noted:
        seen = f"{it.folder.anchor} is gone: a log that was cut off would not be found"
        yield fault("audit-log", seen, f"{_RESTORE}, and compare the log with it")
    else:
        yield ok("audit-log", f"{head.number} rows, none was touched")


def signing(it: Deployment) -> Iterator[Finding]:
    """The fleet's signing key is there, and the one that devices know."""
    if it.locked:
        yield locked("signing-key")
        return
    try:
        opens = it.secret
    except ConfigError as error:
        yield sealed("signing-key", error)
        return
    try:
        key = signing_key(it.folder, opens)
        mine = public_hex(key) if isinstance(key, Ed25519PrivateKey) else ""
        public = it.folder.signing_public.read_text().strip()
    except (OSError, ValueError) as error:
        yield fault("signing-key", str(error), f"nothing can be signed; {_RESTORE}")
        return
    if mine != public:
        seen = f"{it.folder.signing_key} is not the key of {it.folder.signing_public.name}"
        yield fault("signing-key", seen, f"devices would refuse what it signs; {_RESTORE}")
    else:
        yield ok("signing-key", f"public half {public[:16]}…")


def files(it: Deployment) -> Iterator[Finding]:
    """Bundles are there, whole, and objects of tasks under way in full length."""
    with it.read() as db:
        bundles = list(db.scalars(select(Bundle.id)))
        tasks = list(db.scalars(select(TaskRow).where(TaskRow.state.in_(OPEN))))
    named = {it.folder.bundles / f"{sha}.flwb": sha for sha in bundles}
    spoilt = [str(path) for path, sha in named.items() if not is_whole(path, sha)]
    again = "publish them again: flwr-fleet bundle publish puts back what is spoilt"
    yield _there("bundles", len(named), spoilt, "gone or spoilt", again)
    trained, rolled_out = it.folder.federation_objects, it.folder.objects
    asked = {
        ((rolled_out if of_rollout(row) else trained) / ref.sha256, ref.bytes)
        for row in tasks
        for ref in row.asked
    }
    short = [str(path) for path, size in asked if _size(path) != size]
    advice = "their tasks will fail; abort and begin again what sent them"
    yield _there("objects", len(asked), short, "missing or of another length", advice)


def expired(it: Deployment) -> Iterator[Finding]:
    """No accepted device's certificate is over: it would be locked out, and cannot rotate it."""
    name = "device-certificates"
    with it.read() as db:
        names = devices.expired(db, it.now)
    if names:
        seen = f"expired, of {len(names)} accepted devices: {_some(names, ', ')}"
        yield warning(name, seen, "let each have another: flwr-fleet device rotate; or revoke it")
    else:
        yield ok(name, "none of an accepted device has expired")


def _there(name: str, count: int, lost: list[str], how: str, advice: str) -> Finding:
    if lost:
        seen = f"{len(lost)} of {count} {how}: {_some(sorted(lost), ', ')}"
        return fault(name, seen, advice)
    return ok(name, f"{count}, all there")


def _size(path: Path) -> int | None:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return None


def _broken(file: Path) -> str:
    """What SQLite's own check says against a file; "" where nothing."""
    try:
        with contextlib.closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as db:
            found = str(db.execute("PRAGMA integrity_check(1)").fetchone()[0])
    except sqlite3.Error as error:
        return str(error)
    return "" if found == "ok" else found


def _some(lines: list[str], between: str) -> str:
    return between.join(lines[:_SHOWN]) + (f"{between}…" if len(lines) > _SHOWN else "")


CHECKS: Final[dict[str, Check]] = {
    "database": database,
    "serve": served,
    "audit-log": log,
    "signing-key": signing,
    "files": files,
    "device-certificates": expired,
}
