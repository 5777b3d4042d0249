"""The border: what comes from a device is checked here, once, before a strategy sees it."""

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from numpy.typing import NDArray

from schemas.delta import DeltaError, decode
from schemas.npy import array_fields, array_values
from schemas.plan import Plan, Range

METRICS: Final = ("num-examples", "loss", "seconds")
# What reading a device's bytes as arrays and numbers may raise; a DeltaError is a ValueError.
WRONG: Final = (ArithmeticError, EOFError, LookupError, MemoryError, TypeError, ValueError)
MAX_EXAMPLES: Final = 100_000  # of one device, where a caller says nothing else
# Sums of them are finite; the loss of a density, or a contrastive one, may be below 0.
_RANGES: Final = {"loss": (-1e12, 1e12), "seconds": (0.0, 1e9)}
_MAX_COUNT: Final = 2**48
_LEAST: Final = np.float32(1 / 16)  # what a step leaves of a running variance, at least


@dataclass(frozen=True)
class Admitted:
    """A round's replies, sorted.

    Attributes
    ----------
    updates : list[Message]
        Good ones, in the order of the requests. Each holds ``arrays`` (``weights``: what was
        sent plus the change), ``metrics`` (those of ``METRICS``), and ``report`` where the plan
        asked for one; nothing else of what the device sent.
    failures : dict[int, str]
        Why a node was left out.
    bytes_down, bytes_up : int
        Payload of all requests, and of the good replies.
    late : frozenset[int]
        Of the failures, nodes that were silent.
    """

    updates: list[Message]
    failures: dict[int, str]
    bytes_down: int
    bytes_up: int
    late: frozenset[int] = frozenset()


def admit(
    requests: list[Message],
    replies: Iterable[Message],
    max_norm: float,
    timeout: float,
    max_examples: int = MAX_EXAMPLES,
) -> Admitted:
    """Match replies to requests, decode their changes and leave out what is wrong.

    Left out, with the reason: errors, silence, wrong arrays or lengths, NaN or infinity in change,
    loss or report, changes with an L2 norm above ``max_norm``, and metrics out of their ranges:
    who says ``num-examples`` in the millions is the average alone. A change within the ranges that
    stay on the device (``Plan.staying``) is none, whoever sends one.
    """
    answered = {reply.metadata.src_node_id: reply for reply in replies}
    updates, failures, late, up = [], {}, set(), 0
    for request in requests:
        node = request.metadata.dst_node_id
        reply = answered.get(node)
        if reply is None:
            failures[node] = f"no reply within {timeout:g} s"
            late.add(node)
        elif reply.has_error():
            failures[node] = reply.error.reason or f"error {reply.error.code}"
        else:
            try:
                updates.append(_update(request, reply, max_norm, max_examples))
                up += payload(reply.content)
            except WRONG as error:
                failures[node] = f"refused: {_said(error)}"
    down = sum(payload(request.content) for request in requests)
    return Admitted(updates, failures, down, up, frozenset(late))


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


def judge(
    asked: RecordDict, answer: RecordDict, max_norm: float, max_examples: int = MAX_EXAMPLES
) -> float:
    """Check a device's answer to a training as ``admit`` does.

    Returns
    -------
    float
        The change's L2 norm.

    Raises
    ------
    DeltaError
        Where it would be left out; ``reason`` is one word.
    """
    try:
        return _checked(asked, answer, max_norm, max_examples).norm
    except DeltaError:
        raise
    except WRONG as error:
        raise DeltaError(_said(error)) from error


@dataclass(frozen=True)
class _Checked:
    """What an answer holds, checked."""

    delta: NDArray[np.float32]
    norm: float
    content: RecordDict


def _checked(asked: RecordDict, answer: RecordDict, max_norm: float, max_examples: int) -> _Checked:
    (length,) = asked.array_records["arrays"]["weights"].shape
    coded = {name: array_values(a) for name, a in answer.array_records["delta"].items()}
    plan = _plan(str(asked.config_records["config"]["plan"]))
    delta = decode(coded, length, plan.encoding, plan.topk)
    for start, stop in plan.staying:
        delta[start:stop] = 0
    norm = float(np.linalg.norm(delta.astype(np.float64)))  # whose squares do not overflow
    if norm > max_norm:
        text = f"the change's norm is {norm:.3g}; at most {max_norm:g} is allowed"
        raise DeltaError(text, "norm")
    content = RecordDict({"metrics": _metrics(answer.metric_records["metrics"], max_examples)})
    if plan.report:
        content["report"] = _report(answer.array_records["report"], plan)
    return _Checked(delta, norm, content)


