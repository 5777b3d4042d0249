"""Which devices get a bundle, in which order: decided once, when the roll-out is created."""

import hashlib
import re
import secrets
from collections.abc import Iterable, Sequence
from typing import Any, Final

from pydantic import Field
from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from schemas.base import Strict
from schemas.rollout import BundleOrder
from schemas.wire import MAX_TTL
from server.fleet.errors import NotFoundError, Refusal
from server.fleet.registry import (
    Bundle,
    Device,
    Registry,
    Rollout,
    RolloutDevice,
    RolloutGroup,
    Tag,
)
from server.fleet.rolled_out import own_bundles
from server.fleet.rollouts.groups import GroupSpec

ACTIVE: Final = ("running", "paused")


class Plan(Strict):
    """What else a roll-out was created with.

    Attributes
    ----------
    order
        For every device; its bundle and date are the roll-out's.
    deadline
        Seconds from the start of a device's group; who was not reached by then is passed over.
    personal
        Whether each device gets its own: the newest bundle of the roll-out's bundle's name that
        was published for it before the roll-out was made.
    at_once
        Most devices that install at the same time.
    roll_back
        Whether an abort sends back those that have it.
    started
        Unix time by group.
    """

    order: BundleOrder
    deadline: float = Field(14 * 86_400.0, gt=0, le=MAX_TTL)
    personal: bool = False
    at_once: int = Field(200, ge=1, le=10_000)
    roll_back: bool = False
    started: dict[int, float] = Field(default_factory=dict)


class Terms(Strict):
    """What an operator asks of a roll-out beside its bundle and groups; ``BundleOrder`` has ranges.

    Attributes
    ----------
    success, error
        Shares of a group: to go on with the next, and to stop.
    deadline, personal, at_once
        ``Plan``'s.
    downgrade, other_backbone, latency_us, predictions, seconds
        Of the order to each device: ``BundleOrder``'s.
    """

    success: float = Field(0.95, ge=0, le=1)
    error: float = Field(0.05, ge=0, le=1)
    deadline: float = 14 * 86_400.0
    personal: bool = False
    at_once: int = 200
    downgrade: bool = False
    other_backbone: bool = False
    latency_us: float | None = None
    predictions: int = 100
    seconds: float = 600.0

    def plan(self, bundle: Bundle) -> Plan:
        """The plan of these terms for a bundle.

        Raises
        ------
        ValidationError
            Where one of them is out of its range.
        """
        order = BundleOrder(
            bundle=bundle.id,
            published=bundle.published,
            downgrade=self.downgrade,
            other_backbone=self.other_backbone,
            latency_us=self.latency_us,
            predictions=self.predictions,
            seconds=self.seconds,
        )
        return Plan(
            order=order, deadline=self.deadline, personal=self.personal, at_once=self.at_once
        )


def create(
    registry: Registry,
    actor: str,
    bundle: str,
    groups: Sequence[GroupSpec],
    terms: Terms,
    *,
    dry_run: bool = False,
) -> tuple[str, dict[str, list[str]]]:
    """Make a roll-out; it begins at once.

    Parameters
    ----------
    registry : Registry
    actor : str
    bundle : str
        A hash, its beginning, or NAME or NAME@VERSION.
    groups : sequence of GroupSpec
        A device belongs to the first that takes it.
    terms : Terms
    dry_run : bool
        Only say who would be in which group.

    Returns
    -------
    id : str
        "" of a dry run.
    members : dict of str to list of str
        Devices by the group's text.

    Raises
    ------
    NotFoundError
        No such bundle, or device by its name.
    Refusal
        A group with nobody in it, or devices of an active roll-out.
    ValidationError
        Terms out of their range.
    """
    with registry.write(actor) as tx:
        db = tx.db
        found = bundle_of(db, bundle)
        plan = terms.plan(found)
        members = _members(db, found, groups, personal=plan.personal)
        _check_free(db, [name for names in members.values() for name in names])
        if dry_run:
            return "", members
        number = secrets.token_hex(4)
        db.add(
            Rollout(
                id=number,
                bundle=found.id,
                state="running",
                created=tx.now,
                changed=tx.now,
                success=terms.success,
                error=terms.error,
                plan=plan.model_dump(mode="json"),
            )
        )
        db.flush()
        for at, (text, names) in enumerate(members.items()):
            db.add(RolloutGroup(rollout=number, number=at, name=text[:63]))
            db.execute(insert(RolloutDevice), _rows(number, at, names, tx.now))
        counts = {text: len(names) for text, names in members.items()}
        tx.audit("rollout.create", number, bundle=found.id, groups=counts)
        return number, members


