"""A training step by hand, of the size of the simulations' autoencoder: no torch, no exporter.

Three convolutions of windows (150, 6), the mean squared error of what they rebuild, its gradient,
SGD with momentum. The vector of weights has a tail that no convolution reads, so that it is as long
as the real one: memory is measured with it, not learning.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_kernels.bench.graphs import need_onnx

TIME, CHANNELS, WIDTH, LENGTH = 150, 6, 32, 65_536
_SHAPES: Final = ((WIDTH, CHANNELS, 5), (WIDTH, WIDTH, 5), (CHANNELS, WIDTH, 5))
_LAST: Final = len(_SHAPES)


def step() -> bytes:
    """Make the step that the device's learner asks for."""
    sizes = [int(np.prod(shape)) for shape in _SHAPES]
    nodes = [_node("Split", ["weights", "sizes"], ["w1", "w2", "w3", "tail"]), *_normalised()]
    constants = {"sizes": np.array([*sizes, LENGTH - sum(sizes)])}
    for layer, shape in enumerate(_SHAPES, 1):
        constants[f"shape{layer}"] = np.array(shape)
        nodes += _forward(layer)
    nodes += [
        _node("Sub", [f"a{_LAST}", "a0"], ["error"]),
        _node("Mul", ["error", "error"], ["squares"]),
        _node("ReduceMean", ["squares"], ["loss"], keepdims=0),
        _node("Mul", ["error", "slope"], [f"d{_LAST}"]),
    ]
    for layer in range(_LAST, 0, -1):
        nodes += _backward(layer)
    constants |= {
        "slope": np.array(2 / (TIME * CHANNELS * 32), np.float32),
        "zero": np.array(0, np.float32),
        "momentum": np.array(0.9, np.float32),
        "flat": np.array([-1]),
    }
    scalars = [_value("learning_rate"), _value("proximal")]
    vectors = [_value(name, LENGTH) for name in ("anchor", "mask", "weights", "state")]
    outputs = [_value("loss"), _value("new_weights", LENGTH), _value("new_state", LENGTH)]
    return _model([*nodes, *_update()], [*_inputs(), *scalars, *vectors], outputs, constants)


def statistics() -> bytes:
    """Make the graph of the input's mean and deviation."""
    nodes = [
        _node("ReduceMean", ["windows"], ["mean"], axes=[0, 1], keepdims=0),
        _node("Sub", ["windows", "mean"], ["centred"]),
        _node("Mul", ["centred", "centred"], ["squares"]),
        _node("ReduceMean", ["squares"], ["variance"], axes=[0, 1], keepdims=0),
        _node("Sqrt", ["variance"], ["deviation"]),
    ]
    return _model(
        nodes, _inputs()[:1], [_value("mean", CHANNELS), _value("deviation", CHANNELS)], {}
    )


def _inputs() -> list[Any]:
    windows = _value("windows", "batch", TIME, CHANNELS)
    return [windows, _value("input_mean", CHANNELS), _value("input_deviation", CHANNELS)]


def _normalised() -> list[Any]:
    return [
        _node("Sub", ["windows", "input_mean"], ["centred"]),
        _node("Div", ["centred", "input_deviation"], ["scaled"]),
        _node("Transpose", ["scaled"], ["a0"], perm=[0, 2, 1]),
    ]


def _forward(layer: int) -> list[Any]:
    last = layer == _LAST
    nodes = [
        _node("Reshape", [f"w{layer}", f"shape{layer}"], [f"k{layer}"]),
        _node(
            "Conv", [f"a{layer - 1}", f"k{layer}"], [f"a{layer}" if last else f"y{layer}"],
            pads=[2, 2],
        ),
    ]  # fmt: skip
    return nodes if last else [*nodes, _node("Relu", [f"y{layer}"], [f"a{layer}"])]


def _backward(layer: int) -> list[Any]:
    """From the slope of a layer's output to that of its weights, and of the layer below."""
    below, d = layer - 1, f"d{layer}"
    nodes = [
        _node("Transpose", [f"a{below}"], [f"at{layer}"], perm=[1, 0, 2]),
        _node("Transpose", [d], [f"dt{layer}"], perm=[1, 0, 2]),
        _node("Conv", [f"at{layer}", f"dt{layer}"], [f"gt{layer}"], pads=[2, 2]),
        _node("Transpose", [f"gt{layer}"], [f"gk{layer}"], perm=[1, 0, 2]),
        _node("Reshape", [f"gk{layer}", "flat"], [f"g{layer}"]),
    ]
    if below:
        nodes += [
            _node("ConvTranspose", [d, f"k{layer}"], [f"da{below}"], pads=[2, 2]),
            _node("Greater", [f"a{below}", "zero"], [f"on{below}"]),
            _node("Where", [f"on{below}", f"da{below}", "zero"], [f"d{below}"]),
        ]
    return nodes


def _update() -> list[Any]:
    return [
        _node("Mul", ["tail", "zero"], ["no_slope"]),
        _node("Concat", ["g1", "g2", "g3", "no_slope"], ["gradient"], axis=0),
        _node("Sub", ["weights", "anchor"], ["away"]),
        _node("Mul", ["away", "proximal"], ["pull"]),
        _node("Add", ["gradient", "pull"], ["sum"]),
        _node("Mul", ["sum", "mask"], ["masked"]),
        _node("Mul", ["state", "momentum"], ["kept"]),
        _node("Add", ["kept", "masked"], ["new_state"]),
        _node("Mul", ["new_state", "learning_rate"], ["change"]),
        _node("Sub", ["weights", "change"], ["new_weights"]),
    ]


def _node(operator: str, inputs: list[str], outputs: list[str], **settings: Any) -> Any:
    return need_onnx().helper.make_node(operator, inputs, outputs, **settings)


def _value(name: str, *shape: int | str) -> Any:
    onnx = need_onnx()
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, list(shape))


def _model(
    nodes: list[Any],
    inputs: list[Any],
    outputs: list[Any],
    constants: dict[str, NDArray[Any]],
) -> bytes:
    onnx = need_onnx()
    helper = onnx.helper
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "step", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
