"""``flwr-sim export``: a person's model of a finished run, as ONNX, windows or a bundle."""

import hashlib
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto
from pydantic import TypeAdapter, ValidationError

from client import bundle
from client.bundle.claims import measured
from client.bundle.predictor import session
from client.bundle.reader import open_base
from edge_kernels.quantize.histogram import Range
from edge_kernels.quantize.quantizer import names, quantize, shared, to_edge, to_lookup, to_qdq
from schemas.base import ConfigError, describe
from schemas.bundle import BundleError, Text
from server.outcome import macro_f1
from simulations.personal_model import Models, Personal, open_models
from simulations.ranges import FederatedRanges, Histograms, Ranges
from simulations.report.files import RunError, atomic_write

Form = Literal["edge", "lookup", "qdq"]
FLOAT: Final = 32  # bits
LOOKUP_MOST: Final = 4
_STARTED_MOST: Final = 2


def usual_form(bits: int) -> Form:
    """Integers; lookup kernels for 2 bits, where they are smaller and as fast."""
    return "lookup" if bits == 2 else "edge"


_FORMS: Final = {"edge": to_edge, "lookup": to_lookup, "qdq": to_qdq}
_BATCH: Final = 64  # windows of one call


@dataclass(frozen=True)
class Export:
    """What to write.

    Attributes
    ----------
    out, float_, windows : Path or None
        The bundle; the float model as ONNX; the person's test windows and labels as .npz.
    bits : int
        Of the bundle's weights; 32 is the float model.
    form, quantizer, seed
        How they are quantized and run.
    name : str or None
        The bundle's; the person's, or the run's where all share it, if left out.
    key : Path or None
        The fleet's private key, PEM; without it the bundle is not signed.
    base : Path or None
        A bundle from which this one is stored as a difference.
    ranges : {"sources", "federated"}
        Where activations' ranges come from: the sources' windows, or devices' histograms.
    measure : bool
        Say in the bundle what memory and time its model takes here; else its bytes are the same
        every time.
    noise : float
        On these histograms; see ``simulations.ranges.Histograms``.
    """

    out: Path | None = None
    float_: Path | None = None
    windows: Path | None = None
    bits: int = 8
    form: Form = "edge"
    quantizer: str = "distilled"
    seed: int = 0
    name: str | None = None
    key: Path | None = None
    base: Path | None = None
    ranges: Ranges = "sources"
    noise: float = 0.0
    measure: bool = False