def _update(request: Message, reply: Message, max_norm: float, max_examples: int) -> Message:
    checked = _checked(request.content, reply.content, max_norm, max_examples)
    sent = weights_of(request)
    weights = keep_variances(request, sent + checked.delta, sent)
    checked.content["arrays"] = weights_record(weights)
    return Message(checked.content, reply_to=request)


def keep_variances(
    request: Message, moved: NDArray[Any], before: NDArray[Any], first: int = 0
) -> NDArray[Any]:
    """Let no running variance fall below a sixteenth of what it was; see ``floored``.

    Parameters
    ----------
    request : Message
        Its plan names the ranges.
    moved : (length,)
        After a change; written to.
    before : (length,)
    first : int, default 0
        Where in the plan's vector the two begin.
    """
    plan = _plan(str(request.content.config_records["config"]["plan"]))
    return floored(plan.variances, moved, before, first)


def floored(
    variances: Iterable[Range], moved: NDArray[Any], before: NDArray[Any], first: int = 0
) -> NDArray[Any]:
    """Let no running variance fall below a sixteenth of what it was.

    Rounding, error feedback, stale changes and a server's momentum may take one below 0, and every
    output to NaN. ``moved`` is written to; ``first`` is where in the ranges' vector it begins.
    """
    for start, stop in variances:
        part = slice(start - first, stop - first)
        np.maximum(moved[part], _LEAST * before[part], out=moved[part])
    return moved


def variances_of(config: Mapping[str, Any], length: int) -> tuple[Range, ...]:
    """Where the running variances are in a vector of this length, as the plan in it says."""
    if "plan" not in config:
        return ()
    plan = _plan(str(config["plan"]))
    return plan.variances if plan.length == length else ()


@functools.lru_cache(maxsize=64)
def _plan(text: str) -> Plan:
    return Plan.model_validate_json(text)


def _metrics(metrics: MetricRecord, max_examples: int) -> MetricRecord:
    for name in METRICS:
        value, whole = metrics[name], name not in _RANGES
        least, most = _RANGES.get(name, (0, max_examples))
        kind = "whole" if whole else "finite"
        text = f"metric {name} = {value!r}; expected a {kind} number "
        text += f"from {least:,.0f} to {most:,.0f}"
        if isinstance(value, list) or not math.isfinite(value):
            raise DeltaError(text, "finite")
        if not least <= value <= most or (whole and not isinstance(value, int)):
            raise DeltaError(text, "range")
    return MetricRecord({name: metrics[name] for name in METRICS})


def _report(report: ArrayRecord, plan: Plan) -> ArrayRecord:
    for name in plan.report:
        array = array_values(report[name])
        if array.dtype != np.float32:
            raise DeltaError(f"report {name!r} is {array.dtype}; expected float32")
        expected = plan.shapes.get(name, array.shape)
        if array.shape != expected:
            text = f"report {name!r} has shape {array.shape}; expected {expected}"
            raise DeltaError(text, "size")
        if not np.isfinite(array).all():
            raise DeltaError(f"report {name!r} holds NaN or infinity", "finite")
    return ArrayRecord({name: report[name] for name in plan.report})


def _said(error: BaseException) -> str:
    if isinstance(error, DeltaError):
        return str(error)
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return f"{type(error).__name__}: {error}"


def weights_record(weights: NDArray[np.float32]) -> ArrayRecord:
    """A record that holds one flat vector."""
    fields = array_fields(np.ascontiguousarray(weights, np.float32))
    return ArrayRecord({"weights": Array(*fields)})


def weights_of(message: Message) -> NDArray[np.float32]:
    """The flat vector of a request or an admitted update."""
    return array_values(message.content.array_records["arrays"]["weights"])


def confusion_of(reply: Message, classes: int) -> NDArray[np.int64]:
    """Counts (classes, classes) that a device's evaluation returned.

    Raises
    ------
    DeltaError
        Where they are not that many counts.
    """
    counts = reply.content.metric_records.get("metrics", MetricRecord()).get("confusion")
    if not isinstance(counts, list) or len(counts) != classes**2:
        raise DeltaError(f"an evaluation without {classes}² counts")
    if not all(isinstance(count, int) and 0 <= count < _MAX_COUNT for count in counts):
        raise DeltaError("an evaluation whose counts are no whole numbers from 0")
    return np.asarray(counts, np.int64).reshape(classes, classes)


def seconds_of(reply: Message) -> float | None:
    """How long a device took to make its own model before an evaluation; None where it lies."""
    seconds = reply.content.metric_records.get("metrics", MetricRecord()).get("seconds")
    if isinstance(seconds, list) or seconds is None:
        return None
    return float(seconds) if 0 <= seconds <= _RANGES["seconds"][1] else None
