"""Opens a bundle: signature, sizes, hashes and graph are checked before anything is loaded."""

import hashlib
import os
import re
import stat
from dataclasses import dataclass
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from client.bundle.checks import check_model, edge_operators
from client.bundle.parts import decode
from client.bundle.split import join
from client.graph_check import Checked
from schemas.bundle import (
    FORMAT,
    HEADER,
    MAGIC,
    MAX_MANIFEST,
    MAX_PART,
    SIGNATURE,
    BundleError,
    Manifest,
    PartName,
    parse,
    signed_bytes,
)
from schemas.signing import SignatureError, verify

_KEY: Final = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
_MOST: Final = HEADER.size + MAX_MANIFEST + SIGNATURE + 2 * MAX_PART


class Trust(Enum):
    """What is known of who made a bundle."""

    FLEET = "signed by the fleet's key"
    SIGNER = "signed by the key that it names; whose that is was not checked: no key was given"
    UNCHECKED = "signed; the signature was not checked: that needs the package cryptography"
    UNSIGNED = "not signed"


@dataclass(frozen=True)
class Bundle:
    """A bundle, verified whole.

    Attributes
    ----------
    path : Path
    manifest : Manifest
    model : bytes
        ONNX.
    reference : float32 (windows, time, channels)
        Its reference input.
    trust : Trust
    sha256 : str
        Of the file: what a bundle that is a difference from it names.
    size : int
        Bytes of the file.
    checked : Checked
        What the model declares and has.
    parts : dict[str, bytes]
        Restored.
    """

    path: Path
    manifest: Manifest
    model: bytes
    reference: NDArray[np.float32]
    trust: Trust
    sha256: str
    size: int
    checked: Checked
    parts: dict[PartName, bytes]


def open_bundle(
    path: str | os.PathLike[str],
    fleet_key: str | None = None,
    *,
    base: str | os.PathLike[str] | None = None,
) -> Bundle:
    """Open a bundle.

    Parameters
    ----------
    path
        The file.
    fleet_key : str, optional
        Public key, 64 hexadecimal digits: then what it did not sign is refused.
    base : path, optional
        The bundle that this one is a difference from; needed where it is one. Its hash stands in
        the manifest, so that it needs no signature of its own.

    Raises
    ------
    BundleError
        Where it is not whole, not signed by the key, or not what it says; one line, path first.
    OSError
        Where a file cannot be read.
    ValueError
        Where the key is none: no bundle is to be blamed for that.
    """
    if fleet_key is not None and not _KEY.fullmatch(str(fleet_key).strip()):
        said = f"{str(fleet_key)[:20]!r} is no public key; expected its 64 hexadecimal digits"
        raise ValueError(f"fleet_key: {said}")
    return _opened(Path(path), fleet_key, None if base is None else Path(base))


def open_base(path: str | os.PathLike[str]) -> Bundle:
    """Open a bundle that others are differences from: it may be none itself.

    Raises
    ------
    BundleError, OSError
        As ``open_bundle``.
    """
    return _opened(Path(path), None, None, whole=True)


def _opened(path: Path, key: str | None, base: Path | None, *, whole: bool = False) -> Bundle:
    if not stat.S_ISREG(path.stat().st_mode):
        raise BundleError(f"{path}: is no file")
    try:
        with path.open("rb") as file:
            return _File(path, file, whole=whole).bundle(key, base)
    except BundleError as error:
        where = "" if str(error).startswith(f"{base}: ") else f"{path}: "
        raise BundleError(f"{where}{error}") from None


