"""Which devices of a fleet take part in a training, and why others do not."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from schemas.training import Training
from server.fleet.listing import device_rows
from server.transport.tables import DeviceRow


@dataclass(frozen=True)
class Choice:
    """Devices by name.

    Attributes
    ----------
    nodes : dict[str, int]
        Who takes part, and its node.
    left_out : dict[str, str]
        Who has the tags and does not, and why: its state, or "quarantined".
    """

    nodes: dict[str, int]
    left_out: dict[str, str]

    @property
    def counts(self) -> dict[str, int]:
        """How many are left out, by why."""
        return dict(sorted(Counter(self.left_out.values()).items()))


def too_few(choice: Choice, training: Training) -> str:
    """Why those who take part could never make a round; "" where they could."""
    count, needed = len(choice.nodes), training.cohort.min_replies
    if count < needed:
        return f"{count} would take part; {needed} have to answer a round (cohort.min_replies)"
    return ""


def choose(db: Session, tags: Collection[str], among: Collection[str] | None = None) -> Choice:
    """Accepted devices that are not quarantined: of the tags, or among those that a run has."""
    rows = [row for row in device_rows(db) if not tags or set(tags) & set(row["tags"])]
    if among is not None:
        rows = [row for row in device_rows(db) if row["device"] in among]
    why = {
        row["device"]: "quarantined" if row["state"] == "accepted" else row["state"]
        for row in rows
        if row["state"] != "accepted" or row["quarantined"]
    }
    nodes = {row[0]: row[1] for row in db.execute(select(DeviceRow.id, DeviceRow.node))}
    taken = [row["device"] for row in rows if row["device"] not in why]
    return Choice({name: nodes[name] for name in taken}, why)
