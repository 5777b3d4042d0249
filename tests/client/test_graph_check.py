import hashlib

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from client.graph_check import GraphError, GraphLimits, check
from tests.client import handmade

LIMITS = GraphLimits()


def checked(model, limits=LIMITS):
    content = model if isinstance(model, bytes) else model.SerializeToString()
    return check(content, hashlib.sha256(content).hexdigest(), limits)


def refused(model, limits=LIMITS):
    with pytest.raises(GraphError) as error:
        checked(model, limits)
    return str(error.value)


@pytest.fixture
def model():
    return onnx.load_from_string(handmade.forward())


def add(model, operator, *inputs, **attributes):
    domain = attributes.pop("domain", "")
    model.graph.node.append(
        helper.make_node(operator, inputs, [f"{operator}_"], domain=domain, **attributes)
    )
    return model


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (handmade.step, "training step"),
        (handmade.forward, "prediction or report"),
        (handmade.statistics, "input statistics"),
    ],
)
def test_graphs_written_by_hand_pass(make, kind):
    assert checked(make()).kind.name == kind


def test_rows_from_windows_and_labels_are_soft_targets(model):
    labels = helper.make_tensor_value_info("labels", TensorProto.INT64, ["count"])
    model.graph.input.append(labels)
    assert checked(model).kind.name == "soft targets"
    del model.graph.output[0].type.tensor_type.shape.dim[1]
    assert checked(model).kind.name == "adaptation"


@pytest.mark.parametrize(
    ("which", "kind"),
    [
        (("statistics",), "input statistics"),
        (("forward", "classifier", "forward"), "prediction or report"),
        (("adapt", "classifier"), "adaptation"),
        (("step", "classifier", "adam", "frozen"), "training step"),
        (("step", "mlp", "sgd", "frozen"), "training step"),
    ],
)
def test_exported_graphs_pass_and_are_read_as_onnx_reads_them(graph, which, kind):
    content = graph(*which)
    found, truth = checked(content), onnx.load_from_string(content).graph
    assert found.kind.name == kind
    assert found.nodes == len(truth.node)
    assert [value.name for value in found.inputs] == [value.name for value in truth.input]
    assert [value.name for value in found.outputs] == [value.name for value in truth.output]
    for value, other in zip(found.inputs, truth.input, strict=True):
        dims = other.type.tensor_type.shape.dim
        assert value.shape == tuple(d.dim_value if d.HasField("dim_value") else None for d in dims)
    assert found.tensors < found.memory


def test_too_many_nodes(model):
    assert "1 nodes; at most 0" in refused(model, GraphLimits(nodes=0))


def test_too_many_fields(model):
    assert "more than 10 fields" in refused(model, GraphLimits(fields=10))


def test_the_error_names_the_graph(model):
    model.opset_import[0].version = 99
    digest = hashlib.sha256(model.SerializeToString()).hexdigest()
    assert refused(model).startswith(f"graph {digest[:12]} is not allowed: opset 99 of ai.onnx; ")


def test_a_foreign_domain(model):
    model.opset_import.append(helper.make_opsetid("evil.corp", 1))
    assert "operators of evil.corp; allowed: ai.onnx, com.microsoft, flwr.edge" in refused(model)


def test_a_domain_that_the_model_does_not_import(model):
    assert "does not import" in refused(add(model, "LutMatMul", "windows", domain="flwr.edge"))
    model.opset_import.append(helper.make_opsetid("flwr.edge", 1))
    checked(model)


def test_two_opsets_of_one_domain(model):
    model.opset_import.append(helper.make_opsetid("ai.onnx", 17))
    assert "two opsets of ai.onnx" in refused(model)


def test_a_context_in_another_file(model):
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert "reads files" in refused(add(model, "EPContext", "windows", domain="com.microsoft"))


@pytest.mark.parametrize("operator", ["Loop", "Scan", "If"])
def test_control_flow(model, operator):
    body = helper.make_graph([], "body", [], [])
    assert "a graph of its own" in refused(add(model, operator, "windows", body=body))


def test_local_functions(model):
    model.functions.add().name = "f"
    assert "functions; none are taken" in refused(model)


def initializer(model, array):
    tensor = numpy_helper.from_array(np.asarray(array), "constant")
    model.graph.initializer.append(tensor)
    return model.graph.initializer[-1]


def test_external_data(model):
    tensor = initializer(model, np.zeros(4, np.float32))
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"
    assert "another file" in refused(model)


def test_external_data_of_a_constant(model):
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "t")
    tensor.data_location = TensorProto.EXTERNAL
    assert "another file" in refused(add(model, "Constant", value=tensor))


def test_a_tensor_that_claims_more_than_it_holds(model):
    tensor = initializer(model, np.zeros(4, np.float32))
    tensor.dims[0] = 2**40
    assert "16 bytes for the shape" in refused(model)


def test_strings(model):
    initializer(model, np.array(["a", "b"], object))
    assert "type 8 of ONNX" in refused(model)


@pytest.mark.parametrize(
    ("operator", "first"), [("ConstantOfShape", ()), ("Expand", ("w",)), ("Tile", ("w",))]
)
def test_a_few_bytes_that_would_fill_the_memory(model, operator, first):
    initializer(model, np.array([100_000, 100_000], np.int64))
    assert "at least 40000" in refused(add(model, operator, *first, "constant"))


