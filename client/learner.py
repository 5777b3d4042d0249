"""The learner: runs a plan's stages over one flat vector of weights, in ONNX Runtime.

There is no second implementation: what is simulated is what is deployed.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.graphs import GraphStore
from client.windows import PersonWindows
from schemas.plan import STREAM, Adapt, Blend, Plan, Range, Stage, Train

Floats = NDArray[np.float32]
_PREDICT_BATCH = 256
_REPORT_WINDOWS = 256  # evenly spread: enough for a summary, cheap on a device


class LearnerError(ValueError):
    """A plan that does not fit this device's windows or the weights that came with it."""


@dataclass
class Fitted:
    """What learning came to.

    Attributes
    ----------
    weights : (length,)
        After all stages.
    own : (length,) or None
        The device's second vector, where the plan has one.
    loss : float
        Mean of the last training stage's last pass.
    examples : int
        Windows of its part.
    seconds : float
    report : dict[str, array]
    """

    weights: Floats
    own: Floats | None
    loss: float = 0.0
    examples: int = 0
    seconds: float = 0.0
    report: dict[str, Floats] = field(default_factory=dict)


class Learner:
    """Learns on one person's windows.

    Parameters
    ----------
    windows : PersonWindows
    graphs : GraphStore
        Holds every graph that a plan names.
    """

    def __init__(self, windows: PersonWindows, graphs: GraphStore) -> None:
        self.windows = windows
        self.graphs = graphs
        self._statistics: dict[str, dict[str, Floats]] = {}

    def fit(
        self, plan: Plan, weights: Floats, own: Floats | None = None, *, salt: int = 0
    ) -> Fitted:
        """Run the plan's stages from the received weights.

        Parameters
        ----------
        plan : Plan
        weights : (plan.length,)
        own : (plan.length,), optional
            The device's second vector from the last time.
        salt : int
            Round and node: with the plan's seed it orders the batches.

        Raises
        ------
        LearnerError, GraphError
            Where weights, windows or graphs do not fit the plan.
        """
        for vector in (weights,) if own is None else (weights, own):
            _check(plan, vector)
        started = time.perf_counter()
        rng = np.random.default_rng([plan.seed, salt])
        result = Fitted(weights=weights, own=None)
        result.weights = self._stages(plan.stages, plan, weights, None, rng, result)
        if plan.own:
            start = weights if own is None else own
            made = self._stages(plan.own, plan, start, weights, rng, result)
            # Where no stage ran there is no model of its own: it would stay what came first.
            result.own = own if made is start else made
        result.report = {
            name: noised(self.report(name, plan, result.weights), plan) for name in plan.report
        }
        if not all(np.isfinite(v).all() for v in (result.weights, result.own) if v is not None):
            raise LearnerError("learning ended in NaN or infinity; nothing of it is kept")
        result.seconds = time.perf_counter() - started
        return result

    def predict(self, plan: Plan, weights: Floats, x: NDArray[np.floating]) -> Floats:
        """Logits (windows, classes) of windows (windows, time, channels)."""
        if plan.predict is None:
            raise LearnerError("the plan names no graph to predict with")
        return self._outputs(plan.predict, plan, weights, x)

    def _outputs(self, digest: str, plan: Plan, weights: Floats, x: NDArray[np.floating]) -> Floats:
        session = self.graphs.session(digest)
        inputs = {"weights": weights, **self.statistics(plan)}
        parts = [
            session.run(None, {"windows": _float(x[i : i + _PREDICT_BATCH]), **inputs})[0]
            for i in range(0, len(x), _PREDICT_BATCH)
        ]
        return np.concatenate(parts)

    def evaluate(self, plan: Plan, weights: Floats) -> NDArray[np.int64]:
        """Confusion counts (classes, classes) on the test windows; a row is a true class."""
        labels = self.windows.test_labels
        if not labels.size:
            raise LearnerError("this person has no test windows")
        logits = self.predict(plan, weights, self.windows.test)
        classes = logits.shape[1]
        if labels.min() < 0 or labels.max() >= classes:
            raise LearnerError(
                f"test labels {labels.min()} to {labels.max()}; expected 0 to {classes - 1}"
            )
        if lost := int(np.isnan(logits).any(1).sum()):
            raise LearnerError(
                f"the model's answers to {lost} of {len(logits)} test windows are NaN, which is no "
                "class"
            )
        confusion = np.zeros((classes, classes), np.int64)
        np.add.at(confusion, (labels, logits.argmax(1)), 1)
        return confusion

    def report(self, name: str, plan: Plan, weights: Floats) -> Floats:
        """What a report's graph makes of the training windows, without noise."""
        if name not in plan.report:
            raise LearnerError(f"the plan asks for no report {name!r}")
        chosen = spread(len(self.windows.train), _REPORT_WINDOWS)
        inputs = {"windows": _float(self.windows.train[chosen]), "weights": weights}
        inputs |= self.statistics(plan)
        output: Floats = self.graphs.session(plan.report[name]).run(None, inputs)[0]
        return output

    def statistics(self, plan: Plan) -> dict[str, Floats]:
        """The person's input mean and deviation, from all training windows, labels unread."""
        if plan.statistics not in self._statistics:
            session = self.graphs.session(plan.statistics)
            self._check_windows(session.get_inputs()[0].shape)
            outputs = session.run(None, {"windows": _float(self.windows.train)})
            names = ("input_mean", "input_deviation")
            self._statistics[plan.statistics] = dict(zip(names, outputs, strict=True))
        return self._statistics[plan.statistics]

    def _check_windows(self, expected: list[Any]) -> None:
        shape = self.windows.train.shape
        if not shape[0] or list(shape[1:]) != expected[1:]:
            raise LearnerError(f"training windows are {list(shape)}; the plan's take {expected}")

    def _stages(
        self,
        stages: tuple[Stage, ...],
        plan: Plan,
        weights: Floats,
        anchor: Floats | None,
        rng: np.random.Generator,
        result: Fitted,
    ) -> Floats:
        """Run stages one after the other; without an anchor each one's is its own start."""
        looked_back = {stage.since for stage in stages if isinstance(stage, Blend)}
        before: dict[int, Floats] = {}
        for place, stage in enumerate(stages):
            if place in looked_back:
                before[place] = weights
            if isinstance(stage, Blend):
                weights = self._blend(stage, before[stage.since], weights)
            else:
                pulled = weights if anchor is None else anchor
                weights = self._run(stage, plan, weights, pulled, rng, result)
        return weights

    def _blend(self, stage: Blend, before: Floats, weights: Floats) -> Floats:
        if stage.at_most is not None and self.windows.labelled.size > stage.at_most:
            return weights
        blended: Floats = before + np.float32(stage.share) * (weights - before)
        return blended

    def _run(
        self,
        stage: Train | Adapt,
        plan: Plan,
        weights: Floats,
        anchor: Floats,
        rng: np.random.Generator,
        result: Fitted,
    ) -> Floats:
        if isinstance(stage, Adapt):
            return self._adapt(stage, plan, weights)
        part = self._part(stage)
        counted = part if stage.part == "unlabelled" else self.windows.labelled
        if not part.size or not stage.suits(counted.size):
            return weights
        result.examples = int(part.size)
        weights, result.loss = self._train(stage, plan, weights, anchor, part, rng)
        return weights

    def _adapt(self, stage: Adapt, plan: Plan, weights: Floats) -> Floats:
        session = self.graphs.session(stage.graph)
        wanted = {value.name for value in session.get_inputs()}
        chosen = spread(len(self.windows.train), stage.windows)
        inputs: dict[str, Any] = {
            "windows": _float(self.windows.train[chosen]),
            "weights": weights,
            **self.statistics(plan),
        }
        if "labels" in wanted:
            inputs["labels"] = self.windows.labels[chosen].astype(np.int64)
        if "mix" in wanted:
            inputs["mix"] = np.array(stage.mix, np.float32)
        adapted: Floats = session.run(None, inputs)[0]
        return adapted

    def _train(
        self,
        stage: Train,
        plan: Plan,
        weights: Floats,
        anchor: Floats,
        part: NDArray[np.intp],
        rng: np.random.Generator,
    ) -> tuple[Floats, float]:
        session = self.graphs.session(stage.graph)
        shapes = {value.name: value.shape for value in session.get_inputs()}
        labelled = "labels" in shapes
        if labelled and stage.part == "unlabelled":
            raise LearnerError("a stage on unlabelled windows whose graph reads labels")
        trainable = shapes["mask"][0]
        state = np.zeros(shapes["state"], np.float32)
        fixed: dict[str, Any] = {
            "mask": _mask(stage.trainable, trainable),
            "anchor": anchor[:trainable],
            "proximal": np.array(stage.proximal, np.float32),
            **self.statistics(plan),
        }
        targets = self._targets(stage, plan, weights, part)
        per_pass = len(_cuts(part.size, stage.batch_size))
        steps = max(stage.steps, stage.epochs * per_pass)
        losses = []
        for step, chosen in enumerate(_batches(part, stage.batch_size, steps, rng)):
            inputs = {**fixed, "windows": _float(self.windows.train[chosen])}
            if labelled:
                inputs["labels"] = self.windows.labels[chosen].astype(np.int64)
            if targets is not None:
                inputs["targets"] = targets[np.searchsorted(part, chosen)]
            inputs["learning_rate"] = np.array(_rate(stage, step, steps), np.float32)
            loss, weights, state = session.run(None, {**inputs, "weights": weights, "state": state})
            losses.append(float(loss))
        return weights, float(np.mean(losses[-per_pass:])) if losses else 0.0

    def _targets(
        self, stage: Train, plan: Plan, weights: Floats, part: NDArray[np.intp]
    ) -> Floats | None:
        """Soft targets (windows, numbers) of a part's windows, from the weights as they are."""
        if stage.targets is None:
            return None
        session = self.graphs.session(stage.targets)
        if "labels" not in {value.name for value in session.get_inputs()}:
            return self._outputs(stage.targets, plan, weights, self.windows.train[part])
        inputs = {"weights": weights, **self.statistics(plan)}
        pieces = [part[i : i + STREAM] for i in range(0, part.size, STREAM)]
        rows = [session.run(None, {**inputs, **self._stream(piece)})[0] for piece in pieces]
        targets: Floats = np.concatenate(rows)
        return targets

    def _stream(self, rows: NDArray[np.intp]) -> dict[str, Any]:
        """Windows and labels of some rows, in the order of time."""
        labels = self.windows.labels[rows].astype(np.int64)
        return {"windows": _float(self.windows.train[rows]), "labels": labels}

    def _part(self, stage: Train) -> NDArray[np.intp]:
        if stage.part == "labelled":
            return self.windows.labelled
        return np.arange(len(self.windows.train))


