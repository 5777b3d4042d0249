"""Graphs whose constants are objects of their own: the same numbers, and what is refused."""

import contextlib
import hashlib
import os
import time

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from client import graphs
from client.bundle.checks import LIMITS
from client.graph_assembly import assembled
from client.graph_check import check
from client.graphs import GraphError, GraphLimits, GraphStore
from schemas.constants import constant_bytes
from schemas.npy import npy_bytes
from server.graph_constants import apart
from tests.client import handmade

GRAPH, CONSTANTS = apart(handmade.wide())
((NAME, CONSTANT),) = CONSTANTS.items()


@pytest.fixture
def store(tmp_path):
    return GraphStore(tmp_path / "graphs")


def files(store):
    return sorted(path.name for path in store.folder.glob("*")) if store.folder.exists() else []


def feed():
    windows = np.random.default_rng(2).normal(size=(3, handmade.TIME, handmade.CHANNELS))
    vectors = {name: np.zeros(handmade.CHANNELS) for name in ("input_mean", "input_deviation")}
    given = {"windows": windows, "weights": np.zeros(handmade.LENGTH), **vectors}
    return {name: array.astype(np.float32) for name, array in given.items()}


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("constant_first", [False, True])
def test_the_same_numbers_as_the_whole_graph(store, turned, constant_first):
    whole = handmade.wide(turned=turned)
    graph, constants = apart(whole)
    parts = [graph, *constants.values()]
    names = [store.put(part) for part in (parts[::-1] if constant_first else parts)]
    digest = hashlib.sha256(graph).hexdigest()
    assert files(store) == sorted([f"{digest}.onnx", f"{NAME}.npy"])
    assert all(store.has(name) for name in names)
    assert store.get(NAME) == CONSTANT
    truth = ort.InferenceSession(whole, providers=["CPUExecutionProvider"]).run(None, feed())
    np.testing.assert_array_equal(store.session(digest).run(None, feed()), truth)


def test_the_session_is_of_the_very_graph_that_was_exported_checked_as_any_other(
    store, monkeypatch
):
    made, checked = [], []

    def noted(graph, digest, limits, *, shared=False):
        checked.append((graph, shared))
        return check(graph, digest, limits, shared=shared)

    monkeypatch.setattr(graphs, "_session", lambda graph, *_, **__: made.append(graph))
    monkeypatch.setattr(graphs, "check", noted)
    store.put(CONSTANT)
    store.session(store.put(GRAPH))
    assert made == [handmade.wide()]
    assert checked[-1] == (handmade.wide(), False)


def test_a_constant_that_is_missing(store):
    digest = store.put(GRAPH)
    assert not store.has(NAME)
    with pytest.raises(GraphError, match=f"constant {NAME[:12]} is not on this device"):
        store.session(digest)
    store.put(CONSTANT)
    store.session(digest)


def test_a_constant_is_no_graph(store):
    with pytest.raises(GraphError, match=f"graph {NAME[:12]} is not on this device"):
        store.session(store.put(CONSTANT))


@pytest.mark.parametrize("left", [b"", CONSTANT[:-1], CONSTANT[:-1] + b"x"])
def test_a_constant_that_the_disk_spoilt_is_removed_and_travels_again(store, left):
    digest = store.put(GRAPH)
    store.put(CONSTANT)
    (store.folder / f"{NAME}.npy").write_bytes(left)
    assert not store.has(NAME)
    with pytest.raises(GraphError, match=f"constant {NAME[:12]}: .* do not match its name"):
        store.session(digest)
    assert files(store) == [f"{digest}.onnx"]


@pytest.mark.parametrize("count", [1023, 1025, 1])
def test_a_constant_of_another_size(store, count):
    name, data = constant_bytes(np.zeros(count, np.float32))
    store.put(data)
    digest = store.put(declaring(location=name))
    with pytest.raises(
        GraphError,
        match=rf"graph {digest[:12]}: initializer matrix: constant {name[:12]} has {count} numbers;"
        r" its shape is \[2, 512\]",
    ):
        store.session(digest)


@pytest.mark.parametrize(
    "array", [np.zeros(1024), np.zeros(1024, np.int32), np.zeros((2, 512), np.float32)]
)
def test_a_constant_of_another_type_is_not_kept(store, array):
    with pytest.raises(GraphError, match=r"expected float32 of one axis"):
        store.put(npy_bytes(array))
    assert files(store) == []


def test_a_constant_that_is_too_large(tmp_path):
    store = GraphStore(tmp_path, GraphLimits(bytes=len(CONSTANT) - 1))
    with pytest.raises(GraphError, match=rf"constant {NAME[:12]}: {len(CONSTANT)} bytes; at most"):
        store.put(CONSTANT)


def declaring(change=lambda _: None, **entries):
    """The graph with other entries, or another tensor."""
    model = onnx.load_from_string(GRAPH)
    tensor = model.graph.initializer[0]
    told = {entry.key: entry.value for entry in tensor.external_data} | entries
    del tensor.external_data[:]
    for key, value in told.items():
        tensor.external_data.add(key=key, value=value)
    change(tensor)
    return model.SerializeToString()


def nameless(tensor):
    tensor.external_data[1].key = "length"


