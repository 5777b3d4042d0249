"""A fleet's grid: Flower's ``Grid`` on its devices, whose updates are judged before they count.

``with open_grid(Path("fleet"), run_name="walk") as grid: strategy.start(grid, …)``
"""

import fcntl
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from flwr.app import Message, MessageType, RecordDict

from schemas.base import ConfigError
from schemas.delta import DeltaError
from schemas.fleet import FleetFolder, Validation
from schemas.link import Link
from schemas.npy import array_values
from schemas.objects import ObjectError, ObjectStore
from schemas.payload import PayloadError
from schemas.payload_object import unpack
from server.border import judge
from server.fleet.broker import lists
from server.fleet.errors import Refusal
from server.fleet.link import federation_link
from server.fleet.registry import Registry
from server.fleet.signer import signing_key
from server.fleet.verdicts import Verdicts
from server.transport.ledger import Ledger
from server.transport.mqtt_grid import MqttGrid
from server.transport.records import records_of
from server.transport.tables import TaskRow

_STORE: Final = 4 << 30  # bytes of objects


class FleetGrid(MqttGrid):
    """A grid that judges what comes, by device, and quarantines who fails again and again.

    An update is judged by the plan that the device was sent: arrays and types, lengths, NaN and
    infinity, the change's norm, metrics, reports, and whether the same bytes were here before. The
    verdict is a row in the registry; a refused update is an error to the strategy. A quarantined
    device is asked nothing, and nothing of it is read.

    Parameters
    ----------
    link, objects, ledger
        As ``MqttGrid`` has them.
    registry : Registry
        On the ledger's database.
    rules : Validation
    barred : callable()
        Called, on the grid's own thread, when others must hear who is quarantined: the broker.
    **options
        More of ``MqttGrid``'s.
    """

    def __init__(
        self,
        link: Link,
        objects: ObjectStore,
        ledger: Ledger,
        registry: Registry,
        rules: Validation,
        *,
        barred: Callable[[], object] = lambda: None,
        **options: Any,
    ) -> None:
        self._rules, self._barred, self._stale = rules, barred, False
        self._question = "", RecordDict()
        self._verdicts = Verdicts(registry, rules, self._hold)
        defaults: dict[str, Any] = {"max_upload": rules.max_bytes, "clock": registry.clock}
        super().__init__(link, objects, ledger, guard=self._verdicts, **(defaults | options))

    def tick(self) -> None:
        """Do what is due by the clock; see who was quarantined or released elsewhere."""
        super().tick()
        with self._courier.changed:
            for device in self._verdicts.refresh():
                self._stale = True
                self._give_up(device)
            stale, self._stale = self._stale, False
        if stale:
            try:
                self._barred()
            except (OSError, RuntimeError) as error:
                self._log(f"the broker does not know yet who is quarantined: {error}")

    def get_node_ids(self) -> list[int]:
        """Nodes that are enrolled, online and not quarantined, ascending."""
        held, hears = self._verdicts.held, self._courier.hears
        return [
            device.node
            for device in self._ledger.devices()
            if hears(device.id) and device.id not in held
        ]

    def find(self, names: Collection[str], timeout: float) -> dict[str, int]:
        """Nodes by device: of those named that are online, as soon as all are, or of all there are.

        Parameters
        ----------
        names : collection of str
            None: whoever states itself before the time is over.
        timeout : float
            Seconds.
        """

        def there() -> dict[str, int]:
            rows = [row for row in self._ledger.devices() if not names or row.id in names]
            return {row.id: row.node for row in rows if self._courier.hears(row.id)}

        with self._courier.changed:
            self._courier.changed.wait_for(lambda: names and len(there()) >= len(names), timeout)
            return there()

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Keep messages durably, then send them; to a quarantined device: an error at once."""
        with self._courier.changed:
            ids = super().push_messages(messages)
            for row in self._ledger.tasks(ids):
                if (why := self._verdicts.held.get(row.device)) is not None:
                    self._courier.withdraw([row.id], f"quarantined: {why}")
            return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that are there, judged, in the order of the ids, each of them once."""
        with self._courier.changed:
            replies = super().pull_messages(message_ids)
            self._verdicts.flush()
            return replies

    def _hold(self, device: str, reason: str) -> None:
        """A device was quarantined: nothing that it was asked is waited for."""
        self._stale = True
        self._give_up(device)
        self._log(f"{device}: quarantined: {reason}")

    def _give_up(self, device: str) -> None:
        if (why := self._verdicts.held.get(device)) is not None:
            mine = [row.id for row in self._ledger.open_tasks(device) if row.id in self._asked]
            self._courier.withdraw(mine, f"quarantined: {why}")

    def _unpacked(self, row: TaskRow) -> RecordDict:
        answer = super()._unpacked(row)
        if row.action.partition(".")[0] == MessageType.TRAIN:
            self._verdicts.accept(row, self._judge(row, answer))
        return answer

    def _judge(self, row: TaskRow, answer: RecordDict) -> float:
        asked = self._asked_of(row)
        if "plan" in asked.config_records.get("config", {}):
            return judge(asked, answer, self._rules.max_norm, self._rules.max_examples)
        return _norm(answer, self._rules.max_norm)  # another strategy's question

    def _asked_of(self, row: TaskRow) -> RecordDict:
        """What the device was asked; a broadcast is read once."""
        sha, asked = self._question
        if sha != row.payload_sha:
            try:
                data = self._objects.get(row.payload_sha)
                asked = records_of(unpack(data, self._objects.get))
            except (LookupError, ObjectError, PayloadError) as error:
                raise OSError(f"the question is not here any more: {error}") from error
            self._question = row.payload_sha, asked
        return asked


