"""Inputs of a traced graph baked in, and what follows from them alone computed ahead."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

aten = torch.ops.aten


@dataclass(frozen=True)
class Ahead:
    """What follows from some of a graph's inputs alone.

    Attributes
    ----------
    known : dict[fx.Node, Any]
        Values by node.
    taken : dict[fx.Node, fx.Node]
        The branch of each ``where`` whose condition is one known truth.
    """

    known: dict[fx.Node, Any]
    taken: dict[fx.Node, fx.Node]

    def structure(self) -> tuple[tuple[str, Any], ...]:
        """What the baked graph depends on besides the tensors that it holds."""
        branches = [(node.name, branch.name) for node, branch in self.taken.items()]
        numbers = [(n.name, v) for n, v in self.known.items() if isinstance(v, (bool, int, float))]
        return (*branches, *numbers)


def compute_ahead(traced: fx.GraphModule, values: Mapping[int, Tensor]) -> Ahead:
    """Compute what follows from some inputs, given by position; the graph stays as it is."""
    inputs = traced.graph.find_nodes(op="placeholder")
    found = Ahead({inputs[at]: value for at, value in values.items()}, {})
    known, taken = found.known, found.taken
    for node in traced.graph.nodes:
        if node.op == "get_attr":
            known[node] = getattr(traced, str(node.target))
        elif node.op == "call_function":
            read = [taken.get(each, each) for each in node.all_input_nodes]
            if all(each in known for each in read):
                known[node] = _computed(node, found)
            elif (branch := _taken(node, found)) is not None:
                taken[node] = branch
    return found


def bake(traced: fx.GraphModule, values: Mapping[int, Tensor]) -> fx.GraphModule:
    """Make constants of some inputs, and of everything that depends on nothing else.

    A ``where`` whose condition becomes one known truth becomes the branch taken, so that a head
    that never predicts leaves the graph.

    Parameters
    ----------
    traced : fx.GraphModule
        Of ``make_fx``, without random operators; changed in place, and returned.
    values : Mapping[int, Tensor]
        By the input's position. Those inputs are gone afterwards.
    """
    graph = traced.graph
    inputs = graph.find_nodes(op="placeholder")
    found = compute_ahead(traced, values)
    for node, branch in found.taken.items():
        node.replace_all_uses_with(branch)
    graph.eliminate_dead_code()
    for node in list(graph.nodes):
        known = node in found.known and node.op != "get_attr"
        if known and not set(node.users) <= found.known.keys():
            _hold(traced, node, found.known[node])
    graph.eliminate_dead_code()
    for at in values:
        graph.erase_node(inputs[at])
    traced.recompile()
    return traced


def held_name(node: fx.Node) -> str:
    """What a baked graph calls the tensor that it holds in a node's place."""
    return f"baked_{node.name}"


def _computed(node: fx.Node, found: Ahead) -> Any:
    def value(read: fx.Node) -> Any:
        return found.known[found.taken.get(read, read)]

    arguments, named = fx.node.map_arg((node.args, node.kwargs), value)
    with torch.no_grad():
        return node.target(*arguments, **named)  # type: ignore[operator]


def _taken(node: fx.Node, found: Ahead) -> fx.Node | None:
    """The branch of a ``where`` that is always taken, if it has as many axes as the result."""
    if node.target is not aten.where.self:
        return None
    inputs: Any = node.args
    condition, yes, no = (found.taken.get(each, each) for each in inputs)
    truth = found.known.get(condition)
    if truth is None or truth.numel() != 1:
        return None
    chosen = yes if bool(truth) else no
    assert isinstance(chosen, fx.Node)
    same: bool = chosen.meta["val"].ndim == node.meta["val"].ndim
    return chosen if same else None


def _hold(traced: fx.GraphModule, node: fx.Node, value: Any) -> None:
    """Put a value in its node's place."""
    if not isinstance(value, Tensor):  # a size, or one of several results
        node.replace_all_uses_with(value)
        return
    name = held_name(node)
    traced.register_buffer(name, value.detach().clone().contiguous())
    with traced.graph.inserting_before(node):
        held = traced.graph.get_attr(name)
    held.meta = dict(node.meta)
    node.replace_all_uses_with(held)
