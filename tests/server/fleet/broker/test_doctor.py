"""The doctor asks a running broker what it goes by."""

from server.fleet import devices
from server.fleet.broker.lists import write_lists
from server.fleet.doctor import examine


def test_a_running_broker_is_asked_for_its_lists(place):
    def state(name):
        return {one.state for one in examine(place.folder, place.config) if one.name == name}

    assert state("broker") == {"ok"}
    assert state("broker-lists") == {"ok"}
    place.enrol("watch-1")
    with place.keeper.registry.write("operator:tests") as write:
        devices.revoke(write, ["watch-1"], "a test")
    assert state("broker-lists") == {"fault"}  # the file is older than the registry
    write_lists(place.folder, place.config)
    assert state("broker-lists") == {"fault"}  # the file is new, and the broker has not read it
