"""The device as a Flower ``ClientApp``: the same for every engine and every strategy.

Actions are those of ``client.device``, and two of the carrier: ``query.place`` tells the node's
number, ``query.begin`` starts afresh. The person's windows lie in the folder that the node's
configuration names as ``windows``, else in the one that ``query.begin`` named; adapters are kept in
the one named ``adapters`` there, and nowhere if none is.
"""

import functools
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from client.device import KEPT, Device
from client.graphs import GraphStore, default_folder
from client.learner import Learner
from client.windows import PersonWindows
from schemas.npy import array_fields, array_values
from schemas.payload import Payload

app = ClientApp()


@functools.lru_cache(maxsize=1)
def _store(folder: Path) -> GraphStore:
    return GraphStore(folder)


@functools.lru_cache(maxsize=64)
def _learner(folder: Path, graphs: Path) -> Learner:
    return Learner(PersonWindows.open(folder), _store(graphs))


def _learner_of(context: Context) -> Learner:
    folder = _folder(context, "windows")
    if folder is None:
        raise ValueError("this node's configuration names no folder of windows ('windows')")
    return _learner(folder, default_folder())


def _folder(context: Context, name: str) -> Path | None:
    told = context.state.config_records.get("begin", ConfigRecord())
    folder = context.node_config.get(name) or told.get(name)
    return Path(str(folder)) if folder else None


def _device(context: Context) -> Device:
    # Flower draws node ids at random: the order of batches goes by the node's number.
    number = int(context.node_config.get("partition-id", context.node_id))
    kept, adapters = kept_in(context.state), _folder(context, "adapters")
    return Device(_store(default_folder()), lambda: _learner_of(context), number, kept, adapters)


def kept_in(state: RecordDict) -> dict[str, NDArray[np.float32]]:
    """What a node's state holds of ``Device.kept``."""
    record = state.array_records.get("device", ArrayRecord())
    return {name: array_values(record[name]) for name in KEPT if name in record}


def payload_of(content: RecordDict) -> Payload:
    """What a message carries, as a device reads it."""
    return Payload(
        arrays={
            name: {key: array_values(array) for key, array in record.items()}
            for name, record in content.array_records.items()
        },
        config={name: dict(record) for name, record in content.config_records.items()},
        metrics={name: dict(record) for name, record in content.metric_records.items()},
    )


def _records(payload: Payload) -> RecordDict:
    content = RecordDict()
    for name, arrays in payload.arrays.items():
        content[name] = ArrayRecord(
            {key: Array(*array_fields(values)) for key, values in arrays.items()}
        )
    for name, config in payload.config.items():
        content[name] = ConfigRecord(config)
    for name, metrics in payload.metrics.items():
        content[name] = MetricRecord(metrics)
    return content


def _ask(action: str, message: Message, context: Context) -> Message:
    device = _device(context)
    before = device.kept
    answer = device.answer(action, payload_of(message.content))
    if device.kept is not before:
        arrays = {name: Array(*array_fields(values)) for name, values in device.kept.items()}
        context.state["device"] = ArrayRecord(arrays)
    return Message(_records(answer), reply_to=message)


@app.query("place")
def place(message: Message, context: Context) -> Message:
    """Answer which number the node's configuration gives it (``partition-id``), if any."""
    number = context.node_config.get("partition-id")
    config = ConfigRecord() if number is None else ConfigRecord({"partition-id": int(number)})
    return Message(RecordDict({"place": config}), reply_to=message)


@app.query("begin")
def begin(message: Message, context: Context) -> Message:
    """Forget all that was kept; take the folders that a server of this machine names."""
    context.state = RecordDict({"begin": message.content.config_records["begin"]})
    return Message(RecordDict(), reply_to=message)


@app.query("graphs")
def missing(message: Message, context: Context) -> Message:
    """Answer which of the digests asked for are not here."""
    return _ask("query.graphs", message, context)


@app.query("install")
def install(message: Message, context: Context) -> Message:
    """Store the graphs that came, each under the digest of its bytes."""
    return _ask("query.install", message, context)


@app.query("drift")
def drift(message: Message, context: Context) -> Message:
    """Answer whether the condition has drifted from the adapter's; see ``schemas.drift``."""
    return _ask("query.drift", message, context)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Run the plan; return the coded change of what is not personal."""
    return _ask("train", message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Run the plan's stages, keep nothing of them, and count right and wrong on the test part."""
    return _ask("evaluate", message, context)


@app.evaluate("ranges")
def ranges(message: Message, context: Context) -> Message:
    """Count how a model's values are spread over the training windows; see ``schemas.ranges``."""
    return _ask("evaluate.ranges", message, context)
