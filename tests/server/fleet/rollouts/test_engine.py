import pytest
from sqlalchemy import select

from schemas.wire import Accepted, Failed
from server.fleet import quarantine
from server.fleet.errors import NotFoundError, Refusal
from server.fleet.registry import Audit, audit
from server.fleet.rollouts import abort, pause, resume, summaries
from tests.server.fleet.rollouts.conftest import BOTH, ONE, THREE, TWO

BETA = ("tag=beta", "30%", "rest")


def audited(world, action):
    with world.registry.read() as db:
        return list(db.scalars(select(Audit).where(Audit.action == action)))


@BOTH
def test_groups_in_order_to_the_end(fleet):
    world = fleet(holds=True)
    rollout = world.create(*BETA)
    world.go()
    states = world.states(rollout)
    assert {name for name, state in states.items() if state == "testing"} == set("abc")
    for name in "abc":
        world.devices[name].holds = False
        world.devices[name]._go_on()
    world.broker.pump()
    world.go()
    assert [group["state"] for group in world.status(rollout)["groups"]] == [
        "finished", "running", "waiting"
    ]  # fmt: skip
    assert sum(state == "testing" for state in world.states(rollout).values()) == 3
    for device in world.devices.values():
        device.holds = False
    for device in world.devices.values():
        device._go_on()
    world.broker.pump()
    for name in "defghij":
        world.devices[name].holds = False
    world.go(10)
    assert world.state(rollout) == "finished"
    assert set(world.states(rollout).values()) == {"succeeded"}
    assert all(device.has == [ONE] for device in world.devices.values())
    assert world.of(rollout, "a").report == {"sha256": ONE, "latency_us": 12.5}
    names = [row.action for row in audited(world, "rollout.group")]
    assert len(names) == 6
    with world.registry.read() as db:
        assert not list(audit.faults(db))
        (summary,) = summaries(db)
    assert (summary["devices"], summary["succeeded"], summary["failed"]) == (10, 10, 0)


@BOTH
def test_a_report_that_no_database_takes_stops_nothing(fleet):
    """Numbers that JSON has not, NUL, and what is too long: left out or escaped."""
    world = fleet()
    for device in world.devices.values():
        device.adds = {"nan": float("nan"), "inf": -float("inf"), "big": 10**400, "n\0": "a\0b\n"}
    rollout = world.create(*BETA)
    world.go(10)
    assert world.state(rollout) == "finished"
    assert world.of(rollout, "a").report == {
        "sha256": ONE, "latency_us": 12.5, "n\\x00": "a\\x00b\\x0a"
    }  # fmt: skip


@BOTH
def test_too_many_errors_stop_it_before_the_next_group_gets_anything(fleet):
    world = fleet()
    world.devices["a"].fails = "the model made NaN or infinity"
    rollout = world.create("tag=beta", "rest", success=0.5, error=0.3)
    world.go()
    assert world.state(rollout) == "failed"
    assert "group tag=beta: 1 of 3 devices failed; 30 % may" in world.reason(rollout)
    assert all(not world.devices[name].tasks for name in "defghij")
    states = world.states(rollout)
    assert states["a"] == "failed"
    assert {states[name] for name in "defghij"} == {"aborted"}
    (failure,) = world.status(rollout)["failures"]
    assert failure == {
        "reason": "the model made NaN or infinity", "devices": 1, "for_example": "a"
    }  # fmt: skip
    assert [row.subject for row in audited(world, "rollout.failed")] == ["a"]
    assert len(audited(world, "rollout.stop")) == 1


def test_too_little_success_stops_it_too(fleet):
    world = fleet()
    world.devices["a"].fails = "late"
    rollout = world.create("tag=beta", "rest", success=0.9, error=1.0)
    world.go()
    assert "at most 2 of 3 devices can succeed; 90 % have to" in world.reason(rollout)
    assert all(not world.devices[name].tasks for name in "defghij")


