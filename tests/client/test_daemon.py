"""The daemon's side of the protocol, over a link in memory, with work that is only pretended."""

import itertools
import sqlite3
import threading
import time

import pytest

from client import device as device_module
from client.daemon import ACTIONS, Daemon, state_message
from client.store import Store
from client.work import Stopped, WorkError
from schemas import signing, wire
from schemas.memory_link import MemoryBroker, MemoryLink
from schemas.objects import ObjectStore
from schemas.payload import Payload
from schemas.payload_object import pack, unpack
from tests.client.hub import Hub

DEVICE = "pi-1"
ASKED = Payload(config={"config": {"n": 1}})


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class FakeWork:
    """Says of each task what it was given; does it when it may."""

    def __init__(self, objects) -> None:
        self.objects, self.requests, self.idle = objects, [], 0.0
        self.go = threading.Event()
        self.go.set()
        self.fault: Exception | None = None

    def ask(self, request, seconds, give_up):
        self.requests.append(request)
        while not self.go.wait(0.01):
            if give_up():
                raise Stopped
        if self.fault:
            raise self.fault
        asked = unpack(self.objects.get(request["payload"]), self.objects.get)
        said = Payload(config={"said": {**asked.config["config"], "kept": request["kept"] or ""}})
        body, _ = pack(said)
        kept = None
        if request["action"] == "train":
            kept = self.objects.put(b"kept of " + request["payload"].encode()).sha256
        payload = self.objects.put(body).model_dump()
        return {"payload": payload, "objects": [], "kept": kept}

    def close(self) -> None: ...


class World:
    """A broker, a hub and a daemon that can be made anew on the same disk."""

    def __init__(self, folder) -> None:
        self.folder, self.clock = folder, Clock()
        self.broker = MemoryBroker()
        self.broker.start()
        self.hub = Hub(MemoryLink(self.broker, "server"), DEVICE)
        self.condition = (True, "")
        self.daemon = None

    def start(self, limit=1 << 24, **settings):
        self.store = Store(self.folder / "device.sqlite", self.clock, "boot")
        self.objects = ObjectStore(self.folder / "objects", limit)
        self.work = FakeWork(self.objects)
        link = MemoryLink(self.broker, DEVICE, will=state_message(DEVICE, online=False))
        settings = {"retry": 0.05, **settings}
        self.daemon = Daemon(
            DEVICE, link, self.store, self.objects, self.work, lambda: self.condition, **settings
        )
        self.daemon.start()
        self.hub.until(lambda: self.hub.states and self.hub.states[-1].online)
        return self.daemon

    def stop(self) -> None:
        self.daemon.stop()
        self.store.close()


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    if world.daemon is not None:
        world.stop()
    world.hub.link.close()
    world.broker.stop()


@pytest.fixture
def hub(world):
    world.start()
    return world.hub


def done(hub, task):
    return dict(hub.answered(task).config["said"])


def failed(hub, task):
    hub.until(lambda: "failed" in hub.kinds(task))
    return hub.failure(task)


def test_a_task_is_accepted_done_and_forgotten(world, hub):
    task = hub.task("query.graphs", ASKED)
    assert done(hub, task) == {"n": 1, "kept": ""}
    assert hub.kinds(task) == ["accepted", "result"]
    hub.until(lambda: not world.store.open())
    hub.until(lambda: not world.objects.names())


def test_the_known_actions_are_those_of_the_device(world):
    device = device_module.Device(None, None, 0)
    own = {"query.place", "query.begin", "bundle", "bundle.back"}
    assert set(device._actions) | own == ACTIONS


def test_what_is_kept_is_by_run(world, hub):
    first = hub.task("train", ASKED)
    assert done(hub, first)["kept"] == ""
    kept = world.store.kept("run")
    assert done(hub, hub.task("train", ASKED, run="other"))["kept"] == ""
    assert done(hub, hub.task("evaluate", ASKED))["kept"] == kept
    hub.until(lambda: set(world.objects.names()) == world.store.all_kept())


