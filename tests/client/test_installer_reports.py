"""The server hears of a bundle that stood its probation and cannot be used now, or can again."""

import sqlite3
from hashlib import sha256

import pytest

from schemas import wire
from tests.client.orders import Pi, made


@pytest.fixture
def pi(tmp_path):
    pi = Pi(tmp_path / "pi")
    pi.start()
    yield pi
    pi.close()


@pytest.fixture
def file(tmp_path):
    return made(tmp_path / "1.flwb", 1)


@pytest.fixture
def orders(pi, file, tmp_path):
    """Of two bundles, the second of which predicts."""
    orders = [pi.order(made(tmp_path / "0.flwb", 0)), pi.order(file)]
    for order in orders:
        pi.done(order)
        pi.hub.until(lambda order=order: pi.store.task(order).state == "closed")
    return orders


def path(pi, file):
    return pi.daemon.bundles.installed.path(sha256(file).hexdigest())


def said(pi, order):
    """What is said of an order from now on, until somebody confirms it."""
    pi.daemon.bundles.look()  # as the runner does
    row = pi.store.task(order)
    return None if row.state == "closed" else row.answer


def heard(pi, order, kind):
    """It is said with the next connection, and confirmed as an old server does."""
    count = len(pi.hub.events[order])
    pi.stop()
    pi.start()
    events = pi.hub.until(lambda: pi.hub.events[order][count:])
    assert {event.body.kind for event in events} == {kind}
    body = wire.Cancel(task=order)
    if kind == "result":
        body = wire.Received(object=events[0].body.payload.sha256)
    pi.hub.fetch = False
    pi.hub.tell(wire.envelope(body, ttl=60.0, re=order))
    pi.hub.until(lambda: pi.store.task(order).state == "closed")
    return events[0].body


def test_a_bundle_that_is_put_aside_is_said_of_its_order(pi, file, orders):
    pi.hub.fetch = False
    path(pi, file).write_bytes(b"")
    pi.predict()
    pi.daemon.runner.wake()
    pi.hub.until(lambda: pi.store.task(orders[1]).state == "done")
    assert said(pi, orders[0]) is None
    assert "in a prediction" in said(pi, orders[1])["reason"]
    assert "in a prediction" in heard(pi, orders[1], "failed").reason
    pi.predict()
    assert said(pi, orders[1]) is None  # once, over restarts too


def test_it_is_said_when_nothing_was_heard_against_it_for_an_hour(pi, file, orders):
    path(pi, file).write_bytes(b"")
    pi.predict()
    assert said(pi, orders[1])["kind"] == "failed"
    heard(pi, orders[1], "failed")
    pi.clock.now += 601
    pi.predict()  # it is tried, and put aside again
    assert said(pi, orders[1]) is None
    path(pi, file).write_bytes(file)
    pi.clock.now += 601
    pi.predict()
    assert said(pi, orders[1]) is None  # not yet: who predicts seldom would say both by turns
    pi.clock.now += 3600
    assert said(pi, orders[1])["kind"] == "result"
    assert heard(pi, orders[1], "result").payload.bytes
    assert said(pi, orders[1]) is None


def test_an_order_that_mends_it_is_enough(pi, file, orders):
    path(pi, file).unlink()
    pi.predict()
    assert said(pi, orders[1])["kind"] == "failed"
    heard(pi, orders[1], "failed")
    pi.hub.fetch = True
    pi.done(pi.order(file))
    assert said(pi, orders[1])["kind"] == "result"


def test_the_bundle_that_it_went_back_to_is_told_of_too(pi, file, orders):
    order = pi.order(file, action="bundle.back")
    pi.hub.until(lambda: "result" in pi.hub.kinds(order))
    pi.hub.until(lambda: pi.store.task(order).state == "closed")
    first = pi.daemon.bundles.installed.record.current.sha256
    pi.daemon.bundles.installed.path(first).write_bytes(b"")
    with pytest.raises(RuntimeError):
        pi.predict()
    assert said(pi, orders[0])["kind"] == "failed"
    assert said(pi, orders[1]) is None


def test_a_row_that_the_store_has_forgotten_is_no_obstacle(pi, file, orders):
    with pi.store._change() as db:
        db.execute("DELETE FROM task WHERE id = ?", orders[1:])
    path(pi, file).write_bytes(b"")
    pi.predict()
    assert said(pi, orders[1])["kind"] == "failed"


def test_a_full_disk_says_it_later(pi, file, orders, monkeypatch):
    def full(*_):
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(pi.store, "_change", full)
        path(pi, file).write_bytes(b"")
        pi.predict()
        assert said(pi, orders[1]) is None
    assert said(pi, orders[1])["kind"] == "failed"


def test_a_bundle_on_probation_answers_its_order_and_no_more(pi, file, orders, tmp_path):
    third = made(tmp_path / "2.flwb", 2)
    order = pi.order(third, seconds=600.0, predictions=10)
    pi.hub.until(lambda: pi.current == sha256(third).hexdigest())
    path(pi, third).write_bytes(b"")
    pi.predict()
    assert "in a prediction" in pi.failed(order)
    assert [said(pi, each) for each in orders] == [None, None]
