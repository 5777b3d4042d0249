"""Constants taken out of graphs: put back, they are the same graph; turned ones are one object."""

import hashlib

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from client.graph_assembly import assembled
from schemas.constants import LEAST
from server.graph_constants import apart
from tests.client import handmade

FIELDS = 1000


def holding(*arrays):
    tensors = [numpy_helper.from_array(array, f"c{at}") for at, array in enumerate(arrays)]
    return helper.make_model(helper.make_graph([], "g", [], [], tensors)).SerializeToString()


def objects(*arrays):
    graph, constants = apart(holding(*arrays))
    assert assembled(graph, FIELDS, constants.__getitem__) == holding(*arrays)
    return constants


def drawn(*shape):
    return np.random.default_rng(7).normal(size=shape).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(1, 24), max_size=4), max_size=3))
def test_put_back_it_is_the_same_graph_to_the_byte(shapes):
    arrays = [drawn(*shape) for shape in shapes]
    constants = objects(*arrays)
    assert bool(constants) == any(array.nbytes >= LEAST for array in arrays)
    assert all(hashlib.sha256(data).hexdigest() == name for name, data in constants.items())


@pytest.mark.parametrize("shape", [(7, 64), (64, 7), (32, 32), (1, 300)])
def test_a_matrix_and_the_same_turned_are_one_object(shape):
    matrix = drawn(*shape)
    assert len(objects(matrix, np.ascontiguousarray(matrix.T))) == 1


@pytest.mark.parametrize("shape", [(16, 8, 9), (128, 3, 5), (40, 8, 5)])
def test_a_convolution_and_its_matrices_are_one_object(shape):
    weight = drawn(*shape)
    matrix = np.ascontiguousarray(weight.T).reshape(-1, shape[0])  # as patches meet it
    turned = np.ascontiguousarray(matrix.T)
    assert len(objects(weight, matrix)) == 1
    assert shape[0] == 40 or len(objects(weight, matrix, turned)) == 1


def test_small_constants_and_those_of_other_types_stay():
    for array in (drawn(4, 4), np.arange(LEAST), drawn(300).astype(np.float16)):
        graph, constants = apart(holding(array))
        assert graph == holding(array)
        assert not constants


def test_two_graphs_share_what_they_hold_differently():
    (one, first), (other, second) = (apart(handmade.wide(turned=t)) for t in (False, True))
    assert first == second
    assert one != other
    assert len(onnx.load_from_string(one).graph.initializer[0].raw_data) == 0
    for graph in (one, other):
        assert len(graph) < LEAST