def test_a_threshold_lets_it_go_on_while_some_are_off(fleet):
    world = fleet()
    world.off("a")
    rollout = world.create("tag=beta", "rest", success=0.6, error=0.1, deadline=7 * 86_400.0)
    world.go()
    assert world.state(rollout) == "running"
    assert world.states(rollout)["a"] == "waiting"
    assert sum(state == "succeeded" for state in world.states(rollout).values()) == 9
    world.clock.now += 6.9 * 86_400  # off for a week, nearly
    world.on("a")
    world.go()
    assert world.state(rollout) == "finished"
    assert world.devices["a"].has == [ONE]


@BOTH
def test_who_is_quarantined_is_asked_nothing_until_it_is_released(fleet):
    world = fleet()
    with world.registry.write("test") as tx:
        quarantine.by_hand(tx, ["a", "b"], "", 0)
    rollout = world.create("tag=beta", "rest", success=0.3, deadline=7 * 86_400.0)
    world.go()
    assert {*"ab"} == {name for name, now in world.states(rollout).items() if now == "waiting"}
    assert not world.devices["a"].tasks
    with world.registry.write("test") as tx:
        quarantine.release(tx, ["a"], "")
    world.go()
    assert world.devices["a"].has == [ONE]
    world.clock.now += 7.1 * 86_400
    world.go()
    assert world.of(rollout, "b").reason == "was quarantined within 7 days of its group's start"
    assert world.state(rollout) == "finished"


@pytest.mark.parametrize("roll_back", [False, True])
def test_who_is_on_probation_is_recalled_at_once_also_after_it_was_off(fleet, roll_back):
    """The order to go back takes the place of the task that is to be taken back."""
    world = fleet(holds=True)
    rollout = world.create("tag=beta")
    world.go()
    tasks = {name: world.of(rollout, name).task for name in "abc"}
    world.off("c")
    abort(world.registry, "operator:test", rollout, roll_back=roll_back)
    world.go()
    world.on("c", holds=True)
    world.devices["c"].say(Accepted(), re=tasks["c"])  # as a device does when it is back
    world.go()
    for name in "abc":
        assert tasks[name] in world.devices[name].cancelled


def test_what_was_rolled_back_is_not_looked_at_until_a_device_is_back(fleet):
    world = fleet()
    rollout = world.create("rest")
    world.go()
    world.off("a", "b")
    abort(world.registry, "operator:test", rollout, roll_back=True)
    world.go()
    looks, look = [], world.engine._look
    world.engine._look = lambda each: (looks.append(each), look(each))
    world.go()
    assert looks == []
    assert {*"ab"} == {name for name, now in world.states(rollout).items() if now == "succeeded"}
    world.on("b", has=[ONE])
    world.go()
    assert (world.states(rollout)["b"], world.devices["b"].has) == ("returned", [])
    looks.clear()
    world.go()
    assert looks == []
    world.kill()
    world.on("a", has=[ONE])  # while nobody looks
    world.start()
    world.go()
    assert world.states(rollout)["a"] == "returned"


def test_who_is_off_for_longer_is_passed_over(fleet):
    world = fleet()
    world.off("a")
    rollout = world.create("tag=beta", success=0.6, error=0.1, deadline=7 * 86_400.0)
    world.go()
    world.clock.now += 7.1 * 86_400
    world.go()
    assert world.state(rollout) == "finished"
    assert world.of(rollout, "a").reason == "was not online within 7 days of its group's start"
    world.on("a")
    world.go()
    assert not world.devices["a"].tasks


def test_a_group_that_nobody_was_reached_of_stops_it(fleet):
    world = fleet()
    world.off(*"abc")
    rollout = world.create("tag=beta", "rest", deadline=3600.0)
    world.go()
    world.clock.now += 3601
    world.go()
    assert "none of its devices was reached" in world.reason(rollout)
    assert all(not world.devices[name].tasks for name in "defghij")


def test_an_order_that_is_not_answered_in_time(fleet):
    world = fleet(holds=True)
    rollout = world.create("devices=a", "rest", deadline=3600.0)
    world.go()
    world.clock.now += 3601
    world.go()
    assert world.of(rollout, "a").reason == "it did not answer within its time"
    assert world.state(rollout) == "failed"


