"""Checks a graph before ONNX Runtime sees it: what it declares, its size, and what it may do.

Graphs come from outside. A graph that passes runs nowhere but in its own memory: it reads no file,
has no loops, no functions and no operators of foreign domains, and the learner knows what to feed
it. How much memory a run takes cannot be told from a graph alone; ``Checked.memory`` is what it
needs at least, and the hard limit is that of the process (``MemoryMax`` of the service).
"""

import math
from dataclasses import dataclass, field
from typing import Any, Final

from client.graph_constants import SharedConstant, shared_constant
from client.graph_kinds import Kind, Value, kind_of
from client.onnx_fields import (
    ATTRIBUTE,
    DIM,
    ENTRY,
    GRAPH,
    MODEL,
    NODE,
    OPSET,
    SHAPE,
    TENSOR,
    TENSOR_TYPE,
    TYPE,
    VALUE,
)
from client.protobuf import Budget, ProtobufError, Reading, little_endian

_REFUSED_MODEL: Final = (20, 25, 26)
_REFUSED_GRAPH: Final = (14, 15)
_REFUSED_ATTRIBUTE: Final = (6, 11, 14, 15, 21, 22, 23)
_INT64: Final = 7
# Bits of an entry by ONNX's number of a type; no strings, no complex numbers.
_BITS: Final = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 16: 16,
    17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2,
}  # fmt: skip
_TYPED: Final = {1: (4, 4), 7: (7, 0), 11: (10, 8), 12: (11, 0), 13: (11, 0)}  # else int32_data
_VALUE_BYTES: Final = {1: 4, 7: 8}  # of an input or output
_MOST_RANK: Final = 16
_LONGEST: Final = 300  # characters of an error
# Operators that make as much as a constant tells them, by the operand that tells.
_SIZED_BY: Final = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1, "Resize": 3, "OneHot": 1}
_ONNX: Final = "ai.onnx"  # goes by no name, too
_FILES: Final = {("com.microsoft", "EPContext")}  # names a file to load


class GraphError(ValueError):
    """A graph that is missing, altered, not one, or not allowed here."""


def _default_opsets() -> dict[str, tuple[int, int]]:
    return {"ai.onnx": (13, 30), "com.microsoft": (1, 1), "flwr.edge": (1, 1)}


@dataclass(frozen=True)
class GraphLimits:
    """What a graph may be.

    Attributes
    ----------
    bytes : int
        Of the file.
    nodes : int
    memory : int
        Bytes that a run needs at least: tensors in the file, inputs and outputs, and what
        constants tell operators to make.
    free : int
        What a free size (windows in a batch) counts as in that.
    fields : int
        Of protobuf, that are read: bounds the check's own time.
    opsets : dict[str, tuple[int, int]]
        Operator domains, and their lowest and highest version.
    operators : dict[str, frozenset[str]] or None
        Operators by domain; None is any.
    kind : Kind or None
        What it must be; None: told by its inputs.
    """

    bytes: int = 256 * 2**20
    nodes: int = 50_000
    memory: int = 2 * 2**30
    free: int = 256
    fields: int = 4_000_000
    opsets: dict[str, tuple[int, int]] = field(default_factory=_default_opsets)
    operators: dict[str, frozenset[str]] | None = None
    kind: Kind | None = None


@dataclass(frozen=True)
class Checked:
    """What a graph is.

    Attributes
    ----------
    kind : Kind
    inputs, outputs : tuple[Value, ...]
    nodes : int
    tensors : int
        Bytes of the tensors within it.
    memory : int
        Bytes that a run needs at least.
    operators : frozenset[tuple[str, str]]
        Domain and name of those that it has.
    shared : tuple[SharedConstant, ...]
        Initializers whose values are objects of their own.
    """

    kind: Kind
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    nodes: int
    tensors: int
    memory: int
    operators: frozenset[tuple[str, str]] = frozenset()
    shared: tuple[SharedConstant, ...] = ()


_ORT_FORMAT: Final = b"ORTM"
"""At bytes 4 to 8. What is an ONNX model to its readers may be another model, of this format, to
ONNX Runtime, which looks here first: what was checked would not be what runs. Sessions are told the
format, too (`onnx_alone`)."""


def onnx_alone(options: Any) -> None:
    """Have a session read bytes as ONNX, whatever they look like; of its ``SessionOptions``."""
    options.add_session_config_entry("session.load_model_format", "ONNX")


def check(graph: bytes, digest: str, limits: GraphLimits, *, shared: bool = False) -> Checked:
    """Check a graph.

    Parameters
    ----------
    graph : bytes
    digest : str
        For errors.
    limits : GraphLimits
    shared : bool
        Whether constants may be objects of their own, as of a graph that travels; no session is
        made of such a one before they are put back, and the whole is checked.

    Raises
    ------
    GraphError
        Where it is not allowed: names the graph, what was found, what is allowed.
    """
    if len(graph) > limits.bytes:
        raise GraphError(
            f"graph {digest[:12]}: a graph of {len(graph)} bytes; at most {limits.bytes} are taken"
        )
    if graph[4:8] == _ORT_FORMAT:
        raise GraphError(f"graph {digest[:12]} is in ONNX Runtime's own format; ONNX is taken")
    try:
        return _Check(limits, len(graph) if shared else None).model(memoryview(graph))
    except ProtobufError as error:
        raise GraphError(f"graph {digest[:12]} is no ONNX model: {_plain(error)}") from None
    except ValueError as error:
        raise GraphError(f"graph {digest[:12]} is not allowed: {_plain(error)}") from None


