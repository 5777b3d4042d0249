"""A bundle beside the same model in float and in QDQ: latency, memory, bytes, macro-F1."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from client.bundle.checks import LIMITS, check_model
from client.bundle.claims import lies, where
from client.bundle.memory import memory_of
from client.bundle.predictor import Floats, NotRunnableError, Predictor, answers, session
from client.bundle.reader import Bundle
from client.bundle.windows import Labelled
from edge_kernels.bench.machine import machine, versions
from edge_kernels.bench.timing import Effort, Timing, take_turns, turn_of
from schemas.base import ConfigError
from schemas.bundle import BundleError, Card, Expected
from schemas.bundle_report import ModelReport

OURS, FLOAT, QDQ = "bundle", "float", "qdq"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Contender:
    """One model of the comparison.

    Attributes
    ----------
    card : Card
        How windows go in and what comes out.
    model : bytes
        ONNX.
    bytes : int
        Of its file.
    """

    card: Card
    model: bytes
    bytes: int


def of_bundle(bundle: Bundle) -> Contender:
    """A bundle as it is; it has to run here.

    Raises
    ------
    NotRunnableError
    """
    Predictor(bundle)
    return Contender(bundle.manifest, bundle.model, bundle.size)


def of_float(path: Path, card: Card) -> Contender:
    """A float ONNX model for the same windows and classes; it passes the checks of a bundle's.

    Raises
    ------
    ConfigError
        Where it cannot be read, or is not for these windows and classes.
    """
    try:
        if path.stat().st_size > LIMITS.bytes:
            raise ConfigError(str(path), [f"larger than {LIMITS.bytes} bytes"])
        model = path.read_bytes()
        same = Card(**{**_fields(card), "bits": 32, "form": "qdq"})
        check_model(same, model, hashlib.sha256(model).hexdigest())
    except OSError as error:
        raise ConfigError(str(path), [error.strerror or str(error)]) from None
    except BundleError as error:
        raise ConfigError(str(path), [str(error)]) from None
    return Contender(same, model, len(model))


def check_alike(bundle: Bundle, qdq: Bundle) -> None:
    """Refuse a QDQ bundle that is none, or of other windows or classes.

    Raises
    ------
    ConfigError
    """
    ours, theirs = bundle.manifest, qdq.manifest
    if theirs.form != "qdq":
        raise ConfigError(str(qdq.path), [f"form {theirs.form}; --qdq takes one of form qdq"])
    if (ours.input.time, ours.input.channels) != (theirs.input.time, theirs.input.channels):
        raise ConfigError(str(qdq.path), [f"is for other windows than {bundle.path}"])
    if ours.classes != theirs.classes:
        raise ConfigError(str(qdq.path), [f"has other classes than {bundle.path}"])


def measure(
    bundle: Bundle,
    contenders: dict[str, Contender],
    labelled: Labelled | None,
    effort: Effort,
    say: Say = lambda _: None,
) -> ModelReport:
    """Compare.

    Parameters
    ----------
    bundle : Bundle
        Contender ``OURS``.
    contenders : dict[str, Contender]
        By ``OURS``, ``FLOAT``, ``QDQ``; the last two may be missing.
    labelled : Labelled, optional
        Windows for macro-F1.
    effort : Effort
        How long to time.
    say : callable
        Is told what is being done.
    """
    window = bundle.reference[:1] if labelled is None else labelled.windows[:1]
    say("timing")
    timings = _timings(contenders, window, effort)
    say("memory")
    memory = {name: memory_of(each.card.form, each.model) for name, each in contenders.items()}
    say("macro-F1")
    told = {} if labelled is None else _told(contenders, labelled.windows)
    f1 = {} if labelled is None else {n: macro_f1(labelled.labels, y) for n, y in told.items()}
    mine, said = timings[OURS], bundle.manifest
    found: dict[str, Any] = {}
    for name in (FLOAT, QDQ):
        timing, other = timings.get(name), contenders.get(name)
        found[f"f1_{name}"] = f1.get(name)
        found[f"microseconds_{name}"] = timing and timing.median
        found[f"spread_{name}"] = timing and timing.quartiles
        found[f"speedup_over_{_RIVAL[name]}"] = timing and timing.median / mine.median
        found[f"memory_{name}"] = memory.get(name)
        found[f"bytes_{name}"] = other and other.bytes
    same = float((told[OURS] == told[FLOAT]).mean()) if FLOAT in told else None
    return ModelReport(
        machine=machine(),
        versions=versions(),
        bundle=str(bundle.path),
        name=said.name,
        bits=said.bits,
        form=said.form,
        windows=0 if labelled is None else len(labelled.windows),
        f1=f1.get(OURS),
        agree_float=same,
        microseconds=mine.median,
        spread=mine.quartiles,
        memory=memory[OURS],
        bytes=bundle.size,
        lies=lies(
            said.expected,
            Expected(
                memory_bytes=memory[OURS], latency_us=round(mine.quartiles[0], 1), machine=where()
            ),
        ),
        **found,
    )


_RIVAL: Final = {FLOAT: "fp32", QDQ: "qdq"}


def _timings(contenders: dict[str, Contender], window: Floats, effort: Effort) -> dict[str, Timing]:
    turns = {}
    for name, each in contenders.items():
        run = session(each.card.form, each.model).run
        turns[name] = turn_of(lambda run=run: run(None, {"windows": window}))  # type: ignore[misc]
    return take_turns(turns, effort)


def _told(contenders: dict[str, Contender], windows: Floats) -> dict[str, NDArray[np.intp]]:
    try:
        return {
            name: answers(each.card, each.model, windows).argmax(axis=1)
            for name, each in contenders.items()
        }
    except BundleError as error:
        raise NotRunnableError(str(error)) from None


def macro_f1(labels: NDArray[np.int64], told: NDArray[np.intp]) -> float:
    """Mean F1 over the classes that occur among the labels, as in the simulations' reports."""
    scores = []
    for each in np.unique(labels):
        true, predicted = labels == each, told == each
        scores.append(2 * int((true & predicted).sum()) / int(true.sum() + predicted.sum()))
    return float(np.mean(scores))


