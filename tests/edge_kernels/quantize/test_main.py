import subprocess
import sys

import onnx
import pytest

from edge_kernels.quantize.__main__ import main


@pytest.fixture
def path(mlp, tmp_path):
    path = tmp_path / "mlp.onnx"
    path.write_bytes(mlp.SerializeToString())
    return path


def test_a_model_is_written_and_a_table_printed(path, capsys):
    out = path.with_name("out.onnx")
    assert main([str(path), "--bits", "4", "--out", str(out)]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["layer", "op", "shape", "runs", "as", "error", "bytes", "after"]
    assert table[-1].split() == ["total", "197888", "27520"]
    assert onnx.load(out).graph.node[0].op_type == "LutMatMul"


def test_every_option_reaches_the_model(path):
    out = path.with_name("out.onnx")
    options = "--bits 3 --zero-points --group 32 --fast --gain 0 --skip node2"
    assert main([str(path), "--out", str(out), *options.split()]) == 0
    nodes = onnx.load(out).graph.node
    assert [node.op_type for node in nodes] == ["LutMatMul", "MatMul", "Add", "Relu", "LutMatMul"]
    given = {a.name: onnx.helper.get_attribute_value(a) for a in nodes[0].attribute}
    assert (given["bits"], given["group"], given["fast"]) == (3, 32, 1)
    assert given["values"] == b"zero_points"
    assert main([str(path), "--out", str(out), "--bits", "2", "--ternary", "--fake"]) == 0
    assert onnx.load(out).graph.node[0].op_type == "MatMul"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--bits", "3", "--ternary"], "error: ternary weights take 2 bits, not 3"),
        (["--bits", "4", "--skip", "head"], "error: no layer is called head"),
    ],
)
def test_bad_options_exit_with_2_and_write_nothing(path, capsys, options, says):
    out = path.with_name("out.onnx")
    assert main([str(path), "--out", str(out), *options]) == 2
    assert says in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("model", ["nothing.onnx", "junk.onnx"])
def test_bad_models_exit_with_2(tmp_path, capsys, model):
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    out = tmp_path / "out.onnx"
    assert main([str(tmp_path / model), "--bits", "4", "--out", str(out)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert not out.exists()


def test_an_out_that_cannot_be_written(path, capsys):
    assert main([str(path), "--bits", "4", "--out", str(path.parent / "no" / "out.onnx")]) == 2
    assert "error: " in capsys.readouterr().err


def test_wrong_usage_exits_with_2(path):
    with pytest.raises(SystemExit) as stopped:
        main([str(path), "--bits", "5", "--out", "out.onnx"])
    assert stopped.value.code == 2


def test_a_model_with_nothing_to_serve_is_said_so(path, capsys):
    out = path.with_name("out.onnx")
    assert main([str(path), "--bits", "4", "--gain", "99", "--out", str(out)]) == 0
    assert "no layer is served" in capsys.readouterr().err


def test_the_door_teaches():
    command = [sys.executable, "-m", "edge_kernels.quantize", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "examples:" in shown
    assert "exit codes: 0 written; 2" in shown
