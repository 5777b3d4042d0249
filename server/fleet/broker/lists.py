"""The broker follows the registry: called with each batch of changes, and by the clock."""

import contextlib
import time
from collections.abc import Sequence
from typing import Final

from sqlalchemy import select

from schemas.fleet import FleetConfig, FleetFolder
from server.fleet.broker.access import access_list, barred, digest_of
from server.fleet.broker.control import BrokerError, Control
from server.fleet.broker.settings import configuration
from server.fleet.listing import parts
from server.fleet.lock import held
from server.fleet.registry import Registry
from server.fleet.secret import write
from server.transport.tables import DeviceRow

_ACL: Final = "access.acl"
_LOADED: Final = ".loaded"  # the digest that the broker was last seen to go by


def changed(
    folder: FleetFolder,
    config: FleetConfig,
    accepted: Sequence[str],  # noqa: ARG001 - a hook takes all; patterns let them in
    revoked: Sequence[str],
    gone: Sequence[str],
) -> None:
    """Let devices in, or throw them out at once: ``flwr_edge.fleet_hook``.

    First the devices' sessions end, then the broker takes the lists: from then on a new session is
    refused in its handshake, and one that came back in between can do nothing. That one ends then,
    unless its device said last that it is away: a second connection to the broker for each of ten
    thousand would take minutes.
    The last will of the first, its state, is still said, and cleared.
    The order matters to Mosquitto 2.0.11 too, where the device asked for a session against the
    protocol, and is away: see ``control``.

    Raises
    ------
    BrokerError
        Where the broker does not answer; the lists are written all the same.
    """
    if not _set_up(folder):
        return  # no broker was configured yet
    out = _known(folder, config, [*revoked, *gone])
    if out:
        with contextlib.suppress(BrokerError):  # it is down, as the rest will say
            Control(folder, config).throw_out(out)
    follow(folder, config)
    if back := [name for name, online in out.items() if online]:
        Control(folder, config).throw_out(back)


def tick(folder: FleetFolder, config: FleetConfig) -> None:
    """Bring the broker up to date where it is not: ``flwr_edge.fleet_tick``.

    So a renewed revocation list or certificate comes into force, and a quarantine ends.
    """
    if _set_up(folder):
        follow(folder, config)


def follow(folder: FleetFolder, config: FleetConfig) -> bool:
    """Write the access list, and have the broker go by it; whether it did not yet."""
    with held(folder.broker):
        digest = write_lists(folder, config)
        mark = folder.broker / _LOADED
        if mark.exists() and mark.read_text() == digest:
            return False
        Control(folder, config).reload(digest)
        write(mark, digest.encode())
        return True


def write_lists(folder: FleetFolder, config: FleetConfig) -> str:
    """Write the access list from the registry, where it is another; its digest."""
    text = wanted(folder, config)
    file = folder.broker / _ACL
    if not file.exists() or file.read_text() != text:
        # Who may do nothing is no secret, and Mosquitto may run as another account.
        write(file, text.encode(), 0o640)
    return digest_of(text)


def wanted(folder: FleetFolder, config: FleetConfig) -> str:
    """The access list that the registry asks for."""
    files = (folder.crl, folder.bundle_of_cas, folder.broker / "certificate.pem")
    with Registry(folder.database(config)) as registry, registry.read() as db:
        them = barred(db, time.time())
    return access_list(
        (config.broker.server, config.broker.federation),
        them,
        b"".join(file.read_bytes() for file in files),
    )


def configured(folder: FleetFolder, config: FleetConfig) -> bool:
    """Whether the broker's configuration is what this release would write."""
    file = folder.broker / "mosquitto.conf"
    return file.exists() and file.read_text() == configuration(folder, config)


def _known(folder: FleetFolder, config: FleetConfig, names: Sequence[str]) -> dict[str, bool]:
    """Devices that the broker was ever to let in, and whether each may be there.

    Its last word counts, which a revocation leaves; where the server never heard one, it may be.
    """
    found = dict[str, bool]()
    with Registry(folder.database(config)) as registry, registry.read() as db:
        for part in parts(names):
            for name, said in db.execute(
                select(DeviceRow.id, DeviceRow.state).where(DeviceRow.id.in_(part))
            ):
                found[name] = said is None or bool(said.get("online", True))
    return found


def _set_up(folder: FleetFolder) -> bool:
    return (folder.broker / "mosquitto.conf").exists()


__all__ = ["BrokerError", "changed", "configured", "follow", "tick", "wanted", "write_lists"]
