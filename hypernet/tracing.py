"""A function of tensors as torch's exported program, traced once with a free number of windows.

``torch.export`` would trace once more what ``make_fx`` has already decomposed, and ``make_fx`` by
itself takes every length for a symbol: each is half of an export's time.
"""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._dynamo.source import ConstantSource
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
from torch.fx.experimental.symbolic_shapes import (
    DimDynamic,
    ShapeEnv,
    StatelessSymbolicContext,
)
from torch.utils import _pytree as pytree

from hypernet.decompositions import Table
from hypernet.folding import bake

aten = torch.ops.aten


def trace(
    function: Callable[..., Any],
    inputs: Mapping[str, Tensor],
    free: Sequence[str],
    baked: Sequence[Tensor],
    table: Table,
) -> ExportedProgram:
    """Trace a function, decomposed by a table.

    Parameters
    ----------
    function : callable
        Of ``inputs`` and then ``baked``, in order; gives a tensor or a tuple of tensors.
    inputs : Mapping[str, Tensor]
        Examples by name.
    free : Sequence[str]
        Inputs whose first axis is the windows', one length for all of them.
    baked : Sequence[Tensor]
        Become constants, and what follows from them alone is computed ahead.
    table : Mapping
        Decompositions by operator.
    """
    mode = FakeTensorMode(shape_env=ShapeEnv())
    examples = [_fake(mode, name, each, free=name in free) for name, each in inputs.items()]
    constants = [_fake(mode, f"baked_{at}", each, free=False) for at, each in enumerate(baked)]
    traced = make_fx(function, decomposition_table=dict(table), tracing_mode="symbolic")(
        *examples, *constants
    )
    if baked:
        bake(traced, dict(enumerate(baked, len(inputs))))
    return _program(traced, tuple(inputs.values()))


def _fake(mode: FakeTensorMode, name: str, example: Tensor, *, free: bool) -> Tensor:
    """The example without its values; a free axis is the same symbol as others of its length."""
    axes = [DimDynamic.STATIC] * example.ndim
    if free:
        axes[0] = DimDynamic.DUCK
    context: Any = StatelessSymbolicContext(dynamic_sizes=axes)
    return mode.from_tensor(example, source=ConstantSource(name), symbolic_context=context)


def _program(traced: fx.GraphModule, arguments: tuple[Tensor, ...]) -> ExportedProgram:
    """Wrap a flat graph; tensors that it holds become constants among the inputs."""
    graph = traced.graph
    for node in graph.find_nodes(op="call_function", target=aten.sym_numel.default):
        _multiply_sizes(node)
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


def _multiply_sizes(node: fx.Node) -> None:
    """Replace a count of elements, which ONNX's exporter lacks; a −1 among lengths asks for it."""
    (counted,) = node.args
    assert isinstance(counted, fx.Node)
    sizes = tuple(counted.meta["val"].shape)
    value: Any = math.prod(size for size in sizes if isinstance(size, int))
    found: Any = value
    with node.graph.inserting_before(node):
        for axis, size in enumerate(sizes):
            if not isinstance(size, int):
                factor = node.graph.call_function(aten.sym_size.int, (counted, axis))
                found = node.graph.call_function(operator.mul, (factor, found))
                value = size * value
                factor.meta["val"], found.meta["val"] = size, value
    node.replace_all_uses_with(found)
    node.graph.erase_node(node)


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
