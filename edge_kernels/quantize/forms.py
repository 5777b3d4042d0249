"""Finds in an ONNX graph what transformers are made of: norms, attention, functions of one number.

By nodes alone, in the forms that exporters write. What a node's shapes are is observed: the model
runs twice, on batches and lengths that differ, so that no form of symbolic shapes matters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_kernels.integer.net import FREE, Attention, Norm, Shape, Step
from edge_kernels.quantize.functions import LINEAR, NO_VALUES, Function, Operation, operation
from edge_kernels.quantize.graph import Graph, Unserved, attributes

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_SIZES: Final = ((2, 5), (3, 7))  # batch, and any other free axis
_ANCHORS: Final = ("Softmax", "LayerNormalization", "RMSNormalization", "ReduceMean")
_VIEWS: Final = ("Reshape", "Transpose", "Expand", "Identity", "Dropout", "Squeeze", "Unsqueeze")
_SCALES: Final = ("Mul", "Div")
Array = NDArray[Any]


@dataclass(frozen=True)
class Form:
    """Nodes that are one step.

    Attributes
    ----------
    output : str
        The tensor that they make.
    sources : tuple of str
        What they read.
    nodes : frozenset of int
    step : Step
        Its values' numbers mean nothing.
    """

    output: str
    sources: tuple[str, ...]
    nodes: frozenset[int]
    step: Step


@dataclass
class Observed:
    """Shapes of every tensor, in two runs.

    Attributes
    ----------
    shapes : list of dict of str → tuple
        Of each run.
    """

    shapes: list[dict[str, Shape]] = field(default_factory=lambda: [{}, {}])

    def logical(self, name: str) -> Shape | None:
        """Return a tensor's shape without the batch, `FREE` where it differs; None: it has none."""
        first, second = (each.get(name, ()) for each in self.shapes)
        if len(first) != len(second) or len(first) < 2 or first[0] != self.batch(0):
            return None
        return tuple(a if a == b else FREE for a, b in zip(first[1:], second[1:], strict=True))

    def batch(self, run: int) -> int:
        """Return how many samples a run had."""
        return int(self.shapes[run][""][0])

    def concrete(self, name: str) -> Shape:
        """Return the first run's shape.

        Raises
        ------
        Unserved
            Where the tensor is none that was seen.
        """
        if name not in self.shapes[0]:
            raise Unserved(f"the shape of {name!r} is not known")
        return self.shapes[0][name]


