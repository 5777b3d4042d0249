"""Who may say and hear what at the broker: the access list, made from the registry.

What a device may do follows from its name, by patterns; the list names only those that may *not*.
A list of all that may would cost Mosquitto the square of their number with every reload (1.1 s at
3,000), a list of those that were thrown out stays short: it holds a name until its last certificate
has expired. An accepted device that the registry does not know has no certificate; if it had one,
it could speak to nobody, for the server drops what strangers say.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from schemas.wire import PREFIX
from server.fleet.broker.settings import CONTROL
from server.fleet.registry import Certificate, Device, Quarantine

LISTS: Final = "flwr/fleet/list/"  # who may write below, the control user alone, proves a list
READS: Final = ("cmd", "obj/data")
_WRITES: Final = ("evt", "obj/req", "obj/up", "state")
_HEAD: Final = """\
# The fleet's access list, made from its registry by `flwr-fleet`; changes by hand are lost.
# Each device has the topics of its own name, as server/PROTOCOL.md has them, and no other.
"""


@dataclass(frozen=True)
class Barred:
    """Devices that may not do what their names allow.

    Attributes
    ----------
    out : tuple[str, ...]
        With a certificate that has not expired, and not accepted (any more): nothing at all.
    quarantined : tuple[str, ...]
        May say how they are, and be told; what they send is not taken.
    """

    out: tuple[str, ...] = ()
    quarantined: tuple[str, ...] = ()


def barred(db: Session, now: float) -> Barred:
    """Those of the registry."""
    out = (
        select(Certificate.device)
        .join(Device, Device.id == Certificate.device)
        .where(Certificate.not_after > now, Device.state != "accepted")
    )
    held = select(Quarantine.device).where(Quarantine.is_on(now))
    away = {name for name in db.scalars(out.distinct()) if name}
    return Barred(tuple(sorted(away)), tuple(sorted(set(db.scalars(held)) - away)))


def access_list(servers: Iterable[str], barred: Barred, lists: bytes) -> str:
    """The text of the access list.

    Parameters
    ----------
    servers : iterable of str
        The server's names at the broker.
    barred : Barred
    lists : bytes
        What else a reload brings, as the revocation list: it is part of the digest.
    """
    rules = [
        *(f"pattern read {PREFIX}/%u/{kind}" for kind in READS),
        *(f"pattern write {PREFIX}/%u/{kind}" for kind in _WRITES),
        *_blocks(
            servers,
            [
                *(f"write {PREFIX}/+/{kind}" for kind in READS),
                *(f"read {PREFIX}/+/{kind}" for kind in _WRITES),
            ],
        ),
        f"user {CONTROL}",
        f"topic write {PREFIX}/+/state",
    ]
    named = [
        *_blocks(barred.out, ["deny #"]),
        *_blocks(barred.quarantined, [f"deny {PREFIX}/{{}}/{kind}" for kind in _WRITES[:-1]]),
    ]
    body = "\n".join([*rules, "{proof}", *named]) + "\n"
    digest = hashlib.sha256(body.encode() + lists).hexdigest()
    return _HEAD + body.replace("{proof}", f"topic write {LISTS}{digest}")


def digest_of(text: str) -> str:
    """The digest that stands in an access list; "" where there is none."""
    _, _, after = text.partition(f"topic write {LISTS}")
    return after.partition("\n")[0]


def _blocks(names: Iterable[str], rules: list[str]) -> Iterable[str]:
    for name in names:
        yield f"user {name}"
        yield from (f"topic {each.format(name)}" for each in rules)
