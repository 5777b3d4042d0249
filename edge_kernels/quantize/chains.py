"""Tensors seen through views, parts and factors, back to what they are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from edge_kernels.quantize.graph import Graph, Unserved, attributes
from edge_kernels.quantize.observed import Array, Observed
from edge_kernels.quantize.slices import sliced, split

if TYPE_CHECKING:
    from onnx import NodeProto

SCALES: Final = ("Mul", "Div")
PARTS: Final = ("Gather", "Slice", "Split")


@dataclass
class Chain:
    """What makes a tensor of another.

    Attributes
    ----------
    source : str
    nodes : list of (int, str)
        Nodes' places in their graph, and of each the output that counts, from the source on.
    factor : float
    """

    source: str
    nodes: list[tuple[int, str]]
    factor: float = 1.0

    @property
    def places(self) -> list[int]:
        """Of the nodes in their graph."""
        return [at for at, _ in self.nodes]


def factor(graph: Graph, node: NodeProto) -> tuple[str, float] | None:
    """Return what a node multiplies by one number, and that number; None: it does no such."""
    known = graph.constant(node.input[1])
    if known is not None and known.size == 1:
        value = float(known.reshape(()))
        return node.input[0], value if node.op_type == "Mul" else 1 / value
    known = graph.constant(node.input[0])
    if node.op_type == "Mul" and known is not None and known.size == 1:
        return node.input[1], float(known.reshape(()))
    return None


def back(graph: Graph, name: str, over: tuple[str, ...]) -> Chain:
    """Walk from a tensor to the last before it that none of some operators makes."""
    chain = Chain(name, [])
    while (node := graph.maker(chain.source)) is not None and node.domain in ("", "ai.onnx"):
        if node.op_type not in over:
            break
        found = factor(graph, node) if node.op_type in SCALES else (node.input[0], 1.0)
        if found is None:
            break
        chain.nodes.insert(0, (graph.at(node), chain.source))
        chain.source, by = found
        chain.factor *= by
    return chain


def replayed(graph: Graph, observed: Observed, nodes: list[tuple[int, str]], x: Array) -> Array:
    """Return what nodes make of an array, but for their factors.

    Raises
    ------
    Unserved
        Where it is not known which part one of them takes.
    """
    for at, output in nodes:
        node = graph.nodes[at]
        if node.op_type == "Transpose":
            x = x.transpose(attributes(node).get("perm"))
        elif node.op_type == "Expand":
            x = np.broadcast_to(x, observed.concrete(output))
        elif node.op_type in PARTS:
            x = _part(graph, node, output, x)
        elif node.op_type not in SCALES:
            x = x.reshape(observed.concrete(output))
    return x


def _part(graph: Graph, node: NodeProto, output: str, x: Array) -> Array:
    if node.op_type == "Gather":
        index = graph.constant(node.input[1])
        if index is None:
            raise Unserved(f"what {output!r} gathers is not known")
        return np.take(x, index, int(attributes(node).get("axis", 0)))
    found = (split if node.op_type == "Split" else sliced)(graph, node, x.shape)
    if found is None:
        raise Unserved(f"what part {output!r} is is not known")
    axis, bounds = found
    start, stop = bounds[list(node.output).index(output)]
    return np.take(x, np.arange(start, stop), axis)
