"""A wait for devices' answers that says now and then who is waited for."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from server.transport.ledger import Ledger
from server.transport.tables import OPEN, TaskRow

TELL_EVERY = 30.0  # seconds
_NAMED: Final = 5  # devices by name; of the others the number


def wait_for_answers(
    changed: threading.Condition,
    ledger: Ledger,
    ids: Sequence[str],
    seconds: float,
    tell: Callable[[str], None],
) -> None:
    """Wait until none of the tasks is open, but no longer than so many seconds.

    Parameters
    ----------
    changed : Condition
        Held, and notified of each change of the ledger.
    tell : callable(str)
        Takes a line each ``TELL_EVERY`` seconds.
    """
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if changed.wait_for(lambda: not ledger.waiting(ids), min(left, TELL_EVERY)):
            return
        open_ones = [row for row in ledger.tasks(ids) if row.state in OPEN]
        if open_ones and (left := end - time.monotonic()) > 0:
            tell(_said(open_ones, len(ids), seconds - left, left))


def _said(rows: Sequence[TaskRow], asked: int, waited: float, left: float) -> str:
    names = sorted({row.device for row in rows})
    whom = ", ".join(names[:_NAMED])
    if len(names) > _NAMED:
        whom += f" and {len(names) - _NAMED} more"
    what = f"round {rows[0].group}, {rows[0].action}" if rows[0].group else rows[0].action
    return (
        f"{what}: {asked - len(rows)} of {asked} answered after {waited:.0f} s; "
        f"waiting for {whom}, {left:.0f} s at most"
    )
