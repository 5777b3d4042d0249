"""A quick session gives what ONNX Runtime's own gives: results, and errors by the same words."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edge_kernels.quick import QuickSession

X = np.arange(6, dtype=np.float32).reshape(2, 3)
CPU = ["CPUExecutionProvider"]


@pytest.fixture(scope="module")
def model() -> bytes:
    """Two inputs, two outputs."""
    given = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 3]) for n in "ab"]
    made = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 3]) for n in ("sum", "less")]
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"])]
    nodes += [helper.make_node("Sub", ["a", "b"], ["less"])]
    graph = helper.make_graph(nodes, "two", given, made)
    opset = [helper.make_opsetid("", 17)]
    built: onnx.ModelProto = helper.make_model(graph, opset_imports=opset, ir_version=9)
    return built.SerializeToString()


@pytest.fixture(scope="module")
def both(model: bytes) -> list[onnxruntime.InferenceSession]:
    return [kind(model, providers=CPU) for kind in (onnxruntime.InferenceSession, QuickSession)]


@pytest.mark.parametrize("names", [None, [], ["sum", "less"], ["less"], ["less", "sum"]])
def test_the_same_results(both, names) -> None:
    usual, quick = (session.run(names, {"a": X, "b": X + 1}) for session in both)
    assert len(usual) == len(quick)
    for one, other in zip(usual, quick, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "feed",
    [
        {},
        {"a": X},
        {"a": X, "z": X},
        {"a": X, "b": X, "z": X},
        {"a": X, "b": X.astype(np.float64)},
        {"a": X, "b": X[0]},
        {"a": X, "b": X[:, :2]},
        {"a": X, "b": None},
    ],
    ids=["nothing", "one", "another", "more", "float64", "rank", "shape", "none"],
)
def test_the_same_refusals(both, feed) -> None:
    said = []
    for session in both:
        with pytest.raises(Exception) as caught:  # noqa: PT011 - of several types: compared
            session.run(None, feed)
        said.append((caught.type, str(caught.value), caught.value.__context__))
    assert said[0] == said[1]


def test_an_input_that_is_missing_reaches_no_operator(both, capfd) -> None:
    with pytest.raises(ValueError, match=r"\['b'\]"):
        both[1].run(None, {"a": X})
    assert "ExecuteKernel" not in capfd.readouterr().err


def test_run_options_are_heard(both) -> None:
    options = onnxruntime.RunOptions()
    options.terminate = True
    with pytest.raises(Exception, match="terminate"):
        both[1].run(None, {"a": X, "b": X}, options)
    both[1].run(None, {"a": X, "b": X})  # the next call is not ended


def test_threads_share_a_session(both) -> None:
    def sums(k: int) -> bool:
        feed = {"a": np.full((2, 3), k, np.float32), "b": X}
        return all((both[1].run(["sum"], feed)[0] == X + k).all() for _ in range(200))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(sums, range(8)))
