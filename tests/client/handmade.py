"""Graphs written by hand, for tests that need something to run and no torch."""

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper

LENGTH, TIME, CHANNELS = 200_000, 5, 2
_F = TensorProto.FLOAT


def _value(name, *shape):
    return helper.make_tensor_value_info(name, _F, list(shape))


def _graph(nodes, inputs, outputs, constants=()):
    made = helper.make_graph(nodes, "handmade", inputs, outputs, list(constants))
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(model)
    return model.SerializeToString()


def statistics() -> bytes:
    """Mean and deviation of the windows, as plans ask for them."""
    return _graph(
        [
            helper.make_node("ReduceMean", ["windows"], ["input_mean"], axes=[0, 1], keepdims=0),
            helper.make_node("Sub", ["input_mean", "input_mean"], ["zero"]),
            helper.make_node("Exp", ["zero"], ["input_deviation"]),
        ],
        [_value("windows", "count", TIME, CHANNELS)],
        [_value("input_mean", CHANNELS), _value("input_deviation", CHANNELS)],
    )


def step() -> bytes:
    """A step that shrinks the weights by the learning rate; its loss is the windows' mean."""
    return _graph(
        [
            helper.make_node("Mul", ["weights", "learning_rate"], ["part"]),
            helper.make_node("Sub", ["weights", "part"], ["new_weights"]),
            helper.make_node("Identity", ["state"], ["new_state"]),
            helper.make_node("ReduceMean", ["windows"], ["loss"], keepdims=0),
        ],
        [
            _value("windows", "batch", TIME, CHANNELS),
            _value("mask", LENGTH),
            _value("anchor", LENGTH),
            _value("proximal"),
            _value("weights", LENGTH),
            _value("state", 1),
            _value("learning_rate"),
            _value("input_mean", CHANNELS),
            _value("input_deviation", CHANNELS),
        ],
        [_value("loss"), _value("new_weights", LENGTH), _value("new_state", 1)],
    )


def forward() -> bytes:
    """Logits: each channel's mean over time."""
    return _graph(
        [helper.make_node("ReduceMean", ["windows"], ["logits"], axes=[1], keepdims=0)],
        [
            _value("windows", "count", TIME, CHANNELS),
            _value("weights", LENGTH),
            _value("input_mean", CHANNELS),
            _value("input_deviation", CHANNELS),
        ],
        [_value("logits", "count", CHANNELS)],
    )


def wide(*, turned: bool = False) -> bytes:
    """Logits through a constant matrix of 4 kB, which the graph holds as it is or turned."""
    matrix = np.random.default_rng(1).normal(size=(CHANNELS, 512)).astype(np.float32)
    held = np.ascontiguousarray(matrix.T) if turned else matrix
    return _graph(
        [
            helper.make_node("ReduceMean", ["windows"], ["mean"], axes=[1], keepdims=0),
            helper.make_node("Gemm", ["mean", "matrix"], ["logits"], transB=int(turned)),
        ],
        [
            _value("windows", "count", TIME, CHANNELS),
            _value("weights", LENGTH),
            _value("input_mean", CHANNELS),
            _value("input_deviation", CHANNELS),
        ],
        [_value("logits", "count", 512)],
        [numpy_helper.from_array(held, "matrix")],
    )


def windows(folder) -> None:
    """A person's folder: twelve windows without labels."""
    from client.windows import PersonWindows

    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, TIME, CHANNELS)).astype(np.float32)
    none = np.full(12, -1, np.int64)
    PersonWindows(x, none, x[:2], none[:2]).save(folder)


def training(graphs, number: int, steps: int = 2):
    """A question to train, with weights of its own; ``graphs`` are digests of those above."""
    from schemas.payload import Payload
    from schemas.plan import Plan, Train

    stage = Train(graph=graphs["step"], part="unlabelled", learning_rate=1e-4, steps=steps)
    plan = Plan(
        length=LENGTH,
        statistics=graphs["statistics"],
        stages=(stage,),
        encoding="int8",
        predict=graphs["forward"],
    )
    weights = np.random.default_rng(number).normal(size=LENGTH).astype(np.float32)
    return Payload(
        arrays={"arrays": {"weights": weights}},
        config={"config": {"plan": plan.model_dump_json(), "server-round": number}},
    )
