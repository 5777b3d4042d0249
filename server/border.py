"""The border: what comes from a device is checked here, once, before a strategy sees it."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from numpy.typing import NDArray

from schemas.delta import DeltaError, decode


@dataclass(frozen=True)
class Admitted:
    """A round's replies, sorted.

    Attributes
    ----------
    updates : list[Message]
        Good ones, in the order of the requests. Each holds ``arrays`` (``weights``: what was
        sent plus the change), ``metrics``, and ``report`` where the plan asked for one.
    failures : dict[int, str]
        Why a node was left out.
    bytes_down, bytes_up : int
        Payload of all requests, and of the good replies.
    """

    updates: list[Message]
    failures: dict[int, str]
    bytes_down: int
    bytes_up: int


def admit(
    requests: list[Message], replies: Iterable[Message], max_norm: float, timeout: float
) -> Admitted:
    """Match replies to requests, decode their changes and leave out what is wrong.

    Left out, with the reason: errors, silence, wrong arrays or lengths, NaN or infinity in change,
    loss or report, and changes with an L2 norm above ``max_norm``.
    """
    answered = {reply.metadata.src_node_id: reply for reply in replies}
    updates, failures, up = [], {}, 0
    for request in requests:
        node = request.metadata.dst_node_id
        reply = answered.get(node)
        if reply is None:
            failures[node] = f"no reply within {timeout:g} s"
        elif reply.has_error():
            failures[node] = reply.error.reason or f"error {reply.error.code}"
        else:
            try:
                updates.append(_update(request, reply, max_norm))
                up += payload(reply.content)
            except (DeltaError, KeyError) as error:
                failures[node] = f"refused: {error}"
    down = sum(payload(request.content) for request in requests)
    return Admitted(updates, failures, down, up)


def payload(content: RecordDict) -> int:
    """Bytes of arrays, and of the texts and blobs beside them."""
    arrays = sum(
        len(array.data) for record in content.array_records.values() for array in record.values()
    )
    texts = sum(
        len(value)
        for record in content.config_records.values()
        for value in record.values()
        if isinstance(value, str | bytes)
    )
    return arrays + texts


def _update(request: Message, reply: Message, max_norm: float) -> Message:
    sent = request.content.array_records["arrays"]["weights"].numpy()
    coded = {name: array.numpy() for name, array in reply.content.array_records["delta"].items()}
    delta = decode(coded, sent.size)
    norm = float(np.linalg.norm(delta))
    if norm > max_norm:
        raise DeltaError(f"the change's norm is {norm:.3g}; at most {max_norm:g} is allowed")
    metrics = reply.content.metric_records["metrics"]
    _check_metrics(metrics)
    content = RecordDict({"arrays": weights_record(sent + delta), "metrics": metrics})
    if "report" in reply.content.array_records:
        report = reply.content.array_records["report"]
        for name, array in report.items():
            if not np.isfinite(array.numpy()).all():
                raise DeltaError(f"report {name!r} holds NaN or infinity")
        content["report"] = report
    return Message(content, reply_to=request)


def _check_metrics(metrics: MetricRecord) -> None:
    for name in ("num-examples", "loss", "seconds"):
        value = metrics[name]
        if isinstance(value, list) or not np.isfinite(value) or value < 0:
            raise DeltaError(f"metric {name} = {value!r}; expected a finite number, 0 or more")


def weights_record(weights: NDArray[np.float32]) -> ArrayRecord:
    """A record that holds one flat vector."""
    return ArrayRecord({"weights": Array(np.ascontiguousarray(weights, np.float32))})


def weights_of(message: Message) -> NDArray[np.float32]:
    """The flat vector of a request or an admitted update."""
    vector: NDArray[np.float32] = message.content.array_records["arrays"]["weights"].numpy()
    return vector


def confusion_of(reply: Message, classes: int) -> NDArray[np.int64]:
    """Counts (classes, classes) that a device's evaluation returned.

    Raises
    ------
    DeltaError
        Where they are not that many counts.
    """
    counts = reply.content.metric_records["metrics"].get("confusion")
    if not isinstance(counts, list) or len(counts) != classes**2 or min(counts) < 0:
        raise DeltaError(f"an evaluation without {classes}² counts")
    return np.asarray(counts, np.int64).reshape(classes, classes)
