"""A wheel built here loads on the oldest ONNX Runtime that is supported and on the newest."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import edge_kernels
from edge_kernels.layout import pack

ROOT = Path(__file__).parents[2]
OLDEST = ["onnxruntime==1.18.1", "numpy==1.26.4"]
RUN = """
import json, sys
import numpy as np
import edge_kernels
import onnxruntime
x = np.load(sys.argv[2])
y = edge_kernels.session(sys.argv[1]).run(None, {"x": x})[0]
np.save(sys.argv[3], y)
print(json.dumps([onnxruntime.__version__, edge_kernels.__path__[0]]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
    command = [*pip, "--no-build-isolation", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, timeout=280)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def oldest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if sys.version_info >= (3, 13):
        pytest.skip("onnxruntime 1.18 has no wheels for Python 3.13 and later")
    folder = tmp_path_factory.mktemp("oldest")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    command = [*pip, "--no-compile", "--only-binary", ":all:", "--target", str(folder), *OLDEST]
    subprocess.run(command, check=True, timeout=280)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LutMatMul of 70 × 100 at 2 bits, in a form that ONNX Runtime 1.18 reads."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 4, (70, 100), dtype=np.uint8)
    blob = pack(codes, rng.random((70, 2), dtype=np.float32) + 0.5, bits=2, group=64)
    node = helper.make_node(
        "LutMatMul", ["x", "w"], ["y"], domain="flwr.edge",
        bits=2, group=64, values="symmetric", k=100, n=70,
    )  # fmt: skip
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["m", 100])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["m", 70])],
        [numpy_helper.from_array(blob, "w")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("flwr.edge", 1)]
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    )
    np.save(path.with_suffix(".npy"), rng.standard_normal((3, 100), dtype=np.float32))
    return path


def run_in(folders: list[Path], model: Path, out: Path) -> tuple[str, str]:
    """Run the model in a fresh interpreter that sees these folders first."""
    code = f"import sys; sys.path[:0] = {[str(f) for f in folders]!r}\n" + RUN
    arguments = [str(model), str(model.with_suffix(".npy")), str(out)]
    command = [sys.executable, "-S", "-c", code, *arguments]  # no site: the editable install hides
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=out.parent)
    assert run.returncode == 0, run.stderr
    version, where = json.loads(run.stdout)
    return version, where


def test_the_wheel_is_of_no_python(wheel: Path) -> None:
    assert "-py3-none-linux_" in wheel.name


def test_the_wheel_holds_the_library_and_no_sources(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "edge_kernels/libflwr_edge_ops.so" in names
    assert not [name for name in names if name.endswith((".cc", ".h", "CMakeLists.txt"))]
    assert {"simulations/wearables.toml", "schemas/py.typed"} <= set(names)


def test_oldest_and_newest_runtime_agree(
    installed: Path, oldest: Path, model: Path, tmp_path: Path
) -> None:
    x = np.load(model.with_suffix(".npy"))
    newest = edge_kernels.session(model).run(None, {"x": x})[0]
    version, where = run_in([installed, oldest], model, tmp_path / "y.npy")
    assert version == "1.18.1"
    assert where.startswith(str(installed))
    assert np.array_equal(np.load(tmp_path / "y.npy"), newest)