def _norm(answer: RecordDict, most: float) -> float:
    """The L2 norm of all arrays; DeltaError where it is too large, or a value is not finite."""
    total = 0.0
    for record in answer.array_records.values():
        for name, array in record.items():
            values = array_values(array).astype(np.float64)
            if not np.isfinite(values).all():
                raise DeltaError(f"array {name!r} holds NaN or infinity", "finite")
            total += float(np.square(values).sum())
    if total**0.5 > most:
        raise DeltaError(f"the arrays' norm is {total**0.5:.3g}; at most {most:g}", "norm")
    return float(total**0.5)


@contextmanager
def open_grid(root: Path, link: Link | None = None, **options: Any) -> Iterator[FleetGrid]:
    """Connect to a fleet's devices, as ``fleet.toml`` in its folder says.

    Parameters
    ----------
    root : Path
        The fleet's folder.
    link : Link, optional
        To the broker; with the federation's certificate where it is left out.
    **options
        ``run_name``, ``timeout`` and what else ``MqttGrid`` takes.

    Raises
    ------
    ConfigError
        Where there is no fleet, or its keys cannot be read.
    Refusal
        Where another process trains on the fleet: two would take each other's answers.
    """
    folder = FleetFolder(root)
    config = folder.config()
    where = folder.database(config)
    key = signing_key(folder, config)
    if link is None and not (folder.federation / "key.pem").exists():
        raise ConfigError(str(folder.federation), ["no key.pem there; flwr-fleet serve makes it"])
    with _alone(folder), Registry(where) as registry, closing(Ledger(where)) as ledger:
        grid = FleetGrid(
            link or federation_link(folder, config),
            ObjectStore(folder.federation_objects, _STORE),
            ledger,
            registry,
            config.validation,
            barred=lambda: lists.changed(folder, config, [], [], []),
            key=key,
            **options,
        )
        with grid:
            yield grid


@contextmanager
def _alone(folder: FleetFolder) -> Iterator[None]:
    folder.federation.mkdir(mode=0o750, exist_ok=True)
    with (folder.federation / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refusal(f"another process trains on this fleet ({file.name} is held)") from None
        yield
