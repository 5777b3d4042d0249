"""The courier of ``serve``: it notes who is online, and what is said of bundles after probation."""

from typing import Any, Final

from schemas.rollout import ACTION
from schemas.wire import Envelope, Failed, Result
from server.fleet.installed import GOOD, put_aside, used_again
from server.fleet.registry import Registry
from server.plain import plain
from server.transport.courier import DETAIL, Courier
from server.transport.tables import TaskRow

_ACTOR: Final = "server"
_FORGET: Final = 86_400.0  # seconds for which a device may be told that it was heard


class Reporter(Courier):
    """A courier that takes what is said of an order about a bundle after its answer.

    The ledger's word on who is online is this one's: another courier on it, of a training or a
    ping that reaches no broker, must not have the roll-outs wait for devices that are there.

    Parameters
    ----------
    registry : Registry
        On the ledger's database.
    *arguments, **options
        ``Courier``'s.
    """

    def __init__(self, registry: Registry, *arguments: Any, **options: Any) -> None:
        self._registry = registry
        super().__init__(*arguments, **options)

    def _about_task(self, device: str, said: Envelope) -> None:
        row = self._ledger.task(said.re) if said.re else None
        if row is None or row.device != device or not self._installed(row):
            super()._about_task(device, said)
        elif isinstance(said.body, Failed):
            reason = plain(said.body.reason, DETAIL) or "the device gave no reason"
            with self._registry.write(_ACTOR) as tx:
                heard = put_aside(tx, row, reason)
            if heard:
                self._cancel(device, row.id, _FORGET)
        else:
            if isinstance(said.body, Result):
                with self._registry.write(_ACTOR) as tx:
                    used_again(tx, row)
            super()._about_task(device, said)

    def _expect_nobody(self) -> None:
        super()._expect_nobody()
        self._ledger.all_offline()

    def _installed(self, row: TaskRow) -> bool:
        return self._guard.mine(row) and row.action == ACTION and row.state in GOOD