@BOTH
def test_pause_and_resume(fleet):
    world = fleet()
    rollout = world.create("tag=beta", "rest", at_once=1)
    world.go(1)
    assert pause(world.registry, "operator:test", rollout)
    assert not pause(world.registry, "operator:test", rollout)
    world.go(10)
    done = [name for name, state in world.states(rollout).items() if state == "succeeded"]
    assert len(done) == 1  # it had begun
    assert world.state(rollout) == "paused"
    assert resume(world.registry, "operator:test", rollout)
    world.go(40)
    assert world.state(rollout) == "finished"
    with pytest.raises(Refusal, match="it is finished"):
        pause(world.registry, "operator:test", rollout)
    with pytest.raises(NotFoundError, match="no roll-out x"):
        resume(world.registry, "operator:test", "x")


def test_weeks_of_a_pause_are_not_weeks_in_which_devices_were_off(fleet):
    world = fleet()
    rollout = world.create("tag=beta", "rest", at_once=1, deadline=7 * 86_400.0)
    world.go(1)
    pause(world.registry, "operator:test", rollout)
    world.clock.now += 21 * 86_400
    world.go()
    resume(world.registry, "operator:test", rollout)
    world.go(40)
    assert world.state(rollout) == "finished"
    assert set(world.states(rollout).values()) == {"succeeded"}


def test_who_is_off_is_passed_over_after_a_pause_too(fleet):
    world = fleet()
    world.off("a")
    rollout = world.create("tag=beta", success=0.6, error=0.1, deadline=7 * 86_400.0)
    world.go()
    world.clock.now += 5 * 86_400
    pause(world.registry, "operator:test", rollout)
    world.clock.now += 21 * 86_400
    resume(world.registry, "operator:test", rollout)
    world.clock.now += 1.9 * 86_400
    world.go()
    assert world.states(rollout)["a"] == "waiting"
    world.clock.now += 0.2 * 86_400
    world.go()
    assert world.states(rollout)["a"] == "skipped"


@pytest.mark.parametrize("stage", ["before", "offered", "testing", "between", "after"])
def test_abort_at_each_stage(fleet, stage):
    world = fleet(holds=stage in ("offered", "testing"))
    rollout = world.create("tag=beta", "rest", at_once=3)
    if stage == "offered":
        for device in world.devices.values():
            device.works = False
    world.go({"before": 0, "offered": 2, "testing": 3, "between": 3, "after": 20}[stage])
    had = {name for name, device in world.devices.items() if device.has}
    assert abort(world.registry, "operator:test", rollout) == (stage != "after")
    told = {name: len(device.tasks) for name, device in world.devices.items()}
    world.go()
    states = world.states(rollout)
    if stage == "after":
        assert world.state(rollout) == "finished"
        return
    assert world.state(rollout) == "aborted"
    assert {name: len(device.tasks) for name, device in world.devices.items()} == told
    assert {name for name, state in states.items() if state == "succeeded"} <= had
    assert set(states.values()) <= {"succeeded", "aborted"}
    begun = {name for name, device in world.devices.items() if device.tasks and not device.has}
    if stage in ("offered", "testing"):
        assert begun == set("abc")
        assert all(world.devices[name].cancelled for name in begun)
    assert not world.ledger.open_tasks()
    assert not abort(world.registry, "operator:test", rollout)


@BOTH
def test_abort_with_roll_back(fleet):
    world = fleet()
    world.create("rest", bundle="walk")
    world.go(20)
    world.bundle(TWO, version="2")
    rollout = world.create("tag=beta", "rest", bundle="walk@2", at_once=2)
    world.go(2)
    having = {name for name, device in world.devices.items() if device.has[-1] == TWO}
    assert having
    world.off(min(having))
    abort(world.registry, "operator:test", rollout, roll_back=True)
    world.go(10)
    away = min(having)
    assert all(device.has == [ONE] for name, device in world.devices.items() if name != away)
    assert world.states(rollout)[away] == "succeeded"
    before = world.devices[away].has
    world.on(away)
    world.devices[away].has = before
    world.go(10)
    assert world.devices[away].has == [ONE]
    assert world.states(rollout)[away] == "returned"


def test_a_killed_server_goes_on_where_it_was(fleet):
    world = fleet()
    rollout = world.create(*BETA, at_once=2)
    for _ in range(40):
        if world.state(rollout) != "running":
            break
        world.go(1)
        world.kill()
        world.start()
    assert world.state(rollout) == "finished"
    assert all(device.has == [ONE] for device in world.devices.values())
    assert all(len(set(device.said)) == 1 for device in world.devices.values())
    assert world.lives > 4


