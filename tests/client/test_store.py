"""The device's database: once is once, and a power cut leaves all or nothing."""

import signal
import sqlite3
import subprocess
import sys

import pytest

from client import store as module
from client.store import Store, StoreError

BODY = {"action": "train"}
ANSWER = {"kind": "failed", "reason": "no"}
A, B = "a" * 32, "b" * 32


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def open_store(tmp_path, clock):
    opened = []

    def make(boot: str = "first") -> Store:
        opened.append(Store(tmp_path / "new" / "device.sqlite", clock, boot))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store):
    return open_store()


def test_a_task_is_taken_once(store):
    assert store.take(A, "run", BODY, 10)
    assert not store.take(A, "other", {}, 99)
    (row,) = store.open()
    assert (row.id, row.run, row.body, row.state, row.expires) == (A, "run", BODY, "queued", 110)


def test_tasks_come_in_the_order_in_which_they_came(store):
    for name in (B, A):
        store.take(name, "run", BODY, 10)
    assert [row.id for row in store.open("queued")] == [B, A]


def test_an_answer_and_what_is_kept_are_noted_together(store, open_store):
    store.take(A, "run", BODY, 10)
    assert store.finish(A, ANSWER, "object-1")
    again = open_store()
    assert again.kept("run") == "object-1"
    assert again.task(A).answer == ANSWER
    assert not again.finish(A, {}, "object-2")
    assert again.kept("run") == "object-1"


def test_a_failed_transaction_leaves_neither(store, monkeypatch):
    store.take(A, "run", BODY, 10)
    with pytest.raises(sqlite3.Error):
        store.finish(A, ANSWER, ["no text"])
    assert store.task(A).state == "queued"
    assert store.kept("run") is None


def test_what_is_kept_is_by_run_and_of_few_runs(store):
    for number in range(4):
        name = f"{number:032x}"
        store.take(name, f"run-{number}", BODY, 10)
        store.finish(name, ANSWER, f"object-{number}", runs=2)
    assert store.all_kept() == {"object-2", "object-3"}
    store.take(A, "run-3", BODY, 10)
    store.finish(A, ANSWER, "")
    assert store.kept("run-3") is None


def test_a_closed_task_forgets_its_answer_and_not_its_id(store):
    store.take(A, "run", BODY, 10)
    assert store.end(A)
    assert not store.end(A)
    assert not store.finish(A, ANSWER, "late")
    assert not store.take(A, "run", BODY, 10)
    assert store.open() == []


def test_old_ids_go_in_the_end(store, monkeypatch):
    monkeypatch.setattr(module, "REMEMBERED", 3)
    for number in range(6):
        store.take(f"{number:032x}", "run", BODY, 10)
        store.end(f"{number:032x}")
    known = [n for n in range(6) if store.task(f"{n:032x}")]
    assert known == [3, 4, 5]


def test_starts_are_counted(store):
    store.take(A, "run", BODY, 10)
    assert [store.begin(A), store.begin(A), store.begin(A, -1)] == [1, 2, 1]


def test_the_time_left_outlives_the_process_and_starts_again_with_the_machine(
    store, open_store, clock
):
    store.take(A, "run", BODY, 10)
    clock.now = 104
    assert open_store("first").task(A).expires == 110
    clock.now = 2
    assert open_store("second").task(A).expires == 12


def test_settings(store, open_store):
    assert store.get("paused", False) is False
    store.set("paused", True)
    assert open_store().get("paused") is True


@pytest.mark.parametrize("content", [b"no database at all, and long enough" * 99, None])
def test_another_file_is_refused_by_name(tmp_path, content):
    path = tmp_path / "device.sqlite"
    if content is None:
        with sqlite3.connect(path) as other:
            other.execute("PRAGMA user_version = 9")
    else:
        path.write_bytes(content)
    with pytest.raises(StoreError, match=r"device\.sqlite"):
        Store(path)


KILLED = """
import os, sys
from pathlib import Path
from client.store import Store
store = Store(Path(sys.argv[1]))
for number in range(10_000):
    name = f"{number:032x}"
    store.take(name, "run", {}, 1e6)
    store.finish(name, {"n": number}, f"object-{number}")
    print(number, flush=True)
"""


def test_a_kill_at_any_moment_leaves_whole_transactions(tmp_path):
    path = tmp_path / "device.sqlite"
    command = [sys.executable, "-c", KILLED, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        said = [child.stdout.readline() for _ in range(40)]
        child.send_signal(signal.SIGKILL)
        said += child.stdout.read().splitlines()
    store = Store(path)
    done = store.open("done")
    assert len(done) >= len(said) >= 40
    assert store.kept("run") == f"object-{done[-1].answer['n']}"
    assert [row.answer["n"] for row in done] == list(range(len(done)))
    store.close()