def test_a_task_whose_objects_do_not_come_holds_up_no_other(world, hub, monkeypatch, caplog):
    """Its server may be gone for hours; a ping, a round or a roll-out of others goes on."""
    monkeypatch.setattr(world.daemon.runner.downloads, "_wait", 0.1)
    lost = hub.task("train", Payload(config={"config": {"n": 7}}))
    absent = hub.objects.pop(hub.put(pack(Payload(config={"config": {"n": 7}}))[0]).sha256)
    assert absent
    hub.serve = lambda _: True
    first = hub.task("train", ASKED)
    second = hub.task("query.graphs", ASKED)
    assert done(hub, first)["n"] == done(hub, second)["n"] == 1
    assert "what it names does not come; others first" in caplog.text
    assert hub.kinds(lost) == ["accepted"]
    hub.put(absent)
    assert done(hub, lost)["n"] == 7


def test_a_task_that_comes_again_is_not_done_again(world, hub):
    said = []
    task = hub.task("train", ASKED, change=lambda envelope: said.append(envelope) or envelope)
    done(hub, task)
    hub.until(lambda: not world.store.open())
    hub.tell(said[0])
    other = hub.task("query.graphs", ASKED)
    done(hub, other)
    assert hub.kinds(task) == ["accepted", "result"]
    assert len(world.work.requests) == 2


def test_the_same_answer_is_said_until_it_is_confirmed(world, hub):
    hub.confirm = False
    task = hub.task("train", ASKED)
    done(hub, task)
    for _ in range(2):
        count = len(hub.events[task])
        world.broker.cut(DEVICE)
        hub.until(lambda count=count: len(hub.events[task]) > count)
    results = [e for e in hub.events[task] if e.body.kind == "result"]
    assert len({e.body.payload.sha256 for e in results}) == 1
    assert len({e.id for e in results}) == len(results)
    hub.received(task)
    hub.until(lambda: not world.store.open())
    assert len(world.work.requests) == 1


def test_a_clock_off_by_a_day_harms_nothing(world, hub, monkeypatch):
    day = 86_400.0
    now = time.time
    for off in (-day, day):
        early = hub.task("train", ASKED, change=lambda e: e.model_copy(update={"at": e.at + off}))  # noqa: B023
        done(hub, early)
        monkeypatch.setattr(time, "time", lambda: now() + off)  # noqa: B023
        done(hub, hub.task("train", ASKED))
        monkeypatch.undo()


def test_a_task_expires_by_the_machines_own_clock(world, hub, caplog):
    world.condition = (False, "on battery")
    task = hub.task("train", ASKED, ttl=60.0)
    hub.until(lambda: world.daemon.status()["waiting"] == "on battery")
    world.clock.now += 59
    time.sleep(1.2)
    assert world.store.task(task).state == "queued"
    world.clock.now += 2
    hub.until(lambda: world.store.task(task).state == "closed")
    hub.until(lambda: "expired" in caplog.text)
    assert hub.kinds(task) == ["accepted"]


def test_what_the_broker_left_of_the_time_counts(world, hub):
    world.condition = (False, "wait")
    body, _ = pack(ASKED)
    task = wire.Task(run="r", action="train", payload=hub.put(body))
    envelope = wire.envelope(task, ttl=1000.0)
    hub.tell(envelope, expiry=10)
    row = hub.until(lambda: world.store.task(envelope.id))
    assert row.expires <= world.clock.now + 10


def test_work_under_way_is_cancelled(world, hub):
    world.work.go.clear()
    task = hub.task("train", ASKED)
    hub.until(lambda: world.work.requests)
    hub.tell(wire.envelope(wire.Cancel(task=task), ttl=60.0))
    hub.until(lambda: world.store.task(task).state == "closed")
    world.work.go.set()
    done(hub, hub.task("query.graphs", ASKED))
    assert hub.kinds(task) == ["accepted"]
    assert world.store.all_kept() == set()


