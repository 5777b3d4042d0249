"""Where and with what it was measured."""

import os
import platform
from pathlib import Path

from edge_kernels import info
from schemas.bench import Machine, Versions


def machine() -> Machine:
    """Describe this machine."""
    return Machine(
        cpu=cpu(),
        cores=_cores(),
        architecture=platform.machine(),
        isa=info()["isa"],
        features=list(info()["features"]),
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    )


def cpu() -> str:
    """Name the processor's model; the architecture where none is told."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            return value.strip()
    return platform.processor() or platform.machine()


def versions() -> Versions:
    """List the versions that matter."""
    known = info()
    return Versions(
        flwr_edge=known["version"],
        onnxruntime=known["onnxruntime"],
        layout=known["layout_version"],
        python=platform.python_version(),
    )


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