def valued(tensor):
    tensor.raw_data = bytes(4096)


def inside(tensor):
    tensor.data_location = TensorProto.DEFAULT


def numbers(tensor):
    tensor.data_type = TensorProto.INT64


def twice(tensor):
    tensor.external_data.add(key="location", value=NAME)


def huge(tensor):
    tensor.dims[:] = [1 << 40, 1 << 40]


def empty(tensor):
    tensor.dims[0] = 0


def negative(tensor):
    tensor.dims[:] = [-2, -512]


@pytest.mark.parametrize(
    ("graph", "said"),
    [
        (declaring(location="/etc/passwd"), "initializer matrix: its data lie in another file"),
        (declaring(location=f"../{NAME}"), "its data lie in another file"),
        (declaring(location=NAME.upper()), "its data lie in another file"),
        (declaring(location=f"{NAME}\n"), "its data lie in another file"),
        (declaring(offset="8"), "its data lie in another file"),
        (declaring(twice), "its data lie in another file"),
        (declaring(nameless), "its data lie in another file"),
        (declaring(axes="0"), "axes 0; expected each of 0 to 1 once"),
        (declaring(axes="0,0"), "axes 0,0; expected"),
        (declaring(axes="0,1,2"), "axes 0,1,2; expected"),
        (declaring(axes="1,-0"), "axes 1,-0; expected"),
        (declaring(valued), "values of its own, and of an object"),
        (declaring(inside), "values of its own, and of an object"),
        (declaring(numbers), "an object of type 7 of ONNX; only float32 are shared"),
        (declaring(huge), r"bytes with an initializer matrix; at most 268435456"),
        (declaring(empty), r"the shape \[0, 512\]; sizes begin at 1"),
        (declaring(negative), r"the shape \[-2, -512\]; sizes begin at 1"),
    ],
)
def test_what_a_graph_may_not_declare(store, graph, said):
    with pytest.raises(GraphError, match=said):
        store.put(graph)
    assert files(store) == []


def test_axes_in_any_order():
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    name, data = constant_bytes(values.transpose(1, 2, 0))

    def turned(tensor):
        tensor.dims[:] = values.shape

    graph = declaring(turned, location=name, axes="1,2,0")
    found = onnx.load_from_string(assembled(graph, 1000, {name: data}.__getitem__))
    np.testing.assert_array_equal(numpy_helper.to_array(found.graph.initializer[0]), values)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(GRAPH) - 1), st.binary(min_size=1, max_size=2), st.booleans())
def test_bytes_that_were_tampered_with_are_refused_or_put_together(at, junk, insert):
    tampered = GRAPH[:at] + junk + GRAPH[at + (0 if insert else len(junk)) :]
    with contextlib.suppress(GraphError):  # as of ``GraphStore``
        check(tampered, "0" * 64, GraphLimits(), shared=True)
        with contextlib.suppress(KeyError, ValueError):
            whole = assembled(tampered, 1000, CONSTANTS.__getitem__)
            check(whole, "0" * 64, GraphLimits())


def test_one_constant_many_times_is_counted_each_time(store):
    """A graph of a few kilobytes would otherwise fill the memory when it is put together."""
    model = onnx.load_from_string(GRAPH)
    for number in range(9):
        model.graph.initializer.add().CopyFrom(model.graph.initializer[0])
        model.graph.initializer[-1].name = f"more{number}"
    graph = model.SerializeToString()
    total = len(graph) + 10 * 4096
    check(graph, "0" * 64, GraphLimits(bytes=total), shared=True)
    with pytest.raises(GraphError, match=f"{total} bytes with an initializer more8; at most"):
        check(graph, "0" * 64, GraphLimits(bytes=total - 1), shared=True)


def test_nowhere_else_may_data_lie_apart():
    with pytest.raises(GraphError, match="its data lie in another file"):
        check(GRAPH, "0" * 64, GraphLimits())
    with pytest.raises(GraphError, match="is not allowed"):
        check(GRAPH, "0" * 64, LIMITS)
    model = onnx.load_from_string(handmade.wide())
    tensor = onnx.load_from_string(GRAPH).graph.initializer[0]
    model.graph.node.append(onnx.helper.make_node("Constant", [], ["c"], value=tensor))
    with pytest.raises(GraphError, match="its data lie in another file"):
        check(model.SerializeToString(), "0" * 64, GraphLimits(), shared=True)
    model = onnx.load_from_string(GRAPH)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float32), "inner"))
    assert len(check(model.SerializeToString(), "0" * 64, GraphLimits(), shared=True).shared) == 1


@pytest.mark.parametrize("used", [False, True])
def test_a_constant_makes_room_unless_a_graph_uses_it(tmp_path, used):
    store = GraphStore(tmp_path / "graphs", lean=True, kept=1)
    constant, graph = store.put(CONSTANT), store.put(GRAPH)
    long_ago = time.time() - 3 * 86_400
    for path in store.folder.iterdir():
        os.utime(path, (long_ago, long_ago))
    if used:
        GraphStore(store.folder).session(graph)
    other = store.put(handmade.forward())
    kept = [f"{graph}.onnx", f"{constant}.npy"] if used else []
    assert files(store) == sorted([f"{other}.onnx", *kept])
