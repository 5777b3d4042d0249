"""Puts a daemon together from its configuration, and runs it until it is told to stop."""

import fcntl
import functools
import logging
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from client.conditions import Conditions
from client.config import Broker, DaemonConfig
from client.daemon import Daemon, state_message
from client.graph_files import has_file
from client.identity import Identity
from client.local_api import Handler, LocalApi
from client.messages import Settings, write_settings
from client.predictions import Predictions
from client.rotation import Rotation
from client.service import sd_notify
from client.sources import Gatherer, source_class
from client.store import Store
from client.store_file import why
from client.work import WorkProcess
from schemas.address import host_port
from schemas.base import ConfigError
from schemas.link import PahoLink, TlsFiles
from schemas.objects import ObjectStore
from schemas.text import first_line
from schemas.wire import node_of

_log = logging.getLogger("flwr_edge")
_READ: Final = 4 << 20  # bytes a second of windows that a slow card and core read and check


def run(config: DaemonConfig, socket: Path | None = None) -> None:
    """Run until SIGTERM or SIGINT.

    Parameters
    ----------
    config : DaemonConfig
    socket : Path, optional
        Of the local API; none is opened where it is left out.

    Raises
    ------
    RuntimeError
        Where another daemon runs there, the store cannot be used (``StoreError``), or the thread
        that does tasks ended: who is connected and does nothing would be waited for.
    """
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    with ExitStack() as stack:
        stack.enter_context(_alone(config.state))
        store = Store.mended(config.state / "device.sqlite")
        stack.callback(store.close)
        work = WorkProcess(write_settings(_worker_settings(config)))
        daemon = assembled(config, store, work, ended=told.set)
        gatherer = _gatherer(config)
        if gatherer is not None:
            gatherer.start()
            stack.callback(gatherer.stop)
        if socket is not None:
            api = LocalApi(
                socket, handlers(daemon, work, gatherer, bundled=config.model is not None)
            )
            api.start()
            stack.callback(api.stop)
        daemon.start()
        if config.rotation is not None and isinstance(daemon.link, PahoLink):
            rotation = Rotation(Identity(config.rotation.identity), daemon.link.renew)
            rotation.start()
            stack.callback(rotation.stop)
        sd_notify("READY=1")
        broker = host_port(config.broker.host, config.broker.number)
        _log.info("device %s; broker %s", config.device, broker)
        told.wait()
        fault = daemon.runner.fault
        if fault is None:
            _log.info("told to stop")
        sd_notify("STOPPING=1")
        daemon.stop()
        if fault is not None:
            raise RuntimeError(f"no more tasks can be done, the daemon ends: {fault}")


def assembled(
    config: DaemonConfig,
    store: Store,
    work: WorkProcess,
    ended: Callable[[], None] = lambda: None,
) -> Daemon:
    """Make the daemon of a configuration, not started; ``ended``: its runner's."""
    limits, graphs = config.limits, config.state / "graphs"
    objects = ObjectStore(config.state / "objects", limits.store_bytes)
    return Daemon(
        config.device,
        _link(config.device, config.broker),
        store,
        objects,
        work,
        Conditions(config.conditions).met,
        fleet_key=config.fleet_key,
        most_tasks=limits.tasks,
        bundle_bytes=limits.bundle_bytes,
        task_seconds=limits.task_seconds,
        idle_seconds=limits.idle_seconds,
        attempts=limits.attempts,
        runs=limits.runs,
        has_graph=lambda name: has_file(graphs, name),
        alive=lambda: sd_notify("WATCHDOG=1"),
        ended=ended,
    )


@contextmanager
def _alone(state: Path) -> Iterator[None]:
    """Hold the state's folder: two daemons on it would each undo what the other does."""
    state.mkdir(parents=True, exist_ok=True)
    with (state / "lock").open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(f"{state}: another daemon runs on this folder") from None
        yield