def export(
    run: Path,
    person: str | None,
    wanted: Export,
    strategy: str | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Write what is wanted of a run's person, or of what all share where ``person`` is None.

    Returns
    -------
    What was written: for people and programs.

    Raises
    ------
    ConfigError
        Where files cannot be as named; before anything is computed.
    RunError, CheckpointError, DataError
        See ``personal_model``; and where the model cannot be quantized or bundled.
    """
    key = _checked(person, wanted)
    tell(f"{run}: taking the run up where it ended")
    with open_models(run, strategy, tell) as models:
        personal = models.personal(models.persons[0] if person is None else person)
        if person is None:  # nobody's mean and deviation
            personal = replace(personal, model=models.shared, sources=models.sources)
        ranges = None
        if wanted.ranges == "federated" and wanted.out is not None:
            how = Histograms.with_noise(wanted.noise)
            ranges = FederatedRanges(models, how, tell).of(person)
        start = Starts(models, tell).of(wanted) if wanted.out is not None else None
        run_name = models.loaded.config.name
    if person is not None:
        tell(f"{person}: rebuilt, macro-F1 {personal.macro_f1:.3f} as in the run")
    said: dict[str, Any] = {"run": str(run), "strategy": personal.strategy, "person": person}
    if wanted.float_ is not None:
        content = _bytes(personal.model)
        atomic_write(wanted.float_, content)
        said |= {"float": str(wanted.float_), "bytes_float": len(content)}
    if wanted.windows is not None:
        atomic_write(wanted.windows, _windows_npz(personal))
        said["windows"] = str(wanted.windows)
    if wanted.out is not None:
        made = f"quantizing: {wanted.quantizer}, {wanted.bits} bits, {wanted.form}"
        tell("writing the float model" if wanted.bits == FLOAT else made)
        called = wanted.name or person or run_name
        said |= _bundled(personal, wanted, key, called, ranges, start)
    return said


def quantized(
    model: ModelProto,
    sources: NDArray[np.float32],
    wanted: Export,
    ranges: Sequence[Range] | None = None,
    start: Any = None,
) -> bytes:
    """A float model in the bits and the form that are wanted.

    Parameters
    ----------
    model, sources
        As of ``Personal``.
    wanted : Export
    ranges : sequence of (low, high), optional
        Of its activations, in place of the sources' windows'.
    start : optional
        As ``Starts`` gives it.

    Raises
    ------
    RunError
        Where the quantizer refuses.
    """
    if wanted.bits == FLOAT:
        return _bytes(model)
    given = {"ranges": ranges, "start": start}
    settings = {name: each for name, each in given.items() if each is not None}
    try:
        made = quantize(model, sources, **_how(wanted, settings))
        return _bytes(_FORMS[wanted.form](made))
    except (NotImplementedError, ValueError) as error:
        raise RunError(f"{wanted.quantizer}, {wanted.bits} bits: {error}") from error


def _how(wanted: Export, settings: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `quantize`."""
    if wanted.form == "lookup" and wanted.bits == LOOKUP_MOST:
        settings = {**settings, "ends": LOOKUP_MOST}
    return {
        "quantizer": wanted.quantizer,
        "bits": wanted.bits,
        "seed": wanted.seed,
        "settings": settings,
    }


class Starts:
    """What quantizers learned of a run's shared model: where the persons' start, at 2 bits.

    It is learned once, from the sources' windows alone. Eight and four bits do without.
    """

    def __init__(self, models: Models, tell: Callable[[str], None] = lambda _: None) -> None:
        self.models, self.tell = models, tell
        self._found: dict[tuple[str, int, Form], Any] = {}

    def of(self, wanted: Export) -> Any:
        """Return a start, or None where the quantizer takes none.

        Raises
        ------
        RunError
            Where the quantizer refuses.
        """
        if wanted.bits > _STARTED_MOST:
            return None
        key = (wanted.quantizer, wanted.seed, wanted.form)
        if key not in self._found:
            self.tell(f"{self.models.run}: {wanted.quantizer} learns the shared model first")
            try:
                found = shared(self.models.shared, self.models.sources, **_how(wanted, {}))
            except ValueError as error:
                raise RunError(f"{wanted.quantizer}, the shared model: {error}") from error
            self._found[key] = found
        return self._found[key]


def predictions(form: str, model: bytes, windows: NDArray[np.floating]) -> NDArray[np.float32]:
    """Logits (windows, classes) of an exported model."""
    running = session(_carded(form), model)
    parts = [
        running.run(None, {"windows": np.ascontiguousarray(windows[at : at + _BATCH], np.float32)})
        for at in range(0, len(windows), _BATCH)
    ]
    return np.concatenate([part[0] for part in parts])


def score(personal: Personal, form: str, model: bytes) -> float:
    """Macro-F1 of an exported model on the person's test windows."""
    logits = predictions(form, model, personal.windows.test)
    confusion = np.zeros((len(personal.classes),) * 2, np.int64)
    np.add.at(confusion, (personal.windows.test_labels, logits.argmax(1)), 1)
    return macro_f1(confusion)


def _checked(person: str | None, wanted: Export) -> bytes | None:
    """Refuse what cannot be written before minutes are spent; return the key."""
    problems = _file_problems(wanted)
    if person is None and wanted.windows is not None:
        problems.append("--windows: --shared has no windows of its own; name a --person")
    problems += _name_problems(wanted.name)
    if wanted.base is not None:
        problems += _base_problems(wanted.base)
    if wanted.form == "lookup" and wanted.bits > LOOKUP_MOST:
        problems.append("--form lookup: its kernels have 4 and 2 bits; give --bits 4 or --bits 2")
    if wanted.quantizer not in names():
        problems.append(
            f"--quantizer {wanted.quantizer}: not installed; there are {', '.join(names())}"
        )
    if wanted.noise and wanted.ranges != "federated":
        problems.append(f"--noise {wanted.noise:g}: only --ranges federated has counts to hide")
    key = _key(wanted.key, problems) if wanted.key is not None else None
    if problems:
        raise ConfigError("export", problems)
    return key


def _name_problems(name: str | None) -> list[str]:
    try:
        TypeAdapter(Text).validate_python(name or "")
    except ValidationError as error:
        return [f"--name {name!r}: {problem}" for problem in describe(error.errors())]
    return []


def _base_problems(path: Path) -> list[str]:
    if not path.is_file():
        return [f"--base {path}: no such file"]
    try:
        open_base(path)
    except BundleError as error:
        return [f"--base {error}"]
    except OSError as error:
        return [f"--base {path}: {error.strerror or error}"]
    return []


def _file_problems(wanted: Export) -> list[str]:
    files = {"--out": wanted.out, "--float": wanted.float_, "--windows": wanted.windows}
    named = {option: path for option, path in files.items() if path is not None}
    problems = [] if named else ["nothing to write: name --out, --float or --windows"]
    for option, path in named.items():
        if not path.absolute().parent.is_dir():
            problems.append(f"{option} {path}: no such folder: {path.parent}")
        elif path.is_dir():
            problems.append(f"{option} {path}: is a folder; name a file")
        elif not os.access(path.absolute().parent, os.W_OK):
            problems.append(f"{option} {path}: this folder is not writable")
    if len({path.absolute() for path in named.values()}) < len(named):
        problems.append(f"{', '.join(named)}: each needs a file of its own")
    return problems


def _key(path: Path, problems: list[str]) -> bytes | None:
    from schemas.signing import public_hex

    try:
        key = path.read_bytes()
        public_hex(key)
    except OSError as error:
        problems.append(f"--signing-key {path}: {error.strerror or error}")
    except (TypeError, ValueError) as error:
        said = str(error).split("\n")[0][:200]
        problems.append(f"--signing-key {path}: not a private Ed25519 key in PEM: {said}")
    else:
        return key
    return None


def _bundled(
    personal: Personal,
    wanted: Export,
    key: bytes | None,
    name: str,
    ranges: Sequence[Range] | None,
    start: Any,
) -> dict[str, Any]:
    assert wanted.out is not None
    content = quantized(personal.model, personal.sources, wanted, ranges, start)
    form: Form = "qdq" if wanted.bits == FLOAT else wanted.form
    _, time, channels = personal.sources.shape
    try:
        card = bundle.Card(
            name=name,
            task="activity",
            classes=personal.classes,
            input=bundle.Input(time=time, channels=channels, hz=personal.hz),
            bits=wanted.bits,
            form=_carded(form),
            backbone=hashlib.sha256(_bytes(personal.shared)).hexdigest(),
        )
        if wanted.measure:
            expected = measured(card, content, personal.sources[:1])
            card = card.model_copy(update={"expected": expected})
        bundle.write(wanted.out, card, content, key, base=wanted.base)
    except BundleError as error:
        raise RunError(f"{wanted.out}: {error}") from error
    except ValidationError as error:
        raise RunError(f"{wanted.out}: {'; '.join(describe(error.errors()))}") from error
    said = {
        "out": str(wanted.out),
        "bits": wanted.bits,
        "form": form,
        "quantizer": None if wanted.bits == FLOAT else wanted.quantizer,
        "ranges": None if wanted.bits == FLOAT else wanted.ranges,
        "signed": key is not None,
        "bytes": wanted.out.stat().st_size,
        "bytes_float": len(_bytes(personal.model)),
    }
    if personal.model is not personal.shared:
        said |= {"f1": score(personal, form, content), "f1_float": personal.macro_f1}
    return said


def _carded(form: str) -> Literal["edge", "qdq"]:
    """As a bundle's card has it: with operators of ``flwr.edge``, or plain ONNX."""
    return "qdq" if form == "qdq" else "edge"


def _windows_npz(personal: Personal) -> bytes:
    file = io.BytesIO()
    windows = np.ascontiguousarray(personal.windows.test, np.float32)
    labels, classes = personal.windows.test_labels, np.array(personal.classes)
    np.savez(file, windows=windows, labels=labels, hz=personal.hz, classes=classes)
    return file.getvalue()


def _bytes(model: ModelProto) -> bytes:
    return bytes(model.SerializeToString(deterministic=True))
