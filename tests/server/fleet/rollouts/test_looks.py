"""What a look at the roll-outs reads of a fleet with a long past."""

import pytest
from sqlalchemy import event, insert, text

from server.fleet.registry import Bundle, Device, Rollout, RolloutDevice, RolloutGroup
from server.transport.tables import TaskRow
from tests.server.fleet.rollouts.conftest import BOTH, ONE

DEVICES, ROLLOUTS = 500, 20


@pytest.fixture
def past(world):
    """Roll-outs that are over, each with all devices and their tasks; one open task of another."""
    names = [f"pi-{number:03}" for number in range(DEVICES)]
    ids = [f"{number:08x}" for number in range(ROLLOUTS)]
    world.bundle()
    same = {"bundle": ONE, "state": "finished", "created": 0, "changed": 0, "success": 1}
    rollouts = [{**same, "id": each, "error": 0, "plan": {"roll_back": False}} for each in ids]
    asked = {"node": 1, "action": "bundle", "created": 0, "expires": 9e9, "payload_sha": "0" * 64}
    asked |= {"payload_bytes": 1, "state": "pulled", "session": "x"}
    devices, tasks = [], []
    for each in ids:
        for at, name in enumerate(names):
            task = f"{each}{at:024}"
            state = "skipped" if at % 10 == 0 else "succeeded"
            row = {"rollout": each, "device": name, "group": 0, "attempts": 1, "changed": 0}
            devices.append({**row, "state": state, "task": task})
            tasks.append({**asked, "id": task, "run": f"rollout/{each}", "device": name})
    with world.registry.write("test") as tx:
        known = {"state": "accepted", "created": 0, "changed": 0}
        tx.db.execute(insert(Device), [{"id": name, **known} for name in names])
        tx.db.execute(insert(Rollout), rollouts)
        tx.db.execute(insert(RolloutGroup), [{"rollout": each, "number": 0} for each in ids])
        tx.db.execute(insert(RolloutDevice), devices)
        tx.db.execute(insert(TaskRow), tasks)
        tx.db.execute(text("UPDATE transport_tasks SET state = 'sent' WHERE number = 1"))
        assert tx.db.get(Bundle, ONE) is not None
    with world.registry.engine.begin() as connection:
        if connection.dialect.name == "postgresql":  # it does so by itself, in time
            connection.execute(text("ANALYZE"))
    return world


def plans(engine, work):
    """How the database goes about each statement of some work that reads roll-outs' devices."""
    seen = []
    event.listen(engine, "before_cursor_execute", lambda *call: seen.append(call[2:4]))
    work()
    explain = "EXPLAIN QUERY PLAN" if engine.dialect.name == "sqlite" else "EXPLAIN"
    with engine.connect() as connection:
        return {
            statement: "\n".join(
                str(tuple(row))
                for row in connection.exec_driver_sql(f"{explain} {statement}", given)
            )
            for statement, given in list(seen)
            if statement.startswith("SELECT") and "rollout_devices" in statement
        }


@BOTH
def test_it_scans_no_past_roll_out(past):
    past.engine._look = lambda _: None
    found = plans(past.registry.engine, past.engine.tick)
    assert len(found) == 2
    for statement, plan in found.items():
        for table in ("rollout_devices", "transport_tasks"):
            assert f"SCAN {table}" not in plan, f"{statement}\n{plan}"
            assert f"Seq Scan on {table}" not in plan, f"{statement}\n{plan}"
    assert any("rollout_devices_moving" in plan for plan in found.values()), found


@BOTH
def test_a_recalled_device_and_one_to_send_back_are_found(past):
    """Of roll-outs that are over: what a killed server left to be withdrawn or sent."""
    looked = []
    past.engine._look = looked.append
    past.engine.tick()
    assert looked == ["00000000"]  # its first device was passed over, and its task is open
    with past.registry.write("test") as tx:
        tx.db.execute(text("UPDATE transport_tasks SET state = 'pulled'"))
        tx.db.get(Rollout, "00000003").plan = {"roll_back": True}
        tx.db.get(RolloutDevice, ("00000005", "pi-001")).state = "returning"
    looked.clear()
    past.engine.tick()
    assert looked == ["00000003", "00000005"]
