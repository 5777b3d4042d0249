"""What a device does when asked, whoever carries the question.

Actions: ``query.graphs`` tells which graphs and constants are missing, ``query.install`` stores
some, ``query.drift`` tells whether another adapter is needed, and the condition to make it for,
``train`` runs a plan and returns the change, ``evaluate`` runs a plan and returns counts, and
``evaluate.ranges`` tells how a model's values are spread (``schemas.ranges``). What is kept from
one question to the next is a few arrays: the device's second vector (``own``), the ranges that
never leave it (``personal``) and what coding lost of its last change (``residual``); and, longer
than a run, adapters and what goes with a device from day to day (``client.adapters``).
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from client.adapters import AdapterError, KeptAdapters
from client.graphs import GraphStore
from client.learner import Fitted, Learner, noised
from schemas.delta import encode
from schemas.drift import CONDITION, RECORD
from schemas.payload import Payload, PayloadError
from schemas.plan import Plan
from schemas.ranges import RangeTask

Floats = NDArray[np.float32]
KEPT: Final = ("own", "personal", "residual")


@functools.lru_cache(maxsize=8)
def _plan(text: str) -> Plan:
    return Plan.model_validate_json(text)


class Device:
    """Answers for one device.

    Parameters
    ----------
    graphs : GraphStore
    learner : callable() -> Learner
        Called where windows are needed.
    number : int
        Of the device: with the round it orders the batches.
    kept : dict[str, array]
        What it kept the last time; replaced by every ``train``.
    adapters : Path, optional
        Folder of the adapters that it keeps; without one it asks for another each time.
    """

    def __init__(
        self,
        graphs: GraphStore,
        learner: Callable[[], Learner],
        number: int,
        kept: dict[str, Floats] | None = None,
        adapters: Path | None = None,
    ) -> None:
        self.graphs, self.learner, self.number = graphs, learner, number
        self.kept, self.adapters = dict(kept or {}), adapters
        self._actions = {
            "query.graphs": self._missing,
            "query.install": self._install,
            "query.drift": self._drift,
            "train": self._train,
            "evaluate": self._evaluate,
            "evaluate.ranges": self._ranges,
        }

    def answer(self, action: str, asked: Payload) -> Payload:
        """Do what is asked.

        Raises
        ------
        PayloadError, LearnerError, AdapterError, GraphError, pydantic.ValidationError
            Where the question does not fit this device; it then keeps what it kept.
        """
        if action not in self._actions:
            raise PayloadError(f"no action {action!r}; there are {sorted(self._actions)}")
        return self._actions[action](asked)

    def _missing(self, asked: Payload) -> Payload:
        digests = asked.setting("graphs", "digests")
        lacking = [str(digest) for digest in digests if not self.graphs.has(str(digest))]
        return Payload(config={"graphs": {"missing": lacking}})

    def _install(self, asked: Payload) -> Payload:
        for graph in asked.config.get("graphs", {}).values():
            if not isinstance(graph, bytes):
                raise TypeError("a graph must travel as bytes")
            self.graphs.put(graph)
        return Payload()

    def _drift(self, asked: Payload) -> Payload:
        plan = _plan(str(asked.setting("config", "plan")))
        kept = self._adapters(plan)
        if plan.drift is None or kept is None:
            raise PayloadError("the plan says nothing of drift")
        if plan.drift.begin:
            kept.forget()
        # The frozen backbone is a constant of the graph: any weights give the same condition.
        condition = self.learner().report(CONDITION, plan, np.zeros(plan.length, np.float32))
        chosen = kept.choose(condition, plan.drift.threshold)
        said: dict[str, Any] = {"choice": chosen.choice}
        if chosen.distance is not None:
            said["distance"] = chosen.distance
        answer = Payload(config={RECORD: said})
        if chosen.choice == "ask":
            answer.arrays["report"] = {CONDITION: noised(condition, plan)}
        return answer

    def _train(self, asked: Payload) -> Payload:
        plan, received, number = _received(asked)
        start = self._with_personal(plan, received)
        fitted = self.learner().fit(plan, start, self.kept.get("own"), salt=self._salt(number))
        delta = _sent(plan, fitted.weights - received)
        before = self.kept.get("residual")  # of plans that may have sent more than this one does
        before = None if before is None else _sent(plan, before.copy())
        coded, residual = encode(delta, before, plan.encoding, plan.topk)
        personal = fitted.weights if plan.personal else None
        self._keep(personal=personal, own=fitted.own, residual=residual)
        metrics: dict[str, Any] = {
            "num-examples": fitted.examples,
            "loss": fitted.loss,
            "seconds": fitted.seconds,
        }
        answer = Payload(arrays={"delta": dict(coded)}, metrics={"metrics": metrics})
        if fitted.report:
            answer.arrays["report"] = dict(fitted.report)
        return answer

    def personalised(self, asked: Payload) -> tuple[Plan, Learner, Fitted]:
        """What an evaluation predicts with; nothing is kept of it but an adapter asked for.

        Returns
        -------
        The plan, this device's learner, and what the plan's stages came to.
        """
        plan, received, number = _received(asked)
        kept = self._adapters(plan)
        if kept is not None:
            received = self._carrying(plan, kept, self._adapter(plan, kept, received))
        learner, own = self.learner(), self.kept.get("own")
        start = self._with_personal(plan, received)
        if own is not None and plan.predict_own:
            start = own
        fitted = learner.fit(plan, start, own, salt=self._salt(number))
        if kept is not None and plan.carried:
            kept.carry(np.concatenate([fitted.weights[i:j] for i, j in plan.carried]))
        return plan, learner, fitted

    def _evaluate(self, asked: Payload) -> Payload:
        plan, learner, fitted = self.personalised(asked)
        confusion = learner.evaluate(plan, fitted.weights)
        metrics: dict[str, Any] = {
            "num-examples": int(confusion.sum()),
            "seconds": fitted.seconds,
            "confusion": [int(count) for count in confusion.ravel()],
        }
        return Payload(metrics={"metrics": metrics})

    def _ranges(self, asked: Payload) -> Payload:
        from client.ranges import shares  # loads more of ``edge_kernels``; rarely asked

        task = RangeTask.model_validate_json(str(asked.setting("config", "ranges")))
        counts = shares(task, self.learner().windows, self.graphs)
        return Payload(arrays={"ranges": {"counts": counts}})

    def _adapters(self, plan: Plan) -> KeptAdapters | None:
        if plan.drift is None:
            return None
        return KeptAdapters(self.adapters, plan.drift.backbone, plan.drift.most)

    def _adapter(self, plan: Plan, kept: KeptAdapters, received: Floats) -> Floats:
        """The weights received, which are kept, or the present ones where none came."""
        if not received.size:
            return kept.present
        if received.size != plan.length:
            raise AdapterError(f"the adapter has {received.size} numbers of {plan.length}")
        if self.adapters is not None:
            kept.take(received)
        return received

    def _carrying(self, plan: Plan, kept: KeptAdapters, weights: Floats) -> Floats:
        """The weights, with what the last evaluation left in their ranges."""
        if not plan.carried:
            return weights
        before = kept.carried(sum(stop - start for start, stop in plan.carried))
        if before is None:
            return weights
        mixed, at = weights.copy(), 0
        for start, stop in plan.carried:
            mixed[start:stop] = before[at : at + stop - start]
            at += stop - start
        return mixed

    def _salt(self, round_number: int) -> int:
        return round_number * 1_000_003 + self.number

    def _with_personal(self, plan: Plan, weights: Floats) -> Floats:
        kept = self.kept.get("personal")
        if kept is None or not plan.personal:
            return weights
        mixed = weights.copy()
        for start, stop in plan.personal:
            mixed[start:stop] = kept[start:stop]
        return mixed

    def _keep(self, **arrays: Floats | None) -> None:
        kept = {name: array for name, array in arrays.items() if array is not None}
        if kept or self.kept:  # a correction that was made up for is not made again
            self.kept = kept


def _sent(plan: Plan, change: Floats) -> Floats:
    """What of a change may go up; it is written to."""
    for start, stop in plan.staying:
        change[start:stop] = 0
    return change


def _received(asked: Payload) -> tuple[Plan, Floats, int]:
    plan = _plan(str(asked.setting("config", "plan")))
    proximal = asked.config["config"].get("proximal-mu")
    if proximal is not None:
        plan = plan.with_proximal(float(proximal))
    weights = asked.vector("arrays", "weights")
    return plan, weights, int(asked.setting("config", "server-round"))
