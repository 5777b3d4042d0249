"""Products of two tensors, parts of one, and what is the same for all samples, as steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_kernels.integer.net import FREE, Add, Constant, Multiply, Norm, Shape, Slice, Step
from edge_kernels.quantize.floats import shape_of
from edge_kernels.quantize.graph import Unserved, attributes
from edge_kernels.quantize.slices import sliced, split
from edge_kernels.sequential_program import AFFINE, LINEAR, RESHAPE, Unfused

if TYPE_CHECKING:
    from onnx import NodeProto

    from edge_kernels.quantize.walk import Walked

STEP: Final = 64  # a step that is ready; other codes are those of `sequential_program`
_COPIES: Final = ("Expand", "Tile")
_LONGER: Final = 7
_TAKES_CONSTANTS: Final = ("Concat", "Add", "Sub", "Mul")


def append(program: Walked, output: str, step: Step) -> int:
    """Append a step that is ready; return its value's number.

    Raises
    ------
    Unserved
        Where the step cannot read such shapes.
    """
    shapes: list[Shape] = [()] * (len(program.instructions) + 1)
    for value in program.values.values():
        shapes[value.number] = value.shape
    try:
        shape = shape_of(step, shapes)
    except ValueError as error:
        raise Unserved(str(error)) from error
    program.ready.append(step)
    program.emit(output, shape, STEP, len(program.ready) - 1)
    return len(program.instructions)


def gated(program: Walked, node: NodeProto) -> bool:
    """Multiply two tensors; or one and a constant that varies along other axes than channels."""
    if node.op_type != "Mul":
        return False
    first, second = node.input
    for name, other in ((first, second), (second, first)):
        if name not in program.values and other in program.values:
            _many_factors(program, name, other)
    if first not in program.values or second not in program.values:
        return False
    x, y = (program.values[name].number for name in (first, second))
    append(program, node.output[0], Multiply(x, y))
    return True


def _linear(program: Walked, name: str) -> bool:
    """Whether a linear layer makes a tensor, which takes factors of its rows itself."""
    number = program.values[name].number
    return number > 0 and program.instructions[number - 1][0] == LINEAR


def _many_factors(program: Walked, name: str, other: str) -> None:
    """Append a constant that is to be multiplied, where no factor of each channel says it."""
    known, shape = program.constant(name), program.values[other].shape
    if known is None or known.dtype != np.float32 or len(shape) != 2 or known.ndim > 3:
        return
    full = known.reshape((1,) * (3 - known.ndim) + known.shape)
    if full.shape[1] == 1 and _linear(program, other):
        return
    if full.shape[0] == 1 and full.shape[2] > 1 and FREE not in shape:
        append(program, name, Constant(full[0].astype(np.float64)))


def placed(program: Walked, node: NodeProto) -> bool:
    """Add a constant of a number for each position and channel, as of learned positions.

    Where norms follow, the sum is a step of its own, which may have 16 bits.
    """
    names = [name for name in node.input if name in program.values]
    if node.op_type != "Add" or len(names) != 1:
        return False
    x = program.values[names[0]]
    constant = program.constant(node.input[1 - list(node.input).index(names[0])])
    if constant is None or len(x.shape) != 2 or constant.shape not in (x.shape, (1, *x.shape)):
        return False
    if 1 in x.shape:
        return False  # a channel's term
    if any(isinstance(form.step, Norm) for form in program.forms.ending.values()):
        held = Constant(constant.reshape(x.shape).astype(np.float64))
        term = append(program, f"{node.output[0]}.term", held)
        append(program, node.output[0], Add(x.number, term))
        return True
    count, output = int(np.prod(x.shape)), node.output[0]
    number = program.keep(constant.astype(np.float32).reshape(-1))
    program.emit(f"{output}.flat", (count,), RESHAPE, x.number, count, 0)
    flat = len(program.instructions)
    program.emit(f"{output}.sum", (count,), AFFINE, flat, -1, number, 0, 0)
    program.emit(output, x.shape, RESHAPE, flat + 1, *x.shape)
    return True


def spread(program: Walked, node: NodeProto) -> bool:
    """Widen a tensor that is copied along an axis, which products do themselves."""
    if node.op_type not in _COPIES or node.input[0] not in program.values:
        return False
    x, output = program.values[node.input[0]], node.output[0]
    shape = _observed(program, output)
    if len(shape) != len(x.shape):
        raise Unfused(f"it copies a value of shape {x.shape} to {shape}")
    if x.shape == shape or _only_multiplied(program, output):
        program.values[output] = x
        return True
    _widened(program, output, x.number, shape)
    return True


def _widened(program: Walked, output: str, x: int, shape: Shape, sign: int = 1) -> int:
    """Append a value, or it negated, copied along its axes of 1; return its number."""
    if FREE in shape:
        raise Unfused("it copies along a free axis: export with fixed sizes")
    ones = append(program, f"{output}.ones", Constant(np.full(shape, float(sign))))
    return append(program, output, Multiply(x, ones))


def summed(program: Walked, node: NodeProto) -> bool:
    """Add tensors, or subtract, of which one is copied along an axis of 1."""
    known = [program.values.get(name) for name in node.input]
    if node.op_type not in ("Add", "Sub") or len(known) != 2:
        return False
    x, y = known
    if x is None or y is None or x.shape == y.shape or len(x.shape) != 2 or len(y.shape) != 2:
        return False
    if not all(a == b or 1 in (a, b) for a, b in zip(x.shape, y.shape, strict=True)):
        return False
    shape = tuple(b if a == 1 else a for a, b in zip(x.shape, y.shape, strict=True))
    output, sign = node.output[0], -1 if node.op_type == "Sub" else 1
    first = x.number if x.shape == shape else _widened(program, f"{output}.x", x.number, shape)
    second = y.number
    if sign < 0 or y.shape != shape:
        second = _widened(program, f"{output}.y", y.number, shape, sign)
    append(program, output, Add(first, second))
    return True


def _observed(program: Walked, name: str) -> Shape:
    seen = program.forms.observed
    shape = None if seen is None else seen.logical(name)
    if shape is None:
        raise Unfused(f"the shape of {name!r} is not known")
    return shape


def _only_multiplied(program: Walked, name: str) -> bool:
    """Whether products with values of a tensor's own shape alone read it."""
    graph, shape = program.graph, _observed(program, name)
    readers = [graph.nodes[at] for at in graph.readers.get(name, [])]
    others = [each for node in readers for each in node.input if each != name]
    return (
        graph.uses[name] == len(readers) == len(others)
        and all(node.op_type == "Mul" for node in readers)
        and all(_known_shape(program, each) == shape for each in others)
    )


