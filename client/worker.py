"""The process that learns: it reads tasks from its standard input, one JSON line each.

The daemon starts it for a task and lets it end when there are no more: so NumPy and ONNX Runtime
take memory only while there is work, and a crash in a graph ends this process, not the daemon. It
answers with names of objects and commits nothing.
"""

import errno
import json
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

import numpy as np
from numpy.typing import NDArray

from client.device import Device
from client.graphs import GraphError, GraphStore
from client.learner import Fitted, Floats, Learner, LearnerError
from client.messages import (
    Answer,
    Do,
    Done,
    Failed,
    Ordered,
    Predict,
    Predicted,
    Prove,
    Proved,
    Request,
    Served,
    Settings,
    Sound,
    Timed,
    read_request,
    read_settings,
    write_answer,
)
from client.windows import PersonWindows
from schemas.objects import MissingObjectError, ObjectStore
from schemas.payload import Payload, PayloadError
from schemas.payload_object import pack, unpack
from schemas.plan import Plan
from schemas.rollout import BACK, RECORD, BundleOrder
from schemas.wire import ObjectRef

if TYPE_CHECKING:
    from client.bundle.serving import Serving

_log = logging.getLogger("flwr_edge.worker")
_LONGEST: Final = 480  # characters of a reason


class Remembering(Learner):
    """A learner that remembers the model it came to, to predict with.

    Attributes
    ----------
    model : dict[str, array] or None
        ``weights``, and ``plan`` as bytes.
    """

    model: dict[str, Any] | None = None

    def fit(
        self, plan: Plan, weights: Floats, own: Floats | None = None, *, salt: int = 0
    ) -> Fitted:
        """Run the plan's stages."""
        fitted = super().fit(plan, weights, own, salt=salt)
        if plan.predict is not None:
            chosen = fitted.own if plan.predict_own and fitted.own is not None else fitted.weights
            text = np.frombuffer(plan.model_dump_json().encode(), np.uint8)
            self.model = {"weights": chosen, "plan": text}
        return fitted


