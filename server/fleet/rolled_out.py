"""In which roll-outs a bundle was, also as one device's own among others."""

from collections import defaultdict

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from server.fleet.registry import Bundle, Rollout, RolloutDevice


def rolled_out(db: Session) -> dict[str, list[str]]:
    """Roll-outs by bundle; those that were in none are left out.

    A personal roll-out names one bundle, and gives each device the newest of that name which was
    its own when the roll-out was made.
    """
    rows = select(Rollout, Bundle.name).join(Bundle, Bundle.id == Rollout.bundle)
    found = defaultdict[str, list[str]](list)
    for rollout, name in db.execute(rows).all():
        personal = rollout.plan.get("personal")
        for bundle in _given(db, rollout, name) if personal else [rollout.bundle]:
            found[bundle].append(rollout.id)
    return found


def own_bundles(name: str, rollout: Rollout) -> Select[Bundle]:
    """What a personal roll-out gives: of each device the last, of those that are selected."""
    own = select(Bundle).where(Bundle.name == name, Bundle.device.is_not(None))
    return own.where(Bundle.published <= rollout.created).order_by(Bundle.published)


def _given(db: Session, rollout: Rollout, name: str) -> list[str]:
    members = select(RolloutDevice.device).where(RolloutDevice.rollout == rollout.id)
    own = own_bundles(name, rollout).where(Bundle.device.in_(members))
    rows = db.execute(own.with_only_columns(Bundle.device, Bundle.id))
    newest = {str(row.device): str(row.id) for row in rows}
    return list(newest.values())
