"""Published bundles: verified in a process of their own, signed where asked, kept by their hash."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from schemas.base import ConfigError
from schemas.bundle import (
    FORMAT,
    HEADER,
    MAGIC,
    MAX_PART,
    SIGNATURE,
    BundleError,
    canonical,
    parse,
    signed_bytes,
)
from schemas.incoming import is_whole, sync_folder
from schemas.signing import public_hex, sign
from server.fleet.errors import Refusal
from server.fleet.listing import when
from server.fleet.registry import Bundle, Device, Registry
from server.fleet.rolled_out import rolled_out

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_LONGEST: Final = 300.0  # seconds for a verification


class Published(NamedTuple):
    """What ``publish`` did.

    Attributes
    ----------
    sha256 : str
    new : bool
        False where it was published before.
    mended : bool
        Whether its file was put back, which was gone or changed.
    """

    sha256: str
    new: bool
    mended: bool


class BundleFiles:
    """The fleet's folder of bundles, ``SHA256.flwb`` each.

    Parameters
    ----------
    folder : Path
        Made where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, sha: str) -> Path:
        """Where a bundle lies, or would."""
        return self.folder / f"{sha}.flwb"

    def read(self, sha: str) -> bytes:
        """A bundle's bytes.

        Raises
        ------
        Refusal
            Where it is gone, or was changed.
        """
        try:
            data = self.path(sha).read_bytes()
        except FileNotFoundError:
            data = b""
        if hashlib.sha256(data).hexdigest() != sha:
            raise Refusal(f"{self.path(sha)}: gone, or changed on the disk; publish it again")
        return data

    def whole(self, sha: str) -> bool:
        """Whether a bundle's file is there, and what it was."""
        return is_whole(self.path(sha), sha)

    def keep(self, data: bytes) -> str:
        """Keep a bundle, whole or not at all; its hash."""
        sha = hashlib.sha256(data).hexdigest()
        with tempfile.NamedTemporaryFile(dir=self.folder, delete=False) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).chmod(0o644)
        Path(file.name).replace(self.path(sha))
        sync_folder(self.folder)
        return sha


def publish(
    registry: Registry,
    actor: str,
    files: BundleFiles,
    path: Path,
    fleet_key: str,
    *,
    key: "Ed25519PrivateKey | None" = None,
    version: str | None = None,
    name: str | None = None,
    device: str | None = None,
    note: str = "",
) -> Published:
    """Publish a bundle; of one that was published before only its file may be put back.

    Parameters
    ----------
    registry : Registry
    actor : str
    files : BundleFiles
    path : Path
        Of the bundle; nothing is loaded from it in this process.
    fleet_key : str
        Public, hexadecimal.
    key : Ed25519PrivateKey, optional
        Signs the bundle where it is not signed.
    version, name : str, optional
        The next whole number, and the manifest's, where they are left out; of a device's own
        bundle the number is followed by its name.
    device : str, optional
        Whose own it is; it is rolled out to nobody else.
    note : str

    Raises
    ------
    ConfigError
        Where it is refused: damaged, of another key, not signed, of a base that is not here.
    Refusal
        Where name and version are another bundle's, or there is no such device.
    """
    data = _signed(path, fleet_key, key)
    with tempfile.TemporaryDirectory(prefix="flwr-publish-") as scratch:
        copy = Path(scratch) / path.name
        copy.write_bytes(data)
        said = _verified(copy, path, fleet_key, files)
    manifest = said["manifest"]
    sha = str(said["sha256"])
    with registry.write(actor) as tx:
        if tx.db.get(Bundle, sha) is not None:
            if mended := not files.whole(sha):
                files.keep(data)
                tx.audit("bundle.mend", sha)
            return Published(sha, new=False, mended=mended)
        if device is not None and tx.db.get(Device, device) is None:
            raise Refusal(f"no device {device}; see flwr-fleet device list")
        called = name or manifest["name"] or path.stem
        row = Bundle(
            id=sha,
            name=called[:63],
            version=version or _next_version(tx.db, called, device),
            bytes=len(data),
            base=manifest["base"],
            signer=manifest["signer"],
            device=device,
            published=tx.now,
            manifest=manifest,
            note=note[:500],
        )
        same = select(Bundle.id).where(Bundle.name == row.name, Bundle.version == row.version)
        if (other := tx.db.scalar(same)) is not None:
            raise Refusal(f"{row.name}@{row.version} is the bundle {other[:12]}…; say --version")
        files.keep(data)
        tx.db.add(row)
        tx.audit("bundle.publish", sha, name=row.name, version=row.version, device=device)
        return Published(sha, new=True, mended=False)