def _known_shape(program: Walked, name: str) -> Shape | None:
    seen = program.forms.observed
    return None if seen is None or name not in seen.shapes[0] else seen.logical(name)


def picked(program: Walked, node: NodeProto) -> bool:
    """Take parts of a tensor: by Split, Slice, or Gather of positions in a row."""
    x = program.values.get(node.input[0]) if node.input else None
    if x is None or node.op_type not in ("Split", "Slice", "Gather"):
        return False
    full, keep = (0, *x.shape), True
    if node.op_type == "Gather":
        found, keep = _gathered(program, node, full)
    else:
        take = split if node.op_type == "Split" else sliced
        # A free axis: as at its shortest, and at a greater length.
        found, longer = (
            take(program.graph, node, tuple(n if each == FREE else each for each in full))
            for n in (1, _LONGER)
        )
        found = found if found == longer else None
    if found is None:
        raise Unfused("its parts are not known, or not in a row")
    axis, bounds = found
    if axis == 0:
        raise Unfused("it takes parts of the batch")
    for name, (start, stop) in zip(node.output, bounds, strict=True):
        if program.graph.uses[name]:
            part = Slice(x.number, axis - 1, start, stop - start)
            append(program, name if keep else f"{name}.kept", part)
    if not keep:
        _without(program, node.output[0], axis - 1)
    return True


def _gathered(
    program: Walked, node: NodeProto, full: Shape
) -> tuple[tuple[int, list[tuple[int, int]]] | None, bool]:
    """Axis and bounds of what a Gather takes, and whether it keeps the axis."""
    index = program.constant(node.input[1])
    axis = int(attributes(node).get("axis", 0)) % len(full)
    if index is None or index.ndim > 1 or index.size == 0:
        return None, True
    places = [int(each) for each in index.reshape(-1)]
    places = [at + full[axis] if at < 0 and full[axis] != FREE else at for at in places]
    whole = places == list(range(places[0], places[0] + len(places)))
    found = (axis, [(places[0], places[-1] + 1)]) if whole else None
    return found, index.ndim == 1


def _without(program: Walked, output: str, axis: int) -> None:
    """Take out an axis of 1."""
    x = program.values[f"{output}.kept"]
    shape = x.shape[:axis] + x.shape[axis + 1 :]
    if not shape:
        raise Unfused("it leaves nothing but the batch")
    if FREE in shape:
        raise Unfused("it leaves a free axis alone")
    program.emit(output, shape, RESHAPE, x.number, *(*shape, 0)[:2])


def told(program: Walked, node: NodeProto) -> None:
    """Append constants that a node joins to values, or adds, as the token of a class is."""
    if node.op_type not in _TAKES_CONSTANTS:
        return
    joins = node.op_type == "Concat"
    values = [program.values[name] for name in node.input if name in program.values]
    axis = attributes(node).get("axis", 0) % (len(values[0].shape) + 1) if values else 0
    for name in node.input:
        if name in program.values or (not joins and program.constant(name) is not None):
            continue
        held = same_for_all(program, name)
        if held is not None and axis == 1 and any(each.shape[0] == FREE for each in values):
            raise Unfused(
                f"it joins the constant {name!r} to a free axis: export with a fixed length"
            )
        if held is not None and held.ndim in (1, 2):
            append(program, name, Constant(held.astype(np.float64)))


def same_for_all(program: Walked, name: str) -> NDArray[Any] | None:
    """Return what a tensor that depends on no sample holds for each; None: it is no such."""
    known, seen = program.constant(name), program.forms.observed
    if known is None:
        return None if seen is None else seen.alike.get(name)
    if known.ndim < 2 or not (known == known[:1]).all():
        return None
    row: NDArray[Any] = known[0]
    return row


def needs(program: Walked, names: tuple[str, ...]) -> None:
    """Append constants of those tensors that no step makes and that depend on no sample."""
    for name in names:
        held = None if name in program.values else same_for_all(program, name)
        if held is not None and held.ndim in (1, 2):
            append(program, name, Constant(held.astype(np.float64)))
