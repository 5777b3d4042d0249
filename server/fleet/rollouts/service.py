"""Roll-outs, and who is online, while ``flwr-fleet serve`` runs: its connection to the broker."""

import atexit
import logging
import threading
from typing import TYPE_CHECKING, Final

from schemas.address import host_port
from schemas.fleet import FleetConfig, FleetFolder
from schemas.link import Link
from schemas.objects import ObjectStore
from server.fleet.alone import serving
from server.fleet.bundles import BundleFiles
from server.fleet.hearing import Noter
from server.fleet.link import server_link
from server.fleet.registry import Registry
from server.fleet.rollouts.engine import Engine
from server.fleet.rollouts.reports import Reporter
from server.fleet.rollouts.tasks import of_rollout
from server.fleet.signer import signing_key
from server.fleet.trouble import Once, Trouble
from server.transport.inbox import Open
from server.transport.ledger import Ledger
from server.transport.tables import TaskRow

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_log = logging.getLogger("flwr_edge.rollouts")
_attempts = logging.getLogger("flwr_edge.link")  # tells of each to connect
_EVERY: Final = 1.0  # seconds
_STORE: Final = 4 << 30  # bytes of objects
_UPLOAD: Final = 1 << 20  # bytes of a device's answer
_running: "dict[str, Service]" = {}


class OwnTasks(Open):
    """The courier's guard: a federation on the same ledger has a courier of its own."""

    def mine(self, task: TaskRow) -> bool:
        """Those of roll-outs."""
        return of_rollout(task)


class Service:
    """Drives the roll-outs of one fleet, on a thread of its own, and notes who is online.

    Parameters
    ----------
    folder : FleetFolder
    config : FleetConfig
    key : Ed25519PrivateKey
        The fleet's: tasks are signed with it.
    link : Link, optional
        To the broker; with TLS as the fleet's folder says where it is left out.
    every : float
        Seconds between looks.
    """

    def __init__(
        self,
        folder: FleetFolder,
        config: FleetConfig,
        key: "Ed25519PrivateKey",
        link: Link | None = None,
        *,
        every: float = _EVERY,
    ) -> None:
        where = folder.database(config)
        self._registry, self._ledger = Registry(where), Ledger(where)
        objects = ObjectStore(folder.objects, _STORE)
        self._link = link or server_link(folder, config)
        self._courier = Reporter(
            self._registry,
            self._link,
            objects,
            self._ledger,
            key=key,
            tell=_log.warning,
            max_upload=_UPLOAD,
            clock=self._registry.clock,
            guard=OwnTasks(),
        )
        files = BundleFiles(folder.bundles)
        self._noter = _noter(folder, self._registry, self._link)
        self._engine = Engine(self._registry, self._ledger, self._courier, objects, files.read)
        self._end, self._every, self._trouble = threading.Event(), every, Trouble(_log)
        self._once = Once()
        self._thread = threading.Thread(target=self._run, name="roll-outs", daemon=True)

    def start(self) -> None:
        """Connect, and begin."""
        _attempts.addFilter(self._once)
        self._courier.start()
        self._thread.start()

    def stop(self) -> None:
        """Disconnect; what is under way goes on at the next start."""
        if self._end.is_set():
            return
        self._end.set()
        if self._thread.ident is not None:  # it was started
            self._thread.join()
            self._noter.end()
        _attempts.removeFilter(self._once)
        for end in (self._courier.close, self._ledger.close, self._registry.close):
            try:
                end()
            except Exception as error:  # noqa: BLE001 - the others end all the same
                self._trouble.met(error, "roll-outs: at the end")

    def _run(self) -> None:
        while not self._end.wait(self._every):
            for do in (self._note, self._tick):
                try:
                    do()
                except Exception as error:  # noqa: BLE001 - a full disk must not end the roll-outs
                    self._trouble.met(error, f"roll-outs: tried again in {self._every:g} s")

    def _note(self) -> None:
        self._noter.look(connected=self._link.connected)

    def _tick(self) -> None:
        self._courier.tick()
        self._engine.tick()
        self._trouble.over()


def _noter(folder: FleetFolder, registry: Registry, link: Link) -> Noter:
    """What notes how a link stands, and hears it beside the courier."""
    noter = Noter(folder.hearing, lambda: serving(registry.engine))
    carried = link.on_lost

    def lost(reason: str) -> None:
        noter.lost(reason)
        carried(reason)

    link.on_lost, link.on_failed = lost, noter.failed
    return noter


def tick(folder: FleetFolder, config: FleetConfig) -> None:
    """Start the service of a fleet; ``serve`` calls it now and then.

    Also where there is no roll-out yet: it hears who is online.
    """
    where = str(folder.root)
    if where in _running:
        return
    service = Service(folder, config, signing_key(folder, config))
    try:
        service.start()
    except Exception:
        service.stop()  # the next tick tries again
        raise
    _running[where] = service
    atexit.register(stop, folder)
    broker = host_port(config.broker.host, config.broker.port)
    _log.info("connecting to the broker %s", broker)


def stop(folder: FleetFolder) -> None:
    """End the service of a fleet, if there is one."""
    service = _running.pop(str(folder.root), None)
    if service is not None:
        service.stop()
