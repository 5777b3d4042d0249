"""Certificate signing requests of devices: what one must be, and nothing else in it."""

import hashlib
import re
from dataclasses import dataclass
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from server.fleet.authority import key_id
from server.fleet.errors import Denied

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)
_CURVES: Final = ("secp256r1", "secp384r1")
_HASHES: Final = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_PEM: Final = re.compile(
    r"\s*-----BEGIN (NEW )?CERTIFICATE REQUEST-----[A-Za-z0-9+/=\s]+"
    r"-----END (NEW )?CERTIFICATE REQUEST-----\s*"
)
# What reading a stranger's request or certificate may raise: some are plain exceptions.
UNREADABLE: Final = (
    ValueError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True)
class Csr:
    """A request that may be granted.

    Attributes
    ----------
    device
        Its common name.
    key
        SHA-256 of the public key; ``kind`` is its type.
    sha256
        Of the request's DER: device and operator see the same.
    """

    device: str
    key: str
    kind: str
    public: Any
    sha256: str
    der: bytes
    pem: str


def read(pem: str) -> Csr:
    """Read and check a request: one common name, a strong key, its own signature, no extension.

    Raises
    ------
    Denied
        Where it is anything else.
    """
    if not _PEM.fullmatch(pem):
        raise Denied("csr-malformed", "expected one certificate signing request, PEM")
    try:
        request = x509.load_pem_x509_csr(pem.encode("ascii"))
        device, (key, kind) = _device(request), _key(request)
        if not request.is_signature_valid or not _strong_hash(request):
            raise Denied("csr-malformed", "the request is not signed by its own key with SHA-2")
        _nothing_more(request)
    except UNREADABLE as error:
        if isinstance(error, Denied):
            raise
        raise Denied("csr-malformed", f"no request that can be read: {error}"[:500]) from None
    der = request.public_bytes(Encoding.DER)
    return Csr(device, key_id(key), kind, key, hashlib.sha256(der).hexdigest(), der, pem)


def _device(request: x509.CertificateSigningRequest) -> str:
    attributes = list(request.subject)
    if len(attributes) != 1 or attributes[0].oid != NameOID.COMMON_NAME:
        raise Denied("csr-malformed", "the subject must be one common name: the device's")
    name = attributes[0].value
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Denied(
            "csr-malformed",
            "the common name must be 1 to 63 of a-z, 0-9 and -, and not begin with -",
        )
    return name


def _key(request: x509.CertificateSigningRequest) -> tuple[Any, str]:
    key = request.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return key, key.curve.name
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key, "ed25519"
    name = getattr(getattr(key, "curve", None), "name", type(key).__name__.strip("_"))
    wanted = f"expected EC {' or '.join(_CURVES)}, or Ed25519"
    raise Denied("weak-key", f"a key of the kind {name}; {wanted}")


def _strong_hash(request: x509.CertificateSigningRequest) -> bool:
    return request.signature_hash_algorithm is None or isinstance(
        request.signature_hash_algorithm, _HASHES
    )


def _nothing_more(request: x509.CertificateSigningRequest) -> None:
    """The fleet says what a certificate is good for; who asks for a word in that is refused."""
    asked = [extension.oid.dotted_string for extension in request.extensions]
    asked += [attribute.oid.dotted_string for attribute in request.attributes]
    if asked:
        raise Denied("csr-extensions", f"the request must ask for no extension; it has {asked}")
