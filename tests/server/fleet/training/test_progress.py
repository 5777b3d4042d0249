"""What a training tells of itself."""

import pytest

from schemas.payload import Payload
from server.fleet.training.progress import Progress
from tests.server.transport.conftest import Fleet


def test_late_answers_to_what_an_interrupted_run_withdrew_are_not_told(tmp_path):
    fleet, told = Fleet(tmp_path), []
    progress = Progress(3, told.append)
    fleet.device("a").works = False
    task = fleet.push("a")
    fleet.grid.withdraw([task])
    fleet.devices["a"].result(task, Payload())
    fleet.broker.pump()
    (late,) = [line for line in fleet.lines if "was given up" in line]  # as the courier says it
    progress.heard(late)
    assert told == [late]
    with pytest.raises(KeyboardInterrupt):
        progress.interrupt()
    progress.heard(late)
    assert told == [late]
    fleet.grid.close()
