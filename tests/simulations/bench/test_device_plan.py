import numpy as np

from client.footprint_plan import Measured
from client.graphs import GraphStore
from client.learner import Learner
from client.windows import PersonWindows
from simulations.bench.device_plan import write_plan
from simulations.config import load


def test_a_device_can_learn_what_was_written(simulation_file, tmp_path):
    loaded = load(simulation_file, ["rounds=1"])
    write_plan(loaded, tmp_path / "plan")
    measured = Measured.open(tmp_path / "plan")
    store = GraphStore(tmp_path / "graphs")
    assert {store.put(graph) for graph in measured.graphs.values()} == measured.plan.graphs()
    person = PersonWindows.open(measured.windows)
    fitted = Learner(person, store).fit(measured.plan, measured.weights)
    assert not np.array_equal(fitted.weights, measured.weights)
