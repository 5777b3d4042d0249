"""Attacks at a real broker, on both databases: each fails, is audited, and changes nothing."""

import json
import time
from contextlib import contextmanager

import numpy as np
import pytest
from sqlalchemy import func, select

from schemas.plan import Plan
from schemas.wire import Accepted, encode, envelope, new_id, node_of
from server.border import weights_record
from server.database import Base
from server.fleet.broker import log
from server.fleet.grid import open_grid
from server.fleet.registry import Audit, Quarantine, Update, audit
from server.strategies.base import config_of, request
from tests.server.fleet.broker.conftest import other_ca, placed, wait
from tests.server.fleet.test_validation import LENGTH, answered
from tests.server.transport.fake_device import FakeDevice, will_of

ALLOWED = ("Success", "No matching subscribers")
PLAN = Plan(length=LENGTH, statistics="0" * 64, encoding="int8")


@pytest.fixture
def place(made, database, tmp_path):
    with placed(made, tmp_path, database) as place:
        yield place


@pytest.fixture
def devices(place, tmp_path):
    """Enrolled devices that answer; by name."""
    links = []

    def make(name, answer=answered):
        link = place.link(name, place.enrol(name), will=will_of(name))
        links.append(link)
        return FakeDevice(link, name, tmp_path, lambda _task, _asked: answer())

    yield make
    for link in links:
        link.close()


@contextmanager
def grid_of(place, count, **options):
    with open_grid(place.folder.root, interval=0.05, **options) as grid:
        assert len(grid.wait_for(count, 10)) == count
        yield grid


def train(grid, name, number):
    """One training; what went wrong, or None."""
    start = weights_record(np.full(LENGTH, number, np.float32))
    asked = request(node_of(name), "train", start, config_of(PLAN), number)
    (reply,) = grid.send_and_receive([asked], timeout=10)
    return reply.error.reason if reply.has_error() else None


def rows(place):
    """How many rows each table has, but for the log."""
    with place.keeper.registry.read() as db:
        tables = [each for each in Base.metadata.sorted_tables if each.name != "audit"]
        return {each.name: db.scalar(select(func.count()).select_from(each)) for each in tables}


def audited(place, action):
    with place.keeper.registry.read() as db:
        assert list(audit.faults(db)) == []
        found = db.scalars(select(Audit).where(Audit.action == action).order_by(Audit.number))
        return [(row.subject, json.loads(row.detail)) for row in found]


def test_certificates_each_beside_one_that_is_good(place):
    place.enrol("watch-1")
    before = rows(place)
    for name, other in (
        ("another CA's", {"issuer": other_ca()}),
        ("expired", {"start": -2, "end": -0.01}),
        ("not yet valid", {"start": 0.01, "end": 2}),
    ):
        assert place.refused(place.forged("watch-1", **other), "watch-1"), name
        peer = place.connect(place.forged("watch-1"), "watch-1")  # the same, but for that
        assert peer.say("flwr/v1/watch-1/evt") in ALLOWED, name
        peer.close()
    assert rows(place) == before


def test_a_certificate_that_was_revoked(place):
    files = place.enrol("watch-1")
    place.connect(place.enrol("watch-2"), "watch-2")
    assert place.revoke("watch-1") == []
    before = rows(place)
    assert place.refused(files, "watch-1")
    assert wait(lambda: log.refusals(place.log().splitlines()))
    log.tick(place.folder, place.config)
    ((who, said),) = audited(place, "broker.refused")
    assert (who, said["reason"], said["count"]) == ("?", "certificate", 1)
    assert rows(place) == before