def test_a_download_is_cancelled(world, hub):
    hub.serve = lambda _: False
    task = hub.task("train", ASKED)
    hub.until(lambda: hub.asked)
    hub.tell(wire.envelope(wire.Cancel(task=task), ttl=60.0))
    hub.until(lambda: world.store.task(task).state == "closed")
    hub.serve = lambda _: True
    done(hub, hub.task("query.graphs", Payload(config={"config": {"n": 2}})))


def test_work_waits_and_questions_do_not(world, hub):
    world.daemon.pause(paused=True)
    task = hub.task("train", ASKED)
    done(hub, hub.task("query.graphs", ASKED))
    assert world.daemon.status()["waiting"] == "paused"
    assert hub.states[-1].paused
    assert hub.kinds(task) == ["accepted"]
    world.stop()
    world.start()
    assert world.daemon.status()["paused"]
    world.daemon.pause(paused=False)
    done(hub, task)


def test_why_work_waits_stands_while_the_daemon_looks_again(world, hub, monkeypatch):
    world.condition = (False, "on battery")
    hub.task("train", ASKED)
    hub.until(lambda: world.daemon.status()["waiting"] == "on battery")
    said = []

    def look():
        said.append(world.daemon.status()["waiting"])
        return world.condition

    monkeypatch.setattr(world.daemon.runner, "_may_work", look)
    hub.until(lambda: len(said) > 2)
    assert set(said) == {"on battery"}


@pytest.mark.parametrize("action", ["query.secrets", "train.more"])
def test_an_unknown_action_fails_before_anything_is_pulled(hub, action):
    assert f"no action '{action}'; there are bundle, bundle.back, evaluate" in failed(
        hub, hub.task(action, ASKED)
    )
    assert not hub.asked


def test_bytes_that_do_not_match_their_name_fail(world, hub, caplog):
    hub.corrupt = lambda data: data[:-1] + bytes([data[-1] ^ 1])
    task = hub.task("train", ASKED)
    assert "3 times" in failed(hub, task)
    hub.corrupt = lambda data: data
    done(hub, hub.task("train", ASKED))
    assert "asking afresh" in caplog.text


def test_only_signed_tasks_where_a_key_is_configured(world):
    key = signing.new_key()
    world.start(fleet_key=signing.public_hex(key))
    hub = world.hub
    assert "no signature" in failed(hub, hub.task("train", ASKED))
    other = signing.new_key()
    forged = hub.task("train", ASKED, change=lambda e: signing.sign_task(other, DEVICE, e))
    assert "not of the fleet's key" in failed(hub, forged)
    lent = hub.task("train", ASKED, change=lambda e: signing.sign_task(key, "pi-2", e))
    assert "pi-2" in failed(hub, lent)
    assert world.store.open() == []
    assert not hub.asked
    done(hub, hub.task("train", ASKED, change=lambda e: signing.sign_task(key, DEVICE, e)))


def test_a_full_disk_fails_the_task_and_leaves_nothing_half_written(world, caplog):
    world.start(limit=2000)
    hub = world.hub
    import numpy as np

    noise = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    task = hub.task("train", Payload(arrays={"arrays": {"weights": noise}}))
    assert failed(hub, task).startswith("disk: ")
    assert "failed: disk" in caplog.text
    done(hub, hub.task("query.graphs", ASKED))
    hub.until(lambda: not any((world.folder / "objects").iterdir()))


def test_an_answer_waits_for_a_disk_that_takes_it(world, hub, monkeypatch, caplog):
    finish, faults = world.store.finish, [sqlite3.OperationalError("database or disk is full")] * 2

    def full(*arguments):
        if faults:
            raise faults.pop()
        return finish(*arguments)

    monkeypatch.setattr(world.store, "finish", full)
    done(hub, hub.task("train", ASKED))
    assert len(world.work.requests) == 1
    assert "cannot be noted: database or disk is full" in caplog.text


def test_a_task_that_cannot_be_noted_fails(world, hub, monkeypatch):
    def full(*_):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(world.store, "take", full)
    assert "disk is full" in failed(hub, hub.task("train", ASKED))


