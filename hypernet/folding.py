"""Inputs of a traced graph baked in, and what follows from them alone computed ahead."""

from typing import Any

import torch
from torch import Tensor, fx

aten = torch.ops.aten


def bake(traced: fx.GraphModule, values: dict[int, Tensor]) -> fx.GraphModule:
    """Make constants of some inputs, and of everything that depends on nothing else.

    A ``where`` whose condition becomes one known truth becomes the branch taken, so that a head
    that never predicts leaves the graph.

    Parameters
    ----------
    traced : fx.GraphModule
        Of ``make_fx``, without random operators; changed in place, and returned.
    values : dict[int, Tensor]
        By the input's position. Those inputs are gone afterwards.
    """
    graph = traced.graph
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    known: dict[fx.Node, Any] = {inputs[at]: value for at, value in values.items()}
    for node in graph.nodes:
        if node.op == "get_attr":
            known[node] = getattr(traced, str(node.target))
        elif node.op == "call_function" and all(each in known for each in node.all_input_nodes):
            known[node] = _computed(node, known)
        elif (branch := _taken(node, known)) is not None:
            node.replace_all_uses_with(branch)
    graph.eliminate_dead_code()
    for node in list(graph.nodes):
        if node in known and node.op != "get_attr" and not set(node.users) <= known.keys():
            _hold(traced, node, known[node])
    graph.eliminate_dead_code()
    for at in values:
        graph.erase_node(inputs[at])
    traced.recompile()
    return traced


def _computed(node: fx.Node, known: dict[fx.Node, Any]) -> Any:
    arguments, named = fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
    with torch.no_grad():
        return node.target(*arguments, **named)  # type: ignore[operator]


def _taken(node: fx.Node, known: dict[fx.Node, Any]) -> fx.Node | None:
    """The branch of a ``where`` that is always taken, if it has as many axes as the result."""
    if node.target is not aten.where.self:
        return None
    condition, yes, no = node.args
    truth = known.get(condition)  # type: ignore[arg-type]
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
    name = f"baked_{node.name}"
    traced.register_buffer(name, value.detach().clone().contiguous())
    with traced.graph.inserting_before(node):
        held = traced.graph.get_attr(name)
    held.meta = dict(node.meta)
    node.replace_all_uses_with(held)
