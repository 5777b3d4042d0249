import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.bundle.split import join, split
from tests.client import small_models

MODELS = {
    "float": small_models.floats().SerializeToString,
    "codes": small_models.codes,
    "lut": small_models.lut,
    "qdq": small_models.qdq,
}


@pytest.mark.parametrize("name", MODELS)
def test_what_is_split_joins_to_the_byte(name):
    model = MODELS[name]()
    graph, weights, holes = split(model)
    assert join(graph, weights, holes) == model
    assert len(graph) + len(weights) == len(model)
    assert len(graph) < len(model)


def test_the_weights_are_the_larger_initializers_in_order():
    model = small_models.floats()
    kept = [tensor.raw_data for tensor in model.graph.initializer]
    _, weights, holes = split(model.SerializeToString())
    assert weights == b"".join(raw for raw in kept if len(raw) >= 64)
    assert [length for _, length in holes] == [len(raw) for raw in kept if len(raw) >= 64]


def test_two_persons_differ_in_their_weights_alone():
    one, other = (split(small_models.floats(seed).SerializeToString()) for seed in (1, 2))
    assert one[2] == other[2]
    assert one[1] != other[1]
    small = onnx.load_from_string(small_models.floats(1).SerializeToString()).graph.initializer[3]
    assert len(small.raw_data) < 64  # the linear bias stays in the graph
    assert one[0] != other[0]


@given(st.lists(st.tuples(st.binary(max_size=9), st.binary(min_size=1, max_size=9))), st.binary())
def test_any_holes(pieces, end):
    graph = b"".join(before for before, _ in pieces) + end
    weights = b"".join(values for _, values in pieces)
    holes, at = [], 0
    for before, values in pieces:
        at += len(before)
        holes.append((at, len(values)))
    whole = b"".join(before + values for before, values in pieces) + end
    assert join(graph, weights, tuple(holes)) == whole
