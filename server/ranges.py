"""Ranges for a quantizer from devices' histograms: asked for, checked, merged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from edge_kernels.quantize import calibrate
from edge_kernels.quantize.histogram import (
    Histogram,
    Method,
    Range,
    denoised,
    merge,
    noise_of_sum,
)
from schemas.npy import array_values
from schemas.ranges import Noise, RangeTask
from server.border import WRONG

ACTION: Final = f"{MessageType.EVALUATE}.ranges"
_WHOLE: Final = 1 + 1e-3  # a device's counts of a value, but for rounding
_LARGEST_NOISE: Final = 60.0  # of its scale: Laplace's is beyond once in e⁶⁰ draws


@dataclass(frozen=True)
class Survey:
    """What is asked of every device.

    Attributes
    ----------
    bounds : tuple of (low, high)
        Of each of ``calibrate.quantized_values``, from the sources' windows, the same for all.
    bins, windows, noise, kind
        As of ``schemas.ranges.RangeTask``.
    """

    bounds: tuple[Range, ...]
    bins: int = 64
    windows: int = 256
    noise: float = 0.0
    kind: Noise = "laplace"

    def task(self, graph: bytes) -> RangeTask:
        """The question with one device's graph."""
        return RangeTask(
            graph=sha256(graph).hexdigest(),
            bins=self.bins,
            windows=self.windows,
            noise=self.noise,
            kind=self.kind,
        )


@dataclass(frozen=True)
class Answers:
    """What came.

    Attributes
    ----------
    histograms : dict[int, list[Histogram]]
        By node: one of each value.
    failures : dict[int, str]
        Why a node was left out.
    """

    histograms: dict[int, list[Histogram]] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)


def ask(grid: Grid, graphs: Mapping[int, bytes], survey: Survey, timeout: float) -> Answers:
    """Ask devices for their counts.

    Parameters
    ----------
    grid : Grid
    graphs : dict[int, bytes]
        By node: ``range_graph`` of that device's own float model, in the survey's bounds and bins.
        Whoever quantizes a model has its weights; no device need have another's.
    survey : Survey
    timeout : float
        Seconds.
    """
    installs = [_install(node, graph) for node, graph in graphs.items()]
    for _ in grid.send_and_receive(installs, timeout=timeout):
        pass  # who did not take it says so when asked to count
    requests = [_request(node, survey.task(graph)) for node, graph in graphs.items()]
    replies = {
        reply.metadata.src_node_id: reply
        for reply in grid.send_and_receive(requests, timeout=timeout)
    }
    answers = Answers()
    for node in graphs:
        reply = replies.get(node)
        if reply is None:
            answers.failures[node] = f"no reply within {timeout:g} s"
        elif reply.has_error():
            answers.failures[node] = reply.error.reason or f"error {reply.error.code}"
        else:
            try:
                answers.histograms[node] = _admitted(reply, survey)
            except WRONG as error:
                answers.failures[node] = f"refused: {type(error).__name__}: {error}"
    return answers


def merged(
    devices: Sequence[Sequence[Histogram]], survey: Survey, method: Method = "minmax"
) -> list[Range]:
    """Return the range of each value over all devices, each of which counts alike.

    Raises
    ------
    ValueError
        If there are no devices, they sent different values, or nothing stands out of the noise.
    """
    if not devices:
        raise ValueError("no device told its counts; ranges need one at least")
    noise = noise_of_sum(survey.noise, survey.kind, len(devices))
    whole = [denoised(merge(same), noise) for same in zip(*devices, strict=True)]
    hidden = sum(not each.counts.max() > 0 for each in whole)
    if hidden:
        raise ValueError(
            f"noise of {survey.noise:g} hides all counts of {hidden} of {len(whole)} values of "
            f"{len(devices)} devices; ask more devices, for fewer bins, or with less noise"
        )
    return calibrate.federated([whole], method)


def _install(node: int, graph: bytes) -> Message:
    content = RecordDict({"graphs": ConfigRecord({sha256(graph).hexdigest(): graph})})
    return Message(content, dst_node_id=node, message_type=f"{MessageType.QUERY}.install")


def _request(node: int, task: RangeTask) -> Message:
    content = RecordDict({"config": ConfigRecord({"ranges": task.model_dump_json()})})
    return Message(content, dst_node_id=node, message_type=ACTION)


def _admitted(reply: Message, survey: Survey) -> list[Histogram]:
    """A device's counts; it may not weigh more than another."""
    record: ArrayRecord = reply.content.array_records["ranges"]
    counts = array_values(record["counts"])
    expected = (len(survey.bounds), survey.bins)
    if counts.shape != expected or counts.dtype != np.float32:
        raise ValueError(
            f"counts are {counts.dtype}{list(counts.shape)}; expected float32{list(expected)}"
        )
    slack = _LARGEST_NOISE * survey.noise
    if not np.isfinite(counts).all() or counts.min() < -slack:
        raise ValueError("counts hold NaN, infinity or numbers below 0")
    largest = float(counts.max() if slack else counts.astype(np.float64).sum(1).max())
    if largest > _WHOLE + slack:
        raise ValueError(f"counts of {largest:.3g} of one value; a device has 1 in all")
    return [
        Histogram(low, high, row.astype(np.float64))
        for (low, high), row in zip(survey.bounds, counts, strict=True)
    ]
