"""Attention with heads, from its softmax to the views on either side."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Final

import numpy as np

from edge_kernels.integer.net import Attention
from edge_kernels.quantize.chains import SCALES, Chain, back, factor, replayed
from edge_kernels.quantize.graph import Graph, Unserved, attributes
from edge_kernels.quantize.observed import Form, Observed

if TYPE_CHECKING:
    pass

_VIEWS: Final = ("Reshape", "Transpose", "Expand", "Identity", "Dropout", "Squeeze", "Unsqueeze")
_OVER: Final = (*_VIEWS, *SCALES)
_MASKS: Final = ("Add", "Sub", "Where")


@dataclass(frozen=True)
class Scored:
    """The two products around a softmax.

    Attributes
    ----------
    q, k, v : str
        Their operands: the keys are columns.
    mixed : str
        What the second makes.
    factor : float
        Of the scores, after the first.
    nodes : set of int
    """

    q: str
    k: str
    v: str
    mixed: str
    factor: float
    nodes: set[int]


def scored(graph: Graph, observed: Observed, at: int) -> Scored:
    """Return the products around a softmax.

    Raises
    ------
    Unserved
        Where it has others.
    """
    softmax = graph.nodes[at]
    rank = len(observed.concrete(softmax.input[0]))
    if attributes(softmax).get("axis", -1) % rank != rank - 1:
        raise Unserved("a softmax over another axis than the last is no attention")
    scores = back(graph, softmax.input[0], _OVER)
    first = graph.maker(scores.source)
    if first is None or first.op_type != "MatMul":
        raise _no_scores("the input" if first is None else first.op_type)
    if not _in_order(graph, observed, scores, softmax.input[0]):
        raise Unserved("its scores are moved between their product and the softmax")
    tensor, nodes = _views_after(graph, softmax.output[0])
    second = graph.only_reader(tensor)
    if second is None or graph.nodes[second].op_type != "MatMul":
        raise Unserved("its probabilities are read by something other than one product")
    mix = graph.nodes[second]
    if mix.input[0] != tensor:
        raise Unserved("its probabilities are the right operand of their product")
    own = {at, second, graph.at(first), *nodes, *scores.places}
    q, k = first.input
    return Scored(q, k, mix.input[1], mix.output[0], scores.factor, own)


def attention(graph: Graph, observed: Observed, at: int) -> Form:
    """Return the form around a softmax.

    Raises
    ------
    Unserved
        Where queries, keys, values or the way between them are not as one attention has them.
    """
    parts = scored(graph, observed, at)
    names = ((parts.q, 0), (parts.k, 1), (parts.v, 0))
    (q, k, v), heads = zip(*(_split(graph, observed, *each) for each in names), strict=True)
    if len(set(heads)) != 1:
        raise Unserved(f"queries, keys and values have {heads} heads")
    scale = parts.factor * q.factor * k.factor
    if not scale > 0 or v.factor != 1:
        raise Unserved(f"its scores are multiplied by {scale}, its values by {v.factor}")
    own = parts.nodes.union(q.places, k.places, v.places)
    output, after = _merged(graph, observed, parts.mixed, heads[0])
    sources = (q.source, k.source, v.source)
    return Form(output, sources, frozenset(own | after), Attention(0, 0, 0, heads[0], scale))


def _no_scores(maker: str) -> Unserved:
    why = f"its scores come from {maker}, not from a product of queries and keys"
    if maker in _MASKS:
        return Unserved(
            f"{why}; attention with a mask is not served: export without it, for one sentence or "
            "sentences of equal length"
        )
    return NoAttention(f"{why}; a softmax is served in attention, and as a model's last node")


class NoAttention(Unserved):
    """A softmax of something else, which says nothing of the nodes before it."""


def _in_order(graph: Graph, observed: Observed, chain: Chain, output: str) -> bool:
    """Whether a chain leaves its source's rows what they are, one after the other."""
    for at in chain.places:
        order = attributes(graph.nodes[at]).get("perm")
        if graph.nodes[at].op_type == "Transpose" and (order is None or order != sorted(order)):
            return False
    before, after = observed.concrete(chain.source), observed.concrete(output)
    return before[-1] == after[-1] and np.prod(before) == np.prod(after)


def _views_after(graph: Graph, tensor: str) -> tuple[str, set[int]]:
    """Walk over what copies a tensor for one reader, up to the first that does something."""
    nodes: set[int] = set()
    while (after := graph.only_reader(tensor)) is not None:
        node = graph.nodes[after]
        if node.op_type not in ("Identity", "Reshape", "Expand", "Dropout"):
            break
        nodes.add(after)
        tensor = node.output[0]
    return tensor, nodes


def _split(graph: Graph, observed: Observed, name: str, order: int) -> tuple[Chain, int]:
    """The way to a product's operand from a tensor by positions, the first there is; and heads."""
    chain, why = back(graph, name, _OVER), None
    for first in range(len(chain.nodes) + 1):
        source = chain.nodes[first - 1][1] if first else chain.source
        later = chain.nodes[first:]
        scales = (graph.nodes[at] for at, _ in later if graph.nodes[at].op_type in SCALES)
        factors = (factor(graph, node) for node in scales)
        part = Chain(source, later, prod(found[1] for found in factors if found is not None))
        try:
            return part, _heads(graph, observed, part, order)
        except Unserved as error:
            why = why or error
    assert why is not None
    raise why


def _heads(graph: Graph, observed: Observed, chain: Chain, order: int) -> int:
    """How many heads a chain makes of its source; its elements' places are followed."""
    shape = observed.concrete(chain.source)
    batch = observed.batch(0)
    length = int(np.prod(shape[:-1])) // batch
    places = np.arange(np.prod(shape)).reshape(shape)
    made = replayed(graph, observed, chain.nodes, places)
    heads = int(made.size) // (batch * made.shape[-1] * made.shape[-2])
    if heads < 1 or shape[-1] % heads:
        raise Unserved(f"{chain.source!r} is not split into heads evenly")
    wanted = places.reshape(batch, length, heads, -1).transpose(0, 2, 1, 3)
    wanted = wanted.swapaxes(-1, -2) if order else wanted
    tail = made.shape[-2:] == wanted.shape[-2:]
    if not tail or made.size != wanted.size or not np.array_equal(made.ravel(), wanted.ravel()):
        raise Unserved(
            f"what lies between {chain.source!r} and its product is no split into equal heads"
        )
    return int(heads)


def _merged(graph: Graph, observed: Observed, tensor: str, heads: int) -> tuple[str, set[int]]:
    """Follow the product's result up to where heads stand side by side."""
    shape = observed.concrete(tensor)
    batch = observed.batch(0)
    places = np.arange(np.prod(shape)).reshape(shape)
    wanted = places.reshape(batch, heads, shape[-2], shape[-1]).transpose(0, 2, 1, 3).reshape(-1)
    if heads == 1 and len(shape) == 3 and shape[0] == batch:
        return tensor, set()
    nodes: list[tuple[int, str]] = []
    width = heads * shape[-1]
    while (after := graph.only_reader(tensor)) is not None:
        if graph.nodes[after].op_type not in _VIEWS:
            break
        tensor = graph.nodes[after].output[0]
        nodes.append((after, tensor))
        made = replayed(graph, observed, nodes, places)
        if made.shape[-1] == width and np.array_equal(made.ravel(), wanted):
            return tensor, {at for at, _ in nodes}
    raise Unserved("its heads are not put side by side again: Transpose and Reshape are expected")
