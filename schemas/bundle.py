"""What a bundle says of itself: a personal model as one file. BUNDLE.md specifies the file.

``Card`` is what whoever exports a model says of it; ``Manifest`` adds what the writer finds out:
hashes, sizes, the runtime needed, the answer to the reference input.
"""

import json
import re
import struct
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from schemas.base import Strict, describe
from schemas.plan import Digest

FORMAT: Final = 1
MAGIC: Final = b"FLWRBNDL"
HEADER: Final = struct.Struct("<8sIII")  # magic, format, lengths of manifest and signature
SIGNATURE: Final = 64
MAX_MANIFEST: Final = 1 << 20
MAX_PART: Final = 1 << 28
MAX_HOLES: Final = 1 << 14
MAX_REFERENCE: Final = 1 << 20  # bytes of the reference input
DENSEST: Final = 1032  # bytes that one byte of a zlib stream can become
MOST_WINDOWS: Final = 16  # of the reference input
_SIGNED: Final = b"flwr-edge bundle v1\n"
_VERSION: Final = re.compile(r"\d{1,6}(\.\d{1,6}){0,3}", re.ASCII)


class BundleError(ValueError):
    """A bundle that is damaged, not of the fleet's key, of another format, or not what it says."""


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("expected printable characters")
    return text


Text = Annotated[str, Field(max_length=200), AfterValidator(_printable)]
Name = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_printable)]
Version = Annotated[str, Field(pattern=r"^\d{1,6}(\.\d{1,6}){0,3}$")]
PartName = Literal["graph", "weights", "reference"]
Bytes = Annotated[int, Field(ge=0, le=MAX_PART)]


class Normalisation(Strict):
    """What is to be done to a window before the model: (x − mean) / deviation, by channel."""

    mean: tuple[float, ...] = Field(min_length=1, max_length=1024)
    deviation: tuple[Annotated[float, Field(gt=0)], ...] = Field(min_length=1, max_length=1024)


class Input(Strict):
    """A window.

    Attributes
    ----------
    time, channels : int
        Samples and channels.
    hz : float
        Samples a second.
    dtype : "float32"
        As the model takes it.
    normalisation : Normalisation or None
        None: the graph does it itself.
    """

    time: int = Field(ge=1, le=1 << 16)
    channels: int = Field(ge=1, le=1024)
    hz: float = Field(gt=0, le=1e6)
    dtype: Literal["float32"] = "float32"
    normalisation: Normalisation | None = None

    @model_validator(mode="after")
    def _a_channel_each(self) -> "Input":
        given = self.normalisation
        if given and {len(given.mean), len(given.deviation)} != {self.channels}:
            raise ValueError(
                f"normalisation of {len(given.mean)} means and {len(given.deviation)} deviations "
                f"for {self.channels} channels"
            )
        return self


class Expected(Strict):
    """What it took where it was measured.

    A reader that opens a bundle takes it for a hint; ``flwr-edge verify`` measures, and names a
    model that takes far more.
    """

    memory_bytes: int | None = Field(None, ge=0, description="Resident, above the empty runtime.")
    latency_us: float | None = Field(None, gt=0, description="Of one window, one thread.")
    machine: Text = ""


class Card(Strict):
    """What whoever exports a model says of it.

    Attributes
    ----------
    name : str
        For people.
    task : str
        What it tells, such as "activity".
    classes : tuple[str, ...]
        In the order of the logits.
    input : Input
    bits : int
        Of the weights; 32 is float.
    form : "edge" or "qdq"
        With operators of ``flwr.edge``; or plain ONNX, which any ONNX Runtime runs.
    backbone : str or None
        SHA-256 of the shared model that it was made from.
    tolerance : float
        Largest difference from the reference output, as a share of its largest value, at least 1.
    """

    name: Text = ""
    task: Name
    classes: tuple[Name, ...] = Field(min_length=1, max_length=1024)
    input: Input
    bits: Literal[1, 2, 3, 4, 8, 16, 32]
    form: Literal["edge", "qdq"]
    backbone: Digest | None = None
    expected: Expected = Expected()
    tolerance: float = Field(0.01, gt=0, le=1)

    @model_validator(mode="after")
    def _classes_differ(self) -> "Card":
        twice = sorted({name for name in self.classes if self.classes.count(name) > 1})
        if twice:
            raise ValueError(f"classes: {twice[0]!r} comes more than once")
        return self


class Model(Strict):
    """The whole ONNX model: graph and weights put together."""

    sha256: Digest
    bytes: Bytes
    holes: tuple[tuple[Bytes, Bytes], ...] = Field(
        (), max_length=MAX_HOLES, description="Where weights go: offset in the graph, length."
    )


class Runtime(Strict):
    """The oldest runtime that runs it, and the operators of ``flwr.edge`` that it needs."""

    flwr_edge: Version
    onnxruntime: Version
    ops: tuple[Name, ...] = Field((), max_length=64)


