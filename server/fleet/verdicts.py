"""What is said of each device's updates and messages, and who is quarantined for theirs."""

from collections import Counter
from collections.abc import Callable
from typing import Final

from sqlalchemy import select

from schemas.delta import DeltaError
from schemas.fleet import Validation
from server.fleet import quarantine
from server.fleet.registry import Device, Registry, Update, Write, held
from server.fleet.rollouts.tasks import RUN as ROLLOUTS
from server.plain import plain
from server.transport.inbox import STRANGER
from server.transport.tables import TaskRow

# Of what is wrong with a message: this an honest device never sends. The rest (a doubled message,
# a late answer) comes of bad links too; it is audited, and counts only towards a flood.
FAULTS: Final = frozenset({"malformed", "oversized", "replayed", "wrong-hash"})
FLOOD: Final = "flood"
_COUNTED: Final = ("evt", "state")
_QUIET: Final = 3600.0  # seconds in which a kind of refusal is audited once a device
_PART: Final = 500


class Verdicts:
    """Of one federation; the guard of its courier, under whose lock all is called.

    Parameters
    ----------
    registry : Registry
    rules : Validation
    told : callable(device, reason)
        Called when a device is quarantined.

    Attributes
    ----------
    held : dict[str, str]
        Why devices are quarantined, as of the last ``refresh``.
    """

    def __init__(
        self, registry: Registry, rules: Validation, told: Callable[[str, str], None]
    ) -> None:
        self._registry, self._rules, self._told = registry, rules, told
        self.held: dict[str, str] = {}
        self._minute = 0  # in which were counted, by device and what it is that is too much:
        self._counts = Counter[tuple[str, str]]()
        self._audited: dict[tuple[str, str], float] = {}
        self._accepted: dict[str, Update] = {}  # by task: not written yet
        self.refresh()

    def refresh(self) -> set[str]:
        """See who is quarantined by now, here or by an operator; who changed."""
        with self._registry.read() as db:
            now = held(db, self._registry.clock())
        before, self.held = self.held, {name: row.reason for name, row in now.items()}
        return before.keys() ^ self.held.keys()

    # The courier's guard.

    def mine(self, task: TaskRow) -> bool:
        """All but those of roll-outs, which have a courier of their own."""
        return not task.run.startswith(ROLLOUTS)

    def bars(self, device: str, kind: str) -> str | None:
        """Whether a device is quarantined, or floods; a quarantined one may say how it is."""
        flood = kind in _COUNTED and self._too_many(device, "messages")
        if device in self.held:
            return "quarantined" if flood or kind != "state" else None
        return FLOOD if flood else None

    def refused(self, device: str, reason: str, detail: str, task: TaskRow | None) -> None:
        """Note what was refused; quarantine the device where that was once too often."""
        if device == STRANGER:
            self._audit(device, reason, detail)
            return
        if device in self.held or reason == "lost":
            return
        if self._too_many(device, "refused messages") or reason == FLOOD:
            text = f"more than {self._rules.per_minute} messages in a minute"
            self._fail(device, FLOOD, text, task)
        elif task is not None or reason in FAULTS:
            self._fail(device, reason, detail, task)
        else:
            self._audit(device, reason, detail)

    # Updates.

    def accept(self, task: TaskRow, norm: float) -> None:
        """Note a good update, with the next ``flush``.

        Raises
        ------
        DeltaError
            Where the same bytes came as another task's update.
        """
        first = self._first(task)
        if first is not None and first.task != task.id:
            text = f"the same bytes were {first.device}'s answer to task {first.task}"
            raise DeltaError(text, "replayed")
        self._accepted[task.id] = self._update(task, "accepted", norm=norm)

    def flush(self) -> None:
        """Write what was accepted, in one transaction; what was noted before is not again."""
        if not self._accepted:
            return
        ids = list(self._accepted)
        with self._registry.write("server") as write:
            for start in range(0, len(ids), _PART):
                part = ids[start : start + _PART]
                known = set(write.db.scalars(select(Update.task).where(Update.task.in_(part))))
                write.db.add_all(self._accepted[task] for task in part if task not in known)
        self._accepted.clear()

    def _first(self, task: TaskRow) -> Update | None:
        for row in self._accepted.values():
            if row.object == task.reply_sha:
                return row
        rows = select(Update).where(Update.object == task.reply_sha).order_by(Update.id)
        with self._registry.read() as db:
            return db.scalar(rows.limit(1))

    # Refusals.

    def _too_many(self, device: str, what: str) -> bool:
        """Count one more in this minute; whether that is more than the rules allow."""
        minute = int(self._registry.clock() // 60)
        if minute != self._minute:
            self._minute = minute
            self._counts.clear()
        self._counts[device, what] += 1
        return self._counts[device, what] > self._rules.per_minute

    def _fail(self, device: str, reason: str, detail: str, task: TaskRow | None) -> None:
        detail = plain(detail, 500)  # whoever refused it: a device may have put in any text
        with self._registry.write("server") as write:
            if write.db.get(Device, device) is None:
                self.held[device] = "it is not of this fleet"  # until the next refresh
                return
            row = self._update(task, "refused", device=device, reason=reason, detail=detail)
            write.db.add(row)
            write.db.flush()
            name = task and task.id
            write.audit("update.refused", device, reason=reason, task=name, detail=detail[:200])
            why = self._quarantine(write, device, reason, detail)
        if why is not None:
            self.held[device] = why
            self._told(device, why)

    def _quarantine(self, write: Write, device: str, reason: str, detail: str) -> str | None:
        """Why the device is quarantined from now on; None where it is not."""
        hours, rules = self._rules.window_hours, self._rules
        count = quarantine.failures(write.db, device, write.now - 3600 * hours)
        if count < rules.failures and reason != FLOOD:
            return None
        why = f"{reason}: {detail}"
        if reason != FLOOD:
            why = f"{count} refused updates in {hours:g} h; the last: {why}"
        row = quarantine.begin(write, device, why, rules.hours, count)
        return None if row is None else row.reason

    def _audit(self, device: str, reason: str, detail: str) -> None:
        """Note what happens to honest devices too, now and then: a log is no place for floods."""
        now = self._registry.clock()
        if self._audited.get((device, reason), -_QUIET) + _QUIET > now:
            return
        self._audited[device, reason] = now
        with self._registry.write("server") as write:
            write.audit("message.refused", device, reason=reason, detail=detail[:200])

    def _update(self, task: TaskRow | None, verdict: str, **values: object) -> Update:
        known: dict[str, object] = {"run": "", "action": ""}
        if task is not None:
            known = {"run": task.run, "action": task.action, "device": task.device}
            known |= {"task": task.id, "object": task.reply_sha}
            known["bytes"] = sum(ref.bytes for ref in task.answer)
        return Update(at=self._registry.clock(), verdict=verdict, **(known | values))
