"""Signatures of the fleet's key (Ed25519) over tasks: a broker that was taken over runs nothing.

``cryptography`` is imported where it is needed: a device without a fleet key does without it.
"""

from typing import TYPE_CHECKING, Any

from schemas.wire import Bound, Envelope, Task, canonical

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


class SignatureError(ValueError):
    """A signature that is missing, malformed, or not of the fleet's key."""


def new_key() -> "Ed25519PrivateKey":
    """A fresh private key."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.generate()


def public_hex(key: "bytes | Ed25519PrivateKey") -> str:
    """The public half of a key, as 64 hexadecimal digits: what a device is configured with."""
    return _private(key).public_key().public_bytes_raw().hex()


def sign(key: "bytes | Ed25519PrivateKey", data: bytes) -> str:
    """Sign bytes.

    Parameters
    ----------
    key : bytes or Ed25519PrivateKey
        As PEM (PKCS 8, not encrypted), or loaded.
    data : bytes

    Returns
    -------
    str
        128 hexadecimal digits.
    """
    return _private(key).sign(data).hex()


def verify(public: str, data: bytes, signature: str | None) -> None:
    """Check a signature.

    Parameters
    ----------
    public : str
        64 hexadecimal digits.
    data : bytes
    signature : str or None

    Raises
    ------
    SignatureError
        Where it is none, or not of this key over these bytes.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if signature is None:
        raise SignatureError("no signature; this device takes signed tasks only")
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
    except ValueError:
        raise SignatureError("the fleet's public key is not 64 hexadecimal digits") from None
    try:
        key.verify(bytes.fromhex(signature), data)
    except (InvalidSignature, ValueError):
        raise SignatureError(f"the signature is not of the fleet's key {public[:16]}…") from None


def sign_task(key: "bytes | Ed25519PrivateKey", device: str, message: Envelope) -> Envelope:
    """The envelope with its task bound to device and envelope, and signed."""
    task = _task(message).model_copy(update={"bound": Bound(device=device, id=message.id)})
    signed = task.model_copy(update={"signature": sign(key, canonical(task))})
    return message.model_copy(update={"body": signed})


def verify_task(public: str, device: str, message: Envelope) -> None:
    """Check that a task was signed by the fleet's key, for this device, in this envelope.

    Raises
    ------
    SignatureError
        Where it was not.
    """
    task = _task(message)
    verify(public, canonical(task), task.signature)
    if task.bound != Bound(device=device, id=message.id):
        raise SignatureError(f"signed for {task.bound}, not for {device} and {message.id}")


def _task(message: Envelope) -> Task:
    if not isinstance(message.body, Task):
        raise SignatureError(f"a {message.body.kind!r} envelope; only tasks are signed")
    return message.body


def _private(key: "bytes | Ed25519PrivateKey") -> "Ed25519PrivateKey":
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    loaded: Any = load_pem_private_key(key, None) if isinstance(key, bytes) else key
    if not isinstance(loaded, Ed25519PrivateKey):
        raise SignatureError(f"the fleet's key is {type(loaded).__name__}; expected Ed25519")
    return loaded
