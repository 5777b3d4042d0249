"""What ONNX nodes are in programs of `LutSequential`."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_kernels import layout
from edge_kernels.quantize.graph import attributes, drops
from edge_kernels.sequential_program import (
    ADD,
    AFFINE,
    CONCAT,
    CONV,
    LINEAR,
    POOL,
    REDUCE,
    RELU,
    RESHAPE,
    TRANSPOSE,
    Array,
    Program,
    Shape,
    Unfused,
    Value,
)

if TYPE_CHECKING:
    from onnx import NodeProto

_LAYERS = ("LutMatMul", "LutConv1d")
_RELU_OPERAND = {LINEAR: 4, CONV: 4, AFFINE: 5}

Given = dict[str, Any]


def add_node(program: Program, node: NodeProto) -> None:
    """Append what a node does.

    Raises
    ------
    Unfused
        If no instruction does it; the program is unchanged.
    """
    translate = _TRANSLATORS.get(node.op_type)
    domain = "flwr.edge" if node.op_type in _LAYERS else ""
    if translate is None or node.domain.replace("ai.onnx", "") != domain:
        raise Unfused(f"there is no instruction for {node.op_type}")
    if any(node.output[1:]) and node.op_type != "LutMatMul":
        training = node.op_type == "BatchNormalization"
        how = ", as in training: export the model in eval mode" if training else ""
        raise Unfused(f"it has more than one output{how}")
    translate(program, node, attributes(node))
    program.layers += node.op_type in _LAYERS


def _matmul(program: Program, node: NodeProto, given: Given) -> None:
    x = program.value(node.input[0])
    blob = _blob(program, node.input[1])
    bias = _bias(program, node)
    relu = int(given.get("relu", 0))
    if x.shape[-1] != given["k"]:
        raise Unfused(f"it reads {x.shape[-1]} inputs and has weights for {given['k']}")
    splits = list(given.get("splits", [])) or [given["n"]]
    parts: list[Array | str] = [node.input[1]]
    biases: list[Array | str | None] = [bias]
    if len(splits) > 1:
        parts, biases = [*_split(blob, splits)], [*_split_bias(program, bias, splits)]
    for output, n, part, part_bias in zip(node.output, splits, parts, biases, strict=True):
        numbers = program.keep(part), -1 if part_bias is None else program.keep(part_bias)
        program.emit(output, (*x.shape[:-1], n), LINEAR, x.number, *numbers, relu, n)


def _split(blob: Array, splits: list[int]) -> list[Array]:
    """Blobs of the rows of each output."""
    whole = layout.unpack(blob)
    at = [int(row) for row in np.cumsum([0, *splits])]
    return [
        layout.pack(
            whole.codes[a:b],
            whole.scales[a:b],
            bits=whole.bits,
            group=whole.group,
            values=whole.values,
            zeros=None if whole.zeros is None else whole.zeros[a:b],
        )
        for a, b in pairwise(at)
    ]


def _split_bias(program: Program, bias: str | None, splits: list[int]) -> list[Array | None]:
    if bias is None:
        return [None] * len(splits)
    whole = program.constant(bias)
    assert whole is not None
    return list(np.split(whole, np.cumsum(splits)[:-1]))


def _conv(program: Program, node: NodeProto, given: Given) -> None:
    x = program.value(node.input[0])
    _blob(program, node.input[1])
    bias = _bias(program, node)
    if len(x.shape) != 2 or x.shape[0] != given["channels"]:
        raise Unfused(f"its input is of shape {x.shape}; it needs {given['channels']} channels")
    window = (given["kernel"], given.get("stride", 1), given.get("dilation", 1))
    pads = tuple(given.get("pads", (0, 0)))
    length = _positions(x.shape[1], *window, pads)
    weights = program.keep(node.input[1])
    numbers = weights, -1 if bias is None else program.keep(bias)
    relu, n = int(given.get("relu", 0)), given["n"]
    program.emit(node.output[0], (n, length), CONV, x.number, *numbers, relu, n, *window, *pads)


def _blob(program: Program, name: str) -> Array:
    blob = program.constant(name)
    if blob is None:
        raise Unfused("its weights are not constant")
    return blob


def _bias(program: Program, node: NodeProto) -> str | None:
    if len(node.input) < 3 or not node.input[2]:
        return None
    if program.constant(node.input[2]) is None:
        raise Unfused("its bias is not constant")
    return str(node.input[2])


def _positions(length: int, kernel: int, stride: int, dilation: int, pads: Shape) -> int:
    span = dilation * (kernel - 1) + 1
    if length + sum(pads) < span or max(pads) >= span:
        raise Unfused(f"its window of {span} does not fit {length} steps with pads {pads}")
    return (length + sum(pads) - span) // stride + 1


def _relu(program: Program, node: NodeProto, given: Given) -> None:
    top = 0.0 if node.op_type == "Relu" else _top(program, node, given)
    x, output = program.value(node.input[0]), node.output[0]
    made = f"{output}.positive" if top else output
    before = program.made_last(node.input[0])
    if before is not None and before[0] in _RELU_OPERAND:
        before[_RELU_OPERAND[before[0]]] = 1
        program.values[made] = x
    else:
        program.emit(made, x.shape, RELU, x.number)
    if top:  # c − relu(c − relu(x)) is exact however large x is
        under = _line(program, f"{output}.under", program.values[made], -1, top, relu=True)
        _line(program, output, under, -1, top)


def _top(program: Program, node: NodeProto, given: Given) -> float:
    """The bound of a Clip above 0; 0: it has none."""
    low, high = (
        program.constant(node.input[at]) if len(node.input) > at and node.input[at] else None
        for at in (1, 2)
    )
    bounded = len(node.input) > 2 and bool(node.input[2])
    fits = not bounded or (high is not None and high.size == 1 and 0 < float(high.item()) < np.inf)
    if low is None or low.any() or not fits or "max" in given:
        raise Unfused("it clips to other bounds than 0 and a constant above it, or infinity")
    return 0.0 if high is None else float(high.item())


def _leaky(program: Program, node: NodeProto, given: Given) -> None:
    """relu(x) − slope · relu(−x), of a slope for all channels or one for each."""
    x, output = program.value(node.input[0]), node.output[0]
    slope: Array | None = np.array([given.get("alpha", 0.01)], np.float32)
    if node.op_type == "PRelu":
        slope = program.constant(node.input[1])
    if slope is None:
        raise Unfused("its slope is computed at run time")
    axis, slopes = _vector(slope, x.shape)
    program.emit(f"{output}.positive", x.shape, RELU, x.number)
    below = _line(program, f"{output}.below", x, -1, relu=True)
    program.emit(
        f"{output}.leak", x.shape, AFFINE, below.number, program.keep(-slopes), -1, axis, 0
    )
    parts = (program.values[f"{output}.{each}"].number for each in ("positive", "leak"))
    program.emit(output, x.shape, ADD, *parts)


def _pool(program: Program, node: NodeProto, given: Given) -> None:
    x = program.value(node.input[0])
    if len(x.shape) != 2 or len(given["kernel_shape"]) != 1:
        raise Unfused("only 1-D pooling is served")
    if given.get("ceil_mode", 0) or given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise Unfused("ceil_mode and auto_pad are not served")
    kernel, dilation = given["kernel_shape"][0], given.get("dilations", [1])[0]
    pads = tuple(given.get("pads", (0, 0)))
    if sum(pads) and (dilation > 1 or max(pads) >= kernel):
        raise Unfused("pads with a dilation, or as long as the kernel, are not served")
    window = (kernel, given.get("strides", [1])[0], dilation)
    length = _positions(x.shape[1], *window, pads)
    kind = 0 if node.op_type == "MaxPool" else 2 if given.get("count_include_pad", 0) else 1
    program.emit(node.output[0], (x.shape[0], length), POOL, x.number, kind, *window, *pads)


def _reduce(program: Program, node: NodeProto, given: Given) -> None:
    x = program.value(node.input[0])
    rank, keep = len(x.shape) + 1, int(given.get("keepdims", 1))
    if node.op_type.startswith("Global"):
        axes, keep = [2], 1
    else:
        axes = _axes(program, node, given, "axes")
    axes = [axis % rank for axis in axes]
    if len(axes) != 1 or axes[0] == 0 or rank - len(axes) + keep < 2:
        raise Unfused(f"it reduces axes {axes} of {rank}")
    axis, kind = axes[0] - 1, int("Max" not in node.op_type)
    kept = (1,) if keep else ()
    shape = (*x.shape[:axis], *kept, *x.shape[axis + 1 :])
    total, output = node.op_type == "ReduceSum", node.output[0]
    reduced = f"{output}.mean" if total else output
    program.emit(reduced, shape, REDUCE, x.number, kind, axis, keep)
    if total:
        _line(program, output, program.values[reduced], x.shape[axis])


def _axes(program: Program, node: NodeProto, given: Given, what: str) -> list[int]:
    """Axes: an attribute in old opsets, an input in new ones."""
    if len(node.input) < 2 or not node.input[1]:
        return list(given.get(what, []))
    axes = program.constant(node.input[1])
    if axes is None:
        raise Unfused(f"its {what} are computed at run time")
    return [int(axis) for axis in axes.reshape(-1)]


def _concat(program: Program, node: NodeProto, given: Given) -> None:
    parts = [program.value(name) for name in node.input]
    rank = len(parts[0].shape) + 1
    axis = given["axis"] % rank - 1
    others = {(*p.shape[:axis], -1, *p.shape[axis + 1 :]) for p in parts}
    if axis < 0 or len(others) != 1:
        raise Unfused("it concatenates samples, or values of other shapes")
    shape = list(parts[0].shape)
    shape[axis] = sum(p.shape[axis] for p in parts)
    numbers = [part.number for part in parts]
    program.emit(node.output[0], tuple(shape), CONCAT, axis, len(numbers), *numbers)


def _arithmetic(program: Program, node: NodeProto, given: Given) -> None:
    del given
    first, second = node.input
    constants = program.constant(first), program.constant(second)
    if constants[0] is None and constants[1] is None:
        _sum(program, node, program.value(first), program.value(second))
        return
    name, constant = (first, constants[1]) if constants[0] is None else (second, constants[0])
    if constant is None or (constants[0] is not None and node.op_type in ("Sub", "Div")):
        raise Unfused("its constant is the left operand")
    x = program.value(name)
    axis, vector = _vector(constant, x.shape)
    if node.op_type in ("Add", "Sub"):
        _affine(program, node, name, axis, None, vector if node.op_type == "Add" else -vector)
    else:
        factor = vector if node.op_type == "Mul" else np.float32(1) / vector
        _affine(program, node, name, axis, factor, None)


def _sum(program: Program, node: NodeProto, x: Value, y: Value) -> None:
    """Append the sum of two values, or of one and the other negated."""
    if node.op_type not in ("Add", "Sub"):
        raise Unfused("both of its operands depend on the input; it needs a constant one")
    if x.shape != y.shape:
        verb = "adds" if node.op_type == "Add" else "subtracts"
        raise Unfused(f"it {verb} shapes {x.shape} and {y.shape}; equal ones are served")
    output = node.output[0]
    if node.op_type == "Sub":
        y = _line(program, f"{output}.negated", y, -1)
    program.emit(output, x.shape, ADD, x.number, y.number)


def _line(
    program: Program, output: str, x: Value, factor: float, term: float = 0, *, relu: bool = False
) -> Value:
    """Append a value times a number, plus another, maybe not below 0."""
    numbers = [program.keep(np.array([factor], np.float32)), -1]
    if term:
        numbers[1] = program.keep(np.array([term], np.float32))
    program.emit(output, x.shape, AFFINE, x.number, *numbers, 0, int(relu))
    return program.values[output]


def _vector(constant: Array, shape: Shape) -> tuple[int, Array]:
    """Axis, without the batch, along which a constant varies, and its numbers."""
    if constant.dtype != np.float32:
        raise Unfused(f"its constant is {constant.dtype}; float32 is served")
    if constant.size == 1:
        if constant.ndim > len(shape) + 1:
            raise Unfused("its constant adds axes")
        return 0, constant.reshape(1)
    full = (1,) * (len(shape) + 1 - constant.ndim) + constant.shape
    wide = [axis for axis, size in enumerate(full[1:]) if size != 1]
    if len(full) != len(shape) + 1 or full[0] != 1 or len(wide) != 1:
        raise Unfused(f"its constant has shape {constant.shape}: more than one axis")
    if full[wide[0] + 1] != shape[wide[0]]:
        raise Unfused(f"its constant of shape {constant.shape} widens {shape}")
    return wide[0], constant.reshape(-1)


def _affine(
    program: Program,
    node: NodeProto,
    name: str,
    axis: int,
    scale: Array | None,
    shift: Array | None,
) -> None:
    x = program.value(name)
    before = program.made_last(name)
    if before is not None and before[0] == AFFINE and scale is None and shift is not None:
        lone = before[3] < 0 and before[5] == 0
        if lone and (before[4] == axis or shift.size == 1):  # the shift of a scale before it
            before[3] = program.keep(shift)
            program.values[node.output[0]] = x
            return
    numbers = [-1 if part is None else program.keep(part) for part in (scale, shift)]
    program.emit(node.output[0], x.shape, AFFINE, x.number, *numbers, axis, 0)


def _norm(program: Program, node: NodeProto, given: Given) -> None:
    x = program.value(node.input[0])
    parts = [program.constant(name) for name in node.input[1:]]
    if given.get("training_mode", 0) or any(part is None for part in parts):
        raise Unfused("its statistics are not constant")
    scale, shift, mean, variance = (np.asarray(part, np.float64) for part in parts)
    if scale.shape != x.shape[:1]:
        raise Unfused(f"it has {scale.shape} statistics for a value of shape {x.shape}")
    factor = scale / np.sqrt(variance + given.get("epsilon", 1e-5))
    term = (shift - mean * factor).astype(np.float32)
    _affine(program, node, node.input[0], 0, factor.astype(np.float32), term)


def _reshape(program: Program, node: NodeProto, given: Given) -> None:
    x = program.value(node.input[0])
    full = (-1, *x.shape)
    if node.op_type == "Flatten":
        if given.get("axis", 1) % len(full) != 1:
            raise Unfused("it flattens the batch")
        shape: Shape = (prod(x.shape),)
    elif node.op_type == "Reshape":
        shape = _reshaped(program, node, given, full)
    else:
        shape = _squeezed(node.op_type, _axes(program, node, given, "axes"), full)
    c, length = (*shape, 0)[:2]
    program.emit(node.output[0], shape, RESHAPE, x.number, c, length)


def _reshaped(program: Program, node: NodeProto, given: Given, full: Shape) -> Shape:
    wanted = program.constant(node.input[1])
    if wanted is None:
        raise Unfused("its shape is computed at run time")
    sizes = [int(size) for size in wanted.reshape(-1)]
    if given.get("allowzero", 0) and 0 in sizes:
        raise Unfused(f"it reshapes to {sizes}, where allowzero makes the 0 an axis of none")
    whole = [full[at] if size == 0 and at < len(full) else size for at, size in enumerate(sizes)]
    rest, size = whole[1:], int(np.prod(full[1:]))
    # A first axis that is copied, or as long as the batch, is the batch.
    kept = bool(sizes) and sizes[0] in (0, program.batch or 0)
    known = -prod(rest)
    if rest.count(-1) == 1 and kept and known > 0 and size % known == 0:
        rest[rest.index(-1)] = size // known
    # Where a sample has as many elements as before, the first axis is the batch, however written.
    if not rest or min(rest) < 1 or prod(rest) != size:
        raise Unfused(f"it reshapes to {sizes}: not a sample at a time")
    return tuple(rest)


def _squeezed(op: str, axes: list[int], full: Shape) -> Shape:
    shape = list(full)
    rank = len(full) + (len(axes) if op == "Unsqueeze" else 0)
    places = sorted(axis % rank for axis in axes)
    if not places or places[0] == 0:
        raise Unfused(f"it changes the batch's axis, or says no axes: {axes}")
    if op == "Unsqueeze":
        for place in places:
            shape.insert(place, 1)
    else:
        for place in reversed(places):
            if shape.pop(place) != 1:
                raise Unfused("it squeezes an axis that is longer than 1")
    if len(shape) < 2:
        raise Unfused("it leaves nothing but the batch")
    return tuple(shape[1:])


def _transpose(program: Program, node: NodeProto, given: Given) -> None:
    x = program.value(node.input[0])
    order = list(given.get("perm", []))
    if order == list(range(len(x.shape) + 1)):
        program.values[node.output[0]] = x
    elif order == [0, 2, 1]:
        program.emit(node.output[0], x.shape[::-1], TRANSPOSE, x.number)
    else:
        raise Unfused(f"it transposes by {order}")


def _identity(program: Program, node: NodeProto, given: Given) -> None:
    del given
    if node.op_type == "Dropout" and drops(program.constant, node):
        raise Unfused("its training_mode may be set: it drops at random")
    program.values[node.output[0]] = program.value(node.input[0])


_TRANSLATORS: dict[str, Callable[[Program, NodeProto, Given], None]] = {
    "LutMatMul": _matmul,
    "LutConv1d": _conv,
    "Relu": _relu,
    "Clip": _relu,
    "LeakyRelu": _leaky,
    "PRelu": _leaky,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": _reduce,
    "GlobalMaxPool": _reduce,
    "ReduceMean": _reduce,
    "ReduceMax": _reduce,
    "ReduceSum": _reduce,
    "Concat": _concat,
    "Add": _arithmetic,
    "Sub": _arithmetic,
    "Mul": _arithmetic,
    "Div": _arithmetic,
    "BatchNormalization": _norm,
    "Flatten": _reshape,
    "Reshape": _reshape,
    "Squeeze": _reshape,
    "Unsqueeze": _reshape,
    "Transpose": _transpose,
    "Identity": _identity,
    "Dropout": _identity,
}