def test_work_that_breaks_fails_the_task_alone(world, hub):
    world.work.fault = WorkError("the process that learns was ended by signal 11")
    assert "signal 11" in failed(hub, hub.task("train", ASKED))
    world.work.fault = KeyError("x")
    assert "KeyError" in failed(hub, hub.task("train", ASKED))
    world.work.fault = None
    done(hub, hub.task("train", ASKED))


def test_an_answer_that_does_not_fit_fails_the_task_alone(world, hub, monkeypatch):
    ask = world.work.ask

    def without_kept(*arguments):
        said = ask(*arguments)
        del said["kept"]
        return said

    monkeypatch.setattr(world.work, "ask", without_kept)
    reason = failed(hub, hub.task("train", ASKED))
    assert reason == "MessageError: answer Done: kept: missing; it has no default"
    monkeypatch.undo()
    done(hub, hub.task("train", ASKED))


def test_a_task_that_never_ends_is_left_alone(world, hub):
    """As after power cuts, each in the middle of it."""
    world.condition = (False, "wait")
    task = hub.task("train", ASKED)
    hub.until(lambda: world.store.task(task))
    for _ in range(5):
        world.store.begin(task)
    world.condition = (True, "")
    assert "begun 5 times" in failed(hub, task)


def test_too_many_tasks_are_refused(world):
    world.start(most_tasks=2)
    world.condition = (False, "wait")
    tasks = [world.hub.task("train", ASKED) for _ in range(3)]
    assert "2 tasks wait already" in failed(world.hub, tasks[2])
    world.condition = (True, "")
    for task in tasks[:2]:
        done(world.hub, task)


def test_only_answers_are_served(world, hub):
    done(hub, hub.task("train", ASKED))
    (kept,) = world.store.all_kept()
    hub.until(lambda: not world.store.open())
    want = wire.Want(object=world.objects.ref(kept), chunks=((0, 1),))
    hub.tell(wire.envelope(want, ttl=60.0))
    done(hub, hub.task("query.graphs", ASKED))
    assert not hub.came[kept]


@pytest.mark.parametrize(
    "message", [b"", b"{}", b"\xff" * 99, b'{"v": 2}', b"[" * 60_000, b" " * 70_000]
)
def test_what_is_no_envelope_is_dropped_and_counted(world, hub, message, caplog):
    hub.raw(message)
    hub.until(lambda: world.daemon.status()["dropped"] == 1)
    assert "dropped a message" in caplog.text
    done(hub, hub.task("query.graphs", ASKED))


def test_frames_that_nobody_asked_for_are_dropped(world, hub):
    topic = wire.topic(DEVICE, "obj/data")
    hub.link.publish(topic, b"short", qos=0)
    hub.link.publish(topic, wire.frame("0" * 64, 0, b"x"), qos=0)
    hub.until(lambda: world.daemon.status()["dropped"] == 2)
    done(hub, hub.task("query.graphs", ASKED))


def test_a_link_that_loses_doubles_and_turns_round_loses_no_task(world):
    world.broker.duplicate = world.broker.reorder = 0.3
    world.start()
    hub = world.hub
    tasks = [hub.task("train", Payload(config={"config": {"n": n}})) for n in range(8)]
    for number, task in enumerate(tasks):
        assert done(hub, task)["n"] == number
    assert len(world.work.requests) == len(tasks)


def full(*_):
    raise sqlite3.OperationalError("database or disk is full")


@pytest.mark.parametrize("error", [sqlite3.OperationalError("disk I/O error"), KeyError("ours")])
def test_a_store_that_fails_for_long_ends_no_runner(world, hub, monkeypatch, caplog, error):
    """Wherever between tasks it fails, a rest included; it is logged once."""
    looked, really = [], world.store.open

    def fails(*_):
        if threading.current_thread().name != "runner":
            return really(*_)
        looked.append(1)
        raise error

    monkeypatch.setattr(world.store, "open", fails)
    world.daemon.runner.wake()
    hub.until(lambda: len(looked) > 5)
    assert len([one for one in caplog.records if one.levelname == "ERROR"]) == 1
    monkeypatch.undo()
    done(hub, hub.task("train", ASKED))
    assert world.daemon.runner.fault is None


