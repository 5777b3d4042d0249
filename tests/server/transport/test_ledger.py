from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from schemas.wire import ObjectRef, WireError, new_id, node_of
from server.transport.ledger import Ledger, LedgerError
from server.transport.tables import TaskRow

SHA = "ab" * 32


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "some" / "ledger.sqlite")
    yield ledger
    ledger.close()


def row(**fields: Any) -> TaskRow:
    known = {
        "id": new_id(),
        "run": "r",
        "device": "a",
        "node": 1,
        "action": "train",
        "group": "1",
        "created": 0.0,
        "expires": 100.0,
        "payload_sha": SHA,
        "payload_bytes": 9,
        "objects": [],
        "state": "queued",
        "session": "old",
    }
    return TaskRow(**(known | fields))


def test_devices_are_enrolled_once_and_keep_their_node(ledger: Ledger) -> None:
    assert ledger.add_device("a") == ledger.add_device("a") == node_of("a")
    assert ledger.add_device("b", node=5) == 5 == ledger.add_device("b")
    with pytest.raises(LedgerError, match="device c: node id 5 is b's"):
        ledger.add_device("c", node=5)
    with pytest.raises(WireError):
        ledger.add_device("No Name")
    ledger.remove_device("b")
    assert [device.id for device in ledger.devices()] == ["a"]
    assert ledger.device("b") is None
    assert ledger.known("b")
    assert ledger.add_device("b") == 5


def test_states_are_of_enrolled_devices(ledger: Ledger) -> None:
    ledger.add_device("a")
    ledger.set_state("a", {"online": True, "battery": 0.5}, 7.0)
    ledger.set_state("b", {"online": True}, 7.0)
    (device,) = ledger.devices()
    assert (device.online, device.seen, device.state["battery"]) == (True, 7.0, 0.5)
    ledger.all_offline()
    assert not ledger.devices()[0].online


def test_tasks_survive_the_process(ledger: Ledger, tmp_path: Path) -> None:
    task = row(objects=[["cd" * 32, 3]])
    ledger.add_tasks([task])
    ledger.announce(task.id, (ObjectRef(sha256="ef" * 32, bytes=4),))
    ledger.close()
    again = Ledger(tmp_path / "some" / "ledger.sqlite")
    (found,) = again.open_tasks("a")
    assert (found.state, [ref.bytes for ref in found.asked]) == ("accepted", [9, 3])
    assert [ref.sha256 for ref in found.answer] == ["ef" * 32]
    assert again.needed() == {SHA, "cd" * 32, "ef" * 32}
    assert again.open_tasks("b") == []
    again.close()


def test_tasks_move_only_from_the_states_given(ledger: Ledger) -> None:
    task = row()
    ledger.add_tasks([task])
    assert ledger.move([task.id], "pulled", of=("answered",)) == 0
    assert ledger.waiting([task.id]) == 1
    assert ledger.move([task.id], "failed", error="why") == 1
    assert ledger.move([task.id], "answered") == 0
    found = ledger.task(task.id)
    assert found is not None
    assert (found.state, found.error) == ("failed", "why")
    assert ledger.waiting([task.id]) == 0


def test_what_asks_the_same_is_found_and_adopted_once_a_life(ledger: Ledger) -> None:
    tasks = [row(state="pulled"), row(state="sent"), row(state="failed"), row(expires=5.0)]
    other = [row(device="b"), row(run="s"), row(payload_sha="cd" * 32), row(group="2")]
    ledger.add_tasks([*tasks, *other, row(session="new")])
    like = row(session="new")
    assert [found.id for found in ledger.same(like, 10.0)] == [tasks[0].id, tasks[1].id]
    assert ledger.adopt(tasks[0].id, "new")
    assert not ledger.adopt(tasks[0].id, "new")
    assert [found.id for found in ledger.same(like, 10.0)] == [tasks[1].id]
    found = ledger.task(tasks[0].id)
    assert found is not None
    assert found.state == "answered"


def test_open_tasks_expire(ledger: Ledger) -> None:
    task, done = row(expires=5.0), row(expires=5.0, state="answered")
    ledger.add_tasks([task, done, row()])
    assert ledger.expire(4.9) == []
    assert ledger.expire(5.0) == [task.id]
    assert ledger.expire(6.0) == []


def test_tasks_come_in_the_order_asked_for(ledger: Ledger) -> None:
    tasks = [row() for _ in range(1200)]
    ledger.add_tasks(tasks)
    ids = [task.id for task in reversed(tasks)]
    assert [task.id for task in ledger.tasks([*ids, "none"])] == ids
    assert ledger.move(ids, "sent") == 1200


def test_drops_are_counted_over_lives(ledger: Ledger, tmp_path: Path) -> None:
    assert [ledger.count_drop("a", "late") for _ in range(3)] == [1, 2, 3]
    assert ledger.drops() == {("a", "late"): 3}
    ledger.count_drop("a", "late")
    ledger.close()
    again = Ledger(f"sqlite:///{tmp_path}/some/ledger.sqlite")
    assert again.drops() == {("a", "late"): 4}
    again.close()


def test_a_ledger_in_memory_serves_tests() -> None:
    ledger = Ledger("sqlite://")
    ledger.add_device("a")
    assert len(ledger.devices()) == 1
    ledger.close()
