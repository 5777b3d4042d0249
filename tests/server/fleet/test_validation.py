"""Updates are judged by device, on both databases; who fails again and again is quarantined."""

import json
import shutil
import struct
import time
import zlib

import numpy as np
import pytest
from sqlalchemy import select

from schemas.base import ConfigError
from schemas.delta import encode
from schemas.fleet import Validation
from schemas.memory_link import MemoryBroker, MemoryLink
from schemas.objects import ObjectStore
from schemas.payload import Payload
from schemas.payload_object import pack
from schemas.plan import Plan
from schemas.wire import Failed, Result, Want, node_of
from server.border import weights_record
from server.fleet import quarantine
from server.fleet.errors import Refusal
from server.fleet.grid import FleetGrid, open_grid
from server.fleet.registry import Audit, Device, Quarantine, Update, audit
from server.fleet.rollouts.service import OwnTasks
from server.fleet.rollouts.tasks import task_of
from server.strategies.base import config_of, request
from server.transport.courier import AGAIN, Courier
from server.transport.ledger import Ledger
from tests.server.transport.fake_device import FakeDevice, will_of

LENGTH = 300
PLAN = Plan(length=LENGTH, statistics="0" * 64, encoding="int8")


def answered(scale=0.1, metrics=None, **arrays):
    """An answer to a training; ``arrays`` take the place of the change's own."""
    seed = time.perf_counter_ns()
    change = (np.random.default_rng(seed).standard_normal(LENGTH) * scale).astype(np.float32)
    coded = encode(change, None, "int8")[0] if np.isfinite(scale) else {}
    values = {"num-examples": 5, "loss": 0.5, "seconds": 0.1} | (metrics or {})
    return Payload(arrays={"delta": coded | arrays}, metrics={"metrics": values})


class World:
    """A grid and its devices, on a broker in memory."""

    def __init__(self, registry, database, folder, clock):
        self.registry, self.clock, self.lines, self.told = registry, clock, [], []
        self.broker, self.folder, self.devices = MemoryBroker(clock=clock), folder, {}
        self.ledger = Ledger(database)
        self.round = 0
        self.grid = self.new_grid()

    def new_grid(self, **rules):
        link = MemoryLink(self.broker, "server")
        self.grid = FleetGrid(
            link,
            ObjectStore(self.folder / "objects", 1 << 28),
            self.ledger,
            self.registry,
            Validation(**rules),
            barred=lambda: self.told.append(sorted(self.grid._verdicts.held)),
            interval=0,
            log=self.lines.append,
        )
        self.broker.pump()
        return self.grid

    def device(self, name, answer):
        with self.registry.write("test") as tx:
            tx.db.add(Device(id=name, state="accepted", created=tx.now, changed=tx.now))
        self.ledger.add_device(name)
        link = MemoryLink(self.broker, name, will=will_of(name))
        self.devices[name] = FakeDevice(link, name, self.folder, lambda _task, _asked: answer())
        self.broker.pump()
        return self.devices[name]

    def question(self, name):
        self.round += 1
        start = weights_record(np.full(LENGTH, self.round, np.float32))
        return request(node_of(name), "train", start, config_of(PLAN), self.round)

    def push(self, name):
        (task,) = self.grid.push_messages([self.question(name)])
        self.broker.pump()
        return task

    def ask(self, name):
        """Have a device train; what went wrong, or None."""
        (reply,) = self.grid.pull_messages([self.push(name)])
        return reply.error.reason if reply.has_error() else None

    def rows(self, kind=Update):
        with self.registry.read() as db:
            return list(db.scalars(select(kind).order_by(kind.id)))

    def audited(self, action):
        with self.registry.read() as db:
            assert list(audit.faults(db)) == []
            rows = db.scalars(select(Audit).where(Audit.action == action).order_by(Audit.number))
            return [(row.subject, json.loads(row.detail)) for row in rows]

    def close(self):
        self.grid.close()
        self.ledger.close()


@pytest.fixture
def world(registry, database, tmp_path, clock):
    world = World(registry, database, tmp_path, clock)
    yield world
    world.close()


BAD = {
    "schema": lambda: answered(codes=np.zeros(LENGTH, np.float32)),
    "size": lambda: answered(codes=np.zeros(LENGTH + 1, np.int8)),
    "finite": lambda: answered(scales=np.full(2, np.nan, np.float32)),
    "norm": lambda: answered(1e9),
}