class _Check:
    """One check: adds up what it finds."""

    def __init__(self, limits: GraphLimits, size: int | None) -> None:
        self.limits = limits
        self.size = size  # bytes with shared constants put back; None: there may be none
        self.shared: list[SharedConstant] = []
        self.budget = Budget(limits.fields)
        self.tensors = self.made = 0  # bytes; entries
        self.told: list[str] = []  # operands that tell how much to make
        self.constants: dict[str, list[int]] = {}
        self.opsets: dict[str, int] = {}
        self.operators: set[tuple[str, str]] = set()

    def model(self, data: memoryview) -> Checked:
        model = self._read(data, "the model", MODEL)
        for number in _REFUSED_MODEL:
            if model.has(number):
                raise ValueError(f"it has {MODEL[number]}; none are taken")
        for opset in model.messages(8):
            self._opset(self._read(opset, "an opset", OPSET))
        graph = model.message(7)
        if graph is None:
            raise ProtobufError("it has no graph")
        return self._graph(self._read(graph, "the graph", GRAPH))

    def _opset(self, opset: Reading) -> None:
        domain, version = opset.text(1) or _ONNX, opset.integer(2)
        allowed = self.limits.opsets.get(domain)
        if allowed is None:
            known = ", ".join(self.limits.opsets)
            raise ValueError(f"operators of {domain}; allowed: {known}")
        if not allowed[0] <= version <= allowed[1]:
            raise ValueError(f"opset {version} of {domain}; allowed: {allowed[0]} to {allowed[1]}")
        if domain in self.opsets:
            raise ValueError(f"two opsets of {domain}")
        self.opsets[domain] = version

    def _graph(self, graph: Reading) -> Checked:
        nodes = graph.messages(1)
        if len(nodes) > self.limits.nodes:
            raise ValueError(f"{len(nodes)} nodes; at most {self.limits.nodes}")
        for refused in _REFUSED_GRAPH:
            if graph.has(refused):
                raise ValueError(f"it has {GRAPH[refused]}; none are taken")
        for value in graph.messages(13):
            self._type(self._read(value, "a value", VALUE), "a value")
        given = {self._initializer(tensor) for tensor in graph.messages(5)}
        inputs = [self._value(value, "an input") for value in graph.messages(11)]
        outputs = [self._value(value, "an output") for value in graph.messages(12)]
        if both := given & {value.name for value in inputs}:
            raise ValueError(f"the input {min(both)} is an initializer too")
        for number, node in enumerate(nodes):
            self._node(node, f"node {number}")
        kind = kind_of(inputs, outputs, self.limits.kind)
        memory = self._memory([*inputs, *outputs])
        return Checked(
            kind,
            tuple(inputs),
            tuple(outputs),
            len(nodes),
            self.tensors,
            memory,
            frozenset(self.operators),
            tuple(self.shared),
        )

    def _memory(self, values: list[Value]) -> int:
        declared = sum(
            value.elements(self.limits.free) * _VALUE_BYTES[value.type] for value in values
        )
        made = self.made + sum(_entries(self.constants.get(name, [])) for name in self.told)
        memory = self.tensors + 4 * made + declared
        if memory > self.limits.memory:
            raise ValueError(
                f"it needs at least {memory} bytes of memory; at most {self.limits.memory}"
            )
        return memory

    def _node(self, data: memoryview, what: str) -> None:
        node = self._read(data, what, NODE)
        operator, domain = node.text(4), node.text(7) or _ONNX
        if domain not in self.opsets:
            raise ValueError(f"{what} {operator}: of {domain}, which the model does not import")
        if (domain, operator) in _FILES:
            raise ValueError(f"{what}: {operator} reads files; it is not allowed")
        self._allow(f"{what} {node.text(3)}".rstrip(), domain, operator)
        outputs = node.texts(2)
        for attribute in node.messages(5):
            self._attribute(attribute, f"{what} {operator}", outputs)
        operand = _SIZED_BY.get(operator)
        inputs = node.texts(1)
        if operand is not None and operand < len(inputs):
            self.told.append(inputs[operand])

    def _allow(self, what: str, domain: str, operator: str) -> None:
        allowed = self.limits.operators
        if allowed is not None and operator not in allowed.get(domain, ()):
            raise ValueError(
                f"{what}: the operator {operator} of {domain} is not one of those that may run "
                "here; export the model again without it"
            )
        self.operators.add((domain, operator))

    def _attribute(self, data: memoryview, what: str, outputs: list[str]) -> None:
        attribute = self._read(data, f"{what}: an attribute", ATTRIBUTE)
        name = attribute.text(1)
        for number in _REFUSED_ATTRIBUTE:
            if attribute.has(number):
                found = "a graph of its own" if number in (6, 11) else ATTRIBUTE[number]
                raise ValueError(f"{what}: {name} holds {found}; none are taken")
        value = attribute.message(5)
        single = [] if value is None else [value]
        for each in (*single, *attribute.messages(10)):
            tensor = self._read(each, within := f"{what}: {name}", TENSOR)
            self._tensor(tensor, within, outputs[0] if name == "value" and outputs else "")
        if name == "value_ints" and outputs:
            self.constants[outputs[0]] = attribute.integers(8, self.limits.fields)[:_MOST_RANK]
        if name == "shape":
            self.made += _entries(attribute.integers(8, _MOST_RANK))

    def _initializer(self, data: memoryview) -> str:
        tensor = self._read(data, what := "an initializer", TENSOR)
        if self.size is None or not tensor.has(13):
            return self._tensor(tensor, what)
        constant = shared_constant(tensor, what)
        self.size += constant.bytes
        if self.size > self.limits.bytes:
            raise ValueError(
                f"{self.size} bytes with {what} {constant.name}; at most {self.limits.bytes}"
            )
        self.tensors += constant.bytes
        self.shared.append(constant)
        return constant.name

    def _tensor(self, tensor: Reading, what: str, constant: str = "") -> str:
        name, kind = tensor.text(8), tensor.integer(2)
        if tensor.has(13) or tensor.integer(14):
            raise ValueError(f"{what} {name}: its data lie in another file; that is not allowed")
        if kind not in _BITS:
            raise ValueError(f"{what} {name}: type {kind} of ONNX; allowed: {sorted(_BITS)}")
        if tensor.has(3) or tensor.has(6):
            raise ValueError(f"{what} {name}: it has segments or strings; none are taken")
        dims = tensor.integers(1, _MOST_RANK)
        self._check_entries(tensor, kind, dims, f"{what} {name}")
        if kind == _INT64 and len(dims) <= 1 and math.prod(dims) <= _MOST_RANK:
            raw = tensor.message(9)
            values = tensor.integers(7, _MOST_RANK) if raw is None else little_endian(raw)
            self.constants[constant or name] = values
        return name

    def _check_entries(self, tensor: Reading, kind: int, dims: list[int], what: str) -> None:
        entries = math.prod(dims)
        expected = -(-entries * _BITS[kind] // 8)
        raw = tensor.message(9)
        number, size = _TYPED.get(kind, (5, 0))
        found = tensor.entries(number, size)
        per_entry = max(1, 8 // _BITS[kind])  # small numbers share one of int32_data
        fits = found == -(-entries // per_entry) if raw is None else len(raw) == expected
        if min(dims, default=0) < 0 or not fits or (raw is not None and found):
            has = f"{found} entries" if raw is None else f"{len(raw)} bytes"
            raise ValueError(f"{what}: {has} for the shape {dims}")
        self.tensors += expected

    def _value(self, data: memoryview, what: str) -> Value:
        value = self._read(data, what, VALUE)
        name = value.text(1)
        what = f"{what} {name}"
        number, shape = self._type(value, what)
        if number not in _VALUE_BYTES:
            raise ValueError(f"{what}: type {number} of ONNX; allowed: {sorted(_VALUE_BYTES)}")
        return Value(name, number, shape)

    def _type(self, value: Reading, what: str) -> tuple[int, tuple[int | None, ...] | None]:
        """ONNX's number of a value's type, and its shape where it has one."""
        outer = self._read(value.message(2) or memoryview(b""), what, TYPE)
        inner = self._read(outer.message(1) or memoryview(b""), what, TENSOR_TYPE)
        shape = inner.message(2)
        if shape is None:
            return inner.integer(1), None
        dims = self._read(shape, what, SHAPE).messages(1)
        if len(dims) > _MOST_RANK:
            raise ValueError(f"{what}: rank {len(dims)}; at most {_MOST_RANK}")
        return inner.integer(1), tuple(self._dim(dim, what) for dim in dims)

    def _dim(self, data: memoryview, what: str) -> int | None:
        dim = self._read(data, f"{what}: a size", DIM)
        if not dim.has(1):
            return None
        if dim.has(2) or dim.integer(1) < 0:
            raise ValueError(f"{what}: a size that is negative, or both a number and free")
        return dim.integer(1)

    def _read(self, data: memoryview, what: str, known: dict[int, str]) -> Reading:
        found = Reading(data, what, known, self.budget)
        for number in found.named("metadata_props"):  # protobuf reads what nobody asks for, too
            for entry in found.messages(number):
                Reading(entry, f"{what}: metadata_props", ENTRY, self.budget)
        return found


def _entries(sizes: list[int]) -> int:
    return math.prod(size for size in sizes if size > 0) if sizes else 0


def _plain(error: ValueError) -> str:
    """What an error says; names in a graph may be long, and hold anything."""
    text = "".join(c if c.isprintable() else "?" for c in str(error)[: _LONGEST + 1])
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
