"""What the daemon takes of a machine: time to connect, memory, disk; on a real broker."""

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from client.footprint_broker import HOST, Asker, broker, ended
from client.footprint_plan import Measured
from edge_kernels.bench.machine import machine, versions
from schemas.bench import FootprintReport, Memory
from schemas.payload import Payload
from schemas.toml_file import quoted

DEVICE: Final = "footprint"
PACKAGE: Final = "flwr-edge"
_ROOMS: Final = ("schemas", "hypernet", "edge_kernels", "client", "server", "simulations")
_SETTLE: Final = 1.5  # seconds after which a daemon that connected is idle
_EVERY: Final = 0.02  # seconds between looks at the memory
_TASKS: Final = 3
_TASK_SECONDS: Final = 300.0
_TO_CONNECT: Final = 30.0
_TO_END: Final = 15.0


def measure(measured: Measured, tell: Callable[[str], None] = lambda _: None) -> FootprintReport:
    """Start a broker and a daemon, have it learn, and look at it meanwhile.

    Parameters
    ----------
    measured : Measured
    tell : callable, optional
        Takes a line for whoever watches.

    Raises
    ------
    RuntimeError
        Where there is no broker, the daemon fails, or memory cannot be read (not on Linux).
    """
    with tempfile.TemporaryDirectory(prefix="flwr-edge-") as scratch:
        folder = Path(scratch)
        with broker(folder) as port, Asker(port, DEVICE) as asker:
            tell("starting the daemon")
            config = _configure(folder, port, measured.person(folder / "windows"))
            began = time.monotonic()
            with _daemon(config) as daemon:
                seconds = asker.wait_online(_TO_CONNECT) - began
                time.sleep(_SETTLE)
                idle = memory(daemon)
                tell("learning")
                with Peak(daemon) as peak:
                    task_seconds = _learn(asker, measured)
                tell("waiting for the process that learns to end")
                afterwards = _alone(daemon)
    return FootprintReport(
        machine=machine(),
        versions=versions(),
        plan=measured.name,
        seconds_to_connect=seconds,
        idle=idle,
        learning=peak.memory(),
        task_seconds=task_seconds,
        afterwards=afterwards,
        installed=installed(),
    )


def _learn(asker: Asker, measured: Measured) -> float:
    graphs = {str(number): graph for number, graph in enumerate(measured.graphs.values())}
    asker.ask("query.install", Payload(config={"graphs": dict(graphs)}), _TASK_SECONDS)
    text, seconds = measured.plan.model_dump_json(), 0.0
    for number in range(_TASKS):
        question = Payload(
            arrays={"arrays": {"weights": measured.weights}},
            config={"config": {"plan": text, "server-round": number}},
        )
        seconds = max(seconds, asker.ask("train", question, _TASK_SECONDS))
    return seconds


def _configure(folder: Path, port: int, windows: Path) -> Path:
    config = folder / "footprint.toml"
    config.write_text(
        f'device = "{DEVICE}"\nnumber = 0\nstate = "state"\n'
        f'[broker]\nhost = "{HOST}"\nport = {port}\n'
        f"[windows]\nfolder = {quoted(str(windows))}\n[limits]\nidle_seconds = 1\n",
        encoding="utf-8",
    )
    return config


@contextmanager
def _daemon(config: Path) -> Iterator[int]:
    command = [sys.executable, "-P", "-m", "client.cli", "run", "--config", str(config)]
    command += ["--socket", str(config.parent / "socket")]
    with (config.parent / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: S603 (our own)
    try:
        yield process.pid
    except RuntimeError as error:
        said = (config.parent / "log").read_text(errors="replace").strip().splitlines()[-1:]
        raise RuntimeError(f"{error}; its log ends: {' '.join(said) or 'empty'}") from error
    finally:
        ended(process, _TO_END)


def _alone(daemon: int) -> Memory:
    end = time.monotonic() + _TO_END
    while len(_family(daemon)) > 1 and time.monotonic() < end:
        time.sleep(_EVERY)
    return memory(daemon)


class Peak:
    """Looks at a process and its children until the block ends.

    Parameters
    ----------
    pid : int
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._seen = [memory(pid)]
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Peak":
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._done.set()
        self._thread.join()

    def memory(self) -> Memory:
        """Return the largest of each sum."""
        return Memory(
            rss=max(seen.rss for seen in self._seen),
            pss=max(seen.pss for seen in self._seen),
            processes=max(seen.processes for seen in self._seen),
        )

    def _look(self) -> None:
        while not self._done.wait(_EVERY):
            try:
                self._seen.append(memory(self._pid))
            except RuntimeError:  # it has ended; whoever waits for it says so
                return


def memory(pid: int) -> Memory:
    """Return the memory of a process and its children.

    Raises
    ------
    RuntimeError
        Where it cannot be read.
    """
    sums, count = {"Rss": 0, "Pss": 0}, 0
    for each in _family(pid):
        try:
            text = Path(f"/proc/{each}/smaps_rollup").read_text(encoding="ascii")
        except (FileNotFoundError, ProcessLookupError) as error:
            if each != pid:
                continue  # a child that has just ended
            raise RuntimeError(f"process {pid}: its memory cannot be read: {error}") from None
        for name in sums:
            found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
            sums[name] += int(found[1]) * 1024 if found else 0
        count += 1
    return Memory(rss=sums["Rss"], pss=sums["Pss"], processes=count)


def _family(pid: int) -> list[int]:
    family = [pid]
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            family += map(int, path.read_text(encoding="ascii").split())
        except (FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            continue
    return family


def installed() -> dict[str, int]:
    """Return the bytes of this package and of all that it needs, extras left out; largest first."""
    sizes: dict[str, int] = {}
    waiting = [PACKAGE]
    while waiting:
        name = _normal(waiting.pop())
        if name in sizes:
            continue
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # of another platform or Python
            continue
        sizes[name] = _own() if name == PACKAGE else _size(distribution)
        waiting += [
            re.split(r"[^\w.-]", need, maxsplit=1)[0]
            for need in distribution.requires or ()
            if "extra ==" not in need
        ]
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _size(distribution: metadata.Distribution) -> int:
    paths = (Path(str(file.locate())) for file in distribution.files or ())
    return sum(path.stat().st_size for path in paths if path.is_file())


def _own() -> int:
    """Of this package's rooms: an editable install's metadata do not list them."""
    total = 0
    for room in _ROOMS:
        spec = find_spec(room)
        for folder in (spec and spec.submodule_search_locations) or ():
            for base, _, names in os.walk(folder):
                total += sum((Path(base) / name).stat().st_size for name in names)
    return total
