"""Writes a bundle: the same model, card, key and base are always the same bytes."""

import hashlib
import os
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from client.bundle.checks import check_model, edge_operators
from client.bundle.parts import encode
from client.bundle.predictor import answers
from client.bundle.reader import Bundle, open_base
from client.bundle.split import split
from schemas.base import describe
from schemas.bundle import (
    FORMAT,
    HEADER,
    MAGIC,
    MAX_MANIFEST,
    MAX_REFERENCE,
    MOST_WINDOWS,
    SIGNATURE,
    BundleError,
    Card,
    Input,
    Manifest,
    Model,
    Part,
    PartName,
    Reference,
    Runtime,
    canonical,
    signed_bytes,
    version_tuple,
)
from schemas.new_file import NewFile
from schemas.signing import public_hex, sign

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ONNXRUNTIME: Final = "1.20"  # the oldest that flwr-edge takes
_DIGITS: Final = 6  # of a reference logit


def write(
    path: str | os.PathLike[str],
    card: Card,
    model: bytes,
    key: "bytes | Ed25519PrivateKey | None" = None,
    *,
    reference: NDArray[np.float32] | None = None,
    base: str | os.PathLike[str] | None = None,
    onnxruntime: str = ONNXRUNTIME,
) -> Manifest:
    """Write a bundle, whole or not at all. The model answers the reference input once for it.

    Parameters
    ----------
    path
        The file.
    card : Card
    model : bytes
        ONNX: ``windows`` float32 (batch, time, channels) → ``logits`` float32 (batch, classes).
    key : bytes or Ed25519PrivateKey, optional
        The fleet's private key (PEM); None: not signed.
    reference : float32 (windows, time, channels), optional
        Reference input, a window or a few; noise that compresses well where it is left out.
    base : path, optional
        A bundle that is no difference itself: parts are stored as differences from its parts where
        that is smaller. Where none is, this bundle needs no base.
    onnxruntime : str
        The oldest ONNX Runtime that runs the model.

    Returns
    -------
    Manifest

    Raises
    ------
    BundleError
        Where the model is not of the card, or may not be in a bundle.
    """
    digest = hashlib.sha256(model).hexdigest()
    ops = edge_operators(check_model(card, model, digest))
    windows = _noise(card.input) if reference is None else reference
    if not 1 <= len(windows) <= MOST_WINDOWS:
        raise BundleError(f"reference: {len(windows)} windows; expected 1 to {MOST_WINDOWS}")
    answer = answers(card, model, windows)
    graph, weights, holes = split(model)
    contents: dict[PartName, bytes] = {"graph": graph}
    if holes:
        contents["weights"] = weights
    contents["reference"] = np.ascontiguousarray(windows, "<f4").tobytes()
    opened = None if base is None else open_base(base)
    parts, stored = _coded(contents, opened)
    differs = any(part.coding in ("sub", "xor") for part in parts)
    manifest = _manifest(
        card,
        model=Model(sha256=digest, bytes=len(model), holes=holes),
        runtime=Runtime(flwr_edge=_version(), onnxruntime=onnxruntime, ops=ops),
        reference=Reference(windows=len(windows), logits=_rounded(answer)),
        base=opened.sha256 if opened is not None and differs else None,
        signer=None if key is None else public_hex(key),
        parts=parts,
    )
    text = canonical(manifest)
    if len(text) > MAX_MANIFEST:
        raise BundleError(f"a manifest of {len(text)} bytes; at most {MAX_MANIFEST}")
    signature = b"" if key is None else bytes.fromhex(sign(key, signed_bytes(text)))
    assert len(signature) in (0, SIGNATURE)
    header = HEADER.pack(MAGIC, FORMAT, len(text), len(signature))
    with NewFile(Path(path)) as file:
        file.writelines([header, text, signature, *stored])
    return manifest


def _manifest(card: Card, **found: Any) -> Manifest:
    fields = {name: getattr(card, name) for name in Card.model_fields}
    try:
        return Manifest(**fields, **found)
    except ValueError as error:
        errors = getattr(error, "errors", None)
        said = "; ".join(describe(errors()[:3])) if errors else str(error)
        raise BundleError(f"manifest: {said}") from None


def _coded(
    contents: dict[PartName, bytes], base: Bundle | None
) -> tuple[tuple[Part, ...], list[bytes]]:
    others = {} if base is None else base.parts
    coded = [encode(name, data, others.get(name)) for name, data in contents.items()]
    return tuple(part for part, _ in coded), [stored for _, stored in coded]


def _noise(shape: Input) -> NDArray[np.float32]:
    """One window: multiples of an eighth from −2 to 2, the same on every machine."""
    count = shape.time * shape.channels
    if 4 * count > MAX_REFERENCE:
        raise BundleError(f"a window of {4 * count} bytes; at most {MAX_REFERENCE}")
    mixed = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(2_654_435_761)
    eighths = (mixed >> np.uint64(16)) % np.uint64(33)
    noise = (eighths.astype(np.float32) - np.float32(16)) / np.float32(8)
    return noise.reshape(1, shape.time, shape.channels)


def _rounded(logits: NDArray[np.float32]) -> tuple[tuple[float, ...], ...]:
    """To a few digits, so that the last bits of a CPU's floats are not in the file."""
    return tuple(tuple(float(f"{value:.{_DIGITS}g}") for value in row) for row in logits)


def _version() -> str:
    return ".".join(map(str, version_tuple(version("flwr-edge"))))