class Worker:
    """Answers tasks from objects on the disk.

    Parameters
    ----------
    objects : ObjectStore
        Holds what tasks name; takes answers and what is kept.
    graphs : GraphStore
    windows : callable() -> PersonWindows
        The person's windows as they are now.
    number : int
        Of the device.
    bundle : Serving, optional
        Predicts where the daemon's configuration names one.
    key : str, optional
        The fleet's public key, of bundles that are installed.
    adapters : Path, optional
        Folder of the adapters that the device keeps.
    """

    def __init__(
        self,
        objects: ObjectStore,
        graphs: GraphStore,
        windows: Callable[[], PersonWindows],
        number: int,
        bundle: "Serving | None" = None,
        key: str | None = None,
        adapters: Path | None = None,
    ) -> None:
        self.objects, self.graphs, self.windows, self.number = objects, graphs, windows, number
        self.bundle, self.key, self.adapters = bundle, key, adapters
        self._installed: tuple[Served, Serving] | None = None

    def __call__(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do a request; both ways as ``client.messages`` writes it. Any fault is an answer."""
        return write_answer(self._answered(request))

    def _answered(self, request: dict[str, Any]) -> Answer | Failed:
        try:
            return self._done(read_request(request))
        except MemoryError:
            return Failed("out of memory")
        except OSError as error:
            return Failed(f"disk: {error.strerror or error}"[:_LONGEST])
        except Exception as error:  # noqa: BLE001 (a task is outside input: any fault is its answer)
            return Failed(f"{type(error).__name__}: {error}"[:_LONGEST])

    def _done(self, request: Request) -> Answer | Failed:
        if isinstance(request, Predict):
            return self._sound(request) if request.reference else self._predicted(request)
        if isinstance(request, Prove):
            return self._proved(request)
        if request.action == "query.begin":
            return Done(*self._stored(Payload()), kept="")
        if request.action == "query.place":
            place = Payload(config={"place": {"partition-id": self.number}})
            return Done(*self._stored(place), kept=None)
        asked = self._asked(request)
        if request.action == BACK:  # nothing is to be proved
            order = _order(asked)
            return Ordered(self._stored(Payload())[0], order)
        return self._learned(request, asked)

    def _asked(self, request: Do | Prove) -> Payload:
        return unpack(self.objects.get(request.payload), self._fetch)

    def _learned(self, request: Do, asked: Payload) -> Done:
        kept = self._kept(request.kept) if request.kept else {}
        learners: list[Remembering] = []

        def learner() -> Learner:
            learners.append(Remembering(self.windows(), self.graphs))
            return learners[-1]

        device = Device(self.graphs, learner, self.number, kept, self.adapters)
        before = device.kept
        payload, objects = self._stored(device.answer(request.action, asked))
        now: str | None = None
        if device.kept is not before:
            now = self.objects.put(bytes_of(device.kept)).sha256 if device.kept else ""
        models = [learner.model for learner in learners if learner.model]
        model = self.objects.put(bytes_of(models[-1])).sha256 if models else None
        return Done(payload, objects, now, model)

    def _proved(self, request: Prove) -> Proved:
        from client.bundle.proof import prove

        order = _order(self._asked(request))
        proof = prove(order, request.bundle, self.key, lambda: self.windows().train)
        payload, _ = self._stored(Payload(config={RECORD: proof.report}))
        return Proved(payload, order, proof.base, proof.backbone, proof.latency_limit)

    def _predicted(self, request: Predict) -> Predicted | Failed:
        model, window = request.model, request.window
        if model is None:
            return self._by_bundle(window, request.bundle)
        arrays = arrays_of(self.objects.get(model))
        plan = Plan.model_validate_json(arrays["plan"].tobytes())
        x, at = self._chosen(window)
        learner = Learner(self.windows(), self.graphs)
        expected = learner.windows.train.shape[1:]
        if x.shape != expected or not np.isfinite(x).all():
            raise LearnerError(f"a window of {x.shape}; expected finite {expected}")
        logits = learner.predict(plan, arrays["weights"], x[None])[0].astype(np.float64)
        return Predicted(*_scored(logits), model=model, window_at=at)

    def _by_bundle(self, window: object, told: Served | None) -> Predicted | Failed:
        from client.bundle.predictor import NotRunnableError

        x, at = self._chosen(window)
        try:
            serving = self.bundle if told is None else self._serving(told)
            assert serving is not None, "a bundle predicts where no model is named"
            predictor = serving.predictor()
        except Exception as error:
            if _of_the_bundle(error):
                return _fault(error)
            raise
        began = time.perf_counter()
        try:
            found = serving(x)
        except NotRunnableError as error:
            if not predictor.is_sound():
                return _fault(error)
            said = f"{error}, of this window; its reference input it answers as it should"
            raise LearnerError(said) from None  # the window's fault, whoever gave it
        took = round(1e6 * (time.perf_counter() - began), 1)
        label, scores = _scored(found["logits"])
        name = found["classes"][label]
        if told is None:
            return Predicted(label, scores, name, found["model"], at)
        return Timed(label, scores, name, found["model"], at, microseconds=took)

    def _sound(self, request: Predict) -> Sound | Failed:
        """Whether a bundle answers its reference input, asked after it ended this process."""
        assert request.bundle is not None, "a reference input is a bundle's"
        try:
            sound = self._serving(request.bundle).predictor().is_sound()
        except Exception as error:
            if _of_the_bundle(error):
                return _fault(error)
            raise
        return Sound() if sound else Failed("fails its reference input", fault=True)

    def _chosen(self, window: object) -> tuple[NDArray[np.floating], float | None]:
        """The window that was given; else the newest one here, and when it came."""
        if window is not None:
            return _floats(window), None
        try:
            return self.windows().newest
        except (FileNotFoundError, IndexError):
            said = "no window was recorded here yet: give one, or wait for the sensor"
            raise LearnerError(said) from None

    def _serving(self, told: Served) -> "Serving":
        if self._installed is None or self._installed[0] != told:
            self._installed = told, _serving(told.path, self.key, told.base)
        return self._installed[1]

    def _kept(self, name: str) -> dict[str, Any]:
        try:
            return arrays_of(self.objects.get(name))
        except MissingObjectError as error:
            _log.error("what was kept of this run is lost, it starts afresh: %s", error)
            return {}

    def _fetch(self, digest: str) -> bytes:
        if self.objects.has(digest):
            return self.objects.get(digest)
        try:
            return self.graphs.get(digest)
        except GraphError:
            raise PayloadError(f"object {digest[:12]} is not on this device") from None

    def _stored(self, payload: Payload) -> tuple[ObjectRef, tuple[ObjectRef, ...]]:
        body, others = pack(payload)
        objects = tuple(self.objects.put(other) for other in others.values())
        return self.objects.put(body), objects


def _floats(window: object) -> NDArray[np.float32]:
    try:
        with np.errstate(over="ignore"):  # it is infinity then, and refused as such
            return np.asarray(window, np.float32)
    except (TypeError, ValueError):
        said = "the window given is none: expected a list of samples, each a list of its channels'"
        raise LearnerError(f"{said} numbers") from None


def _order(asked: Payload) -> BundleOrder:
    return BundleOrder.model_validate(asked.config.get(RECORD, {}))


def _of_the_bundle(error: Exception) -> bool:
    """Whether it says that a bundle's file is lost or spoilt, or that it does not run here."""
    from client.bundle.predictor import NotRunnableError
    from schemas.bundle import BundleError

    if isinstance(error, OSError):
        return isinstance(error, FileNotFoundError) or error.errno == errno.EIO
    return isinstance(error, NotRunnableError | BundleError)


def _fault(error: Exception) -> Failed:
    return Failed(f"{type(error).__name__}: {error}"[:_LONGEST], fault=True)


def _scored(logits: NDArray[np.float64]) -> tuple[int, tuple[float, ...]]:
    scores = np.exp(logits - logits.max())
    scores /= scores.sum()
    return int(scores.argmax()), tuple(round(float(s), 6) for s in scores)


def bytes_of(arrays: dict[str, Any]) -> bytes:
    """Arrays as one safetensors file."""
    from safetensors.numpy import save

    return bytes(save(arrays))


def arrays_of(data: bytes) -> dict[str, Any]:
    """Arrays of ``bytes_of``; ones that may be written to."""
    from safetensors.numpy import load

    return {name: array.copy() for name, array in load(data).items()}


def lines(source: TextIO) -> Iterator[str]:
    """Lines as they come; the process ends when the daemon does, in the middle of work too."""
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in source:
            waiting.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield waiting.get()


def main() -> None:
    """Serve until the daemon closes the pipe."""
    settings = read_settings(json.loads(sys.argv[1]))
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer
    worker = Worker(
        ObjectStore(Path(settings.objects), settings.store_bytes),
        GraphStore(Path(settings.graphs), lean=True),
        lambda: windows_of(Path(settings.windows), rings=settings.rings),
        settings.number,
        _configured(settings),
        settings.key,
        Path(settings.adapters),
    )
    for line in lines(sys.stdin):
        answers.write(json.dumps(worker(json.loads(line))) + "\n")
        answers.flush()


def _configured(settings: Settings) -> "Serving | None":
    if settings.bundle is None:
        return None
    return _serving(settings.bundle, settings.key, settings.base)


def _serving(path: str, key: str | None, base: str | None) -> "Serving":
    from client.bundle.serving import Serving

    return Serving(Path(path), key, None if base is None else Path(base))


def windows_of(folder: Path, *, rings: bool = False) -> PersonWindows:
    """Open the person's windows: a folder of ``.npy`` files, or of a sensor's rings."""
    if rings:
        from client.ring import mapped

        return mapped(folder)
    return PersonWindows.open(folder)


if __name__ == "__main__":
    main()
