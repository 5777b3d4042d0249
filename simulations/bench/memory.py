"""Memory of a whole process tree that runs a thousand clients."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from simulations.bench.app import request
from simulations.bench.engines import plan_of
from simulations.bench.workloads import flat_regression
from simulations.engine import LocalGrid


def tree_megabytes(root: int) -> float:
    """Proportional memory (PSS) of a process and all its descendants, in MB."""
    parents = {int(p.name): _parent(p) for p in Path("/proc").iterdir() if p.name.isdigit()}
    tree = {root}
    while more := {pid for pid, parent in parents.items() if parent in tree} - tree:
        tree |= more
    return sum(_pss(pid) for pid in tree) / 1000


def measure(clients: int = 1000, workers: int = 2) -> dict[str, float]:
    """Run two rounds of so many clients in a process of their own, torch loaded as in a run.

    Returns
    -------
    dict
        ``clients`` and ``megabytes`` of the process tree after the rounds.
    """
    command = [sys.executable, "-m", "simulations.bench.memory", str(clients), str(workers)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    output = done.stdout
    found: dict[str, float] = json.loads(output.splitlines()[-1])
    return found


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0  # it ended meanwhile


def _pss(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((float(line.split()[1]) * 1.024 for line in lines if line[:4] == "Pss:"), 0.0)


def _main(clients: int, workers: int) -> None:
    import torch  # noqa: F401 — a run's own process has it
    from flwr.app import Array

    workload = flat_regression()
    nodes = {node: {"partition-id": node} for node in range(1, clients + 1)}
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalGrid("simulations.bench.app:app", nodes, workers) as grid,
    ):
        plan, weights = plan_of(workload, Path(folder)), Array(workload.weights())
        for _ in range(2):
            replies = list(grid.send_and_receive([request(n, weights, plan) for n in nodes]))
        assert not any(reply.has_error() for reply in replies)
        result = {"clients": clients, "megabytes": round(tree_megabytes(os.getpid()))}
    print(json.dumps(result))  # noqa: T201


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]))
