"""The learner as a Flower ``ClientApp``: the same for every engine and every strategy.

Actions: ``query.place`` tells the node's number, ``query.begin`` starts afresh, ``query.graphs``
tells which graphs are missing, ``query.install`` stores some, ``train`` runs a plan and returns the
change, ``evaluate`` runs a plan and returns counts. The person's windows lie in the folder that
the node's configuration names as ``windows``, else in the one that ``query.begin`` named.
"""

import functools
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from client.graphs import GraphStore, default_folder
from client.learner import Learner
from client.windows import PersonWindows
from schemas.delta import encode
from schemas.plan import Plan

Floats = NDArray[np.float32]
app = ClientApp()


@functools.lru_cache(maxsize=1)
def _store(folder: Path) -> GraphStore:
    return GraphStore(folder)


@functools.lru_cache(maxsize=64)
def _learner(folder: Path, graphs: Path) -> Learner:
    return Learner(PersonWindows.open(folder), _store(graphs))


@functools.lru_cache(maxsize=8)
def _plan(text: str) -> Plan:
    return Plan.model_validate_json(text)


def _learner_of(context: Context) -> Learner:
    told = context.state.config_records.get("begin", ConfigRecord())
    folder = context.node_config.get("windows") or told.get("windows")
    if not folder:
        raise ValueError("this node's configuration names no folder of windows ('windows')")
    return _learner(Path(str(folder)), default_folder())


def _salt(round_number: int, context: Context) -> int:
    """Of the batches' order: by the node's number, as Flower draws node ids at random."""
    number = int(context.node_config.get("partition-id", context.node_id))
    return round_number * 1_000_003 + number


def _kept(context: Context, name: str) -> Floats | None:
    record = context.state.array_records.get("device")
    return record[name].numpy() if record and name in record else None


def _keep(context: Context, **arrays: Floats | None) -> None:
    kept = {name: Array(array) for name, array in arrays.items() if array is not None}
    if kept:
        context.state["device"] = ArrayRecord(kept)


def _received(message: Message) -> tuple[Plan, Floats, int]:
    config = message.content.config_records["config"]
    weights = message.content.array_records["arrays"]["weights"].numpy()
    plan = _plan(str(config["plan"]))
    if "proximal-mu" in config:
        plan = plan.with_proximal(float(str(config["proximal-mu"])))
    return plan, weights, int(str(config["server-round"]))


def _with_personal(plan: Plan, weights: Floats, kept: Floats | None) -> Floats:
    if kept is None or not plan.personal:
        return weights
    mixed = weights.copy()
    for start, stop in plan.personal:
        mixed[start:stop] = kept[start:stop]
    return mixed


@app.query("place")
def place(message: Message, context: Context) -> Message:
    """Answer which number the node's configuration gives it (``partition-id``), if any."""
    number = context.node_config.get("partition-id")
    config = ConfigRecord() if number is None else ConfigRecord({"partition-id": int(number)})
    return Message(RecordDict({"place": config}), reply_to=message)


@app.query("begin")
def begin(message: Message, context: Context) -> Message:
    """Forget all that was kept; take the folder of windows that a server of this machine names."""
    context.state = RecordDict({"begin": message.content.config_records["begin"]})
    return Message(RecordDict(), reply_to=message)


@app.query("graphs")
def missing(message: Message, _context: Context) -> Message:
    """Answer which of the digests asked for are not here."""
    asked: Any = message.content.config_records["graphs"]["digests"]
    store = _store(default_folder())
    lacking = [str(digest) for digest in asked if not store.has(str(digest))]
    reply = RecordDict({"graphs": ConfigRecord({"missing": lacking})})
    return Message(reply, reply_to=message)


@app.query("install")
def install(message: Message, _context: Context) -> Message:
    """Store the graphs that came, each under the digest of its bytes."""
    store = _store(default_folder())
    for graph in message.content.config_records["graphs"].values():
        if not isinstance(graph, bytes):
            raise TypeError("a graph must travel as bytes")
        store.put(graph)
    return Message(RecordDict(), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Run the plan; return the coded change of what is not personal."""
    plan, received, round_number = _received(message)
    start = _with_personal(plan, received, _kept(context, "personal"))
    own, salt = _kept(context, "own"), _salt(round_number, context)
    fitted = _learner_of(context).fit(plan, start, own, salt=salt)
    delta = fitted.weights - received
    for first, last in plan.personal:
        delta[first:last] = 0
    coded, residual = encode(delta, _kept(context, "residual"), plan.encoding)
    personal = fitted.weights if plan.personal else None
    _keep(context, personal=personal, own=fitted.own, residual=residual)
    metrics: dict[str, Any] = {
        "num-examples": fitted.examples,
        "loss": fitted.loss,
        "seconds": fitted.seconds,
    }
    content = RecordDict(
        {
            "delta": ArrayRecord({name: Array(array) for name, array in coded.items()}),
            "metrics": MetricRecord(metrics),
        }
    )
    if fitted.report:
        arrays = {name: Array(array) for name, array in fitted.report.items()}
        content["report"] = ArrayRecord(arrays)
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Run the plan's stages, keep nothing of them, and count right and wrong on the test part."""
    plan, received, round_number = _received(message)
    learner = _learner_of(context)
    start = _with_personal(plan, received, _kept(context, "personal"))
    own = _kept(context, "own")
    if own is not None and plan.predict_own:
        start = own
    fitted = learner.fit(plan, start, own, salt=_salt(round_number, context))
    confusion = learner.evaluate(plan, fitted.weights)
    metrics: dict[str, Any] = {
        "num-examples": int(confusion.sum()),
        "seconds": fitted.seconds,
        "confusion": [int(count) for count in confusion.ravel()],
    }
    return Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=message)