def test_others_topics_wildcards_sys_and_control(place):
    peers = {name: place.connect(place.enrol(name), name) for name in ("watch-1", "watch-2")}
    before, one, two = rows(place), peers["watch-1"], peers["watch-2"]
    foreign = ("flwr/v1/watch-1/cmd", "flwr/v1/watch-1/evt", "$SYS/broker/load")
    spoken = (*foreign, "flwr/fleet/list/0", "$CONTROL/dynamic-security/v1")
    for topic in spoken:
        assert two.say(topic, b"forged") == "Not authorized", topic
    heard = ("flwr/v1/watch-1/cmd", "flwr/v1/+/evt", "flwr/v1/#", "#", "$SYS/#")
    two.client.subscribe([(each, 1) for each in heard])
    one.client.subscribe("flwr/v1/watch-1/cmd", 1)
    assert place.server().say("flwr/v1/watch-1/cmd") == "Success"
    assert wait(lambda: one.heard)
    assert one.say("flwr/v1/watch-1/evt") in ALLOWED
    log.tick(place.folder, place.config)
    found = [(who, said["reason"], said["topic"]) for who, said in audited(place, "broker.refused")]
    assert set(found) == {
        *(("watch-2", "denied", topic) for topic in spoken),
        *(("watch-2", "foreign-subscription", topic) for topic in heard),
    }
    assert one.heard == [("flwr/v1/watch-1/cmd", b"x")]
    assert two.heard == []
    assert rows(place) == before


def test_yesterdays_update_over_the_broker(place, devices):
    sent = answered()
    device = devices("watch-1", lambda: sent)
    with grid_of(place, 1) as grid:
        assert train(grid, "watch-1", 1) is None
        old, before = device.done[0], rows(place)
        device.say(device.results[old], re=old)
        assert wait(lambda: audited(place, "message.refused"))
        ((subject, detail),) = audited(place, "message.refused")
        assert (subject, detail["reason"]) == ("watch-1", "duplicate")
        assert rows(place) | {"transport_drops": 0} == before | {"transport_drops": 0}
        assert "the same bytes were watch-1's answer" in train(grid, "watch-1", 2)
        device.answer = lambda _task, _asked: answered()
        assert train(grid, "watch-1", 3) is None
    ((_, detail),) = audited(place, "update.refused")
    assert detail["reason"] == "replayed"
    with place.keeper.registry.read() as db:
        said = db.scalars(select(Update).order_by(Update.id))
        assert [row.verdict for row in said] == ["accepted", "refused", "accepted"]


def test_oversized_packets_end_their_connection_and_nothing_else(place, devices):
    devices("watch-2")
    files = place.enrol("watch-1")
    with grid_of(place, 1) as grid:
        before = rows(place)
        for size in (200_000, 3 << 20):
            peer = place.connect(files, "watch-1")
            assert peer.say("flwr/v1/watch-1/evt", b"x" * size) == "ended"
            assert "watch-1 disconnected due to oversize packet" in place.log()
        assert rows(place) == before
        # A frame more than the protocol's passes the broker, and is refused by the server.
        peer = place.connect(files, "watch-1")
        assert peer.say("flwr/v1/watch-1/evt", b"x" * 131_113) == "Success"
        assert wait(lambda: audited(place, "update.refused"))
        assert audited(place, "update.refused")[0][1]["reason"] == "oversized"
        assert train(grid, "watch-2", 1) is None


def test_a_flood_is_cut_off_at_the_broker(place, devices):
    devices("watch-2")
    file = place.folder.file
    file.write_text(file.read_text().replace("per_minute = 1200", "per_minute = 100"))

    def said():
        """A message as good as any, about a task that there is not."""
        return encode(envelope(Accepted(), ttl=60, re=new_id()))

    flooder = place.connect(place.enrol("watch-1"), "watch-1")
    with grid_of(place, 1) as grid:
        for _ in range(120):
            flooder.client.publish("flwr/v1/watch-1/evt", said(), 1)
        began = time.monotonic()
        while flooder.say("flwr/v1/watch-1/evt", said()) == "Success":
            assert time.monotonic() - began < 10
        assert flooder.say("flwr/v1/watch-1/obj/up", b"{") == "Not authorized"
        assert train(grid, "watch-2", 1) is None
        with place.keeper.registry.read() as db:
            (row,) = db.scalars(select(Quarantine))
            assert row.device == "watch-1"
            assert row.reason == "flood: more than 100 messages in a minute"
        assert audited(place, "device.quarantine")[0][0] == "watch-1"
        held = sum(count for (name, _), count in grid.drops().items() if name == "watch-1")
    assert held > 0
    assert flooder.say("flwr/v1/watch-1/state", b"{") in ALLOWED  # it may say how it is
