"""What the twin can do beside being a link: faults, deterministic by seed, and a thread."""

import pytest

from schemas.link import Message
from schemas.memory_link import MemoryBroker, MemoryLink
from tests.schemas.carriers import Ears


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def pair(broker):
    sender, receiver = Ears(MemoryLink(broker, "a")), Ears(MemoryLink(broker, "b"))
    receiver.link.subscribe("t/#")
    sender.link.connect()
    receiver.link.connect()
    broker.pump()
    return sender.link, receiver


def heard(seed, **faults):
    broker = MemoryBroker(seed)
    sender, receiver = pair(broker)
    for name, probability in faults.items():
        setattr(broker, name, probability)
    for number in range(200):
        sender.publish("t/1", b"%d" % number)
    broker.pump()
    return [int(payload) for payload in receiver.payloads]


def test_without_faults_all_arrives_in_order():
    assert heard(0) == list(range(200))


def test_dropped():
    came = heard(1, drop=0.3)
    assert 100 < len(came) < 180
    assert came == sorted(set(came))


def test_duplicated():
    came = heard(1, duplicate=0.3)
    assert 220 < len(came) < 300
    assert set(came) == set(range(200))


def test_reordered():
    came = heard(1, reorder=0.3)
    assert sorted(came) == list(range(200)) != came


def test_faults_follow_the_seed():
    faults = {"drop": 0.2, "duplicate": 0.2, "reorder": 0.2}
    assert heard(3, **faults) == heard(3, **faults) != heard(4, **faults)


def test_faults_touch_only_what_they_may():
    broker = MemoryBroker()
    sender, receiver = pair(broker)
    broker.drop, broker.faulty = 1.0, lambda message: message.topic == "t/lossy"
    sender.publish("t/lossy", b"1")
    sender.publish("t/safe", b"2")
    broker.pump()
    assert receiver.payloads == [b"2"]


def test_a_cut_before_the_pump_costs_what_was_in_flight():
    broker = MemoryBroker()
    sender, receiver = pair(broker)
    sender.publish("t/1", b"lost")
    broker.cut("b")
    broker.pump()
    assert not receiver.messages
    assert receiver.losses == ["cut"]
    assert receiver.connections == 2


def test_messages_expire_in_flight_at_rest_and_retained():
    clock = Clock()
    broker = MemoryBroker(clock=clock)
    sender, receiver = pair(broker)
    sender.publish("t/1", b"in flight", expiry=5)
    sender.publish("t/kept", b"retained", expiry=5, retain=True)
    sender.publish("t/1", b"long", expiry=50)
    clock.now += 10
    broker.pump()
    assert [(m.payload, m.expiry) for m in receiver.messages] == [(b"long", 40)]
    late = Ears(MemoryLink(broker, "late"))
    late.link.subscribe("t/#")
    late.link.connect()
    broker.pump()
    assert not late.messages


def test_an_empty_retained_message_removes_it():
    broker = MemoryBroker()
    sender, _ = pair(broker)
    sender.publish("t/kept", b"state", retain=True)
    sender.publish("t/kept", b"", retain=True)
    late = Ears(MemoryLink(broker, "late"))
    late.link.subscribe("t/#")
    late.link.connect()
    broker.pump()
    assert not late.messages


def test_who_takes_a_client_id_takes_the_link():
    broker = MemoryBroker()
    _, receiver = pair(broker)
    first = Ears(MemoryLink(broker, "x", will=Message("t/will", b"gone")))
    first.link.connect()
    broker.pump()
    second = Ears(MemoryLink(broker, "x"))
    second.link.connect()
    broker.pump()
    assert second.link.connected
    assert not first.link.connected
    assert receiver.payloads == [b"gone"]


def test_a_crash_that_forgets_nothing():
    broker = MemoryBroker()
    sender, _ = pair(broker)
    sender.publish("t/1", b"kept", retain=True)
    broker.crash(forget=False)
    broker.up()
    again = Ears(MemoryLink(broker, "c"))
    again.link.subscribe("t/#")
    again.link.connect()
    broker.pump()
    assert again.payloads == [b"kept"]


def test_pumping_within_a_callback_is_refused(caplog):
    broker = MemoryBroker()
    sender, receiver = pair(broker)
    receiver.link.on_message = lambda _: broker.pump()
    sender.publish("t/1", b"")
    broker.pump()
    assert "from within a callback" in caplog.text


def test_who_answers_himself_is_stopped():
    broker = MemoryBroker()
    _, receiver = pair(broker)
    receiver.link.on_message = lambda _: receiver.link.publish("t/1", b"again")
    receiver.link.publish("t/1", b"begin")
    with pytest.raises(RuntimeError, match="more than 50 events"):
        broker.pump(limit=50)


def test_on_a_thread_of_its_own():
    broker = MemoryBroker()
    broker.start()
    try:
        sender, receiver = Ears(MemoryLink(broker, "a")), Ears(MemoryLink(broker, "b"))
        receiver.link.subscribe("t")
        sender.link.connect()
        receiver.link.connect()
        assert sender.link.wait_connected(30)
        assert receiver.link.wait_connected(30)
        for _ in range(100):
            sender.link.publish("t", b"1")
    finally:
        broker.stop()
    broker.pump()
    assert len(receiver.messages) == 100
