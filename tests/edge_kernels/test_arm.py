"""aarch64 in qemu: the kernels against the oracle, and the ops inside ONNX Runtime."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import edge_kernels
from edge_kernels.layout import pack

ROOT = Path(__file__).parents[1] / "arm" / "root.py"
UNAVAILABLE = 69
K, ROWS, CHANNELS, LENGTH = 200, 70, 6, 40
RUN = """
import json, sys
import numpy as np
import edge_kernels
session = edge_kernels.session(sys.argv[1])
feeds = np.load(sys.argv[2])
outputs = {}
for run in sorted({name.split("/")[0] for name in feeds}):
    names = {i.name: feeds[f"{run}/{i.name}"] for i in session.get_inputs()}
    for output, value in zip(session.get_outputs(), session.run(None, names)):
        outputs[f"{run}/{output.name}"] = value
np.savez(sys.argv[3], **outputs)
print(json.dumps(edge_kernels.info()))
"""
# Three instructions after the version: conv with ReLU, largest of two, mean over time, linear.
PROGRAM = [
    1,
    2,
    0,
    0,
    1,
    1,
    20,
    5,
    1,
    1,
    2,
    2,
    4,
    1,
    0,
    2,
    2,
    1,
    0,
    0,
    5,
    2,
    1,
    1,
    0,
    1,
    3,
    2,
    3,
    0,
    7,
]
MATMULS: list[dict[str, Any]] = [
    {"bits": 1, "group": 64, "values": "symmetric"},
    {"bits": 2, "group": 32, "values": "ternary", "relu": 1},
    {"bits": 2, "group": 128, "values": "zero_points"},
    {"bits": 3, "group": 64, "values": "zero_points", "splits": [20, 50]},
    {"bits": 3, "group": 0, "values": "symmetric", "fast": 1},
    {"bits": 4, "group": 64, "values": "symmetric"},
    {"bits": 4, "group": 32, "values": "zero_points"},
]


def arm(*arguments: str) -> str:
    """Run ``tests/arm/root.py``; skip what cannot be had, or fail with FLWR_EDGE_TEST_ALL=1."""
    run = subprocess.run(
        [sys.executable, str(ROOT), *arguments], capture_output=True, text=True, check=False
    )
    if run.returncode == UNAVAILABLE and not os.environ.get("FLWR_EDGE_TEST_ALL"):
        pytest.skip(run.stderr.strip())
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    return run.stdout


def test_what_cannot_be_had_fails_where_all_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*given: Any, **_: Any) -> Any:
        return subprocess.CompletedProcess(given, UNAVAILABLE, "", "no qemu-aarch64")

    monkeypatch.setattr(subprocess, "run", missing)
    monkeypatch.delenv("FLWR_EDGE_TEST_ALL", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no qemu"):
        arm()
    monkeypatch.setenv("FLWR_EDGE_TEST_ALL", "1")
    with pytest.raises(AssertionError, match="no qemu"):
        arm()


class Graph:
    """An ONNX model in the making, of random weights."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(3)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, value: NDArray[Any]) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def weights(self, rows: int, inputs: int, bits: int, group: int, values: Any) -> str:
        levels = 3 if values == "ternary" else 1 << bits
        groups = -(-inputs // group) if group else 1
        zeros = self.rng.random((rows, groups), np.float32) if values == "zero_points" else None
        codes = self.rng.integers(0, levels, (rows, inputs), dtype=np.uint8)
        scales = self.rng.random((rows, groups), np.float32) + 0.1
        return self.constant(
            pack(codes, scales, bits=bits, group=group, values=values, zeros=zeros)
        )

    def bias(self, rows: int) -> str:
        return self.constant(self.rng.standard_normal(rows, np.float32))

    def add(self, op: str, inputs: list[str], count: int = 1, /, **attributes: Any) -> None:
        names = [f"{op}{len(self.nodes)}_{i}" for i in range(count)]
        node = helper.make_node(op, inputs, names, domain="flwr.edge")
        node.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
        self.nodes.append(node)

    def model(self) -> bytes:
        outputs = [name for node in self.nodes for name in node.output]
        graph = helper.make_graph(
            self.nodes,
            "graph",
            [
                helper.make_tensor_value_info("x", TensorProto.FLOAT, ["m", K]),
                helper.make_tensor_value_info("s", TensorProto.FLOAT, ["b", CHANNELS, LENGTH]),
            ],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            self.constants,
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("flwr.edge", 1)]
        return bytes(
            helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
        )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every op, at every bit width, in one graph: one emulated process serves them all."""
    graph = Graph()
    for case in MATMULS:
        blob = graph.weights(ROWS, K, case["bits"], case["group"], case["values"])
        inputs = ["x", blob, graph.bias(ROWS)]
        graph.add("LutMatMul", inputs, len(case.get("splits", [1])), k=K, n=ROWS, **case)
    for bits, kernel in ((1, 3), (2, 5), (3, 4), (4, 12)):
        kind = {"bits": bits, "group": 64, "values": "symmetric"}
        blob = graph.weights(33, CHANNELS * kernel, **kind)
        shape = {"channels": CHANNELS, "kernel": kernel, "n": 33, "pads": [1, 2]}
        graph.add("LutConv1d", ["s", blob], **kind, **shape, stride=2, dilation=bits % 2 + 1)
    constants = [graph.weights(20, 5 * CHANNELS, 2, 32, "symmetric"), graph.bias(20)]
    constants += [graph.weights(7, 20, 4, 0, "symmetric"), graph.bias(7)]
    shape = {"input_shape": [CHANNELS, LENGTH], "results": [4]}
    graph.add("LutSequential", ["s", *constants], program=PROGRAM, **shape)
    path = tmp_path_factory.mktemp("arm") / "model.onnx"
    path.write_bytes(graph.model())
    return path


@pytest.fixture(scope="module")
def feeds(model: Path) -> dict[str, NDArray[np.float32]]:
    """One row (lookup), many (products), and one that is not finite."""
    rng = np.random.default_rng(4)
    feeds: dict[str, NDArray[np.float32]] = {}
    for run, m in (("one", 1), ("many", 9), ("nan", 2)):
        feeds[f"{run}/x"] = rng.standard_normal((m, K), np.float32)
        feeds[f"{run}/s"] = rng.standard_normal((m, CHANNELS, LENGTH), np.float32)
    feeds["nan/x"][1, 5] = np.nan
    feeds["nan/s"][0, 2, 9] = np.inf
    np.savez(model.with_suffix(".npz"), **feeds)
    return feeds


def expected(model: Path, feeds: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """What this machine's own kernels say."""
    session = edge_kernels.session(model)
    names = [output.name for output in session.get_outputs()]
    return {
        f"{run}/{name}": value
        for run in ("one", "many", "nan")
        for name, value in zip(
            names, session.run(None, {i: feeds[f"{run}/{i}"] for i in "xs"}), strict=True
        )
    }


@pytest.mark.parametrize(
    ("cpu", "paths"),
    [("cortex-a53", ["neon"]), ("cortex-a72", ["neon"]), ("max", ["neon_dot", "neon"])],
)
def test_kernels_equal_the_oracle(cpu: str, paths: list[str]) -> None:
    lines = arm("program", "--cpu", cpu, "isa_test", "--cases", "100").splitlines()
    assert [line.split()[0] for line in lines if " ok: 100 cases" in line] == paths


@pytest.mark.parametrize("cpu", ["cortex-a53", "max"])
def test_networks_in_integers_are_the_same_on_every_path(cpu: str) -> None:
    assert "mutated programs" in arm("program", "--cpu", cpu, "integer_fuzz", "2000")


@pytest.mark.parametrize(
    ("cpu", "onnxruntime", "isa"),
    [("cortex-a53", "1.24.4", "neon"), ("max", "1.20.1", "neon_dot")],
)
def test_ops_in_onnxruntime_equal_this_machines(
    cpu: str,
    onnxruntime: str,
    isa: str,
    model: Path,
    feeds: dict[str, NDArray[np.float32]],
    tmp_path: Path,
) -> None:
    script, out = tmp_path / "run.py", tmp_path / "out.npz"
    script.write_text(RUN)
    files = [str(path) for path in (script, model, model.with_suffix(".npz"), out)]
    info = json.loads(arm("python", "--cpu", cpu, "--onnxruntime", onnxruntime, *files))
    assert (info["isa"], info["onnxruntime"]) == (isa, onnxruntime)
    answers = np.load(out)
    for name, wanted in expected(model, feeds).items():
        got = answers[name]
        assert got.shape == wanted.shape, name
        assert np.array_equal(np.isnan(got), np.isnan(wanted)), name
        finite = ~np.isnan(wanted)  # NaN's own bits differ among CPUs
        assert np.array_equal(got.view(np.uint32)[finite], wanted.view(np.uint32)[finite]), name