def observe(model: ModelProto) -> Observed:
    """Run a model of one input on zeros twice, and return the shapes of all tensors.

    Raises
    ------
    ValueError
        Where ONNX Runtime cannot run it.
    """
    import onnxruntime
    from onnx import ModelProto as Model
    from onnx import ValueInfoProto, helper

    whole = Model()
    whole.CopyFrom(model)
    known = {value.name for value in whole.graph.output}
    names = [name for node in whole.graph.node for name in node.output if name]
    whole.graph.output.extend(ValueInfoProto(name=name) for name in names if name not in known)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    (given,) = whole.graph.input
    kind = helper.tensor_dtype_to_np_dtype(given.type.tensor_type.elem_type)
    dims = [dim.dim_value for dim in given.type.tensor_type.shape.dim]
    made = Observed()
    try:
        session = onnxruntime.InferenceSession(
            whole.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        for run, (batch, length) in enumerate(_SIZES):
            shape = [dims[0] or batch, *(dim or length for dim in dims[1:])]
            x = np.zeros(shape, kind)
            outputs = [value.name for value in session.get_outputs()]
            results = session.run(outputs, {given.name: x})
            seen = made.shapes[run]
            seen.update({n: np.shape(r) for n, r in zip(outputs, results, strict=True)})
            seen[given.name] = seen[""] = tuple(shape)
    except Exception as error:  # ONNX Runtime's own have no common class
        raise ValueError(
            f"ONNX Runtime cannot run the model, so that its shapes stay unknown: {error}"
        ) from error
    return made


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
    observed : Observed or None
        None: the graph has nothing that calls for it.
    """

    ending: dict[int, Form] = field(default_factory=dict)
    covered: set[int] = field(default_factory=set)
    why: dict[int, str] = field(default_factory=dict)
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
    kinds = {node.op_type for node in graph.nodes}
    if not (kinds & set(_ANCHORS[:3]) or _nonlinear(graph)):
        return found
    found.observed = observed = observe(model)
    for at, node in enumerate(graph.nodes):
        if at in skip or node.op_type not in _ANCHORS or node.domain not in ("", "ai.onnx"):
            continue
        try:
            form = _FINDERS[node.op_type](graph, observed, at)
        except Unserved as why:
            found.why[at] = str(why)
            continue
        if form is not None:
            found.keep(form)
    for form in _functions(graph, observed, skip | found.covered):
        found.keep(form)
    return found


def _nonlinear(graph: Graph) -> bool:
    return any(
        (op := operation(graph, node)) is not None and op.name not in LINEAR for node in graph.nodes
    )


# Norms.


def _norm_node(graph: Graph, observed: Observed, at: int) -> Form:
    node = graph.nodes[at]
    given = attributes(node)
    x = node.input[0]
    width = observed.concrete(x)[-1]
    if given.get("axis", -1) % len(observed.concrete(x)) != len(observed.concrete(x)) - 1:
        raise Unserved(f"it norms from axis {given['axis']} on; the last alone is served")
    if any(node.output[1:]) and any(graph.uses[name] for name in node.output[1:]):
        raise Unserved("its mean or deviation is read")
    factor = _vector(graph, node.input[1], width)
    term = np.zeros(width)
    if len(node.input) > 2 and node.input[2]:
        term = _vector(graph, node.input[2], width)
    rms = node.op_type == "RMSNormalization"
    step = Norm(0, factor, term, float(given.get("epsilon", 1e-5)), rms)
    return _gained(graph, Form(node.output[0], (x,), frozenset([at]), step))


def _vector(graph: Graph, name: str, width: int) -> NDArray[np.float64]:
    known = graph.constant(name)
    fits = known is not None and known.size in (1, width)
    if known is None or not fits or (known.size > 1 and known.shape[-1] != known.size):
        raise Unserved(f"its factor or term {name!r} is not one constant a channel")
    return np.broadcast_to(np.asarray(known, np.float64).reshape(-1), (width,)).copy()


@dataclass
class _Root:
    """What became of a mean of squares: its sum with ε, then one root, then maybe 1 over that."""

    epsilon: float = 0.0
    rooted: bool = False
    inverse: bool = False

    def take(self, graph: Graph, node: NodeProto, tensor: str) -> bool:
        """Follow a node that reads what there is so far; False: it makes something else of it."""
        power = _power(graph, node)
        if self.rooted:
            again, self.inverse = self.inverse, True
            return node.op_type == "Reciprocal" and not again
        if node.op_type == "Add" and (value := _other_scalar(graph, node, tensor)) is not None:
            self.epsilon += value
            return True
        self.rooted, self.inverse = True, power == -0.5
        return node.op_type == "Sqrt" or power in (0.5, -0.5)


def _norm_chain(graph: Graph, observed: Observed, at: int) -> Form | None:
    """From the mean of squares: ReduceMean, Add ε, Sqrt, Div; or Reciprocal and Mul for Div."""
    node = graph.nodes[at]
    squared = graph.maker(node.input[0])
    if squared is None or not _over_last(graph, observed, node):
        return None
    d = _square_of(graph, squared)
    if d is None:
        return None
    x, centring = _centred(graph, observed, d)
    nodes = {at, graph.at(squared), *centring}
    tensor, root = node.output[0], _Root()
    while (after := graph.only_reader(tensor)) is not None:
        step = graph.nodes[after]
        if step.op_type in ("Div", "Mul") and d in step.input:
            return _ended(graph, observed, (d, x), nodes | {after}, root, after)
        if not root.take(graph, step, tensor):
            return None
        nodes.add(after)
        tensor = step.output[0]
    return None


def _ended(
    graph: Graph,
    observed: Observed,
    names: tuple[str, str],
    nodes: set[int],
    root: _Root,
    last: int,
) -> Form | None:
    d, x = names
    node = graph.nodes[last]
    if not root.rooted or (node.op_type == "Mul") != root.inverse:
        return None
    if node.op_type == "Div" and node.input[0] != d:
        return None
    inner = {name for each in nodes for name in graph.nodes[each].output} - {node.output[0]}
    if any(set(graph.readers.get(name, [])) - nodes for name in inner):
        return None  # somebody else reads what lies inside
    width = observed.concrete(x)[-1]
    step = Norm(0, np.ones(width), np.zeros(width), root.epsilon, rms=d == x)
    return _gained(graph, Form(node.output[0], (x,), frozenset(nodes), step))


def _gained(graph: Graph, form: Form) -> Form:
    """Take in a factor and a term of each channel that follow."""
    norm = form.step
    assert isinstance(norm, Norm)
    while (after := graph.only_reader(form.output)) is not None:
        node = graph.nodes[after]
        if node.op_type not in ("Mul", "Add"):
            break
        other = node.input[1] if node.input[0] == form.output else node.input[0]
        try:
            vector = _vector(graph, other, len(norm.factor))
        except Unserved:
            break
        if node.op_type == "Mul":
            norm = Norm(0, norm.factor * vector, norm.term * vector, norm.epsilon, norm.rms)
        else:
            norm = Norm(0, norm.factor, norm.term + vector, norm.epsilon, norm.rms)
        form = Form(node.output[0], form.sources, form.nodes | {after}, norm)
    return form


def _over_last(graph: Graph, observed: Observed, node: NodeProto) -> bool:
    shape = observed.concrete(node.input[0])
    axes = attributes(node).get("axes")
    if axes is None and len(node.input) > 1:
        known = graph.constant(node.input[1])
        axes = None if known is None else known.tolist()
    keep = attributes(node).get("keepdims", 1)
    return bool(keep and axes and [axis % len(shape) for axis in axes] == [len(shape) - 1])


def _square_of(graph: Graph, node: NodeProto) -> str | None:
    if _power(graph, node) == 2:
        return str(node.input[0])
    if node.op_type == "Mul" and node.input[0] == node.input[1]:
        return str(node.input[0])
    return None


def _power(graph: Graph, node: NodeProto) -> float | None:
    if node.op_type != "Pow":
        return None
    known = graph.constant(node.input[1])
    return None if known is None or known.size != 1 else float(known.reshape(()))


def _centred(graph: Graph, observed: Observed, d: str) -> tuple[str, set[int]]:
    """What a tensor is after its mean over the last axis is taken off; itself: none is."""
    sub = graph.maker(d)
    mean = None if sub is None or sub.op_type != "Sub" else graph.maker(sub.input[1])
    if sub is None or mean is None or mean.op_type != "ReduceMean":
        return d, set()
    if mean.input[0] != sub.input[0] or not _over_last(graph, observed, mean):
        return d, set()
    return str(sub.input[0]), {graph.at(sub), graph.at(mean)}


def _other_scalar(graph: Graph, node: NodeProto, name: str) -> float | None:
    other = node.input[1] if node.input[0] == name else node.input[0]
    known = graph.constant(other)
    return None if known is None or known.size != 1 else float(known.reshape(()))


# Attention.


@dataclass
class _Chain:
    """A tensor seen through reshapes, transpositions and factors.

    Attributes
    ----------
    source : str
    nodes : list of int
        From the source on.
    factor : float
    """

    source: str
    nodes: list[int]
    factor: float


def _back(graph: Graph, name: str) -> _Chain:
    """Walk from a tensor to what it is a view of."""
    chain = _Chain(name, [], 1.0)
    while (node := graph.maker(chain.source)) is not None:
        x = node.input[0] if node.input else ""
        if node.op_type in _SCALES:
            factor = _factor(graph, node)
            if factor is None:
                break
            chain.factor *= factor[1]
            x = factor[0]
        elif node.op_type not in _VIEWS or node.domain not in ("", "ai.onnx"):
            break
        chain.nodes.insert(0, graph.at(node))
        chain.source = x
    return chain


def _factor(graph: Graph, node: NodeProto) -> tuple[str, float] | None:
    """What a node multiplies by one number, and that number."""
    known = graph.constant(node.input[1])
    if known is not None and known.size == 1:
        value = float(known.reshape(()))
        return node.input[0], value if node.op_type == "Mul" else 1 / value
    known = graph.constant(node.input[0])
    if node.op_type == "Mul" and known is not None and known.size == 1:
        return node.input[1], float(known.reshape(()))
    return None


def _attention(graph: Graph, observed: Observed, at: int) -> Form:
    softmax = graph.nodes[at]
    rank = len(observed.concrete(softmax.input[0]))
    if attributes(softmax).get("axis", -1) % rank != rank - 1:
        raise Unserved("a softmax over another axis than the last is no attention")
    scores = _back(graph, softmax.input[0])
    first = graph.maker(scores.source)
    if first is None or first.op_type != "MatMul":
        raise Unserved(
            f"its scores come from {'the input' if first is None else first.op_type}, not from a "
            "product of queries and keys; attention with a mask is not served: export without it, "
            "for one sentence or sentences of equal length"
        )
    if not _in_order(graph, observed, scores, softmax.input[0]):
        raise Unserved("its scores are moved between their product and the softmax")
    tensor, nodes = _views_after(graph, softmax.output[0])
    second = graph.only_reader(tensor)
    if second is None or graph.nodes[second].op_type != "MatMul":
        raise Unserved("its probabilities are read by something other than one product")
    mix = graph.nodes[second]
    if mix.input[0] != tensor:
        raise Unserved("its probabilities are the right operand of their product")
    q, k, v = (_back(graph, name) for name in (*first.input, mix.input[1]))
    heads = [_heads(graph, observed, each, order) for each, order in ((q, 0), (k, 1), (v, 0))]
    if len(set(heads)) != 1:
        raise Unserved(f"queries, keys and values have {heads} heads")
    scale = scores.factor * q.factor * k.factor
    if not scale > 0 or v.factor != 1:
        raise Unserved(f"its scores are multiplied by {scale}, its values by {v.factor}")
    own = {at, second, graph.at(first), *nodes, *scores.nodes, *q.nodes, *k.nodes, *v.nodes}
    output, after = _merged(graph, observed, mix.output[0], heads[0])
    sources = (q.source, k.source, v.source)
    return Form(output, sources, frozenset(own | after), Attention(0, 0, 0, heads[0], scale))


def _in_order(graph: Graph, observed: Observed, chain: _Chain, output: str) -> bool:
    """Whether a chain leaves its source's rows what they are, one after the other."""
    for at in chain.nodes:
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


def _heads(graph: Graph, observed: Observed, chain: _Chain, order: int) -> int:
    """How many heads a chain makes of its source; its elements' places are followed."""
    shape = observed.concrete(chain.source)
    batch = observed.batch(0)
    length = int(np.prod(shape[:-1])) // batch
    places = np.arange(np.prod(shape)).reshape(shape)
    made = _viewed(graph, observed, chain.nodes, places)
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


def _viewed(graph: Graph, observed: Observed, nodes: list[int], x: Array) -> Array:
    for at in nodes:
        node = graph.nodes[at]
        shape = observed.concrete(node.output[0])
        if node.op_type == "Transpose":
            x = x.transpose(attributes(node).get("perm"))
        elif node.op_type == "Expand":
            x = np.broadcast_to(x, shape)
        else:
            x = x.reshape(shape)
    return x


def _merged(graph: Graph, observed: Observed, tensor: str, heads: int) -> tuple[str, set[int]]:
    """Follow the product's result up to where heads stand side by side."""
    shape = observed.concrete(tensor)
    batch = observed.batch(0)
    places = np.arange(np.prod(shape)).reshape(shape)
    wanted = places.reshape(batch, heads, shape[-2], shape[-1]).transpose(0, 2, 1, 3).reshape(-1)
    nodes: list[int] = []
    width = heads * shape[-1]
    while (after := graph.only_reader(tensor)) is not None:
        if graph.nodes[after].op_type not in _VIEWS:
            break
        nodes.append(after)
        tensor = graph.nodes[after].output[0]
        made = _viewed(graph, observed, nodes, places)
        if made.shape[-1] == width and np.array_equal(made.ravel(), wanted):
            return tensor, set(nodes)
    raise Unserved("its heads are not put side by side again: Transpose and Reshape are expected")


# Functions of one number.


def _functions(graph: Graph, observed: Observed, skip: frozenset[int] | set[int]) -> Iterator[Form]:
    """Element-wise nodes that depend on one tensor alone, where one of them is not linear."""
    root: dict[str, str] = {}
    made: dict[str, tuple[int, Operation]] = {}
    for at, node in enumerate(graph.nodes):
        op = None if at in skip else operation(graph, node)
        if op is None:
            continue
        roots = {root.get(name, name) for name in op.reads}
        known = all(name in observed.shapes[0] for name in (*roots, node.output[0]))
        if len(roots) != 1 or not known:
            continue
        (source,) = roots
        if observed.concrete(source) == observed.concrete(node.output[0]):
            root[node.output[0]] = source
            made[node.output[0]] = at, op
    inside = {at for at, _ in made.values()}
    for output, source in root.items():
        readers = graph.readers.get(output, [])
        ends = graph.uses[output] > len(readers) or any(each not in inside for each in readers)
        nodes, operations = _needed(made, output)
        if ends and any(op.name not in LINEAR for op in operations):
            step = Function(0, NO_VALUES, source, tuple(operations))
            yield Form(output, (source,), frozenset(nodes), step)


def _needed(
    made: dict[str, tuple[int, Operation]], output: str
) -> tuple[list[int], list[Operation]]:
    """The nodes that make an output, in order."""
    wanted, found = [output], {}
    while wanted:
        name = wanted.pop()
        if name in made and made[name][0] not in found:
            found[made[name][0]] = made[name][1]
            wanted.extend(made[name][1].reads)
    order = sorted(found)
    return order, [found[at] for at in order]


_FINDERS: Final[dict[str, Callable[[Graph, Observed, int], Form | None]]] = {
    "Softmax": _attention,
    "LayerNormalization": _norm_node,
    "RMSNormalization": _norm_node,
    "ReduceMean": _norm_chain,
}
