"""Which grid can do what: a method's name alone once decided, and a misspelt one passed."""

import pytest

from server.carriers import Devices, Rehearsing, Resettable, Resumable, Withdrawing
from server.clock import Clock
from server.transport.mqtt_grid import MqttGrid
from server.view import GridView
from simulations.engine.flower_grid import FlowerGrid
from simulations.engine.local_grid import LocalGrid
from simulations.engine.rehearsal import RehearsalGrid

ALL = (Devices, Resettable, Resumable, Withdrawing, Clock)


@pytest.mark.parametrize(
    ("grid", "able"),
    [
        (LocalGrid, {Devices, Resettable}),
        (RehearsalGrid, set(ALL)),
        (MqttGrid, {Devices, Resettable, Withdrawing}),
        (FlowerGrid, {Resettable}),
        (GridView, set()),
    ],
)
def test_what_our_grids_can_do(grid, able):
    assert {kind for kind in ALL if issubclass(grid, kind)} == able


def test_who_has_an_examination_is_a_rehearsal():
    class Plain:
        pass

    made = Plain()
    assert not isinstance(made, Rehearsing)
    made.examination = made
    assert isinstance(made, Rehearsing)
