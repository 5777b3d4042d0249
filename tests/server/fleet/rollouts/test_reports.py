"""A bundle that a device puts aside after it had succeeded is a failure of its roll-out."""

import pytest
from sqlalchemy import select

from schemas.payload import Payload
from schemas.wire import Failed
from server.fleet.installed import LATE
from server.fleet.listing import device_card, device_rows, find
from server.fleet.registry import Audit
from server.fleet.rollouts import abort
from tests.server.fleet.rollouts.conftest import BOTH, ONE, TWO

WHY = "in a prediction: bytes were altered"


def done(world, *groups, **terms):
    """A roll-out to its end."""
    rollout = world.create(*groups or ("rest",), **terms)
    world.go(10)
    return rollout


def aside(world, name, rollout, reason=WHY):
    """A device puts aside what a roll-out installed; the task that it says it of."""
    task = world.of(rollout, name).task
    world.devices[name].say(Failed(reason=reason), re=task)
    world.broker.pump()
    return task


def again(world, name, task):
    """It uses it again."""
    world.devices[name].say(world.devices[name].results[task], re=task)
    world.broker.pump()


def card(world, name):
    with world.registry.read() as db:
        return device_card(db, find(db, [name])[0])


def listed(world):
    with world.registry.read() as db:
        return {row["device"]: row["bundle_put_aside"] for row in device_rows(db)}


@BOTH
def test_it_counts_as_failed_and_stops_a_roll_out_that_goes_on(fleet):
    world = fleet()
    rollout = world.create("tag=beta", "rest", at_once=3)
    world.go(2)
    assert world.status(rollout)["groups"][0]["succeeded"] == 3
    task = aside(world, "a", rollout)
    assert task in world.devices["a"].cancelled  # it was heard, and need not say it again
    world.go()
    assert world.state(rollout) == "failed"
    assert "1 of 3 devices failed" in world.reason(rollout)
    assert {"reason": f"{LATE}{WHY}", "devices": 1, "for_example": "a"} in world.status(rollout)[
        "failures"
    ]
    assert not [line for line in world.lines if "dropped" in line]
    with world.registry.read() as db:
        rows = list(db.scalars(select(Audit).where(Audit.action == "rollout.failed")))
    assert [row.subject for row in rows] == ["a"]


@BOTH
def test_a_device_shows_what_it_runs(fleet):
    world = fleet()
    first = done(world)
    assert card(world, "a")["bundle"] == f"walk@1 ({ONE[:12]})"
    world.bundle(TWO, version="2")
    second = done(world)
    assert world.states(first)["a"] == world.states(second)["a"] == "succeeded"
    task = aside(world, "a", second)
    assert world.states(second)["a"] == "failed"
    assert world.state(second) == "finished"  # it was over
    found = card(world, "a")
    assert found["bundle"] == f"walk@1 ({ONE[:12]})"
    assert found["bundle_put_aside"] == f"walk@2 ({TWO[:12]}): {WHY}"
    assert [name for name, why in listed(world).items() if why is not None] == ["a"]
    again(world, "a", task)
    assert world.states(second)["a"] == "succeeded"
    assert world.of(second, "a").reason is None
    assert card(world, "a")["bundle"] == f"walk@2 ({TWO[:12]})"
    assert card(world, "a")["bundle_put_aside"] is None
    assert set(listed(world).values()) == {None}


def test_of_the_first_bundle_there_is_none_before(fleet):
    world = fleet()
    aside(world, "a", done(world))
    assert card(world, "a")["bundle"] is None
    assert card(world, "b")["bundle_put_aside"] is None


def test_a_roll_out_that_mends_it_ends_the_fault(fleet):
    world = fleet()
    first = done(world)
    task = aside(world, "a", first)
    second = done(world)
    assert world.states(second)["a"] == "succeeded"
    assert set(listed(world).values()) == {None}
    again(world, "a", task)
    assert world.states(first)["a"] == "succeeded"
    aside(world, "a", first)  # it names the order that installed it first; both stand for it
    assert world.states(first)["a"] == world.states(second)["a"] == "failed"
    assert listed(world)["a"] == WHY


def test_it_is_said_again_where_the_answer_was_not_taken_yet(fleet):
    world = fleet()
    rollout = world.create("devices=a", "rest")
    world.clock.now += 1
    world.courier.tick()
    world.engine.tick()
    world.broker.pump()
    task = aside(world, "a", rollout)
    assert task not in world.devices["a"].cancelled
    world.go(2)
    assert world.of(rollout, "a").state == "succeeded"
    assert aside(world, "a", rollout) in world.devices["a"].cancelled
    assert world.of(rollout, "a").state == "failed"


def test_who_put_it_aside_goes_back_with_the_others(fleet):
    """Else the device would try it again in ten minutes."""
    world = fleet()
    rollout = done(world)
    aside(world, "a", rollout)
    abort(world.registry, "operator:test", rollout, roll_back=True)
    world.go(4)
    assert set(world.states(rollout).values()) == {"returned"}
    assert world.devices["a"].has == []
    assert set(listed(world).values()) == {None}


def test_of_other_devices_orders_nothing_is_taken(fleet):
    world = fleet()
    rollout = done(world)
    task = world.of(rollout, "b").task
    world.devices["a"].say(Failed(reason=WHY), re=task)
    world.broker.pump()
    assert set(world.states(rollout).values()) == {"succeeded"}
    assert any("foreign" in line for line in world.lines)


@pytest.mark.parametrize("reason", ["", "a\0b\n", "x" * 500])
def test_any_reason_is_kept_as_a_database_takes_it(fleet, reason):
    world = fleet()
    rollout = done(world)
    aside(world, "a", rollout, reason)
    said = world.of(rollout, "a").reason
    assert said.startswith(LATE)
    assert len(said) <= 500
    assert said.isprintable()


def test_an_order_that_failed_stays_so(fleet):
    world = fleet(fails="too slow")
    rollout = done(world)
    task = world.of(rollout, "a").task
    world.devices["a"].fails = ""
    world.devices["a"].result(task, Payload())
    world.broker.pump()
    assert world.of(rollout, "a").state in ("failed", "aborted")
    assert set(listed(world).values()) == {None}