def test_each_update_has_a_verdict(world):
    world.device("good", answered)
    assert world.ask("good") is None
    (row,) = world.rows()
    assert (row.device, row.verdict, row.action) == ("good", "accepted", "train")
    assert 0 < row.norm < 10
    assert row.bytes > 0
    for reason, answer in BAD.items():
        world.device(reason, answer)
        assert "device" in world.ask(reason)
        row = world.rows()[-1]
        assert (row.device, row.verdict, row.reason) == (reason, "refused", reason)
        assert world.audited("update.refused")[-1] == (
            reason,
            {"reason": reason, "task": row.task, "detail": row.detail},
        )
    assert world.grid.drops() == {(name, name): 1 for name in BAD}
    assert world.audited("device.quarantine") == []


def test_missing_parts_and_no_payload_are_refused_by_name(world):
    world.device("a", lambda: Payload(metrics={"metrics": {"loss": 0.5}}))
    world.device("b", lambda: answered(metrics={"loss": float("nan")}))
    assert "'delta' is missing" in world.ask("a")
    assert "loss = nan" in world.ask("b")
    assert [row.reason for row in world.rows()] == ["schema", "finite"]


def test_metrics_beyond_their_limits_are_refused_by_the_fleets_own(world):
    world.new_grid(max_examples=7)
    for name, metrics in {
        "a": {"num-examples": 8},
        "b": {"num-examples": 1.7e308},
        "c": {"loss": 1.1e12},
        "d": {"seconds": 1.1e9},
    }.items():
        world.device(name, lambda metrics=metrics: answered(metrics=metrics))
        assert f"metric {next(iter(metrics))} = " in world.ask(name)
    assert [row.reason for row in world.rows()] == ["range"] * 4
    world.device("good", lambda: answered(metrics={"num-examples": 7}))
    assert world.ask("good") is None


def test_who_fails_three_times_is_quarantined_until_it_is_released(world):
    bad = world.device("bad", BAD["norm"])
    world.device("good", answered)
    for _ in range(2):
        assert "norm" in world.ask("bad")
        assert "bad" not in world.grid._verdicts.held
    assert "norm" in world.ask("bad")
    (row,) = world.rows(Quarantine)
    assert (row.device, row.failures, row.lifted) == ("bad", 3, None)
    assert row.until == world.clock() + 24 * 3600
    assert row.reason.startswith("3 refused updates in 24 h; the last: norm: ")
    assert world.grid.get_node_ids() == [node_of("good")]
    world.grid.tick()
    assert world.told == [["bad"]]

    done = len(bad.done)
    assert "quarantined: 3 refused updates" in world.ask("bad")
    assert len(world.rows()) == 3
    bad.say(Want(object=bad.tasks[bad.done[0]].payload, chunks=((0, 1),)), kind="obj/req")
    world.broker.pump()
    assert world.grid.drops()["bad", "quarantined"] >= 1
    assert world.ask("good") is None
    assert len(bad.done) <= done + 1  # it heard the task before its withdrawal, and nobody listened

    with world.registry.write("operator:ann") as write:
        assert quarantine.release(write, ["bad"], "sensor replaced") == ["bad"]
    world.grid.tick()
    assert world.told == [["bad"], []]
    assert world.audited("device.release")[0][1]["reason"] == "sensor replaced"
    bad.answer = lambda _task, _asked: answered()
    assert world.ask("bad") is None
    bad.answer = lambda _task, _asked: BAD["norm"]()
    assert "norm" in world.ask("bad")
    assert "bad" not in world.grid._verdicts.held  # what it failed before is forgiven


def test_a_quarantine_ends_by_itself_and_old_failures_are_forgotten(world):
    world.device("bad", BAD["size"])
    world.ask("bad")
    world.ask("bad")
    world.clock.now += 25 * 3600
    world.ask("bad")
    assert world.rows(Quarantine) == []  # the first two are out of the window
    world.ask("bad")
    world.ask("bad")
    assert "bad" in world.grid._verdicts.held
    world.clock.now += 24 * 3600 + 1
    world.grid.tick()
    assert "bad" not in world.grid._verdicts.held
    with world.registry.write("server") as write:
        assert quarantine.lift_those_over(write) == ["bad"]
        assert quarantine.lift_those_over(write) == []
    assert world.audited("device.release")[0][1]["reason"] == "its time is over"


def test_an_operators_quarantine_ends_what_is_waited_for(world):
    silent = world.device("silent", answered)
    silent.works = False
    task = world.push("silent")
    with world.registry.write("operator:ann") as write:
        assert quarantine.by_hand(write, ["silent"], "", 0) == ["silent"]
        assert quarantine.by_hand(write, ["silent"], "", 0) == []
    world.grid.tick()
    (reply,) = world.grid.pull_messages([task])
    assert "quarantined: by hand" in reply.error.reason
    world.device("good", answered)
    with world.registry.write("operator:ann") as write, pytest.raises(Refusal, match="good"):
        quarantine.release(write, ["silent", "good"], "")
    assert world.audited("device.release") == []