def _check(plan: Plan, weights: Floats) -> None:
    if weights.shape != (plan.length,) or weights.dtype != np.float32:
        raise LearnerError(
            f"weights are {weights.dtype}{list(weights.shape)}; the plan says "
            f"float32[{plan.length}]"
        )
    if not np.isfinite(weights).all():
        raise LearnerError("the weights received hold NaN or infinity")


def _batches(
    part: NDArray[np.intp], size: int, steps: int, rng: np.random.Generator
) -> Iterator[NDArray[np.intp]]:
    """Batches of shuffled passes, cut as ``_cuts`` says. Sorted: files like it."""
    done, cuts = 0, _cuts(part.size, size)
    while done < steps:
        order = rng.permutation(part)
        for cut in cuts:
            if done == steps:
                return
            yield np.sort(order[cut])
            done += 1


def _cuts(count: int, size: int) -> list[slice]:
    """A pass's batches; the last may be smaller, but one window over joins the batch before it.

    Normalised by itself, a window is all zeros behind the last batch norm: such a step would teach
    biases alone, and shrink running variances.
    """
    starts = list(range(0, count, size))
    if size > 1 and len(starts) > 1 and count % size == 1:
        starts.pop()
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], count], strict=True)]


def _rate(stage: Train, step: int, steps: int) -> float:
    if not stage.cosine:
        return stage.learning_rate
    return stage.learning_rate * 0.5 * (1 + float(np.cos(np.pi * step / steps)))


def _mask(ranges: tuple[Range, ...] | None, length: int) -> Floats:
    if ranges is None:
        return np.ones(length, np.float32)
    mask = np.zeros(length, np.float32)
    for start, stop in ranges:
        mask[start:stop] = 1
    return mask


def spread(count: int, most: int) -> NDArray[np.intp]:
    """Indices of at most so many windows, evenly spread over time."""
    if count <= most:
        return np.arange(count)
    return np.linspace(0, count - 1, most).astype(np.intp)


def noised(report: Floats, plan: Plan) -> Floats:
    """A report as it may leave the device."""
    if not plan.noise:
        return report
    noise = np.random.default_rng().normal(0, plan.noise, report.shape)
    return (report + noise).astype(np.float32)


def _float(x: NDArray[np.floating]) -> Floats:
    return np.ascontiguousarray(x, dtype=np.float32)
