"""The demonstration's broker, either of them: what the fleet asks of one, and that it ends."""

import socket
import time

import pytest

from schemas.link import PahoLink
from schemas.link_base import Message
from simulations.engine import broker as brokers
from simulations.report.files import RunError
from tests.mosquitto import program

LARGE = bytes(range(256)) * 2000  # half a megabyte: more than a broker's default may be
EMBEDDED = pytest.param("embedded", id="embedded")
MOSQUITTO = pytest.param(
    "mosquitto",
    id="mosquitto",
    marks=pytest.mark.skipif(program() is None, reason="mosquitto is not installed"),
)


@pytest.fixture(params=[MOSQUITTO, EMBEDDED])
def broker(request, tmp_path, monkeypatch):
    if request.param == "embedded":
        monkeypatch.setattr(brokers, "mosquitto", lambda: None)
    with brokers.local_broker(tmp_path / "broker") as port:
        yield port
    with socket.socket() as probe:
        assert probe.connect_ex((brokers.HOST, port)) != 0, "it still listens"


def until(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def link(port, name, **more):
    made = PahoLink(brokers.HOST, port, name, **more)
    heard = []
    made.on_message = heard.append
    return made, heard


def test_what_a_fleet_asks_of_a_broker(broker):
    """Large bodies, retained states, wills, content types."""
    will = Message("fleet/dev/state", b"gone", content_type="text/plain", retain=True)
    device, _ = link(broker, "dev", will=will)
    device.connect()
    assert device.wait_connected(10)
    device.publish("fleet/dev/state", b"here", content_type="text/plain", retain=True)
    device.publish("fleet/dev/data", LARGE)
    server, heard = link(broker, "server")
    server.subscribe("fleet/+/state")
    server.subscribe("fleet/+/data")
    server.connect()
    assert server.wait_connected(10)
    until(lambda: any(message.payload == b"here" for message in heard))
    device.publish("fleet/dev/data", LARGE)
    until(lambda: any(message.payload == LARGE for message in heard))
    server.close()
    device.close()


def test_without_any_broker_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(brokers, "mosquitto", lambda: None)
    monkeypatch.setattr(brokers, "find_spec", lambda _: None)
    with (
        pytest.raises(RunError, match=r"no MQTT broker .* apt-get install mosquitto"),
        brokers.local_broker(tmp_path),
    ):
        pass


def test_a_broker_that_does_not_start_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(brokers, "_command", lambda *_: ["sh", "-c", "echo the port is taken"])
    with pytest.raises(RunError, match="the port is taken"), brokers.local_broker(tmp_path):
        pass
