"""Whether every instruction set gives what the oracle does, each in a process of its own."""

import os
import subprocess
import sys

import numpy as np
import pytest

from edge_kernels.integer import oracle

SETS = ["scalar", "avx2", "avxvnni", "avx512", "avx512vnni", "neon", "neon_dot"]
_SCRIPT = """
import sys
import numpy as np
import edge_kernels
assert edge_kernels.info()["isa"] == sys.argv[1], edge_kernels.info()
data = np.load(sys.argv[2])
for at in range(int(data["count"])):
    run = edge_kernels.session(data[f"m{at}"].tobytes())
    y = run.run(None, {"x": data[f"x{at}"]})[0]
    assert y.dtype == data[f"y{at}"].dtype and (y == data[f"y{at}"]).all(), at
"""


def keep(path, nets, model_of):
    """Write models, inputs and the oracle's outputs; ``nets`` are (network, input)."""
    kept = {}
    for at, (net, x) in enumerate(nets):
        kept[f"m{at}"] = np.frombuffer(model_of(net).SerializeToString(), np.uint8)
        kept[f"x{at}"], kept[f"y{at}"] = x, oracle.run(net, x)
    np.savez(path, count=np.array(len(kept) // 3), **kept)
    return path


def codes(net, seed, count=3):
    """Any input of a network: (count, *shape) uint8."""
    shape = (count, *net.shapes[0])
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def same(isa, answers):
    """Run what `keep` wrote by one instruction set; skip where it is not here."""
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, isa, str(answers)],
        env={**os.environ, "FLWR_EDGE_ISA": isa},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if "this CPU and build can run" in done.stderr:
        pytest.skip(f"no {isa} here")
    assert done.returncode == 0, done.stderr[-2000:]
