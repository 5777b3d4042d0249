"""On a real Mosquitto: a revoked device is out, its session, and all that it left behind."""

import re
import shutil
import signal
from pathlib import Path

import pytest

from server.fleet.broker.access import digest_of
from server.fleet.broker.control import BrokerError, Control
from tests.server.fleet.broker.conftest import other_ca, wait


def test_a_device_says_and_hears_what_is_its_own_and_no_more(place):
    server = place.server()
    server.client.subscribe([("flwr/v1/+/evt", 1), ("flwr/v1/+/state", 1)])
    one, two = (place.connect(place.enrol(name), name) for name in ("watch-1", "watch-2"))
    two.client.subscribe(
        [(each, 1) for each in ("flwr/v1/watch-1/cmd", "flwr/v1/#", "#", "$SYS/#")]
    )
    one.client.subscribe("flwr/v1/watch-1/cmd", 1)
    assert one.say("flwr/v1/watch-1/evt", b"mine") == "Success"
    wait(lambda: server.heard)
    for topic in (
        "flwr/v1/watch-1/evt",
        "flwr/v1/watch-2/cmd",
        "flwr/v1/watch-2/evt/more",
        "flwr/fleet/list/0",
        "$SYS/broker/load",
        "$CONTROL/dynamic-security/v1",
    ):
        assert two.say(topic, b"forged") == "Not authorized", topic
    assert server.say("flwr/v1/watch-1/cmd", b"do") == "Success"
    assert wait(lambda: one.heard == [("flwr/v1/watch-1/cmd", b"do")])
    assert server.heard == [("flwr/v1/watch-1/evt", b"mine")]
    assert two.heard == []


def test_another_client_id_takes_over_nobodys_session(place):
    one = place.connect(place.enrol("watch-1"), "watch-1")
    one.client.subscribe("flwr/v1/watch-1/cmd", 1)
    thief = place.connect(place.enrol("watch-2"), "watch-1")
    assert thief.up
    assert place.server().say("flwr/v1/watch-1/cmd", b"do") == "Success"
    assert wait(lambda: one.heard)
    assert one.up
    assert thief.heard == []


def test_a_revoked_device_is_thrown_out_and_stays_out(place):
    server = place.server()
    server.client.subscribe([("flwr/v1/+/evt", 1), ("flwr/v1/+/state", 1)])
    will = ("flwr/v1/watch-1/state", b"last will", 1, True)
    files = place.enrol("watch-1")
    gone = place.connect(files, "watch-1", will=will)
    other = place.connect(place.enrol("watch-2"), "watch-2")
    gone.client.subscribe("flwr/v1/watch-1/cmd", 1)
    assert gone.say("flwr/v1/watch-1/state", b"online", retain=True) == "Success"
    wait(lambda: server.heard)
    assert place.revoke("watch-1") == []
    assert wait(lambda: gone.ended)
    server.say("flwr/v1/watch-1/cmd", b"to nobody")
    assert place.refused(files, "watch-1")
    assert other.say("flwr/v1/watch-2/evt") == "Success"
    assert wait(lambda: ("flwr/v1/watch-2/evt", b"x") in server.heard)
    states = [said for topic, said in server.heard if topic == "flwr/v1/watch-1/state"]
    # Its session ends before the lists forbid it anything: its will is said, and then cleared.
    assert states == [b"online", b"last will", b"", b""]
    assert gone.heard == []


def test_a_replaced_key_is_thrown_out_and_the_new_one_gets_in(place):
    files = place.enrol("watch-1")
    old = (files[0], *(shutil.copy(path, f"{path}.old") for path in files[1:]))
    thief = place.connect(old, "watch-1")
    assert thief.up
    new = place.enrol("watch-1", replaces=True)
    place.keeper.accepted("watch-1")
    place.keeper.flush()
    assert wait(lambda: thief.ended)
    assert place.refused(old, "watch-1")
    server = place.server()
    server.client.subscribe("flwr/v1/+/evt", 1)
    assert place.connect(new, "watch-1").say("flwr/v1/watch-1/evt") == "Success"


def test_a_batch_is_thrown_out_together(place):
    names = [f"watch-{number}" for number in range(8)]
    peers = [place.connect(place.enrol(name), name) for name in names]
    assert all(peer.up for peer in peers)
    assert place.revoke(*names[1:]) == []
    assert wait(lambda: all(peer.ended for peer in peers[1:]))
    assert peers[0].up


def test_a_broker_that_is_down_is_named_and_the_lists_hold_when_it_starts(place):
    files = place.enrol("watch-1")
    place.stop()
    (line,) = place.revoke("watch-1")
    assert "no broker runs" in line
    place.start()
    assert place.refused(files, "watch-1")
    assert "topic deny #" in (place.folder.broker / "access.acl").read_text()


def test_certificates_that_the_broker_refuses(place):
    good = place.enrol("watch-1")
    issuer = other_ca()
    assert place.refused(place.forged("watch-1", issuer), "watch-1")
    assert place.refused(place.forged("watch-1", start=-2, end=-1), "watch-1")
    assert place.refused(place.forged("watch-1", start=1, end=2), "watch-1")
    assert place.refused((good[0], None, None), "watch-1")
    assert place.connect(good, "watch-1").up


def test_devices_come_and_go_while_lists_are_read_and_the_broker_lives(place):
    """Where a session is kept meanwhile, Mosquitto 2.0.11 reads freed memory, and crashes."""
    control = Control(place.folder, place.config)
    digest = digest_of((place.folder.broker / "access.acl").read_text())
    files = {name: place.enrol(name) for name in ("watch-1", "watch-2", "watch-3")}
    for number in range(8):
        links = [place.link(name, files[name]) for name in files]
        for link in links:
            link.connect()
        assert all(link.wait_connected(10) for link in links), number
        for link in links:
            link.close()
        control.reload(digest)
        assert place.process.poll() is None, number


def test_a_broker_whose_loop_does_not_turn_is_sent_no_signal(place, monkeypatch):
    """One that has just begun listens already, and SIGHUP would end it."""
    place.connect(place.enrol("watch-1"), "watch-1")
    monkeypatch.setattr("server.fleet.broker.control._PATIENCE", 0.3)
    status = Path(f"/proc/{place.process.pid}/status")
    place.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(BrokerError, match="timed out"):
            Control(place.folder, place.config).signal()
        (waiting,) = re.findall(r"ShdPnd:\s+(\w+)", status.read_text())
    finally:
        place.process.send_signal(signal.SIGCONT)
    assert int(waiting, 16) & 1 << (signal.SIGHUP - 1) == 0


def test_devices_that_are_away_are_thrown_out_and_the_broker_lives(place):
    """Ended after the lists were read, such a session made Mosquitto 2.0.11 crash, now and then."""
    for number in range(15):
        name = f"watch-{number}"
        files = place.enrol(name)
        place.connect(files, name, kept=True).close()
        assert place.revoke(name) == []
        assert place.process.poll() is None, number
    assert place.refused(files, name)