class Reference(Strict):
    """A question whose answer is known; the part ``reference`` holds it, float32."""

    windows: int = Field(ge=1, le=MOST_WINDOWS)
    logits: tuple[Annotated[tuple[float, ...], Field(min_length=1, max_length=1024)], ...] = Field(
        min_length=1, max_length=MOST_WINDOWS, description="A row a window."
    )


class Part(Strict):
    """Bytes in the file.

    Attributes
    ----------
    coding
        raw: as they are; zlib: compressed; sub, xor: the difference from the base's part, mod 256
        or exclusive or, compressed.
    bytes, sha256
        Restored.
    stored, stored_sha256
        In the file.
    """

    name: PartName
    coding: Literal["raw", "zlib", "sub", "xor"]
    bytes: Bytes
    sha256: Digest
    stored: Bytes
    stored_sha256: Digest

    @model_validator(mode="after")
    def _can_become(self) -> "Part":
        most = self.stored if self.coding == "raw" else DENSEST * self.stored
        if self.bytes > most or (self.coding == "raw" and self.bytes != self.stored):
            raise ValueError(
                f"{self.name}: {self.stored} bytes, {self.coding}, cannot become {self.bytes}"
            )
        return self


class Manifest(Card):
    """All of it: a card, and what the writer found out.

    Attributes
    ----------
    base : str or None
        SHA-256 of the bundle file that differences are from.
    signer : str or None
        Public key, hexadecimal. It says which key to look for and is no proof.
    """

    format: Literal[1] = 1
    model: Model
    runtime: Runtime
    reference: Reference
    base: Digest | None = None
    signer: Digest | None = None
    parts: tuple[Part, ...] = Field(min_length=2, max_length=3)

    @model_validator(mode="after")
    def _fits(self) -> "Manifest":
        for problem in (self._part_problem(), self._size_problem(), self._reference_problem()):
            if problem:
                raise ValueError(problem)
        return self

    def part(self, name: PartName) -> Part | None:
        """A part by its name."""
        return next((part for part in self.parts if part.name == name), None)

    def _part_problem(self) -> str | None:
        names = [part.name for part in self.parts]
        expected = ["graph", *(["weights"] if self.model.holes else []), "reference"]
        if names != expected:
            return f"parts: {', '.join(names)}; expected {', '.join(expected)}"
        differ = any(part.coding in ("sub", "xor") for part in self.parts)
        if differ != (self.base is not None):
            return "base: a base goes with a part that differs from it, and only with one"
        return None

    def _size_problem(self) -> str | None:
        sizes = {part.name: part.bytes for part in self.parts}
        graph, weights = sizes["graph"], sizes.get("weights", 0)
        if graph + weights != self.model.bytes:
            return f"model.bytes = {self.model.bytes}; graph and weights have {graph + weights}"
        at = 0
        for offset, length in self.model.holes:
            if not at <= offset <= graph or not length:
                return f"model.holes: ({offset}, {length}) does not follow {at} in 0 to {graph}"
            at = offset
        filled = sum(length for _, length in self.model.holes)
        return None if filled == weights else f"model.holes take {filled} bytes of {weights}"

    def _reference_problem(self) -> str | None:
        shape = (self.reference.windows, self.input.time, self.input.channels)
        part = self.parts[-1]
        expected = 4 * shape[0] * shape[1] * shape[2]
        if part.bytes != expected or expected > MAX_REFERENCE:
            return f"reference: {part.bytes} bytes for {shape}, float32; at most {MAX_REFERENCE}"
        rows = [len(row) for row in self.reference.logits]
        if rows != [len(self.classes)] * self.reference.windows:
            return f"reference.logits: rows of {rows[:4]}; expected {len(self.classes)} a window"
        return None


def canonical(manifest: Manifest) -> bytes:
    """The one spelling of a manifest: JSON, keys sorted, no spaces, ASCII."""
    fields = manifest.model_dump(mode="json")
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def signed_bytes(manifest: bytes) -> bytes:
    """What the signature signs: a signature of something else is none of a bundle."""
    return _SIGNED + manifest


def parse(data: bytes) -> Manifest:
    """Read a manifest.

    Raises
    ------
    BundleError
        No JSON, not of the schema, or not in the canonical spelling: one line says which.
    """
    if len(data) > MAX_MANIFEST:
        raise BundleError(f"a manifest of {len(data)} bytes; at most {MAX_MANIFEST} are read")
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        raise BundleError(f"manifest: {_line(error)}") from None
    if canonical(manifest) != data:
        raise BundleError("manifest: not in the canonical spelling (sorted keys, no spaces, ASCII)")
    return manifest


def version_tuple(text: str) -> tuple[int, ...]:
    """A version's leading numbers, for comparison: 1.26.0rc1 is (1, 26, 0)."""
    found = _VERSION.match(text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def _line(error: Any) -> str:
    text = "; ".join(describe(error.errors(include_url=False)[:3])).replace("\n", " ")
    return "".join(c if c.isprintable() else "?" for c in text[:500])
