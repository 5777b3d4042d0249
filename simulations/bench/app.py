"""The client app that every engine of the benchmark runs, and the step that the floor runs."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from schemas.npy import array_fields, array_values

app = ClientApp()


class Step:
    """A workload's graph, loaded once a process."""

    def __init__(self, path: str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(
            f"{path}.onnx", options, providers=["CPUExecutionProvider"]
        )
        with np.load(f"{path}.npz") as feeds:
            self._feeds = dict(feeds)
        self._carry = json.loads(Path(f"{path}.json").read_text())
        self._weights = next(iter(self._carry))
        self._outputs = ["loss", *self._carry.values()]

    def run(self, weights: NDArray[np.float32], steps: int) -> tuple[float, NDArray[np.float32]]:
        """Return the last loss and the weights after so many steps."""
        feeds: dict[str, Any] = {**self._feeds, self._weights: weights}
        loss: Any = 0.0
        for _ in range(steps):
            loss, *values = self._session.run(self._outputs, feeds)
            feeds.update(zip(self._carry, values, strict=True))
        return float(loss), feeds[self._weights]


@cache
def load_step(path: str) -> Step:
    """Load the step that a workload saved there, once a process."""
    return Step(path)


@app.train()
def train(message: Message, context: Context) -> Message:  # noqa: ARG001  Flower hands it over
    """Run the steps that the message asks for on the weights that it brings."""
    plan: Any = message.content["plan"]
    array: Any = message.content["weights"]
    step = load_step(plan["graph"])
    loss, weights = step.run(array_values(array["weights"]), plan["steps"])
    coded = Array(*array_fields(weights))
    content = RecordDict(
        {"weights": ArrayRecord({"weights": coded}), "fit": MetricRecord({"loss": loss})}
    )
    return Message(content, reply_to=message)


def request(node: int, weights: Array, plan: dict[str, Any]) -> Message:
    """Make the message that has a node run the steps."""
    content = RecordDict({"weights": ArrayRecord({"weights": weights}), "plan": ConfigRecord(plan)})
    return Message(content, node, "train")
