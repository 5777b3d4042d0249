import json
import os
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest

import edge_kernels

ISAS = ["scalar", "avx2", "avxvnni", "avx512", "avx512vnni", "neon", "neon_dot"]


def ask(isa: str) -> subprocess.CompletedProcess[str]:
    code = "import json, edge_kernels; print(json.dumps(edge_kernels.info()))"
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "FLWR_EDGE_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_library_is_in_the_package() -> None:
    assert edge_kernels.library_path().name == "libflwr_edge_ops.so"


def test_info_names_what_runs() -> None:
    info = edge_kernels.info()
    assert info["isa"] in ISAS
    assert {"LutMatMul", "LutConv1d", "LutSequential"} <= set(info["ops"])
    assert info["layout_version"] == 1


def test_the_environment_forces_kernels() -> None:
    run = ask("scalar")
    assert json.loads(run.stdout)["isa"] == "scalar"


def test_unknown_kernels_are_refused_by_name() -> None:
    run = ask("sse9")
    assert run.returncode == 1
    assert "FLWR_EDGE_ISA is 'sse9'; this CPU and build can run:" in run.stderr


def test_threads_are_1_to_1024() -> None:
    for threads in (0, 1_000_000):
        with pytest.raises(ValueError, match=f"threads is {threads}; 1 to 1024 are possible"):
            edge_kernels.session(b"", threads=threads)


def test_a_session_of_a_models_bytes_its_path_or_itself(matmul_model, blob, tmp_path) -> None:
    held = matmul_model(blob(64, 64))
    path = tmp_path / "model.onnx"
    path.write_bytes(held)
    x = np.ones((2, 64), np.float32)
    right = edge_kernels.session(held).run(None, {"x": x})[0]
    for form in (onnx.ModelProto.FromString(held), bytearray(held), memoryview(held), path):
        np.testing.assert_array_equal(edge_kernels.session(form).run(None, {"x": x})[0], right)


def test_a_model_too_large_for_memory_is_refused(matmul_model, blob, monkeypatch) -> None:
    held = matmul_model(blob(64, 64))
    monkeypatch.setattr("edge_kernels.library._MOST_BYTES", len(held) - 1)
    for form in (held, onnx.ModelProto.FromString(held)):
        with pytest.raises(ValueError, match=r"give the path of a file whose weights lie in"):
            edge_kernels.session(form)


@pytest.mark.parametrize("model", [None, 3, [b""]])
def test_a_session_of_something_else_is_refused(model) -> None:
    with pytest.raises(ValueError, match="a model is an ONNX ModelProto, its bytes or its path"):
        edge_kernels.session(model)


def test_threads_are_whole() -> None:
    with pytest.raises(ValueError, match=r"threads is 2\.0; a whole number is needed"):
        edge_kernels.session(b"", threads=2.0)


def test_the_same_options_may_be_given_again(matmul_model, blob) -> None:
    options = onnxruntime.SessionOptions()
    for threads in (1, 2):
        made = edge_kernels.session(matmul_model(blob(64, 64)), options=options, threads=threads)
        assert made.run(None, {"x": np.ones((1, 64), np.float32)})[0].shape == (1, 64)


def test_importing_needs_neither_onnx_nor_torch() -> None:
    code = "import sys, edge_kernels; print({'onnx', 'torch', 'flwr'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
