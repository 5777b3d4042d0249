"""The floor: the same steps in a bare loop. Run by `engines.Remote`, one process a worker."""

import json
import socket
import sys
import time

import numpy as np

from simulations.bench.app import load_step


def main() -> None:
    """Run as many updates as each line asks for and answer with the seconds they took."""
    settings = json.loads(sys.argv[2])
    plan = settings["plan"]
    step = load_step(plan["graph"])
    weights = np.load(f"{plan['graph']}.npy")  # the engines' clients start there too
    with socket.socket(fileno=int(sys.argv[1])) as link, link.makefile("rw") as lines:
        while line := lines.readline():
            started = time.perf_counter()
            for _ in range(int(line)):
                step.run(weights, plan["steps"])
            lines.write(f"{time.perf_counter() - started}\n")
            lines.flush()


if __name__ == "__main__":
    main()
