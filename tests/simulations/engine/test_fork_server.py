import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from simulations.engine import LocalGrid, fork_server, worker_process
from simulations.engine.pool import WorkerError
from tests.processes import alive

Make = Callable[..., LocalGrid]
Ask = Callable[..., Message]
Look = Callable[[LocalGrid], Any]
Boot = Callable[..., None]


@pytest.fixture
def boot(monkeypatch: pytest.MonkeyPatch) -> Iterator[Boot]:
    """Have the next fork server begin with lines of the test's, and the one after not."""

    def begin(*lines: str) -> None:
        fork_server.close()
        monkeypatch.setattr(fork_server, "_BOOT", "\n".join([*lines, fork_server._BOOT]))

    yield begin
    fork_server.close()


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
    fork_server.close()  # the next one starts with the variable
    monkeypatch.setenv("ENGINE_CLIENTS", "then")
    assert look(make_grid())["told"] == "then"
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


def test_a_worker_shares_no_numbers_and_no_files_with_others(
    make_grid: Make, ask: Ask, boot: Boot
) -> None:
    boot("import numpy.random")
    grids = [make_grid(workers=1) for _ in range(2)]
    seen = [grid.send_and_receive([ask(0, "look")])[0].content["facts"] for grid in grids]
    assert seen[0]["random"] != seen[1]["random"]
    assert set(seen[0]["inherited"]) <= {0, 1, 2}


def test_a_server_that_dies_as_it_starts_is_started_again(
    make_grid: Make, ask: Ask, boot: Boot, tmp_path: Path
) -> None:
    boot(
        "import os, pathlib",
        f"mark = pathlib.Path({str(tmp_path / 'mark')!r})",
        "mark.exists() or mark.touch() or os.kill(os.getpid(), 9)",
    )
    assert len(make_grid(workers=3).send_and_receive([ask(0), ask(1)])) == 2


def test_a_server_that_cannot_start_is_one_clear_error(make_grid: Make, boot: Boot) -> None:
    boot("raise SystemExit")
    with pytest.raises(WorkerError, match="no worker can be started: their fork server ended 2"):
        make_grid()


def test_a_fork_that_fails_harms_no_other_worker(
    make_grid: Make, ask: Ask, look: Look, boot: Boot
) -> None:
    boot(
        "import os",
        "def refuse(): raise BlockingIOError(11, 'no')",
        "forks = iter([os.fork])",
        "os.fork = lambda: next(forks, refuse)()",
    )
    grid = make_grid(workers=1)
    before = look(grid)
    with pytest.raises(WorkerError, match=r"no worker can be started:.*temporarily unavailable"):
        make_grid()
    assert look(grid)["pid"] == before["pid"]


def test_a_server_without_room_for_files_harms_no_other_worker(
    make_grid: Make, look: Look, boot: Boot
) -> None:
    boot()
    grid = make_grid(workers=1)
    before = look(grid)
    count = len(list(Path(f"/proc/{before['parent']}/fd").iterdir()))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.prlimit(before["parent"], resource.RLIMIT_NOFILE, (count + 3, most))
    with pytest.raises(WorkerError, match=r"no worker can be started:.*Too many open files"):
        make_grid()
    assert look(grid)["pid"] == before["pid"]
    assert len(list(Path(f"/proc/{before['parent']}/fd").iterdir())) == count


def test_a_stopped_server_holds_nobody_up(
    make_grid: Make, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "_PATIENCE", 0.1)
    grid = make_grid(workers=1)
    seen = look(grid)
    os.kill(seen["parent"], signal.SIGSTOP)
    grid.close()
    assert not alive(seen["pid"])
    os.kill(seen["parent"], signal.SIGKILL)


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


LEAVING = """
import os, signal, sys, time
from flwr.app import Message, RecordDict
from simulations.engine import LocalGrid

def parents():
    return [int(open(f"/proc/{pid}/stat").read().split()[3]) for pid in grid.worker_pids]

with LocalGrid("engine_clients:app", {0: {}}, workers=1) as grid:
    pids = grid.worker_pids
    pid = os.fork()
    if not pid:
        sys.exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert grid.send_and_receive([Message(RecordDict(), 0, "train.echo")])[0].has_content()
    assert grid.worker_pids == pids
    print(*parents(), flush=True)
if not os.fork():
    os.close(1)
    os.close(2)
    time.sleep(10)
    os._exit(0)
os.kill(os.getpid(), signal.SIGKILL)
"""


def run(script: str) -> subprocess.CompletedProcess[str]:
    here = Path(__file__)
    path = os.pathsep.join([str(here.parent), str(here.parents[3])])
    return subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": path},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_fork_of_the_parent_gets_its_own_server() -> None:
    done = run(FORKING)
    assert done.returncode == 0, done.stderr
    assert len(set(done.stdout.split())) == 2


def test_a_fork_of_the_parent_ends_no_worker_and_holds_up_no_server() -> None:
    done = run(LEAVING)
    assert done.returncode == -signal.SIGKILL, done.stderr
    end = time.monotonic() + 5
    while alive(int(done.stdout)) and time.monotonic() < end:
        time.sleep(0.02)
    assert not alive(int(done.stdout))
