"""In which roll-outs a bundle was, also as one device's own among others."""

from collections import defaultdict

from sqlalchemy import select
from sqlalchemy.orm import Session

from server.fleet.registry import Bundle, Rollout, RolloutDevice


def rolled_out(db: Session) -> dict[str, list[str]]:
    """Roll-outs by bundle, the newest first; those that were in none are left out.

    A personal roll-out names one bundle, and gives each device the newest of that name which was
    its own when the roll-out was made.
    """
    rows = select(Rollout, Bundle.name).join(Bundle, Bundle.id == Rollout.bundle)
    found = defaultdict[str, list[str]](list)
    personal = list[tuple[Rollout, str]]()
    for rollout, name in db.execute(rows.order_by(Rollout.created.desc())):
        if rollout.plan.get("personal"):
            personal.append((rollout, name))
        else:
            found[rollout.bundle].append(rollout.id)
    for rollout, name in personal:
        for bundle in _given(db, rollout, name):
            found[bundle].append(rollout.id)
    return found


def _given(db: Session, rollout: Rollout, name: str) -> list[str]:
    own = select(Bundle.device, Bundle.id).where(Bundle.name == name, Bundle.device.is_not(None))
    own = own.where(Bundle.published <= rollout.created).order_by(Bundle.published)
    newest: dict[str, str] = {str(row.device): row.id for row in db.execute(own)}
    members = select(RolloutDevice.device).where(RolloutDevice.rollout == rollout.id)
    return [newest[device] for device in db.scalars(members) if device in newest]