def bundle_of(db: Session, text: str) -> Bundle:
    """The bundle that an operator means.

    Raises
    ------
    NotFoundError, Refusal
        None, or several.
    """
    name, _, version = text.partition("@")
    rows = select(Bundle).order_by(Bundle.published.desc())
    if re.fullmatch(r"[0-9a-f]{6,64}", text):
        found = list(db.scalars(rows.where(Bundle.id.startswith(text))))
        if len(found) > 1:
            raise Refusal(f"bundle {text}: {len(found)} begin so; write more of the hash")
        if found:
            return found[0]
    rows = rows.where(Bundle.name == name)
    if version:
        rows = rows.where(Bundle.version == version)
    newest = db.scalars(rows.limit(1)).first()
    if newest is None:
        raise NotFoundError(f"no bundle {text}; see flwr-fleet bundle list, or bundle publish")
    return newest


def bundles_for(db: Session, row: Rollout, plan: Plan, names: list[str]) -> dict[str, Bundle]:
    """What each of these devices gets of a roll-out."""
    bundle = db.get(Bundle, row.bundle)
    assert bundle is not None, "a foreign key"
    if not plan.personal:
        return dict.fromkeys(names, bundle)
    own = own_bundles(bundle.name, row).where(Bundle.device.in_(names))
    return {str(each.device): each for each in db.scalars(own)}  # the newest is the last


def _members(
    db: Session, bundle: Bundle, groups: Iterable[GroupSpec], *, personal: bool
) -> dict[str, list[str]]:
    devices = select(Device.id).where(Device.state == "accepted")
    if personal:
        own = select(Bundle.device).where(Bundle.name == bundle.name, Bundle.device.is_not(None))
        devices = devices.where(Device.id.in_(own))
    elif bundle.device is not None:  # one person's model
        devices = devices.where(Device.id == bundle.device)
    fleet = set(db.scalars(devices))
    left = sorted(fleet, key=lambda name: _drawn(bundle.id, name))
    members: dict[str, list[str]] = {}
    for group in groups:
        _check_known(group, fleet, bundle, personal=personal)
        tagged = set(db.scalars(select(Tag.device).where(Tag.tag == group.tag)))
        taken = group.takes(left, len(fleet), tagged)
        if not taken:
            raise Refusal(f"--group {group.text}: no accepted device is left for it")
        if group.text in members:
            raise Refusal(f"--group {group.text}: it is there twice")
        members[group.text] = taken
        gone = set(taken)
        left = [name for name in left if name not in gone]
    return members


def _drawn(bundle: str, device: str) -> str:
    """The same order each time, and other devices first for another bundle."""
    return hashlib.sha256(f"{bundle}/{device}".encode()).hexdigest()


def _check_known(group: GroupSpec, fleet: set[str], bundle: Bundle, *, personal: bool) -> None:
    if unknown := sorted(set(group.names) - fleet):
        whose = f"; the bundle is {bundle.device}'s own" if bundle.device else ""
        if personal:
            whose = f" that has a bundle {bundle.name} of its own"
        raise NotFoundError(
            f"--group {group.text[:60]}: no accepted device {', '.join(unknown[:5])}{whose}"
        )


def _check_free(db: Session, names: list[str]) -> None:
    active = (
        select(RolloutDevice.device, RolloutDevice.rollout)
        .join(Rollout, Rollout.id == RolloutDevice.rollout)
        .where(Rollout.state.in_(ACTIVE))
    )
    wanted = set(names)
    busy = sorted((name, number) for name, number in db.execute(active) if name in wanted)
    if busy:
        (name, number), *more = busy
        others = f" and {len(more)} more" if more else ""
        raise Refusal(
            f"device {name}{others}: in roll-out {number}, which is not over; wait, or "
            f"flwr-fleet rollout abort {number}"
        )


def _rows(rollout: str, group: int, names: Iterable[str], now: float) -> list[dict[str, Any]]:
    fields = {"rollout": rollout, "group": group, "state": "waiting", "attempts": 0, "changed": now}
    return [{**fields, "device": name} for name in names]