def handlers(
    daemon: Daemon, work: WorkProcess, gatherer: Gatherer | None = None, *, bundled: bool = False
) -> dict[str, Handler]:
    """What the local API serves; ``bundled``: predictions are a bundle's.

    Each raises RuntimeError where the store cannot be used, as on a full disk.
    """

    def status(_: dict[str, Any]) -> dict[str, Any]:
        said = daemon.status()
        if afresh := daemon.store.begun_afresh:
            said["store"] = afresh
        return said if gatherer is None else {**said, "windows": gatherer.status()}

    predictions = Predictions(
        daemon.store, work, daemon.bundles, lambda: daemon.runner.stopping, bundled=bundled
    )

    def pause(_: dict[str, Any], *, paused: bool = True) -> dict[str, Any]:
        try:
            daemon.pause(paused=paused)
        except sqlite3.Error as error:
            done = "paused" if paused else "resumed"
            raise RuntimeError(f"{_why(error)}: {done} only until the daemon ends") from error
        return daemon.status()

    def _why(error: sqlite3.Error) -> str:
        return why(error, daemon.store.path.parent)

    def plainly(handler: Handler) -> Handler:
        def handled(asked: dict[str, Any]) -> dict[str, Any]:
            try:
                return handler(asked)
            except sqlite3.Error as error:
                raise RuntimeError(f"the store: {_why(error)}") from error

        return handled

    served: dict[str, Handler] = {
        "status": status,
        "pause": pause,
        "resume": functools.partial(pause, paused=False),
        "predict": predictions.predict,
        "prediction": predictions.last,
    }
    return {name: plainly(handler) for name, handler in served.items()}


def _gatherer(config: DaemonConfig) -> Gatherer | None:
    windows = config.windows
    if windows.source is None:
        return None
    folder = config.state / "windows"
    kept = sum(path.stat().st_size for path in folder.glob("*.ring"))
    # All of them are read before READY=1: systemd is not to end that in the middle, for ever.
    sd_notify(f"EXTEND_TIMEOUT_USEC={(60 + kept // _READ) * 1_000_000}")
    return Gatherer(source_class(windows.source), windows.settings, folder)


def _worker_settings(config: DaemonConfig) -> Settings:
    state, folder, number = config.state, config.windows.folder, config.number
    bundle = None if config.model is None else config.model.bundle
    base = None if config.model is None else config.model.base
    return Settings(
        objects=str(state / "objects"),
        graphs=str(state / "graphs"),
        adapters=str(state / "adapters"),
        store_bytes=config.limits.store_bytes,
        windows=str(state / "windows" if folder is None else folder),
        rings=folder is None,
        number=node_of(config.device) if number is None else number,
        key=config.fleet_key,
        bundle=None if bundle is None else str(bundle),
        base=None if base is None else str(base),
    )


def _link(device: str, broker: Broker) -> PahoLink:
    tls = broker.tls
    return PahoLink(
        broker.host,
        broker.number,
        device,
        will=state_message(device, online=False),
        tls=None if tls is None else TlsFiles(tls.ca, tls.certificate, tls.key),
        username=broker.username,
        password=None if broker.password_file is None else PasswordFile(broker.password_file),
        keepalive=broker.keepalive,
    )


class PasswordFile:
    """A password that lies in a file, and may change there: who changes it tells nobody.

    Parameters
    ----------
    path : Path
        Its first line counts.

    Raises
    ------
    ConfigError
        Where it cannot be read. Later, what it held before is used then.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._held = self._read()
        except (OSError, ConfigError) as error:
            raise ConfigError("broker.password_file", [f"{path}: {error}"]) from None

    def __call__(self) -> str:
        """What it holds now."""
        try:
            self._held = self._read()
        except (OSError, ConfigError) as error:
            _log.warning("%s: %s; what it held before is used", self._path, error)
        return self._held

    def _read(self) -> str:
        return first_line(self._path.read_bytes(), self._path)
