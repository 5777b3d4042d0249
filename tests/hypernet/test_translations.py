"""What the exporter writes in our way: few nodes, and the number of windows by its name."""

import onnx
import pytest
from onnx import TensorProto, helper

from hypernet.lengths import MANY
from hypernet.translations import name_windows


@pytest.mark.parametrize("name", ["classifier", "autoencoder"])
def test_a_step_has_hardly_a_node_that_is_there_twice_or_for_nothing(graph, name):
    model = onnx.load_from_string(graph("step", name, "sgd", "frozen"))
    kinds = [node.op_type for node in model.graph.node]
    assert "Identity" not in kinds
    assert len(kinds) < 700  # 2,000 and more, as the exporter writes it
    seen = [(node.op_type, *node.input, *map(str, node.attribute)) for node in model.graph.node]
    assert len(seen) == len(set(seen))


def test_windows_have_their_name(graph):
    model = onnx.load_from_string(graph("step", "classifier", "sgd", "frozen"))
    first = {
        value.name: value.type.tensor_type.shape.dim[0].dim_param
        for value in model.graph.input
        if value.name in ("windows", "labels")
    }
    assert first == {"windows": "windows", "labels": "windows"}
    assert str(MANY) not in str(model)


def made(constant, *lengths):
    value = helper.make_tensor("value", TensorProto.INT64, [1], [constant])
    shape = helper.make_tensor_value_info("x", TensorProto.FLOAT, lengths)
    node = helper.make_node("Constant", [], ["y"], "c", value=value)
    return helper.make_model(helper.make_graph([node], "g", [shape], []))


def test_an_axis_of_several_times_as_many_has_no_length():
    model = made(5, MANY, 2 * MANY, 7)
    name_windows(model)
    one, two, seven = model.graph.input[0].type.tensor_type.shape.dim
    assert (one.dim_param, two.WhichOneof("value"), seven.dim_value) == ("windows", None, 7)


def test_a_number_of_windows_that_became_a_constant_is_refused():
    with pytest.raises(RuntimeError, match="c: the number of windows became a constant"):
        name_windows(made(3 * MANY, 2))
