"""Runs a bundle's model on windows, which are checked first."""

import math
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

import edge_kernels
from client.bundle.checks import not_runnable
from client.bundle.reader import Bundle
from client.graph_check import onnx_alone
from edge_kernels.quick import QuickSession
from schemas.base import ConfigError
from schemas.bundle import BundleError, Card, Input, Manifest

Floats = NDArray[np.float32]
_BATCH: Final = 64  # windows of one call


class NotRunnableError(RuntimeError):
    """A good bundle that does not run here, or does not answer here as it should."""


class NotFiniteError(NotRunnableError):
    """A model that makes NaN or infinity of a window: its own fault, or the window's.

    Attributes
    ----------
    window : int
        The first of which it does; 0 where one was given.
    """

    window: int = 0


def session(form: str, model: bytes) -> onnxruntime.InferenceSession:
    """Make a session, one thread; with the operators of ``flwr.edge`` where the form is edge."""
    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    onnx_alone(options)
    try:
        if form == "edge":
            return edge_kernels.session(model, threads=1, options=options)
        options.intra_op_num_threads = 1
        edge_kernels.exact_int8(options)
        return QuickSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors share no public base
        raise NotRunnableError(f"the model does not load: {_line(error)}") from error


def answers(card: Card, model: bytes, windows: Floats) -> Floats:
    """Logits of windows by a model that has passed its checks.

    Raises
    ------
    BundleError
        Where the windows do not fit, or the model does not load or run.
    """
    try:
        return _Runner(card, session(card.form, model))(check_windows(windows, card.input))
    except (ConfigError, NotRunnableError) as error:
        raise BundleError(f"reference: {error}") from None


class Predictor:
    """A bundle's model, loaded.

    Parameters
    ----------
    bundle : Bundle

    Attributes
    ----------
    manifest : Manifest
    sha256 : str
        Of the bundle's file.

    Raises
    ------
    NotRunnableError
        Where this runtime is too old for it, or does not load it.
    """

    def __init__(self, bundle: Bundle) -> None:
        if problems := not_runnable(bundle.manifest):
            raise NotRunnableError(f"{bundle.path}: {'; '.join(problems)}")
        self.manifest: Manifest = bundle.manifest
        self.sha256 = bundle.sha256
        self._reference = bundle.reference
        try:
            self.session = session(self.manifest.form, bundle.model)
        except NotRunnableError as error:
            raise NotRunnableError(f"{bundle.path}: {error}") from None
        self._run = _Runner(self.manifest, self.session)

    def logits(self, windows: NDArray[Any], hz: float | None = None) -> Floats:
        """Logits, (windows, classes).

        Parameters
        ----------
        windows : float32 or float16 (windows, time, channels)
        hz : float, optional
            Their rate, where it is known.

        Raises
        ------
        ConfigError
            Windows of another shape, type or rate, or with NaN.
        NotRunnableError
            Where the model fails, or answers with something that is no logits.
        """
        return self._run(check_windows(windows, self.manifest.input, hz))

    def reference_error(self) -> float:
        """How far the answer to the reference input is off, in tolerances: above 1 is too far."""
        expected = np.array(self.manifest.reference.logits, np.float64)
        found = self._run(self._reference).astype(np.float64)
        allowed = self.manifest.tolerance * max(1.0, float(np.abs(expected).max()))
        error = float(np.abs(found - expected).max()) / allowed
        return error if math.isfinite(error) else math.inf

    def is_sound(self) -> bool:
        """Whether it answers its own reference input: what it fails on then is the window's."""
        try:
            return self.reference_error() <= 1
        except NotRunnableError:
            return False


def check_windows(windows: NDArray[Any], wanted: Input, hz: float | None = None) -> Floats:
    """The windows as the model takes them.

    Raises
    ------
    ConfigError
        Says what they are and what is wanted.
    """
    check_rate(hz, wanted)
    expected = (wanted.time, wanted.channels)
    if windows.dtype not in (np.float32, np.float16):
        problem = f"{windows.dtype}; expected float32 or float16 (windows.astype('float32'))"
    elif windows.ndim != 3 or windows.shape[1:] != expected:
        problem = f"shape {windows.shape}; expected (windows, {expected[0]}, {expected[1]})"
    elif (at := _first_not_finite(windows)) is not None:
        problem = f"window {at} holds NaN or infinity"
    else:
        return np.ascontiguousarray(windows, np.float32)
    raise ConfigError("windows", [problem])


def check_rate(hz: float | None, wanted: Input) -> None:
    """Refuse a known rate that is not the model's, to a hundredth.

    Raises
    ------
    ConfigError
    """
    if hz is not None and not math.isclose(hz, wanted.hz, rel_tol=0.01):
        raise ConfigError(
            "windows", [f"{hz:g} samples a second; the model takes {wanted.hz:g}: resample them"]
        )


def _first_not_finite(windows: NDArray[Any]) -> int | None:
    bad = ~np.isfinite(windows).all(axis=(1, 2))
    return int(bad.argmax()) if bad.any() else None


class _Runner:
    """Feeds a session in batches that it takes, and looks at what comes out."""

    def __init__(self, card: Card, session: onnxruntime.InferenceSession) -> None:
        self._card, self._session = card, session
        batch = session.get_inputs()[0].shape[0]
        self._batch = batch if isinstance(batch, int) else _BATCH

    def __call__(self, windows: Floats) -> Floats:
        logits = np.empty((len(windows), len(self._card.classes)), np.float32)
        for at in range(0, len(windows), self._batch):
            try:
                logits[at : at + self._batch] = self._once(windows[at : at + self._batch])
            except NotFiniteError as error:
                error.window += at
                raise
        return logits

    def _once(self, windows: Floats) -> Floats:
        given = self._card.input.normalisation
        if given is not None:
            mean, deviation = (np.array(each, np.float32) for each in (given.mean, given.deviation))
            windows = (windows - mean) / deviation
        try:
            (made,) = self._session.run(None, {"windows": windows})
        except Exception as error:  # ONNX Runtime's errors share no public base
            raise NotRunnableError(f"the model fails: {_line(error)}") from error
        expected = (len(windows), len(self._card.classes))
        if made.shape != expected:
            raise NotRunnableError(f"the model made {made.shape}; expected {expected}")
        finite = np.isfinite(made).all(axis=1)
        if not finite.all():
            odd = NotFiniteError("the model made NaN or infinity")
            odd.window = int(finite.argmin())
            raise odd
        logits: Floats = made
        return logits


def _line(error: Exception) -> str:
    return "".join(c if c.isprintable() else " " for c in str(error)[:300])
