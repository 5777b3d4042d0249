import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from simulations.engine import LocalGrid
from tests.processes import alive

Make = Callable[..., LocalGrid]
Ask = Callable[..., Message]
Look = Callable[[LocalGrid], Any]


@pytest.fixture
def look(ask: Ask) -> Look:
    """What a client of a grid sees."""

    def see(grid: LocalGrid) -> Any:
        return grid.send_and_receive([ask(0, "look")])[0].content["facts"]

    return see


def test_grids_share_one_server_of_one_thread(make_grid: Make, look: Look) -> None:
    first, second = look(make_grid()), look(make_grid())
    assert first["parent"] == second["parent"] != os.getpid()
    # A fork has only the thread that forked: whatever waits for another would wait for ever.
    assert len(list(Path(f"/proc/{first['parent']}/task").iterdir())) == 1


def test_a_worker_has_its_parents_folder_and_environment_of_now(
    make_grid: Make, look: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look(make_grid())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ENGINE_CLIENTS", "now \udce4")
    seen = look(make_grid())
    assert (seen["folder"], seen["told"]) == (str(tmp_path), "now \udce4")
    monkeypatch.delenv("ENGINE_CLIENTS")
    assert look(make_grid())["told"] == ""


def test_what_a_worker_says_goes_where_its_parents_words_go_now(
    make_grid: Make, ask: Ask, capfd: pytest.CaptureFixture[str]
) -> None:
    make_grid().send_and_receive([ask(0, "speak")])
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "said\n")


def test_without_its_server_a_grid_goes_on(make_grid: Make, ask: Ask, look: Look) -> None:
    grid = make_grid()
    before = look(grid)
    pids = set(grid.worker_pids)
    ids = grid.push_messages([ask(0, "hang")])
    os.kill(before["parent"], signal.SIGKILL)
    replies = grid.send_and_receive([ask(1), ask(2)])
    assert len(replies) == 2
    while not (hung := grid.pull_messages(ids)):
        grid.work(1.0)
    assert hung[0].error.reason == "worker died with its fork server"
    after = look(grid)
    assert after["parent"] != before["parent"]
    assert after["pid"] not in pids
    assert not any(map(alive, pids))


FORKING = """
import os
from simulations.engine import LocalGrid

def parents():
    with LocalGrid("engine_clients:app", {0: {}}, workers=1) as grid:
        return [open(f"/proc/{pid}/stat").read().split()[3] for pid in grid.worker_pids]

here = parents()
pid = os.fork()
print(*parents(), flush=True)
if pid:
    assert os.waitpid(pid, 0)[1] == 0
    assert parents() == here
"""


def test_a_fork_of_the_parent_gets_its_own_server() -> None:
    here = Path(__file__)
    path = os.pathsep.join([str(here.parent), str(here.parents[3])])
    done = subprocess.run(
        [sys.executable, "-c", FORKING],
        env=os.environ | {"PYTHONPATH": path},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert len(set(done.stdout.split())) == 2
