"""Flower's own simulation runtime (Ray) on the same client app. Run by `engines.Remote`."""

import json
import socket
import sys
import time
from typing import Any

import numpy as np
from flwr.app import Array, Context
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from simulations.bench.app import app
from simulations.bench.engines import timed_rounds


def server_app(settings: dict[str, Any], link: socket.socket) -> ServerApp:
    """Make a server app that runs rounds as it is told over a socket."""
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:  # noqa: ARG001  Flower hands it over
        weights = Array(np.load(f"{settings['plan']['graph']}.npy"))
        with link.makefile("rw") as lines:
            while line := lines.readline():
                nodes = _wait_for_nodes(grid, settings["clients"])
                seconds = timed_rounds(grid, nodes, weights, settings["plan"], int(line))
                lines.write(f"{seconds}\n")
                lines.flush()

    return server


def _wait_for_nodes(grid: Grid, count: int) -> list[int]:
    """Return the nodes once all are there; the server app may start before they do."""
    while len(nodes := list(grid.get_node_ids())) < count:
        time.sleep(0.05)
    return sorted(nodes)


def main() -> None:
    """Start Ray and serve until the other side hangs up."""
    settings = json.loads(sys.argv[2])
    with socket.socket(fileno=int(sys.argv[1])) as link:
        run_simulation(
            server_app(settings, link),
            app,
            num_supernodes=settings["clients"],
            backend_config={
                "init_args": {"num_cpus": settings["workers"], "include_dashboard": False},
                "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            },
        )


if __name__ == "__main__":
    main()
