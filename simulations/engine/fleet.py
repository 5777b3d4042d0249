"""A whole fleet on this machine: a broker, a daemon process a person, and the server's grid.

Nothing is simulated but the distance: the daemons are those of a Raspberry Pi, and what they and
the server say to each other crosses a real broker.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import tomli_w

from schemas.link import PahoLink
from schemas.objects import ObjectStore
from server.transport import Ledger, MqttGrid
from simulations.engine.broker import HOST, local_broker
from simulations.report.files import RunError

Nodes = Mapping[int, Mapping[str, str | int]]
_WAIT = 60.0  # seconds for all daemons to come online
_STORE = 4 << 30  # bytes of objects the server keeps
_END = 5.0  # seconds for daemons to end when asked


def device_of(node: int) -> str:
    """The device id of a simulated node."""
    return f"person-{node}"


@contextmanager
def fleet(nodes: Nodes, folder: Path, timeout: float, run_name: str = "run") -> Iterator[MqttGrid]:
    """Start a broker, a daemon a node, and the grid that reaches them; all end with the context.

    Parameters
    ----------
    nodes : mapping
        Each node's ``windows`` (a folder) and ``partition-id``, by Flower node id.
    folder : Path
        For everybody's state and logs.
    timeout : float
        Seconds that a client may take.
    run_name : str
        Of the run: devices keep their own state by it.

    Raises
    ------
    RunError
        Where there is no broker, or daemons do not come online.
    """
    with ExitStack() as stack:
        port = stack.enter_context(local_broker(folder / "broker"))
        ledger = Ledger(folder / "server" / "ledger.sqlite")
        stack.callback(ledger.close)
        for node in nodes:
            ledger.add_device(device_of(node), node)
        objects = ObjectStore(folder / "server" / "objects", _STORE)
        link = PahoLink(HOST, port, "flwr-server")
        grid = stack.enter_context(
            MqttGrid(link, objects, ledger, run_name=run_name, timeout=timeout)
        )
        stack.enter_context(_daemons(nodes, folder / "devices", port, timeout))
        there = grid.wait_for(len(nodes), _WAIT)
        if len(there) < len(nodes):
            missing = sorted(set(nodes) - set(there))
            log = _log(folder / "devices" / device_of(missing[0]))
            raise RunError(
                f"{len(missing)} of {len(nodes)} daemons are not online after {_WAIT:g} s; "
                f"{device_of(missing[0])} said: {log}"
            )
        yield grid


@contextmanager
def _daemons(nodes: Nodes, folder: Path, port: int, timeout: float) -> Iterator[None]:
    running: list[subprocess.Popen[bytes]] = []
    sockets = Path(tempfile.mkdtemp(prefix="flwr-"))  # a socket's path may have 107 bytes, no more
    try:
        for node, settings in nodes.items():
            config = _configure(folder / device_of(node), node, settings, port, timeout)
            running.append(_start(config, sockets / f"{node}.sock"))
        yield
    finally:
        for process in running:
            process.terminate()
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END)
            process.kill()
            process.wait()
        shutil.rmtree(sockets, ignore_errors=True)


def _configure(
    folder: Path, node: int, settings: Mapping[str, str | int], port: int, timeout: float
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "config.toml"
    table = {
        "device": device_of(node),
        "number": settings["partition-id"],
        "state": str(folder / "state"),
        "broker": {"host": HOST, "port": port},
        "windows": {"folder": str(settings["windows"])},
        "limits": {"task_seconds": timeout},
    }
    config.write_text(tomli_w.dumps(table))
    if "adapters" in settings:  # one device lives through days, each with a daemon of its own here
        _share(folder / "state" / "adapters", Path(str(settings["adapters"])))
    return config


def _share(link: Path, folder: Path) -> None:
    for each in (link.parent, folder):
        each.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(folder)


def _start(config: Path, socket: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "client.cli", "run"]
    command += ["--config", str(config), "--socket", str(socket)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (config.parent / "log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment)  # noqa: S603


def _log(folder: Path) -> str:
    try:
        lines = (folder / "log").read_text(errors="replace").strip().splitlines()
    except OSError as error:
        return f"its log cannot be read: {error}"
    return lines[-1] if lines else "nothing"
