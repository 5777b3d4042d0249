"""Parents in odd surroundings, each a fresh interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PARENT = """
import os, pathlib, resource, signal, sys
from flwr.app import Message, RecordDict
from simulations.engine import LocalGrid

folder = pathlib.Path(sys.argv[1])
{odd}
with LocalGrid("engine_clients:app", {{0: {{}}}}, workers=1) as grid:
    (reply,) = grid.send_and_receive([Message(RecordDict(), 0, "train.speak")])
    assert reply.has_content()
    (pid,) = grid.worker_pids
assert not pathlib.Path(f"/proc/{{pid}}").exists(), "the fork server has not seen it end"
"""
ODD = {
    "no standard files": "for fd in range(3): os.close(fd)",
    "a file where errors went": "os.close(2); errors = (folder / 'file').open('wb')",
    "many files": """
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
""",
    "odd places for modules": """
sys.path.insert(0, folder)
os.mkdir(folder / "gone")
os.chdir(folder / "gone")
os.rmdir(folder / "gone")
""",
    "blocked signals": "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())",
}


@pytest.mark.parametrize("odd", ODD)
def test_a_grid_works(odd: str, tmp_path: Path) -> None:
    here = Path(__file__)
    path = os.pathsep.join([str(here.parent), str(here.parents[3])])
    done = subprocess.run(
        [sys.executable, "-c", PARENT.format(odd=ODD[odd]), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": path},
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    assert "said" not in "".join(file.read_text() for file in tmp_path.iterdir())
