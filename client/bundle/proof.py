"""A bundle proves itself on the device that it is for, before that device predicts with it.

It runs in the process that learns: a crash in the model, the operators or ONNX Runtime ends that
process, and is an answer like any other.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from client.bundle.claims import claimed, lies, measured
from client.bundle.predictor import Floats, NotFiniteError, Predictor
from client.bundle.reader import Bundle, open_bundle
from client.messages import Candidate
from schemas.rollout import BundleOrder

_LONGEST: Final = 0.5  # seconds of timing
_LEAST: Final = 5  # windows timed
_EXTREME: Final = 1e6  # times the reference input's largest value, or 1: no sensor's, but a glitch


class ProofError(RuntimeError):
    """A whole bundle that is not for this device, or does not do here what it should."""


@dataclass(frozen=True)
class Proof:
    """What a bundle proved.

    Attributes
    ----------
    base, backbone : str or None
    latency_limit : float
        Microseconds. These are for the daemon.
    report : dict
        For the server.
    """

    base: str | None
    backbone: str | None
    latency_limit: float
    report: dict[str, Any]


def prove(
    order: BundleOrder,
    told: Candidate,
    key: str | None,
    windows: Callable[[], Floats],
) -> Proof:
    """Check a bundle whole, and let it answer.

    Parameters
    ----------
    order : BundleOrder
    told : Candidate
        The bundle, and what is asked of it by the one that the device predicts with now.
    key : str or None
        The fleet's public key.
    windows : callable() -> array
        The device's own, the newest last.

    Raises
    ------
    BundleError, NotRunnableError, ProofError
        One line: what was wrong, and what would be right.
    """
    base = None if told.base is None else Path(told.base)
    bundle = open_bundle(Path(told.path), key, base=base)
    _check_meant(order, bundle, told)
    predictor = Predictor(bundle)
    if (error := predictor.reference_error()) > 1:
        raise ProofError(f"its answer to the reference input is {error:.3g} tolerances off")
    own = _answered(predictor, bundle, _own(bundle, windows, order.windows))
    given = bundle.manifest.input
    limit = order.latency_us or 1e6 * given.time / given.hz
    latency = _latency(predictor, bundle.reference if own is None else own)
    if latency > limit:
        raise ProofError(f"a window takes {latency:.0f} us here; at most {limit:.0f} are allowed")
    report = {
        "sha256": bundle.sha256,
        "name": bundle.manifest.name,
        "reference_error": round(error, 4),
        "windows": 0 if own is None else len(own),
        "latency_us": round(latency, 1),
        **_memory(bundle),
    }
    return Proof(bundle.manifest.base, bundle.manifest.backbone, limit, report)


def _check_meant(order: BundleOrder, bundle: Bundle, told: Candidate) -> None:
    """Refuse another file than the one ordered, an older one, and one of another backbone."""
    if bundle.sha256 != order.bundle:
        raise ProofError(f"is the bundle {bundle.sha256[:16]}…; ordered was {order.bundle[:16]}…")
    if not order.downgrade and order.published < (told.published or 0.0):
        raise ProofError(
            f"was published {_date(order.published)}, before the bundle that is installed "
            f"({_date(told.published or 0.0)}); a roll-out with --downgrade goes back to it"
        )
    here, backbone = told.backbone, bundle.manifest.backbone
    if not order.other_backbone and here is not None and backbone != here:
        raise ProofError(
            f"is made from the backbone {(backbone or 'none')[:16]}; installed is a bundle of "
            f"{here[:16]}. A roll-out with --other-backbone changes it"
        )


def _own(bundle: Bundle, windows: Callable[[], Floats], most: int) -> Floats | None:
    """The device's last windows, or None where it has none yet."""
    try:
        found = windows()
    except (OSError, ValueError):  # nothing was recorded yet
        return None
    wanted = bundle.manifest.input
    if not most or not len(found):
        return None
    if found.shape[1:] != (wanted.time, wanted.channels):
        raise ProofError(
            f"takes windows of ({wanted.time}, {wanted.channels}), time and channels; this "
            f"device has {found.shape[1:]}"
        )
    own = np.ascontiguousarray(found[-most:], np.float32)
    finite: Floats = own[np.isfinite(own).all(axis=(1, 2))]
    return finite if len(finite) else None


def _answered(predictor: Predictor, bundle: Bundle, own: Floats | None) -> Floats | None:
    """The windows of which it makes finite logits: all of them, but for a sensor's glitches.

    It answered its reference input, so that what is not finite may be the window's doing. An
    ordinary window's is not.

    Raises
    ------
    NotRunnableError
        Where it is the bundle's doing.
    """
    if own is None:
        return None
    try:
        predictor.logits(own)
    except NotFiniteError:
        most = _EXTREME * max(1.0, float(np.abs(bundle.reference).max()))
        ordinary: Floats = own[np.abs(own).max(axis=(1, 2)) <= most]
        if len(ordinary) == len(own):
            raise
        return _answered(predictor, bundle, ordinary) if len(ordinary) else None
    return own


def _latency(predictor: Predictor, windows: Floats) -> float:
    """Median of a window's microseconds, one at a time, as predictions come."""
    took: list[float] = []
    end = time.perf_counter() + _LONGEST
    while len(took) < _LEAST or (len(took) < len(windows) and time.perf_counter() < end):
        began = time.perf_counter()
        predictor.logits(windows[len(took) % len(windows)][None])
        took.append(time.perf_counter() - began)
        if time.perf_counter() > end:
            break  # a window of half a second needs no second look
    return 1e6 * float(np.median(took))


def _memory(bundle: Bundle) -> dict[str, int]:
    """What it takes here, where its manifest says something of that."""
    said = bundle.manifest.expected
    if not claimed(said):
        return {}
    try:
        found = measured(bundle.manifest, bundle.model, bundle.reference[:1])
    except RuntimeError as error:
        raise ProofError(str(error)) from None
    if wrong := lies(said, found):
        raise ProofError("; ".join(wrong))
    return {} if found.memory_bytes is None else {"memory_bytes": found.memory_bytes}


def _date(unix: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(unix))