def test_yesterdays_update_is_refused(world):
    sent = answered()
    device = world.device("a", lambda: sent)
    other = world.device("b", lambda: sent)
    assert world.ask("a") is None
    old = device.done[0]
    world.clock.now += 86_400
    device.say(device.results[old], re=old)  # its task has its answer
    world.broker.pump()
    assert world.audited("message.refused") == [
        ("a", {"reason": "duplicate", "detail": f"'result' of task {old}: it was answered"})
    ]
    assert "the same bytes were a's answer" in world.ask("a")  # as the answer to today's
    assert "the same bytes were a's answer" in world.ask("b")  # and as another's
    assert [(row.device, row.reason) for row in world.rows()] == [
        ("a", None),
        ("a", "replayed"),
        ("b", "replayed"),
    ]
    assert other.done
    device.say(device.results[old], re=old)
    world.broker.pump()
    assert len(world.audited("message.refused")) == 1  # the log is no place for a flood


def test_an_answer_that_a_killed_server_took_is_not_noted_twice(world):
    device = world.device("a", answered)
    first = world.push("a")
    (reply,) = world.grid.pull_messages([first])
    assert not reply.has_error()
    world.grid.close()
    world.round -= 1
    world.new_grid()
    device.link.connect()
    assert world.ask("a") is None
    assert [row.task for row in world.rows()] == [first]


def test_a_flood_is_cut_off_and_recorded(world):
    world.grid.close()
    world.new_grid(per_minute=50)
    device = world.device("a", answered)
    device.works = False
    task = world.push("a")
    for number in range(200):
        device.send("ab" * 32, number, b"nobody asked")
        world.broker.pump()
    (row,) = world.rows(Quarantine)
    assert row.reason.startswith("flood: more than 50 messages in a minute")
    (reply,) = world.grid.pull_messages([task])
    assert "quarantined: flood" in reply.error.reason
    drops = world.grid.drops()
    assert drops["a", "unasked"] < 55
    assert drops["a", "quarantined"] > 140
    seen = len(world.rows())
    for _ in range(100):
        device.state(online=True)
    world.broker.pump()
    assert world.grid.drops()["a", "quarantined"] > drops["a", "quarantined"] + 40
    assert len(world.rows()) == seen == 1
    assert len(world.audited("device.quarantine")) == 1


def test_a_question_for_chunks_is_not_served_for_ever(world):
    device = world.device("a", answered)
    device.works = False
    task = world.push("a")
    want = Want(object=device.tasks[task].payload, chunks=((0, 1),))
    served = []
    take = device._chunk
    device._chunk = lambda sha, number, data: (served.append(number), take(sha, number, data))
    device._go_on = lambda: None
    times, more = AGAIN
    for _ in range(times + more + 20):
        device.say(want, re=task, kind="obj/req")
    world.broker.pump()
    assert len(served) == times + more
    assert world.grid.drops()["a", "greedy"] == 20


def test_messages_that_no_honest_device_sends_count(world):
    device = world.device("a", answered)
    for data in (b"{", b"\xff" * 10, b"[1]"):
        device.raw("evt", data)
    world.broker.pump()
    assert [row.reason for row in world.rows()] == ["malformed"] * 3
    (row,) = world.rows(Quarantine)
    assert row.failures == 3


NUL = b'{"__metadata__": {"payload": "{}"}, "a/w": {"dtype": "F\\u0000\\ud83d\\ude00\\u009b"}}'


def test_text_of_a_device_that_a_database_refuses_counts_like_any_other(world):
    """PostgreSQL takes no NUL, and a terminal that shows the text should get no control codes."""
    evil = world.device("evil", answered)
    world.device("good", answered)
    header = struct.pack("<Q", len(NUL)) + NUL
    sent = struct.pack("<4sI", b"FEP1", len(header)) + zlib.compress(header)

    def announce(task, _payload):
        evil.results[task] = Result(payload=evil.offer(sent))
        evil.say(evil.results[task], re=task)

    evil.result = announce
    assert "F\\x00" in world.ask("evil")
    assert world.ask("good") is None
    evil.works = False
    task = world.push("evil")
    evil.say(Failed(reason="a\x00\x1b[2J\u2028b"), re=task)
    world.broker.pump()
    (reply,) = world.grid.pull_messages([task])
    assert reply.error.reason == "device evil: a\\x00\\x1b[2J\\u2028b"
    for _ in range(2):
        evil.raw("evt", b'{"v": "\\u0000"}')
    world.broker.pump()
    bad = [row for row in world.rows() if row.verdict == "refused"]
    assert [row.device for row in bad] == ["evil"] * 3
    (row,) = world.rows(Quarantine)
    texts = [row.reason, *(one.detail for one in bad), *world.lines]
    assert all(text.isascii() and text.isprintable() for text in texts)


