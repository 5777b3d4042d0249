"""Memory of a process tree, children included."""

import os
import subprocess
import sys

from simulations.bench.memory import measure, tree_megabytes


def test_children_count():
    alone = tree_megabytes(os.getpid())
    code = "x = bytearray(80_000_000); print('up', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        child.stdout.readline()
        together = tree_megabytes(os.getpid())
        child.communicate(b"\n")
    assert together > alone + 75


def test_a_small_run_is_measured():
    found = measure(clients=20, workers=1)
    assert found["clients"] == 20
    assert 100 < found["megabytes"] < 1500
