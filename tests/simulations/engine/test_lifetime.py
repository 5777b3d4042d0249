import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.app import Message

from simulations.engine import LocalGrid
from tests.processes import alive

PARENT = """
import sys
from flwr.app import ConfigRecord, Message, RecordDict
from simulations.engine import LocalGrid

with LocalGrid("engine_clients:app", {0: {}, 1: {}}, workers=2) as grid:
    parents = (open(f"/proc/{pid}/stat").read().split()[3] for pid in grid.worker_pids)
    print(*grid.worker_pids, *parents, flush=True)
    content = RecordDict({"config": ConfigRecord({})})
    busy = int(sys.argv[1])
    grid.send_and_receive([Message(content, node, "train.hang") for node in range(busy)])
"""


def shared_memory() -> set[str]:
    return {path.name for path in Path("/dev/shm").iterdir()}


@pytest.mark.parametrize(
    ("how", "busy"), [(signal.SIGKILL, 2), (signal.SIGKILL, 1), (signal.SIGINT, 1)]
)
def test_nothing_outlives_the_parent(how: signal.Signals, busy: int) -> None:
    before = shared_memory()
    here = Path(__file__)
    path = os.pathsep.join([str(here.parent), str(here.parents[3])])
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(busy)],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as parent:
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 4  # two workers, and their fork server for each
        assert pids[2] == pids[3] != parent.pid
        time.sleep(0.3)  # workers hang in a client, or are idle
        assert all(map(alive, pids))
        parent.send_signal(how)
        parent.wait(10)
    end = time.monotonic() + 5
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(map(alive, pids))
    assert shared_memory() <= before


def test_an_exception_in_the_parent_leaves_nothing(
    make_grid: Callable[..., LocalGrid], ask: Callable[..., Message]
) -> None:
    make_grid().close()  # starts the fork server, if no test has
    before, files = shared_memory(), len(list(Path("/proc/self/fd").iterdir()))
    grid = make_grid()
    pids = grid.worker_pids
    with pytest.raises(KeyError), grid:  # noqa: PT012
        grid.push_messages([ask(0, "hang"), ask(1)])
        raise KeyError
    assert not any(map(alive, pids))
    assert shared_memory() <= before
    assert len(list(Path("/proc/self/fd").iterdir())) == files