def test_strangers_are_audited_once_and_fill_no_table(world):
    for number in range(5):
        name = f"stranger-{number}"
        link = MemoryLink(world.broker, name)
        FakeDevice(link, name, world.folder)
    world.broker.pump()
    ((subject, detail),) = world.audited("message.refused")
    assert (subject, detail["reason"]) == ("?", "stranger")
    assert world.rows() == []


def test_the_operator_sees_it_and_releases(world, made, database, tmp_path, capsys, monkeypatch):
    from server.cli import main

    world.device("bad", BAD["finite"])
    world.device("good", answered)
    for _ in range(3):
        world.ask("bad")
    shutil.copytree(made, tmp_path / "fleet")
    file = tmp_path / "fleet" / "fleet.toml"
    where = json.dumps(str(database))
    file.write_text(file.read_text().replace('"registry.sqlite"', where))
    monkeypatch.setenv("FLWR_FLEET", str(tmp_path / "fleet"))
    # The registry's clock stands still in the past or future; commands have the real one.
    with world.registry.write("test") as write:
        write.db.get_one(Quarantine, 1).until = None

    def run(*words):
        with pytest.raises(SystemExit) as ended:
            main(["device", *words])
        captured = capsys.readouterr()
        return ended.value.code, captured.out + captured.err

    assert "finite: answer to task" in run("list", "--quarantined")[1]
    assert "good" not in run("list", "--quarantined")[1]
    card = json.loads(run("show", "bad", "--format", "json")[1])
    assert (card["quarantined"], card["updates_refused"]) == (True, 3)
    assert [one["reason"] for one in card["refused"]] == ["finite"] * 3
    assert "refused " in run("show", "bad")[1]
    assert run("release", "good", "--yes") == (1, "flwr-fleet: good is not quarantined\n")
    assert "would release: 1 device (bad)" in run("release", "bad", "--dry-run")[1]
    assert run("release", "bad", "--reason", "repaired", "--yes") == (0, "released 1\n")
    assert run("list", "--quarantined") == (0, "no devices\n")
    assert run("quarantine", "good", "--hours", "1", "--yes") == (0, "quarantined 1\n")
    assert "by hand" in run("list", "--quarantined")[1]
    actions = [row[1]["reason"] for row in world.audited("device.release")]
    assert actions == ["repaired"]


def test_a_federation_and_roll_outs_share_a_ledger_and_keep_apart(world):
    link = MemoryLink(world.broker, "server-2")
    objects = ObjectStore(world.folder / "more", 1 << 28)
    rollouts = Courier(
        link,
        objects,
        world.ledger,
        key=None,
        tell=world.lines.append,
        max_upload=1 << 20,
        clock=world.clock,
        guard=OwnTasks(),
    )
    rollouts.start()
    device = world.device("a", answered)
    world.broker.pump()
    assert world.ask("a") is None
    bundle = rollouts.put(pack(Payload(config={"bundle": {"x": 1}}))[0])
    now = world.clock()
    row = task_of("x", "a", node_of("a"), "bundle", [bundle], now, now + 60)
    world.ledger.add_tasks([row])
    rollouts.publish([world.ledger.task(row.id)])
    world.broker.pump()
    assert world.ledger.task(row.id).state == "answered"
    assert world.ask("a") is None
    assert device.received.count(device.results[row.id].payload.sha256) == 1
    assert world.grid.drops() == {}
    assert [update.action for update in world.rows()] == ["train", "train"]
    device.works = False
    task = world.push("a")
    world.clock.now += 4 * 86_400
    rollouts.tick()
    assert world.ledger.task(task).state != "expired"  # its own courier says so
    world.grid.tick()
    assert world.ledger.task(task).state == "expired"
    rollouts.close()


def test_two_federations_on_one_fleet_are_one_too_many(made, migrated, tmp_path):
    root = tmp_path / "fleet"
    shutil.copytree(made, root)
    shutil.copy(migrated, root / "registry.sqlite")
    broker = MemoryBroker(clock=time.time)
    with open_grid(root, MemoryLink(broker, "federation"), interval=0):
        second = open_grid(root, MemoryLink(broker, "federation"), interval=0)
        with pytest.raises(Refusal, match="another process trains on this fleet"), second:
            pass
    (root / "federation" / "key.pem").unlink()
    with pytest.raises(ConfigError, match="flwr-fleet serve makes it"), open_grid(root):
        pass
