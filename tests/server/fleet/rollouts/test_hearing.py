"""Who is online, beside others that use the same ledger."""

import pytest

from schemas.memory_link import MemoryBroker, MemoryLink
from schemas.objects import ObjectStore
from server.fleet.listing import device_rows
from server.transport.ledger import Ledger
from server.transport.mqtt_grid import MqttGrid


@pytest.fixture
def beside(fleet, tmp_path):
    """A fleet whose devices are all on, and a grid on its ledger that reaches no broker."""
    world = fleet()
    ledger = Ledger(world.database)
    objects = ObjectStore(tmp_path / "beside", 1 << 20)
    link = MemoryLink(MemoryBroker(), "federation")
    with MqttGrid(link, objects, ledger, clock=world.clock, interval=0) as grid:
        yield world, grid
    ledger.close()


def test_who_reaches_no_broker_puts_no_device_off(beside):
    """Else roll-outs would wait for devices that are there, until each connects again."""
    world, grid = beside
    assert grid.get_node_ids() == []
    rollout = world.create("rest")
    world.go(10)
    assert set(world.states(rollout).values()) == {"succeeded"}


def test_a_server_that_reaches_no_broker_hides_no_device_from_who_trains(fleet, tmp_path):
    world = fleet()
    ledger = Ledger(world.database)
    link, objects = MemoryLink(world.broker, "federation"), ObjectStore(tmp_path / "own", 1 << 20)
    with MqttGrid(link, objects, ledger, clock=world.clock, interval=0) as grid:
        world.broker.pump()
        world.kill()
        there, world.broker = world.broker, MemoryBroker()
        world.start()
        world.broker = there
        assert len(grid.get_node_ids()) == 10
    ledger.close()


def test_a_device_that_is_off_is_seen_no_later_because_the_server_starts_again(fleet):
    world = fleet()

    def seen():
        with world.registry.read() as db:
            return {row["device"]: (row["online"], row["seen"]) for row in device_rows(db)}

    world.off("a")
    before = seen()
    world.kill()
    world.clock.now += 86_400
    world.start()
    after = seen()
    assert (before["a"], before["b"][0]) == ((False, before["a"][1]), True)
    assert after["a"] == before["a"]
    assert after["b"][1] > before["b"][1]
