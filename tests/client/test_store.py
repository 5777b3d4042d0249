"""The device's database: once is once, and a power cut leaves all or nothing."""

import signal
import sqlite3
import subprocess
import sys
from contextlib import contextmanager, suppress

import pytest

from client import store as module
from client import store_file
from client.store import SpoiltError, Store, StoreError

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


def test_a_closed_task_is_answered_again_and_an_open_one_is_not(store, open_store):
    store.take("a", "r", {"n": 1}, 9)
    assert not store.answer_again("a", {"second": 1}, 60.0, "why", 1)
    assert (store.task("a").state, store.get("why")) == ("queued", None)
    store.finish("a", {"first": 1})
    store.end("a")
    assert store.answer_again("a", {"second": 2}, 60.0, "why", 2)
    assert not store.answer_again("a", {"third": 3}, 60.0, "why", 3)
    assert store.answer_again("forgotten", {"fourth": 4}, 60.0, "else", 4)
    again = open_store()
    assert [(row.id, row.state, row.answer) for row in again.open()] == [
        ("a", "done", {"second": 2}),
        ("forgotten", "done", {"fourth": 4}),
    ]
    assert (again.get("why"), again.get("else")) == (2, 4)


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


PAGE = 4096


@contextmanager
def small_disk(folder, size="400k"):
    """A disk of its own; skips where nobody may mount one."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder):
    """Leave not a byte."""
    with (folder / "fill").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1024))


def stored(path, clock, count=200):
    """A store of several pages, closed."""
    store = Store(path, clock, "first")
    for number in range(count):
        store.take(f"{number:032x}", "run", {**BODY, "more": "x" * 200}, 1e6)
    store.set("paused", True)
    store.close()
    assert path.stat().st_size > 8 * PAGE


def truncated(data):
    return data[: len(data) // 2]


def zeroed(data):
    """All but the first page."""
    return data[:PAGE] + bytes(len(data) - PAGE)


def one_page(data):
    return data[: 3 * PAGE] + bytes(PAGE) + data[4 * PAGE :]


def headless(data):
    return bytes(PAGE) + data[PAGE:]


def text_of_zeros(data):
    """A sector of zeros within a task's text: to SQLite all is well."""
    at = data.index(b"x" * 200)
    return data[: at + 10] + bytes(100) + data[at + 110 :]


@pytest.mark.parametrize("spoil", [truncated, zeroed, one_page, headless, text_of_zeros])
def test_a_spoilt_store_is_put_aside_and_a_fresh_one_begun(tmp_path, clock, caplog, spoil):
    path = tmp_path / "device.sqlite"
    stored(path, clock)
    data = spoil(path.read_bytes())
    path.write_bytes(data)
    with pytest.raises(SpoiltError, match=r"device\.sqlite: no store that can be used"):
        Store(path, clock, "second")
    store = Store.mended(path, clock, "second")
    assert (tmp_path / "device.sqlite.spoilt").read_bytes() == data
    assert store.open() == []
    assert store.take(A, "run", BODY, 10)
    assert "it is kept as device.sqlite.spoilt" in caplog.text
    assert "Traceback" not in caplog.text
    assert "device.sqlite.spoilt is the old one" in store.begun_afresh
    store.close()
    again = Store.mended(path, clock, "second")
    assert again.task(A) is not None
    (tmp_path / "device.sqlite.spoilt").unlink()
    assert again.begun_afresh is None
    again.close()


def test_only_the_newest_spoilt_store_is_kept_with_its_log(tmp_path, clock):
    path = tmp_path / "device.sqlite"
    for name in ("", "-wal", "-shm"):
        (tmp_path / f"device.sqlite.spoilt{name}").write_bytes(b"older")
    path.write_bytes(b"newer" * PAGE)
    (tmp_path / "device.sqlite-wal").write_bytes(b"its log")
    aside = store_file.put_aside(path)
    assert aside.read_bytes() == b"newer" * PAGE
    assert (tmp_path / "device.sqlite.spoilt-wal").read_bytes() == b"its log"
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "device.sqlite.spoilt", "device.sqlite.spoilt-wal"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (sqlite3.SQLITE_IOERR_READ, "disk I/O error"),
        (sqlite3.SQLITE_IOERR, "disk I/O error"),
        (sqlite3.SQLITE_BUSY, "database is locked"),
        (sqlite3.SQLITE_FULL, "database or disk is full"),
        (sqlite3.SQLITE_CANTOPEN, "unable to open database file"),
    ],
)
def test_a_disk_that_fails_now_costs_no_store(tmp_path, clock, monkeypatch, code, text):
    path = tmp_path / "device.sqlite"
    stored(path, clock)

    def fails(_):
        error = sqlite3.OperationalError(text)
        error.sqlite_errorcode = code
        raise error

    monkeypatch.setattr(module, "check_whole", fails)
    with pytest.raises(StoreError, match=r"device\.sqlite") as raised:
        Store.mended(path, clock, "first")
    assert not isinstance(raised.value, SpoiltError)
    monkeypatch.undo()
    store = Store.mended(path, clock, "first")
    assert len(store.open()) == 200
    assert store.begun_afresh is None
    store.close()


def test_a_locked_store_is_not_spoilt(tmp_path, clock, monkeypatch):
    path = tmp_path / "device.sqlite"
    stored(path, clock)
    connected = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda path, **more: connected(path, **more, timeout=0.01)
    )
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreError, match="database is locked"):
            Store.mended(path, clock, "first")
    other.close()
    assert not store_file.spoilt_name(path).exists()


def test_a_store_of_a_newer_daemon_is_never_put_aside(tmp_path):
    path = tmp_path / "device.sqlite"
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version = 9")
    other.close()
    with pytest.raises(StoreError, match="a store of version 9"):
        Store.mended(path)


def test_it_opens_on_a_full_disk_and_after_a_reboot_counts_the_time_afresh(tmp_path, clock):
    with small_disk(tmp_path / "disk") as folder:
        path = folder / "device.sqlite"
        store = Store(path, clock, "first")
        store.take(A, "run", BODY, 10)
        store.close()
        fill(folder)
        clock.now = 2.0
        for _ in range(2):
            store = Store.mended(path, clock, "second")
            assert store.task(A).expires == 12
            with pytest.raises(sqlite3.Error) as raised:
                store.set("paused", True)
            assert store_file.why(raised.value, folder) == "the disk is full"
            store.close()
        (folder / "fill").unlink()
        clock.now = 5.0
        store = Store.mended(path, clock, "second")
        assert store.task(A).expires == 15
        store.close()


def test_a_full_disk_without_a_store_is_said(tmp_path, clock):
    with small_disk(tmp_path / "disk") as folder:
        fill(folder)
        with pytest.raises(StoreError, match=r"can be used: the disk is full$") as raised:
            Store.mended(folder / "device.sqlite", clock)
        assert not isinstance(raised.value, SpoiltError)
