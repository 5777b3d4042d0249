"""Finds in an ONNX graph what transformers are made of: norms, attention, functions of one number.

By nodes alone, in the forms that exporters write.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from edge_kernels.quantize.attention_forms import NoAttention, attention
from edge_kernels.quantize.function_forms import functions
from edge_kernels.quantize.functions import bends, operation
from edge_kernels.quantize.graph import Graph, Unserved
from edge_kernels.quantize.norm_forms import norm_chain, norm_node
from edge_kernels.quantize.observed import Form, Observed, observe
from edge_kernels.quantize.recurrences import KINDS, recurrence
from edge_kernels.quantize.softmax_forms import pooling

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["Form", "Forms", "Observed", "find", "observe"]
_COPIES: Final = ("Expand", "Tile")
_ANCHORS: Final = ("Softmax", "LayerNormalization", "RMSNormalization", *KINDS, "ReduceMean")


@dataclass
class Forms:
    """What was found.

    Attributes
    ----------
    ending : dict of int → Form
        By the last of its nodes.
    covered : set of int
        All nodes of forms.
    why : dict of int → str
        Of nodes that begin a form which is not served.
    alone : set of int
        Of these, those whose cause is no cause why nodes before them are part of no form.
    observed : Observed or None
        None: the graph has nothing that calls for it.
    """

    ending: dict[int, Form] = field(default_factory=dict)
    covered: set[int] = field(default_factory=set)
    why: dict[int, str] = field(default_factory=dict)
    alone: set[int] = field(default_factory=set)
    observed: Observed | None = None

    def keep(self, form: Form) -> None:
        """Add a form."""
        self.ending[max(form.nodes)] = form
        self.covered |= form.nodes

    def made(self, output: str) -> Form | None:
        """Return the form that makes a tensor."""
        return next((f for f in self.ending.values() if f.output == output), None)


def find(model: ModelProto, graph: Graph, skip: frozenset[int]) -> Forms:
    """Find all forms.

    Parameters
    ----------
    model : ModelProto
    graph : Graph
        Of the same.
    skip : set of int
        Nodes that are part of none.
    """
    found = Forms()
    kinds = {node.op_type for at, node in enumerate(graph.nodes) if at not in skip}
    if not (kinds & {*_ANCHORS[:-1], *_COPIES} or _nonlinear(graph)):
        return found
    found.observed = observed = observe(model)
    for at, node in enumerate(graph.nodes):
        if at in skip or node.op_type not in _ANCHORS or node.domain not in ("", "ai.onnx"):
            continue
        try:
            form = _FINDERS[node.op_type](graph, observed, at)
        except Unserved as why:
            weighed = pooling(graph, observed, at) if node.op_type == "Softmax" else None
            if weighed is not None:
                found.keep(weighed)
                continue
            found.why[at] = str(why)
            found.alone |= {at} if isinstance(why, NoAttention) else set()
            continue
        if form is not None:
            found.keep(form)
    for form in functions(graph, observed, skip | found.covered):
        found.keep(form)
    return found


def _nonlinear(graph: Graph) -> bool:
    return any((op := operation(graph, node)) is not None and bends(op) for node in graph.nodes)


_FINDERS: Final[dict[str, Callable[[Graph, Observed, int], Form | None]]] = {
    "Softmax": attention,
    "LayerNormalization": norm_node,
    "RMSNormalization": norm_node,
    "ReduceMean": norm_chain,
    **dict.fromkeys(KINDS, recurrence),
}
