import sys

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from edge_kernels.quantize import rtn
from edge_kernels.quantize.files import load, save
from edge_kernels.sequential import fuse


def test_bytes_paths_and_models_are_the_same(mlp, tmp_path):
    path = tmp_path / "mlp.onnx"
    path.write_bytes(mlp.SerializeToString())
    right = rtn(mlp, bits=4)
    assert rtn(mlp.SerializeToString(), bits=4) == right
    assert rtn(path, bits=4) == right
    assert rtn(str(path), bits=4) == right
    assert rtn(bytearray(mlp.SerializeToString()), bits=4) == right
    assert rtn(memoryview(mlp.SerializeToString()), bits=4) == right
    path.write_bytes(right.SerializeToString())
    for form in (path, right.SerializeToString(), right):
        assert fuse(form) == fuse(right)


@pytest.mark.parametrize("use", [lambda model: rtn(model, bits=4), fuse, load])
def test_anything_else_is_refused(use):
    with pytest.raises(ValueError, match=r"an ONNX ModelProto, .* not Linear: what torch"):
        use(torch.nn.Linear(4, 4))


def test_external_data_is_read_from_a_path_only(mlp, tmp_path):
    path = tmp_path / "mlp.onnx"
    onnx.save(load(mlp), path, save_as_external_data=True, location="weights", size_threshold=0)
    assert rtn(path, bits=4).graph.node == rtn(mlp, bits=4).graph.node
    with pytest.raises(ValueError, match="weights 'w1' lie in another file"):
        rtn(path.read_bytes(), bits=4)
    with pytest.raises(ValueError, match="weights 'w1' lie in another file"):
        fuse(onnx.load(path, load_external_data=False))


@pytest.mark.parametrize("junk", [b"", b"junk", b"\0" * 99, b"\xff" * 99])
def test_junk_is_refused(junk, tmp_path):
    path = tmp_path / "junk.onnx"
    path.write_bytes(junk)
    for model in (junk, path):
        with pytest.raises(ValueError, match="not an ONNX model"):
            rtn(model, bits=4)


@pytest.mark.parametrize("name", ["model.json", "model.textproto", "model.onnxtxt"])
def test_junk_is_refused_in_every_form_that_a_name_calls_for(name, tmp_path):
    path = tmp_path / name
    for junk in (b"junk {", b"\xff" * 99):
        path.write_bytes(junk)
        with pytest.raises(ValueError, match="not an ONNX model"):
            rtn(path, bits=4)


def test_missing_external_data(mlp, tmp_path):
    path = tmp_path / "mlp.onnx"
    onnx.save(load(mlp), path, save_as_external_data=True, location="weights", size_threshold=0)
    (tmp_path / "weights").unlink()
    with pytest.raises(FileNotFoundError, match=r"name: w1\).*weights"):
        rtn(path, bits=4)


def test_a_folder_is_no_path_of_a_model(mlp, tmp_path):
    with pytest.raises(ValueError, match="is a folder; the path of a file"):
        save(mlp, tmp_path)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.onnx"):
        rtn(tmp_path / "nothing.onnx", bits=4)


def test_an_old_opset_is_refused(mlp):
    old = load(mlp)
    old.opset_import[0].version = 12
    with pytest.raises(ValueError, match="opset is 12; 13 or newer"):
        rtn(old, bits=4)


def test_without_onnx_the_extra_is_named(monkeypatch, mlp):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'flwr-edge\[quantize\]'"):
        rtn(b"", bits=4)


def test_a_save_that_fails_leaves_the_old_file(mlp, tmp_path, monkeypatch):
    path = tmp_path / "out.onnx"
    path.write_bytes(b"old")
    monkeypatch.setattr("os.fsync", _full)
    with pytest.raises(OSError, match="disk is full"):
        save(mlp, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_that_a_model_is_saved_to_stays(mlp, tmp_path):
    link = tmp_path / "link.onnx"
    link.symlink_to(tmp_path / "target.onnx")
    save(mlp, link)
    assert link.is_symlink()
    assert (tmp_path / "target.onnx").read_bytes() == mlp.SerializeToString()


def _full(_):
    raise OSError("the disk is full")


def test_a_model_too_large_for_a_file(mlp, tmp_path, monkeypatch):
    monkeypatch.setattr("edge_kernels.quantize.files._LARGEST", 1000)
    with pytest.raises(ValueError, match="an ONNX file ends at 1000"):
        save(mlp, tmp_path / "out.onnx")
    assert not list(tmp_path.iterdir())


def test_weights_that_are_no_raw_bytes_are_counted_too(tmp_path, monkeypatch):
    """Converters of scikit-learn's models write lists of floats."""
    monkeypatch.setattr("edge_kernels.quantize.files._LARGEST", 1000)
    weights = helper.make_tensor("w", TensorProto.FLOAT, [300], [0.5] * 300)
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [], [], [weights])
    with pytest.raises(ValueError, match="an ONNX file ends at 1000"):
        save(helper.make_model(graph), tmp_path / "out.onnx")


def test_too_little_memory_is_no_fault_of_the_model(monkeypatch, tmp_path):
    def fail(_):
        raise MemoryError

    monkeypatch.setattr("onnx.load", fail)
    with pytest.raises(MemoryError):
        load(tmp_path / "model.onnx")
