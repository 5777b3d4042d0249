"""What a broker or a device can do wrong: dropped, counted by device and reason, told once."""

import errno
import random

import numpy as np
import pytest
from sqlalchemy.exc import OperationalError

from schemas.memory_link import MemoryLink
from schemas.objects import ObjectStore
from schemas.payload import Payload
from schemas.payload_object import pack
from schemas.wire import (
    CHUNK,
    MAX_ENVELOPE,
    Accepted,
    Failed,
    ObjectRef,
    Result,
    State,
    Want,
    encode,
    envelope,
    frame,
    node_of,
    topic,
)
from server.transport.inbox import Open
from server.transport.tables import TaskRow
from tests.server.transport.conftest import Fleet
from tests.server.transport.fake_device import FakeDevice, weights

Idle = tuple[FakeDevice, str]


@pytest.fixture
def idle(fleet: Fleet) -> Idle:
    """A device that has a task and does nothing by itself, and the task."""
    device = fleet.device("a")
    device.works = False
    return device, fleet.push("a")


def answer(seed: int = 0) -> Payload:
    return Payload(arrays={"delta": {"weights": weights(seed, 2 * CHUNK // 4)}})


def dropped(fleet: Fleet, **counts: int) -> bool:
    """Whether device a's drops are these, each kind told once."""
    fleet.broker.pump()
    told = [line for line in fleet.lines if "dropped" in line]
    assert len(told) == len(fleet.grid.drops()), told
    found = {reason.replace("-", "_"): n for (_, reason), n in fleet.grid.drops().items()}
    assert found == counts, told
    return True


def test_late_replies_are_dropped_and_the_device_may_forget(fleet: Fleet, idle: Idle) -> None:
    device, _ = idle
    assert fleet.grid.send_and_receive([fleet.ask("a", seed=1)], timeout=0.01) == []
    fleet.broker.pump()
    late = device.said[-1]
    for _ in range(3):
        device.result(late, answer())
    assert dropped(fleet, late=3)
    assert device.cancelled.count(late) == 4
    assert device.wanted == []
    assert len(fleet.lines) == 2  # one for the connection, one for the drop


def test_expired_replies_are_dropped(fleet: Fleet) -> None:
    device = fleet.device("a")
    device.works = False
    task = fleet.push("a", ttl=60)
    fleet.clock.now += 61  # and no tick since
    device.result(task, answer())
    assert dropped(fleet, expired=1)
    fleet.later(1)
    device.result(task, answer())
    assert dropped(fleet, expired=2)
    assert fleet.pull(task)[0].has_error()


def test_a_devices_clock_does_not_matter(fleet: Fleet, idle: Idle) -> None:
    device, task = idle
    data, _ = pack(answer())
    said = envelope(Result(payload=device.offer(data)), ttl=60, re=task, at=fleet.clock() - 86_400)
    device.raw("evt", encode(said))
    assert len(fleet.pull(task)) == 1


def test_duplicates_are_dropped_and_received_is_said_again(fleet: Fleet, idle: Idle) -> None:
    device, task = idle
    sha = device.result(task, answer()).payload.sha256
    fleet.broker.pump()
    device.result(task, answer(1))  # a second, other answer
    assert len(fleet.pull(task)) == 1
    device.result(task, answer())
    device.say(Failed(reason="no"), re=task)
    assert dropped(fleet, duplicate=3)
    assert device.received.count(sha) == 2
    assert fleet.pull(task) == []


def test_the_same_message_twice_is_taken_once(fleet: Fleet, idle: Idle) -> None:
    device, task = idle
    data, _ = pack(answer())
    said = encode(envelope(Result(payload=device.offer(data)), ttl=60, re=task))
    for _ in range(5):
        device.raw("evt", said)
    (reply,) = fleet.pull(task)
    assert not reply.has_error()
    assert dropped(fleet, duplicate=4)
    fleet.grid.close()
    fleet.new_grid()
    device.raw("evt", said)  # replayed to the next life of the server, that knows no ids
    fleet.broker.pump()
    assert fleet.grid.drops()["a", "duplicate"] == 5


def test_a_device_cannot_answer_anothers_task(fleet: Fleet, idle: Idle) -> None:
    device, task = idle
    other = fleet.device("b")
    other.result(task, answer())
    other.say(Accepted(), re=task)
    other.say(Failed(reason="sabotage"), re=task)
    assert dropped(fleet, foreign=3)
    assert other.wanted == []
    device.result(task, answer(5))
    (reply,) = fleet.pull(task)
    assert np.array_equal(
        reply.content.array_records["delta"]["weights"].numpy(),
        answer(5).arrays["delta"]["weights"],
    )


def test_a_device_cannot_pull_anothers_weights(fleet: Fleet, idle: Idle) -> None:
    device, task = idle
    other = fleet.device("b")
    heard: list[str] = []
    other.link.on_message = lambda message: heard.append(message.topic)
    secret = device.tasks[task].payload
    other.say(Want(object=secret, chunks=((0, 1),)), re=task, kind="obj/req")
    assert dropped(fleet, foreign=1)
    assert heard == []


def test_a_want_that_crosses_the_end_of_its_task_is_late(fleet: Fleet, idle: Idle) -> None:
    """A chunk was asked for while its task was given up: no object is anothers for that."""
    device, task = idle
    mine = device.tasks[task].payload
    fleet.grid.withdraw([task])
    device.say(Want(object=mine, chunks=((0, 1),)), re=task, kind="obj/req")
    assert dropped(fleet, late=1)


def test_who_asks_for_an_object_of_a_task_given_up_is_told_so(fleet: Fleet, idle: Idle) -> None:
    """It did not hear it, or its server ended without a word: else it asks for ever."""
    device, task = idle
    fleet.ledger.move([task], "failed", error="the server that asked has ended")
    device.say(Want(object=device.tasks[task].payload, chunks=((0, 1),)), re=task, kind="obj/req")
    assert dropped(fleet, late=1)
    assert device.cancelled == [task]


def test_a_state_that_was_taken_back_is_no_fault_of_the_device(fleet: Fleet, idle: Idle) -> None:
    """The fleet itself clears what the broker retained of a device that it throws out."""
    device, _ = idle
    device.raw("state", b"")
    fleet.broker.pump()
    assert fleet.grid.drops() == {}
    assert node_of(device.name) in fleet.grid.get_node_ids()


def test_what_another_courier_asked_is_nothing_to_this_one_after_its_end_too(
    fleet: Fleet, idle: Idle
) -> None:
    """``serve`` and a training hear the same: each may be behind the other."""

    class Others(Open):
        def mine(self, task: TaskRow) -> bool:
            return task.run.startswith("rollout/")

    device, task = idle
    mine = device.tasks[task].payload
    device.result(task, answer())
    assert len(fleet.pull(task)) == 1
    fleet.grid.close()
    fleet.new_grid(guard=Others())
    device.say(Want(object=mine, chunks=((0, 1),)), re=task, kind="obj/req")
    assert dropped(fleet)


def test_who_is_thrown_out_is_not_waited_for(fleet: Fleet, idle: Idle) -> None:
    _, task = idle
    fleet.ledger.remove_device("a")
    fleet.later(0.5)
    (reply,) = fleet.pull(task)
    assert reply.error.reason == "device a: it is enrolled no more"


def test_a_database_that_is_away_is_one_line_however_much_is_said(
    fleet: Fleet, idle: Idle, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, task = idle

    def away(*_: object) -> None:
        raise OperationalError("SELECT 1", None, Exception("connection refused\nIs it there?"))

    for _ in range(2):
        fleet.lines.clear()
        with monkeypatch.context() as broken:
            broken.setattr(fleet.ledger, "device", away)
            for _ in range(3):
                device.say(Accepted(), re=task)
            fleet.broker.pump()
        line = "the database: connection refused; messages wait until it is back"
        assert fleet.lines == [line]
        device.state(online=True)  # it is back
        fleet.broker.pump()


def test_chunks_that_nobody_asked_for_are_dropped(fleet: Fleet, idle: Idle) -> None:
    device, task = idle
    other = fleet.device("b")
    device.serves = False
    ref = device.result(task, answer()).payload
    fleet.broker.pump()
    data = device.uploads[ref.sha256]
    other.send(ref.sha256, 0, data[:CHUNK])
    device.send(ref.sha256, 1, data[CHUNK : 2 * CHUNK])  # 0 was asked for
    device.send("ab" * 32, 0, b"x")
    device.send(ref.sha256, 0, b"short")
    device.send(ref.sha256, 900, b"x")
    assert dropped(fleet, foreign=1, unasked=2, malformed=2)
    device.serves = True
    fleet.later(10)  # it is asked again
    assert len(fleet.pull(task)) == 1
    device.send(ref.sha256, 0, data[:CHUNK])
    assert dropped(fleet, foreign=1, unasked=2, malformed=2, duplicate=1)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00\xff",
        b"[]",
        b'{"v":2,"id":"' + b"0" * 32 + b'"}',
        encode(envelope(Accepted(), ttl=9, re="0" * 32))[:-7],
        encode(envelope(State(online=True), ttl=9)),
        b'{"v":1,"id":"x","body":{"kind":"accepted"}}',
        b"[" * 5000,
    ],
    ids=["empty", "bytes", "list", "version", "truncated", "state", "schema", "deep"],
)
def test_malformed_messages_are_dropped(fleet: Fleet, idle: Idle, data: bytes) -> None:
    idle[0].raw("evt", data)
    assert dropped(fleet, malformed=1)


def test_malformed_frames_are_dropped(fleet: Fleet, idle: Idle) -> None:
    whole = frame("ab" * 32, 0, b"data")
    for data in (b"", whole[:20], whole[:-1], whole + b"x"):
        idle[0].raw("obj/up", data)
    assert dropped(fleet, malformed=4)


def test_oversized_messages_are_dropped(fleet: Fleet, idle: Idle) -> None:
    device, task = idle
    device.raw("evt", b" " * (MAX_ENVELOPE + 1))
    device.raw("obj/up", b" " * (CHUNK + 1000))
    assert dropped(fleet, oversized=2)
    device.say(Result(payload=ObjectRef(sha256="ab" * 32, bytes=1 << 30)), re=task)
    assert dropped(fleet, oversized=3)
    assert "at most" in (fleet.pull(task)[0].error.reason or "")
    assert device.wanted == []
    assert device.cancelled == [task]


def test_unknown_tasks_and_strangers_are_dropped(fleet: Fleet, idle: Idle) -> None:
    device, task = idle
    device.say(Accepted(), re="0" * 32)
    device.say(Accepted())
    assert dropped(fleet, unknown=2)
    stranger = MemoryLink(fleet.broker, "stranger")
    stranger.connect()
    fleet.broker.pump()
    for name in ("x1", "x2", "x3"):
        said = encode(envelope(Failed(reason="boo"), ttl=9, re=task))
        stranger.publish(topic(name, "evt"), said)
    stranger.publish("flwr/v1/BAD NAME/evt", b"")
    fleet.broker.pump()
    assert fleet.grid.drops() == {("a", "unknown"): 2, ("?", "stranger"): 3, ("?", "malformed"): 1}


def test_retained_answers_are_dropped(fleet: Fleet, idle: Idle) -> None:
    device, task = idle
    said = encode(envelope(Failed(reason="old"), ttl=99, re=task))
    fleet.grid.close()
    device.link.publish(topic("a", "evt"), said, retain=True)
    fleet.broker.pump()
    fleet.new_grid()
    assert fleet.grid.drops() == {("a", "replayed"): 1}


def test_an_upload_of_other_bytes_is_thrown_away_and_asked_for_once_more(
    fleet: Fleet, idle: Idle
) -> None:
    device, task = idle
    good, lies = pack(answer())[0], [True]
    ref = device.offer(good)
    serve = device.serve

    def serve_wrong(want: Want) -> None:
        device.uploads[ref.sha256] = bytes(len(good)) if lies[0] else good
        serve(want)
        lies[0] = lies[0] and want.numbers() != [ref.chunks - 1]

    device.serve = serve_wrong  # type: ignore[method-assign]
    device.say(Result(payload=ref), re=task)
    assert dropped(fleet, wrong_hash=1)
    assert not fleet.pull(task)[0].has_error()


def test_an_upload_that_stays_wrong_is_an_error(fleet: Fleet, idle: Idle) -> None:
    device, task = idle
    ref = ObjectRef(sha256="ab" * 32, bytes=2 * CHUNK)
    device.uploads[ref.sha256] = bytes(2 * CHUNK)
    device.say(Result(payload=ref), re=task)
    assert dropped(fleet, wrong_hash=2)
    assert fleet.pull(task)[0].has_error()
    assert not fleet.objects.has(ref.sha256)


def test_two_devices_with_the_same_answer(fleet: Fleet, idle: Idle) -> None:
    device, task = idle
    other = fleet.device("b")
    other.works = other.serves = device.serves = False
    second = fleet.push("b")
    device.result(task, answer())
    other.result(second, answer())
    fleet.broker.pump()
    assert (len(device.wanted), len(other.wanted)) == (1, 0)
    device.serves = True
    fleet.later(10)
    assert len(fleet.pull(task, second)) == 2


def test_an_answer_that_is_no_payload_is_an_error(fleet: Fleet, idle: Idle) -> None:
    device, task = idle
    device.say(Result(payload=device.offer(b"FEP1 and rubbish")), re=task)
    assert "refused" in (fleet.pull(task)[0].error.reason or "")
    assert dropped(fleet, malformed=1)


def test_nan_passes_for_the_border_refuses_it(fleet: Fleet, idle: Idle) -> None:
    device, task = idle
    nan = np.full(5, np.nan, np.float32)
    device.result(task, Payload(arrays={"delta": {"weights": nan}}))
    (reply,) = fleet.pull(task)
    assert np.isnan(reply.content.array_records["delta"]["weights"].numpy()).all()


def test_a_full_disk_here_costs_time_and_no_answer(
    fleet: Fleet, idle: Idle, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, task = idle

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "incoming", full)
        device.result(task, answer())
        assert fleet.pull(task) == []
        fleet.later(10)
    assert any("No space left" in line for line in fleet.lines)
    fleet.later(20)
    assert len(fleet.pull(task)) == 1


def test_a_broker_that_forgets_all_is_told_again(fleet: Fleet, idle: Idle) -> None:
    device, task = idle
    second = fleet.grid.push_messages([fleet.ask("a", seed=1)])[0]  # in the broker, or not
    fleet.broker.crash(forget=True)
    third = fleet.grid.push_messages([fleet.ask("a", seed=2)])[0]
    device.works = True
    fleet.broker.up()
    assert len(fleet.pull(task, second, third)) == 3
    assert sorted(device.done) == sorted([task, second, third])


@pytest.mark.parametrize("seed", range(5))
def test_lost_doubled_and_reordered_messages_cost_time_only(fleet: Fleet, seed: int) -> None:
    for name in "abc":
        fleet.device(name, lambda task, asked: answer(seed))
    fleet.broker._random = random.Random(seed)
    fleet.broker.drop, fleet.broker.duplicate, fleet.broker.reorder = 0.05, 0.2, 0.2
    fleet.broker.faulty = lambda message: not message.topic.endswith("/state")
    ids = [fleet.push(name) for name in "abc"]
    for _ in range(200):
        if not fleet.ledger.waiting(ids):
            break
        fleet.later(20)
        for device in fleet.devices.values():
            device._go_on()
            for task, said in device.results.items():
                device.say(said, re=task)  # as a device does until it is told 'received'
    replies = fleet.pull(*ids)
    assert len(replies) == 3
    assert not any(reply.has_error() for reply in replies)
    assert [len(device.done) for device in fleet.devices.values()] == [1, 1, 1]


def test_random_messages_crash_nothing(fleet: Fleet, idle: Idle) -> None:
    device, task = idle
    rng = random.Random(0)
    good = encode(envelope(Accepted(), ttl=9, re=task))
    for _ in range(300):
        data = bytearray(good)
        for _ in range(rng.randrange(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        device.raw(rng.choice(["evt", "obj/req", "obj/up", "state"]), bytes(data))
    fleet.broker.pump()
    device.result(task, answer())
    assert len(fleet.pull(task)) == 1


def test_a_task_that_was_accepted_and_forgotten_is_said_again(fleet: Fleet, idle: Idle) -> None:
    device, task = idle
    device.say(Accepted(), re=task)
    fleet.broker.pump()
    fleet.later(290)
    assert device.said == [task]
    device.works = True
    fleet.later(20)
    assert len(fleet.pull(task)) == 1


def test_what_nobody_needs_makes_room(fleet: Fleet, idle: Idle) -> None:
    device, task = idle
    fleet.objects.limit_bytes = 700_000  # of answers of 250 KB each
    for seed in range(1, 6):
        device.result(task, answer(seed))
        assert not fleet.pull(task)[0].has_error()
        task = fleet.push("a", seed=seed)
    held = [fleet.push("a", seed=seed) for seed in range(10, 14)]
    for seed, name in enumerate(held):
        device.result(name, answer(20 + seed))  # not pulled: they stay, and the last has no room
    assert len(fleet.pull(*held[:2])) == 2
    fleet.later(10)
    fleet.later(20)
    assert len(fleet.pull(*held)) == 2
