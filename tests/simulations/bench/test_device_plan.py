import json

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
    assert not list(tmp_path.glob(".*"))


def test_the_command_writes_what_the_benchmark_opens(sim, simulation_file, tmp_path):
    out = tmp_path / "watch"
    out.mkdir()
    code, said, _ = sim("device-plan", simulation_file, "--out", out, "--format", "json")
    measured = Measured.open(out)
    assert code == 0
    assert json.loads(said) == {
        "name": "tiny, fedavg",
        "out": str(out),
        "weights": measured.plan.length,
        "graphs": len(measured.graphs),
        "bytes_graphs": sum(map(len, measured.graphs.values())),
    }
    assert measured.windows == out / "windows"


def test_baselines_do_not_matter(sim, simulation_file, tmp_path):
    """One of them may be the strategy that is asked for."""
    out = tmp_path / "watch"
    code, said, _ = sim("device-plan", simulation_file, "--set", "strategy=ditto", "--out", out)
    assert (code, "tiny, ditto" in said) == (0, True)


def test_what_a_plan_cannot_be_made_of_is_said(sim, simulation_file, tmp_path):
    file, held = tmp_path / "a-file", tmp_path / "held"
    file.write_text("")
    held.mkdir()
    (held / "thesis.txt").write_text("mine")
    alone = ["--set", "baselines=[]", "--set"]
    for out, code, part, words in (
        (file, 1, f"{file}: is a file; a plan needs a folder", []),
        (held, 1, f"{held}: is not empty; name a new folder", []),
        (file / "x", 1, f"{file / 'x'}: cannot be written: Not a directory", []),
        (tmp_path / "new", 2, "strategy = 'local': asks no device", [*alone, "strategy=local"]),
        (tmp_path / "new", 2, "strategy = 'fed': no such strategy", [*alone, "strategy=fed"]),
        (tmp_path / "new", 2, "gone.npz: no such file", ["--set", "data.path=gone.npz"]),
    ):
        ended, output, lines = sim("device-plan", simulation_file, "--out", out, *words)
        assert (ended, output) == (code, "")
        assert part in lines[-1]
    assert not (tmp_path / "new").exists()
    assert [path.name for path in held.iterdir()] == ["thesis.txt"]


def test_help_says_what_the_folder_is_for(sim):
    code, said, _ = sim("device-plan", "--help")
    text = " ".join(said.split())
    assert code == 0
    assert "flwr-edge bench footprint --plan" in text
    assert "Example: flwr-sim device-plan simulations/wearables.toml" in text