def _fields(card: Card) -> dict[str, Any]:
    return {name: getattr(card, name) for name in Card.model_fields}


def rendered(report: ModelReport, style: str) -> str:
    """Return the report as ``table`` or ``json``, ending in a newline."""
    if style == "json":
        return report.model_dump_json(indent=2) + "\n"
    lines = [f"{'':<10}{'macro-F1':>10}{'us':>10}  {'quartiles':<16}{'memory':>11}{'bytes':>11}"]
    for name, suffix in ((f"{report.bits} bits", ""), ("fp32", "_float"), ("QDQ", "_qdq")):
        found = {
            key: getattr(report, key + suffix)
            for key in ("f1", "microseconds", "spread", "memory", "bytes")
        }
        if found["bytes"] is not None:
            lines.append(_row(name, found))
    lines.append("")
    for rival, ratio in (("fp32", report.speedup_over_fp32), ("QDQ", report.speedup_over_qdq)):
        if ratio is not None:
            lines.append(f"{ratio:.2f} times as fast as {rival}")
    if report.agree_float is not None:
        share = f"{100 * report.agree_float:.1f} % of {report.windows} windows"
        lines.append(f"the same class as fp32: {share}")
    place, what = report.machine, report.versions
    lines += [f"the bundle says otherwise: {each}" for each in report.lies]
    lines.append(
        f"{report.bundle}; {place.cpu}, {place.isa}; batch 1, one thread; flwr-edge "
        f"{what.flwr_edge}, onnxruntime {what.onnxruntime}, Python {what.python}"
    )
    return "\n".join(lines) + "\n"


def _row(name: str, found: dict[str, Any]) -> str:
    f1, memory, (low, high) = found["f1"], found["memory"], found["spread"]
    score = "–" if f1 is None else f"{f1:.4f}"
    resident = "–" if memory is None else f"{memory / 2**20:.1f} MiB"
    spread = f"{low:.1f}–{high:.1f}"
    return (
        f"{name:<10}{score:>10}{found['microseconds']:>10.1f}  {spread:<16}{resident:>11}"
        f"{found['bytes']:>11}"
    )
