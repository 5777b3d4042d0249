"""Fuses a small network into one `LutSequential`: a wearable's model pays for one call."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_kernels.narrow import narrowed
from edge_kernels.quantize.constants import fold
from edge_kernels.quantize.files import load
from edge_kernels.quantize.graph import Graph, know_domain, reads
from edge_kernels.sequential_nodes import add_node
from edge_kernels.sequential_program import Program, Unfused

if TYPE_CHECKING:
    from onnx import ModelProto

    from edge_kernels.given import Model

DOMAIN = "flwr.edge"
_log = logging.getLogger(__name__)


@dataclass
class Fusion:
    """What `fuse` did.

    Attributes
    ----------
    fused : list of (int, int)
        Of each LutSequential: the nodes that it replaces, and the instructions of its program.
    left : dict of str → str
        Nodes that stay as they are, by name or first output, and why.
    """

    fused: list[tuple[int, int]] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)


def fuse(model: Model, *, report: Fusion | None = None) -> ModelProto:
    """Replace chains of small layers by one `LutSequential` each.

    A chain starts at one tensor whose shape is known but for the batch, and takes every node that
    depends on nothing else and that a program can say: `LutMatMul` and `LutConv1d`, ReLU, ReLU6,
    LeakyReLU and PReLU, pooling, mean, sum and largest over an axis, concatenation, sums and
    differences of two tensors, factors and terms of a channel, reshapes and transposes. What
    remains is logged and stands in the report.

    Parameters
    ----------
    model : ModelProto, bytes or path
        As `edge_kernels.quantize.rtn` returns it; not changed. Call that with ``gain=0``: a layer
        left in float cannot be fused.
    report : Fusion, optional
        Filled.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not an ONNX model, or its external data was not read.
    """
    fused = narrowed(fold(load(model)))
    report = Fusion() if report is None else report
    left: dict[str, str] = {}
    while (chain := _longest(fused, left)) is not None:
        report.fused.append((len(chain.nodes), len(chain.program.instructions)))
        _replace(fused, chain, _free(fused))
        left = {}
    report.left = {
        node.name or node.output[0]: left.get(node.output[0], "it is in no chain")
        for node in fused.graph.node
        if node.op_type != "LutSequential"
    }
    for name, why in report.left.items():
        _log.info("%s stays as it is: %s", name, why)
    return fused


@dataclass
class _Chain:
    program: Program
    nodes: list[int] = field(default_factory=list)


def _longest(model: ModelProto, left: dict[str, str]) -> _Chain | None:
    """The chain that replaces most nodes, of those with a layer, more nodes and a reader."""
    graph = Graph(model.graph)
    best: _Chain | None = None
    for source, batch, shape in _sources(model):
        chain = _grow(graph, source, batch, shape, left)
        useful = chain.program.layers > 0 and len(chain.nodes) > 1
        longer = best is None or len(chain.nodes) > len(best.nodes)
        if useful and longer and _results(model, chain):
            best = chain
    return best


def _results(model: ModelProto, chain: _Chain) -> list[str]:
    """Tensors of a chain that the graph returns, or a node outside it reads."""
    graph, inside = model.graph, set(chain.nodes)
    outside = {value.name for value in graph.output}.union(
        *(reads(node) for at, node in enumerate(graph.node) if at not in inside)
    )
    return [out for at in chain.nodes for out in graph.node[at].output if out in outside]


def _sources(model: ModelProto) -> Iterator[tuple[str, int, tuple[int, ...]]]:
    """Tensors of float, the first axis (0: not known), and the rest of their shape, which is."""
    from onnx import TensorProto

    graph = model.graph
    constants = {each.name for each in graph.initializer}
    for value in (*graph.input, *graph.value_info):
        tensor = value.type.tensor_type
        batch, *sizes = [dim.dim_value for dim in tensor.shape.dim] or [0]
        if value.name in constants or tensor.elem_type != TensorProto.FLOAT:
            continue
        if 1 <= len(sizes) <= 2 and min(sizes) > 0:
            yield value.name, batch, tuple(sizes)


def _grow(
    graph: Graph, source: str, batch: int, shape: tuple[int, ...], left: dict[str, str]
) -> _Chain:
    def constant(name: str) -> NDArray[Any] | None:
        return graph.constant(name)

    def sole(name: str) -> bool:
        return graph.only_reader(name) is not None

    chain = _Chain(Program(source, shape, constant, sole, batch=batch))
    for at, node in enumerate(graph.nodes):
        if not any(name in chain.program.values for name in node.input):
            continue
        try:
            add_node(chain.program, node)
        except Unfused as why:
            left[node.output[0]] = str(why)
        else:
            chain.nodes.append(at)
    return chain


def _replace(model: ModelProto, chain: _Chain, name: str) -> None:
    """Put the program's node where the chain's first node stands."""
    from onnx import helper, numpy_helper

    graph, program = model.graph, chain.program
    inside, made = set(chain.nodes), _results(model, chain)
    inputs = [program.source]
    for at, constant in enumerate(program.constants):
        if isinstance(constant, str):
            inputs.append(constant)
            continue
        inputs.append(f"{name}.{at}")
        whole = np.ascontiguousarray(constant)
        graph.initializer.append(numpy_helper.from_array(whole, inputs[-1]))
    node = helper.make_node(
        "LutSequential",
        inputs,
        made,
        name=name,
        domain=DOMAIN,
        program=program.code(),
        input_shape=list(program.input_shape),
        results=[program.values[out].number for out in made],
    )
    first = min(chain.nodes)
    nodes = [
        copy.deepcopy(node if at == first else each)
        for at, each in enumerate(graph.node)
        if at == first or at not in inside
    ]
    del graph.node[:]
    graph.node.extend(nodes)
    know_domain(model, DOMAIN)
    _drop_unread(model)


def _free(model: ModelProto) -> str:
    """A name that no node has, and no tensor begins with: a model may be fused twice."""
    graph = model.graph
    taken = {each.name.split(".")[0] for each in (*graph.node, *graph.initializer)}
    taken |= {name.split(".")[0] for node in graph.node for name in (*node.input, *node.output)}
    return next(name for n in count() if (name := f"sequential_{n}") not in taken)


def _drop_unread(model: ModelProto) -> None:
    graph = model.graph
    needed = {value.name for value in (*graph.output, *graph.input)}  # an input may have a default
    needed.update(*(reads(node) for node in graph.node))
    made = {name for node in graph.node for name in node.output}
    for held, wanted in ((graph.initializer, needed), (graph.value_info, made)):
        for at in reversed(range(len(held))):
            if held[at].name not in wanted:
                del held[at]
