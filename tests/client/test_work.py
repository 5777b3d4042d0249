"""The daemon's end of the process that learns: it may crash, hang, be given up."""

import contextlib
import os
import sys
import time

import pytest

from client.work import Stopped, WorkError, WorkProcess

ECHO = """
import json, os, sys, time
for line in sys.stdin:
    asked = json.loads(line)
    if asked.get("crash"):
        os.kill(os.getpid(), asked["crash"])
    if asked.get("exit"):
        sys.exit(asked["exit"])
    time.sleep(asked.get("sleep", 0))
    print(json.dumps({"pid": os.getpid(), "settings": json.loads(sys.argv[1])}), flush=True)
"""


def never() -> bool:
    return False


@pytest.fixture
def work():
    work = WorkProcess({"a": 1}, (sys.executable, "-c", ECHO))
    yield work
    work.close()


def test_one_process_does_many_tasks(work):
    assert work.pid is None
    assert work.idle == 0
    first, second = (work.ask({}, 10, never) for _ in range(2))
    assert first == second == {"pid": work.pid, "settings": {"a": 1}}
    assert work.idle > 0


def test_idle_it_ends_and_comes_back(work):
    first = work.ask({}, 10, never)["pid"]
    work.close()
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)
    assert work.ask({}, 10, never)["pid"] != first


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"crash": 11}, "was ended by signal 11$"),
        ({"crash": 9}, "was ended by signal 9, as the kernel does where memory ran out$"),
        ({"exit": 3}, "ended with code 3; the daemon's log says why$"),
    ],
)
def test_a_crash_is_told_and_the_next_task_has_a_new_process(work, asked, said):
    with pytest.raises(WorkError, match=said):
        work.ask(asked, 10, never)
    work.ask({}, 10, never)


def test_one_that_died_meanwhile_is_replaced(work):
    first = work.ask({}, 10, never)["pid"]
    os.kill(first, 9)
    with contextlib.suppress(ChildProcessError):  # dead, and still to be waited for by the parent
        os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
    assert work.ask({}, 10, never)["pid"] != first


def test_too_long(work):
    with pytest.raises(WorkError, match=r"longer than 0\.3 s"):
        work.ask({"sleep": 60}, 0.3, never)
    assert work.pid is None


def test_given_up(work):
    end = time.monotonic() + 0.3
    with pytest.raises(Stopped):
        work.ask({"sleep": 60}, 60, lambda: time.monotonic() > end)
    assert work.pid is None
