"""Client updates a second of each engine, in turns, so that the machine's drift hits all alike."""

import gc
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, Self

from flwr.app import Array
from flwr.serverapp import Grid

from schemas.base import ConfigError
from simulations.bench.app import request
from simulations.bench.workloads import Workload
from simulations.engine import LocalGrid

Row = dict[str, str | int | float]


class Contender(Protocol):
    """An engine that is warm and waits to be timed."""

    def seconds(self, updates: int) -> float:
        """Return how long so many client updates take."""

    def close(self) -> None:
        """End it."""


def plan_of(workload: Workload, folder: Path) -> dict[str, Any]:
    """Save a workload and return what a message says of it."""
    return {"graph": workload.save(folder), "steps": workload.steps}


def timed_rounds(
    grid: Grid, nodes: list[int], weights: Array, plan: dict[str, Any], updates: int
) -> float:
    """Return how long the rounds take that make up so many updates, messages included."""
    gc.collect()
    started = time.perf_counter()
    for _ in range(updates // len(nodes)):
        replies = list(grid.send_and_receive([request(node, weights, plan) for node in nodes]))
        failed = [reply.error.reason for reply in replies if reply.has_error()]
        if failed or len(replies) != len(nodes):
            raise RuntimeError(f"{len(replies)} of {len(nodes)} clients answered; {failed[:1]}")
    return time.perf_counter() - started


class Local:
    """`LocalGrid`."""

    def __init__(
        self, workload: Workload, plan: dict[str, Any], clients: int, workers: int
    ) -> None:
        nodes = {node: {"partition-id": node} for node in range(clients)}
        self.grid = LocalGrid("simulations.bench.app:app", nodes, workers)
        self._nodes = self.grid.get_node_ids()
        self._weights = Array(workload.weights())
        self._plan = plan

    def seconds(self, updates: int) -> float:
        """Return how long so many client updates take."""
        return timed_rounds(self.grid, self._nodes, self._weights, self._plan, updates)

    def close(self) -> None:
        """End the workers."""
        self.grid.close()


class Remote:
    """Processes that run `module` and are told over a socket how many updates to run."""

    def __init__(self, module: str, settings: dict[str, Any], processes: int) -> None:
        self._links = []
        self._processes = []
        for _ in range(processes):
            link, remote = socket.socketpair()
            with remote:
                words = [sys.executable, "-m", module, str(remote.fileno()), json.dumps(settings)]
                process = subprocess.Popen(  # noqa: S603  our own interpreter, our own code
                    words,
                    pass_fds=[remote.fileno()],
                    stdout=2,
                    env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
                )
            self._processes.append(process)
            self._links.append(link.makefile("rw"))
            link.close()

    def seconds(self, updates: int) -> float:
        """Return how long the slowest process takes for its share of the updates."""
        for link in self._links:
            link.write(f"{updates // len(self._links)}\n")
            link.flush()
        answers = [link.readline() for link in self._links]
        if not all(answers):
            raise RuntimeError("a process of the benchmark ended; its words are above")
        return max(float(answer) for answer in answers)

    def close(self) -> None:
        """Hang up and wait."""
        for link in self._links:
            link.close()
        for process in self._processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def compare(
    workload: Workload,
    clients: int = 50,
    workers: int = 2,
    repeats: int = 5,
    rounds: int = 4,
    engines: tuple[str, ...] = ("local", "ray", "floor"),
) -> list[Row]:
    """Time the engines in turns.

    Parameters
    ----------
    workload
        What a client computes.
    clients, workers
        Nodes in a round, and processes that run them.
    repeats
        Turns that each engine gets, after one that is not counted.
    rounds
        Rounds in a turn. Ray and the floor run as many.
    engines
        Which; ``ray`` needs ``flwr-edge[ray]``.

    Returns
    -------
    list[Row]
        A row an engine: updates a second (median, min, max) and ratios to ray and to the floor.

    Raises
    ------
    ConfigError
        Where an engine's package is not installed.
    """
    if "ray" in engines and find_spec("ray") is None:
        raise ConfigError("bench", ["needs the package ray: pip install 'flwr-edge[ray]'"])
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        plan = plan_of(workload, Path(name))
        settings = {"plan": plan, "clients": clients, "workers": workers}
        contenders: dict[str, Contender] = {}
        for engine in engines:
            contenders[engine] = _open(engine, workload, settings)
            stack.callback(contenders[engine].close)
        speeds = _take_turns(contenders, clients * rounds, repeats)
    return [_row(workload.name, engine, clients, workers, speeds) for engine in engines]


def _open(engine: str, workload: Workload, settings: dict[str, Any]) -> Contender:
    if engine == "local":
        return Local(workload, settings["plan"], settings["clients"], settings["workers"])
    if engine == "ray":
        return Remote("simulations.bench.ray_engine", settings, 1)
    return Remote("simulations.bench.floor", settings, settings["workers"])


def _take_turns(
    contenders: dict[str, Contender], updates: int, repeats: int
) -> dict[str, list[float]]:
    speeds: dict[str, list[float]] = {engine: [] for engine in contenders}
    for turn in range(repeats + 1):
        for engine, contender in contenders.items():
            seconds = contender.seconds(updates)
            if turn:
                speeds[engine].append(updates / seconds)
    return speeds


def _row(
    workload: str, engine: str, clients: int, workers: int, speeds: dict[str, list[float]]
) -> Row:
    median = statistics.median(speeds[engine])
    row: Row = {
        "workload": workload,
        "engine": engine,
        "clients": clients,
        "workers": workers,
        "updates_per_second": median,
        "min": min(speeds[engine]),
        "max": max(speeds[engine]),
    }
    for other in ("ray", "floor"):
        if other in speeds:
            row[f"ratio_to_{other}"] = median / statistics.median(speeds[other])
    return row
