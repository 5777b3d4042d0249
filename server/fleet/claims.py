"""Claims: making them, reading them, taking them back, and using them up."""

import hmac
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import CursorResult, insert, select, update
from sqlalchemy.orm import Session

from server.fleet.errors import Denied, NotFoundError, Refusal
from server.fleet.listing import known, parts
from server.fleet.registry import Claim, Write
from server.fleet.registry.identity import LONGEST, Approval

if TYPE_CHECKING:
    from schemas.enrolment import ClaimText  # it is not loaded for a list

TAG: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)
NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)
STATES: Final = ("open", "used", "revoked", "expired")
MOST_HOURS: Final = 87_600.0  # ten years, as fleet.toml allows


@dataclass(frozen=True)
class Terms:
    """What claims are made for.

    Attributes
    ----------
    hours : float
        Until they expire.
    uses : int
        Devices that one may enroll; 1 where it is bound to a name.
    """

    hours: float
    uses: int = 1
    tags: tuple[str, ...] = ()
    approval: Approval = "automatic"
    replaces: bool = False
    note: str = ""


def create(
    write: Write, terms: Terms, ca: str, devices: Iterable[str | None] = (None,)
) -> "list[ClaimText]":
    """Make a claim for each name; ``None`` is one that is bound to none.

    Raises
    ------
    Refusal
        Where a name or tag is none, or the terms do not fit together.
    """
    from schemas.enrolment import ClaimText, secret_hash

    _check(terms)
    made, wanted = [], list(devices)
    fields = {
        "uses": terms.uses,
        "tags": list(terms.tags),
        "approval": terms.approval,
        "replaces": terms.replaces,
        "expires": write.now + terms.hours * 3600,
    }
    for part in parts(wanted):
        _check_devices(write.db, terms, part)
        new = [ClaimText(secrets.token_hex(6), secrets.token_urlsafe(24), ca) for _ in part]
        named = list(zip(part, new, strict=True))
        more = fields | {"created": write.now, "note": terms.note}
        rows = [
            more | {"id": claim.id, "secret": secret_hash(claim.secret), "device": device}
            for device, claim in named
        ]
        write.db.execute(insert(Claim), rows)
        write.audit_all(("claim.create", one.id, fields | {"device": name}) for name, one in named)
        made += new
    return made


def exists(db: Session, id_: str) -> bool:
    """Whether there is such a claim."""
    return db.get(Claim, id_) is not None


def find(db: Session, id_: str) -> Claim:
    """A claim by its id."""
    claim = db.get(Claim, id_)
    if claim is None:
        raise NotFoundError(f"no claim {id_!r}; flwr-fleet claim list shows them")
    return claim


def revoke(write: Write, ids: Iterable[str]) -> None:
    """Take claims back; what they enrolled stays."""
    for id_ in ids:
        claim = find(write.db, id_)
        if claim.revoked is None:
            claim.revoked = write.now
            write.audit("claim.revoke", id_, used=claim.used)


def listed(db: Session, device: str | None = None) -> Sequence[Any]:
    """All claims, or those bound to a device, the newest first.

    As rows of the table: objects would take longer.
    """
    rows = select(*Claim.__table__.c).order_by(Claim.created.desc(), Claim.id)
    return db.execute(rows if device is None else rows.where(Claim.device == device)).all()


def state(claim: Claim, now: float) -> str:
    """In a word, one of ``STATES``."""
    if claim.revoked is not None:
        return "revoked"
    if claim.used >= claim.uses:
        return "used"
    return "open" if claim.expires > now else "expired"  # NaN, as PostgreSQL holds it, too


def presented(db: Session, sent: str) -> Claim:
    """The claim that a request holds, whatever its state.

    Raises
    ------
    Denied
        Where there is none with this secret: one answer for both, so that nobody learns ids.
    """
    from schemas.enrolment import secret_hash

    id_, secret, *_ = sent.split(".")
    claim = db.get(Claim, id_)
    known = claim.secret if claim is not None else "0" * 64
    if not hmac.compare_digest(known, secret_hash(secret)) or claim is None:
        raise Denied("claim-unknown", "no such claim; ask the operator for a new one")
    return claim


def use(write: Write, claim: Claim, device: str) -> None:
    """Use a claim up by one.

    Raises
    ------
    Denied
        Where it is revoked, used up, expired, or bound to another name.
    """
    if claim.revoked is not None:
        raise Denied("claim-revoked", f"claim {claim.id} was revoked")
    if claim.used >= claim.uses:
        raise Denied("claim-used", f"claim {claim.id} was used already")
    if not claim.expires > write.now:
        raise Denied("claim-expired", f"claim {claim.id} has expired; ask for a new one")
    if claim.device not in (None, device):
        raise Denied("claim-other-name", f"claim {claim.id} is bound to another name")
    rows = update(Claim).where(Claim.id == claim.id, Claim.used < Claim.uses)
    done = write.db.execute(rows.values(used=Claim.used + 1))
    assert isinstance(done, CursorResult)
    if done.rowcount != 1:
        raise Denied("claim-used", f"claim {claim.id} was used already")


def check_names(names: Iterable[str], what: str = "name") -> None:
    """Refuse what is no name of a device, or no tag."""
    pattern = NAME if what == "name" else TAG
    for name in names:
        if not pattern.fullmatch(name):
            also = "" if what == "name" else ", . and _"
            wanted = f"1 to 63 of a-z, 0-9, -{also}, beginning with a letter or digit"
            raise Refusal(f"{what} {name[:80]!r}: expected {wanted}")


def check_hours(hours: float, *, endless: bool = False) -> None:
    """Refuse what no time can be made of; ``endless``: 0 is good, and means without an end.

    Raises
    ------
    Refusal
    """
    if not (0 < hours <= MOST_HOURS or (endless and hours == 0)):  # nor NaN
        least = "0 or more" if endless else "above 0"
        raise Refusal(f"hours {hours:g}: expected {least}, and at most {MOST_HOURS:g}")


def check_text(text: str, what: str) -> None:
    """Refuse a text that is longer than its column: PostgreSQL would, and SQLite take it all.

    Raises
    ------
    Refusal
    """
    if len(text) > LONGEST:
        raise Refusal(f"{what}: {len(text)} characters; at most {LONGEST} are kept")


def _check(terms: Terms) -> None:
    check_names(terms.tags, "tag")
    check_hours(terms.hours)
    check_text(terms.note, "note")
    if terms.uses < 1:
        raise Refusal("a claim needs uses above 0")


def _check_devices(db: Session, terms: Terms, devices: Iterable[str | None]) -> None:
    states = known(db, [device for device in devices if device is not None])
    for device in devices:
        if device is not None:
            row = states.get(device)
            _check_device(terms, device, None if row is None else row.state)
        elif terms.replaces:
            raise Refusal("a claim that replaces a key must be bound to a device")


def _check_device(terms: Terms, device: str, state: str | None) -> None:
    check_names([device])
    if terms.uses != 1:
        raise Refusal(f"claim for {device}: a name is enrolled once; leave uses at 1")
    if state == "revoked":
        raise Refusal(f"{device} is revoked; remove it first, then its name may be used again")
    if terms.replaces != (state == "accepted"):
        there = "is not accepted yet" if terms.replaces else "is accepted; device rotate it"
        raise Refusal(f"{device} {there}")
