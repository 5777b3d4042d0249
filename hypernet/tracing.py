"""A function of tensors as torch's exported program, traced once with a free number of windows.

``torch.export`` would trace once more what ``make_fx`` has already decomposed, and lengths that are
symbols take three times as long as numbers. So the windows' axis has a length that nothing else
has, ``MANY``, and what is found of it among the operators' arguments is the windows' number again.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram, ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_aggregate
from torch.utils import _pytree as pytree

from hypernet.decompositions import Table
from hypernet.folding import bake
from hypernet.lengths import MANY, length, refuse_counted, refuse_counted_in

aten = torch.ops.aten


def trace(
    function: Callable[..., Any],
    inputs: Mapping[str, Tensor],
    free: Sequence[str],
    baked: Sequence[Tensor],
    table: Table,
) -> ExportedProgram:
    """Trace a function and bake tensors in; see ``trace_graph`` and ``hypernet.folding.bake``."""
    traced = trace_graph(function, inputs, free, baked, table)
    if baked:
        bake(traced, dict(enumerate(baked, len(inputs))))
    return exported_program(traced, inputs)


def trace_graph(
    function: Callable[..., Any],
    inputs: Mapping[str, Tensor],
    free: Sequence[str],
    constants: Sequence[Tensor],
    table: Table,
) -> fx.GraphModule:
    """Trace a function, decomposed by a table.

    Parameters
    ----------
    function : callable
        Of ``inputs`` and then ``constants``, in order; gives a tensor or a tuple of tensors.
    inputs : Mapping[str, Tensor]
        Examples by name.
    free : Sequence[str]
        Inputs whose first axis is the windows', one length for all of them.
    constants : Sequence[Tensor]
        Examples of what is to be baked in.
    table : Mapping
        Decompositions by operator.

    Raises
    ------
    ValueError
        Where a number follows from the windows' otherwise than as their multiple and so many more:
        windows × windows, a fraction of them, a constant tensor.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):  # constants of the function's own
        examples = [_example(each, free=name in free) for name, each in inputs.items()]
        examples += [_example(each, free=False) for each in constants]
    traced = make_fx(function, decomposition_table=dict(table), tracing_mode="fake")(*examples)
    for node in traced.graph.find_nodes(op="get_attr"):
        refuse_counted_in(getattr(traced, str(node.target)))
    _leave_out_views_of_the_same_shape(traced.graph)
    _free(traced.graph, [name in free for name in inputs])
    return traced


def _example(like: Tensor, *, free: bool) -> Tensor:
    shape = (MANY, *like.shape[1:]) if free else like.shape
    return torch.empty(shape, dtype=like.dtype)


def _leave_out_views_of_the_same_shape(graph: fx.Graph) -> None:
    for view in (aten.view.default, aten._unsafe_view.default):
        for node in graph.find_nodes(op="call_function", target=view):
            viewed = node.args[0]
            if viewed.meta["val"].shape == node.meta["val"].shape:
                node.replace_all_uses_with(viewed)
                graph.erase_node(node)


def _free(graph: fx.Graph, free: Sequence[bool]) -> None:
    """Put the windows' number, as the first free input has it, where its example's stands."""
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    windows = next((node for node, is_free in zip(inputs, free, strict=False) if is_free), None)
    if windows is None:
        return
    with graph.inserting_after(inputs[-1]):
        count = graph.call_function(aten.sym_size.int, (windows, 0))
    count.meta["val"] = MANY
    for node in list(graph.nodes):
        if node.op == "call_function" and node is not count:
            node.args, node.kwargs = _with_count(node, count)
            _take_tensors(node)
    if not count.users:
        graph.erase_node(count)


def _with_count(node: fx.Node, count: fx.Node) -> Any:
    """A node's arguments, by the number of windows."""

    def value(found: Any) -> Any:
        if isinstance(found, float):
            refuse_counted(found)
        if isinstance(found, bool) or not isinstance(found, int):
            return found
        times, left = length(found)
        if not times:
            return found
        known = count
        for function, other, neutral in ((operator.mul, times, 1), (operator.add, left, 0)):
            if other != neutral:
                with node.graph.inserting_before(node):
                    known = node.graph.call_function(function, (known, other))
                known.meta["val"] = found
        return known

    return map_aggregate((node.args, node.kwargs), value)


def _take_tensors(node: fx.Node) -> None:
    """Hand a count to an operator of tensors as one: the exporter knows counts of lengths alone."""
    tensors = [each for each in node.all_input_nodes if isinstance(each.meta.get("val"), Tensor)]
    operator_ = node.target
    if not tensors or not isinstance(operator_, OpOverload):
        return
    kind = tensors[0].meta["val"].dtype
    for at, (given, argument) in enumerate(
        zip(node.args, operator_._schema.arguments, strict=False)
    ):
        wanted = str(argument.type).removeprefix("Optional[").removesuffix("]")
        counted = isinstance(given, fx.Node) and not isinstance(given.meta["val"], Tensor)
        if counted and wanted in ("number", "Tensor"):
            with node.graph.inserting_before(node):
                tensor = node.graph.call_function(
                    aten.scalar_tensor.default,
                    (given,),
                    {"dtype": torch.int64 if kind is torch.bool else kind},
                )
            tensor.meta["val"] = tensors[0].meta["val"].new_empty((), **tensor.kwargs)
            node.update_arg(at, tensor)
            if wanted == "number":
                node.target = operator_.overloadpacket.Tensor


def exported_program(traced: fx.GraphModule, inputs: Mapping[str, Tensor]) -> ExportedProgram:
    """Wrap a flat graph of ``inputs``; tensors that it holds become constants among them."""
    graph, arguments = traced.graph, tuple(inputs.values())
    users = [node for node in graph.nodes if node.op == "placeholder"]
    constants = _lifted(traced, users[0])
    found = _results(graph.output_node())
    return ExportedProgram(
        traced,
        graph,
        ExportGraphSignature(
            [
                *(_input(InputKind.CONSTANT_TENSOR, name, name) for name in constants),
                *(_input(InputKind.USER_INPUT, node.name) for node in users),
            ],
            [OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(node.name), None) for node in found],
        ),
        {},
        {},
        [ModuleCallEntry("", _signature(arguments, found))],
        (arguments, {}),
        constants,
    )


def _results(output: fx.Node) -> tuple[fx.Node, ...]:
    """What a graph gives; a lone result becomes a tuple of one."""
    (given,) = output.args
    found: Any = given if isinstance(given, (tuple, list)) else (given,)
    output.args = (tuple(found),)
    return tuple(found)


def _input(kind: InputKind, name: str, target: str | None = None) -> InputSpec:
    return InputSpec(kind, TensorArgument(name), target)


def _lifted(traced: fx.GraphModule, first: fx.Node) -> dict[str, Any]:
    """Put a placeholder before the first input for each tensor that the graph holds."""
    constants: dict[str, Any] = {}
    for node in traced.graph.find_nodes(op="get_attr"):
        with traced.graph.inserting_before(first):
            placed = traced.graph.placeholder(f"constant_{len(constants)}")
        placed.meta = dict(node.meta)
        constants[placed.name] = getattr(traced, str(node.target))
        node.replace_all_uses_with(placed)
        traced.graph.erase_node(node)
    return constants


def _signature(arguments: tuple[Tensor, ...], found: tuple[fx.Node, ...]) -> ModuleCallSignature:
    taken = pytree.tree_flatten((arguments, {}))[1]
    given = pytree.tree_flatten(found if len(found) > 1 else found[0])[1]
    return ModuleCallSignature([], [], taken, given)
