import os
import subprocess
import sys
from pathlib import Path

import pytest

from simulations.report import RunError
from simulations.report.lock import LOCK, held, who_has

HOLD = """
import sys, time
from pathlib import Path
from simulations.report.lock import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_belongs_to_one_at_a_time_and_nothing_stays_in_it(tmp_path: Path) -> None:
    us = rf"another process \(pid {os.getpid()}\)"
    with held(tmp_path):
        with pytest.raises(RunError, match=rf"^{tmp_path}: {us} is at this run$"), held(tmp_path):
            pass
        assert who_has(tmp_path) == f"another process (pid {os.getpid()})"
    assert who_has(tmp_path) is None
    assert not list(tmp_path.iterdir())
    with held(tmp_path):
        pass


def test_who_is_killed_holds_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        assert who_has(tmp_path) == f"another process (pid {other.pid})"
        other.kill()
    assert (tmp_path / LOCK).exists()
    assert who_has(tmp_path) is None
    with held(tmp_path):
        pass


def test_a_process_that_outlives_its_holder_does_not_hold_on(tmp_path: Path) -> None:
    with held(tmp_path):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with held(tmp_path):
            assert child.poll() is None
    finally:
        child.communicate(b"\n")


def test_a_lock_that_its_holder_removed_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened before it was let go, taken after: whoever comes next has a file of their own."""
    import fcntl

    take = fcntl.flock

    def late(file: object, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", take)
        (tmp_path / LOCK).unlink()
        take(file, how)  # type: ignore[arg-type]

    monkeypatch.setattr(fcntl, "flock", late)
    with held(tmp_path):
        assert who_has(tmp_path) is not None


def test_a_file_system_without_locks_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", none)
    with held(tmp_path):
        assert who_has(tmp_path) is None
