import functools
import json
import time

import pytest
from pydantic import ValidationError

from client.sources.frames import Silence
from client.sources.mqtt_topic import MqttTopicSettings, MqttTopicSource
from schemas.link import Message, PahoLink
from tests.mosquitto import program, running

WINDOW = [[1, 2], [3, 4], [5, 6]]


def settings(**changed):
    return MqttTopicSettings(**{"time": 3, "channels": 2, "topic": "s/+"} | changed)


class Carrier:
    """A link that a test calls back."""

    def __init__(self):
        self.filters, self.closed = [], False

    def connect(self):
        pass

    def subscribe(self, topics):
        self.filters.append(topics)

    def close(self):
        self.closed = True

    def say(self, payload, topic="s/a", **more):
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        self.on_message(Message(topic, data, **more))


@pytest.fixture
def carrier():
    return Carrier()


@pytest.fixture
def listening(carrier, at_work, until):
    def listen(**changed):
        return at_work(MqttTopicSource(settings(**changed), lambda _: carrier))

    return listen


def test_windows(listening, carrier, sink, until):
    with listening():
        until(lambda: carrier.filters == ["s/+"])
        carrier.say(WINDOW)
        carrier.say({"values": WINDOW, "label": 2})
        carrier.say({"values": WINDOW, "label": None})
    assert carrier.closed
    assert [window.label for window in sink.windows] == [-1, 2, -1]
    assert {window.shape for window in sink.windows} == {(3, 2)}
    assert list(sink.windows[0].values) == [1, 2, 3, 4, 5, 6]


def test_samples_and_a_lost_link(listening, carrier, sink, until):
    with listening(payload="samples"):
        until(lambda: carrier.filters)
        carrier.say(WINDOW[:2])
        carrier.say({"values": WINDOW[2:]})
        carrier.say([[9, 9], [9, 9]])
        carrier.on_lost("gone")
        carrier.say(WINDOW)
    assert [window.values[0] for window in sink.windows] == [1, 1]
    assert sink.troubles == {"link": 1}


def test_a_broker_that_was_never_reached_is_told_of_once(listening, carrier, sink, until):
    with listening():
        until(lambda: carrier.filters)
        carrier.on_failed("Connection refused")
        carrier.on_failed("Connection refused")
        assert sink.troubles == {"link": 1}
        carrier.on_connected()
        carrier.on_lost("gone")
        carrier.on_failed("Connection refused")
    assert sink.troubles == {"link": 2}


def test_samples_of_two_sensors_make_no_window_together(listening, carrier, sink, until):
    with listening(payload="samples"):
        until(lambda: carrier.filters)
        carrier.say(WINDOW[:2])
        carrier.say([[8, 8], [9, 9]], topic="s/b")
        carrier.say(WINDOW)
    assert [window.values[0] for window in sink.windows] == [1]
    assert sink.troubles == {"topic": 2}


def test_no_window_spans_an_hour_without_messages(listening, carrier, sink, until, monkeypatch):
    hour = [0.0]
    of_the_test = functools.partial(Silence, clock=lambda: hour[0])
    monkeypatch.setattr("client.sources.mqtt_topic.Silence", of_the_test)
    with listening(payload="samples", gap=60):
        until(lambda: carrier.filters)
        carrier.say(WINDOW[:2])
        hour[0] = 3600
        carrier.say([[8, 8]])
        carrier.say(WINDOW)
    assert [window.values[0] for window in sink.windows] == [8]
    assert sink.troubles == {"gap": 1}


ODD = [
    b"",
    b"hello",
    b"\xff\xfe",
    b"3",
    b"{}",
    b"[1, 2, 3]",
    b"[[1, 2], [3]]",
    b"[]",
    b'[["a", 1]]',
    b"[[[1], 2]]",
    b"[[null, 2]]",
    b'{"values": [[1, 2]], "label": "x"}',
    b'{"values": [[1, 2]], "label": true}',
    b'{"values": [[1, 2]], "other": 1}',
    b'{"values": {}}',
    b"[[1" + b"0" * 400 + b", 2]]",
    b"[" * 100_000,
    b" " * (1 << 21),
]


@pytest.mark.parametrize("payload", ODD, ids=range(len(ODD)))
@pytest.mark.parametrize("kind", ["window", "samples"])
def test_odd_messages_are_counted(listening, carrier, sink, until, payload, kind):
    with listening(payload=kind):
        until(lambda: carrier.filters)
        carrier.say(payload)
        carrier.say(WINDOW)
    assert [window.values[0] for window in sink.windows] == [1]
    nothing_to_say = payload == b"[]" and kind == "samples"
    assert sink.troubles == ({} if nothing_to_say else {"message": 1})


def test_retained_messages_are_passed_over(listening, carrier, sink, until):
    with listening():
        until(lambda: carrier.filters)
        carrier.say(WINDOW, retain=True)
    assert not sink.windows
    assert sink.troubles == {"retained": 1}


@pytest.mark.skipif(program() is None, reason="mosquitto is not installed")
def test_a_broker_that_is_killed_and_comes_back(tmp_path, sink, at_work, until):
    with running(tmp_path / "broker") as broker:
        source = MqttTopicSource(settings(host=broker.host, port=broker.port))
        sensor = PahoLink(broker.host, broker.port, "sensor")
        sensor.connect()

        def publish_until(count):
            end = time.monotonic() + 10
            while len(sink.windows) < count and time.monotonic() < end:
                if sensor.connected:
                    sensor.publish("s/wrist", json.dumps(WINDOW).encode(), qos=0)
                time.sleep(0.05)
            assert len(sink.windows) >= count

        try:
            with at_work(source):
                publish_until(3)
                broker.kill()
                until(lambda: sink.troubles["link"])
                broker.start()
                publish_until(len(sink.windows) + 3)
        finally:
            sensor.close()
    assert sink.troubles == {"link": 1}


def test_two_devices_have_ids_of_their_own():
    one, other = settings(), settings()
    assert one.client_id.startswith("flwr-edge-sensor-")
    assert one.client_id != other.client_id
    assert settings(client_id="wrist").client_id == "wrist"


@pytest.mark.parametrize("topic", ["a/#/b", "a#", "a/b+", "+a/b", "#/", "a\0"])
def test_a_filter_that_brokers_refuse_is_refused(topic):
    with pytest.raises(ValidationError, match="expected a topic or a filter"):
        settings(topic=topic)


@pytest.mark.parametrize("topic", ["#", "+", "a/#", "+/b/+", "/", "a//b", "+/#"])
def test_a_filter_of_mqtt_is_taken(topic):
    assert settings(topic=topic).topic == topic


@pytest.mark.parametrize("host", [".a", "a..b", "x" * 64, "a b"])
def test_a_host_that_cannot_be_looked_up_is_refused(host):
    with pytest.raises(ValidationError, match="expected a host's name"):
        settings(host=host)