def test_a_constant_after_its_use_counts_too(model):
    add(model, "ConstantOfShape", "Constant_")
    add(model, "Constant", value_ints=[1 << 20, 1 << 20])
    assert "bytes of memory" in refused(model)


def test_declared_sizes_count(model):
    assert "bytes of memory" in refused(model, GraphLimits(memory=1000))


def test_a_name_that_is_no_text_for_a_log(model):
    model.graph.input[0].name = "a\n\x1b[2J" + "b" * 10_000
    said = refused(model)
    assert said.isprintable()
    assert len(said) < 400


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda g: g.input.pop(), "without the inputs input_deviation"),
        (lambda g: g.input.append(handmade._value("path", 1)), "input path"),
        (lambda g: g.input.append(g.input[0]), "declared twice"),
        (lambda g: g.input.append(handmade._value("state", 4)), "with the inputs state"),
        (lambda g: setattr(g.input[1].type.tensor_type, "elem_type", 7), "expected float32 of"),
        (lambda g: setattr(g.input[1].type.tensor_type, "elem_type", 8), "type 8 of ONNX"),
        (lambda g: g.input[1].type.tensor_type.shape.dim.add(), "of rank 1"),
        (lambda g: g.output.append(g.output[0]), "with 2 outputs; expected 1"),
        (lambda g: setattr(g.output[0].type.tensor_type, "elem_type", 7), "output logits: int64"),
        (lambda g: setattr(g.input[0].type.tensor_type.shape.dim[1], "dim_param", "t"), "be fixed"),
        (lambda g: setattr(g.input[0], "name", "mix"), "input mix: float32"),
    ],
)
def test_what_the_learner_cannot_feed(model, change, said):
    change(model.graph)
    assert any(part in refused(model) for part in said.split("|"))


@pytest.mark.parametrize("name", ["new_weights", "new_state", "anchor", "mask"])
def test_sizes_of_a_step_that_do_not_fit(name):
    model = onnx.load_from_string(handmade.step())
    values = [v for v in (*model.graph.input, *model.graph.output) if v.name == name]
    values[0].type.tensor_type.shape.dim[0].dim_value = handmade.LENGTH + 1
    said = refused(model)
    assert "does not fit" in said or "is longer than" in said


arrays = st.sampled_from(
    [np.float32, np.float64, np.float16, np.int8, np.uint8, np.int32, np.int64, np.uint64, np.bool_]
).flatmap(
    lambda kind: st.lists(st.integers(0, 4), max_size=3).map(lambda shape: np.ones(shape, kind))
)


@settings(deadline=None, max_examples=60)
@given(arrays, st.booleans(), st.text(max_size=5))
def test_every_kind_of_tensor_is_counted_as_onnx_does(array, raw, text):
    model = onnx.load_from_string(handmade.forward())
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    values = array.tobytes() if raw else array.ravel().tolist()
    tensor = helper.make_tensor("t", kind, array.shape, values, raw=raw)
    model.graph.initializer.append(tensor)
    model.graph.doc_string = model.graph.node[0].name = text
    assert checked(model).tensors == array.nbytes


BASE = handmade.step()


@settings(deadline=None, max_examples=300)
@given(st.integers(0, len(BASE) - 1), st.binary(min_size=1, max_size=4), st.booleans())
def test_what_passes_is_read_alike_by_protobuf(at, junk, insert):
    content = BASE[:at] + junk + BASE[at if insert else at + len(junk) :]
    try:
        found = checked(content)
    except GraphError:
        return
    truth = onnx.load_from_string(content).graph
    assert found.nodes == len(truth.node)
    assert [value.name for value in found.inputs] == [value.name for value in truth.input]
    assert not any(a.HasField("g") or a.graphs for node in truth.node for a in node.attribute)


@pytest.mark.parametrize("part", ["node", "graph", "value_info", "type"])
def test_what_nobody_asks_for_is_read_too(part):
    """Metadata and descriptions of values: protobuf refuses a whole model for them."""
    model = onnx.load_from_string(handmade.step())
    value = model.graph.value_info.add(name="between")
    place = {"node": model.graph.node[0], "graph": model.graph, "value_info": value}
    if part == "type":
        value.type.tensor_type.shape.dim.add().denotation = "MARK"
    else:
        place[part].metadata_props.add(key="MARK", value="")
    content = model.SerializeToString()
    assert checked(content).nodes == len(model.graph.node)
    broken = content.replace(b"\x04MARK", b"\x7fMARK")
    with pytest.raises(DecodeError):
        onnx.load_from_string(broken)
    assert "is no ONNX model" in refused(broken)


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=200))
def test_junk(content):
    refused(content)


@pytest.mark.parametrize(
    "junk",
    [
        b"\x3b",  # a group
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # a length of 2**64 - 1
        b"\x08" + b"\xff" * 11,  # a number without end
        b"\x00\x00",  # the field 0
        b"\x38\x01",  # the graph as a number
        BASE + b"\x3a\x00",  # two graphs, which protobuf would merge
        BASE + b"\xf8\x07\x01",  # the field 127
    ],
)
def test_hostile_bytes(junk):
    assert "is no ONNX model" in refused(junk)


def test_what_onnx_runtime_would_take_for_its_own_format(model):
    """It looks at bytes 4 to 8 first, and would run another model than the one that was read."""
    model.ir_version, model.producer_name = 8, "ORTM"
    assert model.SerializeToString()[4:8] == b"ORTM"
    assert "is in ONNX Runtime's own format; ONNX is taken" in refused(model)