def test_trouble_is_waited_for_longer_each_time_and_never_too_long_for_a_watchdog(world):
    world.start(retry=10.0)
    runner = world.daemon.runner
    assert [runner._back_off() for _ in range(6)] == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_a_store_that_is_spoilt_while_it_runs_ends_the_runner_and_that_is_told(
    world, monkeypatch, caplog
):
    ended = threading.Event()
    world.start(ended=ended.set)

    def spoilt(*_):
        error = sqlite3.DatabaseError("database disk image is malformed")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error

    monkeypatch.setattr(world.store, "open", spoilt)
    world.daemon.runner.wake()
    assert ended.wait(15)
    assert "malformed" in str(world.daemon.runner.fault)
    assert "no more tasks can be done" in caplog.text
    monkeypatch.undo()


def test_the_end_of_the_runner_is_told_where_it_was_stopped_too(world):
    ended = threading.Event()
    world.start(ended=ended.set)
    world.daemon.runner.stop()
    assert ended.wait(15)
    assert world.daemon.runner.fault is None


def test_an_idle_daemon_feeds_a_watchdog_twice_in_its_time(world, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    fed = []
    world.start(alive=lambda: fed.append(time.monotonic()))
    world.hub.until(lambda: len(fed) > 2, 9)
    assert all(later - one < 3.0 for one, later in itertools.pairwise(fed))


@pytest.mark.parametrize("end", ["cancelled", "expired"])
def test_an_answer_that_nobody_wants_is_waited_for_no_longer(world, monkeypatch, end):
    """And the watchdog is fed while the disk is full."""
    fed = []
    world.start(retry=60.0, alive=lambda: fed.append(1))
    hub, runner = world.hub, world.daemon.runner
    monkeypatch.setattr(world.store, "finish", full)
    task = hub.task("train", ASKED, ttl=100.0)
    hub.until(lambda: world.work.requests and runner.current == task)
    count = len(fed)
    hub.until(lambda: len(fed) > count + 1)
    assert runner.current == task
    if end == "expired":
        world.clock.now += 101
    else:
        hub.tell(wire.envelope(wire.Cancel(task=task), ttl=60.0))
    hub.until(lambda: runner.current is None)
    monkeypatch.undo()
    hub.until(lambda: world.store.task(task).state == "closed")
    assert len(world.work.requests) == 1


def test_a_task_cancelled_on_a_full_disk_is_not_done_again(world, hub, monkeypatch):
    for write in ("finish", "end"):
        monkeypatch.setattr(world.store, write, full)
    task = hub.task("train", ASKED)
    hub.until(lambda: world.work.requests and world.daemon.runner.current == task)
    hub.tell(wire.envelope(wire.Cancel(task=task), ttl=60.0))
    hub.until(lambda: world.daemon.runner.current is None)
    monkeypatch.undo()
    hub.until(lambda: world.store.task(task).state == "closed")
    done(hub, hub.task("query.graphs", ASKED))
    assert len(world.work.requests) == 2


def test_a_full_disk_keeps_nobody_from_pausing(world, hub, monkeypatch):
    monkeypatch.setattr(world.store, "set", full)
    with pytest.raises(sqlite3.Error, match="full"):
        world.daemon.pause(paused=True)
    assert world.daemon.status()["paused"]
    hub.until(lambda: hub.states[-1].paused)
    task = hub.task("train", ASKED)
    hub.until(lambda: world.daemon.status()["waiting"] == "paused")
    with pytest.raises(sqlite3.Error, match="full"):
        world.daemon.pause(paused=False)
    done(hub, task)


def test_a_task_of_another_versions_form_fails_and_others_go_on(world, hub):
    body, _ = pack(ASKED)
    ref = hub.put(body).model_dump()
    world.store.take("f" * 32, "run", {"payload": ref, "objects": [], "action": 7}, 60.0)
    world.daemon.runner.wake()
    assert "ValidationError" in failed(hub, "f" * 32)
    done(hub, hub.task("train", ASKED))
