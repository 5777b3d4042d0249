"""What a benchmark's clients compute: any ONNX training step over one flat vector."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Workload:
    """A training-step graph and how often a client runs it.

    Attributes
    ----------
    graph
        The ONNX model's bytes.
    length
        Entries of the flat float32 vector of weights.
    steps
        Steps that a client update takes.
    feeds
        Inputs that stay the same in each step: the batch, the learning rate.
    start
        Where every update starts. Speed depends on it: a network whose weights are all zero, or
        whose values overflow, is not what a client computes.
    carry
        Input → output whose value it has in the next step; the weights come first, an
        optimizer's state, which starts from ``feeds``, after them.
    """

    name: str
    graph: bytes
    length: int
    steps: int = 1
    feeds: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    start: F32 | None = None
    carry: Mapping[str, str] = field(default_factory=lambda: {"weights": "new_weights"})

    def save(self, folder: Path) -> str:
        """Write all that a client needs to files named by the graph's hash.

        Returns
        -------
        str
            Their path without its ending.
        """
        path = folder / hashlib.sha256(self.graph).hexdigest()
        path.with_suffix(".onnx").write_bytes(self.graph)
        path.with_suffix(".json").write_text(json.dumps(dict(self.carry)))
        with path.with_suffix(".npy").open("wb") as file:
            np.save(file, self.weights())
        np.savez(path.with_suffix(".npz"), **dict(self.feeds))  # type: ignore[arg-type]
        return str(path)

    def weights(self, seed: int = 0) -> F32:
        """Return where every update starts: as given, or small random weights."""
        if self.start is not None:
            return self.start
        draw = np.random.default_rng(seed).standard_normal(self.length, dtype=np.float32)
        return draw * np.float32(0.01)


def flat_regression(length: int = 10_000, batch: int = 1) -> Workload:
    """One SGD step of linear regression: the 40 KB model with one trivial local step.

    Parameters
    ----------
    length
        Entries of the weights vector.
    batch
        Rows of the one batch.
    """
    rng = np.random.default_rng(0)
    feeds: dict[str, NDArray[Any]] = {
        "x": rng.standard_normal((batch, length), dtype=np.float32),
        "y": rng.standard_normal(batch, dtype=np.float32),
        "rate": np.array(1e-4, np.float32),
    }
    graph = _regression_step(length, batch)
    return Workload(f"flat regression, {length} weights, 1 step", graph, length, 1, feeds)


def conv_autoencoder(steps: int = 10, windows: int = 32) -> Workload:
    """The conv autoencoder's reconstruction by SGD, as SemiPFL's devices run it.

    Parameters
    ----------
    steps
        Steps a client update.
    windows
        Windows of 100 × 6 in the one batch.
    """
    import torch

    from hypernet.export import step_graph
    from hypernet.networks import Autoencoder, InputSpec
    from hypernet.parameters import ParameterSpec, vector_of

    spec = InputSpec(100, 6, ((0, 1, 2), (3, 4, 5)))
    network = Autoencoder(spec)
    layout = ParameterSpec.of(network)
    x = torch.randn(windows, spec.time, spec.channels, generator=torch.Generator().manual_seed(0))
    mean, deviation = spec.statistics(x)
    trainable = layout.trainable_length
    feeds: dict[str, NDArray[Any]] = {
        "windows": x.numpy(),
        "input_mean": mean.numpy(),
        "input_deviation": deviation.numpy(),
        "learning_rate": np.array(1e-4, np.float32),
        "proximal": np.array(0, np.float32),
        "anchor": np.zeros(trainable, np.float32),
        "mask": np.ones(trainable, np.float32),
        "state": np.zeros(trainable, np.float32),
    }
    graph = step_graph(network, "reconstruction_loss", "sgd", labels=False)
    name = f"conv autoencoder, {layout.length} weights, {steps} steps of {windows} windows"
    carry = {"weights": "new_weights", "state": "new_state"}
    start = vector_of(network).numpy()
    return Workload(name, graph, layout.length, steps, feeds, start, carry)


def _regression_step(length: int, batch: int) -> bytes:
    """Build w ← w − rate · xᵀ(x·w − y)."""
    from onnx import TensorProto, helper

    def value(name: str, *shape: int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    nodes = [
        helper.make_node("MatMul", ["x", "weights"], ["guess"]),
        helper.make_node("Sub", ["guess", "y"], ["residual"]),
        helper.make_node("MatMul", ["residual", "x"], ["gradient"]),
        helper.make_node("Mul", ["rate", "gradient"], ["change"]),
        helper.make_node("Sub", ["weights", "change"], ["new_weights"]),
        helper.make_node("Mul", ["residual", "residual"], ["squares"]),
        helper.make_node("ReduceMean", ["squares"], ["loss"], keepdims=0),
    ]
    inputs = [value("x", batch, length), value("y", batch), value("rate"), value("weights", length)]
    outputs = [value("loss"), value("new_weights", length)]
    graph = helper.make_graph(nodes, "regression_step", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())