def test_killed_between_the_recall_and_its_word(fleet, monkeypatch):
    world = fleet(holds=True)
    rollout = world.create("tag=beta", "rest")
    world.go(3)
    abort(world.registry, "operator:test", rollout)
    with monkeypatch.context() as patch:
        patch.setattr(world.engine, "_withdraw", lambda _: None)  # the power fails before it
        world.engine.tick()
    assert world.ledger.open_tasks()
    world.kill()
    world.start()
    world.go(2)
    assert not world.ledger.open_tasks()
    assert all(world.devices[name].cancelled for name in "abc")


def test_a_bundle_and_its_base_travel(world):
    world.enrol("a")
    world.on("a")
    world.bundle(TWO, version="1")
    world.bundle(ONE, version="2", base=TWO)
    rollout = world.create("rest", bundle="walk@2")
    world.go()
    assert world.state(rollout) == "finished"
    (task,) = world.devices["a"].tasks.values()
    assert [one.sha256 for one in task.objects] == [ONE, TWO]
    assert task.action == "bundle"
    assert task.run == f"rollout/{rollout}"


def test_each_device_its_own(world):
    world.enrol(*"abc")
    world.on(*"abc")
    world.bundle(TWO, version="1-b", device="b")
    world.clock.now += 1
    world.bundle(ONE, version="1-a", device="a")
    rollout = world.create("rest", personal=True)
    world.clock.now += 1
    late = world.bundle(THREE, version="2-a", device="a")
    world.go()
    assert world.state(rollout) == "finished"
    has = {name: device.has for name, device in world.devices.items()}
    assert has == {"a": [ONE], "b": [TWO], "c": []}
    assert world.status(rollout)["name"] == "walk, each device its own"
    abort(world.registry, "operator:test", rollout, roll_back=True)
    world.go()
    assert not any(device.has for device in world.devices.values())
    again = world.create("devices=a", personal=True)
    world.go()
    assert world.state(again) == "finished"
    assert world.devices["a"].has == [late]


def test_a_bundle_whose_file_is_gone_stops_it(fleet):
    world = fleet()

    def gone(sha):
        raise Refusal("one.flwb: gone, or changed on the disk; publish it again")

    world.engine._read = gone
    rollout = world.create("tag=beta", "rest")
    world.go(2)
    assert world.state(rollout) == "failed"
    assert "publish it again" in world.reason(rollout)
    assert set(world.states(rollout).values()) == {"aborted"}


@pytest.mark.parametrize("begun", [False, True])
def test_a_device_that_was_revoked_meanwhile(fleet, begun):
    world = fleet()
    world.devices["a"].holds = True
    rollout = world.create("tag=beta", success=0.5)
    if begun:
        world.go(3)
        assert world.states(rollout)["a"] == "testing"
    world.ledger.remove_device("a")
    world.go()
    assert world.of(rollout, "a").reason == "is of the fleet no more"
    assert world.state(rollout) == "finished"
    assert not world.ledger.open_tasks()


def test_a_lost_link_in_the_middle_of_the_download(fleet):
    world = fleet()
    world.broker.drop = 0.3
    rollout = world.create("tag=beta")
    for _ in range(60):
        world.go(1, seconds=20.0)
        for name in "abc":
            world.devices[name]._go_on()  # asks again
        world.broker.pump()
    world.broker.drop = 0.0
    world.go(20, seconds=20.0)
    assert world.state(rollout) == "finished"
    assert all(world.devices[name].has == [ONE] for name in "abc")


def test_a_late_failure_stops_what_goes_on(fleet):
    """A finished group whose last device fails counts too."""
    world = fleet()
    world.devices["a"].holds = True
    rollout = world.create("tag=beta", "rest", success=0.6, error=0.1, at_once=4)
    world.go(2)
    device = world.devices["a"]
    (task,) = device.tasks
    device.say(Failed(reason="went back: NaN"), re=task)
    world.broker.pump()
    world.go()
    assert world.state(rollout) == "failed"
    assert "1 of 3 devices failed" in world.reason(rollout)