class _File:
    """One file, read front to back."""

    def __init__(self, path: Path, file: BinaryIO, *, whole: bool) -> None:
        self._path, self._file, self._whole = path, file, whole
        self._size = os.fstat(file.fileno()).st_size
        self._hash = hashlib.sha256()

    def bundle(self, key: str | None, base: Path | None) -> Bundle:
        manifest, trust = self._manifest(key)
        stored = {part.name: self._read(part.stored, part.name) for part in manifest.parts}
        others = _base_parts(manifest, base)
        parts = {
            part.name: decode(part, stored[part.name], others.get(part.name))
            for part in manifest.parts
        }
        model = join(parts["graph"], parts.get("weights", b""), manifest.model.holes)
        checked = _checked(manifest, model)
        reference = _reference(manifest, parts["reference"])
        digest = self._hash.hexdigest()
        return Bundle(
            self._path, manifest, model, reference, trust, digest, self._size, checked, parts
        )

    def _manifest(self, key: str | None) -> tuple[Manifest, Trust]:
        if not HEADER.size <= self._size <= _MOST:
            raise BundleError(f"{self._size} bytes; a bundle has {HEADER.size} to {_MOST}")
        magic, form, length, signed = HEADER.unpack(self._read(HEADER.size, "header"))
        if magic != MAGIC:
            raise BundleError(f"is no bundle: begins with {magic!r}; expected {MAGIC!r}")
        if form != FORMAT:
            how = "newer: update flwr-edge" if form > FORMAT else "older: export the model again"
            raise BundleError(f"format {form}; this flwr-edge reads {FORMAT}. It is {how}")
        if length > MAX_MANIFEST or signed not in (0, SIGNATURE):
            raise BundleError(
                f"lengths of {length} and {signed} bytes for manifest and signature; at most "
                f"{MAX_MANIFEST}, and 0 or {SIGNATURE}"
            )
        text = self._read(length, "manifest")
        signature = self._read(signed, "signature")
        if key is not None:
            _check_signature(key, text, signature, "the fleet's key")
        manifest = parse(text)
        end = HEADER.size + length + signed + sum(part.stored for part in manifest.parts)
        if end != self._size:
            raise BundleError(f"{self._size} bytes; by its manifest it has {end}")
        if self._whole and manifest.base is not None:
            raise BundleError("is a difference itself; a base is a whole bundle")
        return manifest, _trust(key, manifest, text, signature)

    def _read(self, length: int, what: str) -> bytes:
        """So many bytes; not asked for where the file is shorter."""
        left = self._size - self._file.tell()
        data = self._file.read(length) if length <= left else b""
        if len(data) != length:
            raise BundleError(f"truncated: its {what} has {length} bytes, {left} are left")
        self._hash.update(data)
        return data


def _check_signature(key: str, manifest: bytes, signature: bytes, whose: str) -> None:
    if not signature:
        raise BundleError(f"not signed; only bundles of {whose} {key[:16]}… are taken")
    if find_spec("cryptography") is None:
        raise BundleError("its signature cannot be checked here: pip install 'flwr-edge[signed]'")
    try:
        verify(key, signed_bytes(manifest), signature.hex())
    except SignatureError:
        raise BundleError(f"its signature is not of {whose} {key[:16]}…") from None


def _trust(key: str | None, manifest: Manifest, text: bytes, signature: bytes) -> Trust:
    if (manifest.signer is not None) != bool(signature):
        raise BundleError("it names a signer and has no signature, or the other way round")
    if key is not None:
        return Trust.FLEET
    if manifest.signer is None:
        return Trust.UNSIGNED
    if find_spec("cryptography") is None:
        return Trust.UNCHECKED
    _check_signature(manifest.signer, text, signature, "the key that it names")
    return Trust.SIGNER


def _base_parts(manifest: Manifest, base: Path | None) -> dict[PartName, bytes]:
    if manifest.base is None:
        return {}
    if base is None:
        raise BundleError(f"is a difference from the bundle {manifest.base[:16]}…; name its base")
    opened = open_base(base)
    if opened.sha256 != manifest.base:
        raise BundleError(
            f"is a difference from the bundle {manifest.base[:16]}…; {base} is "
            f"{opened.sha256[:16]}…"
        )
    return opened.parts


def _checked(manifest: Manifest, model: bytes) -> Checked:
    digest = hashlib.sha256(model).hexdigest()
    if digest != manifest.model.sha256:
        raise BundleError("graph and weights do not make the model that the manifest names")
    checked = check_model(manifest, model, digest)
    if edge_operators(checked) != manifest.runtime.ops:
        raise BundleError(
            f"runtime.ops: {list(manifest.runtime.ops)}; the model has "
            f"{list(edge_operators(checked))}"
        )
    return checked


def _reference(manifest: Manifest, data: bytes) -> NDArray[np.float32]:
    shape = (manifest.reference.windows, manifest.input.time, manifest.input.channels)
    windows = np.frombuffer(data, "<f4").reshape(shape)
    if not np.isfinite(windows).all():
        raise BundleError("part reference: it holds NaN or infinity")
    return windows.astype(np.float32)
