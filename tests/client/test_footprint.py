"""What is measured is there and adds up; how large it is, is for the benchmark to say."""

import json
import os
import subprocess
import sys
from hashlib import sha256

import numpy as np
import pytest

from client import footprint, footprint_broker
from client.cli import BAD_INPUT, DONE, FAILED, main
from client.config import DaemonConfig
from client.footprint_plan import Measured, by_hand
from client.graphs import GraphStore
from client.learner import Learner
from client.windows import PersonWindows
from schemas.base import ConfigError
from schemas.bench import FootprintReport
from server.graph_constants import apart
from tests import mosquitto
from tests.client import handmade

needs_broker = pytest.mark.skipif(not mosquitto.program(), reason="no mosquitto")


def exit_code(*arguments):
    with pytest.raises(SystemExit) as error:
        main(arguments)
    return error.value.code


def test_a_folder_s_name_may_hold_quotes(tmp_path):
    windows = tmp_path / """ann's "watch" \\ n"""
    windows.mkdir()
    config = DaemonConfig.load(footprint._configure(tmp_path, 1883, windows))
    assert config.windows.folder == windows


def test_the_built_in_step_learns(tmp_path):
    measured = by_hand()
    store = GraphStore(tmp_path / "graphs")
    for graph in measured.graphs.values():
        store.put(graph)
    learner = Learner(PersonWindows.open(measured.person(tmp_path / "windows")), store)
    first = learner.fit(measured.plan, measured.weights)
    longer = measured.plan.stages[0].model_copy(update={"epochs": 20, "learning_rate": 0.1})
    later = learner.fit(measured.plan.model_copy(update={"stages": (longer,)}), measured.weights)
    assert later.loss < 0.9 * first.loss


def test_the_built_in_steps_gradient_is_the_losss(tmp_path):
    measured = by_hand()
    store = GraphStore(tmp_path)
    session = store.session(store.put(measured.graphs[measured.plan.stages[0].graph]))
    rng = np.random.default_rng(1)
    one = np.ones(measured.plan.length, np.float32)
    same = {
        "windows": rng.normal(size=(32, 150, 6)).astype(np.float32),
        "input_mean": np.zeros(6, np.float32),
        "input_deviation": np.ones(6, np.float32),
        "learning_rate": np.array(0.1, np.float32),
        "proximal": np.array(0, np.float32),
        "anchor": one,
        "mask": one,
        "state": 0 * one,
    }
    weights = measured.weights
    gradient = session.run(["new_state"], {**same, "weights": weights})[0]
    away = gradient / np.linalg.norm(gradient)
    up, down = (
        session.run(["loss"], {**same, "weights": weights + sign * away})[0]
        for sign in (np.float32(0.02), np.float32(-0.02))
    )
    assert (up - down) / 0.04 == pytest.approx(np.linalg.norm(gradient), rel=0.02)


def test_a_plan_comes_back_from_its_folder(tmp_path):
    measured = by_hand()
    measured.save(tmp_path / "plan")
    back = Measured.open(tmp_path / "plan")
    assert (back.plan, back.graphs, back.windows) == (measured.plan, measured.graphs, None)
    np.testing.assert_array_equal(back.weights, measured.weights)


def test_constants_that_graphs_share_come_back_too(tmp_path):
    measured = by_hand()
    graph, constants = apart(handmade.wide())
    name = sha256(graph).hexdigest()
    plan = measured.plan.model_copy(update={"predict": name})
    Measured("memory", plan, measured.weights, {**measured.graphs, name: graph, **constants}).save(
        tmp_path
    )
    assert Measured.open(tmp_path).graphs == {**measured.graphs, name: graph, **constants}
    (constant,) = constants
    (tmp_path / "graphs" / f"{constant}.npy").write_bytes(b"junk")
    with pytest.raises(ConfigError, match=f"graphs/{constant}.* do not match its name"):
        Measured.open(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("plan.json", b"{}", "length: missing"),
        ("weights.npy", b"junk", "plan"),
        ("graph", b"junk", "do not match its name"),
        ("graph", None, "No such file"),
    ],
)
def test_a_folder_that_is_wrong_says_what(tmp_path, file, content, said):
    by_hand().save(tmp_path / "plan")
    path = tmp_path / "plan" / file
    if file == "graph":
        path = next((tmp_path / "plan" / "graphs").iterdir())
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        Measured.open(tmp_path / "plan")


def test_no_folder(capsys, tmp_path):
    assert exit_code("bench", "footprint", "--plan", str(tmp_path / "none")) == BAD_INPUT
    assert str(tmp_path / "none") in capsys.readouterr().err


def test_no_broker(capsys, monkeypatch):
    monkeypatch.setattr(footprint_broker.shutil, "which", lambda *_, **__: None)
    assert exit_code("bench", "footprint") == FAILED
    said = capsys.readouterr().err
    assert "Mosquitto is not on this machine: install it" in said
    assert len(said.splitlines()) == 1


def test_memory_of_a_process_and_its_child():
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE) as process:
        while (both := footprint.memory(process.pid)).processes < 2:
            assert process.poll() is None
        process.communicate(b"\n")
    assert 0 < both.pss <= both.rss
    assert footprint.memory(os.getpid()).processes >= 1


def test_memory_of_none():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
        with pytest.raises(RuntimeError, match="cannot be read"):
            footprint.memory(process.pid)


def test_what_is_installed():
    sizes = footprint.installed()
    needed = {"flwr-edge", "numpy", "onnxruntime", "paho-mqtt", "pydantic", "safetensors"}
    assert needed | {"pydantic-core", "protobuf"} <= sizes.keys()
    assert not {"torch", "flwr", "onnx", "sqlalchemy"} & sizes.keys()
    assert all(size > 1000 for size in sizes.values())
    assert list(sizes.values()) == sorted(sizes.values(), reverse=True)


@needs_broker
def test_the_whole_measurement(tmp_path, capsys):
    out = tmp_path / "report.json"
    assert exit_code("bench", "footprint", "--format", "json", "--out", str(out)) == DONE
    report = FootprintReport.model_validate(json.loads(out.read_text()))
    assert (report.idle.processes, report.learning.processes) == (1, 2)
    assert report.afterwards.processes == 1
    assert report.learning.pss > report.idle.pss
    from client.footprint_table import rendered

    assert "learning, peak" in rendered(report, "table")
    assert max(map(len, rendered(report, "table").splitlines())) < 140
    assert capsys.readouterr().err == ""
