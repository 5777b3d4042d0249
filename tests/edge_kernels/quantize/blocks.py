"""Small transformers as ONNX graphs, in the forms that exporters write."""

import numpy as np
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

HEADS, WIDTH, HIDDEN, LENGTH = 2, 8, 12, 6


def weights(*shape, seed):
    random = np.random.default_rng([seed, *shape])
    return (random.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)


class Builder:
    """Appends nodes; every method returns the name of what it makes."""

    def __init__(self):
        self.nodes, self.constants, self.count = [], {}, 0

    def add(self, op, *read, domain="", **given):
        self.count += 1
        out = f"t{self.count}"
        names = [self.constant(each) if not isinstance(each, str) else each for each in read]
        self.nodes.append(helper.make_node(op, names, [out], name=f"{op}{self.count}", **given))
        return out

    def constant(self, value):
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def scalar(self, value):
        return self.constant(np.float32(value))

    def linear(self, x, rows, columns, seed, *, flat=False):
        w, b = weights(columns, rows, seed=seed), weights(rows, seed=seed + 1) * 0.1
        if not flat:
            return self.add("Add", self.add("MatMul", x, w), b)
        x = self.add("Reshape", x, np.array([-1, columns]))
        return self.add("Reshape", self.add("Gemm", x, w, b), np.array([-1, LENGTH, rows]))

    def model(self, rank, shape=(LENGTH, WIDTH), opset=20) -> ModelProto:
        """What the last node makes is the output."""
        self.nodes[-1].output[0] = "y"
        read = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])
        made = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * rank)
        tensors = [numpy_helper.from_array(value, name) for name, value in self.constants.items()]
        graph = helper.make_graph(self.nodes, "test", [read], [made], tensors)
        imports = [helper.make_opsetid("", opset)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=10)
        checker.check_model(model)
        return model


def norm(b, x, form="node"):
    gain, term = 1 + 0.2 * weights(WIDTH, seed=31), 0.2 * weights(WIDTH, seed=32)
    if form == "node":
        return b.add("LayerNormalization", x, gain, term, axis=-1, epsilon=1e-5)
    axes = np.array([-1])
    d = x
    if form in ("decomposed", "reciprocal"):
        d = b.add("Sub", x, b.add("ReduceMean", x, axes))
    squares = b.add("Mul", d, d) if form == "reciprocal" else b.add("Pow", d, b.scalar(2))
    root = b.add("Sqrt", b.add("Add", b.add("ReduceMean", squares, axes), b.scalar(1e-5)))
    if form == "reciprocal":
        normed = b.add("Mul", d, b.add("Reciprocal", root))
    else:
        normed = b.add("Div", d, root)
    scaled = b.add("Mul", normed, gain)
    return scaled if form == "rms" else b.add("Add", scaled, term)


def activation(b, x, form="node"):
    if form == "node":
        return b.add("Gelu", x)
    if form == "tanh node":
        return b.add("Gelu", x, approximate="tanh")
    if form == "erf":
        inner = b.add("Erf", b.add("Div", x, b.scalar(np.sqrt(2))))
        return b.add("Mul", b.add("Mul", x, b.add("Add", inner, b.scalar(1))), b.scalar(0.5))
    if form == "tanh":
        cube = b.add("Mul", b.scalar(0.044715), b.add("Pow", x, b.scalar(3)))
        inner = b.add("Mul", b.add("Add", x, cube), b.scalar(np.sqrt(2 / np.pi)))
        half = b.add("Mul", x, b.scalar(0.5))
        return b.add("Mul", half, b.add("Add", b.add("Tanh", inner), b.scalar(1)))
    if form == "silu":
        return b.add("Mul", x, b.add("Sigmoid", x))
    return b.add("Tanh", x)


def attention(b, x, form="plain"):
    size = WIDTH // HEADS
    whole = [b.linear(x, WIDTH, WIDTH, seed=at, flat=form == "folded") for at in (1, 3, 5)]
    parts = [b.add("Reshape", each, np.array([0, LENGTH, HEADS, size])) for each in whole]
    keys_order = [0, 2, 1, 3] if form in ("scaled", "folded") else [0, 2, 3, 1]
    q, k, v = (
        b.add("Transpose", each, perm=order)
        for each, order in zip(parts, ([0, 2, 1, 3], keys_order, [0, 2, 1, 3]), strict=True)
    )
    if form == "scaled":  # as scaled_dot_product_attention: a root of the scale on either side
        q = b.add("Mul", q, b.scalar(size**-0.25))
        k = b.add("Mul", b.add("Transpose", k, perm=[0, 1, 3, 2]), b.scalar(size**-0.25))
        scores = b.add("MatMul", q, k)
    elif form == "folded":  # batch and heads as one axis
        q, v = (b.add("Reshape", each, np.array([-1, LENGTH, size])) for each in (q, v))
        k = b.add("Reshape", b.add("Transpose", k, perm=[0, 1, 3, 2]), np.array([-1, size, LENGTH]))
        scores = b.add("Reshape", b.add("MatMul", q, k), np.array([-1, HEADS, LENGTH, LENGTH]))
        scores = b.add("Mul", scores, b.scalar(size**-0.5))
    else:
        scores = b.add("Div", b.add("MatMul", q, k), b.scalar(size**0.5))
    shares = b.add("Softmax", scores, axis=-1)
    if form == "folded":
        shares = b.add("Reshape", shares, np.array([-1, LENGTH, LENGTH]))
    mixed = b.add("MatMul", shares, v)
    if form == "folded":
        mixed = b.add("Reshape", mixed, np.array([-1, HEADS, LENGTH, size]))
    mixed = b.add("Transpose", mixed, perm=[0, 2, 1, 3])
    mixed = b.add("Reshape", mixed, np.array([0, LENGTH, WIDTH]))
    return b.linear(mixed, WIDTH, WIDTH, seed=7)


def block(*, pre=True, norms="node", acts="node", heads="plain", positions=False) -> ModelProto:
    """A block between two linear layers, then the mean over positions."""
    b = Builder()
    x = b.linear("x", WIDTH, WIDTH, seed=11)
    if positions:
        x = b.add("Add", x, weights(LENGTH, WIDTH, seed=41))
    part = norm(b, x, norms) if pre else x
    x = b.add("Add", x, attention(b, part, heads))
    x = x if pre else norm(b, x, norms)
    part = norm(b, x, norms) if pre else x
    part = b.linear(part, HIDDEN, WIDTH, seed=13, flat=heads == "folded")
    part = b.linear(activation(b, part, acts), WIDTH, HIDDEN, seed=15)
    x = b.add("Add", x, part)
    x = norm(b, x, norms)
    mean = b.add("ReduceMean", x, np.array([1]), keepdims=0)
    b.linear(mean, 3, WIDTH, seed=17)
    return b.model(2)