def listed(db: Session) -> list[dict[str, Any]]:
    """All that were published, the newest first."""
    rollouts = rolled_out(db)
    rows = db.scalars(select(Bundle).order_by(Bundle.published.desc()))
    return [shown(row) | {"rollouts": len(rollouts.get(row.id, ()))} for row in rows]


def shown(row: Bundle) -> dict[str, Any]:
    """A bundle for programs."""
    fields = ("id", "name", "version", "bytes", "base", "signer", "device", "note")
    return {field: getattr(row, field) for field in fields} | {
        "published": when(row.published),
        "task": row.manifest.get("task"),
        "bits": row.manifest.get("bits"),
        "backbone": row.manifest.get("backbone"),
    }


def _next_version(db: Session, name: str, device: str | None) -> str:
    """The next whole number; of a device's own bundles, with its name behind."""
    rows = select(Bundle.version).where(Bundle.name == name[:63], Bundle.device == device)
    numbers = [version.partition("-")[0] for version in db.scalars(rows)]
    number = 1 + max((int(each) for each in numbers if each.isdecimal()), default=0)
    return str(number) if device is None else f"{number}-{device}"[:63]


def _signed(path: Path, fleet_key: str, key: "Ed25519PrivateKey | None") -> bytes:
    """The file's bytes, signed where they are not and there is a key for it."""
    try:
        if (size := path.stat().st_size) > 2 * MAX_PART:
            raise ConfigError(str(path), [f"{size} bytes; a bundle has at most {2 * MAX_PART}"])
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(str(path), [error.strerror or str(error)]) from None
    if len(data) < HEADER.size or not data.startswith(MAGIC):
        raise ConfigError(str(path), [f"is no bundle: expected {MAGIC!r} at its beginning"])
    magic, form, length, signed = HEADER.unpack_from(data)
    if signed or form != FORMAT:
        return data  # the verification says what is wrong with the format
    if key is None:
        raise ConfigError(str(path), ["is not signed; --sign signs it with the fleet's key"])
    end = HEADER.size + length
    try:
        manifest = parse(data[HEADER.size : end])
    except BundleError as error:
        raise ConfigError(str(path), [str(error)]) from None
    if public_hex(key) != fleet_key:
        raise ConfigError("signing.key", ["is not the key that signing.pub names"])
    text = canonical(manifest.model_copy(update={"signer": fleet_key}))
    signature = bytes.fromhex(sign(key, signed_bytes(text)))
    header = HEADER.pack(magic, form, len(text), SIGNATURE)
    return b"".join([header, text, signature, data[end:]])


def _verified(copy: Path, path: Path, fleet_key: str, files: BundleFiles) -> dict[str, Any]:
    """What ``flwr-edge verify`` says: a crash in the model is a refusal, and no more."""
    command = [sys.executable, "-P", "-m", "client.cli", "verify", str(copy)]
    command += ["--key", fleet_key, "--format", "json"]
    if (base := _base_of(copy, path)) is not None:
        if not files.path(base).is_file():
            problem = f"is a difference from the bundle {base[:16]}…; publish that first"
            raise ConfigError(str(path), [problem])
        command += ["--base", str(files.path(base))]
    try:
        done = subprocess.run(  # noqa: S603 (our own command)
            command, capture_output=True, timeout=_LONGEST, check=False
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(str(path), [f"its self-test takes over {_LONGEST:g} s"]) from None
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        how = f"; ended by signal {-done.returncode}" if done.returncode < 0 else ""
        said = lines[-1].removeprefix("flwr-edge: ").replace(f"{copy}: ", "")
        raise ConfigError(str(path), [said + how])
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _base_of(copy: Path, path: Path) -> str | None:
    data = copy.read_bytes()
    _, form, length, _ = HEADER.unpack_from(data)
    if form != FORMAT:
        return None
    try:
        return parse(data[HEADER.size : HEADER.size + length]).base
    except BundleError as error:
        raise ConfigError(str(path), [str(error)]) from None
